// The CUDA kernels on a GPU against the CPU kernels. Skipped where there is none.
#include <gtest/gtest.h>

#include <cmath>

#include "../support/kernel_test.h"
#include "kernels/cuda/fp8_rows.h"
#include "kernels/cuda/team.h"
#include "stableqat/kernels/cuda.h"
#include "stableqat/kernels/ref/fake_quantize.h"
#include "stableqat/kernels/rms_norm.h"
#include "stableqat/kernels/swiglu.h"
#include "stableqat/quant/quantizer_spec.h"

namespace stableqat::kernels::cuda {
namespace {

using stableqat::testing::kUnit;
using stableqat::testing::normal_values;

void check(Status status) {
  if (status != nullptr) FAIL() << status;
}

// An array on the device, filled from and read into host memory.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
    void* memory = nullptr;
    check(kernels().allocate(bytes(), &memory));
    data_ = static_cast<T*>(memory);
    check(kernels().copy(nullptr, data_, values.data(), bytes()));
  }
  explicit DeviceArray(std::size_t size) : DeviceArray(std::vector<T>(size)) {}
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { kernels().release(data_); }

  T* data() const { return data_; }
  std::vector<T> host() const {
    std::vector<T> values(size_);
    check(kernels().copy(nullptr, values.data(), data_, bytes()));
    check(kernels().synchronize(nullptr));
    return values;
  }

 private:
  static const CudaKernels& kernels() { return *cuda_backend().kernels; }
  std::size_t bytes() const { return size_ * sizeof(T); }

  std::size_t size_;
  T* data_ = nullptr;
};

class CudaKernelsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_backend().kernels == nullptr) GTEST_SKIP() << cuda_backend().reason;
  }
  static const CudaKernels& kernels() { return *cuda_backend().kernels; }
};

double norm(const std::vector<float>& values) {
  double squares = 0.0;
  for (const float value : values) squares += double{value} * value;
  return std::sqrt(squares);
}

void expect_near(const std::vector<float>& found, const std::vector<float>& expected, double bound) {
  double squares = 0.0;
  for (std::size_t i = 0; i < found.size(); ++i) squares += (double{found[i]} - expected[i]) * (double{found[i]} - expected[i]);
  EXPECT_LE(std::sqrt(squares), bound);
}

// Two fp32 computations of the same sums of `terms` values in different orders.
double tolerance(std::int64_t terms) { return 4 * (static_cast<double>(terms) + 8) * kUnit; }

// Rows that a warp takes, rows that a block takes, and lengths that no team divides.
constexpr std::int64_t kColumnCounts[] = {1, 31, 64, 100, 512, 513, 4096, 5000};

QuantRule rule_of(QuantizerKind kind, int bits, double amplitude) {
  QuantizerSpec spec;
  spec.kind = kind;
  spec.bits = bits;
  if (amplitude > 0) spec.surrogate = Surrogate::from_amplitudes({amplitude});
  return spec.rule();
}

std::vector<QuantRule> rules() {
  return {rule_of(QuantizerKind::kLsq, 3, 0.2), rule_of(QuantizerKind::kLsq, 4, 0.0), rule_of(QuantizerKind::kLsq, 1, 0.1),
          rule_of(QuantizerKind::kSeq, 2, 0.2), rule_of(QuantizerKind::kDsq, 4, 0.0)};
}

