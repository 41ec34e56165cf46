#include "models/fp8_products.h"

#include <ATen/ops/_scaled_mm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <optional>
#include <string>

#include "quant/gpu.h"
#include "stableqat/base/error.h"

namespace stableqat::fp8 {

namespace {

// a [R, K], b [N, K], a_scale [R, 1], b_scale [1, N] -> a b^T. Sums in float32 all the way, not in the fewer bits of "fast accumulation".
at::Tensor product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_scale, const at::Tensor& b_scale) {
  return at::_scaled_mm(a, b.t(), a_scale, b_scale, std::nullopt, std::nullopt, at::kBFloat16, /*use_fast_accum=*/false);
}

}  // namespace

Rows rounded(const at::Tensor& x, const at::Tensor& factor) {
  gpu::require_together({x, factor});
  const Rows rows{at::empty(x.sizes(), x.options().dtype(at::kFloat8_e4m3fn)), at::empty({x.size(0), 1}, x.options().dtype(at::kFloat))};
  gpu::check(gpu::kernels().round_rows_to_e4m3(gpu::stream_of(x), gpu::element_type(x), x.size(0), x.size(1), x.const_data_ptr(),
                                               factor.defined() ? factor.const_data_ptr<float>() : nullptr,
                                               static_cast<std::uint8_t*>(rows.codes.mutable_data_ptr()),
                                               rows.scale.mutable_data_ptr<float>()));
  return rows;
}

at::Tensor forward(const Rows& x, const at::Tensor& codes, const at::Tensor& step) {
  return product(x.codes, codes, x.scale, step.view({1, codes.size(0)}));
}

void add_input_gradient(at::Tensor& dx, const at::Tensor& dy, const at::Tensor& transposed, const at::Tensor& step) {
  const Rows rows = rounded(dy, step);
  const at::Tensor own = product(rows.codes, transposed, rows.scale, at::ones({1, transposed.size(0)}, step.options()));
  if (dx.defined()) {
    dx.add_(own);
  } else {
    dx = own;
  }
}

void require_products(at::Device device) {
  const at::TensorOptions options = at::TensorOptions().device(device);
  const at::Tensor codes = at::zeros({16, 16}, options.dtype(at::kFloat)).to(at::kFloat8_e4m3fn);
  const at::Tensor scale = at::ones({16, 1}, options.dtype(at::kFloat));
  try {
    product(codes, codes, scale, scale.view({1, 16}));
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    throw EnvironmentError({"train.compute fp8", text.substr(0, text.find('\n')),
                            "a GPU with products of float8, and a LibTorch that has them", "use train.compute float"});
  }
}

}  // namespace stableqat::fp8
