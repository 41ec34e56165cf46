// Packed layers as other programs write them: words that compressed-tensors' and GPTQ's layouts prescribe, and tensors that contradict
// each other.
#include "models/packed_layers.h"

#include <array>
#include <map>
#include <nlohmann/json.hpp>

#include "io_fixtures.h"
#include "stableqat/base/half.h"

namespace stableqat {
namespace {

using Json = nlohmann::json;

// Tensors by name, as a file would hold them.
class Store {
 public:
  template <class T>
  Store& add(const std::string& name, DType dtype, std::vector<std::int64_t> shape, const std::vector<T>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    tensors_[name] = {dtype, std::move(shape), {bytes.begin(), bytes.end()}};
    return *this;
  }

  FindTensor find() const {
    return [this](const std::string& name) -> std::optional<StoredTensor> {
      const auto found = tensors_.find(name);
      if (found == tensors_.end()) return std::nullopt;
      return StoredTensor{found->second.dtype, found->second.shape, found->second.bytes};
    };
  }

  void remove(const std::string& name) { tensors_.erase(name); }

 private:
  struct Entry {
    DType dtype;
    std::vector<std::int64_t> shape;
    std::vector<std::byte> bytes;
  };
  std::map<std::string, Entry> tensors_;
};

using Words = std::vector<std::uint32_t>;

std::vector<float> values_of(const PackedLayers& layers) {
  const std::vector<std::int64_t> shape = layers.shape("x");
  std::vector<float> values(static_cast<std::size_t>(shape[0] * shape[1]));
  layers.read("x", values);
  return values;
}

std::unique_ptr<PackedLayers> compressed(const Store& store, int bits, bool symmetric = true) {
  const Json weights{{"num_bits", bits}, {"strategy", "group"}, {"symmetric", symmetric}};
  return open_compressed_tensors({{"config_groups", {{"group_0", {{"weights", weights}}}}}}, store.find(), "folder");
}

std::unique_ptr<PackedLayers> gptq(const Store& store, int bits, const char* format = "gptq") {
  return open_gptq({{"bits", bits}, {"checkpoint_format", format}}, store.find(), "folder");
}

// A row of `columns` codes, one scale.
Store one_row(std::int64_t columns, const Words& words, float scale) {
  Store store;
  store.add("x.weight_packed", DType::kI32, {1, static_cast<std::int64_t>(words.size())}, words);
  store.add("x.weight_scale", DType::kF32, {1, 1}, std::vector<float>{scale});
  store.add("x.weight_shape", DType::kI64, {2}, std::vector<std::int64_t>{1, columns});
  return store;
}

// The vectors that were published with the dense layout; and what was before it: ten 3-bit codes a word, as octal digits.
TEST(PackedLayers, CompressedTensorsWordsAreTheirCodes) {
  struct Case {
    int bits;
    std::int64_t columns;
    Words words;
  };
  const std::vector<Case> cases{{2, 16, {0xe4e4e4e4}},
                                {3, 32, {0x88fac688, 0xc688fac6, 0xfac688fa}},
                                {4, 16, {0x76543210, 0xfedcba98}},
                                {3, 32, {01076543210, 03210765432, 05432107654, 076}},
                                {3, 5, {043210}}};
  for (const Case& test : cases) {
    SCOPED_TRACE(std::to_string(test.bits) + " bits, " + std::to_string(test.words.size()) + " words");
    const Store store = one_row(test.columns, test.words, 0.5F);
    const auto layers = compressed(store, test.bits);
    ASSERT_EQ(layers->shape("x"), (std::vector<std::int64_t>{1, test.columns}));
    const int levels = 1 << test.bits;
    std::vector<float> expected;
    for (int i = 0; i < test.columns; ++i) expected.push_back(0.5F * static_cast<float>(i % levels - levels / 2));
    EXPECT_EQ(values_of(*layers), expected);
    EXPECT_EQ(layers->steps("x"), std::vector<float>{0.5F});
  }
}

// Zero points of group g are packed down the rows: here (row + g) % 16, 9 rows in 2 words. Scales in each float type.
TEST(PackedLayers, CompressedTensorsZeroPoints) {
  constexpr std::int64_t kRows = 9;
  Store store;
  Words codes;
  std::vector<float> scales;
  std::vector<std::uint16_t> half_scales;
  for (std::int64_t row = 0; row < kRows; ++row) {
    codes.insert(codes.end(), {0x76543210, 0xfedcba98});
    for (const float factor : {1.0F, 2.0F}) {
      scales.push_back(factor * (1.0F + 0.25F * static_cast<float>(row)));
      half_scales.push_back(float_to_half(scales.back()));
    }
  }
  store.add("x.weight_packed", DType::kI32, {kRows, 2}, codes);
  store.add("x.weight_shape", DType::kI32, {2}, std::vector<std::int32_t>{kRows, 16});
  store.add("x.weight_zero_point", DType::kI32, {2, 2}, Words{0x76543210, 0x87654321, 0x8, 0x9});
  for (const bool half : {false, true}) {
    store.add("x.weight_scale", DType::kF32, {kRows, 2}, scales);
    if (half) store.add("x.weight_scale", DType::kF16, {kRows, 2}, half_scales);
    const auto layers = compressed(store, 4, false);
    const std::vector<float> values = values_of(*layers);
    for (std::size_t row = 0; row < kRows; ++row) {
      for (std::size_t column = 0; column < 16; ++column) {
        const std::size_t group = column / 8;
        const int code = static_cast<int>(column) - static_cast<int>((row + group) % 16);
        ASSERT_EQ(values[16 * row + column], static_cast<float>(code) * scales[2 * row + group]) << row << ", " << column;
      }
    }
    EXPECT_EQ(layers->steps("x"), std::nullopt);
  }
}

// 32 columns, 8 rows, 4 bits: code (row + column) % 16. Zero points as the versions store them.
Store gptq_store(std::uint32_t zeros) {
  constexpr std::uint32_t kRows = 8;
  Words codes;
  for (std::uint32_t word = 0; word < 4; ++word) {
    for (std::uint32_t row = 0; row < kRows; ++row) {
      std::uint32_t value = 0;
      for (std::uint32_t i = 0; i < 8; ++i) value |= (row + 8 * word + i) % 16 << 4 * i;
      codes.push_back(value);
    }
  }
  std::vector<std::uint16_t> scales;
  for (const float factor : {1.0F, 4.0F}) {
    for (std::uint32_t row = 0; row < kRows; ++row) scales.push_back(float_to_half(factor * static_cast<float>(1 + row)));
  }
  std::vector<std::int32_t> groups(32, 0);
  std::fill(groups.begin() + 16, groups.end(), 1);
  Store store;
  store.add("x.qweight", DType::kI32, {4, kRows}, codes);
  store.add("x.qzeros", DType::kI32, {2, 1}, Words{zeros, zeros});
  store.add("x.scales", DType::kF16, {2, kRows}, scales);
  store.add("x.g_idx", DType::kI32, {32}, groups);
  return store;
}

float gptq_value(std::size_t row, std::size_t column, int zero, std::size_t group) {
  const int code = static_cast<int>((row + column) % 16) - zero;
  return static_cast<float>(code) * (group == 0 ? 1.0F : 4.0F) * static_cast<float>(1 + row);
}

TEST(PackedLayers, GptqVersionsSayWhereZeroIs) {
  for (const auto& [format, zeros] : {std::pair{"gptq", 0x77777777U}, {"gptq_v2", 0x88888888U}}) {
    const Store store = gptq_store(zeros);
    const auto layers = gptq(store, 4, format);
    ASSERT_EQ(layers->shape("x"), (std::vector<std::int64_t>{8, 32}));
    const std::vector<float> values = values_of(*layers);
    for (std::size_t row = 0; row < 8; ++row) {
      for (std::size_t column = 0; column < 32; ++column) {
        ASSERT_EQ(values[32 * row + column], gptq_value(row, column, 8, column / 16)) << format << ": " << row << ", " << column;
      }
    }
    const auto steps = layers->steps("x");
    ASSERT_TRUE(steps) << format;
    for (std::size_t row = 0; row < 8; ++row) {
      EXPECT_EQ((*steps)[2 * row], static_cast<float>(1 + row));
      EXPECT_EQ((*steps)[2 * row + 1], static_cast<float>(4 * (1 + row)));
    }
  }
}

// Asymmetric: row 0 has zero 16 (15 is stored), row 3 zero 5, the others 8.
TEST(PackedLayers, GptqZeroPointsOfRows) {
  const Store store = gptq_store(0x7777477f);
  const auto layers = gptq(store, 4);
  const std::vector<float> values = values_of(*layers);
  for (std::size_t row = 0; row < 8; ++row) {
    const int zero = row == 0 ? 16 : row == 3 ? 5 : 8;
    for (std::size_t column = 0; column < 32; ++column) {
      ASSERT_EQ(values[32 * row + column], gptq_value(row, column, zero, column / 16)) << row << ", " << column;
    }
  }
  EXPECT_EQ(layers->steps("x"), std::nullopt);
}

// Activation order: any column may be in any group.
TEST(PackedLayers, GptqActivationOrder) {
  Store store = gptq_store(0x77777777);
  std::vector<std::int32_t> groups(32);
  for (std::size_t column = 0; column < 32; ++column) groups[column] = column % 3 == 0 ? 1 : 0;
  store.add("x.g_idx", DType::kI32, {32}, groups);
  const auto layers = gptq(store, 4);
  const std::vector<float> values = values_of(*layers);
  for (std::size_t row = 0; row < 8; ++row) {
    for (std::size_t column = 0; column < 32; ++column) {
      ASSERT_EQ(values[32 * row + column], gptq_value(row, column, 8, column % 3 == 0 ? 1 : 0)) << row << ", " << column;
    }
  }
  EXPECT_EQ(layers->steps("x"), std::nullopt);
}

// 3 bits straddle words, along columns for codes and along rows for zero points: each field of 32 is 3.
TEST(PackedLayers, GptqThreeBits) {
  Words codes;
  for (const std::uint32_t word : {0x88fac688U, 0xc688fac6U, 0xfac688faU}) codes.insert(codes.end(), 32, word);
  Store store;
  store.add("x.qweight", DType::kI32, {3, 32}, codes);
  store.add("x.qzeros", DType::kI32, {1, 3}, Words{0xdb6db6db, 0xb6db6db6, 0x6db6db6d});
  store.add("x.scales", DType::kF32, {1, 32}, std::vector<float>(32, 0.25F));
  store.add("x.g_idx", DType::kI32, {32}, std::vector<std::int32_t>(32, 0));
  const auto layers = gptq(store, 3);
  const std::vector<float> values = values_of(*layers);
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], 0.25F * static_cast<float>(static_cast<int>(i % 8) - 4)) << i;
  EXPECT_EQ(layers->steps("x"), std::vector<float>(32, 0.25F));
}

