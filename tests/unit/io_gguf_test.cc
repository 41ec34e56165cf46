#include "stableqat/io/gguf.h"

#include <zlib.h>

#include <limits>

#include "io_fixtures.h"
#include "stableqat/io/safetensors.h"

namespace stableqat {
namespace {

std::vector<float> decoded(const GgufFile& file, const GgufTensor& tensor) {
  std::vector<float> values(tensor.element_count);
  file.dequantize(tensor, values);
  return values;
}

// Writes GGUF fields one after the other, right or wrong.
class Builder {
 public:
  template <class T>
  Builder& number(T value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), bytes, bytes + sizeof value);
    return *this;
  }
  Builder& raw(std::string_view text) {
    for (const char c : text) bytes_.push_back(static_cast<std::byte>(c));
    return *this;
  }
  Builder& string(std::string_view text) { return number<std::uint64_t>(text.size()).raw(text); }
  Builder& header(std::uint64_t tensors, std::uint64_t keys) { return raw("GGUF").number<std::uint32_t>(3).number(tensors).number(keys); }
  Builder& tensor(std::string_view name, std::vector<std::uint64_t> dims, std::uint32_t type, std::uint64_t offset) {
    string(name).number(static_cast<std::uint32_t>(dims.size()));
    for (const std::uint64_t dim : dims) number(dim);
    return number(type).number(offset);
  }
  Builder& data(std::size_t size) {
    while (bytes_.size() % 32 != 0) bytes_.push_back({});
    bytes_.resize(bytes_.size() + size);
    return *this;
  }
  // The file must not outlive this object.
  GgufFile open() const { return GgufFile::from_bytes(bytes_, "built.gguf"); }
  void expect_error(const std::vector<std::string>& parts) const {
    stableqat::expect_error<DataError>(parts, [this] { open(); });
  }

 private:
  std::vector<std::byte> bytes_;
};

// Blocks of random bytes written by gguf-py, which also decoded them.
TEST(Gguf, DecodesEveryTypeLikeGgufPy) {
  const GgufFile file(fixture_path("io_types.gguf"));
  const SafetensorsFile expected(fixture_path("io_types_expected.safetensors"));
  ASSERT_EQ(expected.tensors().size(), 16u);
  ASSERT_EQ(file.tensors().size(), 17u);  // one more: integers
  for (const SafetensorsTensor& reference : expected.tensors()) {
    const GgufTensor* tensor = file.find_tensor(reference.name);
    ASSERT_NE(tensor, nullptr) << reference.name;
    EXPECT_EQ(ggml_type_name(tensor->type), reference.name);
    EXPECT_EQ(tensor->shape, reference.shape) << reference.name;
    std::vector<float> values(reference.element_count);
    expected.read_f32(reference.name, values);
    EXPECT_TRUE(same_bits(decoded(file, *tensor), values)) << reference.name;
  }
}

