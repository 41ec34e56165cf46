// Model folders whose linear layers are packed codes: the files that `stableqat export` writes, and other programs' compressed-tensors and
// GPTQ models.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "model_source_forms.h"
#include "models/packed_layers.h"
#include "stableqat/base/error.h"
#include "stableqat/io/safetensors.h"
#include "stableqat/models/packed_model.h"
#include "stableqat/models/quantized_model.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kScale = ".weight_clip_val";
constexpr const char* kSettingsKey = "stableqat";
constexpr const char* kForeignKey = "quantization_config";

// The name without `suffix`, or nothing.
std::optional<std::string> layer_of(const std::string& name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return std::nullopt;
  return name.substr(0, name.size() - suffix.size());
}

Json without(Json json, const char* key) {
  json.erase(key);
  return json;
}

class PackedSource final : public ModelSource {
 public:
  PackedSource(const std::filesystem::path& directory, const Json& json)
      : path_(directory),
        config_(model_config_from_json(without(json, kForeignKey), (directory / "config.json").string())),
        tensors_(directory),
        settings_(json.value(kSettingsKey, Json::object())) {
    open_layers(json);
    if (!settings_.empty()) {
      steps_per_scale_ = quantization_from_json(settings_, (path_ / "config.json").string()).spec.rule().steps_per_scale;
    } else {
      settings_ = symmetric_settings(json.at(kForeignKey));
    }
  }

  const std::filesystem::path& path() const noexcept override { return path_; }
  const ModelConfig& config() const noexcept override { return config_; }
  const Json& quantization() const noexcept override { return settings_; }

  bool has(const std::string& name) const override {
    if (tensors_.find_tensor(name) != nullptr) return true;
    if (const auto layer = layer_of(name, kWeight)) return layers_->packs(*layer) || table(*layer) != nullptr;
    const auto layer = layer_of(name, kScale);
    return layer && !settings_.empty() && layers_->packs(*layer);
  }

  std::vector<std::int64_t> shape(const std::string& name) const override {
    if (const auto layer = layer_of(name, kWeight)) {
      if (layers_->packs(*layer)) return layers_->shape(*layer);
      if (table(*layer) != nullptr) return {config_.vocab_size, config_.hidden_size};
    }
    if (const auto layer = layer_of(name, kScale); layer && layers_->packs(*layer)) {
      const std::vector<std::int64_t> size = layers_->shape(*layer);
      return {size[0], static_cast<std::int64_t>(scales(*layer).size()) / size[0]};
    }
    return tensors_.tensor(name).shape;
  }

  void read(const std::string& name, std::span<float> out) const override {
    if (const auto layer = layer_of(name, kWeight)) {
      if (layers_->packs(*layer)) return layers_->read(*layer, out);
      if (const SafetensorsTensor* blocks = table(*layer)) return read_table(*blocks, out);
    }
    if (const auto layer = layer_of(name, kScale); layer && layers_->packs(*layer)) {
      const std::vector<float> values = scales(*layer);
      if (values.size() != out.size()) throw ConfigError({name, std::to_string(out.size()) + " values", std::to_string(values.size()), ""});
      std::ranges::copy(values, out.begin());
      return;
    }
    tensors_.read_f32(name, out);
  }

 private:
  void open_layers(const Json& json) {
    const FindTensor find = [this](const std::string& name) -> std::optional<StoredTensor> {
      const SafetensorsTensor* tensor = tensors_.find_tensor(name);
      if (tensor == nullptr) return std::nullopt;
      return StoredTensor{tensor->dtype, tensor->shape, tensors_.bytes(name)};
    };
    const std::string where = path_.string();
    if (!json.contains(kForeignKey)) {
      const auto settings = quantization_from_json(settings_, (path_ / "config.json").string());
      table_type_ = packed_table_type(settings_, (path_ / "config.json").string());
      layers_ = open_own_packed(code_grid(settings.spec), find, where);
      return;
    }
    const Json& config = json.at(kForeignKey);
    const std::string method = config.is_object() ? config.value("quant_method", "") : "";
    if (method == "compressed-tensors") {
      layers_ = open_compressed_tensors(config, find, where);
    } else if (method == "gptq") {
      layers_ = open_gptq(config, find, where);
    } else {
      throw DataError({where + "/config.json, quantization_config.quant_method", "\"" + method + "\"", "compressed-tensors or gptq",
                       "load a model of one of these forms, or an unquantized one"});
    }
  }

  // Embedding and head of our own files, where they are rounded to ggml's blocks.
  const SafetensorsTensor* table(const std::string& layer) const {
    if (table_type_ == GgmlType::kF32 || (layer != "model.embed_tokens" && layer != "lm_head")) return nullptr;
    return tensors_.find_tensor(std::string(layer).append(kPackedTableSuffix));
  }

