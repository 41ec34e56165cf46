// Packed sequences, queries of the head and likelihoods of groups against each text computed alone.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <vector>

#include "../support/tiny_model.h"
#include "stableqat/base/error.h"
#include "stableqat/eval/agreement.h"
#include "stableqat/eval/likelihood.h"
#include "stableqat/eval/perplexity.h"
#include "stableqat/models/functional.h"
#include "stableqat/models/head.h"
#include "stableqat/models/model_source.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

using Ids = std::vector<std::int32_t>;

CausalLm tiny_model(at::ScalarType dtype, std::uint64_t seed = 1) {
  const fs::path folder = fs::temp_directory_path() / ("stableqat_likelihood_test_" + std::to_string(::getpid()));
  testing::write_tiny_model(folder, testing::tiny_config(), seed);
  CausalLm model(*ModelSource::open(folder), dtype);
  fs::remove_all(folder);
  return model;
}

Ids some_ids(std::size_t count, std::int32_t seed) {
  Ids ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = (seed * 31 + static_cast<std::int32_t>(i) * 37 + static_cast<std::int32_t>(i / 5)) % 257;
  return ids;
}

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

at::Tensor as_batch(const Ids& ids) {
  at::Tensor batch = at::empty({1, static_cast<std::int64_t>(ids.size())}, at::kLong);
  std::copy(ids.begin(), ids.end(), batch.data_ptr<std::int64_t>());
  return batch;
}

double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / at::linalg_vector_norm(b)).item<double>();
}

// Two orders of summation over at most a few hundred terms.
double tolerance(at::ScalarType dtype) { return dtype == at::kDouble ? 1e-13 : 1e-5; }

TEST(PackedBatch, HiddenStatesAreThoseOfEachSequenceAlone) {
  const at::NoGradGuard no_grad;
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    const CausalLm model = tiny_model(dtype);
    const Ids trunk = some_ids(70, 1);
    const Ids branch = some_ids(9, 2);
    const Ids other = some_ids(33, 3);
    PackedBatch batch;
    const std::int64_t trunk_row = batch.add(trunk);
    const std::int64_t branch_row = batch.add_branch(trunk_row, 41, branch);
    const std::int64_t other_row = batch.add(other);
    const std::int64_t last_row = batch.add_branch(trunk_row, 70, Ids{5});
    EXPECT_EQ(batch.add_branch(trunk_row, 70, Ids{}), batch.rows());
    EXPECT_EQ(batch.segments().size(), 4U);
    const at::Tensor hidden = model.hidden_states(batch);
    const auto expect_rows = [&](std::int64_t first, const Ids& ids, std::int64_t from) {
      const at::Tensor alone = model.hidden_states(as_batch(ids)).squeeze(0);
      const std::int64_t count = alone.size(0) - from;
      EXPECT_LT(relative_difference(hidden.narrow(0, first, count), alone.narrow(0, from, count)), tolerance(dtype));
    };
    expect_rows(trunk_row, trunk, 0);
    expect_rows(branch_row, joined(Ids(trunk.begin(), trunk.begin() + 41), branch), 41);
    expect_rows(other_row, other, 0);
    expect_rows(last_row, joined(trunk, {5}), 70);
  }
}

TEST(PackedBatch, AttentionKernelAgreesWithTheDefinition) {
  for (const std::size_t sequences : {std::size_t{1}, std::size_t{40}}) {  // threads share one segment, or segments
    PackedBatch batch;
    for (std::size_t i = 0; i < sequences; ++i) {
      const std::int64_t trunk = batch.add(some_ids(20 + 7 * (i % 5), 1));
      batch.add_branch(trunk, 11, some_ids(1 + i % 4, 2));
    }
    const at::Tensor q = at::randn({1, batch.rows(), 4, 16});
    const at::Tensor k = at::randn({1, batch.rows(), 2, 16});
    const at::Tensor v = at::randn({1, batch.rows(), 2, 16});
    EXPECT_LT(relative_difference(packed_attention(q, k, v, batch), packed_attention_ref(q, k, v, batch)), 1e-6);
  }
}

