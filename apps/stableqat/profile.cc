#include "profile.h"

#include <filesystem>
#include <utility>

namespace stableqat::app {

StepProfile::StepProfile(const std::string& path, std::int64_t steps, int rank) : steps_left_(steps) {
  if (path.empty()) return;
  std::filesystem::path own = path;
  if (rank > 0) own.replace_extension("rank-" + std::to_string(rank) + own.extension().string());
  recorder_ = std::make_unique<TraceRecorder>(own, rank);
}

ProgressCallback StepProfile::watch(ProgressCallback next) {
  if (!recorder_) return next;
  return [this, next = std::move(next)](const Progress& progress) {
    if (progress.stage == "training" && --steps_left_ == 0) finish();
    if (next) next(progress);
  };
}

void StepProfile::finish() {
  if (const auto recorder = std::exchange(recorder_, nullptr)) recorder->finish();
}

}  // namespace stableqat::app
