#include "stableqat/kernels/packed.h"

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

// What the columns of some tiles add up to, row by row: lane l has columns 4 l .. 4 l + 3 of every tile.
using Lanes = std::int32_t[kRows][16];

template <int kBits>
void sum_tiles(const std::uint8_t* tiles, std::int64_t count, const std::int8_t* high, const std::int8_t* low, Lanes& lanes) {
  for (int part = 0; part < kParts; ++part) {
    DigitSums<kBits> sums[kRows];
    for (std::int64_t tile = 0; tile < count;) {
      const std::int64_t most = tile + DigitSums<kBits>::kTilesBeforeSettling;
      const std::int64_t settling = most < count ? most : count;
      for (; tile < settling; ++tile) {
        Levels levels[kRows];
        unpack_tile<kBits>(tiles + tile * (32 * kBits), part, levels);
        const std::int64_t column = tile * kPackedColumns + part * kPartColumns;
        for (int r = 0; r < kRows; ++r) sums[r].add(levels[r], load<Digits>(high + column), load<Digits>(low + column));
      }
      for (int r = 0; r < kRows; ++r) sums[r].settle();
    }
    for (int r = 0; r < kRows; ++r) store(lanes[r] + part * kWidth, sums[r].take());
  }
}

// The sums of four vectors' elements.
FourInts transposed_sums(const FourInts (&rows)[kRows]) {
  constexpr FourInts kFirst{0, 4, 1, 5}, kSecond{2, 6, 3, 7}, kLower{0, 1, 4, 5}, kUpper{2, 3, 6, 7};
  const FourInts two = __builtin_shuffle(rows[0], rows[1], kFirst) + __builtin_shuffle(rows[0], rows[1], kSecond);
  const FourInts other = __builtin_shuffle(rows[2], rows[3], kFirst) + __builtin_shuffle(rows[2], rows[3], kSecond);
  return __builtin_shuffle(two, other, kLower) + __builtin_shuffle(two, other, kUpper);
}

// The totals of the rows, of the `count` lanes from the first one on; they must stay an int32, but for 8 bits.
template <int kBits>
Four row_totals(const Lanes& lanes, int first, int count) {
  FourInts rows[kRows] = {};
  FourInts upper_rows[kRows] = {};
  for (int r = 0; r < kRows; ++r) {
    for (int lane = first; lane < first + count; lane += 4) {
      const FourInts values = load<FourInts>(lanes[r] + lane);
      rows[r] += kBits == 8 ? values & 0xffff : values;
      if constexpr (kBits == 8) upper_rows[r] += values >> 16;
    }
  }
  const Four totals = __builtin_convertvector(transposed_sums(rows), Four);
  if constexpr (kBits < 8) return totals;
  return totals + __builtin_convertvector(transposed_sums(upper_rows), Four) * 65536.0F;
}

// Tiles that may be summed at once: 15 * 127 * 128 * 64 (of 4 bits and all lanes) or 255 * 127 * 128 * 4 (of 8 bits and a lane) for each
// stay an int32.
constexpr std::int64_t kTilesAtOnce = 128;

// Four rows of a packed weight.
struct TileRow {
  TileRow(const PackedWeight& weight, std::int64_t first, std::int64_t tile_bytes)
      : w(weight),
        first_row(first),
        rows(weight.rows - first < kPackedRows ? weight.rows - first : kPackedRows),
        groups(weight.columns / weight.group),
        tiles(weight.tiles + first / kPackedRows * packed_tiles(weight.columns) * tile_bytes) {}

  Four steps(std::int64_t group) const {
    const float* step = w.step + first_row * groups + group;
    if (groups == 1 && rows == kPackedRows) return load<Four>(step);
    Four result{};
    for (std::int64_t r = 0; r < rows; ++r) result[r] = step[r * groups];
    return result;
  }

  // What columns of one group add to the result: their products with the levels, and their own sum.
  Four scaled(Four totals, std::int32_t x_sum, std::int64_t group) const {
    return (totals * w.level_step + static_cast<float>(x_sum) * w.lowest) * steps(group);
  }

  const PackedWeight& w;
  std::int64_t first_row, rows, groups;
  const std::uint8_t* tiles;
};

std::int32_t sum_of(const std::int32_t* values, std::int64_t count) {
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += values[i];
  return sum;
}

// y[first_row ... first_row + 4] of one row of activations.
template <int kBits>
void multiply_tile_row(const TileRow& row, const std::int8_t* high, const std::int8_t* low, const std::int32_t* partial_sums, float scale,
                       float* y) {
  constexpr std::int64_t kBlocks = kPackedColumns / kSummedColumns;
  const std::int64_t tiles = packed_tiles(row.w.columns);
  const std::int64_t group_tiles = packed_tiles(row.w.group);
  const bool has_half_tiles = row.w.group < kPackedColumns && row.groups > 1;
  Four sum{};
  Lanes lanes;
  for (std::int64_t tile = 0; tile < tiles;) {
    const std::int64_t group = tile / group_tiles;
    const std::int64_t group_end = (group + 1) * group_tiles;
    const std::int64_t count = group_end - tile < kTilesAtOnce ? group_end - tile : kTilesAtOnce;
    const std::int64_t column = tile * kPackedColumns;
    sum_tiles<kBits>(row.tiles + tile * (32 * kBits), count, high + column, low + column, lanes);
    const std::int32_t* sums = partial_sums + tile * kBlocks;
    if (has_half_tiles) {
      sum += row.scaled(row_totals<kBits>(lanes, 0, 8), sums[0], 2 * tile);
      if (2 * tile + 1 < row.groups) sum += row.scaled(row_totals<kBits>(lanes, 8, 8), sums[1], 2 * tile + 1);
    } else {
      sum += row.scaled(row_totals<kBits>(lanes, 0, 16), sum_of(sums, count * kBlocks), group);
    }
    tile += count;
  }
  for (std::int64_t r = 0; r < row.rows; ++r) y[row.first_row + r] = sum[r] * scale;
}

template <int kBits>
void multiply(std::int64_t m, const DigitRows& x, const PackedWeight& w, float* y) {
  const std::int64_t stride = digit_stride(w.columns);
  const std::int64_t tile_rows = (w.rows + kPackedRows - 1) / kPackedRows;
#pragma omp parallel for schedule(static) if (worth_sharing(tile_rows, w.columns))
  for (std::int64_t tile_row = 0; tile_row < tile_rows; ++tile_row) {
    const TileRow row(w, tile_row * kPackedRows, 32 * kBits);
    for (std::int64_t i = 0; i < m; ++i) {
      multiply_tile_row<kBits>(row, x.high + i * stride, x.low + i * stride, x.partial_sums + i * partial_sum_stride(w.columns), x.scale[i],
                               y + i * w.rows);
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
