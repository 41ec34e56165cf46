// Products of small matrices that lie in cache, by register blocks: kBlockRows broadcast elements of A times a few vectors of B.
#pragma once

#include <cstdint>

#include "kernels/cpu/vector.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

// Sums of a block with its vectors of B take half of the registers or more; each loaded value serves several multiplications.
inline constexpr int kBlockRows = 4;
inline constexpr int kBlockVectors = kWidth == 16 ? 4 : kWidth == 8 ? 3 : 2;

// Rows that are `stride` elements apart.
template <class Float>
struct Matrix {
  Matrix from_row(std::int64_t row) const { return {data + row * stride, stride}; }
  Float* data;
  std::int64_t stride;
};

// How A is stored: element (i, k) in row i or in row k.
enum class Layout { kRows, kColumns };

// Which k enter the sum.
struct Depth {
  int begin;
  int end;
};

template <int kVectors, Layout kLayout, class DepthOf, class Start>
void multiply_panel(int rows, Matrix<const float> a, Matrix<const float> b, Matrix<float> c, const DepthOf& depth_of, const Start& start) {
  for (int i0 = 0; i0 < rows; i0 += kBlockRows) {
    const Depth depth = depth_of(i0);
    if (depth.begin >= depth.end) continue;
    Floats sums[kBlockRows][kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kBlockRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sums[i][j] = start(i0 + i, c.data + (i0 + i) * c.stride + j * kWidth);
    }
    const float* a_block = kLayout == Layout::kRows ? a.data + i0 * a.stride : a.data + i0;
    for (std::int64_t k = depth.begin; k < depth.end; ++k) {
      Floats b_row[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) b_row[j] = load<Floats>(b.data + k * b.stride + j * kWidth);
#pragma GCC unroll 4
      for (int i = 0; i < kBlockRows; ++i) {
        const float factor = kLayout == Layout::kRows ? a_block[i * a.stride + k] : a_block[k * a.stride + i];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sums[i][j] += factor * b_row[j];
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kBlockRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) store(c.data + (i0 + i) * c.stride + j * kWidth, sums[i][j]);
    }
  }
}

// C(i, j) = start(i, &C(i, j)) + sum over k in depth_of(i0, j1) of A(i, k) B(k, j), for rows i < `rows` (a multiple of kBlockRows) and
// columns j < `columns` (a multiple of kWidth). i0 is the first row of a block, j1 the end of its columns; where the depth is empty, C
// stays as it is.
template <Layout kLayout, class DepthOf, class Start>
void multiply(int rows, int columns, Matrix<const float> a, Matrix<const float> b, Matrix<float> c, const DepthOf& depth_of,
              const Start& start) {
  // Panels as equal as can be: of 5 vectors 3 and 2, not 4 and 1.
  int panels = (columns / kWidth + kBlockVectors - 1) / kBlockVectors;
  for (int j = 0; j < columns; --panels) {
    const int vectors = ((columns - j) / kWidth + panels - 1) / panels;
    const auto multiply_vectors = [&]<int kVectors>() {
      const auto depth = [&](int i0) { return depth_of(i0, j + kVectors * kWidth); };
      multiply_panel<kVectors, kLayout>(rows, a, {b.data + j, b.stride}, {c.data + j, c.stride}, depth, start);
    };
    static_assert(kBlockVectors <= 4);
    if (vectors == 4) {
      multiply_vectors.template operator()<4>();
    } else if (vectors == 3) {
      multiply_vectors.template operator()<3>();
    } else if (vectors == 2) {
      multiply_vectors.template operator()<2>();
    } else {
      multiply_vectors.template operator()<1>();
    }
    j += vectors * kWidth;
  }
}

inline constexpr auto kFromZero = [](int, const float*) { return Floats{}; };
inline constexpr auto kFromThere = [](int, const float* c) { return load<Floats>(c); };

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
