// Training on a GPU against training on the CPU. In gpu_training_test the GPU is a fake one: its memory is the host's, its kernels are
// those of the CUDA sources with a team of one thread; forgotten transfers between devices throw. In cuda_training_test it is a real one.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "../support/gpu_training.h"
#include "bench/step_check.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/eval/perplexity.h"
#include "stableqat/models/linear.h"
#include "stableqat/tokenizer/tokenizer.h"
#include "stableqat/train/checkpoint.h"
#include "stableqat/train/checkpoint_writer.h"
#include "stableqat/train/settings.h"
#include "stableqat/train/train_step.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using testing::equal;
using testing::gpu;
using testing::kSpecs;
using testing::state_of;
using testing::why_no_gpu;

using GpuTrainingTest = testing::GpuTrainingFolder;

bool equal_on_cpu(const at::Tensor& found, const at::Tensor& expected) { return found.detach().cpu().equal(expected.detach().cpu()); }

at::Tensor values(std::int64_t seed, std::int64_t rows, std::int64_t columns) {
  const at::Tensor tensor = at::empty({rows, columns}, at::kFloat);
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    tensor.data_ptr<float>()[i] = static_cast<float>(std::sin(0.37 * static_cast<double>(i * seed + i % 7)) * 0.05);
  }
  return tensor;
}

TEST(GpuTraining, AWeightMovesAsOnTheCpu) {
  if (const std::string reason = why_no_gpu(); !reason.empty()) GTEST_SKIP() << reason;
  for (const QuantizerSpec& setting : kSpecs) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      QuantizedWeight expected(values(3, 9, 96), setting);
      QuantizedWeight weight(values(3, 9, 96), setting);
      expected.quantize();
      weight.quantize();
      weight.move_to(gpu(), type);
      expected.quantize();
      weight.quantize();
      EXPECT_EQ(weight.product().defined(), type != at::kFloat);
      const at::Tensor gradient = values(5, 9, 96);
      expected.dequantized().mutable_grad() = gradient.clone();
      weight.dequantized().mutable_grad() = gradient.to(gpu());
      const auto expected_sums = expected.gradient_sums();
      const auto sums = weight.gradient_sums();
      const double squares = expected_sums.master_squares.item<double>();
      // The CPU adds up to 96 squares in float32.
      EXPECT_NEAR(sums.master_squares.sum().item<double>(), squares, 96 * std::numeric_limits<float>::epsilon() * squares);
      const auto largest = [](const at::Tensor& x) { return x.abs().max().item<float>(); };
      EXPECT_LE(largest(sums.scale.cpu() - expected_sums.scale), 96 * std::numeric_limits<float>::epsilon() * largest(expected_sums.scale));
      EXPECT_EQ(sums.alpha.defined(), expected.alpha().defined());
      if (sums.alpha.defined()) {
        EXPECT_GT(largest(expected_sums.alpha), 0.0F);
        EXPECT_LE(largest(sums.alpha.cpu() - expected_sums.alpha),
                  9 * 96 * std::numeric_limits<float>::epsilon() * largest(expected_sums.alpha));
      }
      for (QuantizedWeight* moved : {&expected, &weight}) {
        moved->scale().mul_(1.25);
        const at::Tensor first = at::zeros_like(moved->master());
        moved->update({.step_size = 0.01}, first, at::zeros_like(first));
      }
      EXPECT_TRUE(equal_on_cpu(weight.master(), expected.master()));
      EXPECT_TRUE(equal_on_cpu(weight.codes(), expected.codes()));
      EXPECT_TRUE(equal_on_cpu(weight.step(), expected.step()));
      EXPECT_TRUE(equal_on_cpu(weight.effective_scale(), expected.effective_scale()));
      const at::Tensor& product = type == at::kFloat ? weight.dequantized() : weight.product();
      EXPECT_TRUE(equal_on_cpu(product, expected.dequantized().detach().to(type)));
      EXPECT_EQ(weight.dequantized().grad().abs().max().item<float>(), 0.0F);
      EXPECT_GT(expected.last_counts().changed, 0);
      EXPECT_EQ(weight.last_counts().changed, expected.last_counts().changed);
      EXPECT_EQ(weight.last_counts().clipped, expected.last_counts().clipped);
    }
  }
}

