// The decoder's functions on fp32 CPU tensors, where kernels run, against their plain definitions in float64: values and gradients.
#include "stableqat/models/functional.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

namespace stableqat {
namespace {

constexpr double kUnit = 0x1p-24;
constexpr double kEps = 1e-5;

using Tensors = std::vector<at::Tensor>;
using Function = std::function<Tensors(const Tensors&)>;

at::Tensor some_values(at::IntArrayRef shape, int seed) {
  at::Tensor values = at::empty(shape, at::kFloat);
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    const double u = std::fmod(static_cast<double>((i + 1) * (seed * 2 + 1)) * 0.6180339887498949, 1.0);
    values.data_ptr<float>()[i] = static_cast<float>(3.0 * u - 1.5);
  }
  return values;
}

struct Results {
  Tensors outputs;
  Tensors gradients;
};

// Values and the gradients of all inputs for output gradients that depend on shapes alone.
Results results(const Function& function, const Tensors& inputs, at::ScalarType type) {
  Tensors leaves;
  for (const at::Tensor& input : inputs) leaves.push_back(input.detach().to(type).clone().requires_grad_());
  Results found;
  found.outputs = function(leaves);
  at::Tensor total;
  for (std::size_t i = 0; i < found.outputs.size(); ++i) {
    const at::Tensor weights = some_values(found.outputs[i].sizes(), static_cast<int>(i) + 50).to(type);
    const at::Tensor product = (found.outputs[i] * weights).sum();
    total = total.defined() ? total + product : product;
  }
  total.backward();
  for (const at::Tensor& leaf : leaves) found.gradients.push_back(leaf.grad());
  return found;
}

// `roundings` bounds the relative error of every term; sums over `terms` add theirs, of random signs or not.
void expect_close(const at::Tensor& found, const at::Tensor& exact, double roundings, const std::string& what) {
  ASSERT_EQ(found.sizes(), exact.sizes()) << what;
  EXPECT_EQ(found.scalar_type(), at::kFloat) << what;
  const double norm = at::linalg_vector_norm(exact).item<double>();
  const double difference = at::linalg_vector_norm(found.to(at::kDouble) - exact).item<double>();
  EXPECT_LE(difference, roundings * kUnit * norm) << what;
  EXPECT_GT(norm, 0.0) << what;
}

void expect_same(const Function& fused, const Function& plain, const Tensors& inputs, double roundings) {
  const Results found = results(fused, inputs, at::kFloat);
  const Results exact = results(plain, inputs, at::kDouble);
  ASSERT_EQ(found.outputs.size(), exact.outputs.size());
  for (std::size_t i = 0; i < found.outputs.size(); ++i) {
    expect_close(found.outputs[i], exact.outputs[i], roundings, "output " + std::to_string(i));
  }
  for (std::size_t i = 0; i < found.gradients.size(); ++i) {
    expect_close(found.gradients[i], exact.gradients[i], roundings, "gradient " + std::to_string(i));
  }
}

// A row has C = 40 terms, the weight's gradient 30; each is rounded a few times.
constexpr double kNormRoundings = 64;

TEST(FunctionalTest, RmsNorm) {
  expect_same([](const Tensors& in) { return Tensors{rms_norm(in[0], in[1], kEps)}; },
              [](const Tensors& in) { return Tensors{rms_norm_ref(in[0], in[1], kEps)}; },
              {some_values({2, 15, 40}, 1), some_values({40}, 2)}, kNormRoundings);
}

TEST(FunctionalTest, AddRmsNormWithASumThatIsUsedAgain) {
  const Tensors inputs{some_values({2, 15, 40}, 1), some_values({2, 15, 40}, 3), some_values({40}, 2)};
  const auto both = [](const NormedSum& result) { return Tensors{result.sum, result.normed}; };
  expect_same([&](const Tensors& in) { return both(add_rms_norm(in[0], in[1], in[2], kEps)); },
              [&](const Tensors& in) { return both(add_rms_norm_ref(in[0], in[1], in[2], kEps)); }, inputs, kNormRoundings);
  // Nothing to add, and one of the two results not used.
  const Tensors two{inputs[0], inputs[2]};
  expect_same([&](const Tensors& in) { return both(add_rms_norm(in[0], {}, in[1], kEps)); },
              [&](const Tensors& in) { return both(add_rms_norm_ref(in[0], {}, in[1], kEps)); }, two, kNormRoundings);
  expect_same([](const Tensors& in) { return Tensors{add_rms_norm(in[0], in[1], in[2], kEps).normed}; },
              [](const Tensors& in) { return Tensors{add_rms_norm_ref(in[0], in[1], in[2], kEps).normed}; }, inputs, kNormRoundings);
  const at::Tensor x = inputs[0].clone().requires_grad_();
  add_rms_norm(x, inputs[1], inputs[2], kEps).sum.sum().backward();
  EXPECT_TRUE(x.grad().eq(1.0).all().item<bool>());
}

TEST(FunctionalTest, RmsNormOfTransposedRows) {
  expect_same([](const Tensors& in) { return Tensors{rms_norm(in[0].transpose(0, 1), in[1], kEps).transpose(0, 1)}; },
              [](const Tensors& in) { return Tensors{rms_norm_ref(in[0], in[1], kEps)}; },
              {some_values({3, 5, 40}, 1), some_values({40}, 2)}, kNormRoundings);
}

TEST(FunctionalTest, Swiglu) {
  expect_same([](const Tensors& in) { return Tensors{swiglu(in[0], in[1])}; },
              [](const Tensors& in) { return Tensors{swiglu_ref(in[0], in[1])}; },
              {some_values({2, 7, 33}, 1) * 4, some_values({2, 7, 33}, 2)}, 32);
}

// Heads as a view of a wider projection, and gradients that come transposed.
TEST(FunctionalTest, Rope) {
  ModelConfig config;
  config.head_dim = 20;
  config.rope_theta = 10000.0;
  const at::Tensor frequencies = rope_inverse_frequencies(config);
  const auto rotated = [&](const at::Tensor& x, bool fused) {
    // One table in float for both, so that only the rotation is compared.
    const RopeTable table = rope_table(frequencies, 3, x.size(1), at::kFloat);
    const at::Tensor heads = x.narrow(-1, 20, 60).view({x.size(0), x.size(1), 3, 20});
    if (fused) return apply_rope(heads, table).transpose(1, 2);
    return apply_rope_ref(heads, {table.cos.to(at::kDouble), table.sin.to(at::kDouble)}).transpose(1, 2);
  };
  expect_same([&](const Tensors& in) { return Tensors{rotated(in[0], true)}; },
              [&](const Tensors& in) { return Tensors{rotated(in[0], false)}; }, {some_values({2, 7, 100}, 1)}, 4);
}

}  // namespace
}  // namespace stableqat
