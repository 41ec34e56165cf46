#include "stableqat/kernels/packed.h"

#include <algorithm>

#include "kernels/isa_table.h"

namespace stableqat::kernels {

STABLEQAT_DECLARE_DOT_ISA_TABLES(PackedKernels, packed_table)

const PackedKernels& packed_kernels(Isa isa) { return STABLEQAT_DOT_ISA_TABLE(packed_table, isa); }

namespace {

void put_level(int bits, std::int64_t row, std::int64_t column, unsigned level, std::uint8_t* tile) {
  const auto set = [tile](std::int64_t byte, std::int64_t shift, unsigned value) {
    tile[byte] = static_cast<std::uint8_t>(tile[byte] | value << shift);
  };
  switch (bits) {
    case 2:
      set(column, 2 * row, level);
      break;
    case 3:
      if (row < 2) {
        set(column, 3 * row, level);
      } else if (row == 2) {
        set(column, 6, level & 3U);
        set(64 + column % 32, column / 32 * 4 + 3, level >> 2);
      } else {
        set(64 + column % 32, column / 32 * 4, level);
      }
      break;
    case 4:
      set(row / 2 * kPackedColumns + column, 4 * (row % 2), level);
      break;
    default:
      set(row * kPackedColumns + column, 0, level);
  }
}

}  // namespace

void pack_levels(std::int64_t rows, std::int64_t columns, int bits, const std::uint8_t* levels, std::uint8_t* tiles) {
  const std::int64_t tile_bytes = kPackedRows * kPackedColumns / 8 * bits;
  std::fill(tiles, tiles + packed_bytes(rows, columns, bits), std::uint8_t{0});
  for (std::int64_t row = 0; row < rows; ++row) {
    std::uint8_t* tile = tiles + row / kPackedRows * packed_tiles(columns) * tile_bytes;
    for (std::int64_t column = 0; column < columns; ++column) {
      put_level(bits, row % kPackedRows, column % kPackedColumns, levels[row * columns + column],
                tile + column / kPackedColumns * tile_bytes);
    }
  }
}

}  // namespace stableqat::kernels
