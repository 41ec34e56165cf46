#include "train/gradient_exchange.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <functional>
#include <limits>
#include <string_view>
#include <utility>

namespace stableqat {

namespace {

using torch::autograd::variable_list;

class Hook final : public torch::autograd::FunctionPostHook {
 public:
  explicit Hook(std::function<void()> action) : action_(std::move(action)) {}
  variable_list operator()(const variable_list& outputs, const variable_list& /*inputs*/) override {
    action_();
    return outputs;
  }

 private:
  std::function<void()> action_;
};

}  // namespace

std::int64_t turn_in_backward(const std::string& name, ParameterRole role) {
  constexpr std::string_view kLayers = "model.layers.";
  constexpr auto kEnd = std::numeric_limits<std::int64_t>::max();
  if (name.starts_with(kLayers)) return -std::stoll(name.substr(kLayers.size()));
  if (role == ParameterRole::kHead) return kEnd;
  return role == ParameterRole::kEmbedding ? kEnd - 1 : -kEnd;
}

std::size_t BucketSizes::add(std::int64_t piece) {
  if (pieces.empty() || (pieces.back() + piece) * bytes_per_piece_element > bucket_bytes) pieces.push_back(0);
  pieces.back() += piece;
  return pieces.size() - 1;
}

GradientExchange::GradientExchange(Communicator& communicator, const std::vector<at::Tensor>& leaves, const ReductionOptions& options)
    : communicator_(communicator), in_bf16_(options.in_bf16) {
  if (leaves.empty()) return;
  BucketSizes sizes{options.bucket_bytes, static_cast<std::int64_t>(leaves.front().element_size()) * communicator.ranks(), {}};
  for (const at::Tensor& leaf : leaves) add(leaf, sizes);
  // The linear layers add to the gradient themselves and hand an undefined one to the leaf's accumulator, whose hooks run all the same.
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    leaves_[i].accumulator = torch::autograd::impl::grad_accumulator(leaves_[i].tensor);
    leaves_[i].hook = leaves_[i].accumulator->add_post_hook(std::make_unique<Hook>([this, i] { on_gradient(i); }));
  }
}

GradientExchange::~GradientExchange() {
  for (const Leaf& leaf : leaves_) leaf.accumulator->del_post_hook(leaf.hook);
}

void GradientExchange::add(const at::Tensor& leaf, BucketSizes& sizes) {
  const std::int64_t piece = rows_per_rank(leaf.size(0), communicator_.ranks()) * (leaf.numel() / leaf.size(0));
  const std::size_t index = sizes.add(piece);
  buckets_.resize(index + 1);
  Bucket& bucket = buckets_.back();
  bucket.leaves.push_back(leaves_.size());
  leaves_.push_back({leaf, index, piece, std::exchange(bucket.piece, bucket.piece + piece), 0, nullptr});
}

void GradientExchange::begin() {
  armed_ = true;
  started_ = completed_ = 0;
  for (Bucket& bucket : buckets_) bucket.missing = bucket.leaves.size();
}

void GradientExchange::on_gradient(std::size_t leaf) {
  if (!armed_) return;
  --buckets_[leaves_[leaf].bucket].missing;
  while (started_ < buckets_.size() && buckets_[started_].missing == 0) start_next();
}

void GradientExchange::start_next() {
  RECORD_USER_SCOPE("gradient_exchange");
  const at::NoGradGuard no_grad;
  if (started_ - completed_ == kMostInFlight) complete_oldest();
  Bucket& bucket = buckets_[started_++];
  const at::TensorOptions options = leaves_[bucket.leaves.front()].tensor.options();
  bucket.to = at::empty({communicator_.ranks() - 1, bucket.piece}, in_bf16_ ? options.dtype(at::kBFloat16) : options);
  bucket.from = at::empty_like(bucket.to);
  for (const std::size_t index : bucket.leaves) {
    const Leaf& leaf = leaves_[index];
    for (int other = 0; other + 1 < communicator_.ranks(); ++other) {
      const at::Tensor values = rows_of(leaf, other < communicator_.rank() ? other : other + 1);
      const at::Tensor piece = bucket.to[other].narrow(0, leaf.offset, leaf.piece);
      piece.narrow(0, 0, values.numel()).copy_(values);
      piece.narrow(0, values.numel(), leaf.piece - values.numel()).zero_();
      values.zero_();  // here, where it is still in the cache
    }
  }
  bucket.transfer = communicator_.start_all_to_all(bucket.to, bucket.from);
}

void GradientExchange::complete_oldest() {
  RECORD_USER_SCOPE("gradient_sum");
  Bucket& bucket = buckets_[completed_++];
  bucket.transfer->wait();
  bucket.transfer.reset();
  for (const std::size_t index : bucket.leaves) add_others(bucket, leaves_[index]);
  bucket.to = bucket.from = at::Tensor();
}

// Adds in the order of the ranks.
void GradientExchange::add_others(const Bucket& bucket, const Leaf& leaf) {
  const at::Tensor sum = rows_of(leaf, communicator_.rank());
  const auto received = [&](std::int64_t other) { return bucket.from[other].narrow(0, leaf.offset, sum.numel()); };
  const std::int64_t own = communicator_.rank();
  if (own > 0) {
    const at::Tensor before = received(0).to(sum.scalar_type());
    for (std::int64_t other = 1; other < own; ++other) before.add_(received(other));
    sum.add_(before);
  }
  for (std::int64_t other = own; other + 1 < communicator_.ranks(); ++other) sum.add_(received(other));
}

at::Tensor GradientExchange::rows_of(const Leaf& leaf, int rank) const {
  const at::Tensor& gradient = leaf.tensor.grad();
  const RowRange rows = rows_of_rank(gradient.size(0), rank, communicator_.ranks());
  return gradient.narrow(0, rows.first, rows.count).view({-1});
}

void GradientExchange::finish() {
  const at::NoGradGuard no_grad;
  armed_ = false;
  while (started_ < buckets_.size()) start_next();
  while (completed_ < buckets_.size()) complete_oldest();
}

}  // namespace stableqat
