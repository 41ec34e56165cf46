// Token files: Megatron-LM's indexed dataset, two files with one prefix, little-endian throughout.
//
// PREFIX.idx
//   offset 0   9 bytes   "MMIDIDX" and two zero bytes
//   offset 9   uint64    version, 1
//   offset 17  uint8     element type of the .bin: 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 6 float64, 7 float32, 8 uint16
//   offset 18  uint64    S, number of sequences
//   offset 26  uint64    D, entries of the document index
//   offset 34  int32[S]  length of each sequence in tokens
//              int64[S]  byte offset of each sequence in the .bin
//              int64[D]  first sequence of each document, begins with 0, ends with S: D = documents + 1
//              int8[S]   modes, only in multimodal files
// PREFIX.bin   the token ids one after another, without header
// PREFIX.json  only ours, other readers ignore it: see TokenFileInfo
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "stableqat/base/file.h"
#include "stableqat/data/text_reader.h"

namespace stableqat {

// A sequence of token ids with random access: what a loader cuts into blocks.
class TokenStream {
 public:
  virtual ~TokenStream() = default;

  virtual std::uint64_t size() const noexcept = 0;  // in tokens

  // Copies tokens [begin, begin + ids.size()). The range must lie inside the stream (std::out_of_range). Thread-safe.
  virtual void read(std::uint64_t begin, std::span<std::int32_t> ids) const = 0;
};

// Token ids held in memory.
class TokenBuffer final : public TokenStream {
 public:
  explicit TokenBuffer(std::vector<std::int32_t> ids) : ids_(std::move(ids)) {}

  std::uint64_t size() const noexcept override { return ids_.size(); }
  void read(std::uint64_t begin, std::span<std::int32_t> ids) const override;

 private:
  std::vector<std::int32_t> ids_;
};

// Content of PREFIX.json; the JSON keys are the member names, `sources` is a list of {path, bytes, hash}.
struct TokenFileInfo {
  std::string tool;            // name and version of the program that wrote the files
  std::string tokenizer_hash;  // of the tokenizer that made the ids
  std::int64_t vocabulary_size = 0;
  std::int32_t end_of_text = 0;  // id that closes each document
  std::uint64_t documents = 0;
  std::uint64_t tokens = 0;           // end-of-text ids included
  std::uint64_t text_bytes = 0;       // of the documents, in UTF-8
  std::uint64_t empty_documents = 0;  // left out
  std::uint64_t bad_lines = 0;        // passed over
  std::uint64_t shard_index = 0;      // the files hold each document with number % shard_count == shard_index
  std::uint64_t shard_count = 1;
  std::vector<TextSource> sources;
};

// Writes PREFIX.bin, PREFIX.idx and PREFIX.json; none appears before commit(), and PREFIX.idx, without which nobody reads the others,
// appears last. Until then the work lies in PREFIX.bin.partial, PREFIX.idx.partial and PREFIX.json.partial, which are removed by the
// destructor unless save() was called: then a later writer of the same prefix, in another process perhaps, can go on from there. Memory is
// constant. Not thread-safe. Throws EnvironmentError (disk full, unwritable folder, another process writing this prefix).
class TokenFileWriter {
 public:
  // The element type is uint16 when the vocabulary has fewer than 65,500 ids, else int32.
  TokenFileWriter(std::filesystem::path prefix, std::int64_t vocabulary_size);
  ~TokenFileWriter();

  // What was given to save() last by a writer that did not commit; empty when there is none, or when its files are not whole.
  std::string saved_state() const;
  // Takes over what was written up to then. Only before the first document, and only if saved_state() is not empty.
  void resume();
  // Makes everything written so far outlast this process, with `state` (not empty), which says how far the caller is.
  void save(const std::string& state);

  // One document, its end-of-text id included. Throws std::invalid_argument for an id outside the vocabulary or a document of 2^31 tokens.
  void add_document(std::span<const std::int32_t> ids);

