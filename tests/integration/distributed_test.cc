// Training by several processes, started by the real program: the same losses on any number of them, exact continuation, bad input.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "../support/training_folder.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using testing::Result;

class DistributedTest : public testing::TrainingFolder {
 protected:
  static std::string launch_words(int ranks, const std::string& output, const std::string& more = "") {
    return "launch --nproc " + std::to_string(ranks) + " -- " + train_words(output, "--train.threads 0 " + more);
  }
  Result launch(int ranks, const std::string& output, const std::string& more = "") const { return run(launch_words(ranks, output, more)); }

  std::vector<double> losses(const std::string& output) const {
    std::vector<double> values;
    for (const nlohmann::json& line : metrics(output)) values.push_back(line.at("loss").get<double>());
    return values;
  }

  void expect_losses_near(const std::vector<double>& a, const std::vector<double>& b) const {
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5) << "step " << i + 1;
  }

  static int free_port() {
    const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    socklen_t size = sizeof address;
    ::bind(socket, reinterpret_cast<sockaddr*>(&address), size);
    ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
    ::close(socket);
    return ntohs(address.sin_port);
  }

  // Two ranks started by hand, with words of their own; the exit code is rank 0's.
  Result two_ranks(const std::string& first, const std::string& second) const {
    const std::string common =
        "export WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=" + std::to_string(free_port()) + " OMP_NUM_THREADS=1; ";
    return shell(common + "RANK=1 '" STABLEQAT_PROGRAM "' " + second + " & RANK=0 '" STABLEQAT_PROGRAM "' " + first +
                 "; code=$?; wait; exit $code");
  }
};

TEST_F(DistributedTest, LossesDoNotDependOnTheNumberOfProcesses) {
  const std::string more = "--train.max_steps 20 --train.save_steps 0 --train.precision float32";
  for (const int ranks : {1, 2, 4}) {
    const Result result = launch(ranks, "of" + std::to_string(ranks), more);
    ASSERT_EQ(result.code, 0) << result.err;
  }
  const std::vector<double> expected = losses("of1");
  ASSERT_EQ(expected.size(), 20U);
  EXPECT_LT(expected.back(), expected.front() - 0.5) << "nothing was learned";
  expect_losses_near(losses("of2"), expected);
  expect_losses_near(losses("of4"), expected);
  for (const char* key : {"tokens", "codes_changed", "clipped"}) {
    EXPECT_NEAR(metrics("of4").front().at(key).get<double>(), metrics("of1").front().at(key).get<double>(), 1e-3) << key;
  }
  // One process launched alone is the plain command.
  ASSERT_EQ(train("plain", more).code, 0);
  EXPECT_EQ(losses("plain"), expected);
}

TEST_F(DistributedTest, EveryMethodTrainsTheSameOnTwoProcesses) {
  const std::string more = "--train.max_steps 4 --train.save_steps 0 --train.precision float32 ";
  for (const char* method : {"--quantization.method dsq", "--quantization.method seq --quantization.bits 2",
                             "--quantization.method ste --quantization.group_size 32 --quantization.export_grid none",
                             "--quantization.method none", "--train.recompute block --distillation.weight 0.5"}) {
    ASSERT_EQ(launch(1, "one", more + method).code, 0) << method;
    const Result two = launch(2, "two", more + method);
    ASSERT_EQ(two.code, 0) << method << two.err;
    expect_losses_near(losses("two"), losses("one"));
    fs::remove_all(folder_ / "one");
    fs::remove_all(folder_ / "two");
  }
}

TEST_F(DistributedTest, AProfileIsATimeLineOfEachRank) {
  const Result result = run("launch --nproc 2 -- " + train_words("out", "--train.threads 0 --profile trace.json --profile-steps 4"));
  ASSERT_EQ(result.code, 0) << result.err;
  for (const int rank : {0, 1}) {
    const nlohmann::json events = nlohmann::json::parse(read_text_file(folder_ / (rank == 0 ? "trace.json" : "trace.rank-1.json")));
    std::map<std::string, int> counts;
    for (const nlohmann::json& event : events) {
      EXPECT_EQ(event.at("pid"), rank);
      if (event.at("ph") == "M") continue;
      EXPECT_GT(event.at("ts").get<double>(), 0);
      ++counts[event.at("name").get<std::string>()];
    }
    // Four of six steps, each of two micro-batches a rank; the checkpoint of step 3 is written meanwhile.
    EXPECT_EQ(counts["data"], 8);
    EXPECT_EQ(counts["forward"], 8);
    EXPECT_EQ(counts["backward"], 8);
    EXPECT_EQ(counts["update"], 4);
    EXPECT_EQ(counts["weight_exchange"], 4);
    EXPECT_GT(counts["gloo:all_to_all"], 0);
  }
  expect_refused(train("other", "--profile absent/trace.json"), 4, {"absent/trace.json"});
}

