#include "stableqat/data/overlap.h"

#include <algorithm>
#include <array>
#include <bit>
#include <unordered_map>

namespace stableqat {

namespace {

constexpr std::uint64_t kBase = 0x9e3779b97f4a7c15;  // odd, bits well spread
constexpr std::uint64_t kPieceTokens = std::uint64_t{1} << 20;

constexpr std::uint64_t power(std::uint64_t base, std::size_t exponent) {
  std::uint64_t result = 1;
  for (std::size_t i = 0; i < exponent; ++i) result *= base;
  return result;
}

constexpr std::uint64_t kBaseToStretch = power(kBase, kStretch);

// A polynomial of the ids modulo 2^64 (Karp and Rabin): the next window's hash follows from the last one's.
constexpr std::uint64_t appended(std::uint64_t hash, std::int32_t id) { return hash * kBase + static_cast<std::uint32_t>(id) + 1; }
constexpr std::uint64_t dropped(std::uint64_t hash, std::int32_t id) {
  return hash - (static_cast<std::uint64_t>(static_cast<std::uint32_t>(id)) + 1) * kBaseToStretch;
}
// The low bits of such a polynomial know little of most ids.
constexpr std::uint64_t mixed(std::uint64_t hash) {
  hash ^= hash >> 32;
  hash *= 0xd6e8feb86659fd93;
  return hash ^ (hash >> 32);
}

std::uint64_t hash_of(std::span<const std::int32_t> ids) {
  std::uint64_t hash = 0;
  for (const std::int32_t id : ids) hash = appended(hash, id);
  return hash;
}

// Hashes to look for. Most of what is looked up is not among them, which a bit says that stays in the cache.
class Wanted {
 public:
  // The hash's number, the same for equal ones. All are added before the first is looked up.
  std::size_t add(std::uint64_t hash) { return numbers_.emplace(hash, numbers_.size()).first->second; }

  void finish() {
    constexpr std::size_t kBitsEach = 16;
    filter_.assign(std::bit_ceil(std::max<std::size_t>(64, numbers_.size() * kBitsEach)), false);
    for (const auto& [hash, number] : numbers_) filter_[mixed(hash) & (filter_.size() - 1)] = true;
    found_.assign(numbers_.size(), false);
  }

  void look_up(std::uint64_t hash) {
    if (!filter_[mixed(hash) & (filter_.size() - 1)]) return;
    const auto entry = numbers_.find(hash);
    if (entry != numbers_.end()) found_[entry->second] = true;
  }

  bool found(std::size_t number) const { return found_[number]; }

 private:
  std::unordered_map<std::uint64_t, std::size_t> numbers_;
  std::vector<bool> filter_;
  std::vector<bool> found_;
};

struct Part {
  std::span<const std::int32_t> ids;
  std::vector<std::size_t> numbers;  // of its stretches, or of the whole short document
};

// Cuts a text into parts and notes their hashes.
class HeldOut {
 public:
  HeldOut(std::span<const std::int32_t> text, std::int32_t end_of_text) : end_of_text_(end_of_text) {
    while (!text.empty()) {
      // A piece takes the end of its document along where that is too short to be looked for by itself.
      const auto window = text.first(std::min(kLongestPart + kStretch, text.size()));
      const auto end = std::find(window.begin(), window.end(), end_of_text);
      const bool is_ended = end != window.end();
      const auto length = static_cast<std::size_t>(end - window.begin());
      add(text.first(is_ended ? length + 1 : std::min(kLongestPart, length)), is_ended);
      text = text.subspan(parts_.back().ids.size());
    }
    stretches_.finish();
    documents_.finish();
  }

  // Looks for everything in a piece of the training data, which may begin inside a document.
  void search(std::span<const std::int32_t> ids, bool begins_document) {
    std::uint64_t stretch = 0;
    std::uint64_t document = 0;
    std::size_t length = begins_document ? 0 : kStretch;  // of the document
    for (std::size_t i = 0; i < ids.size(); ++i) {
      stretch = appended(stretch, ids[i]);
      if (i >= kStretch) stretch = dropped(stretch, ids[i - kStretch]);
      if (i + 1 >= kStretch) stretches_.look_up(stretch);
      document = appended(document, ids[i]);
      ++length;
      if (ids[i] != end_of_text_) continue;
      if (length < kStretch) documents_.look_up(document);
      document = 0;
      length = 0;
    }
  }

  Overlap result() const {
    Overlap overlap;
    overlap.parts = parts_.size();
    for (const Part& part : parts_) {
      if (!is_shared(part)) {
        overlap.rest.insert(overlap.rest.end(), part.ids.begin(), part.ids.end());
        continue;
      }
      ++overlap.shared_parts;
      overlap.shared_tokens += part.ids.size();
    }
    return overlap;
  }

 private:
  void add(std::span<const std::int32_t> ids, bool is_ended) {
    Part part{ids, {}};
    for (std::size_t begin = 0; begin + kStretch <= ids.size(); begin += kStretch) {
      part.numbers.push_back(stretches_.add(hash_of(ids.subspan(begin, kStretch))));
    }
    if (part.numbers.empty() && is_ended) part.numbers.push_back(documents_.add(hash_of(ids)));
    parts_.push_back(std::move(part));
  }

  bool is_shared(const Part& part) const {
    const Wanted& wanted = part.ids.size() >= kStretch ? stretches_ : documents_;
    const auto found =
        std::count_if(part.numbers.begin(), part.numbers.end(), [&wanted](std::size_t number) { return wanted.found(number); });
    return found > 0 && 2 * static_cast<std::size_t>(found) >= part.numbers.size();
  }

  std::int32_t end_of_text_;
  std::vector<Part> parts_;
  Wanted stretches_;
  Wanted documents_;  // shorter ones
};

// Whether piece `i` belongs to a share of all pieces that is spread evenly; the first always does.
bool is_chosen(std::uint64_t i, double share) {
  return i == 0 ||
         static_cast<std::uint64_t>(static_cast<double>(i) * share) != static_cast<std::uint64_t>(static_cast<double>(i - 1) * share);
}

}  // namespace

Overlap remove_overlap(std::span<const std::int32_t> text, std::int32_t end_of_text,
                       std::span<const std::shared_ptr<const TokenStream>> training, std::uint64_t most_tokens,
                       const ProgressCallback& progress, const StopRequested& stop) {
  HeldOut held_out(text, end_of_text);
  std::uint64_t total = 0;
  for (const auto& stream : training) total += stream->size();
  const double share = total <= most_tokens ? 1.0 : static_cast<double>(most_tokens) / static_cast<double>(total);
  std::uint64_t searched = 0;
  std::uint64_t passed = 0;
  std::vector<std::int32_t> ids;
  for (const auto& stream : training) {
    for (std::uint64_t begin = 0, i = 0; begin < stream->size(); begin += kPieceTokens, ++i) {
      if (stop && stop()) break;
      const std::uint64_t length = std::min(kPieceTokens, stream->size() - begin);
      passed += length;
      if (share < 1.0 && !is_chosen(i, share)) continue;
      // With the end of the piece before, in which a part may begin.
      const std::uint64_t before = std::min<std::uint64_t>(begin, kLongestPart);
      ids.resize(static_cast<std::size_t>(before + length));
      stream->read(begin - before, ids);
      held_out.search(ids, begin == 0);
      searched += length;
      if (progress) progress({"overlap", passed, total, "tokens"});
    }
  }
  Overlap overlap = held_out.result();
  overlap.searched = searched;
  overlap.total = total;
  return overlap;
}

}  // namespace stableqat
