#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <queue>

#include "stableqat/base/error.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/utf8.h"

namespace stableqat {

namespace {

// Up to this many bytes, looking through all pairs for the best one is faster than keeping a heap.
constexpr std::size_t kShortWord = 64;

}  // namespace

MergeTable::MergeTable(const std::vector<Merge>& merges) : merges_(merges.data()) {
  const std::size_t size = std::bit_ceil(2 * merges.size() + 2);
  slots_.resize(size);
  mask_ = size - 1;
  shift_ = 64 - std::countr_zero(size);
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto [left, right, result] = merges[rank];
    const std::uint64_t hash = hash_of(left, right);
    std::size_t i = hash >> shift_;
    while (slots_[i].rank != kNoMerge && !is_pair(slots_[i].rank, left, right)) i = (i + 1) & mask_;
    slots_[i] = {static_cast<std::uint32_t>(hash), static_cast<std::uint32_t>(rank)};
  }
}

BytePairEncoder::BytePairEncoder(const TokenizerSpec& spec, const TokenTable& bytes, const std::vector<bool>& mergeable)
    : merges_(spec.merges),
      starts_with_characters_(spec.spelling == Spelling::kSentencePiece),
      characters_(bytes, starts_with_characters_ ? bytes.size() : 0),
      unknown_id_(spec.unknown_id.value_or(-1)),
      fuse_unknown_(spec.fuse_unknown),
      whole_words_(bytes, bytes.size()),
      cache_(std::make_unique<WordCache>()) {
  byte_ids_.fill(-1);
  const auto count = static_cast<std::int32_t>(bytes.size());
  for (std::int32_t id = 0; id < count; ++id) {
    const std::string_view token = bytes[id];
    const bool merges = mergeable[static_cast<std::size_t>(id)];
    if (!starts_with_characters_) {
      if (merges && token.size() == 1) byte_ids_[static_cast<std::uint8_t>(token[0])] = id;
    } else if (const auto byte = sentencepiece_byte(spec.spelled[static_cast<std::size_t>(id)])) {
      byte_ids_[*byte] = id;
    } else if (merges && !token.empty() && read_utf8(token.data(), token.data() + token.size()).length == token.size()) {
      characters_.insert(id);
    }
  }
  std::vector<std::int32_t> ids;
  for (std::int32_t id = 0; id < count; ++id) {
    if (!mergeable[static_cast<std::size_t>(id)]) continue;
    ids.clear();
    if (!spec.ignore_merges) merge(bytes[id], ids);
    if (spec.ignore_merges || (ids.size() == 1 && ids[0] == id)) whole_words_.insert(id);
  }
}

void BytePairEncoder::encode(std::string_view word, std::vector<std::int32_t>& ids) const {
  const WordKey key(word);
  if (const std::int32_t whole = whole_words_.find(word, key); whole >= 0) {
    ids.push_back(whole);
    return;
  }
  if (const auto known = cache_->find(word, key); !known.empty()) {
    ids.insert(ids.end(), known.begin(), known.end());
    return;
  }
  const std::size_t begin = ids.size();
  merge(word, ids);
  cache_->insert(word, key, std::span(ids).subspan(begin));
}

// A character without a token becomes the tokens of its bytes, or the unknown token where one of those is missing.
std::size_t BytePairEncoder::start_with_characters(std::string_view word, std::int32_t* symbols) const {
  std::size_t count = 0;
  bool after_unknown = false;
  const char* const end = word.data() + word.size();
  for (const char* at = word.data(); at != end;) {
    const std::string_view character(at, read_utf8(at, end).length);
    at += character.size();
    const std::int32_t id = characters_.find(character);
    const auto byte_id = [this](char c) { return byte_ids_[static_cast<std::uint8_t>(c)]; };
    const bool has_bytes = std::all_of(character.begin(), character.end(), [&](char c) { return byte_id(c) >= 0; });
    if (id >= 0) {
      symbols[count++] = id;
    } else if (has_bytes) {
      for (const char c : character) symbols[count++] = byte_id(c);
    } else if (unknown_id_ >= 0 && !(after_unknown && fuse_unknown_)) {
      symbols[count++] = unknown_id_;
    }
    after_unknown = id < 0 && !has_bytes;
  }
  return count;
}

