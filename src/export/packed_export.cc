// Our own packed form; layout in models/packed_model.h.
#include <algorithm>

#include "export/folder_formats.h"
#include "stableqat/base/error.h"
#include "stableqat/io/code_stream.h"
#include "stableqat/models/packed_model.h"

namespace stableqat {

namespace {

std::vector<std::byte> packed_rows(const ExportCodes& codes, std::size_t rows) {
  const std::size_t columns = codes.codes.size() / rows;
  const std::size_t row_bytes = code_stream_bytes(columns, codes.grid.index_bits());
  std::vector<std::byte> bytes(rows * row_bytes);
  std::vector<std::uint8_t> indices(columns);
  for (std::size_t row = 0; row < rows; ++row) {
    std::ranges::transform(codes.codes.subspan(row * columns, columns), indices.begin(),
                           [&](std::int8_t code) { return static_cast<std::uint8_t>((code - codes.grid.low) / codes.grid.stride); });
    pack_codes(indices, codes.grid.index_bits(), std::span(bytes).subspan(row * row_bytes, row_bytes));
  }
  return bytes;
}

void add_layer(FolderWriter& writer, const ExportTensor& tensor) {
  const ExportCodes& codes = *tensor.quantized;
  const std::int64_t rows = tensor.shape[0];
  const bool half = change_by(GgmlType::kF16, codes.steps).differing == 0;
  const DType scale_type = half ? DType::kF16 : DType::kF32;
  std::vector<std::byte> packed = packed_rows(codes, static_cast<std::size_t>(rows));
  const auto bytes = static_cast<std::int64_t>(packed.size());
  std::vector<std::byte> shape(2 * sizeof(std::int64_t));
  std::ranges::copy(std::as_bytes(std::span(tensor.shape)), shape.begin());
  writer.add(tensor.layer() + ".weight_packed", DType::kU8, {rows, bytes / rows}, std::move(packed));
  writer.add(tensor.layer() + ".weight_scale", scale_type, {rows, static_cast<std::int64_t>(codes.steps.size()) / rows},
             FolderWriter::float_bytes(codes.steps, scale_type));
  writer.add(tensor.layer() + ".weight_shape", DType::kI64, {2}, std::move(shape));
  if (codes.alpha) writer.add(tensor.layer() + ".alpha_dsq", DType::kF32, {1}, FolderWriter::float_bytes({&*codes.alpha, 1}, DType::kF32));
  writer.report({.name = tensor.name,
                 .type = std::to_string(codes.grid.index_bits()) + "-bit codes",
                 .elements = tensor.values.size(),
                 .bytes = static_cast<std::uint64_t>(bytes) + codes.steps.size() * dtype_size(scale_type)});
}

// Blocks run over all values, so that rows need not be whole blocks.
void add_table(FolderWriter& writer, const ExportTensor& tensor, GgmlType type) {
  const GgmlBlock block = *ggml_block(type);
  if (tensor.values.size() % block.elements != 0) {
    throw ConfigError({"--embedding " + ggml_type_name(type), std::to_string(tensor.values.size()) + " values",
                       "whole blocks of " + std::to_string(block.elements), "use f16 or f32"});
  }
  std::vector<std::byte> bytes(tensor.values.size() / block.elements * block.bytes);
  encode_floats(type, tensor.values, bytes);
  const std::uint64_t size = bytes.size();
  writer.add(tensor.layer() + std::string(kPackedTableSuffix), DType::kU8, {static_cast<std::int64_t>(size)}, std::move(bytes));
  writer.report({.name = tensor.name, .type = ggml_type_name(type), .elements = tensor.values.size(), .bytes = size, .may_round = true});
}

}  // namespace

void add_packed(FolderWriter& writer) {
  signed_bits(writer.model(), "packed");  // refuses a model without quantized layers
  const std::optional<GgmlType>& wanted = writer.options().embedding;
  const bool blocks = wanted && *wanted != GgmlType::kF32 && *wanted != GgmlType::kF16;
  for (const ExportTensor& tensor : writer.model().tensors) {
    if (tensor.quantized) {
      add_layer(writer, tensor);
    } else if (tensor.is_table() && blocks) {
      add_table(writer, tensor, *wanted);
    } else if (tensor.is_table()) {
      const bool half = wanted ? *wanted == GgmlType::kF16 : change_by(GgmlType::kF16, tensor.values).differing == 0;
      writer.add_floats(tensor, half ? DType::kF16 : DType::kF32, wanted.has_value());
    } else {
      writer.add_floats(tensor, DType::kF32);
    }
  }
  writer.set_settings({{kPackedVersionKey, 1}, {"embedding_type", blocks ? ggml_type_name(*wanted) : "F32"}});
}

}  // namespace stableqat
