// compressed-tensors' "pack-quantized" form: vllm-project/compressed-tensors, compressors/pack_quantized (the dense layout, 0.18.0 and
// later).
#include <algorithm>

#include "export/folder_formats.h"
#include "stableqat/base/error.h"
#include "stableqat/io/code_stream.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

// Rows of whole 32-bit words.
std::vector<std::byte> packed_words(const ExportCodes& codes, std::size_t rows, int bits) {
  const std::vector<std::uint8_t> values = unsigned_codes(codes, bits);
  const std::size_t columns = values.size() / rows;
  const std::size_t row_bytes = (code_stream_bytes(columns, bits) + 3) / 4 * 4;
  std::vector<std::byte> bytes(rows * row_bytes);
  for (std::size_t row = 0; row < rows; ++row) {
    pack_codes(std::span(values).subspan(row * columns, columns), bits, std::span(bytes).subspan(row * row_bytes, row_bytes));
  }
  return bytes;
}

void add_layer(FolderWriter& writer, const ExportTensor& tensor, int bits, DType dtype) {
  const ExportCodes& codes = *tensor.quantized;
  const std::int64_t rows = tensor.shape[0];
  std::vector<std::byte> packed = packed_words(codes, static_cast<std::size_t>(rows), bits);
  const std::uint64_t size = packed.size();
  std::vector<std::byte> shape(2 * sizeof(std::int64_t));
  std::ranges::copy(std::as_bytes(std::span(tensor.shape)), shape.begin());
  writer.add(tensor.layer() + ".weight_packed", DType::kI32, {rows, static_cast<std::int64_t>(size) / 4 / rows}, std::move(packed));
  writer.add(tensor.layer() + ".weight_scale", dtype, {rows, static_cast<std::int64_t>(codes.steps.size()) / rows},
             FolderWriter::float_bytes(codes.steps, dtype));
  writer.add(tensor.layer() + ".weight_shape", DType::kI64, {2}, std::move(shape));
  writer.report({.name = tensor.name,
                 .type = std::to_string(bits) + "-bit codes",
                 .elements = tensor.values.size(),
                 .bytes = size + codes.steps.size() * dtype_size(dtype),
                 .may_round = writer.options().allow_rounding});
}

Json quantization_config(const ExportModel& model, int bits, std::int64_t group_size, const std::vector<std::string>& ignored) {
  const Json weights{{"num_bits", bits},
                     {"type", "int"},
                     {"symmetric", true},
                     {"strategy", group_size == 0 ? "channel" : "group"},
                     {"group_size", group_size == 0 ? Json() : Json(group_size)},
                     {"dynamic", false},
                     {"actorder", nullptr},
                     {"block_structure", nullptr},
                     {"observer", "minmax"},
                     {"observer_kwargs", Json::object()}};
  std::vector<std::string> ignore = ignored;
  if (model.config.tie_word_embeddings) ignore.push_back("lm_head");
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"quantization_status", "compressed"},
          {"global_compression_ratio", nullptr},
          {"kv_cache_scheme", nullptr},
          {"ignore", ignore},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}},
              {"format", "pack-quantized"},
              {"input_activations", nullptr},
              {"output_activations", nullptr},
              {"weights", weights}}}}}};
}

bool is_linear(const ExportTensor& tensor) { return tensor.shape.size() == 2 && tensor.name != "model.embed_tokens.weight"; }

}  // namespace

void add_compressed_tensors(FolderWriter& writer) {
  const ExportModel& model = writer.model();
  const int bits = signed_bits(model, "compressed-tensors");
  const DType dtype = writer.exact_dtype(false);
  std::vector<std::string> ignored;
  std::int64_t group_size = 0;
  for (const ExportTensor& tensor : model.tensors) {
    if (!tensor.quantized) {
      if (is_linear(tensor)) ignored.push_back(tensor.layer());
      writer.add_floats(tensor, dtype);
      continue;
    }
    if (tensor.quantized->group != tensor.shape[1]) group_size = tensor.quantized->group;
    if (!writer.options().allow_rounding) require_exact_steps(dtype, tensor);
    add_layer(writer, tensor, bits, dtype);
  }
  writer.set_dtype(dtype);
  writer.set_settings();
  writer.config()["quantization_config"] = quantization_config(model, bits, group_size, ignored);
}

}  // namespace stableqat
