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
typedef std::uint16_t UnsignedShorts __attribute__((vector_size(kWidth * 4)));

// Columns of a tile that a register holds, and the parts that make a tile of 64 columns.
inline constexpr int kPartColumns = kWidth * 4;
inline constexpr int kParts = 64 / kPartColumns;

// (levels >> shift) & mask, where no bit that the mask keeps comes from a neighbour, or what comes from there is not used.
template <int kShift>
inline Levels field(Levels levels, std::uint8_t mask) {
  return std::bit_cast<Levels>(std::bit_cast<UnsignedShorts>(levels) >> kShift) & (Levels{} + mask);
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

#if defined(__AVX2__) && !defined(__AVX512VNNI__)

// levels * digits, by twos: within 16 bits for levels below 128.
inline Shorts pair_products(Levels levels, Digits digits) {
#if defined(__AVX512BW__)
  return std::bit_cast<Shorts>(_mm512_maddubs_epi16(std::bit_cast<__m512i>(levels), std::bit_cast<__m512i>(digits)));
#else
  return std::bit_cast<Shorts>(_mm256_maddubs_epi16(std::bit_cast<__m256i>(levels), std::bit_cast<__m256i>(digits)));
#endif
}

// a * b, by twos.
inline Ints pair_products(Shorts a, Shorts b) {
#if defined(__AVX512BW__)
  return std::bit_cast<Ints>(_mm512_madd_epi16(std::bit_cast<__m512i>(a), std::bit_cast<__m512i>(b)));
#else
  return std::bit_cast<Ints>(_mm256_madd_epi16(std::bit_cast<__m256i>(a), std::bit_cast<__m256i>(b)));
#endif
}

// Columns of a part as the integers that two digits make: those at even places, and those at odd ones.
struct EvenOdd {
  EvenOdd(Digits high, Digits low) {
    const Shorts h = std::bit_cast<Shorts>(high);
    const Shorts l = std::bit_cast<Shorts>(low);
    even = ((h << 8) >> 1) + ((l << 8) >> 8);
    odd = ((h >> 8) << 7) + (l >> 8);
  }
  Shorts even, odd;
};

// One weight row times a row of activations, exactly: lane l sums columns 4 l .. 4 l + 3 of the parts that are added. Products of small
// levels are collected in 16 bits and have to be settled in time; total() counts what is settled.
template <int kBits>
class DigitSums {
 public:
  static constexpr std::int64_t kAddsBeforeSettling = kBits == 8 ? 128 : 32767 / (2 * 127 * ((1 << kBits) - 1));

  void add(Levels levels, Digits high, Digits low) {
    if constexpr (kBits == 8) {
      const EvenOdd x(high, low);
      const UnsignedShorts both = std::bit_cast<UnsignedShorts>(levels);
      whole_ += pair_products(std::bit_cast<Shorts>(both & 255), x.even) + pair_products(std::bit_cast<Shorts>(both >> 8), x.odd);
    } else {
      high_ += pair_products(levels, high);
      low_ += pair_products(levels, low);
    }
  }

  void settle() {
    if constexpr (kBits == 8) return;
    whole_ += pair_products(high_, Shorts{} + std::int16_t{128}) + pair_products(low_, Shorts{} + std::int16_t{1});
    high_ = low_ = Shorts{};
  }

  Ints total() const { return whole_; }

 private:
  Shorts high_{};
  Shorts low_{};
  Ints whole_{};
};

#else

// One weight row times a row of activations, exactly: lane l sums columns 4 l .. 4 l + 3 of the parts that are added.
template <int kBits>
class DigitSums {
 public:
  static constexpr std::int64_t kAddsBeforeSettling = 128;

  void add(Levels levels, Digits high, Digits low) {
    high_ = kBits == 8 ? add_products(high_, levels, high) : add_small_products(high_, levels, high);
    low_ = kBits == 8 ? add_products(low_, levels, low) : add_small_products(low_, levels, low);
  }

  void settle() {}

  Ints total() const { return high_ * 128 + low_; }

 private:
  Ints high_{};
  Ints low_{};
};

#endif

// The half bytes of a part's columns in the 32 bytes of a tile, of which byte j has columns j (low) and j + 32; what is above them is not
// cleared.
inline Levels half_bytes(const std::uint8_t* bytes, int part) {
#if defined(__AVX512BW__)
  static_cast<void>(part);
  const __m512i twice = _mm512_maskz_broadcast_i64x4(0xff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)));
  constexpr UnsignedShorts kShifts{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4};
  return std::bit_cast<Levels>(std::bit_cast<UnsignedShorts>(twice) >> kShifts);
#else
  const Levels both = load<Levels>(bytes + part * kPartColumns % 32);
  return part * kPartColumns < 32 ? both : field<4>(both, 255);
#endif
}

// The levels of a tile's row r in the columns of a part.
template <int kBits>
inline Levels unpacked(const std::uint8_t* tile, int part, int r) {
  if constexpr (kBits == 8) return load<Levels>(tile + 64 * r + part * kPartColumns);
  if constexpr (kBits == 4) {
    const Levels pair = load<Levels>(tile + 64 * (r / 2) + part * kPartColumns);
    return r % 2 == 0 ? field<0>(pair, 15) : field<4>(pair, 15);
  }
  const Levels first = load<Levels>(tile + part * kPartColumns);
  if constexpr (kBits == 2) {
    return r == 0 ? field<0>(first, 3) : r == 1 ? field<2>(first, 3) : r == 2 ? field<4>(first, 3) : field<6>(first, 3);
  }
  if (r == 0) return field<0>(first, 7);
  if (r == 1) return field<3>(first, 7);
  const Levels rest = half_bytes(tile + 64, part);
  return r == 2 ? field<6>(first, 3) | field<1>(rest, 4) : field<0>(rest, 7);
}

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
