// The threads that share one row, and what they do together. Row algorithms are templates over the team: device code runs them with a warp
// or a block, tests on the CPU with a team of one.
#pragma once

#include <cstdint>

#include "stableqat/kernels/host_device.h"

namespace stableqat::kernels::cuda {

// sum() and max() are of all members' values, and every member gets the result. Members take elements rank(), rank() + size(), ...
class TeamOfOne {
 public:
  STABLEQAT_HOST_DEVICE std::int64_t rank() const { return 0; }
  STABLEQAT_HOST_DEVICE std::int64_t size() const { return 1; }
  template <class T>
  STABLEQAT_HOST_DEVICE T sum(T value) const {
    return value;
  }
  STABLEQAT_HOST_DEVICE float max(float value) const { return value; }
};

#ifdef __CUDACC__

namespace detail {

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

struct Larger {
  __device__ float operator()(float a, float b) const { return a > b ? a : b; }
};

// Every lane gets the result; the order of operations is fixed.
template <class T, class Operation>
__device__ T warp_reduce(T value, Operation operation) {
  for (int distance = warpSize / 2; distance > 0; distance /= 2) value = operation(value, __shfl_xor_sync(0xffffffffU, value, distance));
  return value;
}

}  // namespace detail

// One warp of a block; blocks are one-dimensional and hold whole warps.
class WarpTeam {
 public:
  // Rows are dealt to the teams of a grid: first_row(), first_row() + row_stride(), ...
  static __device__ std::int64_t first_row() { return (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32; }
  static __device__ std::int64_t row_stride() { return std::int64_t{gridDim.x} * blockDim.x / 32; }

  __device__ std::int64_t rank() const { return threadIdx.x % 32; }
  __device__ std::int64_t size() const { return 32; }
  template <class T>
  __device__ T sum(T value) const {
    return detail::warp_reduce(value, detail::Add{});
  }
  __device__ float max(float value) const { return detail::warp_reduce(value, detail::Larger{}); }
};

// A whole one-dimensional block of whole warps. All its threads have to call sum() and max() together.
class BlockTeam {
 public:
  static __device__ std::int64_t first_row() { return blockIdx.x; }
  static __device__ std::int64_t row_stride() { return gridDim.x; }

  __device__ std::int64_t rank() const { return threadIdx.x; }
  __device__ std::int64_t size() const { return blockDim.x; }
  template <class T>
  __device__ T sum(T value) const {
    return reduce(value, T(0), detail::Add{});
  }
  __device__ float max(float value) const { return reduce(value, value, detail::Larger{}); }

 private:
  template <class T, class Operation>
  __device__ T reduce(T value, T neutral, Operation operation) const {
    __shared__ double storage[32];  // a value for each warp, of the largest type
    T* of_warps = reinterpret_cast<T*>(storage);
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warps = static_cast<int>(blockDim.x) / 32;
    value = detail::warp_reduce(value, operation);
    __syncthreads();  // the values of the reduction before have been read
    if (lane == 0) of_warps[warp] = value;
    __syncthreads();
    return detail::warp_reduce(lane < warps ? of_warps[lane] : neutral, operation);
  }
};

#endif

}  // namespace stableqat::kernels::cuda