TEST_F(DistributedTest, CheckpointsInTheBackgroundAreTheSame) {
  const std::string more = "--train.save_steps 2 --train.save_total_limit 0 ";
  ASSERT_EQ(launch(2, "out", more + "--train.save_in_background false").code, 0);
  // Slow enough that several updates come before a checkpoint is written.
  const Result result = run(launch_words(2, "background", more), "LD_PRELOAD=" STABLEQAT_FAULT_SHIM " FAULT_SLOW_WRITES=2");
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* name : {"checkpoint-2", "checkpoint-4", "last_checkpoint"}) {
    expect_same_checkpoint("out/" + std::string(name), "background/" + std::string(name));
  }
}

TEST_F(DistributedTest, ACheckpointIsAnOrdinaryModel) {
  ASSERT_EQ(launch(2, "out").code, 0);
  const Result result = run("eval --model out/last_checkpoint --ppl valid.jsonl --context 64 --json eval.json");
  EXPECT_EQ(result.code, 0) << result.err;
  const Result exported = run("export --model out/last_checkpoint --format hf --output exported");
  EXPECT_EQ(exported.code, 0) << exported.err;
}

// More micro-batches and steps, so that there is time to stop the run after its first checkpoint, which is written in the background.
constexpr const char* kSlowSteps = "--train.gradient_accumulation_steps 24 --train.max_steps 12";

TEST_F(DistributedTest, AKilledRunContinuesBitForBit) {
  ASSERT_EQ(launch(2, "whole", kSlowSteps).code, 0);
  const int status = run_and_signal(launch_words(2, "killed", kSlowSteps), "killed/checkpoint-3/manifest.json", SIGKILL);
  ASSERT_TRUE(WIFSIGNALED(status));
  // The ranks get SIGTERM when the launcher dies; they may write one more checkpoint.
  std::this_thread::sleep_for(std::chrono::seconds(2));
  ASSERT_FALSE(fs::exists(folder_ / "killed" / "last_checkpoint"));
  const Result resumed = launch(2, "killed", kSlowSteps);
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("continuing from"), std::string::npos) << resumed.err;
  expect_same_checkpoint("whole/last_checkpoint", "killed/last_checkpoint");
}

TEST_F(DistributedTest, ASignalWritesACheckpointAndExits130) {
  ASSERT_EQ(launch(2, "whole", kSlowSteps).code, 0);
  const int status = run_and_signal(launch_words(2, "stopped", kSlowSteps), "stopped/metrics.jsonl", SIGTERM);
  ASSERT_TRUE(WIFEXITED(status));
  ASSERT_EQ(WEXITSTATUS(status), 130);
  ASSERT_EQ(launch(2, "stopped", kSlowSteps).code, 0);
  expect_same_checkpoint("whole/last_checkpoint", "stopped/last_checkpoint");
}

TEST_F(DistributedTest, AnotherNumberOfProcessesGoesOnWithTheSameData) {
  ASSERT_EQ(launch(2, "whole").code, 0);
  for (const int ranks : {1, 4}) {
    const std::string output = "of" + std::to_string(ranks);
    ASSERT_EQ(launch(2, output).code, 0);
    fs::remove_all(folder_ / output / "last_checkpoint");  // checkpoint-3 is left
    const Result resumed = launch(ranks, output);
    ASSERT_EQ(resumed.code, 0) << resumed.err;
    EXPECT_NE(resumed.err.find("at step 3"), std::string::npos) << resumed.err;
    expect_losses_near(losses(output), losses("whole"));
    EXPECT_EQ(metrics(output).back().at("tokens"), metrics("whole").back().at("tokens"));
  }
}

TEST_F(DistributedTest, ARankThatDiesIsNamedAndTheRunGoesOnFromItsCheckpoint) {
  ASSERT_EQ(launch(2, "whole", kSlowSteps).code, 0);
  bool killed = false;
  const int status = run_watched(
      "launch --nproc 2 --restarts 1 -- " + train_words("killed", std::string("--train.threads 0 ") + kSlowSteps), [&](pid_t launcher) {
        if (killed || !fs::exists(folder_ / "killed" / "checkpoint-3" / "manifest.json")) return;
        std::ifstream children("/proc/" + std::to_string(launcher) + "/task/" + std::to_string(launcher) + "/children");
        pid_t first = 0;
        pid_t second = 0;
        if (!(children >> first >> second)) return;
        killed = ::kill(second, SIGKILL) == 0;
      });
  ASSERT_TRUE(killed);
  ASSERT_TRUE(WIFEXITED(status));
  const std::string err = read_text_file(folder_ / "stderr");
  EXPECT_EQ(WEXITSTATUS(status), 0) << err;
  for (const char* words : {"rank 1 was ended by signal 9", "at step ", "starting again (1 of 1)", "continuing from"}) {
    EXPECT_NE(err.find(words), std::string::npos) << words << " not in: " << err;
  }
  expect_same_checkpoint("whole/last_checkpoint", "killed/last_checkpoint");
}

