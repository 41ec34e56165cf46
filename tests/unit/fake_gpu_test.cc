#include "../support/fake_gpu.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

namespace stableqat::testing {
namespace {

TEST(FakeGpu, Adds) {
  const at::Tensor a = at::ones({2, 3}, at::TensorOptions().device(fake_gpu()));
  EXPECT_EQ(a.add(a).to(at::kCPU).sum().item<float>(), 12.0F);
  EXPECT_THROW(a.add(at::ones({2, 3})), c10::Error);
}

}  // namespace
}  // namespace stableqat::testing
