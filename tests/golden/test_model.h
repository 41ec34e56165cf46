// The SmolLM2 model file that tests may use if it is on this machine.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>

namespace stableqat::golden {

// STABLEQAT_TEST_MODEL, or the model in the cache folder that tools/setup.sh fills; nullopt if there is no such file.
inline std::optional<std::filesystem::path> test_model() {
  namespace fs = std::filesystem;
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return fs::path(value == nullptr ? "" : value);
  };
  fs::path model = variable("STABLEQAT_TEST_MODEL");
  if (model.empty()) {
    fs::path cache = variable("STABLEQAT_CACHE");
    if (cache.empty() && !variable("XDG_CACHE_HOME").empty()) cache = variable("XDG_CACHE_HOME") / "stableqat";
    if (cache.empty()) cache = variable("HOME") / ".cache" / "stableqat";
    model = cache / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  }
  std::error_code ignored;
  return fs::is_regular_file(model, ignored) ? std::optional(model) : std::nullopt;
}

}  // namespace stableqat::golden
