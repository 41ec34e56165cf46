#include "stableqat/hub/download.h"

#include <atomic>
#include <exception>
#include <mutex>
#include <utility>
#include <vector>

#include "data/ordered_parallel.h"
#include "hub/address.h"
#include "hub/cache.h"
#include "hub/fetch.h"
#include "hub/stop.h"
#include "hub/tally.h"
#include "stableqat/base/error.h"

namespace stableqat::hub {

namespace fs = std::filesystem;

namespace {

// HTTP clients for whichever thread needs one, so that connections are used again.
class ClientPool {
 public:
  ClientPool(std::chrono::seconds stall, StopRequested stop) : stall_(stall), stop_(std::move(stop)) {}

  std::unique_ptr<HttpClient> take() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<HttpClient>(stall_, stop_);
    auto client = std::move(idle_.back());
    idle_.pop_back();
    return client;
  }
  void give_back(std::unique_ptr<HttpClient> client) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(client));
  }

 private:
  std::chrono::seconds stall_;
  StopRequested stop_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<HttpClient>> idle_;
};

// The first failure of any file stops the others; it is the one to be told.
class FirstFailure {
 public:
  explicit FirstFailure(StopRequested stop) : user_stop_(std::move(stop)) {}

  bool stop() const { return failed_ || (user_stop_ && user_stop_()); }
  void keep(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(error);
    failed_ = true;
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  StopRequested user_stop_;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  std::exception_ptr error_;
};

void require_space(const fs::path& cache, std::uint64_t bytes) {
  make_folder(cache);
  std::error_code unknown;
  const fs::space_info space = fs::space(cache, unknown);
  if (unknown || space.available >= bytes) return;
  throw EnvironmentError({cache.string(), std::to_string(space.available / 1'000'000) + " MB free",
                          std::to_string(bytes / 1'000'000 + 1) + " MB for the files to fetch",
                          "free space on that disk, or choose another cache by HF_HUB_CACHE"});
}

struct Missing {
  std::vector<const HubFile*> files;
  std::uint64_t bytes = 0;
};

// Links what the cache has; returns the rest. A blob whose content is bad is removed.
Missing link_cached(const RepositoryCache& cache, const std::string& commit, std::span<const HubFile> files, const HubOptions& options,
                    const HubCallbacks& callbacks) {
  Missing missing;
  std::uint64_t seen = 0;
  for (const HubFile& file : files) {
    throw_if_stopped(callbacks.stop);
    bool good = cache.has_blob(file);
    if (good && options.verify_cached) {
      if (callbacks.progress) callbacks.progress({"verify cached files", seen, files.size(), "files"});
      good = has_good_content(cache.blob(file), file, callbacks.stop);
      if (!good) {
        if (callbacks.log) callbacks.log(LogLevel::kWarning, cache.blob(file).string() + ": damaged, is fetched again");
        fs::remove(cache.blob(file));
      }
    }
    ++seen;
    if (good) {
      cache.link(commit, file);
    } else {
      missing.files.push_back(&file);
      missing.bytes += file.bytes;
    }
  }
  return missing;
}

void download(const Repository& repository, const std::string& commit, std::span<const HubFile> files, const HubOptions& options,
              const HubCallbacks& callbacks) {
  const RepositoryCache cache(repository, options);
  const Missing missing = link_cached(cache, commit, files, options, callbacks);
  if (missing.files.empty()) return;
  require_space(options.cache, missing.bytes);

  std::uint64_t all_bytes = 0;
  for (const HubFile& file : files) all_bytes += file.bytes;
  Tally tally(callbacks.progress, files.size(), all_bytes, files.size() - missing.files.size(), all_bytes - missing.bytes);
  FirstFailure failure(callbacks.stop);
  const HubCallbacks inner{callbacks.log, callbacks.progress, [&failure] { return failure.stop(); }};
  const FetchContext context{repository, commit, options, inner, cache, tally};
  ClientPool clients(options.stall, inner.stop);

  const auto fetch = [&](const HubFile*& file) {
    auto client = clients.take();
    try {
      fetch_file(context, *file, *client);
    } catch (const Stopped&) {
      throw;
    } catch (...) {
      failure.keep(std::current_exception());
      throw;
    }
    clients.give_back(std::move(client));
  };
  std::size_t next = 0;
  const auto produce = [&](const HubFile*& file) {
    if (next == missing.files.size()) return false;
    file = missing.files[next++];
    return true;
  };
  try {
    const int workers = std::max(options.parallel_downloads, 1);
    ordered_parallel<const HubFile*>(workers, 4 * static_cast<std::size_t>(workers), produce, fetch, [](const HubFile*&) { return true; });
  } catch (...) {
    failure.rethrow();
    throw;
  }
}

}  // namespace

bool download_files(const Repository& repository, const std::string& commit, std::span<const HubFile> files, const HubOptions& options,
                    const HubCallbacks& callbacks) {
  try {
    download(repository, commit, files, options, callbacks);
    return true;
  } catch (const Stopped&) {
    return false;
  }
}

}  // namespace stableqat::hub
