// Single elements of SwiGLU and RoPE, as in kernels/swiglu.h and kernels/rope.h; T is the type of activations.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/element.h"
#include "stableqat/kernels/host_device.h"
#include "stableqat/kernels/rope.h"

namespace stableqat::kernels::cuda {

template <class T>
STABLEQAT_HOST_DEVICE T swiglu_forward(T gate, T up) {
  const float g = to_float(gate);
  return from_float<T>(g / (1.0F + std::exp(-g)) * to_float(up));
}

template <class T>
struct SwigluGradients {
  T gate;
  T up;
};

template <class T>
STABLEQAT_HOST_DEVICE SwigluGradients<T> swiglu_backward(T gate, T up, T dy) {
  const float g = to_float(gate);
  const float sigmoid = 1.0F / (1.0F + std::exp(-g));
  const float incoming = to_float(dy);
  return {from_float<T>(incoming * to_float(up) * sigmoid * (1.0F + g * (1.0F - sigmoid))), from_float<T>(incoming * g * sigmoid)};
}

// Rotates one pair of a head: `index` counts [B, T, H, D/2]. direction is 1, or -1 for the gradient. y may be x.
template <class T>
STABLEQAT_HOST_DEVICE void rope_pair(const RopeShape& shape, std::int64_t index, float direction, const float* cos, const float* sin,
                                     const T* x, const HeadStrides& x_strides, T* y, const HeadStrides& y_strides) {
  const std::int64_t half = shape.head_size / 2;
  const std::int64_t i = index % half;
  const std::int64_t head = index / half % shape.heads;
  const std::int64_t token = index / half / shape.heads % shape.tokens;
  const std::int64_t batch = index / half / shape.heads / shape.tokens;
  const T* from = x + batch * x_strides.batch + token * x_strides.token + head * x_strides.head + i;
  T* to = y + batch * y_strides.batch + token * y_strides.token + head * y_strides.head + i;
  const float a = to_float(from[0]);
  const float b = to_float(from[half]);
  const float c = cos[token * half + i];
  const float s = direction * sin[token * half + i];
  to[0] = from_float<T>(a * c - b * s);
  to[half] = from_float<T>(b * c + a * s);
}

}  // namespace stableqat::kernels::cuda
