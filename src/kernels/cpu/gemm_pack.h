// Packs columns of B into panels [units, kTileColumns] of 32-bit units, zeros beyond its edges.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/vector.h"
#include "stableqat/base/half.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

inline std::int32_t bits_of(float value) { return std::bit_cast<std::int32_t>(value); }

// Two fp32 values as bf16 in one unit, the first in the low half.
inline std::int32_t bf16_pair(float first, float second) {
  return static_cast<std::int32_t>(float_to_bfloat16(first) | static_cast<std::uint32_t>(float_to_bfloat16(second)) << 16);
}
inline std::int32_t code_pair(std::int8_t first, std::int8_t second) {
  return (static_cast<std::int32_t>(first) & 0xffff) | static_cast<std::int32_t>(static_cast<std::uint32_t>(second) << 16);
}

// B given as it is, [k, n]: unit u of column j is made of rows u * kPerUnit ... of that column.
template <class Source>
void pack_panel_rows(const Source& source, std::int64_t first_unit, std::int64_t units, std::int64_t column, int columns,
                     std::int32_t* panel) {
  for (std::int64_t u = 0; u < units; ++u, panel += kTileColumns) {
    if (columns == kTileColumns) {
#pragma omp simd
      for (int j = 0; j < kTileColumns; ++j) panel[j] = source.unit(first_unit + u, column + j);
      continue;
    }
    for (int j = 0; j < kTileColumns; ++j) panel[j] = j < columns ? source.unit(first_unit + u, column + j) : 0;
  }
}

// B given as its transpose, [n, k]: kWidth units of kWidth columns at a time are loaded along k and transposed.
template <class Source>
void pack_panel_transposed(const Source& source, std::int64_t first_unit, std::int64_t units, std::int64_t column, int columns,
                           std::int32_t* panel) {
  std::int64_t whole = 0;
  if (columns == kTileColumns) {
    for (; whole + kWidth <= units && source.has_vector(first_unit + whole); whole += kWidth) {
      for (int v = 0; v < kTileVectors; ++v) {
        Ints block[kWidth];
        for (int j = 0; j < kWidth; ++j) block[j] = source.vector(first_unit + whole, column + v * kWidth + j);
        transpose(block);
        for (int u = 0; u < kWidth; ++u) store(panel + (whole + u) * kTileColumns + v * kWidth, block[u]);
      }
    }
  }
  for (std::int64_t u = whole; u < units; ++u) {
    for (int j = 0; j < kTileColumns; ++j) panel[u * kTileColumns + j] = j < columns ? source.unit(first_unit + u, column + j) : 0;
  }
}

template <class Source>
void pack_panel(const Source& source, std::int64_t first_unit, std::int64_t units, std::int64_t column, int columns, std::int32_t* panel) {
  if constexpr (requires { source.pack(first_unit, units, column, columns, panel); }) {
    source.pack(first_unit, units, column, columns, panel);
  } else if constexpr (Source::kTransposed) {
    pack_panel_transposed(source, first_unit, units, column, columns, panel);
  } else if constexpr (requires { source.panel(column); }) {
    pack_panel_rows(source.panel(column), first_unit, units, column, columns, panel);
  } else {
    pack_panel_rows(source, first_unit, units, column, columns, panel);
  }
}

// The sources: unit(u, j) of column j of B; those that hold its transpose also kWidth units u, u + 1, ... at once.

struct Fp32Rows {
  static constexpr bool kTransposed = false;
  const float* data;
  std::int64_t ld;

  float value(std::int64_t row, std::int64_t j) const { return data[row * ld + j]; }
  std::int32_t unit(std::int64_t u, std::int64_t j) const { return bits_of(value(u, j)); }
};

struct Fp32Transposed {
  static constexpr bool kTransposed = true;
  const float* data;
  std::int64_t ld;

  std::int32_t unit(std::int64_t u, std::int64_t j) const { return bits_of(data[j * ld + u]); }
  bool has_vector(std::int64_t) const { return true; }
  Ints vector(std::int64_t u, std::int64_t j) const { return load<Ints>(data + j * ld + u); }
};

// Dequantized on the way: codes [k, n] with a step for each row and group of 2^group_bits columns ...
struct CodeRowsAsFp32 {
  static constexpr bool kTransposed = false;
  const std::int8_t* data;
  std::int64_t ld;
  const float* step;
  std::int64_t steps_per_row;
  int group_bits;

  // A panel's columns are of one group, because groups are whole panels wide.
  CodeRowsAsFp32 panel(std::int64_t column) const { return {data, ld, step + (column >> group_bits), steps_per_row, group_bits}; }
  std::int32_t unit(std::int64_t u, std::int64_t j) const {
    return bits_of(static_cast<float>(data[u * ld + j]) * step[u * steps_per_row]);
  }
};

