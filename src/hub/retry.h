// Trying again, with longer and longer waits.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "hub/http.h"
#include "stableqat/hub/repository.h"

namespace stableqat::hub {

// Whether the same request may succeed later.
bool is_passing(long status);

// Counts the failures of one task. Not thread-safe; refers to its arguments.
class Retry {
 public:
  Retry(const HubOptions& options, const HubCallbacks& callbacks) : options_(options), callbacks_(callbacks) {}

  // After a failure: logs it and waits. Throws EnvironmentError when it was the last that is allowed, Stopped when a stop is requested.
  void failed(const std::string& where, const std::string& what, std::optional<std::chrono::seconds> retry_after = std::nullopt);
  void advanced() { failures_ = 0; }  // new bytes came

 private:
  const HubOptions& options_;
  const HubCallbacks& callbacks_;
  int failures_ = 0;
};

// The error of a response that is neither 2xx nor worth another attempt. `where` names the repository or file.
[[noreturn]] void throw_refused(const HttpResponse& response, const std::string& where, const HubOptions& options);

}  // namespace stableqat::hub
