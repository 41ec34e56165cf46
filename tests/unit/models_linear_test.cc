// Linear layers against ATen's products in float64. Bounds are those of the roundings that each kind of product makes.
#include <ATen/TensorOperators.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <limits>

#include "stableqat/kernels/gemm.h"
#include "stableqat/models/linear.h"

namespace stableqat {
namespace {

constexpr double kEps = std::numeric_limits<float>::epsilon() / 2;
constexpr double kBf16Eps = 1.0 / 256;     // half a step of 8 significant bits
constexpr double kDigitEps = 0.5 / 32767;  // of a row's largest value, when it is rounded to two int8 digits
constexpr std::int64_t kRows = 90, kIn = 70, kOut = 45;

struct Case {
  at::Tensor x = at::randn({2, kRows / 2, kIn}).requires_grad_();
  Linear a = quantized(kOut, true), b = quantized(kOut + 3, true), plain = dense(kOut);

  static Linear dense(std::int64_t rows) {
    Linear layer;
    layer.weight = at::randn({rows, kIn}).requires_grad_();
    return layer;
  }
  static Linear quantized(std::int64_t rows, bool integer) {
    Linear layer = dense(rows);
    layer.codes = at::randint(-8, 8, {rows, kIn}, at::kChar);
    layer.step = at::randn({rows, 1}).abs() + 0.1;
    layer.weight = (layer.codes * layer.step).detach().requires_grad_();
    layer.integer = integer;
    return layer;
  }
};

at::Tensor wide(const at::Tensor& t) { return t.detach().reshape({-1, t.size(-1)}).to(at::kDouble); }
at::Tensor row_bound(const at::Tensor& t) { return std::get<0>(t.abs().max(1, true)) * kDigitEps; }

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
  expect_within(y, at::mm(x, w.t()), at::mm(x.abs(), w.abs().t()) * (kIn * kEps));
  expect_within(c.x.grad(), at::mm(g, w), at::mm(g.abs(), w.abs()) * (kOut * kEps));
  expect_within(c.plain.weight.grad(), at::mm(g.t(), x), at::mm(g.abs().t(), x.abs()) * (kRows * kEps));
}

// Layers with one input, integer and plain ones mixed: outputs, the sum of input gradients, and weight gradients accumulated twice.
TEST(Linear, IntegerProductsAndGradients) {
  Case c;
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
  const at::Tensor x_bound = row_bound(x);
  const at::Tensor rough_x = x.abs() * (4 * kEps) + x_bound;  // what rounding may change in each element
  const Linear* layers[] = {&c.a, &c.plain, &c.b};
  at::Tensor dx = at::zeros_like(x);
  at::Tensor dx_bound = at::zeros_like(x);
  const double weight_eps = kernels::gemm_kernels().has_fast_bf16 ? 2.1 * kBf16Eps : 0.0;
  for (int i = 0; i < 3; ++i) {
    const bool integer = layers[i]->codes.defined();
    const at::Tensor w = wide(layers[i]->weight), g = wide(dy[static_cast<std::size_t>(i)]);
    const double sum_eps = 2 * (kRows + kIn + kOut) * kEps;
    const at::Tensor input = integer ? rough_x : at::zeros_like(x);
    expect_within(y[static_cast<std::size_t>(i)], at::mm(x, w.t()), at::mm(input, w.abs().t()) + at::mm(x.abs(), w.abs().t()) * sum_eps);
    const at::Tensor weight_bound = at::mm(g.abs().t(), input) + at::mm(g.abs().t(), x.abs()) * (sum_eps + (integer ? weight_eps : 0.0));
    expect_within(layers[i]->weight.grad(), at::mm(g.t(), x) * 2, weight_bound * 2);
    dx += at::mm(g, w);
    const at::Tensor scaled = integer ? row_bound(g * wide(layers[i]->step.t())).expand_as(g) : at::zeros_like(g);
    const at::Tensor factors = integer ? wide(layers[i]->codes.to(at::kFloat)).abs() : w.abs();
    dx_bound += at::mm(scaled, factors) + at::mm(g.abs(), w.abs()) * sum_eps;
  }
  expect_within(c.x.grad(), dx, dx_bound);
}

// The leaf of a layer that is multiplied by its codes needs no values: results are those of its dequantized weight.
TEST(Linear, CodesEqualTheDequantizedWeight) {
  const Case c;
  Linear from_codes = Case::quantized(kOut, false);
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
