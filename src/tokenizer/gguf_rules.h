// The values of tokenizer.ggml.pre and the rules behind each: llama.cpp, llama_vocab::impl::load.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tokenizer/spec.h"

namespace stableqat {

// The key of a tokenizer's setting in a GGUF file.
inline std::string gguf_key(std::string_view name) { return "tokenizer.ggml." + std::string(name); }

// Values of tokenizer.ggml.token_type.
enum class GgufTokenType : std::int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct GgufPreTokenizer {
  std::string_view name;
  PreTokenizer pre_tokenizer;
  bool ignore_merges;
  bool adds_bos;  // where the file does not say
  bool normal_form_c;
};

inline constexpr GgufPreTokenizer kGgufPreTokenizers[] = {
    {"smollm", {true, WordPattern::kGpt2}, false, false, false},
    {"gpt-2", {false, WordPattern::kGpt2}, false, false, false},
    {"llama-bpe", {false, WordPattern::kLlama3}, true, true, false},
    {"qwen2", {false, WordPattern::kQwen2}, false, false, true},
};

}  // namespace stableqat
