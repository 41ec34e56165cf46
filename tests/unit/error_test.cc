#include "stableqat/base/error.h"

#include <gtest/gtest.h>

#include <array>

namespace stableqat {
namespace {

TEST(Error, SaysWhereFoundExpectedAndRemedyInOneLine) {
  const DataError error({"model.safetensors", "12 bytes", "at least 16 bytes", "download it\nagain"});
  EXPECT_STREQ(error.what(), "model.safetensors: found 12 bytes, expected at least 16 bytes; download it again");
  EXPECT_EQ(error.exit_code(), ExitCode::kBadData);
}

TEST(Error, LeavesOutEmptyParts) { EXPECT_STREQ(ConfigError({"--bits", "5", "", ""}).what(), "--bits: found 5"); }

TEST(NearestName, FindsTheTypoAndOnlyTheTypo) {
  const std::array<std::string, 3> names{"learning_rate", "weight_decay", "max_steps"};
  EXPECT_EQ(nearest_name("lerning_rate", names), "learning_rate");
  EXPECT_EQ(nearest_name("zzz", names), "");
}

}  // namespace
}  // namespace stableqat
