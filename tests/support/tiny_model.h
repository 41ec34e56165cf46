// A small Llama-class model made on the spot: random weights by seed, a tokenizer whose tokens are the 256 bytes and <|endoftext|>.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "stableqat/models/model_config.h"

namespace stableqat::testing {

// V 260, C 64, L 2, H 4, K 2, D 16, F 128.
ModelConfig tiny_config();

// Writes a Hugging Face directory (config.json, model.safetensors in fp32, tokenizer.json). Norm weights are near 1, others normal-ish with
// standard deviation 0.08.
void write_tiny_model(const std::filesystem::path& directory, const ModelConfig& config = tiny_config(), std::uint64_t seed = 1);

// JSON lines of English-like text, the same for the same seed.
void write_tiny_corpus(const std::filesystem::path& file, int documents, std::uint64_t seed = 7);

}  // namespace stableqat::testing
