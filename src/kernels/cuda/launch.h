// What the launches share.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/element.h"
#include "kernels/cuda/team.h"
#include "stableqat/kernels/cuda.h"

namespace stableqat::kernels::cuda {

inline constexpr int kThreads = 256;                               // of a block
inline constexpr int kVocabularyThreads = 1024;                    // of a block that owns a row of logits
inline constexpr std::int64_t kMaxBlocks = std::int64_t{1} << 20;  // loops over rows and elements take any number
inline constexpr std::int64_t kWarpColumns = 512;                  // rows up to this long are a warp's work

inline cudaStream_t as_stream(Stream stream) { return static_cast<cudaStream_t>(stream); }

inline Status status_of(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

// Of the launch just made.
inline Status launched() { return status_of(cudaGetLastError()); }

inline unsigned blocks_for(std::int64_t count, std::int64_t per_block) {
  return static_cast<unsigned>(std::clamp<std::int64_t>((count + per_block - 1) / per_block, 1, kMaxBlocks));
}

// Calls f(Team(), blocks): teams of a warp for short rows, of a block for long ones. Blocks have kThreads threads.
template <class F>
Status with_team(std::int64_t rows, std::int64_t columns, F&& f) {
  if (columns <= kWarpColumns) return f.template operator()<WarpTeam>(blocks_for(rows, kThreads / 32));
  return f.template operator()<BlockTeam>(blocks_for(rows, 1));
}

// Calls f.operator()<T>() with the activations' type.
template <class F>
Status with_element(ElementType type, F&& f) {
  return type == ElementType::kBFloat16 ? f.template operator()<BFloat16>() : f.template operator()<float>();
}

}  // namespace stableqat::kernels::cuda
