// The reference kernels against independent ways to the same numbers: the autograd path, row-by-row calls, c10's fp16.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Half.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "quant_settings.h"
#include "quantizer_cases.h"
#include "stableqat/kernels/quant_math.h"
#include "stableqat/kernels/ref/fake_quantize.h"
#include "stableqat/quant/fake_quantize.h"
#include "stableqat/quant/quantized_weight.h"
#include "stableqat/quant/scale_init.h"

namespace stableqat {
namespace {

using golden::draw;

using testing::all_quant_settings;
using testing::QuantSetting;

std::string describe(const QuantSetting& setting, at::IntArrayRef shape) {
  return testing::describe(setting) + ", " + std::to_string(shape[0]) + " x " + std::to_string(shape[1]);
}

struct Pass {
  at::Tensor output, weight, scale, alpha;
};

Pass by_quantized_weight(const at::Tensor& w, const at::Tensor& s, const at::Tensor& gradient, const QuantizerSpec& spec) {
  QuantizedWeight weight(w.clone(), spec, s);
  weight.quantize();
  const at::Tensor output = weight.dequantized().detach().clone();
  weight.dequantized().mutable_grad() = gradient.clone();
  auto gradients = weight.map_gradient();
  return {output, gradients.master, gradients.scale, gradients.alpha};
}

Pass by_autograd(const at::Tensor& w, const at::Tensor& s, const at::Tensor& gradient, const QuantizerSpec& spec) {
  const at::Tensor weight = w.clone().set_requires_grad(true);
  const at::Tensor scale = s.clone().set_requires_grad(true);
  at::Tensor alpha;
  if (spec.kind == QuantizerKind::kDsq) {
    alpha = (w.flatten().narrow(0, 0, 1) * 0 + QuantizedWeight::kInitialAlpha).detach().set_requires_grad(true);
  }
  const at::Tensor output = fake_quantize_autograd(weight, scale, spec, alpha);
  output.backward(gradient);
  return {output.detach(), weight.grad(), scale.grad(), alpha.defined() ? alpha.grad() : at::Tensor()};
}

double epsilon_of(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
}

double worst(const at::Tensor& a, const at::Tensor& b) { return a.numel() == 0 ? 0.0 : (a - b).abs().max().item<double>(); }

// Forward: the same bits. Weight gradient: |g'(S)| <= 2 and DSQ's tanh turn a few roundings of the argument into a few of the slope. Sums:
// one rounding of the sum of magnitudes per term at most.
void expect_same(const Pass& found, const Pass& expected, const at::Tensor& w, const at::Tensor& gradient, const QuantizerSpec& spec,
                 const std::string& what) {
  const double eps = epsilon_of(w);
  EXPECT_EQ(worst(found.output, expected.output), 0.0) << what;
  const double largest = gradient.abs().max().item<double>();
  EXPECT_LE(worst(found.weight, expected.weight), 16 * eps * largest * std::max(1.0, expected.weight.abs().max().item<double>())) << what;
  const double count = static_cast<double>(w.size(1));
  const double reach = 2.0 * std::max(1, -q_min(spec.bits));  // |x_q| + |x| or |x| slope at most
  const double term = spec.scale_gradient_factor(w.numel()) * largest * reach;
  EXPECT_LE(worst(found.scale, expected.scale), (count + 16) * eps * term * count) << what;
  ASSERT_EQ(found.alpha.defined(), expected.alpha.defined()) << what;
  if (found.alpha.defined()) {
    const double numel = static_cast<double>(w.numel());
    EXPECT_LE(worst(found.alpha, expected.alpha), 64 * eps * numel * largest * w.abs().max().item<double>()) << what;
  }
}

TEST(Kernels, AgreeWithAutogradForEverySettingTypeAndRemainder) {
  for (const QuantSetting& setting : all_quant_settings()) {
    for (const std::int64_t columns : {1, 7, 16, 31, 33, 100, 130}) {
      for (const auto type : {at::kFloat, at::kDouble}) {
        for (const bool fp16 : {false, true}) {
          const QuantizerSpec spec{.kind = setting.kind, .bits = setting.bits, .surrogate = setting.surrogate, .fp16_scales = fp16};
          const at::Tensor w = (draw(3, 5, columns) * 0.1).to(type);
          const at::Tensor gradient = draw(4, 5, columns).to(type);
          const at::Tensor scale = initial_scale(w, spec) * 0.7;  // some weights clip
          expect_same(by_quantized_weight(w, scale, gradient, spec), by_autograd(w, scale, gradient, spec), w, gradient, spec,
                      describe(setting, w.sizes()));
        }
      }
    }
  }
}

TEST(Kernels, GroupsAreRowsOfTheReshapedWeight) {
  for (const QuantSetting& setting : all_quant_settings()) {
    for (const std::int64_t size : {32, 64, 128}) {
      QuantizerSpec grouped{.kind = setting.kind, .bits = setting.bits, .surrogate = setting.surrogate, .group_size = size};
      QuantizerSpec rows = grouped;
      rows.group_size = 0;
      const at::Tensor w = (draw(5, 3, 384) * 0.1).to(at::kFloat);
      const at::Tensor gradient = draw(6, 3, 384).to(at::kFloat);
      const at::Tensor scale = initial_scale(w, grouped) * 0.7;
      const Pass found = by_quantized_weight(w, scale, gradient, grouped);
      const Pass expected = by_quantized_weight(w.reshape({-1, size}), scale.reshape({-1, 1}), gradient.reshape({-1, size}), rows);
      EXPECT_EQ(worst(found.output, expected.output.reshape(w.sizes())), 0.0);
      EXPECT_EQ(worst(found.weight, expected.weight.reshape(w.sizes())), 0.0);
      EXPECT_EQ(worst(found.scale, expected.scale.reshape(scale.sizes())), 0.0);
      expect_same(found, by_autograd(w, scale, gradient, grouped), w, gradient, grouped, describe(setting, w.sizes()));
    }
  }
}

TEST(Kernels, GiveTheSameBitsForAnyNumberOfThreads) {
  const int threads = omp_get_max_threads();
  for (const QuantSetting& setting : all_quant_settings()) {
    if (setting.bits > 1 && setting.bits != 3) continue;  // other widths differ in constants only
    const QuantizerSpec spec{
        .kind = setting.kind, .bits = setting.bits, .surrogate = setting.surrogate, .group_size = 32, .scale_init = ScaleInit::kMse};
    const at::Tensor w = (draw(7, 347, 96) * 0.1).to(at::kFloat);
    const at::Tensor gradient = draw(8, 347, 96).to(at::kFloat);
    std::optional<Pass> first;
    for (const int count : {1, 2, 3}) {
      omp_set_num_threads(count);
      const Pass pass = by_quantized_weight(w, initial_scale(w, spec), gradient, spec);
      if (!first) first = pass;
      EXPECT_TRUE(pass.output.equal(first->output) && pass.weight.equal(first->weight) && pass.scale.equal(first->scale)) << count;
      if (pass.alpha.defined()) {
        EXPECT_TRUE(pass.alpha.equal(first->alpha)) << count;
      }
    }
  }
  omp_set_num_threads(threads);
}

TEST(Kernels, RoundTiesToEvenAndIncludeTheEdgesInTheMask) {
  const QuantizerSpec spec{.bits = 3, .fp16_scales = false};
  // x:                           ties ..................................  edges of the mask and just outside
  const std::vector<float> x = {-3.5F, -2.5F, -1.5F, -0.5F, 0.5F, 1.5F, 2.5F, -4.0F, 3.0F, -4.0001F, 3.0001F};
  const std::vector<std::int8_t> expected = {-4, -2, -2, 0, 0, 2, 2, -4, 3, -4, 3};
  const std::vector<float> mask = {1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0};
  const auto count = static_cast<std::int64_t>(x.size());
  const float scale = 1;
  std::vector<std::int8_t> codes(x.size());
  std::vector<float> values(x.size());
  const auto counts = kernels::fake_quantize_ref(spec.rule(), 1, count, x.data(), &scale, codes.data(), values.data());
  EXPECT_EQ(codes, expected);
  EXPECT_EQ(counts.clipped, 2);
  EXPECT_EQ(counts.changed, 9);  // all but the two zeros
  const std::vector<float> ones(x.size(), 1.0F);
  std::vector<float> gradient(x.size());
  float scale_gradient = 0;
  kernels::surrogate_backward_ref<float>(spec.rule(), 1, count, x.data(), &scale, 0, 1.0, ones.data(), gradient.data(), &scale_gradient,
                                         nullptr);
  EXPECT_EQ(gradient, mask);
}

TEST(Kernels, SignTakesZeroAsPositive) {
  const std::vector<float> x = {-0.25F, -0.0F, 0.0F, 0.25F};
  const float scale = 0.5;
  std::vector<std::int8_t> codes(4);
  std::vector<float> values(4);
  kernels::fake_quantize_ref(QuantizerSpec{.bits = 1}.rule(), 1, 4, x.data(), &scale, codes.data(), values.data());
  EXPECT_EQ(codes, (std::vector<std::int8_t>{-1, 1, 1, 1}));
}

TEST(Kernels, ClampTheScaleAndSurviveAnyInput) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> w = {0.0F, 1e30F, -1e30F, inf, -inf, std::nanf(""), 5e-6F, 1e-6F};
  for (const float scale : {0.0F, -1.0F, 1e-9F, 1e-5F}) {
    std::vector<std::int8_t> codes(w.size());
    std::vector<float> values(w.size());
    kernels::fake_quantize_ref(QuantizerSpec{.bits = 4, .fp16_scales = false}.rule(), 1, 8, w.data(), &scale, codes.data(), values.data());
    EXPECT_EQ(codes, (std::vector<std::int8_t>{0, 7, -8, 7, -8, -8, 0, 0})) << scale;
    EXPECT_FLOAT_EQ(values[1], 7e-5F) << scale;
  }
}

TEST(Kernels, RoundToTheHalfGridAsHardwareDoes) {
  for (std::uint32_t bits = 1; bits < 0x7c00; bits += 3) {
    const auto low = static_cast<float>(c10::Half(static_cast<std::uint16_t>(bits), c10::Half::from_bits()));
    const auto high = static_cast<float>(c10::Half(static_cast<std::uint16_t>(bits + 1), c10::Half::from_bits()));
    for (const float part : {0.0F, 0.25F, 0.5F, 0.50001F, 0.75F}) {
      if (bits + 1 == 0x7c00 && part > 0) continue;  // above the largest: ours stays there
      const float value = low + (high - low) * part;
      ASSERT_EQ(kernels::round_to_half(value), static_cast<float>(c10::Half(value))) << value;
      ASSERT_EQ(kernels::round_to_half(static_cast<double>(value)), static_cast<double>(c10::Half(value))) << value;
    }
  }
  EXPECT_EQ(kernels::round_to_half(1e9F), 65504.0F);
}

}  // namespace
}  // namespace stableqat
