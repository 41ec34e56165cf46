// A language model whose selected linear layers are quantized: what is trained, evaluated and generated from.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "stableqat/models/causal_lm.h"
#include "stableqat/models/model_source.h"
#include "stableqat/quant/layer_selection.h"
#include "stableqat/quant/quantized_weight.h"
#include "stableqat/quant/quantizer_spec.h"

namespace stableqat {

// Which layers are quantized and how. Kept in a checkpoint's config.json under "stableqat".
struct QuantizationSettings {
  QuantizerSpec spec;
  LayerSelection layers;
};

nlohmann::json to_json(const QuantizationSettings& settings);
// Throws DataError that names `where` for values that are missing or out of range.
QuantizationSettings quantization_from_json(const nlohmann::json& json, const std::string& where);

// Throws ConfigError for a quantizer whose weights products in float8 do not take: codes beyond 16, or several steps in a row.
void require_fp8_codes(const QuantizerSpec& spec);

// Owns the model; the weight of each quantized layer in model() is the dequantized() of its entry in weights(). Without settings no layer
// is quantized. Not thread-safe.
class QuantizedModel {
 public:
  // Reads the model. With `settings` the selected layers are quantized: by the scales stored in the source ("<layer>.weight_clip_val",
  // DSQ's
  // "<layer>.alpha_dsq") where it has them and `use_stored_scales` is set, else by spec.scale_init. Throws DataError (model), ConfigError
  // (no layer selected, group size that does not divide).
  QuantizedModel(const ModelSource& source, at::ScalarType dtype, std::optional<QuantizationSettings> settings,
                 bool use_stored_scales = true);

  CausalLm& model() noexcept { return model_; }
  const CausalLm& model() const noexcept { return model_; }
  const std::optional<QuantizationSettings>& settings() const noexcept { return settings_; }

  // In the order of CausalLm::visit_parameters; name() is the module's name without ".weight".
  std::vector<QuantizedWeight>& weights() noexcept { return weights_; }
  const std::vector<QuantizedWeight>& weights() const noexcept { return weights_; }
  std::int64_t quantized_elements() const noexcept { return quantized_elements_; }

  // How the blocks' products take quantized weights (linear.h); kOff at first. The others need a float32 model computed in float32, else
  // throw ConfigError; they free the dequantized weights: QuantizedWeight::dequantized() has no values then. kInt8x1 and kInt8x2 also take
  // the gradients of the head and of its input in bf16, as they do those of quantized weights. kFp8 is for a model on a GPU that is
  // computed in bfloat16, and keeps the dequantized weights; it throws ConfigError for codes or layers that it does not take,
  // EnvironmentError for a GPU without such products.
  void set_code_products(CodeProducts products);

  // Packs the quantized weights of the blocks, so that decoding reads 2, 3, 4 or 8 bits a weight, and with them the head and plain weights
  // that lie on such a grid, like those of a GGUF file (PackedMatrix::from_values()). Activations of products of a few rows are rounded to
  // 15 bits then. Weights must not change afterwards. Does nothing while set_code_products() is kOff.
  void pack_for_decoding();

  // Moves all parameters to a GPU; those of model() become other leaves. After set_compute_dtype(), before there are gradients; products
  // must be kOff. Throws EnvironmentError without our kernels for it.
  void move_to(at::Device device);

  // Quantizes all weights anew and refreshes the model's compute copies. Call after masters or scales changed.
  void quantize();
  // The second half alone: what products read besides the weights themselves. Call after weights were quantized one by one.
  void refresh_products();

 private:
  void refresh_codes();
  void require_fp8() const;
  void refresh_fp8();
  // f(layer, weight) for the quantized layers of the blocks.
  template <class F>
  void visit_quantized_linears(F&& f);

  CausalLm model_;
  std::optional<QuantizationSettings> settings_;
  std::vector<QuantizedWeight> weights_;
  std::int64_t quantized_elements_ = 0;
  CodeProducts products_ = CodeProducts::kOff;
};

// The settings stored in a checkpoint, ours or the authors' ("w_bits" in config.json, DSQ where there are alphas), or nullopt for a
// full-precision model. Throws DataError for a model that has scales but no settings.
std::optional<QuantizationSettings> stored_quantization(const ModelSource& source);

// Whether the source has scales that were made for the grid of `spec`: same kind, bits and group size. nullopt: it has scales but does not
// say for which grid. Throws DataError for settings that are damaged.
std::optional<bool> stored_scales_fit(const ModelSource& source, const QuantizerSpec& spec);

}  // namespace stableqat
