// Keys: ggml's docs/gguf.md, "Tokenizer".
#include <algorithm>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "stableqat/base/error.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/gguf_rules.h"
#include "tokenizer/readers.h"
#include "tokenizer/utf8.h"

namespace stableqat {

namespace {

Spelling spelling_of(const GgufFile& file) {
  const std::string where = file.path().string();
  const auto model = file.get_string(gguf_key("model"));
  if (!model) {
    throw DataError(
        {where, "no key " + gguf_key("model"), "a model file with its tokenizer", "convert the model again, vocabulary included"});
  }
  if (*model == "gpt2") return Spelling::kByteLevel;
  if (*model == "llama") return Spelling::kSentencePiece;
  throw ConfigError({where + ", " + gguf_key("model"), "\"" + *model + "\"", "\"gpt2\" (byte-level BPE) or \"llama\" (SentencePiece BPE)",
                     "use a model with such a tokenizer"});
}

const GgufPreTokenizer& rules_of(const GgufFile& file) {
  const std::string where = file.path().string();
  const auto pre = file.get_string(gguf_key("pre"));
  for (const GgufPreTokenizer& rules : kGgufPreTokenizers) {
    if (pre == rules.name) return rules;
  }
  std::string names;
  for (const GgufPreTokenizer& rules : kGgufPreTokenizers) names += (names.empty() ? "" : ", ") + std::string(rules.name);
  throw ConfigError({where + ", " + gguf_key("pre"), pre ? "\"" + *pre + "\"" : "nothing", "one of " + names,
                     "start from the model's Hugging Face folder instead"});
}

void read_vocabulary(const GgufFile& file, TokenizerSpec& spec) {
  const auto* tokens = file.get_strings(gguf_key("tokens"));
  const auto* types = file.get_ints(gguf_key("token_type"));
  if (tokens == nullptr || tokens->empty()) {
    throw DataError({spec.source, "no key " + gguf_key("tokens"), "a vocabulary", "convert the model again"});
  }
  if (types != nullptr && types->size() != tokens->size()) {
    throw DataError({spec.source + ", " + gguf_key("token_type"), std::to_string(types->size()) + " entries",
                     std::to_string(tokens->size()), "convert the model again"});
  }
  spec.spelled = *tokens;
  std::unordered_set<std::string_view> seen;
  std::vector<std::size_t> unused;
  for (std::size_t id = 0; id < spec.spelled.size(); ++id) {
    const std::string& token = spec.spelled[id];
    if (!is_utf8(token)) {
      throw DataError({spec.source + ", " + gguf_key("tokens") + "[" + std::to_string(id) + "]", "bytes that are not UTF-8",
                       "tokens in byte-to-unicode spelling", "convert the model again"});
    }
    if (token.empty() || !seen.insert(token).second) {
      throw DataError({spec.source + ", " + gguf_key("tokens") + "[" + std::to_string(id) + "]",
                       token.empty() ? "an empty token" : "token \"" + token + "\" for the second time", "unique tokens",
                       "convert the model again"});
    }
    const auto type = static_cast<GgufTokenType>(types == nullptr ? 1 : (*types)[id]);
    if (type == GgufTokenType::kUnused && spec.spelling == Spelling::kByteLevel) unused.push_back(id);
    const bool is_special =
        type == GgufTokenType::kControl || (type == GgufTokenType::kUnknown && spec.spelling == Spelling::kSentencePiece);
    if (!is_special && type != GgufTokenType::kUserDefined) continue;
    AddedToken added;
    added.id = static_cast<std::int32_t>(id);
    added.text = token;
    added.special = is_special;
    spec.added.push_back(std::move(added));
  }
  // Converters fill ids that no token has, up to the rows of the embedding.
  for (const std::size_t id : unused) spec.spelled[id].clear();
  while (!spec.spelled.empty() && spec.spelled.back().empty()) spec.spelled.pop_back();
  if (spec.spelled.empty()) throw DataError({spec.source, "unused tokens only", "a vocabulary", "convert the model again"});
}

void read_merges(const GgufFile& file, TokenizerSpec& spec) {
  const auto* lines = file.get_strings(gguf_key("merges"));
  if (lines == nullptr) {
    throw DataError({spec.source, "no key " + gguf_key("merges"), "the merges of a BPE tokenizer", "convert the model again"});
  }
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(lines->size());
  for (std::size_t rank = 0; rank < lines->size(); ++rank) {
    const std::string& line = (*lines)[rank];
    const std::size_t blank = line.find(' ', 1);
    if (blank == std::string::npos || blank + 1 == line.size()) {
      throw DataError({spec.source + ", " + gguf_key("merges") + "[" + std::to_string(rank) + "]", "\"" + line + "\"",
                       "two tokens with a blank between", "convert the model again"});
    }
    merges.emplace_back(line.substr(0, blank), line.substr(blank + 1));
  }
  resolve_merges(spec, merges);
}

// SentencePiece keeps a score for each token instead of merges: a pair is merged the earlier, the higher the score of the token that it
// makes. As transformers' converter does, every way to cut a token into two others becomes a merge.
void make_merges_of_scores(const GgufFile& file, TokenizerSpec& spec) {
  const auto* scores = file.get_floats(gguf_key("scores"));
  if (scores == nullptr || scores->size() != spec.spelled.size()) {
    throw DataError({spec.source, scores == nullptr ? "no key " + gguf_key("scores") : std::to_string(scores->size()) + " scores",
                     "one for each of the " + std::to_string(spec.spelled.size()) + " tokens", "convert the model again"});
  }
  std::unordered_map<std::string_view, std::int32_t> ids;
  for (std::size_t id = 0; id < spec.spelled.size(); ++id) {
    if (!sentencepiece_byte(spec.spelled[id])) ids.emplace(spec.spelled[id], static_cast<std::int32_t>(id));
  }
  for (const AddedToken& token : spec.added) ids.erase(token.text);
  const auto id_of = [&ids](std::string_view token) {
    const auto found = ids.find(token);
    return found == ids.end() ? -1 : found->second;
  };
  for (const auto& [token, id] : ids) {
    const char* const end = token.data() + token.size();
    for (const char* at = token.data() + read_utf8(token.data(), end).length; at < end; at += read_utf8(at, end).length) {
      const auto length = static_cast<std::size_t>(at - token.data());
      const Merge merge{id_of(token.substr(0, length)), id_of(token.substr(length)), id};
      if (merge.left >= 0 && merge.right >= 0) spec.merges.push_back(merge);
    }
  }
  const auto order = [scores](const Merge& merge) {
    return std::tuple(-(*scores)[static_cast<std::size_t>(merge.result)], merge.result, merge.left, merge.right);
  };
  std::sort(spec.merges.begin(), spec.merges.end(), [&order](const Merge& a, const Merge& b) { return order(a) < order(b); });
}

std::optional<std::int32_t> read_id(const GgufFile& file, const TokenizerSpec& spec, std::string_view name) {
  const auto id = file.get_int(gguf_key(name));
  if (!id) return std::nullopt;
  const auto count = static_cast<std::int64_t>(spec.spelled.size());
  if (*id < 0 || *id >= count) {
    throw DataError(
        {spec.source + ", " + gguf_key(name), std::to_string(*id), "an id below " + std::to_string(count), "convert the model again"});
  }
  return static_cast<std::int32_t>(*id);
}

}  // namespace

TokenizerSpec read_gguf_tokenizer(const GgufFile& file) {
  TokenizerSpec spec;
  spec.source = file.path().string();
  spec.spelling = spelling_of(file);
  bool adds_bos = true;
  if (spec.spelling == Spelling::kSentencePiece) {
    read_vocabulary(file, spec);
    make_merges_of_scores(file, spec);
    spec.fuse_unknown = true;
    spec.unknown_id = read_id(file, spec, "unknown_token_id");
    if (!file.get_bool(gguf_key("add_space_prefix")).value_or(true)) spec.leading_blank = LeadingBlank::kNever;
    spec.doubles_leading_blank = spec.drops_leading_blank = spec.leading_blank == LeadingBlank::kAlways;
  } else {
    const GgufPreTokenizer& rules = rules_of(file);
    spec.pre_tokenizer = rules.pre_tokenizer;
    spec.ignore_merges = rules.ignore_merges;
    spec.normal_form_c = rules.normal_form_c;
    adds_bos = rules.adds_bos;
    read_vocabulary(file, spec);
    read_merges(file, spec);
  }
  spec.bos_id = read_id(file, spec, "bos_token_id");
  spec.eos_id = read_id(file, spec, "eos_token_id");
  spec.pad_id = read_id(file, spec, "padding_token_id");
  spec.named_unknown_id = read_id(file, spec, "unknown_token_id");
  if (spec.bos_id && file.get_bool(gguf_key("add_bos_token")).value_or(adds_bos)) spec.prefix = {*spec.bos_id};
  if (spec.eos_id && file.get_bool(gguf_key("add_eos_token")).value_or(false)) spec.suffix = {*spec.eos_id};
  spec.chat_template = file.get_string("tokenizer.chat_template").value_or("");
  return spec;
}

}  // namespace stableqat
