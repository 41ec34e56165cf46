#include "hub/tally.h"

#include <utility>

namespace stableqat::hub {

Tally::Tally(ProgressCallback progress, std::uint64_t files, std::uint64_t bytes, std::uint64_t done_files, std::uint64_t done_bytes)
    : progress_(std::move(progress)), files_(files), bytes_(bytes), done_files_(done_files), done_bytes_(done_bytes) {
  report(nullptr, 0);
}

void Tally::moved(const HubFile& file, std::int64_t change, std::uint64_t received) {
  const std::lock_guard lock(mutex_);
  done_bytes_ += static_cast<std::uint64_t>(change);  // unsigned arithmetic takes negative changes back
  report(&file, received);
}

void Tally::finished(const HubFile& file) {
  const std::lock_guard lock(mutex_);
  ++done_files_;
  report(&file, file.bytes);
}

void Tally::report(const HubFile* file, std::uint64_t received) {
  if (!progress_) return;
  std::string detail = std::to_string(done_files_) + " of " + std::to_string(files_) + " files";
  if (file != nullptr && received < file->bytes) {
    detail += "; " + file->path.substr(file->path.rfind('/') + 1) + " " + std::to_string(received * 100 / file->bytes) + " %";
  }
  progress_({"download", done_bytes_, bytes_, "bytes", detail});
}

}  // namespace stableqat::hub
