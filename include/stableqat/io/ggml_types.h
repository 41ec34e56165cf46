// ggml's tensor element types: names, block sizes and decoding to fp32. Block layouts: ggml's ggml-common.h and ggml-quants.c.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace stableqat {

// Element types by their ggml type id. Files may hold ids that are not listed.
enum class GgmlType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kQ2_0 = 42,
};

// A row is a whole number of blocks of `elements` values in `bytes` bytes (1 value for plain types).
struct GgmlBlock {
  std::uint32_t elements = 0;
  std::uint32_t bytes = 0;
};

// Name as users know it ("Q4_1"); "type 99" for ids that are not listed above.
std::string ggml_type_name(GgmlType type);

// nullopt for ids that are not listed above.
std::optional<GgmlBlock> ggml_block(GgmlType type) noexcept;

// True for the types that dequantize_blocks() decodes: every listed type but the integers.
bool ggml_can_dequantize(GgmlType type) noexcept;

// Decodes consecutive blocks on the calling thread. `data` holds exactly the blocks of out.size() values (any alignment); throws
// ConfigError when it does not, or when the type cannot be decoded.
void dequantize_blocks(GgmlType type, std::span<const std::byte> data, std::span<float> out);

}  // namespace stableqat
