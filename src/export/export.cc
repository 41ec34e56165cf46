#include "stableqat/export/export.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "export/formats.h"
#include "export/number_text.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/base/half.h"

namespace stableqat {

namespace fs = std::filesystem;

namespace {

struct Stopped {};

// Removes what was not moved to its place.
class Unproved {
 public:
  explicit Unproved(fs::path path) : path_(std::move(path)) {}
  Unproved(const Unproved&) = delete;
  Unproved& operator=(const Unproved&) = delete;
  ~Unproved() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  void move_to(const fs::path& target) {
    std::error_code error;
    fs::rename(path_, target, error);
    if (error) throw EnvironmentError({target.string(), error.message(), "a file that can be written", "check the folder's permissions"});
    path_.clear();
  }

 private:
  fs::path path_;
};

void check(const ExportOptions& options) {
  const bool has_embedding_types = options.format == ExportFormat::kGguf || options.format == ExportFormat::kPacked;
  if (options.embedding && !has_embedding_types) {
    throw ConfigError({"--embedding", ggml_type_name(*options.embedding), "--format gguf or packed", "leave it out, or use --dtype"});
  }
  if (options.dtype && has_embedding_types) {
    throw ConfigError({"--dtype", std::string(dtype_name(*options.dtype)), "--format hf, compressed-tensors or gptq", "leave it out"});
  }
  if (options.block_type && options.format != ExportFormat::kGguf) {
    throw ConfigError({"--type", ggml_type_name(*options.block_type), "--format gguf", "leave it out"});
  }
  if (options.gptq_version != 1 && options.gptq_version != 2) {
    throw ConfigError({"--gptq-version", std::to_string(options.gptq_version), "1 or 2", ""});
  }
  if (options.output.empty()) throw ConfigError({"--output", "nothing", "a path", ""});
  if (fs::exists(options.output) && !options.overwrite) {
    throw ConfigError({options.output.string(), "something there already", "a new path", "remove it, or say --overwrite"});
  }
}

void write_file(const ExportModel& model, const ExportOptions& options, const TensorWritten& written, ExportReport& report) {
  if (fs::is_directory(options.output)) {
    throw ConfigError({options.output.string(), "a folder", "a file name", "--format gguf writes one file"});
  }
  Unproved file(options.output.string() + ".unproved-" + std::to_string(::getpid()));
  write_gguf(model, options, file.path(), written);
  prove(model, file.path(), report);
  report.bytes = report.model_bytes = fs::file_size(file.path());
  file.move_to(options.output);
}

void write_directory(const ExportModel& model, const ExportOptions& options, const TensorWritten& written, ExportReport& report) {
  if (fs::is_regular_file(options.output)) {
    throw ConfigError({options.output.string(), "a file", "a folder name", "this format is a folder of files"});
  }
  AtomicDirectory folder(options.output);
  write_folder(model, options, folder.staging(), written);
  prove(model, folder.staging(), report);
  for (const auto& entry : fs::directory_iterator(folder.staging())) report.bytes += entry.file_size();
  report.model_bytes = fs::file_size(folder.staging() / "model.safetensors");
  folder.commit();
}

// Values in `type` and back.
std::vector<float> rounded(GgmlType type, std::span<const float> values) {
  std::vector<std::byte> bytes(values.size() * ggml_block(type)->bytes);
  encode_floats(type, values, bytes);
  std::vector<float> result(values.size());
  dequantize_blocks(type, bytes, result);
  return result;
}

}  // namespace

double ExportReport::max_difference() const {
  double largest = 0;
  for (const ExportedTensor& tensor : tensors) largest = std::max(largest, tensor.max_difference);
  return largest;
}

std::uint64_t ExportReport::differing() const {
  return std::accumulate(tensors.begin(), tensors.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const ExportedTensor& tensor) { return sum + tensor.differing; });
}

ExportReport export_to_file(const ExportModel& model, const ExportOptions& options, const LogCallback& log,
                            const ProgressCallback& progress, const StopRequested& stop) {
  check(options);
  ExportReport report;
  report.format = options.format;
  report.output = options.output;
  for (const ExportTensor& tensor : model.tensors) report.parameters += tensor.values.size();
  std::uint64_t done = 0;
  const TensorWritten written = [&](const ExportedTensor& tensor) {
    if (stop && stop()) throw Stopped();
    report.tensors.push_back(tensor);
    done += tensor.elements;
    if (progress) progress({"export", done, report.parameters, "weights"});
  };
  try {
    if (options.format == ExportFormat::kGguf) {
      write_file(model, options, written, report);
    } else {
      write_directory(model, options, written, report);
    }
  } catch (const Stopped&) {
    report.tensors.clear();
    return report;
  }
  for (const ExportedTensor& tensor : report.tensors) {
    if (!log || tensor.type != "F32" || tensor.elements < (1U << 20)) continue;
    log(LogLevel::kInfo, tensor.name + " stays F32 (" + std::to_string(tensor.bytes / 1000000) +
                             " MB): F16 would change it; a rounding that you allow makes it smaller (--embedding q8_0, --dtype)");
  }
  return report;
}

Change change_by(GgmlType type, std::span<const float> values) {
  Change change;
  constexpr std::size_t kPiece = 1 << 16;
  for (std::size_t begin = 0; begin < values.size(); begin += kPiece) {
    const auto piece = values.subspan(begin, std::min(kPiece, values.size() - begin));
    const std::vector<float> found = rounded(type, piece);
    for (std::size_t i = 0; i < piece.size(); ++i) {
      if (piece[i] == found[i]) continue;
      ++change.differing;
      change.largest = std::max(change.largest, std::fabs(static_cast<double>(piece[i]) - static_cast<double>(found[i])));
    }
  }
  return change;
}

void require_exact(GgmlType type, const ExportTensor& tensor, std::span<const float> values, const char* type_name, const char* remedy) {
  const Change change = change_by(type, values);
  if (change.differing == 0) return;
  const bool steps = values.size() != tensor.values.size();
  throw NumericError({"tensor " + tensor.name,
                      std::to_string(change.differing) + " of " + std::to_string(values.size()) + (steps ? " scales" : " values") +
                          " that " + type_name + " would change, by up to " + number_text(change.largest),
                      "values that it holds exactly", remedy});
}

}  // namespace stableqat
