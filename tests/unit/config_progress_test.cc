#include <gtest/gtest.h>

#include "progress_meter.h"

namespace stableqat::app {
namespace {

using namespace std::chrono_literals;

TEST(ProgressMeter, ShowsShareRateAndTimeLeft) {
  ProgressMeter meter(1s);
  const ProgressMeter::Clock::time_point start{};
  EXPECT_EQ(meter.update({"train", 0, 500, "steps"}, start), std::nullopt);
  EXPECT_EQ(meter.update({"train", 100, 500, "steps"}, start + 50s), "train: 100 of 500 steps (20 %), 2.00 steps/s, 3:20 left");
}

TEST(ProgressMeter, ScalesBytes) {
  ProgressMeter meter(1s);
  const ProgressMeter::Clock::time_point start{};
  meter.update({"read", 0, 4'000'000'000, "bytes"}, start);
  EXPECT_EQ(meter.update({"read", 1'500'000'000, 4'000'000'000, "bytes"}, start + 10s), "read: 1.5 of 4.0 GB (37 %), 150 MB/s, 0:17 left");
}

TEST(ProgressMeter, WorksWithoutATotal) {
  ProgressMeter meter(1s);
  const ProgressMeter::Clock::time_point start{};
  meter.update({"scan", 0, 0, "documents"}, start);
  EXPECT_EQ(meter.update({"scan", 30, 0, "documents"}, start + 2s), "scan: 30 documents, 15.0 documents/s, 0:02");
}

TEST(ProgressMeter, CountsOnlyWhatThisRunDid) {
  ProgressMeter meter(1s);
  const ProgressMeter::Clock::time_point start{};
  meter.update({"train", 400, 1000, "steps"}, start);
  EXPECT_EQ(meter.update({"train", 410, 1000, "steps"}, start + 20s), "train: 410 of 1000 steps (41 %), 0.50 steps/s, 19:40 left");
}

TEST(ProgressMeter, KeepsTheIntervalAndAlwaysShowsTheEndOnce) {
  ProgressMeter meter(10s);
  const ProgressMeter::Clock::time_point start{};
  EXPECT_FALSE(meter.update({"a", 0, 10, "steps"}, start));
  EXPECT_FALSE(meter.update({"a", 1, 10, "steps"}, start + 9s));
  EXPECT_TRUE(meter.update({"a", 2, 10, "steps"}, start + 10s));
  EXPECT_FALSE(meter.update({"a", 3, 10, "steps"}, start + 19s));
  EXPECT_EQ(meter.update({"a", 10, 10, "steps"}, start + 19s), "a: 10 of 10 steps (100 %), 0.53 steps/s, 0:19");
  EXPECT_FALSE(meter.update({"a", 10, 10, "steps"}, start + 40s));
  EXPECT_TRUE(meter.starts_stage({"b", 0, 10, "steps"}));
  EXPECT_FALSE(meter.update({"b", 0, 10, "steps"}, start + 41s));
  EXPECT_EQ(meter.update({"b", 10, 10, "steps"}, start + 42s), "b: 10 of 10 steps (100 %), 10.0 steps/s, 0:01");
}

TEST(ProgressMeter, LongTimesHaveHours) {
  ProgressMeter meter(1s);
  const ProgressMeter::Clock::time_point start{};
  meter.update({"train", 0, 36'000, "steps"}, start);
  EXPECT_EQ(meter.update({"train", 100, 36'000, "steps"}, start + 100s), "train: 100 of 36000 steps (0 %), 1.00 steps/s, 9:58:20 left");
}

}  // namespace
}  // namespace stableqat::app
