// A model on disk, whatever its form: Hugging Face directory, checkpoint of this program, or GGUF file. One naming (Hugging Face's), one
// row order.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "stableqat/io/ggml_types.h"
#include "stableqat/models/model_config.h"

namespace stableqat {

// Const members are thread-safe.
class ModelSource {
 public:
  // Opens `path`. Throws DataError when it is none of the known forms or is damaged.
  static std::unique_ptr<ModelSource> open(const std::filesystem::path& path);
  virtual ~ModelSource() = default;

  virtual const std::filesystem::path& path() const noexcept = 0;
  virtual const ModelConfig& config() const noexcept = 0;

  // Quantization settings kept in config.json under "stableqat" by our checkpoints, or the same for the authors' "w_bits"; an empty object
  // elsewhere.
  virtual const nlohmann::json& quantization() const noexcept = 0;

  // Tensors by their Hugging Face names ("model.layers.0.self_attn.q_proj.weight"); shapes rows first.
  virtual bool has(const std::string& name) const = 0;
  virtual std::vector<std::int64_t> shape(const std::string& name) const = 0;

  // Decodes a whole tensor to fp32; `out` holds all its elements. Rows of q and k are in Hugging Face order (GGUF's permutation undone).
  // Throws DataError when the tensor is absent or its type cannot be decoded.
  virtual void read(const std::string& name, std::span<float> out) const = 0;

  // The type in which a GGUF file holds a tensor; nullopt for other forms of models. Throws DataError when the tensor is absent.
  virtual std::optional<GgmlType> ggml_type(const std::string& /*name*/) const { return std::nullopt; }
};

}  // namespace stableqat
