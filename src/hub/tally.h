// Progress of parallel downloads: bytes in total, and how far the file stands that moved last.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "stableqat/base/log.h"
#include "stableqat/hub/repository.h"

namespace stableqat::hub {

// Thread-safe.
class Tally {
 public:
  // `bytes` of `files` are to be there in the end; `done_bytes` of `done_files` are there already.
  Tally(ProgressCallback progress, std::uint64_t files, std::uint64_t bytes, std::uint64_t done_files, std::uint64_t done_bytes);

  // `change` of the bytes of `file` that are there, `received` after it. Negative where a transfer begins anew.
  void moved(const HubFile& file, std::int64_t change, std::uint64_t received);
  void finished(const HubFile& file);

 private:
  void report(const HubFile* file, std::uint64_t received);

  const ProgressCallback progress_;
  const std::uint64_t files_;
  const std::uint64_t bytes_;
  std::mutex mutex_;
  std::uint64_t done_files_;
  std::uint64_t done_bytes_;
};

}  // namespace stableqat::hub
