// The real program: exit codes, messages, what it prints where.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "stableqat/base/file.h"
#include "stableqat/config/train_config.h"

namespace stableqat {
namespace {

const std::string kAuthorsFile = STABLEQAT_SOURCE_DIR "/tests/unit/config_authors_train.yaml";

struct Result {
  int code;
  std::string out;
  std::string err;
};

class CliTest : public testing::Test {
 protected:
  CliTest() : folder_(std::filesystem::temp_directory_path() / ("stableqat_cli_test_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~CliTest() override { std::filesystem::remove_all(folder_); }

  // Runs the program by the shell, in a folder of its own.
  Result stableqat(const std::string& arguments) {
    const std::string out = folder_ / "out";
    const std::string err = folder_ / "err";
    const std::string command = "cd '" + folder_.string() + "' && '" STABLEQAT_PROGRAM "' " + arguments + " >out 2>err </dev/null";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text_file(out), read_text_file(err)};
  }

  std::filesystem::path folder_;
};

TEST_F(CliTest, VersionAndHelp) {
  const Result version = stableqat("--version");
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out.find("stableqat 0."), 0U) << version.out;
  const Result help = stableqat("--help");
  EXPECT_EQ(help.code, 0);
  for (const char* command : {"info", "download", "sample", "tokenize", "train", "eval", "generate", "bench"}) {
    EXPECT_NE(help.out.find(std::string("\n  ") + command + " "), std::string::npos) << help.out;
    const Result of_command = stableqat(std::string(command) + " --help");
    EXPECT_EQ(of_command.code, 0);
    EXPECT_NE(of_command.out.find("Example:\n  stableqat " + std::string(command) + " "), std::string::npos) << of_command.out;
  }
  EXPECT_NE(stableqat("train --help").out.find(train_config_help()), std::string::npos);
}

TEST_F(CliTest, UsageErrorsAreOneLineAndTwo) {
  for (const char* arguments : {"", "trian", "info --jsn", "info -q -v", "train --config", "train --dry-run --reference"}) {
    const Result result = stableqat(arguments);
    EXPECT_EQ(result.code, 2) << arguments;
    EXPECT_EQ(result.out, "") << arguments;
    EXPECT_EQ(result.err.find("stableqat: error: "), 0U) << result.err;
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  }
  EXPECT_NE(stableqat("trian").err.find("'trian'; did you mean 'train'?"), std::string::npos);
}

TEST_F(CliTest, InfoPrintsJson) {
  const Result result = stableqat("info --json");
  ASSERT_EQ(result.code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json.at("libtorch"), "2.11.0");
  EXPECT_GE(json.at("cpu").at("cores").get<int>(), 1);
  EXPECT_TRUE(json.at("cpu").at("instruction_sets").is_array());
  EXPECT_GT(json.at("memory").at("total_bytes").get<std::uint64_t>(), json.at("memory").at("available_bytes").get<std::uint64_t>() / 2);
  EXPECT_TRUE(json.at("gpus").is_array());
  EXPECT_FALSE(json.contains("measured"));
  EXPECT_NE(stableqat("info").out.find("LibTorch     2.11.0\n"), std::string::npos);
}

TEST_F(CliTest, OutputThatCannotBeWrittenIsAnEnvironmentError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const std::string command = "'" STABLEQAT_PROGRAM "' info >/dev/full 2>/dev/null";
  const int status = std::system(command.c_str());
  EXPECT_EQ(WEXITSTATUS(status), 4);
}

TEST_F(CliTest, DryRunPrintsAFileThatLoadsBackAndReadsNothingElse) {
  const std::string flags =
      " --data.train [no/such/tokens] --train.output_dir out_dir --train.max_steps=10 --train.warmup_steps 2 --dry-run";
  const Result result = stableqat("train --config '" + kAuthorsFile + "'" + flags);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out_dir"));
  EXPECT_NE(result.err.find("train.remove_unused_columns: not used here\n"), std::string::npos) << result.err;

  std::vector<std::string> notices;
  write_text_file(folder_ / "resolved.yaml", result.out);
  const TrainConfig config = load_train_config(folder_ / "resolved.yaml", {}, notices);
  EXPECT_EQ(config.train.max_steps, 10);
  EXPECT_EQ(config.train.warmup_steps, 2);
  EXPECT_EQ(config.quantization.bits, 3);

  const Result quiet = stableqat("train -q --config '" + kAuthorsFile + "'" + flags);
  EXPECT_EQ(quiet.err, "");
  EXPECT_EQ(quiet.out, result.out);
}

TEST_F(CliTest, ConfigurationErrorsNameTheFileTheKeyAndTheNearestName) {
  write_text_file(folder_ / "run.yaml", "model:\n  path: m\ntrain:\n  lerning_rate: 1e-4\n");
  const Result result = stableqat("train --config run.yaml --dry-run");
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err, "stableqat: error: run.yaml:4: found unknown key 'train.lerning_rate'; did you mean 'train.learning_rate'?\n");

