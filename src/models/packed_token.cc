#include "models/packed_token.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "models/kernel_choice.h"
#include "stableqat/kernels/attention.h"
#include "stableqat/kernels/rms_norm.h"
#include "stableqat/kernels/rope.h"
#include "stableqat/kernels/swiglu.h"
#include "stableqat/models/packed_matrix.h"

namespace stableqat {

namespace {

struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  std::int64_t size() const { return end - begin; }
  // What of it lies in first .. first + count - 1, counted from there.
  Range within(std::int64_t first, std::int64_t count) const {
    const std::int64_t low = std::clamp<std::int64_t>(begin - first, 0, count);
    return {low, std::max(low, std::clamp<std::int64_t>(end - first, 0, count))};
  }
  Range times(std::int64_t factor) const { return {begin * factor, end * factor}; }
};

// The calling thread's part of `count` things, in multiples of `unit`.
Range own_part(std::int64_t count, std::int64_t unit = 1) {
  const std::int64_t units = (count + unit - 1) / unit;
  const std::int64_t thread = omp_get_thread_num();
  const std::int64_t threads = omp_get_num_threads();
  return {std::min(units * thread / threads * unit, count), std::min(units * (thread + 1) / threads * unit, count)};
}

// Hands out parts of one piece of memory, each aligned to 64 bytes; without memory it counts what is needed.
class Arena {
 public:
  explicit Arena(float* memory) : memory_(memory) {}
  float* floats(std::int64_t count) {
    const std::int64_t at = used_;
    used_ += (count + 15) / 16 * 16;
    return memory_ == nullptr ? nullptr : memory_ + at;
  }
  std::int8_t* bytes(std::int64_t count) { return reinterpret_cast<std::int8_t*>(floats((count + 3) / 4)); }
  std::int32_t* ints(std::int64_t count) { return reinterpret_cast<std::int32_t*>(floats(count)); }
  std::int64_t used() const { return used_; }

 private:
  float* memory_;
  std::int64_t used_ = 0;
};

// Sizes in elements.
struct Sizes {
  explicit Sizes(const ModelConfig& config)
      : hidden(config.hidden_size),
        feed_forward(config.intermediate_size),
        heads(config.num_attention_heads),
        kv_heads(config.num_key_value_heads),
        head(config.head_dim) {}

  std::int64_t widest_input() const { return std::max({hidden, feed_forward, heads * head}); }

  std::int64_t hidden, feed_forward, heads, kv_heads, head;
};

// What threads write parts of and, after a barrier, all read.
struct Shared {
  Shared(const Sizes& sizes, Arena& arena)
      : q(arena.floats(sizes.heads * sizes.head)),
        mixed(arena.floats(sizes.heads * sizes.head)),
        delta(arena.floats(sizes.hidden)),
        gate(arena.floats(sizes.feed_forward)),
        up(arena.floats(sizes.feed_forward)) {}

  float *q, *mixed, *delta, *gate, *up;
};

// What each thread has for itself. Norms and the rounding of inputs are done by all threads alike: that is less than another barrier.
struct Own {
  Own(const Sizes& sizes, std::int64_t keys, Arena& arena)
      : residual(arena.floats(sizes.hidden)),
        normed(arena.floats(sizes.hidden)),
        projected(arena.floats(std::max(sizes.heads, sizes.kv_heads) * sizes.head)),
        inverse_rms(arena.floats(std::max<std::int64_t>(sizes.heads, sizes.kv_heads))),
        scores(arena.floats(keys)),
        digits{arena.bytes(kernels::digit_stride(sizes.widest_input())), arena.bytes(kernels::digit_stride(sizes.widest_input())),
               arena.ints(kernels::partial_sum_stride(sizes.widest_input())), arena.floats(1)} {}

