// Unicode's normal form C (UAX #15), of the texts that need it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace stableqat {

// Immutable.
class NormalFormC {
 public:
  NormalFormC();

  // `text` in normal form C: itself where it is so already, else in `storage`. A text that is not UTF-8 stays what it is.
  std::string_view operator()(std::string_view text, std::string& storage) const;

 private:
  bool may_change(char32_t code_point) const { return code_point < may_change_.size() && may_change_[code_point]; }
  // Appends what [begin, end) becomes; false when it is not UTF-8.
  static bool append_normalized(const char* begin, const char* end, std::string& text);

  // Characters that normalization may remove, replace or move: all others keep their place, and bound what a change can reach.
  std::vector<bool> may_change_;
};

}  // namespace stableqat