TEST_F(CudaKernelsTest, UpdateEqualsTheCpuBitForBit) {
  constexpr std::int64_t kRows = 37;
  for (const std::int64_t columns : kColumnCounts) {
    for (const QuantRule& rule : rules()) {
      const std::int64_t count = kRows * columns;
      std::vector<float> weight = normal_values(count, 1);
      std::vector<float> gradient = normal_values(count, 2);
      std::vector<float> first = normal_values(count, 3, 0.1F);
      std::vector<float> second(weight.size(), 0.01F);
      const std::vector<float> old_scale(kRows, 0.9F);
      const std::vector<float> new_scale(kRows, 0.8F);
      std::vector<std::int8_t> codes(weight.size(), 1);
      std::vector<float> dequantized(weight.size());
      const AdamWRule adamw{.gradient_factor = 0.7, .decay_factor = 0.99, .root_correction2 = 0.1, .step_size = 0.05};

      const DeviceArray<float> d_weight(weight), d_gradient(gradient), d_first(first), d_second(second), d_old(old_scale), d_new(new_scale),
          d_dequantized(weight.size()), d_scale_gradient(kRows);
      const DeviceArray<std::int8_t> d_codes(codes);
      const DeviceArray<double> d_squares(kRows), d_alpha(kRows);
      const DeviceArray<unsigned long long> d_counts(2);
      const QuantizedArrays<float> device{kRows, columns, d_weight.data(), d_gradient.data(), d_old.data(), 0.4F};
      check(kernels().surrogate_sums(nullptr, rule, device, 0.3, d_squares.data(), d_scale_gradient.data(), d_alpha.data()));
      check(kernels().update_quantized(nullptr, rule, adamw, nullptr, device,
                                       {d_first.data(), d_second.data(), d_new.data(), d_codes.data(), nullptr},
                                       {ElementType::kFloat, d_dequantized.data()}, d_counts.data()));

      const QuantizedArrays<float> host{kRows, columns, weight.data(), gradient.data(), old_scale.data(), 0.4F};
      std::vector<float> scale_gradient(kRows);
      const SurrogateSums sums = surrogate_sums<float>(rule, host, 0.3, scale_gradient.data());
      double squares = 0.0;
      for (const double value : d_squares.host()) squares += value;
      EXPECT_NEAR(squares, sums.squares, tolerance(16) * sums.squares);
      expect_near(d_scale_gradient.host(), scale_gradient, tolerance(columns) * 0.3 * norm(gradient) * std::sqrt(double(columns)));
      const QuantizeCounts counts = update_kernels<float>().update_quantized(
          rule, adamw, host, {first.data(), second.data(), new_scale.data(), codes.data(), dequantized.data()});
      EXPECT_EQ(d_weight.host(), weight);
      EXPECT_EQ(d_gradient.host(), gradient);
      EXPECT_EQ(d_first.host(), first);
      EXPECT_EQ(d_second.host(), second);
      EXPECT_EQ(d_codes.host(), codes);
      EXPECT_EQ(d_dequantized.host(), dequantized);
      EXPECT_EQ(d_counts.host()[0], static_cast<unsigned long long>(counts.changed));
      EXPECT_EQ(d_counts.host()[1], static_cast<unsigned long long>(counts.clipped));
    }
  }
}

TEST_F(CudaKernelsTest, RmsNormIsThatOfTheCpu) {
  constexpr std::int64_t kRows = 700;  // more than the workspace has
  for (const std::int64_t columns : kColumnCounts) {
    const std::int64_t count = kRows * columns;
    const std::vector<float> x = normal_values(count, 1), delta = normal_values(count, 2), w = normal_values(columns, 3),
                             dy = normal_values(count, 4), residual = normal_values(count, 5);
    std::vector<float> sum(x.size()), y(x.size()), inverse(kRows), dx(x.size()), dw(w.size()),
        workspace(static_cast<std::size_t>(kernels::kRmsNormBlocks * columns));
    rms_norm_kernels().forward(kRows, columns, x.data(), delta.data(), w.data(), 1e-5F, sum.data(), y.data(), inverse.data());
    rms_norm_kernels().backward(kRows, columns, sum.data(), w.data(), inverse.data(), dy.data(), residual.data(), dx.data(), dw.data(),
                                workspace.data());
    const DeviceArray<float> d_x(x), d_delta(delta), d_w(w), d_dy(dy), d_residual(residual), d_sum(x.size()), d_y(x.size()),
        d_inverse(kRows), d_dx(x.size()), d_dw(w.size()), d_workspace(static_cast<std::size_t>(kRmsNormBlocks * columns));
    check(kernels().rms_norm_forward(nullptr, ElementType::kFloat, kRows, columns, d_x.data(), d_delta.data(), d_w.data(), 1e-5F,
                                     d_sum.data(), d_y.data(), d_inverse.data()));
    check(kernels().rms_norm_backward(nullptr, ElementType::kFloat, kRows, columns, d_sum.data(), d_w.data(), d_inverse.data(), d_dy.data(),
                                      d_residual.data(), d_dx.data(), d_dw.data(), d_workspace.data()));
    EXPECT_EQ(d_sum.host(), sum);
    expect_near(d_y.host(), y, tolerance(columns) * norm(y));
    expect_near(d_dx.host(), dx, tolerance(columns) * (norm(dy) * norm(w) + norm(residual)));
    expect_near(d_dw.host(), dw, tolerance(columns + kRows) * norm(dy) * norm(y));
  }
}

