// The operators of fake_gpu.h's device.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace stableqat::testing {

inline constexpr c10::DeviceType kFakeGpuType = c10::DeviceType::PrivateUse1;
inline c10::Device fake_gpu_device() { return {kFakeGpuType, 0}; }

// Calls so far for which a real GPU would have been waited for.
std::int64_t waits_so_far();

// Once in a process, after the device's allocator.
void register_fake_gpu_operators();

}  // namespace stableqat::testing
