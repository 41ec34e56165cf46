// A GPU for tests on machines that have none: a LibTorch device whose memory is host memory and whose operators are the CPU's.
//
// As with CUDA, an operator throws c10::Error when its tensors are on different devices; only CPU tensors without dimensions may be mixed
// in, and copy_() and to() are the way across. (CUDA takes indices from the CPU in index() and index_put_() too.) Backward runs in a thread
// of the device. Results are the CPU's bit for bit, but for scaled_dot_product_attention, which is made of plain operators.
//
// data_ptr() is a host pointer, so that the kernels of cuda_on_host.cc work on such tensors. Host code that follows it by mistake is not
// noticed.
#pragma once

#include <c10/core/Device.h>

namespace stableqat::testing {

// The device, PrivateUse1 by the name of "fake_gpu". A program that calls this has it from its start. Thread-safe.
at::Device fake_gpu();

}  // namespace stableqat::testing