// Of bfloat16 products, over micro-batches: what is added is not rounded to bfloat16.
TEST(GpuTraining, WeightGradientsAreAddedInFloat32) {
  if (const std::string reason = why_no_gpu(); !reason.empty()) GTEST_SKIP() << reason;
  constexpr std::int64_t kRows = 40;
  Linear layer;
  layer.weight = values(3, 24, 32).to(gpu()).requires_grad_();
  layer.compute = layer.weight.detach().to(at::kBFloat16);
  at::Tensor expected = at::zeros({24, 32}, at::kDouble);
  at::Tensor terms = at::zeros_like(expected);
  for (int i = 0; i < 3; ++i) {
    const at::Tensor x = values(5 + i, kRows, 32).to(at::kBFloat16);
    const at::Tensor dy = values(11 + i, kRows, 24).to(at::kBFloat16);
    linear(x.to(gpu()), layer).backward(dy.to(gpu()));
    if (i == 0) layer.weight.mutable_grad().zero_();  // the first one made it
    if (i == 0) continue;
    expected += dy.t().to(at::kDouble).mm(x.to(at::kDouble));
    terms += dy.t().to(at::kDouble).abs().mm(x.to(at::kDouble).abs());
  }
  const at::Tensor excess = (layer.weight.grad().cpu() - expected).abs() - 2 * (kRows + 1) * std::numeric_limits<float>::epsilon() * terms;
  EXPECT_LE(excess.max().item<double>(), 0.0);
}

// What one step of either device reports for the same state.
void expect_same_step(TrainStep& found, TrainStep& expected, const at::Tensor& ids, double tolerance, const std::string& what) {
  const double loss = expected.accumulate(ids, 1.0).loss();
  EXPECT_NEAR(found.accumulate(ids, 1.0).loss(), loss, tolerance * loss) << what;
  const StepReport report = expected.update(1e-3);
  const StepReport found_report = found.update(1e-3);
  EXPECT_NEAR(found_report.norms.total, report.norms.total, 10 * tolerance * report.norms.total) << what;
  EXPECT_NEAR(found_report.norms.scales, report.norms.scales, 30 * tolerance * report.norms.total) << what;
}

TEST_F(GpuTrainingTest, StepsAreThoseOfTheCpu) {
  // Some hundred roundings on the way from the embedding to the loss, and their share of it.
  constexpr double kFloatTolerance = 128 * std::numeric_limits<float>::epsilon();
  for (const QuantizerSpec& setting : kSpecs) {
    QuantizedModel on_cpu = model(setting, at::kFloat);
    QuantizedModel on_gpu = gpu_model(setting, at::kFloat);
    TrainStep expected(on_cpu, {.adamw = {}, .max_grad_norm = 1.0});
    TrainStep found(on_gpu, {.adamw = {}, .max_grad_norm = 1.0});
    for (int i = 0; i < 3; ++i) {
      expect_same_step(found, expected, ids(i), kFloatTolerance * std::pow(8.0, i),
                       "kind " + std::to_string(static_cast<int>(setting.kind)));
    }
  }
}

TEST_F(GpuTrainingTest, StepsInBfloat16AreThoseOfTheCpu) {
  for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kBlock}) {
    QuantizedModel on_cpu = model(kSpecs[0], at::kBFloat16);
    QuantizedModel on_gpu = gpu_model(kSpecs[0], at::kBFloat16);
    TrainStep expected(on_cpu, {});
    TrainStep found(on_gpu, {.adamw = {}, .recompute = recompute});
    for (int i = 0; i < 2; ++i) expect_same_step(found, expected, ids(i), 1.0 / 256, "step " + std::to_string(i));
  }
}

#if !defined(STABLEQAT_REAL_GPU)
TEST_F(GpuTrainingTest, StartedStepsDoNotWait) {
  CausalLm teacher_model(*source_, at::kFloat);
  teacher_model.move_to(gpu());
  const Teacher teacher{&teacher_model, 0.5, 2.0};
  for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kBlock}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      for (const Teacher* const with : {&teacher, static_cast<const Teacher*>(nullptr)}) {
        QuantizedModel on_gpu = gpu_model(kSpecs[1], type);
        if (with != nullptr) teacher_model.set_compute_dtype(type);
        TrainStep step(on_gpu, {.adamw = {}, .max_grad_norm = 1.0, .recompute = recompute});
        ASSERT_TRUE(step.runs_ahead());
        step.accumulate(ids(0), 1.0, with);  // tables that are made once
        step.start_update(1e-3);
        const std::int64_t before = testing::fake_gpu_waits();
        for (int i = 1; i < 4; ++i) {
          step.accumulate(ids(i), 0.5, with);
          step.accumulate_last(ids(i + 7), 0.5, with);
          step.start_update(1e-3);
        }
        EXPECT_EQ(testing::fake_gpu_waits(), before)
            << static_cast<int>(recompute) << ' ' << at::toString(type) << ' ' << (with != nullptr);
        step.update(1e-3);
        EXPECT_GT(testing::fake_gpu_waits(), before);
      }
    }
  }
}

