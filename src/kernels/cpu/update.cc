#include "stableqat/kernels/update.h"

#include "kernels/lane_sum.h"
#include "kernels/parallel.h"
#include "stableqat/kernels/adamw_math.h"
#include "stableqat/kernels/quant_math.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {
namespace {

// Elements that a thread takes at a time. Rows are cut into pieces of at most so many; short rows are taken several at a time.
constexpr std::int64_t kTile = 1024;

constexpr std::int64_t kPrefetchRun = kRun * kLanes;

std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Writes the codes of a tile, whose elements lie one after another. They arrive as 32-bit integers: loops over values stay free of bytes,
// of which a vector holds four times as many.
class CodeWriter {
 public:
  explicit CodeWriter(std::int8_t* codes) : codes_(codes) {}

  // Room for the next `count` <= kTile codes.
  std::int16_t* next(std::int64_t count) {
    if (waiting_ + count > kTile) flush();
    waiting_ += count;
    return fresh_ + waiting_ - count;
  }

  // Writes what waits. Returns how many codes of the tile changed.
  std::int64_t finish() {
    flush();
    return changed_;
  }

 private:
  void flush() {
    changed_ += replace(waiting_, fresh_, codes_);
    codes_ += waiting_;
    waiting_ = 0;
  }

  static std::int64_t replace(std::int64_t count, const std::int16_t* __restrict fresh, std::int8_t* __restrict codes) {
    std::int16_t changed = 0;
#pragma omp simd reduction(+ : changed)
    for (std::int64_t i = 0; i < count; ++i) {
      changed = static_cast<std::int16_t>(changed + (fresh[i] != codes[i] ? 1 : 0));
      codes[i] = static_cast<std::int8_t>(fresh[i]);
    }
    return changed;
  }

  std::int8_t* codes_;
  std::int64_t waiting_ = 0;
  std::int64_t changed_ = 0;
  alignas(64) std::int16_t fresh_[kTile];
};

// Calls piece(row, begin, count, writer) for all pieces of all rows, `begin` an index into the arrays; it returns the number of clipped
// weights. Threads take tiles of whole rows.
template <class Piece>
QuantizeCounts for_each_piece(std::int64_t rows, std::int64_t columns, std::int8_t* codes, Piece&& piece) {
  const std::int64_t tile_rows = columns < kTile && columns > 0 ? kTile / columns : 1;
  const std::int64_t tiles = (rows + tile_rows - 1) / tile_rows;
  std::int64_t changed = 0;
  std::int64_t clipped = 0;
#pragma omp parallel for schedule(static) if (worth_sharing(rows, columns)) reduction(+ : changed, clipped)
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const std::int64_t first_row = tile * tile_rows;
    const std::int64_t last_row = smaller(first_row + tile_rows, rows);
    CodeWriter writer(codes + first_row * columns);
    for (std::int64_t row = first_row; row < last_row; ++row) {
      for (std::int64_t j = 0; j < columns; j += kTile) clipped += piece(row, row * columns + j, smaller(columns - j, kTile), writer);
    }
    changed += writer.finish();
  }
  return {changed, clipped};
}

// Division by one number of many.
template <class T>
class Divisor {
 public:
  explicit Divisor(T value) : value_(value), inverse_(T(1) / value) {}

  T value() const { return value_; }

  // x / value, rounded once. Where fused multiply-adds are cheaper than a division, the quotient by the inverse is within one unit in the
  // last place and its remainder exact, which one more step turns into the nearest number (Markstein, IBM J. Res. Dev. 34, 1990); for |x| <
  // 2^-102 the last bit may differ.
  T operator()(T x) const {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
      const T quotient = x * inverse_;
      const T nearest = __builtin_fmaf(__builtin_fmaf(-quotient, value_, x), inverse_, quotient);
      return nearest == nearest ? nearest : quotient;  // infinite, or NaN
    }
#endif
    return x / value_;
  }

 private:
  T value_;
  T inverse_;
};

template <class T>
struct RowScale {
  template <Rounding kRounding>
  RowScale(const QuantElement<T, kRounding>& element, T scale) : divisor(element.effective_scale(scale)), step(element.step(scale)) {}
  Divisor<T> divisor;
  T step;
};

