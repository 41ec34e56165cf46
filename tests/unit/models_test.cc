// The decoder and its head against closed forms, against the same thing computed another way, and against autograd.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/kl_div.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numbers>
#include <vector>

#include "../support/tiny_model.h"
#include "stableqat/base/error.h"
#include "stableqat/eval/perplexity.h"
#include "stableqat/models/generate.h"
#include "stableqat/models/head.h"
#include "stableqat/models/quantized_model.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

class ModelsTest : public ::testing::Test {
 protected:
  void SetUp() override { folder_ = fs::temp_directory_path() / ("stableqat_models_test_" + std::to_string(::getpid())); }
  void TearDown() override { fs::remove_all(folder_); }

  CausalLm load(const ModelConfig& config = testing::tiny_config(), at::ScalarType dtype = at::kDouble) const {
    testing::write_tiny_model(folder_, config);
    return CausalLm(*ModelSource::open(folder_), dtype);
  }

  fs::path folder_;
};

// Largest |a - b| over the norm of b.
double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / at::linalg_vector_norm(b)).item<double>();
}

at::Tensor some_ids(std::int64_t batch, std::int64_t tokens) {
  at::Tensor ids = at::empty({batch, tokens}, at::kLong);
  for (std::int64_t i = 0; i < ids.numel(); ++i) ids.data_ptr<std::int64_t>()[i] = (i * 37 + i / 5) % 257;
  return ids;
}

constexpr double kDoubleTolerance = 1e-13;

TEST_F(ModelsTest, CachedStepsGiveTheHiddenStatesOfTheWholeText) {
  for (const bool qk_norm : {false, true}) {
    ModelConfig config = testing::tiny_config();
    if (qk_norm) {
      config.model_type = "qwen3";
      config.qk_norm = true;
    }
    const CausalLm model = load(config);
    const at::NoGradGuard no_grad;
    const at::Tensor ids = some_ids(2, 12);
    const at::Tensor whole = model.hidden_states(ids);
    KvCache cache(config, 2, 12, at::kDouble);
    std::vector<at::Tensor> parts;
    std::int64_t first = 0;
    for (const std::int64_t count : {5, 1, 4, 1, 1}) {
      parts.push_back(model.hidden_states(ids.narrow(1, first, count), &cache));
      first += count;
    }
    EXPECT_LT(relative_difference(at::cat(parts, 1), whole), kDoubleTolerance);
    EXPECT_THROW(model.hidden_states(ids.narrow(1, 0, 1), &cache), ConfigError);
  }
}

// One sequence takes the short way of decode_packed_token(); two of them the operations that serve every shape.
TEST_F(ModelsTest, DecodingFromPackedWeightsGivesTheSameBits) {
  ModelConfig plain = testing::tiny_config();
  ModelConfig biased = plain;
  biased.model_type = "qwen2";
  biased.attention_qkv_bias = true;
  ModelConfig normed = plain;
  normed.model_type = "qwen3";
  normed.qk_norm = true;
  normed.num_key_value_heads = 4;
  ModelConfig partly_turned = plain;
  partly_turned.model_type = "smollm3";
  partly_turned.layers_without_rope = {1};
  const int threads = at::get_num_threads();
  for (const ModelConfig& config : {plain, biased, normed, partly_turned}) {
    for (const std::int64_t group_size : {0, 32}) {
      SCOPED_TRACE(config.model_type + ", group size " + std::to_string(group_size));
      testing::write_tiny_model(folder_, config);
      QuantizationSettings settings;
      settings.spec.bits = 3;
      settings.spec.group_size = group_size;
      QuantizedModel model(*ModelSource::open(folder_), at::kFloat, settings);
      model.set_code_products(CodeProducts::kFloat);
      model.pack_for_decoding();
      const at::NoGradGuard no_grad;
      const at::Tensor ids = some_ids(1, 9);
      const auto decode = [&](std::int64_t batch) {
        KvCache cache(config, batch, 9, at::kFloat);
        std::vector<at::Tensor> hidden;
        for (const std::int64_t count : {3, 1, 1, 1, 1, 1, 1}) {
          hidden.push_back(
              model.model().hidden_states(ids.narrow(1, cache.length(), count).expand({batch, count}), &cache).narrow(0, 0, 1));
        }
        EXPECT_EQ(cache.length(), 9);
        return at::cat(hidden, 1);
      };
      const at::Tensor expected = decode(2);
      for (const int count : {1, 2, 3}) {
        at::set_num_threads(count);
        EXPECT_TRUE(decode(1).equal(expected)) << count << " threads";
      }
      at::set_num_threads(threads);
    }
  }
}

