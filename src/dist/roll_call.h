// Finds out which ranks are gone: a thread of each rank answers when one of them calls.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <memory>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace stableqat {

class RollCall {
 public:
  // Takes a store of its own connection. `main_has_store`: it dies with rank 0.
  RollCall(c10::intrusive_ptr<c10d::Store> store, int rank, int ranks, bool main_has_store);
  RollCall(const RollCall&) = delete;
  RollCall& operator=(const RollCall&) = delete;
  ~RollCall();

  // In words: "rank 2", "ranks 1, 2"; "a rank" when all answer. The same text on all ranks that ask, as far as they reach each other. Takes
  // a few seconds. Throws nothing. Thread-safe.
  std::string missing_ranks() noexcept;

 private:
  // Shared with the threads: LibTorch's store waits without a limit for a machine that the network has lost, and such a thread is left
  // alone.
  struct State;

  std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace stableqat
