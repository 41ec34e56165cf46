#include "stableqat/data/token_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "data/token_file_info.h"
#include "data/token_index_format.h"
#include "stableqat/base/error.h"
#include "stableqat/base/version.h"

namespace stableqat {

namespace fs = std::filesystem;

namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian and read in place");

using namespace token_index;

constexpr std::int64_t kFirstInt32Vocabulary = 65500;
constexpr std::size_t kWriteBytes = std::size_t{1} << 20;
constexpr std::size_t kLengthsKept = std::size_t{1} << 16;

fs::path with_suffix(fs::path prefix, const char* suffix) { return prefix += suffix; }

// An id that int32 cannot hold becomes -1.
template <class Element>
void copy_ids(const std::byte* source, std::span<std::int32_t> ids) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto value = static_cast<std::int64_t>(load<Element>(source + i * sizeof(Element)));
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

// Calls take(lengths) for one piece of a file of `count` lengths after another.
template <class Take>
void read_lengths(const fs::path& path, std::uint64_t count, const Take& take) {
  std::ifstream file(path, std::ios::binary);
  std::vector<std::int32_t> piece;
  for (std::uint64_t left = count; left > 0; left -= piece.size()) {
    piece.resize(static_cast<std::size_t>(std::min<std::uint64_t>(kLengthsKept, left)));
    if (!file.read(reinterpret_cast<char*>(piece.data()), static_cast<std::streamsize>(piece.size() * sizeof(std::int32_t)))) {
      throw EnvironmentError({path.string(), "an error while reading", "what was written a moment ago", "check that disk"});
    }
    take(std::span<const std::int32_t>(piece));
  }
}

// As elements of the .bin, little-endian: the low bytes come first.
template <class Element>
void append_ids(std::span<const std::int32_t> ids, std::vector<std::byte>& bytes) {
  const std::size_t end = bytes.size();
  bytes.resize(end + ids.size() * sizeof(Element));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto element = static_cast<Element>(ids[i]);
    std::memcpy(bytes.data() + end + i * sizeof(Element), &element, sizeof(Element));
  }
}

}  // namespace

void TokenBuffer::read(std::uint64_t begin, std::span<std::int32_t> ids) const {
  check_range(begin, ids.size(), size());
  if (!ids.empty()) std::memcpy(ids.data(), ids_.data() + begin, ids.size_bytes());
}

// What PREFIX.json.partial says.
struct TokenFileWriter::Saved {
  std::string state;
  std::uint64_t documents = 0;
  std::uint64_t tokens = 0;
};

TokenFileWriter::TokenFileWriter(fs::path prefix, std::int64_t vocabulary_size)
    : prefix_(std::move(prefix)),
      vocabulary_size_(vocabulary_size),
      element_size_(vocabulary_size < kFirstInt32Vocabulary ? sizeof(std::uint16_t) : sizeof(std::int32_t)),
      bin_(with_suffix(prefix_, ".bin.partial")),
      lengths_file_(with_suffix(prefix_, ".idx.partial")) {
  buffer_.reserve(kWriteBytes);
}

TokenFileWriter::~TokenFileWriter() {
  if (!keeps_) remove_partial_files();
}

void TokenFileWriter::remove_partial_files() noexcept {
  bin_.remove();
  lengths_file_.remove();
  std::error_code ignored;
  fs::remove(with_suffix(prefix_, ".json.partial"), ignored);
}

TokenFileWriter::Saved TokenFileWriter::read_saved() const {
  const fs::path path = with_suffix(prefix_, ".json.partial");
  if (!fs::exists(path)) return {};
  const nlohmann::json json = nlohmann::json::parse(read_text_file(path), nullptr, false);
  try {
    Saved saved{json.at("state"), json.at("documents"), json.at("tokens")};
    const bool whole = bin_.size() / element_size_ >= saved.tokens && lengths_file_.size() / sizeof(std::int32_t) >= saved.documents;
    return whole ? saved : Saved{};
  } catch (const nlohmann::json::exception&) {
    return {};
  }
}

std::string TokenFileWriter::saved_state() const { return read_saved().state; }

void TokenFileWriter::resume() {
  const Saved saved = read_saved();
  documents_ = saved.documents;
  tokens_ = saved.tokens;
  bin_.cut(saved.tokens * element_size_);
  lengths_file_.cut(saved.documents * sizeof(std::int32_t));
  begun_ = keeps_ = true;
}

// A fresh start drops what an earlier writer left.
void TokenFileWriter::begin() {
  if (std::exchange(begun_, true)) return;
  std::error_code absent_is_fine;
  fs::remove(with_suffix(prefix_, ".json.partial"), absent_is_fine);
  bin_.cut(0);
  lengths_file_.cut(0);
}

void TokenFileWriter::save(const std::string& state) {
  flush();
  flush_lengths();
  bin_.sync();
  lengths_file_.sync();
  const nlohmann::json json{{"state", state}, {"documents", documents()}, {"tokens", tokens_}};
  write_text_file(with_suffix(prefix_, ".json.partial"), json.dump());
  keeps_ = true;
}

