// Matrix products for the linear layers, on fp32 activations. C [m, n] = A [m, k] B [k, n], or C += A B.
//
// Three kinds of arithmetic, all summed in registers over at most kGemmDepth terms before they are added to C:
//   fp32     fused multiply-add where the instruction set has it;
//   bf16     both operands rounded to bfloat16 (ties to even), products exact, sums in fp32; where that is an instruction, denormal
//            numbers count as zeros;
//   integer  B holds the codes of a quantized weight, A is rounded row by row to 16-bit integers (quantize_rows): products and sums of
//            up to kGemmDepth terms are exact integers, so that the result has the same bits on every instruction set. A 16-bit integer is
//            what two int8 digits can hold; one instruction takes both;
//   byte     the same with rows rounded to 8-bit integers (quantize_rows_to_bytes): one digit.
// Where neither operand is a quantized weight, both may be rounded to integers of 12 bits (GradientArithmetic).
// fp32 products take a quantized weight by its codes, too: dequantized as it is packed, it need not be kept in fp32.
// All arrays are dense but for the leading dimension (ld.., in elements) of row-major matrices. The sums' order depends on shapes only, not
// on the number of threads. Work is shared among OpenMP threads. Thread-safe. A function returns false, with C untouched or half-written,
// when there is no memory for its scratch (some 350 KB a thread; rounded gradients half the size of dy more; with AMX the integer ones as
// much as the rows of integers).
#pragma once

#include <cstdint>

#include "stableqat/kernels/isa.h"

namespace stableqat::kernels {

// Longest sum taken in one go: with it 32767 * 128 * depth stays an int32.
inline constexpr std::int64_t kGemmDepth = 512;

// Products with fewer rows of activations do not repay packing the weight.
inline constexpr std::int64_t kFewRows = 8;

// Rows with nothing larger are rounded to zeros: 32767 over it would not be finite.
inline constexpr float kSmallestRow = 1e-33f;

// A row-major matrix, or one that is read as its transpose.
struct GemmOperand {
  const float* data;
  std::int64_t ld;
  bool transposed;  // data holds the transpose of the operand, row-major
};

// Codes [rows, columns] of a weight, row-major without gaps.
struct GemmCodes {
  const std::int8_t* data;
  std::int64_t rows;
  std::int64_t columns;
};

// A quantized weight: w_q = code * step, rounded once. step [rows, columns / group]; a step holds for `group` columns: a power of two of at
// least 32, or all.
struct ScaledCodes {
  GemmCodes codes;
  const float* step;
  std::int64_t group;
};

// Rows of 16-bit integers: value = code * scale[row]. Rows begin `ld` elements apart (even); elements from k to the next even number are
// zero.
struct QuantizedRows {
  const std::int16_t* codes;
  std::int64_t ld;
  const float* scale;  // [m]
};
// ld of m x k QuantizedRows: padded, so that rows do not fall onto the same cache lines.
constexpr std::int64_t quantized_row_stride(std::int64_t k) noexcept { return (k + 31) / 32 * 32 + 32; }

// Rows of 8-bit integers from -127 to 127: value = (code - 128) * scale[row]. Rows begin `ld` bytes apart (a multiple of 4), at least the
// columns rounded up to a multiple of 64.
struct ByteRows {
  const std::uint8_t* codes;
  std::int64_t ld;
  const float* scale;  // [m]
};
constexpr std::int64_t byte_row_stride(std::int64_t k) noexcept { return (k + 63) / 64 * 64 + 64; }

// What two real matrices, neither of which is a quantized weight, are rounded to before they are multiplied.
enum class GradientArithmetic {
  kFp32,   // not at all
  kBf16,   // bf16
  kInt12,  // integers from -2047 to 2047 along what is summed over, in blocks of int12_block() terms: each row of A and each column of B
           // has a scale for each block, max / 2047, as quantize_rows() makes it. Of dy, a value is rounded together with the error of the
           // row before it (weight gradient) or of the column 16 before it (input gradient), so that sums stay; that may make 2048.
           // Blocks are exact integers, the same on every instruction set
};
// Terms in a block, of k in all: as few blocks as kGemmDepth allows, as equal as multiples of 64 terms can be.
constexpr std::int64_t int12_block(std::int64_t k) noexcept {
  const std::int64_t blocks = k > kGemmDepth ? (k + kGemmDepth - 1) / kGemmDepth : 1;
  return k > 0 ? (k + 64 * blocks - 1) / (64 * blocks) * 64 : 64;
}

struct GemmKernels {
  // Whether products of integers are instructions that do twice the work of an fp32 one. Elsewhere they are composed of others, at fp32's
  // speed or less.
  bool has_fast_integer;
  GradientArithmetic fast_gradients;  // the fastest

