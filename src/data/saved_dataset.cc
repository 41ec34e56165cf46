#include "stableqat/data/saved_dataset.h"

#include <algorithm>

#include "data/arrow_files.h"
#include "stableqat/base/error.h"

namespace stableqat {

namespace fs = std::filesystem;

bool is_saved_dataset(const fs::path& folder) { return fs::exists(folder / "state.json") && fs::exists(folder / "dataset_info.json"); }

std::vector<fs::path> saved_dataset_files(const fs::path& folder) { return SavedDatasetIds(folder).files(); }

namespace {

void check_ids(std::span<const std::int32_t> ids, const TokenEncoder& encoder, const fs::path& folder) {
  const auto strange = std::find_if(ids.begin(), ids.end(), [&](std::int32_t id) { return id >= encoder.vocabulary_size; });
  if (strange == ids.end()) return;
  throw DataError({folder.string(), "id " + std::to_string(*strange), "ids below " + std::to_string(encoder.vocabulary_size),
                   "tokenize the text with the tokenizer of this model"});
}

}  // namespace

std::vector<std::int32_t> read_saved_dataset(const fs::path& folder, const TokenEncoder& encoder, std::uint64_t max_tokens) {
  SavedDatasetIds rows(folder);
  std::vector<std::int32_t> all;
  for (std::vector<std::int32_t> ids; (max_tokens == 0 || all.size() < max_tokens) && rows.next(ids);) {
    check_ids(ids, encoder, folder);
    all.insert(all.end(), ids.begin(), ids.end());
  }
  if (max_tokens > 0 && all.size() > max_tokens) all.resize(max_tokens);
  return all;
}

std::optional<TokenFileInfo> import_saved_dataset(const fs::path& folder, const TokenEncoder& encoder, const fs::path& prefix,
                                                  const ProgressCallback& progress, const StopRequested& stop) {
  constexpr std::uint64_t kRowsPerReport = 1024;
  SavedDatasetIds rows(folder);
  TokenFileWriter writer(prefix, encoder.vocabulary_size);
  TokenFileInfo info;
  info.tokenizer_hash = encoder.hash;
  info.end_of_text = encoder.end_of_text;
  for (const fs::path& file : rows.files()) info.sources.push_back({file, fs::file_size(file), ""});
  for (std::vector<std::int32_t> ids; rows.next(ids);) {
    check_ids(ids, encoder, folder);
    writer.add_document(ids);
    if (writer.documents() % kRowsPerReport != 0) continue;
    if (stop && stop()) return std::nullopt;
    if (progress) progress({"import", rows.bytes_read(), rows.total_bytes(), "bytes"});
  }
  writer.commit(info);
  return info;
}

}  // namespace stableqat
