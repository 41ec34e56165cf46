// Readers and writers of tokenizer files.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/io/gguf.h"
#include "tokenizer/spec.h"

namespace stableqat {

class GgufWriter;

TokenizerSpec read_gguf_tokenizer(const GgufFile& file);

TokenizerSpec read_huggingface_tokenizer(const std::filesystem::path& path);

// The content of a tokenizer.json by itself; `name` stands for the file in messages.
TokenizerSpec read_tokenizer_json(std::string_view json, const std::string& name);

// tokenizer.json and tokenizer_config.json that say what the spec says.
std::vector<OriginalFile> huggingface_files(const TokenizerSpec& spec);

// The keys tokenizer.* for an embedding of `rows` rows. Errors: Tokenizer::write_gguf().
void write_gguf_tokenizer(const TokenizerSpec& spec, std::int64_t rows, GgufWriter& writer);

}  // namespace stableqat
