// Micro-steps as CUDA graphs against the same ones run as they are. In gpu_training_test the GPU is a fake one, whose captures and replays
// are those of fake_gpu_recording.h; in cuda_training_test it is a real one.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/scalar_tensor.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../support/gpu_training.h"
#include "stableqat/base/error.h"
#include "stableqat/dist/process_group.h"
#include "stableqat/eval/perplexity.h"
#include "train/captured_micro_step.h"

namespace stableqat {
namespace {

using testing::gpu;
using testing::kSpecs;
using testing::state_of;

constexpr int kSteps = 4;
constexpr std::int64_t kBefore = CapturedMicroStep::kRunBefore;

// On the fake GPU the same bits. On a real one some sums of LibTorch's (the embedding's gradient, attention's) have no fixed order, and
// what is next to a threshold of rounding to bfloat16 or to codes then goes the other way: a few percent of the whole.
void expect_equal(const at::Tensor& found, const at::Tensor& expected, const std::string& what) {
#if defined(STABLEQAT_REAL_GPU)
  const double distance = (found.to(at::kDouble) - expected.to(at::kDouble)).norm().item<double>();
  EXPECT_LE(distance, 0.05 * expected.to(at::kDouble).norm().item<double>()) << what;
#else
  EXPECT_TRUE(found.equal(expected)) << what << '\n' << found << '\n' << expected;
#endif
}

// A model, its training step and what it reported: [losses and cross entropies of micro-batches, norms and counts of steps].
struct Trained {
  QuantizedModel model;
  std::unique_ptr<TrainStep> step;
  std::vector<at::Tensor> losses;
  std::vector<at::Tensor> numbers;

  Trained(QuantizedModel&& from, const TrainStepOptions& options) : model(std::move(from)) {
    step = std::make_unique<TrainStep>(model, options);
  }
  Trained(const Trained&) = delete;  // the step refers to the model
  Trained& operator=(const Trained&) = delete;

  void micro_batch(const at::Tensor& ids, double scale = 0.5, const Teacher* teacher = nullptr) {
    losses.push_back(step->accumulate(ids, scale, teacher).losses);
  }
  void update(double rate) { numbers.push_back(step->start_update(rate)); }
};

void expect_same(const std::vector<at::Tensor>& found, const std::vector<at::Tensor>& expected, const std::string& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (std::size_t i = 0; i < found.size(); ++i) expect_equal(found[i].cpu(), expected[i].cpu(), what + ", " + std::to_string(i));
}

void expect_same(Trained& found, Trained& expected, const std::string& what) {
  expect_same(found.losses, expected.losses, what + ", losses");
  expect_same(found.numbers, expected.numbers, what + ", numbers of the steps");
  expect_same(state_of(found.model, *found.step), state_of(expected.model, *expected.step), what + ", state");
}

class GpuGraphTest : public testing::GpuTrainingFolder {
 protected:
  static TrainStepOptions options(bool cuda_graph, Recompute recompute = Recompute::kNone) {
    return {.adamw = {.weight_decay = 0.1}, .max_grad_norm = 0.5, .recompute = recompute, .cuda_graph = cuda_graph};
  }

  // Both ways: two micro-batches a step.
  struct Pair {
    Trained eager;
    Trained captured;
  };
  Pair pair(const std::optional<QuantizerSpec>& spec, at::ScalarType type, Recompute recompute = Recompute::kNone) const {
    const auto made = [&](bool cuda_graph) {
      std::optional<QuantizationSettings> settings;
      if (spec) settings = QuantizationSettings{*spec, {}};
      QuantizedModel model(*source_, at::kFloat, settings);
      model.model().set_compute_dtype(type);
      model.move_to(gpu());
      return Trained(std::move(model), options(cuda_graph, recompute));
    };
    return {made(false), made(true)};
  }

