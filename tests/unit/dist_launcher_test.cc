// The launcher with shell scripts in place of training: output, failures, signals, restarts.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <set>

#include "stableqat/base/file.h"
#include "stableqat/dist/launcher.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

struct Launched {
  ExitCode code = ExitCode::kDone;
  std::set<std::string> out;
  std::set<std::string> err;
  std::string log;
  double seconds = 0.0;
};

Launched launch_script(const std::string& script, LaunchOptions options, const StopRequested& stop = {}) {
  Launched result;
  LaunchCallbacks callbacks;
  callbacks.output = [&](int rank, bool is_error, std::string_view line) {
    (is_error ? result.err : result.out).insert(std::to_string(rank) + ":" + std::string(line));
  };
  callbacks.log = [&](LogLevel, std::string_view line) { result.log += std::string(line) + "\n"; };
  callbacks.stop = stop;
  const Clock::time_point start = Clock::now();
  result.code = launch({"sh", "-c", script}, options, callbacks);
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return result;
}

struct ScratchFolder {
  ScratchFolder() { fs::create_directory(path); }
  ~ScratchFolder() { fs::remove_all(path); }
  const fs::path path = fs::temp_directory_path() / ("stableqat_launcher_test_" + std::to_string(::getpid()));
};

TEST(Launcher, RanksGetTheirVariablesAndTheirLinesArePassedOn) {
  const Launched result = launch_script("echo $RANK/$WORLD_SIZE/$LOCAL_RANK/$MASTER_ADDR; printf 'no end' >&2", {.ranks = 3});
  EXPECT_EQ(result.code, ExitCode::kDone);
  EXPECT_EQ(result.out, (std::set<std::string>{"0:0/3/0/127.0.0.1", "1:1/3/1/127.0.0.1", "2:2/3/2/127.0.0.1"}));
  EXPECT_EQ(result.err, (std::set<std::string>{"0:no end", "1:no end", "2:no end"}));
}

TEST(Launcher, ARankThatIsKilledEndsTheOthersAndIsNamedWithItsStep) {
  const Launched result = launch_script(
      "if [ $RANK = 1 ]; then echo 17 20 0 > $STABLEQAT_HEARTBEAT; kill -9 $$; fi; trap 'echo missed >&2; exit 4' TERM; sleep 60 & wait",
      {.ranks = 3});
  EXPECT_EQ(result.code, ExitCode::kEnvironment);
  EXPECT_NE(result.log.find("rank 1 was ended by signal 9 (Killed) at step 17"), std::string::npos) << result.log;
  EXPECT_LT(result.seconds, 10.0);
  EXPECT_TRUE(result.err.empty()) << "the others have nothing to add: " << *result.err.begin();
}

TEST(Launcher, TheCauseIsToldFromItsConsequences) {
  // Ranks 0 and 2 end first, because they miss rank 1, which ends with an error of its own a little later. They say so when their end has
  // been seen.
  const Launched result = launch_script(
      "if [ $RANK = 1 ]; then sleep 0.2; echo the cause >&2; exit 3; fi; (while kill -0 $$; do sleep 0.01; done 2>/dev/null; echo missed "
      ">&2)& exit 4",
      {.ranks = 3, .restarts = 5});
  EXPECT_EQ(result.code, ExitCode::kBadData);
  EXPECT_EQ(result.err, std::set<std::string>{"1:the cause"});
  EXPECT_NE(result.log.find("rank 1 ended with exit code 3"), std::string::npos) << result.log;
}

TEST(Launcher, ARankThatIgnoresSigtermIsKilledAfterTheGrace) {
  const ScratchFolder folder;
  const std::string ready = (folder.path / "ready").string();
  const Launched result = launch_script("if [ $RANK = 1 ]; then until [ -e " + ready +
                                            " ]; do sleep 0.01; done; exit 5; fi; trap '' TERM; touch " + ready + "; exec sleep 60",
                                        {.ranks = 2, .restarts = 0, .grace = std::chrono::milliseconds(300)});
  EXPECT_EQ(result.code, ExitCode::kNumeric);
  EXPECT_LT(result.seconds, 10.0);
  EXPECT_GE(result.seconds, 0.3);
}

TEST(Launcher, AStopIsPassedOnAsSigterm) {
  const ScratchFolder folder;
  const std::string ready = (folder.path / "ready").string();
  const Launched result = launch_script("trap 'exit 130' TERM; touch " + ready + "$RANK; sleep 60 & wait", {.ranks = 2},
                                        [&ready] { return fs::exists(ready + "0") && fs::exists(ready + "1"); });
  EXPECT_EQ(result.code, ExitCode::kInterrupted);
  EXPECT_LT(result.seconds, 10.0);
}

TEST(Launcher, FailuresOfTheEnvironmentAreTriedAgain) {
  const ScratchFolder folder;
  // Fails while there are fewer than two marks.
  const auto script = [&folder](const std::string& name) {
    const std::string marks = (folder.path / name).string();
    return "[ $RANK = 0 ] || exit 0; n=$(ls " + marks + "* 2>/dev/null | wc -l); touch " + marks + "$n; [ $n -ge 2 ] || exit 4";
  };
  EXPECT_EQ(launch_script(script("first"), {.ranks = 2, .restarts = 1}).code, ExitCode::kEnvironment);
  const Launched result = launch_script(script("second"), {.ranks = 2, .restarts = 2});
  EXPECT_EQ(result.code, ExitCode::kDone);
  EXPECT_NE(result.log.find("starting again (2 of 2)"), std::string::npos) << result.log;
}

TEST(Launcher, BadCommandsAreRefused) {
  EXPECT_THROW(launch({}, {}, {}), ConfigError);
  EXPECT_THROW(launch({"true"}, {.ranks = 0}, {}), ConfigError);
  EXPECT_THROW(launch({"/absent/program"}, {}, {}), EnvironmentError);
}

}  // namespace
}  // namespace stableqat
