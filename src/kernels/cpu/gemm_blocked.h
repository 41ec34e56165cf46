// C (+)= A B in blocks: a thread packs a group of B's panels for one block of k, then multiplies its strips of A with them.
#pragma once

#include <omp.h>

#include <cstdint>
#include <cstdlib>

#include "kernels/cpu/gemm_amx.h"
#include "kernels/cpu/gemm_bytes.h"
#include "kernels/cpu/gemm_micro.h"
#include "kernels/cpu/gemm_pack.h"
#include "stableqat/kernels/gemm.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

// Units of k taken in one go: kGemmDepth terms; fp32 takes half of them.
template <class Type>
inline constexpr std::int64_t kUnitsPerBlock = kGemmDepth / (kIsBytes<Type> ? 4 : 2);
// Blocks are so many units or a multiple: whole vectors, whole groups. Digits: as many terms as with 16-bit integers, for the same sums.
template <class Type>
inline constexpr std::int64_t kUnitsMultiple = std::is_same_v<Type, Digits> ? 16 : 32;
inline constexpr std::int64_t kPanelsPerGroup = 256 / kTileColumns;  // packed panels of B kept in the second-level cache: at most 256 KB
inline constexpr std::int64_t kStripsPerPack = 8;  // strips of a transposed A packed together: whole cache lines of its rows
inline constexpr std::size_t kAlignment = 64;

template <class Type>
inline constexpr std::int64_t kPanelExtra = std::is_same_v<Type, Int8>    ? kBytePanelExtra
                                            : std::is_same_v<Type, Int12> ? 1
                                                                          : 0;
// Whether each block of k has scales of its own: those of A's rows [blocks, m], those of B's columns behind each panel.
template <class Type>
inline constexpr bool kScaledBlocks = std::is_same_v<Type, Int12>;
// Rows of C in a strip: what one thread takes at a time.
template <class Type>
inline constexpr std::int64_t kStripRows = kInTiles<Type> ? kTiledRows<Type> : kTileRows;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Units of k in a block, of `units` in all: blocks as equal as can be.
template <class Type>
constexpr std::int64_t block_units(std::int64_t units) {
  if constexpr (std::is_same_v<Type, Int12>) return int12_block(2 * units) / 2;
  const std::int64_t blocks = units > 0 ? ceil_div(units, kUnitsPerBlock<Type>) : 1;
  return ceil_div(ceil_div(units, blocks), kUnitsMultiple<Type>) * kUnitsMultiple<Type>;
}

// Memory that the caller of a kernel never sees. Empty when there was none.
class Scratch {
 public:
  explicit Scratch(std::int64_t units)
      : data_(static_cast<std::int32_t*>(
            std::aligned_alloc(kAlignment, (static_cast<std::size_t>(units) * 4 + kAlignment - 1) / kAlignment * kAlignment))) {}
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::int32_t* data() const { return data_; }

 private:
  std::int32_t* data_;
};

// How threads share C: a grid of ranges of strips of rows and of panels.
struct Grid {
  std::int64_t row_parts = 1;
  std::int64_t panel_parts = 1;
};

// Of C [m, n]. Where several share the work alike, the one whose threads read the least of A and B together.
inline Grid choose_grid(std::int64_t threads, std::int64_t strips, std::int64_t panels, std::int64_t m, std::int64_t n) {
  Grid best;
  std::int64_t best_work = strips * panels;
  std::int64_t best_read = m + n;
  for (std::int64_t row_parts = 1; row_parts <= threads; ++row_parts) {
    const std::int64_t panel_parts = threads / row_parts;
    const std::int64_t work = ceil_div(strips, row_parts) * ceil_div(panels, panel_parts);
    const std::int64_t read = panel_parts * m + row_parts * n;
    if (work < best_work || (work == best_work && read < best_read)) {
      best_work = work;
      best_read = read;
      best = {row_parts, panel_parts};
    }
  }
  return best;
}

struct Range {
  std::int64_t begin;
  std::int64_t end;
};

