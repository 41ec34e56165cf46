#include "stableqat/models/model_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>
#include <span>
#include <string_view>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/io/gguf.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

// The families differ in a few places of one decoder.
struct Family {
  std::string_view model_type;  // also GGUF's architecture, but for Mistral, which is llama there
  const char* architecture;     // the class of transformers
  bool qkv_bias;                // always, without output bias
  bool qk_norm;
  bool skips_rope;
  std::int64_t default_head_dim;  // 0 = hidden_size / num_attention_heads
  bool default_tied;              // where config.json does not say whether the head is the embedding
};

constexpr std::array kFamilies{Family{"llama", "LlamaForCausalLM", false, false, false, 0, false},
                               Family{"mistral", "MistralForCausalLM", false, false, false, 0, false},
                               Family{"qwen2", "Qwen2ForCausalLM", true, false, false, 0, false},
                               Family{"qwen3", "Qwen3ForCausalLM", false, true, false, 128, false},
                               Family{"smollm3", "SmolLM3ForCausalLM", false, false, true, 0, true}};

constexpr const char* kFamilyNames = "llama, mistral, qwen2, qwen3 or smollm3";
constexpr std::int64_t kSmolLm3RopeInterval = 4;  // the last of so many layers has no rotation

const Family* find_family(std::string_view model_type) {
  const auto found = std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family& f) { return f.model_type == model_type; });
  return found == kFamilies.end() ? nullptr : &*found;
}

// Keys that describe the file, generation or training history and do not change what the model computes. The last three are what the
// authors' program leaves in the config.json of its checkpoints.
constexpr std::array kHarmlessKeys{"_attn_implementation_autoset",
                                   "_name_or_path",
                                   "architectures",
                                   "auto_map",
                                   "bos_token_id",
                                   "cache_implementation",
                                   "chat_template",
                                   "dtype",
                                   "eos_token_id",
                                   "initializer_range",
                                   "is_llama_config",
                                   "max_window_layers",
                                   "model_type",
                                   "pad_token_id",
                                   "pretraining_tp",
                                   "stableqat",
                                   "torch_dtype",
                                   "transformers.js_config",
                                   "transformers_version",
                                   "unsloth_fixed",
                                   "unsloth_version",
                                   "use_cache",
                                   "efficient",
                                   "sine_soft_q",
                                   "w_bits"};

// Keys that may be there as long as they ask for nothing.
constexpr std::array kIdleKeys{"attention_dropout", "mlp_bias", "mlp_dropout", "rope_interleaved", "use_mrope"};

constexpr std::array kUsedKeys{"attention_bias",
                               "head_dim",
                               "hidden_act",
                               "hidden_size",
                               "intermediate_size",
                               "layer_types",
                               "max_position_embeddings",
                               "no_rope_layer_interval",
                               "no_rope_layers",
                               "num_attention_heads",
                               "num_hidden_layers",
                               "num_key_value_heads",
                               "rms_norm_eps",
                               "rope_parameters",
                               "rope_scaling",
                               "rope_theta",
                               "sliding_window",
                               "tie_word_embeddings",
                               "use_sliding_window",
                               "vocab_size"};

[[noreturn]] void unsupported(const std::string& where, const std::string& key, const std::string& found, const std::string& expected) {
  throw DataError({where + ", key " + key, found, expected, "this model uses something that is not supported here"});
}

class Reader {
 public:
  Reader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  bool has(const char* key) const { return json_.contains(key) && !json_.at(key).is_null(); }

  template <class T>
  T get(const char* key) const {
    if (!has(key)) throw DataError({where_, "no key " + std::string(key), "a complete model configuration", "download the model again"});
    try {
      return json_.at(key).get<T>();
    } catch (const Json::exception&) {
      throw DataError({where_ + ", key " + key, json_.at(key).dump(), "a value of the right type", "download the model again"});
    }
  }

  template <class T>
  T get(const char* key, T otherwise) const {
    return has(key) ? get<T>(key) : otherwise;
  }

  const Json& json() const { return json_; }
  const std::string& where() const { return where_; }

 private:
  const Json& json_;
  std::string where_;
};