  static void train(Trained& trained, const Teacher* teacher) {
    for (int i = 0; i < kSteps; ++i) {
      trained.micro_batch(ids(2 * i), 0.5, teacher);
      trained.losses.push_back(trained.step->accumulate_last(ids(2 * i + 1), 0.5, teacher).losses);
      trained.update(1e-3 * (i + 1));
    }
  }
};

TEST_F(GpuGraphTest, StepsAreThoseOfMicroBatchesThatRunAsTheyAre) {
  CausalLm teacher_model(*source_, at::kFloat);
  teacher_model.move_to(gpu());
  const Teacher teacher{&teacher_model, 0.5, 2.0};
  for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kBlock}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      teacher_model.set_compute_dtype(type);
      for (const Teacher* const with : {&teacher, static_cast<const Teacher*>(nullptr)}) {
        auto [eager, captured] = pair(kSpecs[1], type, recompute);
        train(eager, with);
        train(captured, with);
        const std::string what =
            std::to_string(static_cast<int>(recompute)) + ' ' + at::toString(type) + (with != nullptr ? " taught" : "");
        expect_same(captured, eager, what);
        EXPECT_EQ(captured.step->replays(), 2 * kSteps - kBefore) << what;
        EXPECT_EQ(eager.step->replays(), 0);
      }
    }
  }
}

TEST_F(GpuGraphTest, EveryQuantizerAndNoneCanBeRecorded) {
  std::vector<std::optional<QuantizerSpec>> specs{std::nullopt};
  specs.insert(specs.end(), kSpecs.begin(), kSpecs.end());
  for (const std::optional<QuantizerSpec>& spec : specs) {
    auto [eager, captured] = pair(spec, at::kBFloat16);
    train(eager, nullptr);
    train(captured, nullptr);
    expect_same(captured, eager, spec ? "kind " + std::to_string(static_cast<int>(spec->kind)) : "unquantized");
    EXPECT_EQ(captured.step->replays(), 2 * kSteps - kBefore);
  }
}

// Biases, norms of heads: gradients that autograd adds to what is there.
TEST_F(GpuGraphTest, SoCanOtherModels) {
  for (const std::string type : {"qwen2", "qwen3"}) {
    ModelConfig config = testing::tiny_config();
    config.model_type = type;
    config.tie_word_embeddings = type == "qwen2";
    config.attention_qkv_bias = type == "qwen2";
    config.qk_norm = type == "qwen3";
    testing::write_tiny_model(folder_ / type, config);
    source_ = ModelSource::open(folder_ / type);
    auto [eager, captured] = pair(kSpecs[0], at::kBFloat16);
    train(eager, nullptr);
    train(captured, nullptr);
    expect_same(captured, eager, type);
  }
}

TEST_F(GpuGraphTest, AMicroBatchOfAnotherShapeRunsAsItIs) {
  auto [eager, captured] = pair(kSpecs[0], at::kFloat);
  for (Trained* const trained : {&eager, &captured}) {
    for (int i = 0; i < kSteps; ++i) {
      trained->micro_batch(ids(i));
      trained->micro_batch(ids(i + 20));
      trained->micro_batch(ids(i + 30, 9));  // the last one of a step is shorter
      trained->update(1e-3);
    }
  }
  expect_same(captured, eager, "shapes");
  EXPECT_EQ(captured.step->replays(), 2 * kSteps - kBefore - 1);  // the short one of the first step counts against the others
}

TEST_F(GpuGraphTest, WhatIsDoneBetweenStepsDisturbsNothing) {
  std::vector<std::int32_t> text;
  for (int i = 0; i < 96; ++i) text.push_back((i * 37 + i * i / 5) % 257);
  PerplexityOptions perplexity_options;
  perplexity_options.context = 32;
  auto [eager, captured] = pair(kSpecs[0], at::kBFloat16);
  for (Trained* const trained : {&eager, &captured}) {
    for (int i = 0; i < kSteps; ++i) {
      trained->micro_batch(ids(i));
      trained->micro_batch(ids(i + 20));
      trained->update(1e-3);
      trained->losses.push_back(at::scalar_tensor(perplexity(trained->model.model(), text, perplexity_options).nll, at::kDouble));
    }
  }
  expect_same(captured, eager, "with perplexities");
}

