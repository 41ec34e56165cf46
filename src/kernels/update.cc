#include "stableqat/kernels/update.h"

#include <numeric>
#include <vector>

#include "kernels/isa_table.h"

namespace stableqat::kernels {

STABLEQAT_DECLARE_ISA_TABLES(UpdateKernels<float>, update_table_float)
STABLEQAT_DECLARE_ISA_TABLES(UpdateKernels<double>, update_table_double)

template <>
const UpdateKernels<float>& update_kernels<float>(Isa isa) {
  return STABLEQAT_ISA_TABLE(update_table_float, isa);
}

template <>
const UpdateKernels<double>& update_kernels<double>(Isa isa) {
  return STABLEQAT_ISA_TABLE(update_table_double, isa);
}

namespace {

// Added in order, whatever the number of threads that made them.
double sum(const std::vector<double>& terms) { return std::accumulate(terms.begin(), terms.end(), 0.0); }

}  // namespace

template <class T>
SurrogateSums surrogate_sums(const QuantRule& rule, const QuantizedArrays<T>& arrays, double scale_factor, T* scale_gradient, Isa isa) {
  const auto rows = static_cast<std::size_t>(arrays.rows);
  std::vector<double> squares(rows);
  std::vector<double> alpha_terms(rule.is_soft ? rows : 0);
  update_kernels<T>(isa).surrogate_sums(rule, arrays, scale_factor, squares.data(), scale_gradient, alpha_terms.data());
  return {sum(squares), sum(alpha_terms)};
}

template <class T>
double sum_of_squares(std::int64_t count, const T* values, Isa isa) {
  std::vector<double> squares(static_cast<std::size_t>((count + kSquaresBlock - 1) / kSquaresBlock));
  update_kernels<T>(isa).squares(count, values, squares.data());
  return sum(squares);
}

#define STABLEQAT_INSTANTIATE(T)                                                                          \
  template SurrogateSums surrogate_sums<T>(const QuantRule&, const QuantizedArrays<T>&, double, T*, Isa); \
  template double sum_of_squares<T>(std::int64_t, const T*, Isa);
STABLEQAT_INSTANTIATE(float)
STABLEQAT_INSTANTIATE(double)
#undef STABLEQAT_INSTANTIATE

}  // namespace stableqat::kernels
