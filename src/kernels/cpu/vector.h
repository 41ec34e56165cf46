// One SIMD register of the instruction set being compiled for, as GCC vector types.
#pragma once

#include <cstdint>
#include <cstring>

#include "stableqat/base/isa_namespace.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

#if defined(__AVX512F__)
inline constexpr int kWidth = 16;
#elif defined(__AVX2__)
inline constexpr int kWidth = 8;
#else
inline constexpr int kWidth = 4;
#endif

typedef float Floats __attribute__((vector_size(kWidth * 4)));
typedef std::int32_t Ints __attribute__((vector_size(kWidth * 4)));
typedef std::uint32_t UnsignedInts __attribute__((vector_size(kWidth * 4)));
typedef std::int16_t Shorts __attribute__((vector_size(kWidth * 4)));  // 2 * kWidth of them
typedef std::int8_t Bytes __attribute__((vector_size(kWidth)));
typedef std::int8_t HalfBytes __attribute__((vector_size(kWidth * 2)));

template <class Vector>
inline Vector load(const void* address) {
  Vector value;
  std::memcpy(&value, address, sizeof(value));
  return value;
}

template <class Vector>
inline void store(void* address, const Vector& value) {
  std::memcpy(address, &value, sizeof(value));
}

inline Ints broadcast(std::int32_t value) { return Ints{} + value; }
// Not a sum with zero, which would turn -0 into 0 and so remain an instruction.
inline Floats broadcast(float value) { return value - Floats{}; }

// Transposes the kWidth x kWidth matrix of 32-bit values whose rows are given, in log2(kWidth) rounds of exchanges between halves.
template <int kStep = kWidth / 2>
inline void transpose(Ints (&rows)[kWidth]) {
  Ints low{};
  Ints high{};
  for (int j = 0; j < kWidth; ++j) {
    low[j] = (j & kStep) != 0 ? kWidth + j - kStep : j;
    high[j] = (j & kStep) != 0 ? kWidth + j : j + kStep;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) {
    if ((i & kStep) != 0) continue;
    const Ints first = rows[i];
    const Ints second = rows[i + kStep];
    rows[i] = __builtin_shuffle(first, second, low);
    rows[i + kStep] = __builtin_shuffle(first, second, high);
  }
  if constexpr (kStep > 1) transpose<kStep / 2>(rows);
}

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
