// Rows of heads in memory that a projection or a cache left there.
#pragma once

#include <cstdint>

namespace stableqat::kernels {

// Distances between neighbours of [B, T, H, D] in elements; those along D are 1 apart.
struct HeadStrides {
  std::int64_t batch;
  std::int64_t token;
  std::int64_t head;
};

// Not owning. Float is float or const float.
template <class Float>
struct HeadView {
  Float* data;
  HeadStrides strides;
};

}  // namespace stableqat::kernels
