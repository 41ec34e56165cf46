// Any bytes either are a template that renders a conversation, or are refused with DataError, within bounded time, memory and stack.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/chat/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace stableqat;
  static const std::vector<ChatMessage> messages{{"system", " Be kind. "}, {"user", "a<b> \xC3\xA9\xC2\xA0"}, {"assistant", "\xFF 1,2"}};
  try {
    const ChatTemplate parsed(std::string_view(reinterpret_cast<const char*>(data), size), "fuzzed");
    parsed.render(messages, {.add_generation_prompt = true, .bos_token = "<s>", .eos_token = "</s>", .pad_token = "", .now = {}});
  } catch (const DataError&) {
  }
  return 0;
}
