// What the exporters share: each format plans and writes its files; export.cc proves them and puts them in place.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "stableqat/export/export.h"

namespace stableqat {

// Told of every tensor once its bytes are made; throws Stopped when the user wants to stop.
using TensorWritten = std::function<void(const ExportedTensor&)>;

// Writes one GGUF file.
void write_gguf(const ExportModel& model, const ExportOptions& options, const std::filesystem::path& path, const TensorWritten& written);

// Writes the files of a folder format into an existing folder.
void write_folder(const ExportModel& model, const ExportOptions& options, const std::filesystem::path& folder,
                  const TensorWritten& written);

// Fills in max_difference and differing of the report's tensors, which are in the order of model.tensors (further ones may follow), and
// test_text and test_ids. Throws NumericError for what is not as it was evaluated and was not allowed to differ.
void prove(const ExportModel& model, const std::filesystem::path& path, ExportReport& report);

// How many of `values` the type would change, and the largest change.
struct Change {
  std::uint64_t differing = 0;
  double largest = 0;
};
Change change_by(GgmlType type, std::span<const float> values);

// Throws NumericError, naming the tensor and `type_name`, when the type would change one of `values`: weights or steps of the tensor.
void require_exact(GgmlType type, const ExportTensor& tensor, std::span<const float> values, const char* type_name, const char* remedy);

// What to do about steps that fp16 does not hold.
inline constexpr const char* kHalfStepsRemedy = "train with quantization.export_grid: fp16, use --format packed, or --allow-rounding";

}  // namespace stableqat
