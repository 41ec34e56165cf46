// Byte-level BPE tokenizer, exact to Hugging Face's `tokenizers` for the vocabularies it accepts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "stableqat/io/gguf.h"

namespace stableqat {

class GgufWriter;

struct EncodeOptions {
  // Put what the model's template asks for (a begin-of-text id, say) around the text.
  bool add_special_tokens = true;
  // Special tokens spelled out in the text ("<|im_end|>") become their ids; false = they are text like any other. Added tokens that are not
  // special are found in either case.
  bool parse_special_tokens = true;
};

// An immutable vocabulary with its rules. Copies share the data; every const member may be called from any number of threads at once.
//
// A text is cut at added tokens, then into words by the pre-tokenizer's pattern, and the bytes of each word are merged in rank order.
// Texts are bytes: where one is not UTF-8, each offending byte counts as a character that is neither letter, number nor white space, and is
// encoded like any other byte. decode(encode(x)) == x for every byte string if the vocabulary has a token for each of the 256 bytes and the
// template adds nothing. A byte without a token becomes the model's unknown token or, if there is none, is dropped, as in Hugging Face.
class Tokenizer {
 public:
  // From the keys tokenizer.ggml.* (ggml's docs/gguf.md). ConfigError: a model or pre-tokenizer that is not supported (named).
  // DataError: keys that are missing or contradict each other, duplicate tokens, merges of unknown tokens.
  static Tokenizer from_gguf(const GgufFile& file);

  // From a Hugging Face model folder or its tokenizer.json; tokenizer_config.json, special_tokens_map.json and chat_template.jinja beside
  // it are read where present. Truncation and padding settings play no role here. Errors as from_gguf, and DataError for invalid JSON.
  static Tokenizer from_huggingface(const std::filesystem::path& path);

  // The same for the content of a tokenizer.json alone; `name` stands for its path in messages.
  static Tokenizer from_json(std::string_view json, const std::string& name);

  // The tokenizer of a model as users name it: a Hugging Face folder, its tokenizer.json, or a GGUF file. Errors as the two above.
  static Tokenizer open(const std::filesystem::path& model);

  // Ids of the text. Time and memory grow linearly with the text (one single word of n bytes: n log n).
  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options = {}) const;
  // The same, appended to `ids`.
  void encode(std::string_view text, std::vector<std::int32_t>& ids, EncodeOptions options = {}) const;

  // Bytes of the ids. A slice of ids may end inside a UTF-8 character. Throws DataError for an id outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = false) const;

  // One more than the largest id; a model's embedding has at least as many rows.
  std::int64_t vocab_size() const noexcept;

  // The bytes an id stands for; empty for an id that the vocabulary leaves out. Valid while a copy of the tokenizer lives.
  // Throws DataError for an id outside the vocabulary.
  std::string_view token_bytes(std::int32_t id) const;
  bool is_special(std::int32_t id) const;

  // The id whose bytes are exactly `bytes`; added tokens go first.
  std::optional<std::int32_t> find_token(std::string_view bytes) const;

  std::optional<std::int32_t> bos_id() const noexcept;
  std::optional<std::int32_t> eos_id() const noexcept;
  std::optional<std::int32_t> pad_id() const noexcept;

  // What stands between documents of pretraining text: "<|endoftext|>" or "<|end_of_text|>" if the vocabulary has it as a special token,
  // else eos_id(). (The eos of a chat model ends a turn, not a document.)
  std::optional<std::int32_t> end_of_text_id() const noexcept;

  // Jinja template of a chat, kept as it is; empty if there is none.
  const std::string& chat_template() const noexcept;

  // 16 hex digits over everything that decides which ids a text gets; the same for a GGUF and the folder that save_huggingface() made of
  // it.
  const std::string& hash() const noexcept;

  // Writes the tokenizer's files into `folder` (made if needed): the original files byte for byte if it was read from a Hugging Face
  // folder, else tokenizer.json and tokenizer_config.json, which `tokenizers` and `transformers` load and which give the same ids. Each
  // file appears whole or not at all. Throws EnvironmentError.
  void save_huggingface(const std::filesystem::path& folder) const;

  // Sets the keys tokenizer.* of a GGUF whose embedding has `rows` rows; ids without a token become unused ones. from_gguf() and llama.cpp
  // then give the same ids. Throws ConfigError for rules that GGUF has no name for, DataError for more ids than rows.
  void write_gguf(GgufWriter& writer, std::int64_t rows) const;

 private:
  struct Data;
  explicit Tokenizer(std::shared_ptr<const Data> data) noexcept : data_(std::move(data)) {}

  std::shared_ptr<const Data> data_;
};

}  // namespace stableqat
