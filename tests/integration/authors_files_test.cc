// What users of the authors' program have in hand, on a small model: its command lines, YAML files, mixtures and checkpoints.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "../support/tiny_model.h"
#include "stableqat/base/file.h"
#include "stableqat/io/safetensors.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

struct Result {
  int code = -1;
  std::string out;
  std::string err;
};

class AuthorsFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stableqat_authors_test_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "dataset");
    testing::write_tiny_model(folder_ / "models" / "Llama-tiny");
    testing::write_tiny_corpus(folder_ / "dataset" / "slim.jsonl", 60);
    testing::write_tiny_corpus(folder_ / "dataset" / "fineweb.jsonl", 40);
    write_text_file(folder_ / "tokenize.yaml", "model_path: \"models/Llama-tiny\"\nmodel_max_length: 2048\n");
    write_text_file(folder_ / "train.yaml", R"(# model
model_path: "models/Llama-tiny"
w_bits: 3
sine_soft_q:
  enable: True
  amplitude: [0.21]
contain_weight_clip_val: False
cache_dir: null
dsq: False
efficient: True

# data
eval_data_local_path:
max_train_samples: -1
max_eval_samples: -1
model_max_length: 64

max_train_tokens: !!float 2048
fineweb_edu_data:
  mix_ratio: 0.5
  data_path: tokens_fineweb/train_data
slimpajama_data:
  mix_ratio: 0.5
  data_path: tokens_slim/train_data

# train
train:
  logging_dir: outputs/logs
  do_train: True
  do_eval: False
  fp16: True
  bf16: False
  num_train_epochs: 1
  per_device_train_batch_size: 1
  per_device_eval_batch_size: 1
  gradient_accumulation_steps: 8
  evaluation_strategy: "no"
  save_strategy: "steps"
  save_steps: 1000
  report_to: "tensorboard"
  save_total_limit: 1
  learning_rate: !!float 1e-4
  weight_decay: 0.
  warmup_ratio: 0.
  lr_scheduler_type: "cosine"
  logging_steps: 1
  tf32: False
  gradient_checkpointing: False
  optim: "adamw_torch"
  remove_unused_columns: False
  log_on_each_node: False
)");
  }
  void TearDown() override { fs::remove_all(folder_); }

  Result run(const std::string& arguments) const {
    const std::string command = "cd '" + folder_.string() + "' && '" STABLEQAT_PROGRAM "' " + arguments + " >stdout 2>stderr </dev/null";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text_file(folder_ / "stdout"), read_text_file(folder_ / "stderr")};
  }

  void tokenize(const std::string& name) const {
    const Result result = run("tokenize --tokenize_config_file tokenize.yaml --train_data_dir dataset --train_data_file " + name +
                              ".jsonl --tokenized_data_dir dataset/tokens_" + name);
    ASSERT_EQ(result.code, 0) << result.err;
    ASSERT_TRUE(fs::exists(folder_ / "dataset" / ("tokens_" + name) / "train_data.idx"));
  }

  Result train(const std::string& output, const std::string& more = "") const {
    return run("train --train_config_file train.yaml --train_data_dir dataset --tokenized_data_name tokens --output_dir " + output + " " +
               more);
  }

  std::vector<nlohmann::json> metrics(const std::string& output) const {
    std::vector<nlohmann::json> lines;
    std::istringstream text(read_text_file(folder_ / output / "metrics.jsonl"));
    for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  static void expect_refused(const Result& result, int code, const std::vector<std::string>& words) {
    EXPECT_EQ(result.code, code) << result.err;
    for (const std::string& word : words) EXPECT_NE(result.err.find(word), std::string::npos) << word << " not in: " << result.err;
  }

  fs::path folder_;
};

TEST_F(AuthorsFiles, TokenizeAndTrainAsTheirProgramIsCalled) {
  tokenize("slim");
  tokenize("fineweb");
  const Result result = train("outputs/run");
  ASSERT_EQ(result.code, 0) << result.err;
  const auto lines = metrics("outputs/run");
  ASSERT_EQ(lines.size(), 4U);  // 2048 tokens in steps of 8 x 64
  EXPECT_EQ(lines.back().at("tokens"), 2048);
  EXPECT_TRUE(fs::exists(folder_ / "outputs" / "run" / "before_training_checkpoint" / "model.safetensors"));
  const SafetensorsFile checkpoint(folder_ / "outputs" / "run" / "last_checkpoint" / "model.safetensors");
  EXPECT_EQ(checkpoint.tensor("model.layers.1.mlp.down_proj.weight_clip_val").shape, (std::vector<std::int64_t>{64, 1}));
  // Their --resume_ckpt is a name below the output folder.
  EXPECT_EQ(train("outputs/run", "--resume_ckpt last_checkpoint").code, 0);
  expect_refused(train("outputs/run", "--resume_ckpt checkpoint-7"), 3, {"checkpoint-7"});
}

