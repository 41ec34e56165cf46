#include <algorithm>
#include <utility>

#include "hub/address.h"
#include "hub/http.h"
#include "hub/retry.h"
#include "hub/stop.h"
#include "hub/tree.h"
#include "stableqat/base/error.h"
#include "stableqat/hub/repository.h"

namespace stableqat::hub {

namespace {

constexpr std::size_t kMaxAnswerBytes = std::size_t{64} << 20;

struct Answer {
  std::string text;
  HttpResponse head;
};

// The whole answer of the API, asked for until it comes.
Answer ask(HttpClient& client, const std::string& url, const std::string& where, const HubOptions& options, const HubCallbacks& callbacks) {
  Retry retry(options, callbacks);
  while (true) {
    try {
      std::string text;
      HttpResponse head = client.get({url, options.token}, [&](const HttpResponse&, std::span<const std::byte> piece) {
        if (piece.size() > kMaxAnswerBytes - text.size()) {
          throw DataError({where, "an answer of more than 64 MiB", "a list of files", "check that HF_ENDPOINT names a Hugging Face Hub"});
        }
        text.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      });
      if (head.ok()) return {std::move(text), std::move(head)};
      if (!is_passing(head.status)) throw_refused(head, where, options);
      retry.failed(where, "HTTP status " + std::to_string(head.status), head.retry_after);
    } catch (const TransferError& error) {
      if (!error.may_pass()) throw EnvironmentError({where, error.what(), "", "check HF_ENDPOINT and the proxy settings"});
      retry.failed(where, error.what());
    }
  }
}

std::string where_of(const Repository& repository, const std::string& revision) {
  return page_name(repository) + " (revision " + revision + ")";
}

std::string ask_commit(HttpClient& client, const Repository& repository, const std::string& revision, const HubOptions& options,
                       const HubCallbacks& callbacks) {
  const std::string where = where_of(repository, revision);
  // A branch may have a slash in its name, which must not end the path's part.
  std::string encoded = percent_encoded(revision);
  for (std::size_t at = 0; (at = encoded.find('/', at)) != std::string::npos;) encoded.replace(at, 1, "%2F");
  return parse_commit(ask(client, api_address(repository, options) + "/revision/" + encoded, where, options, callbacks).text, where);
}

// The files below `folder`, page by page.
std::vector<HubFile> ask_files(HttpClient& client, const std::string& tree, const std::string& where, const HubOptions& options,
                               const HubCallbacks& callbacks) {
  std::vector<HubFile> files;
  for (std::string query = "?recursive=true"; !query.empty();) {
    const Answer page = ask(client, tree + query, where, options, callbacks);
    const std::size_t entries = parse_tree_page(page.text, where, files);
    std::string next = next_page_query(page.head.header("link"));
    if (!next.empty() && (next == query || entries == 0)) {
      throw DataError({where, "pages that do not end", "a list of files", "check that HF_ENDPOINT names a Hugging Face Hub"});
    }
    query = std::move(next);
    if (callbacks.progress) callbacks.progress({"list files", files.size(), 0, "files"});
  }
  return files;
}

Listing list(const Repository& repository, const std::string& revision, const std::string& folder, const HubOptions& options,
             const HubCallbacks& callbacks) {
  HttpClient client(options.stall, callbacks.stop);
  Listing listing;
  listing.commit = ask_commit(client, repository, revision, options, callbacks);
  const std::string below = folder.empty() ? "" : "/" + percent_encoded(folder);
  const std::string where = where_of(repository, revision) + (folder.empty() ? "" : ", folder " + folder);
  listing.files = ask_files(client, api_address(repository, options) + "/tree/" + listing.commit + below, where, options, callbacks);
  std::sort(listing.files.begin(), listing.files.end(), [](const HubFile& a, const HubFile& b) { return a.path < b.path; });
  return listing;
}

}  // namespace

std::optional<std::string> find_commit(const Repository& repository, const std::string& revision, const HubOptions& options,
                                       const HubCallbacks& callbacks) {
  try {
    HttpClient client(options.stall, callbacks.stop);
    return ask_commit(client, repository, revision, options, callbacks);
  } catch (const Stopped&) {
    return std::nullopt;
  }
}

std::optional<Listing> list_repository(const Repository& repository, const std::string& revision, const std::string& folder,
                                       const HubOptions& options, const HubCallbacks& callbacks) {
  try {
    return list(repository, revision, folder, options, callbacks);
  } catch (const Stopped&) {
    return std::nullopt;
  }
}

}  // namespace stableqat::hub
