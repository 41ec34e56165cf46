// Hands every rank the rows that the others have trained: quantized weights as packed codes and steps, other tensors as they are.
// Letters: R ranks, N rows, M columns, G steps per row.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "stableqat/dist/communicator.h"
#include "stableqat/io/ggml_encode.h"
#include "stableqat/models/quantized_model.h"

namespace stableqat {

// The bytes of one rank's piece of a quantized weight: codes of ceil(N / R) rows in a dense stream, then their steps, as fp16 where they
// lie on its grid. The same for every rank.
struct PackedPiece {
  std::int64_t rows = 0;  // ceil(N / R)
  std::int64_t columns = 0;
  std::int64_t steps_per_row = 1;
  int code_bits = 4;
  at::ScalarType step_type = at::kFloat;

  std::uint64_t code_bytes() const;
  std::uint64_t bytes() const;
};
PackedPiece packed_piece(const QuantizerSpec& spec, std::int64_t rows, std::int64_t columns, at::ScalarType dtype, std::int64_t ranks);

// Not thread-safe.
class WeightExchange {
 public:
  // `plain` are the tensors that are not quantized, whole on every rank.
  WeightExchange(Communicator& communicator, QuantizedModel& model, std::vector<at::Tensor> plain, std::int64_t bucket_bytes);

  // Every rank's own rows, to all. Throws LostRankError.
  void run();

 private:
  struct Item {
    QuantizedWeight* weight = nullptr;  // or
    at::Tensor plain;
    PackedPiece packed;
    std::uint64_t offset = 0;  // in the bucket's bytes of one rank
    std::uint64_t bytes = 0;
  };
  struct Bucket {
    std::vector<Item> items;
    std::int64_t bytes = 0;  // of one rank
    at::Tensor all;          // [R, bytes] uint8; or a plain tensor itself, whose rows are sent from and received in place
    bool in_place = false;
    std::unique_ptr<Transfer> transfer;
  };

  void add(Item item, std::int64_t bucket_bytes);
  void start(Bucket& bucket);
  void complete(Bucket& bucket);
  void write(const Item& item, std::span<std::byte> bytes) const;
  void read(const Item& item, int rank, std::span<const std::byte> bytes) const;

  Communicator& communicator_;
  CodeGrid grid_;
  std::vector<Bucket> buckets_;
};

}  // namespace stableqat
