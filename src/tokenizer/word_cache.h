// Remembers what words were merged to.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/token_table.h"

namespace stableqat {

// Fills up and then stays as it is: text repeats its common words from the start. All members are thread-safe; reading takes no lock.
class WordCache {
 public:
  static constexpr std::size_t kLongestWord = 32;  // longer ones seldom come again
  static constexpr std::size_t kMostIds = 8;

  WordCache() : slots_(kSlots) {}

  // The ids of the word; empty if it is not remembered.
  std::span<const std::int32_t> find(std::string_view word, const WordKey& key) const {
    const std::size_t first = key.hash();
    for (std::size_t i = 0; i < kWays; ++i) {
      const Entry* const entry = slots_[(first + i) % kSlots].load(std::memory_order_acquire);
      if (entry == nullptr) break;
      if (entry->key == key && (key.is_whole() || entry->bytes() == word)) return {entry->ids.data(), entry->count};
    }
    return {};
  }

  // Does nothing for words that are too long or have too many ids, and where there is no place.
  void insert(std::string_view word, const WordKey& key, std::span<const std::int32_t> ids);

 private:
  static constexpr std::size_t kSlots = 1 << 16;
  static constexpr std::size_t kWays = 4;

  struct Entry {
    WordKey key;
    std::uint32_t count = 0;
    std::array<std::int32_t, kMostIds> ids{};
    std::array<char, kLongestWord> word{};

    std::string_view bytes() const { return {word.data(), key.length}; }
  };

  // Owns an entry, once there is one.
  class Slot {
   public:
    Slot() = default;
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;
    ~Slot() { delete entry_.load(); }
    const Entry* load(std::memory_order order) const { return entry_.load(order); }
    // False when another thread was first; the entry is then freed.
    bool publish(std::unique_ptr<const Entry> entry);

   private:
    std::atomic<const Entry*> entry_ = nullptr;
  };

  std::vector<Slot> slots_;
};

}  // namespace stableqat
