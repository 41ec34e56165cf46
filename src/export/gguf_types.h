// Which ggml type a tensor is written in.
#pragma once

#include <optional>

#include "stableqat/export/export.h"

namespace stableqat {

// The type for a quantized tensor: `options.block_type` where its blocks fit rows, groups and grid, else the smallest that fits; ternary
// grids prefer TQ2_0 to the smaller TQ1_0, which is slower to decode. Throws ConfigError when none fits (a group below 32).
GgmlType choose_block_type(const ExportTensor& tensor, const ExportOptions& options);

// The type for a tensor that is not quantized: tables by `options.embedding`, else F16 for matrices that it does not change, else F32.
// Throws ConfigError when the rows are not whole blocks.
GgmlType choose_float_type(const ExportTensor& tensor, const ExportOptions& options);

}  // namespace stableqat
