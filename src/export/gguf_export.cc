// A GGUF file for llama.cpp. Keys and tensor names: ggml's docs/gguf.md; llama.cpp, conversion/llama.py and src/llama-arch.cpp.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "export/formats.h"
#include "export/gguf_types.h"
#include "models/gguf_names.h"
#include "stableqat/base/error.h"
#include "stableqat/io/gguf_writer.h"

namespace stableqat {

namespace {

constexpr std::uint32_t kQuantizationVersion = 2;

struct PlannedTensor {
  const ExportTensor* tensor = nullptr;
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::int64_t rotary_heads = 0;  // heads whose rows change places; 0 = none
};

// llama.cpp's name for the same decoder.
std::string architecture_of(const ModelConfig& config) { return config.model_type == "mistral" ? "llama" : config.model_type; }

// llama.cpp's llama and smollm3 rotate adjacent pairs, Hugging Face halves: rows of q and k change places within their head.
std::int64_t rotary_heads(const ModelConfig& config, const std::string& layer) {
  if (architecture_of(config) != "llama" && architecture_of(config) != "smollm3") return 0;
  if (layer.ends_with(".q_proj")) return config.num_attention_heads;
  return layer.ends_with(".k_proj") ? config.num_key_value_heads : 0;
}

// Row h*D + r*D/2 + i becomes row h*D + 2*i + r. A row is values.size() / rows long.
template <class T>
std::vector<T> interleaved_rows(std::span<const T> values, std::int64_t rows, std::int64_t head_dim) {
  std::vector<T> result(values.size());
  const std::size_t length = values.size() / static_cast<std::size_t>(rows);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t half = row % head_dim / (head_dim / 2);
    const std::int64_t target = row - row % head_dim + 2 * (row % (head_dim / 2)) + half;
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(row) * length), length,
                result.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(target) * length));
  }
  return result;
}

void fill(const PlannedTensor& plan, std::int64_t head_dim, std::span<std::byte> out) {
  const ExportTensor& tensor = *plan.tensor;
  const std::int64_t rows = tensor.shape[0];
  if (!tensor.quantized) {
    if (plan.rotary_heads == 0) return encode_floats(plan.type, tensor.values, out);
    return encode_floats(plan.type, interleaved_rows(tensor.values, rows, head_dim), out);
  }
  const ExportCodes& codes = *tensor.quantized;
  if (plan.rotary_heads == 0) return encode_codes(plan.type, codes.grid, codes.codes, codes.steps, out);
  encode_codes(plan.type, codes.grid, interleaved_rows(codes.codes, rows, head_dim),
               interleaved_rows(std::span<const float>(codes.steps), rows, head_dim), out);
}

PlannedTensor planned(const ExportModel& model, const ExportTensor& tensor, const ExportOptions& options) {
  PlannedTensor plan{&tensor, gguf_tensor_name(tensor.name), GgmlType::kF32, rotary_heads(model.config, tensor.layer())};
  if (tensor.quantized) {
    if (!options.allow_rounding) require_exact(GgmlType::kF16, tensor, tensor.quantized->steps, "float16", kHalfStepsRemedy);
    plan.type = choose_block_type(tensor, options);
  } else {
    plan.type = choose_float_type(tensor, options);
  }
  return plan;
}

// The label of a whole file: that of the type which most quantized weights have.
std::uint32_t file_type(const std::vector<PlannedTensor>& plans) {
  constexpr std::array<std::pair<GgmlType, std::uint32_t>, 10> kLabels{{{GgmlType::kF32, 0},
                                                                        {GgmlType::kF16, 1},
                                                                        {GgmlType::kQ4_0, 2},
                                                                        {GgmlType::kQ8_0, 7},
                                                                        {GgmlType::kQ5_0, 8},
                                                                        {GgmlType::kQ2_K, 10},
                                                                        {GgmlType::kQ3_K, 12},
                                                                        {GgmlType::kTQ1_0, 36},
                                                                        {GgmlType::kTQ2_0, 37},
                                                                        {GgmlType::kQ2_0, 41}}};
  std::map<GgmlType, std::size_t> weights;
  for (const PlannedTensor& plan : plans) {
    if (plan.tensor->shape.size() == 2 && !plan.tensor->is_table()) weights[plan.type] += plan.tensor->values.size();
  }
  const auto dominant = std::ranges::max_element(weights, {}, &std::pair<const GgmlType, std::size_t>::second);
  const auto* label = std::ranges::find(kLabels, dominant->first, &std::pair<GgmlType, std::uint32_t>::first);
  return label->second;
}

