// A data set of a Hub on this machine, sampled, interrupted, damaged.
#include "stableqat/hub/sample.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/base/memory.h"
#include "support/hub_server.h"
#include "unit/data_fixtures.h"

namespace stableqat::hub {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kDocuments = 40;

// Documents "FILE-0", "FILE-1", ... as JSON lines.
std::string lines(const std::string& file) {
  std::string text;
  for (int i = 0; i < kDocuments; ++i) text += json{{"text", file + "-" + std::to_string(i)}, {"meta", {{"n", i}}}}.dump() + "\n";
  return text;
}

class HubSampleTest : public HubServerTest {
 protected:
  HubSampleTest() {
    for (const char* chunk : {"chunk1", "chunk2"}) {
      for (int i = 0; i < 5; ++i) {
        const std::string name = std::string(chunk) + "/" + std::to_string(i);
        put("datasets/org/text/train/" + name + ".jsonl.zst", zstd(lines(name)));
      }
    }
    put("datasets/org/text/test/chunk1/0.jsonl.zst", zstd(lines("test")));
    request_ = data_set_request("org/text");
    request_.folder = "train";
    request_.budget_tokens = 500;  // 2.5 of 5 files a chunk
    request_.total_tokens = 1000;
    sample_.output = folder_ / "sample";
  }

  std::optional<SampleResult> sample(const HubCallbacks& callbacks) { return sample_data_set(request_, sample_, options(), callbacks); }
  std::optional<SampleResult> sample() { return sample(callbacks()); }

  SamplePlan plan() const { return parse_sample_plan(read_text_file(sample_.output / "plan.json"), "plan.json"); }
  std::vector<std::string> written(const std::string& name) const {
    std::vector<std::string> texts;
    std::istringstream text(read_text_file(sample_.output / "text" / "train" / (name + ".jsonl")));
    for (std::string line; std::getline(text, line);) texts.push_back(json::parse(line).at("text"));
    return texts;
  }
  std::uint64_t files_written() const {
    std::uint64_t count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(sample_.output / "text")) count += entry.is_regular_file() ? 1 : 0;
    return count;
  }

  SampleRequest request_;
  SampleOptions sample_;
};

std::string base(const std::string& path) {  // "train/chunk1/3.jsonl.zst" -> "chunk1/3"
  const std::string inside = path.substr(path.find('/') + 1);
  return inside.substr(0, inside.find('.'));
}

TEST_F(HubSampleTest, WritesTheDocumentsOfThePlan) {
  serve();
  const auto result = sample();
  ASSERT_TRUE(result);
  EXPECT_EQ(result->files, 6U);
  EXPECT_EQ(result->documents, 2U * 100);
  EXPECT_EQ(files_written(), 6U);
  const SamplePlan drawn = plan();
  for (const PlannedChunk& chunk : drawn.chunks) {
    ASSERT_EQ(chunk.drawn.size(), 3U);
    for (std::size_t i = 0; i < 3; ++i) {
      const std::string name = base(chunk.drawn[i].file.path);
      const auto texts = written(name);
      ASSERT_EQ(texts.size(), i < 2 ? 40U : 20U);
      EXPECT_EQ(texts.front(), name + "-0");
      EXPECT_EQ(texts.back(), name + "-" + std::to_string(texts.size() - 1));
    }
  }
  const std::string first = base(drawn.chunks[0].drawn[0].file.path);
  EXPECT_EQ(read_text_file(sample_.output / "text" / "train" / (first + ".jsonl")), lines(first));  // byte for byte
  EXPECT_EQ(requests(".jsonl.zst").size(), 6U);
}

TEST_F(HubSampleTest, TheSameCallAgainDoesNothing) {
  serve();
  const auto first = sample();
  const auto time = fs::last_write_time(sample_.output / "files.jsonl");
  serve();
  const auto second = sample();
  EXPECT_EQ(second->documents, first->documents);
  EXPECT_EQ(second->text_bytes, first->text_bytes);
  EXPECT_TRUE(requests(".jsonl.zst").empty());
  EXPECT_EQ(fs::last_write_time(sample_.output / "files.jsonl"), time);
}

