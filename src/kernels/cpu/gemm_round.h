// Operands rounded before or while they are packed: rows and columns to integers with a scale each, values to bf16.
#pragma once

#include "kernels/cpu/gemm_blocked.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

inline constexpr float kRoundingMagic = 12582912.0f;  // 1.5 * 2^23: adding it leaves no bits for the fraction
inline constexpr float kLargestInt12 = 2047.0f;
static_assert(2048LL * 2047 * kGemmDepth < 1LL << 31);  // an error that is carried may make 2048 of 2047

inline std::int32_t magnitude_bits(float value) { return bits_of(value) & 0x7fffffff; }

// From the largest of some values' magnitude_bits, whose order is that of magnitudes: NaN if any of them is NaN or infinite.
inline float largest_of_bits(std::int32_t bits) {
  const float magnitude = std::bit_cast<float>(bits);
  return magnitude + 0.0f * magnitude;
}

template <class Value>
float largest_magnitude(std::int64_t k, Value value) {
  std::int32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (std::int64_t j = 0; j < k; ++j) {
    const std::int32_t magnitude = magnitude_bits(value(j));
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest_of_bits(largest);
}

// How a row's integers are kept.
struct AsInt16 {
  using Code = std::int16_t;
  static constexpr float kLargest = 32767.0f;
  static constexpr std::int32_t kOffset = 0;
  static std::int64_t stride(std::int64_t k) { return quantized_row_stride(k); }
};
struct AsByte {
  using Code = std::uint8_t;
  static constexpr float kLargest = 127.0f;
  static constexpr std::int32_t kOffset = kByteOffset;
  static std::int64_t stride(std::int64_t k) { return byte_row_stride(k); }
};

template <class As, class Value>
void quantize_row(std::int64_t k, Value value, typename As::Code* codes, float* scale) {
  const float largest = largest_magnitude(k, value);
  const std::int64_t stride = As::stride(k);
  if (!(largest >= kSmallestRow)) {
    *scale = 0.0f * largest;  // or NaN
    for (std::int64_t j = 0; j < stride; ++j) codes[j] = As::kOffset;
    return;
  }
  *scale = largest / As::kLargest;
  const float inverse = As::kLargest / largest;
#pragma omp simd
  for (std::int64_t j = 0; j < k; ++j) {
    const float rounded = (value(j) * inverse + kRoundingMagic) - kRoundingMagic;
    codes[j] = static_cast<typename As::Code>(static_cast<std::int32_t>(rounded) + As::kOffset);
  }
  for (std::int64_t j = k; j < stride; ++j) codes[j] = As::kOffset;
}

template <class As>
void quantize_all_rows(std::int64_t m, std::int64_t k, const float* x, std::int64_t ld, const float* column_scale, typename As::Code* codes,
                       float* scale) {
#pragma omp parallel for schedule(static) if (m * k >= 32768)
  for (std::int64_t i = 0; i < m; ++i) {
    const float* row = x + i * ld;
    typename As::Code* out = codes + i * As::stride(k);
    if (column_scale == nullptr) {
      quantize_row<As>(
          k, [row](std::int64_t j) { return row[j]; }, out, scale + i);
    } else {
      quantize_row<As>(
          k, [row, column_scale](std::int64_t j) { return row[j] * column_scale[j]; }, out, scale + i);
    }
  }
}

// Rounds a value in units of its scale, plus the error of the one before it, to a 32-bit number whose lower half is the code.
inline std::int32_t round_carrying(float value, float& error) {
  const float exact = value + error;
  const float shifted = exact + kRoundingMagic;
  error = exact - (shifted - kRoundingMagic);
  return bits_of(shifted);
}

// Scales of some columns that are rounded to 12 bits.
template <int kMost>
struct ColumnScales {
  // From largest[j], the largest of a column's magnitude_bits. A column that has no scale (quantize_rows) gets codes 0.
  void set(int count, const std::int32_t* largest) {
    for (int j = 0; j < count; ++j) {
      const float magnitude = largest_of_bits(largest[j]);
      const bool usable = magnitude >= kSmallestRow;
      scale[j] = usable ? magnitude / kLargestInt12 : 0.0f * magnitude;
      inverse[j] = usable ? kLargestInt12 / magnitude : 0.0f;
      kept_bits[j] = usable ? -1 : 0;
    }
  }
  // In units of the scale.
  float value(int j, float value) const { return std::bit_cast<float>(bits_of(value) & kept_bits[j]) * inverse[j]; }
  std::int32_t pair(int j, float first, float second) const {
    return (bits_of(value(j, first) + kRoundingMagic) & 0xffff) | bits_of(value(j, second) + kRoundingMagic) << 16;
  }

  alignas(64) float scale[kMost];
  alignas(64) float inverse[kMost];
  alignas(64) std::int32_t kept_bits[kMost];
};

// B [k, n], a real matrix given by its rows, whose columns are rounded to 12 bits over the rows of each block.
template <class RowsAsFp32>
struct ColumnsAsInt12 {
  static constexpr bool kTransposed = false;
  RowsAsFp32 rows;
  std::int64_t k;

  // A panel, and its columns' scales behind it.
  void pack(std::int64_t first_unit, std::int64_t units, std::int64_t column, int columns, std::int32_t* panel) const {
    if (columns == kTileColumns) {
      pack_columns(first_unit, units, column, std::integral_constant<int, kTileColumns>{}, panel);
    } else {
      for (std::int64_t i = 0; i < (units + 1) * kTileColumns; ++i) panel[i] = 0;
      pack_columns(first_unit, units, column, columns, panel);
    }
  }

 private:
  template <class Count>
  void pack_columns(std::int64_t first_unit, std::int64_t units, std::int64_t column, Count columns, std::int32_t* panel) const {
    const std::int64_t first = 2 * first_unit;
    const std::int64_t end = first + 2 * units < k ? first + 2 * units : k;
    alignas(64) std::int32_t largest[kTileColumns] = {};
    for (std::int64_t row = first; row < end; ++row) {
#pragma omp simd
      for (int j = 0; j < columns; ++j) {
        const std::int32_t magnitude = magnitude_bits(rows.value(row, column + j));
        largest[j] = magnitude > largest[j] ? magnitude : largest[j];
      }
    }
    ColumnScales<kTileColumns> scales;
    scales.set(columns, largest);
    for (std::int64_t u = 0; u < units; ++u) {
      const std::int64_t row = first + 2 * u;
      if (row + 1 < end) {
#pragma omp simd
        for (int j = 0; j < columns; ++j) {
          panel[u * kTileColumns + j] = scales.pair(j, rows.value(row, column + j), rows.value(row + 1, column + j));
        }
      } else {
        for (int j = 0; j < columns; ++j) panel[u * kTileColumns + j] = scales.pair(j, rows.value(row, column + j), 0.0f);
      }
    }
    for (int j = 0; j < columns; ++j) panel[units * kTileColumns + j] = bits_of(scales.scale[j]);
  }
};

// dy [rows, n] with columns rounded to 12 bits over the rows of each block, rows in pairs: units [ceil(rows / 2), n], scale [blocks, n].
//
// Errors are carried down the columns, as they are along rows below: a logit's gradient is near 1 at the target, and very small values that
// all became zeros would be missed in the sum.
inline void round_columns(std::int64_t rows, std::int64_t n, const float* dy, std::int32_t* units, float* scale) {
  constexpr std::int64_t kColumns =
      128;  // taken at a time: some cache lines of each row, which stay in a near cache until they are rounded
  const std::int64_t rows_per_block = int12_block(rows);
  const std::int64_t parts = ceil_div(n, kColumns);
#pragma omp parallel for collapse(2) schedule(static) if (rows * n >= 32768)
  for (std::int64_t block = 0; block < ceil_div(rows, rows_per_block); ++block) {
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t first = block * rows_per_block;
      const std::int64_t end = first + rows_per_block < rows ? first + rows_per_block : rows;
      const std::int64_t column = part * kColumns;
      const int columns = static_cast<int>(n - column < kColumns ? n - column : kColumns);
      alignas(64) std::int32_t largest[kColumns] = {};
      for (std::int64_t row = first; row < end; ++row) {
        const float* const values = dy + row * n + column;
#pragma omp simd
        for (int j = 0; j < columns; ++j) {
          const std::int32_t magnitude = magnitude_bits(values[j]);
          largest[j] = magnitude > largest[j] ? magnitude : largest[j];
        }
      }
      ColumnScales<kColumns> scales;
      scales.set(columns, largest);
      for (int j = 0; j < columns; ++j) scale[block * n + column + j] = scales.scale[j];
      alignas(64) float error[kColumns] = {};
      for (std::int64_t row = first; row < end; row += 2) {
        const float* const values = dy + row * n + column;
        std::int32_t* const out = units + row / 2 * n + column;
        if (row + 1 < end) {
#pragma omp simd
          for (int j = 0; j < columns; ++j) {
            const std::int32_t low = round_carrying(scales.value(j, values[j]), error[j]);
            out[j] = (low & 0xffff) | round_carrying(scales.value(j, values[n + j]), error[j]) << 16;
          }
        } else {
          for (int j = 0; j < columns; ++j) out[j] = round_carrying(scales.value(j, values[j]), error[j]) & 0xffff;
        }
      }
    }
  }
}

