// Keys: ggml's docs/gguf.md, "Tokenizer".
#include "stableqat/io/gguf_writer.h"

#include <algorithm>

#include "stableqat/base/error.h"
#include "tokenizer/gguf_rules.h"
#include "tokenizer/readers.h"

namespace stableqat {

namespace {

// A GGUF names its rules instead of spelling them out.
const GgufPreTokenizer& rules_for(const TokenizerSpec& spec) {
  if (spec.spelling != Spelling::kByteLevel) {
    throw ConfigError({spec.source, "a SentencePiece tokenizer", "byte-level BPE", "export to another format"});
  }
  const auto fits = [&spec](const GgufPreTokenizer& rules) {
    return rules.pre_tokenizer.split_digits == spec.pre_tokenizer.split_digits &&
           rules.pre_tokenizer.pattern == spec.pre_tokenizer.pattern && rules.ignore_merges == spec.ignore_merges;
  };
  const auto* found = std::ranges::find_if(kGgufPreTokenizers, fits);
  if (found == std::end(kGgufPreTokenizers)) {
    throw ConfigError({spec.source, "a pre-tokenizer that llama.cpp has no name for", "that of GPT-2, SmolLM, Llama 3 or Qwen 2",
                       "export to another format"});
  }
  return *found;
}

// Ids without a token get a name that no text contains.
void set_vocabulary(GgufWriter& writer, const TokenizerSpec& spec, std::int64_t rows) {
  std::vector<std::string> tokens = spec.spelled;
  std::vector<std::int32_t> types(tokens.size(), static_cast<std::int32_t>(GgufTokenType::kNormal));
  for (const AddedToken& token : spec.added) {
    const auto type = token.special ? GgufTokenType::kControl : GgufTokenType::kUserDefined;
    tokens[static_cast<std::size_t>(token.id)] = token.text;
    types[static_cast<std::size_t>(token.id)] = static_cast<std::int32_t>(type);
  }
  tokens.resize(static_cast<std::size_t>(rows));
  types.resize(tokens.size());
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (!tokens[id].empty()) continue;
    tokens[id] = "[PAD" + std::to_string(id) + "]";
    types[id] = static_cast<std::int32_t>(GgufTokenType::kUnused);
  }
  writer.set(gguf_key("tokens"), std::move(tokens));
  writer.set(gguf_key("token_type"), std::move(types));
}

void set_merges(GgufWriter& writer, const TokenizerSpec& spec) {
  std::vector<std::string> merges;
  merges.reserve(spec.merges.size());
  for (const Merge& merge : spec.merges) {
    merges.push_back(spec.spelled[static_cast<std::size_t>(merge.left)] + " " + spec.spelled[static_cast<std::size_t>(merge.right)]);
  }
  writer.set(gguf_key("merges"), std::move(merges));
}

// The only thing that a GGUF can put before or after a text is one id of a named kind.
void set_template(GgufWriter& writer, const TokenizerSpec& spec) {
  const auto is_only = [](const std::vector<std::int32_t>& ids, std::optional<std::int32_t> id) {
    return ids.empty() || (ids.size() == 1 && id && ids[0] == *id);
  };
  if (!is_only(spec.prefix, spec.bos_id) || !is_only(spec.suffix, spec.eos_id)) {
    throw ConfigError({spec.source, "a template that puts other ids than bos and eos around a text", "a template that GGUF can name",
                       "export to another format"});
  }
  writer.set(gguf_key("add_bos_token"), !spec.prefix.empty());
  writer.set(gguf_key("add_eos_token"), !spec.suffix.empty());
  writer.set(gguf_key("add_space_prefix"), false);
}

}  // namespace

void write_gguf_tokenizer(const TokenizerSpec& spec, std::int64_t rows, GgufWriter& writer) {
  if (rows < static_cast<std::int64_t>(spec.spelled.size())) {
    throw DataError({spec.source, std::to_string(spec.spelled.size()) + " ids", "at most the embedding's " + std::to_string(rows) + " rows",
                     "use the tokenizer that belongs to the model"});
  }
  writer.set(gguf_key("model"), std::string("gpt2"));
  writer.set(gguf_key("pre"), std::string(rules_for(spec).name));
  set_vocabulary(writer, spec, rows);
  set_merges(writer, spec);
  const auto set_id = [&](std::string_view name, std::optional<std::int32_t> id) {
    if (id) writer.set(gguf_key(name), static_cast<std::uint32_t>(*id));
  };
  set_id("bos_token_id", spec.bos_id);
  set_id("eos_token_id", spec.eos_id);
  set_id("padding_token_id", spec.pad_id);
  set_id("unknown_token_id", spec.named_unknown_id ? spec.named_unknown_id : spec.unknown_id);
  set_template(writer, spec);
  if (!spec.chat_template.empty()) writer.set("tokenizer.chat_template", spec.chat_template);
}

}  // namespace stableqat
