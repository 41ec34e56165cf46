// Products of small matrices that lie in cache, by register blocks: kBlockRows broadcast elements of A times kBlockVectors vectors of B.
#pragma once

#include <cstdint>

#include "kernels/cpu/vector.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

// Accumulators fill about half of the registers or more, and each loaded value serves several multiplications.
#if defined(__AVX512F__)
inline constexpr int kBlockRows = 8;
inline constexpr int kBlockVectors = 2;
#elif defined(__AVX2__)
inline constexpr int kBlockRows = 4;
inline constexpr int kBlockVectors = 2;
#else
inline constexpr int kBlockRows = 4;
inline constexpr int kBlockVectors = 2;
#endif

// How A is stored: element (i, k) at i * stride + k or at k * stride + i.
enum class Layout { kRows, kColumns };

// Which k enter the sum.
struct Depth {
  int begin;
  int end;
};

// Columns [0, kVectors * lanes) of all row blocks.
template <int kVectors, Layout kLayout, class DepthOf, class Start>
void multiply_panel(int rows, const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride, float* c, std::int64_t c_stride,
                    const DepthOf& depth_of, const Start& start) {
  for (int i0 = 0; i0 < rows; i0 += kBlockRows) {
    const Depth depth = depth_of(i0);
    if (depth.begin >= depth.end) continue;
    Floats sums[kBlockRows][kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kBlockRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sums[i][j] = start(i0 + i, c + (i0 + i) * c_stride + j * kWidth);
    }
    const float* a_block = kLayout == Layout::kRows ? a + i0 * a_stride : a + i0;
    for (std::int64_t k = depth.begin; k < depth.end; ++k) {
      Floats b_row[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) b_row[j] = load<Floats>(b + k * b_stride + j * kWidth);
#pragma GCC unroll 8
      for (int i = 0; i < kBlockRows; ++i) {
        const float factor = kLayout == Layout::kRows ? a_block[i * a_stride + k] : a_block[k * a_stride + i];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sums[i][j] += factor * b_row[j];
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kBlockRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) store(c + (i0 + i) * c_stride + j * kWidth, sums[i][j]);
    }
  }
}

// C(i, j) = start(i, &C(i, j)) + sum over k in depth_of(i0, j1) of A(i, k) B(k, j), for rows i < `rows` (a multiple of kBlockRows) and
// columns j < `columns` (a multiple of the lanes). i0 is the first row of a block, j1 the end of its columns; where the depth is empty C
// stays as it is. B and C are stored by rows.
template <Layout kLayout, class DepthOf, class Start>
void multiply(int rows, int columns, const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride, float* c,
              std::int64_t c_stride, const DepthOf& depth_of, const Start& start) {
  constexpr int kPanel = kBlockVectors * kWidth;
  int j = 0;
  for (; j + kPanel <= columns; j += kPanel) {
    const auto depth = [&](int i0) { return depth_of(i0, j + kPanel); };
    multiply_panel<kBlockVectors, kLayout>(rows, a, a_stride, b + j, b_stride, c + j, c_stride, depth, start);
  }
  for (; j < columns; j += kWidth) {
    const auto depth = [&](int i0) { return depth_of(i0, j + kWidth); };
    multiply_panel<1, kLayout>(rows, a, a_stride, b + j, b_stride, c + j, c_stride, depth, start);
  }
}

inline constexpr auto kFromZero = [](int, const float*) { return Floats{}; };
inline constexpr auto kFromThere = [](int, const float* c) { return load<Floats>(c); };

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
