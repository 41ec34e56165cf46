// Attention of a single query, for decoding: no tiles to fill, and little to do but read keys and values.
#pragma once

#include <cstdint>

#include "kernels/cpu/vector_math.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

// The largest of scores [keys] = q k^T. For the usual sizes of a head, kHeadSize, the query stays in registers; 0: any size.
template <std::int64_t kHeadSize>
inline float query_scores(std::int64_t keys, std::int64_t head_size, const float* q, const float* k, std::int64_t k_stride, float* scores) {
  const std::int64_t size = kHeadSize > 0 ? kHeadSize : head_size;
  float largest = -__builtin_inff();
  for (std::int64_t key = 0; key < keys; ++key) {
    const float* row = k + key * k_stride;
    float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t d = 0; d < size; ++d) sum += q[d] * row[d];
    scores[key] = sum;
    largest = sum > largest ? sum : largest;
  }
  return largest;
}

// Scores become exp2(log2_scale (score - largest)); returns their sum.
inline float query_weights(std::int64_t keys, float log2_scale, float largest, float* scores) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t key = 0; key < keys; ++key) {
    const float weight = exp2_nonpositive((scores[key] - largest) * log2_scale);
    scores[key] = weight;
    sum += weight;
  }
  return sum;
}

// out [columns] = factor * weights v, for kVectors registers of columns.
template <int kVectors>
inline void query_mix(std::int64_t keys, const float* weights, const float* v, std::int64_t v_stride, float factor, float* out) {
  Floats sums[kVectors] = {};
  for (std::int64_t key = 0; key < keys; ++key) {
    const Floats weight = broadcast(weights[key]);
    for (int i = 0; i < kVectors; ++i) sums[i] += weight * load<Floats>(v + key * v_stride + i * kWidth);
  }
  for (int i = 0; i < kVectors; ++i) store(out + i * kWidth, sums[i] * factor);
}

inline void one_query(std::int64_t keys, std::int64_t head_size, float scale, const float* q, const float* k, std::int64_t k_stride,
                      const float* v, std::int64_t v_stride, float* out, float* scores) {
  const auto score = head_size == 64 ? query_scores<64> : head_size == 128 ? query_scores<128> : query_scores<0>;
  const float largest = score(keys, head_size, q, k, k_stride, scores);
  const float factor = 1.0F / query_weights(keys, scale * kLog2E, largest, scores);
  std::int64_t d = 0;
  for (; d + 4 * kWidth <= head_size; d += 4 * kWidth) query_mix<4>(keys, scores, v + d, v_stride, factor, out + d);
  for (; d + kWidth <= head_size; d += kWidth) query_mix<1>(keys, scores, v + d, v_stride, factor, out + d);
  for (; d < head_size; ++d) {
    float sum = 0.0F;
    for (std::int64_t key = 0; key < keys; ++key) sum += scores[key] * v[key * v_stride + d];
    out[d] = sum * factor;
  }
}

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
