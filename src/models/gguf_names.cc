#include "models/gguf_names.h"

#include <map>

namespace stableqat {

namespace {

// Names inside a block: Hugging Face -> GGUF.
const std::map<std::string_view, std::string_view> kBlockNames{
    {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"}};

const std::map<std::string_view, std::string_view> kModelNames{
    {"model.embed_tokens.weight", "token_embd.weight"}, {"model.norm.weight", "output_norm.weight"}, {"lm_head.weight", "output.weight"}};

}  // namespace

std::string gguf_tensor_name(std::string_view name) {
  if (const auto found = kModelNames.find(name); found != kModelNames.end()) return std::string(found->second);
  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return "";
  name.remove_prefix(kPrefix.size());
  const std::size_t index_end = name.find('.');
  const std::size_t suffix = name.rfind('.');
  if (index_end == std::string_view::npos || suffix <= index_end) return "";
  const auto block = kBlockNames.find(name.substr(index_end + 1, suffix - index_end - 1));
  if (block == kBlockNames.end()) return "";
  return "blk." + std::string(name.substr(0, index_end)) + "." + std::string(block->second) + std::string(name.substr(suffix));
}

}  // namespace stableqat