// `count` values of a row, each error carried to the 16th value from there.
inline void round_row_block(std::int64_t count, const float* values, std::int16_t* codes, float* scale) {
  const float largest = largest_magnitude(count, [values](std::int64_t j) { return values[j]; });
  if (!(largest >= kSmallestRow)) {
    *scale = 0.0f * largest;  // or NaN
    for (std::int64_t j = 0; j < count; ++j) codes[j] = 0;
    return;
  }
  *scale = largest / kLargestInt12;
  const float inverse = kLargestInt12 / largest;
  constexpr int kCarry = 16;
  alignas(64) float error[kCarry] = {};
  std::int64_t j = 0;
  for (; j + kCarry <= count; j += kCarry) {
#pragma omp simd
    for (int lane = 0; lane < kCarry; ++lane) {
      codes[j + lane] = static_cast<std::int16_t>(round_carrying(values[j + lane] * inverse, error[lane]));
    }
  }
  for (int lane = 0; j + lane < count; ++lane) {
    codes[j + lane] = static_cast<std::int16_t>(round_carrying(values[j + lane] * inverse, error[lane]));
  }
}

// dy [rows, n] rounded to 12 bits along its rows, block by block of n: codes [rows, stride] with zeros behind, scale [blocks, rows].
inline void round_row_blocks(std::int64_t rows, std::int64_t n, const float* dy, std::int64_t stride, std::int16_t* codes, float* scale) {
  const std::int64_t columns_per_block = int12_block(n);
#pragma omp parallel for schedule(static) if (rows * n >= 32768)
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t first = 0; first < n; first += columns_per_block) {
      round_row_block(n - first < columns_per_block ? n - first : columns_per_block, dy + i * n + first, codes + i * stride + first,
                      scale + first / columns_per_block * rows + i);
    }
    for (std::int64_t j = n; j < stride; ++j) codes[i * stride + j] = 0;
  }
}

