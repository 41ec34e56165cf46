#include "data/text_records.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/utf8.h"
#include "stableqat/base/error.h"

namespace stableqat {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kReadBytes = std::size_t{1} << 18;
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
constexpr std::size_t kKeysShown = 8;

std::string line_of(const fs::path& path, std::uint64_t line) { return path.string() + ":" + std::to_string(line); }

void strip_byte_order_mark(std::string& text) {
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
}

bool blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

const char* compression_name(Compression compression) {
  switch (compression) {
    case Compression::kGzip:
      return "gzip";
    case Compression::kXz:
      return "xz";
    case Compression::kZstd:
      return "zstd";
    case Compression::kNone:
      break;
  }
  return "plain";
}

void require_utf8(const TextRecord& record) {
  const std::size_t bad = find_invalid_utf8(record.bytes);
  if (bad == std::string::npos) return;
  const std::string_view before = std::string_view(record.bytes).substr(0, bad);
  const std::uint64_t line = record.line + static_cast<std::uint64_t>(std::count(before.begin(), before.end(), '\n'));
  const std::size_t column = bad - (before.rfind('\n') + 1);  // npos + 1 = 0
  throw DataError({line_of(record.path, line), "invalid UTF-8 at byte " + std::to_string(column + 1), "UTF-8 text",
                   "convert the file to UTF-8, or skip bad lines"});
}

std::string keys_of(const nlohmann::json& object) {
  std::string keys;
  std::size_t shown = 0;
  for (const auto& [key, value] : object.items()) {
    if (shown++ == kKeysShown) return keys + ", ...";
    keys += (keys.empty() ? "" : ", ") + key;
  }
  return keys.empty() ? "none" : keys;
}

std::string text_of_json(const TextRecord& record, const std::string& key) {
  const std::string where = line_of(record.path, record.line);
  const std::string expected = "a JSON object with the text under key \"" + key + "\"";
  nlohmann::json value;
  try {
    value = nlohmann::json::parse(record.bytes);
  } catch (const nlohmann::json::parse_error& error) {
    throw DataError(
        {where, "invalid JSON at byte " + std::to_string(error.byte), expected + " on each line", "correct the line, or skip bad lines"});
  }
  if (!value.is_object()) throw DataError({where, std::string("JSON of type ") + value.type_name(), expected + " on each line", ""});
  const auto text = value.find(key);
  if (text == value.end()) throw DataError({where, "the keys " + keys_of(value), expected, "choose the key that holds the text"});
  if (!text->is_string()) throw DataError({where, std::string("a ") + text->type_name() + " under key \"" + key + "\"", "a string", ""});
  return std::move(text->get_ref<std::string&>());
}

}  // namespace

TextFormat text_format(const fs::path& path) {
  TextFormat format;
  fs::path name = path.filename();
  const std::string outer = name.extension().string();
  if (outer == ".gz") format.compression = Compression::kGzip;
  if (outer == ".xz") format.compression = Compression::kXz;
  if (outer == ".zst") format.compression = Compression::kZstd;
  if (format.compression != Compression::kNone) name = name.stem();
  const std::string inner = name.extension().string();
  format.json_lines = inner == ".jsonl" || inner == ".json" || inner == ".ndjson";
  format.parquet = format.compression == Compression::kNone && inner == ".parquet";
  format.known_name = format.json_lines || format.parquet || inner == ".txt";
  return format;
}

RecordReader::RecordReader(std::vector<fs::path> files, std::string column, std::uint64_t max_record_bytes)
    : files_(std::move(files)), column_(std::move(column)), max_record_bytes_(max_record_bytes), buffer_(kReadBytes) {
  for (const fs::path& file : files_) {
    std::error_code unknown;
    const std::uintmax_t size = fs::file_size(file, unknown);
    if (!unknown) total_bytes_ += size;
  }
}

std::uint64_t RecordReader::bytes_read() const noexcept {
  if (!raw_) return bytes_of_closed_files_;
  if (!parquet_) return bytes_of_closed_files_ + raw_->bytes_read();
  std::error_code unknown;
  const auto size = static_cast<double>(fs::file_size(files_[next_file_ - 1], unknown));
  return bytes_of_closed_files_ + (unknown ? 0 : static_cast<std::uint64_t>(parquet_->share_done() * size));
}

void RecordReader::go_on_after(std::vector<TextSource> files, std::uint64_t records) {
  next_file_ = files.size();
  for (const TextSource& file : files) bytes_of_closed_files_ += file.bytes;
  sources_ = std::move(files);
  TextRecord record;
  while (records_of_file_ < records) {
    try {
      if (!next(record)) return;
    } catch (const DataError&) {  // was reported before
    }
  }
}

