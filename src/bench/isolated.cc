#include "stableqat/bench/isolated.h"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "stableqat/base/error.h"

namespace stableqat::bench {

namespace {

using Json = nlohmann::json;

bool send_all(int socket, const void* data, std::size_t size) {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t sent = ::send(socket, next, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    next += sent;
    size -= static_cast<std::size_t>(sent);
  }
  return true;
}

bool receive_all(int socket, void* data, std::size_t size) {
  char* next = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t received = ::recv(socket, next, size, 0);
    if (received < 0 && errno == EINTR) continue;
    if (received <= 0) return false;
    next += received;
    size -= static_cast<std::size_t>(received);
  }
  return true;
}

// A message is its length and its text.
bool send_message(int socket, const Json& message) {
  const std::string text = message.dump(-1, ' ', false, Json::error_handler_t::replace);
  const std::uint64_t size = text.size();
  return send_all(socket, &size, sizeof(size)) && send_all(socket, text.data(), text.size());
}

std::optional<Json> receive_message(int socket) {
  std::uint64_t size = 0;
  if (!receive_all(socket, &size, sizeof(size))) return std::nullopt;
  std::string text(size, '\0');
  if (!receive_all(socket, text.data(), text.size())) return std::nullopt;
  return Json::parse(text);
}

Json describe(const std::exception& error) {
  if (const auto* known = dynamic_cast<const Error*>(&error)) {
    const ErrorText& text = known->text();
    return {{"exit_code", static_cast<int>(known->exit_code())},
            {"where", text.where},
            {"found", text.found},
            {"expected", text.expected},
            {"remedy", text.remedy}};
  }
  return {{"what", error.what()}};
}

[[noreturn]] void rethrow(const Json& error) {
  if (error.contains("what")) throw std::runtime_error(error.at("what").get<std::string>());
  ErrorText text{error.at("where"), error.at("found"), error.at("expected"), error.at("remedy")};
  switch (static_cast<ExitCode>(error.at("exit_code").get<int>())) {
    case ExitCode::kUsage:
      throw ConfigError(std::move(text));
    case ExitCode::kBadData:
      throw DataError(std::move(text));
    case ExitCode::kNumeric:
      throw NumericError(std::move(text));
    default:
      throw EnvironmentError(std::move(text));
  }
}

// The child's life: an answer for every request, until the parent closes its end.
void serve(int socket, const std::function<Isolated::Service()>& start) {
  Isolated::Service service;
  while (const std::optional<Json> request = receive_message(socket)) {
    Json answer;
    try {
      if (!service) service = start();
      answer = {{"value", service(*request)}};
    } catch (const std::exception& error) {
      answer = {{"error", describe(error)}};
    }
    if (!send_message(socket, answer)) return;
  }
}

std::size_t threads_of_this_process() {
  std::size_t count = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task", error)) count += entry.exists() ? 1 : 0;
  return count;
}

// Those that libraries started as they were loaded: Arrow has one, which waits and holds no lock that a child needs.
const std::size_t kThreadsOfLibraries = threads_of_this_process();

}  // namespace

Isolated::Isolated(const std::function<Service()>& start) {
  if (threads_of_this_process() > kThreadsOfLibraries) throw std::logic_error("Isolated: this process has started threads already");
  int sockets[2];
  const pid_t parent = ::getpid();
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0) process_ = ::fork();
  if (process_ < 0) {
    throw EnvironmentError({"a process for the measurement", std::strerror(errno), "a new process", "raise the limits of this account"});
  }
  if (process_ == 0) {
    ::close(sockets[0]);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() == parent) serve(sockets[1], start);
    ::_exit(0);  // without the parent's exit handlers and its buffered output
  }
  ::close(sockets[1]);
  socket_ = sockets[0];
}

Isolated::Isolated(Isolated&& other) noexcept : socket_(std::exchange(other.socket_, -1)), process_(std::exchange(other.process_, -1)) {}

Isolated& Isolated::operator=(Isolated&& other) noexcept {
  if (this != &other) {
    close();
    socket_ = std::exchange(other.socket_, -1);
    process_ = std::exchange(other.process_, -1);
  }
  return *this;
}

Isolated::~Isolated() { close(); }

void Isolated::close() noexcept {
  if (process_ < 0) return;
  ::shutdown(socket_, SHUT_RDWR);  // a close alone would not reach the child: children forked later hold this end too
  ::close(socket_);
  while (::waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
  }
  process_ = -1;
}

Json Isolated::ask(const Json& request) {
  std::optional<Json> answer;
  if (send_message(socket_, request)) answer = receive_message(socket_);
  if (!answer) {
    throw EnvironmentError({"a process of the measurement", "that it was ended from outside", "an answer",
                            "the usual reason is memory: choose a smaller model, batch or sequence"});
  }
  if (answer->contains("error")) rethrow(answer->at("error"));
  return std::move(answer->at("value"));
}

}  // namespace stableqat::bench
