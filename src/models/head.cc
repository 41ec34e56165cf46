#include "stableqat/models/head.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "models/matmul.h"
#include "quant/gpu.h"
#include "stableqat/kernels/gemm.h"
#include "stableqat/models/logit_loss.h"
#include "stableqat/models/packed_matrix.h"

namespace stableqat {

namespace {

struct PredictedRows {
  at::Tensor hidden;   // [B*(T-1), C]
  at::Tensor targets;  // [B*(T-1)]

  std::int64_t count() const { return hidden.size(0); }
};

PredictedRows predicted_rows(const at::Tensor& hidden, const at::Tensor& ids) {
  const std::int64_t predicted = ids.size(1) - 1;
  return {hidden.narrow(1, 0, predicted).reshape({-1, hidden.size(2)}), ids.narrow(1, 1, predicted).reshape({-1}).to(hidden.device())};
}

at::Tensor in_float_at_least(const at::Tensor& logits) { return logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat); }

std::int64_t chunk_rows(const CausalLm& model) { return gpu::is_on(model.head_compute()) ? kGpuHeadChunkRows : kHeadChunkRows; }

// Makes the logits of chunk after chunk in one piece of memory.
class LogitChunks {
 public:
  LogitChunks(const CausalLm& model, std::int64_t rows)
      : head_(model.head_compute()),
        rounding_(model.head_input_rounding()),
        products_(at::empty({std::min(chunk_rows(model), rows), head_.size(0)}, head_.options())) {}

  // hidden [R, C], R at most chunk_rows() -> [R, V], of a type that logit_loss.h takes, valid until the next call.
  at::Tensor operator()(const at::Tensor& hidden) {
    at::Tensor values = products_.narrow(0, 0, hidden.size(0));
    matmul::forward(rounded_activations(hidden, rounding_), head_, values);
    return gpu::takes(values) ? values : in_float_at_least(values);
  }

 private:
  at::Tensor head_;
  ActivationRounding rounding_;
  at::Tensor products_;
};

// Calls f(first, count) for chunks of `rows` rows.
template <class F>
void for_each_chunk(const CausalLm& model, std::int64_t rows, F&& f) {
  const std::int64_t most = chunk_rows(model);
  for (std::int64_t first = 0; first < rows; first += most) f(first, std::min(most, rows - first));
}

// Queries in the order of their rows, each row once.
struct RowsAsked {
  explicit RowsAsked(std::span<const TokenQuery> queries) : order(queries.size()), queries_(queries) {
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return queries[a].row < queries[b].row; });
    std::vector<std::int64_t> unique;
    std::vector<std::int64_t> tokens;
    for (std::size_t i = 0; i < order.size(); ++i) {
      const TokenQuery& query = queries[order[i]];
      if (unique.empty() || unique.back() != query.row) {
        unique.push_back(query.row);
        tokens.push_back(query.token);
        begin.push_back(i);
      }
      row_of.push_back(unique.size() - 1);
    }
    begin.push_back(order.size());
    rows = at::empty({static_cast<std::int64_t>(unique.size())}, at::kLong);
    std::copy(unique.begin(), unique.end(), rows.data_ptr<std::int64_t>());
    first_tokens = at::empty_like(rows);
    std::copy(tokens.begin(), tokens.end(), first_tokens.data_ptr<std::int64_t>());
  }

  std::int64_t count() const { return rows.size(0); }

  // Positions of the queries' tokens (those from `first_query` to `end_query` in order) in a chunk of logits that begins with `first_row`.
  at::Tensor elements(std::size_t first_query, std::size_t end_query, std::int64_t first_row, std::int64_t columns) const {
    at::Tensor result = at::empty({static_cast<std::int64_t>(end_query - first_query)}, at::kLong);
    for (std::size_t i = first_query; i < end_query; ++i) {
      result.data_ptr<std::int64_t>()[i - first_query] =
          (static_cast<std::int64_t>(row_of[i]) - first_row) * columns + queries_[order[i]].token;
    }
    return result;
  }

  std::vector<std::size_t> order;   // of queries
  std::vector<std::size_t> row_of;  // position in `rows`, for each query in order
  std::vector<std::size_t> begin;   // of each row's queries in `order`, and the end
  at::Tensor rows;                  // [R] int64, ascending
  at::Tensor first_tokens;          // [R] int64, one token asked of each row

 private:
  std::span<const TokenQuery> queries_;
};

void add_head_gradient(const CausalLm& model, const at::Tensor& logit_gradient, const at::Tensor& rows) {
  const at::Tensor& head = model.head();
  if (!head.requires_grad()) return;
  matmul::add_weight_gradient(head.mutable_grad(), head.scalar_type(), logit_gradient, rows, model.rounded_head_gradients());
}

// [B*(T-1), C] -> [B, T, C]: the last token of a sequence predicts nothing.
at::Tensor with_last_tokens(const at::Tensor& row_gradient, const at::Tensor& hidden) {
  const std::int64_t predicted = hidden.size(1) - 1;
  at::Tensor gradient = at::empty_like(hidden);
  gradient.narrow(1, 0, predicted).copy_(row_gradient.view({hidden.size(0), predicted, hidden.size(2)}));
  gradient.select(1, predicted).zero_();
  return gradient;
}

}  // namespace

