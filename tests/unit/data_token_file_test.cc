#include "stableqat/data/token_file.h"

#include <nlohmann/json.hpp>

#include "data_fixtures.h"
#include "io_fixtures.h"
#include "stableqat/base/memory.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

// Written by tools/make_idx_fixtures.py.
std::string token_fixture(const std::string& name) { return fixture_path("token_files/" + name); }

Ids all_ids(const TokenFile& file) {
  Ids ids(file.size());
  file.read(0, ids);
  return ids;
}

std::vector<Ids> documents_of(const TokenFile& file) {
  std::vector<Ids> documents;
  for (std::uint64_t i = 0; i < file.index().documents(); ++i) {
    const auto [begin, end] = file.index().document(i);
    documents.emplace_back(end - begin);
    file.read(begin, documents.back());
  }
  return documents;
}

class TokenFiles : public DataTest {
 protected:
  // Copies a fixture with one file replaced.
  fs::path damaged(const std::string& name, const std::string& suffix, const std::vector<std::byte>& bytes) const {
    for (const std::string each : {".idx", ".bin"}) {
      fs::copy_file(token_fixture(name) + each, folder_ / (name + each), fs::copy_options::overwrite_existing);
    }
    write(name + suffix, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    return folder_ / name;
  }
};

TEST_F(TokenFiles, ReadsEveryIntegerType) {
  const std::vector<std::pair<std::string, std::vector<Ids>>> cases{
      {"uint16", {{49151, 5, 0}, {65498, 0}}},
      {"int32", {{151935, 70000, 0}, {1, 0}}},
      {"int64", {{49151, 5, 0}, {65498, 0}}},
      {"int16", {{32767, 0}}},
      {"uint8", {{1, 2, 3, 0}, {0}, {}, {200, 100, 7, 0}}},
      {"sentences", {{1, 2, 3, 0, 0}, {}, {200, 100, 7, 0}}},
      {"modes", {{1, 2, 3, 0}, {0}, {}, {200, 100, 7, 0}}},
      {"empty", {}},
  };
  for (const auto& [name, documents] : cases) {
    const TokenFile file(token_fixture(name));
    EXPECT_EQ(documents_of(file), documents) << name;
    Ids joined;
    for (const Ids& document : documents) joined.insert(joined.end(), document.begin(), document.end());
    EXPECT_EQ(all_ids(file), joined) << name;
    EXPECT_FALSE(file.info().has_value());
    EXPECT_NO_THROW(file.check_ids());
  }
  expect_error<DataError>({"float.idx", "element type 7"}, [] { TokenFile file(token_fixture("float")); });
}

TEST_F(TokenFiles, WritesWhatTheOtherProgramWrites) {
  for (const auto& [name, vocabulary] : {std::pair<std::string, std::int64_t>{"uint16", 65499}, {"int32", 151936}}) {
    TokenFileWriter writer(folder_ / name, vocabulary);
    for (const Ids& document : documents_of(TokenFile(token_fixture(name)))) writer.add_document(document);
    TokenFileInfo info;
    writer.commit(info);
    for (const char* suffix : {".idx", ".bin"}) {
      EXPECT_EQ(read_text_file(folder_ / (name + suffix)), read_text_file(token_fixture(name) + suffix)) << name << suffix;
    }
  }
}

TEST_F(TokenFiles, TheVocabularyChoosesTheElementType) {
  for (const auto& [vocabulary, bytes] : {std::pair<std::int64_t, std::uint64_t>{65499, 2}, {65500, 4}}) {
    TokenFileWriter writer(folder_ / "a", vocabulary);
    writer.add_document(Ids{static_cast<std::int32_t>(vocabulary) - 1});
    EXPECT_THROW(writer.add_document(Ids{static_cast<std::int32_t>(vocabulary)}), std::invalid_argument);
    EXPECT_THROW(writer.add_document(Ids{-1}), std::invalid_argument);
    TokenFileInfo info;
    writer.commit(info);
    EXPECT_EQ(fs::file_size(folder_ / "a.bin"), bytes);
    EXPECT_EQ(all_ids(TokenFile(folder_ / "a")), Ids{static_cast<std::int32_t>(vocabulary) - 1});
  }
}

// More than the writer's buffer, with documents across its end.
TEST_F(TokenFiles, ALongFileComesBackWhole) {
  std::vector<Ids> documents;
  std::uint64_t state = 1;
  for (int i = 0; i < 2000; ++i) {
    Ids ids(static_cast<std::size_t>(i % 997));
    for (std::int32_t& id : ids) id = static_cast<std::int32_t>((state = state * 6364136223846793005 + 1) >> 48);
    documents.push_back(std::move(ids));
  }
  TokenFileWriter writer(folder_ / "a", 65536);
  for (const Ids& document : documents) writer.add_document(document);
  TokenFileInfo info;
  writer.commit(info);
  const TokenFile file(folder_ / "a", 65536);
  EXPECT_EQ(documents_of(file), documents);
  EXPECT_EQ(file.size(), info.tokens);
}

// 4 bytes kept of each of these documents would be 16 MB, an index made in memory 32 MB more.
TEST_F(TokenFiles, WritingTakesTheSameMemoryForAnyNumberOfDocuments) {
  if (!reset_peak_memory()) GTEST_SKIP() << "no peak of memory here";
  const std::uint64_t before = peak_memory();
  TokenFileWriter writer(folder_ / "a", 100);
  for (int i = 0; i < 4'000'000; ++i) writer.add_document(Ids{i % 100});
  TokenFileInfo info;
  writer.commit(info);
  EXPECT_LT(peak_memory() - before, std::uint64_t{6} << 20);
  const TokenFile file(folder_ / "a");
  EXPECT_EQ(file.index().documents(), 4'000'000U);
  EXPECT_EQ(file.index().document(3'999'999).begin, 3'999'999U);
}

TEST_F(TokenFiles, NothingAppearsBeforeCommit) {
  {
    TokenFileWriter writer(folder_ / "a", 100);
    writer.add_document(Ids(1'000'000, 7));
    for (const std::string& name : names()) EXPECT_TRUE(name.ends_with(".partial")) << name;
  }
  EXPECT_TRUE(names().empty());
  TokenFileWriter writer(folder_ / "a", 100);
  TokenFileInfo info;
  writer.commit(info);
  EXPECT_EQ(names(), (std::set<std::string>{"a.bin", "a.idx", "a.json"}));
}

TEST_F(TokenFiles, AFailedCommitLeavesNoIndexBesideOtherIds) {
  write("a.idx", "of an older run");
  fs::create_directories(folder_ / "a.json" / "in the way");
  TokenFileWriter writer(folder_ / "a", 100);
  TokenFileInfo info;
  EXPECT_THROW(writer.commit(info), EnvironmentError);
  EXPECT_FALSE(fs::exists(folder_ / "a.idx"));
}

TEST_F(TokenFiles, KeepsWhereTheIdsComeFrom) {
  TokenFileWriter writer(folder_ / "a", 100);
  writer.add_document(Ids{1, 2, 0});
  TokenFileInfo info;
  info.tokenizer_hash = "0123";
  info.end_of_text = 7;
  info.text_bytes = 11;
  info.empty_documents = 2;
  info.bad_lines = 3;
  info.shard_index = 1;
  info.shard_count = 4;
  info.sources = {{"in.jsonl", 12, "abcd"}};
  writer.commit(info);
  const auto json = nlohmann::json::parse(read_text_file(folder_ / "a.json"));
  EXPECT_TRUE(json.at("tool").get<std::string>().starts_with("stableqat "));
  EXPECT_EQ(json.at("tokens"), 3);
  EXPECT_EQ(json.at("documents"), 1);
  EXPECT_EQ(json.at("vocabulary_size"), 100);
  EXPECT_EQ(json.at("sources"), nlohmann::json::parse(R"([{"path": "in.jsonl", "bytes": 12, "hash": "abcd"}])"));

  const TokenFile file(folder_ / "a");
  ASSERT_TRUE(file.info().has_value());
  EXPECT_EQ(file.info()->tokenizer_hash, "0123");
  EXPECT_EQ(file.info()->end_of_text, 7);
  EXPECT_EQ(file.info()->text_bytes, 11u);
  EXPECT_EQ(file.info()->empty_documents, 2u);
  EXPECT_EQ(file.info()->bad_lines, 3u);
  EXPECT_EQ(file.info()->shard_index, 1u);
  EXPECT_EQ(file.info()->shard_count, 4u);
  ASSERT_EQ(file.info()->sources.size(), 1u);
  EXPECT_EQ(file.info()->sources[0].path, "in.jsonl");
  EXPECT_NO_THROW(file.check_tokenizer("0123"));
  expect_error<DataError>({"tokenizer 0123", "tokenizer 4567"}, [&file] { file.check_tokenizer("4567"); });
}

TEST_F(TokenFiles, RefusesADescriptionOfOtherFiles) {
  TokenFileWriter writer(folder_ / "a", 100);
  writer.add_document(Ids{1, 2, 0});
  TokenFileInfo info;
  writer.commit(info);
  auto json = nlohmann::json::parse(read_text_file(folder_ / "a.json"));
  json["tokens"] = 4;
  write("a.json", json.dump());
  expect_error<DataError>({"a.json", "1 documents of 4 tokens", "1 of 3"}, [this] { TokenFile file(folder_ / "a"); });
  json.erase("tokens");
  write("a.json", json.dump());
  expect_error<DataError>({"a.json", "tokens"}, [this] { TokenFile file(folder_ / "a"); });
  write("a.json", "{");
  expect_error<DataError>({"a.json"}, [this] { TokenFile file(folder_ / "a"); });
}

TEST_F(TokenFiles, EveryTruncationIsRefused) {
  for (const std::string name : {"uint16", "int64", "sentences"}) {
    auto whole = fixture_bytes("token_files/" + name + ".idx");
    const std::uint64_t bin_bytes = fs::file_size(token_fixture(name) + ".bin");
    EXPECT_NO_THROW(TokenIndex(whole, bin_bytes, name));
    for (std::size_t size = 0; size < whole.size(); ++size) {
      const auto cut = prefix(whole, size);
      EXPECT_THROW(TokenIndex(cut, bin_bytes, name), DataError) << name << " " << size;
    }
    for (std::uint64_t size = 0; size < 2 * bin_bytes; ++size) {
      if (size == bin_bytes) continue;
      EXPECT_THROW(TokenIndex(whole, size, name), DataError) << name << " " << size;
    }
    whole.push_back(std::byte{0});
    EXPECT_THROW(TokenIndex(whole, bin_bytes, name), DataError) << name;
  }
  const fs::path cut = damaged("uint16", ".bin", std::vector<std::byte>(9));
  expect_error<DataError>({"uint16.idx", "sequences of 10 bytes", "9 bytes"}, [&cut] { TokenFile file(cut); });
  expect_error<DataError>({"absent.idx", "no such file"}, [this] { TokenFile file(folder_ / "absent"); });
}

TEST_F(TokenFiles, DamagedFieldsAreRefusedByName) {
  const auto set = [](std::vector<std::byte> bytes, std::size_t at, auto value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
    return bytes;
  };
  const auto whole = fixture_bytes("token_files/uint16.idx");  // 2 sequences, 3 entries
  const std::vector<std::pair<std::vector<std::byte>, std::string>> cases{
      {set(whole, 0, 'X'), "magic"},
      {set(whole, 9, std::uint64_t{2}), "version 2"},
      {set(whole, 17, std::uint8_t{0}), "element type 0"},
      {set(whole, 17, std::uint8_t{4}), "sequence 1 at byte 6"},
      {set(whole, 18, ~std::uint64_t{0}), "82 bytes"},
      {set(whole, 18, std::uint64_t{1} << 62), "82 bytes"},
      {set(whole, 26, ~std::uint64_t{0}), "82 bytes"},
      {set(whole, 26, std::uint64_t{0}), "empty document index"},
      {set(whole, 26, std::uint64_t{2}), "8 bytes too many"},
      {set(whole, 34, std::int32_t{-3}), "length -3 of sequence 0"},
      {set(whole, 34, std::int32_t{2}), "sequence 1 at byte 6"},
      {set(whole, 38, std::int32_t{3}), "sequences of 12 bytes"},
      {set(whole, 42, std::int64_t{2}), "sequence 0 at byte 2"},
      {set(whole, 50, std::int64_t{-6}), "sequence 1 at byte -6"},
      {set(whole, 58, std::int64_t{1}), "entry 0 of the document index is sequence 1"},
      {set(whole, 66, std::int64_t{3}), "entry 2 of the document index is sequence 2"},
      {set(whole, 66, std::int64_t{-1}), "entry 1 of the document index is sequence -1"},
      {set(whole, 74, std::int64_t{1}), "entry 2 of the document index is sequence 1"},
  };
  for (const auto& [bytes, reason] : cases) {
    const fs::path broken = damaged("uint16", ".idx", bytes);
    expect_error<DataError>({"uint16.idx", reason}, [&broken] { TokenFile file(broken); });
  }
}

TEST_F(TokenFiles, RefusesIdsOutsideTheVocabulary) {
  const TokenFile file(token_fixture("int32"), 151935);
  Ids ids(2);
  expect_error<DataError>({"int32.bin", "id 151935 at token 0", "0 to 151934"}, [&] { file.read(0, ids); });
  EXPECT_NO_THROW(file.read(1, ids));
  EXPECT_EQ(ids, (Ids{70000, 0}));
  EXPECT_THROW(file.check_ids(), DataError);
  EXPECT_NO_THROW(TokenFile(token_fixture("int32"), 151936).check_ids());

  auto bytes = fixture_bytes("token_files/int64.bin");
  bytes[8 * 3 + 4] = std::byte{1};  // beyond int32
  const TokenFile huge(damaged("int64", ".bin", bytes));
  expect_error<DataError>({"huge id at token 3"}, [&huge] { huge.check_ids(); });
}

TEST_F(TokenFiles, RefusesRangesOutsideTheStream) {
  const TokenFile file(token_fixture("uint16"));
  const TokenBuffer buffer({1, 2, 3, 4, 5});
  for (const TokenStream* stream : {static_cast<const TokenStream*>(&file), static_cast<const TokenStream*>(&buffer)}) {
    ASSERT_EQ(stream->size(), 5u);
    Ids two(2), none;
    EXPECT_NO_THROW(stream->read(3, two));
    EXPECT_NO_THROW(stream->read(5, none));
    EXPECT_THROW(stream->read(4, two), std::out_of_range);
    EXPECT_THROW(stream->read(6, none), std::out_of_range);
    EXPECT_THROW(stream->read(~std::uint64_t{0}, two), std::out_of_range);
  }
  EXPECT_THROW(file.index().document(2), std::out_of_range);
}

}  // namespace
}  // namespace stableqat
