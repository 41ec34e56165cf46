#include "stableqat/data/token_loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <vector>

#include "stableqat/base/error.h"

namespace stableqat {
namespace {

using LoaderIds = std::vector<std::int64_t>;

// Token i of the stream is i: a block shows where it was cut.
std::shared_ptr<const TokenStream> counting_stream(int size) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(size));
  std::iota(ids.begin(), ids.end(), 0);
  return std::make_shared<TokenBuffer>(std::move(ids));
}

LoaderIds next_batch(TokenLoader& loader) {
  LoaderIds ids(static_cast<std::size_t>(loader.options().batch_size * loader.options().block_length));
  EXPECT_TRUE(loader.next(ids));
  return ids;
}

LoaderOptions options_of(std::int64_t batch_size, std::int64_t block_length) {
  LoaderOptions options;
  options.batch_size = batch_size;
  options.block_length = block_length;
  return options;
}

TEST(BlockPermutation, IsABijectionForEverySize) {
  for (std::uint64_t size = 1; size <= 300; ++size) {
    const BlockPermutation permutation(size, size * 7919);
    std::set<std::uint64_t> images;
    for (std::uint64_t i = 0; i < size; ++i) images.insert(permutation(i));
    EXPECT_EQ(images.size(), size);
    EXPECT_LT(*images.rbegin(), size);
  }
}

TEST(BlockPermutation, HoldsForSizesBeyond32Bits) {
  const std::uint64_t size = (std::uint64_t{1} << 40) + 12345;
  const BlockPermutation permutation(size, 1);
  std::set<std::uint64_t> images;
  for (std::uint64_t i = 0; i < 1000; ++i) images.insert(permutation(size - 1 - i));
  EXPECT_EQ(images.size(), 1000u);
  EXPECT_LT(*images.rbegin(), size);
}

// Under a uniform permutation each cell of (position, image) holds trials / 16 hits, with a standard deviation of about 30.
TEST(BlockPermutation, SendsEveryPositionEverywhereAboutEquallyOften) {
  constexpr int kSize = 16, kTrials = 16000;
  std::vector<int> hits(kSize * kSize);
  for (std::uint64_t key = 0; key < kTrials; ++key) {
    const BlockPermutation permutation(kSize, key);
    for (std::uint64_t i = 0; i < kSize; ++i) ++hits[i * kSize + permutation(i)];
  }
  const auto [least, most] = std::minmax_element(hits.begin(), hits.end());
  EXPECT_GT(*least, kTrials / kSize - 180);
  EXPECT_LT(*most, kTrials / kSize + 180);
}

// Frozen: a saved position means the same blocks in every later version.
TEST(BlockPermutation, ItsOrderIsPartOfTheFormat) {
  const BlockPermutation permutation(10, 42);
  std::vector<std::uint64_t> order;
  for (std::uint64_t i = 0; i < 10; ++i) order.push_back(permutation(i));
  EXPECT_EQ(order, (std::vector<std::uint64_t>{4, 6, 1, 3, 0, 9, 5, 8, 7, 2}));
}

TEST(TokenLoader, EveryEpochHandsOutEachTokenOnceButForTheCarriedTail) {
  // 23 tokens, blocks of 4: 5 blocks and a tail of 3 that opens the next epoch.
  TokenLoader loader(counting_stream(23), options_of(1, 4));
  EXPECT_EQ(loader.blocks_per_epoch(), 5u);
  std::vector<int> seen(23);
  for (int epoch = 0; epoch < 23; ++epoch) {
    std::set<std::int64_t> starts;
    for (int i = 0; i < 5; ++i) {
      const LoaderIds block = next_batch(loader);
      starts.insert(block[0]);
      for (std::size_t t = 0; t < block.size(); ++t) {
        ++seen[static_cast<std::size_t>(block[t])];
        EXPECT_EQ(block[t], (block[0] + static_cast<std::int64_t>(t)) % 23);
      }
    }
    std::set<std::int64_t> expected;
    for (int i = 0; i < 5; ++i) expected.insert((epoch * 20 + i * 4) % 23);
    EXPECT_EQ(starts, expected);
  }
  EXPECT_EQ(seen, std::vector<int>(23, 20));  // after 23 epochs of 20 tokens the ring has been gone round 20 times
}

