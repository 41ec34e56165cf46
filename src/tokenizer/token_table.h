// Byte strings of tokens: by id, and back.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace stableqat {

// id -> bytes, in one block of memory.
class TokenTable {
 public:
  void append(std::string_view bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    ends_.push_back(bytes_.size());
  }

  std::size_t size() const { return ends_.size() - 1; }

  std::string_view operator[](std::int32_t id) const {
    const std::size_t begin = ends_[static_cast<std::size_t>(id)];
    return {bytes_.data() + begin, ends_[static_cast<std::size_t>(id) + 1] - begin};
  }

 private:
  std::vector<char> bytes_;
  std::vector<std::size_t> ends_{0};
};

// What a table compares of a word before anything else: its bytes where they fit, else their hash.
struct WordKey {
  static constexpr std::size_t kWhole = 8;  // words up to this length are their key

  std::uint64_t bits = 0;
  std::uint32_t length = 0;

  explicit WordKey(std::string_view word) : bits(bits_of(word)), length(static_cast<std::uint32_t>(word.size())) {}
  WordKey() = default;

  bool is_whole() const { return length <= kWhole; }
  std::uint64_t hash() const {
    const std::uint64_t mixed = (bits ^ length) * 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
    return mixed ^ mixed >> 29;
  }
  friend bool operator==(const WordKey&, const WordKey&) = default;

 private:
  template <class T>
  static std::uint64_t load(const char* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }

  // Two loads that overlap hold every byte of 2 to 8 at its place.
  static std::uint64_t bits_of(std::string_view word) {
    const char* const bytes = word.data();
    const std::size_t size = word.size();
    if (size > kWhole) return XXH3_64bits(bytes, size);
    if (size >= 4) return load<std::uint32_t>(bytes) | load<std::uint32_t>(bytes + size - 4) << (8 * (size - 4));
    if (size >= 2) return load<std::uint16_t>(bytes) | load<std::uint16_t>(bytes + size - 2) << (8 * (size - 2));
    return size == 1 ? static_cast<std::uint8_t>(*bytes) : 0;
  }
};

// bytes -> id, for tokens of a TokenTable that outlives it; open addressing, at most half full.
class WordIndex {
 public:
  WordIndex(const TokenTable& tokens, std::size_t capacity) : tokens_(&tokens) {
    std::size_t size = 16;
    while (size < 2 * capacity) size *= 2;
    slots_.resize(size);
  }

  // Of equal byte strings the first one stays.
  void insert(std::int32_t id) {
    const std::string_view bytes = (*tokens_)[id];
    const WordKey key(bytes);
    if (find(bytes, key) >= 0) return;
    std::size_t i = key.hash() & (slots_.size() - 1);
    while (slots_[i].id >= 0) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = {key, id};
  }

  // -1 if there is none.
  std::int32_t find(std::string_view bytes) const { return find(bytes, WordKey(bytes)); }
  std::int32_t find(std::string_view bytes, const WordKey& key) const {
    for (std::size_t i = key.hash() & (slots_.size() - 1);; i = (i + 1) & (slots_.size() - 1)) {
      const Slot& slot = slots_[i];
      if (slot.id < 0) return -1;
      if (slot.key == key && (key.is_whole() || (*tokens_)[slot.id] == bytes)) return slot.id;
    }
  }

 private:
  struct Slot {
    WordKey key;
    std::int32_t id = -1;
  };

  const TokenTable* tokens_;
  std::vector<Slot> slots_;
};

}  // namespace stableqat
