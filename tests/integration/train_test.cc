// The real program on a small model: exact continuation after a kill, signals, damaged checkpoints, bad input.
#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "../support/training_folder.h"
#include "stableqat/io/safetensors.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using testing::Result;

class TrainTest : public testing::TrainingFolder {
 protected:
  // Starts training in a process of its own and sends `signal` once `path` exists; returns the wait status.
  int train_and_signal(const std::string& output, const fs::path& path, int signal, const std::string& more) const {
    return run_and_signal(train_words(output, more), path, signal);
  }

  // Replaces one tensor of the model.
  void damage_weight(const std::string& name, float value) const {
    const fs::path path = folder_ / "model" / "model.safetensors";
    const SafetensorsFile file(path);
    const auto offset = static_cast<std::streamoff>(file.tensor(name).offset);
    std::fstream stream(path, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(offset);
    stream.write(reinterpret_cast<const char*>(&value), sizeof value);
  }
};

// More micro-batches and steps, so that there is time to stop the run after its first checkpoint, which is written in the background.
constexpr const char* kSlowSteps = "--train.gradient_accumulation_steps 24 --train.max_steps 12";

TEST_F(TrainTest, AKilledRunContinuesBitForBit) {
  ASSERT_EQ(train("whole", kSlowSteps).code, 0);
  const int status = train_and_signal("killed", "killed/checkpoint-3/manifest.json", SIGKILL, kSlowSteps);
  ASSERT_TRUE(WIFSIGNALED(status));
  ASSERT_FALSE(fs::exists(folder_ / "killed" / "last_checkpoint"));
  const Result resumed = train("killed", kSlowSteps);
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("at step 3"), std::string::npos) << resumed.err;
  expect_same_checkpoint("whole/last_checkpoint", "killed/last_checkpoint");
}

TEST_F(TrainTest, ASignalWritesACheckpointAndExits130) {
  ASSERT_EQ(train("whole", kSlowSteps).code, 0);
  const int status = train_and_signal("stopped", "stopped/metrics.jsonl", SIGTERM, kSlowSteps);
  ASSERT_TRUE(WIFEXITED(status));
  ASSERT_EQ(WEXITSTATUS(status), 130);
  ASSERT_EQ(train("stopped", kSlowSteps).code, 0);
  expect_same_checkpoint("whole/last_checkpoint", "stopped/last_checkpoint");
}

TEST_F(TrainTest, ADamagedCheckpointIsPassedOver) {
  ASSERT_EQ(train("out", "--train.max_steps 7 --train.save_steps 3").code, 0);
  fs::remove_all(folder_ / "out" / "last_checkpoint");
  const fs::path damaged = folder_ / "out" / "checkpoint-6" / "optimizer.safetensors";
  std::fstream stream(damaged, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(-1, std::ios::end);
  stream.put('x');
  stream.close();
  const Result resumed = train("out", "--train.max_steps 7");
  EXPECT_EQ(resumed.code, 0);
  EXPECT_NE(resumed.err.find("damaged checkpoint"), std::string::npos) << resumed.err;
  EXPECT_NE(resumed.err.find("checkpoint-3"), std::string::npos) << resumed.err;
}

TEST_F(TrainTest, OnlyTheNewestCheckpointsAreKept) {
  ASSERT_EQ(train("out", "--train.save_steps 1 --train.save_total_limit 2").code, 0);
  EXPECT_FALSE(fs::exists(folder_ / "out" / "checkpoint-3"));
  EXPECT_TRUE(fs::exists(folder_ / "out" / "checkpoint-4"));
  EXPECT_TRUE(fs::exists(folder_ / "out" / "checkpoint-5"));
}

TEST_F(TrainTest, EveryKthCheckpointStaysToo) {
  ASSERT_EQ(train("out", "--train.max_steps 8 --train.save_steps 1 --train.save_total_limit 1 --train.save_keep_every 3").code, 0);
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder_ / "out")) {
    if (entry.path().filename().string().starts_with("checkpoint-")) names.insert(entry.path().filename().string());
  }
  EXPECT_EQ(names, (std::set<std::string>{"checkpoint-3", "checkpoint-6", "checkpoint-7"}));
}

