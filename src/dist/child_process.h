// One process that we started: its output line by line, and its end.
#pragma once

#include <sys/types.h>

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stableqat {

using LineCallback = std::function<void(bool is_error, std::string_view line)>;

class ChildProcess {
 public:
  // Starts command[0] (searched in PATH) with `environment` ("NAME=VALUE") in a process group of its own, so that a terminal's Ctrl-C
  // reaches only us; it gets SIGTERM when the calling thread dies. Throws EnvironmentError.
  ChildProcess(const std::vector<std::string>& command, const std::vector<std::string>& environment);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();  // kills what still runs

  // The descriptors to poll for output; -1 = closed.
  std::array<int, 2> outputs() const { return {outputs_[0].descriptor, outputs_[1].descriptor}; }
  // Passes on the lines that are there now, and with `all` the last one without an end, too.
  void read_lines(const LineCallback& line, bool all = false);

  // nullopt while it runs; else what waitpid() said.
  std::optional<int> status();
  // Nothing once it has ended.
  void send(int signal);

 private:
  struct Output {
    int descriptor = -1;
    std::string pending;
  };

  pid_t process_ = -1;
  std::optional<int> status_;
  std::array<Output, 2> outputs_;  // standard output and error
};

}  // namespace stableqat