TEST_F(ModelsTest, EachTokenSeesOnlyWhatCameBefore) {
  const CausalLm model = load();
  const at::NoGradGuard no_grad;
  const at::Tensor ids = some_ids(1, 10);
  at::Tensor changed = ids.clone();
  changed.data_ptr<std::int64_t>()[7] += 1;
  const at::Tensor a = model.hidden_states(ids);
  const at::Tensor b = model.hidden_states(changed);
  EXPECT_TRUE(a.narrow(1, 0, 7).equal(b.narrow(1, 0, 7)));
  EXPECT_FALSE(a.narrow(1, 7, 1).equal(b.narrow(1, 7, 1)));
}

// A tied head of zeros gives every token the same probability: the perplexity is the size of the vocabulary.
TEST_F(ModelsTest, PerplexityOfAUniformModelIsTheVocabularySize) {
  CausalLm model = load();
  {
    const at::NoGradGuard no_grad;
    model.visit_parameters([](const std::string&, ParameterRole role, at::Tensor& value) {
      if (role == ParameterRole::kEmbedding) value.zero_();
    });
  }
  std::vector<std::int32_t> ids(100, 3);
  const PerplexityResult result = perplexity(model, ids, {16, 64});
  EXPECT_NEAR(result.perplexity, 260.0, 260.0 * kDoubleTolerance);
  EXPECT_EQ(result.blocks, 6U);
  EXPECT_EQ(result.tokens, 90U);
  ids[5] = 260;
  EXPECT_THROW(perplexity(model, ids, {16, 64}), DataError);
}

// More rows than a chunk of the head holds, with a remainder.
TEST_F(ModelsTest, ChunkedLossAndGradientsAreThoseOfAutograd) {
  CausalLm model = load();
  const at::Tensor ids = some_ids(3, 150);
  const at::Tensor hidden = model.hidden_states(ids).detach();
  const HeadLoss found = head_forward_backward(model, hidden, ids, 0.25);
  const at::Tensor head = model.head().detach().clone().requires_grad_();
  const at::Tensor leaf = hidden.clone().requires_grad_();
  const at::Tensor values = at::linear(leaf.narrow(1, 0, 149).reshape({-1, 64}), head);
  const at::Tensor loss = at::cross_entropy_loss(values, ids.narrow(1, 1, 149).reshape({-1}));
  (0.25 * loss).backward();
  EXPECT_NEAR(found.loss(), loss.item<double>(), kDoubleTolerance * 10);
  EXPECT_EQ(found.loss(), found.cross_entropy());
  EXPECT_LT(relative_difference(found.hidden_gradient, leaf.grad()), kDoubleTolerance);
  EXPECT_LT(relative_difference(model.head().grad(), head.grad()), kDoubleTolerance);
  const at::Tensor log_probs = token_log_probs(model, hidden, ids);
  EXPECT_NEAR(-log_probs.mean().item<double>(), loss.item<double>(), kDoubleTolerance * 10);
}

