#include "stableqat/data/token_file.h"

#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "data/token_file_info.h"
#include "stableqat/base/error.h"

namespace stableqat {

namespace fs = std::filesystem;

namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian and read in place");

constexpr std::array<char, 9> kMagic{'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
constexpr std::uint64_t kVersion = 1;
constexpr std::uint64_t kVersionOffset = 9, kTypeOffset = 17, kSequencesOffset = 18, kDocumentsOffset = 26, kHeaderSize = 34;
constexpr std::int64_t kFirstInt32Vocabulary = 65500;
constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

enum ElementType : std::uint8_t { kUint8 = 1, kInt8 = 2, kInt16 = 3, kInt32 = 4, kInt64 = 5, kUint16 = 8 };

// 0 for the types that hold no token ids.
std::uint64_t element_size(std::uint8_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
      return 1;
    case kInt16:
    case kUint16:
      return 2;
    case kInt32:
      return 4;
    case kInt64:
      return 8;
    default:
      return 0;
  }
}

fs::path with_suffix(fs::path prefix, const char* suffix) { return prefix += suffix; }

// The arrays of the index start at odd offsets: every value is copied out.
template <class T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

[[noreturn]] void refuse(const fs::path& path, std::string found, std::string expected) {
  throw DataError({path.string(), std::move(found), std::move(expected), "tokenize the text again"});
}

template <class Element>
void copy_ids(const std::byte* source, std::span<std::int32_t> ids) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto value = static_cast<std::int64_t>(load<Element>(source + i * sizeof(Element)));
    // Out of range of int32 means out of every vocabulary.
    ids[i] = value < 0 || value > std::numeric_limits<std::int32_t>::max() ? -1 : static_cast<std::int32_t>(value);
  }
}

void copy_ids(std::uint8_t type, const std::byte* source, std::span<std::int32_t> ids) {
  switch (type) {
    case kUint8:
      return copy_ids<std::uint8_t>(source, ids);
    case kInt8:
      return copy_ids<std::int8_t>(source, ids);
    case kInt16:
      return copy_ids<std::int16_t>(source, ids);
    case kUint16:
      return copy_ids<std::uint16_t>(source, ids);
    case kInt64:
      return copy_ids<std::int64_t>(source, ids);
    default:
      return copy_ids<std::int32_t>(source, ids);
  }
}

void check_range(std::uint64_t begin, std::size_t count, std::uint64_t size) {
  if (begin > size || count > size - begin) throw std::out_of_range("TokenStream::read: range outside the stream");
}

template <class T>
void write_value(AtomicFile& file, const T& value) {
  file.write(std::as_bytes(std::span(&value, 1)));
}

}  // namespace

void TokenBuffer::read(std::uint64_t begin, std::span<std::int32_t> ids) const {
  check_range(begin, ids.size(), size());
  if (!ids.empty()) std::memcpy(ids.data(), ids_.data() + begin, ids.size_bytes());
}

TokenFileWriter::TokenFileWriter(fs::path prefix, std::int64_t vocabulary_size)
    : prefix_(std::move(prefix)),
      vocabulary_size_(vocabulary_size),
      element_size_(vocabulary_size < kFirstInt32Vocabulary ? sizeof(std::uint16_t) : sizeof(std::int32_t)),
      bin_(with_suffix(prefix_, ".bin")) {
  buffer_.reserve(kBufferBytes);
}

void TokenFileWriter::add_document(std::span<const std::int32_t> ids) {
  if (ids.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw std::invalid_argument("TokenFileWriter: a document of 2^31 tokens or more");
  }
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocabulary_size_)
      throw std::invalid_argument("TokenFileWriter: id " + std::to_string(id) + " outside the vocabulary");
    if (buffer_.size() + element_size_ > kBufferBytes) flush();
    const std::size_t end = buffer_.size();
    buffer_.resize(end + element_size_);
    std::memcpy(buffer_.data() + end, &id, element_size_);  // little-endian: the low bytes come first
  }
  lengths_.push_back(static_cast<std::int32_t>(ids.size()));
  tokens_ += ids.size();
}

