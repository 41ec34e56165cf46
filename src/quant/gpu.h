// The kernels for tensors on a GPU.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <initializer_list>

#include "stableqat/base/error.h"
#include "stableqat/kernels/cuda.h"

namespace stableqat::gpu {

// LibTorch's current stream of this thread on the tensor's device: ours and LibTorch's kernels keep one order, and are captured together.
inline kernels::cuda::Stream stream_of(const at::Tensor& tensor) {
  return c10::impl::VirtualGuardImpl(tensor.device().type()).getStream(tensor.device()).native_handle();
}

inline const kernels::cuda::CudaKernels& kernels() {
  const kernels::cuda::CudaBackend& backend = kernels::cuda::cuda_backend();
  if (backend.kernels != nullptr) return *backend.kernels;
  throw EnvironmentError({"CUDA kernels", backend.reason, "libstableqat_cuda.so beside the program, a driver and a GPU",
                          "docs/cuda.md says how to build it; or train on the CPU (train.device cpu)"});
}

// Of a launch.
inline void check(kernels::cuda::Status status) {
  if (status == nullptr) return;
  throw EnvironmentError({"CUDA kernel", status, "a launch without an error", "report it with the GPU's name and the command line"});
}

inline bool is_on(const at::Tensor& tensor) { return !tensor.device().is_cpu(); }

// Before their addresses go to a kernel: undefined ones are left out.
inline void require_together(std::initializer_list<at::Tensor> tensors) {
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.defined() || tensor.device() == tensors.begin()->device()) continue;
    throw EnvironmentError({"CUDA kernel", "tensors on " + tensors.begin()->device().str() + " and " + tensor.device().str(), "one device",
                            "report it with the command line"});
  }
}

// Null for an undefined tensor.
inline kernels::cuda::FactorPointer factor_pointer(const at::Tensor& factor) {
  return factor.defined() ? factor.const_data_ptr<double>() : nullptr;
}

// Whether there are kernels for it.
inline bool takes(const at::Tensor& tensor) {
  return is_on(tensor) && (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16);
}

inline kernels::cuda::ElementType element_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 ? kernels::cuda::ElementType::kBFloat16 : kernels::cuda::ElementType::kFloat;
}

}  // namespace stableqat::gpu
