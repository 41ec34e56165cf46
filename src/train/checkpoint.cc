#include "stableqat/train/checkpoint.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/io/safetensors.h"
#include "train/checkpoint_files.h"

namespace stableqat {

namespace fs = std::filesystem;
using namespace checkpoint;

namespace {

using Json = nlohmann::json;

constexpr std::string_view kPrefix = "checkpoint-";

std::span<std::byte> tensor_bytes(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), static_cast<std::size_t>(tensor.nbytes())};
}

[[noreturn]] void throw_corrupt(const fs::path& path, const std::string& found) {
  throw DataError({path.string(), found, "an untouched checkpoint", "continue from an older checkpoint (train.resume)"});
}

Json read_json(const fs::path& path) {
  try {
    return Json::parse(read_text_file(path));
  } catch (const Json::exception&) {
    throw_corrupt(path, "invalid JSON");
  }
}

// Moments may be kept in another type than those of the run before (train.moments).
std::optional<at::ScalarType> readable_type(const std::string& name, DType stored, const at::Tensor& values) {
  if (stored == dtype_of(values)) return values.scalar_type();
  if (!name.starts_with("first.") && !name.starts_with("second.")) return std::nullopt;
  if (stored == DType::kBF16) return at::kBFloat16;
  if (stored == DType::kF32) return at::kFloat;
  if (stored == DType::kF64) return at::kDouble;
  return std::nullopt;
}

// The rows that `tensor` has, from a whole tensor in the file.
void read_rows(const SafetensorsFile& file, const std::string& name, const TrainedTensor& tensor, const at::Tensor& values) {
  const SafetensorsTensor& stored = file.tensor(name);
  const std::optional<at::ScalarType> type = readable_type(name, stored.dtype, values);
  if (!type || stored.shape != whole_shape(tensor)) {
    throw DataError({file.path().string() + ", tensor " + name, "another shape or type", "that of the model being trained",
                     "resume with the configuration that made this checkpoint, or set train.resume: never"});
  }
  const bool as_it_is = *type == values.scalar_type() && values.device().is_cpu();
  const at::Tensor as_stored = as_it_is ? values : at::empty(values.sizes(), *type);
  const auto target = tensor_bytes(as_stored);
  const auto source = file.bytes(name).subspan(offset_of_rows(tensor, as_stored.element_size()), target.size());
  std::copy(source.begin(), source.end(), target.begin());
  file.release(source);
  if (!as_stored.is_same(values)) values.copy_(as_stored);
}

// The step in a name checkpoint-N, or -1.
std::int64_t step_of_name(const fs::path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with(kPrefix)) return -1;
  std::int64_t step = -1;
  const char* end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  return error == std::errc() && rest == end ? step : -1;
}

std::int64_t step_of_state(const fs::path& directory) {
  try {
    return Json::parse(read_text_file(directory / kStateFile)).at("step").get<std::int64_t>();
  } catch (const std::exception&) {
    return -1;
  }
}

}  // namespace

void verify_checkpoint(const fs::path& directory) {
  const fs::path manifest_path = directory / kManifestFile;
  const Json manifest = read_json(manifest_path);
  if (!manifest.contains("files") || !manifest.at("files").is_object()) throw_corrupt(manifest_path, "no list of files");
  for (const auto& [name, entry] : manifest.at("files").items()) {
    const fs::path path = directory / name;
    if (!fs::exists(path)) throw_corrupt(path, "no such file");
    if (fs::file_size(path) != entry.value("bytes", std::uint64_t{0})) throw_corrupt(path, std::to_string(fs::file_size(path)) + " bytes");
    if (file_content_hash(path) != entry.value("xxh3", "")) throw_corrupt(path, "altered content");
  }
}

TrainerState load_checkpoint(const fs::path& directory, AdamW& optimizer) {
  if (!fs::exists(directory / kStateFile)) {
    throw DataError({directory.string(), "a model without the state of a run", "a folder checkpoint-N or last_checkpoint",
                     "to start from its weights name it by model.path"});
  }
  const Json json = read_json(directory / kStateFile);
  const SafetensorsFile model(directory / kModelFile);
  const SafetensorsFile moments(directory / kOptimizerFile);
  for (std::size_t i = 0; i < optimizer.tensors().size(); ++i) {
    const TrainedTensor& tensor = optimizer.tensors()[i];
    if (is_scale(tensor.name)) {
      read_rows(moments, "value." + tensor.name, tensor, tensor.value);
    } else {
      read_rows(model, tensor.name, tensor, tensor.value);
    }
    read_rows(moments, "first." + tensor.name, tensor, optimizer.first_moment(i));
    read_rows(moments, "second." + tensor.name, tensor, optimizer.second_moment(i));
  }
  TrainerState state;
  try {
    state.step = json.at("step").get<std::int64_t>();
    optimizer.set_steps(json.at("optimizer_steps").get<std::int64_t>());
    state.position = json.at("position").get<LoaderPosition>();
    state.tokenizer_hash = json.at("tokenizer_hash").get<std::string>();
  } catch (const Json::exception&) {
    throw_corrupt(directory / kStateFile, "missing entries");
  }
  return state;
}

std::vector<fs::path> list_checkpoints(const fs::path& output_dir) {
  std::vector<std::pair<std::int64_t, fs::path>> found;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(output_dir, missing)) {
    const bool is_last = entry.path().filename() == "last_checkpoint";
    if (!entry.is_directory() || (!is_last && step_of_name(entry.path()) < 0)) continue;
    found.emplace_back(step_of_state(entry.path()), entry.path());
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a > b; });
  std::vector<fs::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

std::optional<fs::path> find_checkpoint(const fs::path& output_dir, const LogCallback& log) {
  const std::vector<fs::path> checkpoints = list_checkpoints(output_dir);
  for (const fs::path& path : checkpoints) {
    try {
      verify_checkpoint(path);
      return path;
    } catch (const Error& error) {
      if (log) log(LogLevel::kWarning, "passing over a damaged checkpoint: " + std::string(error.what()));
    }
  }
  if (checkpoints.empty()) return std::nullopt;
  throw DataError({output_dir.string(), "no whole checkpoint among " + std::to_string(checkpoints.size()), "at least one to resume from",
                   "restore one, or start anew with train.resume: never"});
}

void remove_old_checkpoints(const fs::path& output_dir, std::int64_t keep, std::int64_t keep_every) {
  if (keep <= 0) return;
  std::vector<std::pair<std::int64_t, fs::path>> numbered;
  for (const auto& entry : fs::directory_iterator(output_dir)) {
    const std::int64_t step = step_of_name(entry.path());
    if (entry.is_directory() && step >= 0) numbered.emplace_back(step, entry.path());
  }
  std::sort(numbered.begin(), numbered.end());
  const auto surplus = static_cast<std::int64_t>(numbered.size()) - keep;
  for (std::int64_t i = 0; i < surplus; ++i) {
    const auto& [step, path] = numbered[static_cast<std::size_t>(i)];
    if (keep_every > 0 && step % keep_every == 0) continue;
    std::error_code error;
    fs::remove_all(path, error);
    if (error) {
      throw EnvironmentError({path.string(), error.message(), "an old checkpoint that can be removed", "check the folder's permissions"});
    }
  }
}

}  // namespace stableqat
