// Whole runs on a fake GPU: what is deferred until a step's numbers are asked for must not change what a run leaves behind.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "../support/fake_gpu.h"
#include "../support/tiny_model.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/train/trainer.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class GpuTrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stableqat_gpu_trainer_test_" + std::to_string(::getpid()));
    testing::write_tiny_model(folder_ / "model");
    testing::write_tiny_corpus(folder_ / "train.jsonl", 60);
    testing::write_tiny_corpus(folder_ / "valid.jsonl", 4, 8);
  }
  void TearDown() override { fs::remove_all(folder_); }

  TrainConfig config(const std::string& output) const {
    TrainConfig result;
    result.model.path = folder_ / "model";
    result.quantization.bits = 3;
    result.data.train = {folder_ / "train.jsonl"};
    result.data.valid = folder_ / "valid.jsonl";
    result.data.sequence_length = 32;
    result.train.output_dir = folder_ / output;
    result.train.micro_batch_size = 2;
    result.train.gradient_accumulation_steps = 2;
    result.train.max_steps = 7;
    result.train.learning_rate = 1e-3;
    result.train.precision = TrainConfig::Precision::kFloat32;
    result.train.logging_steps = 1;
    result.train.save_before_training = false;
    result.train.threads = 1;
    return result;
  }

  static TrainOutcome train_on_gpu(TrainConfig config, const TrainerCallbacks& callbacks = {}) {
    config.train.device = TrainConfig::Device::kCuda;
    return train(config, callbacks, *single_process(), testing::fake_gpu());
  }

  std::vector<Json> metrics(const std::string& output) const {
    std::ifstream file(folder_ / output / "metrics.jsonl");
    std::vector<Json> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
    return lines;
  }

  // Tensors, moments and place in the data.
  std::map<std::string, std::string> state(const fs::path& checkpoint) const {
    std::map<std::string, std::string> files;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder_ / checkpoint)) {
      if (entry.path().extension() == ".safetensors" || entry.path().filename() == "trainer_state.json") {
        files[entry.path().filename()] = read_text_file(entry.path());
      }
    }
    EXPECT_GE(files.size(), 3U) << checkpoint;
    return files;
  }

  fs::path folder_;
};

TEST_F(GpuTrainerTest, ARunIsThatOfTheCpu) {
  for (const TrainConfig::Method method : {TrainConfig::Method::kStableqat, TrainConfig::Method::kDsq}) {
    for (const char* output : {"cpu", "gpu"}) {
      fs::remove_all(folder_ / output);
      TrainConfig run = config(output);
      run.quantization.method = method;
      run.train.eval_steps = 3;
      EXPECT_EQ(output == std::string("cpu") ? train(run, {}) : train_on_gpu(run), TrainOutcome::kFinished);
    }
    const std::vector<Json> expected = metrics("cpu");
    const std::vector<Json> found = metrics("gpu");
    ASSERT_EQ(found.size(), expected.size());
    // Some hundred roundings to the loss, and what seven steps make of them.
    constexpr double kTolerance = 1024 * std::numeric_limits<float>::epsilon();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      for (const char* key : {"loss", "cross_entropy", "gradient_norm", "perplexity"}) {
        EXPECT_EQ(found[i].contains(key), expected[i].contains(key));
        if (!expected[i].contains(key)) continue;
        const double value = expected[i][key];
        EXPECT_NEAR(found[i][key].get<double>(), value, 8 * kTolerance * value) << key << " of line " << i;
      }
    }
  }
}

TEST_F(GpuTrainerTest, WhenNumbersAreAskedForChangesNothing) {
  TrainConfig often = config("often");
  TrainConfig seldom = config("seldom");
  seldom.train.logging_steps = 4;
  train_on_gpu(often);
  train_on_gpu(seldom);
  EXPECT_EQ(state("often/last_checkpoint"), state("seldom/last_checkpoint"));
  double loss = 0.0;
  const std::vector<Json> lines = metrics("often");
  ASSERT_EQ(lines.size(), 8U);  // the last one is the perplexity
  for (int i = 0; i < 4; ++i) loss += lines[static_cast<std::size_t>(i)]["loss"].get<double>() / 4;
  const Json mean = metrics("seldom").front();
  EXPECT_NEAR(mean["loss"].get<double>(), loss, 1e-6);
  EXPECT_EQ(mean["step"], 4);
  EXPECT_EQ(mean["gradient_norm"], lines[3]["gradient_norm"]);
}

