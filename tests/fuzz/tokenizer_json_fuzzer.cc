// Any bytes either are a tokenizer.json that can encode and decode, or are refused with DataError or ConfigError.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "stableqat/base/error.h"
#include "stableqat/tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = stableqat::Tokenizer::from_json(json, "fuzzed.json");
    for (const std::string_view text : {std::string_view("abcab  ca </s> 12 abc\xC3\xA9\xFF<s>\r\n 'll"), json}) {
      const auto ids = tokenizer.encode(text);
      if (tokenizer.decode(ids, true).size() > tokenizer.decode(ids).size()) std::abort();
      for (const std::int32_t id : ids) {
        if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
      }
    }
  } catch (const stableqat::DataError&) {
  } catch (const stableqat::ConfigError&) {
  }
  return 0;
}
