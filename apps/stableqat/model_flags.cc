#include "model_flags.h"

#include <ATen/Parallel.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "model_path.h"
#include "stableqat/models/activation_rounding.h"
#include "stableqat/train/settings.h"

namespace stableqat::app {

namespace {

// An option whose spellings stand for values.
template <class T>
CLI::Option* add_choice(CLI::App& command, const std::string& name, T& value, const std::map<std::string, T>& spellings, std::string help) {
  std::string names;
  for (const auto& [spelling, meaning] : spellings) names += (names.empty() ? "" : "|") + spelling;
  return command.add_option(name, value, std::move(help))->transform(CLI::CheckedTransformer(spellings))->type_name(names);
}

constexpr const char* kLikeLlamaCpp = "llama.cpp";

void set_activation_rounding(const std::string& name, const ModelSource& source, CausalLm& model) {
  if (name == kLikeLlamaCpp) return round_activations_like_llama_cpp(model, source);
  for (const ActivationRounding rounding : {ActivationRounding::kQ8_0, ActivationRounding::kQ8_K}) {
    if (name == activation_rounding_name(rounding)) round_activations(model, rounding);
  }
}

}  // namespace

void add_model_flags(CLI::App& command, ModelFlags& flags) {
  flags.spec.scale_init = ScaleInit::kMse;
  command.add_option("--model", flags.path, "Hugging Face directory, checkpoint, GGUF file, or ORG/NAME of a model that was downloaded")
      ->required()
      ->type_name("M");
  add_choice<int>(command, "--bits", flags.spec.bits, {{"0", 0}, {"1", 1}, {"1.58", 0}, {"2", 2}, {"3", 3}, {"4", 4}, {"8", 8}},
                  "Round the linear layers of a full-precision model first; or the bits of a checkpoint that does not say them")
      ->each([&flags](const std::string&) { flags.has_bits = true; });
  add_choice<QuantizerKind>(command, "--quantizer", flags.spec.kind,
                            {{"lsq", QuantizerKind::kLsq}, {"seq", QuantizerKind::kSeq}, {"dsq", QuantizerKind::kDsq}},
                            "Grid of --bits [lsq]");
  add_choice<ScaleInit>(command, "--scale-init", flags.spec.scale_init,
                        {{"absmax", ScaleInit::kAbsMax}, {"mse", ScaleInit::kMse}, {"lsq", ScaleInit::kLsq}},
                        "Scales of --bits where the model has none [mse]");
  command.add_option("--group-size", flags.spec.group_size, "Columns that share a scale, for --bits: 32, 64, 128; 0 = a row [0]");
  add_choice<bool>(command, "--export-grid", flags.spec.fp16_scales, {{"fp16", true}, {"none", false}},
                   "Put the scales of --bits on the fp16 grid, as exported files carry them [fp16]");
  add_choice<TrainConfig::Precision>(command, "--precision", flags.precision,
                                     {{"auto", TrainConfig::Precision::kAuto},
                                      {"float32", TrainConfig::Precision::kFloat32},
                                      {"float64", TrainConfig::Precision::kFloat64},
                                      {"bfloat16", TrainConfig::Precision::kBfloat16}},
                                     "Type of the arithmetic [auto]");
  command.add_option("--threads", flags.threads, "0 = all cores [0]");
}

void add_activation_rounding_flag(CLI::App& command, ModelFlags& flags) {
  command
      .add_option("--activation-rounding", flags.activation_rounding,
                  "Round inputs of linear layers and head to 8 bits, as llama.cpp does for the types in a GGUF file, or all alike [none]")
      ->check(CLI::IsMember({"none", "q8_0", "q8_k", kLikeLlamaCpp}))
      ->type_name("none|llama.cpp|q8_0|q8_k");
}

LoadedModel load_model(const ModelFlags& flags) {
  if (flags.threads > 0) at::set_num_threads(flags.threads);
  const std::string path = local_model(flags.path);
  auto source = ModelSource::open(path);
  Tokenizer tokenizer = Tokenizer::open(path);
  std::vector<std::string> notices;  // none for the precisions offered here
  const NumericTypes types = numeric_types(flags.precision, TrainConfig::Compute::kFloat, TrainConfig::Device::kCpu, notices);
  const auto settings = flags.has_bits ? std::make_optional(QuantizationSettings{flags.spec, {}}) : stored_quantization(*source);
  const bool use_stored_scales = settings && stored_scales_fit(*source, settings->spec).value_or(true);
  QuantizedModel model(*source, types.master, settings, use_stored_scales);
  model.model().set_compute_dtype(types.compute);
  model.set_code_products(types.products);
  set_activation_rounding(flags.activation_rounding, *source, model.model());
  return {std::move(source), std::move(tokenizer), std::move(model)};
}

std::string precision_name(const CausalLm& model) {
  if (model.compute_dtype() == at::kBFloat16) return "bfloat16";
  return model.compute_dtype() == at::kDouble ? "float64" : "float32";
}

}  // namespace stableqat::app
