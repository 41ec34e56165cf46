// A micro-step of a model on a GPU: the same some hundreds of kernels for each micro-batch, recorded once and then started as a whole.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "stableqat/train/forward_backward.h"
#include "train/cuda_graph/library.h"

namespace stableqat {

// Not thread-safe. Keeps a reference to the model.
class CapturedMicroStep {
 public:
  // Micro-batches alike that run as they are, before the next one is recorded: they make what is made once (gradients, kernels, handles and
  // workspaces of cuBLAS), which a recording must not.
  static constexpr int kRunBefore = 2;

  // Throws EnvironmentError where libstableqat_cuda_graph.so is missing.
  CapturedMicroStep(CausalLm& model, Recompute recompute);
  ~CapturedMicroStep();

  // forward_backward() of ids on the CPU. Alike are micro-batches of one shape, with the same gradient_scale and teacher, and with
  // parameters, gradients and compute copies in the same places. Those that most of the last ones were like are recorded, the others run as
  // they are; one recording is kept at a time. The losses are the caller's. Throws EnvironmentError when recording fails.
  HeadLoss run(const at::Tensor& ids, double gradient_scale, const Teacher* teacher);

  std::int64_t replays() const noexcept { return replays_; }

 private:
  // All that the work depends on besides the values in memory.
  struct Work {
    std::vector<std::int64_t> shape;
    double gradient_scale = 0.0;
    Teacher teacher;
    std::vector<const void*> places;

    bool operator==(const Work&) const = default;
  };

  bool is_usual(const Work& work);
  Work work_of(const at::Tensor& ids, double gradient_scale, const Teacher* teacher);
  void capture(const Work& work);

  CausalLm& model_;
  Recompute recompute_;
  Work usual_;         // what most of the last micro-batches were
  int lead_ = 0;       // how many more they were than the others, at most one more than kRunBefore
  Work recorded_;      // by graph_
  at::Tensor ids_;     // [B, T] int64, where the recording reads them
  at::Tensor losses_;  // [2] float64, where it leaves them, in its own memory
  std::unique_ptr<StreamGraph> graph_;
  std::int64_t replays_ = 0;
};

}  // namespace stableqat
