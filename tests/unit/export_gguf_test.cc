// The proof inside export_to_file() reads every file back by the reader that is tested against llama.cpp's own writer, so that a report
// without differences is the test; what can go wrong beside the weights is looked at here.
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "export/formats.h"
#include "export_fixtures.h"
#include "stableqat/io/gguf.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

struct TypeCase {
  QuantizationSettings settings;
  bool compatible;
  std::string narrow;  // type of rows of 64 columns
  std::string wide;    // of 256 or 512
};

// Every grid, by row and by group, in the types that the published table of exact embeddings names.
TEST_F(ExportTest, GgufHoldsEveryGridExactlyInTheSmallestType) {
  const std::vector<TypeCase> cases{{settings_of(4), false, "Q4_0", "Q4_0"},
                                    {settings_of(3), false, "Q4_0", "Q3_K"},
                                    {settings_of(2), false, "Q2_0", "Q2_0"},
                                    {settings_of(2), true, "Q4_0", "Q2_K"},
                                    {settings_of(0), false, "Q2_0", "TQ2_0"},
                                    {settings_of(0), true, "Q4_0", "Q2_K"},
                                    {settings_of(1), false, "Q2_0", "TQ2_0"},
                                    {settings_of(8), false, "Q8_0", "Q8_0"},
                                    {settings_of(2, QuantizerKind::kSeq), false, "Q4_0", "Q2_K"},
                                    {settings_of(3, QuantizerKind::kSeq), false, "Q4_0", "Q4_0"},
                                    {settings_of(4, QuantizerKind::kSeq), false, "Q5_0", "Q5_0"},
                                    {settings_of(3, QuantizerKind::kDsq), false, "Q4_0", "Q3_K"},
                                    {settings_of(4, QuantizerKind::kLsq, 32), false, "Q4_0", "Q4_0"},
                                    {settings_of(2, QuantizerKind::kLsq, 32), false, "Q4_0", "Q4_0"},
                                    {settings_of(3, QuantizerKind::kLsq, 64), false, "Q4_0", "Q4_0"},
                                    {settings_of(2, QuantizerKind::kLsq, 64), false, "Q2_0", "Q2_0"}};
  for (const TypeCase& test : cases) {
    for (const bool wide : {false, true}) {
      SCOPED_TRACE(to_json(test.settings).dump() + (wide ? " wide" : " narrow"));
      const auto quantized = model(wide ? wide_config() : testing::tiny_config(), test.settings);
      ExportOptions chosen = options(ExportFormat::kGguf, "a.gguf");
      chosen.compatible_types = test.compatible;
      const ExportReport report = export_to_file(exportable(*quantized), chosen);
      EXPECT_EQ(report.differing(), 0u);
      EXPECT_EQ(tensor_of(report, "blk.0.attn_q.weight").type, wide ? test.wide : test.narrow);
      EXPECT_EQ(report.bytes, fs::file_size(folder_ / "a.gguf"));
    }
  }
}

TEST_F(ExportTest, GgufTakesTheWantedTypeWhereItFits) {
  const auto quantized = model(wide_config(), settings_of(0));
  for (const auto& [type, name] : {std::pair{GgmlType::kTQ1_0, "TQ1_0"}, {GgmlType::kQ2_K, "Q2_K"}, {GgmlType::kQ8_0, "Q8_0"}}) {
    ExportOptions chosen = options(ExportFormat::kGguf, "a.gguf");
    chosen.block_type = type;
    const ExportReport report = export_to_file(exportable(*quantized), chosen);
    EXPECT_EQ(report.differing(), 0u);
    EXPECT_EQ(tensor_of(report, "blk.0.ffn_up.weight").type, name);
  }
}

