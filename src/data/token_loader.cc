#include "stableqat/data/token_loader.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "stableqat/base/error.h"

namespace stableqat {

namespace {

// Finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

void require_at_least(const char* name, std::int64_t value, std::int64_t least) {
  if (value >= least) return;
  throw ConfigError({name, std::to_string(value), "at least " + std::to_string(least), ""});
}

}  // namespace

BlockPermutation::BlockPermutation(std::uint64_t size, std::uint64_t key) : size_(size) {
  const int bits = size > 1 ? static_cast<int>(std::bit_width(size - 1)) : 1;
  half_bits_ = (bits + 1) / 2;
  for (std::size_t round = 0; round < round_keys_.size(); ++round) round_keys_[round] = mix(key + round);
}

std::uint64_t BlockPermutation::operator()(std::uint64_t index) const noexcept {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  do {
    std::uint64_t left = index >> half_bits_;
    std::uint64_t right = index & mask;
    for (const std::uint64_t key : round_keys_) left = std::exchange(right, left ^ (mix(right ^ key) & mask));
    index = left << half_bits_ | right;
  } while (index >= size_);
  return index;
}

void to_json(nlohmann::json& json, const LoaderPosition& position) {
  json = {{"epoch", position.epoch},
          {"block", position.block},
          {"stream_tokens", position.stream_tokens},
          {"block_length", position.block_length},
          {"seed", position.seed},
          {"shuffle", position.shuffle}};
}

void from_json(const nlohmann::json& json, LoaderPosition& position) {
  json.at("epoch").get_to(position.epoch);
  json.at("block").get_to(position.block);
  json.at("stream_tokens").get_to(position.stream_tokens);
  json.at("block_length").get_to(position.block_length);
  json.at("seed").get_to(position.seed);
  json.at("shuffle").get_to(position.shuffle);
}

TokenLoader::TokenLoader(std::shared_ptr<const TokenStream> stream, const LoaderOptions& options)
    : stream_(std::move(stream)), options_(options) {
  require_at_least("batch size", options.batch_size, 1);
  require_at_least("block length", options.block_length, 2);
  require_at_least("number of ranks", options.ranks, 1);
  require_at_least("rank", options.rank, 0);
  if (options.rank >= options.ranks) {
    throw ConfigError({"rank", std::to_string(options.rank), "less than the " + std::to_string(options.ranks) + " ranks", ""});
  }
  blocks_per_epoch_ = stream_->size() / static_cast<std::uint64_t>(options.block_length);
  const auto batch_size = static_cast<std::uint64_t>(options.batch_size);
  if (blocks_per_epoch_ / batch_size < static_cast<std::uint64_t>(options.ranks)) {
    throw DataError({"training data", std::to_string(stream_->size()) + " tokens",
                     "at least one batch of " + std::to_string(options.ranks) + " ranks x " + std::to_string(options.batch_size) +
                         " blocks x " + std::to_string(options.block_length) + " tokens",
                     "give more text, or choose a smaller batch or block length"});
  }
}

void TokenLoader::read_block(std::uint64_t number, std::span<std::int32_t> ids) const {
  const std::uint64_t epoch = number / blocks_per_epoch_;
  std::uint64_t block = number % blocks_per_epoch_;
  if (options_.shuffle) block = BlockPermutation(blocks_per_epoch_, mix(options_.seed) + epoch)(block);
  const std::uint64_t begin = (epoch * blocks_per_epoch_ + block) * ids.size() % stream_->size();
  const auto before_end = static_cast<std::size_t>(std::min<std::uint64_t>(ids.size(), stream_->size() - begin));
  stream_->read(begin, ids.first(before_end));
  stream_->read(0, ids.subspan(before_end));
}

template <class Id>
bool TokenLoader::next_batch(std::span<Id> ids) {
  const auto block_length = static_cast<std::size_t>(options_.block_length);
  const auto batch_size = static_cast<std::uint64_t>(options_.batch_size);
  const std::uint64_t global_blocks = batch_size * static_cast<std::uint64_t>(options_.ranks);
  if (ids.size() != batch_size * block_length) throw std::invalid_argument("TokenLoader::next: ids must hold B*T elements");
  if (options_.max_tokens > 0 && tokens_done() + global_blocks * block_length > options_.max_tokens) return false;

  const std::uint64_t first = blocks_done_ + static_cast<std::uint64_t>(options_.rank) * batch_size;
  std::vector<std::int32_t> block(block_length);
  for (std::uint64_t row = 0; row < batch_size; ++row) {
    read_block(first + row, block);
    std::copy(block.begin(), block.end(), ids.begin() + static_cast<std::ptrdiff_t>(row * block_length));
  }
  blocks_done_ += global_blocks;
  return true;
}

bool TokenLoader::next(std::span<std::int64_t> ids) { return next_batch(ids); }
bool TokenLoader::next(std::span<std::int32_t> ids) { return next_batch(ids); }

std::uint64_t TokenLoader::tokens_done() const noexcept { return blocks_done_ * static_cast<std::uint64_t>(options_.block_length); }

LoaderPosition TokenLoader::position() const noexcept {
  return {blocks_done_ / blocks_per_epoch_,
          blocks_done_ % blocks_per_epoch_,
          stream_->size(),
          options_.block_length,
          options_.seed,
          options_.shuffle};
}

void TokenLoader::restore(const LoaderPosition& position) {
  const auto require_same = [](const char* name, auto found, auto expected) {
    if (found == expected) return;
    throw DataError({std::string("saved position of the training data, ") + name, std::to_string(found), std::to_string(expected),
                     "resume with the data and settings of the first run"});
  };
  require_same("tokens of the stream", position.stream_tokens, stream_->size());
  require_same("block length", position.block_length, options_.block_length);
  require_same("seed", position.seed, options_.seed);
  require_same("shuffle", position.shuffle, options_.shuffle);
  // Beyond this the token count of all epochs would overflow: no run gets there, a damaged file does.
  const std::uint64_t most_epochs = std::numeric_limits<std::uint64_t>::max() / stream_->size() - 1;
  if (position.block >= blocks_per_epoch_ || position.epoch >= most_epochs) {
    throw DataError({"saved position of the training data",
                     "epoch " + std::to_string(position.epoch) + ", block " + std::to_string(position.block),
                     "a block below " + std::to_string(blocks_per_epoch_), "use another checkpoint"});
  }
  blocks_done_ = position.epoch * blocks_per_epoch_ + position.block;
}

}  // namespace stableqat
