#include "stableqat/models/quantized_model.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "models/fp8_products.h"
#include "stableqat/base/error.h"
#include "stableqat/models/packed_matrix.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

template <class Enum, std::size_t n>
using NameTable = std::array<std::pair<Enum, std::string_view>, n>;

constexpr NameTable<QuantizerKind, 3> kQuantizerNames{
    {{QuantizerKind::kLsq, "lsq"}, {QuantizerKind::kSeq, "seq"}, {QuantizerKind::kDsq, "dsq"}}};
constexpr NameTable<ScaleInit, 3> kScaleInitNames{{{ScaleInit::kAbsMax, "absmax"}, {ScaleInit::kMse, "mse"}, {ScaleInit::kLsq, "lsq"}}};

template <class Enum, std::size_t n>
std::string name_of(const NameTable<Enum, n>& table, Enum value) {
  for (const auto& [entry, name] : table) {
    if (entry == value) return std::string(name);
  }
  return "";
}

template <class Enum, std::size_t n>
Enum value_of(const NameTable<Enum, n>& table, const std::string& name, const std::string& where) {
  for (const auto& [entry, entry_name] : table) {
    if (entry_name == name) return entry;
  }
  throw DataError({where, name, "a known name", "use a checkpoint of this version"});
}

at::Tensor read_tensor(const ModelSource& source, const std::string& name, at::ScalarType dtype) {
  at::Tensor tensor = at::empty(source.shape(name), at::kFloat);
  source.read(name, std::span<float>(tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())));
  return tensor.to(dtype);
}

std::optional<at::Tensor> read_if_stored(const ModelSource& source, const std::string& name, at::ScalarType dtype, bool wanted) {
  if (!wanted || !source.has(name)) return std::nullopt;
  return read_tensor(source, name, dtype);
}

// Every model with scales has this one.
const std::string kFirstScale = "model.layers.0.self_attn.q_proj.weight_clip_val";
constexpr std::string_view kWeightSuffix = ".weight";

}  // namespace

Json to_json(const QuantizationSettings& settings) {
  const auto amplitudes = settings.spec.surrogate.amplitudes();
  return {{"quantizer", name_of(kQuantizerNames, settings.spec.kind)},
          {"bits", settings.spec.bits},
          {"amplitudes", std::vector<double>(amplitudes.begin(), amplitudes.end())},
          {"group_size", settings.spec.group_size},
          {"scale_init", name_of(kScaleInitNames, settings.spec.scale_init)},
          {"fp16_scales", settings.spec.fp16_scales},
          {"layers", settings.layers.include},
          {"exclude", settings.layers.exclude}};
}

QuantizationSettings quantization_from_json(const Json& json, const std::string& where) {
  QuantizationSettings settings;
  try {
    settings.spec.kind = value_of(kQuantizerNames, json.at("quantizer").get<std::string>(), where);
    settings.spec.bits = json.at("bits").get<int>();
    settings.spec.group_size = json.at("group_size").get<std::int64_t>();
    settings.spec.scale_init = value_of(kScaleInitNames, json.at("scale_init").get<std::string>(), where);
    settings.spec.fp16_scales = json.at("fp16_scales").get<bool>();
    const auto amplitudes = json.at("amplitudes").get<std::vector<double>>();
    if (!amplitudes.empty()) settings.spec.surrogate = Surrogate::from_amplitudes(amplitudes);
    settings.layers.include = json.at("layers").get<std::vector<std::string>>();
    settings.layers.exclude = json.at("exclude").get<std::vector<std::string>>();
    settings.spec.validate();
  } catch (const Json::exception&) {
    throw DataError({where, "incomplete quantization settings", "what this program writes under \"stableqat\"", "restore config.json"});
  } catch (const ConfigError& error) {
    throw DataError({where, error.what(), "settings this program writes", "restore config.json"});
  }
  return settings;
}

