// A GPU for tests on machines that have none: a LibTorch device whose memory is host memory and whose operators are the CPU's.
//
// As with CUDA, an operator throws c10::Error when its tensors are on different devices; only CPU tensors without dimensions may be mixed
// in, and copy_() and to() are the way across. (CUDA takes indices from the CPU in index() and index_put_() too.) Backward runs in a thread
// of the device. Results are the CPU's bit for bit, but for scaled_dot_product_attention, which is made of plain operators.
//
// Results are there at once; fake_gpu_waits() counts where CUDA would have made the host wait for them. Each thread has a current stream,
// and streams can be captured (fake_gpu_recording.h).
//
// data_ptr() is a host pointer, so that the kernels of cuda_on_host.cc work on such tensors. Host code that follows it by mistake is not
// noticed.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace stableqat::testing {

// The device, PrivateUse1 by the name of "fake_gpu". A program that calls this has it from its start. Thread-safe.
at::Device fake_gpu();

// How often the host would have waited for a real GPU so far: values read from it, copies to the host and blocking ones from there, results
// whose shape depends on values. Thread-safe.
std::int64_t fake_gpu_waits();

// How often a captured graph has been replayed so far. Thread-safe.
std::int64_t fake_gpu_replays();

}  // namespace stableqat::testing
