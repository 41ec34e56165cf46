// Included before everything else of a kernel's source: AVX-512 for machines and compilers' targets without it. Registers are the
// compiler's vector types, which it splits; the intrinsics that the kernels name are written out. STABLEQAT_IMITATED: 1 AVX-512, 2 and
// VNNI, 3 and AMX.
#pragma once

#include <immintrin.h>  // before the macros, which it reads

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace stableqat::testing {

template <class To, class From>
inline To lanes_of(const From& from) {
  To to;
  static_assert(sizeof(to) == sizeof(from));
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <class T, int kCount>
struct Lanes {
  T lane[kCount];
};
using Bytes64 = Lanes<std::int8_t, 64>;
using UnsignedBytes64 = Lanes<std::uint8_t, 64>;
using Shorts32 = Lanes<std::int16_t, 32>;
using Ints16 = Lanes<std::int32_t, 16>;
using Floats16 = Lanes<float, 16>;

inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  const auto x = lanes_of<Floats16>(a), y = lanes_of<Floats16>(b), z = lanes_of<Floats16>(c);
  Floats16 sum;
  for (int i = 0; i < 16; ++i) sum.lane[i] = __builtin_fmaf(x.lane[i], y.lane[i], z.lane[i]);
  return lanes_of<__m512>(sum);
}

inline __m512i madd_epi16(__m512i a, __m512i b) {
  const auto x = lanes_of<Shorts32>(a), y = lanes_of<Shorts32>(b);
  Ints16 sum;
  for (int i = 0; i < 16; ++i) sum.lane[i] = x.lane[2 * i] * y.lane[2 * i] + x.lane[2 * i + 1] * y.lane[2 * i + 1];
  return lanes_of<__m512i>(sum);
}

// Unsigned bytes by signed ones; sums of two saturate.
inline __m512i maddubs_epi16(__m512i a, __m512i b) {
  const auto x = lanes_of<UnsignedBytes64>(a);
  const auto y = lanes_of<Bytes64>(b);
  Shorts32 sum;
  for (int i = 0; i < 32; ++i) {
    const int value = x.lane[2 * i] * y.lane[2 * i] + x.lane[2 * i + 1] * y.lane[2 * i + 1];
    sum.lane[i] = static_cast<std::int16_t>(value > 32767 ? 32767 : value < -32768 ? -32768 : value);
  }
  return lanes_of<__m512i>(sum);
}

inline __m512i dpwssd_epi32(__m512i sum, __m512i a, __m512i b) {
  const auto start = lanes_of<Ints16>(sum), products = lanes_of<Ints16>(madd_epi16(a, b));
  Lanes<std::uint32_t, 16> result;
  for (int i = 0; i < 16; ++i) result.lane[i] = static_cast<std::uint32_t>(start.lane[i]) + static_cast<std::uint32_t>(products.lane[i]);
  return lanes_of<__m512i>(result);
}

inline __m512i dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  const auto start = lanes_of<Ints16>(sum);
  const auto x = lanes_of<UnsignedBytes64>(a);
  const auto y = lanes_of<Bytes64>(b);
  Ints16 result;
  for (int i = 0; i < 16; ++i) {
    std::int32_t products = 0;
    for (int j = 4 * i; j < 4 * i + 4; ++j) products += x.lane[j] * y.lane[j];
    result.lane[i] = start.lane[i] + products;
  }
  return lanes_of<__m512i>(result);
}

inline __m512i set1_epi16(std::int16_t value) {
  Shorts32 all;
  for (std::int16_t& lane : all.lane) lane = value;
  return lanes_of<__m512i>(all);
}

inline __m512i maskz_broadcast_i64x4(std::uint8_t mask, __m256i four) {
  const auto values = lanes_of<Lanes<std::int64_t, 4>>(four);
  Lanes<std::int64_t, 8> all;
  for (int i = 0; i < 8; ++i) all.lane[i] = (mask >> i & 1) != 0 ? values.lane[i % 4] : 0;
  return lanes_of<__m512i>(all);
}

// AMX: eight tiles of 16 rows of 64 bytes for each thread. Every use is checked as the CPU does, and so is that tiles are given back: what
// is wrong stops the program.
struct TileRegisters {
  bool configured = false;
  std::uint8_t rows[8] = {};
  std::uint16_t row_bytes[8] = {};
  std::int32_t units[8][16][16] = {};

  ~TileRegisters() {
    if (configured) __builtin_trap();
  }
  void require(int tile) const {
    if (!configured || rows[tile] == 0 || rows[tile] > 16 || row_bytes[tile] != 64) __builtin_trap();
  }
};
inline thread_local TileRegisters tile_registers;

