// What forward and backward attention share: one key/value head at a time with the queries of all heads that read it as rows, row
// r = token r / G, head r % G of the group. So keys and values are loaded once for the group, and their gradients sum over it in row order.
// Scores are kept transposed, [keys, rows]: softmax then runs down the vectors, without sums across lanes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/tile_product.h"
#include "stableqat/kernels/attention.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

inline constexpr int kRowTile = 64;
inline constexpr int kKeyTile = 128;
inline constexpr int kLine = 16;  // floats in a cache line
// Rows of tiles lie an odd number of lines apart, so that the rows of a column block do not fall into the same cache sets.
inline constexpr int kScoreStride = kRowTile + kLine;

inline std::int64_t round_up(std::int64_t value, std::int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
inline std::int64_t tile_stride(std::int64_t head_size) { return ((head_size + kLine - 1) / kLine | 1) * kLine; }

// Which keys a row sees.
struct Causality {
  explicit Causality(const AttentionShape& shape)
      : group(shape.heads / shape.kv_heads), rows(shape.tokens * group), past(shape.keys - shape.tokens), keys(shape.keys) {}

  // The number of keys that row `row` sees; rows of padding see all.
  std::int64_t visible(std::int64_t row) const { return std::min(row / group + past + 1, keys); }
  std::int64_t first_row_that_sees(std::int64_t key) const { return std::max<std::int64_t>(0, (key - past) * group); }

  std::int64_t group;  // G
  std::int64_t rows;   // T G
  std::int64_t past;   // S - T
  std::int64_t keys;   // S
};

// Rows of one key/value head in memory: `group` heads of each token.
template <class Float>
struct Rows {
  Rows(const HeadView<Float>& view, std::int64_t batch, std::int64_t first_head, std::int64_t heads)
      : data(view.data + batch * view.strides.batch + first_head * view.strides.head),
        group(heads),
        token_stride(view.strides.token),
        head_stride(view.strides.head) {}

  // body(i, pointer to row first + i), i < count
  template <class Body>
  void for_each(std::int64_t first, int count, const Body& body) const {
    std::int64_t head = first % group;
    Float* token = data + first / group * token_stride;
    for (int i = 0; i < count; ++i) {
      body(i, token + head * head_stride);
      if (++head == group) {
        head = 0;
        token += token_stride;
      }
    }
  }

  Float* data;
  std::int64_t group;
  std::int64_t token_stride;
  std::int64_t head_stride;
};

// Copies `count` rows into a tile whose remaining rows, up to `padded`, and columns become 0.
inline void load_rows(const Rows<const float>& rows, std::int64_t first, int count, int padded, std::int64_t columns, float* tile) {
  const std::int64_t stride = tile_stride(columns);
  rows.for_each(first, count, [&](int i, const float* row) {
    float* to = tile + i * stride;
    std::int64_t j = 0;
    for (; j + kWidth <= columns; j += kWidth) store(to + j, load<Floats>(row + j));
    for (; j < columns; ++j) to[j] = row[j];
    for (; j < stride; ++j) to[j] = 0.0F;
  });
  std::fill(tile + count * stride, tile + padded * stride, 0.0F);
}

// to[j][i] = tile[i][j] for i < kRowTile; `to` has rows of kScoreStride.
inline void transpose_tile(const float* tile, std::int64_t columns, float* to) {
  const std::int64_t stride = tile_stride(columns);
  for (std::int64_t j0 = 0; j0 < columns; j0 += kWidth) {
    for (int i0 = 0; i0 < kRowTile; i0 += kWidth) {
      Ints block[kWidth];
      for (int i = 0; i < kWidth; ++i) block[i] = load<Ints>(tile + (i0 + i) * stride + j0);
      transpose(block);
      for (int j = 0; j < kWidth; ++j) store(to + (j0 + j) * kScoreStride + i0, block[j]);
    }
  }
}

// A tile of scores: which rows and keys, and how much of it is seen.
struct ScoreTile {
  // The keys of this tile, counted from its first, that at least one of the rows before `row_end` sees.
  int keys_seen(int row_end) const {
    const std::int64_t seen = causality->visible(first_row + row_end - 1) - first_key;
    return static_cast<int>(std::clamp<std::int64_t>(seen, 0, keys));
  }
  // The first of this tile's rows that sees one of the keys from `key` on.
  int first_row_that_sees(int key) const {
    return static_cast<int>(std::clamp<std::int64_t>(causality->first_row_that_sees(first_key + key) - first_row, 0, rows));
  }
  // Of the `kWidth` rows from `row`, the number of keys each sees, counted from the tile's first.
  Ints keys_seen_by_lanes(int row) const {
    Ints seen{};
    for (int i = 0; i < kWidth; ++i) {
      seen[i] = static_cast<std::int32_t>(std::clamp<std::int64_t>(causality->visible(first_row + row + i) - first_key, 0, keys));
    }
    return seen;
  }
  bool masked(int row) const { return causality->visible(first_row + row) - first_key < round_up(keys, kBlockRows); }

  const Causality* causality;
  std::int64_t first_row;
  std::int64_t first_key;
  int rows;
  int keys;
};

// products[key][row] = left[key] . right[row], where any row of the column block sees the key. `right` is transposed.
inline void score_products(const ScoreTile& tile, Matrix<const float> left, const float* right, std::int64_t head_size, float* products) {
  const auto depth = [&](int key, int row_end) { return Depth{0, key < tile.keys_seen(row_end) ? static_cast<int>(head_size) : 0}; };
  multiply<Layout::kRows>(static_cast<int>(round_up(tile.keys, kBlockRows)), static_cast<int>(round_up(tile.rows, kWidth)), left,
                          {right, kScoreStride}, {products, kScoreStride}, depth, kFromZero);
}

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