bool RecordReader::next(TextRecord& record) {
  while (raw_ || next_file_ < files_.size()) {
    if (!raw_) open_next_file();
    ++records_of_file_;  // an error counts too
    if (next_of_file(record)) return true;
    close_file();
  }
  return false;
}

// False at the end of the open file. What damage leaves of a file cannot be read: it is closed.
bool RecordReader::next_of_file(TextRecord& record) {
  const fs::path& path = files_[next_file_ - 1];
  try {
    if (!read_record(record)) return false;
  } catch (const CorruptStream& damage) {
    DataError error({line_of(path, lines_ + 1), std::string("a stream that ") + damage.what(),
                     std::string("whole ") + compression_name(format_.compression) + " data",
                     "fetch or make the file again; what follows in it cannot be read"});
    close_file();
    throw error;
  } catch (const DataError&) {
    if (format_.parquet) close_file();
    throw;
  }
  record.path = path;
  record.line = format_.json_lines || format_.parquet ? lines_ : 1;
  record.json = format_.json_lines;
  return true;
}

bool RecordReader::read_record(TextRecord& record) {
  if (format_.parquet) return next_row(record.bytes);
  return format_.json_lines ? next_line(record.bytes) : next_text(record.bytes);
}

bool RecordReader::next_row(std::string& text) {
  if (!parquet_) parquet_ = std::make_unique<ParquetTexts>(files_[next_file_ - 1], column_);
  if (!parquet_->next(text)) return false;
  ++lines_;
  if (text.size() > max_record_bytes_) throw_too_long("a row", lines_);
  return true;
}

void RecordReader::open_next_file() {
  const fs::path& path = files_[next_file_];
  raw_ = std::make_unique<FileSource>(path);
  ++next_file_;
  format_ = text_format(path);
  if (format_.compression != Compression::kNone) decoder_ = make_decoder(format_.compression, *raw_);
  lines_ = 0;
  records_of_file_ = 0;
  dropping_line_ = false;
}

// Reads what is left on disk, so that the hash covers the whole file even after damage.
void RecordReader::close_file() {
  pending_ = {};
  decoder_.reset();
  parquet_.reset();
  while (raw_->read(buffer_) > 0) {
  }
  sources_.push_back({files_[next_file_ - 1], raw_->bytes_read(), raw_->hash()});
  bytes_of_closed_files_ += raw_->bytes_read();
  records_of_file_ = 0;
  raw_.reset();
}

bool RecordReader::fill() {
  ByteSource& source = decoder_ ? *decoder_ : *raw_;
  pending_ = std::string_view(buffer_.data(), source.read(buffer_));
  return !pending_.empty();
}

void RecordReader::throw_too_long(const char* what, std::uint64_t line) const {
  throw DataError({line_of(files_[next_file_ - 1], line),
                   std::string(what) + " of more than " + std::to_string(max_record_bytes_) + " bytes", "documents up to that length",
                   "split it into shorter documents"});
}

// The next line that is not blank.
bool RecordReader::next_line(std::string& line) {
  line.clear();
  while (!pending_.empty() || fill()) {
    const std::size_t end = pending_.find('\n');
    const std::string_view part = pending_.substr(0, end);
    if (!dropping_line_ && part.size() > max_record_bytes_ - line.size()) {
      dropping_line_ = true;
      throw_too_long("a line", lines_ + 1);
    }
    if (!dropping_line_) line += part;
    pending_.remove_prefix(end == std::string_view::npos ? pending_.size() : end + 1);
    if (end == std::string_view::npos) continue;
    if (end_line(line)) return true;
  }
  return end_line(line);  // a last line without line end
}

// Counts the line that ends here; false when there is nothing in it.
bool RecordReader::end_line(std::string& line) {
  ++lines_;
  if (lines_ == 1) strip_byte_order_mark(line);
  const bool kept = !std::exchange(dropping_line_, false) && !blank(line);
  if (!kept) line.clear();
  return kept;
}

// The rest of the file, unless it was read before.
bool RecordReader::next_text(std::string& text) {
  if (lines_ > 0) return false;
  text.clear();
  while (fill()) {
    if (pending_.size() > max_record_bytes_ - text.size()) {
      lines_ = 1;
      throw_too_long("a file", 1);
    }
    text += pending_;
  }
  lines_ = 1;
  strip_byte_order_mark(text);
  return true;
}

Document parse_record(TextRecord&& record, const std::string& json_key) {
  require_utf8(record);
  Document document;
  document.text = record.json ? text_of_json(record, json_key) : std::move(record.bytes);
  document.line = record.line;
  document.path = std::move(record.path);
  return document;
}

}  // namespace stableqat
