// Any bytes come back from decode(encode(bytes)), whatever the rules of the tokenizer and whether or not special tokens are looked for.
// Where the text is normalized first, what comes back does so again; where blanks are put in, the ids are at least those of the vocabulary.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/tokenizer/tokenizer.h"

namespace {

std::vector<stableqat::Tokenizer> open_all(const std::vector<const char*>& names) {
  std::vector<stableqat::Tokenizer> tokenizers;
  for (const char* name : names) {
    tokenizers.push_back(stableqat::Tokenizer::from_huggingface(std::string(STABLEQAT_TEST_DATA) + "/tokenizer/" + name + ".json"));
  }
  return tokenizers;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<stableqat::Tokenizer> tokenizers = open_all({"smollm", "llama3", "qwen2", "split_gpt2"});
  static const std::vector<stableqat::Tokenizer> normalizing = open_all({"qwen3"});
  static const std::vector<stableqat::Tokenizer> marking = open_all({"sentencepiece_normalizer", "sentencepiece_first"});
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const stableqat::Tokenizer& tokenizer : tokenizers) {
    for (const bool parse : {false, true}) {
      const auto ids = tokenizer.encode(text, {.add_special_tokens = false, .parse_special_tokens = parse});
      if (tokenizer.decode(ids) != text || ids.size() > size) std::abort();
    }
  }
  for (const stableqat::Tokenizer& tokenizer : normalizing) {
    const std::string once = tokenizer.decode(tokenizer.encode(text, {.add_special_tokens = false}));
    if (tokenizer.decode(tokenizer.encode(once, {.add_special_tokens = false})) != once) std::abort();
  }
  for (const stableqat::Tokenizer& tokenizer : marking) tokenizer.decode(tokenizer.encode(text));
  return 0;
}