inline void tile_loadconfig(const void* address) {
  std::uint8_t bytes[64];
  std::memcpy(bytes, address, 64);
  if (bytes[0] != 1) __builtin_trap();
  TileRegisters& tiles = tile_registers;
  std::memset(tiles.units, 0, sizeof(tiles.units));
  for (int tile = 0; tile < 8; ++tile) {
    std::memcpy(&tiles.row_bytes[tile], bytes + 16 + 2 * tile, 2);
    tiles.rows[tile] = bytes[48 + tile];
  }
  tiles.configured = true;
}
inline void tile_release() { tile_registers.configured = false; }
inline void tile_zero(int tile) {
  tile_registers.require(tile);
  std::memset(tile_registers.units[tile], 0, sizeof(tile_registers.units[tile]));
}
inline void tile_loadd(int tile, const void* base, std::int64_t stride) {
  tile_registers.require(tile);
  for (int row = 0; row < 16; ++row) {
    if (row < tile_registers.rows[tile]) {
      std::memcpy(tile_registers.units[tile][row], static_cast<const std::uint8_t*>(base) + row * stride, 64);
    } else {
      std::memset(tile_registers.units[tile][row], 0, 64);
    }
  }
}
inline void tile_stored(int tile, void* base, std::int64_t stride) {
  tile_registers.require(tile);
  for (int row = 0; row < tile_registers.rows[tile]; ++row) {
    std::memcpy(static_cast<std::uint8_t*>(base) + row * stride, tile_registers.units[tile][row], 64);
  }
}

// sums[i][j] takes up add(sum, unit of A, unit of B) for each unit of A's row.
template <class Add>
inline void tile_product(int sums, int a, int b, Add&& add) {
  TileRegisters& tiles = tile_registers;
  for (const int tile : {sums, a, b}) tiles.require(tile);
  if (tiles.rows[sums] != tiles.rows[a] || tiles.rows[b] != 16) __builtin_trap();
  for (int i = 0; i < tiles.rows[sums]; ++i) {
    for (int k = 0; k < 16; ++k) {
      for (int j = 0; j < 16; ++j) tiles.units[sums][i][j] = add(tiles.units[sums][i][j], tiles.units[a][i][k], tiles.units[b][k][j]);
    }
  }
}
template <class ByteOfA>
inline void tile_byte_product(int sums, int a, int b) {
  tile_product(sums, a, b, [](std::int32_t sum, std::int32_t x, std::int32_t y) {
    const auto bytes = lanes_of<Lanes<ByteOfA, 4>>(x);
    const auto codes = lanes_of<Lanes<std::int8_t, 4>>(y);
    for (int i = 0; i < 4; ++i)
      sum = static_cast<std::int32_t>(static_cast<std::uint32_t>(sum) + static_cast<std::uint32_t>(bytes.lane[i] * codes.lane[i]));
    return sum;
  });
}
inline void tile_dpbf16ps(int sums, int a, int b) {
  tile_product(sums, a, b, [](std::int32_t sum, std::int32_t x, std::int32_t y) {
    const auto widened = [](std::uint16_t value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16); };
    const auto p = lanes_of<Lanes<std::uint16_t, 2>>(x), q = lanes_of<Lanes<std::uint16_t, 2>>(y);
    auto value = std::bit_cast<float>(sum);
    for (int i = 0; i < 2; ++i) value = __builtin_fmaf(widened(p.lane[i]), widened(q.lane[i]), value);
    return std::bit_cast<std::int32_t>(value);
  });
}

}  // namespace stableqat::testing

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define _mm512_fmadd_ps stableqat::testing::fmadd_ps
#define _mm512_madd_epi16 stableqat::testing::madd_epi16
#define _mm512_maddubs_epi16 stableqat::testing::maddubs_epi16
#define _mm512_set1_epi16 stableqat::testing::set1_epi16
#define _mm512_maskz_broadcast_i64x4 stableqat::testing::maskz_broadcast_i64x4
#if STABLEQAT_IMITATED >= 2
#define __AVX512VNNI__ 1
#define _mm512_dpwssd_epi32 stableqat::testing::dpwssd_epi32
#define _mm512_dpbusd_epi32 stableqat::testing::dpbusd_epi32
#endif
#if STABLEQAT_IMITATED >= 3
#define __AMX_INT8__ 1
#define __AMX_BF16__ 1
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbssd
#undef _tile_dpbusd
#undef _tile_dpbf16ps
#define _tile_loadconfig stableqat::testing::tile_loadconfig
#define _tile_release stableqat::testing::tile_release
#define _tile_loadd stableqat::testing::tile_loadd
#define _tile_stored stableqat::testing::tile_stored
#define _tile_zero stableqat::testing::tile_zero
#define _tile_dpbssd stableqat::testing::tile_byte_product<std::int8_t>
#define _tile_dpbusd stableqat::testing::tile_byte_product<std::uint8_t>
#define _tile_dpbf16ps stableqat::testing::tile_dpbf16ps
#endif
