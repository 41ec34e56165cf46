#include "stableqat/io/ggml_encode.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>

#include "stableqat/base/error.h"
#include "stableqat/base/half.h"

namespace stableqat {

namespace {

using Byte = std::uint8_t;

void store_half(Byte* out, float value) {
  const std::uint16_t half = float_to_half(value);
  std::memcpy(out, &half, sizeof half);
}

bool lies_within(const CodeGrid& grid, int low, int high) { return grid.low >= low && grid.high() <= high; }

// Each encoder writes one block of `codes` at `out`, which is zero before.
using EncodeBlock = void (*)(const CodeGrid& grid, const std::int8_t* codes, float step, Byte* out);

// Two-bit codes of 128 values in 32 bytes: byte l holds values l, l + 32, l + 64 and l + 96 from its low bits up.
void add_two_bits(Byte* out, int e, int code) {
  Byte& byte = out[32 * (e / 128) + e % 32];
  byte = static_cast<Byte>(byte | (code << (2 * (e % 128 / 32))));
}

// The types with levels -d, 0, d, 2d hold -2..1 by a negative d.
struct Mirrored {
  explicit Mirrored(const CodeGrid& grid) : sign(grid.low < -1 ? -1 : 1) {}
  int sign;
  int code(int q) const { return 1 + sign * q; }
  float scale(float step) const { return static_cast<float>(sign) * step; }
};

void encode_q4_0(const CodeGrid&, const std::int8_t* codes, float step, Byte* out) {
  store_half(out, step);
  for (int j = 0; j < 16; ++j) out[2 + j] = static_cast<Byte>((codes[j] + 8) | ((codes[j + 16] + 8) << 4));
}

void encode_q5_0(const CodeGrid&, const std::int8_t* codes, float step, Byte* out) {
  store_half(out, step);
  std::uint32_t high = 0;
  for (int e = 0; e < 32; ++e) {
    const int code = codes[e] + 16;
    high |= static_cast<std::uint32_t>(code >> 4) << e;
    out[6 + e % 16] = static_cast<Byte>(out[6 + e % 16] | ((code & 15) << (e < 16 ? 0 : 4)));
  }
  std::memcpy(out + 2, &high, sizeof high);
}

void encode_q8_0(const CodeGrid&, const std::int8_t* codes, float step, Byte* out) {
  store_half(out, step);
  std::memcpy(out + 2, codes, 32);
}

void encode_q2_0(const CodeGrid& grid, const std::int8_t* codes, float step, Byte* out) {
  const Mirrored mirrored(grid);
  store_half(out, mirrored.scale(step));
  for (int e = 0; e < 64; ++e) out[2 + e / 4] = static_cast<Byte>(out[2 + e / 4] | (mirrored.code(codes[e]) << (2 * (e % 4))));
}

void encode_tq2_0(const CodeGrid& grid, const std::int8_t* codes, float step, Byte* out) {
  const Mirrored mirrored(grid);
  for (int e = 0; e < 256; ++e) add_two_bits(out, e, mirrored.code(codes[e]));
  store_half(out + 64, mirrored.scale(step));
}

// w = d * scale * index - dmin * minimum with d = dmin = step: the scale is the stride and the minimum is -low, the same in all sub-blocks.
void encode_q2_k(const CodeGrid& grid, const std::int8_t* codes, float step, Byte* out) {
  std::fill_n(out, 16, static_cast<Byte>((-grid.low << 4) | grid.stride));
  for (int e = 0; e < 256; ++e) add_two_bits(out + 16, e, (codes[e] - grid.low) / grid.stride);
  store_half(out + 80, step);
  store_half(out + 82, step);
}

// Sub-scales of 33 - 32 = 1: low nibbles 1, high bits 2.
void encode_q3_k(const CodeGrid&, const std::int8_t* codes, float step, Byte* out) {
  for (int e = 0; e < 256; ++e) {
    const int code = codes[e] + 4;
    out[e % 32] = static_cast<Byte>(out[e % 32] | ((code >> 2) << (e / 32)));
    add_two_bits(out + 32, e, code & 3);
  }
  std::fill_n(out + 96, 8, Byte{0x11});
  std::fill_n(out + 104, 4, Byte{0xAA});
  store_half(out + 108, step);
}

// Five base-3 digits a byte, as the fraction of 256 from which multiplying by 3 brings out digit after digit.
void encode_tq1_0(const CodeGrid&, const std::int8_t* codes, float step, Byte* out) {
  const auto region = [&](int first_code, int first_byte, int bytes, int digits) {
    for (int m = 0; m < bytes; ++m) {
      int value = 0;
      for (int n = 0; n < 5; ++n) value = 3 * value + (n < digits ? codes[first_code + m + n * bytes] + 1 : 0);
      out[first_byte + m] = static_cast<Byte>((value * 256 + 242) / 243);
    }
  };
  region(0, 0, 32, 5);
  region(160, 32, 16, 5);
  region(240, 48, 4, 4);
  store_half(out + 52, step);
}

struct CodeEncoder {
  GgmlType type;
  bool (*holds)(const CodeGrid& grid);
  EncodeBlock encode;
};

constexpr std::array kCodeEncoders{
    CodeEncoder{GgmlType::kTQ1_0, [](const CodeGrid& grid) { return lies_within(grid, -1, 1); }, encode_tq1_0},
    CodeEncoder{GgmlType::kTQ2_0, [](const CodeGrid& grid) { return lies_within(grid, -2, 1); }, encode_tq2_0},
    CodeEncoder{GgmlType::kQ2_0, [](const CodeGrid& grid) { return lies_within(grid, -2, 1); }, encode_q2_0},
    CodeEncoder{GgmlType::kQ2_K, [](const CodeGrid& grid) { return grid.levels <= 4 && grid.stride <= 15 && lies_within(grid, -15, 45); },
                encode_q2_k},
    CodeEncoder{GgmlType::kQ3_K, [](const CodeGrid& grid) { return lies_within(grid, -4, 3); }, encode_q3_k},
    CodeEncoder{GgmlType::kQ4_0, [](const CodeGrid& grid) { return lies_within(grid, -8, 7); }, encode_q4_0},
    CodeEncoder{GgmlType::kQ5_0, [](const CodeGrid& grid) { return lies_within(grid, -16, 15); }, encode_q5_0},
    CodeEncoder{GgmlType::kQ8_0, [](const CodeGrid& grid) { return lies_within(grid, -128, 127); }, encode_q8_0},
};

const CodeEncoder* find_encoder(GgmlType type, const CodeGrid& grid) noexcept {
  const auto found = std::ranges::find_if(kCodeEncoders, [&](const CodeEncoder& encoder) { return encoder.type == type; });
  return found != kCodeEncoders.end() && grid.low <= 0 && found->holds(grid) ? &*found : nullptr;
}

[[noreturn]] void throw_sizes(GgmlType type, std::size_t values, std::size_t bytes) {
  throw ConfigError({"encode " + ggml_type_name(type), std::to_string(values) + " values for " + std::to_string(bytes) + " bytes",
                     "whole blocks, and room for just these", ""});
}

// Float encoders write one block; `values` are finite.
using EncodeFloats = void (*)(const float* values, Byte* out);

void encode_float_f32(const float* values, Byte* out) { std::memcpy(out, values, sizeof *values); }
void encode_float_f16(const float* values, Byte* out) { store_half(out, *values); }
void encode_float_bf16(const float* values, Byte* out) {
  const std::uint16_t rounded = float_to_bfloat16(*values);
  std::memcpy(out, &rounded, sizeof rounded);
}

void encode_float_q8_0(const float* values, Byte* out) {
  float largest = 0;
  for (int e = 0; e < 32; ++e) largest = std::max(largest, std::fabs(values[e]));
  const float scale = largest / 127.0f;
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  store_half(out, scale);
  for (int e = 0; e < 32; ++e) out[2 + e] = static_cast<Byte>(static_cast<std::int8_t>(std::round(values[e] * inverse)));
}

// The value of largest magnitude, with its sign.
float extreme(const float* values, int count) {
  return *std::max_element(values, values + count, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
}

void encode_float_q4_0(const float* values, Byte* out) {
  const float scale = extreme(values, 32) / -8.0f;
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  const auto code = [&](int e) { return std::min(15, static_cast<int>(values[e] * inverse + 8.5f)); };
  store_half(out, scale);
  for (int j = 0; j < 16; ++j) out[2 + j] = static_cast<Byte>(code(j) | (code(j + 16) << 4));
}

int q6_code(float value, float inverse) { return std::clamp(static_cast<int>(std::lrint(value * inverse)), -32, 31); }

// The scale of 16 values for codes -32..31 with the smallest squared error, among those that put the extreme value on a code near the end.
float q6_scale(const float* values) {
  const float end = extreme(values, 16);
  float best_scale = 0;
  float best_gain = 0;
  for (float top = -34.0f; top <= -29.0f; top += 0.25f) {
    const float inverse = top / (end == 0 ? 1.0f : end);
    float product = 0;
    float squares = 0;
    for (int e = 0; e < 16; ++e) {
      const auto code = static_cast<float>(q6_code(values[e], inverse));
      product += values[e] * code;
      squares += code * code;
    }
    // With codes c fixed, the best scale is <w, c> / <c, c>, which takes <w, c>^2 / <c, c> off the error.
    if (squares > 0 && product * product > best_gain * squares) {
      best_gain = product * product / squares;
      best_scale = product / squares;
    }
  }
  return best_scale;
}

void encode_float_q6_k(const float* values, Byte* out) {
  std::array<float, 16> scales{};
  for (std::size_t sub = 0; sub < 16; ++sub) scales[sub] = q6_scale(values + 16 * sub);
  const float super = half_to_float(float_to_half(extreme(scales.data(), 16) / -128.0f));
  store_half(out + 208, super);
  if (super == 0) {
    std::fill_n(out, 128, Byte{0});
    std::fill_n(out + 128, 64, Byte{0xAA});  // code 0 is stored as 32
    return;
  }
  for (int sub = 0; sub < 16; ++sub) {
    const int multiple = std::clamp(static_cast<int>(std::lrint(scales[static_cast<std::size_t>(sub)] / super)), -128, 127);
    out[192 + sub] = static_cast<Byte>(static_cast<std::int8_t>(multiple));
    const float scale = super * static_cast<float>(multiple);
    const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
    for (int e = 16 * sub; e < 16 * (sub + 1); ++e) {
      const int code = q6_code(values[e], inverse) + 32;
      const int half = e / 128;
      const int quarter = e % 128 / 32;
      Byte& low = out[64 * half + 32 * (quarter % 2) + e % 32];
      low = static_cast<Byte>(low | ((code & 15) << (4 * (quarter / 2))));
      add_two_bits(out + 128, e, code >> 4);
    }
  }
}

struct FloatEncoder {
  GgmlType type;
  EncodeFloats encode;
};

constexpr std::array kFloatEncoders{FloatEncoder{GgmlType::kF32, encode_float_f32},   FloatEncoder{GgmlType::kF16, encode_float_f16},
                                    FloatEncoder{GgmlType::kBF16, encode_float_bf16}, FloatEncoder{GgmlType::kQ8_0, encode_float_q8_0},
                                    FloatEncoder{GgmlType::kQ6_K, encode_float_q6_k}, FloatEncoder{GgmlType::kQ4_0, encode_float_q4_0}};

const FloatEncoder* find_float_encoder(GgmlType type) noexcept {
  const auto found = std::ranges::find_if(kFloatEncoders, [&](const FloatEncoder& encoder) { return encoder.type == type; });
  return found != kFloatEncoders.end() ? &*found : nullptr;
}

}  // namespace

bool ggml_holds_grid(GgmlType type, const CodeGrid& grid) noexcept { return find_encoder(type, grid) != nullptr; }

void encode_codes(GgmlType type, const CodeGrid& grid, std::span<const std::int8_t> codes, std::span<const float> steps,
                  std::span<std::byte> out) {
  const CodeEncoder* encoder = find_encoder(type, grid);
  if (encoder == nullptr) {
    throw ConfigError({"encode " + ggml_type_name(type), "codes " + std::to_string(grid.low) + ".." + std::to_string(grid.high()),
                       "a type that holds them", ""});
  }
  const GgmlBlock block = *ggml_block(type);
  const std::size_t blocks = codes.size() / block.elements;
  if (codes.size() % block.elements != 0 || out.size() != blocks * block.bytes || steps.empty() || blocks % steps.size() != 0) {
    throw_sizes(type, codes.size(), out.size());
  }
  auto* bytes = reinterpret_cast<Byte*>(out.data());
  std::fill_n(bytes, out.size(), Byte{0});
  const std::size_t blocks_per_step = blocks / steps.size();
  for (std::size_t b = 0; b < blocks; ++b) {
    encoder->encode(grid, codes.data() + b * block.elements, steps[b / blocks_per_step], bytes + b * block.bytes);
  }
}

bool ggml_can_encode_floats(GgmlType type) noexcept { return find_float_encoder(type) != nullptr; }

void encode_floats(GgmlType type, std::span<const float> values, std::span<std::byte> out) {
  const FloatEncoder* encoder = find_float_encoder(type);
  if (encoder == nullptr) throw ConfigError({"encode", ggml_type_name(type), "F32, F16, BF16, Q8_0, Q6_K or Q4_0", ""});
  const GgmlBlock block = *ggml_block(type);
  const std::size_t blocks = values.size() / block.elements;
  if (values.size() % block.elements != 0 || out.size() != blocks * block.bytes) throw_sizes(type, values.size(), out.size());
  auto* bytes = reinterpret_cast<Byte*>(out.data());
  std::fill_n(bytes, out.size(), Byte{0});
  for (std::size_t b = 0; b < blocks; ++b) encoder->encode(values.data() + b * block.elements, bytes + b * block.bytes);
}

}  // namespace stableqat