TEST(PackedLayers, ContradictionsOfCompressedTensorsAreNamed) {
  const auto refused = [](const Store& store, const std::vector<std::string>& parts, bool symmetric = true) {
    expect_error<DataError>(parts, [&] { values_of(*compressed(store, 4, symmetric)); });
  };
  const Store good = one_row(16, {0x76543210, 0xfedcba98}, 1.0F);
  Store store = good;
  store.remove("x.weight_scale");
  refused(store, {"x.weight_scale", "nothing"});
  refused(good, {"x.weight_zero_point", "nothing"}, false);
  const std::int64_t huge = std::int64_t{1} << 62;
  for (const std::vector<std::int64_t>& shape :
       {std::vector<std::int64_t>{2, 16}, {1, 17}, {1, 0}, {1, -16}, {-1, 16}, {1, huge}, {huge, 16}}) {
    store = good;
    store.add("x.weight_shape", DType::kI64, {2}, shape);
    refused(store, {"x.weight_shape", "size of the packed codes"});
  }
  store = good;
  store.add("x.weight_shape", DType::kI64, {3}, std::vector<std::int64_t>{1, 16, 1});
  refused(store, {"x.weight_shape", "shape [3]"});
  store = good;
  store.add("x.weight_packed", DType::kF32, {1, 2}, Words{0, 0});
  refused(store, {"x.weight_shape"});
  store = good;
  store.add("x.weight_scale", DType::kF32, {1, 3}, std::vector<float>(3));
  refused(store, {"x.weight_scale", "3 scales for 16 columns"});
  store.add("x.weight_scale", DType::kF32, {1, 0}, std::vector<float>());
  refused(store, {"x.weight_scale", "0 scales"});
  store.add("x.weight_scale", DType::kF32, {2, 1}, std::vector<float>(2));
  refused(store, {"x.weight_scale", "shape [2, 1]"});
  store.add("x.weight_scale", DType::kF32, {1}, std::vector<float>(1));
  refused(store, {"x.weight_scale", "1 dimensions"});
  store.add("x.weight_scale", DType::kI32, {1, 1}, Words{1});
  refused(store, {"x.weight_scale", "type I32"});
}

