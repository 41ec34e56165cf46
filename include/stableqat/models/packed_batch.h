// Sequences of different lengths as one batch without padding; a sequence may share its beginning with an earlier one, whose tokens are
// then computed once. For evaluation: no gradient is recorded.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace stableqat {

// Rows first .. first + tokens - 1 of a packed batch. They see one another causally, and before them all of the rows
// prefix_first .. prefix_first + prefix_tokens - 1.
struct PackedSegment {
  std::int64_t first = 0;
  std::int64_t tokens = 0;
  std::int64_t prefix_first = 0;
  std::int64_t prefix_tokens = 0;
};

class PackedBatch {
 public:
  // Appends a sequence (at least one id); returns its first row.
  std::int64_t add(std::span<const std::int32_t> ids);

  // Appends `ids` as the continuation of the first `shared` tokens of the sequence that add() put at row `trunk`. No ids: nothing is added.
  // Returns the first row of what was added.
  std::int64_t add_branch(std::int64_t trunk, std::int64_t shared, std::span<const std::int32_t> ids);

  std::int64_t rows() const noexcept { return static_cast<std::int64_t>(ids_.size()); }
  const std::vector<PackedSegment>& segments() const noexcept { return segments_; }
  const std::vector<std::int64_t>& ids() const noexcept { return ids_; }
  // Of each row in its own sequence, from 0 on.
  const std::vector<std::int64_t>& positions() const noexcept { return positions_; }

 private:
  std::vector<std::int64_t> ids_;
  std::vector<std::int64_t> positions_;
  std::vector<PackedSegment> segments_;  // cover all rows in order
};

// Causal attention within the segments. q [1, N, H, D]; k, v [1, N, K, D], any strides, N rows of `batch` -> [1, N, H, D]. fp32 on the CPU
// runs our kernels, segments shared among all threads; the rest, and _ref, causal_attention_ref segment by segment.
at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const PackedBatch& batch);
at::Tensor packed_attention_ref(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const PackedBatch& batch);

}  // namespace stableqat
