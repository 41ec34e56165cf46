// PREFIX.json of token files.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "stableqat/data/token_file.h"

namespace stableqat {

std::string to_json_text(const TokenFileInfo& info);

// Its reverse; `where` names the text in messages. DataError when it cannot be used.
TokenFileInfo token_file_info_from_text(const std::string& text, const std::string& where);

// nullopt when there is no such file; DataError when it cannot be used.
std::optional<TokenFileInfo> read_token_file_info(const std::filesystem::path& path);

}  // namespace stableqat
