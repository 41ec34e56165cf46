#include "stableqat/kernels/attention.h"

#include <omp.h>

#include <cmath>
#include <limits>

#include "kernels/cpu/attention_query.h"
#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/parallel.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {
namespace {

// ---- Forward: one task per tile of rows, which goes through the keys with a running maximum and sum.

struct ForwardScratch {
  ForwardScratch(std::int64_t head_size, float* memory) {
    const std::int64_t stride = tile_stride(head_size);
    rows = memory;
    mixed = rows + kRowTile * stride;
    keys = mixed + kRowTile * stride;
    values = keys + kKeyTile * stride;
    queries = values + kKeyTile * stride;
    scores = queries + stride * kScoreStride;
  }
  static std::int64_t size(std::int64_t head_size) {
    return (2 * kRowTile + 2 * kKeyTile + kScoreStride) * tile_stride(head_size) + kKeyTile * kScoreStride;
  }

  float* rows;     // [row][D], queries before transposition
  float* keys;     // [key][D]
  float* values;   // [key][D]
  float* mixed;    // [row][D], sum of probability times value so far
  float* queries;  // [D][row]
  float* scores;   // [key][row]
};

struct alignas(64) SoftmaxState {
  float largest[kRowTile];  // of the scores so far
  float sum[kRowTile];      // of exp(scale (score - largest))
  float decay[kRowTile];    // what the last update made of earlier terms
};

template <bool kMasked>
void update_softmax_lanes(float* scores, int keys, Ints seen, float log2_scale, float* largest, float* sum, float* decay) {
  const auto score = [&](int key) {
    const Floats value = load<Floats>(scores + key * kScoreStride);
    if constexpr (kMasked) return key < seen ? value : Floats{} - std::numeric_limits<float>::infinity();
    return value;
  };
  static_assert(kBlockRows % 4 == 0);
  const Floats before = load<Floats>(largest);
  Floats maxima[4] = {before, before, before, before};
  for (int key = 0; key < keys; key += 4) {
    for (int i = 0; i < 4; ++i) maxima[i] = max(maxima[i], score(key + i));
  }
  const Floats now = max(max(maxima[0], maxima[1]), max(maxima[2], maxima[3]));
  const Floats shift = now * log2_scale;
  Floats total{};
  for (int key = 0; key < keys; ++key) {
    const Floats p = exp2_nonpositive(score(key) * log2_scale - shift);
    store(scores + key * kScoreStride, p);
    total += p;
  }
  const Floats factor = exp2_nonpositive((before - now) * log2_scale);
  store(largest, now);
  store(sum, load<Floats>(sum) * factor + total);
  store(decay, factor);
}

// Turns the scores of a tile into probabilities times exp(scale (largest - log-sum-exp)).
void update_softmax(const ScoreTile& tile, float log2_scale, float* scores, SoftmaxState& state) {
  for (int row = 0; row < tile.rows; row += kWidth) {
    const int keys = static_cast<int>(round_up(tile.keys_seen(row + kWidth), kBlockRows));
    const auto update = [&]<bool kMasked>() {
      update_softmax_lanes<kMasked>(scores + row, keys, tile.keys_seen_by_lanes(row), log2_scale, state.largest + row, state.sum + row,
                                    state.decay + row);
    };
    if (tile.masked(row)) {
      update.template operator()<true>();
    } else {
      update.template operator()<false>();
    }
  }
}

void mix_values(const ScoreTile& tile, Matrix<const float> values, std::int64_t head_size, const ForwardScratch& scratch,
                const SoftmaxState& state) {
  const auto depth = [&](int row, int) { return Depth{0, tile.keys_seen(row + kBlockRows)}; };
  const auto decayed = [&](int row, const float* mixed) { return load<Floats>(mixed) * state.decay[row]; };
  multiply<Layout::kColumns>(static_cast<int>(round_up(tile.rows, kBlockRows)), static_cast<int>(round_up(head_size, kWidth)),
                             {scratch.scores, kScoreStride}, values, {scratch.mixed, tile_stride(head_size)}, depth, decayed);
}

struct ForwardTask {
  const Causality* causality;
  std::int64_t head_size;
  float scale;
  Rows<const float> q, k, v;
  Rows<float> out;
  Rows<float> lse;  // rows of one element
};

// The keys or values of a tile: where they are if products can read them there, else padded with zeros in scratch.
Matrix<const float> in_place_or_copied(const Rows<const float>& rows, std::int64_t first, int count, std::int64_t head_size, bool in_place,
                                       float* scratch) {
  if (in_place) return Matrix<const float>{rows.data, rows.token_stride}.from_row(first);
  load_rows(rows, first, count, static_cast<int>(round_up(count, kBlockRows)), head_size, scratch);
  return {scratch, tile_stride(head_size)};
}

void forward_rows(const ForwardTask& task, std::int64_t first_row, const ForwardScratch& scratch) {
  const Causality& causality = *task.causality;
  const std::int64_t d = task.head_size;
  const int rows = static_cast<int>(std::min<std::int64_t>(kRowTile, causality.rows - first_row));
  load_rows(task.q, first_row, rows, kRowTile, d, scratch.rows);
  transpose_tile(scratch.rows, d, scratch.queries);
  SoftmaxState state;
  std::fill(state.largest, state.largest + kRowTile, -std::numeric_limits<float>::infinity());
  std::fill(state.sum, state.sum + kRowTile, 0.0F);
  std::fill(scratch.mixed, scratch.mixed + kRowTile * tile_stride(d), 0.0F);
  const std::int64_t end = causality.visible(first_row + rows - 1);
  for (std::int64_t first_key = 0; first_key < end; first_key += kKeyTile) {
    const int keys = static_cast<int>(std::min<std::int64_t>(kKeyTile, end - first_key));
    const ScoreTile tile{&causality, first_row, first_key, rows, keys};
    const Matrix<const float> k = in_place_or_copied(task.k, first_key, keys, d, keys % kBlockRows == 0, scratch.keys);
    const Matrix<const float> v = in_place_or_copied(task.v, first_key, keys, d, d % kWidth == 0, scratch.values);
    score_products(tile, k, scratch.queries, d, scratch.scores);
    update_softmax(tile, task.scale * kLog2E, scratch.scores, state);
    mix_values(tile, v, d, scratch, state);
  }
  task.out.for_each(first_row, rows, [&](int i, float* to) {
    const float* mixed = scratch.mixed + i * tile_stride(d);
    const float inverse = 1.0F / state.sum[i];
    for (std::int64_t j = 0; j < d; ++j) to[j] = mixed[j] * inverse;
  });
  task.lse.for_each(first_row, rows, [&](int i, float* to) { *to = task.scale * state.largest[i] + std::log(state.sum[i]); });
}

// A score costs about as much as eight elements of an array.
bool worth_threads(const AttentionShape& shape) { return worth_sharing(shape.batch * shape.heads * shape.tokens * shape.keys, 8); }

HeadStrides lse_strides(const AttentionShape& shape) { return {shape.heads * shape.tokens, 1, shape.tokens}; }

void forward(const AttentionShape& shape, float scale, HeadView<const float> q, HeadView<const float> k, HeadView<const float> v,
             HeadView<float> out, float* lse, float* scratch, int threads) {
  const Causality causality(shape);
  const std::int64_t d = shape.head_size;
  const std::int64_t pairs = shape.batch * shape.kv_heads;
  const std::int64_t tiles = (causality.rows + kRowTile - 1) / kRowTile;
#pragma omp parallel num_threads(threads) if (worth_threads(shape))
  {
    const ForwardScratch own(d, scratch + omp_get_thread_num() * ForwardScratch::size(d));
    // The last rows see the most keys: they go first, so that threads end together.
#pragma omp for schedule(dynamic)
    for (std::int64_t i = 0; i < pairs * tiles; ++i) {
      const std::int64_t batch = i % pairs / shape.kv_heads;
      const std::int64_t kv_head = i % pairs % shape.kv_heads;
      const std::int64_t head = kv_head * causality.group;
      const ForwardTask task{&causality,
                             d,
                             scale,
                             {q, batch, head, causality.group},
                             {k, batch, kv_head, 1},
                             {v, batch, kv_head, 1},
                             {out, batch, head, causality.group},
                             {HeadView<float>{lse, lse_strides(shape)}, batch, head, causality.group}};
      forward_rows(task, (tiles - 1 - i / pairs) * kRowTile, own);
    }
  }
}

std::int64_t forward_scratch(const AttentionShape& shape, int threads) { return threads * ForwardScratch::size(shape.head_size); }

// ---- Backward. With P the probabilities, dP = dO V^T and delta = dO . O per row: dS = P (dP - delta), dV = P^T dO, dK = scale dS^T Q,
// dQ = scale dS K.
//
// One task per span of keys of a head, which no other task touches, goes through all rows that see the span, in blocks of keys that stay in
// the second-level cache. Rows are seen by several spans: the first span writes their dQ, the others write partial sums of their own, added
// in a fixed order at the end.

constexpr std::int64_t kBlockKeys = 4 * kKeyTile;

// How the keys are split: more tasks for the threads against more partial sums. Depends on the shape alone, as the order of additions does.
struct Spans {
  explicit Spans(const AttentionShape& shape) {
    constexpr std::int64_t kTasksWanted = 64;
    constexpr std::int64_t kMostSpans = 4;
    const std::int64_t pairs = shape.batch * shape.kv_heads;
    const std::int64_t wanted = std::clamp<std::int64_t>((kTasksWanted + pairs - 1) / pairs, 1, kMostSpans);
    keys = round_up((shape.keys + wanted - 1) / wanted, kKeyTile);
    count = (shape.keys + keys - 1) / keys;
  }
  std::int64_t keys;  // of each span but the last
  std::int64_t count;
};

struct BackwardScratch {
  BackwardScratch(std::int64_t head_size, float* memory) {
    const std::int64_t stride = tile_stride(head_size);
    const auto take = [&memory](std::int64_t size) {
      float* taken = memory;
      memory += size;
      return taken;
    };
    for (float** block : {&keys, &values, &dk, &dv}) *block = take(kBlockKeys * stride);
    for (float** tile : {&rows, &d_out, &dq}) *tile = take(kRowTile * stride);
    for (float** tile : {&rows_transposed, &d_out_transposed}) *tile = take(stride * kScoreStride);
    for (float** tile : {&p, &ds}) *tile = take(kKeyTile * kScoreStride);
  }
  static std::int64_t size(std::int64_t head_size) {
    return (4 * kBlockKeys + 3 * kRowTile + 2 * kScoreStride) * tile_stride(head_size) + 2 * kKeyTile * kScoreStride;
  }

