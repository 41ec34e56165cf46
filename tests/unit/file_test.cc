#include "stableqat/base/file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "stableqat/base/error.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stableqat_file_test_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::size_t entries() const { return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator())); }

  fs::path folder_;
};

TEST_F(FileTest, AnUncommittedFileLeavesNothing) {
  {
    AtomicFile file(folder_ / "a.txt");
    file.write("half");
  }
  EXPECT_EQ(entries(), 0u);
}

TEST_F(FileTest, ACommittedFileReplacesTheOldOneWhole) {
  write_text_file(folder_ / "a.txt", "old");
  AtomicFile file(folder_ / "a.txt");
  file.write("new text");
  EXPECT_EQ(read_text_file(folder_ / "a.txt"), "old");
  file.commit();
  EXPECT_EQ(read_text_file(folder_ / "a.txt"), "new text");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FileTest, ADirectoryAppearsWholeAndReplacesTheOldOne) {
  for (const char* content : {"first", "second"}) {
    AtomicDirectory directory(folder_ / "checkpoint");
    write_text_file(directory.staging() / "x", content);
    directory.commit();
    EXPECT_EQ(read_text_file(folder_ / "checkpoint" / "x"), content);
    EXPECT_EQ(entries(), 1u);
  }
  { AtomicDirectory dropped(folder_ / "other"); }
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FileTest, MissingFileIsADataErrorThatNamesIt) {
  try {
    read_text_file(folder_ / "absent");
    FAIL() << "no exception";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("absent"), std::string::npos);
  }
}

TEST_F(FileTest, UnwritableFolderIsAnEnvironmentError) {
  EXPECT_THROW(AtomicFile(folder_ / "no" / "such" / "folder"), EnvironmentError);
}

// XXH3's published value for the empty input.
TEST_F(FileTest, ContentHashIsXxh3) { EXPECT_EQ(content_hash({}), "2d06800538d394c2"); }

}  // namespace
}  // namespace stableqat
