#include "model_path.h"

#include <algorithm>
#include <filesystem>

#include "stableqat/base/error.h"
#include "stableqat/hub/download.h"

namespace stableqat::app {

namespace {

bool is_repository_name(const std::string& name) {
  if (std::count(name.begin(), name.end(), '/') != 1) return false;
  try {
    hub::make_repository(hub::RepositoryType::kModel, name);
    return true;
  } catch (const ConfigError&) {
    return false;
  }
}

}  // namespace

std::string local_model(const std::string& model) {
  std::error_code unreadable;
  if (std::filesystem::exists(model, unreadable) || !is_repository_name(model)) return model;
  const hub::HubOptions options = hub::hub_options_from_environment();
  const auto folder = hub::cached_snapshot(hub::make_repository(hub::RepositoryType::kModel, model), "main", options);
  if (folder) return folder->string();
  throw DataError({model, "no such file or folder, and no model of that name in " + options.cache.string(),
                   "a Hugging Face directory, a checkpoint, a GGUF file, or a model that was downloaded",
                   "check the path, or fetch it: stableqat download " + model});
}

}  // namespace stableqat::app