  float *residual, *normed, *projected, *inverse_rms, *scores;
  kernels::DigitRows digits;
};

class PackedToken {
 public:
  PackedToken(const ModelConfig& config, std::span<const DecoderLayer> layers, const RopeTable& rope, const CachedTokens& cache)
      : config_(config), sizes_(config), layers_(layers), rope_(rope), cache_(cache) {}

  at::Tensor run(const at::Tensor& x, const at::Tensor& norm) const {
    const int threads = at::get_num_threads();
    Arena counter(nullptr);
    lay_out(threads, counter);
    const at::Tensor memory = at::empty({counter.used()}, x.options());
    Arena arena(memory.data_ptr<float>());
    const auto [shared, own] = lay_out(threads, arena);
    at::Tensor result = at::empty({sizes_.hidden}, x.options());
#pragma omp parallel num_threads(threads)
    {
      const Own& mine = own[static_cast<std::size_t>(omp_get_thread_num())];
      std::copy_n(x.const_data_ptr<float>(), sizes_.hidden, mine.residual);
      for (std::size_t i = 0; i < layers_.size(); ++i) block(i, shared, mine);
      if (omp_get_thread_num() == 0) add_and_normalize(shared.delta, norm, mine, result.data_ptr<float>());
    }
    return result;
  }

 private:
  struct Layout {
    Shared shared;
    std::vector<Own> own;  // of each thread
  };
  Layout lay_out(int threads, Arena& arena) const {
    Layout layout{Shared(sizes_, arena), {}};
    for (int i = 0; i < threads; ++i) layout.own.emplace_back(sizes_, cache_.length + 1, arena);
    return layout;
  }

  void block(std::size_t index, const Shared& shared, const Own& own) const {
    const DecoderLayer& layer = layers_[index];
    add_and_normalize(index == 0 ? nullptr : shared.delta, layer.input_norm, own, own.normed);
    project_heads(index, shared, own);
#pragma omp barrier
    attend(index, shared, own);
#pragma omp barrier
    round(sizes_.heads * sizes_.head, shared.mixed, own);
    multiply(layer.o, own_part(sizes_.hidden, kernels::kPackedRows), own, shared.delta);
#pragma omp barrier
    add_and_normalize(shared.delta, layer.post_attention_norm, own, own.normed);
    round(sizes_.hidden, own.normed, own);
    const Range features = own_part(sizes_.feed_forward, kernels::kPackedRows);
    multiply(layer.gate, features, own, shared.gate);
    multiply(layer.up, features, own, shared.up);
    float* gate = shared.gate + features.begin;
    kernels::swiglu_kernels().forward(features.size(), gate, shared.up + features.begin, gate);
#pragma omp barrier
    round(sizes_.feed_forward, shared.gate, own);
    multiply(layer.down, own_part(sizes_.hidden, kernels::kPackedRows), own, shared.delta);
#pragma omp barrier
  }

  // residual += delta; to = its norm.
  void add_and_normalize(const float* delta, const at::Tensor& weight, const Own& own, float* to) const {
    kernels::rms_norm_kernels().forward(1, sizes_.hidden, own.residual, delta, weight.const_data_ptr<float>(),
                                        static_cast<float>(config_.rms_norm_eps), own.residual, to, own.inverse_rms);
  }

  static void round(std::int64_t columns, const float* x, const Own& own) {
    kernels::packed_kernels().round_to_digits(1, columns, x, own.digits);
  }

  // y[rows] = those rows of the layer's product with what was rounded last.
  static void multiply(const Linear& layer, Range rows, const Own& own, float* y) {
    if (rows.size() == 0) return;
    kernels::packed_kernels().forward(1, own.digits, kernels::packed_rows(layer.packed->view(), rows.begin, rows.size()), y + rows.begin);
    if (!layer.bias.defined()) return;
    const float* bias = layer.bias.const_data_ptr<float>();
    for (std::int64_t i = rows.begin; i < rows.end; ++i) y[i] += bias[i];
  }

