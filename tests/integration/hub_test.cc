// The commands of the Hub, as a user runs them, against a Hub on this machine.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "stableqat/base/file.h"
#include "support/hub_server.h"
#include "unit/data_fixtures.h"

namespace stableqat::hub {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct Result {
  int code;
  std::string out;
  std::string err;
};

class HubCommandTest : public HubServerTest {
 protected:
  int start(const std::string& arguments) {
    const std::string command = "cd '" + folder_.string() + "' && HF_ENDPOINT=http://127.0.0.1:" + std::to_string(port()) +
                                " HF_HUB_CACHE=cache HF_TOKEN= exec '" STABLEQAT_PROGRAM "' " + arguments + " >out 2>err </dev/null";
    const int process = ::fork();
    if (process == 0) {
      ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      ::_exit(127);
    }
    return process;
  }
  Result finish(int process) {
    int status = 0;
    ::waitpid(process, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text_file(folder_ / "out"), read_text_file(folder_ / "err")};
  }
  Result stableqat(const std::string& arguments) { return finish(start(arguments)); }
};

TEST_F(HubCommandTest, DownloadTakesWhatAModelNeeds) {
  const std::string weights = noise(50'000, 1);
  put("models/org/model/model.safetensors", weights);
  put("models/org/model/config.json", "{}");
  put("models/org/model/pytorch_model.bin", noise(1000, 2));
  put("models/org/model/original/model.safetensors", noise(1000, 3));
  put("models/org/quantized/model.Q4.gguf", noise(1000, 4));
  serve();
  const Result result = stableqat("download org/model");
  ASSERT_EQ(result.code, 0) << result.err;
  const fs::path snapshot = folder_ / result.out.substr(0, result.out.size() - 1);
  EXPECT_TRUE(read_text_file(snapshot / "model.safetensors") == weights);
  EXPECT_TRUE(fs::exists(snapshot / "config.json"));
  EXPECT_FALSE(fs::exists(snapshot / "pytorch_model.bin"));
  EXPECT_FALSE(fs::exists(snapshot / "original"));
  EXPECT_EQ(read_text_file(folder_ / "cache/models--org--model/refs/main"), snapshot.filename().string());

  const Result only_gguf = stableqat("download org/quantized");
  EXPECT_EQ(only_gguf.code, 3);
  EXPECT_NE(only_gguf.err.find("; choose by --include FILE"), std::string::npos) << only_gguf.err;
  EXPECT_EQ(stableqat("download org/quantized --include '*.gguf'").code, 0);
  const Result unknown = stableqat("download org/nothing");
  EXPECT_EQ(unknown.code, 3);
  EXPECT_NE(unknown.err.find("no such repository"), std::string::npos) << unknown.err;
  EXPECT_EQ(stableqat("download 'no name'").code, 2);
}

TEST_F(HubCommandTest, ControlCAndAgainLosesNothing) {
  put("models/org/model/model.safetensors", noise(400'000, 1));
  serve({{"model.safetensors", {{{"kind", "slow"}, {"pieces", 100}, {"pause", 0.05}}}}});
  const int process = start("download org/model");
  const auto arrived = [&] {
    std::uintmax_t bytes = 0;
    std::error_code gone;
    for (const auto& entry : fs::directory_iterator(folder_ / "cache/models--org--model/blobs", gone)) bytes += entry.file_size(gone);
    return bytes;
  };
  for (int i = 0; i < 400 && arrived() < 100'000; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ::kill(process, SIGINT);
  EXPECT_EQ(finish(process).code, 130);
  const std::uintmax_t kept = arrived();
  EXPECT_GE(kept, 100'000U);
  serve();
  EXPECT_EQ(stableqat("download org/model").code, 0);
  ASSERT_EQ(requests("model.safetensors").size(), 1U);
  EXPECT_EQ(requests("model.safetensors")[0].at("range"), "bytes=" + std::to_string(kept) + "-");
}

TEST_F(HubCommandTest, SampleThenTokenize) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += json{{"text", "document " + std::to_string(i)}}.dump() + "\n";
  for (const char* name : {"a", "b", "c", "d"}) put("datasets/org/text/data/" + std::string(name) + ".jsonl.zst", zstd(text));
  serve();
  const Result result = stableqat("sample org/text --budget 1.5k --total-tokens 4k --output sample --json result.json");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out.find("150 documents, "), 0U) << result.out;
  const json object = json::parse(read_text_file(folder_ / "result.json"));
  EXPECT_EQ(object.at("documents"), 150);
  EXPECT_EQ(object.at("files"), 2);

  const std::string model = STABLEQAT_TEST_DATA "/tokenizer/gpt2.json";
  ASSERT_EQ(stableqat("tokenize --model '" + model + "' --input sample/text --output tokens").code, 0);
  const Result counted = stableqat("sample org/text --output all --model '" + model + "'");
  EXPECT_EQ(counted.code, 0) << counted.err;
  const Result other = stableqat("sample org/text --budget 2k --total-tokens 4k --output sample");
  EXPECT_EQ(other.code, 3);
  EXPECT_NE(other.err.find("budget 1500 instead of 2000"), std::string::npos) << other.err;
  EXPECT_EQ(stableqat("sample org/text --budget many --output sample").code, 2);
}

TEST_F(HubCommandTest, TheAuthorsDataSetsByTheirNames) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += json{{"text", "document " + std::to_string(i)}}.dump() + "\n";
  for (const char* name : {"chunk1/a", "chunk1/b", "chunk1/c", "chunk2/a", "chunk2/b", "chunk2/c"}) {
    put("datasets/cerebras/SlimPajama-627B/train/" + std::string(name) + ".jsonl.zst", zstd(text));
  }
  put("datasets/cerebras/SlimPajama-627B/test/chunk1/x.jsonl.zst", zstd(text));
  put("datasets/HuggingFaceFW/fineweb-edu/sample/100BT/000.parquet", read_text_file(STABLEQAT_TEST_DATA "/arrow/texts.parquet"));
  put("datasets/HuggingFaceFW/fineweb-edu/data/other.parquet", "");
  serve();
  const Result slim = stableqat("sample slimpajama --output slim");
  ASSERT_EQ(slim.code, 0) << slim.err;
  json plan = json::parse(read_text_file(folder_ / "slim/plan.json"));
  EXPECT_EQ(plan.at("seed"), 42);
  EXPECT_EQ(plan.at("budget_tokens"), 20'000'000'000);
  ASSERT_EQ(plan.at("chunks").size(), 2U);  // of train only
  for (const json& chunk : plan.at("chunks")) {
    EXPECT_EQ(chunk.at("files"), 3);
    ASSERT_EQ(chunk.at("drawn").size(), 1U);  // ceil(3 * 20 / 626)
    EXPECT_NEAR(chunk.at("drawn")[0].at("share").get<double>(), 3 * 20.0 / 626, 1e-9);
  }
  // Of each its share of 100 documents.
  EXPECT_EQ(json::parse("[" + slim.out.substr(0, slim.out.find(' ')) + "]")[0], 2 * 10) << slim.out;

  const Result edu = stableqat("sample fineweb-edu --budget 200B --output edu");
  ASSERT_EQ(edu.code, 0) << edu.err;
  plan = json::parse(read_text_file(folder_ / "edu/plan.json"));
  ASSERT_EQ(plan.at("chunks").size(), 1U);
  EXPECT_EQ(plan.at("chunks")[0].at("drawn")[0].at("path"), "sample/100BT/000.parquet");
  EXPECT_EQ(edu.out.rfind("6 documents, ", 0), 0U) << edu.out;
}

}  // namespace
}  // namespace stableqat::hub
