// The row algorithms of the CUDA kernels, run on the CPU by a team of one, against the CPU kernels. What is left to a GPU is the dealing of
// rows to blocks and the sums over a team.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "../support/kernel_test.h"
#include "kernels/cuda/cross_entropy_rows.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/rms_norm_rows.h"
#include "kernels/cuda/team.h"
#include "kernels/cuda/update_rows.h"
#include "stableqat/kernels/rms_norm.h"
#include "stableqat/kernels/swiglu.h"
#include "stableqat/kernels/update.h"
#include "stableqat/quant/quantizer_spec.h"

namespace stableqat::kernels::cuda {
namespace {

using stableqat::testing::kUnit;
using stableqat::testing::normal_values;

constexpr TeamOfOne kTeam;

double norm(const std::vector<float>& values) {
  double squares = 0.0;
  for (const float value : values) squares += double{value} * value;
  return std::sqrt(squares);
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double squares = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) squares += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return std::sqrt(squares);
}

// Two fp32 computations of the same sums of `terms` values in different orders.
double tolerance(std::int64_t terms) { return 4 * (static_cast<double>(terms) + 8) * kUnit; }

std::vector<BFloat16> in_bfloat16(const std::vector<float>& values) {
  std::vector<BFloat16> result;
  for (const float value : values) result.push_back(from_float<BFloat16>(value));
  return result;
}

TEST(CudaRows, RmsNormIsThatOfTheCpu) {
  constexpr std::int64_t kRows = 5;
  constexpr std::int64_t kColumns = 77;
  const std::vector<float> x = normal_values(kRows * kColumns, 1);
  const std::vector<float> delta = normal_values(kRows * kColumns, 2);
  const std::vector<float> w = normal_values(kColumns, 3);
  const std::vector<float> dy = normal_values(kRows * kColumns, 4);
  const std::vector<float> residual = normal_values(kRows * kColumns, 5);
  std::vector<float> sum(x.size()), y(x.size()), inverse(kRows), dx(x.size()), dw(kColumns);
  std::vector<float> expected_sum(x.size()), expected_y(x.size()), expected_inverse(kRows), expected_dx(x.size()), expected_dw(kColumns);
  std::vector<float> workspace(static_cast<std::size_t>(kernels::kRmsNormBlocks * kColumns));
  const RmsNormKernels& cpu = rms_norm_kernels();
  cpu.forward(kRows, kColumns, x.data(), delta.data(), w.data(), 1e-5F, expected_sum.data(), expected_y.data(), expected_inverse.data());
  cpu.backward(kRows, kColumns, expected_sum.data(), w.data(), expected_inverse.data(), dy.data(), residual.data(), expected_dx.data(),
               expected_dw.data(), workspace.data());
  for (std::int64_t row = 0; row < kRows; ++row) {
    const std::int64_t at = row * kColumns;
    rms_norm_forward_row(kTeam, kColumns, &x[at], &delta[at], w.data(), 1e-5F, &sum[at], &y[at], &inverse[row]);
    rms_norm_backward_row(kTeam, kColumns, &sum[at], w.data(), inverse[row], &dy[at], &residual[at], &dx[at], dw.data());
  }
  EXPECT_EQ(sum, expected_sum);
  EXPECT_LE(distance(y, expected_y), tolerance(kColumns) * norm(expected_y));
  EXPECT_LE(distance(dx, expected_dx), tolerance(kColumns) * (norm(dy) * norm(w) + norm(residual)));
  EXPECT_LE(distance(dw, expected_dw), tolerance(kColumns + kRows) * norm(dy) * norm(y));
}

TEST(CudaRows, RmsNormInBfloat16RoundsOnceWhereItStores) {
  constexpr std::int64_t kColumns = 128;
  const std::vector<float> w = normal_values(kColumns, 1);
  const std::vector<BFloat16> x = in_bfloat16(normal_values(kColumns, 2));
  std::vector<float> wide, y_wide(kColumns);
  for (const BFloat16 value : x) wide.push_back(to_float(value));
  std::vector<BFloat16> y(kColumns);
  float inverse = 0.0F;
  float inverse_wide = 0.0F;
  rms_norm_forward_row<TeamOfOne, BFloat16>(kTeam, kColumns, x.data(), nullptr, w.data(), 1e-5F, nullptr, y.data(), &inverse);
  rms_norm_forward_row<TeamOfOne, float>(kTeam, kColumns, wide.data(), nullptr, w.data(), 1e-5F, nullptr, y_wide.data(), &inverse_wide);
  EXPECT_EQ(inverse, inverse_wide);
  for (std::size_t j = 0; j < y.size(); ++j) EXPECT_EQ(y[j].bits, from_float<BFloat16>(y_wide[j]).bits);
}

TEST(CudaRows, SwigluIsThatOfTheCpu) {
  constexpr std::int64_t kCount = 1000;
  const std::vector<float> gate = normal_values(kCount, 1, 4.0F);
  const std::vector<float> up = normal_values(kCount, 2);
  const std::vector<float> dy = normal_values(kCount, 3);
  std::vector<float> y(kCount), dgate(kCount), dup(kCount), expected_y(kCount), expected_dgate(kCount), expected_dup(kCount);
  swiglu_kernels().forward(kCount, gate.data(), up.data(), expected_y.data());
  swiglu_kernels().backward(kCount, gate.data(), up.data(), dy.data(), expected_dgate.data(), expected_dup.data());
  for (std::size_t i = 0; i < y.size(); ++i) {
    y[i] = swiglu_forward(gate[i], up[i]);
    const SwigluGradients<float> gradients = swiglu_backward(gate[i], up[i], dy[i]);
    dgate[i] = gradients.gate;
    dup[i] = gradients.up;
  }
  EXPECT_LE(distance(y, expected_y), tolerance(16) * norm(expected_y));
  EXPECT_LE(distance(dgate, expected_dgate), tolerance(16) * norm(expected_dgate));
  EXPECT_LE(distance(dup, expected_dup), tolerance(16) * norm(expected_dup));
}

TEST(CudaRows, RopeIsThatOfTheCpuAndTurnsBack) {
  const RopeShape shape{2, 3, 4, 10};
  constexpr std::int64_t kCount = 2 * 3 * 4 * 10;
  const HeadStrides strides{3 * 4 * 10, 4 * 10, 10};
  const std::vector<float> angles = normal_values(3 * 5, 1);
  std::vector<float> cos, sin;
  for (const float angle : angles) {
    cos.push_back(std::cos(angle));
    sin.push_back(std::sin(angle));
  }
  const std::vector<float> x = normal_values(kCount, 2);
  std::vector<float> y(kCount), expected(kCount);
  rope_kernels().forward(shape, cos.data(), sin.data(), {x.data(), strides}, {expected.data(), strides});
  for (std::int64_t i = 0; i < kCount / 2; ++i) rope_pair(shape, i, 1.0F, cos.data(), sin.data(), x.data(), strides, y.data(), strides);
  EXPECT_LE(distance(y, expected), tolerance(2) * norm(x));
  for (std::int64_t i = 0; i < kCount / 2; ++i) rope_pair(shape, i, -1.0F, cos.data(), sin.data(), y.data(), strides, y.data(), strides);
  EXPECT_LE(distance(y, x), tolerance(4) * norm(x));
}

TEST(CudaRows, LossesAreThoseOfTheCpu) {
  constexpr std::int64_t kRows = 4;
  constexpr std::int64_t kColumns = 1000;
  const std::vector<float> logits = normal_values(kRows * kColumns, 1, 3.0F);
  const std::vector<float> teacher = normal_values(kRows * kColumns, 2, 3.0F);
  const std::vector<std::int64_t> targets{0, 17, 999, 500};
  const DistillationTerms terms{0.7F, 2.0F};
  const CrossEntropyKernels& cpu = cross_entropy_kernels();
  std::vector<float> expected = logits, expected_distilled = logits, found = logits, distilled = logits;
  std::vector<double> expected_losses(kRows), losses(kRows), expected_divergences(kRows), divergences(kRows), distilled_losses(kRows);
  std::vector<float> expected_log_probs(kRows), log_probs(kRows);
  cpu.log_probs(kRows, kColumns, logits.data(), targets.data(), expected_log_probs.data());
  cpu.gradient_in_place(kRows, kColumns, targets.data(), 0.5F, expected.data(), expected_losses.data());
  cpu.distilled_gradient_in_place(kRows, kColumns, targets.data(), terms, 0.5F, teacher.data(), expected_distilled.data(),
                                  expected_losses.data(), expected_divergences.data());
  for (std::size_t row = 0; row < kRows; ++row) {
    const std::size_t at = row * kColumns;
    log_prob_of_row(kTeam, kColumns, &logits[at], targets[row], &log_probs[row]);
    cross_entropy_row(kTeam, kColumns, targets[row], 0.5F, &found[at], &losses[row]);
    distilled_row(kTeam, kColumns, targets[row], terms, 0.5F, &teacher[at], &distilled[at], &distilled_losses[row], &divergences[row]);
    const double bound = tolerance(kColumns) * (1.0 + std::abs(expected_losses[row]));
    EXPECT_NEAR(log_probs[row], expected_log_probs[row], bound);
    EXPECT_NEAR(losses[row], expected_losses[row], bound);
    EXPECT_NEAR(distilled_losses[row], expected_losses[row], bound);
    EXPECT_NEAR(divergences[row], expected_divergences[row], bound * 4);
  }
  EXPECT_LE(distance(found, expected), tolerance(kColumns) * norm(expected));
  EXPECT_LE(distance(distilled, expected_distilled), tolerance(kColumns) * norm(expected_distilled));
}

struct UpdateCase {
  const char* name;
  QuantizerKind kind;
  int bits;
  double surrogate;  // amplitude
};

class CudaUpdateRows : public ::testing::TestWithParam<UpdateCase> {
 protected:
  static constexpr std::int64_t kRows = 6;
  static constexpr std::int64_t kColumns = 100;

