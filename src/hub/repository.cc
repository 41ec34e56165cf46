#include "stableqat/hub/repository.h"

#include <fnmatch.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "hub/address.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat::hub {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxNameLength = 96;

bool is_letter_or_digit(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

// The Hub's rule: letters, digits, '-', '_', '.'; none of the marks twice in a row except '_', none at an end.
bool is_name_part(std::string_view part) {
  const auto allowed = [](char c) { return is_letter_or_digit(c) || c == '-' || c == '_' || c == '.'; };
  return !part.empty() && std::all_of(part.begin(), part.end(), allowed) && part.find("--") == part.npos && part.find("..") == part.npos &&
         part.front() != '-' && part.front() != '.' && part.back() != '-' && part.back() != '.';
}

const char* type_plural(RepositoryType type) { return type == RepositoryType::kModel ? "models" : "datasets"; }

// "" when unset.
std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

fs::path first_path(std::initializer_list<const char*> names, const fs::path& otherwise) {
  for (const char* name : names) {
    if (const std::string value = environment(name); !value.empty()) return value;
  }
  return otherwise;
}

std::string without_space(std::string text) {
  std::erase_if(text, [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; });
  return text;
}

std::string token_from(const fs::path& home) {
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}) {
    if (std::string token = without_space(environment(name)); !token.empty()) return token;
  }
  const fs::path file = first_path({"HF_TOKEN_PATH"}, home / "token");
  std::error_code absent;
  return fs::is_regular_file(file, absent) ? without_space(read_text_file(file)) : "";
}

}  // namespace

Repository make_repository(RepositoryType type, std::string name) {
  const std::size_t slash = name.find('/');
  const std::string_view view = name;
  const bool good = name.size() <= kMaxNameLength && is_name_part(view.substr(0, slash)) &&
                    (slash == std::string::npos || is_name_part(view.substr(slash + 1)));
  if (!good) throw ConfigError({"repository", "'" + name + "'", "a name such as organization/name", "copy it from the repository's page"});
  return {type, std::move(name)};
}

HubOptions hub_options_from_environment() {
  HubOptions options;
  const fs::path user = first_path({"HOME"}, ".");
  const fs::path home = first_path({"HF_HOME"}, first_path({"XDG_CACHE_HOME"}, user / ".cache") / "huggingface");
  options.cache = first_path({"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}, home / "hub");
  options.token = token_from(home);
  const auto is_visible = [](char c) { return c > ' ' && c < 0x7f; };
  if (!std::all_of(options.token.begin(), options.token.end(), is_visible)) {
    throw ConfigError({"HF_TOKEN", "a token with characters that no token has", "hf_ and letters and digits", "copy it again"});
  }
  if (std::string endpoint = environment("HF_ENDPOINT"); !endpoint.empty()) {
    while (endpoint.ends_with('/')) endpoint.pop_back();
    if (!endpoint.starts_with("https://") && !endpoint.starts_with("http://")) {
      throw ConfigError({"HF_ENDPOINT", "'" + endpoint + "'", "an address that begins with https://", ""});
    }
    options.endpoint = std::move(endpoint);
  }
  return options;
}

std::vector<HubFile> select_files(std::span<const HubFile> files, std::span<const std::string> include,
                                  std::span<const std::string> exclude) {
  const auto matches_one = [](const std::string& path, std::span<const std::string> patterns) {
    return std::any_of(patterns.begin(), patterns.end(),
                       [&path](const std::string& pattern) { return ::fnmatch(pattern.c_str(), path.c_str(), 0) == 0; });
  };
  std::vector<HubFile> selected;
  for (const HubFile& file : files) {
    if ((include.empty() || matches_one(file.path, include)) && !matches_one(file.path, exclude)) selected.push_back(file);
  }
  return selected;
}

std::string percent_encoded(std::string_view path) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string encoded;
  for (const char c : path) {
    if (is_letter_or_digit(c) || c == '-' || c == '_' || c == '.' || c == '~' || c == '/') {
      encoded += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      encoded += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return encoded;
}

std::string page_name(const Repository& repository) {
  return (repository.type == RepositoryType::kDataset ? "datasets/" : "") + repository.name;
}

std::string folder_name(const Repository& repository) {
  std::string name = type_plural(repository.type);
  for (std::size_t begin = 0; begin != std::string::npos;) {
    const std::size_t slash = repository.name.find('/', begin);
    name += "--" + repository.name.substr(begin, slash - begin);
    begin = slash == std::string::npos ? slash : slash + 1;
  }
  return name;
}

std::string api_address(const Repository& repository, const HubOptions& options) {
  return options.endpoint + "/api/" + type_plural(repository.type) + "/" + repository.name;
}

std::string file_address(const Repository& repository, const std::string& commit, const std::string& path, const HubOptions& options) {
  return options.endpoint + "/" + page_name(repository) + "/resolve/" + commit + "/" + percent_encoded(path);
}

}  // namespace stableqat::hub