bool contains(std::span<const char* const> keys, const std::string& key) { return std::find(keys.begin(), keys.end(), key) != keys.end(); }

bool asks_for_nothing(const Json& value) { return value.is_null() || value == false || value == 0; }

void refuse_unsupported_keys(const Reader& reader) {
  for (const auto& item : reader.json().items()) {
    const bool idle = contains(kIdleKeys, item.key());
    if (idle ? asks_for_nothing(item.value()) : contains(kHarmlessKeys, item.key()) || contains(kUsedKeys, item.key())) continue;
    unsupported(reader.where(), item.key(), item.value().dump().substr(0, 80),
                idle ? "false or 0" : "only keys of Llama-, Qwen- and SmolLM-class models");
  }
}

// Every layer sees all tokens before it.
void refuse_sliding_windows(const Reader& reader, const ModelConfig& config) {
  if (reader.has("layer_types")) {
    for (const Json& type : reader.json().at("layer_types")) {
      if (type != "full_attention") unsupported(reader.where(), "layer_types", type.dump(), "\"full_attention\" in every layer");
    }
  }
  const bool windowed = reader.has("sliding_window") && (config.model_type == "mistral" || reader.get<bool>("use_sliding_window", false));
  if (windowed && reader.get<std::int64_t>("sliding_window") < config.max_position_embeddings) {
    unsupported(reader.where(), "sliding_window", reader.json().at("sliding_window").dump(),
                "none, or one not shorter than max_position_embeddings");
  }
}

std::vector<std::int64_t> every_nth_layer(std::int64_t interval, std::int64_t layers) {
  std::vector<std::int64_t> chosen;
  for (std::int64_t layer = interval - 1; layer < layers; layer += interval) chosen.push_back(layer);
  return chosen;
}

// SmolLM3's no_rope_layers has a 0 for each layer without rotation and a 1 for the others.
std::vector<std::int64_t> read_layers_without_rope(const Reader& reader, std::int64_t layers) {
  if (!reader.has("no_rope_layers")) {
    const auto interval = reader.get<std::int64_t>("no_rope_layer_interval", kSmolLm3RopeInterval);
    if (interval < 1) unsupported(reader.where(), "no_rope_layer_interval", std::to_string(interval), "at least 1");
    return every_nth_layer(interval, layers);
  }
  const auto rotated = reader.get<std::vector<std::int64_t>>("no_rope_layers");
  if (static_cast<std::int64_t>(rotated.size()) != layers) {
    throw DataError({reader.where() + ", key no_rope_layers", std::to_string(rotated.size()) + " entries",
                     "one for each of the " + std::to_string(layers) + " layers", "download the model again"});
  }
  std::vector<std::int64_t> chosen;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    if (rotated[static_cast<std::size_t>(layer)] == 0) chosen.push_back(layer);
  }
  return chosen;
}

void read_rope(const Reader& reader, ModelConfig& config) {
  config.rope_theta = reader.get<double>("rope_theta", 10000.0);
  // transformers 5 writes rope_parameters, which holds theta too; older versions write rope_scaling.
  const char* key = reader.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!reader.has(key)) return;
  const Json& json = reader.json().at(key);
  const Reader rope(json, reader.where() + ", " + key);
  if (!json.is_object()) unsupported(reader.where(), key, json.dump(), "an object");
  config.rope_theta = rope.get<double>("rope_theta", config.rope_theta);
  const std::string type = rope.get<std::string>("rope_type", rope.get<std::string>("type", "default"));
  if (type == "default") return;
  if (type != "llama3") unsupported(reader.where(), std::string(key) + ".rope_type", type, "default or llama3");
  RopeScaling scaling;
  scaling.factor = rope.get<double>("factor");
  scaling.low_freq_factor = rope.get<double>("low_freq_factor");
  scaling.high_freq_factor = rope.get<double>("high_freq_factor");
  scaling.original_max_position_embeddings = rope.get<std::int64_t>("original_max_position_embeddings");
  if (!(scaling.factor >= 1) || !(scaling.high_freq_factor > scaling.low_freq_factor) || scaling.original_max_position_embeddings < 1) {
    unsupported(reader.where(), key, json.dump(), "factor >= 1, high_freq_factor > low_freq_factor, a positive original length");
  }
  config.rope_scaling = scaling;
}

