#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "models/kernel_choice.h"
#include "stableqat/kernels/attention.h"
#include "stableqat/models/functional.h"
#include "stableqat/models/packed_batch.h"

namespace stableqat {

namespace {

using kernels::HeadStrides;
using kernels::HeadView;

// Rows of a packed tensor [1, N, heads, D].
template <class Float>
class PackedRows {
 public:
  PackedRows(Float* data, const at::Tensor& x) : data_(data), strides_{x.stride(0), x.stride(1), x.stride(2)} {}

  HeadView<Float> from(std::int64_t row) const { return {data_ + row * strides_.token, strides_}; }

 private:
  Float* data_;
  HeadStrides strides_;
};

struct PackedOperands {
  PackedRows<const float> q, k, v;
  PackedRows<float> out;
  std::int64_t heads, kv_heads, head_size;
  float scale;
};

// Memory that one thread needs for one segment after the other.
struct SegmentScratch {
  at::Tensor keys, values;  // prefix and own rows in one piece, [longest, K, D]
  at::Tensor lse;           // [H, most tokens]
  at::Tensor kernel;
};

bool is_in_one_piece(const PackedSegment& segment) {
  return segment.prefix_tokens == 0 || segment.prefix_first + segment.prefix_tokens == segment.first;
}

// Copies `count` rows of [heads, D] to dense rows.
void copy_rows(HeadView<const float> from, std::int64_t count, std::int64_t heads, std::int64_t head_size, float* to) {
  for (std::int64_t row = 0; row < count; ++row) {
    for (std::int64_t head = 0; head < heads; ++head, to += head_size) {
      std::copy_n(from.data + row * from.strides.token + head * from.strides.head, head_size, to);
    }
  }
}

// All keys (or values) that a segment sees, in one piece.
HeadView<const float> seen_rows(const PackedRows<const float>& rows, const PackedSegment& segment, const PackedOperands& x,
                                float* scratch) {
  if (is_in_one_piece(segment)) return rows.from(segment.first - segment.prefix_tokens);
  const std::int64_t width = x.kv_heads * x.head_size;
  copy_rows(rows.from(segment.prefix_first), segment.prefix_tokens, x.kv_heads, x.head_size, scratch);
  copy_rows(rows.from(segment.first), segment.tokens, x.kv_heads, x.head_size, scratch + segment.prefix_tokens * width);
  return {scratch, {0, width, x.head_size}};
}

kernels::AttentionShape shape_of(const PackedSegment& segment, const PackedOperands& x) {
  return {1, segment.tokens, segment.prefix_tokens + segment.tokens, x.heads, x.kv_heads, x.head_size};
}

void attend(const PackedSegment& segment, const PackedOperands& x, SegmentScratch& scratch, int threads) {
  const HeadView<const float> keys = seen_rows(x.k, segment, x, scratch.keys.data_ptr<float>());
  const HeadView<const float> values = seen_rows(x.v, segment, x, scratch.values.data_ptr<float>());
  kernels::attention_kernels().forward(shape_of(segment, x), x.scale, x.q.from(segment.first), keys, values, x.out.from(segment.first),
                                       scratch.lse.data_ptr<float>(), scratch.kernel.data_ptr<float>(), threads);
}

SegmentScratch make_scratch(const PackedBatch& batch, const PackedOperands& x, const at::TensorOptions& options, int threads) {
  std::int64_t most_tokens = 0;
  std::int64_t copied = 0;
  for (const PackedSegment& segment : batch.segments()) {
    most_tokens = std::max(most_tokens, segment.tokens);
    if (!is_in_one_piece(segment)) copied = std::max(copied, segment.prefix_tokens + segment.tokens);
  }
  const auto floats = [&options](std::int64_t count) { return at::empty({count}, options); };
  const std::int64_t for_kernel = kernels::attention_kernels().forward_scratch(shape_of({0, 1, 0, 0}, x), threads);
  const std::int64_t for_rows = copied * x.kv_heads * x.head_size;
  return {floats(for_rows), floats(for_rows), floats(x.heads * most_tokens), floats(for_kernel)};
}

}  // namespace

std::int64_t PackedBatch::add(std::span<const std::int32_t> ids) { return add_branch(rows(), 0, ids); }

std::int64_t PackedBatch::add_branch(std::int64_t trunk, std::int64_t shared, std::span<const std::int32_t> ids) {
  const std::int64_t first = rows();
  if (ids.empty()) return first;
  segments_.push_back({first, static_cast<std::int64_t>(ids.size()), trunk, shared});
  for (const std::int32_t id : ids) {
    positions_.push_back(shared + rows() - first);
    ids_.push_back(id);
  }
  return first;
}

at::Tensor packed_attention_ref(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const PackedBatch& batch) {
  at::Tensor out = at::empty_like(q);
  for (const PackedSegment& segment : batch.segments()) {
    const auto seen = [&segment](const at::Tensor& x) {
      const at::Tensor own = x.narrow(1, segment.first, segment.tokens);
      return segment.prefix_tokens == 0 ? own : at::cat({x.narrow(1, segment.prefix_first, segment.prefix_tokens), own}, 1);
    };
    const at::Tensor own_q = q.narrow(1, segment.first, segment.tokens);
    out.narrow(1, segment.first, segment.tokens).copy_(causal_attention_ref(own_q, seen(k), seen(v)));
  }
  return out;
}

at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const PackedBatch& batch) {
  if (!has_cpu_kernels(q) || q.stride(-1) != 1 || k.stride(-1) != 1 || v.stride(-1) != 1) return packed_attention_ref(q, k, v, batch);
  at::Tensor out = at::empty(q.sizes(), q.options());
  const auto rows = [](const at::Tensor& x) { return PackedRows<const float>(x.const_data_ptr<float>(), x); };
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(q.size(3))));
  const PackedOperands x{rows(q), rows(k), rows(v), PackedRows<float>(out.data_ptr<float>(), out), q.size(2), k.size(2), q.size(3), scale};
  const std::vector<PackedSegment>& segments = batch.segments();
  const int threads = at::get_num_threads();
  const auto count = static_cast<std::int64_t>(segments.size());
  if (count < 2 * threads) {  // too few to share: the threads share the work within each
    SegmentScratch scratch = make_scratch(batch, x, q.options(), threads);
    for (const PackedSegment& segment : segments) attend(segment, x, scratch, threads);
    return out;
  }
  std::atomic<std::int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) {
    SegmentScratch scratch = make_scratch(batch, x, q.options(), 1);
    for (std::int64_t i = next++; i < count; i = next++) attend(segments[static_cast<std::size_t>(i)], x, scratch, 1);
  });
  return out;
}

}  // namespace stableqat
