// Repositories of the Hugging Face Hub: their names, revisions and files, over the Hub's JSON API
// (https://huggingface.co/docs/hub/api; the paths and fields are those that the huggingface_hub client 2.4 uses).
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/base/log.h"

namespace stableqat::hub {

enum class RepositoryType { kModel, kDataset };

struct Repository {
  RepositoryType type = RepositoryType::kModel;
  std::string name;  // "organization/name", or the "name" of an old one
};

// Throws ConfigError for a name that the Hub does not allow.
Repository make_repository(RepositoryType type, std::string name);

// Where and how to reach the Hub, and where its files are kept.
struct HubOptions {
  std::string endpoint = "https://huggingface.co";  // no slash at the end
  std::string token;                                // sent to the endpoint's host only; "" = none
  std::filesystem::path cache;                      // of huggingface_hub: holds models--ORG--NAME/, datasets--ORG--NAME/
  int parallel_downloads = 8;
  bool verify_cached = false;  // hash files that are already there, instead of looking at their size only
  // A request is tried again after a lost connection, a stall, and the states 408, 429 and 5xx: after `first_wait`, twice that, ... up to
  // `longest_wait`, or as long as the server says (Retry-After), unless that is more than `longest_retry_after`. `attempts` failures in a
  // row, without a byte more in between, are the end.
  int attempts = 8;
  std::chrono::milliseconds first_wait{1000};
  std::chrono::milliseconds longest_wait{60'000};
  std::chrono::seconds longest_retry_after{900};
  std::chrono::seconds stall{60};  // a transfer that brings nothing for so long is lost
};

// HubOptions as the environment asks, by the names of huggingface_hub: HF_ENDPOINT; HF_TOKEN, HUGGING_FACE_HUB_TOKEN or the file
// HF_TOKEN_PATH (HF_HOME/token); HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE or HF_HOME/hub (HF_HOME: by default huggingface in XDG_CACHE_HOME
// or ~/.cache). Proxies are libcurl's own business: https_proxy, http_proxy, all_proxy, no_proxy. Throws ConfigError for an endpoint
// that is no http(s) address and for a token that cannot stand in a header.
HubOptions hub_options_from_environment();

struct HubCallbacks {
  LogCallback log;
  ProgressCallback progress;
  StopRequested stop;
};

// One file of a revision.
struct HubFile {
  std::string path;         // relative, with '/', inside the repository
  std::uint64_t bytes = 0;  // of the content
  // Of the content, in hex: SHA-256 (64 digits) of a file in large-file storage, git's blob id (40 digits: SHA-1 of "blob SIZE", a zero
  // byte and the content) of any other. Also the file's name in the cache.
  std::string digest;
};

struct Listing {
  std::string commit;          // 40 hex digits
  std::vector<HubFile> files;  // by path, bytewise
};

// The commit that `revision` (branch, tag or commit) stands for. Empty when a stop was requested.
// Throws DataError for a repository or revision that does not exist and for an answer that is not the Hub's; EnvironmentError when the
// Hub cannot be reached or refuses (gated repository, token not valid).
std::optional<std::string> find_commit(const Repository& repository, const std::string& revision, const HubOptions& options,
                                       const HubCallbacks& callbacks);

// That commit and its files below `folder` ("" = all). As find_commit(); throws DataError for a folder that does not exist, too.
std::optional<Listing> list_repository(const Repository& repository, const std::string& revision, const std::string& folder,
                                       const HubOptions& options, const HubCallbacks& callbacks);

// The files that match one of `include` (none: all) and none of `exclude`. Patterns are those of the shell on the whole path; '*' and '?'
// match '/' too, as in huggingface_hub.
std::vector<HubFile> select_files(std::span<const HubFile> files, std::span<const std::string> include,
                                  std::span<const std::string> exclude);

}  // namespace stableqat::hub
