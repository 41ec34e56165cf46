// Exchanges between GPUs where they cannot be: said, not crashed on.
#include <gtest/gtest.h>

#include "stableqat/base/error.h"
#include "stableqat/dist/nccl_group.h"

namespace stableqat {
namespace {

TEST(NcclGroup, WhatIsMissingIsSaid) {
  const std::string missing = nccl_is_missing();
  if (missing.empty()) GTEST_SKIP() << "LibTorch's CUDA libraries are here; exchanges need two GPUs";
  EXPECT_NE(missing.find("lib"), std::string::npos) << missing;
  try {
    connect_gpus(single_process(), {}, std::chrono::seconds(1));
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_NE(std::string(error.what()).find(missing), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace stableqat