  float *keys, *values, *dk, *dv;             // [key][D] of a block
  float *rows, *d_out, *dq;                   // [row][D]; rows: the queries
  float *rows_transposed, *d_out_transposed;  // [D][row]
  float *p, *ds;                              // [key][row]
};

struct BackwardTask {
  const Causality* causality;
  std::int64_t head_size;
  float scale;
  Rows<const float> q, k, v, out, d_out;
  Rows<const float> lse;  // rows of one element
  Rows<float> dq, dk, dv;
};

struct alignas(64) RowState {
  float log2_sum[kRowTile];  // log-sum-exp of the scaled scores, to base 2
  float delta[kRowTile];
};

void load_queries(const BackwardTask& task, std::int64_t first_row, int rows, const BackwardScratch& scratch, RowState& state) {
  const std::int64_t d = task.head_size;
  load_rows(task.q, first_row, rows, kRowTile, d, scratch.rows);
  load_rows(task.d_out, first_row, rows, kRowTile, d, scratch.d_out);
  transpose_tile(scratch.rows, d, scratch.rows_transposed);
  transpose_tile(scratch.d_out, d, scratch.d_out_transposed);
  state = {};
  task.lse.for_each(first_row, rows, [&](int i, const float* lse) { state.log2_sum[i] = *lse * kLog2E; });
  task.out.for_each(first_row, rows, [&](int i, const float* out) {
    const float* d_out = scratch.d_out + i * tile_stride(d);
    float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < d; ++j) sum += out[j] * d_out[j];
    state.delta[i] = sum;
  });
}

