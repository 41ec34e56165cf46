#include "stableqat/kernels/gemm.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../support/kernel_test.h"
#include "stableqat/base/half.h"

namespace stableqat::kernels {
namespace {

struct GemmShape {
  std::int64_t rows, n, m;  // y [rows, n] = x [rows, m] w^T, w [n, m]
};
// Single elements, remainders of every tile and register, more than one block of the longest sum, whole tiles.
constexpr GemmShape kGemmShapes[] = {{1, 1, 1},      {5, 7, 3},     {12, 32, 64},  {13, 45, 71},  {37, 33, 513}, {31, 1100, 17},
                                     {25, 64, 1290}, {96, 130, 96}, {7, 90, 1152}, {9, 90, 1152}, {1101, 38, 45}};

class Matrices {
 public:
  explicit Matrices(const GemmShape& shape)
      : shape_(shape), x(fill(shape.rows * shape.m)), w(fill(shape.n * shape.m)), dy(fill(shape.rows * shape.n)) {
    codes.resize(static_cast<std::size_t>(shape.n * shape.m));
    for (std::int8_t& code : codes) code = static_cast<std::int8_t>(std::uniform_int_distribution<int>(-128, 127)(random_));
    for (std::int64_t i = 0; i < shape.n; ++i) step.push_back(0.01f + 0.001f * static_cast<float>(i % 7));
  }

  std::vector<float> fill(std::int64_t count) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = std::normal_distribution<float>()(random_);
    return values;
  }

 private:
  GemmShape shape_;
  std::mt19937 random_{7};

 public:
  std::vector<float> x, w, dy, step;
  std::vector<std::int8_t> codes;
};

struct Rounded {
  std::vector<std::int16_t> codes;
  std::vector<float> scale;
  std::int64_t ld;
  QuantizedRows view() const { return {codes.data(), ld, scale.data()}; }
};

Rounded round_rows(const GemmKernels& kernels, const std::vector<float>& x, std::int64_t rows, const float* column_scale) {
  const std::int64_t k = static_cast<std::int64_t>(x.size()) / rows;
  Rounded result{{}, std::vector<float>(static_cast<std::size_t>(rows)), quantized_row_stride(k)};
  result.codes.assign(static_cast<std::size_t>(rows * result.ld), 99);
  kernels.quantize_rows(rows, k, x.data(), k, column_scale, result.codes.data(), result.scale.data());
  return result;
}

struct Bytes {
  std::vector<std::uint8_t> codes;
  std::vector<float> scale;
  std::int64_t ld;
  ByteRows view() const { return {codes.data(), ld, scale.data()}; }
  int code(std::int64_t row, std::int64_t column) const { return codes[static_cast<std::size_t>(row * ld + column)] - 128; }
};

Bytes round_to_bytes(const GemmKernels& kernels, const std::vector<float>& x, std::int64_t rows, const float* column_scale) {
  const std::int64_t k = static_cast<std::int64_t>(x.size()) / rows;
  Bytes result{{}, std::vector<float>(static_cast<std::size_t>(rows)), byte_row_stride(k)};
  result.codes.assign(static_cast<std::size_t>(rows * result.ld), 99);
  kernels.quantize_rows_to_bytes(rows, k, x.data(), k, column_scale, result.codes.data(), result.scale.data());
  return result;
}

// Compares c [m, n] with sum_k a(i, k) b(k, j) in double. Any order of k rounded additions stays within k * eps * sum |a b|.
template <class A, class B>
void expect_product(const std::vector<float>& c, std::int64_t m, std::int64_t n, std::int64_t k, A&& a, B&& b, double start) {
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = start;
      double magnitude = std::abs(start);
      for (std::int64_t l = 0; l < k; ++l) {
        const double term = a(i, l) * b(l, j);
        sum += term;
        magnitude += std::abs(term);
      }
      const double bound = static_cast<double>(k + 4) * std::numeric_limits<float>::epsilon() / 2 * magnitude;
      ASSERT_NEAR(c[static_cast<std::size_t>(i * n + j)], sum, bound) << i << ", " << j;
    }
  }
}

