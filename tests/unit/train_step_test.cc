// The training step against autograd through the quantizer in every micro-batch, and the parts around it against closed forms.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
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

TEST_F(TrainStepTest, RecomputedActivationsGiveTheSameBits) {
  for (const CodeProducts products : {CodeProducts::kOff, CodeProducts::kFloat, CodeProducts::kInt8x1, CodeProducts::kInt8x2}) {
    std::vector<std::vector<at::Tensor>> gradients;
    for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kBlock}) {
      QuantizedModel model(*source_, at::kFloat, settings(QuantizerKind::kLsq, 4, true));
      model.set_code_products(products);
      TrainStepOptions options;
      options.recompute = recompute;
      TrainStep step(model, options);
      step.accumulate(ids(1), 0.5);
      step.accumulate(ids(2), 0.5);
      gradients.push_back(step.mapped_gradients());
    }
    for (std::size_t i = 0; i < gradients[0].size(); ++i) {
      EXPECT_TRUE(gradients[0][i].equal(gradients[1][i])) << "selective, tensor " << i;
      EXPECT_TRUE(gradients[0][i].equal(gradients[2][i])) << "block, tensor " << i;
    }
  }
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
  EXPECT_EQ(step.optimizer().first_moment(1).abs().max().item<float>(), 0.0F);
  EXPECT_EQ(step.optimizer().steps(), 0);
}

// The parts that update() fuses, one after the other.
TEST_F(TrainStepTest, AnUpdateIsMapThenClipThenAdamWThenQuantize) {
  for (const QuantizationSettings& setting : {settings(QuantizerKind::kLsq, 3, true), settings(QuantizerKind::kDsq, 3, false)}) {
    TrainStepOptions options;
    options.max_grad_norm = 0.5;
    options.scale_learning_rate_ratio = 0.5;
    options.adamw.weight_decay = 0.1;
    QuantizedModel model(*source_, at::kFloat, setting);
    TrainStep step(model, options);
    QuantizedModel other(*source_, at::kFloat, setting);
    TrainStep mirror(other, options);
    AdamW& expected = mirror.optimizer();
    for (int i = 0; i < 2; ++i) {
      step.accumulate(ids(i), 1.0);
      std::vector<at::Tensor> gradients = step.mapped_gradients();
      double squares = 0.0;
      for (at::Tensor& gradient : gradients) {
        gradient = gradient.clone();
        squares += at::linalg_vector_norm(gradient, 2, {}, false, at::kDouble).square().item<double>();
      }
      const StepReport report = step.update(1e-3);
      EXPECT_NEAR(report.norms.total, std::sqrt(squares), 5 * std::numeric_limits<float>::epsilon() * std::sqrt(squares));
      expected.begin_step(1e-3, std::min(1.0, 0.5 / (report.norms.total + 1e-6)));
      for (std::size_t k = 0; k < gradients.size(); ++k) expected.update(k, gradients[k]);
      other.quantize();
      const kernels::QuantizeCounts counts = QuantizedWeight::last_counts(other.weights());
      for (std::size_t k = 0; k < gradients.size(); ++k) {
        const std::string& name = expected.tensors()[k].name;
        EXPECT_TRUE(step.optimizer().tensors()[k].value.equal(expected.tensors()[k].value)) << name << ", step " << i;
        EXPECT_TRUE(step.optimizer().second_moment(k).equal(expected.second_moment(k))) << name << ", step " << i;
      }
      for (std::size_t k = 0; k < other.weights().size(); ++k) {
        EXPECT_TRUE(model.weights()[k].dequantized().detach().equal(other.weights()[k].dequantized().detach())) << k << ", step " << i;
      }
      EXPECT_GT(counts.changed, 0);
      EXPECT_EQ(report.counts.changed, counts.changed);
      EXPECT_EQ(report.counts.clipped, counts.clipped);
    }
  }
}

// Products with codes need no dequantized weights in memory, and change nothing.
TEST_F(TrainStepTest, ProductsWithCodesEqualThoseWithDequantizedWeights) {
  QuantizationSettings grouped = settings(QuantizerKind::kLsq, 3, true);
  grouped.spec.group_size = 32;
  for (const QuantizationSettings& setting : {settings(QuantizerKind::kLsq, 3, true), settings(QuantizerKind::kSeq, 2, true), grouped}) {
    QuantizedModel model(*source_, at::kFloat, setting);
    model.set_code_products(CodeProducts::kFloat);
    QuantizedModel other(*source_, at::kFloat, setting);
    TrainStep step(model, {});
    TrainStep expected(other, {});
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(step.accumulate(ids(i), 1.0).loss(), expected.accumulate(ids(i), 1.0).loss()) << "step " << i;
      EXPECT_EQ(step.update(1e-3).norms.total, expected.update(1e-3).norms.total) << "step " << i;
    }
    for (std::size_t k = 0; k < other.weights().size(); ++k) {
      EXPECT_FALSE(model.weights()[k].has_dequantized());
      EXPECT_TRUE(model.weights()[k].master().equal(other.weights()[k].master())) << k;
    }
    model.set_code_products(CodeProducts::kOff);
    EXPECT_TRUE(model.weights()[0].dequantized().detach().equal(other.weights()[0].dequantized().detach()));
  }
  QuantizedModel wide(*source_, at::kDouble, grouped);
  EXPECT_THROW(wide.set_code_products(CodeProducts::kFloat), ConfigError);
}

