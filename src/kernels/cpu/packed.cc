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
  const Levels ones = Levels{} + std::uint8_t{1};
  for (std::int64_t j = 0; j < tiles * kPackedColumns; j += kPartColumns) {
    const Ints highs = add_small_products(Ints{}, ones, load<Digits>(high + j));
    store(partial_sums + j / 4, add_small_products(highs * 128, ones, load<Digits>(low + j)));
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

// What four rows of the weight give with one row of activations, in the columns of a part.
class TileRowSums {
 public:
  template <int kBits>
  void add(const Levels (&levels)[kRows], Digits high, Digits low, Ints partial_sums) {
    x_ += partial_sums;
    for (int r = 0; r < kRows; ++r) {
      high_[r] = kBits == 8 ? add_products(high_[r], levels[r], high) : add_small_products(high_[r], levels[r], high);
      low_[r] = kBits == 8 ? add_products(low_[r], levels[r], low) : add_small_products(low_[r], levels[r], low);
    }
  }

  // Scales what was added since the last call.
  void scale(const PackedWeight& w, const Floats (&steps)[kRows]) {
    const Floats lowest = __builtin_convertvector(x_, Floats) * w.lowest;
    x_ = Ints{};
    for (int r = 0; r < kRows; ++r) {
      const Ints whole = high_[r] * 128 + low_[r];
      sum_[r] += (__builtin_convertvector(whole, Floats) * w.level_step + lowest) * steps[r];
      high_[r] = low_[r] = Ints{};
    }
  }

  Floats sum(std::int64_t row) const { return sum_[row]; }

 private:
  Ints x_{};
  Ints high_[kRows] = {};
  Ints low_[kRows] = {};
  Floats sum_[kRows] = {};
};

// The steps of a weight's rows, for the columns of one register. Groups are a power of two of columns, or all.
class Steps {
 public:
  explicit Steps(const PackedWeight& w)
      : step_(w.step),
        group_(w.group),
        groups_(w.columns / w.group),
        group_bits_(w.group == w.columns ? 63 : __builtin_ctzll(static_cast<std::uint64_t>(w.group))),
        halves_(w.group < kPartColumns) {}

  // Tiles that may be summed before they are scaled: those of a group, as long as 255 * 127 * 128 * 4 for each stay an int32.
  std::int64_t tiles_at_once() const {
    constexpr std::int64_t kMost = 128;
    const std::int64_t tiles = packed_tiles(group_);
    return tiles < kMost ? tiles : kMost;
  }

  Floats at(std::int64_t row, std::int64_t column) const {
    const std::int64_t group = column >> group_bits_;
    const float* steps = step_ + row * groups_ + group;
    Floats lanes = broadcast(steps[0]);
    if (halves_ && group + 1 < groups_) {  // AVX-512 with 32 columns a group
      for (int lane = kWidth / 2; lane < kWidth; ++lane) lanes[lane] = steps[1];
    }
    return lanes;
  }

 private:
  const float* step_;
  std::int64_t group_;
  std::int64_t groups_;
  int group_bits_;
  bool halves_;
};

typedef float Four __attribute__((vector_size(16)));
typedef std::int32_t FourInts __attribute__((vector_size(16)));

// The sum of each row's lanes, added in the same order whatever a register's width.
Four row_totals(const float (&lanes)[kRows][16]) {
  static_assert(kRows == 4 && kParts * kWidth == 16);
  Four rows[kRows];
  for (int r = 0; r < kRows; ++r) {
    const auto quarter = [&lanes, r](int i) { return load<Four>(lanes[r] + 4 * i); };
    rows[r] = (quarter(0) + quarter(2)) + (quarter(1) + quarter(3));
  }
  constexpr FourInts kFirst{0, 4, 1, 5}, kSecond{2, 6, 3, 7}, kLower{0, 1, 4, 5}, kUpper{2, 3, 6, 7};
  const Four two = __builtin_shuffle(rows[0], rows[1], kFirst) + __builtin_shuffle(rows[0], rows[1], kSecond);
  const Four other = __builtin_shuffle(rows[2], rows[3], kFirst) + __builtin_shuffle(rows[2], rows[3], kSecond);
  return __builtin_shuffle(two, other, kLower) + __builtin_shuffle(two, other, kUpper);
}

// y[first_row ... first_row + 4] of one row of activations.
template <int kBits>
void multiply_tile_row(const PackedWeight& w, const Steps& all_steps, std::int64_t first_row, const std::int8_t* high,
                       const std::int8_t* low, const std::int32_t* partial_sums, float scale, float* y) {
  const std::int64_t tiles = packed_tiles(w.columns);
  const std::int64_t rows = w.rows - first_row < kPackedRows ? w.rows - first_row : kPackedRows;
  const std::uint8_t* tile_data = w.tiles + first_row / kPackedRows * tiles * (32 * kBits);
  const std::int64_t tiles_at_once = all_steps.tiles_at_once();
  float lanes[kRows][16];
  for (int part = 0; part < kParts; ++part) {
    TileRowSums sums;
    for (std::int64_t first = 0; first < tiles; first += tiles_at_once) {
      const std::int64_t column = first * kPackedColumns + part * kPartColumns;
      const std::int64_t last = first + tiles_at_once < tiles ? first + tiles_at_once : tiles;
      for (std::int64_t tile = first, j = column; tile < last; ++tile, j += kPackedColumns) {
        Levels levels[kRows];
        unpack_tile<kBits>(tile_data + tile * (32 * kBits), part, levels);
        sums.add<kBits>(levels, load<Digits>(high + j), load<Digits>(low + j), load<Ints>(partial_sums + j / 4));
      }
      if (column >= w.columns) continue;
      Floats steps[kRows] = {};
      for (std::int64_t r = 0; r < rows; ++r) steps[r] = all_steps.at(first_row + r, column);
      sums.scale(w, steps);
    }
    for (int r = 0; r < kRows; ++r) store(lanes[r] + part * kWidth, sums.sum(r));
  }
  const Four totals = row_totals(lanes);
  for (std::int64_t r = 0; r < rows; ++r) y[first_row + r] = totals[r] * scale;
}

template <int kBits>
void multiply(std::int64_t m, const DigitRows& x, const PackedWeight& w, float* y) {
  const Steps steps(w);
  const std::int64_t stride = digit_stride(w.columns);
  const std::int64_t tile_rows = (w.rows + kPackedRows - 1) / kPackedRows;
#pragma omp parallel for schedule(static) if (worth_sharing(tile_rows, w.columns))
  for (std::int64_t tile_row = 0; tile_row < tile_rows; ++tile_row) {
    for (std::int64_t i = 0; i < m; ++i) {
      multiply_tile_row<kBits>(w, steps, tile_row * kPackedRows, x.high + i * stride, x.low + i * stride,
                               x.partial_sums + i * partial_sum_stride(w.columns), x.scale[i], y + i * w.rows);
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
