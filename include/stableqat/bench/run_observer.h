// Where time and memory of a step go, by LibTorch's own observers: no timer stands in the library, only names (RECORD_USER_SCOPE), which
// cost nothing while nobody observes.
#pragma once

#include <cstdint>
#include <memory>

namespace stableqat::bench {

// Seconds of kinds of work; what is left of a step is the rest (norms, activation functions, rotations, embedding, the graph itself).
struct PartSeconds {
  double gemm = 0.0;       // products with weights inside the blocks
  double attention = 0.0;  // softmax(q k) v and its gradient
  double head = 0.0;
};

// Observes the thread that made it, from construction to destruction. One at a time per thread; destroy in the same thread.
class RunObserver {
 public:
  RunObserver();
  ~RunObserver();
  RunObserver(const RunObserver&) = delete;
  RunObserver& operator=(const RunObserver&) = delete;

  // Seconds from begin_micro_batch() to the start of the head: the forward pass.
  void begin_micro_batch();
  double forward_seconds() const;

  // Parts need a look at every tensor operation, about a microsecond each: off at first. On: their sums start at 0.
  void observe_parts(bool on);
  const PartSeconds& parts() const;

  // Bytes of the CPU tensors that were made since construction and are alive; the most since the last reset.
  std::int64_t tensor_bytes() const;
  std::int64_t peak_tensor_bytes() const;
  void reset_peak();

 private:
  struct State;
  class Scope;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stableqat::bench
