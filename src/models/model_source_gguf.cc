#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "model_source_forms.h"
#include "stableqat/base/error.h"
#include "stableqat/io/gguf.h"

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

// "" when GGUF has no such tensor.
std::string gguf_name(std::string_view name) {
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

// llama.cpp rotates adjacent pairs, Hugging Face halves: within a head, its row 2i+r is ours r*D/2+i.
void undo_rotary_permutation(std::span<float> values, std::int64_t heads, std::int64_t head_dim) {
  const std::vector<float> stored(values.begin(), values.end());
  const std::size_t rows = static_cast<std::size_t>(heads * head_dim);
  const std::size_t half = static_cast<std::size_t>(head_dim) / 2;
  const std::size_t columns = values.size() / rows;
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t head = row / (2 * half);
    const std::size_t inside = row % (2 * half);
    const std::size_t source = head * 2 * half + 2 * (inside % half) + inside / half;
    std::copy_n(stored.begin() + static_cast<std::ptrdiff_t>(source * columns), columns,
                values.begin() + static_cast<std::ptrdiff_t>(row * columns));
  }
}

class GgufSource final : public ModelSource {
 public:
  explicit GgufSource(const std::filesystem::path& path) : file_(path), config_(model_config_from_gguf(file_)) {}

  const std::filesystem::path& path() const noexcept override { return file_.path(); }
  const ModelConfig& config() const noexcept override { return config_; }
  const nlohmann::json& quantization() const noexcept override { return no_quantization_; }
  bool has(const std::string& name) const override { return find(name) != nullptr; }
  std::vector<std::int64_t> shape(const std::string& name) const override { return require(name).shape; }

  void read(const std::string& name, std::span<float> out) const override {
    file_.dequantize(require(name), out);
    if (config_.model_type != "llama" && config_.model_type != "smollm3") return;
    if (name.find(".q_proj.") != std::string::npos) undo_rotary_permutation(out, config_.num_attention_heads, config_.head_dim);
    if (name.find(".k_proj.") != std::string::npos) undo_rotary_permutation(out, config_.num_key_value_heads, config_.head_dim);
  }

 private:
  const GgufTensor* find(const std::string& name) const { return file_.find_tensor(gguf_name(name)); }

  const GgufTensor& require(const std::string& name) const {
    const GgufTensor* tensor = find(name);
    if (tensor == nullptr) {
      throw DataError({file_.path().string(), "no tensor " + gguf_name(name), "a complete model", "convert or download the model again"});
    }
    return *tensor;
  }

  GgufFile file_;
  ModelConfig config_;
  nlohmann::json no_quantization_ = nlohmann::json::object();
};

}  // namespace

std::unique_ptr<ModelSource> open_gguf_source(const std::filesystem::path& path) { return std::make_unique<GgufSource>(path); }

}  // namespace stableqat
