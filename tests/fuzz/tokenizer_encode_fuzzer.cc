// Any bytes come back from decode(encode(bytes)), whatever the rules of the tokenizer and whether or not special tokens are looked for.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/tokenizer/tokenizer.h"

namespace {

std::vector<stableqat::Tokenizer> all_tokenizers() {
  std::vector<stableqat::Tokenizer> tokenizers;
  for (const char* name : {"smollm", "llama3", "qwen2", "split_gpt2"}) {
    tokenizers.push_back(stableqat::Tokenizer::from_huggingface(std::string(STABLEQAT_TEST_DATA) + "/tokenizer/" + name + ".json"));
  }
  return tokenizers;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<stableqat::Tokenizer> tokenizers = all_tokenizers();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const stableqat::Tokenizer& tokenizer : tokenizers) {
    for (const bool parse : {false, true}) {
      const auto ids = tokenizer.encode(text, {.add_special_tokens = false, .parse_special_tokens = parse});
      if (tokenizer.decode(ids) != text || ids.size() > size) std::abort();
    }
  }
  return 0;
}
