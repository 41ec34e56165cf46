// Folder formats: what is written comes back as the same codes and steps, with our settings and without them, as other programs' files.
#include <ATen/ops/equal.h>

#include <nlohmann/json.hpp>

#include "export_fixtures.h"
#include "stableqat/export/distortion.h"
#include "stableqat/io/safetensors.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

Json read_json(const fs::path& path) { return Json::parse(read_text_file(path)); }

void forget_settings(const fs::path& folder) {
  Json config = read_json(folder / "config.json");
  config.erase("stableqat");
  write_text_file(folder / "config.json", config.dump());
}

void expect_same_weights(const QuantizedModel& expected, const QuantizedModel& found) {
  ASSERT_EQ(found.weights().size(), expected.weights().size());
  for (std::size_t i = 0; i < expected.weights().size(); ++i) {
    const QuantizedWeight& a = expected.weights()[i];
    const QuantizedWeight& b = found.weights()[i];
    EXPECT_EQ(a.name(), b.name());
    EXPECT_TRUE(at::equal(a.codes(), b.codes())) << a.name();
    EXPECT_TRUE(at::equal(a.step(), b.step())) << a.name();
    EXPECT_TRUE(at::equal(a.dequantized(), b.dequantized())) << a.name();
  }
}

std::unique_ptr<QuantizedModel> load(const fs::path& folder) {
  const auto source = ModelSource::open(folder);
  return std::make_unique<QuantizedModel>(*source, at::kFloat, stored_quantization(*source));
}

const std::vector<QuantizationSettings>& all_settings() {
  static const std::vector<QuantizationSettings> settings{settings_of(2),
                                                          settings_of(3),
                                                          settings_of(4),
                                                          settings_of(8),
                                                          settings_of(0),
                                                          settings_of(1),
                                                          settings_of(2, QuantizerKind::kSeq),
                                                          settings_of(3, QuantizerKind::kSeq),
                                                          settings_of(4, QuantizerKind::kSeq),
                                                          settings_of(3, QuantizerKind::kDsq),
                                                          settings_of(3, QuantizerKind::kLsq, 32),
                                                          settings_of(2, QuantizerKind::kLsq, 64)};
  return settings;
}

TEST_F(ExportTest, PackedFoldersGoOnWhereTheModelWas) {
  for (const QuantizationSettings& settings : all_settings()) {
    SCOPED_TRACE(to_json(settings).dump());
    const auto original = model(testing::tiny_config(), settings);
    const bool is_soft = settings.spec.kind == QuantizerKind::kDsq;
    if (is_soft) original->weights()[3].alpha().fill_(0.37);
    const ExportReport report = export_to_file(exportable(*original), options(ExportFormat::kPacked, "packed"));
    EXPECT_EQ(report.differing(), 0u);
    const auto found = load(folder_ / "packed");
    EXPECT_EQ(found->settings()->spec, settings.spec);
    expect_same_weights(*original, *found);
    if (is_soft) {
      EXPECT_EQ(found->weights()[3].alpha().item<float>(), 0.37F);
    }
  }
}

TEST_F(ExportTest, PackedScalesOffTheHalfGridStayExact) {
  QuantizationSettings settings = settings_of(3);
  settings.spec.fp16_scales = false;
  const auto original = model(testing::tiny_config(), settings);
  EXPECT_EQ(export_to_file(exportable(*original), options(ExportFormat::kPacked, "packed")).differing(), 0u);
  expect_same_weights(*original, *load(folder_ / "packed"));
}

// Densely packed: 3 bits a weight, 2 bytes a scale; blocks of the embedding run over rows.
TEST_F(ExportTest, PackedSizesAreThoseOfTheBits) {
  const auto original = model(testing::tiny_config(), settings_of(3));
  ExportOptions chosen = options(ExportFormat::kPacked, "packed");
  for (const auto& [type, bytes] : {std::pair{GgmlType::kQ8_0, 260u * 64u / 32u * 34u},
                                    {GgmlType::kQ6_K, 260u * 64u / 256u * 210u},
                                    {GgmlType::kQ4_0, 260u * 64u / 32u * 18u},
                                    {GgmlType::kF16, 260u * 64u * 2u}}) {
    chosen.embedding = type;
    const ExportReport report = export_to_file(exportable(*original), chosen);
    EXPECT_EQ(tensor_of(report, "model.embed_tokens.weight").bytes, bytes);
    EXPECT_EQ(tensor_of(report, "model.layers.0.mlp.up_proj.weight").bytes, 128u * 64u * 3u / 8u + 128u * 2u);
    EXPECT_EQ(report.differing(), tensor_of(report, "model.embed_tokens.weight").differing);
    EXPECT_EQ(load(folder_ / "packed")->weights().size(), original->weights().size());
  }
}