TEST_F(DistributedTest, ADamagedCheckpointIsPassedOver) {
  ASSERT_EQ(launch(2, "out", "--train.max_steps 7").code, 0);
  fs::remove_all(folder_ / "out" / "last_checkpoint");
  std::fstream stream(folder_ / "out" / "checkpoint-6" / "optimizer.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(-1, std::ios::end);
  stream.put('x');
  stream.close();
  const Result resumed = launch(2, "out", "--train.max_steps 7");
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("damaged checkpoint"), std::string::npos) << resumed.err;
  EXPECT_NE(resumed.err.find("checkpoint-3"), std::string::npos) << resumed.err;
}

TEST_F(DistributedTest, AFullDiskLeavesNothingHalfWritten) {
  const Result result = run(launch_words(2, "out", "--train.save_before_training false"), "trap '' XFSZ; ulimit -f 340;");
  expect_refused(result, 4, {"out"});
  for (const auto& entry : fs::directory_iterator(folder_ / "out")) {
    EXPECT_EQ(entry.path().filename().string().find("checkpoint"), std::string::npos) << entry.path();
  }
}

TEST_F(DistributedTest, ARunThatDivergesStopsOnAllRanksBeforeTheUpdate) {
  const Result result = launch(2, "out", "--train.learning_rate 1e30 --train.lr_scheduler constant --train.max_grad_norm 0");
  expect_refused(result, 5, {"finite"});
  bool found = false;
  for (const auto& entry : fs::directory_iterator(folder_ / "out")) found |= entry.path().filename().string().starts_with("checkpoint-");
  EXPECT_TRUE(found);
}

TEST_F(DistributedTest, RanksThatDifferAreToldWhichKeyDiffers) {
  Result result = two_ranks(train_words("out"), train_words("out", "--train.learning_rate 2e-3"));
  expect_refused(result, 2, {"train.learning_rate", "0.002", "rank 1"});
  // Other text behind the same path. Token files, because text is tokenized by rank 0 for all.
  fs::create_directory(folder_ / "other");
  testing::write_tiny_corpus(folder_ / "shorter.jsonl", 150);
  ASSERT_EQ(run("tokenize --model model --input train.jsonl --output tokens").code, 0);
  ASSERT_EQ(run("tokenize --model model --input shorter.jsonl --output other/tokens").code, 0);
  fs::create_symlink("../model", folder_ / "other" / "model");
  const std::string words =
      "train --config " + (folder_ / "run.yaml").string() + " --data.train tokens --train.output_dir " + (folder_ / "out").string();
  const std::string common = "export WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=" + std::to_string(free_port()) + "; ";
  result = shell(common + "(cd other && exec env RANK=1 '" STABLEQAT_PROGRAM "' " + words + ") & RANK=0 '" STABLEQAT_PROGRAM "' " + words +
                 "; code=$?; wait; exit $code");
  expect_refused(result, 2, {"data.train", "tokens", "rank 1"});
}

TEST_F(DistributedTest, BadEnvironmentsAreNamed) {
  expect_refused(run(train_words("out"), "WORLD_SIZE=2"), 2, {"RANK", "WORLD_SIZE"});
  expect_refused(run(train_words("out"), "RANK=0"), 2, {"WORLD_SIZE"});
  expect_refused(run(train_words("out"), "RANK=2 WORLD_SIZE=2"), 2, {"RANK", "'2'"});
  expect_refused(run(train_words("out"), "RANK=0 WORLD_SIZE=2"), 2, {"MASTER_ADDR"});
  expect_refused(run(train_words("out"), "SLURM_PROCID=x SLURM_NTASKS=2"), 2, {"SLURM_PROCID"});
  expect_refused(launch(3, "out"), 2, {"train.gradient_accumulation_steps", "3 ranks"});
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(socket, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(socket, 1), 0);
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  const std::string taken = std::to_string(ntohs(address.sin_port));
  expect_refused(run(train_words("out"), "RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=" + taken), 4, {"MASTER_PORT", taken});
  ::close(socket);
  const std::string lonely = "RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=" + std::to_string(free_port());
  expect_refused(run(train_words("out", "--distributed.timeout 1"), lonely), 4, {"no sign of rank 1"});
}

}  // namespace
}  // namespace stableqat
