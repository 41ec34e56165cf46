#include <dlfcn.h>

#include "stableqat/kernels/cuda.h"

namespace stableqat::kernels::cuda {

namespace {

constexpr const char* kLibrary = "libstableqat_cuda.so";

std::string last_error() {
  const char* text = dlerror();
  return text != nullptr ? text : "unknown error";
}

CudaBackend without(std::string reason) { return {nullptr, 0, std::move(reason)}; }

CudaBackend open_backend() {
  // Never closed: kernels may be in flight until the process ends.
  void* const library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return without(last_error());
  void* const symbol = dlsym(library, kCudaKernelsSymbol);
  if (symbol == nullptr) return without(std::string(kLibrary) + " lacks " + kCudaKernelsSymbol);
  const CudaKernels* const table = reinterpret_cast<CudaKernelsFunction>(symbol)(kCudaKernelsVersion);
  if (table == nullptr) return without(std::string(kLibrary) + " is of another version than the program");
  int devices = 0;
  if (const Status status = table->device_count(&devices)) return without(status);
  if (devices == 0) return without("no CUDA device");
  return {table, devices, {}};
}

}  // namespace

const CudaBackend& cuda_backend() {
  static const CudaBackend backend = open_backend();
  return backend;
}

}  // namespace stableqat::kernels::cuda
