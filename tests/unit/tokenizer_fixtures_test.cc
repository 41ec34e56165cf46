// Small tokenizers made by Hugging Face's `tokenizers` (tools/make_tokenizer_fixtures.py), with the ids and words it gives for them.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "golden/token_golden.h"
#include "stableqat/base/file.h"
#include "tokenizer/word_splitter.h"

namespace stableqat {
namespace {

using Ids = std::vector<std::int32_t>;

const std::filesystem::path kFolder = std::filesystem::path(STABLEQAT_TEST_DATA) / "tokenizer";

nlohmann::json cases_of(const std::string& name) { return nlohmann::json::parse(read_text_file(kFolder / (name + ".cases.json"))); }

std::string text_of(const nlohmann::json& example) { return example.at("text").get<std::string>(); }

// Compares all cases of `name`.
void expect_ids(const Tokenizer& tokenizer, const std::string& name) {
  const auto cases = cases_of(name);
  ASSERT_GT(cases.size(), 5u);
  for (const auto& example : cases) {
    SCOPED_TRACE(example.at("text").dump());
    const std::string text = text_of(example);
    EXPECT_EQ(tokenizer.encode(text, {.add_special_tokens = false}), example.at("ids").get<Ids>());
    EXPECT_EQ(tokenizer.encode(text), example.at("with_special").get<Ids>());
    const Ids as_text = example.at("special_as_text").get<Ids>();
    EXPECT_EQ(tokenizer.encode(text, {.add_special_tokens = false, .parse_special_tokens = false}), as_text);
    // Its decoder takes the letters of added tokens for spelled bytes, which makes U+FFFD of some.
    const auto decoded = example.at("decoded").get<std::string>();
    if (decoded.find("\xEF\xBF\xBD") == std::string::npos) {
      EXPECT_EQ(tokenizer.decode(as_text), decoded);
    }
  }
}

class TokenizerFixtures : public ::testing::TestWithParam<const char*> {};

TEST_P(TokenizerFixtures, IdsAreThoseOfHuggingFace) {
  expect_ids(Tokenizer::from_huggingface(kFolder / (std::string(GetParam()) + ".json")), GetParam());
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerFixtures,
                         ::testing::Values("gpt2", "smollm", "llama3", "qwen2", "qwen3", "split_gpt2", "unknown", "fused_unknown",
                                           "sentencepiece_normalizer", "sentencepiece_first", "sentencepiece_always",
                                           "sentencepiece_never"),
                         [](const auto& fixture) { return std::string(fixture.param); });

TEST(TokenizerGguf, IdsAreThoseOfHuggingFace) {
  expect_ids(Tokenizer::from_gguf(GgufFile(kFolder / "llama3.gguf")), "llama3");
  // GGUF has no flag "normalized": where such tokens overlap others, the leftmost one is found.
  const Tokenizer tokenizer = Tokenizer::from_gguf(GgufFile(kFolder / "smollm.gguf"));
  EXPECT_EQ(tokenizer.encode("12 apples<|im_end|>"), Tokenizer::from_huggingface(kFolder / "smollm.json").encode("12 apples<|im_end|>"));
}

TEST(TokenizerGguf, SentencePieceIdsAreThoseOfHuggingFace) {
  const Tokenizer tokenizer = Tokenizer::from_gguf(GgufFile(kFolder / "sentencepiece.gguf"));
  expect_ids(tokenizer, "sentencepiece_normalizer");
  EXPECT_EQ(tokenizer.hash(), Tokenizer::from_huggingface(kFolder / "sentencepiece_normalizer.json").hash());
}

TEST(TokenizerGguf, ReadsWhatBelongsToTheModel) {
  const Tokenizer tokenizer = Tokenizer::from_gguf(GgufFile(kFolder / "smollm.gguf"));
  EXPECT_EQ(tokenizer.vocab_size(), 528);
  EXPECT_EQ(tokenizer.bos_id(), 521);
  EXPECT_EQ(tokenizer.eos_id(), 522);
  EXPECT_EQ(tokenizer.pad_id(), 522);
  EXPECT_EQ(tokenizer.end_of_text_id(), 520);
  EXPECT_EQ(tokenizer.token_bytes(527),
            "\xC3\xBC"
            "ber");
  EXPECT_EQ(tokenizer.find_token("<tool>box"), 524);
  EXPECT_EQ(tokenizer.find_token("nothing like it"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(520));
  EXPECT_FALSE(tokenizer.is_special(523));
  EXPECT_EQ(tokenizer.chat_template(), "{% for message in messages %}{{ message['content'] }}{% endfor %}");
}

void expect_words(PreTokenizer rules, const std::string& name) {
  const WordSplitter splitter(rules);
  for (const auto& example : cases_of(name)) {
    std::vector<std::size_t> lengths;
    splitter.for_each_word(text_of(example), [&](std::string_view word) { lengths.push_back(word.size()); });
    EXPECT_EQ(lengths, example.at("words").get<std::vector<std::size_t>>()) << example.at("text").dump();
  }
}

TEST(WordSplitter, WordsAreThoseOfTheRegularExpressions) {
  expect_words({false, WordPattern::kGpt2}, "gpt2");
  expect_words({true, WordPattern::kGpt2}, "smollm");
  expect_words({false, WordPattern::kLlama3}, "llama3");
  expect_words({false, WordPattern::kQwen2}, "qwen2");
}

TEST(Tokenizer, DecodeJoinsBytes) {
  const Tokenizer tokenizer = Tokenizer::from_gguf(GgufFile(kFolder / "smollm.gguf"));
  std::string every_byte;
  for (int byte = 0; byte < 256; ++byte) every_byte += static_cast<char>(byte);
  for (const std::string& text :
       {every_byte, std::string("\xF0\x9F\x98"), std::string("a\xED\xA0\x80z\xC0\xAF \xF5\xFF"), every_byte + every_byte}) {
    const Ids ids = tokenizer.encode(text);
    EXPECT_EQ(tokenizer.decode(ids), text);
    std::string joined;
    for (const std::int32_t id : ids) joined += tokenizer.token_bytes(id);
    EXPECT_EQ(joined, text);
  }
  const Ids ids = tokenizer.encode("<|im_start|>hi<tool><|im_end|>");
  EXPECT_EQ(tokenizer.decode(ids), "<|im_start|>hi<tool><|im_end|>");
  EXPECT_EQ(tokenizer.decode(ids, true), "hi<tool>");
  EXPECT_EQ(tokenizer.decode({}), "");
}

TEST(Tokenizer, EncodeAppends) {
  const Tokenizer tokenizer = Tokenizer::from_huggingface(kFolder / "llama3.json");
  Ids ids = {7};
  tokenizer.encode("a", ids);
  tokenizer.encode("b", ids, {.add_special_tokens = false});
  EXPECT_EQ(ids, (Ids{7, 520, tokenizer.find_token("a").value(), 521, tokenizer.find_token("b").value()}));
}

// A quadratic method would take minutes to hours for each of these.
TEST(Tokenizer, LongWordsTakeNoLongerThanTheirLength) {
  const Tokenizer tokenizer = Tokenizer::from_gguf(GgufFile(kFolder / "smollm.gguf"));
  std::string base64;
  for (std::uint32_t i = 0, state = 1; i < 1'000'000; ++i) {
    state = state * 1664525 + 1013904223;
    base64 += "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[state >> 26];
  }
  std::string tokens;
  for (int i = 0; i < 200'000; ++i) tokens += "<tool";
  for (const std::string& text : {std::string(1'000'000, 'a'), std::string(1'000'000, ' ') + "x", std::string(1'000'000, '\n'), base64,
                                  tokens, std::string(1'000'000, '<'), std::string(1'000'000, '\xF0')}) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_TRUE(tokenizer.decode(tokenizer.encode(text)) == text);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  }
}

// The two ways of merging a word agree: pieces below and above the length where the method changes.
TEST(Tokenizer, LongWordsAreMergedAsShortOnes) {
  const Tokenizer tokenizer = Tokenizer::from_huggingface(kFolder / "unknown.json");
  std::string unit = "abcxbbabc";  // x has no token: nothing merges across it
  const Ids once = tokenizer.encode(unit);
  std::string text;
  Ids expected;
  for (int i = 0; i < 40; ++i) {
    text += unit + "x";
    expected.insert(expected.end(), once.begin(), once.end());
    expected.push_back(0);
    EXPECT_EQ(tokenizer.encode(text), expected) << i;
  }
}

TEST(Tokenizer, SeveralThreadsMayEncode) {
  const Tokenizer tokenizer = Tokenizer::from_huggingface(kFolder / "smollm.json");
  const auto cases = cases_of("smollm");
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (const auto& example : cases) wrong += tokenizer.encode(text_of(example)) != example.at("with_special").get<Ids>();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace stableqat