std::optional<std::int64_t> read_token_id(const Reader& reader, const char* key) {
  if (!reader.has(key)) return std::nullopt;
  const Json& value = reader.json().at(key);
  if (value.is_array() && !value.empty() && value.front().is_number_integer()) return value.front().get<std::int64_t>();
  return reader.get<std::int64_t>(key);
}

void check(const ModelConfig& config, const std::string& where) {
  const auto require_positive = [&where](const char* key, std::int64_t value, std::int64_t limit) {
    if (value < 1 || value > limit) {
      throw DataError({where + ", key " + key, std::to_string(value), "1.." + std::to_string(limit), "download the model again"});
    }
  };
  require_positive("vocab_size", config.vocab_size, std::int64_t{1} << 24);
  require_positive("hidden_size", config.hidden_size, std::int64_t{1} << 20);
  require_positive("num_hidden_layers", config.num_hidden_layers, 4096);
  require_positive("num_attention_heads", config.num_attention_heads, 4096);
  require_positive("num_key_value_heads", config.num_key_value_heads, config.num_attention_heads);
  require_positive("head_dim", config.head_dim, 4096);
  require_positive("intermediate_size", config.intermediate_size, std::int64_t{1} << 22);
  require_positive("max_position_embeddings", config.max_position_embeddings, std::int64_t{1} << 32);
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    throw DataError({where + ", key num_key_value_heads", std::to_string(config.num_key_value_heads),
                     "a divisor of num_attention_heads = " + std::to_string(config.num_attention_heads), "download the model again"});
  }
  if (config.head_dim % 2 != 0) {
    throw DataError({where + ", key head_dim", std::to_string(config.head_dim), "an even number", "download the model again"});
  }
  if (!(config.rms_norm_eps > 0) || !(config.rope_theta > 0)) {
    throw DataError({where, "rms_norm_eps or rope_theta not above 0", "positive values", "download the model again"});
  }
}

// GGUF keeps constants as fp32; the decimal that was meant is the shortest one that gives the same fp32.
double meant_decimal(double stored) {
  const float value = static_cast<float>(stored);
  std::array<char, 32> text{};
  for (int digits = 1; digits <= 9; ++digits) {
    std::snprintf(text.data(), text.size(), "%.*g", digits, static_cast<double>(value));
    if (std::strtof(text.data(), nullptr) == value) return std::strtod(text.data(), nullptr);
  }
  return stored;
}

// Llama-3.x files hold the divisors of the frequencies (rope_freqs.weight) instead of the numbers that they follow from. All models of that
// kind share three of the four numbers, unless keys of our own say otherwise; the fourth is the largest divisor.
std::optional<RopeScaling> rope_scaling_from_gguf(const GgufFile& file, const ModelConfig& config) {
  const GgufTensor* tensor = file.find_tensor("rope_freqs.weight");
  if (tensor == nullptr) return std::nullopt;
  const std::string where = file.path().string() + ", tensor rope_freqs.weight";
  const std::size_t half = static_cast<std::size_t>(config.head_dim) / 2;
  if (tensor->shape != std::vector<std::int64_t>{config.head_dim / 2}) {
    throw DataError({where, "another size", std::to_string(half) + " values", "convert or download the model again"});
  }
  std::vector<float> divisors(half);
  file.dequantize(*tensor, divisors);
  RopeScaling scaling;
  scaling.low_freq_factor = file.get_float("stableqat.rope.scaling.low_freq_factor").value_or(scaling.low_freq_factor);
  scaling.high_freq_factor = file.get_float("stableqat.rope.scaling.high_freq_factor").value_or(scaling.high_freq_factor);
  scaling.original_max_position_embeddings =
      file.get_int("stableqat.rope.scaling.original_context_length").value_or(scaling.original_max_position_embeddings);
  scaling.factor = static_cast<double>(*std::max_element(divisors.begin(), divisors.end()));
  if (!(scaling.low_freq_factor > 0 && scaling.high_freq_factor > scaling.low_freq_factor &&
        scaling.original_max_position_embeddings > 0)) {
    throw DataError({file.path().string() + ", keys stableqat.rope.scaling", "factors that are not in order",
                     "0 < low < high, a context above 0", "export the model again"});
  }
  for (std::size_t i = 0; i < half; ++i) {
    const double plain = std::pow(config.rope_theta, -static_cast<double>(i) / static_cast<double>(half));
    const double expected = plain / scaling.scaled(plain);
    constexpr double kRounding = 4 * std::numeric_limits<float>::epsilon();  // the file keeps fp32
    if (!(std::abs(static_cast<double>(divisors[i]) - expected) <= kRounding * expected)) {
      throw DataError({where, "divisors that are not those of Llama 3's scaling", "those, or no such tensor",
                       "load the Hugging Face directory of this model instead"});
    }
  }
  return scaling;
}

}  // namespace

