#include "stableqat/quant/quantized_weight.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

namespace stableqat {
namespace {

TEST(QuantizedWeight, QuantizesByHand) {
  QuantizerSpec spec{.bits = 3};
  QuantizedWeight weight(at::tensor({0.25, 0.75, -1.25, 9.0, -9.0, 0.6}, at::kDouble).reshape({1, 6}), spec,
                         at::full({1, 1}, 0.5, at::kDouble));
  const auto counts = weight.quantize();
  // 0.5 and 1.5 and -2.5 are ties and go to the even neighbour.
  EXPECT_TRUE(at::equal(weight.codes(), at::tensor({0, 2, -2, 3, -4, 1}, at::kChar).reshape({1, 6})));
  EXPECT_TRUE(at::equal(weight.dequantized().detach(), at::tensor({0.0, 1.0, -1.0, 1.5, -2.0, 0.5}, at::kDouble).reshape({1, 6})));
  EXPECT_EQ(counts.changed, 0);
  EXPECT_EQ(counts.clipped, 2);
}

}  // namespace
}  // namespace stableqat
