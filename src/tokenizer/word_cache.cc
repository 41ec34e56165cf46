#include "tokenizer/word_cache.h"

#include <algorithm>

namespace stableqat {

bool WordCache::Slot::publish(std::unique_ptr<const Entry> entry) {
  const Entry* expected = nullptr;
  const bool first = entry_.compare_exchange_strong(expected, entry.get(), std::memory_order_release, std::memory_order_relaxed);
  if (first) entry.release();
  return first;
}

void WordCache::insert(std::string_view word, const WordKey& key, std::span<const std::int32_t> ids) {
  if (word.size() > kLongestWord || ids.empty() || ids.size() > kMostIds) return;
  const std::size_t first = key.hash();
  for (std::size_t i = 0; i < kWays; ++i) {
    Slot& slot = slots_[(first + i) % kSlots];
    if (slot.load(std::memory_order_relaxed) != nullptr) continue;
    auto entry = std::make_unique<Entry>();
    entry->key = key;
    entry->count = static_cast<std::uint32_t>(ids.size());
    std::copy(ids.begin(), ids.end(), entry->ids.begin());
    std::copy(word.begin(), word.end(), entry->word.begin());
    if (slot.publish(std::move(entry))) return;
  }
}

}  // namespace stableqat
