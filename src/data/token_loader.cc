#include "stableqat/data/token_loader.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "data/mixture_order.h"
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

void check(const LoaderOptions& options) {
  require_at_least("batch size", options.batch_size, 1);
  require_at_least("block length", options.block_length, 2);
  require_at_least("number of ranks", options.ranks, 1);
  require_at_least("rank", options.rank, 0);
  if (options.rank >= options.ranks) {
    throw ConfigError({"rank", std::to_string(options.rank), "less than the " + std::to_string(options.ranks) + " ranks", ""});
  }
}

// Between the seeds of the streams of a mixture.
constexpr std::uint64_t kStreamSeedStep = 0xd1b54a32d192ed03;

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
          {"mixture", position.mixture},
          {"block_length", position.block_length},
          {"seed", position.seed},
          {"shuffle", position.shuffle}};
}

void from_json(const nlohmann::json& json, LoaderPosition& position) {
  json.at("epoch").get_to(position.epoch);
  json.at("block").get_to(position.block);
  json.at("stream_tokens").get_to(position.stream_tokens);
  json.at("mixture").get_to(position.mixture);
  json.at("block_length").get_to(position.block_length);
  json.at("seed").get_to(position.seed);
  json.at("shuffle").get_to(position.shuffle);
}

TokenLoader::TokenLoader(std::shared_ptr<const TokenStream> stream, const LoaderOptions& options)
    : TokenLoader(std::vector<WeightedStream>{{std::move(stream), 1.0}}, options) {}

TokenLoader::TokenLoader(std::vector<WeightedStream> mixture, const LoaderOptions& options) : options_(options) {
  check(options_);
  std::vector<double> weights;
  for (const WeightedStream& part : mixture) weights.push_back(part.weight);
  order_ = std::make_unique<MixtureOrder>(weights);
  double epoch = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < mixture.size(); ++i) {
    Source source{std::move(mixture[i].stream), 0};
    source.blocks = source.stream->size() / static_cast<std::uint64_t>(options_.block_length);
    epoch = std::min(epoch, std::floor(static_cast<double>(source.blocks) / order_->share(i)));
    tokens_ += source.stream->size();
    sources_.push_back(std::move(source));
  }
  blocks_per_epoch_ = static_cast<std::uint64_t>(epoch);
  if (sources_.size() > 1) mixture_ = describe_mixture();
  const auto batch_size = static_cast<std::uint64_t>(options_.batch_size);
  if (blocks_per_epoch_ / batch_size < static_cast<std::uint64_t>(options_.ranks)) {
    throw DataError({"training data", mixture_.empty() ? std::to_string(tokens_) + " tokens" : "a mixture of tokens x share " + mixture_,
                     "at least one batch of " + std::to_string(options_.ranks) + " ranks x " + std::to_string(options_.batch_size) +
                         " blocks x " + std::to_string(options_.block_length) + " tokens",
                     "give more text, or choose a smaller batch or block length"});
  }
}

TokenLoader::TokenLoader(TokenLoader&&) noexcept = default;
TokenLoader& TokenLoader::operator=(TokenLoader&&) noexcept = default;
TokenLoader::~TokenLoader() = default;

std::string TokenLoader::describe_mixture() const {
  std::string text;
  for (std::size_t i = 0; i < sources_.size(); ++i) {
    text += (i == 0 ? "" : " + ") + std::to_string(sources_[i].stream->size()) + " x " + std::to_string(order_->share(i));
  }
  return text;
}

void TokenLoader::read_block(std::uint64_t number, std::span<std::int32_t> ids) {
  const auto [index, place] = (*order_)(number);
  const Source& source = sources_[index];
  const std::uint64_t epoch = place / source.blocks;
  std::uint64_t block = place % source.blocks;
  if (options_.shuffle) block = BlockPermutation(source.blocks, mix(options_.seed + index * kStreamSeedStep) + epoch)(block);
  const std::uint64_t begin = (epoch * source.blocks + block) * ids.size() % source.stream->size();
  const auto before_end = static_cast<std::size_t>(std::min<std::uint64_t>(ids.size(), source.stream->size() - begin));
  source.stream->read(begin, ids.first(before_end));
  source.stream->read(0, ids.subspan(before_end));
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
          tokens_,
          mixture_,
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
  require_same("tokens of the stream", position.stream_tokens, tokens_);
  if (position.mixture != mixture_) {
    throw DataError(
        {"saved position of the training data, mixture", position.mixture, mixture_, "resume with the data and settings of the first run"});
  }
  require_same("block length", position.block_length, options_.block_length);
  require_same("seed", position.seed, options_.seed);
  require_same("shuffle", position.shuffle, options_.shuffle);
  // Beyond this the token count of all epochs would overflow: no run gets there, a damaged file does.
  const std::uint64_t most_epochs = std::numeric_limits<std::uint64_t>::max() / tokens_ - 1;
  if (position.block >= blocks_per_epoch_ || position.epoch >= most_epochs) {
    throw DataError({"saved position of the training data",
                     "epoch " + std::to_string(position.epoch) + ", block " + std::to_string(position.block),
                     "a block below " + std::to_string(blocks_per_epoch_), "use another checkpoint"});
  }
  blocks_done_ = position.epoch * blocks_per_epoch_ + position.block;
}

}  // namespace stableqat
