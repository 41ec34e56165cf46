// Linear layers against ATen's products in float64. Bounds are those of the roundings that each kind of product makes.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>

#include "stableqat/base/error.h"
#include "stableqat/kernels/gemm.h"
#include "stableqat/models/linear.h"
#include "stableqat/models/packed_matrix.h"

namespace stableqat {
namespace {

constexpr double kFloatEps = std::numeric_limits<float>::epsilon() / 2;
constexpr double kBf16Eps = 1.0 / 256;  // half a step of 8 significant bits
// Of a row's largest value, when it is rounded to so many int8 digits.
constexpr double digit_eps(int digits) { return 0.5 / (digits == 1 ? 127 : 32767); }
constexpr std::int64_t kRows = 90, kIn = 70, kOut = 45;

struct Case {
  explicit Case(int digits = 2) : a(quantized(kOut, digits)), b(quantized(kOut + 3, digits)) {}

  at::Tensor x = at::randn({2, kRows / 2, kIn}).requires_grad_();
  Linear a, b, plain = dense(kOut);

  static Linear dense(std::int64_t rows) {
    Linear layer;
    layer.weight = at::randn({rows, kIn}).requires_grad_();
    return layer;
  }
  static Linear quantized(std::int64_t rows, int digits) {
    Linear layer = dense(rows);
    layer.codes = at::randint(-8, 8, {rows, kIn}, at::kChar);
    layer.step = at::randn({rows, 1}).abs() + 0.1;
    layer.weight = (layer.codes * layer.step).detach().requires_grad_();
    layer.digits = digits;
    return layer;
  }
};

at::Tensor wide(const at::Tensor& t) { return t.detach().reshape({-1, t.size(-1)}).to(at::kDouble); }
at::Tensor row_bound(const at::Tensor& t, int digits) { return std::get<0>(t.abs().max(1, true)) * digit_eps(digits); }

void expect_within(const at::Tensor& found, const at::Tensor& expected, const at::Tensor& bound) {
  const at::Tensor excess = (wide(found) - expected).abs() - bound;
  EXPECT_LE(excess.max().item<double>(), 0.0);
}

TEST(Linear, PlainProductsAndGradients) {
  Case c;
  const at::Tensor y = linear(c.x, c.plain);
  const at::Tensor dy = at::randn(y.sizes());
  y.backward(dy);
  const at::Tensor x = wide(c.x), w = wide(c.plain.weight), g = wide(dy);
  expect_within(y, at::mm(x, w.t()), at::mm(x.abs(), w.abs().t()) * (kIn * kFloatEps));
  expect_within(c.x.grad(), at::mm(g, w), at::mm(g.abs(), w.abs()) * (kOut * kFloatEps));
  expect_within(c.plain.weight.grad(), at::mm(g.t(), x), at::mm(g.abs().t(), x.abs()) * (kRows * kFloatEps));
}

// What the fastest arithmetic for gradients may change in each element of an operand whose rows are summed over: with 12 bits half a step,
// and another half that is carried over.
at::Tensor gradient_rounding(const at::Tensor& values) {
  switch (kernels::gemm_kernels().fast_gradients) {
    case kernels::GradientArithmetic::kBf16:
      return values.abs() * (1.01 * kBf16Eps);
    case kernels::GradientArithmetic::kInt12:
      return (values.abs().amax(0, true) * (1.01 / 2047)).expand_as(values);
    case kernels::GradientArithmetic::kFp32:
      break;
  }
  return at::zeros_like(values);
}

// Layers with one input, integer and plain ones mixed: outputs, the sum of input gradients, and weight gradients accumulated twice.
void expect_integer_products(int digits) {
  Case c(digits);
  const auto run = [&] { return linear(c.x, {&c.a, &c.plain, &c.b}); };
  std::vector<at::Tensor> y = run();
  std::vector<at::Tensor> dy;
  for (const at::Tensor& out : y) dy.push_back(at::randn(out.sizes()));
  for (int pass = 0; pass < 2; ++pass) {
    c.x.mutable_grad() = at::Tensor();
    y = run();
    (y[0] * dy[0]).sum().backward({}, true);
    (y[1] * dy[1]).sum().backward({}, true);
    (y[2] * dy[2]).sum().backward();
  }
  const at::Tensor x = wide(c.x);
  const at::Tensor x_bound = row_bound(x, digits);
  const at::Tensor rough_x = x.abs() * (4 * kFloatEps) + x_bound;  // what rounding may change in each element
  const Linear* layers[] = {&c.a, &c.plain, &c.b};
  at::Tensor dx = at::zeros_like(x);
  at::Tensor dx_bound = at::zeros_like(x);
  for (int i = 0; i < 3; ++i) {
    const bool integer = layers[i]->codes.defined();
    const at::Tensor w = wide(layers[i]->weight), g = wide(dy[static_cast<std::size_t>(i)]);
    const double sum_eps = 2 * (kRows + kIn + kOut) * kFloatEps;
    const at::Tensor input = integer ? rough_x : at::zeros_like(x);
    const at::Tensor two_digits = at::mm(x.abs() * (4 * kFloatEps) + row_bound(x, 2), w.abs().t()) + at::mm(x.abs(), w.abs().t()) * sum_eps;
    const at::Tensor excess = (wide(y[static_cast<std::size_t>(i)]) - at::mm(x, w.t())).abs() - two_digits;
    EXPECT_EQ(excess.max().item<double>() > 0.0, integer && digits == 1);
    expect_within(y[static_cast<std::size_t>(i)], at::mm(x, w.t()), at::mm(input, w.abs().t()) + at::mm(x.abs(), w.abs().t()) * sum_eps);
    const at::Tensor none = at::zeros_like(x);
    const at::Tensor x_change = input + (integer ? gradient_rounding(x.abs() + input) : none);
    const at::Tensor g_change = integer ? gradient_rounding(g) : at::zeros_like(g);
    const at::Tensor weight_bound =
        at::mm(g.abs().t(), x_change) + at::mm(g_change.t(), x.abs() + x_change) + at::mm(g.abs().t(), x.abs()) * sum_eps;
    expect_within(layers[i]->weight.grad(), at::mm(g.t(), x) * 2, weight_bound * 2);
    dx += at::mm(g, w);
    const at::Tensor scaled = integer ? row_bound(g * wide(layers[i]->step.t()), digits).expand_as(g) : at::zeros_like(g);
    const at::Tensor factors = integer ? wide(layers[i]->codes.to(at::kFloat)).abs() : w.abs();
    dx_bound += at::mm(scaled, factors) + at::mm(g.abs(), w.abs()) * sum_eps;
  }
  expect_within(c.x.grad(), dx, dx_bound);
}

TEST(Linear, IntegerProductsAndGradients) {
  for (const int digits : {1, 2}) expect_integer_products(digits);
}

// The leaf of a layer that is multiplied by its codes needs no values: results are those of its dequantized weight.
TEST(Linear, CodesEqualTheDequantizedWeight) {
  const Case c;
  Linear from_codes = Case::quantized(kOut, 0);
  Linear dequantized = from_codes;
  dequantized.codes = at::Tensor();
  from_codes.weight = at::full_like(from_codes.weight, std::numeric_limits<float>::quiet_NaN()).requires_grad_();
  const at::Tensor dy = at::randn({2, kRows / 2, kOut});
  at::Tensor results[2][2];
  for (int i = 0; i < 2; ++i) {
    const at::Tensor x = c.x.detach().clone().requires_grad_();
    const at::Tensor y = linear(x, i == 0 ? from_codes : dequantized);
    y.backward(dy);
    results[i][0] = y.detach();
    results[i][1] = x.grad();
  }
  EXPECT_TRUE(results[0][0].equal(results[1][0]));
  EXPECT_TRUE(results[0][1].equal(results[1][1]));
  EXPECT_TRUE(from_codes.weight.grad().equal(dequantized.weight.grad()));
}

// A packed weight: exact but for the rounding of x to 15 bits.
void expect_packed_product(const PackedMatrix& packed, const at::Tensor& w) {
  const at::Tensor x = at::randn({5, w.size(1)});
  const at::Tensor bound = std::get<0>(wide(x).abs().max(1, true)) * (0.5 / 16256) + wide(x).abs() * (w.size(1) * kFloatEps);
  expect_within(packed.product(DigitActivations(x)), at::mm(wide(x), wide(w).t()), at::mm(bound, wide(w).abs().t()));
}

TEST(PackedMatrix, HoldsCodesInAsFewBitsAsTheyNeed) {
  struct Codes {
    int first, count, step, bits;
  };
  for (const Codes c :
       {Codes{-1, 2, 2, 2}, Codes{-1, 3, 1, 2}, Codes{-3, 4, 2, 2}, Codes{-4, 8, 1, 3}, Codes{-8, 16, 1, 4}, Codes{-128, 256, 1, 8}}) {
    const at::Tensor codes = (at::randint(c.count, {kOut, 96}) * c.step + c.first).to(at::kChar);
    for (const std::int64_t groups : {1, 3}) {
      const at::Tensor step = at::randn({kOut, groups});
      const PackedMatrix packed = PackedMatrix::from_codes(codes, step);
      EXPECT_EQ(packed.bits(), c.bits);
      expect_packed_product(packed, (codes.view({kOut, groups, -1}) * step.unsqueeze(2)).view({kOut, 96}));
    }
  }
  EXPECT_THROW(PackedMatrix::from_codes(at::randint(2, {3, 96}, at::kChar), at::randn({3, 2})), ConfigError);
}

TEST(PackedMatrix, FindsAnEightBitGrid) {
  at::Tensor codes = at::randint(-127, 128, {kOut, 3, 32}, at::kFloat);
  codes.select(2, 5).fill_(127);  // as in a file: the largest value of 32 sets the step
  codes[1][1].zero_();
  const at::Tensor values = (codes * at::randn({kOut, 3, 1}).abs().to(at::kHalf).to(at::kFloat)).view({kOut, 96});
  const auto packed = PackedMatrix::from_values(values);
  ASSERT_TRUE(packed);
  expect_packed_product(*packed, values);
  EXPECT_EQ(packed->bits(), 8);
  EXPECT_FALSE(PackedMatrix::from_values(at::randn({kOut, 96})));
  EXPECT_FALSE(PackedMatrix::from_values(values.narrow(1, 0, 90)));
}

// As GGUF files hold them: codes of 2, 3 and 4 bits with a half-precision step for a row or a block, of either sign.
TEST(PackedMatrix, FindsTheGridOfDequantizedCodes) {
  struct Codes {
    int first, count, bits;
  };
  for (const Codes c : {Codes{-1, 3, 2}, Codes{-2, 4, 2}, Codes{-4, 8, 3}, Codes{-8, 16, 4}}) {
    for (const std::int64_t groups : {1, 2, 4}) {
      const at::Tensor codes = (at::randint(c.count, {kOut, 128}) + c.first).to(at::kFloat);
      const at::Tensor step = at::randn({kOut, groups}).to(at::kHalf).to(at::kFloat);
      const at::Tensor values = (codes.view({kOut, groups, -1}) * step.unsqueeze(2)).view({kOut, 128});
      const auto packed = PackedMatrix::from_values(values);
      ASSERT_TRUE(packed);
      EXPECT_EQ(packed->bits(), c.bits);
      EXPECT_EQ(packed->view().group, 128 / groups);
      expect_packed_product(*packed, values);
    }
  }
}

TEST(Linear, PackedWeightsServeAFewRowsWithoutGradient) {
  const Case c;
  Linear layer = Case::quantized(kOut, 0);
  layer.packed = std::make_shared<PackedMatrix>(PackedMatrix::from_codes(layer.codes, layer.step));
  const at::Tensor x = at::randn({1, 2, kIn});
  const at::Tensor exact = linear(x, layer).detach();
  const at::NoGradGuard no_grad;
  const at::Tensor rounded = linear(x, layer);
  EXPECT_EQ(rounded.sizes(), exact.sizes());
  EXPECT_FALSE(rounded.equal(exact));
  const at::Tensor bound = at::mm(std::get<0>(wide(x).abs().max(1, true)).expand({2, kIn}) / 16256, wide(layer.weight).abs().t());
  expect_within(rounded, wide(exact), bound);
}

TEST(Linear, BiasAndNoGradient) {
  Case c;
  c.a.bias = at::randn({kOut});
  const at::Tensor y = linear(c.x.detach(), c.a);
  Linear unbiased = c.a;
  unbiased.bias = at::Tensor();
  const at::Tensor without = linear(c.x.detach(), unbiased);
  EXPECT_TRUE(y.equal(without + c.a.bias));
}

}  // namespace
}  // namespace stableqat
