#include "stableqat/tokenizer/tokenizer.h"

#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/normal_form.h"
#include "tokenizer/readers.h"
#include "tokenizer/token_table.h"
#include "tokenizer/word_splitter.h"

namespace stableqat {

namespace {

// What a spelled token stands for. A byte-level spelling of no bytes can only be a placeholder.
std::string bytes_of(const TokenizerSpec& spec, const std::string& spelled) {
  if (spec.spelling == Spelling::kByteLevel) return unspell(spelled).value_or(spelled);
  const auto byte = sentencepiece_byte(spelled);
  return byte ? std::string(1, static_cast<char>(*byte)) : with_blanks(spelled);
}

// By id; added tokens are plain text.
TokenTable token_bytes_of(const TokenizerSpec& spec) {
  std::vector<const AddedToken*> added(spec.spelled.size());
  for (const AddedToken& token : spec.added) added[static_cast<std::size_t>(token.id)] = &token;
  TokenTable table;
  for (std::size_t id = 0; id < spec.spelled.size(); ++id) {
    table.append(added[id] != nullptr ? added[id]->text : bytes_of(spec, spec.spelled[id]));
  }
  return table;
}

// The ids that can come out of merging bytes.
std::vector<bool> mergeable_ids(const TokenizerSpec& spec, const TokenTable& bytes) {
  std::vector<bool> mergeable(bytes.size());
  for (std::size_t id = 0; id < bytes.size(); ++id) {
    const std::string& spelled = spec.spelled[id];
    if (spec.spelling == Spelling::kByteLevel) {
      mergeable[id] = !spelled.empty() && unspell(spelled) == bytes[static_cast<std::int32_t>(id)];
    } else {
      mergeable[id] = !spelled.empty() && !sentencepiece_byte(spelled);
    }
  }
  for (const AddedToken& token : spec.added) {
    if (spec.spelling == Spelling::kSentencePiece && token.special) mergeable[static_cast<std::size_t>(token.id)] = false;
  }
  return mergeable;
}

std::vector<AddedToken> added_tokens(const TokenizerSpec& spec, bool normalized) {
  std::vector<AddedToken> chosen;
  for (const AddedToken& token : spec.added) {
    if (token.normalized == normalized) chosen.push_back(token);
  }
  return chosen;
}

WordIndex index_of(const TokenizerSpec& spec, const TokenTable& bytes) {
  WordIndex index(bytes, bytes.size());
  for (const AddedToken& token : spec.added) index.insert(token.id);
  const auto is_byte = [&spec](const std::string& spelled) {
    return spec.spelling == Spelling::kSentencePiece && sentencepiece_byte(spelled);
  };
  for (const bool bytes_last : {false, true}) {  // a character's own token goes before that of its byte
    for (std::size_t id = 0; id < bytes.size(); ++id) {
      const std::string& spelled = spec.spelled[id];
      if (!spelled.empty() && is_byte(spelled) == bytes_last) index.insert(static_cast<std::int32_t>(id));
    }
  }
  return index;
}

// Whether no token has a blank behind another character: then no merge reaches over the start of a word, and words can be merged apart.
bool has_blanks_in_front_only(const TokenizerSpec& spec, const TokenTable& bytes) {
  for (std::size_t id = 0; id < bytes.size(); ++id) {
    const std::string_view token = bytes[static_cast<std::int32_t>(id)];
    if (!spec.spelled[id].empty() && token.find(' ', token.find_first_not_of(' ')) != std::string_view::npos) return false;
  }
  return true;
}

// Calls visit for each run of blanks with the text up to the next one.
template <class Visitor>
void for_each_blank_word(std::string_view text, Visitor&& visit) {
  while (!text.empty()) {
    const std::size_t word = text.find_first_not_of(' ');
    const std::size_t end = word == std::string_view::npos ? word : text.find(' ', word);
    visit(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end);
  }
}

// Hash of a byte form that does not depend on where the tokenizer was read from.
std::string hash_of(const TokenizerSpec& spec, const TokenTable& bytes) {
  std::string form = "stableqat byte-level bpe 1\n";
  const auto number = [&form](std::int64_t value) { (form += std::to_string(value)) += ' '; };
  const auto ids = [&](const std::vector<std::int32_t>& values) {
    number(static_cast<std::int64_t>(values.size()));
    for (const std::int32_t id : values) number(id);
  };
  number(spec.pre_tokenizer.split_digits);
  number(static_cast<int>(spec.pre_tokenizer.pattern));
  number(spec.ignore_merges);
  number(spec.unknown_id.value_or(-1));
  number(spec.fuse_unknown);
  ids(spec.prefix);
  ids(spec.suffix);
  if (spec.normal_form_c) form += "nfc ";
  if (spec.spelling == Spelling::kSentencePiece) {
    form += "sentencepiece ";
    number(static_cast<int>(spec.leading_blank));
    number(spec.doubles_leading_blank);
  }
  number(static_cast<std::int64_t>(bytes.size()));
  for (std::size_t id = 0; id < bytes.size(); ++id) {
    const std::string_view token = bytes[static_cast<std::int32_t>(id)];
    number(static_cast<std::int64_t>(token.size()));
    form += token;
  }
  for (const AddedToken& token : spec.added) ids({token.id, token.special, token.lstrip, token.rstrip, token.normalized});
  for (const Merge& merge : spec.merges) {
    number(merge.left);
    number(merge.right);
  }
  return content_hash(std::as_bytes(std::span(form)));
}

}  // namespace

struct Tokenizer::Data {
  explicit Data(TokenizerSpec description)
      : spec(std::move(description)),
        bytes(token_bytes_of(spec)),
        index(index_of(spec, bytes)),
        special(bytes.size()),
        splitter(spec.pre_tokenizer),
        normal_form(spec.normal_form_c ? std::make_optional<NormalFormC>() : std::nullopt),
        cuts_at_blanks(has_blanks_in_front_only(spec, bytes)),
        added(added_tokens(spec, false), splitter.classes()),
        added_normalized(added_tokens(spec, true), splitter.classes()),
        encoder(spec, bytes, mergeable_ids(spec, bytes)),
        hash(hash_of(spec, bytes)) {
    for (const AddedToken& token : spec.added) special[static_cast<std::size_t>(token.id)] = token.special;
  }
  Data(const Data&) = delete;
  Data& operator=(const Data&) = delete;

