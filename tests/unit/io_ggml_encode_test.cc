#include "stableqat/io/ggml_encode.h"

#include <array>
#include <cmath>
#include <random>

#include "io_fixtures.h"
#include "stableqat/base/half.h"
#include "stableqat/io/safetensors.h"

namespace stableqat {
namespace {

constexpr CodeGrid symmetric(int bits) { return {-(1 << (bits - 1)), 1, 1 << bits}; }
constexpr CodeGrid half_steps(int bits) { return {1 - (1 << bits), 2, 1 << bits}; }
constexpr CodeGrid kTernary{-1, 1, 3};
constexpr CodeGrid kSign{-1, 2, 2};

// The vectors of the published block formats: codes low + (5i + i/7) mod N at step 0.5 (tests/golden/data/io_blocks.bin, made by
// tools/make_io_fixtures.py, which checks their CRC-32).
struct BlockVector {
  GgmlType type;
  CodeGrid grid;
};

TEST(GgmlEncode, WritesThePublishedBlocks) {
  const std::array<BlockVector, 6> vectors{{{GgmlType::kQ4_0, symmetric(4)},
                                            {GgmlType::kQ2_0, symmetric(2)},
                                            {GgmlType::kTQ2_0, symmetric(2)},
                                            {GgmlType::kQ2_K, symmetric(2)},
                                            {GgmlType::kQ3_K, symmetric(3)},
                                            {GgmlType::kTQ1_0, kTernary}}};
  const auto file = fixture_bytes("io_blocks.bin");
  std::span<const std::byte> rest = file;
  for (const BlockVector& vector : vectors) {
    const GgmlBlock layout = ggml_block(vector.type).value();
    std::vector<std::int8_t> codes(layout.elements);
    for (int i = 0; i < static_cast<int>(layout.elements); ++i) {
      codes[static_cast<std::size_t>(i)] = static_cast<std::int8_t>(vector.grid.low + (5 * i + i / 7) % vector.grid.levels);
    }
    std::vector<std::byte> block(layout.bytes, std::byte{0xff});
    encode_codes(vector.type, vector.grid, codes, std::array{0.5f}, block);
    const auto expected = rest.first(layout.bytes);
    EXPECT_TRUE(std::equal(block.begin(), block.end(), expected.begin())) << ggml_type_name(vector.type);
    rest = rest.subspan(layout.bytes);
  }
}

constexpr std::array kGrids{symmetric(2),  symmetric(3),  symmetric(4), symmetric(8), half_steps(2),
                            half_steps(3), half_steps(4), kTernary,     kSign};
constexpr std::array kTypes{GgmlType::kTQ1_0, GgmlType::kTQ2_0, GgmlType::kQ2_0, GgmlType::kQ2_K,
                            GgmlType::kQ3_K,  GgmlType::kQ4_0,  GgmlType::kQ5_0, GgmlType::kQ8_0};

// Every grid in every type that says it holds it comes back as code * step exactly, for every step of fp16, several steps a row.
TEST(GgmlEncode, EveryGridComesBackExactly) {
  std::mt19937 random(3);
  int pairs = 0;
  for (const CodeGrid& grid : kGrids) {
    for (const GgmlType type : kTypes) {
      if (!ggml_holds_grid(type, grid)) continue;
      ++pairs;
      const GgmlBlock layout = ggml_block(type).value();
      constexpr std::size_t kBlocks = 64;
      std::vector<std::int8_t> codes(kBlocks * layout.elements);
      for (auto& code : codes)
        code = static_cast<std::int8_t>(grid.low + grid.stride * static_cast<int>(random() % static_cast<unsigned>(grid.levels)));
      std::vector<float> steps(kBlocks / 2);
      for (float& step : steps) step = half_to_float(static_cast<std::uint16_t>(1 + random() % 0x7000U));
      std::vector<std::byte> blocks(kBlocks * layout.bytes);
      encode_codes(type, grid, codes, steps, blocks);
      std::vector<float> values(codes.size());
      dequantize_blocks(type, blocks, values);
      for (std::size_t i = 0; i < codes.size(); ++i) {
        ASSERT_EQ(values[i], static_cast<float>(codes[i]) * steps[i / (2 * layout.elements)]) << ggml_type_name(type) << " value " << i;
      }
    }
  }
  EXPECT_EQ(pairs, 7 + 4 + 3 + 1 + 5 + 3 + 2 + 8 + 8);  // by grid, in the order above
}

TEST(GgmlEncode, GridsThatDoNotFitAreRefused) {
  EXPECT_FALSE(ggml_holds_grid(GgmlType::kTQ1_0, symmetric(2)));
  EXPECT_FALSE(ggml_holds_grid(GgmlType::kQ2_K, symmetric(3)));
  EXPECT_FALSE(ggml_holds_grid(GgmlType::kQ4_0, half_steps(4)));
  EXPECT_FALSE(ggml_holds_grid(GgmlType::kF16, symmetric(2)));
  EXPECT_FALSE(ggml_holds_grid(static_cast<GgmlType>(99), symmetric(2)));
  const std::vector<std::int8_t> codes(64);
  std::vector<std::byte> out(18);
  const std::array steps{1.0f};
  EXPECT_NO_THROW(encode_codes(GgmlType::kQ2_0, symmetric(2), codes, steps, out));
  EXPECT_THROW(encode_codes(GgmlType::kQ2_0, symmetric(3), codes, steps, out), ConfigError);
  EXPECT_THROW(encode_codes(GgmlType::kQ2_0, symmetric(2), std::span(codes).first(63), steps, out), ConfigError);
  EXPECT_THROW(encode_codes(GgmlType::kQ2_0, symmetric(2), codes, {}, out), ConfigError);
  EXPECT_THROW(encode_codes(GgmlType::kQ2_0, symmetric(2), codes, std::array{1.0f, 1.0f}, out), ConfigError);  // half a block each
}

// gguf-py wrote the same values.
TEST(GgmlEncode, RoundsFloatsLikeGgufPy) {
  const SafetensorsFile file(fixture_path("io_encoded.safetensors"));
  std::vector<float> values(file.tensor("values").element_count);
  file.read_f32("values", values);
  for (const auto& [type, name] :
       {std::pair{GgmlType::kQ8_0, "Q8_0"}, {GgmlType::kQ4_0, "Q4_0"}, {GgmlType::kF16, "F16"}, {GgmlType::kBF16, "BF16"}}) {
    const auto expected = file.bytes(name);
    std::vector<std::byte> found(expected.size());
    encode_floats(type, values, found);
    EXPECT_TRUE(std::equal(found.begin(), found.end(), expected.begin())) << name;
  }
}

// A scale per 16 values with 6-bit codes: for evenly spread values the error is at most half a step, and a step is about max / 31.
TEST(GgmlEncode, Q6KStaysWithinAStep) {
  std::mt19937 random(5);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(4 * 256);
  for (float& value : values) value = uniform(random);
  std::fill_n(values.begin(), 256, 0.0f);  // a block of zeros
  std::vector<std::byte> blocks(4 * 210);
  encode_floats(GgmlType::kQ6_K, values, blocks);
  std::vector<float> found(values.size());
  dequantize_blocks(GgmlType::kQ6_K, blocks, found);
  for (std::size_t i = 0; i < 256; ++i) EXPECT_EQ(found[i], 0.0f);
  for (std::size_t sub = 16; sub < values.size() / 16; ++sub) {
    float largest = 0;
    for (std::size_t e = 16 * sub; e < 16 * (sub + 1); ++e) largest = std::max(largest, std::fabs(values[e]));
    // Half a step of the largest sub-scale (1/30 for values in -1..1, with a sub-scale rounded to 1/127 of the block's largest), and the
    // 31st step that a value opposite to the extreme one may lack.
    const float step = largest / 30 + 1.0f / 30 / 127;
    for (std::size_t e = 16 * sub; e < 16 * (sub + 1); ++e) EXPECT_NEAR(found[e], values[e], 1.5f * step) << e;
  }
}

TEST(GgmlEncode, FloatSizesAndTypesThatDoNotFitAreRefused) {
  EXPECT_FALSE(ggml_can_encode_floats(GgmlType::kQ2_K));
  const std::vector<float> values(33);
  std::vector<std::byte> out(34);
  EXPECT_THROW(encode_floats(GgmlType::kQ8_0, values, out), ConfigError);
  EXPECT_THROW(encode_floats(GgmlType::kQ2_K, values, out), ConfigError);
}

}  // namespace
}  // namespace stableqat
