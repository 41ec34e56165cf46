#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/tables.h"

namespace stableqat::kernels::cuda {
namespace {

__device__ std::int64_t first_element() { return std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ std::int64_t element_stride() { return std::int64_t{gridDim.x} * blockDim.x; }

template <class T>
__global__ void swiglu_forward_kernel(std::int64_t count, const T* gate, const T* up, T* y) {
  for (std::int64_t i = first_element(); i < count; i += element_stride()) y[i] = swiglu_forward(gate[i], up[i]);
}

template <class T>
__global__ void swiglu_backward_kernel(std::int64_t count, const T* gate, const T* up, const T* dy, T* dgate, T* dup) {
  for (std::int64_t i = first_element(); i < count; i += element_stride()) {
    const SwigluGradients<T> gradients = swiglu_backward(gate[i], up[i], dy[i]);
    dgate[i] = gradients.gate;
    dup[i] = gradients.up;
  }
}

template <class T>
__global__ void rope_kernel(RopeShape shape, std::int64_t count, float direction, const float* cos, const float* sin, const T* x,
                            HeadStrides x_strides, T* y, HeadStrides y_strides) {
  for (std::int64_t i = first_element(); i < count; i += element_stride()) {
    rope_pair(shape, i, direction, cos, sin, x, x_strides, y, y_strides);
  }
}

Status forward(Stream stream, ElementType type, std::int64_t count, const void* gate, const void* up, void* y) {
  return with_element(type, [&]<class T>() {
    swiglu_forward_kernel<T><<<blocks_for(count, kThreads), kThreads, 0, as_stream(stream)>>>(
        count, static_cast<const T*>(gate), static_cast<const T*>(up), static_cast<T*>(y));
    return launched();
  });
}

Status backward(Stream stream, ElementType type, std::int64_t count, const void* gate, const void* up, const void* dy, void* dgate,
                void* dup) {
  return with_element(type, [&]<class T>() {
    swiglu_backward_kernel<T><<<blocks_for(count, kThreads), kThreads, 0, as_stream(stream)>>>(
        count, static_cast<const T*>(gate), static_cast<const T*>(up), static_cast<const T*>(dy), static_cast<T*>(dgate),
        static_cast<T*>(dup));
    return launched();
  });
}

Status rope(Stream stream, ElementType type, const RopeShape& shape, float direction, const float* cos, const float* sin, const void* x,
            const HeadStrides& x_strides, void* y, const HeadStrides& y_strides) {
  const std::int64_t pairs = shape.batch * shape.tokens * shape.heads * (shape.head_size / 2);
  return with_element(type, [&]<class T>() {
    rope_kernel<T><<<blocks_for(pairs, kThreads), kThreads, 0, as_stream(stream)>>>(
        shape, pairs, direction, cos, sin, static_cast<const T*>(x), x_strides, static_cast<T*>(y), y_strides);
    return launched();
  });
}

}  // namespace

void add_elementwise_kernels(CudaKernels& table) {
  table.rope = rope;
  table.swiglu_forward = forward;
  table.swiglu_backward = backward;
}

}  // namespace stableqat::kernels::cuda