  void check(std::int32_t id) const {
    if (id >= 0 && static_cast<std::size_t>(id) < bytes.size()) return;
    throw DataError({"token id", std::to_string(id), "0 to " + std::to_string(bytes.size() - 1), "use the tokenizer that made the ids"});
  }

  TokenizerSpec spec;
  TokenTable bytes;
  WordIndex index;
  std::vector<bool> special;
  // The ids of a text between added tokens; `first`: nothing lies before it.
  void encode_part(std::string_view part, bool first, std::vector<std::int32_t>& ids) const {
    if (spec.spelling == Spelling::kSentencePiece) return encode_sentencepiece(part, first, ids);
    splitter.for_each_word(part, [&](std::string_view word) { encoder.encode(word, ids); });
  }

  void encode_sentencepiece(std::string_view part, bool first, std::vector<std::int32_t>& ids) const {
    std::string text = with_blanks(part);
    const bool wants_blank = spec.leading_blank == LeadingBlank::kAlways || (spec.leading_blank == LeadingBlank::kFirst && first);
    if (wants_blank && (spec.doubles_leading_blank || !text.starts_with(' '))) text.insert(text.begin(), ' ');
    if (!cuts_at_blanks) return encoder.encode(text, ids);
    for_each_blank_word(text, [&](std::string_view word) { encoder.encode(word, ids); });
  }