double RopeScaling::scaled(double frequency) const {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double turns = static_cast<double>(original_max_position_embeddings) / wavelength;
  const double blend = std::clamp((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0.0, 1.0);
  return frequency * ((1 - blend) / factor + blend);
}

bool ModelConfig::has_rope(std::int64_t layer) const {
  return !std::binary_search(layers_without_rope.begin(), layers_without_rope.end(), layer);
}

ModelConfig model_config_from_json(const Json& json, const std::string& where) {
  if (!json.is_object()) throw DataError({where, "no JSON object", "a model configuration", "download the model again"});
  const Reader reader(json, where);
  ModelConfig config;
  config.model_type = reader.get<std::string>("model_type");
  const Family* family = find_family(config.model_type);
  if (family == nullptr) unsupported(where, "model_type", config.model_type, kFamilyNames);
  refuse_unsupported_keys(reader);
  config.vocab_size = reader.get<std::int64_t>("vocab_size");
  config.hidden_size = reader.get<std::int64_t>("hidden_size");
  config.num_hidden_layers = reader.get<std::int64_t>("num_hidden_layers");
  config.num_attention_heads = reader.get<std::int64_t>("num_attention_heads");
  config.num_key_value_heads = reader.get<std::int64_t>("num_key_value_heads", config.num_attention_heads);
  if (config.num_attention_heads < 1) unsupported(where, "num_attention_heads", std::to_string(config.num_attention_heads), "at least 1");
  const std::int64_t own_head_dim = family->default_head_dim;
  config.head_dim = reader.get<std::int64_t>("head_dim", own_head_dim > 0 ? own_head_dim : config.hidden_size / config.num_attention_heads);
  config.intermediate_size = reader.get<std::int64_t>("intermediate_size");
  config.max_position_embeddings = reader.get<std::int64_t>("max_position_embeddings", 2048);
  config.rms_norm_eps = reader.get<double>("rms_norm_eps", 1e-6);
  config.tie_word_embeddings = reader.get<bool>("tie_word_embeddings", family->default_tied);
  const bool attention_bias = reader.get<bool>("attention_bias", false);
  config.attention_qkv_bias = family->qkv_bias || attention_bias;
  config.attention_output_bias = !family->qkv_bias && attention_bias;
  config.qk_norm = family->qk_norm;
  config.bos_token_id = read_token_id(reader, "bos_token_id");
  config.eos_token_id = read_token_id(reader, "eos_token_id");
  read_rope(reader, config);
  if (const auto act = reader.get<std::string>("hidden_act", "silu"); act != "silu") unsupported(where, "hidden_act", act, "silu");
  refuse_sliding_windows(reader, config);
  check(config, where);
  if (family->skips_rope) config.layers_without_rope = read_layers_without_rope(reader, config.num_hidden_layers);
  return config;
}

ModelConfig model_config_from_gguf(const GgufFile& file) {
  const std::string where = file.path().string();
  const auto architecture = file.get_string("general.architecture");
  const Family* family = architecture ? find_family(*architecture) : nullptr;
  if (family == nullptr) {
    throw DataError(
        {where, "general.architecture " + architecture.value_or("missing"), kFamilyNames, "use a model of one of these architectures"});
  }
  const auto key = [&architecture](const char* name) { return *architecture + "." + name; };
  const auto require_int = [&](const char* name) {
    const auto value = file.get_int(key(name));
    if (!value) throw DataError({where, "no key " + key(name), "a complete GGUF model", "convert or download the model again"});
    return *value;
  };
  ModelConfig config;
  config.model_type = *architecture;
  config.hidden_size = require_int("embedding_length");
  config.num_hidden_layers = require_int("block_count");
  config.num_attention_heads = require_int("attention.head_count");
  if (config.num_attention_heads < 1) throw DataError({where, "attention.head_count below 1", "at least 1", "download the model again"});
  config.num_key_value_heads = file.get_int(key("attention.head_count_kv")).value_or(config.num_attention_heads);
  config.head_dim = file.get_int(key("attention.key_length"))
                        .value_or(file.get_int(key("rope.dimension_count")).value_or(config.hidden_size / config.num_attention_heads));
  config.intermediate_size = require_int("feed_forward_length");
  config.max_position_embeddings = file.get_int(key("context_length")).value_or(2048);
  config.rms_norm_eps = meant_decimal(file.get_float(key("attention.layer_norm_rms_epsilon")).value_or(1e-5));
  config.rope_theta = meant_decimal(file.get_float(key("rope.freq_base")).value_or(10000.0));
  config.tie_word_embeddings = file.find_tensor("output.weight") == nullptr;
  config.attention_qkv_bias = file.find_tensor("blk.0.attn_q.bias") != nullptr;
  config.attention_output_bias = file.find_tensor("blk.0.attn_output.bias") != nullptr;
  config.qk_norm = file.find_tensor("blk.0.attn_q_norm.weight") != nullptr;
  config.bos_token_id = file.get_int("tokenizer.ggml.bos_token_id");
  config.eos_token_id = file.get_int("tokenizer.ggml.eos_token_id");
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    throw DataError({where, "no matrix token_embd.weight", "a complete GGUF model", "convert or download the model again"});
  }
  config.vocab_size = embedding->shape[0];
  if (const auto scaling = file.get_string(key("rope.scaling.type")); scaling && *scaling != "none") {
    throw DataError({where + ", key " + key("rope.scaling.type"), *scaling, "none", "load another conversion of this model"});
  }
  check(config, where);
  config.rope_scaling = rope_scaling_from_gguf(file, config);
  if (family->skips_rope) config.layers_without_rope = every_nth_layer(kSmolLm3RopeInterval, config.num_hidden_layers);
  return config;
}

