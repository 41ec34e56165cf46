// How the processes that train one model together exchange tensors. A process is a rank, 0 to R - 1; rank 0 writes logs and files that
// exist once.
//
// Collective members must be called by all ranks in the same order; each counts the bytes that this rank sends. A rank that is gone or
// silent for longer than the time limit makes them throw LostRankError on the others.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "stableqat/base/error.h"

namespace stableqat {

// A rank that no longer answers; the message names it where that can be found out.
class LostRankError : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

// Payload bytes that this rank has handed to the network. Headers of the transport are not counted.
struct Traffic {
  std::uint64_t gradients = 0;  // start_all_to_all()
  std::uint64_t weights = 0;    // start_all_gather()
  std::uint64_t control = 0;    // everything else

  std::uint64_t total() const noexcept { return gradients + weights + control; }
};

// An exchange under way: its tensors must not be touched before wait() has returned. Destroying it does not wait.
class Transfer {
 public:
  virtual ~Transfer() = default;
  virtual void wait() = 0;  // once; throws LostRankError
};

// Tensors are contiguous and on the CPU. Not thread-safe; exchanges proceed in threads of their own.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const noexcept = 0;
  virtual int ranks() const noexcept = 0;
  bool is_main() const noexcept { return rank() == 0; }

  // Each rank has a row for each other one. Rows of `to` and `from` [R - 1, n] belong to the other ranks, in their order: row i of `to` is
  // sent to the i-th, row i of `from` becomes what the i-th has for this rank. Any type.
  virtual std::unique_ptr<Transfer> start_all_to_all(const at::Tensor& to, const at::Tensor& from) = 0;

  // Row r of `all` [R, n] is rank r's: each sends its own row and receives the others. Any type.
  virtual std::unique_ptr<Transfer> start_all_gather(const at::Tensor& all) = 0;

  // The text of each rank, in their order.
  virtual std::vector<std::string> all_gather_text(const std::string& own) = 0;

  // The numbers of each rank, as many on every rank, in their order.
  virtual std::vector<std::vector<double>> all_gather_numbers(const std::vector<double>& own) = 0;

  // Returns when all ranks have called it.
  virtual void barrier() = 0;

  // Runs `work` on rank 0 while the others wait, however long it takes as long as rank 0 lives. An error on rank 0 is thrown there; the
  // others throw LostRankError when rank 0 ends.
  virtual void main_only(const std::function<void()>& work) = 0;

  // A second line between the same ranks, for another thread: its exchanges keep their own order and traffic. All ranks call it; it must
  // not outlive this object.
  virtual std::unique_ptr<Communicator> duplicate() = 0;

  // What the ranks are doing ("step 17"), for messages.
  virtual void set_activity(std::string activity) = 0;

  virtual Traffic traffic() const noexcept = 0;
};

// One process on its own: everything is done already.
std::unique_ptr<Communicator> single_process();

// Added in the order of the ranks: the same on all of them.
std::vector<double> sum_over_ranks(Communicator& communicator, const std::vector<double>& own);

// The text that `make` gives on rank 0, on all ranks. Waits and errors as main_only().
std::string text_from_main(Communicator& communicator, const std::function<std::string()>& make);

// Runs `work` on all ranks and waits for all; when it throws an error of the library on some, all throw one: their own, or that of the
// first that failed.
void together(Communicator& communicator, const std::function<void()>& work);

// Throws ConfigError, on every rank, when `value` differs between ranks; `what` says what it is of ("train.learning_rate").
void require_same(Communicator& communicator, const std::string& what, const std::string& value);

}  // namespace stableqat
