// Ranks killed at random moments and at every stage of writing a checkpoint: nothing is lost, and what comes out is what an undisturbed run
// gives, bit for bit. STABLEQAT_FAULTS is the number of kills of each kind.
#include <algorithm>
#include <optional>
#include <random>

#include "../support/training_folder.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using testing::Result;

constexpr int kRanks = 2;

class FaultTest : public testing::TrainingFolder {
 protected:
  static std::string words(const std::string& output) {
    return "launch --nproc 2 --restarts 1 -- " + train_words(output,
                                                             "--train.threads 0 --train.max_steps 8 --train.save_steps 2 "
                                                             "--train.save_total_limit 0 --train.gradient_accumulation_steps 8");
  }

  static std::string preload(const std::string& faults) { return "LD_PRELOAD=" STABLEQAT_FAULT_SHIM " " + faults; }

  // Process ids of the ranks, once all have started.
  static std::vector<pid_t> ranks_of(pid_t launcher) {
    std::ifstream file("/proc/" + std::to_string(launcher) + "/task/" + std::to_string(launcher) + "/children");
    std::vector<pid_t> ranks;
    for (pid_t rank = 0; file >> rank;) ranks.push_back(rank);
    return ranks.size() == kRanks ? ranks : std::vector<pid_t>();
  }

  std::int64_t steps_done(const std::string& output) const {
    std::ifstream file(folder_ / output / "metrics.jsonl");
    return std::count(std::istreambuf_iterator<char>(file), {}, '\n');
  }

  // Whether a folder whose name begins so is in the making.
  bool has_staging(const std::string& output, const std::string& name = "") const {
    std::error_code missing;
    for (const auto& entry : fs::directory_iterator(folder_ / output, missing)) {
      const std::string found = entry.path().filename().string();
      if (found.starts_with(name) && found.find(".tmp-") != std::string::npos) return true;
    }
    return false;
  }

  // Kills rank `victim` once, when `moment` says so; the launcher starts again. Returns whether a rank was killed.
  bool run_with_a_kill(const std::string& output, std::size_t victim, const std::function<bool()>& moment) const {
    bool killed = false;
    const int status = run_watched(words(output), [&](pid_t launcher) {
      if (killed || !moment()) return;
      const std::vector<pid_t> ranks = ranks_of(launcher);
      killed = !ranks.empty() && ::kill(ranks[victim], SIGKILL) == 0;
    });
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << read_text_file(folder_ / "stderr");
    return killed;
  }

  void expect_nothing_lost(const std::string& output) const {
    expect_same_checkpoint("whole/last_checkpoint", output + "/last_checkpoint");
    EXPECT_FALSE(has_staging(output));
    for (int step = 2; step < 8; step += 2) {
      const std::string name = "checkpoint-" + std::to_string(step);
      expect_same_checkpoint("whole/" + name, output + "/" + name);
    }
  }
};

TEST_F(FaultTest, ARankKilledAtARandomMoment) {
  ASSERT_EQ(run(words("whole")).code, 0);
  std::mt19937 random(42);
  int kills = 0;
  for (int i = 0; i < STABLEQAT_FAULTS; ++i) {
    const std::string output = "run" + std::to_string(i);
    const std::int64_t step = random() % 7;  // 0: as soon as the ranks are there
    const auto delay = std::chrono::microseconds(random() % 30000);
    std::optional<Clock::time_point> since;
    kills += run_with_a_kill(output, random() % kRanks, [&] {
      if (!since && steps_done(output) >= step) since = Clock::now();
      return since && Clock::now() - *since >= delay;
    });
    expect_nothing_lost(output);
    ASSERT_FALSE(HasFailure()) << "killed " << delay.count() << " us after step " << step;
    fs::remove_all(folder_ / output);
  }
  EXPECT_GT(kills, 0);
  RecordProperty("kills", kills);
}

