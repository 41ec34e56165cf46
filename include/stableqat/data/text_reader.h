// Text documents from JSON lines and plain text, as they lie on disk or compressed with gzip, xz or zstd, and from Parquet files.
//
// The name decides how a file is read: a last suffix .gz, .xz or .zst is decompressed; of what is left of the name, .jsonl, .json and
// .ndjson mean one JSON object a line (blank lines are passed over), anything else means plain text, where the whole file is one document.
// *.parquet is read row by row from one text column.
// A UTF-8 byte order mark at the start of a file is dropped; nothing else is changed (line ends stay as they are).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "stableqat/base/log.h"

namespace stableqat {

struct TextOptions {
  std::string json_key = "text";  // key of the document's text in a JSON line, or its column in a Parquet file
  // Count and pass over lines that cannot be used, with a warning each, instead of throwing. Where a compressed stream is damaged, the rest
  // of that file counts as one bad line.
  bool skip_bad_lines = false;
  std::uint64_t max_document_bytes = std::uint64_t{256} << 20;  // longest line or plain text file; bounds the memory of a reader
};

// What was read of one input file.
struct TextSource {
  std::filesystem::path path;
  std::uint64_t bytes = 0;  // on disk
  std::string hash;         // of the bytes on disk, as content_hash() gives it
};

struct Document {
  std::string text;            // valid UTF-8, may be empty
  std::filesystem::path path;  // where it comes from
  std::uint64_t line = 0;      // counted from 1
};

// The files to read for these inputs: a file stands for itself, a folder for all files below it named *.jsonl, *.json, *.ndjson, *.parquet or *.txt
// (perhaps compressed) in order of their path. Throws DataError for a path that does not exist and for a folder without such a file.
std::vector<std::filesystem::path> list_text_files(std::span<const std::filesystem::path> inputs);

// Reads documents one by one, file after file. Memory is bounded by the longest document. Not thread-safe.
class DocumentReader {
 public:
  // `files` as list_text_files() gives them. Opens nothing yet.
  explicit DocumentReader(std::vector<std::filesystem::path> files, TextOptions options = {}, LogCallback log = {});
  DocumentReader(DocumentReader&&) noexcept;
  DocumentReader& operator=(DocumentReader&&) noexcept;
  ~DocumentReader();

  // Fills `document` and returns true, or returns false after the last one. Throws DataError with file:line for a stream that is corrupt or
  // truncated, invalid UTF-8 or JSON, a missing key, a text that is no string, a line that is too long; EnvironmentError for a file that
  // cannot be read.
  bool next(Document& document);

  std::uint64_t bad_lines() const noexcept;   // passed over so far
  std::uint64_t bytes_read() const noexcept;  // on disk, so that bytes_read() / total_bytes() is the share done
  std::uint64_t total_bytes() const noexcept;
  // The files read to their end so far, in order.
  const std::vector<TextSource>& sources() const noexcept;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stableqat
