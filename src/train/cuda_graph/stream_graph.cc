// Stream capture by LibTorch's CUDAGraph, which tells the caching allocator and the random generators of it.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>

#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "stableqat/base/error.h"
#include "train/cuda_graph/library.h"

namespace stableqat {

namespace {

template <class Function>
auto guarded(const char* what, Function&& function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::exception& error) {
    const std::string text = error.what();  // LibTorch puts a stack trace below its first line
    throw EnvironmentError({std::string("CUDA graph, ") + what, text.substr(0, text.find('\n')), "work that a GPU can record and repeat",
                            "leave train.cuda_graph out; report it with the GPU's name and the command line"});
  }
}

class CudaStreamGraph final : public StreamGraph {
 public:
  // What a replay has begun may still be going on.
  ~CudaStreamGraph() override {
    try {
      c10::cuda::device_synchronize();
    } catch (const std::exception&) {
      return;  // an error of the work before, which whoever waits for its results is told
    }
  }

  // Memory that is free so far can be used by the graph's only if it is given back.
  void begin() override {
    guarded("begin of the capture", [this] {
      c10::cuda::device_synchronize();
      c10::cuda::CUDACachingAllocator::emptyCache();
      graph_.capture_begin();
    });
  }
  void end() override {
    guarded("end of the capture", [this] { graph_.capture_end(); });
  }
  void replay() override {
    guarded("replay", [this] { graph_.replay(); });
  }

 private:
  at::cuda::CUDAGraph graph_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) std::unique_ptr<StreamGraph> stableqat_make_stream_graph() {
  return guarded("before the capture", [] { return std::make_unique<CudaStreamGraph>(); });
}

}  // namespace stableqat