TEST_F(TrainTest, ATrainedCheckpointIsEvaluatedContinuedAndGeneratedFrom) {
  ASSERT_EQ(train("out", "--data.valid valid.jsonl --train.eval_steps 3 --train.max_steps 60").code, 0);
  const Result before = run("eval --model model --bits 3 --ppl valid.jsonl --context 64 --json before.json");
  ASSERT_EQ(before.code, 0) << before.err;
  const Result after = run("eval --model out/last_checkpoint --ppl valid.jsonl --context 64 --json after.json");
  ASSERT_EQ(after.code, 0) << after.err;
  const auto value = [this](const char* name) { return nlohmann::json::parse(read_text_file(folder_ / name)); };
  EXPECT_LT(value("after.json").at("perplexity").get<double>(), 0.5 * value("before.json").at("perplexity").get<double>());
  EXPECT_EQ(value("after.json").at("tokens"), value("before.json").at("tokens"));

  const std::vector<nlohmann::json> lines = metrics("out");
  ASSERT_EQ(lines.size(), 80U);  // 60 steps and 20 evaluations
  EXPECT_EQ(lines.front().at("step"), 1);
  EXPECT_EQ(lines.back().at("eval_perplexity"), value("after.json").at("perplexity"));
  for (const char* key : {"loss", "gradient_norm", "learning_rate", "tokens_per_second", "seconds_left", "codes_changed", "clipped"}) {
    EXPECT_TRUE(lines.front().at(key).is_number()) << key;
  }

  const Result text = run("generate --model out/last_checkpoint --prompt 'the river' --max-tokens 12");
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_EQ(text.out.rfind("the river", 0), 0U);
  EXPECT_EQ(text.out, run("generate --model out/last_checkpoint --prompt 'the river' --max-tokens 12").out);

  const Result decode = run("bench decode --model out/last_checkpoint --prompt-tokens 4 --tokens 4 --repeats 2 --json decode.json");
  ASSERT_EQ(decode.code, 0) << decode.err;
  const nlohmann::json rows = value("decode.json");
  ASSERT_EQ(rows.size(), 3U);
  for (const nlohmann::json& row : rows) {
    EXPECT_NEAR(row.at("bytes_per_second").get<double>(),
                row.at("bytes_per_token").get<double>() * row.at("tokens_per_second").get<double>(), 1);
  }
  EXPECT_EQ(rows[0].at("weights"), "float32");
  EXPECT_EQ(rows[1].at("logit_difference").get<double>() < 1e-5, true);
  EXPECT_GT(rows[2].at("logit_difference").get<double>(), 0) << "activations were not rounded: not the packed weights";
  EXPECT_LT(rows[2].at("bytes_per_token"), rows[1].at("bytes_per_token"));
}

TEST_F(TrainTest, BadSettingsAreUsageErrors) {
  expect_refused(train("out", "--quantization.amplitude 0.3"), 2, {"0.3", "0.225079"});
  expect_refused(train("out", "--quantization.amplitude 0.21,0.21"), 2, {"amplitude"});
  expect_refused(train("out", "--quantization.bits 5"), 2, {"quantization.bits", "5"});
  expect_refused(train("out", "--quantization.group_size 128 --quantization.layers model.layers.*.q_proj"), 2, {"128", "64"});
  expect_refused(train("out", "--train.lerning_rate 1"), 2, {"learning_rate"});
  EXPECT_FALSE(fs::exists(folder_ / "out" / "last_checkpoint"));
}

TEST_F(TrainTest, BadDataIsNamed) {
  expect_refused(train("out", "--model.path absent"), 3, {"absent"});
  expect_refused(train("out", "--data.train absent.jsonl"), 3, {"absent.jsonl"});
  write_text_file(folder_ / "bad.jsonl", "{\"text\": \"fine\"}\n{\"text\": 3}\n");
  expect_refused(train("out", "--data.train bad.jsonl"), 3, {"bad.jsonl:2"});
  write_text_file(folder_ / "short.jsonl", "{\"text\": \"too short\"}\n");
  expect_refused(train("out", "--data.train short.jsonl"), 3, {"block"});
}

TEST_F(TrainTest, ADamagedModelIsNamed) {
  const fs::path weights = folder_ / "model" / "model.safetensors";
  damage_weight("model.layers.1.mlp.up_proj.weight", std::numeric_limits<float>::quiet_NaN());
  expect_refused(train("out"), 3, {"model.layers.1.mlp.up_proj.weight", "finite"});
  fs::resize_file(weights, fs::file_size(weights) - 10);
  expect_refused(train("out"), 3, {"model.safetensors"});
  ModelConfig wider = testing::tiny_config();
  wider.intermediate_size = 96;
  testing::write_tiny_model(folder_ / "model");
  write_text_file(folder_ / "model" / "config.json", to_json(wider).dump());
  expect_refused(train("out"), 3, {"gate_proj.weight", "[128, 64]", "[96, 64]"});
  wider = testing::tiny_config();
  wider.num_hidden_layers = 3;
  write_text_file(folder_ / "model" / "config.json", to_json(wider).dump());
  expect_refused(train("out"), 3, {"model.layers.2.input_layernorm.weight"});
}

TEST_F(TrainTest, AFullDiskLeavesNothingHalfWritten) {
  // A limit on the size of files stands for the full disk: the write fails in the same place.
  const Result result = run("train --config run.yaml --train.output_dir out", "trap '' XFSZ; ulimit -f 150;");
  expect_refused(result, 4, {"out"});
  for (const auto& entry : fs::directory_iterator(folder_ / "out")) {
    EXPECT_EQ(entry.path().filename().string().find("checkpoint"), std::string::npos) << entry.path();
  }
}

TEST_F(TrainTest, AnOutputThatCannotBeWrittenIsAnEnvironmentError) {
  write_text_file(folder_ / "file", "");
  expect_refused(train("file/out"), 4, {"file/out"});
}

TEST_F(TrainTest, ARunThatDivergesStopsBeforeTheUpdateAndKeepsTheLastGoodState) {
  const Result result = train("out", "--train.learning_rate 1e30 --train.lr_scheduler constant --train.max_grad_norm 0");
  expect_refused(result, 5, {"finite"});
  const fs::path kept = folder_ / "out";
  bool found = false;
  for (const auto& entry : fs::directory_iterator(kept)) found |= entry.path().filename().string().starts_with("checkpoint-");
  EXPECT_TRUE(found);
}

TEST_F(TrainTest, AFolderWithAnotherRunIsNotOverwritten) {
  ASSERT_EQ(train("out").code, 0);
  expect_refused(train("out", "--train.resume never"), 2, {"out", "checkpoints"});
}

}  // namespace
}  // namespace stableqat