  void read_table(const SafetensorsTensor& blocks, std::span<float> out) const {
    const std::string where = path_.string() + ", tensor " + blocks.name;
    const GgmlBlock layout = *ggml_block(table_type_);
    const std::uint64_t values = blocks.byte_size / layout.bytes * layout.elements;
    if (blocks.dtype != DType::kU8 || blocks.byte_size % layout.bytes != 0 || values != out.size()) {
      throw DataError({where, std::to_string(blocks.byte_size) + " bytes",
                       ggml_type_name(table_type_) + " blocks of " + std::to_string(out.size()) + " values", "export the model again"});
    }
    dequantize_blocks(table_type_, tensors_.bytes(blocks.name), out);
  }

  std::vector<float> scales(const std::string& layer) const {
    auto values = layers_->steps(layer);
    if (!values) {
      throw DataError({path_.string() + ", layer " + layer, "zero points or groups in another order than in the other layers",
                       "the same kind of quantization in all layers", "use a symmetric model without activation order"});
    }
    for (float& value : *values) value = static_cast<float>(value * steps_per_scale_);
    return *std::move(values);
  }

  std::vector<std::string> packed_layers() const {
    std::vector<std::string> found;
    for (const std::string& name : tensors_.names()) {
      if (auto layer = layer_of(name, layers_->codes_suffix())) found.push_back(*std::move(layer));
    }
    return found;
  }

  // The settings under which a foreign model is an integer grid with one scale per group, so that training goes on from its codes; an
  // empty object where it is not.
  Json symmetric_settings(const Json& config) const {
    const std::vector<std::string> packed = packed_layers();
    if (packed.empty()) return Json::object();
    QuantizationSettings settings;
    settings.spec.fp16_scales = false;
    settings.spec.bits = config.contains("bits") ? config.at("bits").get<int>()
                                                 : config.at("config_groups").begin()->at("weights").at("num_bits").get<int>();
    settings.layers.include = packed;
    for (const std::string& layer : packed) {
      const auto steps = layers_->steps(layer);
      const std::vector<std::int64_t> size = layers_->shape(layer);
      if (!steps || size[0] < 1) return Json::object();
      const std::int64_t group = size[1] / (static_cast<std::int64_t>(steps->size()) / size[0]);
      settings.spec.group_size = group == size[1] ? 0 : group;
      if (std::ranges::any_of(*steps, [](float step) { return !(step > 0); })) return Json::object();
    }
    try {
      settings.spec.validate();
    } catch (const ConfigError&) {
      return Json::object();
    }
    return to_json(settings);
  }

  std::filesystem::path path_;
  ModelConfig config_;
  SafetensorsModel tensors_;
  Json settings_;
  double steps_per_scale_ = 1;
  GgmlType table_type_ = GgmlType::kF32;
  std::unique_ptr<PackedLayers> layers_;
};

}  // namespace

bool is_packed_config(const Json& config) {
  if (!config.is_object()) return false;
  if (config.contains(kForeignKey) && !config.at(kForeignKey).is_null()) return true;
  return config.contains(kSettingsKey) && config.at(kSettingsKey).is_object() && config.at(kSettingsKey).contains(kPackedVersionKey);
}

std::unique_ptr<ModelSource> open_packed_source(const std::filesystem::path& directory, Json config) {
  try {
    return std::make_unique<PackedSource>(directory, config);
  } catch (const Json::exception& error) {
    throw DataError(
        {(directory / "config.json").string(), error.what(), "the configuration of a quantized model", "download or export it again"});
  }
}

GgmlType packed_table_type(const Json& settings, const std::string& where) {
  constexpr std::array kTypes{GgmlType::kF32, GgmlType::kF16, GgmlType::kQ8_0, GgmlType::kQ6_K, GgmlType::kQ4_0};
  const std::string wanted = settings.value("embedding_type", std::string("F32"));
  const auto* found = std::ranges::find_if(kTypes, [&wanted](GgmlType type) { return ggml_type_name(type) == wanted; });
  if (settings.value(kPackedVersionKey, 0) == 1 && found != kTypes.end()) return *found;
  throw DataError(
      {where + ", key stableqat", "embedding_type " + wanted + ", packed_version " + settings.value(kPackedVersionKey, Json()).dump(),
       "embedding_type F32, F16, Q8_0, Q6_K or Q4_0, packed_version 1", "use the version of this program that wrote the model"});
}

CodeGrid code_grid(const QuantizerSpec& spec) {
  const bool stretched = spec.kind == QuantizerKind::kSeq && spec.bits >= 2;
  if (spec.bits == 1) return {-1, 2, 2};
  if (stretched) return {1 - (1 << spec.bits), 2, 1 << spec.bits};
  return {q_min(spec.bits), 1, q_max(spec.bits) - q_min(spec.bits) + 1};
}

}  // namespace stableqat
