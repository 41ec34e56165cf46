// The innermost product of packed weights: unsigned levels times signed digits, as many as a register has bytes, summed by fours.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <bit>
#include <cstdint>

#include "kernels/cpu/vector.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

typedef std::uint8_t Levels __attribute__((vector_size(kWidth * 4)));
typedef std::int8_t Digits __attribute__((vector_size(kWidth * 4)));

// Columns of a tile that a register holds, and the parts that make a tile of 64 columns.
inline constexpr int kPartColumns = kWidth * 4;
inline constexpr int kParts = 64 / kPartColumns;

// (levels >> shift) & mask, where no bit that the mask keeps comes from a neighbour.
template <int kShift>
inline Levels field(Levels levels, std::uint8_t mask) {
  typedef std::uint16_t Pairs __attribute__((vector_size(kWidth * 4)));
  return std::bit_cast<Levels>(std::bit_cast<Pairs>(levels) >> kShift) & (Levels{} + mask);
}

// levels, and 4 more in column j if bit j at `bits` is set.
inline Levels add_third_bit(Levels levels, const std::uint8_t* bits) {
#if defined(__AVX512BW__)
  const __m512i values = std::bit_cast<__m512i>(levels);
  return std::bit_cast<Levels>(_mm512_mask_add_epi8(values, load<std::uint64_t>(bits), values, _mm512_set1_epi8(4)));
#elif defined(__AVX2__)
  const __m256i byte_of = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i bit_of = _mm256_set1_epi64x(static_cast<std::int64_t>(0x8040201008040201U));
  const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(load<std::int32_t>(bits)), byte_of);
  const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of), bit_of);
  return levels + std::bit_cast<Levels>(_mm256_and_si256(is_set, _mm256_set1_epi8(4)));
#else
  typedef std::uint64_t Eights __attribute__((vector_size(kWidth * 4)));
  Eights fours;
  for (int i = 0; i < kPartColumns / 8; ++i) {
    const std::uint64_t one_each = bits[i] * 0x0101010101010101U & 0x8040201008040201U;  // byte j keeps bit j
    const std::uint64_t top_bits = (((one_each & 0x7f7f7f7f7f7f7f7fU) + 0x7f7f7f7f7f7f7f7fU) | one_each) & 0x8080808080808080U;
    fours[i] = top_bits >> 5;
  }
  return levels + std::bit_cast<Levels>(fours);
#endif
}

// sum + levels * digits, by fours. Levels below 16: pairs of products stay within 16 bits.
inline Ints add_small_products(Ints sum, Levels levels, Digits digits) {
#if defined(__AVX512VNNI__)
  return std::bit_cast<Ints>(
      _mm512_dpbusd_epi32(std::bit_cast<__m512i>(sum), std::bit_cast<__m512i>(levels), std::bit_cast<__m512i>(digits)));
#elif defined(__AVX512BW__)
  const __m512i pairs = _mm512_maddubs_epi16(std::bit_cast<__m512i>(levels), std::bit_cast<__m512i>(digits));
  return sum + std::bit_cast<Ints>(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#elif defined(__AVX2__)
  const __m256i pairs = _mm256_maddubs_epi16(std::bit_cast<__m256i>(levels), std::bit_cast<__m256i>(digits));
  return sum + std::bit_cast<Ints>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
  const Shorts u = std::bit_cast<Shorts>(levels);
  const Shorts x = std::bit_cast<Shorts>(digits);
  const Shorts pairs = (u & 255) * ((x << 8) >> 8) + ((u >> 8) & 255) * (x >> 8);
  const Ints both = std::bit_cast<Ints>(pairs);
  return sum + ((both << 16) >> 16) + (both >> 16);
#endif
}

// The same for any levels.
inline Ints add_products(Ints sum, Levels levels, Digits digits) {
#if defined(__AVX512VNNI__)
  return add_small_products(sum, levels, digits);
#else
  const Ints upper = add_small_products(Ints{}, field<4>(levels, 15), digits);
  return add_small_products(sum, field<0>(levels, 15), digits) + (upper << 4);
#endif
}

// The levels of a tile's four rows, in the columns of a part.
template <int kBits>
inline void unpack_tile(const std::uint8_t* tile, int part, Levels (&rows)[4]) {
  const Levels first = load<Levels>(tile + part * kPartColumns);
  if constexpr (kBits == 2 || kBits == 3) {
    rows[0] = field<0>(first, 3);
    rows[1] = field<2>(first, 3);
    rows[2] = field<4>(first, 3);
    rows[3] = field<6>(first, 3);
    if constexpr (kBits == 3) {
      for (int r = 0; r < 4; ++r) rows[r] = add_third_bit(rows[r], tile + 64 + 8 * r + part * kPartColumns / 8);
    }
  } else if constexpr (kBits == 4) {
    const Levels second = load<Levels>(tile + 64 + part * kPartColumns);
    rows[0] = field<0>(first, 15);
    rows[1] = field<4>(first, 15);
    rows[2] = field<0>(second, 15);
    rows[3] = field<4>(second, 15);
  } else {
    for (int r = 0; r < 4; ++r) rows[r] = load<Levels>(tile + 64 * r + part * kPartColumns);
  }
}

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