  // c [m, n] (+)= a b in fp32. a [m, k], b [k, n].
  bool (*fp32)(std::int64_t m, std::int64_t n, std::int64_t k, GemmOperand a, GemmOperand b, float* c, std::int64_t ldc, bool accumulate);

  // y [m, N] = x w_q^T. w_q [N, M], x [m, M]; x and y without gaps. From kFewRows rows on equal to fp32() with w_q, bit for bit; below,
  // each element is summed in an order of its own, reading every code once.
  bool (*codes_forward)(std::int64_t m, const float* x, ScaledCodes w, float* y);

  // dx [m, M] (+)= dy w_q. w_q [N, M], dy [m, N]; all without gaps. Equal to fp32() with w_q, bit for bit.
  bool (*codes_input_gradient)(std::int64_t m, const float* dy, ScaledCodes w, float* dx, bool accumulate);

  // dw [N, M] (+)= dy^T x. dy [m, N], x [m, M], all without gaps.
  bool (*weight_gradient)(GradientArithmetic arithmetic, std::int64_t m, std::int64_t N, std::int64_t M, const float* dy, const float* x,
                          float* dw, bool accumulate);

  // dx [m, M] (+)= dy w. w [N, M], dy [m, N], all without gaps.
  bool (*input_gradient)(GradientArithmetic arithmetic, std::int64_t m, std::int64_t N, std::int64_t M, const float* dy, const float* w,
                         float* dx, bool accumulate);

  // x [m, k] with ld columns a row, each multiplied by column_scale [k] unless that is null -> rows: codes [m, quantized_row_stride(k)]
  // (padding zeroed) and scale [m] = max |x| / 32767. Rounded to nearest, ties to even. A row whose largest value is below kSmallestRow is
  // taken as zeros, with scale 0. A row with NaN or infinity gets codes 0 and scale NaN.
  void (*quantize_rows)(std::int64_t m, std::int64_t k, const float* x, std::int64_t ld, const float* column_scale, std::int16_t* codes,
                        float* scale);

  // y [m, N] (+)= x q^T * column_scale. q [N, M], x [m, M], column_scale [N].
  bool (*integer_forward)(std::int64_t m, QuantizedRows x, GemmCodes q, const float* column_scale, float* y, std::int64_t ldy,
                          bool accumulate);

  // dx [m, M] (+)= dy q. q [N, M], dy [m, N] (with q's scales multiplied into it before it was rounded).
  bool (*integer_input_gradient)(std::int64_t m, QuantizedRows dy, GemmCodes q, float* dx, std::int64_t ldx, bool accumulate);

  // weight_gradient() of x [m, M] as the forward product rounded it. dy [m, N] without gaps.
  bool (*integer_weight_gradient)(GradientArithmetic arithmetic, std::int64_t m, std::int64_t N, std::int64_t M, const float* dy,
                                  QuantizedRows x, float* dw, bool accumulate);

  // The four for bytes: scale = max |x| / 127, codes [m, byte_row_stride(k)] with 128 in the padding. Without VNNI, codes of
  // the weight beyond 16 take a slower way.
  void (*quantize_rows_to_bytes)(std::int64_t m, std::int64_t k, const float* x, std::int64_t ld, const float* column_scale,
                                 std::uint8_t* codes, float* scale);
  bool (*byte_forward)(std::int64_t m, ByteRows x, GemmCodes q, const float* column_scale, float* y, std::int64_t ldy, bool accumulate);
  bool (*byte_input_gradient)(std::int64_t m, ByteRows dy, GemmCodes q, float* dx, std::int64_t ldx, bool accumulate);
  bool (*byte_weight_gradient)(GradientArithmetic arithmetic, std::int64_t m, std::int64_t N, std::int64_t M, const float* dy, ByteRows x,
                               float* dw, bool accumulate);
};

const GemmKernels& gemm_kernels(Isa isa = active_isa());

}  // namespace stableqat::kernels
