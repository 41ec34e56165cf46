#include "data/token_file_info.h"

#include <nlohmann/json.hpp>

#include "stableqat/base/error.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

// One list of members for both directions.
template <class Info, class Visit>
void visit_members(Info& info, const Visit& visit) {
  visit("tool", info.tool);
  visit("tokenizer_hash", info.tokenizer_hash);
  visit("vocabulary_size", info.vocabulary_size);
  visit("end_of_text", info.end_of_text);
  visit("documents", info.documents);
  visit("tokens", info.tokens);
  visit("text_bytes", info.text_bytes);
  visit("empty_documents", info.empty_documents);
  visit("bad_lines", info.bad_lines);
  visit("shard_index", info.shard_index);
  visit("shard_count", info.shard_count);
}

}  // namespace

std::string to_json_text(const TokenFileInfo& info) {
  nlohmann::ordered_json object;
  visit_members(info, [&object](const char* key, const auto& value) { object[key] = value; });
  object["sources"] = nlohmann::ordered_json::array();
  for (const TextSource& source : info.sources) {
    object["sources"].push_back({{"path", source.path.string()}, {"bytes", source.bytes}, {"hash", source.hash}});
  }
  // A path need not be UTF-8.
  return object.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

TokenFileInfo token_file_info_from_text(const std::string& text, const std::string& where) {
  try {
    const Json object = Json::parse(text);
    TokenFileInfo info;
    visit_members(info, [&object](const char* key, auto& value) { object.at(key).get_to(value); });
    for (const Json& source : object.at("sources")) {
      info.sources.push_back({source.at("path").get<std::string>(), source.at("bytes"), source.at("hash")});
    }
    return info;
  } catch (const Json::exception& error) {
    throw DataError({where, error.what(), "the description written beside token files", "tokenize the text again"});
  }
}

std::optional<TokenFileInfo> read_token_file_info(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  return token_file_info_from_text(read_text_file(path), path.string());
}

}  // namespace stableqat
