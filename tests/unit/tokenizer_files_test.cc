// Writing tokenizers, and files that cannot be used.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "io_fixtures.h"
#include "stableqat/tokenizer/tokenizer.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const fs::path kFileFolder = fs::path(STABLEQAT_TEST_DATA) / "tokenizer";

std::vector<std::string> fixture_texts(const std::string& name) {
  std::vector<std::string> texts;
  for (const auto& example : Json::parse(read_text_file(kFileFolder / (name + ".cases.json"))))
    texts.push_back(example.at("text").get<std::string>());
  return texts;
}

class TokenizerFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stableqat_tokenizer_test_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
};

TEST_F(TokenizerFiles, AGgufTokenizerSurvivesAsHuggingFaceFolder) {
  for (const std::string name : {"smollm", "llama3", "sentencepiece"}) {
    SCOPED_TRACE(name);
    const Tokenizer original = Tokenizer::from_gguf(GgufFile(kFileFolder / (name + ".gguf")));
    original.save_huggingface(folder_ / "new" / name);
    const Tokenizer saved = Tokenizer::from_huggingface(folder_ / "new" / name);
    EXPECT_EQ(saved.hash(), original.hash());
    EXPECT_EQ(saved.vocab_size(), original.vocab_size());
    EXPECT_EQ(saved.bos_id(), original.bos_id());
    EXPECT_EQ(saved.eos_id(), original.eos_id());
    EXPECT_EQ(saved.pad_id(), original.pad_id());
    EXPECT_EQ(saved.chat_template(), original.chat_template());
    for (std::int32_t id = 0; id < original.vocab_size(); ++id) {
      EXPECT_EQ(saved.token_bytes(id), original.token_bytes(id));
      EXPECT_EQ(saved.is_special(id), original.is_special(id));
    }
    const std::string texts = name == "sentencepiece" ? "sentencepiece_normalizer" : name;
    for (const std::string& text : fixture_texts(texts)) EXPECT_EQ(saved.encode(text), original.encode(text)) << text;
  }
}

TEST_F(TokenizerFiles, AHuggingFaceFolderIsCopiedByteForByte) {
  const fs::path source = folder_ / "source";
  fs::create_directories(source);
  // Key order, indentation and unknown keys are not ours to change.
  const std::string settings =
      "{ \"unknown_key\": 1,\n   \"eos_token\": {\"content\": \"<|im_end|>\"}, \"bos_token\": \"<|im_start|>\", \"pad_token\": null,\n"
      "   \"chat_template\": [{\"name\": \"tool\", \"template\": \"t\"}, {\"name\": \"default\", \"template\": \"d\"}] }";
  fs::copy_file(kFileFolder / "smollm.json", source / "tokenizer.json");
  write_text_file(source / "tokenizer_config.json", settings);
  write_text_file(source / "special_tokens_map.json", "{\"pad_token\": \"<|endoftext|>\"}\n");
  write_text_file(source / "model.safetensors", "not ours");
  const Tokenizer tokenizer = Tokenizer::from_huggingface(source);
  EXPECT_EQ(tokenizer.bos_id(), 521);
  EXPECT_EQ(tokenizer.eos_id(), 522);
  EXPECT_EQ(tokenizer.pad_id(), 520);
  EXPECT_EQ(tokenizer.chat_template(), "d");

  fs::rename(source, folder_ / "moved");  // what was read is all that is needed
  tokenizer.save_huggingface(folder_ / "copy");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}) {
    EXPECT_EQ(read_text_file(folder_ / "copy" / name), read_text_file(folder_ / "moved" / name)) << name;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "copy"), fs::directory_iterator()), 3);

  write_text_file(folder_ / "moved" / "chat_template.jinja", "{{ jinja }}");
  EXPECT_EQ(Tokenizer::from_huggingface(folder_ / "moved").chat_template(), "{{ jinja }}");
}

TEST_F(TokenizerFiles, AFolderThatCannotBeWrittenIsAnEnvironmentError) {
  write_text_file(folder_ / "file", "");
  const Tokenizer tokenizer = Tokenizer::from_huggingface(kFileFolder / "smollm.json");
  expect_error<EnvironmentError>({"file"}, [&] { tokenizer.save_huggingface(folder_ / "file" / "sub"); });
}

