#include "stableqat/train/checkpoint_writer.h"

#include <ATen/record_function.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/io/live_parts.h"
#include "stableqat/io/safetensors.h"
#include "train/checkpoint_files.h"

namespace stableqat {

namespace fs = std::filesystem;
using namespace checkpoint;
using Json = nlohmann::json;

namespace {

std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), static_cast<std::size_t>(tensor.nbytes())};
}

// The files of tensors. Keeps what is written where that is not the trained tensors themselves: scales, and copies of what is on a GPU.
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
      add_rows(model_, tensor.name, tensor, is_scale(tensor.name) ? scales.at(tensor.name) : tensor.value);
      if (!with_optimizer) continue;
      add_rows(optimizer_, "first." + tensor.name, tensor, parts.optimizer.first_moment(i));
      add_rows(optimizer_, "second." + tensor.name, tensor, parts.optimizer.second_moment(i));
      if (is_scale(tensor.name)) add_rows(optimizer_, "value." + tensor.name, tensor, tensor.value);
    }
    for (const SafetensorsWriter::Part& part : model_.parts()) parts_.add(0, part.position, part.bytes);
    for (const SafetensorsWriter::Part& part : optimizer_.parts()) parts_.add(1, part.position, part.bytes);
  }

  void create(const fs::path& folder) const {
    model_.create(folder / kModelFile);
    if (with_optimizer_) optimizer_.create(folder / kOptimizerFile);
  }
  void fill(const fs::path& folder) {
    std::vector<SharedFile> files;
    files.emplace_back(folder / kModelFile);
    if (with_optimizer_) files.emplace_back(folder / kOptimizerFile);
    parts_.write(files);
  }
  void before_change() { parts_.before_change(); }

 private:
  // `values`: of the same rows as the trained tensor's.
  void add_rows(SafetensorsWriter& writer, const std::string& name, const TrainedTensor& tensor, const at::Tensor& values) {
    kept_.push_back(values.cpu());
    writer.add_part(name, dtype_of(values), whole_shape(tensor), offset_of_rows(tensor, values.element_size()), bytes_of(kept_.back()));
  }

  bool with_optimizer_;
  SafetensorsWriter model_;
  SafetensorsWriter optimizer_;
  std::vector<at::Tensor> kept_;
  LiveParts parts_;
};

std::string config_text(const QuantizedModel& model) {
  Json config = to_json(model.model().config());
  if (model.settings()) config["stableqat"] = to_json(*model.settings());
  return config.dump(2) + "\n";
}

std::string state_text(const TrainerState& state, const AdamW& optimizer) {
  const Json json{
      {"step", state.step}, {"optimizer_steps", optimizer.steps()}, {"position", state.position}, {"tokenizer_hash", state.tokenizer_hash}};
  return json.dump(2) + "\n";
}

// {"NAME": {"bytes", "xxh3"}} of the files in `directory`, which the ranks share out among themselves.
Json file_entries(const fs::path& directory, Communicator& communicator) {
  Json own = Json::object();
  together(communicator, [&] {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(directory)) files.push_back(entry.path());
    std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) {
      return std::pair(fs::file_size(b), a.filename()) < std::pair(fs::file_size(a), b.filename());
    });
    for (std::size_t i = static_cast<std::size_t>(communicator.rank()); i < files.size();
         i += static_cast<std::size_t>(communicator.ranks())) {
      own[files[i].filename().string()] = {{"bytes", fs::file_size(files[i])}, {"xxh3", file_content_hash(files[i])}};
    }
  });
  Json all = Json::object();
  for (const std::string& part : communicator.all_gather_text(own.dump())) all.update(Json::parse(part));
  return all;
}

}  // namespace

class CheckpointWriter::Job {
 public:
  // Without `state` a model alone.
  Job(fs::path directory, const CheckpointParts& parts, const TrainerState* state)
      : directory_(std::move(directory)),
        parts_(parts),
        config_(config_text(parts.model)),
        state_(state != nullptr ? state_text(*state, parts.optimizer) : ""),
        tensors_(parts, state != nullptr) {}

  void before_change() { tensors_.before_change(); }

  // Returns on all ranks when the folder is there.
  void write(Communicator& communicator, const std::function<void()>& after) {
    RECORD_USER_SCOPE("checkpoint");
    communicator.set_activity("writing " + directory_.filename().string());
    std::optional<AtomicDirectory> target;  // on rank 0
    together(communicator, [&] {
      if (!communicator.is_main()) return;
      const fs::path& folder = target.emplace(directory_).staging();
      parts_.tokenizer.save_huggingface(folder);
      write_text_file(folder / "config.json", config_);
      if (!state_.empty()) write_text_file(folder / kStateFile, state_);
      write_text_file(folder / "train_config.yaml", parts_.train_config_yaml);
      tensors_.create(folder);
    });
    const fs::path folder = communicator.all_gather_text(target ? target->staging().string() : "").front();
    together(communicator, [&] { tensors_.fill(folder); });
    const Json files = file_entries(folder, communicator);
    together(communicator, [&] {
      if (!target) return;
      write_text_file(folder / kManifestFile, Json{{"files", files}}.dump(2) + "\n");
      target->commit();
      if (after) after();
    });
  }

 private:
  fs::path directory_;
  const CheckpointParts& parts_;
  std::string config_;
  std::string state_;
  TensorFiles tensors_;
};

CheckpointWriter::CheckpointWriter(Communicator& communicator, CheckpointParts parts, bool in_background, std::function<void()> after)
    : communicator_(communicator),
      own_line_(in_background ? communicator.duplicate() : nullptr),
      parts_(std::move(parts)),
      after_(std::move(after)) {}

CheckpointWriter::~CheckpointWriter() {
  if (thread_.joinable()) thread_.join();
}

void CheckpointWriter::start(const fs::path& directory, const TrainerState& state) { start(directory, &state); }

void CheckpointWriter::start_model(const fs::path& directory) { start(directory, nullptr); }

void CheckpointWriter::start(const fs::path& directory, const TrainerState* state) {
  wait();
  job_ = std::make_unique<Job>(directory, parts_, state);
  if (!own_line_) return job_->write(communicator_, after_);
  thread_ = std::thread([this] {
    try {
      job_->write(*own_line_, after_);
    } catch (...) {
      error_ = std::current_exception();
      failed_ = true;
    }
  });
}

void CheckpointWriter::before_change() {
  if (!thread_.joinable()) return;
  RECORD_USER_SCOPE("checkpoint_copy");
  job_->before_change();
}

void CheckpointWriter::wait() {
  if (thread_.joinable()) thread_.join();
  job_.reset();
  failed_ = false;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace stableqat
