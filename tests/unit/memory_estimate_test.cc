// The estimate of memory against the bytes that LibTorch's allocator saw in a step.
#include "stableqat/train/memory_estimate.h"

#include <gtest/gtest.h>

#include <chrono>

#include "stableqat/bench/shapes.h"
#include "stableqat/bench/training_subject.h"
#include "stableqat/dist/process_group.h"

namespace stableqat::bench {
namespace {

ModelConfig small_model() {
  ModelConfig config = shape("tiny");
  config.hidden_size = 128;
  config.num_attention_heads = 8;
  config.num_key_value_heads = 4;
  config.intermediate_size = 384;
  config.num_hidden_layers = 6;
  config.vocab_size = 2048;
  return config;
}

TrainingJob job(const ModelConfig& model, std::vector<std::string> settings) {
  settings.insert(settings.end(), {"--model.path", "random", "--data.train", "[none]", "--train.output_dir", "none"});
  std::vector<std::string> notices;
  return {load_train_config({}, settings, notices), model};
}

void expect_near(const TrainingJob& job) {
  const auto estimate = static_cast<double>(estimate_memory(*job.random_weights, job.config, 0).total());
  TrainingSubject subject(job);
  subject.step();
  const auto observed = static_cast<double>(subject.tensor_bytes_of_step());
  EXPECT_NEAR(estimate / observed, 1.0, 0.1) << describe(estimate_memory(*job.random_weights, job.config, 0));
}

std::vector<std::string> with(std::vector<std::string> settings, const char* batch, const char* tokens) {
  settings.insert(settings.end(), {"--train.micro_batch_size", batch, "--data.sequence_length", tokens});
  return settings;
}

TEST(MemoryEstimate, HoldsWhereWeightsWeighMost) {
  for (const char* method : {"none", "stableqat", "dsq"}) {
    SCOPED_TRACE(method);
    expect_near(job(small_model(), with({"--quantization.method", method}, "1", "16")));
  }
}

TEST(MemoryEstimate, HoldsWhereActivationsWeighMost) {
  ModelConfig qwen = small_model();
  qwen.qk_norm = true;
  qwen.attention_qkv_bias = true;
  qwen.tie_word_embeddings = false;
  for (const ModelConfig& model : {small_model(), qwen}) {
    expect_near(job(model, with({"--quantization.method", "stableqat"}, "4", "512")));
    expect_near(job(model, with({"--quantization.group_size", "32"}, "2", "512")));
    expect_near(job(model, with({"--train.compute", "int8x2"}, "4", "512")));
    expect_near(job(model, with({"--train.compute", "int8x1"}, "4", "512")));
    expect_near(job(model, with({"--train.recompute", "block"}, "4", "512")));
    expect_near(job(model, with({"--train.recompute", "selective"}, "4", "512")));
    expect_near(job(model, with({"--train.recompute", "selective", "--train.compute", "int8x2"}, "4", "512")));
  }
}

TEST(MemoryEstimate, HoldsForThePlainForms) {
  expect_near(job(small_model(), with({"--train.precision", "float64"}, "2", "256")));
  expect_near(job(small_model(), with({"--train.precision", "bfloat16"}, "2", "256")));
}

// What a rank of several sees in a step, in threads of this process that count their own tensors.
void expect_near(const TrainingJob& job, int ranks) {
  run_as_threads(ranks, std::chrono::seconds(60), [&](Communicator& self) {
    const auto estimate = estimate_memory(*job.random_weights, job.config, 0, ranks);
    TrainingSubject subject(job, self);
    subject.step();
    const auto observed = static_cast<double>(subject.tensor_bytes_of_step());
    EXPECT_NEAR(static_cast<double>(estimate.total()) / observed, 1.0, 0.1)
        << "rank " << self.rank() << " of " << ranks << ", observed " << gigabytes(static_cast<std::uint64_t>(observed)) << ": "
        << describe(estimate);
  });
}

TEST(MemoryEstimate, HoldsForRanks) {
  for (const int ranks : {2, 4}) {
    expect_near(job(small_model(), with({"--distributed.bucket_mb", "1"}, "1", "16")), ranks);
    expect_near(job(small_model(), with({"--distributed.bucket_mb", "4"}, "1", "16")), ranks);
    expect_near(job(small_model(), with({"--distributed.bucket_mb", "1", "--distributed.reduce", "bf16"}, "1", "16")), ranks);
    expect_near(job(small_model(), with({"--distributed.bucket_mb", "1"}, "4", "512")), ranks);
  }
}

TEST(MemoryEstimate, SaysWhatACheckpointMayTakeBesides) {
  MemoryEstimate estimate = estimate_memory(small_model(), job(small_model(), {}).config, 0, 2);
  std::uint64_t moments = 0;
  for (const MemoryEstimate::Part& part : estimate.parts) moments += part.name == "moments" ? part.bytes : 0;
  EXPECT_NEAR(static_cast<double>(estimate.checkpoint_at_most), 1.5 * static_cast<double>(moments), 2);
  EXPECT_NE(describe(estimate).find("while a checkpoint is written"), std::string::npos);
  estimate = estimate_memory(small_model(), job(small_model(), {"--train.save_in_background", "false"}).config, 0, 2);
  EXPECT_EQ(estimate.checkpoint_at_most, 0U);
}

TEST(MemoryEstimate, AddsUpAndNamesItsParts) {
  const MemoryEstimate estimate = estimate_memory(small_model(), job(small_model(), {}).config, 1000);
  std::uint64_t sum = 0;
  for (const MemoryEstimate::Part& part : estimate.parts) {
    sum += part.bytes;
    EXPECT_NE(describe(estimate).find(part.name), std::string::npos);
  }
  EXPECT_EQ(sum, estimate.total());
  EXPECT_EQ(estimate.parts.front().bytes, 1000U);
  EXPECT_EQ(describe_peak(estimate.total() * 11 / 10, estimate).find("memory, peak: "), 0U);
  EXPECT_NE(describe_peak(estimate.total() * 11 / 10, estimate).find("+10 %"), std::string::npos);
}

}  // namespace
}  // namespace stableqat::bench
