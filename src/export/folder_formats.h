// How each folder format stores a quantized layer.
#pragma once

#include <list>
#include <nlohmann/json.hpp>

#include "export/formats.h"
#include "stableqat/io/safetensors.h"

namespace stableqat {

// Collects the files of one folder.
class FolderWriter {
 public:
  // All three must outlive the writer.
  FolderWriter(const ExportModel& model, const ExportOptions& options, const TensorWritten& written);

  const ExportModel& model() const { return model_; }
  const ExportOptions& options() const { return options_; }

  // A tensor of the file.
  void add(const std::string& name, DType dtype, std::vector<std::int64_t> shape, std::vector<std::byte> bytes);
  // A tensor of the model as plain values. Throws NumericError when `dtype` would change one and neither `may_round` nor the options allow
  // it.
  void add_floats(const ExportTensor& tensor, DType dtype, bool may_round = false);
  // What the report says of the next tensor of the model; one for each, in their order.
  void report(ExportedTensor tensor);

  static std::vector<std::byte> float_bytes(std::span<const float> values, DType dtype);

  // The user's type, or F16 if that changes no value (of quantized tensors: no step, or with `with_quantized_values` no value), else F32.
  DType exact_dtype(bool with_quantized_values) const;

  // Entries of config.json.
  void set_dtype(DType dtype);
  void set_settings(const nlohmann::json& more = nlohmann::json::object());
  nlohmann::json& config() { return config_; }

  // A small file beside the others.
  void add_file(const std::string& name, const std::string& content);

  void write(const std::filesystem::path& folder);

 private:
  const ExportModel& model_;
  const ExportOptions& options_;
  const TensorWritten& written_;
  nlohmann::json config_;
  SafetensorsWriter writer_;
  std::list<std::vector<std::byte>> storage_;
  std::vector<ExportedTensor> reports_;
  std::vector<std::pair<std::string, std::string>> files_;
};

// Throws NumericError when the type does not hold the steps of a quantized tensor.
void require_exact_steps(DType dtype, const ExportTensor& tensor);

void add_compressed_tensors(FolderWriter& writer);
void add_gptq(FolderWriter& writer);
void add_packed(FolderWriter& writer);

// Bits of two's complement integers that hold the grid's codes, at least 2; of a whole model, all of whose layers have one grid. Throws
// ConfigError for a model without quantized layers.
int signed_bits(const CodeGrid& grid);
int signed_bits(const ExportModel& model, const char* format);

// code + 2^(bits-1), [N, M].
std::vector<std::uint8_t> unsigned_codes(const ExportCodes& codes, int bits);

}  // namespace stableqat
