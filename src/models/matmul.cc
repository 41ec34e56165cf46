#include "models/matmul.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "quant/gpu.h"
#include "stableqat/base/error.h"
#include "stableqat/kernels/gemm.h"

namespace stableqat::matmul {

namespace {

using kernels::GemmOperand;

bool is_row_major_float(const at::Tensor& matrix) {
  return matrix.device().is_cpu() && matrix.scalar_type() == at::kFloat && matrix.stride(1) == 1 && matrix.stride(0) >= matrix.size(1);
}

bool have_kernel(const at::Tensor& a, const at::Tensor& b, std::int64_t rows) {
  return rows >= kernels::kFewRows && is_row_major_float(a) && is_row_major_float(b);
}

GemmOperand operand(const at::Tensor& matrix, bool transposed) { return {matrix.const_data_ptr<float>(), matrix.stride(0), transposed}; }

void run(std::int64_t depth, const GemmOperand& a, const GemmOperand& b, at::Tensor& c, bool accumulate) {
  require_memory(kernels::gemm_kernels().fp32(c.size(0), c.size(1), depth, a, b, c.mutable_data_ptr<float>(), c.stride(0), accumulate));
}

kernels::ScaledCodes scaled_codes(const at::Tensor& codes, const at::Tensor& step) {
  return {{codes.const_data_ptr<std::int8_t>(), codes.size(0), codes.size(1)}, step.const_data_ptr<float>(), codes.size(1) / step.size(1)};
}

}  // namespace

void require_memory(bool found) {
  if (!found)
    throw EnvironmentError({"matrix product", "no memory left", "some megabytes of scratch", "use a smaller batch or end other programs"});
}

at::Tensor forward(const at::Tensor& x, const at::Tensor& w) {
  at::Tensor y = at::empty({x.size(0), w.size(0)}, x.options());
  forward(x, w, y);
  return y;
}

void forward(const at::Tensor& x, const at::Tensor& w, at::Tensor& y) {
  if (have_kernel(x, w, x.size(0))) {
    run(x.size(1), operand(x, false), operand(w, true), y, false);
  } else {
    at::mm_out(y, x, w.t());
  }
}

void add_input_gradient(at::Tensor& dx, const at::Tensor& dy, const at::Tensor& w, bool rounded) {
  const bool accumulate = dx.defined();
  if (!have_kernel(dy, w, dy.size(0))) {
    if (accumulate) {
      dx.addmm_(dy, w);
    } else {
      dx = at::mm(dy, w);
    }
    return;
  }
  if (!accumulate) dx = at::empty({dy.size(0), w.size(1)}, dy.options());
  const kernels::GemmKernels& kernels = kernels::gemm_kernels();
  if (rounded && dy.is_contiguous() && w.is_contiguous() && dx.is_contiguous()) {
    require_memory(kernels.input_gradient(kernels.fast_gradients, dy.size(0), dy.size(1), w.size(1), dy.const_data_ptr<float>(),
                                          w.const_data_ptr<float>(), dx.mutable_data_ptr<float>(), accumulate));
    return;
  }
  run(dy.size(1), operand(dy, false), operand(w, false), dx, accumulate);
}

at::Tensor forward(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& step) {
  at::Tensor y = at::empty({x.size(0), codes.size(0)}, x.options());
  require_memory(
      kernels::gemm_kernels().codes_forward(x.size(0), x.const_data_ptr<float>(), scaled_codes(codes, step), y.mutable_data_ptr<float>()));
  return y;
}

void add_input_gradient(at::Tensor& dx, const at::Tensor& dy, const at::Tensor& codes, const at::Tensor& step) {
  const bool accumulate = dx.defined();
  if (!accumulate) dx = at::empty({dy.size(0), codes.size(1)}, dy.options());
  require_memory(kernels::gemm_kernels().codes_input_gradient(dy.size(0), dy.const_data_ptr<float>(), scaled_codes(codes, step),
                                                              dx.mutable_data_ptr<float>(), accumulate));
}

void add_weight_gradient(at::Tensor& gradient, at::ScalarType type, const at::Tensor& dy, const at::Tensor& x, bool rounded) {
  const bool accumulate = gradient.defined();
  if (type == at::kFloat && have_kernel(dy, x, dy.size(0))) {
    const kernels::GemmKernels& kernels = kernels::gemm_kernels();
    if (!accumulate) gradient = at::empty({dy.size(1), x.size(1)}, x.options());
    if (rounded && dy.is_contiguous() && x.is_contiguous()) {
      require_memory(kernels.weight_gradient(kernels.fast_gradients, dy.size(0), dy.size(1), x.size(1), dy.const_data_ptr<float>(),
                                             x.const_data_ptr<float>(), gradient.mutable_data_ptr<float>(), accumulate));
      return;
    }
    run(dy.size(0), operand(dy, true), operand(x, false), gradient, accumulate);
  } else if (!accumulate) {
    gradient = at::mm(dy.t(), x).to(type);
  } else if (type == x.scalar_type()) {
    gradient.addmm_(dy.t(), x);
  } else if (gpu::is_on(x)) {
    // No temporary of the weight's size, and nothing rounded to x's type on the way.
    at::addmm_outf(gradient, dy.t(), x, type, 1, 1, gradient);
  } else {
    gradient.add_(at::mm(dy.t(), x));
  }
}

}  // namespace stableqat::matmul
