// Products of unsigned bytes (activations, 128 more than their integers) and signed bytes (codes of a weight), four of each in a 32-bit
// unit.
//
// The 128 are taken off again by the sums' start values, which are made of the codes when they are packed. Where there is no instruction
// for four products, sums of two products are added up in 16 bits over kUnitsInShorts units: 9 instructions where 16-bit integers take 16,
// and exact for codes up to kMostInShorts. Panels with larger ones go another way.
#pragma once

#include "kernels/cpu/gemm_micro.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

#if defined(__AVX512VNNI__)
inline constexpr bool kHasByteProducts = true;
#else
inline constexpr bool kHasByteProducts = false;
#endif

inline constexpr int kByteOffset = 128;    // of activations
inline constexpr int kUnitsInShorts = 4;   // units of a panel are a multiple
inline constexpr int kMostInShorts = 16;   // 255 * 16 * 2 products * 4 units = 32640
inline constexpr int kBytePanelExtra = 2;  // rows of kTileColumns behind a panel's units: start values, and whether codes are large

struct Int8 {
  static constexpr int kPerUnit = 4;
  using Sum = Ints;
#if defined(__AVX512VNNI__)
  static Sum add_product(Sum sum, std::int32_t a, Ints b) {
    return std::bit_cast<Ints>(
        _mm512_dpbusd_epi32(std::bit_cast<__m512i>(sum), std::bit_cast<__m512i>(broadcast(a)), std::bit_cast<__m512i>(b)));
  }
#endif
  static Floats to_float(Sum sum) { return __builtin_convertvector(sum, Floats); }
};

// The bytes of each 32-bit element, the first in the lowest.
template <int kByte>
inline Ints signed_byte(Ints units) {
  return units << (24 - 8 * kByte) >> 24;
}

// Fills in what comes behind the units of a packed panel.
inline void finish_byte_panel(std::int32_t* panel, std::int64_t units) {
  bool has_large = false;
  for (int v = 0; v < kTileVectors; ++v) {
    Ints sum{};
    Ints large{};
    for (std::int64_t u = 0; u < units; ++u) {
      const Ints unit = load<Ints>(panel + u * kTileColumns + v * kWidth);
      const Ints bytes[] = {signed_byte<0>(unit), signed_byte<1>(unit), signed_byte<2>(unit), signed_byte<3>(unit)};
      for (const Ints& byte : bytes) {
        sum += byte;
        large |= (byte > kMostInShorts) | (byte < -kMostInShorts);
      }
    }
    store(panel + units * kTileColumns + v * kWidth, sum * -kByteOffset);
    for (int lane = 0; lane < kWidth; ++lane) has_large = has_large || large[lane] != 0;
  }
  panel[(units + 1) * kTileColumns] = has_large ? 1 : 0;
}

// sum + the four products of each element, whatever their size.
inline Ints add_byte_products(Ints sum, std::int32_t a, Ints b) {
  const auto bytes = static_cast<std::uint32_t>(a);
  const Ints odd = std::bit_cast<Ints>(std::bit_cast<Shorts>(b) >> 8);
  const Ints even = std::bit_cast<Ints>(std::bit_cast<Shorts>(b) << 8 >> 8);
  sum = Int16::add_product(sum, static_cast<std::int32_t>(bytes & 0x00ff00ffU), even);
  return Int16::add_product(sum, static_cast<std::int32_t>(bytes >> 8 & 0x00ff00ffU), odd);
}

#if defined(__AVX512BW__)
inline Shorts add_byte_pairs(std::int32_t a, Ints b) {
  return std::bit_cast<Shorts>(_mm512_maddubs_epi16(std::bit_cast<__m512i>(broadcast(a)), std::bit_cast<__m512i>(b)));
}
inline constexpr bool kHasBytePairs = true;
#elif defined(__AVX2__)
inline Shorts add_byte_pairs(std::int32_t a, Ints b) {
  return std::bit_cast<Shorts>(_mm256_maddubs_epi16(std::bit_cast<__m256i>(broadcast(a)), std::bit_cast<__m256i>(b)));
}
inline constexpr bool kHasBytePairs = true;
#else
inline Shorts add_byte_pairs(std::int32_t, Ints) { return Shorts{}; }
inline constexpr bool kHasBytePairs = false;
#endif

// kRows x kWidth sums over `units` units; b: kWidth columns of a panel. One vector of columns at a time, so that kUnitsInShorts of them
// stay in registers over all rows.
template <int kRows, bool kInShorts>
inline void sum_bytes(std::int64_t units, const UnitsA& a, const std::int32_t* b, Ints (&sums)[kRows]) {
  constexpr int kBases = (kRows + 2) / 3;  // as in multiply_tile
  const std::int32_t* base[kBases];
#pragma GCC unroll 4
  for (int i = 0; i < kBases; ++i) base[i] = a.data + 3 * i * a.row_stride;
  for (std::int64_t unit = 0; unit < units; unit += kUnitsInShorts, b += kUnitsInShorts * kTileColumns) {
    Ints columns[kUnitsInShorts];
#pragma GCC unroll 4
    for (int u = 0; u < kUnitsInShorts; ++u) columns[u] = load<Ints>(b + u * kTileColumns);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      const std::int32_t* const row = base[i / 3] + (i % 3) * a.row_stride;
      if constexpr (kInShorts) {
        Shorts pairs = add_byte_pairs(row[0], columns[0]);
#pragma GCC unroll 3
        for (int u = 1; u < kUnitsInShorts; ++u) pairs += add_byte_pairs(row[u], columns[u]);
        sums[i] = Int16::add_product(sums[i], 0x00010001, std::bit_cast<Ints>(pairs));
      } else {
#pragma GCC unroll 4
        for (int u = 0; u < kUnitsInShorts; ++u) sums[i] = add_byte_products(sums[i], row[u], columns[u]);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kBases; ++i) base[i] += kUnitsInShorts;
  }
}

// multiply_tile for bytes without an instruction for them. A is row-major.
template <int kRows>
void multiply_byte_tile(std::int64_t units, const UnitsA& a, const std::int32_t* panel, const OutputC& c, int columns) {
  const std::int32_t* const start = panel + units * kTileColumns;
  const bool in_shorts = kHasBytePairs && start[kTileColumns] == 0;
  float values[kRows * kTileColumns];
  for (int v = 0; v < kTileVectors; ++v) {
    Ints sums[kRows];
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) sums[i] = load<Ints>(start + v * kWidth);
    if (in_shorts) {
      sum_bytes<kRows, true>(units, a, panel + v * kWidth, sums);
    } else {
      sum_bytes<kRows, false>(units, a, panel + v * kWidth, sums);
    }
    for (int i = 0; i < kRows; ++i) {
      const Floats value = Int8::to_float(sums[i]);
      if (columns == kTileColumns) {
        store_vector(c, i, v * kWidth, value);
      } else {
        store(values + i * kTileColumns + v * kWidth, value);
      }
    }
  }
  if (columns < kTileColumns) store_part(c, kRows, columns, values);
}

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