TEST_F(CudaKernelsTest, SwigluIsThatOfTheCpu) {
  constexpr std::int64_t kCount = 100001;
  const std::vector<float> gate = normal_values(kCount, 1, 4.0F), up = normal_values(kCount, 2), dy = normal_values(kCount, 3);
  std::vector<float> y(kCount), dgate(kCount), dup(kCount);
  swiglu_kernels().forward(kCount, gate.data(), up.data(), y.data());
  swiglu_kernels().backward(kCount, gate.data(), up.data(), dy.data(), dgate.data(), dup.data());
  const DeviceArray<float> d_gate(gate), d_up(up), d_dy(dy), d_y(kCount), d_dgate(kCount), d_dup(kCount);
  check(kernels().swiglu_forward(nullptr, ElementType::kFloat, kCount, d_gate.data(), d_up.data(), d_y.data()));
  check(kernels().swiglu_backward(nullptr, ElementType::kFloat, kCount, d_gate.data(), d_up.data(), d_dy.data(), d_dgate.data(),
                                  d_dup.data()));
  expect_near(d_y.host(), y, tolerance(16) * norm(y));
  expect_near(d_dgate.host(), dgate, tolerance(16) * norm(dgate));
  expect_near(d_dup.host(), dup, tolerance(16) * norm(dup));
}

TEST_F(CudaKernelsTest, RopeIsThatOfTheCpu) {
  const RopeShape shape{2, 33, 9, 64};
  constexpr std::int64_t kCount = 2 * 33 * 9 * 64;
  const HeadStrides strides{33 * 9 * 64, 9 * 64, 64};
  std::vector<float> cos, sin;
  for (const float angle : normal_values(33 * 32, 1)) {
    cos.push_back(std::cos(angle));
    sin.push_back(std::sin(angle));
  }
  const std::vector<float> x = normal_values(kCount, 2);
  std::vector<float> y(kCount);
  rope_kernels().backward(shape, cos.data(), sin.data(), {x.data(), strides}, {y.data(), strides});
  const DeviceArray<float> d_x(x), d_y(kCount), d_cos(cos), d_sin(sin);
  check(kernels().rope(nullptr, ElementType::kFloat, shape, -1.0F, d_cos.data(), d_sin.data(), d_x.data(), strides, d_y.data(), strides));
  expect_near(d_y.host(), y, tolerance(2) * norm(x));
}

