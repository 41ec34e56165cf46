// Products of a few rows of activations with weights packed to 2, 3, 4 or 8 bits: decoding token by token, where reading the weights is all
// the time there is.
//
// A row of activations is rounded to integers of 15 bits, relative to its largest value, each held as two int8 digits (128 * high + low).
// Products with the unsigned levels of the weights are exact integers. The sum of a group of columns is turned to float and scaled once; in
// groups of 64 columns or less, the sums of its eight lanes are. The same bits come out on every instruction set and with any number of
// threads. OpenMP threads share the work. Thread-safe.
#pragma once

#include <cstdint>

#include "stableqat/kernels/isa.h"

namespace stableqat::kernels {

// A tile holds kPackedRows rows of kPackedColumns levels in 32 * bits bytes:
//   2 bits: byte j has the levels of column j, row r in bits 2r and 2r + 1;
//   3 bits: byte j has rows 0 (bits 0 to 2) and 1 (3 to 5) of column j, and the lower two bits of row 2 (6 and 7); byte 64 + j, j < 32, has
//           row 3 and the third bit of row 2 of column j in its low half, those of column j + 32 in its high half;
//   4 bits: bytes j of the first 64 have rows 0 (low half) and 1, those of the second 64 rows 2 and 3;
//   8 bits: row after row.
// Tiles of the same rows follow each other; edges are filled with level 0.
inline constexpr std::int64_t kPackedRows = 4;
inline constexpr std::int64_t kPackedColumns = 64;

constexpr std::int64_t packed_tiles(std::int64_t columns) noexcept { return (columns + kPackedColumns - 1) / kPackedColumns; }
constexpr std::int64_t packed_bytes(std::int64_t rows, std::int64_t columns, int bits) noexcept {
  return (rows + kPackedRows - 1) / kPackedRows * packed_tiles(columns) * (kPackedRows * kPackedColumns / 8) * bits;
}

// levels [rows, columns], each below 2^bits -> tiles [packed_bytes()].
void pack_levels(std::int64_t rows, std::int64_t columns, int bits, const std::uint8_t* levels, std::uint8_t* tiles);

// w_q[n, m] = step[n, m / group] * (level_step * level + lowest). Columns of a group: a power of two of at least 32, or all.
struct PackedWeight {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  int bits = 0;
  const std::uint8_t* tiles = nullptr;  // as pack_levels() makes them
  float level_step = 1;
  float lowest = 0;
  const float* step = nullptr;  // [rows, columns / group]
  std::int64_t group = 0;
};

// Rows first .. first + count - 1 of it; `first` is a multiple of kPackedRows.
constexpr PackedWeight packed_rows(PackedWeight w, std::int64_t first, std::int64_t count) noexcept {
  w.tiles += packed_bytes(first, w.columns, w.bits);
  w.step += first * (w.columns / w.group);
  w.rows = count;
  return w;
}

// Rows of activations as digits; all memory is the caller's. x[i, m] = scale[i] * (128 * high + low).
struct DigitRows {
  std::int8_t* high = nullptr;           // [m, digit_stride()]
  std::int8_t* low = nullptr;            // the same
  std::int32_t* partial_sums = nullptr;  // [m, partial_sum_stride()]: of the integers, kSummedColumns columns each
  float* scale = nullptr;                // [m]
};
constexpr std::int64_t digit_stride(std::int64_t columns) noexcept { return packed_tiles(columns) * kPackedColumns; }
inline constexpr std::int64_t kSummedColumns = 32;  // of the smallest group
constexpr std::int64_t partial_sum_stride(std::int64_t columns) noexcept { return digit_stride(columns) / kSummedColumns; }

struct PackedKernels {
  // x [m, columns], dense -> rows. A row whose largest value is below kSmallestRow (gemm.h) becomes zeros; one with NaN or infinity gets
  // scale NaN.
  void (*round_to_digits)(std::int64_t m, std::int64_t columns, const float* x, const DigitRows& rows);

  // y [m, N] = x w_q^T. x as round_to_digits() left it.
  void (*forward)(std::int64_t m, const DigitRows& x, const PackedWeight& w, float* y);
};

// Built for plain, avx2, avx512 and avx512_vnni.
const PackedKernels& packed_kernels(Isa isa = active_isa());

}  // namespace stableqat::kernels
