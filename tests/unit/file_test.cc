#include "stableqat/base/file.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <span>
#include <string>

#include "stableqat/base/error.h"
#include "stableqat/base/memory.h"

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

TEST_F(FileTest, LeftoversOfKilledProcessesAreRemovedAndNothingElse) {
  pid_t ended = ::fork();
  if (ended == 0) ::_exit(0);
  ::waitpid(ended, nullptr, 0);
  const std::string gone = std::to_string(ended);
  const std::string here = std::to_string(::getpid());
  for (const std::string& name : {"a.tmp-" + gone, "b.tmp-" + here, std::string("c.tmp-notes"), std::string("d.tmp-")}) {
    fs::create_directories(folder_ / name / "inside");
  }
  write_text_file(folder_ / ("e.tmp-" + gone), "");
  AtomicDirectory::remove_leftovers(folder_);
  EXPECT_FALSE(fs::exists(folder_ / ("a.tmp-" + gone)));
  EXPECT_EQ(entries(), 4u);
  AtomicDirectory::remove_leftovers(folder_ / "absent");
}

TEST_F(FileTest, SeveralWritersFillOneFile) {
  const fs::path path = folder_ / "shared";
  const auto bytes = [](std::string_view text) { return std::as_bytes(std::span(text)); };
  SharedFile first = SharedFile::create(path, 11);
  SharedFile second(path);
  second.write_at(6, bytes("three"));
  first.write_at(0, bytes("one"));
  second.write_at(3, bytes("two"));
  first.sync();
  EXPECT_EQ(read_text_file(path), "onetwothree");
  SharedFile::create(path, 2);
  EXPECT_EQ(read_text_file(path), std::string(2, '\0'));
  EXPECT_THROW(SharedFile(folder_ / "absent"), EnvironmentError);
}

TEST_F(FileTest, MissingFileIsADataErrorThatNamesIt) {
  try {
    read_text_file(folder_ / "absent");
    FAIL() << "no exception";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("absent"), std::string::npos);
  }
}

TEST_F(FileTest, UnwritableFolderIsAnEnvironmentError) { EXPECT_THROW(AtomicFile(folder_ / "no" / "such" / "folder"), EnvironmentError); }

// XXH3's published value for the empty input.
TEST_F(FileTest, HashOfAFileIsThatOfItsBytesAndKeepsNoneInMemory) {
  std::string text(std::size_t{40} << 20, 'x');
  for (std::size_t i = 0; i < text.size(); i += 1000) text[i] = static_cast<char>('a' + i / 1000 % 26);
  const fs::path path = folder_ / "large";
  write_text_file(path, text);
  const std::string expected = content_hash(std::as_bytes(std::span(text)));
  const bool can_reset = reset_peak_memory();
  const std::uint64_t before = resident_memory();
  EXPECT_EQ(file_content_hash(path), expected);
  if (can_reset) {
    EXPECT_LT(peak_memory(), before + (std::uint64_t{20} << 20));
  }
  write_text_file(path, "");
  EXPECT_EQ(file_content_hash(path), content_hash({}));
}

TEST_F(FileTest, ReleasedBytesAreNotInMemoryAndStayValid) {
  const std::string text(std::size_t{40} << 20, 'x');
  write_text_file(folder_ / "large", text);
  const std::string expected = content_hash(std::as_bytes(std::span(text)));
  const MappedFile file(folder_ / "large");
  EXPECT_EQ(content_hash(file.bytes()), expected);
  const std::uint64_t before = resident_memory();
  file.release(file.bytes().subspan(1, text.size() - 1));
  EXPECT_LT(resident_memory(), before - (std::uint64_t{35} << 20));
  EXPECT_EQ(content_hash(file.bytes()), expected);
  file.release({});
}

TEST_F(FileTest, ContentHashIsXxh3) { EXPECT_EQ(content_hash({}), "2d06800538d394c2"); }

}  // namespace
}  // namespace stableqat