// Qwen's rows stay in place, llama's change places; biases and norms of heads are carried.
TEST_F(ExportTest, GgufOfOtherArchitectures) {
  ModelConfig qwen2 = testing::tiny_config();
  qwen2.model_type = "qwen2";
  qwen2.attention_qkv_bias = true;
  ModelConfig qwen3 = testing::tiny_config();
  qwen3.model_type = "qwen3";
  qwen3.qk_norm = true;
  qwen3.head_dim = 32;  // not hidden_size / heads
  qwen3.tie_word_embeddings = false;
  ModelConfig mistral = testing::tiny_config();
  mistral.model_type = "mistral";
  ModelConfig biased = testing::tiny_config();
  biased.attention_qkv_bias = biased.attention_output_bias = true;
  ModelConfig llama3 = testing::tiny_config();
  llama3.rope_scaling = RopeScaling{.factor = 32};
  ModelConfig rescaled = testing::tiny_config();
  rescaled.rope_scaling = RopeScaling{.factor = 4, .low_freq_factor = 2, .high_freq_factor = 8, .original_max_position_embeddings = 64};
  ModelConfig smollm3 = testing::tiny_config();
  smollm3.model_type = "smollm3";
  smollm3.num_hidden_layers = 5;
  smollm3.layers_without_rope = {3};
  for (const ModelConfig& config : {qwen2, qwen3, mistral, biased, llama3, rescaled, smollm3}) {
    SCOPED_TRACE(config.model_type);
    const auto quantized = model(config, settings_of(4));
    const ExportReport report = export_to_file(exportable(*quantized), options(ExportFormat::kGguf, "a.gguf"));
    EXPECT_EQ(report.differing(), 0u);
    const GgufFile file(folder_ / "a.gguf");
    EXPECT_EQ(file.get_string("general.architecture"), config.model_type == "mistral" ? "llama" : config.model_type);
    EXPECT_EQ(file.find_tensor("output.weight") == nullptr, config.tie_word_embeddings);
    EXPECT_EQ(file.find_tensor("blk.0.attn_q.bias") != nullptr, config.attention_qkv_bias);
    EXPECT_EQ(file.find_tensor("blk.0.attn_q_norm.weight") != nullptr, config.qk_norm);
    EXPECT_EQ(file.find_tensor("rope_freqs.weight") != nullptr, config.rope_scaling.has_value());
  }
}

TEST_F(ExportTest, GgufRotationsThatMakeNoSenseAreRefused) {
  ModelConfig config = testing::tiny_config();
  config.rope_scaling = RopeScaling{.factor = 4, .low_freq_factor = 2, .high_freq_factor = 8, .original_max_position_embeddings = 64};
  const auto quantized = model(config, settings_of(4));
  const fs::path path = folder_ / "a.gguf";
  export_to_file(exportable(*quantized), options(ExportFormat::kGguf, "a.gguf"));
  const std::string original = read_text_file(path);
  const auto refused = [&](std::size_t place, float value, const std::vector<std::string>& parts) {
    std::string text = original;
    std::memcpy(text.data() + place, &value, sizeof value);
    write_text_file(path, text);
    expect_error<DataError>(parts, [&] { ModelSource::open(path); });
  };
  const std::string key = "stableqat.rope.scaling.high_freq_factor";
  const std::size_t high = original.find(key) + key.size() + 4;  // behind the value's type
  const std::size_t divisors = GgufFile(path).find_tensor("rope_freqs.weight")->offset;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float value : {2.0F, 1.0F, nan}) refused(high, value, {"stableqat.rope.scaling", "not in order"});
  refused(high, 9.0F, {"rope_freqs.weight", "not those"});
  for (const float value : {nan, 0.0F, -1.0F, 5.0F}) refused(divisors, value, {"rope_freqs.weight", "not those"});
}

