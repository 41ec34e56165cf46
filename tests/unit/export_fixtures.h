// Small quantized models and folders for the tests of exporting and importing.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "../support/tiny_model.h"
#include "io_fixtures.h"
#include "stableqat/export/export.h"
#include "stableqat/models/model_source.h"
#include "stableqat/models/quantized_model.h"

namespace stableqat {

// Rows of 256 and 512 columns, which ggml's K types need.
inline ModelConfig wide_config() {
  ModelConfig config = testing::tiny_config();
  config.hidden_size = 256;
  config.num_attention_heads = 4;
  config.head_dim = 64;
  config.intermediate_size = 512;
  config.num_hidden_layers = 1;
  return config;
}

inline QuantizationSettings settings_of(int bits, QuantizerKind kind = QuantizerKind::kLsq, std::int64_t group_size = 0) {
  QuantizationSettings settings;
  settings.spec.kind = kind;
  settings.spec.bits = bits;
  settings.spec.group_size = group_size;
  settings.spec.scale_init = ScaleInit::kMse;
  return settings;
}

class ExportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("stableqat_export_test_" + std::to_string(::getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // A model of random weights, quantized by `settings`.
  std::unique_ptr<QuantizedModel> model(const ModelConfig& config, std::optional<QuantizationSettings> settings) {
    testing::write_tiny_model(folder_ / "model", config);
    auto quantized = std::make_unique<QuantizedModel>(*ModelSource::open(folder_ / "model"), at::kFloat, std::move(settings));
    if (quantized->settings()) quantized->set_code_products(CodeProducts::kFloat);  // as the commands have it
    return quantized;
  }

  ExportModel exportable(QuantizedModel& quantized) const { return model_for_export(quantized, Tokenizer::open(folder_ / "model")); }

  ExportOptions options(ExportFormat format, const std::string& name) const {
    ExportOptions result;
    result.format = format;
    result.output = folder_ / name;
    result.overwrite = true;
    return result;
  }

  std::filesystem::path folder_;
};

inline const ExportedTensor& tensor_of(const ExportReport& report, const std::string& name) {
  for (const ExportedTensor& tensor : report.tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::runtime_error("no tensor " + name);
}

}  // namespace stableqat
