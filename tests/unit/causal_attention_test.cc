// causal_attention in fp32 on the CPU, which runs our kernels, against ATen's attention in float64 and its autograd.
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "stableqat/models/functional.h"

namespace stableqat {
namespace {

struct Attended {
  at::Tensor out, dq, dk, dv;
};

template <class Function>
Attended attend(const Function& function, std::vector<at::Tensor> inputs, const at::Tensor& d_out, at::ScalarType type) {
  for (at::Tensor& x : inputs) x = x.to(type).detach().requires_grad_();
  const at::Tensor out = function(inputs[0], inputs[1], inputs[2]);
  out.backward(d_out.to(type));
  return {out, inputs[0].grad(), inputs[1].grad(), inputs[2].grad()};
}

// In fp32 the results' error, relative in norm, grows at most like the root of the number of terms.
void expect_near(const char* name, const at::Tensor& found, const at::Tensor& expected, std::int64_t terms) {
  EXPECT_EQ(found.sizes(), expected.sizes());
  const double error = at::linalg_vector_norm(found.to(at::kDouble) - expected).item<double>();
  const double bound = std::numeric_limits<float>::epsilon() * std::sqrt(static_cast<double>(terms));
  EXPECT_LT(error, bound * at::linalg_vector_norm(expected).item<double>()) << name;
}

void expect_reference(const std::vector<at::Tensor>& inputs, const at::Tensor& d_out) {
  const Attended found = attend(causal_attention, inputs, d_out, at::kFloat);
  const Attended expected = attend(causal_attention_ref, inputs, d_out, at::kDouble);
  const std::int64_t terms = inputs[0].size(3) + inputs[1].size(1);
  expect_near("out", found.out, expected.out, terms);
  expect_near("dq", found.dq, expected.dq, terms);
  expect_near("dk", found.dk, expected.dk, terms);
  expect_near("dv", found.dv, expected.dv, terms);
}

TEST(CausalAttention, AgreesWithAtenAndItsGradients) {
  struct Case {
    std::int64_t batch, tokens, keys, heads, kv_heads, head_size;
  };
  for (const Case c : {Case{2, 70, 70, 9, 3, 64}, Case{1, 33, 50, 4, 1, 80}, Case{1, 150, 150, 2, 2, 128}, Case{2, 1, 40, 8, 1, 96}}) {
    const std::vector<at::Tensor> inputs{at::randn({c.batch, c.tokens, c.heads, c.head_size}),
                                         at::randn({c.batch, c.keys, c.kv_heads, c.head_size}),
                                         at::randn({c.batch, c.keys, c.kv_heads, c.head_size})};
    expect_reference(inputs, at::randn({c.batch, c.tokens, c.heads, c.head_size}));
  }
}

// Slices of one projection, heads before tokens, rows that are not dense, a gradient expanded from one row: any strides.
TEST(CausalAttention, TakesViews) {
  const at::Tensor fused = at::randn({2, 20, 6 + 2 * 2, 32});
  expect_reference({fused.narrow(2, 0, 6), fused.narrow(2, 6, 2), fused.narrow(2, 8, 2)}, at::randn({1, 1, 1, 32}).expand({2, 20, 6, 32}));
  const at::Tensor q = at::randn({2, 6, 20, 32}).transpose(1, 2);
  const at::Tensor k = at::randn({2, 20, 32, 2}).transpose(2, 3);
  expect_reference({q, k, k}, at::randn({2, 6, 32, 20}).permute({0, 3, 1, 2}));
}

}  // namespace
}  // namespace stableqat