// codes and, with kDequantize, dequantized values of count weights. Returns how many are clipped.
template <bool kDequantize, class T, Rounding kRounding>
std::int32_t quantize_piece(QuantElement<T, kRounding> element, RowScale<T> scale, std::int64_t count, const T* __restrict weight,
                            std::int16_t* __restrict codes, T* __restrict dequantized) {
  std::int32_t clipped = 0;
#pragma omp simd reduction(+ : clipped)
  for (std::int64_t j = 0; j < count; ++j) {
    const T x = scale.divisor(weight[j]);
    const T code = element.code(x);
    codes[j] = static_cast<std::int16_t>(code);
    clipped += element.inside(x) ? 0 : 1;
    if constexpr (kDequantize) dequantized[j] = code * scale.step;
  }
  return clipped;
}

template <class T>
QuantizeCounts quantize(const QuantRule& rule, std::int64_t rows, std::int64_t columns, const T* weight, const T* scale, std::int8_t* codes,
                        T* dequantized) {
  return with_rounding(rule, [&]<Rounding kRounding>() {
    const QuantElement<T, kRounding> element(rule);
    return for_each_piece(rows, columns, codes, [&](std::int64_t row, std::int64_t begin, std::int64_t count, CodeWriter& writer) {
      const RowScale<T> row_scale(element, scale[row]);
      if (dequantized == nullptr) {
        return quantize_piece<false, T>(element, row_scale, count, weight + begin, writer.next(count), nullptr);
      }
      return quantize_piece<true, T>(element, row_scale, count, weight + begin, writer.next(count), dequantized + begin);
    });
  });
}

struct RowSums {
  double squares;
  double scale;
  double alpha;
};

template <class Surrogate, class T>
RowSums sums_of_row(Surrogate surrogate, std::int64_t columns, const T* weight, const T* gradient, T scale) {
  const Divisor<T> divisor(surrogate.element().effective_scale(scale));
  RunSum<T> squares;
  RunSum<T> scales;
  RunSum<T> alphas;
  for_each_run(
      columns,
      [&](std::int64_t j, int lane) {
        const ElementGradients<T> mapped = surrogate.gradients(divisor(weight[j]), gradient[j]);
        squares.add(lane, mapped.weight * mapped.weight);
        scales.add(lane, mapped.scale);
        if constexpr (Surrogate::kHasAlpha) alphas.add(lane, mapped.alpha);
      },
      [&] {
        squares.end_run();
        scales.end_run();
        if constexpr (Surrogate::kHasAlpha) alphas.end_run();
      },
      weight, gradient);
  return {squares.total(), scales.total(), Surrogate::kHasAlpha ? static_cast<double>(divisor.value()) * alphas.total() : 0.0};
}

template <class T>
void surrogate_sums(const QuantRule& rule, const QuantizedArrays<T>& arrays, double scale_factor, double* squares, T* scale_gradient,
                    double* alpha_terms) {
  const std::int64_t columns = arrays.columns;
  with_surrogate(rule, arrays.alpha, [&](auto surrogate) {
#pragma omp parallel for schedule(static) if (worth_sharing(arrays.rows, columns))
    for (std::int64_t row = 0; row < arrays.rows; ++row) {
      const std::int64_t begin = row * columns;
      const RowSums sums = sums_of_row(surrogate, columns, arrays.weight + begin, arrays.gradient + begin, arrays.scale[row]);
      squares[row] = sums.squares;
      scale_gradient[row] = static_cast<T>(scale_factor * sums.scale);
      if constexpr (decltype(surrogate)::kHasAlpha) alpha_terms[row] = sums.alpha;
    }
  });
}

// Moves `count` elements, from number `first_element` of a tensor's on, and clears their gradients.
template <class T, class Moment>
void move_piece(AdamWElement<T> adamw, std::uint32_t first_element, std::int64_t count, T* __restrict value, T* __restrict gradient,
                Moment* __restrict first, Moment* __restrict second) {
  for (std::int64_t begin = 0; begin < count; begin += kPrefetchRun) {
    prefetch_run(first + begin);
    prefetch_run(second + begin);
    const std::int64_t end = smaller(begin + kPrefetchRun, count);
#pragma omp simd
    for (std::int64_t j = begin; j < end; ++j) {
      if constexpr (sizeof(Moment) == 2) {
        value[j] = adamw.step(value[j], gradient[j], first[j], second[j], first_element + static_cast<std::uint32_t>(j));
      } else {
        value[j] = adamw.step(value[j], gradient[j], first[j], second[j]);
      }
      gradient[j] = T(0);
    }
  }
}