  std::uint64_t documents() const noexcept { return documents_; }
  std::uint64_t tokens() const noexcept { return tokens_; }

  // Sets `info`'s tool, vocabulary size and counts of documents and tokens from what was written, then makes the three files appear.
  void commit(TokenFileInfo& info);

 private:
  struct Saved;
  Saved read_saved() const;
  void begin();
  void remove_partial_files() noexcept;
  void flush();
  void flush_lengths();
  void write_index(AtomicFile& index) const;

  std::filesystem::path prefix_;
  std::int64_t vocabulary_size_;
  std::size_t element_size_;
  GrowingFile bin_;
  GrowingFile lengths_file_;  // of documents, int32
  bool begun_ = false;
  bool keeps_ = false;
  std::vector<std::byte> buffer_;
  std::vector<std::int32_t> lengths_;  // of the documents behind those in the file
  std::uint64_t documents_ = 0;
  std::uint64_t tokens_ = 0;
};

// Checked view of the bytes of a PREFIX.idx, which it does not own. Any file is accepted whose sequences lie one after another without
// gaps, which is how Megatron-LM's tools write them: then the .bin as a whole is the stream. Const members are thread-safe.
class TokenIndex {
 public:
  // Checks header, sizes, every length and offset, and the document index against a .bin of `bin_bytes`. Throws DataError that names `path`
  // and the field.
  TokenIndex(std::span<const std::byte> bytes, std::uint64_t bin_bytes, const std::filesystem::path& path);

  std::uint8_t element_type() const noexcept { return element_type_; }
  std::uint64_t element_size() const noexcept { return element_size_; }
  std::uint64_t tokens() const noexcept { return tokens_; }
  std::uint64_t documents() const noexcept { return documents_; }

  // Tokens [begin, end).
  struct Range {
    std::uint64_t begin;
    std::uint64_t end;
  };
  Range document(std::uint64_t index) const;  // std::out_of_range unless index < documents()

 private:
  void read_header(const std::filesystem::path& path);
  void check_sequences(std::uint64_t bin_bytes, const std::filesystem::path& path);
  void check_documents(const std::filesystem::path& path) const;
  std::int32_t length(std::uint64_t sequence) const;
  std::int64_t offset(std::uint64_t sequence) const;
  std::int64_t first_sequence(std::uint64_t document) const;

  std::span<const std::byte> bytes_;
  std::uint8_t element_type_ = 0;
  std::uint64_t element_size_ = 0;
  std::uint64_t sequences_ = 0;
  std::uint64_t documents_ = 0;
  std::uint64_t tokens_ = 0;
};

// Token files opened for reading, memory-mapped. Const members are thread-safe.
class TokenFile final : public TokenStream {
 public:
  // Checks the index (see TokenIndex) and the counts of PREFIX.json, if there is one; not the ids. `vocabulary_size` > 0 lets read() refuse
  // ids outside [0, vocabulary_size). Throws DataError.
  explicit TokenFile(const std::filesystem::path& prefix, std::int64_t vocabulary_size = 0);

  std::uint64_t size() const noexcept override { return index_.tokens(); }
  // Throws DataError for an id outside the vocabulary.
  void read(std::uint64_t begin, std::span<std::int32_t> ids) const override;

  // Reads all ids; throws DataError for the first one outside the vocabulary.
  void check_ids() const;

  // Throws DataError when PREFIX.json names a tokenizer with another hash.
  void check_tokenizer(const std::string& hash) const;

  const TokenIndex& index() const noexcept { return index_; }
  // nullopt where the files were written without PREFIX.json.
  const std::optional<TokenFileInfo>& info() const noexcept { return info_; }

 private:
  MappedFile index_file_;
  MappedFile bin_;
  TokenIndex index_;
  std::int64_t vocabulary_size_;
  std::optional<TokenFileInfo> info_;
};

}  // namespace stableqat
