// Blocks of tokens for training, in an order that depends on the seed only.
//
// Legend: B blocks per batch and rank, R ranks, T tokens per block, N tokens of the stream.
// A block is T consecutive tokens; the loss of a block is the mean over the T - 1 tokens that have a predecessor in it. Documents are not
// kept apart. An epoch has n = floor(N / T) blocks. The stream is a ring: the N - n*T tokens left at the end of an epoch are the beginning
// of the next one, whose last blocks run on over the start of the stream. So no token is ever dropped, and block borders differ from epoch
// to epoch. Each epoch visits its blocks in the order of a permutation made from (seed, epoch) by integer arithmetic, the same on every
// machine. The blocks of all epochs form one endless sequence; a global batch is the next R*B of it, of which rank r takes blocks r*B to
// r*B + B - 1.
//
// A mixture has several streams, each with epochs of its own; they take turns as evenly as their weights allow, in an order that depends on
// the weights only. Its epoch ends with the last block before any of its streams begins again.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "stableqat/data/token_file.h"

namespace stableqat {

class MixtureOrder;

// A bijection of [0, size) onto itself, chosen by `key`; any element in constant time and memory. A balanced Feistel network over the next
// even power of two with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): for shuffling, not for secrecy.
class BlockPermutation {
 public:
  BlockPermutation(std::uint64_t size, std::uint64_t key);

  std::uint64_t operator()(std::uint64_t index) const noexcept;  // index < size

 private:
  std::uint64_t size_;
  int half_bits_;
  std::array<std::uint64_t, 6> round_keys_;
};

struct LoaderOptions {
  std::int64_t batch_size = 1;      // B
  std::int64_t block_length = 512;  // T, at least 2
  std::uint64_t seed = 42;
  bool shuffle = true;  // false: blocks in the order of the stream
  std::int64_t rank = 0;
  std::int64_t ranks = 1;
  std::uint64_t max_tokens = 0;  // over all ranks; the loader ends before the batch that would exceed it. 0 = endless
};

// One source of a mixture.
struct WeightedStream {
  std::shared_ptr<const TokenStream> stream;
  double weight = 1.0;
};

// Where a loader stands. The last members let restore() see that it is the same sequence of blocks.
struct LoaderPosition {
  std::uint64_t epoch = 0;
  std::uint64_t block = 0;          // blocks of this epoch handed out, to all ranks together
  std::uint64_t stream_tokens = 0;  // of all streams
  std::string mixture;              // "tokens x share" of each stream; empty for one
  std::int64_t block_length = 0;
  std::uint64_t seed = 0;
  bool shuffle = true;

  bool operator==(const LoaderPosition&) const = default;
};
// An object with the member names as keys. from_json throws nlohmann::json::exception.
void to_json(nlohmann::json& json, const LoaderPosition& position);
void from_json(const nlohmann::json& json, LoaderPosition& position);

// Not thread-safe; loaders may share a stream.
class TokenLoader {
 public:
  // Throws ConfigError for options out of range and DataError when the stream is shorter than one global batch.
  TokenLoader(std::shared_ptr<const TokenStream> stream, const LoaderOptions& options);
  // A mixture. Throws also ConfigError for weights that make none (no stream, a weight not above 0 or below 1/1024 of all) and DataError
  // for a stream shorter than a block.
  TokenLoader(std::vector<WeightedStream> mixture, const LoaderOptions& options);
  TokenLoader(TokenLoader&&) noexcept;
  TokenLoader& operator=(TokenLoader&&) noexcept;
  ~TokenLoader();

  // Fills `ids` ([B, T] row-major, exactly B*T elements, else std::invalid_argument) with this rank's part of the next global batch.
  // Returns false, with `ids` untouched, when the budget is used up. Throws what TokenStream::read throws; the position then stays.
  bool next(std::span<std::int64_t> ids);
  bool next(std::span<std::int32_t> ids);

  LoaderPosition position() const noexcept;
  // Continues as the loader did whose position() this is. Throws DataError when it belongs to another stream, mixture, block length, seed
  // or order.
  void restore(const LoaderPosition& position);

  std::uint64_t blocks_per_epoch() const noexcept { return blocks_per_epoch_; }
  // Handed out to all ranks together since the first epoch.
  std::uint64_t tokens_done() const noexcept;
  const LoaderOptions& options() const noexcept { return options_; }

 private:
  struct Source {
    std::shared_ptr<const TokenStream> stream;
    std::uint64_t blocks = 0;  // per epoch of its own
  };

  void read_block(std::uint64_t number, std::span<std::int32_t> ids);
  std::string describe_mixture() const;
  template <class Id>
  bool next_batch(std::span<Id> ids);

  LoaderOptions options_;
  std::vector<Source> sources_;
  std::unique_ptr<MixtureOrder> order_;
  std::uint64_t tokens_ = 0;  // of all streams
  std::string mixture_;       // as LoaderPosition has it
  std::uint64_t blocks_per_epoch_ = 0;
  std::uint64_t blocks_done_ = 0;  // of all epochs and ranks
};

}  // namespace stableqat