// dy [rows, n] rounded to bf16, rows in pairs: [units, n], or its transpose with `stride` units a row and zeros behind.
inline void pair_rows(std::int64_t rows, std::int64_t n, const float* dy, std::int32_t* out) {
  const std::int64_t units = ceil_div(rows, 2);
  const RowsAsBf16<Fp32Rows> source{{dy, n}, rows};
#pragma omp parallel for schedule(static) if (units * n >= 32768)
  for (std::int64_t u = 0; u < units; ++u) {
    std::int32_t* row = out + u * n;
    if (2 * u + 1 < rows) {
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) row[i] = bf16_pair(dy[2 * u * n + i], dy[(2 * u + 1) * n + i]);
    } else {
      for (std::int64_t i = 0; i < n; ++i) row[i] = source.unit(u, i);
    }
  }
}

inline void pair_rows_transposed(std::int64_t rows, std::int64_t n, const float* dy, std::int64_t stride, std::int32_t* out) {
  const std::int64_t units = ceil_div(rows, 2);
  const RowsAsBf16<Fp32Rows> source{{dy, n}, rows};
#pragma omp parallel for schedule(static) if (units * n >= 32768)
  for (std::int64_t column = 0; column < n; column += kWidth) {
    std::int64_t u = 0;
    if (column + kWidth <= n) {
      for (; u + kWidth <= rows / 2; u += kWidth) {
        Ints block[kWidth];
        for (int i = 0; i < kWidth; ++i) {
          alignas(64) std::int32_t row[kWidth];
          const float* first = dy + 2 * (u + i) * n + column;
#pragma omp simd
          for (int j = 0; j < kWidth; ++j) row[j] = bf16_pair(first[j], first[n + j]);
          block[i] = load<Ints>(row);
        }
        transpose(block);
        for (int j = 0; j < kWidth; ++j) store(out + (column + j) * stride + u, block[j]);
      }
    }
    for (std::int64_t j = column; j < column + kWidth && j < n; ++j) {
      for (std::int64_t rest = u; rest < stride; ++rest) out[j * stride + rest] = rest < units ? source.unit(rest, j) : 0;
    }
  }
}

// dy [rows, n] rounded to bf16, paired along its rows: `stride` units a row, zeros behind.
inline void pair_columns(std::int64_t rows, std::int64_t n, const float* dy, std::int64_t stride, std::int32_t* units) {
#pragma omp parallel for schedule(static) if (rows * n >= 32768)
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* const row = dy + i * n;
    std::int32_t* const out = units + i * stride;
#pragma omp simd
    for (std::int64_t u = 0; u < n / 2; ++u) out[u] = bf16_pair(row[2 * u], row[2 * u + 1]);
    if (n % 2 != 0) out[n / 2] = bf16_pair(row[n - 1], 0.0f);
    for (std::int64_t u = ceil_div(n, 2); u < stride; ++u) out[u] = 0;
  }
}

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
