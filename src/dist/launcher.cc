#include "stableqat/dist/launcher.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>
#include <utility>

#include "dist/child_process.h"
#include "stableqat/dist/launch_environment.h"

namespace stableqat {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kMostRanks = 1024;  // of one machine
constexpr int kPollMilliseconds = 50;
constexpr std::chrono::milliseconds kSettling{500};  // between the ends of ranks that failed for one reason

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "stableqat-launch-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      throw EnvironmentError(
          {name, "a folder that cannot be made", "a folder for temporary files", "set TMPDIR to one that can be written"});
    }
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// A port that nobody listens on now.
std::uint16_t free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  const bool found = socket >= 0 && ::bind(socket, generic, size) == 0 && ::getsockname(socket, generic, &size) == 0;
  if (socket >= 0) ::close(socket);
  if (!found) throw EnvironmentError({"127.0.0.1", "no free port", "a port for the ranks to meet at", "check the loopback interface"});
  return ntohs(address.sin_port);
}

std::vector<std::string> rank_variables(int rank, int ranks, std::uint16_t port, const fs::path& heartbeat) {
  std::vector<std::string> added{"RANK=" + std::to_string(rank),        "WORLD_SIZE=" + std::to_string(ranks),
                                 "LOCAL_RANK=" + std::to_string(rank),  "MASTER_ADDR=127.0.0.1",
                                 "MASTER_PORT=" + std::to_string(port), "STABLEQAT_HEARTBEAT=" + heartbeat.string()};
  if (!environment_variable("OMP_NUM_THREADS")) {
    const int cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    added.push_back("OMP_NUM_THREADS=" + std::to_string(std::max(1, cores / ranks)));
  }
  const auto is_replaced = [&added](std::string_view variable) {
    const std::string_view name = variable.substr(0, variable.find('=') + 1);
    return name == "TORCHELASTIC_USE_AGENT_STORE=" ||
           std::any_of(added.begin(), added.end(), [&](const std::string& other) { return other.starts_with(name); });
  };
  std::vector<std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!is_replaced(*entry)) variables.emplace_back(*entry);
  }
  variables.insert(variables.end(), added.begin(), added.end());
  return variables;
}

// How a rank ended that did not end well.
struct Failure {
  int rank = 0;
  int status = 0;  // of waitpid()

  bool is_own_fault() const { return exit_code() != ExitCode::kEnvironment || WIFSIGNALED(status); }
  ExitCode exit_code() const { return WIFEXITED(status) ? static_cast<ExitCode>(WEXITSTATUS(status)) : ExitCode::kEnvironment; }
  std::string text() const {
    if (WIFEXITED(status)) return "ended with exit code " + std::to_string(WEXITSTATUS(status));
    return "was ended by signal " + std::to_string(WTERMSIG(status)) + " (" + ::strsignal(WTERMSIG(status)) + ")";
  }
};

bool is_failure(int status) {
  const int interrupted = static_cast<int>(ExitCode::kInterrupted);
  return !WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != interrupted);
}

// All ranks from their start to their end.
class Attempt {
 public:
  Attempt(const std::vector<std::string>& command, const LaunchOptions& options, const LaunchCallbacks& callbacks)
      : options_(options), callbacks_(callbacks) {
    const std::uint16_t port = free_port();
    for (int rank = 0; rank < options.ranks; ++rank)
      ranks_.emplace_back(command, rank_variables(rank, options.ranks, port, heartbeat(rank)));
  }

  // Returns when all ranks have ended.
  void run() {
    while (running() > 0) {
      find_failure();  // before what is said after it is read
      if (is_settled()) {
        end_all();
      } else if (callbacks_.stop && callbacks_.stop()) {
        ask_to_end();
      }
      wait_for_output();
      pass_on_output(false);
    }
    find_failure();  // of a rank that ended after the last look
    pass_on_output(true);
  }

  const std::optional<Failure>& failure() const { return failure_; }
  bool was_interrupted() {
    return std::any_of(ranks_.begin(), ranks_.end(), [](ChildProcess& rank) {
      const std::optional<int> status = rank.status();
      return status && WIFEXITED(*status) && WEXITSTATUS(*status) == static_cast<int>(ExitCode::kInterrupted);
    });
  }
  // " at step 17", once a rank has said so.
  std::string step(int rank) const {
    std::ifstream file(heartbeat(rank));
    std::int64_t step = 0;
    return file >> step ? " at step " + std::to_string(step) : "";
  }
  double seconds_since_failure() const { return std::chrono::duration<double>(Clock::now() - failed_since_).count(); }

