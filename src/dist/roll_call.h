// Finds out which ranks are gone: a thread of each rank answers when one of them calls.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <condition_variable>
#include <mutex>
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

  // In words: "rank 2", "ranks 1, 2"; "a rank" when all answer. The same text on all ranks that ask. Takes a few seconds. Throws nothing.
  // Thread-safe.
  std::string missing_ranks() noexcept;

 private:
  void answer();
  std::string call();
  bool wait_for_end(std::chrono::milliseconds time);

  c10::intrusive_ptr<c10d::Store> store_;
  int rank_;
  int ranks_;
  bool main_has_store_;
  std::mutex mutex_;
  std::condition_variable end_condition_;
  bool end_ = false;
  std::thread thread_;
};

}  // namespace stableqat
