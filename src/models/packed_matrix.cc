#include "stableqat/models/packed_matrix.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "stableqat/base/error.h"

namespace stableqat {

namespace {

// Codes as levels from 0 on: code = step * level + lowest.
struct Grid {
  int lowest = 0;
  int step = 1;
  int bits = 8;
};

// The grid of codes that are there: those of ParetoQ's and the sign quantizer are two apart.
Grid grid_of(const std::int8_t* codes, std::int64_t count) {
  bool used[256] = {};
  for (std::int64_t i = 0; i < count; ++i) used[codes[i] + 128] = true;
  const auto* const first = std::find(std::begin(used), std::end(used), true);
  if (first == std::end(used)) return {};
  Grid grid{static_cast<int>(first - used) - 128, 2, 8};
  int last = grid.lowest;
  for (int code = grid.lowest; code < 128; ++code) {
    if (!used[code + 128]) continue;
    last = code;
    if ((code - grid.lowest) % 2 != 0) grid.step = 1;
  }
  const int largest = (last - grid.lowest) / grid.step;
  grid.bits = largest < 4 ? 2 : largest < 8 ? 3 : largest < 16 ? 4 : 8;
  return grid;
}

at::Tensor packed_tiles(const at::Tensor& codes, const Grid& grid) {
  const std::int64_t rows = codes.size(0);
  const std::int64_t columns = codes.size(1);
  at::Tensor tiles = at::empty({kernels::packed_bytes(rows, columns, grid.bits)}, at::kByte);
  const std::int8_t* source = codes.const_data_ptr<std::int8_t>();
  auto* target = tiles.mutable_data_ptr<std::uint8_t>();
  const std::int64_t bands = (rows + kernels::kPackedRows - 1) / kernels::kPackedRows;
  at::parallel_for(0, bands, 16, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * kernels::kPackedRows;
    const std::int64_t last = std::min(end * kernels::kPackedRows, rows);
    std::vector<std::uint8_t> levels(static_cast<std::size_t>((last - first) * columns));
    std::transform(source + first * columns, source + last * columns, levels.begin(),
                   [&grid](int code) { return static_cast<std::uint8_t>((code - grid.lowest) / grid.step); });
    kernels::pack_levels(last - first, columns, grid.bits, levels.data(), target + kernels::packed_bytes(first, columns, grid.bits));
  });
  return tiles;
}

// Codes that the extreme value of a group may have: those of grids up to 4 bits, and Q8_0's.
constexpr int kExtremes[] = {1, 2, 3, 4, 5, 6, 7, 8, 127};

// One group of from_values(): false unless the values are codes times a step. The extreme value gets a negative code, as two's complement
// has one more of those.
bool codes_of_group(const float* values, std::int64_t count, std::int8_t* codes, float& step) {
  float extreme = 0;
  for (std::int64_t j = 0; j < count; ++j) extreme = std::abs(values[j]) > std::abs(extreme) ? values[j] : extreme;
  const auto fits = [&] {
    for (std::int64_t j = 0; j < count; ++j) {
      const float code = extreme == 0 ? 0.0F : std::nearbyint(values[j] / step);
      if (!(code * step == values[j])) return false;
      codes[j] = static_cast<std::int8_t>(code);
    }
    return true;
  };
  for (const int code : kExtremes) {
    step = extreme / static_cast<float>(-code);
    if (fits()) return true;
  }
  return false;
}

// values [N, M] as codes with a step for each `group` columns; false when they lie on no such grid.
bool codes_of_values(const at::Tensor& values, std::int64_t group, const at::Tensor& codes, const at::Tensor& step) {
  const float* source = values.const_data_ptr<float>();
  auto* code = codes.mutable_data_ptr<std::int8_t>();
  auto* steps = step.mutable_data_ptr<float>();
  std::atomic<bool> found{true};
  at::parallel_for(0, step.numel(), 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end && found.load(std::memory_order_relaxed); ++i) {
      if (!codes_of_group(source + i * group, group, code + i * group, steps[i])) found.store(false, std::memory_order_relaxed);
    }
  });
  return found;
}

}  // namespace

DigitActivations::DigitActivations(const at::Tensor& x)
    : high_(at::empty({x.size(0), kernels::digit_stride(x.size(1))}, at::kChar)),
      low_(at::empty(high_.sizes(), at::kChar)),
      partial_sums_(at::empty({x.size(0), kernels::partial_sum_stride(x.size(1))}, at::kInt)),
      scale_(at::empty({x.size(0)}, at::kFloat)) {
  kernels::packed_kernels().round_to_digits(x.size(0), x.size(1), x.const_data_ptr<float>(), view());
}

kernels::DigitRows DigitActivations::view() const {
  return {high_.data_ptr<std::int8_t>(), low_.data_ptr<std::int8_t>(), partial_sums_.data_ptr<std::int32_t>(), scale_.data_ptr<float>()};
}

PackedMatrix PackedMatrix::from_codes(const at::Tensor& codes, const at::Tensor& step) {
  const std::int64_t group = codes.size(1) / step.size(1);
  const bool whole_row = step.size(1) == 1;
  if (!whole_row && (group < 32 || !std::has_single_bit(static_cast<std::uint64_t>(group)))) {
    throw ConfigError({"packed weight", std::to_string(group) + " columns a group", "a row, or a power of two of at least 32",
                       "use group size 0, 32, 64 or 128"});
  }
  const at::Tensor dense = codes.contiguous();
  const Grid grid = grid_of(dense.const_data_ptr<std::int8_t>(), dense.numel());
  PackedMatrix result;
  result.rows_ = codes.size(0);
  result.columns_ = codes.size(1);
  result.bits_ = grid.bits;
  result.level_step_ = static_cast<float>(grid.step);
  result.lowest_ = static_cast<float>(grid.lowest);
  result.tiles_ = packed_tiles(dense, grid);
  result.step_ = step.contiguous();
  return result;
}

std::optional<PackedMatrix> PackedMatrix::from_values(const at::Tensor& values) {
  const at::Tensor dense = values.contiguous();
  const at::Tensor codes = at::empty(dense.sizes(), at::kChar);
  const std::int64_t columns = dense.size(1);
  for (const std::int64_t group : {columns, std::int64_t{128}, std::int64_t{64}, std::int64_t{32}}) {
    if (columns % group != 0) continue;
    const at::Tensor step = at::empty({dense.size(0), columns / group}, at::kFloat);
    if (codes_of_values(dense, group, codes, step)) return from_codes(codes, step);
  }
  return std::nullopt;
}

at::Tensor PackedMatrix::product(const DigitActivations& x) const {
  at::Tensor y = at::empty({x.rows(), rows_}, at::kFloat);
  kernels::packed_kernels().forward(x.rows(), x.view(), view(), y.mutable_data_ptr<float>());
  return y;
}

kernels::PackedWeight PackedMatrix::view() const {
  return {.rows = rows_,
          .columns = columns_,
          .bits = bits_,
          .tiles = tiles_.const_data_ptr<std::uint8_t>(),
          .level_step = level_step_,
          .lowest = lowest_,
          .step = step_.const_data_ptr<float>(),
          .group = columns_ / step_.size(1)};
}

}  // namespace stableqat
