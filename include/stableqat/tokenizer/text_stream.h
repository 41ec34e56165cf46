// Text of a growing list of tokens, given out piece by piece.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace stableqat {

// Receives text that is final: whole UTF-8 characters, nothing that may turn out to be a stop string. Not thread-safe.
class TextStream {
 public:
  using Write = std::function<void(std::string_view)>;

  // Empty stop strings are ignored.
  TextStream(std::vector<std::string> stop_strings, Write write);

  // Bytes of the next token. False when the text has come to a stop string: what is in front of it was written, nothing else will be.
  bool add(std::string_view bytes);

  // Writes what was held back. Call at the end.
  void finish();

 private:
  std::size_t final_bytes() const;

  std::vector<std::string> stop_strings_;
  Write write_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace stableqat
