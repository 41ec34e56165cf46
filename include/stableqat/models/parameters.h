// Names and shapes of a model's parameters, known from its configuration alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "stableqat/models/model_config.h"

namespace stableqat {

enum class ParameterRole { kEmbedding, kHead, kNorm, kBias, kProjection };

struct ParameterShape {
  std::string name;  // Hugging Face's: "model.layers.0.self_attn.q_proj.weight"
  ParameterRole role;
  std::vector<std::int64_t> sizes;  // [N, M] of a projection, [V, C] of embedding and head, else one size

  std::int64_t elements() const;
};

// All parameters, embedding first, then the blocks from first to last, the last norm, and the head unless it is tied. Thread-safe.
std::vector<ParameterShape> parameter_shapes(const ModelConfig& config);

}  // namespace stableqat
