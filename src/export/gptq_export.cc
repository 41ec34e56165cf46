// GPTQ's layout: AutoGPTQ and GPTQModel, nn_modules/qlinear; checkpoint formats "gptq" (v1) and "gptq_v2".
#include <algorithm>
#include <cstring>

#include "export/folder_formats.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/io/code_stream.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

// The stream of each out feature is a column of 32-bit words: [M * bits / 32, N].
std::vector<std::byte> packed_columns(const ExportCodes& codes, std::size_t rows, int bits) {
  const std::vector<std::uint8_t> values = unsigned_codes(codes, bits);
  const std::size_t columns = values.size() / rows;
  const std::size_t words = columns * static_cast<std::size_t>(bits) / 32;
  std::vector<std::byte> stream(4 * words);
  std::vector<std::byte> result(4 * words * rows);
  for (std::size_t row = 0; row < rows; ++row) {
    pack_codes(std::span(values).subspan(row * columns, columns), bits, stream);
    for (std::size_t word = 0; word < words; ++word) {
      std::memcpy(result.data() + 4 * (word * rows + row), stream.data() + 4 * word, 4);
    }
  }
  return result;
}

// [N, G] -> [G, N].
std::vector<float> transposed(const std::vector<float>& steps, std::size_t rows) {
  const std::size_t groups = steps.size() / rows;
  std::vector<float> result(steps.size());
  for (std::size_t i = 0; i < steps.size(); ++i) result[i % groups * rows + i / groups] = steps[i];
  return result;
}

void check_shape(const ExportTensor& tensor) {
  if (tensor.shape[0] % 32 == 0 && tensor.shape[1] % 32 == 0) return;
  throw ConfigError({"--format gptq, layer " + tensor.layer(), std::to_string(tensor.shape[0]) + " x " + std::to_string(tensor.shape[1]),
                     "multiples of 32", "export to compressed-tensors or gguf"});
}

void add_layer(FolderWriter& writer, const ExportTensor& tensor, int bits) {
  check_shape(tensor);
  const ExportCodes& codes = *tensor.quantized;
  const std::string layer = tensor.layer();
  const std::int64_t rows = tensor.shape[0];
  const std::int64_t columns = tensor.shape[1];
  const std::int64_t groups = static_cast<std::int64_t>(codes.steps.size()) / rows;
  const int zero = (1 << (bits - 1)) - (writer.options().gptq_version == 1 ? 1 : 0);
  std::vector<std::byte> zeros(code_stream_bytes(static_cast<std::uint64_t>(rows), bits));
  pack_codes(std::vector<std::uint8_t>(static_cast<std::size_t>(rows), static_cast<std::uint8_t>(zero)), bits, zeros);
  std::vector<std::byte> all_zeros;
  for (std::int64_t group = 0; group < groups; ++group) all_zeros.insert(all_zeros.end(), zeros.begin(), zeros.end());
  std::vector<std::int32_t> group_of_column(static_cast<std::size_t>(columns));
  for (std::size_t m = 0; m < group_of_column.size(); ++m)
    group_of_column[m] = static_cast<std::int32_t>(m) / static_cast<std::int32_t>(codes.group);
  const std::uint64_t code_bytes = tensor.values.size() * static_cast<std::uint64_t>(bits) / 8;
  const std::uint64_t bytes = code_bytes + all_zeros.size() + 2 * codes.steps.size() + 4 * group_of_column.size();

  writer.add(layer + ".qweight", DType::kI32, {columns * bits / 32, rows}, packed_columns(codes, static_cast<std::size_t>(rows), bits));
  writer.add(layer + ".qzeros", DType::kI32, {groups, rows * bits / 32}, std::move(all_zeros));
  writer.add(layer + ".scales", DType::kF16, {groups, rows},
             FolderWriter::float_bytes(transposed(codes.steps, static_cast<std::size_t>(rows)), DType::kF16));
  writer.add(layer + ".g_idx", DType::kI32, {columns}, bytes_of(group_of_column));
  writer.report({.name = tensor.name,
                 .type = std::to_string(bits) + "-bit codes",
                 .elements = tensor.values.size(),
                 .bytes = bytes,
                 .may_round = writer.options().allow_rounding});
}

// The widths that GPTQ loaders know.
int gptq_bits(const ExportModel& model) {
  const int bits = signed_bits(model, "gptq");
  return bits <= 4 ? bits : 8;
}

}  // namespace

void add_gptq(FolderWriter& writer) {
  const ExportModel& model = writer.model();
  const int bits = gptq_bits(model);
  const DType dtype = writer.exact_dtype(false);
  std::int64_t group_size = -1;
  bool head = false;
  for (const ExportTensor& tensor : model.tensors) {
    if (tensor.quantized) {
      if (tensor.quantized->group != tensor.shape[1]) group_size = tensor.quantized->group;
      if (!writer.options().allow_rounding) require_exact_steps(DType::kF16, tensor);
      head = head || tensor.name == "lm_head.weight";
      add_layer(writer, tensor, bits);
    } else if (tensor.shape.size() == 2 && !tensor.is_table()) {
      throw ConfigError({"--format gptq, layer " + tensor.layer(), "a layer that is not quantized",
                         "all linear layers quantized: GPTQ loaders expect it", "export to compressed-tensors or gguf"});
    } else {
      writer.add_floats(tensor, dtype);
    }
  }
  writer.set_dtype(dtype);
  writer.set_settings();
  writer.config()["quantization_config"] = {{"quant_method", "gptq"},
                                            {"bits", bits},
                                            {"group_size", group_size},
                                            {"desc_act", false},
                                            {"sym", true},
                                            {"lm_head", head},
                                            {"checkpoint_format", writer.options().gptq_version == 1 ? "gptq" : "gptq_v2"},
                                            {"pack_dtype", "int32"},
                                            {"meta", Json::object()}};
  writer.add_file("quantize_config.json", writer.config()["quantization_config"].dump(2) + "\n");
}

}  // namespace stableqat
