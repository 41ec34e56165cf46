#include "stableqat/bench/rates.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "bench/stopwatch.h"
#include "stableqat/models/head.h"
#include "stableqat/models/parameters.h"

namespace stableqat::bench {

namespace {

// A weight matrix [N, M] and how often a model has it.
struct Matrix {
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t count;
};

// The projections of all blocks by their shapes.
std::vector<Matrix> projections(const ModelConfig& config) {
  std::vector<Matrix> matrices;
  for (const ParameterShape& parameter : parameter_shapes(config)) {
    if (parameter.role != ParameterRole::kProjection) continue;
    const Matrix matrix{parameter.sizes[0], parameter.sizes[1], 1};
    const auto known = std::find_if(matrices.begin(), matrices.end(),
                                    [&](const Matrix& other) { return other.rows == matrix.rows && other.columns == matrix.columns; });
    if (known == matrices.end()) {
      matrices.push_back(matrix);
    } else {
      ++known->count;
    }
  }
  return matrices;
}

// y = x w^T, dx = dy w, dw = dy^T x.
double product_flops(double rows, double n, double m) { return 3 * 2 * rows * n * m; }

}  // namespace

TrainingFlops training_flops(const ModelConfig& config, std::int64_t batch, std::int64_t tokens) {
  TrainingFlops flops;
  const auto rows = static_cast<double>(batch * tokens);
  for (const Matrix& matrix : projections(config)) {
    flops.weights +=
        static_cast<double>(matrix.count) * product_flops(rows, static_cast<double>(matrix.rows), static_cast<double>(matrix.columns));
  }
  // The last token of a block predicts nothing.
  flops.weights += product_flops(static_cast<double>(batch * (tokens - 1)), static_cast<double>(config.vocab_size),
                                 static_cast<double>(config.hidden_size));
  const auto pairs = static_cast<double>(batch * tokens) * static_cast<double>(tokens + 1) / 2;
  const auto width = static_cast<double>(config.num_attention_heads * config.head_dim);
  flops.attention = static_cast<double>(config.num_hidden_layers) * 3 * 2 * 2 * pairs * width;
  return flops;
}

GemmReference::GemmReference(const ModelConfig& config, std::int64_t rows, const at::TensorOptions& options) {
  const at::NoGradGuard no_grad;
  const auto add = [this, &options](double count, std::int64_t r, std::int64_t n, std::int64_t m) {
    products_.push_back({count, at::rand({r, m}, options), at::rand({n, m}, options), at::empty({r, n}, options), at::rand({r, n}, options),
                         at::empty({r, m}, options), at::zeros({n, m}, options)});
  };
  for (const Matrix& matrix : projections(config)) add(static_cast<double>(matrix.count), rows, matrix.rows, matrix.columns);
  const std::int64_t head_rows = std::min(rows, options.device().is_cpu() ? kHeadChunkRows : kGpuHeadChunkRows);
  add(static_cast<double>(rows) / static_cast<double>(head_rows), head_rows, config.vocab_size, config.hidden_size);
}

double GemmReference::flops_per_second() {
  const at::NoGradGuard no_grad;
  double flops = 0.0;
  double seconds = 0.0;
  for (Product& p : products_) {
    const Stopwatch watch;
    at::mm_out(p.y, p.x, p.w.t());
    at::mm_out(p.dx, p.dy, p.w);
    p.dw.addmm_(p.dy.t(), p.x);
    p.dw[0][0].item();  // waits for a GPU
    seconds += p.count * watch.seconds();
    flops += p.count * product_flops(static_cast<double>(p.x.size(0)), static_cast<double>(p.w.size(0)), static_cast<double>(p.w.size(1)));
  }
  return flops / seconds;
}

CopyReference::CopyReference(std::int64_t bytes)
    : source_(at::ones({bytes / static_cast<std::int64_t>(sizeof(float))})), target_(at::empty_like(source_)) {
  target_.copy_(source_);
}

double CopyReference::bytes_per_second() {
  const Stopwatch watch;
  target_.copy_(source_);
  return 2.0 * static_cast<double>(source_.nbytes()) / watch.seconds();
}

}  // namespace stableqat::bench