TEST_F(CudaKernelsTest, Float8RowsAndStepsAreThoseOfTheirDefinitions) {
  constexpr std::int64_t kRows = 5;
  for (const std::int64_t columns : kColumnCounts) {
    const std::vector<float> x = normal_values(kRows * columns, 1), factor = normal_values(columns, 2);
    const DeviceArray<float> d_x(x), d_factor(factor), d_scale(kRows);
    const DeviceArray<std::uint8_t> d_codes(x.size());
    for (const float* const factors : {static_cast<const float*>(nullptr), static_cast<const float*>(d_factor.data())}) {
      check(
          kernels().round_rows_to_e4m3(nullptr, ElementType::kFloat, kRows, columns, d_x.data(), factors, d_codes.data(), d_scale.data()));
      std::vector<std::uint8_t> codes(x.size());
      std::vector<float> scale(kRows);
      for (std::int64_t row = 0; row < kRows; ++row) {
        round_row_to_e4m3(TeamOfOne(), columns, x.data() + row * columns, factors != nullptr ? factor.data() : nullptr,
                          codes.data() + row * columns, scale.data() + row);
      }
      EXPECT_EQ(d_codes.host(), codes);
      EXPECT_EQ(d_scale.host(), scale);
    }
  }
  for (QuantRule rule : rules()) {
    for (const bool half_scales : {false, true}) {
      rule.half_scales = half_scales;
      const std::vector<float> scale{0.1F, 1e-7F, 3.3F};
      const DeviceArray<float> d_scale(scale), d_steps(scale.size());
      std::vector<float> steps(scale.size());
      resolve_scales<float>(rule, 3, scale.data(), steps.data(), nullptr);
      check(kernels().steps(nullptr, rule, 3, d_scale.data(), d_steps.data()));
      EXPECT_EQ(d_steps.host(), steps);
    }
  }
}

TEST_F(CudaKernelsTest, LossesAreThoseOfTheCpu) {
  constexpr std::int64_t kRows = 5;
  constexpr std::int64_t kColumns = 49152;
  const std::vector<float> logits = normal_values(kRows * kColumns, 1, 3.0F), teacher = normal_values(kRows * kColumns, 2, 3.0F);
  const std::vector<std::int64_t> targets{0, 17, 49151, 500, 1};
  const DistillationTerms terms{0.7F, 2.0F};
  std::vector<float> gradient = logits, distilled = logits;
  std::vector<double> losses(kRows), divergences(kRows);
  cross_entropy_kernels().gradient_in_place(kRows, kColumns, targets.data(), 0.5F, gradient.data(), losses.data());
  cross_entropy_kernels().distilled_gradient_in_place(kRows, kColumns, targets.data(), terms, 0.5F, teacher.data(), distilled.data(),
                                                      losses.data(), divergences.data());
  const DeviceArray<float> d_gradient(logits), d_distilled(logits), d_teacher(teacher), d_log_probs(kRows);
  const DeviceArray<std::int64_t> d_targets(targets);
  const DeviceArray<double> d_losses(kRows), d_divergences(kRows);
  check(kernels().log_probs(nullptr, ElementType::kFloat, kRows, kColumns, d_gradient.data(), d_targets.data(), d_log_probs.data()));
  const std::vector<float> log_probs = d_log_probs.host();
  check(kernels().distilled(nullptr, ElementType::kFloat, kRows, kColumns, d_targets.data(), terms, 0.5F, d_teacher.data(),
                            d_distilled.data(), d_losses.data(), d_divergences.data()));
  const std::vector<double> distilled_losses = d_losses.host();
  check(kernels().cross_entropy(nullptr, ElementType::kFloat, kRows, kColumns, d_targets.data(), 0.5F, d_gradient.data(), d_losses.data()));
  for (std::size_t row = 0; row < kRows; ++row) {
    const double bound = tolerance(kColumns) * (1.0 + losses[row]);
    EXPECT_NEAR(-log_probs[row], losses[row], bound);
    EXPECT_NEAR(d_losses.host()[row], losses[row], bound);
    EXPECT_NEAR(distilled_losses[row], losses[row], bound);
    EXPECT_NEAR(d_divergences.host()[row], divergences[row], 4 * bound);
  }
  expect_near(d_gradient.host(), gradient, tolerance(kColumns) * norm(gradient));
  expect_near(d_distilled.host(), distilled, tolerance(kColumns) * norm(distilled));
}

}  // namespace
}  // namespace stableqat::kernels::cuda
