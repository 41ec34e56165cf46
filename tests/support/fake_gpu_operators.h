// The operators of fake_gpu.h's device.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>

namespace stableqat::testing {

inline constexpr c10::DeviceType kFakeGpuType = c10::DeviceType::PrivateUse1;
inline c10::Device fake_gpu_device() { return {kFakeGpuType, 0}; }

// Host memory as memory of the device.
c10::DataPtr device_memory(c10::DataPtr memory, std::size_t bytes);

// Calls so far for which a real GPU would have been waited for, and one more of them: none is permitted while a stream is captured.
std::int64_t waits_so_far();
void count_wait(const char* what);

// Once in a process, after the device's allocator.
void register_fake_gpu_operators();

}  // namespace stableqat::testing
