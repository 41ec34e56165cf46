// The flags by which commands name a model, and the model they name.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "stableqat/config/train_config.h"
#include "stableqat/models/model_source.h"
#include "stableqat/models/quantized_model.h"
#include "stableqat/tokenizer/tokenizer.h"

namespace stableqat::app {

struct ModelFlags {
  std::string path;
  QuantizerSpec spec;  // used when --bits is given
  bool has_bits = false;
  TrainConfig::Precision precision = TrainConfig::Precision::kAuto;
  int threads = 0;
  std::string activation_rounding = "none";  // by add_activation_rounding_flag()
};

// The flags write into `flags`, which must outlive the command.
void add_model_flags(CLI::App& command, ModelFlags& flags);

// --activation-rounding, for commands that only compute with the model.
void add_activation_rounding_flag(CLI::App& command, ModelFlags& flags);

struct LoadedModel {
  std::unique_ptr<ModelSource> source;
  Tokenizer tokenizer;
  QuantizedModel model;
};

// Throws the library's errors.
LoadedModel load_model(const ModelFlags& flags);

// "float32", "bfloat16" or "float64": the type of the model's arithmetic.
std::string precision_name(const CausalLm& model);

}  // namespace stableqat::app
