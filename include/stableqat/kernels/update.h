// The optimizer step of quantization-aware training in two passes over memory, without a temporary of a weight's size, and quantization
// alone.
//
// Arrays are dense and row-major. A quantized weight is [rows, columns] with one scale per row; [N, M] with groups of C columns is the same
// array with rows = N * M / C and columns = C. T is float or double. OpenMP threads share the work. Results equal, bit for bit, those of
// ref/fake_quantize.h followed by AdamWElement on each element, whatever the instruction set and the number of threads. Pointers must not
// be null unless said so; arrays do not overlap. Nothing throws on any values.
#pragma once

#include <cstdint>

#include "stableqat/kernels/adamw_math.h"
#include "stableqat/kernels/isa.h"
#include "stableqat/kernels/quant_rule.h"

namespace stableqat::kernels {

// A quantized weight after backward.
template <class T>
struct QuantizedArrays {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  T* weight = nullptr;       // [rows, columns], the master
  T* gradient = nullptr;     // [rows, columns], accumulated, of the dequantized weight
  const T* scale = nullptr;  // [rows], that the dequantized weight was made with (before floor and fp16 rounding)
  T alpha = 0;               // likewise; read for DSQ only
};

// What update_quantized changes besides weight and gradient. Moments are of type T, or bfloat16 (std::uint16_t).
template <class T, class Moment = T>
struct UpdateOutputs {
  Moment* first = nullptr;       // [rows, columns], Adam's moments
  Moment* second = nullptr;      // [rows, columns]
  const T* scale = nullptr;      // [rows], to quantize with
  std::int8_t* codes = nullptr;  // [rows, columns], the previous ones on entry
  T* dequantized = nullptr;      // [rows, columns] or null
};

// Values per sum that UpdateKernels::squares writes.
inline constexpr std::int64_t kSquaresBlock = 4096;

template <class T>
struct UpdateKernels {
  // weight [rows, columns], scale [rows] -> codes and, unless null, dequantized. As fake_quantize_ref.
  QuantizeCounts (*quantize)(const QuantRule& rule, std::int64_t rows, std::int64_t columns, const T* weight, const T* scale,
                             std::int8_t* codes, T* dequantized);

  // Pass one, see surrogate_sums() below. squares [rows] and alpha_terms [rows] (null unless DSQ) are its sums by rows.
  void (*surrogate_sums)(const QuantRule& rule, const QuantizedArrays<T>& arrays, double scale_factor, double* squares, T* scale_gradient,
                         double* alpha_terms);

  // Pass two: maps the gradient again, moves weight and moments, quantizes with the new scale, and sets the gradient to zero.
  QuantizeCounts (*update_quantized)(const QuantRule& rule, const AdamWRule& adamw, const QuantizedArrays<T>& arrays,
                                     const UpdateOutputs<T>& outputs);
  QuantizeCounts (*update_quantized_bf16)(const QuantRule& rule, const AdamWRule& adamw, const QuantizedArrays<T>& arrays,
                                          const UpdateOutputs<T, std::uint16_t>& outputs);

  // Both passes for a tensor that is not quantized, [count]. squares [ceil(count / kSquaresBlock)]: of each block of values.
  void (*squares)(std::int64_t count, const T* values, double* squares);
  // Moves value and moments, sets the gradient to zero.
  void (*update_plain)(const AdamWRule& adamw, std::int64_t count, T* value, T* gradient, T* first, T* second);
  void (*update_plain_bf16)(const AdamWRule& adamw, std::int64_t count, T* value, T* gradient, std::uint16_t* first, std::uint16_t* second);
};

// Built for plain, avx2 and avx512. Thread-safe.
template <class T>
const UpdateKernels<T>& update_kernels(Isa isa = active_isa());

struct SurrogateSums {
  double squares = 0;  // of the mapped gradient of the weight; not finite when a gradient is not, or beyond the square root of T's range
  double alpha = 0;    // gradient of alpha; 0 unless DSQ
};

// Pass one: maps the gradient by the surrogate, as surrogate_backward_ref, but keeps sums only. scale_gradient [rows] is overwritten with
// scale_factor times the sums.
template <class T>
SurrogateSums surrogate_sums(const QuantRule& rule, const QuantizedArrays<T>& arrays, double scale_factor, T* scale_gradient,
                             Isa isa = active_isa());

// Sum of squares of values [count]; not finite when a value is not, or beyond the square root of T's range.
template <class T>
double sum_of_squares(std::int64_t count, const T* values, Isa isa = active_isa());

}  // namespace stableqat::kernels
