// Element types of activations on the device. Arithmetic is fp32 throughout; a bfloat16 is rounded once, when it is stored.
#pragma once

#include <cstdint>

#include "stableqat/base/half.h"
#include "stableqat/kernels/host_device.h"

namespace stableqat::kernels::cuda {

struct BFloat16 {
  std::uint16_t bits;
};

STABLEQAT_HOST_DEVICE inline float to_float(float value) { return value; }
STABLEQAT_HOST_DEVICE inline float to_float(BFloat16 value) { return bfloat16_to_float(value.bits); }

template <class T>
STABLEQAT_HOST_DEVICE inline T from_float(float value);
template <>
STABLEQAT_HOST_DEVICE inline float from_float<float>(float value) {
  return value;
}
template <>
STABLEQAT_HOST_DEVICE inline BFloat16 from_float<BFloat16>(float value) {
  return {float_to_bfloat16(value)};
}

}  // namespace stableqat::kernels::cuda
