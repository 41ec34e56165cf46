// The forms of ModelSource, one source file each.
#pragma once

#include <filesystem>
#include <memory>

#include "stableqat/models/model_source.h"

namespace stableqat {

std::unique_ptr<ModelSource> open_gguf_source(const std::filesystem::path& path);
std::unique_ptr<ModelSource> open_huggingface_source(const std::filesystem::path& directory);

}  // namespace stableqat
