// The real program on a small model: exact continuation after a kill, signals, damaged checkpoints, bad input.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

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

TEST_F(TrainTest, MomentsInBfloat16ContinueBitForBitAndFromTheOtherType) {
  const std::string both = "--train.max_steps 6 --train.save_steps 3 --train.moments bfloat16";
  ASSERT_EQ(train("whole", both).code, 0);
  const fs::path optimizer = folder_ / "whole" / "last_checkpoint" / "optimizer.safetensors";
  EXPECT_EQ(SafetensorsFile(optimizer).tensor("first.model.norm.weight").dtype, DType::kBF16);
  fs::create_directory(folder_ / "half");
  fs::copy(folder_ / "whole" / "checkpoint-3", folder_ / "half" / "checkpoint-3", fs::copy_options::recursive);
  const Result resumed = train("half", both);
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("at step 3"), std::string::npos) << resumed.err;
  expect_same_checkpoint("whole/last_checkpoint", "half/last_checkpoint");

  // Short moments widen exactly; wide ones are rounded once. Either way the run goes on.
  const Result wider = train("wide", "--train.max_steps 6 --train.resume whole/checkpoint-3");
  ASSERT_EQ(wider.code, 0) << wider.err;
  EXPECT_EQ(SafetensorsFile(folder_ / "wide/last_checkpoint/optimizer.safetensors").tensor("first.model.norm.weight").dtype, DType::kF32);
  const Result shorter = train("short", "--train.max_steps 8 --train.moments bfloat16 --train.resume wide/last_checkpoint");
  ASSERT_EQ(shorter.code, 0) << shorter.err;
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
  // A limit on the size of files stands for the full disk: the tokens fit, the model (362 kB) does not, in blocks of 512 or of 1024 bytes.
  for (const char* before_training : {"true", "false"}) {
    const Result result =
        run(train_words("out", std::string("--train.save_before_training ") + before_training), "trap '' XFSZ; ulimit -f 340;");
    expect_refused(result, 4, {"out"});
    EXPECT_EQ(fs::exists(folder_ / "out" / "metrics.jsonl"), before_training == std::string("false")) << "not found out before training";
    for (const auto& entry : fs::directory_iterator(folder_ / "out")) {
      EXPECT_EQ(entry.path().filename().string().find("checkpoint"), std::string::npos) << entry.path();
    }
  }
}

// The model that rounding alone gives, under the name that the authors' program gives it.
TEST_F(TrainTest, TheModelBeforeTrainingIsThereToCompareWith) {
  ASSERT_EQ(train("out").code, 0);
  const fs::path before = folder_ / "out" / "before_training_checkpoint";
  const auto perplexity = [this](const std::string& model) {
    const Result result = run("eval --model " + model + " --ppl valid.jsonl --context 64 --json result.json");
    EXPECT_EQ(result.code, 0) << result.err;
    return nlohmann::json::parse(read_text_file(folder_ / "result.json")).at("perplexity").get<double>();
  };
  EXPECT_EQ(perplexity("out/before_training_checkpoint"), perplexity("model --bits 3"));
  EXPECT_NE(perplexity("out/before_training_checkpoint"), perplexity("out/last_checkpoint"));
  const SafetensorsFile start(folder_ / "model" / "model.safetensors");
  const SafetensorsFile saved(before / "model.safetensors");
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  EXPECT_TRUE(std::ranges::equal(saved.bytes(name), start.bytes(name))) << "masters are those of the start model";
  EXPECT_FALSE(fs::exists(before / "optimizer.safetensors"));
  expect_refused(train("other", "--train.resume ../out/before_training_checkpoint"), 3, {"before_training_checkpoint", "model.path"});
  // A run that goes on leaves it alone, and does not take it for the newest checkpoint.
  const auto time = fs::last_write_time(before / "manifest.json");
  fs::remove_all(folder_ / "out" / "last_checkpoint");
  const Result resumed = train("out");
  EXPECT_NE(resumed.err.find("at step 3"), std::string::npos) << resumed.err;
  EXPECT_EQ(fs::last_write_time(before / "manifest.json"), time);
  ASSERT_EQ(train("without", "--train.save_before_training false --train.max_steps 1").code, 0);
  EXPECT_FALSE(fs::exists(folder_ / "without" / "before_training_checkpoint"));
}

// Another file, with other documents around them.
TEST_F(TrainTest, ValidationTextThatIsTrainedOnIsLeftOut) {
  const std::string training = read_text_file(folder_ / "train.jsonl");
  std::string three;
  for (std::size_t line = 0, end = 0; line < 3; ++line) {
    const std::size_t begin = std::exchange(end, training.find('\n', end) + 1);
    three += training.substr(begin, end - begin);
  }
  const std::string own = read_text_file(folder_ / "valid.jsonl");
  write_text_file(folder_ / "mixed.jsonl", own + three);
  const auto evaluated = [this](const std::string& output) { return metrics(output).back().at("eval_tokens").get<int>(); };
  const std::string short_run = " --train.max_steps 1 --data.valid ";
  ASSERT_EQ(train("clean", short_run + "valid.jsonl").code, 0);
  const Result result = train("out", short_run + "mixed.jsonl");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.err.find("3 of 13 parts"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("left out"), std::string::npos) << result.err;
  EXPECT_EQ(evaluated("out"), evaluated("clean"));
  EXPECT_EQ(metrics("out").back().at("eval_loss"), metrics("clean").back().at("eval_loss"));
  ASSERT_EQ(train("all", short_run + "mixed.jsonl --data.overlap_tokens 0").code, 0);
  EXPECT_GT(evaluated("all"), evaluated("clean"));
  write_text_file(folder_ / "copied.jsonl", three);
  expect_refused(train("nothing", short_run + "copied.jsonl"), 3, {"copied.jsonl", "3 of 3 parts", "data.overlap_tokens"});
  // As token files, where no name says what they were made from.
  ASSERT_EQ(run("tokenize --model model --input train.jsonl --output tokens").code, 0);
  ASSERT_EQ(run("tokenize --model model --input mixed.jsonl --output heldout").code, 0);
  const Result tokens = train("tokens_out", short_run + "heldout --data.train tokens");
  ASSERT_EQ(tokens.code, 0) << tokens.err;
  EXPECT_NE(tokens.err.find("3 of 13 parts"), std::string::npos) << tokens.err;
  EXPECT_EQ(evaluated("tokens_out"), evaluated("clean"));
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
