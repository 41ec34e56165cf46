#include "stableqat/models/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "stableqat/base/error.h"

namespace stableqat {
namespace {

const std::vector<float> kLogits{1.0f, 3.0f, 2.0f, 3.0f, -1.0f};

std::set<std::int32_t> drawn(const SamplingOptions& options, int draws = 2000) {
  Sampler sampler(options);
  std::set<std::int32_t> ids;
  for (int i = 0; i < draws; ++i) ids.insert(sampler.choose(kLogits, {}));
  return ids;
}

TEST(Sampler, GreedyTakesTheFirstOfTheLargest) {
  Sampler sampler({});
  EXPECT_EQ(sampler.choose(kLogits, {}), 1);
  EXPECT_EQ(sampler.choose(std::vector<float>{-INFINITY, -2.0f}, {}), 1);
}

TEST(Sampler, FrequenciesAreTheSoftmax) {
  Sampler sampler({.temperature = 2});
  constexpr int kDraws = 40000;
  std::vector<int> counts(kLogits.size());
  for (int i = 0; i < kDraws; ++i) ++counts[static_cast<std::size_t>(sampler.choose(kLogits, {}))];
  double sum = 0;
  for (const float logit : kLogits) sum += std::exp(static_cast<double>(logit) / 2);
  for (std::size_t id = 0; id < counts.size(); ++id) {
    const double p = std::exp(static_cast<double>(kLogits[id]) / 2) / sum;
    EXPECT_NEAR(counts[id], kDraws * p, 5 * std::sqrt(kDraws * p * (1 - p))) << id;  // five standard deviations
  }
}

// Probabilities at temperature 1: 1 and 3 have 0.396 each, 2 has 0.146, 0 has 0.054, 4 has 0.007.
TEST(Sampler, FiltersLeaveTheMostLikely) {
  using Ids = std::set<std::int32_t>;
  EXPECT_EQ(drawn({.temperature = 1}), (Ids{0, 1, 2, 3, 4}));
  EXPECT_EQ(drawn({.temperature = 1, .top_k = 3}), (Ids{1, 2, 3}));
  EXPECT_EQ(drawn({.temperature = 1, .top_k = 1}), (Ids{1}));
  EXPECT_EQ(drawn({.temperature = 1, .top_p = 0.79}), (Ids{1, 3}));
  EXPECT_EQ(drawn({.temperature = 1, .top_p = 0.80}), (Ids{1, 2, 3}));
  EXPECT_EQ(drawn({.temperature = 1, .top_p = 1e-9}), (Ids{1}));
  EXPECT_EQ(drawn({.temperature = 1, .min_p = 0.3}), (Ids{1, 2, 3}));      // e^-1 = 0.37 of the most likely
  EXPECT_EQ(drawn({.temperature = 1, .min_p = 0.13}), (Ids{0, 1, 2, 3}));  // e^-2 = 0.135
  EXPECT_EQ(drawn({.temperature = 1, .top_k = 2, .min_p = 0.13}), (Ids{1, 3}));
}

TEST(Sampler, RepeatedTokensArePenalizedOnce) {
  Sampler sampler({.repetition_penalty = 2});
  EXPECT_EQ(sampler.choose(kLogits, std::vector<std::int32_t>{1}), 3);
  EXPECT_EQ(sampler.choose(kLogits, std::vector<std::int32_t>{1, 3, 3, 3}), 2);
  EXPECT_EQ(sampler.choose(std::vector<float>{-1.0f, -1.5f}, std::vector<std::int32_t>{0}), 1);  // -2 against -1.5
}

TEST(Sampler, SameSeedSameTokens) {
  const auto draw = [](std::uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 32; ++i) ids.push_back(sampler.choose(kLogits, {}));
    return ids;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(Sampler, BadOptionsAndLogitsAreRefused) {
  for (const SamplingOptions& options : {SamplingOptions{.temperature = -1},
                                         {.top_k = -1},
                                         {.top_p = 0},
                                         {.top_p = 1.5},
                                         {.min_p = 2},
                                         {.repetition_penalty = 0},
                                         {.temperature = std::nan("")}}) {
    EXPECT_THROW(Sampler{options}, ConfigError);
  }
  Sampler sampler({});
  EXPECT_THROW(sampler.choose(std::vector<float>{-INFINITY}, {}), NumericError);
  EXPECT_THROW(sampler.choose({}, {}), ConfigError);
}

}  // namespace
}  // namespace stableqat
