// The packed form of a trained model: a Hugging Face folder whose quantized layers are stored as codes of 1 to 4 (or 8) bits.
//
//   config.json        as in a checkpoint; under "stableqat" also "packed_version" 1 and "embedding_type"
//   model.safetensors  "<layer>.weight_packed" U8 [N, ceil(M * bits / 8)]: indices of the grid's values, densely packed row by row
//                      "<layer>.weight_scale" F16 or F32 [N, G]: the step, weight = code * step
//                      "<layer>.weight_shape" I64 [2]: N, M
//                      "<layer>.alpha_dsq" F32 [1]: of DSQ's surrogate, for further training
//                      "model.embed_tokens.weight_blocks", "lm_head.weight_blocks" U8: ggml blocks of "embedding_type" over all values,
//                      unless that is F32 or F16; every other tensor under its Hugging Face name
// Letters: N out features, M in features, G scales per row.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "stableqat/io/ggml_encode.h"
#include "stableqat/quant/quantizer_spec.h"

namespace stableqat {

inline constexpr const char* kPackedVersionKey = "packed_version";
inline constexpr std::string_view kPackedTableSuffix = ".weight_blocks";

// The values that weights of a quantizer can have.
CodeGrid code_grid(const QuantizerSpec& spec);

// "embedding_type" of the settings under "stableqat". Throws DataError, naming `where`, for one that is not known or another version.
GgmlType packed_table_type(const nlohmann::json& settings, const std::string& where);

}  // namespace stableqat
