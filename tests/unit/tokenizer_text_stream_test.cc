#include "stableqat/tokenizer/text_stream.h"

#include <gtest/gtest.h>

namespace stableqat {
namespace {

using Pieces = std::vector<std::string>;

// What is written after each token; the last entry is what finish() writes.
Pieces written(const Pieces& tokens, const Pieces& stops) {
  Pieces pieces;
  std::string now;
  TextStream stream(stops, [&now](std::string_view text) { now += text; });
  for (const std::string& token : tokens) {
    const bool goes_on = stream.add(token);
    pieces.push_back(std::exchange(now, "") + (goes_on ? "" : "|"));
  }
  stream.finish();
  pieces.push_back(now);
  return pieces;
}

TEST(TextStream, CharactersAreWrittenWhole) {
  EXPECT_EQ(written({"a", "\xE4", "\xB8\xAD", "\xF0\x9F", "\x98", "\x80!"}, {}),
            (Pieces{"a", "", "\xE4\xB8\xAD", "", "", "\xF0\x9F\x98\x80!", ""}));
  EXPECT_EQ(written({"a\xF0\x9F"}, {}), (Pieces{"a", "\xF0\x9F"}));                          // the end of the text is written as it is
  EXPECT_EQ(written({"\x80\x80\x80\x80", "b"}, {}), (Pieces{"\x80\x80\x80\x80", "b", ""}));  // no UTF-8 is held back forever
}

TEST(TextStream, StopStringsAcrossTokensEndTheText) {
  EXPECT_EQ(written({"one", "\nUs", "er", ": two"}, {"\nUser:"}), (Pieces{"one", "", "", "|", ""}));
  EXPECT_EQ(written({"one", "\nUs", "ually"}, {"\nUser:"}), (Pieces{"one", "", "\nUsually", ""}));
  EXPECT_EQ(written({"a\n", "\nb"}, {"\n\n", ""}), (Pieces{"a", "|", ""}));
  EXPECT_EQ(written({"x END y STOP"}, {"STOP", "END"}), (Pieces{"x |", ""}));  // the first in the text
  EXPECT_EQ(written({"aab"}, {"aaab"}), (Pieces{"aab", ""}));
  EXPECT_EQ(written({"aa"}, {"aaab"}), (Pieces{"", "aa"}));
}

TEST(TextStream, NothingFollowsAStop) { EXPECT_EQ(written({"a.", "b", "c"}, {"."}), (Pieces{"a|", "|", "|", ""})); }

}  // namespace
}  // namespace stableqat
