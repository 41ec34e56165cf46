// How `auto` settings are decided, and what is refused.
#include "stableqat/train/settings.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "stableqat/base/error.h"

namespace stableqat {
namespace {

using Compute = TrainConfig::Compute;

// Of a run at 4 bits in float32 but for `flags`.
TrainConfig run_with(std::vector<std::string> flags) {
  const auto add_unless_given = [&flags](const std::string& key, const char* value) {
    if (std::find(flags.begin(), flags.end(), key) != flags.end()) return;
    flags.insert(flags.end(), {key, value});
  };
  add_unless_given("--quantization.bits", "4");
  add_unless_given("--train.precision", "float32");
  flags.insert(flags.end(), {"--model.path", "none", "--data.train", "[none]", "--train.output_dir", "none"});
  std::vector<std::string> notices;
  return load_train_config({}, flags, notices);
}

Compute chosen(const std::vector<std::string>& flags, bool has_fast_integer = true) {
  return chosen_compute(run_with(flags), has_fast_integer);
}

TEST(TrainSettings, AutomaticProductsAreOfIntegersWhereThatWasProved) {
  EXPECT_EQ(chosen({}), Compute::kInt8x2);
  EXPECT_EQ(chosen({"--quantization.method", "dsq"}), Compute::kInt8x2);
  EXPECT_EQ(chosen({"--train.precision", "float16"}), Compute::kInt8x2);
  EXPECT_EQ(chosen({}, false), Compute::kFloat);
  for (const char* bits : {"2", "3", "8"}) EXPECT_EQ(chosen({"--quantization.bits", bits}), Compute::kFloat) << bits;
  EXPECT_EQ(chosen({"--quantization.method", "none", "--quantization.bits", "16"}), Compute::kFloat);
  EXPECT_EQ(chosen({"--quantization.group_size", "32"}), Compute::kFloat);
  EXPECT_EQ(chosen({"--train.precision", "bfloat16"}), Compute::kFloat);
  EXPECT_EQ(chosen({"--train.precision", "float64"}), Compute::kFloat);
  EXPECT_EQ(chosen({"--train.device", "cuda"}), Compute::kFloat);
}

TEST(TrainSettings, ProductsThatWereAskedForAreTaken) {
  EXPECT_EQ(chosen({"--train.compute", "float"}), Compute::kFloat);
  EXPECT_EQ(chosen({"--train.compute", "int8x1", "--quantization.bits", "3"}, false), Compute::kInt8x1);
}

TEST(TrainSettings, WhatDoesNotGoTogetherIsRefusedBeforeAnythingIsRead) {
  EXPECT_NO_THROW(check_settings(run_with({"--train.device", "cuda", "--train.compute", "fp8", "--train.precision", "auto"})));
  const std::vector<std::vector<std::string>> refused{
      {"--train.compute", "fp8"},
      {"--train.compute", "fp8", "--train.device", "cuda"},  // in float32
      {"--train.compute", "fp8", "--train.device", "cuda", "--train.precision", "auto", "--quantization.bits", "8"},
      {"--train.compute", "fp8", "--train.device", "cuda", "--train.precision", "auto", "--quantization.group_size", "64"},
      {"--train.compute", "int8x2", "--train.device", "cuda"},
      {"--train.compute", "int8x2", "--train.precision", "bfloat16"},
      {"--train.cuda_graph", "true"},
      {"--train.device", "cuda", "--train.moments", "bfloat16"}};
  for (const std::vector<std::string>& flags : refused) EXPECT_THROW(check_settings(run_with(flags)), ConfigError) << flags[1];
}

}  // namespace
}  // namespace stableqat
