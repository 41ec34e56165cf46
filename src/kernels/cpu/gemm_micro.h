// The innermost product: a tile of C held in registers. Operands come in 32-bit units along k: one fp32 value, two bf16 values, two
// 16-bit integers or four bytes; everything but one instruction is the same for them, where there is one for bytes (gemm_bytes.h).
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <bit>
#include <cstdint>

#include "kernels/cpu/vector.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

inline constexpr int kTileVectors = 2;
inline constexpr int kTileColumns = kTileVectors * kWidth;
inline constexpr int kTileRows = kWidth == 16 ? 12 : 6;  // as many accumulators as the registers hold

// sum + a * b, rounded once where the instruction set can. Said here because the compiler must not fuse anything else (integer results are
// the same bits everywhere).
inline Floats multiply_add(Floats a, Floats b, Floats sum) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, sum);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, sum);
#else
  return sum + a * b;
#endif
}

template <class Type>
inline constexpr bool kIsBytes = Type::kPerUnit == 4;

struct Fp32 {
  static constexpr int kPerUnit = 1;
  using Sum = Floats;
  static Sum add_product(Sum sum, std::int32_t a, Ints b) {
    return multiply_add(broadcast(std::bit_cast<float>(a)), std::bit_cast<Floats>(b), sum);
  }
  static Floats to_float(Sum sum) { return sum; }
};

struct Bf16 {
  static constexpr int kPerUnit = 2;
  using Sum = Floats;
  static Sum add_product(Sum sum, std::int32_t a, Ints b) {
    const Ints pair = broadcast(a);
    const Ints upper = broadcast(static_cast<std::int32_t>(0xffff0000U));
    sum = multiply_add(std::bit_cast<Floats>(pair << 16), std::bit_cast<Floats>(b << 16), sum);
    return multiply_add(std::bit_cast<Floats>(pair & upper), std::bit_cast<Floats>(b & upper), sum);
  }
  static Floats to_float(Sum sum) { return sum; }
};

struct Int16 {
  static constexpr int kPerUnit = 2;
  using Sum = Ints;
  static Sum add_product(Sum sum, std::int32_t a, Ints b) {
    const Ints pair = broadcast(a);
#if defined(__AVX512VNNI__)
    return std::bit_cast<Ints>(_mm512_dpwssd_epi32(std::bit_cast<__m512i>(sum), std::bit_cast<__m512i>(pair), std::bit_cast<__m512i>(b)));
#elif defined(__AVX512BW__)
    return sum + std::bit_cast<Ints>(_mm512_madd_epi16(std::bit_cast<__m512i>(pair), std::bit_cast<__m512i>(b)));
#elif defined(__AVX2__)
    return sum + std::bit_cast<Ints>(_mm256_madd_epi16(std::bit_cast<__m256i>(pair), std::bit_cast<__m256i>(b)));
#elif defined(__SSE2__)
    return sum + std::bit_cast<Ints>(_mm_madd_epi16(std::bit_cast<__m128i>(pair), std::bit_cast<__m128i>(b)));
#else
    return sum + (pair >> 16) * (b >> 16) + (pair << 16 >> 16) * (b << 16 >> 16);
#endif
  }
  static Floats to_float(Sum sum) { return __builtin_convertvector(sum, Floats); }
};

// 16-bit integers of at most 12 bits, in A and in B (gemm_round.h).
struct Int12 : Int16 {};

// Where units of A are: unit (row i, k) at data[i * row_stride + k * unit_stride]; one of the strides is 1.
struct UnitsA {
  const std::int32_t* data;
  std::int64_t row_stride;
  std::int64_t unit_stride;

  UnitsA at(std::int64_t row, std::int64_t unit) const { return {data + row * row_stride + unit * unit_stride, row_stride, unit_stride}; }
};

// What becomes of the sums: C (+)= sum * row_scale * column_scale, where these are not null.
struct OutputC {
  float* data;
  std::int64_t ld;
  bool accumulate;
  const float* row_scale;
  const float* column_scale;

  OutputC at(std::int64_t row, std::int64_t column) const {
    return {data + row * ld + column, ld, accumulate, row_scale == nullptr ? nullptr : row_scale + row,
            column_scale == nullptr ? nullptr : column_scale + column};
  }
};

inline void store_vector(const OutputC& c, int row, int first_column, Floats value) {
  float* out = c.data + row * c.ld + first_column;
  if (c.row_scale != nullptr) value *= broadcast(c.row_scale[row]);
  if (c.column_scale != nullptr) value *= load<Floats>(c.column_scale + first_column);
  if (c.accumulate) value += load<Floats>(out);
  store(out, value);
}

// The first `columns` of a tile's kTileColumns. Never inlined: beside the loop of the sums it would take their registers.
[[gnu::noinline]] inline void store_part(const OutputC& c, int rows, int columns, const float* sums) {
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      float value = sums[i * kTileColumns + j];
      if (c.row_scale != nullptr) value *= c.row_scale[i];
      if (c.column_scale != nullptr) value *= c.column_scale[j];
      float& out = c.data[i * c.ld + j];
      out = c.accumulate ? out + value : value;
    }
  }
}

// kRows x columns of C from `units` units of A's rows and a packed panel of B, [units, kTileColumns].
template <class Type, int kRows, bool kRowMajorA>
void multiply_tile(std::int64_t units, const UnitsA& a, const std::int32_t* b, const OutputC& c, int columns) {
  // C is rarely in a near cache: fetched here, its lines arrive while the sums are made.
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) __builtin_prefetch(c.data + i * c.ld + v * kWidth, 1);
  }
  typename Type::Sum sums[kRows][kTileVectors] = {};
  if constexpr (kIsBytes<Type>) {  // start values are behind the panel (gemm_bytes.h)
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kTileVectors; ++v) sums[i][v] = load<Ints>(b + units * kTileColumns + v * kWidth);
    }
  }
  // Rows in threes: base + stride and base + 2 * stride are addresses the CPU forms by itself.
  constexpr int kBases = (kRows + 2) / 3;
  const std::int32_t* base[kBases];
  const std::int64_t stride = kRowMajorA ? a.row_stride : 1;
#pragma GCC unroll 4
  for (int i = 0; i < kBases; ++i) base[i] = a.data + 3 * i * stride;
  const std::int64_t next = kRowMajorA ? 1 : a.unit_stride;
  for (std::int64_t unit = 0; unit < units; ++unit, b += kTileColumns) {
    Ints columns_of_b[kTileVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) columns_of_b[v] = load<Ints>(b + v * kWidth);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      const std::int32_t value = base[i / 3][(i % 3) * stride];
#pragma GCC unroll 2
      for (int v = 0; v < kTileVectors; ++v) sums[i][v] = Type::add_product(sums[i][v], value, columns_of_b[v]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kBases; ++i) base[i] += next;
  }
  if (columns == kTileColumns) {
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kTileVectors; ++v) store_vector(c, i, v * kWidth, Type::to_float(sums[i][v]));
    }
    return;
  }
  float values[kRows * kTileColumns];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) store(values + i * kTileColumns + v * kWidth, Type::to_float(sums[i][v]));
  }
  store_part(c, kRows, columns, values);
}

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
