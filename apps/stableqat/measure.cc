#include "measure.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>

namespace stableqat::app {

namespace {

template <class Work>
double median_seconds(Work work) {
  using Clock = std::chrono::steady_clock;
  work();  // first touch of the memory, start of the threads
  std::array<double, 7> seconds{};
  for (double& s : seconds) {
    const auto start = Clock::now();
    work();
    s = std::chrono::duration<double>(Clock::now() - start).count();
  }
  std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
  return seconds[seconds.size() / 2];
}

}  // namespace

Rates measure_rates() {
  constexpr std::int64_t kSize = 2048;
  constexpr std::int64_t kCopied = std::int64_t{64} << 20;  // floats

  const at::Tensor a = at::rand({kSize, kSize});
  const at::Tensor b = at::rand({kSize, kSize});
  at::Tensor product = at::empty({kSize, kSize});
  const double gemm_seconds = median_seconds([&] { at::mm_out(product, a, b); });

  const at::Tensor source = at::ones({kCopied});
  at::Tensor target = at::empty({kCopied});
  const double copy_seconds = median_seconds([&] { target.copy_(source); });

  return {at::get_num_threads(), 2.0 * kSize * kSize * kSize / gemm_seconds, 2.0 * sizeof(float) * kCopied / copy_seconds};
}

std::string libtorch_version() { return TORCH_VERSION; }

}  // namespace stableqat::app