TEST_F(GpuGraphTest, WhatChangesIsRecordedAnew) {
  CausalLm teacher_model(*source_, at::kFloat);
  teacher_model.move_to(gpu());
  Pair both = pair(kSpecs[0], at::kFloat);
  constexpr int kAlike = 7;
  const auto several = [&](double scale, const Teacher* teacher, int seed) {
    for (Trained* const trained : {&both.eager, &both.captured}) {
      for (int i = 0; i < kAlike; ++i) trained->micro_batch(ids(seed + i), scale, teacher);
      trained->update(1e-3);
    }
  };
  const Teacher half{&teacher_model, 0.5, 2.0};
  const Teacher whole{&teacher_model, 1.0, 2.0};
  const Teacher cold{&teacher_model, 1.0, 1.0};
  several(0.2, nullptr, 0);
  several(0.1, nullptr, 10);
  several(0.1, &half, 20);
  several(0.1, &whole, 30);
  several(0.1, &cold, 40);
  EXPECT_EQ(both.captured.step->replays(), 5 * (kAlike - kBefore) - 4 * kBefore);  // those before have a lead
  expect_same(both.captured, both.eager, "after changes");
}

// A graph knows addresses. Where one of them holds something else by now, it is not used.
TEST_F(GpuGraphTest, ParametersAndGradientsInOtherPlacesAreNoticed) {
  Pair both = pair(kSpecs[0], at::kBFloat16);
  constexpr int kAlike = 7;
  const auto several = [&](int seed) {
    for (Trained* const trained : {&both.eager, &both.captured}) {
      for (int i = 0; i < kAlike; ++i) trained->micro_batch(ids(seed + i));
      trained->update(1e-3);
    }
  };
  several(0);
  const std::int64_t replays = both.captured.step->replays();
  EXPECT_EQ(replays, kAlike - kBefore);
  both.captured.model.model().visit_parameters(
      [](const std::string&, ParameterRole, at::Tensor& value) { value.mutable_grad() = value.grad().clone(); });
  several(10);
  EXPECT_EQ(both.captured.step->replays(), replays + kAlike - 2 * kBefore);
  expect_same(both.captured, both.eager, "moved gradients");
}

TEST_F(GpuGraphTest, ItIsForOneGpu) {
  QuantizedModel on_cpu = model(kSpecs[0], at::kFloat);
  EXPECT_THROW(TrainStep(on_cpu, options(true)), ConfigError);
  TrainConfig::Train train;
  train.cuda_graph = true;
  EXPECT_THROW(open_device(train), ConfigError);
}

#if !defined(STABLEQAT_REAL_GPU)
TEST_F(GpuGraphTest, ItIsForOneRank) {
  run_as_threads(2, std::chrono::seconds(60), [&](Communicator& self) {
    QuantizedModel on_gpu = gpu_model(kSpecs[0], at::kFloat);
    EXPECT_THROW(TrainStep(on_gpu, options(true), self), ConfigError);
  });
}

TEST_F(GpuGraphTest, ReplaysAreTheGpusAndDoNotWait) {
  Trained trained(gpu_model(kSpecs[0], at::kBFloat16), options(true));
  train(trained, nullptr);
  const std::int64_t waits = testing::fake_gpu_waits();
  const std::int64_t replays = testing::fake_gpu_replays();
  const std::int64_t own_replays = trained.step->replays();
  train(trained, nullptr);
  EXPECT_EQ(testing::fake_gpu_waits(), waits);
  EXPECT_EQ(testing::fake_gpu_replays(), replays + 2 * kSteps);
  EXPECT_EQ(trained.step->replays(), own_replays + 2 * kSteps);
}

// A hook on a gradient that asks the GPU for a number.
TEST_F(GpuGraphTest, WhatCannotBeRecordedIsSaidAndChangesNothing) {
  Trained trained(gpu_model(kSpecs[0], at::kFloat), options(true));
  trained.model.model().visit_parameters([](const std::string&, ParameterRole role, at::Tensor& value) {
    if (role == ParameterRole::kNorm) value.register_hook([](const at::Tensor& gradient) { gradient.sum().item<float>(); });
  });
  for (int i = 0; i < kBefore; ++i) trained.micro_batch(ids(i));
  const auto gradients = [&trained] {
    std::vector<at::Tensor> all;
    for (const at::Tensor& gradient : trained.step->mapped_gradients()) all.push_back(gradient.cpu().clone());
    return all;
  };
  const std::vector<at::Tensor> before = gradients();
  try {
    trained.micro_batch(ids(7));
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_NE(std::string(error.what()).find("not permitted when stream is capturing"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("train.cuda_graph"), std::string::npos) << error.what();
  }
  expect_same(gradients(), before, "gradients");
}
#endif

}  // namespace
}  // namespace stableqat
