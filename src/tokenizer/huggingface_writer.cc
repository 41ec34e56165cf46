#include <nlohmann/json.hpp>

#include "tokenizer/readers.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

Json added_token(const AddedToken& token) {
  return {{"content", token.text},  {"single_word", false},           {"lstrip", token.lstrip},
          {"rstrip", token.rstrip}, {"normalized", token.normalized}, {"special", token.special}};
}

Json pre_tokenizer(const PreTokenizer& rules) {
  const auto bytes = [](bool use_regex) {
    return Json{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
  };
  Json steps = Json::array();
  if (rules.split_digits) steps.push_back(Json{{"type", "Digits"}, {"individual_digits", true}});
  if (rules.pattern != WordPattern::kGpt2) {
    steps.push_back(
        Json{{"type", "Split"}, {"pattern", {{"Regex", expression_of(rules.pattern)}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  steps.push_back(bytes(rules.pattern == WordPattern::kGpt2));
  return steps.size() == 1 ? steps[0] : Json{{"type", "Sequence"}, {"pretokenizers", steps}};
}

// SentencePiece's blanks, as Llama 2's tokenizer.json has them.

Json sentencepiece_normalizer(const TokenizerSpec& spec) {
  const Json marks{{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kBlankMark}};
  if (spec.leading_blank == LeadingBlank::kNever) return {{"type", "Sequence"}, {"normalizers", Json::array({marks})}};
  return {{"type", "Sequence"}, {"normalizers", Json::array({Json{{"type", "Prepend"}, {"prepend", kBlankMark}}, marks})}};
}

Json sentencepiece_decoder(const TokenizerSpec& spec) {
  Json steps = Json::array({Json{{"type", "Replace"}, {"pattern", {{"String", kBlankMark}}}, {"content", " "}},
                            Json{{"type", "ByteFallback"}}, Json{{"type", "Fuse"}}});
  if (spec.drops_leading_blank) steps.push_back(Json{{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", steps}};
}

Json post_processor(const TokenizerSpec& spec) {
  if (spec.prefix.empty() && spec.suffix.empty()) return nullptr;
  Json single = Json::array();
  Json pair = Json::array();
  Json special_tokens = Json::object();
  const auto append_ids = [&](const std::vector<std::int32_t>& ids, int type_id) {
    for (const std::int32_t id : ids) {
      const std::string& token = spec.spelled[static_cast<std::size_t>(id)];
      const Json piece = {{"SpecialToken", {{"id", token}, {"type_id", type_id}}}};
      if (type_id == 0) single.push_back(piece);
      pair.push_back(piece);
      special_tokens[token] = {{"id", token}, {"ids", Json::array({id})}, {"tokens", Json::array({token})}};
    }
  };
  const auto append_text = [](Json& pieces, const char* name, int type_id) {
    pieces.push_back(Json{{"Sequence", {{"id", name}, {"type_id", type_id}}}});
  };
  append_ids(spec.prefix, 0);
  append_text(single, "A", 0);
  append_text(pair, "A", 0);
  append_ids(spec.suffix, 0);
  append_ids(spec.prefix, 1);
  append_text(pair, "B", 1);
  append_ids(spec.suffix, 1);
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special_tokens}};
}

Json model(const TokenizerSpec& spec) {
  Json vocabulary = Json::object();
  for (std::size_t id = 0; id < spec.spelled.size(); ++id) {
    if (!spec.spelled[id].empty()) vocabulary[spec.spelled[id]] = id;
  }
  Json merges = Json::array();
  for (const Merge& merge : spec.merges) {
    merges.push_back(spec.spelled[static_cast<std::size_t>(merge.left)] + " " + spec.spelled[static_cast<std::size_t>(merge.right)]);
  }
  Json unknown;
  if (spec.unknown_id) unknown = spec.spelled[static_cast<std::size_t>(*spec.unknown_id)];
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", unknown},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", spec.fuse_unknown},
          {"byte_fallback", spec.spelling == Spelling::kSentencePiece},
          {"ignore_merges", spec.ignore_merges},
          {"vocab", std::move(vocabulary)},
          {"merges", std::move(merges)}};
}

std::string tokenizer_json(const TokenizerSpec& spec) {
  Json added = Json::array();
  for (const AddedToken& token : spec.added) {
    Json entry = {{"id", token.id}};
    entry.update(added_token(token));
    added.push_back(std::move(entry));
  }
  const bool sentencepiece = spec.spelling == Spelling::kSentencePiece;
  const Json normalizer = sentencepiece ? sentencepiece_normalizer(spec) : spec.normal_form_c ? Json{{"type", "NFC"}} : Json();
  const Json byte_decoder{{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  const Json root = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", added},
                     {"normalizer", normalizer},
                     {"pre_tokenizer", sentencepiece ? Json() : pre_tokenizer(spec.pre_tokenizer)},
                     {"post_processor", post_processor(spec)},
                     {"decoder", sentencepiece ? sentencepiece_decoder(spec) : byte_decoder},
                     {"model", model(spec)}};
  return root.dump(1) + "\n";
}

std::string settings_json(const TokenizerSpec& spec) {
  Json decoder = Json::object();
  for (const AddedToken& token : spec.added) decoder[std::to_string(token.id)] = added_token(token);
  // The generic class takes tokenizer.json as it is; a model's own class may replace parts of it.
  Json root = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}, {"added_tokens_decoder", decoder}};
  const auto name = [&](const char* key, std::optional<std::int32_t> id) {
    if (id) root[key] = spec.spelled[static_cast<std::size_t>(*id)];
  };
  name("bos_token", spec.bos_id);
  name("eos_token", spec.eos_id);
  name("unk_token", spec.named_unknown_id);
  name("pad_token", spec.pad_id);
  if (!spec.chat_template.empty()) root["chat_template"] = spec.chat_template;
  // The template comes from elsewhere and is not looked into.
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::vector<OriginalFile> huggingface_files(const TokenizerSpec& spec) {
  return {{"tokenizer.json", tokenizer_json(spec)}, {"tokenizer_config.json", settings_json(spec)}};
}

}  // namespace stableqat
