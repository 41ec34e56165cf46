// A model as exporters see it: names, evaluated values, and the codes behind the quantized ones.
//
// Letters: N rows (out features), M columns (in features), G scales per row.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "stableqat/io/ggml_encode.h"
#include "stableqat/models/model_config.h"
#include "stableqat/tokenizer/tokenizer.h"

namespace stableqat {

class QuantizedModel;

// value[n, m] = codes[n, m] * steps[n, m / group], exactly.
struct ExportCodes {
  std::span<const std::int8_t> codes;  // [N, M]
  std::vector<float> steps;            // [N, G]
  std::int64_t group = 0;              // M / G
  CodeGrid grid;
  std::optional<float> alpha;  // DSQ's, for further training; the values do not depend on it
};

struct ExportTensor {
  std::string name;                 // Hugging Face's
  std::vector<std::int64_t> shape;  // rows first
  std::span<const float> values;    // what was evaluated
  std::optional<ExportCodes> quantized;

  // Embedding or output head: the large tables that may be rounded on their own account.
  bool is_table() const { return name == "model.embed_tokens.weight" || name == "lm_head.weight"; }
  // "model.layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.weight".
  std::string layer() const { return name.substr(0, name.rfind('.')); }
};

// Refers to the tensors of the QuantizedModel that it was made of, which must outlive it.
struct ExportModel {
  ModelConfig config;
  std::string settings;  // what a checkpoint's config.json has under "stableqat", as JSON text; "" for a model that is not quantized
  Tokenizer tokenizer;
  std::vector<ExportTensor> tensors;  // a tied head is not among them
};

// The model in its present state. Turns products from codes off, so that the dequantized weights have values. Throws ConfigError unless the
// model is in float32.
ExportModel model_for_export(QuantizedModel& model, const Tokenizer& tokenizer);

}  // namespace stableqat
