// The forms of ModelSource, one source file each.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "stableqat/models/model_source.h"

namespace stableqat {

std::unique_ptr<ModelSource> open_gguf_source(const std::filesystem::path& path);
std::unique_ptr<ModelSource> open_huggingface_source(const std::filesystem::path& directory);

// Whether a directory with this config.json holds packed layers, which the form above does not read.
bool is_packed_config(const nlohmann::json& config);
std::unique_ptr<ModelSource> open_packed_source(const std::filesystem::path& directory, nlohmann::json config);

}  // namespace stableqat