TEST_F(FaultTest, ARankKilledWhileACheckpointIsWritten) {
  ASSERT_EQ(run(words("whole")).code, 0);
  std::mt19937 random(7);
  int kills = 0;
  for (int i = 0; i < STABLEQAT_FAULTS; ++i) {
    const std::string output = "run" + std::to_string(i);
    const auto delay = std::chrono::microseconds(random() % 20000);
    std::optional<Clock::time_point> since;
    kills += run_with_a_kill(output, random() % kRanks, [&] {
      if (!since && has_staging(output, "checkpoint-")) since = Clock::now();
      return since && Clock::now() - *since >= delay;
    });
    expect_nothing_lost(output);
    ASSERT_FALSE(HasFailure()) << "killed " << delay.count() << " us after the folder was begun";
    fs::remove_all(folder_ / output);
  }
  EXPECT_GT(kills, 0);
  RecordProperty("kills", kills);
}

// Each call that makes, fills, syncs or renames a checkpoint's files is a stage; STABLEQAT_FAULTS of them for each rank, evenly, or all.
TEST_F(FaultTest, ARankKilledAtEveryStageOfACheckpoint) {
  ASSERT_EQ(run(words("whole")).code, 0);
  int kills = 0;
  for (int rank = 0; rank < kRanks; ++rank) {
    const std::string shim = preload("FAULT_RANK=" + std::to_string(rank));
    fs::remove(folder_ / "count");
    ASSERT_EQ(run(words("counted"), shim + " FAULT_COUNT=count").code, 0);
    fs::remove_all(folder_ / "counted");
    const int calls = std::stoi(read_text_file(folder_ / "count"));
    ASSERT_GT(calls, 20) << "of rank " << rank;
    const int runs = std::min(calls, STABLEQAT_FAULTS);
    for (int i = 0; i < runs; ++i) {
      const int call = 1 + static_cast<int>(static_cast<std::int64_t>(i) * calls / runs);
      const std::string output = "rank" + std::to_string(rank) + "stage" + std::to_string(call);
      const Result result = run(words(output), shim + " FAULT_MARK=" + output + ".mark FAULT_KILL_AT=" + std::to_string(call));
      EXPECT_EQ(result.code, 0) << result.err;
      EXPECT_TRUE(fs::exists(folder_ / (output + ".mark")));
      EXPECT_NE(result.err.find("rank " + std::to_string(rank) + " was ended by signal 9"), std::string::npos) << result.err;
      expect_nothing_lost(output);
      ASSERT_FALSE(HasFailure()) << "rank " << rank << " killed at call " << call << " of " << calls;
      ++kills;
      fs::remove_all(folder_ / output);
    }
  }
  RecordProperty("kills", kills);
}

TEST_F(FaultTest, AFolderThatCannotBeWrittenStopsAll) {
  const Result result = run(words("out") + " --train.save_before_training false", preload("FAULT_RANK=0 FAULT_READ_ONLY=1"));
  expect_refused(result, 4, {"Read-only file system", "checkpoint-2"});
  EXPECT_LT(steps_done("out"), 5) << "the next steps should have noticed";
}

TEST_F(FaultTest, TheTimeOfDayMayJump) {
  ASSERT_EQ(run(words("whole") + " --distributed.timeout 20").code, 0);
  // The shim does what it says.
  const auto year = [this](const std::string& variables) { return std::stoi(shell(variables + " date +%Y").out); };
  ASSERT_EQ(year(preload("FAULT_CLOCK_JUMP=3155673600")), year("") + 100);
  for (const char* jump : {"86400", "-86400"}) {
    const std::string output = std::string("jump") + jump;
    const auto start = Clock::now();
    const Result result = run(words(output) + " --distributed.timeout 20",
                              preload("FAULT_RANK=1 FAULT_CLOCK_AFTER=200 FAULT_CLOCK_JUMP=" + std::string(jump)));
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_GT(Clock::now() - start, std::chrono::milliseconds(200)) << "it ended before the jump";
    EXPECT_EQ(result.err.find("starting again"), std::string::npos) << result.err;
    expect_nothing_lost(output);
  }
}