TEST_F(GpuTrainingTest, StartedStepsOfAnUnquantizedModelDoNotWaitEither) {
  QuantizedModel on_gpu(*source_, at::kFloat, std::nullopt);
  on_gpu.move_to(gpu());
  TrainStep step(on_gpu, {.adamw = {}, .max_grad_norm = 1.0});
  step.accumulate(ids(0), 1.0);
  step.start_update(1e-3);
  const std::int64_t before = testing::fake_gpu_waits();
  step.accumulate(ids(1), 1.0);
  const at::Tensor numbers = step.start_update(1e-3);
  EXPECT_EQ(testing::fake_gpu_waits(), before);
  EXPECT_GT(numbers[0].item<double>(), 0.0);
}

TEST_F(GpuTrainingTest, AlphasAreWaitedFor) {
  QuantizedModel on_gpu = gpu_model(kSpecs[3], at::kFloat);
  EXPECT_FALSE(TrainStep(on_gpu, {}).runs_ahead());
}
#endif

TEST_F(GpuTrainingTest, StepsFromAnUnsoundOneOnAreLeftOut) {
  QuantizedModel on_gpu = gpu_model(kSpecs[0], at::kFloat);
  TrainStep step(on_gpu, {.adamw = {}, .max_grad_norm = 1.0});
  const auto clear_gradients = [&on_gpu] {
    on_gpu.model().visit_parameters([](const std::string&, ParameterRole, at::Tensor& value) { value.mutable_grad().zero_(); });
  };
  step.accumulate(ids(0), 1.0);
  EXPECT_TRUE(std::isfinite(step.start_update(1e-3)[0].item<double>()));
  const std::vector<at::Tensor> before = state_of(on_gpu, step);
  step.accumulate(ids(1), std::numeric_limits<double>::quiet_NaN());
  EXPECT_FALSE(std::isfinite(step.start_update(1e-3)[0].item<double>()));
  EXPECT_TRUE(equal(state_of(on_gpu, step), before));
  clear_gradients();
  step.accumulate(ids(2), 1.0);
  EXPECT_FALSE(std::isfinite(step.start_update(1e-3)[0].item<double>()));
  EXPECT_TRUE(equal(state_of(on_gpu, step), before));
  EXPECT_EQ(step.optimizer().steps(), 3);
  step.take_back(2);
  EXPECT_EQ(step.optimizer().steps(), 1);
  clear_gradients();
  step.accumulate(ids(2), 1.0);
  EXPECT_TRUE(std::isfinite(step.update(1e-3).norms.total));
  EXPECT_FALSE(equal(state_of(on_gpu, step), before));
  step.accumulate(ids(3), std::numeric_limits<double>::infinity());
  EXPECT_THROW(step.update(1e-3), NumericError);
  EXPECT_EQ(step.optimizer().steps(), 2);
}

TEST_F(GpuTrainingTest, ATeacherIsOnTheGpuToo) {
  QuantizedModel on_cpu = model(kSpecs[0], at::kFloat);
  QuantizedModel on_gpu = gpu_model(kSpecs[0], at::kFloat);
  CausalLm teacher(*source_, at::kFloat);
  CausalLm gpu_teacher(*source_, at::kFloat);
  gpu_teacher.move_to(gpu());
  const Teacher on_cpu_teacher{&teacher, 0.5, 2.0};
  const Teacher on_gpu_teacher{&gpu_teacher, 0.5, 2.0};
  TrainStep expected(on_cpu, {});
  TrainStep found(on_gpu, {});
  const HeadLoss loss = expected.accumulate(ids(1), 1.0, &on_cpu_teacher);
  const HeadLoss found_loss = found.accumulate(ids(1), 1.0, &on_gpu_teacher);
  EXPECT_NEAR(found_loss.loss(), loss.loss(), 1e-4 * loss.loss());
  EXPECT_NEAR(found_loss.cross_entropy(), loss.cross_entropy(), 1e-4 * loss.cross_entropy());
  EXPECT_LT(loss.loss(), loss.cross_entropy());
}

TEST_F(GpuTrainingTest, PerplexityIsTheCpus) {
  std::vector<std::int32_t> text;
  for (int i = 0; i < 256; ++i) text.push_back((i * 37 + i * i / 5) % 257);
  PerplexityOptions options;
  options.context = 32;
  const PerplexityResult expected = perplexity(model(kSpecs[0], at::kFloat).model(), text, options);
  const PerplexityResult found = perplexity(gpu_model(kSpecs[0], at::kFloat).model(), text, options);
  EXPECT_NEAR(found.nll, expected.nll, 1e-5 * expected.nll);
}

