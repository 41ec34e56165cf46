// Statistics and error search from which scales start. Arrays as in ref/fake_quantize.h: dense [rows, columns], one scale per row, OpenMP
// threads share rows, results do not depend on their number, nothing throws. T is float or double.
#pragma once

#include <cstdint>

#include "stableqat/kernels/quant_rule.h"

namespace stableqat::kernels {

// Per row max|w| and mean|w|, [rows] each; not finite where the row holds NaN or infinity.
template <class T>
void row_magnitudes(std::int64_t rows, std::int64_t columns, const T* weight, T* max_abs, T* mean_abs);

// scale[row] on entry: the largest candidate; on return: the scale of smallest squared error sum (w - w_q)^2 found among
// scale * k / candidates, k = 1..candidates, improved by up to 8 rounds of least squares for fixed codes, which never raise the error.
// The search itself multiplies by 1 / scale where quantization divides.
template <class T>
void search_scale(const QuantRule& rule, std::int64_t rows, std::int64_t columns, const T* weight, int candidates, T* scale);

}  // namespace stableqat::kernels
