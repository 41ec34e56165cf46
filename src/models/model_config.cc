#include "stableqat/models/model_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "stableqat/base/error.h"
#include "stableqat/io/gguf.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

// Keys that describe the file, generation or training history and do not change what the model computes.
constexpr std::array kHarmlessKeys{"_name_or_path",        "architectures",
                                   "attention_dropout",    "auto_map",
                                   "bos_token_id",         "cache_implementation",
                                   "chat_template",        "dtype",
                                   "eos_token_id",         "initializer_range",
                                   "is_llama_config",      "max_window_layers",
                                   "mlp_dropout",          "model_type",
                                   "pad_token_id",         "pretraining_tp",
                                   "rope_interleaved",     "stableqat",
                                   "torch_dtype",          "transformers.js_config",
                                   "transformers_version", "unsloth_fixed",
                                   "unsloth_version",      "use_cache",
                                   "layer_types"};

constexpr std::array kUsedKeys{"attention_bias",     "head_dim",
                               "hidden_act",         "hidden_size",
                               "intermediate_size",  "max_position_embeddings",
                               "mlp_bias",           "num_attention_heads",
                               "num_hidden_layers",  "num_key_value_heads",
                               "rms_norm_eps",       "rope_parameters",
                               "rope_scaling",       "rope_theta",
                               "sliding_window",     "tie_word_embeddings",
                               "use_sliding_window", "vocab_size"};

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

void refuse_unknown_keys(const Reader& reader) {
  for (const auto& item : reader.json().items()) {
    const auto is_key = [&item](const char* key) { return item.key() == key; };
    if (std::none_of(kHarmlessKeys.begin(), kHarmlessKeys.end(), is_key) && std::none_of(kUsedKeys.begin(), kUsedKeys.end(), is_key)) {
      unsupported(reader.where(), item.key(), item.value().dump().substr(0, 80), "only keys of Llama- and Qwen-class models");
    }
  }
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

}  // namespace

ModelConfig model_config_from_json(const Json& json, const std::string& where) {
  if (!json.is_object()) throw DataError({where, "no JSON object", "a model configuration", "download the model again"});
  const Reader reader(json, where);
  ModelConfig config;
  config.model_type = reader.get<std::string>("model_type");
  const bool qwen2 = config.model_type == "qwen2";
  const bool qwen3 = config.model_type == "qwen3";
  if (!qwen2 && !qwen3 && config.model_type != "llama" && config.model_type != "mistral") {
    unsupported(where, "model_type", config.model_type, "llama, mistral, qwen2 or qwen3");
  }
  refuse_unknown_keys(reader);
  config.vocab_size = reader.get<std::int64_t>("vocab_size");
  config.hidden_size = reader.get<std::int64_t>("hidden_size");
  config.num_hidden_layers = reader.get<std::int64_t>("num_hidden_layers");
  config.num_attention_heads = reader.get<std::int64_t>("num_attention_heads");
  config.num_key_value_heads = reader.get<std::int64_t>("num_key_value_heads", config.num_attention_heads);
  if (config.num_attention_heads < 1) unsupported(where, "num_attention_heads", std::to_string(config.num_attention_heads), "at least 1");
  config.head_dim = reader.get<std::int64_t>("head_dim", qwen3 ? 128 : config.hidden_size / config.num_attention_heads);
  config.intermediate_size = reader.get<std::int64_t>("intermediate_size");
  config.max_position_embeddings = reader.get<std::int64_t>("max_position_embeddings", 2048);
  config.rms_norm_eps = reader.get<double>("rms_norm_eps", 1e-6);
  config.tie_word_embeddings = reader.get<bool>("tie_word_embeddings", false);
  const bool attention_bias = reader.get<bool>("attention_bias", false);
  config.attention_qkv_bias = qwen2 || attention_bias;
  config.attention_output_bias = !qwen2 && attention_bias;
  config.qk_norm = qwen3;
  config.bos_token_id = read_token_id(reader, "bos_token_id");
  config.eos_token_id = read_token_id(reader, "eos_token_id");
  read_rope(reader, config);
  if (reader.get<bool>("mlp_bias", false)) unsupported(where, "mlp_bias", "true", "false");
  if (const auto act = reader.get<std::string>("hidden_act", "silu"); act != "silu") unsupported(where, "hidden_act", act, "silu");
  const bool windowed = reader.has("sliding_window") && (config.model_type == "mistral" || reader.get<bool>("use_sliding_window", false));
  if (windowed && reader.get<std::int64_t>("sliding_window") < config.max_position_embeddings) {
    unsupported(where, "sliding_window", json.at("sliding_window").dump(), "none, or one not shorter than max_position_embeddings");
  }
  check(config, where);
  return config;
}

ModelConfig model_config_from_gguf(const GgufFile& file) {
  const std::string where = file.path().string();
  const auto architecture = file.get_string("general.architecture");
  if (!architecture || (*architecture != "llama" && *architecture != "qwen2" && *architecture != "qwen3")) {
    throw DataError({where, "general.architecture " + architecture.value_or("missing"), "llama, qwen2 or qwen3",
                     "use a model of one of these architectures"});
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
  if (file.find_tensor("rope_freqs.weight") != nullptr) {
    throw DataError({where, "tensor rope_freqs.weight", "a model without RoPE scaling factors",
                     "load the Hugging Face directory of this model instead"});
  }
  if (const auto scaling = file.get_string(key("rope.scaling.type")); scaling && *scaling != "none") {
    throw DataError({where + ", key " + key("rope.scaling.type"), *scaling, "none", "load another conversion of this model"});
  }
  check(config, where);
  return config;
}

Json to_json(const ModelConfig& config) {
  const bool qwen2 = config.model_type == "qwen2";
  const bool qwen3 = config.model_type == "qwen3";
  const char* architecture = qwen2 ? "Qwen2ForCausalLM" : qwen3 ? "Qwen3ForCausalLM" : "LlamaForCausalLM";
  if (config.model_type == "mistral") architecture = "MistralForCausalLM";
  Json json{{"architectures", {architecture}},
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
  if (!qwen2) json["attention_bias"] = config.attention_qkv_bias;
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
