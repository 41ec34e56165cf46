// stableqat tokenize, killed: the files are those of a run that was never stopped. And how a model is named.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "../support/training_folder.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using testing::Result;
using Clock = std::chrono::steady_clock;

class TokenizeCommandTest : public testing::TrainingFolder {
 protected:
  void SetUp() override {
    TrainingFolder::SetUp();
    fs::create_directories(folder_ / "text");
    for (int i = 0; i < kFiles; ++i) {
      std::string lines;
      for (int copy = 0; copy < 40; ++copy) lines += read_text_file(folder_ / (copy % 2 == 0 ? "train.jsonl" : "valid.jsonl"));
      write_text_file(folder_ / "text" / (std::to_string(i) + ".jsonl"), lines);
    }
  }

  static std::string words(const std::string& prefix) {
    return "tokenize --model model --input text --workers 2 --save-seconds 0.02 --output " + prefix;
  }

  std::map<std::string, std::string> files_of(const std::string& prefix) const {
    std::map<std::string, std::string> files;
    for (const char* suffix : {".bin", ".idx", ".json"}) files[suffix] = read_text_file(folder_ / (prefix + suffix));
    return files;
  }

  static constexpr int kFiles = 24;  // 1.3 MB each
};

TEST_F(TokenizeCommandTest, KilledAtRandomMomentsItLosesAndDoublesNothing) {
  ASSERT_EQ(run(words("whole")).code, 0);
  std::mt19937 random(3);
  int kills = 0;
  int taken_up = 0;
  bool finished = false;
  for (int call = 0; !finished && call < 100; ++call) {
    const auto start = Clock::now();
    const auto delay = std::chrono::milliseconds(random() % static_cast<unsigned>(200 + 50 * call));  // a slow machine gets through, too
    bool killed = false;
    const int status = run_watched(words("killed"), [&](pid_t process) {
      if (killed || Clock::now() - start < delay) return;
      ::kill(process, SIGKILL);
      killed = true;
    });
    finished = WIFEXITED(status);
    ASSERT_TRUE(!finished || WEXITSTATUS(status) == 0) << read_text_file(folder_ / "stderr");
    kills += WIFSIGNALED(status);
    taken_up += read_text_file(folder_ / "stderr").find("going on after") != std::string::npos;
    // Done, and killed before it had ended: the next call does it all again.
    if (fs::exists(folder_ / "killed.idx")) {
      EXPECT_TRUE(files_of("killed") == files_of("whole")) << "half-written files under their names";
    }
  }
  ASSERT_TRUE(finished);
  EXPECT_GT(kills, 2);
  EXPECT_GT(taken_up, 0);
  EXPECT_TRUE(files_of("killed") == files_of("whole"));
  for (const auto& entry : fs::directory_iterator(folder_)) EXPECT_NE(entry.path().extension(), ".partial") << entry.path();
}

TEST_F(TokenizeCommandTest, ASignalSavesAndTheSameCommandGoesOn) {
  ASSERT_EQ(run(words("whole")).code, 0);
  const int status = run_and_signal(words("stopped"), "stopped.json.partial", SIGTERM);
  ASSERT_TRUE(WIFEXITED(status));
  ASSERT_EQ(WEXITSTATUS(status), 130);
  EXPECT_FALSE(fs::exists(folder_ / "stopped.idx"));
  const Result rest = run(words("stopped"));
  ASSERT_EQ(rest.code, 0) << rest.err;
  EXPECT_NE(rest.err.find("going on after"), std::string::npos) << rest.err;
  EXPECT_TRUE(files_of("stopped") == files_of("whole"));
}

// Shards of several machines, as training reads them: no document twice, none left out.
TEST_F(TokenizeCommandTest, ShardsTogetherAreTheWhole) {
  ASSERT_EQ(run("tokenize --model model --input valid.jsonl --output whole").code, 0);
  std::string shards;
  std::uintmax_t bytes = 0;
  for (int i = 0; i < 3; ++i) {
    const std::string prefix = "part" + std::to_string(i);
    ASSERT_EQ(run("tokenize --model model --input valid.jsonl --shard " + std::to_string(i) + "/3 --output " + prefix).code, 0);
    bytes += fs::file_size(folder_ / (prefix + ".bin"));
    shards += (i == 0 ? "" : ",") + prefix;
  }
  EXPECT_EQ(bytes, fs::file_size(folder_ / "whole.bin"));
  EXPECT_EQ(train("out", "--data.train [" + shards + "] --train.max_steps 1").code, 0);
  expect_refused(run("tokenize --model model --input valid.jsonl --shard 3/3 --output x"), 2, {"--shard", "3/3"});
}

// As huggingface_hub leaves a model in its cache, and as the authors' files name it.
TEST_F(TokenizeCommandTest, AModelMayBeNamedAsOnTheHub) {
  const fs::path repository = folder_ / "cache" / "models--org--Tiny-1B";
  fs::create_directories(repository / "snapshots");
  fs::create_directories(repository / "refs");
  fs::rename(folder_ / "model", repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567");
  write_text_file(repository / "refs" / "main", "0123456789abcdef0123456789abcdef01234567");
  const auto with_cache = [this](const std::string& arguments) {
    return run(arguments, "HF_HUB_CACHE='" + (folder_ / "cache").string() + "'");
  };
  const Result tokens = with_cache("tokenize --model org/Tiny-1B --input valid.jsonl --output tokens");
  EXPECT_EQ(tokens.code, 0) << tokens.err;
  const Result trained = with_cache(train_words("out", "--model_path org/Tiny-1B --data.train tokens --train.max_steps 1"));
  EXPECT_EQ(trained.code, 0) << trained.err;
  const Result evaluated = with_cache("eval --model org/Tiny-1B --ppl valid.jsonl --context 64");
  EXPECT_EQ(evaluated.code, 0) << evaluated.err;
  expect_refused(with_cache(train_words("other", "--model_path org/Tiny-3B --data.train tokens")), 3,
                 {"org/Tiny-3B", "stableqat download org/Tiny-3B"});
  expect_refused(with_cache("tokenize --model model --input valid.jsonl --output x"), 3, {"model"});
}

}  // namespace
}  // namespace stableqat
