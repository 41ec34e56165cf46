// A model's chat template: turns a conversation into the text that the model was trained on.
//
// Templates are Jinja. This is the part of it that chat templates of Llama 3, Qwen 2 and 3, SmolLM 2 and 3 and Mistral use, with the
// meaning that Python's Jinja 3.1 gives it in the environment of transformers (trim_blocks, lstrip_blocks, break and continue):
//
//   statements   for (with if, else; over lists, dictionaries, strings), if, set (also blocks, ns.member, several names), break, continue,
//                generation (its body), comments, white space control
//   expressions  literals, lists, dictionaries, members, items, slices, + - * / // % ~, comparisons, in, and, or, not, x if c else y,
//                tests (is), filters (|), methods of strings and dictionaries
//   functions    namespace, range, raise_exception, strftime_now, dict
//   filters      capitalize, count, d, default, first, int, items, join, last, length, list, lower, map, reject, rejectattr, replace,
//                reverse, safe, select, selectattr, string, title, tojson, trim, upper
//   tests        boolean, defined, divisibleby, eq, equalto, even, false, float, ge, gt, in, integer, iterable, le, lt, mapping, ne, none,
//                number, odd, sequence, string, true, undefined
//
// Anything else (macros, includes) is refused by name. Tuples are lists, and letters change case within ASCII only. A template cannot do
// harm: it reaches nothing but the conversation, and its work, its text and the depth of its values are limited.
#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace stableqat {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

struct ChatSettings {
  bool add_generation_prompt = true;  // end where the assistant's answer begins
  std::string bos_token;              // as text; "" for none
  std::string eos_token;
  std::string pad_token;
  std::chrono::system_clock::time_point now = std::chrono::system_clock::now();  // for templates that name the date (in UTC)
};

// Immutable; copies share the parsed form. Const members are thread-safe.
class ChatTemplate {
 public:
  // Throws DataError, naming `where` (the model) and the line, for syntax outside of the above, or a template above 1 MB.
  ChatTemplate(std::string_view source, std::string where);

  // Throws DataError, naming the line, where the template refuses the conversation (raise_exception), does what its values do not allow, or
  // exceeds a million steps, 64 MB of intermediate text or 16 MB of result.
  std::string render(std::span<const ChatMessage> messages, const ChatSettings& settings) const;

 private:
  struct Parsed;

  std::string where_;
  std::shared_ptr<const Parsed> parsed_;
};

}  // namespace stableqat
