#include "stableqat/kernels/isa.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "stableqat/base/error.h"

namespace stableqat::kernels {
namespace {

// A fresh process, because the choice is made once.
[[noreturn]] void exit_with_active_isa(const char* wanted) {
  setenv("STABLEQAT_ISA", wanted, 1);
  try {
    std::_Exit(static_cast<int>(active_isa()));
  } catch (const ConfigError&) {
    std::_Exit(100);
  }
}

TEST(Isa, EnvironmentForcesEverySupportedOne) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const Isa isa : kAllIsas) {
    const int expected = isa <= best_isa() ? static_cast<int>(isa) : 100;
    EXPECT_EXIT(exit_with_active_isa(std::string(isa_name(isa)).c_str()), ::testing::ExitedWithCode(expected), "") << isa_name(isa);
  }
  EXPECT_EXIT(exit_with_active_isa("sse9"), ::testing::ExitedWithCode(100), "");
  EXPECT_EXIT(exit_with_active_isa(""), ::testing::ExitedWithCode(static_cast<int>(best_isa())), "");
}

}  // namespace
}  // namespace stableqat::kernels
