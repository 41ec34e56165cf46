#include "stableqat/io/code_stream.h"

#include <algorithm>
#include <string>

#include "stableqat/base/error.h"

namespace stableqat {

namespace {

void check(std::size_t codes, int bits, std::size_t bytes) {
  if (bits < 1 || bits > 8) throw ConfigError({"code stream", std::to_string(bits) + " bits", "1 to 8", ""});
  if (bytes < code_stream_bytes(codes, bits)) {
    throw ConfigError({"code stream", std::to_string(bytes) + " bytes",
                       std::to_string(code_stream_bytes(codes, bits)) + " for " + std::to_string(codes) + " codes", ""});
  }
}

}  // namespace

// Both keep less than one byte of bits from code to code.

void pack_codes(std::span<const std::uint8_t> codes, int bits, std::span<std::byte> stream) {
  check(codes.size(), bits, stream.size());
  std::uint32_t pending = 0;
  int pending_bits = 0;
  std::size_t byte = 0;
  for (const std::uint8_t code : codes) {
    pending |= static_cast<std::uint32_t>(code) << pending_bits;
    pending_bits += bits;
    if (pending_bits < 8) continue;
    stream[byte++] = static_cast<std::byte>(pending & 0xffU);
    pending >>= 8;
    pending_bits -= 8;
  }
  if (pending_bits > 0) stream[byte++] = static_cast<std::byte>(pending & 0xffU);
  std::fill(stream.begin() + static_cast<std::ptrdiff_t>(byte), stream.end(), std::byte{0});
}

void unpack_codes(std::span<const std::byte> stream, int bits, std::span<std::uint8_t> codes) {
  check(codes.size(), bits, stream.size());
  const std::uint32_t mask = (1U << bits) - 1U;
  std::uint32_t pending = 0;
  int pending_bits = 0;
  std::size_t byte = 0;
  for (std::uint8_t& code : codes) {
    if (pending_bits < bits) {
      pending |= static_cast<std::uint32_t>(stream[byte++]) << pending_bits;
      pending_bits += 8;
    }
    code = static_cast<std::uint8_t>(pending & mask);
    pending >>= bits;
    pending_bits -= bits;
  }
}

}  // namespace stableqat