// The framing and the scalars are read by their definition, not by our writer: length, CRC, message, CRC; tag (field 1) and float (field
// 2).
TEST_F(AuthorsFiles, EventFilesHaveTheMetricsOfEachLoggingStep) {
  ASSERT_EQ(train("run", "--data.train slim.jsonl --train.code_histograms true").code, 0);
  const auto lines = metrics("run");
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder_ / "outputs" / "logs")) files.push_back(entry.path());
  ASSERT_EQ(files.size(), 1U);
  const std::string bytes = read_text_file(files[0]);
  std::vector<std::string> records;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, sizeof length);
    ASSERT_LE(length, bytes.size() - at - 16);
    records.push_back(bytes.substr(at + 12, length));
    at += length + 16;
  }
  ASSERT_EQ(records.size(), lines.size() + 1);  // the first says the version
  const auto scalar = [](const std::string& record, const std::string& tag) {
    const std::string head = std::string("\x0a") + static_cast<char>(tag.size()) + tag + "\x15";
    const std::size_t at = record.find(head);
    EXPECT_NE(at, std::string::npos) << tag;
    float value = 0;
    if (at != std::string::npos) std::memcpy(&value, record.data() + at + head.size(), sizeof value);
    return value;
  };
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string& record = records[i + 1];
    EXPECT_EQ(record.substr(9, 2), std::string("\x10") + static_cast<char>(lines[i].at("step").get<int>()));
    EXPECT_EQ(scalar(record, "train/loss"), lines[i].at("loss").get<float>());
    EXPECT_EQ(scalar(record, "train/grad_norm"), lines[i].at("gradient_norm").get<float>());
    EXPECT_EQ(scalar(record, "train/learning_rate"), lines[i].at("learning_rate").get<float>());
    EXPECT_NE(record.find("codes/model.layers.1.mlp.down_proj"), std::string::npos);
  }
}

// Older files of theirs have a plain switch, and no mixture.
TEST_F(AuthorsFiles, FilesWithAPlainSwitchWork) {
  std::string text = read_text_file(folder_ / "train.yaml");
  const auto cut = [&text](const std::string& from, const std::string& to, const std::string& with) {
    const std::size_t begin = text.find(from);
    text = text.substr(0, begin) + with + text.substr(text.find(to));
  };
  cut("sine_soft_q:", "contain_weight", "sine_soft_q: True\n");
  cut("max_train_tokens:", "# train", "");
  write_text_file(folder_ / "train.yaml", text);
  ASSERT_EQ(run("tokenize --tokenize_config_file tokenize.yaml --train_data_dir dataset --train_data_file slim.jsonl "
                "--tokenized_data_dir dataset/tokens")
                .code,
            0);
  const Result result = train("run", "--train.max_steps 2");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(metrics("run").size(), 2U);
}

TEST_F(AuthorsFiles, RatiosThatDoNotSumToOneAreSharesOfTheBudget) {
  tokenize("slim");
  tokenize("fineweb");
  const Result shares = train("run", "--slimpajama_data.mix_ratio 0.25 --fineweb_edu_data.mix_ratio 0.25");
  ASSERT_EQ(shares.code, 0) << shares.err;
  EXPECT_NE(shares.err.find("the sum is 0.5"), std::string::npos) << shares.err;
  EXPECT_EQ(metrics("run").back().at("tokens"), 2048);
}

TEST_F(AuthorsFiles, ATokenFileOfAnotherTokenizerIsRefused) {
  tokenize("slim");
  std::string tokenizer = read_text_file(folder_ / "models" / "Llama-tiny" / "tokenizer.json");
  const std::size_t at = tokenizer.find("\"a\":97");
  ASSERT_NE(at, std::string::npos);
  tokenizer.replace(at, 6, "\"a\":98");
  tokenizer.replace(tokenizer.find("\"b\":98"), 6, "\"b\":97");
  write_text_file(folder_ / "models" / "Llama-tiny" / "tokenizer.json", tokenizer);
  expect_refused(train("out", "--data.train tokens_slim"), 3, {"train_data.bin", "tokenizer", "tokenize the text"});
}

// Datasets of blocks that their pre-tokenization saved, for validation too.
TEST_F(AuthorsFiles, SavedDatasetsTrainAndValidate) {
  const fs::path saved = fs::path(STABLEQAT_TEST_DATA) / "arrow" / "saved" / "train_data";
  fs::create_directories(folder_ / "dataset" / "saved");
  fs::copy(saved, folder_ / "dataset" / "saved" / "train_data");
  const std::string flags = "--data.train saved --data.sequence_length 8 --train.gradient_accumulation_steps 2 --train.max_steps 2 ";
  ASSERT_EQ(train("run", flags).code, 0);
  fs::create_directories(folder_ / "dataset" / "other");
  fs::copy(saved, folder_ / "dataset" / "other" / "valid_data");
  expect_refused(train("twice", flags + "--data.valid dataset/other"), 3, {"dataset/other", "in the training data"});
  const Result validated = train("valid", flags + "--data.valid dataset/other --data.overlap_tokens 0");
  ASSERT_EQ(validated.code, 0) << validated.err;
  EXPECT_EQ(metrics("valid").back().at("eval_tokens"), 70);  // 10 blocks of 8, 7 predicted in each
}