TEST_F(ExportTest, CompressedTensorsAndGptqComeBackAsTheSameCodes) {
  for (const QuantizationSettings& settings : all_settings()) {
    SCOPED_TRACE(to_json(settings).dump());
    const auto original = model(testing::tiny_config(), settings);
    for (const ExportFormat format : {ExportFormat::kCompressedTensors, ExportFormat::kGptq}) {
      for (const int version : {1, 2}) {
        ExportOptions chosen = options(format, "folder");
        chosen.gptq_version = version;
        EXPECT_EQ(export_to_file(exportable(*original), chosen).differing(), 0u);
        expect_same_weights(*original, *load(folder_ / "folder"));
      }
    }
  }
}

// As other programs leave them: the settings follow from quantization_config.
TEST_F(ExportTest, ForeignSymmetricFoldersAreReadAsCodes) {
  for (const QuantizationSettings& settings : {settings_of(2), settings_of(3), settings_of(4), settings_of(4, QuantizerKind::kLsq, 32)}) {
    SCOPED_TRACE(to_json(settings).dump());
    const auto original = model(testing::tiny_config(), settings);
    for (const ExportFormat format : {ExportFormat::kCompressedTensors, ExportFormat::kGptq}) {
      export_to_file(exportable(*original), options(format, "folder"));
      forget_settings(folder_ / "folder");
      const auto found = load(folder_ / "folder");
      EXPECT_EQ(found->settings()->spec.bits, settings.spec.bits);
      EXPECT_EQ(found->settings()->spec.group_size, settings.spec.group_size);
      expect_same_weights(*original, *found);
    }
  }
}

// One zero point that is not the middle makes a layer asymmetric, and the model one of plain weights.
TEST_F(ExportTest, ForeignAsymmetricFoldersAreReadAsWeights) {
  const auto original = model(testing::tiny_config(), settings_of(4));
  export_to_file(exportable(*original), options(ExportFormat::kGptq, "folder"));
  forget_settings(folder_ / "folder");
  const std::string name = "model.layers.1.self_attn.o_proj";
  const fs::path path = folder_ / "folder/model.safetensors";
  std::string bytes = read_text_file(path);
  bytes.at(SafetensorsFile(path).tensor(name + ".qzeros").offset) = 0x76;  // row 0: 6 is stored, zero is 7
  write_text_file(path, bytes);
  const auto source = ModelSource::open(folder_ / "folder");
  EXPECT_FALSE(stored_quantization(*source));
  const QuantizedWeight& weight = original->weights()[10];
  ASSERT_EQ(weight.name(), name);
  at::Tensor expected = weight.dequantized().clone();
  expected.select(0, 0).add_(weight.step().select(0, 0));  // codes count from one level lower
  std::vector<float> found(static_cast<std::size_t>(expected.numel()));
  source->read(name + ".weight", found);
  for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected.data_ptr<float>()[i], 1e-6) << i;
  const QuantizedModel plain(*source, at::kFloat, stored_quantization(*source));
  EXPECT_TRUE(plain.weights().empty());
}

// Rows of 72 columns end within a word of 32 bits, and at 3 bits within a byte of eight codes.
TEST_F(ExportTest, RowsThatEndWithinAWord) {
  ModelConfig config = testing::tiny_config();
  config.hidden_size = 72;
  config.head_dim = 18;
  config.intermediate_size = 132;
  for (const int bits : {2, 3, 4}) {
    SCOPED_TRACE(bits);
    const auto original = model(config, settings_of(bits));
    for (const ExportFormat format : {ExportFormat::kCompressedTensors, ExportFormat::kPacked}) {
      EXPECT_EQ(export_to_file(exportable(*original), options(format, "folder")).differing(), 0u);
      expect_same_weights(*original, *load(folder_ / "folder"));
      const SafetensorsFile file(folder_ / "folder/model.safetensors");
      const std::int64_t unit = format == ExportFormat::kPacked ? 8 : 32;
      EXPECT_EQ(file.tensor("model.layers.0.mlp.up_proj.weight_packed").shape,
                (std::vector<std::int64_t>{132, (72 * bits + unit - 1) / unit}));
      EXPECT_EQ(file.tensor("model.layers.0.mlp.down_proj.weight_packed").shape,
                (std::vector<std::int64_t>{72, (132 * bits + unit - 1) / unit}));
    }
  }
  const auto original = model(config, settings_of(4));
  expect_error<ConfigError>({"72 x 72", "multiples of 32"},
                            [&] { export_to_file(exportable(*original), options(ExportFormat::kGptq, "gptq")); });
}

