#include "stableqat/bench/shapes.h"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/models/parameters.h"

namespace stableqat::bench {

namespace {

struct Shape {
  std::string_view name;
  std::string_view model_type;
  std::int64_t vocabulary, hidden, layers, heads, key_value_heads, head_size, feed_forward, positions;
  double rope_theta;
  bool is_tied;
};

// From the models' config.json.
constexpr std::array kShapes{
    Shape{"llama-3.2-1b", "llama", 128256, 2048, 16, 32, 8, 64, 8192, 131072, 5e5, true},
    Shape{"llama-3.2-3b", "llama", 128256, 3072, 28, 24, 8, 128, 8192, 131072, 5e5, true},
    Shape{"qwen3-0.6b", "qwen3", 151936, 1024, 28, 16, 8, 128, 3072, 40960, 1e6, true},
    Shape{"qwen3-1.7b", "qwen3", 151936, 2048, 28, 16, 8, 128, 6144, 40960, 1e6, true},
    Shape{"smollm2-135m", "llama", 49152, 576, 30, 9, 3, 64, 1536, 8192, 1e5, true},
    Shape{"tiny", "llama", 512, 64, 2, 4, 2, 16, 192, 8192, 1e4, true},
};

// splitmix64 (Steele, Lea, Flood 2014) of a counter: any element can be drawn alone.
std::uint64_t mixed(std::uint64_t counter) {
  std::uint64_t z = counter * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

// The sum of four uniform 16-bit numbers, centered: standard deviation 65536 / sqrt(3).
float bell_shaped(std::uint64_t bits) {
  const std::uint64_t sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
  return static_cast<float>(static_cast<std::int64_t>(sum) - 2 * 65535);
}

class RandomModel final : public ModelSource {
 public:
  RandomModel(const ModelConfig& config, std::uint64_t seed) : config_(config), seed_(seed) {
    for (ParameterShape& parameter : parameter_shapes(config)) shapes_.emplace(parameter.name, std::move(parameter.sizes));
  }

  const std::filesystem::path& path() const noexcept override { return path_; }
  const ModelConfig& config() const noexcept override { return config_; }
  const nlohmann::json& quantization() const noexcept override { return quantization_; }

  bool has(const std::string& name) const override { return shapes_.contains(name); }

  std::vector<std::int64_t> shape(const std::string& name) const override {
    if (const auto found = shapes_.find(name); found != shapes_.end()) return found->second;
    throw DataError({path_.string(), "no tensor " + name, "a parameter of the model", ""});
  }

  void read(const std::string& name, std::span<float> out) const override {
    if (shape(name).size() == 1) {
      std::fill(out.begin(), out.end(), name.ends_with(".bias") ? 0.0F : 1.0F);
      return;
    }
    std::uint64_t stream = seed_;
    for (const char c : name) stream = mixed(stream + static_cast<unsigned char>(c));
    constexpr float kScale = 0.02F * 1.7320508F / 65536;
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = kScale * bell_shaped(mixed(stream + i));
  }

 private:
  std::filesystem::path path_ = "random weights";
  nlohmann::json quantization_ = nlohmann::json::object();
  ModelConfig config_;
  std::uint64_t seed_;
  std::map<std::string, std::vector<std::int64_t>> shapes_;
};

}  // namespace

std::vector<std::string_view> shape_names() {
  std::vector<std::string_view> names;
  for (const Shape& shape : kShapes) names.push_back(shape.name);
  return names;
}

ModelConfig shape(std::string_view name) {
  for (const Shape& shape : kShapes) {
    if (shape.name != name) continue;
    ModelConfig config;
    config.model_type = shape.model_type;
    config.vocab_size = shape.vocabulary;
    config.hidden_size = shape.hidden;
    config.num_hidden_layers = shape.layers;
    config.num_attention_heads = shape.heads;
    config.num_key_value_heads = shape.key_value_heads;
    config.head_dim = shape.head_size;
    config.intermediate_size = shape.feed_forward;
    config.max_position_embeddings = shape.positions;
    config.rope_theta = shape.rope_theta;
    config.tie_word_embeddings = shape.is_tied;
    config.qk_norm = shape.model_type == "qwen3";
    if (name.starts_with("llama-3.2")) config.rope_scaling = RopeScaling{32.0, 1.0, 4.0, 8192};
    return config;
  }
  std::string names;
  for (const std::string_view known : shape_names()) names += (names.empty() ? "" : ", ") + std::string(known);
  throw ConfigError({"--shape", std::string(name), "one of " + names, ""});
}

std::unique_ptr<ModelSource> random_model(const ModelConfig& config, std::uint64_t seed) {
  return std::make_unique<RandomModel>(config, seed);
}

}  // namespace stableqat::bench
