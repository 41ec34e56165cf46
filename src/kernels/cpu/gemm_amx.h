// Tile products by AMX: 16 x 16 sums at a time from rows of 64 bytes. Panels of B are as for the other instruction sets: `units` rows of
// 32-bit units are just what a tile of B wants. Source: Intel's Software Developer's Manual, volume 1, chapter 18.
//
// Two tiles of A meet the two tiles of a panel. Of bytes and bf16 they are 2 x 16 rows; of 16-bit integers 16 rows, taken as two digits
// (value = 256 * high + low, high signed, low not), whose sums are put together in the end: as exact as one product of 16-bit integers.
#pragma once

#include <type_traits>

#include "kernels/cpu/gemm_bytes.h"
#include "kernels/cpu/gemm_micro.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
inline constexpr bool kHasTiles = true;
#else
inline constexpr bool kHasTiles = false;
#endif

inline constexpr int kTileDepth = 16;   // units along k that a tile holds
inline constexpr int kTileHeight = 16;  // its rows
inline constexpr int kTileRowBytes = 64;

// 16-bit integers as rows of bytes: the high digits, and half a row behind them the low ones.
struct Digits {
  static constexpr int kPerUnit = 4;
  static Floats to_float(Ints sum) { return __builtin_convertvector(sum, Floats); }
};

// A row of k 16-bit integers as digits, each half a row of `half` bytes with zeros behind.
inline void split_digits(std::int64_t k, const std::int16_t* row, std::int64_t half, std::uint8_t* bytes) {
#pragma omp simd
  for (std::int64_t j = 0; j < k; ++j) {
    bytes[j] = static_cast<std::uint8_t>(row[j] >> 8);
    bytes[half + j] = static_cast<std::uint8_t>(row[j]);
  }
  for (std::int64_t j = k; j < half; ++j) bytes[j] = bytes[half + j] = 0;
}

// Whether products of this type are done by tiles.
template <class Type>
inline constexpr bool kInTiles = kHasTiles&& Type::kPerUnit > 1 && !std::is_base_of_v<Int16, Type>;

constexpr std::int64_t whole_tiles(std::int64_t units) { return (units + kTileDepth - 1) / kTileDepth * kTileDepth; }

// Rows of C that one call of multiply_in_tiles takes at most.
template <class Type>
inline constexpr int kTiledRows = std::is_same_v<Type, Digits> ? kTileHeight : 2 * kTileHeight;

class TileShapes;

// `rows` x `columns` of C from whole tiles of `units` units: rows of A, which are readable and finite to the end of the last tile, and a
// panel with zeros there.
template <class Type>
void multiply_in_tiles(TileShapes& shapes, int rows, std::int64_t units, const UnitsA& a, const std::int32_t* panel, const OutputC& c,
                       int columns);

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)

// GCC's intrinsics do not say which memory they read.
inline void let_stores_happen() { __asm__ volatile("" ::: "memory"); }

// The shape of this thread's tile registers, from the first set_rows() on until the end of the object's life.
class TileShapes {
 public:
  TileShapes() = default;
  ~TileShapes() {
    if (rows_ != 0) _tile_release();
  }
  TileShapes(const TileShapes&) = delete;
  TileShapes& operator=(const TileShapes&) = delete;

  // Tiles of A, and of sums, have `rows` <= kTileHeight rows. Clears all tiles if that is new.
  void set_rows(int rows) {
    if (rows == rows_) return;
    rows_ = rows;
    alignas(64) Configuration configuration;
    for (int tile = 0; tile < 8; ++tile) {
      configuration.row_bytes[tile] = kTileRowBytes;
      configuration.rows[tile] = static_cast<std::uint8_t>(tile == kFirstOfB || tile == kFirstOfB + 1 ? kTileDepth : rows);
    }
    let_stores_happen();
    _tile_loadconfig(&configuration);
  }

 private:
  static constexpr int kFirstOfB = 6;  // 0 to 3: sums, 4 and 5: A, 6 and 7: B

  struct Configuration {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
  };
  static_assert(sizeof(Configuration) == 64);

  int rows_ = 0;
};

// sums [2, kTileHeight, kTileColumns] = the two tiles of A times those of a panel, over `units` units, a multiple of kTileDepth.
template <class Type>
void sum_in_tiles(std::int64_t units, const std::int32_t* first, const std::int32_t* second, std::int64_t row_stride,
                  const std::int32_t* panel, std::int32_t* sums) {
  constexpr int kPanelStride = kTileColumns * 4;
  constexpr int kHalf = kTileColumns / 2;
  static_assert(kTileColumns * 4 == 2 * kTileRowBytes);
  const std::int64_t stride = row_stride * 4;
  let_stores_happen();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t unit = 0; unit < units; unit += kTileDepth) {
    const std::int32_t* const b = panel + unit * kTileColumns;
    _tile_loadd(4, first + unit, stride);
    _tile_loadd(6, b, kPanelStride);
    _tile_loadd(7, b + kHalf, kPanelStride);
    _tile_loadd(5, second + unit, stride);
    if constexpr (Type::kPerUnit == 2) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    } else {
      if constexpr (std::is_same_v<Type, Digits>) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
      } else {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
      }
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
  }
  _tile_stored(0, sums, kPanelStride);
  _tile_stored(1, sums + kHalf, kPanelStride);
  _tile_stored(2, sums + kTileHeight * kTileColumns, kPanelStride);
  _tile_stored(3, sums + kTileHeight * kTileColumns + kHalf, kPanelStride);
}

template <class Type>
void multiply_in_tiles(TileShapes& shapes, int rows, std::int64_t units, const UnitsA& a, const std::int32_t* panel, const OutputC& c,
                       int columns) {
  constexpr bool kDigits = std::is_same_v<Type, Digits>;
  alignas(64) std::int32_t sums[2 * kTileHeight * kTileColumns];
  // The second tile of A begins where the rows beyond the first do; of few rows it is the first again, and its sums are left alone.
  const int height = rows < kTileHeight ? rows : kTileHeight;
  const int second_row = kDigits || rows <= kTileHeight ? 0 : rows - kTileHeight;
  shapes.set_rows(height);
  const std::int32_t* const second = kDigits ? a.data + a.row_stride / 2 : a.data + second_row * a.row_stride;
  sum_in_tiles<Type>(units, a.data, second, a.row_stride, panel, sums);

  float values[kTiledRows<Type> * kTileColumns];
  for (int i = 0; i < rows; ++i) {
    const int row = kDigits || i < kTileHeight ? i : kTileHeight + i - second_row;
    for (int v = 0; v < kTileVectors; ++v) {
      const std::int32_t* const at = sums + row * kTileColumns + v * kWidth;
      Floats value;
      if constexpr (Type::kPerUnit == 2) {
        value = load<Floats>(at);
      } else if constexpr (kDigits) {
        const UnsignedInts high = load<UnsignedInts>(at) << 8;  // wraps around; the sum does not
        value = Type::to_float(std::bit_cast<Ints>(high + load<UnsignedInts>(at + kTileHeight * kTileColumns)));
      } else {
        value = Type::to_float(load<Ints>(at) + load<Ints>(panel + units * kTileColumns + v * kWidth));
      }
      if (columns == kTileColumns) {
        store_vector(c, i, v * kWidth, value);
      } else {
        store(values + i * kTileColumns + v * kWidth, value);
      }
    }
  }
  if (columns < kTileColumns) store_part(c, rows, columns, values);
}

#else

class TileShapes {};

#endif

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
