// Raw records of text files and what is in them; apart, so that reading stays on one thread and parsing can go to many.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/arrow_files.h"
#include "data/byte_source.h"
#include "stableqat/data/text_reader.h"

namespace stableqat {

struct TextFormat {
  Compression compression = Compression::kNone;
  bool json_lines = false;
  bool parquet = false;
  bool known_name = false;  // named as text; taken when it lies in a folder
};
TextFormat text_format(const std::filesystem::path& path);

// One line of JSON without its line end, one row of a Parquet file, or one whole plain text file.
struct TextRecord {
  std::string bytes;
  std::filesystem::path path;
  std::uint64_t line = 0;
  bool json = false;
};

// Reads records file after file. After a DataError next() goes on with the record behind the bad one, or with the next file where a
// compressed stream or a Parquet file is damaged.
class RecordReader {
 public:
  // `column` is the text's in Parquet files.
  RecordReader(std::vector<std::filesystem::path> files, std::string column, std::uint64_t max_record_bytes);

  bool next(TextRecord& record);

  // Passes over the first files, which were read before, and over so many records (or errors) of the next. Before the first next() only.
  void go_on_after(std::vector<TextSource> files, std::uint64_t records);

  // Records (or errors) that next() gave of the file after those of sources().
  std::uint64_t records_of_file() const noexcept { return records_of_file_; }

  std::uint64_t bytes_read() const noexcept;
  std::uint64_t total_bytes() const noexcept { return total_bytes_; }
  const std::vector<TextSource>& sources() const noexcept { return sources_; }

 private:
  bool next_of_file(TextRecord& record);
  bool read_record(TextRecord& record);
  bool next_row(std::string& text);
  void open_next_file();
  void close_file();
  bool fill();
  bool next_line(std::string& line);
  bool end_line(std::string& line);
  bool next_text(std::string& text);
  [[noreturn]] void throw_too_long(const char* what, std::uint64_t line) const;

  std::vector<std::filesystem::path> files_;
  std::string column_;
  std::uint64_t max_record_bytes_;
  std::uint64_t total_bytes_ = 0;
  std::uint64_t bytes_of_closed_files_ = 0;
  std::size_t next_file_ = 0;
  std::vector<TextSource> sources_;

  // Of the open file; raw_ is null between files.
  std::unique_ptr<FileSource> raw_;
  std::unique_ptr<ByteSource> decoder_;
  std::unique_ptr<ParquetTexts> parquet_;
  TextFormat format_;
  std::uint64_t records_of_file_ = 0;
  std::uint64_t lines_ = 0;  // read to their end
  bool dropping_line_ = false;
  std::vector<char> buffer_;
  std::string_view pending_;  // bytes of buffer_ not used yet
};

// The text of a record. Throws DataError with file:line.
Document parse_record(TextRecord&& record, const std::string& json_key);

}  // namespace stableqat