TEST(PackedLayers, ContradictionsOfGptqAreNamed) {
  const Store good = gptq_store(0x77777777);
  const auto refused = [](const Store& store, const std::vector<std::string>& parts, int bits = 4) {
    expect_error<DataError>(parts, [&] { values_of(*gptq(store, bits)); });
  };
  for (const char* name : {"x.qweight", "x.qzeros", "x.scales", "x.g_idx"}) {
    Store store = good;
    store.remove(name);
    refused(store, {name, "nothing"});
  }
  refused(good, {"x.qweight", "3 rows"}, 3);
  Store store = good;
  for (const std::int32_t group : {-1, 2, 1 << 30}) {
    std::vector<std::int32_t> groups(32, 0);
    groups[7] = group;
    store.add("x.g_idx", DType::kI32, {32}, groups);
    refused(store, {"x.g_idx", std::to_string(group)});
  }
  store = good;
  store.add("x.g_idx", DType::kI32, {31}, std::vector<std::int32_t>(31, 0));
  refused(store, {"x.g_idx", "shape [31]"});
  store = good;
  store.add("x.scales", DType::kF16, {0, 8}, std::vector<std::uint16_t>());
  refused(store, {"x.scales"});
  store = good;
  store.add("x.qzeros", DType::kI32, {2, 2}, Words(4));
  refused(store, {"x.qzeros", "shape [2, 2]"});
}