TEST(Gguf, ReadsEveryKindOfMetadata) {
  const GgufFile file(fixture_path("io_types.gguf"));
  EXPECT_EQ(file.get_string("general.architecture"), "llama");
  EXPECT_EQ(file.get_int("test.u8"), 200);
  EXPECT_EQ(file.get_int("test.i8"), -100);
  EXPECT_EQ(file.get_int("test.u16"), 60000);
  EXPECT_EQ(file.get_int("test.i16"), -30000);
  EXPECT_EQ(file.get_int("test.u32"), 4000000000);
  EXPECT_EQ(file.get_int("test.i32"), -2000000000);
  EXPECT_EQ(file.get_int("test.u64"), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(file.get_int("test.i64"), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(file.get_float("test.f32"), static_cast<double>(0.1f));
  EXPECT_EQ(file.get_float("test.f64"), 0.1);
  EXPECT_EQ(file.get_bool("test.true"), true);
  EXPECT_EQ(file.get_bool("test.false"), false);
  EXPECT_EQ(file.get_string("test.string"), "caf\xc3\xa9");
  ASSERT_NE(file.get_strings("test.strings"), nullptr);
  EXPECT_EQ(*file.get_strings("test.strings"), (std::vector<std::string>{"a", "",
                                                                         "\xc4\xa0"
                                                                         "b"}));
  ASSERT_NE(file.get_ints("test.ints"), nullptr);
  EXPECT_EQ(*file.get_ints("test.ints"), (std::vector<std::int64_t>{1, -2, 3}));
  ASSERT_NE(file.get_floats("test.floats"), nullptr);
  EXPECT_EQ(*file.get_floats("test.floats"), (std::vector<double>{0.5, -1.5}));
  EXPECT_EQ(std::get<std::vector<bool>>(file.metadata().at("test.bools")), (std::vector<bool>{true, false, true}));
}

TEST(Gguf, AbsentKeysAreEmptyAndOtherTypesAreErrors) {
  const GgufFile file(fixture_path("io_types.gguf"));
  EXPECT_EQ(file.get_int("no.such.key"), std::nullopt);
  EXPECT_EQ(file.get_strings("no.such.key"), nullptr);
  EXPECT_EQ(file.find_tensor("no.such.tensor"), nullptr);
  expect_error<DataError>({"io_types.gguf", "test.string", "an integer"}, [&] { file.get_int("test.string"); });
  expect_error<DataError>({"test.u8", "an array of strings"}, [&] { file.get_strings("test.u8"); });
}

TEST(Gguf, ShapesAreInRowsFirstOrder) {
  const GgufFile file(fixture_path("io_tiny.gguf"));
  const GgufTensor* tensor = file.find_tensor("a");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(decoded(file, *tensor), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(tensor->offset % 64, 0u);  // the file sets general.alignment = 64
}

TEST(Gguf, Version2HasTheSameLayout) {
  auto bytes = fixture_bytes("io_tiny.gguf");
  bytes[4] = std::byte{2};
  EXPECT_EQ(GgufFile::from_bytes(bytes, "v2.gguf").tensors().size(), 2u);
}

TEST(Gguf, IntegersAreListedAndNotDecoded) {
  const GgufFile file(fixture_path("io_types.gguf"));
  const GgufTensor* tensor = file.find_tensor("I32");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->byte_size, 32u);
  expect_error<DataError>({"tensor I32", "found I32", "Q4_0"}, [&] { decoded(file, *tensor); });
  std::vector<float> small(3);
  EXPECT_THROW(file.dequantize(*file.find_tensor("F32"), small), ConfigError);
}

TEST(Gguf, LargeTensorsAreDecodedInPartsLikeWhole) {
  constexpr std::uint64_t kRows = 40000;
  Builder builder;
  builder.header(1, 0).tensor("w", {32, kRows}, static_cast<std::uint32_t>(GgmlType::kQ4_0), 0).data(0);
  for (std::uint64_t row = 0; row < kRows; ++row) {
    builder.number<std::uint16_t>(0x3c00);
    for (std::uint64_t j = 0; j < 16; ++j) builder.number(static_cast<std::uint8_t>(row % 251 + j));
  }
  const GgufFile file = builder.open();
  const auto values = decoded(file, file.tensors()[0]);
  for (std::uint64_t row = 0; row < kRows; ++row) {
    for (std::uint64_t j = 0; j < 16; ++j) {
      const auto byte = static_cast<std::uint8_t>(row % 251 + j);
      ASSERT_EQ(values[32 * row + j], static_cast<float>(byte % 16) - 8);
      ASSERT_EQ(values[32 * row + 16 + j], static_cast<float>(byte / 16) - 8);
    }
  }
}

TEST(GgufBadInput, EveryTruncationIsADataError) {
  for (const char* name : {"io_tiny.gguf", "io_types.gguf"}) {
    const auto whole = fixture_bytes(name);
    const GgufTensor last = GgufFile::from_bytes(whole, name).tensors().back();
    const std::size_t needed = last.offset + last.byte_size;  // padding may follow
    for (std::size_t size = 0; size < needed; ++size) {
      const auto cut = prefix(whole, size);
      ASSERT_THROW(GgufFile::from_bytes(cut, name), DataError) << name << " cut to " << size;
    }
    EXPECT_NO_THROW(GgufFile::from_bytes(prefix(whole, needed), name));
  }
}

TEST(GgufBadInput, MissingFile) {
  expect_error<DataError>({"absent.gguf"}, [] { GgufFile("absent.gguf"); });
}

TEST(GgufBadInput, MagicAndVersion) {
  Builder().raw("GGML").expect_error({"built.gguf, magic", "\"GGUF\""});
  Builder().raw("GGUF").number<std::uint32_t>(1).expect_error({"version", "version 1", "2 or 3"});
  Builder().raw("GGUF").number<std::uint32_t>(4).expect_error({"version 4"});
  Builder().raw("GGUF").number<std::uint32_t>(0x03000000).expect_error({"big-endian"});
}

TEST(GgufBadInput, HostileSizes) {
  constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();
  Builder().header(kHuge, 0).expect_error({"tensor count", "at most 0"});
  Builder().header(0, kHuge).expect_error({"metadata count"});
  Builder().header(0, 1).number(kHuge).data(64).expect_error({"metadata key 0"});
  Builder().header(0, 1).string("k").number<std::uint32_t>(8).number(kHuge).expect_error({"metadata k", "18446744073709551615 more bytes"});
  for (const std::uint32_t type : {0U, 5U, 7U, 8U, 12U}) {
    Builder().header(0, 1).string("k").number<std::uint32_t>(9).number(type).number(kHuge / 4).data(64).expect_error(
        {"metadata k", "at most"});
  }
  Builder().header(0, 1).string("k").number<std::uint32_t>(10).number(kHuge).expect_error({"metadata k", "below 2^63"});
  Builder().header(1, 0).tensor("w", {1ULL << 40, 1ULL << 40}, 0, 0).data(64).expect_error({"tensor w", "dimension"});
  Builder().header(1, 0).tensor("w", {1ULL << 62}, 0, 0).data(64).expect_error({"tensor w", "dimension"});
  Builder().header(1, 0).tensor("w", {1ULL << 59}, 0, 0).data(64).expect_error({"tensor w", "2305843009213693952 bytes"});
  Builder().header(1, 0).tensor("w", {4, 0}, 0, 0).data(64).expect_error({"tensor w", "dimension 0"});
  Builder().header(1, 0).tensor("w", {1, 1, 1, 1, 1}, 0, 0).data(64).expect_error({"tensor w", "5 dimensions"});
}

TEST(GgufBadInput, ValuesAndNames) {
  Builder().header(0, 1).string("k").number<std::uint32_t>(13).data(64).expect_error({"metadata k", "value type 13"});
  Builder().header(0, 1).string("k").number<std::uint32_t>(9).number<std::uint32_t>(9).data(64).expect_error({"no array in an array"});
  Builder().header(0, 1).string("k").number<std::uint32_t>(7).number<std::uint8_t>(2).expect_error({"metadata k", "boolean 2"});
  Builder().header(0, 2).string("k").number<std::uint32_t>(0).raw("1").string("k").number<std::uint32_t>(0).raw("1").expect_error(
      {"metadata k", "a second time"});
  Builder().header(2, 0).tensor("w", {8}, 0, 0).tensor("w", {8}, 0, 32).data(64).expect_error({"tensor w", "a second time"});
}

TEST(GgufBadInput, Alignment) {
  for (const std::uint32_t alignment : {0U, 3U, 48U}) {
    Builder()
        .header(0, 1)
        .string("general.alignment")
        .number<std::uint32_t>(4)
        .number(alignment)
        .expect_error({"general.alignment", std::to_string(alignment), "power of two"});
  }
  Builder()
      .header(0, 1)
      .string("general.alignment")
      .number<std::uint32_t>(8)
      .string("32")
      .expect_error({"general.alignment", "an integer"});
}

TEST(GgufBadInput, PlacesOfTensors) {
  Builder().header(1, 0).tensor("w", {8}, 0, 1).data(64).expect_error({"tensor w", "offset 1", "expected 0"});
  Builder().header(2, 0).tensor("v", {8}, 0, 0).tensor("w", {8}, 0, 0).data(64).expect_error({"tensor w", "offset 0", "expected 32"});
  Builder().header(2, 0).tensor("v", {8}, 0, 0).tensor("w", {8}, 0, 64).data(128).expect_error({"tensor w", "offset 64", "expected 32"});
  Builder().header(1, 0).tensor("w", {17}, 0, 0).data(64).expect_error({"tensor w", "68 bytes of data"});
  Builder().header(1, 0).tensor("w", {48}, 2, 0).data(64).expect_error({"tensor w", "rows of 48", "Q4_0 blocks of 32"});
}

TEST(Gguf, ATensorOfAnUnknownTypeIsListedAndReachesToTheNext) {
  const Builder builder = Builder().header(3, 0).tensor("u", {3}, 99, 0).tensor("v", {8}, 0, 96).tensor("x", {5}, 98, 128).data(140);
  const GgufFile file = builder.open();
  EXPECT_EQ(ggml_type_name(file.tensors()[0].type), "type 99");
  EXPECT_EQ(file.tensors()[0].byte_size, 96u);
  EXPECT_EQ(file.tensors()[2].byte_size, 12u);
  EXPECT_EQ(decoded(file, file.tensors()[1]), std::vector<float>(8, 0.0f));
  expect_error<DataError>({"built.gguf, tensor u", "type 99"}, [&] { decoded(file, file.tensors()[0]); });
  Builder().header(2, 0).tensor("u", {3}, 99, 0).tensor("v", {8}, 0, 33).data(96).expect_error({"tensor v", "offset 33"});
  Builder().header(1, 0).tensor("u", {3}, 99, 0).expect_error({"data section", "from byte 64"});
}

// Published vectors: codes q[i] = lo + ((5i + i/7) mod N) at scale 0.5. The CRC-32 proves that the stored block is the published one.
struct HashedVector {
  GgmlType type;
  int low;
  int levels;
  unsigned long crc;
};

TEST(GgmlBlocks, PublishedVectorsDecodeToTheirGrid) {
  constexpr std::array<HashedVector, 6> kVectors{{{GgmlType::kQ4_0, -8, 16, 0xbb842384},
                                                  {GgmlType::kQ2_0, -2, 4, 0x29e03925},
                                                  {GgmlType::kTQ2_0, -2, 4, 0xb3f06b00},
                                                  {GgmlType::kQ2_K, -2, 4, 0x9f05c3a7},
                                                  {GgmlType::kQ3_K, -4, 8, 0xadf2e9f8},
                                                  {GgmlType::kTQ1_0, -1, 3, 0x84c07416}}};
  const auto file = fixture_bytes("io_blocks.bin");
  std::span<const std::byte> rest = file;
  for (const HashedVector& vector : kVectors) {
    const GgmlBlock layout = ggml_block(vector.type).value();
    const auto block = rest.first(layout.bytes);
    rest = rest.subspan(layout.bytes);
    ASSERT_EQ(crc32(0, reinterpret_cast<const Bytef*>(block.data()), layout.bytes), vector.crc);
    std::vector<float> values(layout.elements);
    dequantize_blocks(vector.type, block, values);
    for (int i = 0; i < static_cast<int>(layout.elements); ++i) {
      const int q = vector.low + (5 * i + i / 7) % vector.levels;
      ASSERT_EQ(values[static_cast<std::size_t>(i)], 0.5f * static_cast<float>(q)) << ggml_type_name(vector.type) << " value " << i;
    }
  }
  EXPECT_TRUE(rest.empty());
}

TEST(GgmlBlocks, SizesThatDoNotFitAreRefused) {
  const std::vector<std::byte> data(18);
  std::vector<float> values(32);
  EXPECT_NO_THROW(dequantize_blocks(GgmlType::kQ4_0, data, values));
  EXPECT_THROW(dequantize_blocks(GgmlType::kQ4_1, data, values), ConfigError);
  EXPECT_THROW(dequantize_blocks(GgmlType::kI8, data, values), ConfigError);
  values.resize(31);
  EXPECT_THROW(dequantize_blocks(GgmlType::kQ4_0, data, values), ConfigError);
}

}  // namespace
}  // namespace stableqat