// ... or [n, k].
struct CodesTransposedAsFp32 {
  static constexpr bool kTransposed = true;
  const std::int8_t* data;
  std::int64_t ld;
  const float* step;
  std::int64_t steps_per_row;
  int group_bits;

  float step_of(std::int64_t u, std::int64_t j) const { return step[j * steps_per_row + (u >> group_bits)]; }
  std::int32_t unit(std::int64_t u, std::int64_t j) const { return bits_of(static_cast<float>(data[j * ld + u]) * step_of(u, j)); }
  bool has_vector(std::int64_t) const { return true; }  // groups are whole vectors wide, and blocks begin at multiples of them
  Ints vector(std::int64_t u, std::int64_t j) const {
    return std::bit_cast<Ints>(__builtin_convertvector(load<Bytes>(data + j * ld + u), Floats) * step_of(u, j));
  }
};

// B [k, n] as rows of 16-bit integers with their scales, turned into fp32 ...
struct Int16RowsAsFp32 {
  static constexpr bool kTransposed = false;
  const std::int16_t* codes;
  std::int64_t ld;
  const float* scale;

  float value(std::int64_t row, std::int64_t j) const { return static_cast<float>(codes[row * ld + j]) * scale[row]; }
  std::int32_t unit(std::int64_t u, std::int64_t j) const { return bits_of(value(u, j)); }
};

// ... or bf16.
template <class RowsAsFp32>
struct RowsAsBf16 {
  static constexpr bool kTransposed = false;
  RowsAsFp32 rows;
  std::int64_t k;

  std::int32_t unit(std::int64_t u, std::int64_t j) const {
    return bf16_pair(rows.value(2 * u, j), 2 * u + 1 < k ? rows.value(2 * u + 1, j) : 0.0f);
  }
};

// Codes [k, n].
struct CodeRows {
  static constexpr bool kTransposed = false;
  const std::int8_t* data;
  std::int64_t ld;
  std::int64_t k;

  std::int32_t unit(std::int64_t u, std::int64_t j) const {
    const std::int8_t* row = data + 2 * u * ld + j;
    return code_pair(row[0], 2 * u + 1 < k ? row[ld] : std::int8_t{0});
  }
};

// Codes [n, k].
struct CodesTransposed {
  static constexpr bool kTransposed = true;
  const std::int8_t* data;
  std::int64_t ld;
  std::int64_t k;

  std::int32_t unit(std::int64_t u, std::int64_t j) const {
    const std::int8_t* row = data + j * ld + 2 * u;
    return code_pair(row[0], 2 * u + 1 < k ? row[1] : std::int8_t{0});
  }
  bool has_vector(std::int64_t u) const { return 2 * (u + kWidth) <= k; }
  Ints vector(std::int64_t u, std::int64_t j) const {
    return std::bit_cast<Ints>(__builtin_convertvector(load<HalfBytes>(data + j * ld + 2 * u), Shorts));
  }
};

// Codes for products of bytes, [k, n] ...
struct CodeRowsAsBytes {
  static constexpr bool kTransposed = false;
  const std::int8_t* data;
  std::int64_t ld;
  std::int64_t k;

  std::int32_t unit(std::int64_t u, std::int64_t j) const {
    std::uint32_t bytes = 0;
    for (int i = 3; i >= 0; --i) {
      const std::int64_t row = 4 * u + i;
      bytes = bytes << 8 | (row < k ? static_cast<std::uint8_t>(data[row * ld + j]) : 0U);
    }
    return static_cast<std::int32_t>(bytes);
  }
};

// ... or [n, k].
struct CodesTransposedAsBytes {
  static constexpr bool kTransposed = true;
  const std::int8_t* data;
  std::int64_t ld;
  std::int64_t k;

  std::int32_t unit(std::int64_t u, std::int64_t j) const {
    std::int32_t bytes = 0;
    const std::int64_t left = k - 4 * u;
    if (left > 0) std::memcpy(&bytes, data + j * ld + 4 * u, static_cast<std::size_t>(left < 4 ? left : 4));
    return bytes;
  }
  bool has_vector(std::int64_t u) const { return 4 * (u + kWidth) <= k; }
  Ints vector(std::int64_t u, std::int64_t j) const { return load<Ints>(data + j * ld + 4 * u); }
};

// B [k, n] as rows of bytes with their scales, turned into fp32 ...
struct ByteRowsAsFp32 {
  static constexpr bool kTransposed = false;
  const std::uint8_t* codes;
  std::int64_t ld;
  const float* scale;

  float value(std::int64_t row, std::int64_t j) const { return static_cast<float>(codes[row * ld + j] - 128) * scale[row]; }
  std::int32_t unit(std::int64_t u, std::int64_t j) const { return bits_of(value(u, j)); }
};

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
