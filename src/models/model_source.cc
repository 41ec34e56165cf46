#include "stableqat/models/model_source.h"

#include "model_source_forms.h"
#include "stableqat/base/error.h"

namespace stableqat {

std::unique_ptr<ModelSource> ModelSource::open(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) return open_huggingface_source(path);
  if (!std::filesystem::exists(path)) {
    throw DataError({path.string(), "no such file or folder", "a Hugging Face directory, a checkpoint or a GGUF file", "check the path"});
  }
  return open_gguf_source(path);
}

}  // namespace stableqat