  EXPECT_EQ(stableqat("train --config missing.yaml --dry-run").code, 3);
  EXPECT_EQ(stableqat("train --train.max_steps --dry-run").code, 2);
  EXPECT_EQ(stableqat("train --train.max_steps -1 --dry-run").err,
            "stableqat: error: --train.max_steps: found -1, expected integer >= 0\n");
}

// A byte-level BPE tokenizer of printable ASCII without merges: '!' is id 0, 'a' is 64, a space 94, the end of text 95.
std::string ascii_tokenizer() {
  nlohmann::json vocabulary;
  for (int c = '!'; c <= '~'; ++c) vocabulary[std::string(1, static_cast<char>(c))] = c - '!';
  vocabulary["\xc4\xa0"] = 94;  // U+0120 stands for a space
  vocabulary["<|endoftext|>"] = 95;
  const nlohmann::json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const nlohmann::json end_of_text = {
      {"id", 95},        {"content", "<|endoftext|>"}, {"special", true}, {"single_word", false}, {"lstrip", false},
      {"rstrip", false}, {"normalized", false}};
  return nlohmann::json({{"version", "1.0"},
                         {"added_tokens", {end_of_text}},
                         {"pre_tokenizer", byte_level},
                         {"decoder", byte_level},
                         {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}}}})
      .dump();
}

TEST_F(CliTest, TokenizeWritesTokenFiles) {
  write_text_file(folder_ / "tokenizer.json", ascii_tokenizer());
  write_text_file(folder_ / "text.jsonl", "{\"body\": \"ab\"}\n{\"body\": \"c d\"}\n{\"body\": \"e\"}\n");
  const std::string command = "tokenize --model tokenizer.json --input text.jsonl --json-key body --output ";
  const auto ids = [this](const std::string& prefix) {
    const std::string bytes = read_text_file(folder_ / (prefix + ".bin"));
    std::vector<int> values;
    for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) values.push_back(static_cast<unsigned char>(bytes[i]));  // all below 256
    return values;
  };

  const Result all = stableqat(command + "all");
  ASSERT_EQ(all.code, 0) << all.err;
  EXPECT_EQ(all.out, "3 documents, 9 tokens in all.bin\n");
  EXPECT_EQ(ids("all"), (std::vector<int>{64, 65, 95, 66, 94, 67, 95, 68, 95}));

  ASSERT_EQ(stableqat(command + "even --shard 0/2").code, 0);
  ASSERT_EQ(stableqat(command + "odd --shard 1/2 --workers 1").code, 0);
  EXPECT_EQ(ids("even"), (std::vector<int>{64, 65, 95, 68, 95}));
  EXPECT_EQ(ids("odd"), (std::vector<int>{66, 94, 67, 95}));
}

TEST_F(CliTest, TokenizeNamesBadInput) {
  write_text_file(folder_ / "tokenizer.json", ascii_tokenizer());
  write_text_file(folder_ / "text.jsonl", "{\"text\": \"ab\"}\n{\"text\": 5}\n");
  const std::string command = "tokenize --model tokenizer.json --input text.jsonl --output tokens ";
  const Result bad = stableqat(command);
  EXPECT_EQ(bad.code, 3);
  EXPECT_NE(bad.err.find("text.jsonl:2"), std::string::npos) << bad.err;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "tokens.bin"));

  const Result skipped = stableqat(command + "--skip-bad-lines");
  EXPECT_EQ(skipped.code, 0);
  EXPECT_EQ(skipped.out, "1 documents, 3 tokens in tokens.bin\n");
  EXPECT_NE(skipped.err.find("warning: "), std::string::npos);

  for (const char* shard : {"2/2", "1", "a/b", "0/0", "-1/2", "1/2x", "/"}) {
    const Result result = stableqat(command + "--shard " + shard);
    EXPECT_EQ(result.code, 2) << shard;
    EXPECT_NE(result.err.find("i/n with i from 0 to n-1"), std::string::npos) << result.err;
  }
  EXPECT_EQ(stableqat("tokenize --model none --input text.jsonl --output tokens").code, 3);
  EXPECT_EQ(stableqat("tokenize --model tokenizer.json --input none --output tokens").code, 3);
  EXPECT_EQ(stableqat("tokenize --model tokenizer.json --input text.jsonl --output no/such/folder/tokens --skip-bad-lines").code, 4);
  EXPECT_EQ(stableqat("tokenize --input text.jsonl --output tokens").code, 2);
}

TEST_F(CliTest, ReferenceIsTheCommittedPage) {
  EXPECT_EQ(stableqat("train --reference").out, read_text_file(STABLEQAT_SOURCE_DIR "/docs/configuration.md"));
}

}  // namespace
}  // namespace stableqat
