// SmolLM2's own tokenizer on text in 80 scripts, against ids that Hugging Face's `tokenizers` made.
#include <gtest/gtest.h>

#include "golden/test_model.h"
#include "golden/token_golden.h"

namespace stableqat {
namespace {

const std::filesystem::path kData = STABLEQAT_TEST_DATA;

class TokenizerGolden : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto model = golden::test_model();
    if (!model) GTEST_SKIP() << "no SmolLM2 model here; tools/setup.sh fetches it, or set STABLEQAT_TEST_MODEL";
    tokenizer_ = Tokenizer::from_gguf(GgufFile(*model));
  }

  std::optional<Tokenizer> tokenizer_;
};

TEST_F(TokenizerGolden, AllSectionsHaveTheIdsOfHuggingFace) {
  const auto result = golden::compare_tokens(*tokenizer_, kData / "tokens_unicode_mix.json", kData / "unicode_mix.txt.xz");
  EXPECT_EQ(result.sections, 99u);
  for (const std::string& line : result.mismatches) ADD_FAILURE() << line;
}

// SmolLM2 has no token for a few control characters and for bytes that UTF-8 never uses.
TEST_F(TokenizerGolden, DecodingGivesTheTextBack) {
  std::string absent;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    if (!tokenizer_->find_token({&c, 1})) absent += c;
  }
  EXPECT_EQ(absent.size(), 21u);
  for (const golden::Section& section : golden::read_sections(kData / "unicode_mix.txt.xz")) {
    std::string expected = section.text;
    std::erase_if(expected, [&](char c) { return absent.find(c) != std::string::npos; });
    EXPECT_TRUE(tokenizer_->decode(tokenizer_->encode(section.text)) == expected) << section.name;
  }
}

TEST_F(TokenizerGolden, SpecialIdsOfTheModel) {
  EXPECT_EQ(tokenizer_->vocab_size(), 49152);
  EXPECT_EQ(tokenizer_->bos_id(), 1);
  EXPECT_EQ(tokenizer_->eos_id(), 2);
  EXPECT_EQ(tokenizer_->pad_id(), 2);
  EXPECT_EQ(tokenizer_->end_of_text_id(), 0);
  EXPECT_EQ(tokenizer_->find_token("<|im_end|>"), 2);
  EXPECT_TRUE(tokenizer_->is_special(16));
  EXPECT_FALSE(tokenizer_->is_special(17));
  EXPECT_NE(tokenizer_->chat_template().find("<|im_start|>"), std::string::npos);
}

}  // namespace
}  // namespace stableqat