void TokenFileWriter::flush() {
  bin_.write(buffer_);
  buffer_.clear();
}

void TokenFileWriter::commit(TokenFileInfo& info) {
  info.tool = "stableqat " STABLEQAT_VERSION;
  info.vocabulary_size = vocabulary_size_;
  info.documents = documents();
  info.tokens = tokens_;
  flush();

  AtomicFile json(with_suffix(prefix_, ".json"));
  json.write(to_json_text(info));

  const fs::path index_path = with_suffix(prefix_, ".idx");
  AtomicFile index(index_path);
  index.write(std::string_view(kMagic.data(), kMagic.size()));
  write_value(index, kVersion);
  write_value(index, element_size_ == sizeof(std::uint16_t) ? kUint16 : kInt32);
  write_value(index, documents());
  write_value(index, documents() + 1);
  index.write(std::as_bytes(std::span(lengths_)));
  std::vector<std::int64_t> column(lengths_.size());
  std::int64_t offset = 0;
  for (std::size_t i = 0; i < lengths_.size(); ++i) {
    column[i] = offset;
    offset += std::int64_t{lengths_[i]} * static_cast<std::int64_t>(element_size_);
  }
  index.write(std::as_bytes(std::span(column)));
  column.resize(lengths_.size() + 1);
  for (std::size_t i = 0; i < column.size(); ++i) column[i] = static_cast<std::int64_t>(i);
  index.write(std::as_bytes(std::span(column)));

  // A new .bin must never stand beside an old .idx, whatever happens between the renames.
  std::error_code absent_is_fine;
  fs::remove(index_path, absent_is_fine);
  bin_.commit();
  json.commit();
  index.commit();
}

TokenFile::TokenFile(const fs::path& prefix, std::int64_t vocabulary_size)
    : index_(with_suffix(prefix, ".idx")), bin_(with_suffix(prefix, ".bin")), vocabulary_size_(vocabulary_size) {
  read_header();
  check_sequences();
  check_documents();
  const fs::path json = with_suffix(prefix, ".json");
  info_ = read_token_file_info(json);
  if (info_ && (info_->tokens != tokens_ || info_->documents != documents_)) {
    refuse(json, std::to_string(info_->documents) + " documents of " + std::to_string(info_->tokens) + " tokens",
           std::to_string(documents_) + " of " + std::to_string(tokens_) + " as in " + index_.path().string());
  }
}

void TokenFile::read_header() {
  const auto bytes = index_.bytes();
  const fs::path& path = index_.path();
  if (bytes.size() < kHeaderSize)
    refuse(path, std::to_string(bytes.size()) + " bytes", "a header of " + std::to_string(kHeaderSize) + " bytes");
  if (std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) refuse(path, "another magic number", "MMIDIDX, an indexed dataset");
  const auto version = load<std::uint64_t>(bytes.data() + kVersionOffset);
  if (version != kVersion) refuse(path, "version " + std::to_string(version), "version 1");
  element_type_ = load<std::uint8_t>(bytes.data() + kTypeOffset);
  element_size_ = element_size(element_type_);
  if (element_size_ == 0) refuse(path, "element type " + std::to_string(element_type_), "an integer type (1 to 5 or 8)");
  sequences_ = load<std::uint64_t>(bytes.data() + kSequencesOffset);
  const auto entries = load<std::uint64_t>(bytes.data() + kDocumentsOffset);

  constexpr std::uint64_t kSequenceBytes = sizeof(std::int32_t) + sizeof(std::int64_t);
  const std::uint64_t payload = bytes.size() - kHeaderSize;
  const std::string counts = std::to_string(sequences_) + " sequences and " + std::to_string(entries) + " document entries";
  if (entries == 0) refuse(path, "an empty document index", "at least one entry");
  // Divisions first: the counts are not trusted and their products may overflow.
  if (sequences_ > payload / kSequenceBytes || entries > (payload - sequences_ * kSequenceBytes) / sizeof(std::int64_t)) {
    refuse(path, std::to_string(bytes.size()) + " bytes", "room for " + counts + ", as its header says");
  }
  const std::uint64_t rest = payload - sequences_ * kSequenceBytes - entries * sizeof(std::int64_t);
  if (rest != 0 && rest != sequences_) refuse(path, std::to_string(rest) + " bytes too many", "just " + counts + ", as its header says");
  documents_ = entries - 1;
}

