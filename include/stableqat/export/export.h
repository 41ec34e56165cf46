// Exporting a trained model into the files that other programs load, with a proof that they hold what was evaluated.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "stableqat/base/log.h"
#include "stableqat/export/export_model.h"
#include "stableqat/io/dtype.h"
#include "stableqat/io/ggml_types.h"

namespace stableqat {

enum class ExportFormat {
  kGguf,               // one file, for llama.cpp and programs built on it
  kCompressedTensors,  // a folder in "pack-quantized" form, for vLLM and transformers
  kGptq,               // a folder in GPTQ's layout
  kPacked,             // a folder in our own packed form (models/packed_model.h), for eval, generate and train
  kHuggingFace         // a folder with dequantized weights, for anything
};

struct ExportOptions {
  ExportFormat format = ExportFormat::kGguf;
  std::filesystem::path output;
  // Rounding of embedding and untied head (GGUF, packed): F32, F16, Q8_0, Q6_K or Q4_0. Nothing: the smallest of F16 and F32 that does not
  // change them.
  std::optional<GgmlType> embedding;
  // Block type of the quantized layers (GGUF); where rows or grid do not allow it, and without it, the smallest that holds them exactly.
  std::optional<GgmlType> block_type;
  bool compatible_types = false;  // GGUF: only types that every build and back end of the last years runs: no Q2_0, TQ1_0, TQ2_0
  // Type of the tensors that are not quantized and of scales (folders but packed): F32, F16 or BF16. Nothing: F16 if that changes none of
  // them, else F32.
  std::optional<DType> dtype;
  int gptq_version = 1;         // 1: the zero point is stored minus one; 2: as it is
  bool allow_rounding = false;  // write values that the format cannot hold exactly, rounded
  bool overwrite = false;       // replace an existing output
};

// One tensor of the written file and what the proof found.
struct ExportedTensor {
  std::string name;  // as in the file
  std::string type;  // "Q4_0", "F32", "3-bit codes"
  std::uint64_t elements = 0;
  std::uint64_t bytes = 0;      // scales included
  double max_difference = 0;    // to the evaluated values
  std::uint64_t differing = 0;  // values that differ at all
  bool may_round = false;       // the user allowed it
};

struct ExportReport {
  ExportFormat format = ExportFormat::kGguf;
  std::filesystem::path output;
  std::uint64_t bytes = 0;        // of all files
  std::uint64_t parameters = 0;   // tied ones once
  std::uint64_t model_bytes = 0;  // of the file with the weights
  std::vector<ExportedTensor> tensors;
  std::string test_text;  // encoded by the exported tokenizer, and by the model's
  std::vector<std::int32_t> test_ids;

  double bits_per_weight() const { return 8.0 * static_cast<double>(model_bytes) / static_cast<double>(parameters); }
  double max_difference() const;
  std::uint64_t differing() const;
};

// Writes the model, reads it back by the reader that eval uses, and compares every value, the configuration and the tokenizer; the output
// appears under its name only after that. Zeros of either sign are equal. Throws ConfigError (options, an output that exists, a model that
// the format has no place for), NumericError when the format cannot hold a value and rounding is not allowed or when the proof fails (the
// files are removed), EnvironmentError. When `stop` says so, leaves nothing and returns a report without tensors.
ExportReport export_to_file(const ExportModel& model, const ExportOptions& options, const LogCallback& log = {},
                            const ProgressCallback& progress = {}, const StopRequested& stop = {});

nlohmann::json to_json(const ExportReport& report);
// A table for people: bytes by type, the whole, the proof. Ends in a newline.
std::string to_text(const ExportReport& report);

}  // namespace stableqat
