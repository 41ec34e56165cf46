// Sums gradients over ranks: each rank gets the sums of the rows that it trains. Letters: R ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "stableqat/base/row_range.h"
#include "stableqat/dist/communicator.h"
#include "stableqat/models/parameters.h"

namespace torch::autograd {
struct Node;
}

namespace stableqat {

struct ReductionOptions {
  bool in_bf16 = false;                                        // what is sent; own rows and sums stay in the gradient's type
  std::int64_t bucket_bytes = std::int64_t{25} * 1024 * 1024;  // of gradients, before they are rounded
};

// Backward goes from the last norm and block to the first and ends with the embedding. An untied head is no part of its graph: it comes
// last. Parameters with smaller numbers are finished first.
std::int64_t turn_in_backward(const std::string& name, ParameterRole role);

// How leaves are put together to buckets: one after the other, until a bucket is full.
struct BucketSizes {
  std::int64_t bucket_bytes = 0;
  std::int64_t bytes_per_piece_element = 0;  // of a gradient, times ranks
  std::vector<std::int64_t> pieces;          // elements of one rank's piece, by bucket

  // The bucket that the leaf goes to, whose piece has so many elements.
  std::size_t add(std::int64_t piece);
};

// Gradients are exchanged in buckets, each as soon as backward has finished all of it, while backward goes on. All ranks start the same
// buckets in the same order. Not thread-safe.
class GradientExchange {
 public:
  // Buckets at a time: what is in flight holds the other ranks' rows twice, sent and received.
  static constexpr std::size_t kMostInFlight = 4;

  // `leaves`, in the order in which backward finishes their gradients; their gradients are dense. Backward runs hooks of this object while
  // it lives.
  GradientExchange(Communicator& communicator, const std::vector<at::Tensor>& leaves, const ReductionOptions& options);
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;
  ~GradientExchange();

  // The next backward is the last before finish().
  void begin();
  // Afterwards each leaf's gradient holds the sums over all ranks in the rows of this rank (rows_of_rank), zero elsewhere. Throws
  // LostRankError.
  void finish();

 private:
  struct Leaf {
    at::Tensor tensor;
    std::size_t bucket = 0;
    std::int64_t piece = 0;   // elements of one rank's rows, with padding
    std::int64_t offset = 0;  // in its bucket's piece
    std::uintptr_t hook = 0;
    std::shared_ptr<torch::autograd::Node> accumulator;
  };
  struct Bucket {
    std::vector<std::size_t> leaves;
    std::int64_t piece = 0;   // elements
    std::size_t missing = 0;  // leaves whose gradient is not finished
    at::Tensor to;            // [R - 1, piece]
    at::Tensor from;          // [R - 1, piece]
    std::unique_ptr<Transfer> transfer;
  };

  void add(const at::Tensor& leaf, BucketSizes& sizes);
  void on_gradient(std::size_t leaf);
  void start_next();
  void complete_oldest();
  void add_others(const Bucket& bucket, const Leaf& leaf);
  at::Tensor rows_of(const Leaf& leaf, int rank) const;  // of its gradient, flat

  Communicator& communicator_;
  std::vector<Leaf> leaves_;
  std::vector<Bucket> buckets_;
  bool armed_ = false;
  std::size_t started_ = 0;
  std::size_t completed_ = 0;
  bool in_bf16_ = false;
};

}  // namespace stableqat
