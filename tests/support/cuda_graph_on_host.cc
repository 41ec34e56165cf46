// libstableqat_cuda_graph.so for machines without a GPU: records what is put into a stream of fake_gpu.h's device.
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <memory>
#include <stdexcept>

#include "fake_gpu_recording.h"
#include "stableqat/base/error.h"
#include "train/cuda_graph/library.h"

namespace stableqat {
namespace {

template <class Function>
void guarded(Function&& function) {
  try {
    function();
  } catch (const std::runtime_error& error) {
    throw EnvironmentError({"imitated CUDA graph", error.what(), "work that a GPU can record and repeat", "leave train.cuda_graph out"});
  }
}

class StreamGraphOnHost final : public StreamGraph {
 public:
  void begin() override {
    guarded([this] {
      const c10::Stream stream = c10::impl::VirtualGuardImpl(c10::kPrivateUse1).getStream(c10::Device(c10::kPrivateUse1, 0));
      graph_.begin(stream.native_handle());
    });
  }
  void end() override {
    guarded([this] { graph_.end(); });
  }
  void replay() override {
    guarded([this] { graph_.replay(); });
  }

 private:
  testing::RecordedGraph graph_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) std::unique_ptr<StreamGraph> stableqat_make_stream_graph() {
  return std::make_unique<StreamGraphOnHost>();
}

}  // namespace stableqat