// Maps the gradients of `count` weights in place, then moves the weights and clears the gradients: two loops of short chains of dependent
// operations, which overlap better than a long one.
template <class Surrogate, class T, class Moment>
void step_piece(Surrogate surrogate, AdamWElement<T> adamw, Divisor<T> divisor, std::uint32_t first_element, std::int64_t count,
                T* __restrict weight, T* __restrict gradient, Moment* __restrict first, Moment* __restrict second) {
  for (std::int64_t begin = 0; begin < count; begin += kPrefetchRun) {
    prefetch_run(weight + begin);
    prefetch_run(gradient + begin);
    const std::int64_t end = smaller(begin + kPrefetchRun, count);
#pragma omp simd
    for (std::int64_t j = begin; j < end; ++j) gradient[j] = surrogate.gradients(divisor(weight[j]), gradient[j]).weight;
  }
  move_piece(adamw, first_element, count, weight, gradient, first, second);
}

template <class T, class Moment>
QuantizeCounts update_quantized(const QuantRule& rule, const AdamWRule& adamw, const QuantizedArrays<T>& arrays,
                                const UpdateOutputs<T, Moment>& outputs) {
  const AdamWElement<T> adamw_element(adamw);
  return with_surrogate(rule, arrays.alpha, [&](auto surrogate) {
    const auto element = surrogate.element();
    const auto piece = [&](std::int64_t row, std::int64_t begin, std::int64_t count, CodeWriter& writer) {
      step_piece(surrogate, adamw_element, Divisor<T>(element.effective_scale(arrays.scale[row])), static_cast<std::uint32_t>(begin), count,
                 arrays.weight + begin, arrays.gradient + begin, outputs.first + begin, outputs.second + begin);
      const RowScale<T> scale(element, outputs.scale[row]);
      if (outputs.dequantized == nullptr) {
        return quantize_piece<false, T>(element, scale, count, arrays.weight + begin, writer.next(count), nullptr);
      }
      return quantize_piece<true, T>(element, scale, count, arrays.weight + begin, writer.next(count), outputs.dequantized + begin);
    };
    return for_each_piece(arrays.rows, arrays.columns, outputs.codes, piece);
  });
}

template <class T>
void squares(std::int64_t count, const T* values, double* sums) {
  const std::int64_t blocks = (count + kSquaresBlock - 1) / kSquaresBlock;
#pragma omp parallel for schedule(static) if (worth_sharing(1, count))
  for (std::int64_t block = 0; block < blocks; ++block) {
    const T* begin = values + block * kSquaresBlock;
    const std::int64_t size = smaller(count - block * kSquaresBlock, kSquaresBlock);
    sums[block] = run_sum<T>(
        size, [&](std::int64_t j) { return begin[j] * begin[j]; }, begin);
  }
}

template <class T, class Moment>
void update_plain(const AdamWRule& rule, std::int64_t count, T* value, T* gradient, Moment* first, Moment* second) {
  const AdamWElement<T> adamw(rule);
#pragma omp parallel for schedule(static) if (worth_sharing(1, count))
  for (std::int64_t begin = 0; begin < count; begin += kTile) {
    move_piece(adamw, static_cast<std::uint32_t>(begin), smaller(count - begin, kTile), value + begin, gradient + begin, first + begin,
               second + begin);
  }
}

}  // namespace

#define STABLEQAT_UPDATE_TABLE(T)                                                                                               \
  {                                                                                                                             \
    quantize<T>, surrogate_sums<T>, update_quantized<T, T>, update_quantized<T, std::uint16_t>, squares<T>, update_plain<T, T>, \
        update_plain<T, std::uint16_t>                                                                                          \
  }
extern const UpdateKernels<float> update_table_float = STABLEQAT_UPDATE_TABLE(float);
extern const UpdateKernels<double> update_table_double = STABLEQAT_UPDATE_TABLE(double);
#undef STABLEQAT_UPDATE_TABLE

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