// From scores and dP to P and dS, both in place.
void probabilities(const ScoreTile& tile, float log2_scale, const RowState& state, float* scores, float* dp) {
  for (int row = 0; row < tile.rows; row += kWidth) {
    const int keys = static_cast<int>(round_up(tile.keys_seen(row + kWidth), kBlockRows));
    const Ints seen = tile.keys_seen_by_lanes(row);
    const Floats log2_sum = load<Floats>(state.log2_sum + row);
    const Floats delta = load<Floats>(state.delta + row);
    for (int key = 0; key < keys; ++key) {
      float* p_at = scores + key * kScoreStride + row;
      float* ds_at = dp + key * kScoreStride + row;
      const Floats p = key < seen ? exp2_nonpositive(load<Floats>(p_at) * log2_scale - log2_sum) : Floats{};
      store(p_at, p);
      store(ds_at, p * (load<Floats>(ds_at) - delta));
    }
  }
}

// One tile of scores: adds to dK and dV of its keys and to dQ of its rows. `key` counts from the block's first.
void backward_tile(const ScoreTile& tile, std::int64_t key, std::int64_t d, float log2_scale, const RowState& state,
                   const BackwardScratch& scratch) {
  const std::int64_t stride = tile_stride(d);
  const int columns = static_cast<int>(round_up(d, kWidth));
  const int keys = static_cast<int>(round_up(tile.keys, kBlockRows));
  const auto of_tile = [&](float* block) { return Matrix<float>{block, stride}.from_row(key); };
  const auto read_only = [](Matrix<float> matrix) { return Matrix<const float>{matrix.data, matrix.stride}; };
  const Matrix<const float> k = read_only(of_tile(scratch.keys));
  const Matrix<const float> v = read_only(of_tile(scratch.values));
  score_products(tile, k, scratch.rows_transposed, d, scratch.p);
  score_products(tile, v, scratch.d_out_transposed, d, scratch.ds);
  probabilities(tile, log2_scale, state, scratch.p, scratch.ds);
  const Matrix<const float> p{scratch.p, kScoreStride};
  const Matrix<const float> ds{scratch.ds, kScoreStride};
  const auto rows_seeing = [&](int i, int) { return Depth{tile.first_row_that_sees(i), tile.rows}; };
  multiply<Layout::kRows>(keys, columns, p, {scratch.d_out, stride}, of_tile(scratch.dv), rows_seeing, kFromThere);
  multiply<Layout::kRows>(keys, columns, ds, {scratch.rows, stride}, of_tile(scratch.dk), rows_seeing, kFromThere);
  const auto keys_seen = [&](int row, int) { return Depth{0, tile.keys_seen(row + kBlockRows)}; };
  multiply<Layout::kColumns>(static_cast<int>(round_up(tile.rows, kBlockRows)), columns, ds, k, {scratch.dq, stride}, keys_seen,
                             kFromThere);
}

