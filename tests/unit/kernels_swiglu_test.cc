#include "stableqat/kernels/swiglu.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>
#include <string>

#include "../support/kernel_test.h"

namespace stableqat::kernels {
namespace {

using testing::kUnit;
using testing::normal_values;

constexpr double kSmallest = 1.1e-36;  // 87.3 exp(-87.3): silu below may be zero

// Gates over the whole range in which exp neither over- nor underflows, beyond it, and around the interesting values.
std::vector<float> gates(std::int64_t count) {
  std::vector<float> values = normal_values(count, 1, 4.0F);
  for (std::size_t i = 0; i < values.size(); i += 3) values[i] *= 25.0F;
  const std::vector<float> special{0.0F, -0.0F, 1e-40F, -1e-30F, -87.29F, -87.31F, 88.8F, -88.8F, -104.0F, 200.0F, -1e30F, 1e30F};
  for (std::size_t i = 0; i < special.size() && i < values.size(); ++i) values[values.size() - 1 - i] = special[i];
  return values;
}

TEST(SwigluKernels, FollowTheFormulas) {
  for (const Isa isa : testing::supported_isas()) {
    for (const std::int64_t count : {1, 15, 16, 100, 50001}) {
      SCOPED_TRACE(std::string(isa_name(isa)) + " " + std::to_string(count));
      const std::vector<float> gate = gates(count);
      const std::vector<float> up = normal_values(count, 2);
      const std::vector<float> dy = normal_values(count, 3);
      std::vector<float> y(gate.size());
      std::vector<float> dgate(gate.size());
      std::vector<float> dup(gate.size());
      swiglu_kernels(isa).forward(count, gate.data(), up.data(), y.data());
      swiglu_kernels(isa).backward(count, gate.data(), up.data(), dy.data(), dgate.data(), dup.data());
      for (std::size_t i = 0; i < gate.size(); ++i) {
        const double g = gate[i];
        const double sigmoid = 1.0 / (1.0 + std::exp(-g));
        const double silu = g * sigmoid;
        const double error =
            2 * (4 + std::abs(g)) * kUnit;  // what the header promises of silu: a unit in the last place is at most 2 kUnit
        ASSERT_NEAR(y[i], silu * up[i], (std::abs(silu) * (error + kUnit) + kSmallest) * std::abs(up[i])) << g;
        ASSERT_NEAR(dup[i], silu * dy[i], (std::abs(silu) * (error + kUnit) + kSmallest) * std::abs(dy[i])) << g;
        const double product = double{dy[i]} * up[i];
        const double rest = 1.0 / (1.0 + std::exp(g));  // 1 - sigmoid
        // 1 - s is a difference of rounded numbers: off by one unit of 1.
        const double slope_bound = sigmoid * error + std::abs(silu) * (rest * (error + 2 * kUnit) + error * sigmoid) + kSmallest;
        ASSERT_NEAR(dgate[i], product * (sigmoid + silu * rest),
                    std::abs(product) * (slope_bound + 4 * kUnit * std::abs(sigmoid + silu * rest)))
            << g;
      }
    }
  }
}

TEST(SwigluKernels, ThreadsChangeNoBit) {
  const int threads = omp_get_max_threads();
  const std::int64_t count = 50001;
  const std::vector<float> gate = gates(count);
  const std::vector<float> up = normal_values(count, 2);
  for (const Isa isa : testing::supported_isas()) {
    std::vector<std::vector<float>> found;
    for (const int count_of_threads : {1, 3}) {
      omp_set_num_threads(count_of_threads);
      std::vector<float> y(gate);
      std::vector<float> dgate(gate);
      std::vector<float> dup(up);  // as dy, in place
      swiglu_kernels(isa).forward(count, gate.data(), up.data(), y.data());
      swiglu_kernels(isa).backward(count, gate.data(), up.data(), dup.data(), dgate.data(), dup.data());
      for (std::vector<float>* values : {&y, &dgate, &dup}) found.push_back(*values);
    }
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(found[i], found[i + 3]) << i;
  }
  omp_set_num_threads(threads);
}

TEST(SwigluKernels, NanStaysNan) {
  for (const Isa isa : testing::supported_isas()) {
    std::vector<float> gate = normal_values(40, 1);
    gate[21] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> up = normal_values(40, 2);
    std::vector<float> y(40);
    swiglu_kernels(isa).forward(40, gate.data(), up.data(), y.data());
    for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i == 21);
  }
}

}  // namespace
}  // namespace stableqat::kernels
