// Shapes, statistics, counted operations, and the training that is timed.
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <string>
#include <vector>

#include "bench/step_check.h"
#include "stableqat/base/error.h"
#include "stableqat/bench/rates.h"
#include "stableqat/bench/shapes.h"
#include "stableqat/bench/spread.h"
#include "stableqat/bench/training_subject.h"
#include "stableqat/train/settings.h"

namespace stableqat::bench {
namespace {

std::int64_t parameters(const ModelConfig& config) {
  const auto source = random_model(config);
  std::vector<std::string> names{"model.embed_tokens.weight", "model.norm.weight"};
  if (!config.tie_word_embeddings) names.emplace_back("lm_head.weight");
  std::vector<std::string> of_layer{"input_layernorm",  "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj",
                                    "self_attn.v_proj", "self_attn.o_proj",         "mlp.gate_proj",    "mlp.up_proj",
                                    "mlp.down_proj"};
  if (config.qk_norm) of_layer.insert(of_layer.end(), {"self_attn.q_norm", "self_attn.k_norm"});
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    for (const std::string& name : of_layer) names.push_back("model.layers." + std::to_string(i) + "." + name + ".weight");
  }
  std::int64_t count = 0;
  for (const std::string& name : names) {
    std::int64_t size = 1;
    for (const std::int64_t n : source->shape(name)) size *= n;
    count += size;
  }
  return count;
}

// The published numbers of parameters.
TEST(Shapes, HaveThePublishedSizes) {
  EXPECT_EQ(parameters(shape("llama-3.2-1b")), 1235814400);
  EXPECT_EQ(parameters(shape("llama-3.2-3b")), 3212749824);
  EXPECT_EQ(parameters(shape("qwen3-0.6b")), 596049920);
  EXPECT_EQ(parameters(shape("smollm2-135m")), 134515008);
  EXPECT_THROW(shape("smollm2"), ConfigError);
}

TEST(Shapes, RandomWeightsAreSeededAndBellShaped) {
  constexpr std::size_t kCount = 512 * 64;
  const std::string name = "model.embed_tokens.weight";
  const auto draw = [&](std::uint64_t seed, const std::string& tensor) {
    std::vector<float> values(kCount);
    random_model(shape("tiny"), seed)->read(tensor, values);
    return values;
  };
  const std::vector<float> values = draw(1, name);
  EXPECT_EQ(values, draw(1, name));
  EXPECT_NE(values, draw(2, name));
  EXPECT_NE(values, draw(1, "model.layers.0.mlp.up_proj.weight"));
  double sum = 0;
  double squares = 0;
  for (const float value : values) {
    sum += value;
    squares += value * value;
  }
  // Five standard errors of a mean and of a variance.
  EXPECT_NEAR(sum / kCount, 0.0, 5 * 0.02 / std::sqrt(kCount));
  EXPECT_NEAR(squares / kCount, 4e-4, 5 * 4e-4 * std::sqrt(2.0 / kCount));
  EXPECT_THROW(random_model(shape("tiny"))->shape("model.layers.0.mlp.up_proj.weight_clip_val"), DataError);
}

TEST(Spread, OfKnownNumbers) {
  const Spread odd = spread({5, 1, 3});
  EXPECT_EQ(odd.median, 3);
  EXPECT_EQ(odd.min, 1);
  EXPECT_EQ(odd.max, 5);
  EXPECT_EQ(odd.deviation, 2);
  EXPECT_EQ(spread({4, 1, 2, 9}).median, 3);
  EXPECT_EQ(spread({7}).deviation, 0);
  EXPECT_EQ(median_ratio({2, 20, 90}, {1, 20, 30}), 2);
}

TEST(TrainingFlops, OfSmolLm2) {
  const ModelConfig config = shape("smollm2-135m");
  // Six operations per weight and token; norms (61 of 576) take part in no product, and the last token of a block not in the head.
  const double weights = 134515008 - 61 * 576;
  const double head = 49152.0 * 576;
  const TrainingFlops flops = training_flops(config, 2, 512);
  EXPECT_DOUBLE_EQ(flops.weights, 6 * (weights * 2 * 512 - head * 2));
  EXPECT_DOUBLE_EQ(flops.attention, 30 * 3 * 4.0 * 576 * 2 * (512.0 * 513 / 2));
}

TEST(GemmReference, Measures) {
  GemmReference reference(shape("tiny"), 64);
  reference.flops_per_second();
  EXPECT_GT(reference.flops_per_second(), 1e6);
}

TrainingJob tiny_job(const std::vector<std::string>& settings) {
  std::vector<std::string> arguments{"--model.path",
                                     "tiny",
                                     "--data.train",
                                     "[none]",
                                     "--train.output_dir",
                                     "none",
                                     "--data.sequence_length",
                                     "32",
                                     "--train.micro_batch_size",
                                     "2",
                                     "--train.gradient_accumulation_steps",
                                     "2"};
  arguments.insert(arguments.end(), settings.begin(), settings.end());
  std::vector<std::string> notices;
  return {load_train_config({}, arguments, notices), shape("tiny")};
}

using Settings = std::vector<std::string>;
class SubjectTest : public testing::TestWithParam<Settings> {};

TEST_P(SubjectTest, PassesItsCheckAndTakesTime) {
  TrainingSubject subject(tiny_job(GetParam()));
  const double loss = subject.check();
  EXPECT_NEAR(loss, std::log(512.0), 0.5);  // of random weights: near that of a guess

  const StepSeconds step = subject.step();
  EXPECT_GT(step.forward, 0);
  EXPECT_GT(step.backward, 0);
  EXPECT_GT(step.update, 0);
  EXPECT_DOUBLE_EQ(step.total, step.forward + step.backward + step.update);

  const StepParts parts = subject.step_parts();
  EXPECT_GT(parts.gemm, 0);
  EXPECT_GT(parts.attention, 0);
  EXPECT_GT(parts.head, 0);
  EXPECT_GT(parts.update, 0);
  EXPECT_GT(parts.rest, 0);

  const PassCost pass = subject.pass();
  EXPECT_GT(pass.forward_seconds, 0);
  EXPECT_GT(pass.backward_seconds, 0);
  // At least masters and both moments in fp32.
  EXPECT_GT(pass.forward_bytes, 12 * parameters(shape("tiny")));
  EXPECT_GT(pass.backward_bytes, 16 * parameters(shape("tiny")));
}

INSTANTIATE_TEST_SUITE_P(Methods, SubjectTest,
                         testing::Values(Settings{"--quantization.method", "none"},
                                         Settings{"--quantization.method", "ste", "--quantization.bits", "2"},
                                         Settings{"--quantization.method", "stableqat", "--quantization.bits", "3"},
                                         Settings{"--quantization.method", "stableqat", "--quantization.bits", "4",
                                                  "--quantization.group_size", "32", "--train.weight_decay", "0.1"},
                                         Settings{"--quantization.method", "seq", "--quantization.bits", "2"},
                                         Settings{"--quantization.method", "dsq", "--quantization.bits", "4"},
                                         Settings{"--quantization.method", "stableqat", "--train.recompute", "block"},
                                         Settings{"--quantization.method", "stableqat", "--train.precision", "float64"}),
                         [](const testing::TestParamInfo<Settings>& test) {
                           std::string name;
                           for (const std::string& setting : test.param) name += setting.substr(setting.rfind('.') + 1) + "_";
                           std::replace_if(
                               name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
                           return name;
                         });

TEST(Subject, SteAndStableqatShareTheFirstLoss) {
  TrainingSubject ste(tiny_job({"--quantization.method", "ste", "--quantization.bits", "3"}));
  TrainingSubject stableqat(tiny_job({"--quantization.method", "stableqat", "--quantization.bits", "3"}));
  EXPECT_EQ(ste.check(), stableqat.check());
}

TEST(StepCheck, SeesAnotherOptimizerAndAnotherClipping) {
  const TrainingJob job = tiny_job({"--quantization.method", "stableqat", "--quantization.bits", "3"});
  const TrainStepOptions options = train_step_options(job.config);
  const at::Tensor ids = at::randint(512, {2, 32}, at::kLong);
  // A step by `used`, checked as if it were by epsilon 1 and the usual clipping. At epsilon 1 it depends on the size of the gradient.
  const auto checked = [&](double epsilon, double max_grad_norm) {
    QuantizedModel model(*random_model(*job.random_weights), at::kFloat, quantization_settings(job.config.quantization));
    TrainStepOptions told = options;
    told.adamw.epsilon = 1.0;
    TrainStepOptions used = options;
    used.adamw.epsilon = epsilon;
    used.max_grad_norm = max_grad_norm;
    TrainStep step(model, used);
    return checked_step(model, step, ids, told, 1e-2);
  };
  EXPECT_GT(checked(1.0, options.max_grad_norm), 0);
  EXPECT_THROW(checked(0.5, options.max_grad_norm), NumericError);
  EXPECT_THROW(checked(1.0, 0.01), NumericError);
}

}  // namespace
}  // namespace stableqat::bench
