#include "stableqat/train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/io/safetensors.h"

namespace stableqat {

namespace fs = std::filesystem;

namespace {

using Json = nlohmann::json;

constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kStateFile = "trainer_state.json";
constexpr const char* kManifestFile = "manifest.json";
constexpr std::string_view kScaleSuffix = ".weight_clip_val";
constexpr std::string_view kPrefix = "checkpoint-";

bool is_scale(std::string_view name) { return name.ends_with(kScaleSuffix); }

std::span<std::byte> tensor_bytes(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), static_cast<std::size_t>(tensor.nbytes())};
}

DType dtype_of(const at::Tensor& tensor) { return tensor.scalar_type() == at::kDouble ? DType::kF64 : DType::kF32; }

std::vector<std::int64_t> whole_shape(const TrainedTensor& tensor) {
  std::vector<std::int64_t> shape = tensor.value.sizes().vec();
  shape[0] = tensor.all_rows;
  return shape;
}

// Where the rows of this rank begin in the whole tensor, in bytes.
std::uint64_t offset_of_rows(const TrainedTensor& tensor) {
  std::int64_t row = tensor.value.element_size();
  for (std::int64_t d = 1; d < tensor.value.dim(); ++d) row *= tensor.value.size(d);
  return static_cast<std::uint64_t>(tensor.rows.first * row);
}

// `values`: of the same rows as the trained tensor's.
void add_rows(SafetensorsWriter& writer, const std::string& name, const TrainedTensor& tensor, const at::Tensor& values) {
  writer.add_part(name, dtype_of(values), whole_shape(tensor), offset_of_rows(tensor), tensor_bytes(values));
}

// The files of tensors. Keeps the scales that are written.
class TensorFiles {
 public:
  TensorFiles(const CheckpointParts& parts, bool with_optimizer) : with_optimizer_(with_optimizer) {
    std::map<std::string, at::Tensor> scales;
    for (const QuantizedWeight& weight : parts.model.weights()) {
      scales.emplace(weight.name() + std::string(kScaleSuffix), weight.effective_scale());
    }
    model_.set_metadata("format", "pt");
    for (std::size_t i = 0; i < parts.optimizer.tensors().size(); ++i) {
      const TrainedTensor& tensor = parts.optimizer.tensors()[i];
      scales_.push_back(is_scale(tensor.name) ? scales.at(tensor.name) : tensor.value);
      add_rows(model_, tensor.name, tensor, scales_.back());
      if (!with_optimizer) continue;
      add_rows(optimizer_, "first." + tensor.name, tensor, parts.optimizer.first_moment(i));
      add_rows(optimizer_, "second." + tensor.name, tensor, parts.optimizer.second_moment(i));
      if (is_scale(tensor.name)) add_rows(optimizer_, "value." + tensor.name, tensor, tensor.value);
    }
  }

  void create(const fs::path& folder) const {
    model_.create(folder / kModelFile);
    if (with_optimizer_) optimizer_.create(folder / kOptimizerFile);
  }
  void fill(const fs::path& folder) const {
    model_.fill(folder / kModelFile);
    if (with_optimizer_) optimizer_.fill(folder / kOptimizerFile);
  }

 private:
  bool with_optimizer_;
  SafetensorsWriter model_;
  SafetensorsWriter optimizer_;
  std::vector<at::Tensor> scales_;
};

void write_config(const fs::path& path, const QuantizedModel& model) {
  Json config = to_json(model.model().config());
  if (model.settings()) config["stableqat"] = to_json(*model.settings());
  write_text_file(path, config.dump(2) + "\n");
}

Json state_json(const TrainerState& state, const AdamW& optimizer) {
  return {
      {"step", state.step}, {"optimizer_steps", optimizer.steps()}, {"position", state.position}, {"tokenizer_hash", state.tokenizer_hash}};
}

// {"NAME": {"bytes", "xxh3"}} of the files in `directory`, which the ranks share out among themselves.
Json file_entries(const fs::path& directory, Communicator& communicator) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) files.push_back(entry.path());
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) {
    return std::pair(fs::file_size(b), a.filename()) < std::pair(fs::file_size(a), b.filename());
  });
  Json own = Json::object();
  for (std::size_t i = static_cast<std::size_t>(communicator.rank()); i < files.size();
       i += static_cast<std::size_t>(communicator.ranks())) {
    own[files[i].filename().string()] = {{"bytes", fs::file_size(files[i])}, {"xxh3", file_content_hash(files[i])}};
  }
  Json all = Json::object();
  for (const std::string& part : communicator.all_gather_text(own.dump())) all.update(Json::parse(part));
  return all;
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

// The rows that `tensor` has, from a whole tensor in the file.
void read_rows(const SafetensorsFile& file, const std::string& name, const TrainedTensor& tensor, const at::Tensor& values) {
  const SafetensorsTensor& stored = file.tensor(name);
  if (stored.dtype != dtype_of(values) || stored.shape != whole_shape(tensor)) {
    throw DataError({file.path().string() + ", tensor " + name, "another shape or type", "that of the model being trained",
                     "resume with the configuration that made this checkpoint, or set train.resume: never"});
  }
  const auto target = tensor_bytes(values);
  const auto source = file.bytes(name).subspan(offset_of_rows(tensor), target.size());
  std::copy(source.begin(), source.end(), target.begin());
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

// Without `state` a model alone.
void write_folder(const fs::path& directory, const CheckpointParts& parts, const TrainerState* state, Communicator& communicator) {
  const TensorFiles tensors(parts, state != nullptr);
  std::optional<AtomicDirectory> target;  // on rank 0
  together(communicator, [&] {
    if (!communicator.is_main()) return;
    const fs::path& folder = target.emplace(directory).staging();
    parts.tokenizer.save_huggingface(folder);
    write_config(folder / "config.json", parts.model);
    if (state != nullptr) write_text_file(folder / kStateFile, state_json(*state, parts.optimizer).dump(2) + "\n");
    write_text_file(folder / "train_config.yaml", parts.train_config_yaml);
    tensors.create(folder);
  });
  const fs::path folder = communicator.all_gather_text(target ? target->staging().string() : "").front();
  together(communicator, [&] { tensors.fill(folder); });
  const Json files = file_entries(folder, communicator);
  together(communicator, [&] {
    if (!target) return;
    write_text_file(folder / kManifestFile, Json{{"files", files}}.dump(2) + "\n");
    target->commit();
  });
}

}  // namespace

void save_checkpoint(const fs::path& directory, const CheckpointParts& parts, const TrainerState& state, Communicator& communicator) {
  write_folder(directory, parts, &state, communicator);
}

void save_model(const fs::path& directory, const CheckpointParts& parts, Communicator& communicator) {
  write_folder(directory, parts, nullptr, communicator);
}

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

void remove_old_checkpoints(const fs::path& output_dir, std::int64_t keep) {
  if (keep <= 0) return;
  std::vector<std::pair<std::int64_t, fs::path>> numbered;
  for (const auto& entry : fs::directory_iterator(output_dir)) {
    const std::int64_t step = step_of_name(entry.path());
    if (entry.is_directory() && step >= 0) numbered.emplace_back(step, entry.path());
  }
  std::sort(numbered.begin(), numbered.end());
  const auto surplus = static_cast<std::int64_t>(numbered.size()) - keep;
  for (std::int64_t i = 0; i < surplus; ++i) fs::remove_all(numbered[static_cast<std::size_t>(i)].second);
}

}  // namespace stableqat
