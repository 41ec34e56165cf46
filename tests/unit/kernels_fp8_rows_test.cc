// float8 e4m3fn against its definition in double, and the rows of fp8.cu on the CPU by a team of one.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "../support/kernel_test.h"
#include "kernels/cuda/e4m3.h"
#include "kernels/cuda/fp8_rows.h"
#include "kernels/cuda/team.h"

namespace stableqat::kernels::cuda {
namespace {

using stableqat::testing::normal_values;

constexpr TeamOfOne kTeam;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Of a pattern, by the definition of the format.
double value_of(std::uint8_t pattern) {
  const int exponent = (pattern >> 3) & 15;
  const int mantissa = pattern & 7;
  const double size = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (pattern & 0x80) != 0 ? -size : size;
}

TEST(E4m3, IntegersUpToSixteenAreExact) {
  for (int i = -16; i <= 16; ++i) EXPECT_EQ(value_of(float_to_e4m3(static_cast<float>(i))), i);
}

TEST(E4m3, RoundsToNearestAndTiesToEven) {
  for (int pattern = 0; pattern < 0x7e; ++pattern) {
    const double low = value_of(static_cast<std::uint8_t>(pattern));
    const double high = value_of(static_cast<std::uint8_t>(pattern + 1));
    const auto middle = static_cast<float>((low + high) / 2);  // exact
    ASSERT_LT(low, high);
    for (const float sign : {1.0F, -1.0F}) {
      const int sign_bit = sign < 0 ? 0x80 : 0;
      EXPECT_EQ(float_to_e4m3(sign * static_cast<float>(low)), pattern + sign_bit);
      EXPECT_EQ(float_to_e4m3(sign * std::nextafter(middle, 0.0F)), pattern + sign_bit);
      EXPECT_EQ(float_to_e4m3(sign * middle), pattern + pattern % 2 + sign_bit);
      EXPECT_EQ(float_to_e4m3(sign * std::nextafter(middle, kInfinity)), pattern + 1 + sign_bit);
    }
  }
}

TEST(E4m3, EndsAtItsLargestValue) {
  EXPECT_EQ(value_of(0x7e), kLargestE4m3);
  for (const float value : {448.0F, 449.0F, 1e30F, kInfinity}) {
    EXPECT_EQ(float_to_e4m3(value), 0x7e);
    EXPECT_EQ(float_to_e4m3(-value), 0xfe);
  }
  EXPECT_EQ(float_to_e4m3(std::numeric_limits<float>::quiet_NaN()) & 0x7f, 0x7f);
  EXPECT_EQ(float_to_e4m3(std::numeric_limits<float>::denorm_min()), 0);
}

TEST(Fp8Rows, AreTheValuesWithinTheFormatsRounding) {
  constexpr std::int64_t kColumns = 100;
  for (const float size : {1e-20F, 1e-3F, 1.0F, 1e20F}) {
    const std::vector<float> x = normal_values(kColumns, 1, size);
    const std::vector<float> factor = normal_values(kColumns, 2);
    for (const float* const factors : {static_cast<const float*>(nullptr), factor.data()}) {
      std::vector<std::uint8_t> codes(kColumns);
      float scale = -1.0F;
      round_row_to_e4m3(kTeam, kColumns, x.data(), factors, codes.data(), &scale);
      double largest = 0.0;
      const auto value = [&](std::size_t j) { return double{x[j]} * (factors != nullptr ? double{factors[j]} : 1.0); };
      for (std::size_t j = 0; j < kColumns; ++j) largest = std::max(largest, std::abs(value(j)));
      EXPECT_NEAR(scale, largest / 448, 1e-6 * largest / 448);
      std::uint8_t top = 0;
      for (std::size_t j = 0; j < kColumns; ++j) {
        // Half a step: of three bits of mantissa, or of the format's smallest; and three roundings of float32 on the way.
        const double allowed = std::abs(value(j)) * (0x1p-4 + 0x1p-21) + double{scale} * 0x1p-10;
        EXPECT_NEAR(value_of(codes[j]) * double{scale}, value(j), allowed);
        top = std::max<std::uint8_t>(top, codes[j] & 0x7f);
      }
      EXPECT_EQ(top, 0x7e);
    }
  }
}

TEST(Fp8Rows, OfNothingAreZeroAndWhatIsNotFiniteStaysSo) {
  std::vector<std::uint8_t> codes(4, 1);
  float scale = -1.0F;
  round_row_to_e4m3(kTeam, 4, std::vector<float>{0, -0.0F, 1e-38F, -1e-31F}.data(), nullptr, codes.data(), &scale);
  EXPECT_EQ(scale, 0.0F);
  for (const std::uint8_t code : codes) EXPECT_EQ(code & 0x7f, 0);
  for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    for (const std::size_t place : {0, 3}) {
      std::vector<float> x{1, 2, 3, 4};
      x[place] = bad;
      round_row_to_e4m3(kTeam, 4, x.data(), nullptr, codes.data(), &scale);
      for (const std::uint8_t code : codes) EXPECT_FALSE(std::isfinite((code & 0x7f) == 0x7f ? bad : value_of(code) * double{scale}));
    }
  }
}

}  // namespace
}  // namespace stableqat::kernels::cuda