TEST(QueryTokens, GivesLogSoftmaxAndTheGreedyToken) {
  const at::NoGradGuard no_grad;
  const CausalLm model = tiny_model(at::kDouble);
  const at::Tensor hidden = model.hidden_states(as_batch(some_ids(600, 4))).squeeze(0);
  const at::Tensor expected = at::log_softmax(logits(model, hidden), 1);
  std::vector<TokenQuery> queries;
  for (std::int64_t i = 0; i < 1500; ++i) queries.push_back({(i * 7919) % 600, (i * 31) % 260});
  for (std::int64_t row : {0, 300, 599}) queries.push_back({row, expected[row].argmax().item<std::int64_t>()});
  const std::vector<TokenAnswer> answers = query_tokens(model, hidden, queries);
  for (std::size_t i = 0; i < queries.size(); ++i) {
    EXPECT_NEAR(answers[i].log_prob, expected[queries[i].row][queries[i].token].item<double>(), 1e-12);
    EXPECT_EQ(answers[i].is_greedy, expected[queries[i].row].argmax().item<std::int64_t>() == queries[i].token);
  }
}

// log p of the next token [T - 1, V] in float64, for each but the last of a text.
at::Tensor next_token_log_probs(const CausalLm& model, const Ids& ids) {
  const at::NoGradGuard no_grad;
  const at::Tensor hidden = model.hidden_states(as_batch(ids)).squeeze(0);
  return at::log_softmax(logits(model, hidden.narrow(0, 0, hidden.size(0) - 1)).to(at::kDouble), 1);
}

tasks::Likelihood likelihood_alone(const CausalLm& model, const tasks::ScoredTokens& request) {
  const at::Tensor log_probs = next_token_log_probs(model, request.ids);
  tasks::Likelihood sum{0.0, true};
  for (std::int64_t t = log_probs.size(0) - request.scored; t < log_probs.size(0); ++t) {
    const std::int32_t token = request.ids[static_cast<std::size_t>(t + 1)];
    sum.log_likelihood += log_probs[t][token].item<double>();
    sum.is_greedy = sum.is_greedy && log_probs[t].argmax().item<std::int64_t>() == token;
  }
  return sum;
}

// `count` more tokens, each the most likely one.
Ids greedy_continuation(const CausalLm& model, Ids ids, int count) {
  for (int i = 0; i < count; ++i) {
    const at::Tensor log_probs = next_token_log_probs(model, joined(ids, {0}));
    ids.push_back(static_cast<std::int32_t>(log_probs[log_probs.size(0) - 1].argmax().item<std::int64_t>()));
  }
  return ids;
}

TEST(ScoreLikelihoods, AgreesWithEachRequestAlone) {
  const CausalLm model = tiny_model(at::kDouble);
  std::vector<RequestGroup> groups;
  for (std::int32_t g = 0; g < 12; ++g) {
    const Ids context = some_ids(5 + 13 * static_cast<std::size_t>(g % 4), g);
    RequestGroup group;
    for (std::int32_t c = 0; c < 4; ++c) {
      const Ids choice = some_ids(1 + static_cast<std::size_t>((g + c) % 6), 50 + c);
      group.requests.push_back({joined(context, choice), static_cast<std::int64_t>(choice.size()), false});
    }
    group.requests.push_back({joined(context, {7}), 1, false});  // one token: no row of its own
    group.requests.push_back({some_ids(4, 90), 3, false});       // shares nothing
    const Ids greedy = greedy_continuation(model, context, 3);
    group.requests.push_back({greedy, 3, false});
    group.requests.push_back({joined(greedy, {9}), 4, false});  // not greedy at the end
    Ids early = greedy_continuation(model, joined(context, {11}), 2);
    group.requests.push_back({early, 3, false});  // nor at the beginning
    groups.push_back(group);
  }
  std::vector<std::vector<tasks::Likelihood>> expected;
  for (const RequestGroup& group : groups) {
    expected.emplace_back();
    for (const tasks::ScoredTokens& request : group.requests) expected.back().push_back(likelihood_alone(model, request));
  }
  const std::int64_t plenty = std::int64_t{1} << 40;
  const std::int64_t token = activation_bytes(model);
  const LikelihoodOptions cases[] = {{1, plenty}, {200, plenty}, {100000, plenty}, {100000, 200 * token}, {1024, 40 * token}, {1024, 1}};
  for (const LikelihoodOptions& options : cases) {
    std::size_t next = 0;
    std::uint64_t reported = 0;
    int greedy_seen = 0;
    EXPECT_TRUE(score_likelihoods(
        model, groups, options,
        [&](std::size_t index, const std::vector<tasks::Likelihood>& likelihoods) {
          EXPECT_EQ(index, next++);
          ASSERT_EQ(likelihoods.size(), groups[index].requests.size());
          for (std::size_t r = 0; r < likelihoods.size(); ++r) {
            const tasks::Likelihood& alone = expected[index][r];
            EXPECT_NEAR(likelihoods[r].log_likelihood, alone.log_likelihood, 1e-11);
            EXPECT_EQ(likelihoods[r].is_greedy, alone.is_greedy) << r;
            greedy_seen += alone.is_greedy ? 1 : 0;
          }
        },
        [&](const Progress& progress) { reported = progress.total - progress.done; }));
    EXPECT_EQ(next, groups.size());
    EXPECT_EQ(reported, 0U);
    EXPECT_GE(greedy_seen, 12);
  }
}

