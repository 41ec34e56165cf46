#include "stableqat/data/text_reader.h"

#include <algorithm>
#include <utility>

#include "data/text_records.h"
#include "stableqat/base/error.h"

namespace stableqat {

namespace fs = std::filesystem;

std::vector<fs::path> list_text_files(std::span<const fs::path> inputs) {
  std::vector<fs::path> files;
  for (const fs::path& input : inputs) {
    std::error_code absent;
    const fs::file_status status = fs::status(input, absent);
    if (!fs::exists(status)) throw DataError({input.string(), "no such file or folder", "a file or folder with text", "check the path"});
    if (!fs::is_directory(status)) {
      files.push_back(input);
      continue;
    }
    const auto first = static_cast<std::ptrdiff_t>(files.size());
    for (const auto& entry : fs::recursive_directory_iterator(input)) {
      if (entry.is_regular_file() && text_format(entry.path()).known_name) files.push_back(entry.path());
    }
    std::sort(files.begin() + first, files.end());
    if (static_cast<std::ptrdiff_t>(files.size()) == first) {
      throw DataError({input.string(), "no text file in this folder",
                       "files *.jsonl, *.json, *.ndjson or *.txt, perhaps with .gz, .xz or .zst, or *.parquet", ""});
    }
  }
  return files;
}

class DocumentReader::Impl {
 public:
  Impl(std::vector<fs::path> files, TextOptions options, LogCallback log)
      : records_(std::move(files), options.json_key, options.max_document_bytes), options_(std::move(options)), log_(std::move(log)) {}

  bool next(Document& document) {
    while (true) {
      try {
        TextRecord record;
        if (!records_.next(record)) return false;
        document = parse_record(std::move(record), options_.json_key);
        return true;
      } catch (const DataError& error) {
        if (!options_.skip_bad_lines) throw;
        ++bad_lines_;
        if (log_) log_(LogLevel::kWarning, error.what());
      }
    }
  }

  const RecordReader& records() const noexcept { return records_; }
  std::uint64_t bad_lines() const noexcept { return bad_lines_; }

 private:
  RecordReader records_;
  TextOptions options_;
  LogCallback log_;
  std::uint64_t bad_lines_ = 0;
};

DocumentReader::DocumentReader(std::vector<fs::path> files, TextOptions options, LogCallback log)
    : impl_(std::make_unique<Impl>(std::move(files), std::move(options), std::move(log))) {}
DocumentReader::DocumentReader(DocumentReader&&) noexcept = default;
DocumentReader& DocumentReader::operator=(DocumentReader&&) noexcept = default;
DocumentReader::~DocumentReader() = default;

bool DocumentReader::next(Document& document) { return impl_->next(document); }
std::uint64_t DocumentReader::bad_lines() const noexcept { return impl_->bad_lines(); }
std::uint64_t DocumentReader::bytes_read() const noexcept { return impl_->records().bytes_read(); }
std::uint64_t DocumentReader::total_bytes() const noexcept { return impl_->records().total_bytes(); }
const std::vector<TextSource>& DocumentReader::sources() const noexcept { return impl_->records().sources(); }

}  // namespace stableqat
