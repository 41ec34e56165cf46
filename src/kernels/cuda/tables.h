// Each .cu file enters its kernels into the library's table.
#pragma once

#include "stableqat/kernels/cuda.h"

namespace stableqat::kernels::cuda {

void add_update_kernels(CudaKernels& table);
void add_rms_norm_kernels(CudaKernels& table);
void add_elementwise_kernels(CudaKernels& table);
void add_cross_entropy_kernels(CudaKernels& table);
void add_fp8_kernels(CudaKernels& table);

}  // namespace stableqat::kernels::cuda
