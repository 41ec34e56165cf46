// Model folders: config.json, the tokenizer's files and one model.safetensors.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "export/folder_formats.h"
#include "export/formats.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

constexpr std::array kFloatTypes{std::pair{DType::kF16, GgmlType::kF16}, std::pair{DType::kBF16, GgmlType::kBF16},
                                 std::pair{DType::kF32, GgmlType::kF32}};

GgmlType ggml_type_of(DType dtype) { return std::ranges::find(kFloatTypes, dtype, &std::pair<DType, GgmlType>::first)->second; }

const char* torch_name(DType dtype) {
  if (dtype == DType::kF16) return "float16";
  return dtype == DType::kBF16 ? "bfloat16" : "float32";
}

}  // namespace

FolderWriter::FolderWriter(const ExportModel& model, const ExportOptions& options, const TensorWritten& written)
    : model_(model), options_(options), written_(written), config_(to_json(model.config)) {
  writer_.set_metadata("format", "pt");
}

void FolderWriter::add(const std::string& name, DType dtype, std::vector<std::int64_t> shape, std::vector<std::byte> bytes) {
  const std::vector<std::byte>& kept = storage_.emplace_back(std::move(bytes));
  writer_.add(name, dtype, std::move(shape), kept);
}

void FolderWriter::add_floats(const ExportTensor& tensor, DType dtype, bool may_round) {
  may_round = may_round || options_.allow_rounding;
  if (!may_round) {
    require_exact(ggml_type_of(dtype), tensor, tensor.values, torch_name(dtype), "use --dtype float32, or --allow-rounding");
  }
  writer_.add(tensor.name, dtype, tensor.shape,
              [&tensor, dtype](std::span<std::byte> out) { encode_floats(ggml_type_of(dtype), tensor.values, out); });
  report({.name = tensor.name,
          .type = std::string(dtype_name(dtype)),
          .elements = tensor.values.size(),
          .bytes = tensor.values.size() * dtype_size(dtype),
          .may_round = may_round});
}

void FolderWriter::add_file(const std::string& name, const std::string& content) { files_.emplace_back(name, content); }

void FolderWriter::report(ExportedTensor tensor) { reports_.push_back(std::move(tensor)); }

std::vector<std::byte> FolderWriter::float_bytes(std::span<const float> values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * dtype_size(dtype));
  encode_floats(ggml_type_of(dtype), values, bytes);
  return bytes;
}

DType FolderWriter::exact_dtype(bool with_quantized_values) const {
  const auto changes = [&](const ExportTensor& tensor) {
    if (tensor.quantized && !with_quantized_values) return change_by(GgmlType::kF16, tensor.quantized->steps).differing > 0;
    return change_by(GgmlType::kF16, tensor.values).differing > 0;
  };
  if (options_.dtype) return *options_.dtype;
  return std::ranges::any_of(model_.tensors, changes) ? DType::kF32 : DType::kF16;
}

void FolderWriter::set_dtype(DType dtype) { config_["torch_dtype"] = torch_name(dtype); }

void FolderWriter::set_settings(const Json& more) {
  Json settings = model_.settings.empty() ? Json::object() : Json::parse(model_.settings);
  settings.update(more);
  if (!settings.empty()) config_["stableqat"] = settings;
}

void FolderWriter::write(const std::filesystem::path& folder) {
  for (const ExportedTensor& tensor : reports_) written_(tensor);
  model_.tokenizer.save_huggingface(folder);
  write_text_file(folder / "config.json", config_.dump(2) + "\n");
  for (const auto& [name, content] : files_) write_text_file(folder / name, content);
  writer_.write(folder / "model.safetensors");
}

void write_folder(const ExportModel& model, const ExportOptions& options, const std::filesystem::path& folder,
                  const TensorWritten& written) {
  FolderWriter writer(model, options, written);
  switch (options.format) {
    case ExportFormat::kCompressedTensors:
      add_compressed_tensors(writer);
      break;
    case ExportFormat::kGptq:
      add_gptq(writer);
      break;
    case ExportFormat::kPacked:
      add_packed(writer);
      break;
    case ExportFormat::kHuggingFace:
    case ExportFormat::kGguf: {
      const DType dtype = writer.exact_dtype(true);
      writer.set_dtype(dtype);
      for (const ExportTensor& tensor : model.tensors) writer.add_floats(tensor, dtype);
      break;
    }
  }
  writer.write(folder);
}

void require_exact_steps(DType dtype, const ExportTensor& tensor) {
  require_exact(ggml_type_of(dtype), tensor, tensor.quantized->steps, torch_name(dtype),
                dtype == DType::kF16 ? kHalfStepsRemedy : "use --dtype float32, or --allow-rounding");
}

std::vector<std::uint8_t> unsigned_codes(const ExportCodes& codes, int bits) {
  std::vector<std::uint8_t> result(codes.codes.size());
  std::ranges::transform(codes.codes, result.begin(),
                         [bits](std::int8_t code) { return static_cast<std::uint8_t>(code + (1 << (bits - 1))); });
  return result;
}

int signed_bits(const CodeGrid& grid) {
  int bits = 2;
  while (grid.low < -(1 << (bits - 1)) || grid.high() > (1 << (bits - 1)) - 1) ++bits;
  return bits;
}

int signed_bits(const ExportModel& model, const char* format) {
  for (const ExportTensor& tensor : model.tensors) {
    if (tensor.quantized) return signed_bits(tensor.quantized->grid);
  }
  throw ConfigError({std::string("--format ") + format, "a model that is not quantized", "quantized layers",
                     "export a checkpoint of stableqat train, or round the model first with --bits"});
}

}  // namespace stableqat
