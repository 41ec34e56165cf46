// Dense streams of small unsigned codes, as packed weights are stored: code i occupies bits i*bits .. i*bits+bits-1 of a little-endian
// stream, so that a code may straddle bytes. The same bytes are the 32-bit words of compressed-tensors (0.18.0 and later) and GPTQ.
// Pure functions, thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace stableqat {

// Whole bytes that `count` codes of 1 to 8 bits take.
constexpr std::uint64_t code_stream_bytes(std::uint64_t count, int bits) noexcept {
  return (count * static_cast<std::uint64_t>(bits) + 7) / 8;
}

// codes -> stream. Every code is below 2^bits. `stream` holds at least code_stream_bytes(); what is left over becomes zero.
// Throws ConfigError for bits outside 1..8 or a stream that is too short.
void pack_codes(std::span<const std::uint8_t> codes, int bits, std::span<std::byte> stream);

// stream -> codes. Reads code_stream_bytes() bytes at most. Throws as pack_codes().
void unpack_codes(std::span<const std::byte> stream, int bits, std::span<std::uint8_t> codes);

}  // namespace stableqat
