// Shapes of published models with random weights, so that a benchmark needs no download.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/models/model_source.h"

namespace stableqat::bench {

// llama-3.2-1b, llama-3.2-3b, qwen3-0.6b, qwen3-1.7b, smollm2-135m, and tiny (120,000 weights, for trying things out).
std::vector<std::string_view> shape_names();

// The configuration of that model. Throws ConfigError for an unknown name. Thread-safe.
ModelConfig shape(std::string_view name);

// A model in memory whose matrices are drawn from a bell-shaped distribution of standard deviation 0.02 (the usual initialization), whose
// norm weights are 1 and biases 0. Same seed, same weights, on any machine. Nothing is stored: read() draws.
std::unique_ptr<ModelSource> random_model(const ModelConfig& config, std::uint64_t seed = 1);

}  // namespace stableqat::bench
