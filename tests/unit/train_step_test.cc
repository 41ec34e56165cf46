// The training step against autograd through the quantizer in every micro-batch, and the parts around it against closed forms.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <numbers>
#include <string>
#include <vector>

#include "../support/tiny_model.h"
#include "stableqat/base/error.h"
#include "stableqat/quant/fake_quantize.h"
#include "stableqat/train/schedule.h"
#include "stableqat/train/settings.h"
#include "stableqat/train/train_step.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

class TrainStepTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stableqat_train_step_test_" + std::to_string(::getpid()));
    testing::write_tiny_model(folder_);
    source_ = ModelSource::open(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static QuantizationSettings settings(QuantizerKind kind, int bits, bool fourier) {
    QuantizationSettings result;
    result.spec.kind = kind;
    result.spec.bits = bits;
    if (fourier) result.spec.surrogate = Surrogate::fourier(0.21);
    result.spec.scale_init = ScaleInit::kMse;
    result.spec.fp16_scales = false;
    return result;
  }

  static at::Tensor ids(std::int64_t seed) {
    at::Tensor tensor = at::empty({2, 24}, at::kLong);
    for (std::int64_t i = 0; i < tensor.numel(); ++i) tensor.data_ptr<std::int64_t>()[i] = (i * 31 + seed * 17 + i * i / 7) % 257;
    return tensor;
  }

  fs::path folder_;
  std::unique_ptr<ModelSource> source_;
};

// Gradients by name from plain autograd, the quantizer inside every micro-batch: what the authors' program does.
std::map<std::string, at::Tensor> oracle_gradients(const ModelSource& source, const QuantizationSettings& settings,
                                                   const QuantizedModel& quantized, const std::vector<at::Tensor>& batches) {
  std::map<std::string, at::Tensor> leaves;
  for (const at::Tensor& batch : batches) {
    CausalLm model(source, at::kDouble);
    std::size_t next = 0;
    model.visit_parameters([&](const std::string& name, ParameterRole role, at::Tensor& value) {
      if (role != ParameterRole::kProjection) return;
      const QuantizedWeight& weight = quantized.weights()[next++];
      const at::Tensor master = leaves.try_emplace(name, value.detach().requires_grad_()).first->second;
      const std::string scale_name = weight.name() + ".weight_clip_val";
      const at::Tensor scale = leaves.try_emplace(scale_name, weight.scale().clone().requires_grad_()).first->second;
      at::Tensor alpha;
      if (weight.alpha().defined())
        alpha = leaves.try_emplace(weight.name() + ".alpha_dsq", weight.alpha().clone().requires_grad_()).first->second;
      value = fake_quantize_autograd(master, scale, settings.spec, alpha);
    });
    forward_backward(model, batch, 1.0 / static_cast<double>(batches.size()), Recompute::kNone);
  }
  std::map<std::string, at::Tensor> gradients;
  for (const auto& [name, leaf] : leaves) gradients[name] = leaf.grad();
  return gradients;
}

TEST_F(TrainStepTest, OneMapPerStepGivesTheGradientsOfQuantizingInEveryMicroBatch) {
  for (const QuantizationSettings& setting : {settings(QuantizerKind::kLsq, 3, true), settings(QuantizerKind::kLsq, 2, false),
                                              settings(QuantizerKind::kSeq, 2, false), settings(QuantizerKind::kDsq, 3, false)}) {
    QuantizedModel model(*source_, at::kDouble, setting);
    TrainStep step(model, {});
    const std::vector<at::Tensor> batches{ids(1), ids(2), ids(3)};
    for (const at::Tensor& batch : batches) step.accumulate(batch, 1.0 / 3.0);
    const auto expected = oracle_gradients(*source_, setting, model, batches);
    const std::vector<at::Tensor> found = step.mapped_gradients();
    std::size_t compared = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const auto entry = expected.find(step.optimizer().tensors()[i].name);
      if (entry == expected.end()) continue;
      const double norm = at::linalg_vector_norm(entry->second).item<double>();
      const double difference = at::linalg_vector_norm(found[i] - entry->second).item<double>();
      EXPECT_LE(difference, 1e-12 * norm) << entry->first << " with quantizer " << static_cast<int>(setting.spec.kind);
      EXPECT_GT(norm, 0.0) << entry->first;
      ++compared;
    }
    EXPECT_EQ(compared, setting.spec.kind == QuantizerKind::kDsq ? 42U : 28U);
  }
}

TEST_F(TrainStepTest, RecomputedBlocksGiveTheSameBits) {
  std::vector<std::vector<at::Tensor>> gradients;
  for (const Recompute recompute : {Recompute::kNone, Recompute::kBlock}) {
    QuantizedModel model(*source_, at::kFloat, settings(QuantizerKind::kLsq, 4, true));
    TrainStepOptions options;
    options.recompute = recompute;
    TrainStep step(model, options);
    step.accumulate(ids(1), 0.5);
    step.accumulate(ids(2), 0.5);
    gradients.push_back(step.mapped_gradients());
  }
  for (std::size_t i = 0; i < gradients[0].size(); ++i) EXPECT_TRUE(gradients[0][i].equal(gradients[1][i])) << i;
}

