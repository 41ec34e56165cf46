// Comparison of a tokenizer with token ids that another program made.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/tokenizer/tokenizer.h"

namespace stableqat::golden {

// A part of a text file: what follows a line "===== name =====".
struct Section {
  std::string name;
  std::string text;
};

// The sections of a plain or .xz file, bytes as they are. Throws DataError.
std::vector<Section> read_sections(const std::filesystem::path& path);

// SHA-256 of the ids as little-endian uint32, in hex.
std::string sha256(std::span<const std::int32_t> ids);

struct TokenComparison {
  std::size_t sections = 0;
  std::vector<std::string> mismatches;  // one line each: section, what differs
};

// Encodes each section named in the JSON file {name: {count, sha256, first}} and compares. Throws DataError.
TokenComparison compare_tokens(const Tokenizer& tokenizer, const std::filesystem::path& golden_file,
                               const std::filesystem::path& text_file);

// A GGUF file, or a Hugging Face folder or tokenizer.json.
Tokenizer open_tokenizer(const std::filesystem::path& model);

}  // namespace stableqat::golden
