#include "stableqat/kernels/packed.h"

#include <cstring>

#include "kernels/cpu/packed_dot.h"
#include "kernels/parallel.h"
#include "stableqat/kernels/gemm.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {
namespace {

constexpr int kRows = static_cast<int>(kPackedRows);

void round_row(std::int64_t columns, const float* x, std::int8_t* high, std::int8_t* low, std::int32_t* partial_sums, float* scale) {
  constexpr float kLargest = 127.0f * 128.0f;
  constexpr float kRoundingMagic = 12582912.0f;  // 1.5 * 2^23: adding it leaves no bits for the fraction
  float largest = 0.0f;
  float unsound = 0.0f;  // NaN if any value is NaN or infinite
#pragma omp simd reduction(max : largest) reduction(+ : unsound)
  for (std::int64_t j = 0; j < columns; ++j) {
    const float magnitude = __builtin_fabsf(x[j]);
    largest = magnitude > largest ? magnitude : largest;
    unsound += magnitude * 0.0f;
  }
  const bool usable = largest >= kSmallestRow && unsound == 0.0f;
  const float inverse = usable ? kLargest / largest : 0.0f;
  *scale = usable ? largest / kLargest : unsound;
  const std::int64_t count = usable ? columns : 0;
#pragma omp simd
  for (std::int64_t j = 0; j < count; ++j) {
    const auto value = static_cast<std::int32_t>((x[j] * inverse + kRoundingMagic) - kRoundingMagic);
    const std::int32_t upper = (value + 64) >> 7;
    high[j] = static_cast<std::int8_t>(upper);
    low[j] = static_cast<std::int8_t>(value - 128 * upper);
  }
  const std::int64_t tiles = packed_tiles(columns);
  for (std::int64_t j = count; j < tiles * kPackedColumns; ++j) high[j] = low[j] = 0;
  for (std::int64_t block = 0; block < partial_sum_stride(columns); ++block) {
    std::int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = block * kSummedColumns; j < (block + 1) * kSummedColumns; ++j) sum += 128 * high[j] + low[j];
    partial_sums[block] = sum;
  }
}

void round_to_digits(std::int64_t m, std::int64_t columns, const float* x, const DigitRows& rows) {
  const std::int64_t stride = digit_stride(columns);
#pragma omp parallel for schedule(static) if (worth_sharing(m, columns))
  for (std::int64_t i = 0; i < m; ++i) {
    round_row(columns, x + i * columns, rows.high + i * stride, rows.low + i * stride, rows.partial_sums + i * partial_sum_stride(columns),
              rows.scale + i);
  }
}

typedef float Four __attribute__((vector_size(16)));
typedef std::int32_t FourInts __attribute__((vector_size(16)));

// What the columns of a half tile, or of many, add up to for one row: lane l has columns 4 l .. 4 l + 3 of each.
typedef std::int32_t Lanes __attribute__((vector_size(32)));
typedef float FloatLanes __attribute__((vector_size(32)));
constexpr int kLanes = 8;

// What the sums of parts, each of `kSums`, add up to: for both halves together, or for each alone.
template <int kSums, int kHalves>
void add_up(const Ints (&parts)[kSums], Lanes (&halves)[kHalves]) {
  Lanes lanes[kSums * kWidth / kLanes];
  std::memcpy(lanes, parts, sizeof(parts));
  for (int half = 0; half < kHalves; ++half) halves[half] = lanes[half];
  if constexpr (kHalves == 1 && kSums * kWidth > kLanes) halves[0] += lanes[1];
}