// The gradients that the keys of one block receive, and what they give to the rows that see them.
void backward_block(const BackwardTask& task, std::int64_t first_key, int block_keys, bool first_of_span, const BackwardScratch& scratch) {
  const Causality& causality = *task.causality;
  const std::int64_t d = task.head_size;
  const std::int64_t stride = tile_stride(d);
  const int padded = static_cast<int>(round_up(block_keys, kBlockRows));
  load_rows(task.k, first_key, block_keys, padded, d, scratch.keys);
  load_rows(task.v, first_key, block_keys, padded, d, scratch.values);
  for (float* sums : {scratch.dk, scratch.dv}) std::fill(sums, sums + padded * stride, 0.0F);
  const std::int64_t begin = causality.first_row_that_sees(first_key) / kRowTile * kRowTile;
  for (std::int64_t first_row = begin; first_row < causality.rows; first_row += kRowTile) {
    const int rows = static_cast<int>(std::min<std::int64_t>(kRowTile, causality.rows - first_row));
    RowState state;
    load_queries(task, first_row, rows, scratch, state);
    std::fill(scratch.dq, scratch.dq + kRowTile * stride, 0.0F);
    const std::int64_t seen = std::min<std::int64_t>(causality.visible(first_row + rows - 1) - first_key, block_keys);
    for (std::int64_t key = 0; key < seen; key += kKeyTile) {
      const ScoreTile tile{&causality, first_row, first_key + key, rows, static_cast<int>(std::min<std::int64_t>(kKeyTile, seen - key))};
      backward_tile(tile, key, d, task.scale * kLog2E, state, scratch);
    }
    task.dq.for_each(first_row, rows, [&](int i, float* to) {
      const float* dq = scratch.dq + i * stride;
      for (std::int64_t j = 0; j < d; ++j) to[j] = (first_of_span ? 0.0F : to[j]) + task.scale * dq[j];
    });
  }
  const auto store_sums = [&](const Rows<float>& to, const float* sums, float factor) {
    to.for_each(first_key, block_keys, [&](int i, float* row) {
      for (std::int64_t j = 0; j < d; ++j) row[j] = factor * sums[i * stride + j];
    });
  };
  store_sums(task.dk, scratch.dk, task.scale);
  store_sums(task.dv, scratch.dv, 1.0F);
}