// Backward adds in place to memory that is there from the start: no page faults, and the same arithmetic in the first step as in later
// ones, which a resumed run relies on.
TEST_F(TrainStepTest, GradientsKeepTheirMemoryAndStartAtZero) {
  QuantizedModel model(*source_, at::kFloat, settings(QuantizerKind::kLsq, 3, true));
  TrainStep step(model, {});
  std::vector<at::Tensor> gradients;
  model.model().visit_parameters([&](const std::string& name, ParameterRole, at::Tensor& value) {
    gradients.push_back(value.grad());
    ASSERT_TRUE(value.grad().defined()) << name;
  });
  for (int i = 0; i < 2; ++i) {
    for (const at::Tensor& gradient : gradients) EXPECT_EQ(gradient.abs().max().item<float>(), 0.0F);
    step.accumulate(ids(i), 1.0);
    for (const at::Tensor& gradient : gradients) EXPECT_GT(gradient.abs().max().item<float>(), 0.0F);
    step.update(1e-3);
  }
}

TEST_F(TrainStepTest, AStepWithoutGradientMovesByMomentumOnly) {
  QuantizedModel model(*source_, at::kFloat, settings(QuantizerKind::kLsq, 3, true));
  TrainStep step(model, {});
  EXPECT_EQ(step.update(1e-3).norms.total, 0.0);
  EXPECT_EQ(step.optimizer().steps(), 1);
  QuantizedModel untouched(*source_, at::kFloat, settings(QuantizerKind::kLsq, 3, true));
  EXPECT_TRUE(model.weights()[0].master().equal(untouched.weights()[0].master()));
  step.accumulate(ids(1), 1.0);
  step.update(1e-3);
  const at::Tensor before = model.weights()[0].master().clone();
  step.update(1e-3);
  EXPECT_FALSE(model.weights()[0].master().equal(before));
}

// After one step from zero moments AdamW moves by lr * g / (|g| + eps), after the decay of lr * wd * w.
TEST(AdamWTest, TheFirstStepIsItsClosedForm) {
  at::Tensor value = at::full({4}, 2.0, at::kDouble);
  at::Tensor fixed = at::full({4}, 2.0, at::kDouble);
  AdamW optimizer({{"w", value, 1.0, true}, {"untouched", fixed, 1.0, true}}, {0.9, 0.999, 1e-8, 0.1});
  const std::vector<double> gradient{1.0, -0.5, 0.0, 3e-8};
  const at::Tensor incoming = at::tensor(gradient, at::kDouble);
  optimizer.begin_step(0.01, 2.0);
  optimizer.update(0, incoming);
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    const double g = 2.0 * gradient[i];
    EXPECT_NEAR(value.data_ptr<double>()[i], 2.0 * (1 - 0.01 * 0.1) - 0.01 * g / (std::abs(g) + 1e-8), 1e-14) << i;
  }
  EXPECT_TRUE(fixed.equal(at::full({4}, 2.0, at::kDouble)));
  EXPECT_EQ(incoming.abs().max().item<double>(), 0.0) << "the next step's gradient starts at zero";
}

// A second moment that moves by a thousandth in a step: rounded to the nearest bfloat16 it would stop at 0.25, where half a step of
// bfloat16 is more than what is added.
TEST(AdamWTest, AMomentInBfloat16KeepsItsMean) {
  constexpr std::int64_t kCount = 4096;
  constexpr int kSteps = 500;
  at::Tensor value = at::zeros({64, kCount / 64});
  AdamW optimizer({{"w", value, 1.0, false, {0, 64}, 64}}, {.beta2 = 0.999, .moments_in_bf16 = true, .seed = 42});
  for (int i = 0; i < kSteps; ++i) {
    optimizer.begin_step(1e-3, 1.0);
    optimizer.update(0, at::ones({64, kCount / 64}));
  }
  ASSERT_EQ(optimizer.second_moment(0).scalar_type(), at::kBFloat16);
  const at::Tensor second = optimizer.second_moment(0).to(at::kDouble);
  // Rounding adds at most a quarter of a squared step of bfloat16 to the variance each time; six standard errors of the mean.
  const double expected = 1.0 - std::pow(0.999, kSteps);
  const double step = 0x1p-9;  // below 0.5
  EXPECT_NEAR(second.mean().item<double>(), expected, 6 * std::sqrt(kSteps * step * step / 4 / kCount));
  EXPECT_GT((second - second.mean()).abs().max().item<double>(), step) << "elements are rounded on their own";
}

TEST(AdamWTest, MomentsInBfloat16AreRoundedAlikeWhicheverRowsARankHas) {
  const AdamWOptions options{.moments_in_bf16 = true, .seed = 42};
  at::Tensor whole = at::zeros({6, 50});
  at::Tensor part = at::zeros({2, 50});
  AdamW all({{"w", whole, 1.0, false, {0, 6}, 6}}, options);
  AdamW own({{"w", part, 1.0, false, {4, 2}, 6}}, options);
  for (int i = 0; i < 3; ++i) {
    for (AdamW* optimizer : {&all, &own}) {
      optimizer->begin_step(1e-3, 1.0);
      optimizer->update(0, at::full_like(optimizer->tensors()[0].value, 0.3));
    }
  }
  EXPECT_TRUE(own.second_moment(0).equal(all.second_moment(0).narrow(0, 4, 2)));
  EXPECT_FALSE(own.second_moment(0).equal(all.second_moment(0).narrow(0, 0, 2))) << "other rows are rounded otherwise";
  EXPECT_TRUE(part.equal(whole.narrow(0, 4, 2)));
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
  EXPECT_THROW(total_steps(config, 95), ConfigError) << "more than the data hold";
  config.data.allow_repeats = true;
  EXPECT_EQ(total_steps(config, 95), 12);
  config.train.max_steps = 7;
  EXPECT_EQ(total_steps(config, 95), 7);
  config.train.max_steps = 0;
  config.data.max_train_tokens = 999;
  EXPECT_THROW(total_steps(config, 95), ConfigError);
}

}  // namespace
}  // namespace stableqat