std::optional<QuantizationSettings> stored_quantization(const ModelSource& source) {
  if (!source.quantization().empty()) {
    return quantization_from_json(source.quantization(), (source.path() / "config.json").string());
  }
  if (source.has(kFirstScale)) {
    throw DataError({source.path().string(), "scales (weight_clip_val) but no word on the number of bits",
                     "config.json with a \"stableqat\" entry, as this program writes it", "say the number with --bits"});
  }
  return std::nullopt;
}

std::optional<bool> stored_scales_fit(const ModelSource& source, const QuantizerSpec& spec) {
  if (source.quantization().empty()) return source.has(kFirstScale) ? std::nullopt : std::optional(false);
  const QuantizerSpec stored = stored_quantization(source)->spec;
  return stored.kind == spec.kind && stored.bits == spec.bits && stored.group_size == spec.group_size;
}

QuantizedModel::QuantizedModel(const ModelSource& source, at::ScalarType dtype, std::optional<QuantizationSettings> settings,
                               bool use_stored_scales)
    : model_(source, dtype), settings_(std::move(settings)) {
  if (!settings_) return;
  settings_->spec.validate();
  model_.visit_parameters([&](const std::string& name, ParameterRole role, at::Tensor& value) {
    if (role != ParameterRole::kProjection && role != ParameterRole::kHead) return;
    const std::string module = name.substr(0, name.size() - kWeightSuffix.size());
    if (!settings_->layers.selects(module)) return;
    weights_.emplace_back(value.detach(), settings_->spec, read_if_stored(source, module + ".weight_clip_val", dtype, use_stored_scales),
                          read_if_stored(source, module + ".alpha_dsq", dtype, use_stored_scales), module);
    value = weights_.back().dequantized();
    quantized_elements_ += value.numel();
  });
  if (weights_.empty()) {
    throw ConfigError({"quantization.layers", "patterns that match no linear layer", "at least one quantized layer",
                       "use the default, or names like model.layers.*.mlp.*_proj"});
  }
  quantize();
}

void QuantizedModel::quantize() {
  for (QuantizedWeight& weight : weights_) weight.quantize();
  refresh_products();
}

void QuantizedModel::move_to(at::Device device) {
  if (products_ != CodeProducts::kOff) {
    throw ConfigError({"products with codes", "a model on a GPU", "products with weights", "use train.compute auto"});
  }
  std::size_t next = 0;
  model_.visit_parameters([&](const std::string&, ParameterRole role, at::Tensor& value) {
    if (next == weights_.size() || !weights_[next].dequantized().is_same(value)) return;
    QuantizedWeight& weight = weights_[next++];
    weight.move_to(device, role == ParameterRole::kHead ? at::kFloat : model_.compute_dtype());
    value = weight.dequantized();
  });
  model_.move_to(device);
  next = 0;
  model_.visit_linears([&](const std::string&, Linear& layer) {
    const bool is_quantized = next < weights_.size() && weights_[next].dequantized().is_same(layer.weight);
    layer.compute = is_quantized ? weights_[next++].product() : at::Tensor();
  });
  model_.refresh_compute_copies();
}

void QuantizedModel::refresh_products() {
  model_.refresh_compute_copies();
  if (products_ == CodeProducts::kFp8) {
    refresh_fp8();
  } else if (products_ != CodeProducts::kOff) {
    refresh_codes();
  }
}

void QuantizedModel::set_code_products(CodeProducts products) {
  if (products == CodeProducts::kFp8) {
    require_fp8();
    products_ = products;
    return refresh_fp8();
  }
  if (products != CodeProducts::kOff && (model_.dtype() != at::kFloat || model_.compute_dtype() != at::kFloat)) {
    throw ConfigError(
        {"products with codes", "a model that is not computed in float32", "float32", "use float32, or products without codes"});
  }
  products_ = products;
  model_.set_rounded_head_gradients(digits_of(products) > 0);
  refresh_codes();
}

