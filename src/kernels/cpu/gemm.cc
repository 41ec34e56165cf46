#include "stableqat/kernels/gemm.h"

#include "kernels/cpu/gemm_blocked.h"
#include "kernels/cpu/gemm_round.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {
namespace {

float* floats_of(std::int32_t* scratch) { return static_cast<float*>(static_cast<void*>(scratch)); }
std::int16_t* shorts_of(std::int32_t* scratch) { return static_cast<std::int16_t*>(static_cast<void*>(scratch)); }
const std::int32_t* units_of(const float* values) { return static_cast<const std::int32_t*>(static_cast<const void*>(values)); }
const std::int32_t* units_of(const std::uint8_t* values) { return static_cast<const std::int32_t*>(static_cast<const void*>(values)); }
const std::int32_t* units_of(const std::int16_t* values) { return static_cast<const std::int32_t*>(static_cast<const void*>(values)); }

bool fp32(std::int64_t m, std::int64_t n, std::int64_t k, GemmOperand a, GemmOperand b, float* c, std::int64_t ldc, bool accumulate) {
  const Shape shape{m, n, k};
  const OutputC out{c, ldc, accumulate, nullptr, nullptr};
  const auto with_a = [&](const auto& source) {
    if (a.transposed) return multiply<Fp32, false>(shape, {units_of(a.data), 1, a.ld}, source, out);
    return multiply<Fp32, true>(shape, {units_of(a.data), a.ld, 1}, source, out);
  };
  return b.transposed ? with_a(Fp32Transposed{b.data, b.ld}) : with_a(Fp32Rows{b.data, b.ld});
}

int group_bits(const ScaledCodes& w) { return w.group == w.codes.columns ? 63 : __builtin_ctzll(static_cast<std::uint64_t>(w.group)); }

// Sum of codes[j] * x[j] in kWidth parts, which are added last.
float dot(std::int64_t count, const std::int8_t* codes, const float* x) {
  Floats sum{};
  std::int64_t j = 0;
  for (; j + kWidth <= count; j += kWidth) {
    sum = multiply_add(__builtin_convertvector(load<Bytes>(codes + j), Floats), load<Floats>(x + j), sum);
  }
  float total = 0.0f;
  for (int lane = 0; lane < kWidth; ++lane) total += sum[lane];
  for (; j < count; ++j) total += static_cast<float>(codes[j]) * x[j];
  return total;
}

// Rows [first, last) of w times the few rows of x: sums of a group of columns are scaled once.
void few_rows_forward(std::int64_t m, const float* x, const ScaledCodes& w, std::int64_t first, std::int64_t last, float* y) {
  const std::int64_t columns = w.codes.columns;
  const std::int64_t groups = columns / w.group;
  for (std::int64_t n = first; n < last; ++n) {
    float sums[kFewRows] = {};
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int8_t* codes = w.codes.data + n * columns + g * w.group;
      const float* values = x + g * w.group;
      const float step = w.step[n * groups + g];
      for (std::int64_t i = 0; i < m; ++i) sums[i] += step * dot(w.group, codes, values + i * columns);
    }
    for (std::int64_t i = 0; i < m; ++i) y[i * w.codes.rows + n] = sums[i];
  }
}

bool codes_forward(std::int64_t m, const float* x, ScaledCodes w, float* y) {
  const GemmCodes& q = w.codes;
  if (m < kFewRows) {
    constexpr std::int64_t kRowsPerPart = 64;
#pragma omp parallel for schedule(static) if (m * q.rows * q.columns >= 32768)
    for (std::int64_t n = 0; n < q.rows; n += kRowsPerPart) {
      few_rows_forward(m, x, w, n, n + kRowsPerPart < q.rows ? n + kRowsPerPart : q.rows, y);
    }
    return true;
  }
  const CodesTransposedAsFp32 source{q.data, q.columns, w.step, q.columns / w.group, group_bits(w)};
  return multiply<Fp32, true>({m, q.rows, q.columns}, {units_of(x), q.columns, 1}, source, {y, q.rows, false, nullptr, nullptr});
}

bool codes_input_gradient(std::int64_t m, const float* dy, ScaledCodes w, float* dx, bool accumulate) {
  const GemmCodes& q = w.codes;
  const CodeRowsAsFp32 source{q.data, q.columns, w.step, q.columns / w.group, group_bits(w)};
  return multiply<Fp32, true>({m, q.columns, q.rows}, {units_of(dy), q.rows, 1}, source, {dx, q.columns, accumulate, nullptr, nullptr});
}

