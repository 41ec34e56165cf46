#include <cstdio>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/tables.h"

namespace stableqat::kernels::cuda {
namespace {

Status device_count(int* count) { return status_of(cudaGetDeviceCount(count)); }

Status device_name(int device, char* name, int capacity) {
  cudaDeviceProp properties;
  if (const Status status = status_of(cudaGetDeviceProperties(&properties, device))) return status;
  std::snprintf(name, static_cast<std::size_t>(capacity), "%s", properties.name);
  return nullptr;
}

Status allocate(std::size_t bytes, void** memory) { return status_of(cudaMalloc(memory, bytes)); }
Status release(void* memory) { return status_of(cudaFree(memory)); }
Status copy(Stream stream, void* to, const void* from, std::size_t bytes) {
  return status_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, as_stream(stream)));
}
Status synchronize(Stream stream) { return status_of(cudaStreamSynchronize(as_stream(stream))); }

CudaKernels make_table() {
  CudaKernels table{};
  table.device_count = device_count;
  table.device_name = device_name;
  table.allocate = allocate;
  table.release = release;
  table.copy = copy;
  table.synchronize = synchronize;
  add_update_kernels(table);
  add_rms_norm_kernels(table);
  add_elementwise_kernels(table);
  add_cross_entropy_kernels(table);
  add_fp8_kernels(table);
  return table;
}

}  // namespace
}  // namespace stableqat::kernels::cuda

extern "C" __attribute__((visibility("default"))) const stableqat::kernels::cuda::CudaKernels* stableqat_cuda_kernels(int version) {
  using namespace stableqat::kernels::cuda;
  static const CudaKernels table = make_table();
  return version == kCudaKernelsVersion ? &table : nullptr;
}
