#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "model_source_forms.h"
#include "models/gguf_names.h"
#include "stableqat/base/error.h"
#include "stableqat/io/gguf.h"

namespace stableqat {

namespace {

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
  std::optional<GgmlType> ggml_type(const std::string& name) const override { return require(name).type; }

  void read(const std::string& name, std::span<float> out) const override {
    file_.dequantize(require(name), out);
    if (config_.model_type != "llama" && config_.model_type != "smollm3") return;
    if (name.find(".q_proj.") != std::string::npos) undo_rotary_permutation(out, config_.num_attention_heads, config_.head_dim);
    if (name.find(".k_proj.") != std::string::npos) undo_rotary_permutation(out, config_.num_key_value_heads, config_.head_dim);
  }

 private:
  const GgufTensor* find(const std::string& name) const { return file_.find_tensor(gguf_tensor_name(name)); }

  const GgufTensor& require(const std::string& name) const {
    const GgufTensor* tensor = find(name);
    if (tensor == nullptr) {
      throw DataError(
          {file_.path().string(), "no tensor " + gguf_tensor_name(name), "a complete model", "convert or download the model again"});
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
