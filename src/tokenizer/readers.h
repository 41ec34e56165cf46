// Readers and writer of tokenizer files.
#pragma once

#include <filesystem>
#include <vector>

#include "stableqat/io/gguf.h"
#include "tokenizer/spec.h"

namespace stableqat {

TokenizerSpec read_gguf_tokenizer(const GgufFile& file);

TokenizerSpec read_huggingface_tokenizer(const std::filesystem::path& path);

// tokenizer.json and tokenizer_config.json that say what the spec says.
std::vector<OriginalFile> huggingface_files(const TokenizerSpec& spec);

}  // namespace stableqat
