// Byte strings of tokens: by id, and back.
#pragma once

#include <xxhash.h>

#include <cstdint>
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
    if (find(bytes) >= 0) return;
    const std::uint64_t hash = hash_of(bytes);
    std::size_t i = hash & (slots_.size() - 1);
    while (slots_[i].id >= 0) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = {static_cast<std::uint32_t>(hash >> 32), id};
  }

  // -1 if there is none.
  std::int32_t find(std::string_view bytes) const {
    const std::uint64_t hash = hash_of(bytes);
    for (std::size_t i = hash & (slots_.size() - 1);; i = (i + 1) & (slots_.size() - 1)) {
      const Slot& slot = slots_[i];
      if (slot.id < 0) return -1;
      if (slot.tag == static_cast<std::uint32_t>(hash >> 32) && (*tokens_)[slot.id] == bytes) return slot.id;
    }
  }

 private:
  struct Slot {
    std::uint32_t tag = 0;
    std::int32_t id = -1;
  };

  static std::uint64_t hash_of(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

  const TokenTable* tokens_;
  std::vector<Slot> slots_;
};

}  // namespace stableqat
