// What a tokenizer file says, whatever its format: made by the readers, compiled by Tokenizer, written by the writer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace stableqat {

// How text is cut into words: the regular expressions, by the models that introduced them.
enum class WordPattern { kGpt2, kLlama3, kQwen2 };

// The expression as tokenizer.json spells it, and back.
std::string_view expression_of(WordPattern pattern);
std::optional<WordPattern> pattern_of(std::string_view expression);

// How tokens are spelled in the file, and with it what a text is made of before merging: byte by byte (GPT-2's printable stand-ins), or
// character by character with U+2581 for a blank and <0x00>..<0xFF> for the bytes of characters without a token (SentencePiece).
enum class Spelling { kByteLevel, kSentencePiece };

inline constexpr const char* kBlankMark = "\xe2\x96\x81";  // U+2581, SentencePiece's blank

// Which parts of a text get a blank in front (SentencePiece): all between added tokens, only one at the start of the text, none.
enum class LeadingBlank { kAlways, kFirst, kNever };

struct PreTokenizer {
  bool split_digits = false;  // each numeric character is a word of its own, before the pattern is applied to what lies between
  WordPattern pattern = WordPattern::kGpt2;
};

// A token that is looked for in the text before anything else. Flags as in tokenizer.json.
struct AddedToken {
  std::int32_t id = 0;
  std::string text;
  bool special = true;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;
};

struct Merge {
  std::int32_t left = 0;
  std::int32_t right = 0;
  std::int32_t result = 0;
};

// A file of a Hugging Face folder, kept so that it can be written again as it was.
struct OriginalFile {
  std::string name;
  std::string content;
};

struct TokenizerSpec {
  std::string source;                // the file, for error messages
  std::vector<std::string> spelled;  // by id, in the byte-to-unicode spelling; "" for an id that is not used. Added tokens: plain text
  std::vector<Merge> merges;         // rank order
  std::vector<AddedToken> added;
  Spelling spelling = Spelling::kByteLevel;
  bool normal_form_c = false;
  PreTokenizer pre_tokenizer;                          // of byte-level spelling
  LeadingBlank leading_blank = LeadingBlank::kAlways;  // of SentencePiece's, as the next
  bool doubles_leading_blank = false;                  // the blank comes even where the text has one
  bool drops_leading_blank = false;                    // when decoding
  bool ignore_merges = false;                          // a word that is a token is that token, whatever the merges say
  std::optional<std::int32_t> unknown_id;
  bool fuse_unknown = false;
  std::vector<std::int32_t> prefix;  // ids that the template puts before and after a text
  std::vector<std::int32_t> suffix;
  std::optional<std::int32_t> bos_id;
  std::optional<std::int32_t> eos_id;
  std::optional<std::int32_t> pad_id;
  std::optional<std::int32_t> named_unknown_id;  // the "unk_token" that a model names without using it
  std::string chat_template;
  std::vector<OriginalFile> original_files;
};

// Fills spec.merges from pairs of spelled tokens; spec.spelled must be complete. DataError for a token that is not in the vocabulary.
void resolve_merges(TokenizerSpec& spec, const std::vector<std::pair<std::string, std::string>>& merges);

}  // namespace stableqat