inline Range part_of(std::int64_t count, std::int64_t parts, std::int64_t part) {
  return {count * part / parts, count * (part + 1) / parts};
}

struct Shape {
  std::int64_t m;
  std::int64_t n;
  std::int64_t units;
};

// Any number of rows up to kTileRows, in tiles of kTileRows, 4 and 1: few sizes, because each is a function of its own.
template <class Type, bool kRowMajorA>
void multiply_in_registers(std::int64_t rows, std::int64_t units, UnitsA a, const std::int32_t* b, OutputC c, int columns) {
  const auto take = [&]<int kRows>() {
    if constexpr (kIsBytes<Type> && !kHasByteProducts) {
      multiply_byte_tile<kRows>(units, a, b, c, columns);
    } else {
      multiply_tile<Type, kRows, kRowMajorA>(units, a, b, c, columns);
    }
    a = a.at(kRows, 0);
    c = c.at(kRows, 0);
    rows -= kRows;
  };
  while (rows >= kTileRows) take.template operator()<kTileRows>();
  while (rows >= 4) take.template operator()<4>();
  while (rows > 0) take.template operator()<1>();
}

// Up to a strip's rows times a panel.
template <class Type, bool kRowMajorA>
void multiply_rows(TileShapes& shapes, std::int64_t rows, std::int64_t units, const UnitsA& a, const std::int32_t* b, const OutputC& c,
                   int columns) {
  if constexpr (kInTiles<Type>) {
    static_assert(kRowMajorA);
    multiply_in_tiles<Type>(shapes, static_cast<int>(rows), units, a, b, c, columns);
  } else {
    static_cast<void>(shapes);
    multiply_in_registers<Type, kRowMajorA>(rows, units, a, b, c, columns);
  }
}

// Strips of a transposed A, [strips][units][kTileRows]. A tile would otherwise read each of its units from another page, and rows of a
// length such as the vocabulary's lie in few sets of the caches: none would be there for the next panel.
inline void pack_strips(std::int64_t rows, std::int64_t units, const UnitsA& a, std::int32_t* packed) {
  const std::int64_t whole = rows / kTileRows;
  const std::int64_t rest = rows % kTileRows;
  for (std::int64_t unit = 0; unit < units; ++unit) {
    const std::int32_t* from = a.data + unit * a.unit_stride;
    std::int32_t* to = packed + unit * kTileRows;
    for (std::int64_t strip = 0; strip < whole; ++strip) {
      __builtin_memcpy(to + strip * units * kTileRows, from + strip * kTileRows, kTileRows * sizeof(std::int32_t));
    }
    for (std::int64_t i = 0; i < rest; ++i) to[whole * units * kTileRows + i] = from[whole * kTileRows + i];
  }
}

// One thread's memory for packed panels of B and strips of A.
struct Packed {
  std::int32_t* panels;
  std::int32_t* strips;
};

