#include "train/gradient_exchange.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <functional>
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

GradientExchange::GradientExchange(Communicator& communicator, const std::vector<at::Tensor>& leaves, const ReductionOptions& options)
    : communicator_(communicator), in_bf16_(options.in_bf16) {
  for (const at::Tensor& leaf : leaves) add(leaf, options);
  // The linear layers add to the gradient themselves and hand an undefined one to the leaf's accumulator, whose hooks run all the same.
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    leaves_[i].accumulator = torch::autograd::impl::grad_accumulator(leaves_[i].tensor);
    leaves_[i].hook = leaves_[i].accumulator->add_post_hook(std::make_unique<Hook>([this, i] { on_gradient(i); }));
  }
}

GradientExchange::~GradientExchange() {
  for (const Leaf& leaf : leaves_) leaf.accumulator->del_post_hook(leaf.hook);
}

void GradientExchange::add(const at::Tensor& leaf, const ReductionOptions& options) {
  const std::int64_t ranks = communicator_.ranks();
  const std::int64_t piece = rows_per_rank(leaf.size(0), ranks) * (leaf.numel() / leaf.size(0));
  const auto bytes = static_cast<std::int64_t>(leaf.element_size()) * ranks;
  if (buckets_.empty() || (buckets_.back().piece + piece) * bytes > options.bucket_bytes) buckets_.emplace_back();
  Bucket& bucket = buckets_.back();
  bucket.leaves.push_back(leaves_.size());
  leaves_.push_back({leaf, buckets_.size() - 1, piece, std::exchange(bucket.piece, bucket.piece + piece), 0, nullptr});
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
  bucket.pieces = at::empty({communicator_.ranks(), bucket.piece}, in_bf16_ ? options.dtype(at::kBFloat16) : options);
  bucket.sum = at::empty({bucket.piece}, options);
  for (const std::size_t index : bucket.leaves) {
    const Leaf& leaf = leaves_[index];
    const at::Tensor& gradient = leaf.tensor.grad();
    for (int rank = 0; rank < communicator_.ranks(); ++rank) {
      const RowRange rows = rows_of(gradient, rank);
      const at::Tensor values = gradient.narrow(0, rows.first, rows.count).view({-1});
      const at::Tensor piece = bucket.pieces[rank].narrow(0, leaf.offset, leaf.piece);
      piece.narrow(0, 0, values.numel()).copy_(values);
      piece.narrow(0, values.numel(), leaf.piece - values.numel()).zero_();
    }
  }
  bucket.transfer = communicator_.start_reduce_scatter(bucket.pieces, bucket.sum);
}

void GradientExchange::complete_oldest() {
  Bucket& bucket = buckets_[completed_++];
  bucket.transfer->wait();
  for (const std::size_t index : bucket.leaves) {
    const Leaf& leaf = leaves_[index];
    const at::Tensor& gradient = leaf.tensor.grad();
    const RowRange own = rows_of(gradient, communicator_.rank());
    const at::Tensor values = gradient.narrow(0, own.first, own.count).view({-1});
    gradient.narrow(0, 0, own.first).zero_();
    values.copy_(bucket.sum.narrow(0, leaf.offset, values.numel()));
    gradient.narrow(0, own.end(), gradient.size(0) - own.end()).zero_();
  }
  bucket.transfer.reset();
  bucket.pieces = bucket.sum = at::Tensor();
}

void GradientExchange::finish() {
  const at::NoGradGuard no_grad;
  armed_ = false;
  while (started_ < buckets_.size()) start_next();
  while (completed_ < buckets_.size()) complete_oldest();
}

}  // namespace stableqat
