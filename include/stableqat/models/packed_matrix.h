// A weight packed for decoding: products with a few rows, which take the time of reading it. Letters: R rows of activations, N out
// features, M in features.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "stableqat/kernels/packed.h"

namespace stableqat {

// Rows of activations rounded to 15 bits for PackedMatrix::product(), once for all matrices that they are multiplied with.
class DigitActivations {
 public:
  // x [R, M] float32, dense.
  explicit DigitActivations(const at::Tensor& x);

  std::int64_t rows() const { return scale_.size(0); }
  kernels::DigitRows view() const;

 private:
  at::Tensor high_, low_, partial_sums_, scale_;
};

// Immutable and thread-safe. Owns its memory.
class PackedMatrix {
 public:
  // From codes [N, M] int8 and steps [N, G] float32, w = codes * step, in the fewest bits of 2, 3, 4 and 8 that hold the codes: exact.
  // A group (M / G columns) is a row or a power of two of at least 32 columns (else ConfigError).
  static PackedMatrix from_codes(const at::Tensor& codes, const at::Tensor& step);

  // From values [N, M] float32 that lie on a grid of codes times a step for each row, or each 128, 64 or 32 columns: codes up to 8 like
  // those of GGUF's Q4_0, Q3_K and Q2_0 as exported here, or up to 127 like Q8_0's. Exact, or nullopt when they lie on no such grid.
  static std::optional<PackedMatrix> from_values(const at::Tensor& values);

  // x w^T: [R, N] float32. Products and sums of a group are exact, but for the rounding of x.
  at::Tensor product(const DigitActivations& x) const;

  // Refers to this object's memory.
  kernels::PackedWeight view() const;

  std::int64_t rows() const noexcept { return rows_; }
  std::int64_t columns() const noexcept { return columns_; }
  int bits() const noexcept { return bits_; }
  // What a product reads.
  std::int64_t bytes() const { return tiles_.numel() + 4 * step_.numel(); }

 private:
  PackedMatrix() = default;

  std::int64_t rows_ = 0, columns_ = 0;
  int bits_ = 0;
  float level_step_ = 1, lowest_ = 0;
  at::Tensor tiles_;  // uint8
  at::Tensor step_;   // [N, G] float32
};

}  // namespace stableqat
