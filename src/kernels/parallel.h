#pragma once

#include <cstdint>

namespace stableqat::kernels {

// Whether an array is large enough to wake other threads for: below, a parallel region costs more than the work.
inline bool worth_sharing(std::int64_t rows, std::int64_t columns) { return rows * columns >= 32768; }

}  // namespace stableqat::kernels
