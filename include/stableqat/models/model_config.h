// Shape and constants of a decoder-only language model, read from a Hugging Face config.json or from GGUF metadata.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace stableqat {

class GgufFile;

// Llama-3's RoPE scaling ("rope_type": "llama3"): wavelengths above original/low_freq_factor are stretched by factor, those below
// original/high_freq_factor stay, between them the two are blended.
struct RopeScaling {
  double factor = 8.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  std::int64_t original_max_position_embeddings = 8192;

  // The inverse frequency to use in place of `frequency`.
  double scaled(double frequency) const;

  bool operator==(const RopeScaling&) const = default;
};

// Letters of the design: V vocabulary, C hidden, L layers, H heads, K key/value heads, D head size, F feed-forward.
struct ModelConfig {
  std::string model_type = "llama";      // Hugging Face model_type: llama, mistral, qwen2, qwen3, smollm3
  std::int64_t vocab_size = 0;           // V
  std::int64_t hidden_size = 0;          // C
  std::int64_t num_hidden_layers = 0;    // L
  std::int64_t num_attention_heads = 0;  // H
  std::int64_t num_key_value_heads = 0;  // K
  std::int64_t head_dim = 0;             // D
  std::int64_t intermediate_size = 0;    // F
  std::int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-5;
  double rope_theta = 10000.0;
  std::optional<RopeScaling> rope_scaling;
  std::vector<std::int64_t> layers_without_rope;  // ascending; their q and k are not rotated (SmolLM3's NoPE layers)
  bool tie_word_embeddings = false;
  bool attention_qkv_bias = false;  // q, k, v carry a bias (Qwen2)
  bool attention_output_bias = false;
  bool qk_norm = false;  // RMSNorm over each head of q and k before RoPE (Qwen3)
  std::optional<std::int64_t> bos_token_id;
  std::optional<std::int64_t> eos_token_id;

  bool has_rope(std::int64_t layer) const;

  bool operator==(const ModelConfig&) const = default;
};

// From config.json, as transformers 4 and 5 write it. Throws DataError for missing or senseless values and for keys that change the model
// but are not supported (each named). `where` names the file in messages.
ModelConfig model_config_from_json(const nlohmann::json& json, const std::string& where);

// From GGUF metadata (architectures llama, which is Mistral's too, qwen2, qwen3, smollm3). Throws DataError.
ModelConfig model_config_from_gguf(const GgufFile& file);

// The config.json that transformers reads, with `torch_dtype` float32.
nlohmann::json to_json(const ModelConfig& config);

}  // namespace stableqat
