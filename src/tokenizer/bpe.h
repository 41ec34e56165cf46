// Byte-pair merging of one word at a time.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/spec.h"
#include "tokenizer/token_table.h"
#include "tokenizer/word_cache.h"

namespace stableqat {

// Pair of ids -> its merge; open addressing, at most half full. Small slots: most pairs looked up are never merged, and those must be told
// from the others without leaving the cache.
class MergeTable {
 public:
  static constexpr std::uint32_t kNoMerge = 0xFFFFFFFF;

  // Of merges of the same pair the last one counts. `merges` outlives the table.
  explicit MergeTable(const std::vector<Merge>& merges);

  // Place of the pair in the list of merges, kNoMerge if it is not there.
  std::uint32_t rank(std::int32_t left, std::int32_t right) const {
    const std::uint64_t hash = hash_of(left, right);
    const auto tag = static_cast<std::uint32_t>(hash);
    for (std::size_t i = hash >> shift_;; i = (i + 1) & mask_) {
      const Slot& slot = slots_[i];
      if (slot.rank == kNoMerge) return kNoMerge;
      if (slot.tag == tag && is_pair(slot.rank, left, right)) return slot.rank;
    }
  }

  std::int32_t result(std::uint32_t rank) const { return merges_[rank].result; }

 private:
  struct Slot {
    std::uint32_t tag = 0;
    std::uint32_t rank = kNoMerge;
  };

  bool is_pair(std::uint32_t rank, std::int32_t left, std::int32_t right) const {
    return merges_[rank].left == left && merges_[rank].right == right;
  }

  static std::uint64_t hash_of(std::int32_t left, std::int32_t right) {
    std::uint64_t key = static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
    key *= 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
    return key ^ key >> 32;
  }

  const Merge* merges_;
  std::vector<Slot> slots_;
  std::size_t mask_ = 0;
  int shift_ = 0;
};

// Merges as Hugging Face's BPE does: always the pair of lowest rank, the leftmost of equal ones. Immutable.
class BytePairEncoder {
 public:
  // `spec` and `bytes`, what each id stands for, outlive the encoder. `mergeable[id]`: the id may come out of merging.
  BytePairEncoder(const TokenizerSpec& spec, const TokenTable& bytes, const std::vector<bool>& mergeable);

  // Appends the ids of a word that is not empty.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const;

 private:
  // The first ids of a word, at most one for each byte: of the bytes, or of the characters and the bytes of those without a token.
  std::size_t start(std::string_view word, std::int32_t* symbols) const;
  std::size_t start_with_characters(std::string_view word, std::int32_t* symbols) const;
  void merge(std::string_view word, std::vector<std::int32_t>& ids) const;
  void merge_long(std::string_view word, std::vector<std::int32_t>& ids) const;

  MergeTable merges_;
  bool starts_with_characters_;
  WordIndex characters_;                      // tokens of one character, where words start with those
  std::array<std::int32_t, 256> byte_ids_{};  // -1: no token
  std::int32_t unknown_id_;                   // -1: none
  bool fuse_unknown_;
  WordIndex whole_words_;             // words that end up as one token: no merging needed
  std::unique_ptr<WordCache> cache_;  // the others, as far as they were met; no result depends on it
};

}  // namespace stableqat
