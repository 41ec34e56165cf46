#include "stableqat/base/memory.h"

#include <gtest/gtest.h>

#include <vector>

namespace stableqat {
namespace {

TEST(Memory, OfThisProcessFollowsWhatItUses) {
  constexpr std::size_t kBytes = 64 << 20;
  const std::uint64_t before = resident_memory();
  ASSERT_GT(before, 0U);
  {
    std::vector<char> block(kBytes, 'x');
    EXPECT_GT(resident_memory(), before + kBytes / 2) << block[kBytes / 2];
  }
  EXPECT_LT(resident_memory(), before + kBytes / 2);
  EXPECT_GT(peak_memory(), before + kBytes / 2);
  if (reset_peak_memory()) {
    EXPECT_LT(peak_memory(), before + kBytes / 2);
  }
}

TEST(Memory, OfTheMachineHoldsThisProcess) {
  EXPECT_GT(available_memory(), 0U);
  EXPECT_LE(available_memory(), total_memory());
  EXPECT_LT(resident_memory(), total_memory());
}

}  // namespace
}  // namespace stableqat
