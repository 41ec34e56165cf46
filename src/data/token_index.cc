#include <stdexcept>

#include "data/token_index_format.h"
#include "stableqat/data/token_file.h"

namespace stableqat {

namespace fs = std::filesystem;
using token_index::load;
using token_index::refuse;

namespace {

constexpr std::uint64_t kLengthBytes = sizeof(std::int32_t), kOffsetBytes = sizeof(std::int64_t), kDocumentBytes = sizeof(std::int64_t);

// 0 for the types that hold no token ids.
std::uint64_t size_of_element(std::uint8_t type) {
  switch (type) {
    case token_index::kUint8:
    case token_index::kInt8:
      return 1;
    case token_index::kInt16:
    case token_index::kUint16:
      return 2;
    case token_index::kInt32:
      return 4;
    case token_index::kInt64:
      return 8;
    default:
      return 0;
  }
}

}  // namespace

TokenIndex::TokenIndex(std::span<const std::byte> bytes, std::uint64_t bin_bytes, const fs::path& path) : bytes_(bytes) {
  read_header(path);
  check_sequences(bin_bytes, path);
  check_documents(path);
}

void TokenIndex::read_header(const fs::path& path) {
  using namespace token_index;
  if (bytes_.size() < kHeaderSize) {
    refuse(path, std::to_string(bytes_.size()) + " bytes", "a header of " + std::to_string(kHeaderSize) + " bytes");
  }
  if (std::memcmp(bytes_.data(), kMagic.data(), kMagic.size()) != 0) refuse(path, "another magic number", "MMIDIDX, an indexed dataset");
  const auto version = load<std::uint64_t>(bytes_.data() + kVersionOffset);
  if (version != kVersion) refuse(path, "version " + std::to_string(version), "version " + std::to_string(kVersion));
  element_type_ = load<std::uint8_t>(bytes_.data() + kTypeOffset);
  element_size_ = size_of_element(element_type_);
  if (element_size_ == 0) refuse(path, "element type " + std::to_string(element_type_), "an integer type (1 to 5 or 8)");

  sequences_ = load<std::uint64_t>(bytes_.data() + kSequencesOffset);
  const auto entries = load<std::uint64_t>(bytes_.data() + kDocumentsOffset);
  const std::uint64_t payload = bytes_.size() - kHeaderSize;
  const std::string counts = std::to_string(sequences_) + " sequences and " + std::to_string(entries) + " entries of the document index";
  if (entries == 0) refuse(path, "an empty document index", "at least one entry");
  // Divisions first: the counts are not trusted and their products may overflow.
  if (sequences_ > payload / (kLengthBytes + kOffsetBytes) ||
      entries > (payload - sequences_ * (kLengthBytes + kOffsetBytes)) / kDocumentBytes) {
    refuse(path, std::to_string(bytes_.size()) + " bytes", "room for the " + counts + " of its header");
  }
  const std::uint64_t rest = payload - sequences_ * (kLengthBytes + kOffsetBytes) - entries * kDocumentBytes;
  const bool modes_or_nothing = rest == sequences_ || rest == 0;
  if (!modes_or_nothing) refuse(path, std::to_string(rest) + " bytes too many", "just the " + counts + " of its header");
  documents_ = entries - 1;
}

std::int32_t TokenIndex::length(std::uint64_t sequence) const {
  return load<std::int32_t>(bytes_.data() + token_index::kHeaderSize + sequence * kLengthBytes);
}

std::int64_t TokenIndex::offset(std::uint64_t sequence) const {
  return load<std::int64_t>(bytes_.data() + token_index::kHeaderSize + sequences_ * kLengthBytes + sequence * kOffsetBytes);
}

std::int64_t TokenIndex::first_sequence(std::uint64_t document) const {
  return load<std::int64_t>(bytes_.data() + token_index::kHeaderSize + sequences_ * (kLengthBytes + kOffsetBytes) +
                            document * kDocumentBytes);
}

void TokenIndex::check_sequences(std::uint64_t bin_bytes, const fs::path& path) {
  std::uint64_t end = 0;  // cannot overflow: 2^31 * 8 bytes for each of the sequences, whose lengths are in memory
  for (std::uint64_t i = 0; i < sequences_; ++i) {
    if (length(i) < 0) refuse(path, "length " + std::to_string(length(i)) + " of sequence " + std::to_string(i), "no negative length");
    if (offset(i) < 0 || static_cast<std::uint64_t>(offset(i)) != end) {
      refuse(path, "sequence " + std::to_string(i) + " at byte " + std::to_string(offset(i)),
             "byte " + std::to_string(end) + ", where the one before it ends");
    }
    end += static_cast<std::uint64_t>(length(i)) * element_size_;
  }
  if (end != bin_bytes) {
    refuse(path, "sequences of " + std::to_string(end) + " bytes", std::to_string(bin_bytes) + " bytes, the size of the .bin file");
  }
  tokens_ = end / element_size_;
}

void TokenIndex::check_documents(const fs::path& path) const {
  std::int64_t previous = 0;
  for (std::uint64_t i = 0; i <= documents_; ++i) {
    const std::int64_t first = first_sequence(i);
    const bool wrong_start = i == 0 && first != 0;
    const bool wrong_end = i == documents_ && static_cast<std::uint64_t>(first) != sequences_;
    if (wrong_start || wrong_end || first < previous) {
      refuse(path, "entry " + std::to_string(i) + " of the document index is sequence " + std::to_string(first),
             "entries that rise from 0 to " + std::to_string(sequences_));
    }
    previous = first;
  }
}

TokenIndex::Range TokenIndex::document(std::uint64_t index) const {
  if (index >= documents_) throw std::out_of_range("TokenIndex::document");
  const auto first_token = [this](std::uint64_t document) {
    const auto sequence = static_cast<std::uint64_t>(first_sequence(document));
    return sequence == sequences_ ? tokens_ : static_cast<std::uint64_t>(offset(sequence)) / element_size_;
  };
  return {first_token(index), first_token(index + 1)};
}

}  // namespace stableqat
