// Bytes written by one thread while another changes them: the file has what they were before.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/io/live_parts.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

class LivePartsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stableqat_live_parts_test_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
    for (std::size_t i = 0; i < first_.size(); ++i) first_[i] = static_cast<std::byte>(i * 7 + i / 251);
    for (std::size_t i = 0; i < second_.size(); ++i) second_[i] = static_cast<std::byte>(i * 13 + i / 241);
    expected_first_ = text_of(first_);
    expected_second_ = text_of(second_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::string text_of(const std::vector<std::byte>& bytes) {
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  std::vector<SharedFile> files() const {
    std::vector<SharedFile> result;
    result.push_back(SharedFile::create(folder_ / "a", first_.size() + 100));
    result.push_back(SharedFile::create(folder_ / "b", second_.size()));
    return result;
  }
  void expect_the_old_bytes() const {
    EXPECT_TRUE(read_text_file(folder_ / "a").substr(100) == expected_first_);
    EXPECT_TRUE(read_text_file(folder_ / "b") == expected_second_);
  }
  void change() {
    std::memset(first_.data(), 0xee, first_.size());
    std::memset(second_.data(), 0xee, second_.size());
  }

  fs::path folder_;
  std::vector<std::byte> first_ = std::vector<std::byte>((std::size_t{40} << 20) + 3);  // several pieces
  std::vector<std::byte> second_ = std::vector<std::byte>(1000);
  std::string expected_first_;
  std::string expected_second_;
};

TEST_F(LivePartsTest, AllIsCopiedWhatIsChangedBeforeTheWriteBegins) {
  std::vector<SharedFile> targets = files();
  LiveParts live;
  live.add(0, 100, first_);
  live.add(1, 0, second_);
  EXPECT_EQ(live.bytes(), first_.size() + second_.size());
  live.before_change();
  EXPECT_EQ(live.copied_bytes(), live.bytes());
  change();
  live.before_change();  // of a later step: what is copied stays
  EXPECT_EQ(live.copied_bytes(), live.bytes());
  live.write(targets);
  expect_the_old_bytes();
}

TEST_F(LivePartsTest, NothingIsCopiedThatIsWritten) {
  std::vector<SharedFile> targets = files();
  LiveParts live;
  live.add(0, 100, first_);
  live.add(1, 0, second_);
  live.write(targets);
  live.before_change();
  EXPECT_EQ(live.copied_bytes(), 0U);
  expect_the_old_bytes();
}

TEST_F(LivePartsTest, ChangesAtAnyMomentOfTheWriteAreNotInTheFile) {
  for (int microseconds = 0; microseconds < 20'000; microseconds += 2000) {
    std::memcpy(first_.data(), expected_first_.data(), first_.size());
    std::memcpy(second_.data(), expected_second_.data(), second_.size());
    std::vector<SharedFile> targets = files();
    LiveParts live;
    live.add(0, 100, first_);
    live.add(1, 0, second_);
    std::thread writer([&] { live.write(targets); });
    std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
    live.before_change();
    change();
    writer.join();
    expect_the_old_bytes();
    ASSERT_FALSE(HasFailure()) << "changed after " << microseconds << " us";
  }
}

TEST_F(LivePartsTest, AFullDiskGivesUpTheRest) {
  std::vector<SharedFile> targets;
  targets.emplace_back("/dev/full");
  LiveParts live;
  live.add(0, 0, first_);
  EXPECT_THROW(live.write(targets), EnvironmentError);
  live.before_change();
  EXPECT_EQ(live.copied_bytes(), 0U);
}

}  // namespace
}  // namespace stableqat
