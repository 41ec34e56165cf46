#include "stableqat/train/training_data.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/data/saved_dataset.h"

namespace stableqat {

namespace fs = std::filesystem;

namespace {

fs::path with_suffix(fs::path prefix, const char* suffix) { return prefix += suffix; }

bool is_token_file(const fs::path& prefix) { return fs::exists(with_suffix(prefix, ".idx")); }

// The authors' layout: what `part` ("train_data", "valid_data") names inside a folder.
fs::path inside(const fs::path& path, const char* part) {
  const bool is_parent = !is_token_file(path) && (is_token_file(path / part) || is_saved_dataset(path / part));
  return is_parent ? path / part : path;
}

fs::path resolved(const std::string& root, const fs::path& path) {
  return inside(fs::path(root) / path, "train_data");  // an absolute path stays what it is
}

// Token files one after another.
class ChainedStream final : public TokenStream {
 public:
  explicit ChainedStream(std::vector<std::shared_ptr<const TokenStream>> parts) : parts_(std::move(parts)) {
    for (const auto& part : parts_) size_ += part->size();
  }

  std::uint64_t size() const noexcept override { return size_; }

  void read(std::uint64_t begin, std::span<std::int32_t> ids) const override {
    for (const auto& part : parts_) {
      if (ids.empty()) return;
      if (begin >= part->size()) {
        begin -= part->size();
        continue;
      }
      const auto count = std::min<std::uint64_t>(ids.size(), part->size() - begin);
      part->read(begin, ids.first(count));
      ids = ids.subspan(count);
      begin = 0;
    }
    if (!ids.empty()) throw std::out_of_range("tokens beyond the end of the stream");
  }

 private:
  std::vector<std::shared_ptr<const TokenStream>> parts_;
  std::uint64_t size_ = 0;
};

std::shared_ptr<const TokenFile> open_token_file(const fs::path& prefix, const TokenEncoder& encoder) {
  auto file = std::make_shared<const TokenFile>(prefix, encoder.vocabulary_size);
  file->check_tokenizer(encoder.hash);
  return file;
}

bool was_made_from(const TokenFileInfo& info, const std::vector<fs::path>& files, const TokenEncoder& encoder) {
  if (info.tokenizer_hash != encoder.hash || info.sources.size() != files.size()) return false;
  for (std::size_t i = 0; i < files.size(); ++i) {
    const TextSource& source = info.sources[i];
    if (source.path != files[i] || source.bytes != fs::file_size(files[i])) return false;
    if (!source.hash.empty() && source.hash != file_content_hash(files[i])) return false;
  }
  return true;
}

std::shared_ptr<const TokenStream> tokenize_once(const std::vector<fs::path>& inputs, const TextOptions& text, const TokenEncoder& encoder,
                                                 const fs::path& prefix, const LogCallback& log, const ProgressCallback& progress,
                                                 const StopRequested& stop) {
  if (is_token_file(prefix)) {
    const TokenFile cached(prefix, encoder.vocabulary_size);
    if (cached.info() && was_made_from(*cached.info(), list_text_files(inputs), encoder)) return open_token_file(prefix, encoder);
  }
  fs::create_directories(prefix.parent_path());
  TokenizeOptions options;
  options.inputs = inputs;
  options.prefix = prefix;
  options.text = text;
  if (!tokenize_files(encoder, options, log, progress, stop)) return nullptr;
  return open_token_file(prefix, encoder);
}

// Opens the inputs of one stream.
struct Opener {
  const TrainConfig::Data& config;
  const TokenEncoder& encoder;
  const LogCallback& log;
  const ProgressCallback& progress;
  const StopRequested& stop;

  std::shared_ptr<const TokenStream> open_saved_dataset(const fs::path& folder, const fs::path& cache_prefix) const {
    if (is_token_file(cache_prefix)) {
      const TokenFile cached(cache_prefix, encoder.vocabulary_size);
      if (cached.info() && was_made_from(*cached.info(), saved_dataset_files(folder), encoder))
        return open_token_file(cache_prefix, encoder);
    }
    fs::create_directories(cache_prefix.parent_path());
    if (log) log(LogLevel::kInfo, folder.string() + " does not say which tokenizer made it; taken to be the model's");
    if (!import_saved_dataset(folder, encoder, cache_prefix, progress, stop)) return nullptr;
    return open_token_file(cache_prefix, encoder);
  }

  // nullptr when `stop` asked to stop.
  std::shared_ptr<const TokenStream> open(const std::vector<fs::path>& inputs, const fs::path& cache_prefix) const {
    if (inputs.size() == 1 && is_saved_dataset(inputs.front())) return open_saved_dataset(inputs.front(), cache_prefix);
    const auto token_files = std::count_if(inputs.begin(), inputs.end(), is_token_file);
    if (token_files == 0) {
      TextOptions text;
      text.json_key = config.json_key;
      text.skip_bad_lines = config.skip_bad_lines;
      return tokenize_once(inputs, text, encoder, cache_prefix, log, progress, stop);
    }
    if (token_files != static_cast<std::ptrdiff_t>(inputs.size())) {
      throw ConfigError({"data.train", "token files and text together", "one kind", "tokenize the text first (stableqat tokenize)"});
    }
    std::vector<std::shared_ptr<const TokenStream>> parts;
    for (const fs::path& prefix : inputs) parts.push_back(open_token_file(prefix, encoder));
    if (parts.size() == 1) return parts.front();
    return std::make_shared<const ChainedStream>(std::move(parts));
  }
};

}  // namespace

TokenEncoder model_encoder(const Tokenizer& tokenizer, std::int64_t vocabulary_size) {
  if (tokenizer.vocab_size() > vocabulary_size) {
    throw DataError({"tokenizer", std::to_string(tokenizer.vocab_size()) + " ids", "at most the model's " + std::to_string(vocabulary_size),
                     "use the tokenizer that belongs to the model"});
  }
  return make_token_encoder(tokenizer);
}

std::vector<WeightedStream> open_training_tokens(const TrainConfig::Data& config, const TokenEncoder& encoder, const fs::path& cache_prefix,
                                                 const LogCallback& log, const ProgressCallback& progress, const StopRequested& stop) {
  const Opener opener{config, encoder, log, progress, stop};
  std::vector<WeightedStream> streams;
  for (std::size_t i = 0; i < config.mixture.size(); ++i) {
    const WeightedPath& item = config.mixture[i];
    fs::path cache = cache_prefix;
    cache.concat("-").concat(std::to_string(i));
    streams.push_back({opener.open({resolved(config.root, item.path)}, cache), item.weight});
    if (!streams.back().stream) return {};
  }
  if (!streams.empty()) return streams;
  std::vector<fs::path> inputs;
  for (const std::string& path : config.train) inputs.push_back(resolved(config.root, path));
  auto stream = opener.open(inputs, cache_prefix);
  if (!stream) return {};
  return {{std::move(stream), 1.0}};
}

std::vector<std::int32_t> read_tokens(const fs::path& input, const TextOptions& text, const TokenEncoder& encoder,
                                      std::uint64_t max_tokens) {
  const fs::path path = inside(input, "valid_data");
  if (is_saved_dataset(path)) return read_saved_dataset(path, encoder, max_tokens);
  if (!is_token_file(path)) return tokenize_text(encoder, path, text, max_tokens);
  const auto file = open_token_file(path, encoder);
  std::vector<std::int32_t> ids(max_tokens == 0 ? file->size() : std::min(max_tokens, file->size()));
  file->read(0, ids);
  return ids;
}

}  // namespace stableqat