TEST(TokenLoader, WithoutShufflingBlocksFollowTheStream) {
  LoaderOptions options = options_of(2, 4);
  options.shuffle = false;
  TokenLoader loader(counting_stream(16), options);
  EXPECT_EQ(next_batch(loader), (LoaderIds{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(next_batch(loader), (LoaderIds{8, 9, 10, 11, 12, 13, 14, 15}));
  EXPECT_EQ(next_batch(loader), (LoaderIds{0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST(TokenLoader, OrderDependsOnSeedAndEpochOnly) {
  const auto order = [](std::uint64_t seed, int epochs) {
    LoaderOptions options = options_of(1, 2);
    options.seed = seed;
    TokenLoader loader(counting_stream(200), options);
    LoaderIds ids;
    for (int i = 0; i < epochs * 100; ++i) ids.push_back(next_batch(loader)[0]);
    return ids;
  };
  EXPECT_EQ(order(1, 1), order(1, 1));
  EXPECT_NE(order(1, 1), order(2, 1));
  const LoaderIds two = order(1, 2);
  EXPECT_FALSE(std::equal(two.begin(), two.begin() + 100, two.begin() + 100));
  EXPECT_FALSE(std::is_sorted(two.begin(), two.begin() + 100));
}

TEST(TokenLoader, RanksShareEachGlobalBatch) {
  const auto stream = counting_stream(1000);
  TokenLoader whole(stream, options_of(6, 8));
  std::vector<TokenLoader> parts;
  for (int rank = 0; rank < 3; ++rank) {
    LoaderOptions options = options_of(2, 8);
    options.rank = rank;
    options.ranks = 3;
    parts.emplace_back(stream, options);
  }
  for (int step = 0; step < 50; ++step) {
    LoaderIds joined;
    for (TokenLoader& part : parts) {
      const LoaderIds ids = next_batch(part);
      joined.insert(joined.end(), ids.begin(), ids.end());
    }
    EXPECT_EQ(joined, next_batch(whole));
    EXPECT_EQ(parts[1].position(), whole.position());
  }
}

TEST(TokenLoader, ARestoredLoaderGoesOnExactly) {
  const auto stream = counting_stream(101);
  TokenLoader loader(stream, options_of(3, 5));
  for (int step = 0; step < 40; ++step) {  // 20 blocks an epoch: batches cross its end
    const nlohmann::json saved = loader.position();
    TokenLoader other(stream, options_of(3, 5));
    other.restore(nlohmann::json::parse(saved.dump()).get<LoaderPosition>());
    TokenLoader again(stream, options_of(3, 5));
    again.restore(loader.position());
    const LoaderIds expected = next_batch(loader);
    EXPECT_EQ(next_batch(other), expected);
    EXPECT_EQ(next_batch(again), expected);
    EXPECT_EQ(other.position(), loader.position());
  }
  EXPECT_EQ(loader.position().epoch, 6u);
  EXPECT_EQ(loader.position().block, 0u);
  EXPECT_EQ(loader.tokens_done(), 600u);
}

TEST(TokenLoader, RefusesAPositionOfAnotherSequence) {
  const LoaderPosition position = TokenLoader(counting_stream(101), options_of(3, 5)).position();
  EXPECT_THROW(TokenLoader(counting_stream(102), options_of(3, 5)).restore(position), DataError);
  EXPECT_THROW(TokenLoader(counting_stream(101), options_of(3, 6)).restore(position), DataError);
  TokenLoader loader(counting_stream(101), options_of(3, 5));
  for (const auto& [epoch, block] : {std::pair<std::uint64_t, std::uint64_t>{0, 20}, {~std::uint64_t{0}, 0}}) {
    LoaderPosition damaged = position;
    damaged.epoch = epoch;
    damaged.block = block;
    EXPECT_THROW(loader.restore(damaged), DataError);
  }
  LoaderPosition other_seed = position;
  ++other_seed.seed;
  EXPECT_THROW(loader.restore(other_seed), DataError);
}

TEST(TokenLoader, NeverExceedsTheBudget) {
  LoaderOptions options = options_of(2, 10);
  options.max_tokens = 99;
  TokenLoader loader(counting_stream(45), options);
  for (int step = 0; step < 4; ++step) next_batch(loader);
  LoaderIds ids(20, -7);
  EXPECT_FALSE(loader.next(ids));
  EXPECT_EQ(ids, LoaderIds(20, -7));
  EXPECT_EQ(loader.tokens_done(), 80u);
}

TEST(TokenLoader, RefusesAStreamShorterThanOneBatch) {
  EXPECT_NO_THROW(TokenLoader(counting_stream(40), options_of(4, 10)));
  try {
    TokenLoader(counting_stream(39), options_of(4, 10));
    FAIL() << "no exception";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("39 tokens"), std::string::npos);
  }
  LoaderOptions options = options_of(1, 10);
  options.ranks = 5;
  EXPECT_THROW(TokenLoader(counting_stream(40), options), DataError);
  EXPECT_THROW(TokenLoader(counting_stream(40), options_of(std::int64_t{1} << 62, std::int64_t{1} << 62)), DataError);
}

TEST(TokenLoader, RefusesOptionsOutOfRange) {
  EXPECT_THROW(TokenLoader(counting_stream(40), options_of(0, 10)), ConfigError);
  EXPECT_THROW(TokenLoader(counting_stream(40), options_of(1, 1)), ConfigError);
  LoaderOptions options = options_of(1, 10);
  options.rank = options.ranks = 2;
  EXPECT_THROW(TokenLoader(counting_stream(40), options), ConfigError);
  TokenLoader loader(counting_stream(40), options_of(1, 10));
  LoaderIds wrong(9);
  EXPECT_THROW(loader.next(wrong), std::invalid_argument);
}

// Tokens first, first + 1, ...: a block shows which stream it comes from.
WeightedStream weighted_stream(int first, int size, double weight) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(size));
  std::iota(ids.begin(), ids.end(), first);
  return {std::make_shared<TokenBuffer>(std::move(ids)), weight};
}

std::vector<WeightedStream> three_streams() {
  return {weighted_stream(0, 900, 3.0), weighted_stream(1000, 700, 1.5), weighted_stream(2000, 500, 0.5)};
}

TEST(TokenLoaderMixture, EveryPrefixHasTheSharesOfTheWeights) {
  TokenLoader loader(three_streams(), options_of(1, 2));
  std::vector<double> counts(3);
  for (int n = 1; n <= 5000; ++n) {  // across groups of the order and epochs of the streams
    ++counts[static_cast<std::size_t>(next_batch(loader)[0] / 1000)];
    for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(counts[i], n * (std::vector<double>{0.6, 0.3, 0.1})[i], 2.0) << n;
  }
}

TEST(TokenLoaderMixture, EachStreamIsReadInItsOwnOrderWithoutRepetition) {
  TokenLoader loader(three_streams(), options_of(1, 2));
  EXPECT_EQ(loader.blocks_per_epoch(), 750u);  // 450 blocks of the first stream at a share of 0.6
  std::set<std::int64_t> starts;
  for (int n = 0; n < 750; ++n) EXPECT_TRUE(starts.insert(next_batch(loader)[0]).second);
  EXPECT_EQ(std::count_if(starts.begin(), starts.end(), [](std::int64_t id) { return id < 1000; }), 450);
  // Two streams of the same length have orders of their own.
  TokenLoader twins({weighted_stream(0, 400, 1.0), weighted_stream(1000, 400, 1.0)}, options_of(2, 2));
  int equal = 0;
  for (int n = 0; n < 200; ++n) {
    const LoaderIds ids = next_batch(twins);
    equal += ids[0] % 1000 == ids[2] % 1000;
  }
  EXPECT_LT(equal, 10);
}

TEST(TokenLoaderMixture, RanksAndResumptionSeeOneSequence) {
  TokenLoader whole(three_streams(), options_of(6, 8));
  std::vector<TokenLoader> parts;
  for (int rank = 0; rank < 3; ++rank) {
    LoaderOptions options = options_of(2, 8);
    options.rank = rank;
    options.ranks = 3;
    parts.emplace_back(three_streams(), options);
  }
  for (int step = 0; step < 300; ++step) {
    LoaderIds joined;
    for (TokenLoader& part : parts) {
      const nlohmann::json saved = part.position();
      part = TokenLoader(three_streams(), part.options());
      part.restore(saved.get<LoaderPosition>());
      const LoaderIds ids = next_batch(part);
      joined.insert(joined.end(), ids.begin(), ids.end());
    }
    EXPECT_EQ(joined, next_batch(whole));
  }
}

TEST(TokenLoaderMixture, RefusesWhatIsNoMixture) {
  using Streams = std::vector<WeightedStream>;
  EXPECT_THROW(TokenLoader(Streams{}, options_of(1, 2)), ConfigError);
  EXPECT_THROW(TokenLoader(Streams{weighted_stream(0, 100, 1.0), weighted_stream(0, 100, 0.0)}, options_of(1, 2)), ConfigError);
  EXPECT_THROW(TokenLoader(Streams{weighted_stream(0, 100, 1.0), weighted_stream(0, 100, 0.0005)}, options_of(1, 2)), ConfigError);
  EXPECT_THROW(TokenLoader(Streams{weighted_stream(0, 100, 1.0), weighted_stream(0, 1, 1.0)}, options_of(1, 2)), DataError);
  TokenLoader loader(three_streams(), options_of(1, 2));
  LoaderPosition position = loader.position();
  std::vector<WeightedStream> others = three_streams();
  others[0].weight = 2.0;
  EXPECT_THROW(TokenLoader(others, options_of(1, 2)).restore(position), DataError);
}

TEST(TokenLoader, FillsInt32AsWell) {
  TokenLoader loader(counting_stream(40), options_of(2, 10));
  TokenLoader twin(counting_stream(40), options_of(2, 10));
  std::vector<std::int32_t> ids(20);
  ASSERT_TRUE(loader.next(ids));
  EXPECT_EQ(LoaderIds(ids.begin(), ids.end()), next_batch(twin));
}

}  // namespace
}  // namespace stableqat
