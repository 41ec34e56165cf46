// Errors of the library: what was found, what was expected, what to do. The library throws; it never prints, exits or aborts.
#pragma once

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace stableqat {

// Process exit codes of the `stableqat` program; each error type below names its own.
enum class ExitCode : int {
  kDone = 0,
  kUsage = 2,         // usage or configuration
  kBadData = 3,       // model, token or text file that cannot be used
  kEnvironment = 4,   // device, memory, disk, network
  kNumeric = 5,       // not-finite loss or gradient, failed proof
  kInterrupted = 130  // stopped by a signal after a checkpoint was written
};

// The four parts of a message. `where` is a file (with line or tensor name), a flag or a configuration key.
struct ErrorText {
  std::string where;
  std::string found;
  std::string expected;
  std::string remedy;
};

// Base of all errors thrown by the library. what() is one line: "WHERE: found FOUND, expected EXPECTED; REMEDY" (empty parts left out).
class Error : public std::runtime_error {
 public:
  Error(ExitCode exit_code, ErrorText text);

  ExitCode exit_code() const noexcept { return exit_code_; }
  const ErrorText& text() const noexcept { return text_; }

 private:
  ExitCode exit_code_;
  ErrorText text_;
};

// The caller's fault: unknown key or flag, value out of range, settings that exclude each other.
class ConfigError : public Error {
 public:
  explicit ConfigError(ErrorText text) : Error(ExitCode::kUsage, std::move(text)) {}
};

// A file that is missing, truncated, corrupt or does not fit the model.
class DataError : public Error {
 public:
  explicit DataError(ErrorText text) : Error(ExitCode::kBadData, std::move(text)) {}
};

// The machine's fault: disk full, unwritable output, not enough memory, no such device.
class EnvironmentError : public Error {
 public:
  explicit EnvironmentError(ErrorText text) : Error(ExitCode::kEnvironment, std::move(text)) {}
};

// A value that is not finite, or a proof that failed.
class NumericError : public Error {
 public:
  explicit NumericError(ErrorText text) : Error(ExitCode::kNumeric, std::move(text)) {}
};

// The candidate with the smallest edit distance to `name`, or "" when none is near (distance above 1/3 of the name's length, at least 2).
// For "unknown key X, did you mean Y".
template <class Range>
std::string nearest_name(std::string_view name, const Range& candidates);

namespace detail {
std::size_t edit_distance(std::string_view a, std::string_view b);
}

template <class Range>
std::string nearest_name(std::string_view name, const Range& candidates) {
  std::size_t best_distance = std::max<std::size_t>(2, name.size() / 3) + 1;
  std::string best;
  for (const auto& candidate : candidates) {
    const std::size_t distance = detail::edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = std::string(candidate);
    }
  }
  return best;
}

}  // namespace stableqat
