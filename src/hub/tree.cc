#include "hub/tree.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "hub/digest.h"
#include "io/strict_json.h"
#include "stableqat/base/error.h"

namespace stableqat::hub {

namespace {

constexpr int kMaxPageDepth = 32;
constexpr std::size_t kCommitDigits = 40;

[[noreturn]] void throw_not_the_hub(const std::string& where, const std::string& found, const std::string& expected) {
  throw DataError({where, found, expected, "check that HF_ENDPOINT names a Hugging Face Hub"});
}

std::string text_at(const nlohmann::json& object, const char* key, const std::string& where) {
  const auto value = object.find(key);
  if (value == object.end() || !value->is_string())
    throw_not_the_hub(where, std::string("an entry without \"") + key + "\"", "a text under it");
  return value->get<std::string>();
}

HubFile parse_file(const nlohmann::json& entry, const std::string& where) {
  HubFile file;
  file.path = text_at(entry, "path", where);
  if (!is_safe_path(file.path)) throw_not_the_hub(where, "the path " + nlohmann::json(file.path).dump(), "a path inside the repository");
  const auto lfs = entry.find("lfs");
  const bool is_large = lfs != entry.end() && lfs->is_object();
  const nlohmann::json& content = is_large ? *lfs : entry;
  file.digest = text_at(content, "oid", where);
  const auto size = content.find("size");
  if (!is_digest(file.digest) || size == content.end() || !size->is_number_unsigned()) {
    throw_not_the_hub(where, "no size or digest for " + file.path, "both");
  }
  file.bytes = size->get<std::uint64_t>();
  return file;
}

}  // namespace

bool is_safe_path(std::string_view path) {
  const auto is_bad = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '\\'; };
  if (std::any_of(path.begin(), path.end(), is_bad)) return false;
  while (true) {
    const std::size_t end = path.find('/');
    const std::string_view part = path.substr(0, end);
    if (part.empty() || part == "." || part == "..") return false;
    if (end == std::string_view::npos) return true;
    path.remove_prefix(end + 1);
  }
}

std::string parse_commit(std::string_view json, const std::string& where) {
  const nlohmann::json description = io::parse_strict_json(json, where, kMaxPageDepth);
  if (!description.is_object()) throw_not_the_hub(where, "no JSON object", "the description of a revision");
  std::string commit = text_at(description, "sha", where);
  if (commit.size() != kCommitDigits || !is_digest(commit))
    throw_not_the_hub(where, "\"sha\": " + nlohmann::json(commit).dump(), "a commit");
  return commit;
}

std::size_t parse_tree_page(std::string_view json, const std::string& where, std::vector<HubFile>& files) {
  const nlohmann::json page = io::parse_strict_json(json, where, kMaxPageDepth);
  if (!page.is_array()) throw_not_the_hub(where, "no JSON array", "a list of files");
  for (const nlohmann::json& entry : page) {
    if (!entry.is_object()) throw_not_the_hub(where, "an entry that is no object", "files and folders");
    if (text_at(entry, "type", where) == "file") files.push_back(parse_file(entry, where));
  }
  return page.size();
}

std::string next_page_query(std::string_view link_header) {
  std::size_t at = 0;
  while ((at = link_header.find('<', at)) != std::string_view::npos) {
    const std::size_t end = link_header.find('>', at);
    if (end == std::string_view::npos) return "";
    const std::string_view target = link_header.substr(at + 1, end - at - 1);
    const std::string_view parameters = link_header.substr(end, link_header.find('<', end) - end);
    const std::size_t query = target.find('?');
    if (parameters.find("rel=\"next\"") != std::string_view::npos && query != std::string_view::npos)
      return std::string(target.substr(query));
    at = end;
  }
  return "";
}

}  // namespace stableqat::hub
