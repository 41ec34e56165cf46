// PREFIX.json of token files.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "stableqat/data/token_file.h"

namespace stableqat {

std::string to_json_text(const TokenFileInfo& info);

// nullopt when there is no such file; DataError when it cannot be used.
std::optional<TokenFileInfo> read_token_file_info(const std::filesystem::path& path);

}  // namespace stableqat
