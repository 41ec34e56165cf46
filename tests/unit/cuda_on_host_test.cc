// The table of cuda_on_host.cc, as programs find it. kernels_cuda_test.cc, a part of the same program, compares its kernels with the CPU's.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "../support/kernel_test.h"
#include "kernels/cuda/element.h"
#include "stableqat/kernels/cuda.h"
#include "stableqat/kernels/swiglu.h"
#include "stableqat/quant/quantizer_spec.h"

namespace stableqat::testing {
namespace {

using kernels::cuda::BFloat16;
using kernels::cuda::CudaKernels;
using kernels::cuda::ElementType;

const CudaKernels& table() { return *kernels::cuda::cuda_backend().kernels; }

TEST(CudaOnHost, IsTheLibraryThatProgramsOpen) {
  const kernels::cuda::CudaBackend& backend = kernels::cuda::cuda_backend();
  ASSERT_NE(backend.kernels, nullptr) << backend.reason;
  EXPECT_EQ(backend.devices, 1);
  char name[16] = {};
  ASSERT_EQ(backend.kernels->device_name(0, name, sizeof name), nullptr);
  EXPECT_STREQ(name, "host");
}

TEST(CudaOnHost, HasEveryKernel) {
  // The table is pointers to functions alone.
  constexpr std::size_t kMembers = sizeof(CudaKernels) / sizeof(void (*)());
  const auto* const members = reinterpret_cast<void (*const*)()>(&table());
  for (std::size_t i = 0; i < kMembers; ++i) EXPECT_NE(members[i], nullptr) << i;
}

TEST(CudaOnHost, QuantizesToTheBitsOfTheCpuAndAddsToTheCounts) {
  constexpr std::int64_t kRows = 3;
  constexpr std::int64_t kColumns = 50;
  const std::vector<float> weight = normal_values(kRows * kColumns, 1);
  const std::vector<float> scale(kRows, 0.4F);
  QuantizerSpec spec;
  spec.kind = QuantizerKind::kLsq;
  spec.bits = 3;
  const kernels::QuantRule rule = spec.rule();
  std::vector<std::int8_t> codes(weight.size()), expected_codes(weight.size());
  std::vector<float> expected(weight.size());
  std::vector<BFloat16> dequantized(weight.size());
  unsigned long long counts[2] = {100, 1000};
  const kernels::QuantizeCounts expected_counts =
      kernels::update_kernels<float>().quantize(rule, kRows, kColumns, weight.data(), scale.data(), expected_codes.data(), expected.data());
  ASSERT_EQ(table().quantize(nullptr, rule, kRows, kColumns, weight.data(), scale.data(), codes.data(),
                             {ElementType::kBFloat16, dequantized.data()}, counts),
            nullptr);
  EXPECT_EQ(codes, expected_codes);
  EXPECT_EQ(counts[0], 100 + static_cast<unsigned long long>(expected_counts.changed));
  EXPECT_EQ(counts[1], 1000 + static_cast<unsigned long long>(expected_counts.clipped));
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(dequantized[i].bits, float_to_bfloat16(expected[i]));
}

TEST(CudaOnHost, ReadsAndWritesBfloat16) {
  const std::vector<float> wide = normal_values(40, 1);
  std::vector<BFloat16> gate, up;
  std::vector<float> gate_wide, up_wide, expected(20);
  for (std::size_t i = 0; i < 20; ++i) {
    gate.push_back({float_to_bfloat16(wide[i])});
    up.push_back({float_to_bfloat16(wide[20 + i])});
    gate_wide.push_back(to_float(gate[i]));
    up_wide.push_back(to_float(up[i]));
  }
  std::vector<BFloat16> y(20);
  ASSERT_EQ(table().swiglu_forward(nullptr, ElementType::kBFloat16, 20, gate.data(), up.data(), y.data()), nullptr);
  kernels::swiglu_kernels().forward(20, gate_wide.data(), up_wide.data(), expected.data());
  // One rounding to 8 bits.
  for (std::size_t i = 0; i < 20; ++i) EXPECT_NEAR(to_float(y[i]), expected[i], 0x1.01p-8 * std::abs(expected[i]));
}

}  // namespace
}  // namespace stableqat::testing
