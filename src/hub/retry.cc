#include "hub/retry.h"

#include <algorithm>
#include <random>
#include <thread>

#include "hub/stop.h"
#include "stableqat/base/error.h"

namespace stableqat::hub {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kStopCheck{100};

void wait_for(milliseconds time, const StopRequested& stop) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (true) {
    throw_if_stopped(stop);
    const auto left = std::chrono::ceil<milliseconds>(end - std::chrono::steady_clock::now());
    if (left <= milliseconds::zero()) return;
    std::this_thread::sleep_for(std::min(left, kStopCheck));
  }
}

// Half to all of the doubled wait, so that parallel downloads do not come back in step.
milliseconds backoff(const HubOptions& options, int failures) {
  const int doublings = std::min(failures - 1, 20);
  const milliseconds full = std::min(options.longest_wait, options.first_wait * (std::int64_t{1} << doublings));
  std::random_device random;
  return full / 2 + full / 2 * static_cast<int>(random() % 256) / 255;
}

std::string seconds_text(milliseconds time) {
  const auto tenths = (time.count() + 50) / 100;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " s";
}

}  // namespace

bool is_passing(long status) { return status == 408 || status == 429 || (status >= 500 && status <= 599 && status != 501); }

void Retry::failed(const std::string& where, const std::string& what, std::optional<std::chrono::seconds> retry_after) {
  ++failures_;
  if (retry_after && *retry_after > options_.longest_retry_after) {
    throw EnvironmentError({where, what + ", to be asked again in " + std::to_string(retry_after->count()) + " s only", "",
                            "start again then: what was fetched is kept"});
  }
  if (failures_ >= options_.attempts) {
    throw EnvironmentError({where, what + ", " + std::to_string(failures_) + " times in a row", "an answer",
                            "check the network, HF_ENDPOINT and the proxy settings, then start again: what was fetched is kept"});
  }
  const milliseconds wait = retry_after ? milliseconds(*retry_after) : backoff(options_, failures_);
  if (callbacks_.log) callbacks_.log(LogLevel::kWarning, where + ": " + what + "; again in " + seconds_text(wait));
  wait_for(wait, callbacks_.stop);
}

void throw_refused(const HttpResponse& response, const std::string& where, const HubOptions& options) {
  const std::string code = response.header("x-error-code");
  const std::string found = "HTTP status " + std::to_string(response.status) + (code.empty() ? "" : " (" + code + ")");
  if (code == "GatedRepo") {
    throw EnvironmentError(
        {where, "a gated repository", "access granted to the owner of HF_TOKEN",
         "accept the terms on its page at " + options.endpoint +
             (options.token.empty() ? ", then set HF_TOKEN to a token of that account" : " with the account that the token belongs to")});
  }
  if (code == "RevisionNotFound")
    throw DataError({where, "no such revision", "a branch, tag or commit of the repository", "check --revision"});
  if (code == "EntryNotFound") throw DataError({where, "no such file or folder in this revision", "", "look at the repository's page"});
  if (code == "RepoNotFound" || response.status == 404 || (response.status == 401 && options.token.empty())) {
    throw DataError(
        {where, "no such repository, or a private one", "the name of a repository at " + options.endpoint,
         options.token.empty() ? "check the spelling; for a private one set HF_TOKEN" : "check the spelling and the token's rights"});
  }
  if (response.status == 401 || response.status == 403) {
    throw EnvironmentError({where, found, "access", "check that HF_TOKEN is valid and may read this repository"});
  }
  const std::string message = response.header("x-error-message");
  throw EnvironmentError(
      {where, found + (message.empty() ? "" : ": " + message), "status 200", "check HF_ENDPOINT and the proxy settings"});
}

}  // namespace stableqat::hub