// One thread's share of C: packs a group of B's panels, then multiplies all of its rows of A with it.
template <class Type, bool kRowMajorA, class SourceB>
void multiply_range(const Shape& shape, const UnitsA& a, const SourceB& b, const OutputC& c, Range strips, Range panels,
                    std::int64_t units_per_block, const Packed& packed) {
  TileShapes shapes;
  const std::int64_t groups = ceil_div(panels.end - panels.begin, kPanelsPerGroup);
  for (std::int64_t g = 0; g < groups; ++g) {
    const auto [first, last] = part_of(panels.end - panels.begin, groups, g);
    const std::int64_t group = panels.begin + first;
    const std::int64_t group_end = panels.begin + last;
    for (std::int64_t unit = 0; unit < shape.units; unit += units_per_block) {
      const std::int64_t left = unit + units_per_block < shape.units ? units_per_block : shape.units - unit;
      const std::int64_t units = kInTiles<Type> ? whole_tiles(left) : left;
      const std::int64_t panel_size = (units + kPanelExtra<Type>)*kTileColumns;
      const auto columns_of = [&shape](std::int64_t panel) {
        const std::int64_t rest = shape.n - panel * kTileColumns;
        return static_cast<int>(rest < kTileColumns ? rest : kTileColumns);
      };
      for (std::int64_t panel = group; panel < group_end; ++panel) {
        std::int32_t* const target = packed.panels + (panel - group) * panel_size;
        pack_panel(b, unit, left, panel * kTileColumns, columns_of(panel), target);
        if constexpr (kInTiles<Type>) {
          for (std::int64_t i = left * kTileColumns; i < units * kTileColumns; ++i) target[i] = 0;
        }
        if constexpr (std::is_same_v<Type, Int8>) finish_byte_panel(target, units);
      }
      OutputC out = c;
      out.accumulate = c.accumulate || unit > 0;
      if constexpr (kScaledBlocks<Type>) out.row_scale = c.row_scale + unit / units_per_block * shape.m;
      for (std::int64_t strip = strips.begin; strip < strips.end; ++strip) {
        const std::int64_t row = strip * kStripRows<Type>;
        const std::int64_t rows = shape.m - row < kStripRows<Type> ? shape.m - row : kStripRows<Type>;
        UnitsA rows_of_a = a.at(row, unit);
        if constexpr (!kRowMajorA) {
          static_assert(kStripRows<Type> == kTileRows);
          const std::int64_t place = (strip - strips.begin) % kStripsPerPack;
          if (place == 0) {
            const std::int64_t end = strip + kStripsPerPack < strips.end ? (strip + kStripsPerPack) * kTileRows : strips.end * kTileRows;
            pack_strips((end < shape.m ? end : shape.m) - row, units, rows_of_a, packed.strips);
          }
          rows_of_a = {packed.strips + place * units * kTileRows, 1, kTileRows};
        }
        for (std::int64_t panel = group; panel < group_end; ++panel) {
          const std::int32_t* const units_of_b = packed.panels + (panel - group) * panel_size;
          OutputC tile = out.at(row, panel * kTileColumns);
          if constexpr (kScaledBlocks<Type>)
            tile.column_scale = static_cast<const float*>(static_cast<const void*>(units_of_b + units * kTileColumns));
          multiply_rows<Type, kRowMajorA>(shapes, rows, units, rows_of_a, units_of_b, tile, columns_of(panel));
        }
      }
    }
  }
}

template <class Type, bool kRowMajorA, class SourceB>
bool multiply(const Shape& shape, const UnitsA& a, const SourceB& b, const OutputC& c) {
  if (shape.m == 0 || shape.n == 0) return true;
  const std::int64_t strips = ceil_div(shape.m, kStripRows<Type>);
  const std::int64_t panels = ceil_div(shape.n, kTileColumns);
  const std::int64_t units_per_block = block_units<Type>(shape.units);
  const bool small = shape.m * shape.n * shape.units < 32768;
  const Grid grid = choose_grid(small ? 1 : omp_get_max_threads(), strips, panels, shape.m, shape.n);
  const std::int64_t threads = grid.row_parts * grid.panel_parts;
  const std::int64_t panels_size = kPanelsPerGroup * kTileColumns * (units_per_block + kPanelExtra<Type>);
  const std::int64_t scratch_size = panels_size + (kRowMajorA ? 0 : kStripsPerPack * kTileRows * units_per_block);
  const Scratch scratch(threads * scratch_size);
  if (scratch.data() == nullptr) return false;
#pragma omp parallel for num_threads(static_cast <int>(threads)) schedule(static, 1) if (threads > 1)
  for (std::int64_t part = 0; part < threads; ++part) {
    multiply_range<Type, kRowMajorA>(shape, a, b, c, part_of(strips, grid.row_parts, part / grid.panel_parts),
                                     part_of(panels, grid.panel_parts, part % grid.panel_parts), units_per_block,
                                     {scratch.data() + part * scratch_size, scratch.data() + part * scratch_size + panels_size});
  }
  return true;
}

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
