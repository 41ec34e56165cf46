// Packed sequences, queries of the head and likelihoods of groups against each text computed alone.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "../support/tiny_model.h"
#include "stableqat/base/error.h"
#include "stableqat/eval/likelihood.h"
#include "stableqat/models/functional.h"
#include "stableqat/models/head.h"
#include "stableqat/models/model_source.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

using Ids = std::vector<std::int32_t>;

CausalLm tiny_model(at::ScalarType dtype) {
  const fs::path folder = fs::temp_directory_path() / ("stableqat_likelihood_test_" + std::to_string(::getpid()));
  testing::write_tiny_model(folder);
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

double log_likelihood_alone(const CausalLm& model, const tasks::ScoredTokens& request) {
  const at::NoGradGuard no_grad;
  const at::Tensor batch = as_batch(request.ids);
  const at::Tensor log_probs = token_log_probs(model, model.hidden_states(batch), batch);
  return log_probs.narrow(1, log_probs.size(1) - request.scored, request.scored).to(at::kDouble).sum().item<double>();
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
    groups.push_back(group);
  }
  const std::int64_t plenty = std::int64_t{1} << 40;
  const std::int64_t token = activation_bytes(model);
  const LikelihoodOptions cases[] = {{1, plenty}, {200, plenty}, {100000, plenty}, {100000, 200 * token}, {1024, 40 * token}, {1024, 1}};
  for (const LikelihoodOptions& options : cases) {
    std::size_t next = 0;
    std::uint64_t reported = 0;
    EXPECT_TRUE(score_likelihoods(
        model, groups, options,
        [&](std::size_t index, const std::vector<tasks::Likelihood>& likelihoods) {
          EXPECT_EQ(index, next++);
          ASSERT_EQ(likelihoods.size(), groups[index].requests.size());
          for (std::size_t r = 0; r < likelihoods.size(); ++r) {
            const double alone = log_likelihood_alone(model, groups[index].requests[r]);
            EXPECT_NEAR(likelihoods[r].log_likelihood, alone, 1e-11);
          }
        },
        [&](const Progress& progress) { reported = progress.total - progress.done; }));
    EXPECT_EQ(next, groups.size());
    EXPECT_EQ(reported, 0U);
  }
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
