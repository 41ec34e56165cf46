#include "stableqat/config/train_config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat {
namespace {

const std::string kAuthorsFile = STABLEQAT_SOURCE_DIR "/tests/unit/config_authors_train.yaml";

std::vector<std::string> with_required(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--model.path", "m", "--data.train", "d", "--train.output_dir", "o"});
  return arguments;
}

TrainConfig from_flags(const std::vector<std::string>& arguments) {
  std::vector<std::string> notices;
  return load_train_config("", with_required(arguments), notices);
}

std::string error_of(const std::vector<std::string>& arguments) {
  try {
    from_flags(arguments);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

class TrainFileTest : public testing::Test {
 protected:
  TrainFileTest() : path_(std::filesystem::temp_directory_path() / ("stableqat_train_test_" + std::to_string(::getpid()) + ".yaml")) {}
  ~TrainFileTest() override { std::filesystem::remove(path_); }

  TrainConfig load(const std::string& yaml, std::vector<std::string> arguments) {
    write_text_file(path_, yaml);
    std::vector<std::string> notices;
    return load_train_config(path_, with_required(std::move(arguments)), notices);
  }

  std::filesystem::path path_;
};

TEST(TrainConfig, AuthorsFileLoadsUnchanged) {
  std::vector<std::string> notices;
  // As their program is called.
  const std::vector<std::string> arguments = {"--train_data_dir", "tokens", "--tokenized_data_name", "old",
                                              "--output_dir",     "run",    "--resume_ckpt",         "None"};
  const TrainConfig config = load_train_config(kAuthorsFile, arguments, notices);

  TrainConfig expected;
  expected.model.path = "meta-llama/Llama-3.2-1B";
  expected.quantization.method = TrainConfig::Method::kStableqat;
  expected.quantization.bits = 3;
  expected.quantization.amplitude = {0.21};
  expected.quantization.stored_scales = TrainConfig::StoredScales::kIgnore;
  expected.data.root = "tokens";
  expected.data.mixture = {{"slimpajama", 0.5}, {"fineweb_edu", 0.5}};
  expected.data.valid = "valid_data/slimpajama";
  expected.data.sequence_length = 1024;
  expected.data.max_train_tokens = 20'000'000'000;
  expected.train.output_dir = "run";
  expected.train.precision = TrainConfig::Precision::kFloat16;
  expected.train.recompute = TrainConfig::Recompute::kBlock;
  expected.train.micro_batch_size = 4;
  expected.train.gradient_accumulation_steps = 8;
  expected.train.save_steps = 1000;
  expected.train.save_total_limit = 1;
  expected.train.logging_steps = 1;
  expected.train.report_to = TrainConfig::ReportTo::kTensorBoard;
  expected.train.logging_dir = "logs";
  EXPECT_EQ(config, expected);

  const auto count_ending = [&notices](std::string_view end) {
    return std::count_if(notices.begin(), notices.end(), [end](const std::string& notice) { return notice.ends_with(end); });
  };
  EXPECT_EQ(count_ending("train.remove_unused_columns: not used here"), 1);
  EXPECT_EQ(count_ending("tokenized_data_name: not used beside the mixture that the file names"), 1);
  EXPECT_EQ(notices.size(), 7U);
}

TEST(TrainConfig, NamedDataGoesOverTheAuthorsMixture) {
  std::vector<std::string> notices;
  const std::vector<std::string> arguments = {"--data.train", "tokens/train", "--train.output_dir", "run"};
  const TrainConfig config = load_train_config(kAuthorsFile, arguments, notices);
  EXPECT_EQ(config.data.train, std::vector<std::string>{"tokens/train"});
  EXPECT_TRUE(config.data.mixture.empty());
  EXPECT_EQ(notices.back(), "slimpajama_data, fineweb_edu_data: replaced by data.train or data.mixture");
}

TEST(TrainConfig, AuthorsDataKeysWithoutAMixture) {
  const auto load = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--model.path", "m", "--output_dir", "o"});
    std::vector<std::string> notices;
    return load_train_config("", arguments, notices);
  };
  EXPECT_EQ(load({"--tokenized_data_name", "tokens"}).data.train, std::vector<std::string>{"tokens"});
  const TrainConfig one = load({"--slimpajama_data.data_path", "s", "--slimpajama_data.mix_ratio", "1", "--fineweb_edu_data.data_path", "f",
                                "--fineweb_edu_data.mix_ratio", "0"});
  EXPECT_EQ(one.data.mixture, (std::vector<WeightedPath>{{"s", 1.0}}));
  EXPECT_THROW(load({"--slimpajama_data.data_path", "s", "--slimpajama_data.mix_ratio", "0"}), ConfigError);
  EXPECT_THROW(load({"--slimpajama_data.data_path", "s", "--slimpajama_data.mix_ratio", "-1"}), ConfigError);
  EXPECT_THROW(load({"--data.train", "a", "--data.mixture", "[b=1]"}), ConfigError);
  EXPECT_THROW(load({"--data.train", "a", "--data.valid", "a"}), ConfigError);
  EXPECT_THROW(load({"--data.mixture", "[b=1, c=1]", "--data.valid", "c"}), ConfigError);
  EXPECT_EQ(load({"--data.train", "a", "--truncate.enable", "True", "--truncate.length", "512"}).data.sequence_length, 512);
  EXPECT_THROW(load({"--data.train", "a", "--truncate.enable", "True"}), ConfigError);
}

// No run may depend on which of two spellings of transformers a file has.
TEST(TrainConfig, RenamedKeysBothWork) {
  EXPECT_EQ(error_of({"--train.evaluation_strategy", "no"}), "no error");
  EXPECT_EQ(error_of({"--train.eval_strategy", "steps"}), "no error");
  EXPECT_NE(error_of({"--train.eval_strategy", "epoch"}).find("train.eval_steps"), std::string::npos);
  EXPECT_NE(error_of({"--train.save_strategy", "epoch"}).find("train.save_steps"), std::string::npos);
  EXPECT_EQ(from_flags({"--contain_weight_clip_val", "True"}).quantization.stored_scales, TrainConfig::StoredScales::kUse);
}

TEST(TrainConfig, EveryAliasMeansItsField) {
  TrainConfig expected = from_flags({});
  expected.quantization.bits = 2;
  EXPECT_EQ(from_flags({"--w_bits", "2"}), expected);
  expected = from_flags({"--quantization.amplitude", "[0.2,-0.05]"});
  EXPECT_EQ(expected.quantization.amplitude, (std::vector<double>{0.2, -0.05}));
  EXPECT_EQ(from_flags({"--sine_soft_q.amplitude", "[0.2,-0.05]"}), expected);
  EXPECT_EQ(from_flags({"--quantization.amplitudes", "[0.2,-0.05]"}), expected);
  EXPECT_EQ(from_flags({"--eval_data_local_path", "v"}).data.valid, "v");
  EXPECT_EQ(from_flags({"--model_max_length", "77"}).data.sequence_length, 77);
  EXPECT_EQ(from_flags({"--max_train_tokens", "1e9"}).data.max_train_tokens, 1'000'000'000);
  EXPECT_EQ(from_flags({"--train.per_device_train_batch_size", "5"}).train.micro_batch_size, 5);
  EXPECT_EQ(from_flags({"--train.lr_scheduler_type", "linear"}).train.lr_scheduler, TrainConfig::Scheduler::kLinear);
  const std::vector<std::string> paths = {"--model_path", "m", "--data.train", "d", "--train.output_dir", "o"};
  std::vector<std::string> notices;
  EXPECT_EQ(load_train_config("", paths, notices).model.path, "m");
}

TEST(TrainConfig, AuthorsSwitchesChooseMethodPrecisionAndRecomputation) {
  using Method = TrainConfig::Method;
  EXPECT_EQ(from_flags({"--sine_soft_q.enable", "true"}).quantization.method, Method::kStableqat);
  EXPECT_EQ(from_flags({"--sine_soft_q.enable", "false"}).quantization.method, Method::kSte);
  EXPECT_EQ(from_flags({"--sine_soft_q.enable", "false", "--dsq", "true"}).quantization.method, Method::kDsq);
  EXPECT_EQ(from_flags({"--dsq", "false"}).quantization.method, Method::kStableqat);
  EXPECT_NE(error_of({"--sine_soft_q.enable", "true", "--dsq", "true"}).find("second value for 'quantization.method'"), std::string::npos);
  EXPECT_EQ(from_flags({"--train.bf16", "true"}).train.precision, TrainConfig::Precision::kBfloat16);
  EXPECT_EQ(from_flags({"--train.fp16", "true", "--train.bf16", "false"}).train.precision, TrainConfig::Precision::kFloat16);
  EXPECT_NE(error_of({"--train.fp16", "true", "--train.bf16", "true"}).find("second value for 'train.precision'"), std::string::npos);
  EXPECT_EQ(from_flags({"--train.gradient_checkpointing", "true"}).train.recompute, TrainConfig::Recompute::kBlock);
}

TEST(TrainConfig, TernaryIsWrittenInTwoWays) {
  EXPECT_EQ(from_flags({"--quantization.bits", "1.58"}).quantization.bits, TrainConfig::kTernaryBits);
  EXPECT_EQ(from_flags({"--w_bits", "0"}).quantization.bits, TrainConfig::kTernaryBits);
  EXPECT_NE(to_yaml(from_flags({"--w_bits", "0"})).find("\n  bits: 1.58\n"), std::string::npos);
  EXPECT_NE(error_of({"--w_bits", "5"}).find("found '5', expected 1|1.58|0|2|3|4|8|16"), std::string::npos);
}

TEST_F(TrainFileTest, FlagsGoOverTheFile) {
  const std::string yaml = "quantization:\n  bits: 3\ntrain:\n  max_steps: 10\n  seed: 7\n";
  const TrainConfig config = load(yaml, {"--train.max_steps", "20", "--w_bits=2"});
  EXPECT_EQ(config.train.max_steps, 20);
  EXPECT_EQ(config.train.seed, 7);
  EXPECT_EQ(config.quantization.bits, 2);
}

TEST_F(TrainFileTest, NoMethodAndSixteenBitsAreOneThing) {
  using Method = TrainConfig::Method;
  EXPECT_EQ(load("w_bits: 16\nsine_soft_q:\n  enable: false\n", {}).quantization.method, Method::kNone);
  EXPECT_EQ(load("w_bits: 3\n", {"--quantization.method", "none"}).quantization.bits, TrainConfig::kUnquantizedBits);
  EXPECT_THROW(load("w_bits: 16\nsine_soft_q:\n  enable: true\n", {}), ConfigError);
  EXPECT_THROW(load("w_bits: 3\nquantization:\n  method: none\n", {}), ConfigError);
}

TEST_F(TrainFileTest, ResolvedFileLoadsBackEqual) {
  TrainConfig config = from_flags({"--w_bits",
                                   "1.58",
                                   "--quantization.method",
                                   "seq",
                                   "--quantization.layers",
                                   "[model.layers.*.mlp.*, 'x: y']",
                                   "--train.learning_rate",
                                   "3e-4",
                                   "--train.resume",
                                   "never",
                                   "--quantization.amplitude",
                                   "[0.2, -0.05, 0.01]",
                                   "--distillation.weight",
                                   "0.3",
                                   "--data.skip_bad_lines",
                                   "yes",
                                   "--train.precision",
                                   "float64",
                                   "--train.report_to",
                                   "tensorboard"});
  EXPECT_EQ(config.quantization.layers, (std::vector<std::string>{"model.layers.*.mlp.*", "x: y"}));
  write_text_file(path_, to_yaml(config));
  std::vector<std::string> notices;
  EXPECT_EQ(load_train_config(path_, {}, notices), config);
  EXPECT_TRUE(notices.empty());
}

TEST(TrainConfig, SettingsThatExcludeEachOtherAreErrors) {
  EXPECT_NE(error_of({"--train.warmup_steps", "5", "--train.warmup_ratio", "0.1"}).find("train.warmup_steps and train.warmup_ratio"),
            std::string::npos);
  EXPECT_EQ(error_of({"--train.warmup_steps", "0", "--train.warmup_ratio", "0.1"}), "no error");
  EXPECT_NE(error_of({"--quantization.order", "1", "--quantization.amplitude", "[0.2,-0.05]"}).find("quantization.order"),
            std::string::npos);
  EXPECT_EQ(error_of({"--quantization.order", "1", "--quantization.amplitude", "[0.2]"}), "no error");
  EXPECT_NE(error_of({"--quantization.amplitude", "[]"}).find("an empty list"), std::string::npos);
  EXPECT_NE(error_of({"--quantization.group_size", "48"}).find("expected 0|32|64|128"), std::string::npos);
}

TEST(TrainConfig, RequiredFieldsAreNamed) {
  for (const auto& missing : {"model.path", "data.train", "train.output_dir"}) {
    std::vector<std::string> arguments = with_required({});
    const auto at = std::find(arguments.begin(), arguments.end(), "--" + std::string(missing));
    arguments.erase(at, at + 2);
    std::vector<std::string> notices;
    try {
      load_train_config("", arguments, notices);
      ADD_FAILURE() << missing;
    } catch (const ConfigError& error) {
      EXPECT_EQ(std::string(error.what()).find(missing), 0U) << error.what();
    }
  }
}

TEST(TrainConfig, KeysThatWouldChangeTheResultAreRefused) {
  EXPECT_NE(error_of({"--max_train_samples", "1000"}).find("use data.max_train_tokens"), std::string::npos);
  EXPECT_NE(error_of({"--train.optim", "adafactor"}).find("AdamW"), std::string::npos);
  EXPECT_NE(error_of({"--train.do_train", "false"}).find("stableqat eval"), std::string::npos);
}

TEST(TrainConfig, ReferencePageIsCommitted) {
  EXPECT_EQ(read_text_file(STABLEQAT_SOURCE_DIR "/docs/configuration.md"), train_config_reference())
      << "write it anew: stableqat train --reference > docs/configuration.md";
}

TEST(TrainConfig, HelpNamesEveryKeyOfTheResolvedFile) {
  const std::string help = train_config_help();
  for (const char* flag : {"--model.path ", "--quantization.bits ", "--data.train ", "--train.threads ", "--distillation.teacher "}) {
    EXPECT_NE(help.find(flag), std::string::npos) << flag;
  }
}

}  // namespace
}  // namespace stableqat
