#include "export/svg.h"

#include <gtest/gtest.h>

namespace stableqat::svg {
namespace {

using Numbers = std::vector<double>;

void expect_near(const Numbers& found, const Numbers& expected) {
  ASSERT_EQ(found.size(), expected.size()) << ::testing::PrintToString(found);
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-12 * expected[i]);
}

TEST(Svg, TicksAreRoundAndCoverTheRange) {
  expect_near(linear_ticks(10.3, 18.9, 5), {10, 12, 14, 16, 18, 20});
  expect_near(linear_ticks(0, 0.04, 5), {0, 0.01, 0.02, 0.03, 0.04});
  expect_near(linear_ticks(0, 1, 2), {0, 0.5, 1});
  expect_near(log_ticks(0.013, 0.21), {0.01, 0.02, 0.05, 0.1, 0.2, 0.5});
  expect_near(log_ticks(1, 1), {1, 2});
  expect_near(log_ticks(0.6, 40), {0.5, 1, 2, 5, 10, 20, 50});
}

TEST(Svg, ColoursRunFromBlueOverGreyToRed) {
  EXPECT_EQ(diverging_colour(-1), "#2166ac");
  EXPECT_EQ(diverging_colour(0), "#ececec");
  EXPECT_EQ(diverging_colour(1), "#b2182b");
  EXPECT_EQ(diverging_colour(7), diverging_colour(1));
}

TEST(Svg, TextIsEscaped) {
  EXPECT_EQ(escaped("a<b>&c"), "a&lt;b>&amp;c");
  EXPECT_NE(text(1, 2, "<script>").find(">&lt;script></text>"), std::string::npos);
  EXPECT_NE(rect({0, 0, 1, 1}, "#fff", "<t>").find("<title>&lt;t></title></rect>"), std::string::npos);
}

}  // namespace
}  // namespace stableqat::svg
