#include "stableqat/dist/nccl_group.h"

#include <dlfcn.h>

#include <utility>

#include "dist/nccl/library.h"

namespace stableqat {

namespace {

struct Opened {
  ConnectNccl* connect = nullptr;
  std::string missing;
};

// LibTorch's part for GPUs first: our library takes its symbols from what is loaded, as the wheel's CPU part is what it is linked with.
Opened open_libraries() {
  Opened result;
  for (const char* name : {"libtorch_cuda.so", "libstableqat_nccl.so"}) {
    void* const library = ::dlopen(name, RTLD_NOW | RTLD_GLOBAL);
    if (library == nullptr) {
      result.missing = ::dlerror();
      return result;
    }
    result.connect = reinterpret_cast<ConnectNccl*>(::dlsym(library, kConnectNccl));
  }
  if (result.connect == nullptr) result.missing = "libstableqat_nccl.so is of another version";
  return result;
}

const Opened& libraries() {
  static const Opened opened = open_libraries();
  return opened;
}

}  // namespace

std::string nccl_is_missing() { return libraries().missing; }

std::unique_ptr<Communicator> connect_gpus(std::unique_ptr<Communicator> control, const LaunchEnvironment& environment,
                                           std::chrono::milliseconds timeout) {
  if (!libraries().missing.empty()) {
    throw EnvironmentError({"exchanges between GPUs", libraries().missing, "LibTorch with its CUDA libraries and libstableqat_nccl.so",
                            "install the whole torch wheel and build with CUDA (docs/cuda.md)"});
  }
  return libraries().connect(std::move(control), environment, timeout);
}

}  // namespace stableqat