void set_architecture(GgufWriter& writer, const ModelConfig& config) {
  const std::string prefix = architecture_of(config) + ".";
  const auto set = [&](const char* key, std::int64_t value) { writer.set(prefix + key, static_cast<std::uint32_t>(value)); };
  set("block_count", config.num_hidden_layers);
  set("context_length", config.max_position_embeddings);
  set("embedding_length", config.hidden_size);
  set("feed_forward_length", config.intermediate_size);
  set("vocab_size", config.vocab_size);
  set("attention.head_count", config.num_attention_heads);
  set("attention.head_count_kv", config.num_key_value_heads);
  set("attention.key_length", config.head_dim);
  set("attention.value_length", config.head_dim);
  set("rope.dimension_count", config.head_dim);
  writer.set(prefix + "attention.layer_norm_rms_epsilon", static_cast<float>(config.rms_norm_eps));
  writer.set(prefix + "rope.freq_base", static_cast<float>(config.rope_theta));
}

// Llama 3's scaling has no keys: the file holds what each frequency is divided by. The numbers behind it are for our reader.
void add_rope_divisors(GgufWriter& writer, const ModelConfig& config) {
  if (!config.rope_scaling) return;
  writer.set("stableqat.rope.scaling.low_freq_factor", static_cast<float>(config.rope_scaling->low_freq_factor));
  writer.set("stableqat.rope.scaling.high_freq_factor", static_cast<float>(config.rope_scaling->high_freq_factor));
  writer.set("stableqat.rope.scaling.original_context_length",
             static_cast<std::uint32_t>(config.rope_scaling->original_max_position_embeddings));
  const std::int64_t half = config.head_dim / 2;
  std::vector<float> divisors;
  for (std::int64_t i = 0; i < half; ++i) {
    const double plain = std::pow(config.rope_theta, -static_cast<double>(i) / static_cast<double>(half));
    divisors.push_back(static_cast<float>(plain / config.rope_scaling->scaled(plain)));
  }
  writer.add("rope_freqs.weight", GgmlType::kF32, {half},
             [divisors](std::span<std::byte> out) { std::ranges::copy(std::as_bytes(std::span<const float>(divisors)), out.begin()); });
}

void set_tokenizer(GgufWriter& writer, const ExportModel& model) {
  model.tokenizer.write_gguf(writer, model.config.vocab_size);
  // llama.cpp takes 11 where these are absent.
  const auto set = [&writer](const char* key, const auto& named, const auto& configured) {
    if (!named && configured) writer.set(key, static_cast<std::uint32_t>(*configured));
  };
  set("tokenizer.ggml.bos_token_id", model.tokenizer.bos_id(), model.config.bos_token_id);
  set("tokenizer.ggml.eos_token_id", model.tokenizer.eos_id(), model.config.eos_token_id);
}

}  // namespace

void write_gguf(const ExportModel& model, const ExportOptions& options, const std::filesystem::path& path, const TensorWritten& written) {
  std::vector<PlannedTensor> plans;
  for (const ExportTensor& tensor : model.tensors) plans.push_back(planned(model, tensor, options));
  GgufWriter writer;
  writer.set("general.architecture", architecture_of(model.config));
  writer.set("general.type", std::string("model"));
  writer.set("general.name", options.output.stem().string());
  writer.set("general.file_type", file_type(plans));
  writer.set("general.quantization_version", kQuantizationVersion);
  set_architecture(writer, model.config);
  set_tokenizer(writer, model);
  add_rope_divisors(writer, model.config);
  for (const PlannedTensor& plan : plans) {
    writer.add(plan.name, plan.type, plan.tensor->shape, [&plan, &model, &options, &written](std::span<std::byte> out) {
      fill(plan, model.config.head_dim, out);
      const bool table_may_round = plan.tensor->is_table() && options.embedding.has_value();
      written({.name = plan.name,
               .type = ggml_type_name(plan.type),
               .elements = plan.tensor->values.size(),
               .bytes = out.size(),
               .may_round = options.allow_rounding || table_may_round});
    });
  }
  writer.write(path);
}

}  // namespace stableqat