TEST_F(HubSampleTest, WhatIsExtractedNeedsNoCache) {
  serve();
  const auto first = sample();
  fs::remove_all(folder_ / "cache");
  serve();
  EXPECT_EQ(sample()->text_bytes, first->text_bytes);
  EXPECT_EQ(requests().size(), 1U);  // for the commit
}

TEST_F(HubSampleTest, PlanOnlyFetchesNothing) {
  serve();
  sample_.plan_only = true;
  ASSERT_TRUE(sample());
  EXPECT_TRUE(requests(".jsonl.zst").empty());
  EXPECT_EQ(plan().chunks.size(), 2U);
  sample_.plan_only = false;
  EXPECT_EQ(sample()->documents, 200U);
}

// Stops at every point where the library asks, until nothing is left to do.
TEST_F(HubSampleTest, InterruptedAnywhereItEndsWithTheSameText) {
  serve();
  const auto whole = sample();
  const std::string journal = read_text_file(sample_.output / "files.jsonl");
  fs::rename(sample_.output, folder_ / "expected");
  fs::remove_all(folder_ / "cache");
  serve();
  std::optional<SampleResult> result;
  int interrupted = 0;
  for (int patience = 1; !result; patience += 25, ++interrupted) {
    std::atomic<int> asked = 0;
    HubCallbacks impatient = callbacks();
    impatient.stop = [&asked, patience] { return ++asked > patience; };
    result = sample(impatient);
  }
  EXPECT_GT(interrupted, 3);
  EXPECT_EQ(result->text_bytes, whole->text_bytes);
  EXPECT_EQ(read_text_file(sample_.output / "files.jsonl"), journal);
  for (const auto& entry : fs::recursive_directory_iterator(folder_ / "expected" / "text")) {
    if (!entry.is_regular_file()) continue;
    EXPECT_EQ(read_text_file(sample_.output / fs::relative(entry.path(), folder_ / "expected")), read_text_file(entry.path()));
  }
  EXPECT_EQ(files_written(), 6U);
}

TEST_F(HubSampleTest, CountedTokensCutEveryChunkAtItsShare) {
  serve();
  sample_.count_tokens = [](std::string_view) { return 7; };
  request_.budget_tokens = 700;  // of 1000: 4 files a chunk, 350 tokens each: 50 documents of 7
  const auto result = sample();
  EXPECT_EQ(result->documents, 100U);
  EXPECT_EQ(result->tokens, 700U);
}

TEST_F(HubSampleTest, PlainTextBecomesJsonLines) {
  put("datasets/org/text/train/notes/a.txt.gz", gzip("two\nlines \xc3\xa9\n"));
  put("datasets/org/text/train/notes/b.json.xz", xz("{\"text\":\"b\"}"));
  request_.budget_tokens = request_.total_tokens = 0;
  request_.folder = "train/notes";
  serve();
  ASSERT_EQ(sample()->documents, 2U);
  EXPECT_EQ(written("notes/a.txt"), std::vector<std::string>{"two\nlines \xc3\xa9\n"});
  EXPECT_EQ(written("notes/b"), std::vector<std::string>{"b"});
}

TEST_F(HubSampleTest, ParquetRowsBecomeJsonLines) {
  const std::string parquet = read_text_file(STABLEQAT_TEST_DATA "/arrow/texts.parquet");  // by pyarrow; six rows
  for (int i = 0; i < 4; ++i) put("datasets/org/text/train/" + std::to_string(i) + ".parquet", parquet);
  request_.include = {"*.parquet"};
  request_.budget_tokens = 375;  // 1.5 of 4 files
  serve();
  ASSERT_EQ(sample()->documents, 9U);
  const SamplePlan drawn = plan();
  ASSERT_EQ(drawn.chunks.at(0).drawn.size(), 2U);
  const std::vector<std::string> texts{"first", "", "", "zweite \xc3\xbc", "line\nbreak", "last"};
  EXPECT_EQ(written(fs::path(drawn.chunks[0].drawn[0].file.path).stem()), texts);
  EXPECT_EQ(written(fs::path(drawn.chunks[0].drawn[1].file.path).stem()), std::vector<std::string>(texts.begin(), texts.begin() + 3));
}

