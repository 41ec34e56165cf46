#include "stableqat/kernels/rms_norm.h"

#include <cmath>

#include "kernels/parallel.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

namespace {

void normalize_row(std::int64_t columns, const float* sum, const float* w, float inverse, float* y) {
#pragma omp simd
  for (std::int64_t j = 0; j < columns; ++j) y[j] = sum[j] * inverse * w[j];
}

float sum_of_squares(std::int64_t columns, const float* x) {
  float squares = 0.0F;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t j = 0; j < columns; ++j) squares += x[j] * x[j];
  return squares;
}

float add(std::int64_t columns, const float* x, const float* delta, float* sum) {
  float squares = 0.0F;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t j = 0; j < columns; ++j) {
    const float value = x[j] + delta[j];
    sum[j] = value;
    squares += value * value;
  }
  return squares;
}

void forward(std::int64_t rows, std::int64_t columns, const float* x, const float* delta, const float* w, float eps, float* sum, float* y,
             float* inverse_rms) {
#pragma omp parallel for schedule(static) if (worth_sharing(rows, columns))
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t at = row * columns;
    const float squares = delta == nullptr ? sum_of_squares(columns, x + at) : add(columns, x + at, delta + at, sum + at);
    inverse_rms[row] = 1.0F / std::sqrt(squares / static_cast<float>(columns) + eps);
    normalize_row(columns, (delta == nullptr ? x : sum) + at, w, inverse_rms[row], y + at);
  }
}

// Adds h * inverse * dy to dw and returns mean(dy * w * h), h being the row `sum`.
float weight_gradient_row(std::int64_t columns, const float* sum, const float* w, float inverse, const float* dy, float* dw) {
  float dot = 0.0F;
#pragma omp simd reduction(+ : dot)
  for (std::int64_t j = 0; j < columns; ++j) {
    const float product = dy[j] * sum[j];
    dot += product * w[j];
    dw[j] += product * inverse;
  }
  return dot / static_cast<float>(columns);
}

template <bool with_residual>
void input_gradient_row(std::int64_t columns, const float* sum, const float* w, float inverse, float mean, const float* dy,
                        const float* residual, float* dx) {
  const float pull = mean * inverse * inverse * inverse;
#pragma omp simd
  for (std::int64_t j = 0; j < columns; ++j) {
    const float own = dy[j] * w[j] * inverse - pull * sum[j];
    dx[j] = with_residual ? residual[j] + own : own;
  }
}

void add_rows(std::int64_t rows, std::int64_t columns, const float* x, float* sum) {
  for (std::int64_t j = 0; j < columns; ++j) sum[j] = 0.0F;
  for (std::int64_t row = 0; row < rows; ++row) {
#pragma omp simd
    for (std::int64_t j = 0; j < columns; ++j) sum[j] += x[row * columns + j];
  }
}

// Blocks of rows, not threads, own a partial sum of dw: its bits do not depend on the number of threads.
void backward(std::int64_t rows, std::int64_t columns, const float* sum, const float* w, const float* inverse_rms, const float* dy,
              const float* residual, float* dx, float* dw, float* workspace) {
  const std::int64_t block_rows = (rows + kRmsNormBlocks - 1) / kRmsNormBlocks;
  const std::int64_t blocks = rows == 0 ? 0 : (rows + block_rows - 1) / block_rows;
#pragma omp parallel for schedule(static) if (worth_sharing(rows, columns))
  for (std::int64_t block = 0; block < blocks; ++block) {
    float* partial = workspace + block * columns;
    for (std::int64_t j = 0; j < columns; ++j) partial[j] = 0.0F;
    const std::int64_t end = (block + 1) * block_rows < rows ? (block + 1) * block_rows : rows;
    for (std::int64_t row = block * block_rows; row < end; ++row) {
      const std::int64_t at = row * columns;
      const float mean = weight_gradient_row(columns, sum + at, w, inverse_rms[row], dy + at, partial);
      if (residual == nullptr) {
        input_gradient_row<false>(columns, sum + at, w, inverse_rms[row], mean, dy + at, nullptr, dx + at);
      } else {
        input_gradient_row<true>(columns, sum + at, w, inverse_rms[row], mean, dy + at, residual + at, dx + at);
      }
    }
  }
  add_rows(blocks, columns, workspace, dw);
}

}  // namespace

extern const RmsNormKernels rms_norm_table = {forward, backward};

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
