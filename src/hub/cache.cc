#include "hub/cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>

#include "hub/address.h"
#include "hub/stop.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/hub/download.h"

namespace stableqat::hub {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void throw_cache_error(const fs::path& path, const std::error_code& error) {
  throw EnvironmentError(
      {path.string(), error.message(), "a cache that can be written", "check its permissions, or choose another by HF_HUB_CACHE"});
}

}  // namespace

RepositoryCache::RepositoryCache(const Repository& repository, const HubOptions& options)
    : folder_(options.cache / folder_name(repository)), locks_(options.cache / ".locks" / folder_name(repository)) {}

bool RepositoryCache::has_blob(const HubFile& file) const {
  std::error_code absent;
  const std::uintmax_t size = fs::file_size(blob(file), absent);
  return !absent && size == file.bytes;
}

void RepositoryCache::link(const std::string& commit, const HubFile& file) const {
  const fs::path entry = snapshot(commit) / file.path;
  const fs::path target = fs::relative(blob(file).parent_path(), entry.parent_path()) / file.digest;
  make_folder(entry.parent_path());
  std::error_code error;
  for (int attempt = 0; attempt < 2; ++attempt) {
    fs::create_symlink(target, entry, error);
    if (!error) return;
    std::error_code is_no_link;
    if (fs::read_symlink(entry, is_no_link) == target) return;  // also when another process was faster
    fs::remove(entry, is_no_link);
  }
  throw_cache_error(entry, error);
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw_cache_error(folder, error);
}

FileLock::FileLock(const fs::path& path, const StopRequested& stop) {
  make_folder(path.parent_path());
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0664);
  if (descriptor_ < 0) throw_cache_error(path, {errno, std::generic_category()});
  while (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int code = errno;
    if ((code != EWOULDBLOCK && code != EINTR) || (stop && stop())) {
      ::close(descriptor_);
      if (code == EWOULDBLOCK || code == EINTR) throw Stopped{};
      throw_cache_error(path, {code, std::generic_category()});
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

FileLock::~FileLock() { ::close(descriptor_); }

fs::path snapshot_folder(const Repository& repository, const std::string& commit, const HubOptions& options) {
  return RepositoryCache(repository, options).snapshot(commit);
}

std::optional<fs::path> cached_snapshot(const Repository& repository, const std::string& revision, const HubOptions& options) {
  const RepositoryCache cache(repository, options);
  const fs::path reference = cache.reference(revision);
  const std::string commit = fs::is_regular_file(reference) ? read_text_file(reference) : revision;
  const fs::path folder = cache.snapshot(commit.substr(0, commit.find_first_of(" \r\n")));
  return fs::is_directory(folder) ? std::optional(folder) : std::nullopt;
}

void write_reference(const Repository& repository, const std::string& revision, const std::string& commit, const HubOptions& options) {
  if (revision == commit) return;
  const fs::path file = RepositoryCache(repository, options).reference(revision);
  make_folder(file.parent_path());
  write_text_file(file, commit);
}

}  // namespace stableqat::hub