TEST_F(TrainStepTest, ClippingScalesTheWholeGradient) {
  // With AdamW the size of the gradient cancels in the first step, so the update must be the same with and without clipping, up to epsilon;
  // the moments, not the update, show the factor.
  std::vector<at::Tensor> moments;
  double norm = 0.0;
  for (const double limit : {0.0, 0.5}) {
    QuantizedModel model(*source_, at::kDouble, settings(QuantizerKind::kLsq, 3, true));
    TrainStepOptions options;
    options.max_grad_norm = limit;
    TrainStep step(model, options);
    step.accumulate(ids(1), 1.0);
    norm = step.update(1e-3).norms.total;
    moments.push_back(step.optimizer().first_moment(1).clone());
  }
  ASSERT_GT(norm, 0.5);
  const at::Tensor expected = moments[0] * (0.5 / (norm + 1e-6));
  EXPECT_LE(at::linalg_vector_norm(moments[1] - expected).item<double>(), 1e-13 * at::linalg_vector_norm(expected).item<double>());
}

TEST_F(TrainStepTest, AGradientThatIsNotFiniteChangesNothing) {
  QuantizedModel model(*source_, at::kFloat, settings(QuantizerKind::kLsq, 3, true));
  TrainStep step(model, {});
  step.accumulate(ids(1), 1.0);
  const at::Tensor before = model.weights()[0].master().clone();
  model.weights()[3].dequantized().mutable_grad().fill_(std::numeric_limits<float>::infinity());
  EXPECT_THROW(step.update(1e-3), NumericError);
  EXPECT_TRUE(before.equal(model.weights()[0].master()));
  EXPECT_EQ(step.optimizer().steps(), 0);
}

// After one step from zero moments AdamW moves by lr * g / (|g| + eps), after the decay of lr * wd * w.
TEST(AdamWTest, TheFirstStepIsItsClosedForm) {
  at::Tensor value = at::full({4}, 2.0, at::kDouble);
  at::Tensor fixed = at::full({4}, 2.0, at::kDouble);
  AdamW optimizer({{"w", value, 1.0, true}, {"untouched", fixed, 1.0, true}}, {0.9, 0.999, 1e-8, 0.1});
  const std::vector<double> gradient{1.0, -0.5, 0.0, 3e-8};
  optimizer.step({at::tensor(gradient, at::kDouble), at::Tensor()}, 0.01, 2.0);
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    const double g = 2.0 * gradient[i];
    EXPECT_NEAR(value.data_ptr<double>()[i], 2.0 * (1 - 0.01 * 0.1) - 0.01 * g / (std::abs(g) + 1e-8), 1e-14) << i;
  }
  EXPECT_TRUE(fixed.equal(at::full({4}, 2.0, at::kDouble)));
}

TEST(ScheduleTest, WarmUpThenCosineLinearOrConstant) {
  const Schedule cosine{TrainConfig::Scheduler::kCosine, 2.0, 10, 110};
  EXPECT_EQ(cosine.rate(0), 0.0);
  EXPECT_DOUBLE_EQ(cosine.rate(5), 1.0);
  EXPECT_DOUBLE_EQ(cosine.rate(10), 2.0);
  EXPECT_DOUBLE_EQ(cosine.rate(60), 1.0);
  EXPECT_NEAR(cosine.rate(85), 1.0 - std::numbers::sqrt2 / 2, 1e-12);
  const Schedule linear{TrainConfig::Scheduler::kLinear, 2.0, 0, 100};
  EXPECT_DOUBLE_EQ(linear.rate(0), 2.0);
  EXPECT_DOUBLE_EQ(linear.rate(75), 0.5);
  const Schedule constant{TrainConfig::Scheduler::kConstant, 2.0, 2, 100};
  EXPECT_DOUBLE_EQ(constant.rate(1), 1.0);
  EXPECT_DOUBLE_EQ(constant.rate(99), 2.0);
}

TEST(SettingsTest, StepsComeFromMaxStepsOrTokensOrEpochs) {
  TrainConfig config;
  config.data.sequence_length = 100;
  config.train.micro_batch_size = 2;
  config.train.gradient_accumulation_steps = 5;
  EXPECT_EQ(total_steps(config, 95), 9);  // 95 blocks, 10 a step
  config.data.max_train_tokens = 12345;   // 123 blocks
  EXPECT_EQ(total_steps(config, 95), 12);
  config.train.max_steps = 7;
  EXPECT_EQ(total_steps(config, 95), 7);
  config.train.max_steps = 0;
  config.data.max_train_tokens = 999;
  EXPECT_THROW(total_steps(config, 95), ConfigError);
}

}  // namespace
}  // namespace stableqat
