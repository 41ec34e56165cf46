// The console on a terminal and elsewhere, and the stop signals: each case runs in a child process.
#include "console.h"

#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "stop_signal.h"

namespace stableqat::app {
namespace {

using namespace std::chrono_literals;

std::string read_all(int descriptor) {
  std::string text;
  std::array<char, 256> buffer{};
  for (ssize_t n = 0; (n = ::read(descriptor, buffer.data(), buffer.size())) > 0;) text.append(buffer.data(), static_cast<std::size_t>(n));
  return text;
}

// What `work` writes to a standard error that is a terminal of 40 columns; nullopt where the system gives no pseudo-terminal.
std::optional<std::string> on_terminal(const std::function<void()>& work) {
  int descriptor = -1;
  struct winsize size {};
  size.ws_col = 40;
  size.ws_row = 10;
  const pid_t child = ::forkpty(&descriptor, nullptr, nullptr, &size);
  if (child < 0) return std::nullopt;
  if (child == 0) {
    work();
    ::_exit(0);
  }
  const std::string text = read_all(descriptor);
  ::close(descriptor);
  ::waitpid(child, nullptr, 0);
  return text;
}

// The same where it is a pipe.
std::string on_pipe(const std::function<void()>& work) {
  std::array<int, 2> ends{};
  EXPECT_EQ(::pipe(ends.data()), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
    work();
    ::_exit(0);
  }
  ::close(ends[1]);
  const std::string text = read_all(ends[0]);
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return text;
}

void report_steps() {
  Console console;
  console.progress({"train", 0, 10, "steps"});
  std::this_thread::sleep_for(150ms);
  console.progress({"train", 5, 10, "steps"});
  console.log(LogLevel::kInfo, "half");
  console.progress({"train", 10, 10, "steps"});
}

TEST(Console, RedrawsOneLineOnATerminal) {
  const std::optional<std::string> written = on_terminal(report_steps);
  if (!written) GTEST_SKIP() << "no pseudo-terminal here (a chroot without /dev/pts?)";
  const std::string& text = *written;
  const std::string clear = "\r\x1b[K";
  const std::size_t half = text.find(clear + "half\r\n");
  ASSERT_NE(half, std::string::npos) << text;
  EXPECT_LT(text.find(clear + "train: 5 of 10 steps (50 %), "), half) << "drawn before the message";
  EXPECT_NE(text.find(clear + "train: 5 of 10 steps (50 %), ", half), std::string::npos) << "and again below it";
  EXPECT_EQ(text.substr(text.size() - 2), "\r\n") << "the last line stays";
  EXPECT_NE(text.find(clear + "train: 10 of 10 steps (100 %), "), std::string::npos);
}

TEST(Console, WritesPlainLinesElsewhere) {
  const std::string text = on_pipe(report_steps);
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_EQ(text.find("half\ntrain: 10 of 10 steps (100 %), "), 0U) << text;
}

TEST(Console, VerbosityDecidesWhatIsShown) {
  const auto all_levels = [](Verbosity verbosity) {
    return on_pipe([verbosity] {
      Console console;
      console.set_verbosity(verbosity);
      console.log(LogLevel::kDebug, "debug");
      console.log(LogLevel::kInfo, "info");
      console.log(LogLevel::kWarning, "careful");
      console.progress({"train", 0, 10, "steps"});
      console.progress({"train", 10, 10, "steps"});
      console.error("two\nlines");
    });
  };
  EXPECT_EQ(all_levels(Verbosity::kQuiet), "warning: careful\nstableqat: error: two lines\n");
  EXPECT_EQ(all_levels(Verbosity::kNormal).find("info\nwarning: careful\ntrain: 10 of 10"), 0U);
  EXPECT_EQ(all_levels(Verbosity::kVerbose).find("debug\ninfo\n"), 0U);
}

TEST(StopSignal, TheFirstAsksTheSecondEnds) {
  for (const int signal : {SIGINT, SIGTERM}) {
    EXPECT_EXIT(
        {
          const StopRequested stop = stop_on_signals();
          if (stop()) ::_exit(1);
          ::raise(signal);
          if (!stop()) ::_exit(2);
          ::raise(signal);
          ::_exit(3);
        },
        testing::ExitedWithCode(130), "");
  }
}

}  // namespace
}  // namespace stableqat::app