Json to_json(const ModelConfig& config) {
  const Family* family = find_family(config.model_type);
  if (family == nullptr) throw ConfigError({"model type", config.model_type, kFamilyNames, ""});
  Json json{{"architectures", {family->architecture}},
            {"model_type", config.model_type},
            {"vocab_size", config.vocab_size},
            {"hidden_size", config.hidden_size},
            {"num_hidden_layers", config.num_hidden_layers},
            {"num_attention_heads", config.num_attention_heads},
            {"num_key_value_heads", config.num_key_value_heads},
            {"head_dim", config.head_dim},
            {"intermediate_size", config.intermediate_size},
            {"max_position_embeddings", config.max_position_embeddings},
            {"rms_norm_eps", config.rms_norm_eps},
            {"rope_theta", config.rope_theta},
            {"rope_scaling", nullptr},
            {"hidden_act", "silu"},
            {"tie_word_embeddings", config.tie_word_embeddings},
            {"torch_dtype", "float32"}};
  if (!family->qkv_bias) json["attention_bias"] = config.attention_qkv_bias;
  if (family->skips_rope) {
    std::vector<int> rotated;
    for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) rotated.push_back(config.has_rope(layer) ? 1 : 0);
    json["no_rope_layers"] = rotated;
  }
  if (config.model_type == "mistral") json["sliding_window"] = nullptr;
  if (config.rope_scaling) {
    const RopeScaling& scaling = *config.rope_scaling;
    json["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", scaling.factor},
                            {"low_freq_factor", scaling.low_freq_factor},
                            {"high_freq_factor", scaling.high_freq_factor},
                            {"original_max_position_embeddings", scaling.original_max_position_embeddings}};
  }
  if (config.bos_token_id) json["bos_token_id"] = *config.bos_token_id;
  if (config.eos_token_id) json["eos_token_id"] = *config.eos_token_id;
  return json;
}

}  // namespace stableqat