TEST_F(TokenizerFiles, TheHashCoversWhatDecidesTheIds) {
  const Json smollm = Json::parse(read_text_file(kFileFolder / "smollm.json"));
  const auto hash_with = [&](const std::function<void(Json&)>& change) {
    Json changed = smollm;
    change(changed);
    return Tokenizer::from_json(changed.dump(), "changed").hash();
  };
  const std::string hash = hash_with([](Json&) {});
  EXPECT_EQ(hash.size(), 16u);
  EXPECT_EQ(hash, Tokenizer::from_huggingface(kFileFolder / "smollm.json").hash());
  EXPECT_NE(hash, hash_with([](Json& root) { root["model"]["merges"].erase(5); }));
  EXPECT_NE(hash, hash_with([](Json& root) { root["model"]["ignore_merges"] = true; }));
  EXPECT_NE(hash, hash_with([](Json& root) { root["added_tokens"][3]["special"] = true; }));
  EXPECT_NE(hash, hash_with([](Json& root) { root["pre_tokenizer"] = root["pre_tokenizer"]["pretokenizers"][1]; }));
  EXPECT_NE(hash, hash_with([](Json& root) { root["added_tokens"][0]["content"] = "<|other|>"; }));
}

// Each changes the working fixture in one place.
struct BadJson {
  const char* pointer;            // where
  const char* value;              // what to put there, as JSON; "" = take it away
  std::vector<std::string> says;  // in the message
};

template <class E>
void expect_refused(const std::vector<BadJson>& bad) {
  for (const BadJson& change : bad) {
    SCOPED_TRACE(std::string(change.pointer) + " = " + change.value);
    Json root = Json::parse(read_text_file(kFileFolder / "smollm.json"));
    const Json::json_pointer pointer(change.pointer);
    if (*change.value == '\0') {
      root[pointer.parent_pointer()].erase(pointer.back());
    } else {
      root[pointer] = Json::parse(change.value);
    }
    std::vector<std::string> says = change.says;
    says.push_back("bad.json");
    expect_error<E>(says, [&] { Tokenizer::from_json(root.dump(), "bad.json"); });
  }
}

TEST(TokenizerBadJson, UnsupportedPartsAreConfigErrorsThatNameThem) {
  expect_refused<ConfigError>({
      {"/model/type", R"("Unigram")", {"model.type", "Unigram"}},
      {"/model/continuing_subword_prefix", R"("##")", {"continuing_subword_prefix", "##"}},
      {"/model/end_of_word_suffix", R"("</w>")", {"end_of_word_suffix"}},
      {"/model/dropout", "0.1", {"dropout", "0.1"}},
      {"/model/byte_fallback", "true", {"pre_tokenizer", "Digits"}},
      {"/normalizer", R"({"type":"NFKC"})", {"normalizer", "NFKC"}},
      {"/pre_tokenizer", "null", {"pre_tokenizer", "null"}},
      {"/pre_tokenizer", R"({"type":"Metaspace"})", {"Metaspace"}},
      {"/pre_tokenizer/pretokenizers/0/individual_digits", "false", {"Digits"}},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space", "true", {"add_prefix_space"}},
      {"/pre_tokenizer/pretokenizers/1/use_regex", "false", {"use_regex"}},
      {"/pre_tokenizer/pretokenizers/1", R"({"type":"Split","pattern":{"Regex":"a+"},"behavior":"Isolated"})", {"a+"}},
      {"/pre_tokenizer/pretokenizers/2", R"({"type":"Digits","individual_digits":true})", {"Digits"}},
      {"/post_processor", R"({"type":"BertProcessing"})", {"BertProcessing"}},
      {"/decoder", R"({"type":"WordPiece"})", {"decoder", "WordPiece"}},
      {"/added_tokens/3/single_word", "true", {"<tool>", "single_word"}},
  });
}

TEST(TokenizerBadJson, ContradictionsAreDataErrors) {
  expect_refused<DataError>({
      {"/model", "", {"model", "nothing"}},
      {"/model", "[]", {"model"}},
      {"/model/vocab", "", {"model.vocab"}},
      {"/model/vocab", "{}", {"model.vocab"}},
      {"/model/vocab/a", "7", {"model.vocab", "id 7"}},
      {"/model/vocab/a", "-1", {"\"a\"", "id -1"}},
      {"/model/vocab/a", "2000000000", {"\"a\"", "2000000000"}},
      {"/model/vocab/a", "1e300", {"1e+300", "integer"}},
      {"/model/vocab/a", R"("7")", {"\"7\"", "integer"}},
      {"/model/vocab/", "600", {"empty token"}},
      {"/model/merges", "", {"model.merges"}},
      {"/model/merges/3", R"(["a", "nosuch"])", {"merge 3", "nosuch"}},
      {"/model/merges/3", R"(["q", "z"])", {"merge 3", "qz"}},
      {"/model/merges/3", R"("ab")", {"merges[3]", "ab"}},
      {"/model/merges/3", R"(["a", "b", "c"])", {"string"}},
      {"/added_tokens/0/id", "3", {"added_tokens", "id 3"}},
      {"/added_tokens/0/id", "521", {"id 521"}},
      {"/added_tokens/0/content", R"("a")", {"\"a\"", "520"}},
      {"/added_tokens/0/content", R"("")", {"empty token"}},
      {"/added_tokens/0/content", "", {"content"}},
      {"/post_processor",
       R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}],"special_tokens":{"x":{"ids":[999]}}})",
       {"999"}},
      {"/post_processor", R"({"type":"TemplateProcessing"})", {"single"}},
      {"/pre_tokenizer", R"({"type":"Sequence"})", {"pretokenizers"}},
  });
}