// dw [n, m] (+)= dy^T x, rows of x as x.value() gives them.
template <class RowsAsFp32>
bool bf16_weight_gradient(std::int64_t rows, std::int64_t n, std::int64_t m, const float* dy, const RowsAsFp32& x, const OutputC& out) {
  const RowsAsBf16<RowsAsFp32> source{x, rows};
  const Shape shape{n, m, ceil_div(rows, 2)};
  const std::int64_t stride = quantized_row_stride(rows) / 2;
  const Scratch rounded(n * (kInTiles<Bf16> ? stride : shape.units));
  if (rounded.data() == nullptr) return false;
  if constexpr (kInTiles<Bf16>) {  // which want what is summed over in rows
    pair_rows_transposed(rows, n, dy, stride, rounded.data());
    return multiply<Bf16, true>(shape, {rounded.data(), stride, 1}, source, out);
  } else {
    pair_rows(rows, n, dy, rounded.data());
    return multiply<Bf16, false>(shape, {rounded.data(), 1, n}, source, out);
  }
}

template <class RowsAsFp32>
bool int12_weight_gradient(std::int64_t rows, std::int64_t n, std::int64_t m, const float* dy, const RowsAsFp32& x, OutputC out) {
  const Shape shape{n, m, ceil_div(rows, 2)};
  const Scratch rounded(n * shape.units);
  const Scratch scale(n * ceil_div(rows, int12_block(rows)));
  if (rounded.data() == nullptr || scale.data() == nullptr) return false;
  out.row_scale = floats_of(scale.data());
  round_columns(rows, n, dy, rounded.data(), floats_of(scale.data()));
  return multiply<Int12, false>(shape, {rounded.data(), 1, n}, ColumnsAsInt12<RowsAsFp32>{x, rows}, out);
}

template <class RowsAsFp32>
bool weight_gradient_of(GradientArithmetic arithmetic, std::int64_t rows, std::int64_t n, std::int64_t m, const float* dy,
                        const RowsAsFp32& x, float* dw, bool accumulate) {
  const OutputC out{dw, m, accumulate, nullptr, nullptr};
  switch (arithmetic) {
    case GradientArithmetic::kBf16:
      return bf16_weight_gradient(rows, n, m, dy, x, out);
    case GradientArithmetic::kInt12:
      return int12_weight_gradient(rows, n, m, dy, x, out);
    case GradientArithmetic::kFp32:
      break;
  }
  return multiply<Fp32, false>({n, m, rows}, {units_of(dy), 1, n}, x, out);
}

bool weight_gradient(GradientArithmetic arithmetic, std::int64_t rows, std::int64_t n, std::int64_t m, const float* dy, const float* x,
                     float* dw, bool accumulate) {
  return weight_gradient_of(arithmetic, rows, n, m, dy, Fp32Rows{x, m}, dw, accumulate);
}

bool integer_weight_gradient(GradientArithmetic arithmetic, std::int64_t rows, std::int64_t n, std::int64_t m, const float* dy,
                             QuantizedRows x, float* dw, bool accumulate) {
  return weight_gradient_of(arithmetic, rows, n, m, dy, Int16RowsAsFp32{x.codes, x.ld, x.scale}, dw, accumulate);
}

bool byte_weight_gradient(GradientArithmetic arithmetic, std::int64_t rows, std::int64_t n, std::int64_t m, const float* dy, ByteRows x,
                          float* dw, bool accumulate) {
  return weight_gradient_of(arithmetic, rows, n, m, dy, ByteRowsAsFp32{x.codes, x.ld, x.scale}, dw, accumulate);
}

// dx [rows, m] (+)= dy w.
bool input_gradient(GradientArithmetic arithmetic, std::int64_t rows, std::int64_t n, std::int64_t m, const float* dy, const float* w,
                    float* dx, bool accumulate) {
  OutputC out{dx, m, accumulate, nullptr, nullptr};
  if (arithmetic == GradientArithmetic::kFp32) {
    return multiply<Fp32, true>({rows, m, n}, {units_of(dy), n, 1}, Fp32Rows{w, m}, out);
  }
  const Shape shape{rows, m, ceil_div(n, 2)};
  const std::int64_t stride = quantized_row_stride(n) / 2;
  const Scratch rounded(rows * stride);
  if (rounded.data() == nullptr) return false;
  const UnitsA a{rounded.data(), stride, 1};
  if (arithmetic == GradientArithmetic::kBf16) {
    pair_columns(rows, n, dy, stride, rounded.data());
    return multiply<Bf16, true>(shape, a, RowsAsBf16<Fp32Rows>{{w, m}, n}, out);
  }
  const Scratch scale(rows * ceil_div(n, int12_block(n)));
  if (scale.data() == nullptr) return false;
  out.row_scale = floats_of(scale.data());
  round_row_blocks(rows, n, dy, 2 * stride, shorts_of(rounded.data()), floats_of(scale.data()));
  return multiply<Int12, true>(shape, a, ColumnsAsInt12<Fp32Rows>{{w, m}, n}, out);
}

