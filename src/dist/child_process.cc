#include "dist/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "stableqat/base/error.h"

namespace stableqat {

namespace {

[[noreturn]] void throw_system_error(const std::string& where) {
  throw EnvironmentError(
      {where, std::generic_category().message(errno), "a new process", "check the program's path and the limits on processes"});
}

struct Pipe {
  Pipe() {
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw_system_error("pipe");
  }
  std::array<int, 2> ends{-1, -1};  // to read, to write
};

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

// Between fork and exec: nothing that allocates or locks.
[[noreturn]] void become(const std::vector<char*>& arguments, const std::vector<char*>& environment, pid_t parent, int output, int error,
                         int failure) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  ::signal(SIGPIPE, SIG_IGN);  // output that nobody reads any more must not end what it can still finish
  if (::getppid() != parent) ::_exit(1);
  const int empty = ::open("/dev/null", O_RDONLY);
  ::dup2(empty, STDIN_FILENO);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(error, STDERR_FILENO);
  ::execvpe(arguments[0], arguments.data(), environment.data());
  const int code = errno;
  (void)!::write(failure, &code, sizeof code);
  ::_exit(127);
}

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& command, const std::vector<std::string>& environment) {
  const std::vector<char*> arguments = pointers(command);
  const std::vector<char*> variables = pointers(environment);
  std::array<Pipe, 2> outputs;
  Pipe failure;  // closed by a successful exec
  const pid_t parent = ::getpid();
  process_ = ::fork();
  if (process_ == 0) become(arguments, variables, parent, outputs[0].ends[1], outputs[1].ends[1], failure.ends[1]);
  const int fork_error = errno;
  ::close(failure.ends[1]);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    ::close(outputs[i].ends[1]);
    outputs_[i].descriptor = outputs[i].ends[0];
    ::fcntl(outputs_[i].descriptor, F_SETFL, O_NONBLOCK);
  }
  int code = fork_error;
  const bool failed = process_ < 0 || ::read(failure.ends[0], &code, sizeof code) == sizeof code;
  ::close(failure.ends[0]);
  if (!failed) return;
  if (process_ > 0) ::waitpid(process_, nullptr, 0);
  for (const Output& output : outputs_) ::close(output.descriptor);
  errno = code;
  throw_system_error(command[0]);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : process_(std::exchange(other.process_, -1)), status_(other.status_), outputs_(std::exchange(other.outputs_, {})) {}

ChildProcess::~ChildProcess() {
  if (process_ > 0 && !status_) {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  for (const Output& output : outputs_) {
    if (output.descriptor >= 0) ::close(output.descriptor);
  }
}

void ChildProcess::read_lines(const LineCallback& line, bool all) {
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    Output& output = outputs_[i];
    std::array<char, 4096> buffer{};
    ssize_t count = 0;
    while (output.descriptor >= 0 && (count = ::read(output.descriptor, buffer.data(), buffer.size())) != 0) {
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) break;
      output.pending.append(buffer.data(), static_cast<std::size_t>(count));
    }
    if (output.descriptor >= 0 && count == 0) ::close(std::exchange(output.descriptor, -1));
    std::size_t begin = 0;
    for (std::size_t end = 0; (end = output.pending.find('\n', begin)) != std::string::npos; begin = end + 1) {
      line(i == 1, std::string_view(output.pending).substr(begin, end - begin));
    }
    output.pending.erase(0, begin);
    if (all && !output.pending.empty()) line(i == 1, std::exchange(output.pending, {}));
  }
}

std::optional<int> ChildProcess::status() {
  int status = 0;
  if (!status_ && ::waitpid(process_, &status, WNOHANG) == process_) status_ = status;
  return status_;
}

void ChildProcess::send(int signal) {
  if (!status()) ::kill(process_, signal);
}

}  // namespace stableqat