TEST_F(GpuTrainerTest, AStoppedRunGoesOnWhereItWas) {
  TrainConfig whole = config("whole");
  whole.train.logging_steps = 100;
  train_on_gpu(whole);
  TrainConfig stopped = whole;
  stopped.train.output_dir = folder_ / "stopped";
  TrainerCallbacks callbacks;
  std::uint64_t steps = 0;
  callbacks.progress = [&steps](const Progress& progress) { steps = progress.unit == "steps" ? progress.done : steps; };
  callbacks.stop = [&steps] { return steps >= 3; };
  EXPECT_EQ(train_on_gpu(stopped, callbacks), TrainOutcome::kInterrupted);
  EXPECT_TRUE(fs::exists(folder_ / "stopped" / "checkpoint-3"));
  EXPECT_EQ(train_on_gpu(stopped), TrainOutcome::kFinished);
  EXPECT_EQ(state("stopped/last_checkpoint"), state("whole/last_checkpoint"));
}

// Micro-steps as CUDA graphs, with evaluations and checkpoints in between, and in a run that was stopped.
TEST_F(GpuTrainerTest, GraphsChangeNothing) {
  const auto run = [this](const std::string& output, bool cuda_graph) {
    TrainConfig result = config(output);
    result.train.precision = TrainConfig::Precision::kBfloat16;
    result.train.logging_steps = 3;
    result.train.eval_steps = 2;
    result.train.save_steps = 2;
    result.distillation.weight = 0.3;
    result.train.cuda_graph = cuda_graph;
    return result;
  };
  train_on_gpu(run("eager", false));
  const std::int64_t replays = testing::fake_gpu_replays();
  train_on_gpu(run("graph", true));
  EXPECT_EQ(testing::fake_gpu_replays() - replays, 2 * 7 - 2);
  EXPECT_EQ(state("graph/last_checkpoint"), state("eager/last_checkpoint"));
  EXPECT_EQ(state("graph/checkpoint-6"), state("eager/checkpoint-6"));
  const std::vector<Json> expected = metrics("eager");
  const std::vector<Json> found = metrics("graph");
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    for (const char* key : {"loss", "cross_entropy", "gradient_norm", "perplexity"})
      EXPECT_EQ(found[i].value(key, 0.0), expected[i].value(key, 0.0));
  }
  const TrainConfig stopped = run("stopped", true);
  TrainerCallbacks callbacks;
  std::uint64_t steps = 0;
  callbacks.progress = [&steps](const Progress& progress) { steps = progress.unit == "steps" ? progress.done : steps; };
  callbacks.stop = [&steps] { return steps >= 3; };
  EXPECT_EQ(train_on_gpu(stopped, callbacks), TrainOutcome::kInterrupted);
  EXPECT_EQ(train_on_gpu(stopped), TrainOutcome::kFinished);
  EXPECT_EQ(state("stopped/last_checkpoint"), state("eager/last_checkpoint"));
}

TEST_F(GpuTrainerTest, GraphsAreForAGpu) {
  TrainConfig run = config("cpu");
  run.train.cuda_graph = true;
  EXPECT_THROW(train(run, {}), ConfigError);
  EXPECT_FALSE(fs::exists(folder_ / "cpu"));
}

// However late it is noticed, what is kept is the state before the step that went wrong.
TEST_F(GpuTrainerTest, ADivergedRunLeavesItsLastGoodState) {
  for (const int logging_steps : {1, 100}) {
    TrainConfig run = config("diverged_" + std::to_string(logging_steps));
    run.train.logging_steps = logging_steps;
    run.train.learning_rate = 1e30;
    run.train.lr_scheduler = TrainConfig::Scheduler::kConstant;
    EXPECT_THROW(train_on_gpu(run), NumericError);
  }
  const auto good = state("diverged_1/checkpoint-1");
  EXPECT_EQ(state("diverged_100/checkpoint-1"), good);
  EXPECT_EQ(metrics("diverged_100").size(), 0U);
  TrainConfig on_cpu = config("diverged_cpu");
  on_cpu.train.learning_rate = 1e30;
  on_cpu.train.lr_scheduler = TrainConfig::Scheduler::kConstant;
  EXPECT_THROW(train(on_cpu, {}), NumericError);
  EXPECT_TRUE(fs::exists(folder_ / "diverged_cpu" / "checkpoint-1"));
}

}  // namespace
}  // namespace stableqat
