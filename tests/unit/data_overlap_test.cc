#include "stableqat/data/overlap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <vector>

namespace stableqat {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr std::int32_t kEnd = 0;

class OverlapTest : public ::testing::Test {
 protected:
  // Ids from 1 on, with the end of text behind them.
  Ids document(std::size_t length, std::int32_t vocabulary = 50000) {
    Ids ids(length);
    for (std::int32_t& id : ids) id = 1 + static_cast<std::int32_t>(random_() % static_cast<std::uint32_t>(vocabulary));
    ids.push_back(kEnd);
    return ids;
  }

  static Ids joined(const std::vector<Ids>& parts) {
    Ids all;
    for (const Ids& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
  }

  static Ids without_end(Ids ids) {
    ids.pop_back();
    return ids;
  }

  static Overlap overlap(const Ids& text, const std::vector<Ids>& training, std::uint64_t most_tokens = 1'000'000'000) {
    std::vector<std::shared_ptr<const TokenStream>> streams;
    for (const Ids& ids : training) streams.push_back(std::make_shared<TokenBuffer>(ids));
    return remove_overlap(text, kEnd, streams, most_tokens);
  }

  std::mt19937 random_{1};
};

TEST_F(OverlapTest, DocumentsAreFoundInAnyFileAndPlace) {
  const Ids a = document(200), b = document(333), c = document(70), d = document(500);
  const Overlap found = overlap(joined({a, b, c, d}), {joined({document(90), b, document(1)}), joined({document(7), d})});
  EXPECT_EQ(found.rest, joined({a, c}));
  EXPECT_EQ(found.parts, 4U);
  EXPECT_EQ(found.shared_parts, 2U);
  EXPECT_EQ(found.shared_tokens, b.size() + d.size());
  EXPECT_EQ(found.searched, found.total);
  EXPECT_EQ(overlap(joined({a, c}), {joined({b, d})}).rest, joined({a, c}));
  EXPECT_TRUE(overlap({}, {a}).rest.empty());
  EXPECT_EQ(overlap(a, {}).rest, a);
}

// Blocks of one long text, as the authors' program leaves them: no document is whole in them and none has an end.
TEST_F(OverlapTest, BoundariesOfTheTrainingDataDoNotMatter) {
  const Ids held_out = document(400), other = document(400);
  const Ids training = joined({without_end(document(777)), without_end(held_out), without_end(document(777))});
  EXPECT_EQ(overlap(joined({held_out, other}), {training}).rest, other);
}

TEST_F(OverlapTest, HalfOfAPartDecides) {
  const Ids text = document(10 * kStretch);  // and the end: no stretch of its own
  const auto copy_of = [&](std::size_t stretches) {
    return Ids(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(stretches * kStretch));
  };
  EXPECT_TRUE(overlap(text, {copy_of(5)}).rest.empty());
  EXPECT_EQ(overlap(text, {copy_of(4)}).rest, text);
  Ids almost = copy_of(5);
  almost.back() += 1;
  EXPECT_EQ(overlap(text, {almost}).rest, text);
  EXPECT_TRUE(overlap(text, {copy_of(2), Ids(text.begin() + 5 * kStretch, text.end())}).rest.empty());  // from two places
}

TEST_F(OverlapTest, ShortDocumentsCountAsWhole) {
  const Ids a = document(5), b = document(kStretch - 2), c = document(10);
  EXPECT_EQ(overlap(joined({a, b, c}), {joined({document(100), b, a})}).rest, c);
  EXPECT_EQ(overlap(a, {joined({without_end(document(3)), a})}).rest, a);  // the end of a longer one
  EXPECT_EQ(overlap(a, {without_end(a)}).rest, a);
  EXPECT_EQ(overlap(without_end(a), {a}).rest, without_end(a));  // not known to be whole
}

TEST_F(OverlapTest, LongDocumentsAreJudgedPieceByPiece) {
  const Ids text = document(3 * kLongestPart + 20);
  const Ids middle(text.begin() + kLongestPart, text.begin() + 2 * kLongestPart);
  const Overlap found = overlap(text, {middle});
  EXPECT_EQ(found.parts, 3U);  // the last 21 ids go with the third
  Ids rest(text.begin(), text.begin() + kLongestPart);
  rest.insert(rest.end(), text.begin() + 2 * kLongestPart, text.end());
  EXPECT_EQ(found.rest, rest);
  EXPECT_TRUE(overlap(text, {joined({document(9), text})}).rest.empty());
}

// The search reads 2^20 tokens at a time.
TEST_F(OverlapTest, NothingIsLostWhereThePiecesOfASearchMeet) {
  const Ids held_out = document(120), small = document(20);
  for (const std::size_t before : {(1U << 20) - 121U, (1U << 20) - 60U, (1U << 20) - 1U, 1U << 20, (1U << 20) + 1U}) {
    for (const Ids& text : {held_out, small}) {
      EXPECT_TRUE(overlap(text, {joined({document(before - 1), text, document(3000)})}).rest.empty()) << before;
    }
  }
}

TEST_F(OverlapTest, OfLongDataAnEvenSampleIsSearched) {
  std::vector<Ids> documents;
  for (int i = 0; i < 640; ++i) documents.push_back(document(16383));
  std::vector<Ids> begins;  // of each, as documents of their own: short enough to lie in one piece
  for (const Ids& ids : documents) begins.push_back(joined({Ids(ids.begin(), ids.begin() + 100), {kEnd}}));
  const Ids training = joined(documents);
  const Overlap found = overlap(joined(begins), {training}, training.size() / 5);
  EXPECT_EQ(found.total, training.size());
  EXPECT_NEAR(static_cast<double>(found.searched), static_cast<double>(training.size()) / 5, 1 << 20);
  EXPECT_NEAR(static_cast<double>(found.shared_parts), 128.0, 65.0);  // a piece holds 64 of them
  EXPECT_GT(found.shared_parts, 0U);
}

// Against a search that compares ids, on texts that share pieces of every length.
TEST_F(OverlapTest, AgreesWithComparingIds) {
  const auto occurs = [](const Ids& training, std::span<const std::int32_t> ids) {
    return std::search(training.begin(), training.end(), ids.begin(), ids.end()) != training.end();
  };
  int shared = 0, kept = 0;
  for (int trial = 0; trial < 300; ++trial) {
    Ids training = document(600, 3);
    const std::vector<Ids> held_out{document(50 + random_() % 300, 3), document(50 + random_() % 300, 3)};
    for (const Ids& text : held_out) {
      const std::size_t length = random_() % text.size();
      const std::size_t begin = random_() % (text.size() - length + 1);
      training.insert(training.begin() + static_cast<std::ptrdiff_t>(random_() % training.size()),
                      text.begin() + static_cast<std::ptrdiff_t>(begin), text.begin() + static_cast<std::ptrdiff_t>(begin + length));
    }
    std::vector<Ids> rest;
    for (const Ids& text : held_out) {
      std::size_t found = 0;
      const std::size_t stretches = text.size() / kStretch;
      for (std::size_t i = 0; i < stretches; ++i) found += occurs(training, std::span(text).subspan(i * kStretch, kStretch));
      const bool is_shared = 2 * found >= stretches;
      if (!is_shared) rest.push_back(text);
      ++(is_shared ? shared : kept);
    }
    EXPECT_EQ(overlap(joined(held_out), {training}).rest, joined(rest)) << trial;
  }
  EXPECT_GT(shared, 50);
  EXPECT_GT(kept, 50);
}

TEST_F(OverlapTest, StopsOnRequest) {
  const Ids text = document(100);
  const std::vector<std::shared_ptr<const TokenStream>> training{std::make_shared<TokenBuffer>(text)};
  EXPECT_EQ(remove_overlap(text, kEnd, training, 1000, {}, [] { return true; }).rest, text);
}

}  // namespace
}  // namespace stableqat
