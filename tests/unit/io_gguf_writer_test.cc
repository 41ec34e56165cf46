#include "stableqat/io/gguf_writer.h"

#include <filesystem>

#include "io_fixtures.h"
#include "stableqat/io/gguf.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

class GgufWriterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stableqat_gguf_writer_test_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
};

GgufWriter::Fill bytes_of(std::byte value) {
  return [value](std::span<std::byte> out) { std::fill(out.begin(), out.end(), value); };
}

// Read by the reader that is tested against gguf-py's files.
TEST_F(GgufWriterTest, WhatIsWrittenIsRead) {
  GgufWriter writer;
  writer.set("general.architecture", "lama");
  writer.set("general.architecture", "llama");
  writer.set("a.bool", true);
  writer.set("a.uint", std::uint32_t{4000000000});
  writer.set("a.float", 0.1f);
  writer.set("a.texts", std::vector<std::string>{"one", "", "caf\xC3\xA9"});
  writer.set("a.ints", std::vector<std::int32_t>{-1, 7});
  writer.set("a.floats", std::vector<float>{0.5f});
  writer.add("odd", GgmlType::kF16, {3, 5}, bytes_of(std::byte{0x3c}));
  writer.add("blocks", GgmlType::kQ2_0, {2, 128}, bytes_of(std::byte{0x11}));
  writer.write(folder_ / "a.gguf");

  const GgufFile file(folder_ / "a.gguf");
  EXPECT_EQ(file.get_string("general.architecture"), "llama");
  EXPECT_EQ(file.get_bool("a.bool"), true);
  EXPECT_EQ(file.get_int("a.uint"), 4000000000);
  EXPECT_EQ(file.get_float("a.float"), static_cast<double>(0.1f));
  EXPECT_EQ(*file.get_strings("a.texts"), (std::vector<std::string>{"one", "", "caf\xC3\xA9"}));
  EXPECT_EQ(*file.get_ints("a.ints"), (std::vector<std::int64_t>{-1, 7}));
  EXPECT_EQ(*file.get_floats("a.floats"), (std::vector<double>{0.5}));
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].shape, (std::vector<std::int64_t>{3, 5}));
  EXPECT_EQ(file.tensors()[1].shape, (std::vector<std::int64_t>{2, 128}));
  EXPECT_EQ(file.bytes(file.tensors()[0]).size(), 30u);
  for (const std::byte byte : file.bytes(file.tensors()[1])) EXPECT_EQ(byte, std::byte{0x11});
  EXPECT_EQ(fs::file_size(folder_ / "a.gguf") % 32, 0u);  // the last tensor is padded too
}

TEST_F(GgufWriterTest, WhatReadersWouldRefuseIsNotWritten) {
  GgufWriter writer;
  EXPECT_THROW(writer.set("", true), ConfigError);
  writer.add("a", GgmlType::kF32, {1}, bytes_of({}));
  EXPECT_THROW(writer.add("a", GgmlType::kF32, {1}, bytes_of({})), ConfigError);
  EXPECT_THROW(writer.add("", GgmlType::kF32, {1}, bytes_of({})), ConfigError);
  EXPECT_THROW(writer.add(std::string(64, 'n'), GgmlType::kF32, {1}, bytes_of({})), ConfigError);
  EXPECT_THROW(writer.add("b", GgmlType::kF32, {}, bytes_of({})), ConfigError);
  EXPECT_THROW(writer.add("b", GgmlType::kF32, {2, 0}, bytes_of({})), ConfigError);
  EXPECT_THROW(writer.add("b", GgmlType::kF32, {std::int64_t{1} << 40, std::int64_t{1} << 40}, bytes_of({})), ConfigError);
  EXPECT_THROW(writer.add("b", static_cast<GgmlType>(99), {32}, bytes_of({})), ConfigError);
  expect_error<ConfigError>({"tensor b", "rows of 576", "Q3_K blocks of 256"}, [&] {
    writer.add("b", GgmlType::kQ3_K, {2, 576}, bytes_of({}));
  });
}

TEST_F(GgufWriterTest, AFailureLeavesNothing) {
  GgufWriter writer;
  writer.add("a", GgmlType::kF32, {1}, [](std::span<std::byte>) { throw std::runtime_error("no"); });
  EXPECT_THROW(writer.write(folder_ / "a.gguf"), std::runtime_error);
  EXPECT_TRUE(fs::is_empty(folder_));
}

}  // namespace
}  // namespace stableqat