// Sums of `count` tiles for each row of them. Not inlined: else GCC 12 keeps sums on the stack.
template <int kBits>
[[gnu::noinline]] void sum_tiles(const std::uint8_t* tiles, std::int64_t count, const std::int8_t* high, const std::int8_t* low,
                                 Lanes (&totals)[kRows]) {
  constexpr int kSums = kWidth < kLanes ? kLanes / kWidth : 1;
  constexpr std::int64_t kTilesBeforeSettling = DigitSums<kBits>::kAddsBeforeSettling / (kParts / kSums);
  DigitSums<kBits> sums[kSums][kRows];
  for (std::int64_t first = 0; first < count; first += kTilesBeforeSettling) {
    const std::int64_t end = first + kTilesBeforeSettling < count ? first + kTilesBeforeSettling : count;
    for (std::int64_t tile = first; tile < end; ++tile) {
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        const std::int64_t column = tile * kPackedColumns + part * kPartColumns;
        for (int r = 0; r < kRows; ++r) {
          sums[part % kSums][r].add(unpacked<kBits>(tiles + tile * (32 * kBits), part, r), load<Digits>(high + column),
                                    load<Digits>(low + column));
        }
        // GCC 12 would otherwise start the next part's products before it adds this one's, and run out of registers.
        if constexpr (kParts == 2) asm volatile("" ::: "memory");
      }
    }
    for (auto& rows : sums) {
      for (auto& sum : rows) sum.settle();
    }
  }
  for (int r = 0; r < kRows; ++r) {
    Ints parts[kSums];
    for (int i = 0; i < kSums; ++i) parts[i] = sums[i][r].total();
    Lanes half[1];
    add_up(parts, half);
    totals[r] = half[0];
  }
}

// One row's sums of one tile: of both halves together, or of each alone (kHalves = 2).
template <int kBits, int kHalves>
inline void sum_tile(const std::uint8_t* tile, int r, const std::int8_t* high, const std::int8_t* low, Lanes (&totals)[kHalves]) {
  constexpr int kSums = kHalves == 2 ? kParts : kWidth < kLanes ? kLanes / kWidth : 1;
  DigitSums<kBits> sums[kSums];
  for (int part = 0; part < kParts; ++part) {
    sums[part % kSums].add(unpacked<kBits>(tile, part, r), load<Digits>(high + part * kPartColumns),
                           load<Digits>(low + part * kPartColumns));
  }
  Ints parts[kSums];
  for (int i = 0; i < kSums; ++i) {
    sums[i].settle();
    parts[i] = sums[i].total();
  }
  add_up(parts, totals);
}

// The sums of four vectors' elements.
template <class Quarter, class Vector>
inline void add_lanes(const Vector (&rows)[kRows], Quarter& sums) {
  Quarter halves[kRows];
  for (int r = 0; r < kRows; ++r) {
    halves[r] = __builtin_shufflevector(rows[r], rows[r], 0, 1, 2, 3) + __builtin_shufflevector(rows[r], rows[r], 4, 5, 6, 7);
  }
  const Quarter two = __builtin_shufflevector(halves[0], halves[1], 0, 4, 1, 5) + __builtin_shufflevector(halves[0], halves[1], 2, 6, 3, 7);
  const Quarter other =
      __builtin_shufflevector(halves[2], halves[3], 0, 4, 1, 5) + __builtin_shufflevector(halves[2], halves[3], 2, 6, 3, 7);
  sums = __builtin_shufflevector(two, other, 0, 1, 4, 5) + __builtin_shufflevector(two, other, 2, 3, 6, 7);
}

// Four rows of a packed weight.
struct TileRow {
  TileRow(const PackedWeight& weight, std::int64_t first, std::int64_t tile_bytes)
      : w(weight),
        first_row(first),
        rows(weight.rows - first < kPackedRows ? weight.rows - first : kPackedRows),
        groups(weight.columns / weight.group),
        tiles(weight.tiles + first / kPackedRows * packed_tiles(weight.columns) * tile_bytes) {
    // Rows that are not there have the last one's steps.
    for (std::int64_t r = 0; r < kPackedRows; ++r) steps[r] = weight.step + (first + (r < rows ? r : rows - 1)) * groups;
  }

  const PackedWeight& w;
  std::int64_t first_row, rows, groups;
  const std::uint8_t* tiles;
  const float* steps[kPackedRows];
};

// A row of activations, rounded.
struct DigitRow {
  const std::int8_t* high;
  const std::int8_t* low;
  const std::int32_t* partial_sums;
  float scale;
};

constexpr std::int64_t kSumsOfTile = kPackedColumns / kSummedColumns;

