#include <ATen/Context.h>
#include <dlfcn.h>

#include "quant/gpu.h"
#include "stableqat/base/error.h"
#include "stableqat/train/settings.h"

namespace stableqat {

namespace {

// LibTorch asks for its CUDA part only once; so this comes before anything that asks.
void open_libtorch_cuda() {
  // Never closed: it registers operators.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    const char* text = dlerror();
    throw EnvironmentError({"libtorch_cuda.so", text != nullptr ? text : "cannot be opened",
                            "LibTorch's CUDA part, of the version of the CPU part",
                            "put the lib folder of a whole LibTorch into LD_LIBRARY_PATH, or use train.device cpu"});
  }
  if (!at::globalContext().hasCUDA()) {
    throw EnvironmentError(
        {"LibTorch", "no CUDA device that it can use", "a driver and a GPU", "check nvidia-smi, or use train.device cpu"});
  }
}

void require_settings_of_device(const TrainConfig::Train& config) {
  const bool on_gpu = config.device == TrainConfig::Device::kCuda;
  if (!on_gpu && config.cuda_graph) {
    throw ConfigError({"train.cuda_graph", "true on a CPU", "a GPU", "leave it out, or use train.device cuda"});
  }
  if (on_gpu && config.moments == TrainConfig::Moments::kBfloat16) {
    throw ConfigError({"train.moments", "bfloat16 on a GPU", "float", "leave train.moments out, or use train.device cpu"});
  }
}

}  // namespace

void check_settings(const TrainConfig& config) {
  const auto settings = quantization_settings(config.quantization);
  std::vector<std::string> notices;
  const NumericTypes types = numeric_types(config, notices);
  if (types.products == CodeProducts::kFp8 && settings) require_fp8_codes(settings->spec);
  require_settings_of_device(config.train);
}

at::Device open_device(const TrainConfig::Train& config) {
  require_settings_of_device(config);
  if (config.device == TrainConfig::Device::kCpu) return at::kCPU;
  gpu::kernels();
  open_libtorch_cuda();
  return at::Device(at::kCUDA, 0);
}

}  // namespace stableqat
