// One file of the Hub into the cache.
#pragma once

#include <string>

#include "hub/cache.h"
#include "hub/http.h"
#include "hub/tally.h"
#include "stableqat/hub/repository.h"

namespace stableqat::hub {

// What the fetches of one revision share. Refers to its members' owners.
struct FetchContext {
  const Repository& repository;
  const std::string& commit;
  const HubOptions& options;
  const HubCallbacks& callbacks;
  const RepositoryCache& cache;
  Tally& tally;
};

// Brings the blob of `file` into the cache, whole and checked, and links it into the snapshot. Throws as download_files() does, and
// Stopped.
void fetch_file(const FetchContext& context, const HubFile& file, HttpClient& client);

// Whether the blob has the digest it is named by. Throws EnvironmentError, Stopped.
bool has_good_content(const std::filesystem::path& blob, const HubFile& file, const StopRequested& stop);

}  // namespace stableqat::hub
