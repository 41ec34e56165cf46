// Names and shapes in a checkpoint's files, for its reader and its writer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "stableqat/io/dtype.h"
#include "stableqat/train/adamw.h"

namespace stableqat::checkpoint {

inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kOptimizerFile = "optimizer.safetensors";
inline constexpr const char* kStateFile = "trainer_state.json";
inline constexpr const char* kManifestFile = "manifest.json";
inline constexpr std::string_view kScaleSuffix = ".weight_clip_val";

inline bool is_scale(std::string_view name) { return name.ends_with(kScaleSuffix); }

inline DType dtype_of(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kBFloat16) return DType::kBF16;
  return tensor.scalar_type() == at::kDouble ? DType::kF64 : DType::kF32;
}

inline std::vector<std::int64_t> whole_shape(const TrainedTensor& tensor) {
  std::vector<std::int64_t> shape = tensor.value.sizes().vec();
  shape[0] = tensor.all_rows;
  return shape;
}

// Where the rows of this rank begin in the whole tensor, in bytes; of the tensor itself or of its moments.
inline std::uint64_t offset_of_rows(const TrainedTensor& tensor, std::uint64_t element_bytes) {
  auto row = static_cast<std::int64_t>(element_bytes);
  for (std::int64_t d = 1; d < tensor.value.dim(); ++d) row *= tensor.value.size(d);
  return static_cast<std::uint64_t>(tensor.rows.first * row);
}

}  // namespace stableqat::checkpoint
