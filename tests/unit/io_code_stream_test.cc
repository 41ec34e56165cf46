#include "stableqat/io/code_stream.h"

#include <bit>

#include "io_fixtures.h"

namespace stableqat {
namespace {

std::vector<std::byte> packed(const std::vector<std::uint8_t>& codes, int bits) {
  std::vector<std::byte> stream(code_stream_bytes(codes.size(), bits));
  pack_codes(codes, bits, stream);
  return stream;
}

// The 32-bit words of a stream, as compressed-tensors lists them.
std::vector<std::uint32_t> words(const std::vector<std::byte>& stream) {
  std::vector<std::uint32_t> values(stream.size() / 4);
  std::memcpy(values.data(), stream.data(), stream.size());
  return values;
}

template <class Code>
std::vector<std::uint8_t> codes_by(std::size_t count, Code&& code) {
  std::vector<std::uint8_t> codes(count);
  for (std::size_t i = 0; i < count; ++i) codes[i] = static_cast<std::uint8_t>(code(i));
  return codes;
}

// Words that compressed-tensors 0.18.0's pack_to_int32 gives.
TEST(CodeStream, PacksTheWordsOfCompressedTensors) {
  using Words = std::vector<std::uint32_t>;
  EXPECT_EQ(words(packed(codes_by(32, [](std::size_t i) { return i % 8; }), 3)), (Words{0x88fac688, 0xc688fac6, 0xfac688fa}));
  EXPECT_EQ(words(packed(codes_by(32, [](std::size_t i) { return (5 * i + 3) % 8; }), 3)), (Words{0x43c67543, 0x7543c675, 0xc67543c6}));
  EXPECT_EQ(words(packed(codes_by(16, [](std::size_t i) { return i % 4; }), 2)), (Words{0xe4e4e4e4}));
  EXPECT_EQ(words(packed(codes_by(16, [](std::size_t i) { return i % 16; }), 4)), (Words{0x76543210, 0xfedcba98}));
  EXPECT_EQ(words(packed(codes_by(16, [](std::size_t i) { return (5 * i + 3) % 16; }), 4)), (Words{0x61c72d83, 0xe94fa50b}));
}

TEST(CodeStream, UnpacksWhatItPackedAtEveryWidthAndLength) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (std::size_t count = 0; count < 70; ++count) {
      const auto codes = codes_by(count, [bits](std::size_t i) { return (i * i * 37 + i * 11 + 5) % (std::size_t{1} << bits); });
      const auto stream = packed(codes, bits);  // on the heap, no longer than needed: reading on is seen by AddressSanitizer
      std::vector<std::uint8_t> found(count);
      unpack_codes(stream, bits, found);
      ASSERT_EQ(found, codes) << bits << " bits, " << count << " codes";
    }
  }
}

TEST(CodeStream, WhatIsLeftOverIsZero) {
  std::vector<std::byte> stream(8, std::byte{0xff});
  pack_codes(std::vector<std::uint8_t>{7, 7, 7}, 3, stream);
  EXPECT_EQ(words(stream), (std::vector<std::uint32_t>{0x1ff, 0}));
}

TEST(CodeStream, BitsAndSizesThatDoNotFitAreRefused) {
  std::vector<std::byte> stream(2);
  std::vector<std::uint8_t> codes(6);
  EXPECT_THROW(pack_codes(codes, 3, stream), ConfigError);
  EXPECT_THROW(unpack_codes(stream, 3, codes), ConfigError);
  EXPECT_THROW(pack_codes({}, 0, stream), ConfigError);
  EXPECT_THROW(unpack_codes(stream, 9, {}), ConfigError);
}

}  // namespace
}  // namespace stableqat