TEST_F(ModelsTest, DistilledLossAndGradientsAreThoseOfAutograd) {
  CausalLm student = load();
  const CausalLm teacher = load();
  const at::Tensor ids = some_ids(2, 40);
  const at::Tensor hidden = student.hidden_states(ids).detach() * 0.7;
  const at::Tensor teacher_hidden = teacher.hidden_states(ids).detach();
  const Distillation distillation{&teacher, teacher_hidden, 0.3, 2.0};
  const HeadLoss found = head_forward_backward(student, hidden, ids, 1.0, &distillation);
  const at::Tensor leaf = hidden.clone().requires_grad_();
  const auto rows = [](const at::Tensor& x) { return x.narrow(1, 0, 39).reshape({-1, 64}); };
  const at::Tensor values = at::linear(rows(leaf), student.head().detach());
  const at::Tensor teacher_values = at::linear(rows(teacher_hidden), teacher.head().detach());
  const at::Tensor cross_entropy = at::cross_entropy_loss(values, ids.narrow(1, 1, 39).reshape({-1}));
  const at::Tensor divergence =
      at::kl_div(at::log_softmax(values / 2.0, 1), at::log_softmax(teacher_values / 2.0, 1), at::Reduction::Sum, true) / values.size(0);
  const at::Tensor loss = 0.7 * cross_entropy + 0.3 * 4.0 * divergence;
  loss.backward();
  EXPECT_NEAR(found.loss(), loss.item<double>(), kDoubleTolerance * 10);
  EXPECT_NEAR(found.cross_entropy(), cross_entropy.item<double>(), kDoubleTolerance * 10);
  EXPECT_LT(relative_difference(found.hidden_gradient, leaf.grad()), kDoubleTolerance);
}

TEST_F(ModelsTest, Bfloat16ComputeStaysNearFloat32) {
  const CausalLm exact = load(testing::tiny_config(), at::kFloat);
  CausalLm reduced = load(testing::tiny_config(), at::kFloat);
  reduced.set_compute_dtype(at::kBFloat16);
  const at::NoGradGuard no_grad;
  const at::Tensor ids = some_ids(1, 30);
  const at::Tensor hidden = reduced.hidden_states(ids);
  EXPECT_EQ(hidden.scalar_type(), at::kBFloat16);
  // bf16 carries 8 bits; each of the few dozen rounded operations on the way adds about 2^-9.
  const at::Tensor difference = hidden.to(at::kFloat) - exact.hidden_states(ids);
  EXPECT_LT((at::linalg_vector_norm(difference) / at::linalg_vector_norm(exact.hidden_states(ids))).item<double>(), 32 * 0x1p-9);
}

TEST_F(ModelsTest, GenerationStopsAtStopIdsAndRepeatsBySeed) {
  const CausalLm model = load();
  const std::vector<std::int32_t> prompt{10, 20, 30};
  const auto text = [&](const GenerateOptions& options) {
    std::vector<std::int32_t> ids;
    const std::int64_t count = generate(model, prompt, options, [&ids](std::int32_t id) { return ids.push_back(id), true; });
    EXPECT_EQ(count, static_cast<std::int64_t>(ids.size()));
    return ids;
  };
  const auto greedy = text({.max_tokens = 8, .sampling = {.seed = 1}, .stop_ids = {}});
  ASSERT_EQ(greedy.size(), 8U);
  EXPECT_EQ(text({.max_tokens = 8, .sampling = {.seed = 1}, .stop_ids = {greedy[3]}}).size(),
            static_cast<std::size_t>(std::find(greedy.begin(), greedy.end(), greedy[3]) - greedy.begin()));
  const auto sampled = text({.max_tokens = 8, .sampling = {.temperature = 1.0, .seed = 5}, .stop_ids = {}});
  EXPECT_EQ(sampled, text({.max_tokens = 8, .sampling = {.temperature = 1.0, .seed = 5}, .stop_ids = {}}));
  EXPECT_NE(sampled, text({.max_tokens = 8, .sampling = {.temperature = 1.0, .seed = 6}, .stop_ids = {}}));
}

