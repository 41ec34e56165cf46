// Products of packed weights against sums in double, on every instruction set of this machine.
#include "stableqat/kernels/packed.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../support/kernel_test.h"
#include "stableqat/kernels/gemm.h"

namespace stableqat::kernels {
namespace {

using stableqat::testing::kUnit;
using stableqat::testing::normal_values;
using stableqat::testing::supported_isas;

struct Digits {
  Digits(std::int64_t rows, std::int64_t columns)
      : high(static_cast<std::size_t>(rows * digit_stride(columns)), 99),
        low(high),
        sums(static_cast<std::size_t>(rows * partial_sum_stride(columns)), 99),
        scale(static_cast<std::size_t>(rows)) {}
  DigitRows view() { return {high.data(), low.data(), sums.data(), scale.data()}; }
  int value(std::size_t i) const { return 128 * high[i] + low[i]; }

  std::vector<std::int8_t> high, low;
  std::vector<std::int32_t> sums;
  std::vector<float> scale;
};

struct Weight {
  Weight(std::int64_t n, std::int64_t m, int bit_count, std::int64_t group_size)
      : rows(n), columns(m), bits(bit_count), group(group_size), step(normal_values(n * m / group_size, 3)) {
    std::mt19937 engine(5);
    levels.resize(static_cast<std::size_t>(n * m));
    for (std::uint8_t& level : levels) level = static_cast<std::uint8_t>(engine() >> (32 - bits));
    tiles.resize(static_cast<std::size_t>(packed_bytes(n, m, bits)));
    pack_levels(n, m, bits, levels.data(), tiles.data());
  }
  PackedWeight view() const { return {rows, columns, bits, tiles.data(), 2.0F, -3.0F, step.data(), group}; }
  double at(std::int64_t row, std::int64_t column) const {
    const double level = levels[static_cast<std::size_t>(row * columns + column)];
    return (2.0 * level - 3.0) * step[static_cast<std::size_t>((row * columns + column) / group)];
  }

  std::int64_t rows, columns;
  int bits;
  std::int64_t group;
  std::vector<float> step;
  std::vector<std::uint8_t> levels, tiles;
};

struct PackedShape {
  std::int64_t rows, n, m, group;
};
// Remainders of rows and columns, groups of half a tile, one and several, a row.
constexpr PackedShape kPackedShapes[] = {{1, 1, 1, 1},   {2, 5, 70, 70},  {3, 33, 576, 576},
                                         {1, 9, 96, 32}, {2, 6, 640, 64}, {1, 7, 640, 128}};

TEST(Packed, RowsAreRoundedToFifteenBits) {
  for (const Isa isa : supported_isas()) {
    const std::int64_t columns = 70;
    std::vector<float> x = normal_values(4 * columns, 1);
    std::fill(x.begin() + 70, x.begin() + 140, 0.0F);
    x[140] = std::numeric_limits<float>::infinity();
    for (std::int64_t j = 210; j < 280; ++j) x[static_cast<std::size_t>(j)] = 1e-36F;
    Digits digits(4, columns);
    packed_kernels(isa).round_to_digits(4, columns, x.data(), digits.view());
    float largest = 0;
    for (std::size_t j = 0; j < 70; ++j) largest = std::max(largest, std::abs(x[j]));
    EXPECT_EQ(digits.scale[0], largest / 16256);
    for (std::size_t j = 0; j < 128; ++j) {
      const int expected = j < 70 ? static_cast<int>(std::nearbyint(x[j] * (16256 / largest))) : 0;
      ASSERT_EQ(digits.value(j), expected) << j;
    }
    for (std::size_t block = 0; block < 4; ++block) {
      int sum = 0;
      for (std::size_t j = 32 * block; j < 32 * block + 32; ++j) sum += digits.value(j);
      ASSERT_EQ(digits.sums[block], sum) << block;
    }
    EXPECT_EQ(digits.scale[1], 0.0F);
    EXPECT_TRUE(std::isnan(digits.scale[2]));
    EXPECT_EQ(digits.scale[3], 0.0F);
    for (std::size_t j = 128; j < 4 * 128; ++j) ASSERT_EQ(digits.value(j), 0) << j;
  }
}

TEST(Packed, ProductsEqualSumsInDouble) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const PackedShape& s : kPackedShapes) {
      SCOPED_TRACE(std::to_string(bits) + " bits, " + std::to_string(s.n) + " x " + std::to_string(s.m) + ", group " +
                   std::to_string(s.group));
      const Weight w(s.n, s.m, bits, s.group);
      const std::vector<float> x = normal_values(s.rows * s.m, 2);
      std::vector<float> first;
      for (const Isa isa : supported_isas()) {
        Digits digits(s.rows, s.m);
        packed_kernels(isa).round_to_digits(s.rows, s.m, x.data(), digits.view());
        std::vector<float> y(static_cast<std::size_t>(s.rows * s.n), 7.0F);
        packed_kernels(isa).forward(s.rows, digits.view(), w.view(), y.data());
        for (std::int64_t i = 0; i < s.rows; ++i) {
          for (std::int64_t n = 0; n < s.n; ++n) {
            double sum = 0;
            double magnitude = 0;
            for (std::int64_t m = 0; m < s.m; ++m) {
              const double factor =
                  double{digits.scale[static_cast<std::size_t>(i)]} * w.step[static_cast<std::size_t>((n * s.m + m) / s.group)];
              const int value = digits.value(static_cast<std::size_t>(i * digit_stride(s.m) + m));
              const double level = w.levels[static_cast<std::size_t>(n * s.m + m)];
              sum += (2 * level - 3) * value * factor;
              magnitude += (2 * level + 3) * std::abs(value * factor);
            }
            // Sums of a group, or of its eighths, are exact integers; then there are ten roundings at most for each, and one for each that
            // is added.
            const double roundings = 10 + static_cast<double>(s.m / s.group);
            ASSERT_NEAR(y[static_cast<std::size_t>(i * s.n + n)], sum, roundings * kUnit * magnitude) << isa_name(isa) << ", " << n;
          }
        }
        if (first.empty()) first = y;
        EXPECT_EQ(y, first) << isa_name(isa) << ": other bits";
      }
    }
  }
}