  WordSplitter splitter;
  std::optional<NormalFormC> normal_form;
  bool cuts_at_blanks;
  AddedTokenFinder added;
  AddedTokenFinder added_normalized;  // looked for in what the first leaves, as `tokenizers` does
  BytePairEncoder encoder;
  std::string hash;
};

Tokenizer Tokenizer::from_gguf(const GgufFile& file) { return Tokenizer(std::make_shared<const Data>(read_gguf_tokenizer(file))); }

Tokenizer Tokenizer::from_huggingface(const std::filesystem::path& path) {
  return Tokenizer(std::make_shared<const Data>(read_huggingface_tokenizer(path)));
}

Tokenizer Tokenizer::from_json(std::string_view json, const std::string& name) {
  return Tokenizer(std::make_shared<const Data>(read_tokenizer_json(json, name)));
}

Tokenizer Tokenizer::open(const std::filesystem::path& model) {
  const bool is_file = std::filesystem::is_regular_file(model);
  if (is_file && model.extension() != ".json") return from_gguf(GgufFile(model));
  return from_huggingface(model);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<std::int32_t> ids;
  encode(text, ids, options);
  return ids;
}

void Tokenizer::encode(std::string_view text, std::vector<std::int32_t>& ids, EncodeOptions options) const {
  const Data& data = *data_;
  std::string normalized;
  std::string_view whole;  // what is cut at normalized added tokens
  bool whole_is_first = false;
  const auto on_token = [&](std::int32_t id) { ids.push_back(id); };
  const auto on_words = [&](std::string_view part) { data.encode_part(part, part.data() == whole.data() && whole_is_first, ids); };
  const auto on_part = [&](std::string_view part) {
    whole_is_first = part.data() == text.data();
    whole = data.normal_form ? (*data.normal_form)(part, normalized) : part;
    data.added_normalized.split(whole, options.parse_special_tokens, on_words, on_token);
  };
  if (options.add_special_tokens) ids.insert(ids.end(), data.spec.prefix.begin(), data.spec.prefix.end());
  data.added.split(text, options.parse_special_tokens, on_part, on_token);
  if (options.add_special_tokens) ids.insert(ids.end(), data.spec.suffix.begin(), data.spec.suffix.end());
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const {
  std::string text;
  for (const std::int32_t id : ids) {
    data_->check(id);
    if (!skip_special_tokens || !data_->special[static_cast<std::size_t>(id)]) text += data_->bytes[id];
  }
  if (data_->spec.drops_leading_blank && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

std::int64_t Tokenizer::vocab_size() const noexcept { return static_cast<std::int64_t>(data_->bytes.size()); }

std::string_view Tokenizer::token_bytes(std::int32_t id) const {
  data_->check(id);
  return data_->bytes[id];
}

bool Tokenizer::is_special(std::int32_t id) const {
  data_->check(id);
  return data_->special[static_cast<std::size_t>(id)];
}

std::optional<std::int32_t> Tokenizer::find_token(std::string_view bytes) const {
  const std::int32_t id = data_->index.find(bytes);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::optional<std::int32_t> Tokenizer::bos_id() const noexcept { return data_->spec.bos_id; }
std::optional<std::int32_t> Tokenizer::eos_id() const noexcept { return data_->spec.eos_id; }
std::optional<std::int32_t> Tokenizer::pad_id() const noexcept { return data_->spec.pad_id; }

std::optional<std::int32_t> Tokenizer::end_of_text_id() const noexcept {
  for (const std::string_view name : {"<|endoftext|>", "<|end_of_text|>"}) {
    const std::int32_t id = data_->index.find(name);
    if (id >= 0 && data_->special[static_cast<std::size_t>(id)]) return id;
  }
  return data_->spec.eos_id;
}

const std::string& Tokenizer::chat_template() const noexcept { return data_->spec.chat_template; }

const std::string& Tokenizer::hash() const noexcept { return data_->hash; }

void Tokenizer::save_huggingface(const std::filesystem::path& folder) const {
  const TokenizerSpec& spec = data_->spec;
  const std::vector<OriginalFile> files = spec.original_files.empty() ? huggingface_files(spec) : spec.original_files;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw EnvironmentError({folder.string(), error.message(), "a folder that can be made", "check its parent's permissions"});
  for (const OriginalFile& file : files) write_text_file(folder / file.name, file.content);
}

void Tokenizer::write_gguf(GgufWriter& writer, std::int64_t rows) const { write_gguf_tokenizer(data_->spec, rows, writer); }

}  // namespace stableqat
