// One repository's part of the cache; layout in hub/download.h.
#pragma once

#include <filesystem>
#include <string>

#include "stableqat/hub/repository.h"

namespace stableqat::hub {

class RepositoryCache {
 public:
  RepositoryCache(const Repository& repository, const HubOptions& options);

  std::filesystem::path blob(const HubFile& file) const { return folder_ / "blobs" / file.digest; }
  std::filesystem::path partial(const HubFile& file) const { return folder_ / "blobs" / (file.digest + ".incomplete"); }
  std::filesystem::path lock(const HubFile& file) const { return locks_ / (file.digest + ".lock"); }
  std::filesystem::path snapshot(const std::string& commit) const { return folder_ / "snapshots" / commit; }
  std::filesystem::path reference(const std::string& revision) const { return folder_ / "refs" / revision; }

  // Whether the content is there, in its full size.
  bool has_blob(const HubFile& file) const;
  // Makes the snapshot's entry of a blob that is there. Throws EnvironmentError.
  void link(const std::string& commit, const HubFile& file) const;

 private:
  std::filesystem::path folder_;
  std::filesystem::path locks_;
};

// Throws EnvironmentError when it cannot be made.
void make_folder(const std::filesystem::path& folder);

// An exclusive flock(2) on a file, which is made when absent and stays. Other processes, also huggingface_hub, honour it.
class FileLock {
 public:
  // Waits until it is free. Throws Stopped, EnvironmentError.
  FileLock(const std::filesystem::path& path, const StopRequested& stop);
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

 private:
  int descriptor_;
};

}  // namespace stableqat::hub
