#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "model_source_forms.h"
#include "stableqat/base/error.h"
#include "stableqat/io/safetensors.h"
#include "stableqat/models/quantized_model.h"

namespace stableqat {

namespace {

nlohmann::json read_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  if (!std::filesystem::exists(path) && std::filesystem::exists(directory / "adapter_config.json")) {
    throw DataError({directory.string(), "a LoRA adapter without its model", "a whole model",
                     "merge the two (peft: merge_and_unload(), then save_pretrained())"});
  }
  try {
    return nlohmann::json::parse(read_text_file(path));
  } catch (const nlohmann::json::exception& error) {
    throw DataError({path.string(), "invalid JSON", "a model configuration", "download the model again"});
  }
}

class HuggingFaceSource final : public ModelSource {
 public:
  HuggingFaceSource(const std::filesystem::path& directory, nlohmann::json config)
      : path_(directory),
        json_(std::move(config)),
        config_(model_config_from_json(json_, (directory / "config.json").string())),
        tensors_(directory),
        quantization_(stored_settings()) {}

  const std::filesystem::path& path() const noexcept override { return path_; }
  const ModelConfig& config() const noexcept override { return config_; }
  const nlohmann::json& quantization() const noexcept override { return quantization_; }
  bool has(const std::string& name) const override { return tensors_.find_tensor(name) != nullptr; }
  std::vector<std::int64_t> shape(const std::string& name) const override { return tensors_.tensor(name).shape; }
  void read(const std::string& name, std::span<float> out) const override { tensors_.read_f32(name, out); }

 private:
  // Ours, or what "w_bits" of the authors' program means: LSQ's grid or DSQ's with one scale per row, which is used as it is.
  nlohmann::json stored_settings() const {
    if (json_.contains("stableqat")) return json_.at("stableqat");
    const auto bits = json_.find("w_bits");
    const std::string first_layer = "model.layers.0.self_attn.q_proj";
    if (bits == json_.end() || !bits->is_number_integer() || !has(first_layer + ".weight_clip_val")) return nlohmann::json::object();
    QuantizationSettings settings;
    settings.spec.bits = bits->get<int>();
    settings.spec.kind = has(first_layer + ".alpha_dsq") ? QuantizerKind::kDsq : QuantizerKind::kLsq;
    settings.spec.fp16_scales = false;
    return to_json(settings);
  }

  std::filesystem::path path_;
  nlohmann::json json_;
  ModelConfig config_;
  SafetensorsModel tensors_;
  nlohmann::json quantization_;
};

}  // namespace

std::unique_ptr<ModelSource> open_huggingface_source(const std::filesystem::path& directory) {
  nlohmann::json config = read_config(directory);
  if (is_packed_config(config)) return open_packed_source(directory, std::move(config));
  return std::make_unique<HuggingFaceSource>(directory, std::move(config));
}

}  // namespace stableqat
