// From tensors to raw-pointer kernels.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros_like.h>

#include <cstdint>
#include <string>

#include "stableqat/base/error.h"

namespace stableqat::detail {

// Calls function(T{}) with the C++ type of a float32 or float64 tensor.
template <class Function>
decltype(auto) with_float_type(const at::Tensor& tensor, Function&& function) {
  if (tensor.scalar_type() == at::kDouble) return function(double{});
  return function(float{});
}

// The bits of a bfloat16 tensor's values.
inline std::uint16_t* bf16_bits(const at::Tensor& tensor) {
  return reinterpret_cast<std::uint16_t*>(tensor.mutable_data_ptr<at::BFloat16>());
}

// The accumulated gradient of a leaf as dense memory that stays the leaf's: zeros where there is none yet.
inline const at::Tensor& dense_gradient(const at::Tensor& leaf) {
  at::Tensor& gradient = leaf.mutable_grad();
  if (!gradient.defined()) gradient = at::zeros_like(leaf);
  if (!gradient.is_contiguous()) gradient = gradient.contiguous();
  return gradient;
}

// Throws DataError unless the tensor is a float32 or float64 matrix on the CPU.
inline void require_matrix(const at::Tensor& tensor, const std::string& where) {
  const bool is_float = tensor.defined() && (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble);
  if (is_float && tensor.dim() == 2 && tensor.device().is_cpu()) return;
  throw DataError({where, tensor.defined() ? tensor.toString() + " tensor of " + std::to_string(tensor.dim()) + " dimensions" : "no tensor",
                   "a float32 or float64 matrix on the CPU", ""});
}

}  // namespace stableqat::detail