 private:
  struct Line {
    int rank;
    bool is_error;
    std::string text;
  };

  fs::path heartbeat(int rank) const { return folder_.path() / ("rank-" + std::to_string(rank)); }

  std::int64_t running() {
    return std::count_if(ranks_.begin(), ranks_.end(), [](ChildProcess& rank) { return !rank.status(); });
  }

  void pass_on(const Line& line) const {
    if (callbacks_.output) callbacks_.output(line.rank, line.is_error, line.text);
  }

  void wait_for_output() const {
    std::vector<pollfd> descriptors;
    for (const ChildProcess& rank : ranks_) {
      for (const int descriptor : rank.outputs()) {
        if (descriptor >= 0) descriptors.push_back({descriptor, POLLIN, 0});
      }
    }
    ::poll(descriptors.data(), descriptors.size(), kPollMilliseconds);
  }

  // What the others say once a rank has failed is only that they miss it. Which one is the cause is known when that is settled.
  void pass_on_output(bool all) {
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      ranks_[i].read_lines(
          [&](bool is_error, std::string_view line) {
            Line said{static_cast<int>(i), is_error, std::string(line)};
            if (failure_) {
              waiting_.push_back(std::move(said));
            } else {
              pass_on(said);
            }
          },
          all);
    }
    if (!all && !is_settled()) return;
    for (const Line& said : waiting_) {
      if (failure_ && said.rank == failure_->rank) pass_on(said);
    }
    waiting_.clear();
  }

  // A rank that misses another one ends with an environment error, so that other ends are likelier to be the cause.
  void find_failure() {
    if (is_settled()) return;
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      const std::optional<int> status = ranks_[i].status();
      if (!status || !is_failure(*status)) continue;
      const Failure found{static_cast<int>(i), *status};
      if (!failure_) failed_since_ = Clock::now();
      if (!failure_ || (found.is_own_fault() && !failure_->is_own_fault())) failure_ = found;
    }
  }
  bool is_settled() const { return failure_ && (failure_->is_own_fault() || Clock::now() - failed_since_ > kSettling); }

  void ask_to_end() {
    if (std::exchange(asked_to_end_, true)) return;
    for (ChildProcess& rank : ranks_) rank.send(SIGTERM);
  }

  void end_all() {
    ask_to_end();
    if (Clock::now() - failed_since_ <= options_.grace) return;
    for (ChildProcess& rank : ranks_) rank.send(SIGKILL);
  }

  const LaunchOptions& options_;
  const LaunchCallbacks& callbacks_;
  TemporaryFolder folder_;
  std::vector<ChildProcess> ranks_;
  std::vector<Line> waiting_;  // said since a rank failed
  std::optional<Failure> failure_;
  Clock::time_point failed_since_;
  bool asked_to_end_ = false;
};

}  // namespace

ExitCode launch(const std::vector<std::string>& command, const LaunchOptions& options, const LaunchCallbacks& callbacks) {
  if (command.empty()) throw ConfigError({"command", "nothing", "a program with its arguments", ""});
  if (options.ranks < 1 || options.ranks > kMostRanks) {
    throw ConfigError({"number of ranks", std::to_string(options.ranks), "1 to " + std::to_string(kMostRanks), ""});
  }
  for (int attempt = 0;; ++attempt) {
    Attempt ranks(command, options, callbacks);
    ranks.run();
    const std::optional<Failure>& failure = ranks.failure();
    if (!failure) return ranks.was_interrupted() ? ExitCode::kInterrupted : ExitCode::kDone;
    const bool stopped = callbacks.stop && callbacks.stop();
    const bool again = failure->exit_code() == ExitCode::kEnvironment && attempt < options.restarts && !stopped;
    if (callbacks.log) {
      char seconds[32];
      std::snprintf(seconds, sizeof seconds, "%.1f s", ranks.seconds_since_failure());
      std::string line = "rank " + std::to_string(failure->rank) + " " + failure->text() + ranks.step(failure->rank) +
                         "; all ranks have ended " + seconds + " later";
      if (again) line += "; starting again (" + std::to_string(attempt + 1) + " of " + std::to_string(options.restarts) + ")";
      callbacks.log(LogLevel::kWarning, line);
    }
    if (!again) return failure->exit_code();
  }
}

}  // namespace stableqat