TEST(TokenizerBadJson, DamagedTextIsADataError) {
  const std::string good = read_text_file(kFileFolder / "smollm.json");
  expect_error<DataError>({"bad.json", "JSON"}, [&] { Tokenizer::from_json(good.substr(0, good.size() / 2), "bad.json"); });
  expect_error<DataError>({"bad.json"}, [] { Tokenizer::from_json("", "bad.json"); });
  expect_error<DataError>({"bad.json", "model"}, [] { Tokenizer::from_json("[1]", "bad.json"); });
  expect_error<DataError>({"bad.json", "deeper"}, [] { Tokenizer::from_json(std::string(100'000, '['), "bad.json"); });
  expect_error<DataError>({"nowhere", "no such file"}, [] { Tokenizer::from_huggingface("nowhere"); });
  expect_error<DataError>({"tokenizer.json", "no such file"}, [] { Tokenizer::from_huggingface(STABLEQAT_TEST_DATA); });
}

// The GGUF fixture with every `from` replaced by `to`, of the same length.
std::vector<std::byte> patched_gguf(const std::string& from, const std::string& to) {
  std::string bytes = read_text_file(kFileFolder / "smollm.gguf");
  EXPECT_EQ(from.size(), to.size());
  EXPECT_NE(bytes.find(from), std::string::npos) << from;
  for (std::size_t at = bytes.find(from); at != std::string::npos; at = bytes.find(from, at + to.size())) bytes.replace(at, to.size(), to);
  const auto view = std::as_bytes(std::span(bytes));
  return {view.begin(), view.end()};
}

template <class E>
void expect_gguf_refused(const std::string& from, const std::string& to, std::vector<std::string> says) {
  SCOPED_TRACE(from + " -> " + to);
  says.push_back("bad.gguf");
  const auto bytes = patched_gguf(from, to);
  expect_error<E>(says, [&] { Tokenizer::from_gguf(GgufFile::from_bytes(bytes, "bad.gguf")); });
}

TEST(TokenizerBadGguf, IsRefusedWithTheKeyNamed) {
  using namespace std::string_literals;
  expect_gguf_refused<ConfigError>("gpt2", "bert", {"tokenizer.ggml.model", "bert", "byte-level"});
  expect_gguf_refused<ConfigError>("\6\0\0\0\0\0\0\0smollm"s, "\6\0\0\0\0\0\0\0snails"s, {"tokenizer.ggml.pre", "snails", "smollm, gpt-2"});
  expect_gguf_refused<ConfigError>("tokenizer.ggml.pre", "tokenizer.ggml.prf", {"tokenizer.ggml.pre", "nothing"});
  expect_gguf_refused<DataError>("tokenizer.ggml.model", "tokenizer.ggml.modem", {"no key tokenizer.ggml.model"});
  expect_gguf_refused<DataError>("tokenizer.ggml.tokens", "tokenizer.ggml.tokfns", {"no key tokenizer.ggml.tokens"});
  expect_gguf_refused<DataError>("tokenizer.ggml.merges", "tokenizer.ggml.mergfs", {"no key tokenizer.ggml.merges"});
  expect_gguf_refused<DataError>("<|im_end|>", "<|im_\xFFnd|>", {"tokens[522]", "UTF-8"});
  expect_gguf_refused<DataError>("\1\0\0\0\0\0\0\0!"s, "\1\0\0\0\0\0\0\0#"s, {"tokens[2]", "\"#\"", "second time"});
  // bos_token_id is 521 = 0x209; type 4 (U32) stands before it.
  expect_gguf_refused<DataError>("bos_token_id\4\0\0\0\x09\2\0\0"s, "bos_token_id\4\0\0\0\x09\3\0\0"s,
                                 {"bos_token_id", "777", "below 528"});
}

}  // namespace
}  // namespace stableqat