// a b with a's rows of 16-bit integers and a weight's codes, where Int16 and bytes read these from the same data.
template <class CodesInPairs, class CodesInFours>
bool multiply_integers(std::int64_t m, std::int64_t n, std::int64_t k, QuantizedRows a, const CodesInPairs& pairs,
                       const CodesInFours& fours, const OutputC& c) {
  if constexpr (kInTiles<Digits>) {
    static_cast<void>(pairs);
    const std::int64_t half = byte_row_stride(k);
    const Scratch digits(m * half / 2);
    if (digits.data() == nullptr) return false;
    auto* const bytes = static_cast<std::uint8_t*>(static_cast<void*>(digits.data()));
#pragma omp parallel for schedule(static) if (m * k >= 32768)
    for (std::int64_t i = 0; i < m; ++i) split_digits(k, a.codes + i * a.ld, half, bytes + 2 * i * half);
    return multiply<Digits, true>({m, n, ceil_div(k, 4)}, {digits.data(), half / 2, 1}, fours, c);
  } else {
    static_cast<void>(fours);
    return multiply<Int16, true>({m, n, ceil_div(k, 2)}, {units_of(a.codes), a.ld / 2, 1}, pairs, c);
  }
}

bool integer_forward(std::int64_t m, QuantizedRows x, GemmCodes q, const float* column_scale, float* y, std::int64_t ldy, bool accumulate) {
  return multiply_integers(m, q.rows, q.columns, x, CodesTransposed{q.data, q.columns, q.columns},
                           CodesTransposedAsBytes{q.data, q.columns, q.columns}, {y, ldy, accumulate, x.scale, column_scale});
}

bool integer_input_gradient(std::int64_t m, QuantizedRows dy, GemmCodes q, float* dx, std::int64_t ldx, bool accumulate) {
  return multiply_integers(m, q.columns, q.rows, dy, CodeRows{q.data, q.columns, q.rows}, CodeRowsAsBytes{q.data, q.columns, q.rows},
                           {dx, ldx, accumulate, dy.scale, nullptr});
}

// Units for products of bytes, in multiples of those that are taken at once. Rows of activations are padded, codes beyond k count as zeros.
std::int64_t byte_units(std::int64_t k) { return ceil_div(k, 4 * kUnitsInShorts) * kUnitsInShorts; }

bool byte_forward(std::int64_t m, ByteRows x, GemmCodes q, const float* column_scale, float* y, std::int64_t ldy, bool accumulate) {
  return multiply<Int8, true>({m, q.rows, byte_units(q.columns)}, {units_of(x.codes), x.ld / 4, 1},
                              CodesTransposedAsBytes{q.data, q.columns, q.columns}, {y, ldy, accumulate, x.scale, column_scale});
}

bool byte_input_gradient(std::int64_t m, ByteRows dy, GemmCodes q, float* dx, std::int64_t ldx, bool accumulate) {
  return multiply<Int8, true>({m, q.columns, byte_units(q.rows)}, {units_of(dy.codes), dy.ld / 4, 1},
                              CodeRowsAsBytes{q.data, q.columns, q.rows}, {dx, ldx, accumulate, dy.scale, nullptr});
}

#if defined(__AVX512VNNI__)
constexpr bool kHasFastInteger = true;
#else
constexpr bool kHasFastInteger = false;
#endif
constexpr GradientArithmetic kFastGradients = kInTiles<Bf16>    ? GradientArithmetic::kBf16
                                              : kHasFastInteger ? GradientArithmetic::kInt12
                                                                : GradientArithmetic::kFp32;

}  // namespace

extern const GemmKernels gemm_table;
const GemmKernels gemm_table = {.has_fast_integer = kHasFastInteger,
                                .fast_gradients = kFastGradients,
                                .fp32 = fp32,
                                .codes_forward = codes_forward,
                                .codes_input_gradient = codes_input_gradient,
                                .weight_gradient = weight_gradient,
                                .input_gradient = input_gradient,
                                .quantize_rows = quantize_all_rows<AsInt16>,
                                .integer_forward = integer_forward,
                                .integer_input_gradient = integer_input_gradient,
                                .integer_weight_gradient = integer_weight_gradient,
                                .quantize_rows_to_bytes = quantize_all_rows<AsByte>,
                                .byte_forward = byte_forward,
                                .byte_input_gradient = byte_input_gradient,
                                .byte_weight_gradient = byte_weight_gradient};

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