void QuantizedModel::pack_for_decoding() {
  const at::NoGradGuard no_grad;
  if (products_ == CodeProducts::kOff) return;
  const auto packed_values = [](const at::Tensor& values) {
    auto packed = PackedMatrix::from_values(values.detach());
    return packed ? std::make_shared<const PackedMatrix>(*std::move(packed)) : nullptr;
  };
  model_.visit_linears([&](const std::string&, Linear& layer) {
    layer.packed = layer.codes.defined() ? std::make_shared<const PackedMatrix>(PackedMatrix::from_codes(layer.codes, layer.step))
                                         : packed_values(layer.weight);
  });
  model_.set_packed_head(packed_values(model_.head()));
}

template <class F>
void QuantizedModel::visit_quantized_linears(F&& f) {
  std::size_t next = 0;
  model_.visit_linears([&](const std::string&, Linear& layer) {
    if (next < weights_.size() && weights_[next].dequantized().is_same(layer.weight)) f(layer, weights_[next++]);
  });
}

void require_fp8_codes(const QuantizerSpec& spec) {
  if (spec.bits == 8) {
    throw ConfigError({"train.compute fp8", "quantization.bits 8, whose codes go to 128", "codes up to 16, which float8 e4m3 holds exactly",
                       "use 4 bits or fewer, or train.compute float"});
  }
  if (spec.group_size > 0) {
    throw ConfigError({"train.compute fp8", "quantization.group_size " + std::to_string(spec.group_size),
                       "0: one scale for a row, which its product takes", "leave it out, or use train.compute float"});
  }
}

void QuantizedModel::require_fp8() const {
  if (model_.device().is_cpu() || model_.compute_dtype() != at::kBFloat16) {
    throw ConfigError({"products in float8", model_.device().is_cpu() ? "a model on the CPU" : "a model that is not computed in bfloat16",
                       "a GPU and bfloat16", "use train.device cuda with train.precision auto, or other products"});
  }
  if (settings_) require_fp8_codes(settings_->spec);
  for (const QuantizedWeight& weight : weights_) {
    if (weight.codes().size(0) % 16 == 0 && weight.codes().size(1) % 16 == 0) continue;
    throw ConfigError({"train.compute fp8",
                       weight.name() + " of " + std::to_string(weight.codes().size(0)) + " x " + std::to_string(weight.codes().size(1)),
                       "multiples of 16", "exclude the layer, or use train.compute float"});
  }
  fp8::require_products(model_.device());
}

// Into the same memory each time: what is recorded as a CUDA graph reads it there.
void QuantizedModel::refresh_fp8() {
  const at::NoGradGuard no_grad;
  visit_quantized_linears([](Linear& layer, const QuantizedWeight& weight) {
    const at::Tensor& codes = weight.codes();
    if (!layer.fp8_codes.defined()) {
      const at::TensorOptions options = codes.options().dtype(at::kFloat8_e4m3fn);
      layer.fp8_codes = at::empty(codes.sizes(), options);
      layer.fp8_transposed = at::empty({codes.size(1), codes.size(0)}, options);
      layer.step = at::empty({codes.size(0), 1}, weight.scale().options());
    }
    layer.fp8_codes.copy_(codes);
    layer.fp8_transposed.copy_(layer.fp8_codes.t());
    weight.write_steps(layer.step);
  });
}

void QuantizedModel::refresh_codes() {
  visit_quantized_linears([this](Linear& layer, QuantizedWeight& weight) {
    const bool from_codes = products_ != CodeProducts::kOff;
    layer.fp8_codes = layer.fp8_transposed = at::Tensor();
    layer.codes = from_codes ? weight.codes() : at::Tensor();
    layer.step = from_codes ? weight.step() : at::Tensor();
    layer.digits = weight.scales_per_row() == 1 ? digits_of(products_) : 0;
    weight.keep_dequantized(!from_codes);
  });
}

}  // namespace stableqat
