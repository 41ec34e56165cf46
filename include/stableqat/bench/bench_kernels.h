// `stableqat bench kernels`: every kernel of the library, for every instruction set that this machine has, checked and then timed.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/bench/bench_step.h"
#include "stableqat/kernels/isa.h"
#include "stableqat/models/model_config.h"

namespace stableqat::bench {

struct KernelBenchOptions {
  ModelConfig model;          // widths of rows, heads and matrices
  std::int64_t batch = 2;     // of attention; products have batch * tokens rows
  std::int64_t tokens = 512;  // the same
  std::string filter;         // only kernels whose name contains this
  Rounds rounds = {1, 5};
};

// What bounds a kernel: the memory copy rate or the fp32 GEMM rate of LibTorch.
enum class KernelBound { kMemory, kArithmetic };

struct KernelResult {
  std::string name;  // "family.kernel"
  kernels::Isa isa = kernels::Isa::kPlain;
  KernelBound bound = KernelBound::kMemory;
  double seconds = 0.0;    // of one call, median
  double rate = 0.0;       // bytes read + written, or floating-point operations, per second
  double reference = 0.0;  // that rate of a copy of 256 MB, or of an fp32 product by LibTorch, median of those measured beside it
  double share = 0.0;      // rate / reference, median over the rounds
};

// Memory-bound kernels work on arrays far larger than the caches; products and attention have the model's own shapes. Reference and kernel
// take turns. Uses all of LibTorch's threads. Throws NumericError when a kernel deviates from its plain form, ConfigError when `filter`
// matches nothing.
std::vector<KernelResult> bench_kernels(const KernelBenchOptions& options, const BenchCallbacks& callbacks = {});

std::string_view bound_name(KernelBound bound);  // "memory", "arithmetic"

nlohmann::ordered_json to_json(const KernelResult& result);

}  // namespace stableqat::bench