TEST_F(HubSampleTest, APlanForAnotherRevisionOrRequestIsRefused) {
  serve();
  ASSERT_TRUE(sample());
  const auto message = [&]() -> std::string {
    try {
      sample();
    } catch (const DataError& error) {
      return error.what();
    }
    return "";
  };
  const std::string old = plan().commit;
  put("datasets/org/text/train/chunk1/new.jsonl.zst", zstd(lines("new")));  // another commit
  EXPECT_NE(message().find("a plan for revision " + old), std::string::npos) << message();
  EXPECT_NE(message().find("--revision " + old), std::string::npos) << message();
  fs::remove(folder_ / "hub/datasets/org/text/train/chunk1/new.jsonl.zst");
  EXPECT_EQ(message(), "");
  request_.seed = 43;
  EXPECT_NE(message().find("seed 42 instead of 43"), std::string::npos) << message();
  request_.seed = 42;
  request_.budget_tokens = 600;
  EXPECT_NE(message().find("budget 500 instead of 600"), std::string::npos) << message();
  request_.budget_tokens = 500;
  request_.counted_by = "tokenizer";
  EXPECT_NE(message().find("counted by another tokenizer"), std::string::npos) << message();
  request_.counted_by = "";
  write_text_file(sample_.output / "plan.json", "{}");
  EXPECT_NE(message().find("remove it to draw anew"), std::string::npos) << message();
  fs::remove(sample_.output / "plan.json");
  EXPECT_NE(message().find("no plan beside"), std::string::npos) << message();
}

TEST_F(HubSampleTest, DamagedOutputIsMadeAgain) {
  serve();
  const auto whole = sample();
  const std::string name = base(plan().chunks[0].drawn[1].file.path);
  const fs::path text = sample_.output / "text" / "train" / (name + ".jsonl");
  fs::resize_file(text, 10);
  std::ofstream(sample_.output / "files.jsonl", std::ios::app) << "{\"path\": \"cut o";
  EXPECT_EQ(sample()->text_bytes, whole->text_bytes);
  EXPECT_EQ(read_text_file(text), lines(name));
  std::ofstream(sample_.output / "files.jsonl", std::ios::app) << "no json\n";
  EXPECT_THROW(sample(), DataError);
}

TEST_F(HubSampleTest, BadTextIsAnErrorOrLeftOut) {
  put("datasets/org/text/train/bad/a.jsonl.zst", zstd("{\"text\":\"good\"}\nno json\n") + "garbage");
  request_.folder = "train/bad";
  request_.budget_tokens = request_.total_tokens = 0;
  sample_.count_tokens = [](std::string_view) { return 1; };
  serve();
  EXPECT_THROW(sample(), DataError);
  EXPECT_FALSE(fs::exists(sample_.output / "text/train/bad/a.jsonl"));
  sample_.text.skip_bad_lines = true;
  EXPECT_EQ(sample()->documents, 1U);
  EXPECT_EQ(warnings_.size(), 2U);
}

// 256 MB of text from a file of some kB: neither the compressed nor the text is ever held.
TEST_F(HubSampleTest, MemoryDoesNotGrow) {
  const std::string line = json{{"text", std::string(1000, 'x')}}.dump() + "\n";
  std::string block;
  while (block.size() < (std::size_t{1} << 20)) block += line;
  std::string frames;
  const std::string frame = zstd(block);
  for (int i = 0; i < 256; ++i) frames += frame;
  put("datasets/org/text/train/large/a.jsonl.zst", frames + zstd(""));
  request_.folder = "train/large";
  request_.budget_tokens = request_.total_tokens = 0;
  serve();
  if (!reset_peak_memory()) GTEST_SKIP() << "no peak of memory here";
  const std::uint64_t before = peak_memory();
  const auto result = sample();
  EXPECT_EQ(result->text_bytes, 256 * block.size());
  EXPECT_LT(peak_memory() - before, std::uint64_t{16} << 20);
}

}  // namespace
}  // namespace stableqat::hub