  static QuantRule rule() {
    QuantizerSpec spec;
    spec.kind = GetParam().kind;
    spec.bits = GetParam().bits;
    if (GetParam().surrogate > 0) spec.surrogate = Surrogate::from_amplitudes({GetParam().surrogate});
    return spec.rule();
  }

  struct State {
    std::vector<float> weight = normal_values(kRows * kColumns, 1);
    std::vector<float> gradient = normal_values(kRows * kColumns, 2);
    std::vector<float> first = normal_values(kRows * kColumns, 3, 0.1F);
    std::vector<float> second = std::vector<float>(kRows * kColumns, 0.01F);
    std::vector<float> old_scale = std::vector<float>(kRows, 0.9F);
    std::vector<float> new_scale = std::vector<float>(kRows, 0.8F);
    std::vector<std::int8_t> codes = std::vector<std::int8_t>(kRows * kColumns, 1);
    std::vector<float> dequantized = std::vector<float>(kRows * kColumns);

    QuantizedArrays<float> arrays() { return {kRows, kColumns, weight.data(), gradient.data(), old_scale.data(), 0.4F}; }
    UpdateOutputs<float> outputs() { return {first.data(), second.data(), new_scale.data(), codes.data(), dequantized.data()}; }
  };
};

TEST_P(CudaUpdateRows, AreTheCpuKernelsBitForBit) {
  const QuantRule rule = this->rule();
  const AdamWRule adamw{.gradient_factor = 0.7, .decay_factor = 0.99, .root_correction2 = 0.1, .step_size = 0.05};
  State cpu;
  State rows;
  const QuantizeCounts expected = update_kernels<float>().update_quantized(rule, adamw, cpu.arrays(), cpu.outputs());
  QuantizeCounts counts;
  with_surrogate(rule, 0.4F, [&](auto surrogate) {
    for (std::size_t row = 0; row < kRows; ++row) {
      const std::size_t at = row * kColumns;
      const MovedRow moved{&rows.weight[at], &rows.gradient[at], &rows.first[at], &rows.second[at]};
      counts += update_row(kTeam, surrogate, AdamWElement<float>(adamw), kColumns, moved, rows.old_scale[row], rows.new_scale[row],
                           QuantizedRow<float>{&rows.codes[at], &rows.dequantized[at]});
    }
  });
  EXPECT_EQ(counts.changed, expected.changed);
  EXPECT_EQ(counts.clipped, expected.clipped);
  EXPECT_EQ(rows.weight, cpu.weight);
  EXPECT_EQ(rows.gradient, cpu.gradient);
  EXPECT_EQ(rows.first, cpu.first);
  EXPECT_EQ(rows.second, cpu.second);
  EXPECT_EQ(rows.codes, cpu.codes);
  EXPECT_EQ(rows.dequantized, cpu.dequantized);
}

TEST_P(CudaUpdateRows, QuantizeAsTheCpuKernels) {
  const QuantRule rule = this->rule();
  State cpu;
  State rows;
  const QuantizeCounts expected = update_kernels<float>().quantize(rule, kRows, kColumns, cpu.weight.data(), cpu.new_scale.data(),
                                                                   cpu.codes.data(), cpu.dequantized.data());
  QuantizeCounts counts;
  with_rounding(rule, [&]<Rounding kRounding>() {
    const QuantElement<float, kRounding> element(rule);
    for (std::size_t row = 0; row < kRows; ++row) {
      const std::size_t at = row * kColumns;
      counts += quantize_row(kTeam, element, kColumns, &rows.weight[at], rows.new_scale[row],
                             QuantizedRow<float>{&rows.codes[at], &rows.dequantized[at]});
    }
  });
  EXPECT_EQ(counts.changed, expected.changed);
  EXPECT_EQ(counts.clipped, expected.clipped);
  EXPECT_EQ(rows.codes, cpu.codes);
  EXPECT_EQ(rows.dequantized, cpu.dequantized);
}

TEST_P(CudaUpdateRows, SumAsTheCpuKernels) {
  const QuantRule rule = this->rule();
  State state;
  std::vector<float> expected_scale(kRows);
  const SurrogateSums expected = surrogate_sums<float>(rule, state.arrays(), 0.3, expected_scale.data());
  double squares = 0.0;
  double alpha = 0.0;
  with_surrogate(rule, 0.4F, [&](auto surrogate) {
    for (std::size_t row = 0; row < kRows; ++row) {
      const std::size_t at = row * kColumns;
      const RowSums sums = surrogate_sums_of_row(kTeam, surrogate, kColumns, &state.weight[at], &state.gradient[at], state.old_scale[row]);
      squares += sums.squares;
      alpha += sums.alpha;
      EXPECT_NEAR(0.3 * sums.scale, expected_scale[row], tolerance(16) * 0.3 * kColumns);
    }
  });
  EXPECT_NEAR(squares, expected.squares, tolerance(16) * expected.squares);
  EXPECT_NEAR(alpha, expected.alpha, tolerance(16) * kRows * kColumns);
}

INSTANTIATE_TEST_SUITE_P(Quantizers, CudaUpdateRows,
                         ::testing::Values(UpdateCase{"stableqat_3", QuantizerKind::kLsq, 3, 0.2},
                                           UpdateCase{"ste_4", QuantizerKind::kLsq, 4, 0.0},
                                           UpdateCase{"sign", QuantizerKind::kLsq, 1, 0.1},
                                           UpdateCase{"seq_2", QuantizerKind::kSeq, 2, 0.2},
                                           UpdateCase{"dsq_4", QuantizerKind::kDsq, 4, 0.0}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace stableqat::kernels::cuda