at::Tensor logits(const CausalLm& model, const at::Tensor& hidden) {
  const at::NoGradGuard no_grad;
  const ActivationRounding rounding = model.head_input_rounding();
  if (rounding == ActivationRounding::kNone && model.packed_head() && hidden.size(0) < kernels::kFewRows) {
    return model.packed_head()->product(DigitActivations(hidden.contiguous()));
  }
  return in_float_at_least(matmul::forward(rounded_activations(hidden, rounding), model.head_compute()));
}

at::Tensor token_log_probs(const CausalLm& model, const at::Tensor& hidden, const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  const PredictedRows rows = predicted_rows(hidden, ids);
  LogitChunks logit_chunks(model, rows.count());
  at::Tensor log_probs = at::empty({rows.count()}, rows.hidden.options().dtype(model.dtype()));
  for_each_chunk(model, rows.count(), [&](std::int64_t first, std::int64_t count) {
    const at::Tensor values = logit_chunks(rows.hidden.narrow(0, first, count));
    log_probs.narrow(0, first, count).copy_(target_log_probs(values, rows.targets.narrow(0, first, count)));
  });
  return log_probs.view({ids.size(0), ids.size(1) - 1});
}

std::vector<TokenAnswer> query_tokens(const CausalLm& model, const at::Tensor& hidden, std::span<const TokenQuery> queries) {
  const at::NoGradGuard no_grad;
  std::vector<TokenAnswer> answers(queries.size());
  const RowsAsked asked(queries);
  const at::Device device = hidden.device();
  LogitChunks logit_chunks(model, asked.count());
  for_each_chunk(model, asked.count(), [&](std::int64_t first, std::int64_t count) {
    const at::Tensor values = in_float_at_least(logit_chunks(hidden.index_select(0, asked.rows.narrow(0, first, count).to(device))));
    const at::Tensor firsts = asked.first_tokens.narrow(0, first, count).to(device);
    const at::Tensor log_sums = (values.gather(1, firsts.unsqueeze(1)).squeeze(1).to(at::kDouble) - target_log_probs(values, firsts)).cpu();
    const at::Tensor best = values.argmax(1).cpu();
    const auto begin = asked.begin[static_cast<std::size_t>(first)];
    const auto end = asked.begin[static_cast<std::size_t>(first + count)];
    const at::Tensor elements = asked.elements(begin, end, first, values.size(1)).to(device);
    const at::Tensor logits = values.reshape({-1}).index_select(0, elements).to(at::kDouble).cpu();
    for (std::size_t i = begin; i < end; ++i) {
      const auto row = static_cast<std::int64_t>(asked.row_of[i]) - first;
      const std::size_t query = asked.order[i];
      answers[query].log_prob = logits.data_ptr<double>()[i - begin] - log_sums.data_ptr<double>()[row];
      answers[query].is_greedy = best.data_ptr<std::int64_t>()[row] == queries[query].token;
    }
  });
  return answers;
}

HeadLoss head_forward_backward(const CausalLm& model, const at::Tensor& hidden, const at::Tensor& ids, double gradient_scale,
                               const Distillation* distillation) {
  const at::NoGradGuard no_grad;
  const PredictedRows rows = predicted_rows(hidden, ids);
  const double mean_scale = gradient_scale / static_cast<double>(rows.count());
  LogitChunks student(model, rows.count());
  std::optional<LogitChunks> teacher;
  at::Tensor teacher_rows;
  if (distillation != nullptr) {
    teacher.emplace(*distillation->teacher, rows.count());
    teacher_rows = predicted_rows(distillation->teacher_hidden, ids).hidden;
  }
  const at::Tensor row_gradient = at::zeros_like(rows.hidden);
  const at::Tensor cross_entropy = at::zeros({}, rows.hidden.options().dtype(at::kDouble));
  const at::Tensor divergence = at::zeros_like(cross_entropy);
  for_each_chunk(model, rows.count(), [&](std::int64_t first, std::int64_t count) {
    const at::Tensor chunk = rows.hidden.narrow(0, first, count);
    const at::Tensor targets = rows.targets.narrow(0, first, count);
    const at::Tensor values = student(chunk);
    if (teacher) {
      const DistilledLoss part = distilled_loss_in_place(values, targets, (*teacher)(teacher_rows.narrow(0, first, count)),
                                                         distillation->weight, distillation->temperature, mean_scale);
      cross_entropy.add_(part.cross_entropy);
      divergence.add_(part.divergence);
    } else {
      cross_entropy.add_(cross_entropy_in_place(values, targets, mean_scale));
    }
    const at::Tensor logit_gradient = values.to(chunk.scalar_type());
    at::Tensor chunk_gradient = row_gradient.narrow(0, first, count);
    matmul::add_input_gradient(chunk_gradient, logit_gradient, model.head_compute(), model.rounded_head_gradients());
    add_head_gradient(model, logit_gradient, chunk);
  });
  const auto total = static_cast<double>(rows.count());
  const double weight = distillation != nullptr ? distillation->weight : 0.0;
  const at::Tensor mean = cross_entropy / total;
  return {at::stack({mean * (1.0 - weight) + divergence * weight / total, mean}), with_last_tokens(row_gradient, hidden)};
}

}  // namespace stableqat