// Five blocks of 40 tokens, and one that is left out.
TEST(Perplexity, IntervalComesFromTheSpreadOfBlocks) {
  const CausalLm model = tiny_model(at::kDouble);
  const Ids ids = some_ids(230, 6);
  std::vector<double> blocks;
  for (std::size_t first = 0; first < 200; first += 40) {
    const Ids block(ids.begin() + static_cast<std::ptrdiff_t>(first), ids.begin() + static_cast<std::ptrdiff_t>(first + 40));
    blocks.push_back(-likelihood_alone(model, {block, 39, false}).log_likelihood / 39);
  }
  const double mean = std::accumulate(blocks.begin(), blocks.end(), 0.0) / 5;
  double squares = 0.0;
  for (const double block : blocks) squares += (block - mean) * (block - mean);
  const double error = std::sqrt(squares / 4 / 5);
  const PerplexityResult found = perplexity(model, ids, {40, 100});
  EXPECT_EQ(found.blocks, 5U);
  EXPECT_EQ(found.tokens, 5U * 39U);
  EXPECT_NEAR(found.nll, mean, 1e-12);
  EXPECT_NEAR(found.standard_error, error, 1e-12);
  EXPECT_NEAR(std::log(found.low), mean - 1.959963984540054 * error, 1e-12);
  EXPECT_NEAR(std::log(found.high), mean + 1.959963984540054 * error, 1e-12);
}

TEST(Agreement, IsTheDivergenceFromTheReferenceAtEveryPosition) {
  const CausalLm reference = tiny_model(at::kDouble);
  const CausalLm model = tiny_model(at::kDouble, 2);
  const Ids ids = some_ids(210, 7);
  std::vector<double> divergences;
  int same = 0;
  for (std::ptrdiff_t first = 0; first < 200; first += 50) {
    const Ids block(ids.begin() + first, ids.begin() + first + 50);
    const at::Tensor p = next_token_log_probs(reference, block);
    const at::Tensor q = next_token_log_probs(model, block);
    for (std::int64_t t = 0; t < 49; ++t) {
      divergences.push_back((p[t].exp() * (p[t] - q[t])).sum().item<double>());
      same += at::equal(p[t].argmax(), q[t].argmax()) ? 1 : 0;
    }
  }
  const AgreementResult found = agreement(model, reference, ids, {50, 100});
  ASSERT_EQ(found.positions, divergences.size());
  EXPECT_NEAR(found.mean_divergence, std::accumulate(divergences.begin(), divergences.end(), 0.0) / 196, 1e-12);
  std::sort(divergences.begin(), divergences.end());
  EXPECT_NEAR(found.median_divergence, divergences[97], 1e-12) << "98 of 196 are not larger";
  EXPECT_NEAR(found.divergence_99, divergences[194], 1e-12) << "195 of 196 are not larger: the first number to reach 99 %";
  EXPECT_DOUBLE_EQ(found.same_top, same / 196.0);
}

TEST(ScoreLikelihoods, StopsAndRefusesForeignIds) {
  const CausalLm model = tiny_model(at::kFloat);
  const std::vector<RequestGroup> groups{{{{{1, 2, 3}, 1, false}}}};
  const auto nothing = [](std::size_t, const std::vector<tasks::Likelihood>&) { FAIL(); };
  EXPECT_FALSE(score_likelihoods(model, groups, {}, nothing, {}, [] { return true; }));
  const std::vector<RequestGroup> foreign{{{{{1, 2, 260}, 1, false}}}};
  EXPECT_THROW(score_likelihoods(model, foreign, {}, nothing), DataError);
}

}  // namespace
}  // namespace stableqat
