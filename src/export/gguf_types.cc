#include "export/gguf_types.h"

#include <algorithm>
#include <array>

#include "export/formats.h"
#include "stableqat/base/error.h"

namespace stableqat {

namespace {

// From the smallest up, but TQ1_0, which is for those who ask for it.
constexpr std::array kBlockTypes{GgmlType::kTQ2_0, GgmlType::kQ2_0, GgmlType::kQ2_K, GgmlType::kQ3_K,
                                 GgmlType::kQ4_0,  GgmlType::kQ5_0, GgmlType::kQ8_0};

// Types that some back ends or builds before mid-2026 lack.
bool is_recent(GgmlType type) { return type == GgmlType::kTQ1_0 || type == GgmlType::kTQ2_0 || type == GgmlType::kQ2_0; }

bool fits(GgmlType type, const ExportCodes& codes) {
  const auto block = ggml_block(type);
  return block && codes.group % block->elements == 0 && ggml_holds_grid(type, codes.grid);
}

// TQ2_0 has no place in all back ends where Q2_0 has: for three levels only, which is what they were made for.
bool is_first_choice(GgmlType type, const ExportCodes& codes, const ExportOptions& options) {
  if (options.compatible_types && is_recent(type)) return false;
  return fits(type, codes) && (type != GgmlType::kTQ2_0 || codes.grid.levels <= 3);
}

}  // namespace

GgmlType choose_block_type(const ExportTensor& tensor, const ExportOptions& options) {
  const ExportCodes& codes = *tensor.quantized;
  if (options.block_type && fits(*options.block_type, codes)) return *options.block_type;
  const auto* found = std::ranges::find_if(kBlockTypes, [&](GgmlType type) { return is_first_choice(type, codes, options); });
  if (found != kBlockTypes.end()) return *found;
  throw ConfigError({"tensor " + tensor.name, "a scale for every " + std::to_string(codes.group) + " columns", "a multiple of 32",
                     "exclude the layer from quantization, or export to another format"});
}

GgmlType choose_float_type(const ExportTensor& tensor, const ExportOptions& options) {
  if (tensor.shape.size() < 2) return GgmlType::kF32;
  if (!tensor.is_table() || !options.embedding) {
    const bool exact = change_by(GgmlType::kF16, tensor.values).differing == 0;
    return exact || (options.allow_rounding && !tensor.is_table()) ? GgmlType::kF16 : GgmlType::kF32;
  }
  const GgmlBlock block = *ggml_block(*options.embedding);
  if (tensor.shape.back() % block.elements != 0) {
    throw ConfigError({"--embedding " + ggml_type_name(*options.embedding), "rows of " + std::to_string(tensor.shape.back()),
                       "whole blocks of " + std::to_string(block.elements), "use q8_0 or q4_0"});
  }
  return *options.embedding;
}

}  // namespace stableqat
