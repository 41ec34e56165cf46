// Event files against the bytes that TensorBoard's own classes write (tools/make_event_fixtures.py).
#include "stableqat/train/event_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

const std::vector<ScalarValue> kScalars{{"train/loss", 2.5F}, {"train/learning_rate", 1e-4F}};

TEST(EventFileTest, RecordsAreThoseOfTensorBoard) {
  const std::array<std::uint64_t, 4> counts{1, 5, 0, 4};
  const std::array<HistogramValue, 1> histograms{{{"codes/layer", -2, counts}}};
  const std::string found = event_record_of_version(1700000000.25) + event_record_of_restart(1700000001.5, 301) +
                            event_record(1700000002.0, 70000, kScalars, histograms);
  EXPECT_EQ(found, read_text_file(fs::path(STABLEQAT_TEST_DATA) / "events.bin"));
}

TEST(EventFileTest, AppendsToAFileOfItsOwn) {
  const fs::path folder = fs::temp_directory_path() / ("stableqat_event_test_" + std::to_string(::getpid()));
  EventFile file(folder / "runs", 0);
  const std::size_t empty = fs::file_size(file.path());
  EXPECT_EQ(empty, event_record_of_version(0.0).size());
  file.append(1, kScalars);
  file.append(2, kScalars);
  EXPECT_EQ(fs::file_size(file.path()), empty + 2 * event_record(0.0, 1, kScalars, {}).size());
  EXPECT_EQ(file.path().filename().string().find("events.out.tfevents."), 0U);
  write_text_file(folder / "file", "");
  EXPECT_THROW(EventFile(folder / "file", 0), EnvironmentError);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace stableqat
