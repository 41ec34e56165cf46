// tokenizer.json: the serialization of Hugging Face's `tokenizers` (its docs, "Components"); tokenizer_config.json: that of `transformers`.
#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>

#include "io/strict_json.h"
#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "tokenizer/readers.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

// What a model folder may hold for its tokenizer beside tokenizer.json.
constexpr std::array<std::string_view, 7> kSettingsFiles = {"tokenizer_config.json",
                                                            "special_tokens_map.json",
                                                            "added_tokens.json",
                                                            "chat_template.json",
                                                            "chat_template.jinja",
                                                            "vocab.json",
                                                            "merges.txt"};

constexpr int kDeepestJson = 32;

// The member, or null.
const Json& member(const Json& object, const char* key) {
  static const Json kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

bool flag(const Json& object, const char* key, bool absent) {
  const Json& value = member(object, key);
  return value.is_null() ? absent : value.get<bool>();
}

class Reader {
 public:
  explicit Reader(std::string name) { spec_.source = std::move(name); }

  TokenizerSpec read(const Json& root) {
    try {
      read_model(member(root, "model"));
      read_normalizer(member(root, "normalizer"));
      read_added_tokens(member(root, "added_tokens"));
      check_unique();
      resolve_merges(spec_, merges_);
      read_pre_tokenizer(member(root, "pre_tokenizer"), member(root, "normalizer"));
      read_post_processor(member(root, "post_processor"));
      read_decoder(member(root, "decoder"));
    } catch (const Json::exception& error) {
      throw DataError({spec_.source, error.what(), "a tokenizer.json of Hugging Face's tokenizers", "fetch the file again"});
    }
    return std::move(spec_);
  }

 private:
  static std::string type_of(const Json& step) { return step.is_object() ? step.value("type", "") : ""; }

  [[noreturn]] void reject(const std::string& part, const std::string& found, const std::string& expected) const {
    throw ConfigError(
        {spec_.source + ", " + part, found, expected, "this tokenizer is not supported; use a model with a byte-level BPE tokenizer"});
  }

  void reject_unless(const Json& step, const std::string& part, bool supported, const std::string& expected) const {
    if (supported) return;
    const std::string text = step.dump(-1, ' ', true);
    reject(part, text.size() > 200 ? text.substr(0, 200) + "..." : text, expected);
  }

  std::int64_t integer(const Json& value, const std::string& part) const {
    if (!value.is_number_integer()) fail(part, value.dump(), "an integer");
    return value.get<std::int64_t>();
  }

  [[noreturn]] void fail(const std::string& part, const std::string& found, const std::string& expected) const {
    throw DataError({spec_.source + ", " + part, found, expected, "fetch the file again"});
  }

  void read_model(const Json& model) {
    if (!model.is_object()) fail("model", model.is_null() ? "nothing" : "no object", "an object");
    const std::string type = model.value("type", "BPE");
    if (type != "BPE") reject("model.type", "\"" + type + "\"", "\"BPE\"");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Json& value = member(model, key);
      reject_unless(value, std::string("model.") + key, value.is_null() || value.get<std::string>().empty(), "none");
    }
    reject_unless(member(model, "dropout"), "model.dropout", member(model, "dropout").is_null() || member(model, "dropout") == 0.0, "none");
    if (flag(model, "byte_fallback", false)) spec_.spelling = Spelling::kSentencePiece;
    spec_.ignore_merges = flag(model, "ignore_merges", false);
    spec_.fuse_unknown = flag(model, "fuse_unk", false);
    read_vocabulary(member(model, "vocab"));
    // A name that is not in the vocabulary matters only where a byte has no token.
    const Json& unknown = member(model, "unk_token");
    if (!unknown.is_null()) spec_.unknown_id = id_of(unknown.get<std::string>());
    read_merges(member(model, "merges"));
  }

  void read_vocabulary(const Json& vocabulary) {
    if (!vocabulary.is_object() || vocabulary.empty()) {
      fail("model.vocab", vocabulary.is_null() ? "nothing" : "no tokens", "tokens and their ids");
    }
    for (const auto& [token, id] : vocabulary.items()) place(token, integer(id, "model.vocab"), vocabulary.size(), "model.vocab");
  }

  // Ids may leave gaps, but not so wide that the table would be mostly empty.
  void place(const std::string& token, std::int64_t id, std::size_t known, const std::string& part) {
    const auto limit = static_cast<std::int64_t>(2 * known + 65536);
    if (token.empty()) fail(part, "an empty token", "tokens of at least one character");
    if (id < 0 || id >= limit) {
      fail(part + ", \"" + token + "\"", "id " + std::to_string(id), "an id from 0 to " + std::to_string(limit - 1));
    }
    const auto index = static_cast<std::size_t>(id);
    if (index >= spec_.spelled.size()) spec_.spelled.resize(index + 1);
    std::string& place = spec_.spelled[index];
    if (!place.empty() && place != token) {
      fail(part, "id " + std::to_string(id) + " for \"" + place + "\" and \"" + token + "\"", "one token for each id");
    }
    place = token;
  }

  std::optional<std::int32_t> id_of(const std::string& token) const {
    const auto found = std::find(spec_.spelled.begin(), spec_.spelled.end(), token);
    if (token.empty() || found == spec_.spelled.end()) return std::nullopt;
    return static_cast<std::int32_t>(found - spec_.spelled.begin());
  }

  void read_merges(const Json& merges) {
    if (!merges.is_array()) fail("model.merges", merges.is_null() ? "nothing" : "no list", "a list of merges");
    merges_.reserve(merges.size());
    for (const Json& merge : merges) {
      if (merge.is_array() && merge.size() == 2) {
        merges_.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
        continue;
      }
      const std::string line = merge.get<std::string>();
      const std::size_t blank = line.find(' ');
      if (blank == std::string::npos) fail("model.merges[" + std::to_string(merges_.size()) + "]", "\"" + line + "\"", "two tokens");
      merges_.emplace_back(line.substr(0, blank), line.substr(blank + 1));
    }
  }

  void read_added_tokens(const Json& tokens) {
    if (tokens.is_null()) return;
    for (const Json& entry : tokens) {
      AddedToken token;
      token.text = entry.at("content").get<std::string>();
      token.special = flag(entry, "special", false);
      token.lstrip = flag(entry, "lstrip", false);
      token.rstrip = flag(entry, "rstrip", false);
      token.normalized = flag(entry, "normalized", !token.special);
      if (flag(entry, "single_word", false)) {
        reject("added_tokens, \"" + token.text + "\"", "single_word", "tokens that are found anywhere");
      }
      const std::int64_t id = integer(entry.at("id"), "added_tokens");
      place(token.text, id, spec_.spelled.size() + tokens.size(), "added_tokens");
      token.id = static_cast<std::int32_t>(id);
      spec_.added.push_back(std::move(token));
    }
    std::sort(spec_.added.begin(), spec_.added.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  }

  void check_unique() const {
    std::map<std::string_view, std::size_t> ids;
    for (std::size_t id = 0; id < spec_.spelled.size(); ++id) {
      if (spec_.spelled[id].empty()) continue;
      const auto [place, added] = ids.emplace(spec_.spelled[id], id);
      if (!added) {
        fail("\"" + spec_.spelled[id] + "\"", "ids " + std::to_string(place->second) + " and " + std::to_string(id),
             "one id for each token");
      }
    }
    for (std::size_t i = 1; i < spec_.added.size(); ++i) {
      if (spec_.added[i].id == spec_.added[i - 1].id) {
        fail("added_tokens", "id " + std::to_string(spec_.added[i].id) + " twice", "each id once");
      }
    }
  }

  // Sequences of sequences as one list.
  static void flatten(const Json& step, const char* list, std::vector<const Json*>& steps) {
    if (type_of(step) != "Sequence") {
      steps.push_back(&step);
      return;
    }
    for (const Json& inner : step.at(list)) flatten(inner, list, steps);
  }

  // None or NFC; of a SentencePiece vocabulary: a blank in front, and U+2581 for every blank.
  void read_normalizer(const Json& normalizer) {
    std::vector<const Json*> steps;
    if (!normalizer.is_null()) flatten(normalizer, "normalizers", steps);
    const bool sentencepiece = spec_.spelling == Spelling::kSentencePiece;
    if (sentencepiece) spec_.leading_blank = LeadingBlank::kNever;
    for (const Json* step : steps) {
      const std::string type = type_of(*step);
      if (type == "NFC" && !sentencepiece && steps.size() == 1) {
        spec_.normal_form_c = true;
      } else if (sentencepiece && type == "Prepend" && member(*step, "prepend") == kBlankMark) {
        spec_.leading_blank = LeadingBlank::kAlways;
        spec_.doubles_leading_blank = true;
      } else if (!(sentencepiece && type == "Replace" && replaces(*step, " ", kBlankMark))) {
        reject_unless(*step, "normalizer", false, "none, NFC, or SentencePiece's Prepend and Replace of blanks");
      }
    }
    if (sentencepiece && !steps.empty() && type_of(*steps.back()) != "Replace") {
      reject_unless(normalizer, "normalizer", false, "Replace of blanks as the last step");
    }
  }

  static bool replaces(const Json& step, std::string_view from, std::string_view to) {
    const Json& pattern = member(step, "pattern");
    return pattern.is_object() && member(pattern, "String") == from && member(step, "content") == to;
  }

  // A text of a SentencePiece vocabulary is one word; blanks are marked by the normalizer or by this step.
  void read_metaspace(const Json& step, const Json& normalizer) {
    if (step.is_null()) return reject_unless(normalizer, "normalizer", !normalizer.is_null(), "Prepend and Replace of blanks");
    const bool plain = type_of(step) == "Metaspace" && !flag(step, "split", true) && member(step, "replacement") == kBlankMark;
    const std::string scheme = plain ? step.value("prepend_scheme", "always") : "";
    if (scheme == "always") {
      spec_.leading_blank = LeadingBlank::kAlways;
    } else if (scheme == "first") {
      spec_.leading_blank = LeadingBlank::kFirst;
    } else if (scheme != "never") {
      reject_unless(step, "pre_tokenizer", false, "none, or Metaspace that does not split");
    }
    reject_unless(normalizer, "normalizer", normalizer.is_null(), "none beside Metaspace");
  }

  // What ids become: bytes, or SentencePiece's steps in their usual order.
  void read_decoder(const Json& decoder) {
    std::vector<const Json*> steps;
    if (!decoder.is_null()) flatten(decoder, "decoders", steps);
    for (const Json* step : steps) {
      const std::string type = type_of(*step);
      const bool sentencepiece = spec_.spelling == Spelling::kSentencePiece;
      if (sentencepiece && type == "Strip") {
        const bool first_blank = member(*step, "content") == " " && member(*step, "start") == 1 && member(*step, "stop") == 0;
        reject_unless(*step, "decoder", first_blank, "Strip of one blank in front");
        spec_.drops_leading_blank = true;
      } else if (sentencepiece && type == "Metaspace") {
        spec_.drops_leading_blank = step->value("prepend_scheme", "always") != "never";
      } else {
        const bool known = sentencepiece ? type == "Replace" || type == "ByteFallback" || type == "Fuse" : type == "ByteLevel";
        reject_unless(*step, "decoder", known, "ByteLevel, or SentencePiece's steps");
      }
    }
  }

  void read_pre_tokenizer(const Json& pre_tokenizer, const Json& normalizer) {
    if (spec_.spelling == Spelling::kSentencePiece) return read_metaspace(pre_tokenizer, normalizer);
    std::vector<const Json*> steps;
    flatten(pre_tokenizer, "pretokenizers", steps);
    bool has_pattern = false;
    bool has_bytes = false;
    for (const Json* step : steps) {
      const std::string type = type_of(*step);
      const bool in_order = !has_bytes && !(has_pattern && type != "ByteLevel");
      if (in_order && type == "Digits" && flag(*step, "individual_digits", false)) {
        spec_.pre_tokenizer.split_digits = true;
      } else if (in_order && type == "Split" && read_split(*step)) {
        has_pattern = true;
      } else if (in_order && type == "ByteLevel" && !flag(*step, "add_prefix_space", true) &&
                 flag(*step, "use_regex", true) != has_pattern) {
        has_bytes = true;
      } else {
        reject_unless(*step, "pre_tokenizer", false,
                      "Digits(individual), Split(expression of GPT-2, Llama 3 or Qwen2), ByteLevel(no prefix space)");
      }
    }
    if (!has_bytes) reject_unless(pre_tokenizer, "pre_tokenizer", false, "ByteLevel as the last step");
    if (spec_.pre_tokenizer.split_digits && spec_.pre_tokenizer.pattern != WordPattern::kGpt2) {
      reject_unless(pre_tokenizer, "pre_tokenizer", false, "Digits together with the expression of GPT-2 only");
    }
  }

  // Isolated matches, or inverted and removed: the same, as the expressions match every character.
  bool read_split(const Json& step) {
    const std::string behavior = step.at("behavior").get<std::string>();
    const bool invert = flag(step, "invert", false);
    if (!(behavior == "Isolated" && !invert) && !(behavior == "Removed" && invert)) return false;
    const Json& expression = member(step.at("pattern"), "Regex");
    const auto pattern = expression.is_string() ? pattern_of(expression.get<std::string>()) : std::nullopt;
    if (pattern) spec_.pre_tokenizer.pattern = *pattern;
    return pattern.has_value();
  }

  void read_post_processor(const Json& processor) {
    const std::string type = type_of(processor);
    if (processor.is_null() || type == "ByteLevel") return;
    if (type == "Sequence") {
      for (const Json& inner : processor.at("processors")) read_post_processor(inner);
    } else if (type == "TemplateProcessing") {
      read_template(processor);
    } else {
      reject_unless(processor, "post_processor", false, "none, ByteLevel or TemplateProcessing");
    }
  }

  void read_template(const Json& processor) {
    if (!spec_.prefix.empty() || !spec_.suffix.empty()) reject("post_processor", "two templates", "one");
    bool after_text = false;
    for (const Json& piece : processor.at("single")) {
      if (piece.contains("Sequence")) {
        after_text = true;
        continue;
      }
      const std::string name = piece.at("SpecialToken").at("id").get<std::string>();
      for (const Json& value : processor.at("special_tokens").at(name).at("ids")) {
        const std::int64_t id = integer(value, "post_processor");
        if (id < 0 || id >= static_cast<std::int64_t>(spec_.spelled.size())) {
          fail("post_processor", "id " + std::to_string(id), "an id of the vocabulary");
        }
        (after_text ? spec_.suffix : spec_.prefix).push_back(static_cast<std::int32_t>(id));
      }
    }
  }

  TokenizerSpec spec_;
  std::vector<std::pair<std::string, std::string>> merges_;
};

// A special token of tokenizer_config.json or special_tokens_map.json: its text, or an object with it.
std::optional<std::int32_t> named_token(const TokenizerSpec& spec, const Json& settings, const char* key) {
  const Json& value = member(settings, key);
  const Json& text = value.is_object() ? member(value, "content") : value;
  if (!text.is_string()) return std::nullopt;
  const auto found = std::find(spec.spelled.begin(), spec.spelled.end(), text.get<std::string>());
  if (found == spec.spelled.end() || found->empty()) return std::nullopt;
  return static_cast<std::int32_t>(found - spec.spelled.begin());
}

// A template, or a list of named ones.
std::string chat_template_of(const Json& settings) {
  const Json& value = member(settings, "chat_template");
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return "";
  for (const Json& entry : value) {
    if (entry.is_object() && member(entry, "name") == "default" && member(entry, "template").is_string()) {
      return entry["template"].get<std::string>();
    }
  }
  return "";
}

const std::string* content_of(const TokenizerSpec& spec, std::string_view name) {
  for (const OriginalFile& file : spec.original_files) {
    if (file.name == name) return &file.content;
  }
  return nullptr;
}

void read_settings(TokenizerSpec& spec, const fs::path& folder) {
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::string* content = content_of(spec, name);
    if (content == nullptr) continue;
    const std::string where = (folder / name).string();
    const Json settings = io::parse_strict_json(*content, where, kDeepestJson);
    if (!settings.is_object()) throw DataError({where, "no object", "an object of settings", "fetch the file again"});
    if (!spec.bos_id) spec.bos_id = named_token(spec, settings, "bos_token");
    if (!spec.eos_id) spec.eos_id = named_token(spec, settings, "eos_token");
    if (!spec.pad_id) spec.pad_id = named_token(spec, settings, "pad_token");
    if (spec.chat_template.empty()) spec.chat_template = chat_template_of(settings);
  }
  if (const std::string* chat_template = content_of(spec, "chat_template.jinja")) spec.chat_template = *chat_template;
}

}  // namespace

TokenizerSpec read_tokenizer_json(std::string_view json, const std::string& name) {
  TokenizerSpec spec = Reader(name).read(io::parse_strict_json(json, name, kDeepestJson));
  spec.original_files = {{"tokenizer.json", std::string(json)}};
  return spec;
}

TokenizerSpec read_huggingface_tokenizer(const fs::path& path) {
  std::error_code ignored;
  const fs::path file = fs::is_directory(path, ignored) ? path / "tokenizer.json" : path;
  const fs::path folder = file.parent_path();
  TokenizerSpec spec = read_tokenizer_json(read_text_file(file), file.string());
  for (const std::string_view name : kSettingsFiles) {
    if (fs::exists(folder / name, ignored)) spec.original_files.push_back({std::string(name), read_text_file(folder / name)});
  }
  read_settings(spec, folder);
  return spec;
}

}  // namespace stableqat
