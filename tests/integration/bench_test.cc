// `stableqat bench` as users call it, on a model of random weights small enough for a test.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "stableqat/base/file.h"

namespace stableqat {
namespace {

struct Result {
  int code;
  std::string out;
  std::string err;
};

class BenchTest : public testing::Test {
 protected:
  BenchTest() : folder_(std::filesystem::temp_directory_path() / ("stableqat_bench_test_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~BenchTest() override { std::filesystem::remove_all(folder_); }

  Result bench(const std::string& arguments) {
    const std::string command = "cd '" + folder_.string() + "' && '" STABLEQAT_PROGRAM "' bench " + arguments + " >out 2>err </dev/null";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text_file(folder_ / "out"), read_text_file(folder_ / "err")};
  }

  nlohmann::json rows(const char* file) { return nlohmann::json::parse(read_text_file(folder_ / file)); }

  std::filesystem::path folder_;
};

TEST_F(BenchTest, StepWritesOneObjectPerMethod) {
  const Result result = bench(
      "step --shape tiny --batch 2 --seq 32 --accumulate 2 --methods none,ste,stableqat,dsq --bits 3 --warmup 1 --repeats 2 --json o.json");
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json json = rows("o.json");
  ASSERT_EQ(json.size(), 4U);
  const char* methods[] = {"none", "ste", "stableqat", "dsq"};
  for (std::size_t i = 0; i < 4; ++i) {
    const nlohmann::json& row = json[i];
    EXPECT_EQ(row.at("method"), methods[i]);
    EXPECT_NE(result.out.find(std::string("\n") + methods[i] + " "), std::string::npos) << result.out;
    const double step = row.at("step_seconds");
    EXPECT_NEAR(row.at("tokens_per_second").get<double>() * step, 2 * 2 * 32, 1e-6);
    for (const char* part : {"forward_seconds", "backward_seconds", "update_seconds"}) {
      EXPECT_GT(row.at(part).get<double>(), 0) << part;
      EXPECT_LT(row.at(part).get<double>(), row.at("step_seconds_max").get<double>()) << part;
    }
    EXPECT_GT(row.at("peak_bytes").get<double>(), 1e7);
    EXPECT_GT(row.at("gemm_flops_per_second").get<double>(), 1e6);
    EXPECT_NEAR(row.at("model_flops_share").get<double>(),
                row.at("model_flops_per_step").get<double>() / step / row.at("gemm_flops_per_second").get<double>(), 1e-9);
    EXPECT_EQ(row.at("accumulate"), 2);
    EXPECT_EQ(row.at("model"), "tiny");
  }
  EXPECT_EQ(json[0].at("step_ratio"), 1.0);
  EXPECT_EQ(json[1].at("first_loss"), json[2].at("first_loss"));
  EXPECT_NE(json[0].at("first_loss"), json[1].at("first_loss"));
}

TEST_F(BenchTest, EfficiencyHasThePapersColumns) {
  const Result result = bench("efficiency --shape tiny --batch 2 --seq 32 --warmup 1 --repeats 3 --json o.json");
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* column : {"forward ms", "forward MB", "backward ms", "backward MB"}) {
    EXPECT_NE(result.out.find(column), std::string::npos) << result.out;
  }
  const nlohmann::json json = rows("o.json");
  ASSERT_EQ(json.size(), 4U);
  for (const nlohmann::json& row : json) {
    for (const char* field : {"forward_seconds", "forward_bytes", "backward_seconds", "backward_bytes", "peak_bytes"}) {
      EXPECT_GT(row.at(field).get<double>(), 0) << field;
    }
  }
}

TEST_F(BenchTest, KernelsAreComparedWithTheMachinesRates) {
  const Result result = bench("kernels --shape tiny --batch 1 --seq 64 --warmup 0 --repeats 1 --kernels .forward --json o.json");
  ASSERT_EQ(result.code, 0) << result.err;
  bool has_memory = false;
  bool has_arithmetic = false;
  for (const nlohmann::json& row : rows("o.json")) {
    const bool is_memory = row.at("bound") == "memory";
    (is_memory ? has_memory : has_arithmetic) = true;
    EXPECT_NE(row.at("kernel").get<std::string>().find(".forward"), std::string::npos);
    const double rate = row.at(is_memory ? "bytes_per_second" : "flops_per_second");
    const double reference = row.at(is_memory ? "copy_bytes_per_second" : "gemm_flops_per_second");
    EXPECT_NEAR(row.at("share").get<double>(), rate / reference, 1e-9);  // of one round
    EXPECT_NE(result.out.find(row.at("isa").get<std::string>()), std::string::npos);
  }
  EXPECT_TRUE(has_memory && has_arithmetic);
}

TEST_F(BenchTest, ScalingFollowsThreeAxes) {
  const Result result = bench("scaling --shape tiny --seq 32 --max-seq 256 --warmup 0 --repeats 1 --json o.json");
  ASSERT_EQ(result.code, 0) << result.err;
  std::string points;
  for (const nlohmann::json& row : rows("o.json")) {
    points += row.at("axis").get<std::string>() + " " + std::to_string(row.at("value").get<int>()) + "\n";
    EXPECT_GT(row.at("step_seconds").get<double>(), 0);
    EXPECT_GT(row.at("peak_bytes").get<double>(), 1e7);
    EXPECT_GT(row.at("estimated_peak_bytes").get<double>(), 1e7);
    const bool is_first = row.at("value") == (row.at("axis") == "tokens" ? 128 : row.at("axis") == "layers" ? 1 : 32);
    EXPECT_EQ(row.contains("time_exponent"), !is_first) << row;
  }
  EXPECT_EQ(points, "tokens 128\ntokens 256\nlayers 1\nlayers 2\nlayers 4\nhidden 32\nhidden 64\nhidden 128\n");
}

TEST_F(BenchTest, WhatDoesNotFitIntoMemoryIsToldBefore) {
  const Result step = bench("step --shape llama-3.2-3b --batch 64 --seq 8192 --methods stableqat");
  EXPECT_EQ(step.code, 4);
  EXPECT_NE(step.err.find("--train.recompute block"), std::string::npos) << step.err;
  const Result scaling = bench("scaling --shape tiny --batch 1000000 --max-seq 128 --warmup 0 --repeats 1 --json o.json");
  ASSERT_EQ(scaling.code, 0) << scaling.err;
  EXPECT_NE(scaling.out.find("left out: needs about"), std::string::npos) << scaling.out;
  EXPECT_TRUE(rows("o.json")[0].contains("skipped"));
}

TEST_F(BenchTest, WrongUseIsTwoAndOneLine) {
  for (const char* arguments :
       {"", "stp", "step", "step --shape tiny --model x", "step --shape tinny", "step --shape tiny --batch 0", "step --shape tiny --seq 1",
        "step --shape tiny --methods ste,nonne", "step --shape tiny --bits 5", "step --shape tiny --repeats 0",
        "step --shape tiny --train.recompue block", "efficiency --shape tiny --accumulate 2", "kernels --shape tiny --kernels nothing",
        "kernels --shape tiny --bits 4", "scaling --shape tiny --max-seq 64"}) {
    const Result result = bench(arguments);
    EXPECT_EQ(result.code, 2) << arguments;
    EXPECT_EQ(result.out, "") << arguments;
    EXPECT_EQ(result.err.find("stableqat: error: "), 0U) << result.err;
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  }
  EXPECT_NE(bench("step --shape tinny").err.find("smollm2-135m"), std::string::npos);
  EXPECT_EQ(bench("step --model no/such/model").code, 3);
}

TEST_F(BenchTest, HelpTeaches) {
  for (const char* command : {"step", "efficiency", "kernels", "scaling"}) {
    const Result result = bench(std::string(command) + " --help");
    EXPECT_EQ(result.code, 0);
    EXPECT_NE(result.out.find("Example:\n  stableqat bench " + std::string(command) + " --shape "), std::string::npos) << result.out;
  }
}

}  // namespace
}  // namespace stableqat