TEST_F(ExportTest, GgufMetadataIsWhatLlamaCppAsksFor) {
  const auto quantized = model(testing::tiny_config(), settings_of(2));
  export_to_file(exportable(*quantized), options(ExportFormat::kGguf, "a.gguf"));
  const GgufFile file(folder_ / "a.gguf");
  EXPECT_EQ(file.get_string("general.type"), "model");
  EXPECT_EQ(file.get_int("general.file_type"), 41);  // mostly Q2_0
  EXPECT_EQ(file.get_int("general.quantization_version"), 2);
  EXPECT_EQ(file.get_int("llama.block_count"), 2);
  EXPECT_EQ(file.get_int("llama.context_length"), 512);
  EXPECT_EQ(file.get_int("llama.embedding_length"), 64);
  EXPECT_EQ(file.get_int("llama.feed_forward_length"), 128);
  EXPECT_EQ(file.get_int("llama.attention.head_count"), 4);
  EXPECT_EQ(file.get_int("llama.attention.head_count_kv"), 2);
  EXPECT_EQ(file.get_int("llama.rope.dimension_count"), 16);
  EXPECT_EQ(file.get_int("llama.vocab_size"), 260);
  EXPECT_EQ(file.get_string("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(file.get_string("tokenizer.ggml.pre"), "gpt-2");
  EXPECT_EQ(file.get_strings("tokenizer.ggml.tokens")->size(), 260u);
  EXPECT_EQ(file.get_strings("tokenizer.ggml.tokens")->at(258), "[PAD258]");
  EXPECT_EQ(file.get_ints("tokenizer.ggml.token_type")->at(256), 3);  // <|endoftext|>
  EXPECT_EQ(file.get_ints("tokenizer.ggml.token_type")->at(258), 5);
  EXPECT_EQ(file.get_bool("tokenizer.ggml.add_bos_token"), false);
  EXPECT_NE(file.get_strings("tokenizer.ggml.merges"), nullptr);
}

// Numbers other than the defaults, which the proof reads back; ids that only the configuration names; the label of the dominant type.
TEST_F(ExportTest, GgufCarriesWhatIsNotTheDefault) {
  ModelConfig config = wide_config();
  config.rms_norm_eps = 3e-6;
  config.rope_theta = 5e5;
  config.bos_token_id = 5;
  const auto quantized = model(config, settings_of(3));
  write_text_file(folder_ / "model/tokenizer_config.json", R"({"chat_template": "{{ messages }}"})");
  EXPECT_EQ(export_to_file(exportable(*quantized), options(ExportFormat::kGguf, "a.gguf")).differing(), 0u);
  const GgufFile file(folder_ / "a.gguf");
  EXPECT_EQ(file.get_int("general.file_type"), 12);  // mostly Q3_K
  EXPECT_EQ(file.get_int("tokenizer.ggml.bos_token_id"), 5);
  EXPECT_EQ(file.get_string("tokenizer.chat_template"), "{{ messages }}");
}

TEST_F(ExportTest, OnlyTheEmbeddingIsRoundedWhenAskedTo) {
  const auto quantized = model(testing::tiny_config(), settings_of(3));
  ExportOptions chosen = options(ExportFormat::kGguf, "a.gguf");
  EXPECT_EQ(tensor_of(export_to_file(exportable(*quantized), chosen), "token_embd.weight").type, "F32");
  chosen.embedding = GgmlType::kQ8_0;
  const ExportReport report = export_to_file(exportable(*quantized), chosen);
  const ExportedTensor& table = tensor_of(report, "token_embd.weight");
  EXPECT_EQ(table.type, "Q8_0");
  EXPECT_EQ(table.bytes, 260u * 64u / 32u * 34u);
  EXPECT_GT(table.differing, 0u);
  EXPECT_LT(table.max_difference, 0.24 / 127);  // half a step, and the rounding of the scale: weights are below 0.24
  EXPECT_EQ(report.differing(), table.differing);
  chosen.embedding = GgmlType::kQ6_K;
  expect_error<ConfigError>({"Q6_K", "rows of 64", "blocks of 256"}, [&] { export_to_file(exportable(*quantized), chosen); });
}

TEST_F(ExportTest, ScalesOffTheHalfGridAreRefusedOrRounded) {
  QuantizationSettings settings = settings_of(4);
  settings.spec.fp16_scales = false;
  const auto quantized = model(testing::tiny_config(), settings);
  ExportOptions chosen = options(ExportFormat::kGguf, "a.gguf");
  expect_error<NumericError>({"scales", "float16 would change", "--allow-rounding"},
                             [&] { export_to_file(exportable(*quantized), chosen); });
  EXPECT_FALSE(fs::exists(chosen.output));
  chosen.allow_rounding = true;
  const ExportReport report = export_to_file(exportable(*quantized), chosen);
  EXPECT_GT(report.differing(), 0u);
  EXPECT_LT(report.max_difference(), 8 * 0.1 * 0x1p-11);  // |code| <= 8, steps below 0.1
}

TEST_F(ExportTest, AFileThatIsNotTheModelFailsTheProof) {
  const auto quantized = model(testing::tiny_config(), settings_of(4));
  const ExportModel exported = exportable(*quantized);
  const ExportOptions chosen = options(ExportFormat::kGguf, "a.gguf");
  ExportReport report = export_to_file(exported, chosen);
  const auto prove_again = [&] {
    for (ExportedTensor& tensor : report.tensors) tensor.differing = 0;
    prove(exported, chosen.output, report);
  };
  EXPECT_NO_THROW(prove_again());

  const auto original = read_text_file(chosen.output);
  const auto damaged = [&](std::uint64_t place) {
    std::string text = original;
    text[place] = static_cast<char>(text[place] ^ 1);
    write_text_file(chosen.output, text);
  };
  const GgufFile file(chosen.output);
  damaged(file.find_tensor("blk.1.ffn_down.weight")->offset + 5);
  expect_error<NumericError>({"model.layers.1.mlp.down_proj.weight", "1 of 8192 values"}, prove_again);
  damaged(file.find_tensor("output_norm.weight")->offset);
  expect_error<NumericError>({"model.norm.weight", "1 of 64 values"}, prove_again);
  damaged(original.find("llama.rope.freq_base") + 20 + 4 + 2);
  expect_error<NumericError>({"configuration"}, prove_again);
  damaged(original.find("gpt-2") + 4);
  expect_error<NumericError>({"reading it back"}, [&] {
    try {
      prove_again();
    } catch (const ConfigError& error) {  // a pre-tokenizer that is not known
      throw NumericError({"", "reading it back", "", ""});
    }
  });
}

TEST_F(ExportTest, NothingIsReplacedUnasked) {
  const auto quantized = model(testing::tiny_config(), settings_of(4));
  const ExportModel exported = exportable(*quantized);
  for (const ExportFormat format : {ExportFormat::kGguf, ExportFormat::kPacked}) {
    ExportOptions chosen = options(format, "taken");
    write_text_file(chosen.output, "mine");
    chosen.overwrite = false;
    expect_error<ConfigError>({"taken", "--overwrite"}, [&] { export_to_file(exported, chosen); });
    EXPECT_EQ(read_text_file(chosen.output), "mine");
  }
}

TEST_F(ExportTest, StoppingLeavesNothing) {
  const auto quantized = model(testing::tiny_config(), settings_of(4));
  const ExportModel exported = exportable(*quantized);
  fs::create_directory(folder_ / "out");
  for (const ExportFormat format : {ExportFormat::kGguf, ExportFormat::kPacked}) {
    int asked = 0;
    const ExportReport report = export_to_file(exported, options(format, "out/a"), {}, {}, [&asked] { return ++asked > 3; });
    EXPECT_TRUE(report.tensors.empty());
    EXPECT_TRUE(fs::is_empty(folder_ / "out"));
  }
}

TEST_F(ExportTest, OptionsOfOtherFormatsAreRefused) {
  const auto quantized = model(testing::tiny_config(), settings_of(4));
  const ExportModel exported = exportable(*quantized);
  ExportOptions embedding = options(ExportFormat::kHuggingFace, "a");
  embedding.embedding = GgmlType::kQ8_0;
  ExportOptions dtype = options(ExportFormat::kGguf, "a");
  dtype.dtype = DType::kF16;
  ExportOptions type = options(ExportFormat::kPacked, "a");
  type.block_type = GgmlType::kQ4_0;
  for (const ExportOptions& wrong : {embedding, dtype, type}) EXPECT_THROW(export_to_file(exported, wrong), ConfigError);
}

TEST_F(ExportTest, AFullPrecisionModelGoesIntoGgufOnly) {
  const auto plain = model(testing::tiny_config(), std::nullopt);
  EXPECT_EQ(export_to_file(exportable(*plain), options(ExportFormat::kGguf, "a.gguf")).differing(), 0u);
  for (const ExportFormat format : {ExportFormat::kCompressedTensors, ExportFormat::kGptq, ExportFormat::kPacked}) {
    expect_error<ConfigError>({"not quantized", "--bits"}, [&] { export_to_file(exportable(*plain), options(format, "a")); });
  }
}

}  // namespace
}  // namespace stableqat