template <class Body>
void for_all(Body&& body) {
  for (const Isa isa : testing::supported_isas()) {
    for (const GemmShape& shape : kGemmShapes) {
      SCOPED_TRACE(std::string(isa_name(isa)) + " " + std::to_string(shape.rows) + " x " + std::to_string(shape.n) + " x " +
                   std::to_string(shape.m));
      body(gemm_kernels(isa), shape);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

double at(const std::vector<float>& matrix, std::int64_t ld, std::int64_t row, std::int64_t column) {
  return matrix[static_cast<std::size_t>(row * ld + column)];
}

TEST(Gemm, Fp32InAllLayouts) {
  for_all([](const GemmKernels& kernels, const GemmShape& s) {
    const Matrices in(s);
    std::vector<float> y(static_cast<std::size_t>(s.rows * s.n), 2.0f);
    ASSERT_TRUE(kernels.fp32(s.rows, s.n, s.m, {in.x.data(), s.m, false}, {in.w.data(), s.m, true}, y.data(), s.n, false));
    expect_product(
        y, s.rows, s.n, s.m, [&](auto i, auto l) { return at(in.x, s.m, i, l); }, [&](auto l, auto j) { return at(in.w, s.m, j, l); }, 0);
    std::vector<float> dx(static_cast<std::size_t>(s.rows * s.m), 2.0f);
    ASSERT_TRUE(kernels.fp32(s.rows, s.m, s.n, {in.dy.data(), s.n, false}, {in.w.data(), s.m, false}, dx.data(), s.m, true));
    expect_product(
        dx, s.rows, s.m, s.n, [&](auto i, auto l) { return at(in.dy, s.n, i, l); }, [&](auto l, auto j) { return at(in.w, s.m, l, j); }, 2);
    std::vector<float> dw(static_cast<std::size_t>(s.n * s.m), 2.0f);
    ASSERT_TRUE(kernels.fp32(s.n, s.m, s.rows, {in.dy.data(), s.n, true}, {in.x.data(), s.m, false}, dw.data(), s.m, true));
    expect_product(
        dw, s.n, s.m, s.rows, [&](auto i, auto l) { return at(in.dy, s.n, l, i); }, [&](auto l, auto j) { return at(in.x, s.m, l, j); }, 2);
  });
}

double to_bf16(double value) { return bfloat16_to_float(float_to_bfloat16(static_cast<float>(value))); }

TEST(Gemm, Bf16RoundsOperandsOnly) {
  for_all([](const GemmKernels& kernels, const GemmShape& s) {
    const Matrices in(s);
    std::vector<float> dw(static_cast<std::size_t>(s.n * s.m), 2.0f);
    ASSERT_TRUE(kernels.weight_gradient(GradientArithmetic::kBf16, s.rows, s.n, s.m, in.dy.data(), in.x.data(), dw.data(), true));
    expect_product(
        dw, s.n, s.m, s.rows, [&](auto i, auto l) { return to_bf16(at(in.dy, s.n, l, i)); },
        [&](auto l, auto j) { return to_bf16(at(in.x, s.m, l, j)); }, 2);
    std::vector<float> dx(static_cast<std::size_t>(s.rows * s.m), 2.0f);
    ASSERT_TRUE(kernels.input_gradient(GradientArithmetic::kBf16, s.rows, s.n, s.m, in.dy.data(), in.w.data(), dx.data(), true));
    expect_product(
        dx, s.rows, s.m, s.n, [&](auto i, auto l) { return to_bf16(at(in.dy, s.n, i, l)); },
        [&](auto l, auto j) { return to_bf16(at(in.w, s.m, l, j)); }, 2);
  });
}

// One of the vectors that are multiplied, element l being value(l): integers of 12 bits with a scale for each block. Errors are carried to
// the `carry`th element from there if that is not 0.
struct Int12Vector {
  template <class Value>
  Int12Vector(std::int64_t terms, std::int64_t carry, Value&& value) : block(int12_block(terms)) {
    for (std::int64_t first = 0; first < terms; first += block) {
      const std::int64_t end = std::min(first + block, terms);
      float largest = 0.0f;
      for (std::int64_t l = first; l < end; ++l) largest = std::max(largest, std::abs(value(l)));
      scales.push_back(largest / 2047.0f);
      std::vector<float> errors(static_cast<std::size_t>(terms));
      for (std::int64_t l = first; l < end; ++l) {
        const float before = carry > 0 && l - first >= carry ? errors[static_cast<std::size_t>(l - carry)] : 0.0f;
        const float exact = value(l) * (2047.0f / largest) + before;
        codes.push_back(std::lrint(exact));
        errors[static_cast<std::size_t>(l)] = exact - static_cast<float>(codes.back());
      }
    }
  }
  std::int64_t block;
  std::vector<std::int64_t> codes;
  std::vector<float> scales;
};

// Conversion and two scales are rounded in each block, then the sums are added up; that of one block is one number next to the exact one.
void expect_int12_product(float found, const Int12Vector& a, const Int12Vector& b) {
  double sum = 0, magnitude = 0;
  for (std::size_t block = 0; block < a.scales.size(); ++block) {
    std::int64_t exact = 0, terms = 0;
    const auto first = static_cast<std::size_t>(a.block) * block;
    for (std::size_t l = first; l < std::min(first + static_cast<std::size_t>(a.block), a.codes.size()); ++l) {
      exact += a.codes[l] * b.codes[l];
      terms += std::abs(a.codes[l] * b.codes[l]);
    }
    const double scale = double{a.scales[block]} * b.scales[block];
    sum += scale * static_cast<double>(exact);
    magnitude += scale * static_cast<double>(a.scales.size() == 1 ? std::abs(exact) : terms);
  }
  const double eps = std::numeric_limits<float>::epsilon() / 2;
  ASSERT_NEAR(found, sum, static_cast<double>(a.scales.size() + 2) * eps * magnitude);
}

TEST(Gemm, Int12BlocksAreExact) {
  static_assert(int12_block(512) == 512 && int12_block(513) == 320 && int12_block(1101) == 384 && int12_block(1) == 64 &&
                int12_block(0) == 64);
  for_all([](const GemmKernels& kernels, const GemmShape& s) {
    const Matrices in(s);
    const auto value = [](const std::vector<float>& matrix, std::int64_t place) { return matrix[static_cast<std::size_t>(place)]; };
    const auto column = [&](const std::vector<float>& matrix, std::int64_t rows, std::int64_t columns, std::int64_t j, std::int64_t carry) {
      return Int12Vector(rows, carry, [&](std::int64_t l) { return value(matrix, l * columns + j); });
    };
    std::vector<float> dw(static_cast<std::size_t>(s.n * s.m), 2.0f);
    std::vector<float> dx(static_cast<std::size_t>(s.rows * s.m), 2.0f);
    ASSERT_TRUE(kernels.weight_gradient(GradientArithmetic::kInt12, s.rows, s.n, s.m, in.dy.data(), in.x.data(), dw.data(), false));
    ASSERT_TRUE(kernels.input_gradient(GradientArithmetic::kInt12, s.rows, s.n, s.m, in.dy.data(), in.w.data(), dx.data(), false));
    for (std::int64_t j = 0; j < s.m; ++j) {
      const Int12Vector x = column(in.x, s.rows, s.m, j, 0);
      for (std::int64_t i = 0; i < s.n; ++i) expect_int12_product(value(dw, i * s.m + j), column(in.dy, s.rows, s.n, i, 1), x);
      const Int12Vector w = column(in.w, s.n, s.m, j, 0);
      for (std::int64_t i = 0; i < s.rows; ++i) {
        expect_int12_product(value(dx, i * s.m + j), {s.n, 16, [&](std::int64_t l) { return value(in.dy, i * s.n + l); }}, w);
      }
    }
    const std::vector<float> once = dw;
    ASSERT_TRUE(kernels.weight_gradient(GradientArithmetic::kInt12, s.rows, s.n, s.m, in.dy.data(), in.x.data(), dw.data(), true));
    if (s.rows > kGemmDepth) return;  // more blocks are added one by one
    for (std::size_t i = 0; i < dw.size(); ++i) ASSERT_EQ(dw[i], 2 * once[i]);
  });
}

// Sums of kGemmDepth products of the largest integers, which just fit, and columns that have no scale.
TEST(Gemm, Int12AtItsEnds) {
  for (const Isa isa : testing::supported_isas()) {
    const GemmKernels& kernels = gemm_kernels(isa);
    constexpr std::int64_t kColumns = 40;
    constexpr auto kSize = static_cast<std::size_t>(kGemmDepth * kColumns);
    std::vector<float> x(kSize, 3.0f), dy(kSize, -0.5f), dw(static_cast<std::size_t>(kColumns * kColumns));
    for (std::size_t row = 0; row < static_cast<std::size_t>(kGemmDepth); ++row) {
      x[row * kColumns + 1] = 0.0f;
      x[row * kColumns + 2] = 1e-34f;
    }
    x[7 * kColumns + 3] = std::numeric_limits<float>::quiet_NaN();
    dy[9 * kColumns + 33] = std::numeric_limits<float>::infinity();
    ASSERT_TRUE(kernels.weight_gradient(GradientArithmetic::kInt12, kGemmDepth, kColumns, kColumns, dy.data(), x.data(), dw.data(), false));
    for (std::int64_t i = 0; i < kColumns; ++i) {
      for (std::int64_t j = 0; j < kColumns; ++j) {
        const float found = dw[static_cast<std::size_t>(i * kColumns + j)];
        if (i == 33 || j == 3) {
          EXPECT_TRUE(std::isnan(found)) << isa_name(isa) << ": " << i << ", " << j;
        } else if (j == 1 || j == 2) {
          EXPECT_EQ(found, 0.0f) << isa_name(isa);
        } else {
          EXPECT_NEAR(found, -1.5 * kGemmDepth, 1.5 * kGemmDepth * 4 * std::numeric_limits<float>::epsilon()) << isa_name(isa);
        }
      }
    }
    // dx = dy w: the row of dy with an infinite value, and the columns of w as above.
    std::vector<float> dx(static_cast<std::size_t>(kColumns * kColumns));
    std::vector<float> transposed(kSize);
    for (std::size_t i = 0; i < kSize; ++i) transposed[i % kColumns * kGemmDepth + i / kColumns] = dy[i];
    ASSERT_TRUE(
        kernels.input_gradient(GradientArithmetic::kInt12, kColumns, kGemmDepth, kColumns, transposed.data(), x.data(), dx.data(), false));
    for (std::size_t i = 0; i < dx.size(); ++i) EXPECT_TRUE(dx[i] == dw[i] || (std::isnan(dx[i]) && std::isnan(dw[i]))) << i;
  }
}

TEST(Gemm, RowsAreRoundedToSixteenBits) {
  for_all([](const GemmKernels& kernels, const GemmShape& s) {
    const Matrices in(s);
    const Rounded rows = round_rows(kernels, in.dy, s.rows, in.step.data());
    for (std::int64_t i = 0; i < s.rows; ++i) {
      float largest = 0.0f;
      for (std::int64_t j = 0; j < s.n; ++j) {
        largest = std::max(largest, std::abs(in.dy[static_cast<std::size_t>(i * s.n + j)] * in.step[static_cast<std::size_t>(j)]));
      }
      ASSERT_EQ(rows.scale[static_cast<std::size_t>(i)], largest / 32767.0f);
      for (std::int64_t j = 0; j < rows.ld; ++j) {
        const int code = rows.codes[static_cast<std::size_t>(i * rows.ld + j)];
        if (j >= s.n) {
          ASSERT_EQ(code, 0);
          continue;
        }
        const float value = in.dy[static_cast<std::size_t>(i * s.n + j)] * in.step[static_cast<std::size_t>(j)];
        ASSERT_EQ(code, static_cast<int>(std::nearbyint(value * (32767.0f / largest)))) << i << ", " << j;
      }
    }
  });
}

TEST(Gemm, RowsAreRoundedToBytes) {
  for_all([](const GemmKernels& kernels, const GemmShape& s) {
    const Matrices in(s);
    const Bytes rows = round_to_bytes(kernels, in.dy, s.rows, in.step.data());
    for (std::int64_t i = 0; i < s.rows; ++i) {
      const auto value = [&](std::int64_t j) {
        return in.dy[static_cast<std::size_t>(i * s.n + j)] * in.step[static_cast<std::size_t>(j)];
      };
      float largest = 0.0f;
      for (std::int64_t j = 0; j < s.n; ++j) largest = std::max(largest, std::abs(value(j)));
      ASSERT_EQ(rows.scale[static_cast<std::size_t>(i)], largest / 127.0f);
      for (std::int64_t j = 0; j < rows.ld; ++j) {
        ASSERT_EQ(rows.code(i, j), j < s.n ? static_cast<int>(std::nearbyint(value(j) * (127.0f / largest))) : 0) << i << ", " << j;
      }
    }
  });
}

TEST(Gemm, RowsOfZerosTinyOrNotFinite) {
  for (const Isa isa : testing::supported_isas()) {
    std::vector<float> x(5 * 40, 0.0f);
    x[40 + 17] = std::numeric_limits<float>::quiet_NaN();
    x[80 + 3] = -std::numeric_limits<float>::infinity();
    x[120 + 7] = std::numeric_limits<float>::denorm_min();
    x[160 + 7] = -kSmallestRow;
    x[160 + 8] = kSmallestRow / 2;
    const Rounded rows = round_rows(gemm_kernels(isa), x, 5, nullptr);
    EXPECT_EQ(rows.scale[0], 0.0f);
    EXPECT_TRUE(std::isnan(rows.scale[1]));
    EXPECT_TRUE(std::isnan(rows.scale[2]));
    EXPECT_EQ(rows.scale[3], 0.0f);
    EXPECT_TRUE(std::all_of(rows.codes.begin(), rows.codes.begin() + 4 * rows.ld, [](int code) { return code == 0; }));
    EXPECT_EQ(rows.codes[static_cast<std::size_t>(4 * rows.ld + 7)], -32767);
    EXPECT_NEAR(rows.codes[static_cast<std::size_t>(4 * rows.ld + 8)], 16384, 1);
    const Bytes bytes = round_to_bytes(gemm_kernels(isa), x, 5, nullptr);
    EXPECT_EQ(bytes.scale[0], 0.0f);
    EXPECT_TRUE(std::isnan(bytes.scale[1]));
    EXPECT_TRUE(std::isnan(bytes.scale[2]));
    EXPECT_EQ(bytes.scale[3], 0.0f);
    EXPECT_TRUE(std::all_of(bytes.codes.begin(), bytes.codes.begin() + 4 * bytes.ld, [](int code) { return code == 128; }));
    EXPECT_EQ(bytes.code(4, 7), -127);
    EXPECT_NEAR(bytes.code(4, 8), 64, 1);
  }
}

// The largest sums there can be: they overflow 32 bits unless blocks are short enough.
TEST(Gemm, LargestIntegerSums) {
  const GemmShape s{3, 40, 2048};
  for (const Isa isa : testing::supported_isas()) {
    const GemmKernels& kernels = gemm_kernels(isa);
    const std::vector<float> ones(static_cast<std::size_t>(s.m), 1.0f);
    const std::vector<std::int8_t> codes(static_cast<std::size_t>(s.n * s.m), -128);
    const Rounded x = round_rows(kernels, std::vector<float>(static_cast<std::size_t>(s.rows * s.m), 1.0f), s.rows, nullptr);
    std::vector<float> y(static_cast<std::size_t>(s.rows * s.n));
    ASSERT_TRUE(kernels.integer_forward(s.rows, x.view(), {codes.data(), s.n, s.m}, ones.data(), y.data(), s.n, false));
    const double eps = std::numeric_limits<float>::epsilon();
    for (const float value : y) ASSERT_NEAR(value, -128.0 * static_cast<double>(s.m), 8 * eps * 128.0 * static_cast<double>(s.m));
  }
}

// Likewise for bytes; sums of pairs overflow 16 bits unless large codes are told from small ones.
TEST(Gemm, LargestByteSums) {
  const GemmShape s{3, 40, 2048};
  const std::vector<float> ones(static_cast<std::size_t>(s.m), 1.0f);
  for (const Isa isa : testing::supported_isas()) {
    const GemmKernels& kernels = gemm_kernels(isa);
    for (const float sign : {1.0f, -1.0f}) {
      const Bytes x = round_to_bytes(kernels, std::vector<float>(static_cast<std::size_t>(s.rows * s.m), sign), s.rows, nullptr);
      for (const int code : {15, 16, 17, -16, -17, 127, -128}) {
        std::vector<std::int8_t> codes(static_cast<std::size_t>(s.n * s.m), static_cast<std::int8_t>(code));
        std::vector<float> y(static_cast<std::size_t>(s.rows * s.n));
        ASSERT_TRUE(kernels.byte_forward(s.rows, x.view(), {codes.data(), s.n, s.m}, ones.data(), y.data(), s.n, false));
        const double expected = static_cast<double>(sign) * code * static_cast<double>(s.m);
        for (const float value : y) {
          ASSERT_NEAR(value, expected, 8 * std::numeric_limits<float>::epsilon() * std::abs(expected)) << isa_name(isa) << ' ' << code;
        }
      }
    }
  }
}

// Dequantized on the way, a weight gives what it gives when it is dequantized before.
TEST(Gemm, CodesEqualTheDequantizedWeight) {
  for_all([](const GemmKernels& kernels, const GemmShape& s) {
    for (const std::int64_t group : {s.m, std::int64_t{32}, std::int64_t{128}}) {
      if (s.m % group != 0) continue;
      Matrices in(s);
      const std::int64_t groups = s.m / group;
      const std::vector<float> step = in.fill(s.n * groups);
      std::vector<float> w(in.w.size());
      for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(in.codes[i]) * step[i / static_cast<std::size_t>(group)];
      const ScaledCodes scaled{{in.codes.data(), s.n, s.m}, step.data(), group};

      std::vector<float> y(static_cast<std::size_t>(s.rows * s.n), 2.0f);
      ASSERT_TRUE(kernels.codes_forward(s.rows, in.x.data(), scaled, y.data()));
      if (s.rows < kFewRows) {
        expect_product(
            y, s.rows, s.n, s.m, [&](auto i, auto l) { return at(in.x, s.m, i, l); }, [&](auto l, auto j) { return at(w, s.m, j, l); }, 0);
      } else {
        std::vector<float> expected(y.size());
        ASSERT_TRUE(kernels.fp32(s.rows, s.n, s.m, {in.x.data(), s.m, false}, {w.data(), s.m, true}, expected.data(), s.n, false));
        ASSERT_EQ(y, expected) << "group " << group;
      }
      std::vector<float> dx(static_cast<std::size_t>(s.rows * s.m), 2.0f);
      std::vector<float> expected_dx = dx;
      ASSERT_TRUE(kernels.codes_input_gradient(s.rows, in.dy.data(), scaled, dx.data(), true));
      ASSERT_TRUE(kernels.fp32(s.rows, s.m, s.n, {in.dy.data(), s.n, false}, {w.data(), s.m, false}, expected_dx.data(), s.m, true));
      ASSERT_EQ(dx, expected_dx) << "group " << group;
    }
  });
}

// One block: conversion and two scales, each rounded once. More: each partial sum likewise, and the additions.
void expect_scaled_sum(float found, std::int64_t sum, std::int64_t magnitude, std::int64_t terms, double scale) {
  const std::int64_t blocks = (terms + kGemmDepth - 1) / kGemmDepth;
  const double eps = std::numeric_limits<float>::epsilon() / 2;
  const double bound =
      blocks == 1 ? 3 * eps * std::abs(static_cast<double>(sum)) : static_cast<double>(blocks + 3) * eps * static_cast<double>(magnitude);
  ASSERT_NEAR(found, static_cast<double>(sum) * scale, bound * scale);
}

// y [rows, n] = x w_q^T and dx [rows, m] = dy w_q, where x(i, l) and dy(i, l) are the rounded rows' integers.
template <class X, class Dy>
void expect_integer_products(const GemmShape& s, const Matrices& in, const std::vector<float>& y, const std::vector<float>& dx, X&& x,
                             const std::vector<float>& x_scale, Dy&& dy, const std::vector<float>& dy_scale) {
  const auto code = [&](std::int64_t row, std::int64_t column) {
    return std::int64_t{in.codes[static_cast<std::size_t>(row * s.m + column)]};
  };
  const auto expect = [](float found, std::int64_t terms, double scale, auto&& term) {
    std::int64_t sum = 0, magnitude = 0;
    for (std::int64_t l = 0; l < terms; ++l) {
      sum += term(l);
      magnitude += std::abs(term(l));
    }
    expect_scaled_sum(found, sum, magnitude, terms, scale);
  };
  for (std::int64_t i = 0; i < s.rows; ++i) {
    const auto ui = static_cast<std::size_t>(i);
    for (std::int64_t j = 0; j < s.n; ++j) {
      expect(y[static_cast<std::size_t>(i * s.n + j)], s.m, double{x_scale[ui]} * in.step[static_cast<std::size_t>(j)],
             [&](std::int64_t l) { return x(i, l) * code(j, l); });
    }
    for (std::int64_t j = 0; j < s.m; ++j) {
      expect(dx[static_cast<std::size_t>(i * s.m + j)], s.n, double{dy_scale[ui]}, [&](std::int64_t l) { return dy(i, l) * code(l, j); });
    }
  }
}

// Integer sums are exact: a block of up to kGemmDepth terms must come out as the one fp32 number next to them.
TEST(Gemm, IntegerBlocksAreExact) {
  for_all([](const GemmKernels& kernels, const GemmShape& s) {
    const Matrices in(s);
    const GemmCodes q{in.codes.data(), s.n, s.m};
    const Rounded x = round_rows(kernels, in.x, s.rows, nullptr);
    const Rounded dy = round_rows(kernels, in.dy, s.rows, in.step.data());
    std::vector<float> y(static_cast<std::size_t>(s.rows * s.n), 2.0f);
    std::vector<float> dx(static_cast<std::size_t>(s.rows * s.m), 2.0f);
    ASSERT_TRUE(kernels.integer_forward(s.rows, x.view(), q, in.step.data(), y.data(), s.n, false));
    ASSERT_TRUE(kernels.integer_input_gradient(s.rows, dy.view(), q, dx.data(), s.m, false));
    const auto code = [](const Rounded& rows) {
      return [&rows](std::int64_t i, std::int64_t l) { return std::int64_t{rows.codes[static_cast<std::size_t>(i * rows.ld + l)]}; };
    };
    expect_integer_products(s, in, y, dx, code(x), x.scale, code(dy), dy.scale);
  });
}

TEST(Gemm, ByteBlocksAreExact) {
  for (const int largest : {3, 16, 128}) {
    for_all([largest](const GemmKernels& kernels, const GemmShape& s) {
      Matrices in(s);
      for (std::int8_t& code : in.codes) code = static_cast<std::int8_t>(code % (largest + 1));
      const GemmCodes q{in.codes.data(), s.n, s.m};
      const Bytes x = round_to_bytes(kernels, in.x, s.rows, nullptr);
      const Bytes dy = round_to_bytes(kernels, in.dy, s.rows, in.step.data());
      std::vector<float> y(static_cast<std::size_t>(s.rows * s.n), 2.0f);
      std::vector<float> dx(static_cast<std::size_t>(s.rows * s.m), 2.0f);
      ASSERT_TRUE(kernels.byte_forward(s.rows, x.view(), q, in.step.data(), y.data(), s.n, false));
      ASSERT_TRUE(kernels.byte_input_gradient(s.rows, dy.view(), q, dx.data(), s.m, false));
      const auto code = [](const Bytes& rows) { return [&rows](std::int64_t i, std::int64_t l) { return std::int64_t{rows.code(i, l)}; }; };
      expect_integer_products(s, in, y, dx, code(x), x.scale, code(dy), dy.scale);
    });
  }
}

TEST(Gemm, WeightGradientOfRoundedRows) {
  for_all([](const GemmKernels& kernels, const GemmShape& s) {
    const Matrices in(s);
    const Rounded x = round_rows(kernels, in.x, s.rows, nullptr);
    const Bytes bytes = round_to_bytes(kernels, in.x, s.rows, nullptr);
    const auto value = [&](std::int64_t row, std::int64_t column) {
      return static_cast<float>(x.codes[static_cast<std::size_t>(row * x.ld + column)]) * x.scale[static_cast<std::size_t>(row)];
    };
    const auto byte_value = [&](std::int64_t row, std::int64_t column) {
      return static_cast<float>(bytes.code(row, column)) * bytes.scale[static_cast<std::size_t>(row)];
    };
    const auto matrix = [&](auto&& element) {
      std::vector<float> values;
      for (std::int64_t i = 0; i < s.rows * s.m; ++i) values.push_back(element(i / s.m, i % s.m));
      return values;
    };
    for (const GradientArithmetic arithmetic : {GradientArithmetic::kFp32, GradientArithmetic::kBf16, GradientArithmetic::kInt12}) {
      const auto expected = [&](const std::vector<float>& values) {
        std::vector<float> dw(static_cast<std::size_t>(s.n * s.m), 2.0f);
        EXPECT_TRUE(kernels.weight_gradient(arithmetic, s.rows, s.n, s.m, in.dy.data(), values.data(), dw.data(), true));
        return dw;
      };
      std::vector<float> dw(static_cast<std::size_t>(s.n * s.m), 2.0f);
      ASSERT_TRUE(kernels.integer_weight_gradient(arithmetic, s.rows, s.n, s.m, in.dy.data(), x.view(), dw.data(), true));
      ASSERT_EQ(dw, expected(matrix(value)));
      dw.assign(dw.size(), 2.0f);
      ASSERT_TRUE(kernels.byte_weight_gradient(arithmetic, s.rows, s.n, s.m, in.dy.data(), bytes.view(), dw.data(), true));
      ASSERT_EQ(dw, expected(matrix(byte_value)));
    }
  });
}

TEST(Gemm, GradientsInFp32AreThoseProducts) {
  for_all([](const GemmKernels& kernels, const GemmShape& s) {
    const Matrices in(s);
    std::vector<float> dw(static_cast<std::size_t>(s.n * s.m)), dx(static_cast<std::size_t>(s.rows * s.m));
    std::vector<float> expected_dw = dw, expected_dx = dx;
    ASSERT_TRUE(kernels.fp32(s.n, s.m, s.rows, {in.dy.data(), s.n, true}, {in.x.data(), s.m, false}, expected_dw.data(), s.m, false));
    ASSERT_TRUE(kernels.fp32(s.rows, s.m, s.n, {in.dy.data(), s.n, false}, {in.w.data(), s.m, false}, expected_dx.data(), s.m, false));
    ASSERT_TRUE(kernels.weight_gradient(GradientArithmetic::kFp32, s.rows, s.n, s.m, in.dy.data(), in.x.data(), dw.data(), false));
    ASSERT_TRUE(kernels.input_gradient(GradientArithmetic::kFp32, s.rows, s.n, s.m, in.dy.data(), in.w.data(), dx.data(), false));
    ASSERT_EQ(dw, expected_dw);
    ASSERT_EQ(dx, expected_dx);
  });
}

// Neither the instruction set nor the number of threads may change what integer arithmetic gives; threads may not change fp32 either.
TEST(Gemm, SameBitsOnEveryInstructionSetAndThreadCount) {
  const GemmShape s{130, 210, 1290};
  const Matrices in(s);
  const int threads = omp_get_max_threads();
  std::vector<float> first, first_bytes, first_dw, first_dx;
  for (const Isa isa : testing::supported_isas()) {
    const GemmKernels& kernels = gemm_kernels(isa);
    std::vector<float> first_fp32;
    for (const int count : {1, 2, 5}) {
      omp_set_num_threads(count);
      const Rounded x = round_rows(kernels, in.x, s.rows, nullptr);
      std::vector<float> y(static_cast<std::size_t>(s.rows * s.n));
      EXPECT_TRUE(kernels.integer_forward(s.rows, x.view(), {in.codes.data(), s.n, s.m}, in.step.data(), y.data(), s.n, false));
      if (first.empty()) first = y;
      EXPECT_EQ(y, first) << isa_name(isa) << ", " << count << " threads";
      const Bytes bytes = round_to_bytes(kernels, in.x, s.rows, nullptr);
      EXPECT_TRUE(kernels.byte_forward(s.rows, bytes.view(), {in.codes.data(), s.n, s.m}, in.step.data(), y.data(), s.n, false));
      if (first_bytes.empty()) first_bytes = y;
      EXPECT_EQ(y, first_bytes) << isa_name(isa) << ", " << count << " threads";
      std::vector<float> dw(static_cast<std::size_t>(s.n * s.m)), dx(static_cast<std::size_t>(s.rows * s.m));
      EXPECT_TRUE(kernels.weight_gradient(GradientArithmetic::kInt12, s.rows, s.n, s.m, in.dy.data(), in.x.data(), dw.data(), false));
      if (first_dw.empty()) first_dw = dw;
      EXPECT_EQ(dw, first_dw) << isa_name(isa) << ", " << count << " threads";
      EXPECT_TRUE(kernels.input_gradient(GradientArithmetic::kInt12, s.rows, s.n, s.m, in.dy.data(), in.w.data(), dx.data(), false));
      if (first_dx.empty()) first_dx = dx;
      EXPECT_EQ(dx, first_dx) << isa_name(isa) << ", " << count << " threads";
      EXPECT_TRUE(kernels.fp32(s.rows, s.n, s.m, {in.x.data(), s.m, false}, {in.w.data(), s.m, true}, y.data(), s.n, false));
      if (first_fp32.empty()) first_fp32 = y;
      EXPECT_EQ(y, first_fp32) << isa_name(isa) << ", " << count << " threads";
    }
  }
  omp_set_num_threads(threads);
}

}  // namespace
}  // namespace stableqat::kernels
