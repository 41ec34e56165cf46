#include "stableqat/io/ggml_types.h"

#include <array>
#include <cstring>

#include "stableqat/base/error.h"
#include "stableqat/base/half.h"

namespace stableqat {

namespace {

using Byte = std::uint8_t;

template <class T>
T load(const Byte* data) {
  T value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

float load_half(const Byte* data) { return half_to_float(load<std::uint16_t>(data)); }

// Each decoder turns one block at `block` into kElements values. Field order inside a block is the order of the pointers.

struct F32 {
  static constexpr std::uint32_t kElements = 1, kBytes = 4;
  static void decode(const Byte* block, float* out) { *out = load<float>(block); }
};

struct F64 {
  static constexpr std::uint32_t kElements = 1, kBytes = 8;
  static void decode(const Byte* block, float* out) { *out = static_cast<float>(load<double>(block)); }
};

struct F16 {
  static constexpr std::uint32_t kElements = 1, kBytes = 2;
  static void decode(const Byte* block, float* out) { *out = load_half(block); }
};

struct BF16 {
  static constexpr std::uint32_t kElements = 1, kBytes = 2;
  static void decode(const Byte* block, float* out) { *out = bfloat16_to_float(load<std::uint16_t>(block)); }
};

struct Q8_0 {
  static constexpr std::uint32_t kElements = 32, kBytes = 34;
  static void decode(const Byte* block, float* out) {
    const float d = load_half(block);
    for (int e = 0; e < 32; ++e) out[e] = static_cast<float>(static_cast<std::int8_t>(block[2 + e])) * d;
  }
};

// Byte j holds value j in its low nibble and value j + 16 in its high one.
struct Q4_0 {
  static constexpr std::uint32_t kElements = 32, kBytes = 18;
  static void decode(const Byte* block, float* out) {
    const float d = load_half(block);
    const Byte* codes = block + 2;
    for (int j = 0; j < 16; ++j) {
      out[j] = static_cast<float>((codes[j] & 15) - 8) * d;
      out[j + 16] = static_cast<float>((codes[j] >> 4) - 8) * d;
    }
  }
};

struct Q4_1 {
  static constexpr std::uint32_t kElements = 32, kBytes = 20;
  static void decode(const Byte* block, float* out) {
    const float d = load_half(block);
    const float m = load_half(block + 2);
    const Byte* codes = block + 4;
    for (int j = 0; j < 16; ++j) {
      out[j] = static_cast<float>(codes[j] & 15) * d + m;
      out[j + 16] = static_cast<float>(codes[j] >> 4) * d + m;
    }
  }
};

// Q5_0 and Q5_1 add a fifth bit per value: bit e of a 32-bit word.
int high_bit(std::uint32_t bits, int e) { return static_cast<int>((bits >> e) & 1U) << 4; }

struct Q5_0 {
  static constexpr std::uint32_t kElements = 32, kBytes = 22;
  static void decode(const Byte* block, float* out) {
    const float d = load_half(block);
    const auto high = load<std::uint32_t>(block + 2);
    const Byte* codes = block + 6;
    for (int j = 0; j < 16; ++j) {
      out[j] = static_cast<float>(((codes[j] & 15) | high_bit(high, j)) - 16) * d;
      out[j + 16] = static_cast<float>(((codes[j] >> 4) | high_bit(high, j + 16)) - 16) * d;
    }
  }
};

struct Q5_1 {
  static constexpr std::uint32_t kElements = 32, kBytes = 24;
  static void decode(const Byte* block, float* out) {
    const float d = load_half(block);
    const float m = load_half(block + 2);
    const auto high = load<std::uint32_t>(block + 4);
    const Byte* codes = block + 8;
    for (int j = 0; j < 16; ++j) {
      out[j] = static_cast<float>((codes[j] & 15) | high_bit(high, j)) * d + m;
      out[j + 16] = static_cast<float>((codes[j] >> 4) | high_bit(high, j + 16)) * d + m;
    }
  }
};

// Two-bit codes of 128 values in 32 bytes: byte l holds values l, l + 32, l + 64 and l + 96 from its low bits up.
int two_bits(const Byte* codes, int e) { return (codes[32 * (e / 128) + e % 32] >> (2 * (e % 128 / 32))) & 3; }

struct Q2_K {
  static constexpr std::uint32_t kElements = 256, kBytes = 84;
  static void decode(const Byte* block, float* out) {
    const Byte* scales = block;
    const Byte* codes = block + 16;
    const float d = load_half(block + 80);
    const float minimum = load_half(block + 82);
    for (int sub = 0; sub < 16; ++sub) {
      const float scale = d * static_cast<float>(scales[sub] & 15);
      const float offset = minimum * static_cast<float>(scales[sub] >> 4);
      for (int e = 16 * sub; e < 16 * (sub + 1); ++e) out[e] = scale * static_cast<float>(two_bits(codes, e)) - offset;
    }
  }
};

struct Q3_K {
  static constexpr std::uint32_t kElements = 256, kBytes = 110;
  static void decode(const Byte* block, float* out) {
    const Byte* high = block;
    const Byte* codes = block + 32;
    const Byte* scales = block + 96;
    const float d = load_half(block + 108);
    for (int sub = 0; sub < 16; ++sub) {
      const int low4 = sub < 8 ? scales[sub] & 15 : scales[sub - 8] >> 4;
      const int high2 = (scales[8 + sub % 4] >> (2 * (sub / 4))) & 3;
      const float scale = d * static_cast<float>((low4 | (high2 << 4)) - 32);
      for (int e = 16 * sub; e < 16 * (sub + 1); ++e) {
        const int high_code = ((high[e % 32] >> (e / 32)) & 1) << 2;
        out[e] = scale * static_cast<float>(two_bits(codes, e) + high_code - 4);
      }
    }
  }
};

// Q4_K and Q5_K: eight sub-blocks of 32 with a 6-bit scale and a 6-bit minimum each, packed into 12 bytes.
struct SubScale {
  float scale;
  float minimum;
};

SubScale six_bit_pair(const Byte* block, int sub) {
  const Byte* packed = block + 4;
  const int scale = sub < 4 ? packed[sub] & 63 : (packed[sub + 4] & 15) | ((packed[sub - 4] >> 6) << 4);
  const int minimum = sub < 4 ? packed[sub + 4] & 63 : (packed[sub + 4] >> 4) | ((packed[sub] >> 6) << 4);
  return {load_half(block) * static_cast<float>(scale), load_half(block + 2) * static_cast<float>(minimum)};
}

// 32 bytes hold sub-block 2i in their low nibbles and sub-block 2i + 1 in their high ones.
int k_nibble(const Byte* codes, int sub, int i) { return (codes[32 * (sub / 2) + i] >> (4 * (sub % 2))) & 15; }

struct Q4_K {
  static constexpr std::uint32_t kElements = 256, kBytes = 144;
  static void decode(const Byte* block, float* out) {
    const Byte* codes = block + 16;
    for (int sub = 0; sub < 8; ++sub) {
      const auto [scale, minimum] = six_bit_pair(block, sub);
      for (int i = 0; i < 32; ++i) out[32 * sub + i] = scale * static_cast<float>(k_nibble(codes, sub, i)) - minimum;
    }
  }
};

struct Q5_K {
  static constexpr std::uint32_t kElements = 256, kBytes = 176;
  static void decode(const Byte* block, float* out) {
    const Byte* high = block + 16;
    const Byte* codes = block + 48;
    for (int sub = 0; sub < 8; ++sub) {
      const auto [scale, minimum] = six_bit_pair(block, sub);
      for (int i = 0; i < 32; ++i) {
        const int code = k_nibble(codes, sub, i) | (((high[i] >> sub) & 1) << 4);
        out[32 * sub + i] = scale * static_cast<float>(code) - minimum;
      }
    }
  }
};

struct Q6_K {
  static constexpr std::uint32_t kElements = 256, kBytes = 210;
  static void decode(const Byte* block, float* out) {
    const Byte* high = block + 128;
    const Byte* scales = block + 192;
    const float d = load_half(block + 208);
    for (int sub = 0; sub < 16; ++sub) {
      const float scale = d * static_cast<float>(static_cast<std::int8_t>(scales[sub]));
      for (int e = 16 * sub; e < 16 * (sub + 1); ++e) {
        const int half = e / 128;
        const int quarter = e % 128 / 32;
        const int low = (block[64 * half + 32 * (quarter % 2) + e % 32] >> (4 * (quarter / 2))) & 15;
        out[e] = scale * static_cast<float>((low | (two_bits(high, e) << 4)) - 32);
      }
    }
  }
};

struct Q2_0 {
  static constexpr std::uint32_t kElements = 64, kBytes = 18;
  static void decode(const Byte* block, float* out) {
    const float d = load_half(block);
    for (int e = 0; e < 64; ++e) out[e] = static_cast<float>(((block[2 + e / 4] >> (2 * (e % 4))) & 3) - 1) * d;
  }
};

struct TQ2_0 {
  static constexpr std::uint32_t kElements = 256, kBytes = 66;
  static void decode(const Byte* block, float* out) {
    const float d = load_half(block + 64);
    for (int e = 0; e < 256; ++e) out[e] = static_cast<float>(two_bits(block, e) - 1) * d;
  }
};

// Five base-3 digits a byte, stored as a fraction of 256: multiplying by 3^n (mod 256) brings digit n to the front.
struct TQ1_0 {
  static constexpr std::uint32_t kElements = 256, kBytes = 54;
  static void decode(const Byte* block, float* out) {
    constexpr std::array<int, 5> kPowers{1, 3, 9, 27, 81};
    const float d = load_half(block + 52);
    const auto region = [&](int first_byte, int bytes, int digits) {
      for (int n = 0; n < digits; ++n) {
        for (int m = 0; m < bytes; ++m) {
          const int fraction = (block[first_byte + m] * kPowers[static_cast<std::size_t>(n)]) & 255;
          *out++ = static_cast<float>(((fraction * 3) >> 8) - 1) * d;
        }
      }
    };
    region(0, 32, 5);
    region(32, 16, 5);
    region(48, 4, 4);
  }
};

using DecodeRun = void (*)(const Byte* data, std::size_t blocks, float* out);

template <class Block>
void decode_run(const Byte* data, std::size_t blocks, float* out) {
  for (std::size_t b = 0; b < blocks; ++b) Block::decode(data + b * Block::kBytes, out + b * Block::kElements);
}

struct TypeEntry {
  GgmlType type;
  const char* name;
  GgmlBlock block;
  DecodeRun decode;
};

template <class Block>
constexpr TypeEntry entry(GgmlType type, const char* name) {
  return {type, name, {Block::kElements, Block::kBytes}, decode_run<Block>};
}

constexpr std::array kTypes{
    entry<F32>(GgmlType::kF32, "F32"),
    entry<F16>(GgmlType::kF16, "F16"),
    entry<Q4_0>(GgmlType::kQ4_0, "Q4_0"),
    entry<Q4_1>(GgmlType::kQ4_1, "Q4_1"),
    entry<Q5_0>(GgmlType::kQ5_0, "Q5_0"),
    entry<Q5_1>(GgmlType::kQ5_1, "Q5_1"),
    entry<Q8_0>(GgmlType::kQ8_0, "Q8_0"),
    entry<Q2_K>(GgmlType::kQ2_K, "Q2_K"),
    entry<Q3_K>(GgmlType::kQ3_K, "Q3_K"),
    entry<Q4_K>(GgmlType::kQ4_K, "Q4_K"),
    entry<Q5_K>(GgmlType::kQ5_K, "Q5_K"),
    entry<Q6_K>(GgmlType::kQ6_K, "Q6_K"),
    TypeEntry{GgmlType::kI8, "I8", {1, 1}, nullptr},
    TypeEntry{GgmlType::kI16, "I16", {1, 2}, nullptr},
    TypeEntry{GgmlType::kI32, "I32", {1, 4}, nullptr},
    TypeEntry{GgmlType::kI64, "I64", {1, 8}, nullptr},
    entry<F64>(GgmlType::kF64, "F64"),
    entry<BF16>(GgmlType::kBF16, "BF16"),
    entry<TQ1_0>(GgmlType::kTQ1_0, "TQ1_0"),
    entry<TQ2_0>(GgmlType::kTQ2_0, "TQ2_0"),
    entry<Q2_0>(GgmlType::kQ2_0, "Q2_0"),
};

const TypeEntry* find_type(GgmlType type) noexcept {
  for (const TypeEntry& candidate : kTypes) {
    if (candidate.type == type) return &candidate;
  }
  return nullptr;
}

}  // namespace

std::string ggml_type_name(GgmlType type) {
  const TypeEntry* known = find_type(type);
  return known != nullptr ? known->name : "type " + std::to_string(static_cast<std::uint32_t>(type));
}

std::optional<GgmlBlock> ggml_block(GgmlType type) noexcept {
  const TypeEntry* known = find_type(type);
  return known != nullptr ? std::optional(known->block) : std::nullopt;
}

bool ggml_can_dequantize(GgmlType type) noexcept {
  const TypeEntry* known = find_type(type);
  return known != nullptr && known->decode != nullptr;
}

void dequantize_blocks(GgmlType type, std::span<const std::byte> data, std::span<float> out) {
  const TypeEntry* known = find_type(type);
  if (known == nullptr || known->decode == nullptr) {
    throw ConfigError({"dequantize", ggml_type_name(type), "a type that can be decoded", ""});
  }
  const std::size_t blocks = out.size() / known->block.elements;
  if (out.size() % known->block.elements != 0 || data.size() != blocks * known->block.bytes) {
    throw ConfigError(
        {"dequantize " + ggml_type_name(type), std::to_string(data.size()) + " bytes for " + std::to_string(out.size()) + " values",
         "whole blocks of " + std::to_string(known->block.bytes) + " bytes and " + std::to_string(known->block.elements) + " values", ""});
  }
  known->decode(reinterpret_cast<const Byte*>(data.data()), blocks, out.data());
}

}  // namespace stableqat
