// Byte-pair merging of one word at a time.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/spec.h"
#include "tokenizer/token_table.h"

namespace stableqat {

// Pair of ids -> rank and id of the merged token; open addressing, at most half full.
class MergeTable {
 public:
  struct Found {
    std::uint32_t rank;  // kNoMerge if the pair is never merged
    std::int32_t result;
  };
  static constexpr std::uint32_t kNoMerge = 0xFFFFFFFF;

  explicit MergeTable(const std::vector<Merge>& merges);

  Found find(std::int32_t left, std::int32_t right) const {
    for (std::size_t i = home(left, right);; i = (i + 1) & mask_) {
      const Slot& slot = slots_[i];
      if ((slot.left == left && slot.right == right) || slot.found.rank == kNoMerge) return slot.found;
    }
  }

 private:
  struct Slot {
    std::int32_t left = -1;
    std::int32_t right = -1;
    Found found{kNoMerge, -1};
  };

  std::size_t home(std::int32_t left, std::int32_t right) const {
    const std::uint64_t key = static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
    return (key * 0x9E3779B97F4A7C15u) >> shift_;
  }

  std::vector<Slot> slots_;
  std::size_t mask_ = 0;
  int shift_ = 0;
};

// Merges as Hugging Face's BPE does: always the pair of lowest rank, the leftmost of equal ones. Immutable.
class BytePairEncoder {
 public:
  // `bytes`: what each id stands for; outlives the encoder. `mergeable[id]`: the id may come out of a word.
  BytePairEncoder(const TokenizerSpec& spec, const TokenTable& bytes, const std::vector<bool>& mergeable);

  // Appends the ids of a word that is not empty.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const;

 private:
  // The first ids of a word: one for each byte that has a token.
  std::size_t start(std::string_view word, std::int32_t* symbols) const;
  void merge(std::string_view word, std::vector<std::int32_t>& ids) const;
  void merge_long(std::string_view word, std::vector<std::int32_t>& ids) const;

  MergeTable merges_;
  std::array<std::int32_t, 256> byte_ids_{};  // -1: no token
  std::int32_t unknown_id_;                   // -1: none
  bool fuse_unknown_;
  WordIndex whole_words_;  // words that end up as one token: no merging needed
};

}  // namespace stableqat
