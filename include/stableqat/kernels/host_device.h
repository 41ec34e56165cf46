// Inline functions of kernels that run on CPU and CUDA alike.
#pragma once

#ifdef __CUDACC__
#define STABLEQAT_HOST_DEVICE __host__ __device__
#else
#define STABLEQAT_HOST_DEVICE
#endif
