// Golden numbers of quantizers: reading a file of cases, running ours on them, comparing.
//
// A case is a JSON object: method (ste, stableqat, dsq, seq), bits, rows, cols, seed, amplitude (list of a_m or null), optional alpha
// (0.2), scale [rows], and the expected output, grad_weight (row-major [rows, cols]), grad_scale [rows], grad_alpha [1] (dsq). Inputs are
// drawn from the seed: weight = 0.1 * u(seed), incoming gradient = u(seed + 1), see draw().
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "stableqat/quant/quantizer_spec.h"

namespace stableqat::golden {

// float64 tensors: [rows, cols], [rows, cols], [rows], [1] or undefined.
struct QuantizerNumbers {
  at::Tensor output;
  at::Tensor grad_weight;
  at::Tensor grad_scale;
  at::Tensor grad_alpha;
};

struct QuantizerCase {
  std::string name;    // "stableqat 3 bits, order 1, 4 x 33"
  std::string method;  // as in the file
  QuantizerSpec spec;
  at::Tensor weight;    // [rows, cols]
  at::Tensor gradient;  // [rows, cols]
  at::Tensor scale;     // [rows, 1]
  at::Tensor alpha;     // [1]; undefined unless dsq
  QuantizerNumbers expected;
  std::string skipped;  // why the case is not run; empty when it is
};

// Throws DataError for a file that is missing or not of this form.
std::vector<QuantizerCase> read_quantizer_cases(const std::filesystem::path& path);

// Elementwise mean of three uniform numbers in [-1, 1) of the linear congruential generator
// s <- s * 6364136223846793005 + 1442695040888963407 (mod 2^64), number = (s >> 11) / 2^53 * 2 - 1; float64 [rows, cols].
at::Tensor draw(std::uint64_t seed, std::int64_t rows, std::int64_t cols);

// The three ways through the library.
QuantizerNumbers run_kernels(const QuantizerCase& golden);
QuantizerNumbers run_quantized_weight(const QuantizerCase& golden);
QuantizerNumbers run_autograd(const QuantizerCase& golden);

// Largest absolute difference per tensor, and whether each is within 1024 roundings of the tensor's largest magnitude.
struct Deviation {
  double output = 0;
  double grad_weight = 0;
  double grad_scale = 0;
  double grad_alpha = 0;
  bool within_tolerance = true;

  double largest() const;
  void include(const Deviation& other);  // the worse of both
};

Deviation compare(const QuantizerNumbers& found, const QuantizerNumbers& expected);

}  // namespace stableqat::golden
