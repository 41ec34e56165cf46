#include "stableqat/models/parameters.h"

#include <functional>
#include <numeric>

namespace stableqat {

std::int64_t ParameterShape::elements() const { return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{1}, std::multiplies<>()); }

std::vector<ParameterShape> parameter_shapes(const ModelConfig& config) {
  const std::int64_t c = config.hidden_size;
  const std::int64_t f = config.intermediate_size;
  const std::int64_t q = config.num_attention_heads * config.head_dim;
  const std::int64_t kv = config.num_key_value_heads * config.head_dim;
  std::vector<ParameterShape> shapes;
  const auto projection = [&shapes](const std::string& name, std::int64_t out, std::int64_t in, bool has_bias) {
    shapes.push_back({name + ".weight", ParameterRole::kProjection, {out, in}});
    if (has_bias) shapes.push_back({name + ".bias", ParameterRole::kBias, {out}});
  };
  const auto norm = [&shapes](const std::string& name, std::int64_t size) {
    shapes.push_back({name + ".weight", ParameterRole::kNorm, {size}});
  };
  shapes.push_back({"model.embed_tokens.weight", ParameterRole::kEmbedding, {config.vocab_size, c}});
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    norm(prefix + "input_layernorm", c);
    projection(prefix + "self_attn.q_proj", q, c, config.attention_qkv_bias);
    projection(prefix + "self_attn.k_proj", kv, c, config.attention_qkv_bias);
    projection(prefix + "self_attn.v_proj", kv, c, config.attention_qkv_bias);
    projection(prefix + "self_attn.o_proj", c, q, config.attention_output_bias);
    if (config.qk_norm) {
      norm(prefix + "self_attn.q_norm", config.head_dim);
      norm(prefix + "self_attn.k_norm", config.head_dim);
    }
    norm(prefix + "post_attention_layernorm", c);
    projection(prefix + "mlp.gate_proj", f, c, false);
    projection(prefix + "mlp.up_proj", f, c, false);
    projection(prefix + "mlp.down_proj", c, f, false);
  }
  norm("model.norm", c);
  if (!config.tie_word_embeddings) shapes.push_back({"lm_head.weight", ParameterRole::kHead, {config.vocab_size, c}});
  return shapes;
}

}  // namespace stableqat
