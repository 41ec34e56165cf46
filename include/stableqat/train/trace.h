// A time line of what training does, as a file for Perfetto or Chrome (chrome://tracing). Format: Trace Event Format, "JSON Array Format".
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

namespace stableqat {

// From construction to finish() all of the library's named scopes (LibTorch's RECORD_USER_SCOPE: data, forward, head, backward,
// gradient_exchange, gradient_sum, update, weight_exchange, checkpoint, evaluation) and c10d's exchanges become events: scopes by thread
// ("X"), exchanges from their start until their last byte has come, with the bytes that this rank gave ("b", "e"). Times are microseconds
// of the machine's steady clock, so that the files of ranks on one machine fit each other; "pid" is the rank.
// Events are kept in memory, about 200 bytes each. One at a time in a process. Thread-safe for those observed.
class TraceRecorder {
 public:
  // Throws EnvironmentError at once when the file cannot be written.
  TraceRecorder(std::filesystem::path path, int rank);
  TraceRecorder(const TraceRecorder&) = delete;
  TraceRecorder& operator=(const TraceRecorder&) = delete;
  // Stops; without finish() nothing is written.
  ~TraceRecorder();

  // Stops and writes the file, whole or not at all. Throws EnvironmentError.
  void finish();

 private:
  struct State;
  void stop() noexcept;

  std::filesystem::path path_;
  std::shared_ptr<State> state_;
  std::uint64_t callback_ = 0;
};

}  // namespace stableqat