TEST_F(GpuTrainingTest, AnswersAboutTokensAreTheCpus) {
  PackedBatch batch;
  const std::vector<std::int32_t> trunk{5, 99, 31, 7, 200};
  const std::vector<std::int32_t> branch{12, 44, 3};
  batch.add(trunk);
  batch.add_branch(0, 3, branch);
  const std::vector<TokenQuery> queries{{4, 12}, {7, 3}, {6, 250}, {4, 13}};
  const QuantizedModel on_cpu = model(kSpecs[0], at::kFloat);
  const QuantizedModel on_gpu = gpu_model(kSpecs[0], at::kFloat);
  const auto expected = query_tokens(on_cpu.model(), on_cpu.model().hidden_states(batch), queries);
  const auto found = query_tokens(on_gpu.model(), on_gpu.model().hidden_states(batch), queries);
  for (std::size_t i = 0; i < queries.size(); ++i) {
    EXPECT_NEAR(found[i].log_prob, expected[i].log_prob, 1e-5 * std::abs(expected[i].log_prob)) << i;
    EXPECT_EQ(found[i].is_greedy, expected[i].is_greedy) << i;
  }
}

// The check that comes before timing a step.
TEST_F(GpuTrainingTest, AStepPassesTheBenchmarksCheck) {
  for (const QuantizerSpec& setting : kSpecs) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      QuantizedModel on_gpu = gpu_model(setting, type);
      TrainStep step(on_gpu, {.adamw = {}, .max_grad_norm = 1.0});
      EXPECT_GT(bench::checked_step(on_gpu, step, ids(1), {.adamw = {}, .max_grad_norm = 1.0}, 1e-2), 0.0);
    }
  }
  QuantizedModel on_gpu = gpu_model(kSpecs[0], at::kFloat);
  TrainStep step(on_gpu, {});
  EXPECT_THROW(bench::checked_step(on_gpu, step, ids(1), {.adamw = {.weight_decay = 0.5}}, 1e-2), NumericError);
}

// Written from the GPU, read on the CPU and on the GPU: the same state.
TEST_F(GpuTrainingTest, CheckpointsPassBetweenDevices) {
  const Tokenizer tokenizer = Tokenizer::open(folder_ / "model");
  QuantizedModel on_gpu = gpu_model(kSpecs[3], at::kFloat);
  TrainStep step(on_gpu, {});
  step.accumulate(ids(1), 1.0);
  step.update(1e-2);
  const auto alone = single_process();
  for (const bool in_background : {false, true}) {
    const fs::path directory = folder_ / (in_background ? "checkpoint-2" : "checkpoint-1");
    CheckpointWriter writer(*alone, {on_gpu, step.optimizer(), tokenizer, ""}, in_background, nullptr);
    writer.start(directory, {1, {}, tokenizer.hash()});
    writer.before_change();
    writer.wait();
    for (const bool to_gpu : {false, true}) {
      QuantizedModel again = to_gpu ? gpu_model(kSpecs[3], at::kFloat) : model(kSpecs[3], at::kFloat);
      TrainStep other(again, {});
      load_checkpoint(directory, other.optimizer());
      other.quantize();
      for (std::size_t i = 0; i < step.optimizer().tensors().size(); ++i) {
        const std::string& name = step.optimizer().tensors()[i].name;
        EXPECT_TRUE(equal_on_cpu(other.optimizer().tensors()[i].value, step.optimizer().tensors()[i].value)) << name;
        EXPECT_TRUE(equal_on_cpu(other.optimizer().second_moment(i), step.optimizer().second_moment(i))) << name;
      }
      for (std::size_t i = 0; i < again.weights().size(); ++i) {
        EXPECT_TRUE(equal_on_cpu(again.weights()[i].codes(), on_gpu.weights()[i].codes())) << again.weights()[i].name();
      }
    }
  }
}

TEST(GpuSettings, WhatIsForTheCpuOnlyIsRefused) {
  std::vector<std::string> notices;
  using Config = TrainConfig;
  EXPECT_THROW(numeric_types(Config::Precision::kFloat64, Config::Compute::kAuto, Config::Device::kCuda, notices), ConfigError);
  EXPECT_THROW(numeric_types(Config::Precision::kAuto, Config::Compute::kInt8x2, Config::Device::kCuda, notices), ConfigError);
  EXPECT_EQ(numeric_types(Config::Precision::kAuto, Config::Compute::kAuto, Config::Device::kCuda, notices).compute, at::kBFloat16);
  EXPECT_TRUE(notices.empty());
  EXPECT_EQ(numeric_types(Config::Precision::kFloat16, Config::Compute::kAuto, Config::Device::kCuda, notices).compute, at::kBFloat16);
  EXPECT_EQ(notices.size(), 1U);
  Config::Train train;
  EXPECT_TRUE(open_device(train).is_cpu());
  train.device = Config::Device::kCuda;
  train.moments = Config::Moments::kBfloat16;
  EXPECT_THROW(open_device(train), ConfigError);
}

}  // namespace
}  // namespace stableqat
