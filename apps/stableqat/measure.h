// Rates that bound training on this CPU.
#pragma once

#include <string>

namespace stableqat::app {

struct Rates {
  int threads = 0;                     // LibTorch used
  double gemm_flops_per_second = 0.0;  // fp32, 2048 x 2048 x 2048
  double copy_bytes_per_second = 0.0;  // bytes read + bytes written, a block far larger than the caches
};

// Takes about two seconds and 0.6 GB; medians of several runs.
Rates measure_rates();

std::string libtorch_version();

}  // namespace stableqat::app