std::size_t BytePairEncoder::start(std::string_view word, std::int32_t* symbols) const {
  if (starts_with_characters_) return start_with_characters(word, symbols);
  std::size_t count = 0;
  bool after_unknown = false;
  for (const char c : word) {
    std::int32_t id = byte_ids_[static_cast<std::uint8_t>(c)];
    const bool unknown = id < 0;
    if (unknown && !(after_unknown && fuse_unknown_)) id = unknown_id_;
    after_unknown = unknown;
    if (id >= 0) symbols[count++] = id;
  }
  return count;
}

void BytePairEncoder::merge(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (word.size() > kShortWord) return merge_long(word, ids);
  std::array<std::int32_t, kShortWord> symbols;
  std::array<std::uint32_t, kShortWord> ranks;  // of symbol i with the next one
  std::size_t count = start(word, symbols.data());
  for (std::size_t i = 0; i + 1 < count; ++i) ranks[i] = merges_.rank(symbols[i], symbols[i + 1]);
  while (count > 1) {
    std::uint32_t lowest = MergeTable::kNoMerge;
    std::size_t best = 0;
    for (std::size_t i = 0; i + 1 < count; ++i) {
      if (ranks[i] < lowest) {
        lowest = ranks[i];
        best = i;
      }
    }
    if (lowest == MergeTable::kNoMerge) break;
    symbols[best] = merges_.result(lowest);
    --count;
    for (std::size_t i = best + 1; i < count; ++i) {
      symbols[i] = symbols[i + 1];
      ranks[i - 1] = ranks[i];
    }
    if (best > 0) ranks[best - 1] = merges_.rank(symbols[best - 1], symbols[best]);
    if (best + 1 < count) ranks[best] = merges_.rank(symbols[best], symbols[best + 1]);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.begin() + static_cast<std::ptrdiff_t>(count));
}

// A heap of the pairs, by rank and then position, over a linked list of symbols: n log n.
void BytePairEncoder::merge_long(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (word.size() > std::numeric_limits<std::uint32_t>::max() / 2) {
    throw DataError({"text", "a word of " + std::to_string(word.size()) + " bytes", "words below 2 GiB", "check that the input is text"});
  }
  struct Symbol {
    std::int32_t id;
    std::uint32_t previous;
    std::uint32_t next;
    std::uint32_t rank;  // of the pair with the next symbol
  };
  constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();
  std::vector<std::int32_t> first_ids(word.size());
  const auto count = static_cast<std::uint32_t>(start(word, first_ids.data()));
  std::vector<Symbol> symbols(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    symbols[i] = {first_ids[i], i == 0 ? kNone : i - 1, i + 1 < count ? i + 1 : kNone, MergeTable::kNoMerge};
  }

  // An entry is stale once the pair at its position has another rank.
  using Entry = std::uint64_t;  // rank << 32 | position
  std::vector<Entry> entries;
  const auto update = [&](std::uint32_t i) -> bool {
    Symbol& symbol = symbols[i];
    symbol.rank = symbol.next == kNone ? MergeTable::kNoMerge : merges_.rank(symbol.id, symbols[symbol.next].id);
    return symbol.rank != MergeTable::kNoMerge;
  };
  const auto entry = [&](std::uint32_t i) { return static_cast<Entry>(symbols[i].rank) << 32 | i; };
  for (std::uint32_t i = 0; i < count; ++i) {
    if (update(i)) entries.push_back(entry(i));
  }
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> heap(std::greater<>{}, std::move(entries));
  while (!heap.empty()) {
    const auto rank = static_cast<std::uint32_t>(heap.top() >> 32);
    const auto i = static_cast<std::uint32_t>(heap.top());
    heap.pop();
    Symbol& left = symbols[i];
    if (left.rank != rank) continue;
    Symbol& right = symbols[left.next];
    left.id = merges_.result(rank);
    right.rank = MergeTable::kNoMerge;
    left.next = right.next;
    if (left.next != kNone) symbols[left.next].previous = i;
    if (update(i)) heap.push(entry(i));
    if (left.previous != kNone && update(left.previous)) heap.push(entry(left.previous));
  }
  for (std::uint32_t i = count > 0 ? 0 : kNone; i != kNone; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace stableqat
