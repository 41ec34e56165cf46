#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "stableqat/base/half.h"

namespace stableqat {
namespace {

// IEEE 754 binary16 by its definition.
double half_value(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  const double magnitude = exponent == 31  ? std::numeric_limits<double>::infinity()
                           : exponent == 0 ? std::ldexp(mantissa, -24)
                                           : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

bool is_half_nan(std::uint16_t bits) { return (bits & 0x7fff) > 0x7c00; }

TEST(Half, EveryHalfConvertsToItsValueAndBack) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto half = static_cast<std::uint16_t>(i);
    const float value = half_to_float(half);
    if (is_half_nan(half)) {
      ASSERT_TRUE(std::isnan(value)) << i;
      ASSERT_TRUE(is_half_nan(float_to_half(value))) << i;
    } else {
      ASSERT_EQ(value, half_value(half)) << i;
      ASSERT_EQ(std::signbit(value), half >= 0x8000) << i;
      ASSERT_EQ(float_to_half(value), half);
    }
  }
}

// Between any two neighbours: the midpoint goes to the even one, and the floats beside the midpoint to the nearer one. Above the largest
// number, 2^16 takes the place of infinity.
TEST(Half, RoundsToNearestAndTiesToEven) {
  for (std::uint16_t low = 0; low < 0x7c00; ++low) {
    const auto high = static_cast<std::uint16_t>(low + 1);
    const double above = high == 0x7c00 ? 65536.0 : half_value(high);
    const auto middle = static_cast<float>((half_value(low) + above) / 2);
    const std::uint16_t even = low % 2 == 0 ? low : high;
    ASSERT_EQ(float_to_half(middle), even) << low;
    ASSERT_EQ(float_to_half(-middle), even | 0x8000) << low;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0f)), low) << low;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 1e30f)), high) << low;
  }
}

TEST(Half, LargeTinyAndNanFloats) {
  using Limits = std::numeric_limits<float>;
  EXPECT_EQ(float_to_half(Limits::max()), 0x7c00);
  EXPECT_EQ(float_to_half(-Limits::infinity()), 0xfc00);
  EXPECT_EQ(float_to_half(Limits::denorm_min()), 0);
  EXPECT_EQ(float_to_half(-Limits::min()), 0x8000);
  for (const std::uint32_t nan : {0x7f800001U, 0x7fc00000U, 0xffffffffU}) {
    EXPECT_TRUE(is_half_nan(float_to_half(std::bit_cast<float>(nan)))) << nan;
    EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(std::bit_cast<float>(nan))))) << nan;
  }
}

TEST(Bfloat16, EveryValueIsTheUpperHalfOfAFloatAndSurvives) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const float value = bfloat16_to_float(static_cast<std::uint16_t>(i));
    ASSERT_EQ(std::bit_cast<std::uint32_t>(value), i << 16);
    if (!std::isnan(value)) {
      ASSERT_EQ(float_to_bfloat16(value), i);
    }
  }
}

TEST(Bfloat16, RoundsToNearestAndTiesToEven) {
  for (std::uint32_t low = 0; low < 0x7f80; ++low) {
    const std::uint32_t even = low % 2 == 0 ? low : low + 1;
    const std::uint32_t middle = (low << 16) | 0x8000;
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(middle)), even);
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(middle - 1)), low);
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(middle + 1)), low + 1);
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(0x80000000U | middle)), 0x8000 | even);
  }
}

TEST(Half, SpansGiveTheSameAsScalars) {
  std::vector<float> values;
  for (int i = -1000; i < 1000; ++i) values.push_back(std::ldexp(1.0f + static_cast<float>(i) / 1024, i / 40));
  std::vector<std::uint16_t> codes(values.size());
  std::vector<float> back(values.size());
  float_to_half(values, codes);
  half_to_float(codes, back);
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(back[i], half_to_float(float_to_half(values[i])));
  float_to_bfloat16(values, codes);
  bfloat16_to_float(codes, back);
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(back[i], bfloat16_to_float(float_to_bfloat16(values[i])));
}

}  // namespace
}  // namespace stableqat
