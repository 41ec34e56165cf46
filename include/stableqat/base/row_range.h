// Rows of a tensor (its first dimension) as the ranks of a run share them out.
#pragma once

#include <algorithm>
#include <cstdint>

namespace stableqat {

struct RowRange {
  std::int64_t first = 0;
  std::int64_t count = 0;

  std::int64_t end() const noexcept { return first + count; }
  bool operator==(const RowRange&) const = default;
};

// Rows of each rank but the last ones, which may have fewer or none: ceil(rows / ranks).
constexpr std::int64_t rows_per_rank(std::int64_t rows, std::int64_t ranks) noexcept { return (rows + ranks - 1) / ranks; }

constexpr RowRange rows_of_rank(std::int64_t rows, std::int64_t rank, std::int64_t ranks) noexcept {
  const std::int64_t each = rows_per_rank(rows, ranks);
  const std::int64_t first = std::min(rows, rank * each);
  return {first, std::min(rows - first, each)};
}

}  // namespace stableqat