TEST(RopeTest, LlamaThreeScalingFollowsItsDefinition) {
  ModelConfig config;
  config.head_dim = 64;
  config.rope_theta = 500000.0;
  const at::Tensor plain = rope_inverse_frequencies(config);
  config.rope_scaling = RopeScaling{8.0, 1.0, 4.0, 8192};
  const at::Tensor scaled = rope_inverse_frequencies(config);
  int kept = 0;
  int stretched = 0;
  for (std::int64_t i = 0; i < 32; ++i) {
    const double base = std::pow(500000.0, -2.0 * static_cast<double>(i) / 64.0);
    EXPECT_DOUBLE_EQ(plain.data_ptr<double>()[i], base);
    const double wavelength = 2 * std::numbers::pi / base;
    const double t = (8192 / wavelength - 1.0) / 3.0;
    const double divisor = wavelength < 2048 ? 1.0 : wavelength > 8192 ? 8.0 : 1.0 / ((1 - t) / 8.0 + t);
    EXPECT_NEAR(plain.data_ptr<double>()[i] / scaled.data_ptr<double>()[i], divisor, 1e-12);
    kept += divisor == 1.0;
    stretched += divisor == 8.0;
  }
  EXPECT_GT(kept, 10);
  EXPECT_GT(stretched, 5);
}

TEST(ModelConfigTest, SurvivesAJsonRoundTrip) {
  ModelConfig config = testing::tiny_config();
  config.rope_scaling = RopeScaling{32.0, 1.0, 4.0, 8192};
  config.bos_token_id = 1;
  EXPECT_EQ(model_config_from_json(to_json(config), "config.json"), config);
  config.model_type = "qwen3";
  config.qk_norm = true;
  EXPECT_EQ(model_config_from_json(to_json(config), "config.json"), config);
  config.model_type = "qwen2";
  config.qk_norm = false;
  config.attention_qkv_bias = true;
  EXPECT_EQ(model_config_from_json(to_json(config), "config.json"), config);
}

TEST(ModelConfigTest, NamesWhatItDoesNotSupport) {
  const auto refusal = [](const char* key, const nlohmann::json& value) {
    nlohmann::json json = to_json(testing::tiny_config());
    json[key] = value;
    try {
      model_config_from_json(json, "config.json");
    } catch (const DataError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, nlohmann::json>>{{"num_local_experts", 8},
                                                           {"hidden_act", "gelu"},
                                                           {"model_type", "gpt2"},
                                                           {"mlp_bias", true},
                                                           {"attention_dropout", 0.1},
                                                           {"partial_rotary_factor", 0.5},
                                                           {"rope_interleaved", true},
                                                           {"layer_types", nlohmann::json::array({"full_attention", "sliding_attention"})},
                                                           {"quantization_config", {{"quant_method", "gptq"}}},
                                                           {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4}}},
                                                           {"num_key_value_heads", 3},
                                                           {"hidden_size", -1},
                                                           {"vocab_size", "many"}}) {
    const std::string message = refusal(key, value);
    EXPECT_NE(message.find(key), std::string::npos) << message;
  }
  EXPECT_EQ(refusal("transformers_version", "5.0"), "accepted");
  EXPECT_EQ(refusal("attention_dropout", 0.0), "accepted");
  EXPECT_EQ(refusal("layer_types", nlohmann::json::array({"full_attention"})), "accepted");
}

TEST(QuantizationSettingsTest, SurvivesAJsonRoundTripAndRefusesNonsense) {
  QuantizationSettings settings;
  settings.spec = {.kind = QuantizerKind::kLsq,
                   .bits = 3,
                   .surrogate = Surrogate::fourier(0.21, 1),
                   .group_size = 64,
                   .scale_init = ScaleInit::kMse,
                   .fp16_scales = true};
  settings.layers.exclude = {"model.layers.0.*"};
  const nlohmann::json json = to_json(settings);
  const QuantizationSettings back = quantization_from_json(json, "config.json");
  EXPECT_EQ(back.spec, settings.spec);
  EXPECT_EQ(back.layers.include, settings.layers.include);
  EXPECT_EQ(back.layers.exclude, settings.layers.exclude);
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, nlohmann::json>>{{"bits", 7}, {"quantizer", "magic"}, {"amplitudes", {0.5}}, {"layers", 3}}) {
    nlohmann::json broken = json;
    broken[key] = value;
    EXPECT_THROW(quantization_from_json(broken, "config.json"), DataError) << key;
  }
}

}  // namespace
}  // namespace stableqat