TEST_F(AuthorsFiles, AMixtureOfTextIsTokenizedOnTheWayAndResumesExactly) {
  const std::string flags =
      "--data.mixture '[slim.jsonl=3, fineweb.jsonl=1]' --train.save_steps 2 --train.threads 1 --train.report_to none ";
  ASSERT_EQ(train("whole", flags).code, 0);
  const Result stopped = train("parts", flags);
  ASSERT_EQ(stopped.code, 0);
  fs::remove_all(folder_ / "parts" / "last_checkpoint");
  const Result resumed = train("parts", flags);
  EXPECT_NE(resumed.err.find("at step 2"), std::string::npos) << resumed.err;
  EXPECT_EQ(file_content_hash(folder_ / "whole" / "last_checkpoint" / "model.safetensors"),
            file_content_hash(folder_ / "parts" / "last_checkpoint" / "model.safetensors"));
  fs::remove_all(folder_ / "parts" / "last_checkpoint");
  expect_refused(train("parts", "--data.mixture '[slim.jsonl=1, fineweb.jsonl=1]' --train.save_steps 2"), 3, {"mixture"});
}

TEST_F(AuthorsFiles, ATokenBudgetBeyondTheDataIsRefusedUnlessAllowed) {
  const std::string flags = "--data.train slim.jsonl --max_train_tokens 200000 ";
  expect_refused(train("out", flags), 2, {"data.max_train_tokens", "epochs of the data", "data.allow_repeats"});
  expect_refused(train("out", "--data.mixture '[slim.jsonl=1, fineweb.jsonl=9]' --max_train_tokens 40000"), 2, {"of each source"});
  EXPECT_EQ(train("out", flags + "--data.allow_repeats true --train.max_steps 1").code, 0);
}

// Each stage starts from the weights of the one before; its scales are for another grid and are not taken over.
TEST_F(AuthorsFiles, ACurriculumGoesFromFourBitsToTwo) {
  const auto first_scale = [](const SafetensorsFile& file) {
    std::vector<float> values(64);
    file.read_f32("model.layers.0.self_attn.q_proj.weight_clip_val", values);
    return values[0];
  };
  write_text_file(folder_ / "train.yaml", "model_path: models/Llama-tiny\nmodel_max_length: 64\ndata: {root: dataset}\ntrain: {seed: 1}\n");
  const std::string plain = "--data.train slim.jsonl --train.max_steps 4 --train.learning_rate 1e-3 ";
  const auto run_stage = [&](int bits, const std::string& model, const std::string& output) {
    const Result result = run("train --config train.yaml --output_dir " + output + " " + plain + "--w_bits " + std::to_string(bits) +
                              " --model_path " + model);
    EXPECT_EQ(result.code, 0) << result.err;
    return first_scale(SafetensorsFile(folder_ / output / "last_checkpoint" / "model.safetensors"));
  };
  const float four = run_stage(4, "models/Llama-tiny", "four");
  const float three = run_stage(3, "four/last_checkpoint", "three");
  const float two = run_stage(2, "three/last_checkpoint", "two");
  EXPECT_GT(three, 1.4F * four);  // fewer levels over about the same range
  EXPECT_GT(two, 1.4F * three);
  const float again = run_stage(3, "three/last_checkpoint", "again");
  EXPECT_NEAR(again, three, 0.05F * three);
}

TEST_F(AuthorsFiles, BadInputIsNamed) {
  expect_refused(train("out", "--data.train absent.jsonl"), 3, {"absent.jsonl", "no such file"});
  write_text_file(folder_ / "dataset" / "bad.jsonl", "{\"txt\": 1}\n");
  expect_refused(train("out", "--data.train bad.jsonl"), 3, {"bad.jsonl:1", "txt"});
  fs::remove(folder_ / "models" / "Llama-tiny" / "tokenizer.json");
  expect_refused(train("out", "--data.train slim.jsonl"), 3, {"tokenizer.json"});
  write_text_file(folder_ / "tokenize.yaml", "model_path: models/Llama-tiny\nmodel_max_lenght: 2048\n");
  expect_refused(run("tokenize --tokenize_config_file tokenize.yaml --input dataset/slim.jsonl --output t"), 2,
                 {"tokenize.yaml:2", "did you mean 'model_max_length'"});
}

TEST_F(AuthorsFiles, AVocabularyLargerThanTheEmbeddingIsRefused) {
  ModelConfig config = testing::tiny_config();
  config.vocab_size = 200;
  fs::rename(folder_ / "models" / "Llama-tiny" / "tokenizer.json", folder_ / "tokenizer.json");
  testing::write_tiny_model(folder_ / "models" / "Llama-tiny", config);
  fs::rename(folder_ / "tokenizer.json", folder_ / "models" / "Llama-tiny" / "tokenizer.json");
  expect_refused(train("out", "--data.train slim.jsonl"), 3, {"257 ids", "200"});
}

}  // namespace
}  // namespace stableqat
