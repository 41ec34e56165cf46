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

constexpr int kRanks = 2;

class FaultTest : public testing::TrainingFolder {
 protected:
  static std::string words(const std::string& output) {
    return "launch --nproc 2 --restarts 1 -- " + train_words(output,
                                                             "--train.threads 0 --train.max_steps 8 --train.save_steps 2 "
                                                             "--train.save_total_limit 0 --train.gradient_accumulation_steps 8");
  }

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

  bool has_staging(const std::string& output, const std::string& beside = "nothing") const {
    std::error_code missing;
    for (const auto& entry : fs::directory_iterator(folder_ / output, missing)) {
      const std::string name = entry.path().filename().string();
      if (name.find(".tmp-") != std::string::npos && !name.starts_with(beside)) return true;
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
      if (!since && has_staging(output, "before_training_checkpoint")) since = Clock::now();
      return since && Clock::now() - *since >= delay;
    });
    expect_nothing_lost(output);
    ASSERT_FALSE(HasFailure()) << "killed " << delay.count() << " us after the folder was begun";
    fs::remove_all(folder_ / output);
  }
  EXPECT_GT(kills, 0);
  RecordProperty("kills", kills);
}

}  // namespace
}  // namespace stableqat
