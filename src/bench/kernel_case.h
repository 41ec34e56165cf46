// A kernel as `bench kernels` sees it. A new kernel is one entry in the file of its family.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/bench/bench_kernels.h"

namespace stableqat::bench {

struct KernelCase {
  std::string name;
  KernelBound bound = KernelBound::kMemory;
  double work = 0.0;            // bytes read + written (each array once) or floating-point operations of one run()
  std::function<void()> check;  // compares with a plain form on small arrays; throws NumericError
  std::function<void()> run;    // after check(), on arrays that live as long as the case
};

struct KernelFamily {
  std::string_view name;
  const void* (*table)(kernels::Isa);  // the same for two instruction sets: one build serves both, and is timed once
  std::vector<KernelCase> (*cases)(const KernelBenchOptions&, kernels::Isa);
};

std::span<const KernelFamily> kernel_families();

std::vector<KernelCase> rms_norm_cases(const KernelBenchOptions& options, kernels::Isa isa);
std::vector<KernelCase> rope_cases(const KernelBenchOptions& options, kernels::Isa isa);
std::vector<KernelCase> swiglu_cases(const KernelBenchOptions& options, kernels::Isa isa);
std::vector<KernelCase> cross_entropy_cases(const KernelBenchOptions& options, kernels::Isa isa);
std::vector<KernelCase> attention_cases(const KernelBenchOptions& options, kernels::Isa isa);
std::vector<KernelCase> gemm_cases(const KernelBenchOptions& options, kernels::Isa isa);
std::vector<KernelCase> head_cases(const KernelBenchOptions& options, kernels::Isa isa);
std::vector<KernelCase> packed_cases(const KernelBenchOptions& options, kernels::Isa isa);
std::vector<KernelCase> update_cases(const KernelBenchOptions& options, kernels::Isa isa);

constexpr std::int64_t kCheckedRows = 8;  // of the small arrays that results are checked on

// Rows of `columns` floats that make an array of at least 64 MB.
std::int64_t streaming_rows(std::int64_t columns);

// In float64, in which kernels are checked.
inline at::Tensor wide(const at::Tensor& tensor) { return tensor.to(at::kDouble); }

// Throws NumericError unless |found - expected| <= roundings * epsilon of float * bound everywhere. expected and bound float64; bound has
// expected's shape or one element.
void require_close(const std::string& what, const at::Tensor& found, const at::Tensor& expected, const at::Tensor& bound,
                   double roundings = 64);
// The same with bound = the largest |expected|.
void require_close(const std::string& what, const at::Tensor& found, const at::Tensor& expected);

}  // namespace stableqat::bench
