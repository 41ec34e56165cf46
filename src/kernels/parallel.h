#pragma once

#include <cstdint>

#include "stableqat/base/isa_namespace.h"

namespace stableqat::kernels {
inline namespace STABLEQAT_ISA {

// Whether an array is large enough to wake other threads for: below, a parallel region costs more than the work.
inline bool worth_sharing(std::int64_t rows, std::int64_t columns) { return rows * columns >= 32768; }

}  // namespace STABLEQAT_ISA
}  // namespace stableqat::kernels
