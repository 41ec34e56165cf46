#include "stableqat/io/safetensors.h"

#include <unistd.h>

#include <array>
#include <cstdint>
#include <limits>
#include <numeric>

#include "io_fixtures.h"

namespace stableqat {
namespace {

namespace fs = std::filesystem;

class SafetensorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stableqat_safetensors_test_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write_shard(const std::string& file, const std::vector<std::string>& names) const {
    const std::array<float, 2> values{1.5f, -2};
    SafetensorsWriter writer;
    for (const auto& name : names) writer.add(name, DType::kF32, {2}, std::as_bytes(std::span(values)));
    writer.write(folder_ / file);
  }
  void write_index(const std::string& weight_map) const {
    write_text_file(folder_ / "model.safetensors.index.json", R"({"metadata": {"total_size": 8}, "weight_map": )" + weight_map + "}");
  }
  void expect_model_error(const std::vector<std::string>& parts) const {
    expect_error<DataError>(parts, [this] { SafetensorsModel{folder_}; });
  }

  fs::path folder_;
};

template <class T>
std::vector<T> stored(const SafetensorsFile& file, std::string_view name) {
  const auto bytes = file.bytes(name);
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::vector<float> read_f32(const SafetensorsFile& file, std::string_view name) {
  std::vector<float> values(file.tensor(name).element_count);
  file.read_f32(name, values);
  return values;
}

std::vector<std::byte> file_with_header(std::string_view header, std::size_t data_size) {
  const std::uint64_t length = header.size();
  std::vector<std::byte> bytes(sizeof length + header.size() + data_size);
  std::memcpy(bytes.data(), &length, sizeof length);
  std::memcpy(bytes.data() + sizeof length, header.data(), header.size());
  return bytes;
}

void expect_header_error(std::string_view header, const std::vector<std::string>& parts, std::size_t data_size = 8) {
  expect_error<DataError>(parts, [&] { SafetensorsFile::from_bytes(file_with_header(header, data_size), "built.safetensors"); });
}

TEST_F(SafetensorsTest, ReadsEveryTypeOfTheReferenceImplementation) {
  const SafetensorsFile file(fixture_path("io_dtypes.safetensors"));
  EXPECT_EQ(file.tensors().size(), 17u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(stored<std::uint8_t>(file, "bool"), (std::vector<std::uint8_t>{1, 0, 1}));
  EXPECT_EQ(stored<std::uint8_t>(file, "u8"), (std::vector<std::uint8_t>{0, 255}));
  EXPECT_EQ(stored<std::int8_t>(file, "i8"), (std::vector<std::int8_t>{-128, 127}));
  EXPECT_EQ(stored<std::int16_t>(file, "i16"), (std::vector<std::int16_t>{-32768, 32767}));
  EXPECT_EQ(stored<std::uint16_t>(file, "u16"), (std::vector<std::uint16_t>{0, 65535}));
  EXPECT_EQ(stored<std::int32_t>(file, "i32"), (std::vector<std::int32_t>{std::numeric_limits<std::int32_t>::min(), 2147483647}));
  EXPECT_EQ(stored<std::uint32_t>(file, "u32"), (std::vector<std::uint32_t>{0, 4294967295U}));
  EXPECT_EQ(stored<std::int64_t>(file, "i64")[0], std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(stored<std::uint64_t>(file, "u64")[1], std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(file.tensor("f8_e4m3").dtype, DType::kF8E4M3);
  EXPECT_EQ(file.tensor("f8_e5m2").dtype, DType::kF8E5M2);
  EXPECT_TRUE(file.tensor("scalar").shape.empty());
  EXPECT_EQ(read_f32(file, "scalar"), std::vector<float>{2.5f});
  EXPECT_EQ(file.tensor("empty").shape, (std::vector<std::int64_t>{0, 3}));
  EXPECT_TRUE(read_f32(file, "empty").empty());
}

// The expected values were converted by numpy and gguf-py.
TEST_F(SafetensorsTest, ConvertsFloatTypesLikeNumpy) {
  const SafetensorsFile file(fixture_path("io_dtypes.safetensors"));
  const SafetensorsFile expected(fixture_path("io_dtypes_expected.safetensors"));
  for (const char* name : {"f16", "bf16", "f32", "f64"}) {
    const auto values = stored<float>(expected, name);
    EXPECT_EQ(values.size(), 12u);
    EXPECT_EQ(file.tensor(name).shape, expected.tensor(name).shape);
    EXPECT_TRUE(same_bits(read_f32(file, name), values)) << name;
    if (std::string_view(name) == "f64") continue;
    std::vector<double> wide(values.size());
    file.read_f64(name, wide);
    EXPECT_TRUE(same_bits(wide, std::vector<double>(values.begin(), values.end()))) << name;
  }
  std::vector<double> exact(12);
  file.read_f64("f64", exact);
  EXPECT_TRUE(same_bits(exact, stored<double>(file, "f64")));
}

TEST_F(SafetensorsTest, LargeTensorsAreConvertedInPartsLikeWhole) {
  std::vector<std::uint16_t> codes(1'000'003);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint16_t>(0x3f80 + i % 1000);
  SafetensorsWriter writer;
  writer.add("w", DType::kBF16, {static_cast<std::int64_t>(codes.size())}, std::as_bytes(std::span(codes)));
  writer.write(folder_ / "large.safetensors");
  const auto values = read_f32(SafetensorsFile(folder_ / "large.safetensors"), "w");
  for (std::size_t i = 0; i < codes.size(); ++i) ASSERT_EQ(values[i], std::bit_cast<float>(static_cast<std::uint32_t>(codes[i]) << 16));
}

TEST_F(SafetensorsTest, WrongUseIsReported) {
  const SafetensorsFile file(fixture_path("io_dtypes.safetensors"));
  std::vector<float> values(3);
  expect_error<DataError>({"io_dtypes.safetensors", "no tensor absent"}, [&] { file.bytes("absent"); });
  expect_error<DataError>({"tensor bool", "dtype BOOL", "F64, F32, F16 or BF16"}, [&] { file.read_f32("bool", values); });
  expect_error<ConfigError>({"tensor f32", "room for 3 values", "12"}, [&] { file.read_f32("f32", values); });
}

// The reference implementation wrote the fixture: order, header and padding agree byte for byte, whatever the order of the calls.
TEST_F(SafetensorsTest, WritesTheBytesOfTheReferenceImplementation) {
  const SafetensorsFile file(fixture_path("io_dtypes.safetensors"));
  for (const bool reversed : {false, true}) {
    SafetensorsWriter writer;
    auto tensors = file.tensors();
    if (reversed) std::ranges::reverse(tensors);
    for (const auto& tensor : tensors) {
      const auto bytes = file.bytes(tensor.name);
      if (reversed) {
        writer.add(tensor.name, tensor.dtype, tensor.shape, [bytes](std::span<std::byte> out) { std::ranges::copy(bytes, out.begin()); });
      } else {
        writer.add(tensor.name, tensor.dtype, tensor.shape, bytes);
      }
    }
    writer.set_metadata("format", "np");
    writer.set_metadata("format", "pt");
    writer.write(folder_ / "copy.safetensors");
    EXPECT_EQ(read_text_file(folder_ / "copy.safetensors"), read_text_file(file.path()));
  }
}

TEST_F(SafetensorsTest, PartsOfSeveralWritersMakeTheSameFile) {
  std::vector<float> values(30);
  std::iota(values.begin(), values.end(), 1.0F);
  const auto bytes = std::as_bytes(std::span(values));
  SafetensorsWriter whole;
  whole.add("a", DType::kF32, {10, 3}, bytes);
  whole.add("b", DType::kF32, {2}, bytes.first(8));
  whole.write(folder_ / "whole.safetensors");
  for (int writer = 0; writer < 3; ++writer) {  // rows 0-3, 4-7, 8-9
    const std::uint64_t first = static_cast<std::uint64_t>(writer) * 48;
    SafetensorsWriter part;
    part.add_part("a", DType::kF32, {10, 3}, first, bytes.subspan(first, writer < 2 ? 48 : 24));
    part.add_part("b", DType::kF32, {2}, 0, bytes.first(writer == 0 ? 8 : 0));
    if (writer == 0) part.create(folder_ / "parts.safetensors");
    part.fill(folder_ / "parts.safetensors");
  }
  EXPECT_EQ(read_text_file(folder_ / "parts.safetensors"), read_text_file(folder_ / "whole.safetensors"));
  SafetensorsWriter bad;
  expect_error<ConfigError>({"tensor a", "from byte 100"}, [&] { bad.add_part("a", DType::kF32, {10, 3}, 100, bytes.first(24)); });
}

TEST_F(SafetensorsTest, AFileWithoutTensorsIsValid) {
  SafetensorsWriter().write(folder_ / "empty.safetensors");
  EXPECT_TRUE(SafetensorsFile(folder_ / "empty.safetensors").tensors().empty());
}

TEST_F(SafetensorsTest, TheWriterRefusesWhatNoReaderTakes) {
  const std::array<std::byte, 8> bytes{};
  SafetensorsWriter writer;
  writer.add("w", DType::kF32, {2}, bytes);
  expect_error<ConfigError>({"tensor w", "a second time"}, [&] { writer.add("w", DType::kF32, {2}, bytes); });
  expect_error<ConfigError>({"tensor v", "8 bytes", "expected 16"}, [&] { writer.add("v", DType::kF64, {2}, bytes); });
  expect_error<ConfigError>({"tensor v", "dimension -1"}, [&] { writer.add("v", DType::kF32, {-1}, bytes); });
  expect_error<ConfigError>({"tensor v", "dimension"}, [&] { writer.add("v", DType::kF32, {1LL << 40, 1LL << 40}, bytes); });
  expect_error<ConfigError>({"__metadata__"}, [&] { writer.add("__metadata__", DType::kF32, {2}, bytes); });
  writer.add("\xff", DType::kF32, {2}, bytes);
  expect_error<ConfigError>({"UTF-8"}, [&] { writer.write(folder_ / "x.safetensors"); });
  EXPECT_TRUE(fs::is_empty(folder_));
  EXPECT_THROW(SafetensorsWriter().write(folder_ / "no" / "folder"), EnvironmentError);
}

TEST_F(SafetensorsTest, EveryTruncationIsADataError) {
  const auto whole = fixture_bytes("io_dtypes.safetensors");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto cut = prefix(whole, size);
    ASSERT_THROW(SafetensorsFile::from_bytes(cut, "cut"), DataError) << "cut to " << size;
  }
  auto longer = whole;
  longer.push_back({});
  EXPECT_THROW(SafetensorsFile::from_bytes(longer, "longer"), DataError);
  EXPECT_THROW(SafetensorsFile("absent.safetensors"), DataError);
}

TEST_F(SafetensorsTest, HeaderLengthMustFitTheFile) {
  auto bytes = file_with_header("{}", 0);
  for (const std::uint64_t length : {std::uint64_t{3}, std::uint64_t{1} << 40, std::numeric_limits<std::uint64_t>::max()}) {
    std::memcpy(bytes.data(), &length, sizeof length);
    expect_error<DataError>({"header length " + std::to_string(length), "at most 2"}, [&] { SafetensorsFile::from_bytes(bytes, "x"); });
  }
}

TEST_F(SafetensorsTest, HeaderMustBeAFlatTableWithUniqueNames) {
  expect_header_error("", {"built.safetensors, header", "invalid JSON"});
  expect_header_error("{", {"invalid JSON at byte"});
  expect_header_error("{\"\xff\":1}", {"invalid JSON at byte"});
  expect_header_error("[]", {"header", "array"});
  expect_header_error(R"({"w":1})", {"tensor w", "number"});
  expect_header_error(R"({"w":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})", {"nested deeper"});
  expect_header_error(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                      {"\"w\" a second time"});
  expect_header_error(R"({"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", {"\"dtype\" a second time"});
  expect_header_error(R"({"__metadata__":{"a":1}})", {"__metadata__", "\"a\" as number", "strings"});
  expect_header_error(R"({"__metadata__":[]})", {"__metadata__", "array"});
  expect_header_error(std::string(100000, '['), {"nested deeper"});
}

TEST_F(SafetensorsTest, EntriesMustBeComplete) {
  expect_header_error(R"({"w":{"shape":[2],"data_offsets":[0,8]}})", {"tensor w", "dtype"});
  expect_header_error(R"({"w":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", {"tensor w", "dtype F33", "BF16"});
  expect_header_error(R"({"w":{"dtype":"F32","data_offsets":[0,8]}})", {"tensor w", "shape"});
  expect_header_error(R"({"w":{"dtype":"F32","shape":[2]}})", {"tensor w", "data_offsets"});
  expect_header_error(R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", {"tensor w", "shape"});
  expect_header_error(R"({"w":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", {"tensor w", "shape"});
  expect_header_error(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", {"tensor w", "[begin, end]"});
  expect_header_error(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", {"tensor w", "[begin, end]"});
}

TEST_F(SafetensorsTest, RangesMustFitShapesAndTheFile) {
  const auto entry = [](std::string name, std::string shape, std::string range) {
    return "\"" + name + R"(":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + range + "}";
  };
  expect_header_error("{" + entry("w", "[3]", "[0,8]") + "}", {"tensor w", "8 bytes", "expected 12"});
  expect_header_error("{" + entry("w", "[4294967296,4294967296]", "[0,0]") + "}", {"tensor w", "2^63"});
  expect_header_error("{" + entry("w", "[18446744073709551615]", "[0,8]") + "}", {"tensor w", "shape"});
  expect_header_error("{" + entry("w", "[99999999999999999999]", "[0,8]") + "}", {"tensor w", "shape"});
  expect_header_error("{" + entry("w", "[2]", "[18446744073709551608,18446744073709551616]") + "}", {"tensor w", "data_offsets"});
  expect_header_error("{" + entry("w", "[2305843009213693951]", "[0,9223372036854775804]") + "}", {"tensor w", "the end of the file"});
  expect_header_error("{" + entry("w", "[2]", "[8,16]") + "}", {"tensor w", "begin at 8", "expected 0"}, 16);
  expect_header_error("{" + entry("v", "[2]", "[0,8]") + "," + entry("w", "[2]", "[4,12]") + "}", {"tensor w", "begin at 4", "expected 8"},
                      12);
  expect_header_error("{" + entry("v", "[2]", "[0,8]") + "," + entry("w", "[1]", "[0,4]") + "}", {"tensor v", "begin at 0", "expected 4"},
                      12);
  expect_header_error("{" + entry("v", "[2]", "[0,8]") + "," + entry("w", "[2]", "[12,20]") + "}", {"tensor w", "begin at 12"}, 20);
  expect_header_error("{" + entry("w", "[2]", "[0,8]") + "}", {"found 9 bytes of data", "expected 8"}, 9);
}

TEST_F(SafetensorsTest, AModelFolderHasOneFileOrShards) {
  write_shard("part-1.safetensors", {"a", "c"});
  write_shard("part-2.safetensors", {"b"});
  write_index(R"({"a": "part-1.safetensors", "b": "part-2.safetensors", "c": "part-1.safetensors"})");
  const SafetensorsModel sharded(folder_);
  EXPECT_EQ(sharded.names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(sharded.files().size(), 2u);
  std::vector<float> values(2);
  sharded.read_f32("b", values);
  EXPECT_EQ(values, (std::vector<float>{1.5f, -2}));
  EXPECT_EQ(sharded.find_tensor("z"), nullptr);
  expect_error<DataError>({folder_.string(), "no tensor z"}, [&] { sharded.tensor("z"); });

  write_shard("model.safetensors", {"whole"});
  EXPECT_EQ(SafetensorsModel(folder_).names(), std::vector<std::string>{"whole"});
}

TEST_F(SafetensorsTest, IncompleteModelFoldersAreReported) {
  expect_model_error({folder_.string(), "a folder without weights", "model.safetensors.index.json"});
  expect_error<DataError>({"no such folder"}, [this] { SafetensorsModel{folder_ / "absent"}; });
  write_shard("part-1.safetensors", {"a"});
  write_index(R"({"a": "part-2.safetensors"})");
  expect_model_error({"part-2.safetensors", "no such file"});
  write_index(R"({"a": "part-1.safetensors", "b": "part-1.safetensors"})");
  expect_model_error({"part-1.safetensors", "no tensor b", "index.json lists"});
  write_index(R"({"a": "../part-1.safetensors"})");
  expect_model_error({"index.json, tensor a", "shard ../part-1.safetensors", "without folders"});
  write_index(R"({"a": 1})");
  expect_model_error({"tensor a", "number"});
  write_index(R"({"a": "part-1.safetensors", "a": "part-1.safetensors"})");
  expect_model_error({"\"a\" a second time"});
  write_index("[]");
  expect_model_error({"weight_map"});
  write_text_file(folder_ / "model.safetensors.index.json", "{");
  expect_model_error({"index.json", "invalid JSON"});
}

}  // namespace
}  // namespace stableqat
