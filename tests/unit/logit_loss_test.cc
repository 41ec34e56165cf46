// Losses over logits in fp32 against their plain definitions in float64.
#include "stableqat/models/logit_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/softmax.h>
#include <gtest/gtest.h>

#include <cmath>

namespace stableqat {
namespace {

constexpr double kRoundoff = 0x1p-24;
constexpr std::int64_t kLossRows = 37;
constexpr std::int64_t kColumns = 1500;
constexpr double kLargest = 9.0;  // of the logits' magnitudes
// Of a probability, relative: its exponent is rounded about three times, exp twice, and 1024 terms are summed in float.
constexpr double kError = (6 * kLargest + 1024 + 7) * kRoundoff;

at::Tensor some_logits(int seed) {
  at::Tensor values = at::empty({kLossRows, kColumns}, at::kFloat);
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    values.data_ptr<float>()[i] = static_cast<float>(kLargest * std::sin(static_cast<double>(i * (2 * seed + 1)) * 0.618 + seed));
  }
  return values;
}

at::Tensor some_targets() {
  at::Tensor targets = at::empty({kLossRows}, at::kLong);
  for (std::int64_t i = 0; i < kLossRows; ++i) targets.data_ptr<std::int64_t>()[i] = i * 911 % kColumns;
  return targets;
}

void expect_near_norm(const at::Tensor& found, const at::Tensor& exact, double bound) {
  EXPECT_EQ(found.scalar_type(), at::kFloat);
  EXPECT_LE((found.to(at::kDouble) - exact).abs().max().item<double>(), bound);
}

TEST(LogitLossTest, CrossEntropyAndLogProbs) {
  const at::Tensor targets = some_targets();
  at::Tensor found = some_logits(1);
  at::Tensor exact = found.to(at::kDouble);
  expect_near_norm(target_log_probs(found, targets), target_log_probs_ref(exact, targets), kError + 2 * kLargest * 2 * kRoundoff);
  const double largest = at::softmax(exact, 1).max().item<double>();
  const double loss = cross_entropy_in_place_ref(exact, targets, 0.25).item<double>();
  EXPECT_NEAR(cross_entropy_in_place(found, targets, 0.25).item<double>(), loss, static_cast<double>(kLossRows) * kError);
  expect_near_norm(found, exact, 0.25 * (kError * largest + kRoundoff));
}

TEST(LogitLossTest, DistilledLoss) {
  const at::Tensor targets = some_targets();
  const at::Tensor teacher = some_logits(2);
  at::Tensor found = some_logits(1);
  at::Tensor exact = found.to(at::kDouble);
  const double largest = at::maximum(at::softmax(exact, 1).max(), at::softmax(teacher.to(at::kDouble) / 2.0, 1).max()).item<double>();
  const DistilledLoss expected = distilled_loss_in_place_ref(exact, targets, teacher.to(at::kDouble), 0.4, 2.0, 0.25);
  const DistilledLoss result = distilled_loss_in_place(found, targets, teacher, 0.4, 2.0, 0.25);
  EXPECT_NEAR(result.cross_entropy.item<double>(), expected.cross_entropy.item<double>(), static_cast<double>(kLossRows) * kError);
  // A logarithm of the two probabilities' ratio is at most 2 * kLargest here.
  EXPECT_NEAR(result.divergence.item<double>(), expected.divergence.item<double>(),
              static_cast<double>(kLossRows) * 4.0 * (2 * kError + 2 * kLargest * 2 * kError));
  // Three probabilities, the softened ones below those at temperature 1, with factors 0.6, 0.4 * 2 and 0.4 * 2.
  expect_near_norm(found, exact, 0.25 * (2.2 * largest * kError + 4 * kRoundoff));
  EXPECT_GT(expected.divergence.item<double>(), 1.0);
}

}  // namespace
}  // namespace stableqat
