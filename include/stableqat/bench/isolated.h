// A piece of work in a process of its own: its peak memory is its own, and several of them can take turns.
#pragma once

#include <sys/types.h>

#include <functional>
#include <nlohmann/json_fwd.hpp>

namespace stableqat::bench {

// Move-only. Not thread-safe.
class Isolated {
 public:
  // Answers one request.
  using Service = std::function<nlohmann::json(const nlohmann::json&)>;

  // Forks; the child runs `start` once and then its service for every request. Fork copies only the calling thread, so this process must
  // not have started others (LibTorch's and OpenMP's start with the first parallel operation): throws std::logic_error when it has. Throws
  // EnvironmentError when no process can be made.
  explicit Isolated(const std::function<Service()>& start);
  Isolated(Isolated&& other) noexcept;
  Isolated& operator=(Isolated&& other) noexcept;
  ~Isolated();  // ends the child and waits for it

  // Waits for the answer. An error of the library that the service (or `start`) throws is thrown here again; other exceptions as
  // std::runtime_error; EnvironmentError when the process died, which memory is the usual reason for.
  nlohmann::json ask(const nlohmann::json& request);

 private:
  void close() noexcept;

  int socket_ = -1;
  pid_t process_ = -1;
};

}  // namespace stableqat::bench