  float* cached_row(const at::Tensor& stored, std::int64_t token) const {
    return stored.data_ptr<float>() + token * sizes_.kv_heads * sizes_.head;
  }

  // Queries, keys and values: each thread has some of all heads. Keys and values go to their place in the cache.
  void project_heads(std::size_t index, const Shared& shared, const Own& own) const {
    const DecoderLayer& layer = layers_[index];
    round(sizes_.hidden, own.normed, own);
    const Range heads = own_part(sizes_.heads + 2 * sizes_.kv_heads);
    project_and_rotate(index, layer.q, layer.q_norm, heads.within(0, sizes_.heads), own, shared.q);
    project_and_rotate(index, layer.k, layer.k_norm, heads.within(sizes_.heads, sizes_.kv_heads), own,
                       cached_row(cache_.keys[index], cache_.length));
    multiply(layer.v, heads.within(sizes_.heads + sizes_.kv_heads, sizes_.kv_heads).times(sizes_.head), own,
             cached_row(cache_.values[index], cache_.length));
  }

  void project_and_rotate(std::size_t index, const Linear& layer, const at::Tensor& norm, Range heads, const Own& own, float* to) const {
    if (heads.size() == 0) return;
    const Range rows = heads.times(sizes_.head);
    multiply(layer, rows, own, norm.defined() ? own.projected : to);
    if (norm.defined()) {
      kernels::rms_norm_kernels().forward(heads.size(), sizes_.head, own.projected + rows.begin, nullptr, norm.const_data_ptr<float>(),
                                          static_cast<float>(config_.rms_norm_eps), nullptr, to + rows.begin, own.inverse_rms);
    }
    if (!config_.has_rope(static_cast<std::int64_t>(index))) return;
    float* first = to + rows.begin;
    const kernels::HeadStrides strides{0, 0, sizes_.head};
    kernels::rope_kernels().forward({1, 1, heads.size(), sizes_.head}, rope_.cos.const_data_ptr<float>(), rope_.sin.const_data_ptr<float>(),
                                    {first, strides}, {first, strides});
  }

  void attend(std::size_t index, const Shared& shared, const Own& own) const {
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(sizes_.head)));
    const std::int64_t token = sizes_.kv_heads * sizes_.head;
    const Range heads = own_part(sizes_.heads);
    for (std::int64_t head = heads.begin; head < heads.end; ++head) {
      const std::int64_t stored = head / (sizes_.heads / sizes_.kv_heads) * sizes_.head;
      kernels::attention_kernels().one_query(
          cache_.length + 1, sizes_.head, scale, shared.q + head * sizes_.head, cached_row(cache_.keys[index], 0) + stored, token,
          cached_row(cache_.values[index], 0) + stored, token, shared.mixed + head * sizes_.head, own.scores);
    }
  }

  const ModelConfig& config_;
  Sizes sizes_;
  std::span<const DecoderLayer> layers_;
  const RopeTable& rope_;
  const CachedTokens& cache_;
};

}  // namespace

bool can_decode_packed(const ModelConfig& config, std::span<const DecoderLayer> layers) {
  if (config.head_dim % kernels::kPackedRows != 0) return false;
  return std::ranges::all_of(layers, [](const DecoderLayer& layer) {
    const auto is_packed = [](const Linear* linear) {
      return linear->packed != nullptr && linear->input_rounding == ActivationRounding::kNone;
    };
    return has_kernels(layer.input_norm) && std::ranges::all_of(std::initializer_list<const Linear*>{&layer.q, &layer.k, &layer.v, &layer.o,
                                                                                                     &layer.gate, &layer.up, &layer.down},
                                                                is_packed);
  });
}

at::Tensor decode_packed_token(const ModelConfig& config, std::span<const DecoderLayer> layers, const at::Tensor& norm, const at::Tensor& x,
                               const RopeTable& rope, const CachedTokens& cache) {
  return PackedToken(config, layers, rope, cache).run(x, norm);
}

}  // namespace stableqat
