// Writing of ggml's block types: integer grids without error, floats by rounding. Block layouts: ggml's ggml-common.h and ggml-quants.c;
// ggml_types.h decodes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "stableqat/io/ggml_types.h"

namespace stableqat {

// The values a quantized weight can have: w = code * step with code = low + stride * index, index = 0..levels-1. Symmetric b-bit grids
// have low = -2^(b-1), stride 1; grids of half steps have odd codes, stride 2.
struct CodeGrid {
  int low = 0;
  int stride = 1;
  int levels = 1;

  constexpr int high() const noexcept { return low + stride * (levels - 1); }
  // Bits that an index takes in a dense stream.
  constexpr int index_bits() const noexcept {
    int bits = 1;
    while ((1 << bits) < levels) ++bits;
    return bits;
  }
  friend bool operator==(const CodeGrid&, const CodeGrid&) = default;
};

// True when every value of the grid has a code in `type`, given a step on the fp16 grid. False for types without such codes.
bool ggml_holds_grid(GgmlType type, const CodeGrid& grid) noexcept;

// Encodes whole blocks. codes: multiples of `stride` above `low` of the grid; steps: one for each codes.size() / steps.size() codes, which
// is a whole number of blocks; rounded to fp16 where they are not on its grid. `out` holds exactly the blocks. Zeros may come back as -0.
// Throws ConfigError for a type that does not hold the grid or sizes that do not fit.
void encode_codes(GgmlType type, const CodeGrid& grid, std::span<const std::int8_t> codes, std::span<const float> steps,
                  std::span<std::byte> out);

// True for the types that encode_floats() writes: F32, F16, BF16, Q8_0, Q6_K, Q4_0.
bool ggml_can_encode_floats(GgmlType type) noexcept;

// Rounds finite values to whole blocks: F16 and BF16 to nearest even; Q8_0 and Q4_0 by ggml's reference rule (the largest magnitude sets
// the scale); Q6_K by least squares over candidate scales. `out` holds exactly the blocks. Throws ConfigError for another type or sizes
// that do not fit.
void encode_floats(GgmlType type, std::span<const float> values, std::span<std::byte> out);

}  // namespace stableqat
