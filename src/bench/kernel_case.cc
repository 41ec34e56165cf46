#include "bench/kernel_case.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/max.h>

#include <array>
#include <limits>
#include <sstream>

#include "stableqat/base/error.h"
#include "stableqat/kernels/attention.h"
#include "stableqat/kernels/cross_entropy.h"
#include "stableqat/kernels/gemm.h"
#include "stableqat/kernels/packed.h"
#include "stableqat/kernels/rms_norm.h"
#include "stableqat/kernels/rope.h"
#include "stableqat/kernels/swiglu.h"
#include "stableqat/kernels/update.h"

namespace stableqat::bench {

namespace {

using kernels::Isa;

constexpr std::array kFamilies{
    KernelFamily{"rms_norm", [](Isa isa) -> const void* { return &kernels::rms_norm_kernels(isa); }, rms_norm_cases},
    KernelFamily{"rope", [](Isa isa) -> const void* { return &kernels::rope_kernels(isa); }, rope_cases},
    KernelFamily{"swiglu", [](Isa isa) -> const void* { return &kernels::swiglu_kernels(isa); }, swiglu_cases},
    KernelFamily{"cross_entropy", [](Isa isa) -> const void* { return &kernels::cross_entropy_kernels(isa); }, cross_entropy_cases},
    KernelFamily{"attention", [](Isa isa) -> const void* { return &kernels::attention_kernels(isa); }, attention_cases},
    KernelFamily{"update", [](Isa isa) -> const void* { return &kernels::update_kernels<float>(isa); }, update_cases},
    KernelFamily{"gemm", [](Isa isa) -> const void* { return &kernels::gemm_kernels(isa); }, gemm_cases},
    KernelFamily{"gemm_head", [](Isa isa) -> const void* { return &kernels::gemm_kernels(isa); }, head_cases},
    KernelFamily{"packed", [](Isa isa) -> const void* { return &kernels::packed_kernels(isa); }, packed_cases},
};

}  // namespace

std::span<const KernelFamily> kernel_families() { return kFamilies; }

std::int64_t streaming_rows(std::int64_t columns) {
  constexpr std::int64_t kFloats = std::int64_t{16} << 20;
  return (kFloats + columns - 1) / columns;
}

void require_close(const std::string& what, const at::Tensor& found, const at::Tensor& expected, const at::Tensor& bound,
                   double roundings) {
  const double epsilon = static_cast<double>(std::numeric_limits<float>::epsilon());
  const at::Tensor allowed = bound * (roundings * epsilon);
  const at::Tensor deviation = (found.to(at::kDouble) - expected).abs();
  if ((deviation <= allowed).all().item<bool>()) return;
  std::ostringstream text;
  text << "a deviation of " << deviation.max().item<double>();
  throw NumericError({"kernel " + what, text.str(), "its plain form's values within rounding", "report it with the CPU's name"});
}

void require_close(const std::string& what, const at::Tensor& found, const at::Tensor& expected) {
  require_close(what, found, expected, expected.abs().max());
}

}  // namespace stableqat::bench
