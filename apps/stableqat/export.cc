// stableqat export: writes a trained model for other programs, with a proof.
#include "stableqat/export/export.h"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "model_flags.h"
#include "stableqat/base/file.h"
#include "stableqat/export/distortion.h"
#include "stop_signal.h"

namespace stableqat::app {

namespace {

struct ExportFlags {
  ModelFlags model;
  std::string format;
  std::string embedding;
  std::string block_type;
  std::string dtype;
  ExportOptions options;
  std::string distortion;  // prefix of the report's files
  std::string json;
};

const std::map<std::string, ExportFormat> kFormats{{"gguf", ExportFormat::kGguf},
                                                   {"compressed-tensors", ExportFormat::kCompressedTensors},
                                                   {"gptq", ExportFormat::kGptq},
                                                   {"packed", ExportFormat::kPacked},
                                                   {"hf", ExportFormat::kHuggingFace}};
const std::map<std::string, GgmlType> kEmbeddingTypes{
    {"f32", GgmlType::kF32}, {"f16", GgmlType::kF16}, {"q8_0", GgmlType::kQ8_0}, {"q6_k", GgmlType::kQ6_K}, {"q4_0", GgmlType::kQ4_0}};
const std::map<std::string, GgmlType> kBlockTypes{{"q4_0", GgmlType::kQ4_0},   {"q5_0", GgmlType::kQ5_0},  {"q8_0", GgmlType::kQ8_0},
                                                  {"q3_k", GgmlType::kQ3_K},   {"q2_k", GgmlType::kQ2_K},  {"q2_0", GgmlType::kQ2_0},
                                                  {"tq2_0", GgmlType::kTQ2_0}, {"tq1_0", GgmlType::kTQ1_0}};
const std::map<std::string, DType> kDTypes{{"float32", DType::kF32}, {"float16", DType::kF16}, {"bfloat16", DType::kBF16}};

template <class T>
CLI::Option* add_named(CLI::App& command, const std::string& name, std::string& value, const std::map<std::string, T>& names,
                       std::string help) {
  std::string list;
  for (const auto& [spelling, meaning] : names) list += (list.empty() ? "" : "|") + spelling;
  return command.add_option(name, value, std::move(help))->check(CLI::IsMember(names))->type_name(list);
}

template <class T>
std::optional<T> named(const std::map<std::string, T>& names, const std::string& name) {
  return name.empty() ? std::nullopt : std::optional(names.at(name));
}

void write_distortion(const std::string& prefix, const QuantizedModel& model) {
  const std::vector<LayerDistortion> layers = measure_distortion(model);
  if (layers.empty()) {
    throw ConfigError({"--distortion", "a model that is not quantized", "quantized layers", "name a checkpoint, or round with --bits"});
  }
  fmt::print("{}", to_text(layers));
  write_text_file(prefix + ".json", to_json(layers).dump(2) + "\n");
  write_text_file(prefix + ".svg", to_svg(layers));
}

ExitCode run(ExportFlags options, Console& console) {
  if (options.format.empty() && options.distortion.empty()) {
    throw ConfigError({"stableqat export", "neither --format nor --distortion", "one of them", "see stableqat export --help"});
  }
  options.model.precision = TrainConfig::Precision::kFloat32;
  LoadedModel loaded = load_model(options.model);
  if (!options.distortion.empty()) write_distortion(options.distortion, loaded.model);
  if (options.format.empty()) return ExitCode::kDone;
  options.options.format = kFormats.at(options.format);
  options.options.embedding = named(kEmbeddingTypes, options.embedding);
  options.options.block_type = named(kBlockTypes, options.block_type);
  options.options.dtype = named(kDTypes, options.dtype);
  const StopRequested stop = stop_on_signals();
  const ExportModel model = model_for_export(loaded.model, loaded.tokenizer);
  const ExportReport report = export_to_file(model, options.options, console.log_callback(), console.progress_callback(), stop);
  console.finish();
  if (stop()) return ExitCode::kInterrupted;
  fmt::print("{}", to_text(report));
  if (!options.json.empty()) write_text_file(options.json, to_json(report).dump(2) + "\n");
  return ExitCode::kDone;
}

}  // namespace

void register_export(CLI::App& app, Program& program) {
  CLI::App& command =
      add_command(app, program, "export", "Write a trained model for llama.cpp, vLLM and others, and prove that it is the trained one",
                  "stableqat export --model quickstart/last_checkpoint --format gguf --embedding q8_0 --output smollm2-3bit.gguf");
  const auto options = std::make_shared<ExportFlags>();
  add_model_flags(command, options->model);
  CLI::Option* format = add_named(command, "--format", options->format, kFormats,
                                  "gguf: one file for llama.cpp; compressed-tensors: for vLLM; gptq; packed: our own, the smallest; "
                                  "hf: dequantized weights");
  command.add_option("--output", options->options.output, "File (gguf) or folder (the others) to write")->type_name("PATH")->needs(format);
  add_named(command, "--embedding", options->embedding, kEmbeddingTypes,
            "Round embedding and head to this type (gguf, packed) [f16 if that changes nothing, else f32]");
  add_named(command, "--type", options->block_type, kBlockTypes,
            "Block type of quantized layers where rows and grid allow it (gguf) [the smallest that holds them exactly]");
  command.add_flag("--compat", options->options.compatible_types,
                   "Only block types that every build and back end of the last years runs: no q2_0, tq1_0, tq2_0 (gguf)");
  add_named(command, "--dtype", options->dtype, kDTypes,
            "Type of what is not quantized, and of scales (compressed-tensors, gptq, hf) [float16 if that changes nothing, else float32]");
  command.add_option("--gptq-version", options->options.gptq_version, "1: zero points stored minus one, which most loaders read; 2: as is")
      ->capture_default_str();
  command.add_flag("--allow-rounding", options->options.allow_rounding, "Write values that the format cannot hold exactly, rounded");
  command.add_flag("--overwrite", options->options.overwrite, "Replace what is at --output");
  command
      .add_option("--distortion", options->distortion,
                  "Also print what quantization did to each layer, and write PREFIX.json and PREFIX.svg")
      ->type_name("PREFIX");
  command.add_option("--json", options->json, "Write the report of the export to this file")->type_name("FILE");
  command.callback([&program, options] { program.selected = [&program, options] { return run(*options, program.console); }; });
}

}  // namespace stableqat::app