// The largest sums there can be.
TEST(Packed, LargestSums) {
  const std::int64_t m = 28672;
  const std::vector<float> step(static_cast<std::size_t>(4 * m / 32), 1.0F);
  const std::vector<float> x(static_cast<std::size_t>(m), 1.0F);
  for (const int bits : {2, 3, 4, 8}) {
    const std::vector<std::uint8_t> tiles(static_cast<std::size_t>(packed_bytes(4, m, bits)), 255);
    for (const std::int64_t group : {m, std::int64_t{256}, std::int64_t{64}, std::int64_t{32}}) {
      for (const Isa isa : supported_isas()) {
        Digits digits(1, m);
        packed_kernels(isa).round_to_digits(1, m, x.data(), digits.view());
        std::vector<float> y(4);
        packed_kernels(isa).forward(1, digits.view(), {4, m, bits, tiles.data(), 1.0F, 0.0F, step.data(), group}, y.data());
        const double expected = ((1 << bits) - 1) * static_cast<double>(m);
        // Sums of 8 bits are turned to float at least every 512 columns.
        const double roundings = 10 + static_cast<double>(m / std::min(group, std::int64_t{512}));
        for (const float value : y) {
          EXPECT_NEAR(value, expected, roundings * kUnit * expected) << isa_name(isa) << ", " << bits << " bits, group " << group;
        }
      }
    }
  }
}

TEST(Packed, SameBitsWithAnyNumberOfThreads) {
  const Weight w(530, 640, 3, 128);
  const std::vector<float> x = normal_values(640, 2);
  const int threads = omp_get_max_threads();
  std::vector<float> first;
  for (const int count : {1, 2, 5}) {
    omp_set_num_threads(count);
    Digits digits(1, 640);
    packed_kernels().round_to_digits(1, 640, x.data(), digits.view());
    std::vector<float> y(530);
    packed_kernels().forward(1, digits.view(), w.view(), y.data());
    if (first.empty()) first = y;
    EXPECT_EQ(y, first) << count;
  }
  omp_set_num_threads(threads);
}

}  // namespace
}  // namespace stableqat::kernels
