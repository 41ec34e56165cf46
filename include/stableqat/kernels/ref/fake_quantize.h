// Plain quantization kernels: the definition that faster ones must match. T is float or double.
//
// Arrays are dense and row-major, [rows, columns]; each row has one scale. A weight [N, M] with groups of C columns is the same array with
// rows = N * M / C and columns = C. Work is shared between OpenMP threads by rows; results do not depend on the number of threads.
// Pointers must not be null; outputs may not overlap inputs except where said. The kernels do not throw on any values.
#pragma once

#include <cstdint>

#include "stableqat/kernels/quant_rule.h"

namespace stableqat::kernels {

// weight [rows, columns], scale [rows] (before floor and fp16 rounding) -> codes [rows, columns], dequantized [rows, columns].
// `codes` holds the codes of the previous call on entry, for QuantizeCounts::changed.
template <class T>
QuantizeCounts fake_quantize_ref(const QuantRule& rule, std::int64_t rows, std::int64_t columns, const T* weight, const T* scale,
                                 std::int8_t* codes, T* dequantized);

// The surrogate's backward: gradient of the dequantized weight -> gradients of weight [rows, columns], scale [rows], and alpha [1] (DSQ;
// may be null otherwise). All outputs are overwritten. `scale_factor` multiplies the scale gradient (LSQ's 1 / sqrt(numel * q_max)).
// weight_gradient may be the same array as dequantized_gradient. Sums are taken in double. `alpha` is read for DSQ only.
template <class T>
void surrogate_backward_ref(const QuantRule& rule, std::int64_t rows, std::int64_t columns, const T* weight, const T* scale, T alpha,
                            double scale_factor, const T* dequantized_gradient, T* weight_gradient, T* scale_gradient, T* alpha_gradient);

// steps[i] = distance of neighbouring codes for scale[i] (w_q = code * step); effective[i] = the scale quantization uses. Either may be
// null.
template <class T>
void resolve_scales(const QuantRule& rule, std::int64_t count, const T* scale, T* steps, T* effective);

}  // namespace stableqat::kernels