void TokenFile::check_sequences() {
  const std::byte* lengths = index_.bytes().data() + kHeaderSize;
  const std::byte* offsets = lengths + sequences_ * sizeof(std::int32_t);
  const std::uint64_t bin_size = bin_.bytes().size();
  std::uint64_t end = 0;
  for (std::uint64_t i = 0; i < sequences_; ++i) {
    const auto length = load<std::int32_t>(lengths + i * sizeof(std::int32_t));
    const auto offset = load<std::int64_t>(offsets + i * sizeof(std::int64_t));
    if (length < 0) refuse(index_.path(), "length " + std::to_string(length) + " of sequence " + std::to_string(i), "no negative length");
    if (offset < 0 || static_cast<std::uint64_t>(offset) != end) {
      refuse(index_.path(), "sequence " + std::to_string(i) + " at byte " + std::to_string(offset),
             "byte " + std::to_string(end) + ", where the one before ends");
    }
    end += static_cast<std::uint64_t>(length) * element_size_;
  }
  if (end != bin_size) {
    refuse(bin_.path(), std::to_string(bin_size) + " bytes", std::to_string(end) + " bytes, as " + index_.path().string() + " says");
  }
  tokens_ = bin_size / element_size_;
}

const std::byte* TokenFile::document_index() const noexcept {
  return index_.bytes().data() + kHeaderSize + sequences_ * (sizeof(std::int32_t) + sizeof(std::int64_t));
}

void TokenFile::check_documents() {
  std::int64_t previous = 0;
  for (std::uint64_t i = 0; i <= documents_; ++i) {
    const auto first = load<std::int64_t>(document_index() + i * sizeof(std::int64_t));
    const bool wrong_end = (i == 0 && first != 0) || (i == documents_ && static_cast<std::uint64_t>(first) != sequences_);
    if (wrong_end || first < previous) {
      refuse(index_.path(), "document " + std::to_string(i) + " starting at sequence " + std::to_string(first),
             "a document index that rises from 0 to " + std::to_string(sequences_));
    }
    previous = first;
  }
}

void TokenFile::read(std::uint64_t begin, std::span<std::int32_t> ids) const {
  check_range(begin, ids.size(), tokens_);
  copy_ids(element_type_, bin_.bytes().data() + begin * element_size_, ids);
  const std::int64_t limit = vocabulary_size_ > 0 ? vocabulary_size_ : std::int64_t{std::numeric_limits<std::int32_t>::max()} + 1;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < limit) continue;
    refuse(bin_.path(), "id " + std::to_string(ids[i]) + " at token " + std::to_string(begin + i),
           "ids from 0 to " + std::to_string(limit - 1));
  }
}

TokenFile::Range TokenFile::document(std::uint64_t index) const {
  if (index >= documents_) throw std::out_of_range("TokenFile::document");
  const std::byte* offsets = index_.bytes().data() + kHeaderSize + sequences_ * sizeof(std::int32_t);
  const auto begin_of = [&](std::uint64_t document) {
    const auto sequence = load<std::uint64_t>(document_index() + document * sizeof(std::int64_t));
    return sequence == sequences_ ? tokens_ : load<std::uint64_t>(offsets + sequence * sizeof(std::int64_t)) / element_size_;
  };
  return {begin_of(index), begin_of(index + 1)};
}

void TokenFile::check_ids() const {
  std::vector<std::int32_t> ids(kBufferBytes / sizeof(std::int32_t));
  for (std::uint64_t begin = 0; begin < tokens_; begin += ids.size()) {
    if (tokens_ - begin < ids.size()) ids.resize(static_cast<std::size_t>(tokens_ - begin));
    read(begin, ids);
  }
}

}  // namespace stableqat