TEST_F(FaultTest, ARankThatStallsIsGivenUpAfterTheTimeLimit) {
  std::optional<Clock::time_point> stalled;
  const int status = run_watched("launch --nproc 2 -- " + train_words("out",
                                                                      "--train.threads 0 --train.max_steps 100000 "
                                                                      "--train.save_steps 0 --distributed.timeout 2"),
                                 [&](pid_t launcher) {
                                   const std::vector<pid_t> ranks = ranks_of(launcher);
                                   if (stalled || ranks.empty() || steps_done("out") < 2) return;
                                   ::kill(ranks[1], SIGSTOP);
                                   stalled = Clock::now();
                                 });
  ASSERT_TRUE(stalled);
  // The time limit, the roll call (3 s), rank 0's wait for those who read its verdict (3 s), the launcher's grace (2 s).
  EXPECT_LT(Clock::now() - *stalled, std::chrono::seconds(2 + 3 + 3 + 2 + 5));
  ASSERT_TRUE(WIFEXITED(status));
  const std::string err = read_text_file(folder_ / "stderr");
  EXPECT_EQ(WEXITSTATUS(status), 4) << err;
  EXPECT_NE(err.find("no answer from rank 1"), std::string::npos) << err;
  EXPECT_NE(err.find("step "), std::string::npos) << err;
}

TEST_F(FaultTest, ASignalWaitsForTheCheckpointInTheBackground) {
  const std::string variables = "LD_PRELOAD=" STABLEQAT_FAULT_SHIM " FAULT_SLOW_WRITES=5";
  const std::string train_some = "--train.threads 0 --train.max_steps 100000 --train.save_steps 2 --train.save_total_limit 0";
  bool sent = false;
  const int status = run_watched(
      "launch --nproc 2 -- " + train_words("out", train_some),
      [&](pid_t launcher) {
        if (sent || !has_staging("out", "checkpoint-2")) return;
        sent = true;
        ::kill(launcher, SIGTERM);
      },
      variables);
  ASSERT_TRUE(sent);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130) << read_text_file(folder_ / "stderr");
  EXPECT_TRUE(fs::exists(folder_ / "out" / "checkpoint-2" / "manifest.json"));
  EXPECT_FALSE(has_staging("out"));
}

// Two ranks in network namespaces of their own, with a cable between them that is cut.
TEST_F(FaultTest, APartitionOfTheNetworkStopsBothSides) {
  const std::string id = std::to_string(::getpid());
  const std::string a = "sqa" + id;
  const std::string b = "sqb" + id;
  const auto remove = [&] { shell("ip netns del " + a + "; ip netns del " + b); };
  const Result made =
      shell("set -e; ip netns add " + a + "; ip netns add " + b + "; ip link add veth0 netns " + a + " type veth peer name veth0 netns " +
            b + "; ip -n " + a + " addr add 10.97.1.1/24 dev veth0; ip -n " + b + " addr add 10.97.1.2/24 dev veth0; for n in " + a + " " +
            b + "; do ip -n $n link set veth0 up; ip -n $n link set lo up; done");
  if (made.code != 0) {
    remove();
    GTEST_SKIP() << "no network namespaces here: " << made.err;
  }
  const std::string common =
      "WORLD_SIZE=2 MASTER_ADDR=10.97.1.1 MASTER_PORT=29517 GLOO_SOCKET_IFNAME=veth0 OMP_NUM_THREADS=1 '" STABLEQAT_PROGRAM "' " +
      train_words("out", "--train.threads 0 --train.max_steps 100000 --train.save_steps 0 --distributed.timeout 3");
  const auto rank = [&](const std::string& space, int number) {
    const std::string n = std::to_string(number);
    return "(ip netns exec " + space + " env RANK=" + n + " " + common + " 2>err" + n + "; echo $? >code" + n + "; date +%s >end" + n +
           ") & ";
  };
  const Result result = shell(rank(a, 0) + rank(b, 1) +
                              "for i in $(seq 600); do [ $(cat out/metrics.jsonl | wc -l) -lt 3 ] || break; sleep 0.1; done; ip -n " + a +
                              " link set veth0 down; date +%s >cut; wait");
  remove();
  for (const char* n : {"0", "1"}) {
    const std::string err = read_text_file(folder_ / (std::string("err") + n));
    EXPECT_EQ(read_text_file(folder_ / (std::string("code") + n)), "4\n") << err;
    EXPECT_NE(err.find(n[0] == '0' ? "no answer from rank 1" : "no answer from rank 0"), std::string::npos) << err;
    const auto at = [this](const std::string& name) { return std::stol(read_text_file(folder_ / name)); };
    // The time limit, the roll call and rank 0's wait, each 3 s, and a store that does not answer for as long as the time limit.
    EXPECT_LT(at(std::string("end") + n) - at("cut"), 3 + 3 + 3 + 3 + 5) << err;
  }
}

}  // namespace
}  // namespace stableqat