// dq += the partial sums of the spans after the first, [span - 1][B][T][H][D].
void add_partial_sums(const AttentionShape& shape, const Spans& spans, const float* partial, HeadView<float> dq, int threads) {
  const std::int64_t row_size = shape.heads * shape.head_size;
  const std::int64_t past = shape.keys - shape.tokens;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t i = 0; i < shape.batch * shape.tokens; ++i) {
    float* token = dq.data + i / shape.tokens * dq.strides.batch + i % shape.tokens * dq.strides.token;
    for (std::int64_t span = 1; span < spans.count && span * spans.keys <= i % shape.tokens + past; ++span) {
      const float* from = partial + ((span - 1) * shape.batch * shape.tokens + i) * row_size;
      for (std::int64_t head = 0; head < shape.heads; ++head) {
        float* to = token + head * dq.strides.head;
        for (std::int64_t j = 0; j < shape.head_size; ++j) to[j] += from[head * shape.head_size + j];
      }
    }
  }
}

std::int64_t dq_size(const AttentionShape& shape) { return shape.batch * shape.tokens * shape.heads * shape.head_size; }

void backward(const AttentionShape& shape, float scale, HeadView<const float> q, HeadView<const float> k, HeadView<const float> v,
              HeadView<const float> out, const float* lse, HeadView<const float> d_out, HeadView<float> dq, HeadView<float> dk,
              HeadView<float> dv, float* scratch, int threads) {
  const Causality causality(shape);
  const Spans spans(shape);
  const std::int64_t d = shape.head_size;
  const std::int64_t pairs = shape.batch * shape.kv_heads;
  const HeadStrides dense{shape.tokens * shape.heads * d, shape.heads * d, d};
  float* partial = scratch + threads * BackwardScratch::size(d);
#pragma omp parallel num_threads(threads) if (worth_threads(shape))
  {
    const BackwardScratch own(d, scratch + omp_get_thread_num() * BackwardScratch::size(d));
    // The first keys are seen by the most rows.
#pragma omp for schedule(dynamic)
    for (std::int64_t i = 0; i < pairs * spans.count; ++i) {
      const std::int64_t span = i / pairs;
      const std::int64_t batch = i % pairs / shape.kv_heads;
      const std::int64_t kv_head = i % pairs % shape.kv_heads;
      const std::int64_t head = kv_head * causality.group;
      const HeadView<float> span_dq = span == 0 ? dq : HeadView<float>{partial + (span - 1) * dq_size(shape), dense};
      const BackwardTask task{&causality,
                              d,
                              scale,
                              {q, batch, head, causality.group},
                              {k, batch, kv_head, 1},
                              {v, batch, kv_head, 1},
                              {out, batch, head, causality.group},
                              {d_out, batch, head, causality.group},
                              {HeadView<const float>{lse, lse_strides(shape)}, batch, head, causality.group},
                              {span_dq, batch, head, causality.group},
                              {dk, batch, kv_head, 1},
                              {dv, batch, kv_head, 1}};
      const std::int64_t end = std::min((span + 1) * spans.keys, shape.keys);
      for (std::int64_t key = span * spans.keys; key < end; key += kBlockKeys) {
        backward_block(task, key, static_cast<int>(std::min(kBlockKeys, end - key)), key == span * spans.keys, own);
      }
    }
  }
  if (spans.count > 1) add_partial_sums(shape, spans, partial, dq, threads);
}

std::int64_t backward_scratch(const AttentionShape& shape, int threads) {
  return threads * BackwardScratch::size(shape.head_size) + (Spans(shape).count - 1) * dq_size(shape);
}

}  // namespace

extern const AttentionKernels attention_table;
const AttentionKernels attention_table = {forward, forward_scratch, backward, backward_scratch, one_query};

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