TEST_F(ExportTest, QuantizationConfigsSayWhatLoadersAskFor) {
  const auto original = model(testing::tiny_config(), settings_of(3, QuantizerKind::kLsq, 32));
  export_to_file(exportable(*original), options(ExportFormat::kCompressedTensors, "ct"));
  EXPECT_EQ(read_json(folder_ / "ct/config.json").at("torch_dtype"), "float32");
  EXPECT_EQ(SafetensorsFile(folder_ / "ct/model.safetensors").metadata().at("format"), "pt");  // transformers refuses files without it
  EXPECT_EQ(read_json(folder_ / "ct/config.json").at("quantization_config"), Json::parse(R"({
    "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
    "global_compression_ratio": null, "kv_cache_scheme": null, "ignore": ["lm_head"],
    "config_groups": {"group_0": {
      "targets": ["Linear"], "format": "pack-quantized", "input_activations": null, "output_activations": null,
      "weights": {"num_bits": 3, "type": "int", "symmetric": true, "strategy": "group", "group_size": 32, "dynamic": false,
                  "actorder": null, "block_structure": null, "observer": "minmax", "observer_kwargs": {}}}}})"));

  export_to_file(exportable(*original), options(ExportFormat::kGptq, "gptq"));
  const Json gptq = read_json(folder_ / "gptq/quantize_config.json");
  EXPECT_EQ(gptq, read_json(folder_ / "gptq/config.json").at("quantization_config"));
  EXPECT_EQ(gptq, Json::parse(R"({"quant_method": "gptq", "bits": 3, "group_size": 32, "desc_act": false, "sym": true, "lm_head": false,
                                  "checkpoint_format": "gptq", "pack_dtype": "int32", "meta": {}})"));
  // The published words of zero points, v1: the field is 3 of 3 bits.
  const SafetensorsFile file(folder_ / "gptq/model.safetensors");
  std::uint32_t word = 0;
  std::memcpy(&word, file.bytes("model.layers.0.mlp.up_proj.qzeros").data(), sizeof word);
  EXPECT_EQ(word, 0xdb6db6dbU);
}

TEST_F(ExportTest, DequantizedFoldersAreExactOrRefused) {
  const auto original = model(testing::tiny_config(), settings_of(3));
  ExportOptions chosen = options(ExportFormat::kHuggingFace, "hf");
  EXPECT_EQ(export_to_file(exportable(*original), chosen).differing(), 0u);
  EXPECT_EQ(read_json(folder_ / "hf/config.json").at("torch_dtype"), "float32");
  EXPECT_FALSE(read_json(folder_ / "hf/config.json").contains("stableqat"));
  EXPECT_FALSE(stored_quantization(*ModelSource::open(folder_ / "hf")));
  chosen.dtype = DType::kBF16;
  chosen.output = folder_ / "bf16";
  expect_error<NumericError>({"bfloat16 would change", "--dtype float32"}, [&] { export_to_file(exportable(*original), chosen); });
  EXPECT_FALSE(fs::exists(chosen.output));
  chosen.allow_rounding = true;
  const ExportReport report = export_to_file(exportable(*original), chosen);
  EXPECT_GT(report.differing(), 0u);
  EXPECT_LT(report.max_difference(), 2 * 0x1p-9);  // norms are about 1
}

TEST_F(ExportTest, LayersThatAreNotQuantizedAreNamed) {
  QuantizationSettings settings = settings_of(4);
  settings.layers.exclude = {"model.layers.0.mlp.down_proj"};
  const auto original = model(testing::tiny_config(), settings);
  export_to_file(exportable(*original), options(ExportFormat::kCompressedTensors, "ct"));
  EXPECT_EQ(read_json(folder_ / "ct/config.json").at("quantization_config").at("ignore"),
            (Json{"model.layers.0.mlp.down_proj", "lm_head"}));
  forget_settings(folder_ / "ct");
  expect_same_weights(*original, *load(folder_ / "ct"));
  expect_error<ConfigError>({"gptq", "model.layers.0.mlp.down_proj"},
                            [&] { export_to_file(exportable(*original), options(ExportFormat::kGptq, "g")); });
}

TEST_F(ExportTest, DistortionCountsAndRatios) {
  const auto quantized = model(testing::tiny_config(), settings_of(2));
  const auto layers = measure_distortion(*quantized);
  ASSERT_EQ(layers.size(), 14u);
  for (const LayerDistortion& layer : layers) {
    double sum = 0;
    for (const double share : layer.code_shares) sum += share;
    EXPECT_NEAR(sum, 1.0, 1e-12);
    EXPECT_EQ(layer.lowest_code, -2);
    // Four levels at best separate normal weights by 9.3 dB (Max's quantizer); weights here are lighter-tailed, and the levels lie at
    // -2, -1, 0 and 1.
    EXPECT_GT(layer.signal_to_noise_db, 6);
    EXPECT_LT(layer.signal_to_noise_db, 10.5);
    EXPECT_LE(layer.scale_min, layer.scale_median);
    EXPECT_LE(layer.scale_median, layer.scale_max);
  }
  EXPECT_EQ(to_json(layers).size(), layers.size());
  EXPECT_NE(to_text(layers).find("model.layers.1.mlp.down_proj"), std::string::npos);
  EXPECT_NE(to_svg(layers).find("mlp.down_proj"), std::string::npos);

  // Of a packed folder the masters are the quantized weights.
  export_to_file(exportable(*quantized), options(ExportFormat::kPacked, "packed"));
  EXPECT_TRUE(to_json(measure_distortion(*load(folder_ / "packed"))).at(0).at("signal_to_noise_db").is_null());
}

}  // namespace
}  // namespace stableqat