void TokenFileWriter::add_document(std::span<const std::int32_t> ids) {
  if (ids.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw std::invalid_argument("TokenFileWriter: a document of 2^31 tokens or more");
  }
  const auto stray = std::find_if(ids.begin(), ids.end(), [this](std::int32_t id) { return id < 0 || id >= vocabulary_size_; });
  if (stray != ids.end()) throw std::invalid_argument("TokenFileWriter: id " + std::to_string(*stray) + " outside the vocabulary");
  for (std::size_t done = 0; done < ids.size();) {
    if (buffer_.size() + element_size_ > kWriteBytes) flush();
    const auto piece = ids.subspan(done, std::min(ids.size() - done, (kWriteBytes - buffer_.size()) / element_size_));
    element_size_ == sizeof(std::uint16_t) ? append_ids<std::uint16_t>(piece, buffer_) : append_ids<std::int32_t>(piece, buffer_);
    done += piece.size();
  }
  if (lengths_.size() == kLengthsKept) flush_lengths();
  lengths_.push_back(static_cast<std::int32_t>(ids.size()));
  ++documents_;
  tokens_ += ids.size();
}

void TokenFileWriter::flush() {
  begin();
  bin_.write(buffer_);
  buffer_.clear();
}

void TokenFileWriter::flush_lengths() {
  begin();
  lengths_file_.write(std::as_bytes(std::span(lengths_)));
  lengths_.clear();
}

void TokenFileWriter::commit(TokenFileInfo& info) {
  info.tool = "stableqat " + std::string(version());
  info.vocabulary_size = vocabulary_size_;
  info.documents = documents();
  info.tokens = tokens_;
  flush();
  flush_lengths();
  AtomicFile json(with_suffix(prefix_, ".json"));
  json.write(to_json_text(info));
  const fs::path index_path = with_suffix(prefix_, ".idx");
  AtomicFile index(index_path);
  write_index(index);

  // A new .bin must never stand beside an old .idx, whatever happens between the renames.
  std::error_code absent_is_fine;
  fs::remove(index_path, absent_is_fine);
  bin_.rename(with_suffix(prefix_, ".bin"));
  json.commit();
  index.commit();
  remove_partial_files();
}

void TokenFileWriter::write_index(AtomicFile& index) const {
  index.write(std::string_view(kMagic.data(), kMagic.size()));
  write_value(index, kVersion);
  write_value(index, element_size_ == sizeof(std::uint16_t) ? kUint16 : kInt32);
  write_value(index, documents());
  write_value(index, documents() + 1);
  const fs::path lengths = with_suffix(prefix_, ".idx.partial");
  read_lengths(lengths, documents(), [&](std::span<const std::int32_t> piece) { index.write(std::as_bytes(piece)); });
  std::vector<std::int64_t> column;
  std::int64_t offset = 0;
  read_lengths(lengths, documents(), [&](std::span<const std::int32_t> piece) {
    column.clear();
    for (const std::int32_t length : piece) {
      column.push_back(offset);
      offset += std::int64_t{length} * static_cast<std::int64_t>(element_size_);
    }
    index.write(std::as_bytes(std::span(column)));
  });
  for (std::uint64_t first = 0; first <= documents(); first += column.size()) {
    column.resize(static_cast<std::size_t>(std::min<std::uint64_t>(kLengthsKept, documents() + 1 - first)));
    std::iota(column.begin(), column.end(), static_cast<std::int64_t>(first));  // one sequence a document
    index.write(std::as_bytes(std::span(column)));
  }
}

TokenFile::TokenFile(const fs::path& prefix, std::int64_t vocabulary_size)
    : index_file_(with_suffix(prefix, ".idx")),
      bin_(with_suffix(prefix, ".bin")),
      index_(index_file_.bytes(), bin_.bytes().size(), index_file_.path()),
      vocabulary_size_(vocabulary_size) {
  const fs::path json = with_suffix(prefix, ".json");
  info_ = read_token_file_info(json);
  if (info_ && (info_->tokens != index_.tokens() || info_->documents != index_.documents())) {
    refuse(json, std::to_string(info_->documents) + " documents of " + std::to_string(info_->tokens) + " tokens",
           std::to_string(index_.documents()) + " of " + std::to_string(index_.tokens()) + " as in " + index_file_.path().string());
  }
}

void TokenFile::read(std::uint64_t begin, std::span<std::int32_t> ids) const {
  check_range(begin, ids.size(), size());
  copy_ids(index_.element_type(), bin_.bytes().data() + begin * index_.element_size(), ids);
  const std::int64_t limit = vocabulary_size_ > 0 ? vocabulary_size_ : std::int64_t{std::numeric_limits<std::int32_t>::max()} + 1;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < limit) continue;
    throw DataError({bin_.path().string(),
                     (ids[i] < 0 ? "a negative or huge id" : "id " + std::to_string(ids[i])) + " at token " + std::to_string(begin + i),
                     "ids from 0 to " + std::to_string(limit - 1), "tokenize the text with the tokenizer of this model"});
  }
}

void TokenFile::check_tokenizer(const std::string& hash) const {
  if (!info_ || info_->tokenizer_hash == hash) return;
  throw DataError({bin_.path().string(), "ids of the tokenizer " + info_->tokenizer_hash, "the tokenizer " + hash,
                   "tokenize the text with the tokenizer of this model"});
}

void TokenFile::check_ids() const {
  std::vector<std::int32_t> ids(kWriteBytes / sizeof(std::int32_t));
  for (std::uint64_t begin = 0; begin < size(); begin += ids.size()) {
    if (size() - begin < ids.size()) ids.resize(static_cast<std::size_t>(size() - begin));
    read(begin, ids);
  }
}

}  // namespace stableqat