// The rows' products, but for the activations' scale, where a group is a tile or half of one (kHalves = 2).
template <int kBits, int kHalves>
Four sum_narrow_groups(const TileRow& row, const DigitRow& x) {
  const std::int64_t tiles = packed_tiles(row.w.columns);
  const float lowest_level = row.w.lowest / row.w.level_step;
  FloatLanes sums[kRows] = {};
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const std::int64_t column = tile * kPackedColumns;
    const std::int32_t* x_sums = x.partial_sums + tile * kSumsOfTile;
    FloatLanes lowest[kHalves] = {};
    for (int half = 0; half < kHalves; ++half) {
      lowest[half][0] = static_cast<float>(kHalves == 2 ? x_sums[half] : x_sums[0] + x_sums[1]) * lowest_level;
    }
    for (int r = 0; r < kRows; ++r) {
      Lanes totals[kHalves];
      sum_tile<kBits>(row.tiles + tile * (32 * kBits), r, x.high + column, x.low + column, totals);
      for (int half = 0; half < kHalves; ++half) {
        const std::int64_t group = tile * kHalves + half;
        if (kHalves == 2 && group == row.groups) continue;
        sums[r] += (__builtin_convertvector(totals[half], FloatLanes) + lowest[half]) * row.steps[r][group];
      }
    }
  }
  Four sum;
  add_lanes(sums, sum);
  return sum * row.w.level_step;
}

// The same where a group is several tiles, or a row.
template <int kBits>
Four sum_wide_groups(const TileRow& row, const DigitRow& x) {
  // The sum of a row of tiles stays an int32: 15 * 127 * 128 * 64 or 255 * 127 * 128 * 64 for each.
  constexpr std::int64_t kTilesAtOnce = kBits == 8 ? 8 : 128;
  const std::int64_t group_tiles = packed_tiles(row.w.group);
  Four sum{};
  for (std::int64_t tile = 0, group = 0; group < row.groups; ++group) {
    const Four step{row.steps[0][group], row.steps[1][group], row.steps[2][group], row.steps[3][group]};
    for (const std::int64_t end = tile + group_tiles; tile < end;) {
      const std::int64_t count = end - tile < kTilesAtOnce ? end - tile : kTilesAtOnce;
      const std::int64_t column = tile * kPackedColumns;
      Lanes lanes[kRows];
      sum_tiles<kBits>(row.tiles + tile * (32 * kBits), count, x.high + column, x.low + column, lanes);
      FourInts totals;
      add_lanes(lanes, totals);
      std::int32_t x_sum = 0;
      for (std::int64_t i = 0; i < count * kSumsOfTile; ++i) x_sum += x.partial_sums[tile * kSumsOfTile + i];
      sum += (__builtin_convertvector(totals, Four) * row.w.level_step + static_cast<float>(x_sum) * row.w.lowest) * step;
      tile += count;
    }
  }
  return sum;
}

template <int kBits>
Four product(const TileRow& row, const DigitRow& x) {
  if (row.w.group > kPackedColumns || row.groups == 1) return sum_wide_groups<kBits>(row, x);
  if (row.w.group == kPackedColumns) return sum_narrow_groups<kBits, 1>(row, x);
  return sum_narrow_groups<kBits, 2>(row, x);
}

template <int kBits>
void multiply(std::int64_t m, const DigitRows& x, const PackedWeight& w, float* y) {
  const std::int64_t stride = digit_stride(w.columns);
  const std::int64_t tile_rows = (w.rows + kPackedRows - 1) / kPackedRows;
#pragma omp parallel for schedule(static) if (worth_sharing(tile_rows, w.columns))
  for (std::int64_t tile_row = 0; tile_row < tile_rows; ++tile_row) {
    const TileRow row(w, tile_row * kPackedRows, 32 * kBits);
    for (std::int64_t i = 0; i < m; ++i) {
      const DigitRow x_row{x.high + i * stride, x.low + i * stride, x.partial_sums + i * partial_sum_stride(w.columns), x.scale[i]};
      const Four result = product<kBits>(row, x_row) * x_row.scale;
      for (std::int64_t r = 0; r < row.rows; ++r) y[i * w.rows + row.first_row + r] = result[r];
    }
  }
}

void forward(std::int64_t m, const DigitRows& x, const PackedWeight& w, float* y) {
  if (w.bits == 2) {
    multiply<2>(m, x, w, y);
  } else if (w.bits == 3) {
    multiply<3>(m, x, w, y);
  } else if (w.bits == 4) {
    multiply<4>(m, x, w, y);
  } else {
    multiply<8>(m, x, w, y);
  }
}

}  // namespace

extern const PackedKernels packed_table;
const PackedKernels packed_table = {round_to_digits, forward};

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