TEST(PackedLayers, SettingsThatAreNotKnownAreNamed) {
  const Store store;
  const auto refused = [&store](const Json& config, const std::vector<std::string>& parts) {
    expect_error<DataError>(parts, [&] { open_compressed_tensors(config, store.find(), "folder"); });
  };
  const auto with = [](const std::string& key, const Json& value) {
    Json weights{{"num_bits", 4}, {"strategy", "group"}, {"type", "int"}};
    weights[key] = value;
    return Json{{"config_groups", {{"group_0", {{"weights", weights}}}}}};
  };
  refused(with("num_bits", 1), {"num_bits", "1", "2 to 8"});
  refused(with("num_bits", 9), {"num_bits", "9"});
  refused(with("num_bits", "4"), {"config_groups"});
  refused(with("type", "float"), {"type", "float"});
  refused(with("strategy", "tensor"), {"strategy", "tensor"});
  refused(with("actorder", "group"), {"actorder"});
  refused({{"config_groups", Json::object()}}, {"0 groups"});
  refused({{"format", "marlin-24"}, {"config_groups", Json::object()}}, {"marlin-24"});
  for (const int bits : {0, 1, 5, 16}) {
    expect_error<DataError>({"bits", std::to_string(bits)}, [&] { open_gptq({{"bits", bits}}, store.find(), "folder"); });
  }
  expect_error<DataError>({"gptq_p"}, [&] { open_gptq({{"bits", 4}, {"checkpoint_format", "gptq_p"}}, store.find(), "folder"); });
}

}  // namespace
}  // namespace stableqat
