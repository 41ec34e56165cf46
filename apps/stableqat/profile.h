// train --profile: the first steps of a run as a time line.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "stableqat/base/log.h"
#include "stableqat/train/trace.h"

namespace stableqat::app {

class StepProfile {
 public:
  // Nothing for an empty path. Ranks above 0 put theirs in front of the extension: trace.json, trace.rank-1.json.
  StepProfile(const std::string& path, std::int64_t steps, int rank);

  // Passes progress on to `next` and writes the file when `steps` steps of training are done.
  ProgressCallback watch(ProgressCallback next);
  // For runs of fewer steps.
  void finish();

 private:
  std::int64_t steps_left_;
  std::unique_ptr<TraceRecorder> recorder_;
};

}  // namespace stableqat::app
