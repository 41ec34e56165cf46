#include "stableqat/io/code_stream.h"

#include <algorithm>
#include <bit>
#include <cstring>
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

static_assert(std::endian::native == std::endian::little, "words are read and written as the bytes of a stream");

// The first bytes, as many as there are of eight. A size known at compile time is a single instruction.
std::uint64_t load(std::span<const std::byte> bytes) {
  std::uint64_t word = 0;
  if (bytes.size() >= sizeof(word)) {
    std::memcpy(&word, bytes.data(), sizeof(word));
  } else {
    std::memcpy(&word, bytes.data(), bytes.size());
  }
  return word;
}

void store(std::uint64_t word, std::span<std::byte> bytes) {
  if (bytes.size() >= sizeof(word)) {
    std::memcpy(bytes.data(), &word, sizeof(word));
  } else {
    std::memcpy(bytes.data(), &word, bytes.size());
  }
}

// Between eight codes in a byte each and the same codes side by side, in three steps: neighbours of one, two, four codes move by one, two,
// four times the bits that a byte has too many. A template: every mask and distance is a constant.
template <int kBits>
struct Weave {
  // Of each pair of neighbours in the given step, the lower one.
  static constexpr std::uint64_t lower(int step) {
    std::uint64_t mask = 0;
    for (int begin = 0; begin < 64; begin += 16 << step) mask |= ((std::uint64_t{1} << (kBits << step)) - 1) << begin;
    return mask;
  }
  template <int kStep>
  static constexpr std::uint64_t join(std::uint64_t word) {
    constexpr std::uint64_t kLower = lower(kStep);
    constexpr std::uint64_t kJoined = kLower << (kBits << kStep);
    return (word & kLower) | (word >> ((8 - kBits) << kStep) & kJoined);
  }
  template <int kStep>
  static constexpr std::uint64_t part(std::uint64_t word) {
    constexpr std::uint64_t kLower = lower(kStep);
    constexpr std::uint64_t kJoined = kLower << (kBits << kStep);
    return (word & kLower) | (word & kJoined) << ((8 - kBits) << kStep);
  }

  static void pack(std::span<const std::uint8_t> codes, std::span<std::byte> stream) {
    for (std::size_t i = 0, byte = 0; i < codes.size(); i += 8, byte += kBits) {
      const std::uint64_t word = load(std::as_bytes(codes.subspan(i)));
      store(join<2>(join<1>(join<0>(word))), stream.subspan(byte));  // zeros beyond its own bytes
    }
  }
  static void unpack(std::span<const std::byte> stream, std::span<std::uint8_t> codes) {
    for (std::size_t i = 0, byte = 0; i < codes.size(); i += 8, byte += kBits) {
      const std::uint64_t word = load(stream.subspan(byte));
      store(part<0>(part<1>(part<2>(word))), std::as_writable_bytes(codes.subspan(i)));
    }
  }
};

// Calls action(Weave<bits>{}).
template <class Action>
void with_weave(int bits, Action&& action) {
  switch (bits) {
    case 1:
      return action(Weave<1>{});
    case 2:
      return action(Weave<2>{});
    case 3:
      return action(Weave<3>{});
    case 4:
      return action(Weave<4>{});
    case 5:
      return action(Weave<5>{});
    case 6:
      return action(Weave<6>{});
    case 7:
      return action(Weave<7>{});
    default:
      return action(Weave<8>{});
  }
}

}  // namespace

void pack_codes(std::span<const std::uint8_t> codes, int bits, std::span<std::byte> stream) {
  check(codes.size(), bits, stream.size());
  with_weave(bits, [&](auto weave) { weave.pack(codes, stream); });
  const auto rest = stream.subspan(code_stream_bytes(codes.size(), bits));
  std::fill(rest.begin(), rest.end(), std::byte{0});
}

void unpack_codes(std::span<const std::byte> stream, int bits, std::span<std::uint8_t> codes) {
  check(codes.size(), bits, stream.size());
  with_weave(bits, [&](auto weave) { weave.unpack(stream, codes); });
}

}  // namespace stableqat
