#include "stableqat/kernels/gemm.h"

#include <omp.h>

#include <cstdlib>

#include "kernels/cpu/gemm_amx.h"
#include "kernels/cpu/gemm_bytes.h"
#include "kernels/cpu/gemm_micro.h"
#include "kernels/cpu/gemm_pack.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {
namespace {

// Units of k taken in one go: kGemmDepth terms; fp32 takes half of them.
template <class Type>
constexpr std::int64_t kUnitsPerBlock = kGemmDepth / (kIsBytes<Type> ? 4 : 2);
// Blocks are so many units or a multiple: whole vectors, whole groups. Digits: as many terms as with 16-bit integers, for the same sums.
template <class Type>
constexpr std::int64_t kUnitsMultiple = std::is_same_v<Type, Digits> ? 16 : 32;
constexpr std::int64_t kPanelsPerGroup = 256 / kTileColumns;  // packed panels of B kept in the second-level cache: at most 256 KB
constexpr std::int64_t kStripsPerPack = 8;                    // strips of a transposed A packed together: whole cache lines of its rows
constexpr std::size_t kAlignment = 64;

template <class Type>
constexpr std::int64_t kPanelExtra = std::is_same_v<Type, Int8> ? kBytePanelExtra : 0;
// Rows of C in a strip: what one thread takes at a time.
template <class Type>
constexpr std::int64_t kStripRows = kInTiles<Type> ? kTiledRows<Type> : kTileRows;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Memory that the caller of a kernel never sees. Empty when there was none.
class Scratch {
 public:
  explicit Scratch(std::int64_t units)
      : data_(static_cast<std::int32_t*>(
            std::aligned_alloc(kAlignment, (static_cast<std::size_t>(units) * 4 + kAlignment - 1) / kAlignment * kAlignment))) {}
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::int32_t* data() const { return data_; }

 private:
  std::int32_t* data_;
};

// How threads share C: a grid of ranges of strips of rows and of panels.
struct Grid {
  std::int64_t row_parts = 1;
  std::int64_t panel_parts = 1;
};

// Of C [m, n]. Where several share the work alike, the one whose threads read the least of A and B together.
Grid choose_grid(std::int64_t threads, std::int64_t strips, std::int64_t panels, std::int64_t m, std::int64_t n) {
  Grid best;
  std::int64_t best_work = strips * panels;
  std::int64_t best_read = m + n;
  for (std::int64_t row_parts = 1; row_parts <= threads; ++row_parts) {
    const std::int64_t panel_parts = threads / row_parts;
    const std::int64_t work = ceil_div(strips, row_parts) * ceil_div(panels, panel_parts);
    const std::int64_t read = panel_parts * m + row_parts * n;
    if (work < best_work || (work == best_work && read < best_read)) {
      best_work = work;
      best_read = read;
      best = {row_parts, panel_parts};
    }
  }
  return best;
}

struct Range {
  std::int64_t begin;
  std::int64_t end;
};

Range part_of(std::int64_t count, std::int64_t parts, std::int64_t part) { return {count * part / parts, count * (part + 1) / parts}; }

struct Shape {
  std::int64_t m;
  std::int64_t n;
  std::int64_t units;
};

// Any number of rows up to kTileRows, in tiles of kTileRows, 4 and 1: few sizes, because each is a function of its own.
template <class Type, bool kRowMajorA>
void multiply_in_registers(std::int64_t rows, std::int64_t units, UnitsA a, const std::int32_t* b, OutputC c, int columns) {
  const auto take = [&]<int kRows>() {
    if constexpr (kIsBytes<Type> && !kHasByteProducts) {
      multiply_byte_tile<kRows>(units, a, b, c, columns);
    } else {
      multiply_tile<Type, kRows, kRowMajorA>(units, a, b, c, columns);
    }
    a = a.at(kRows, 0);
    c = c.at(kRows, 0);
    rows -= kRows;
  };
  while (rows >= kTileRows) take.template operator()<kTileRows>();
  while (rows >= 4) take.template operator()<4>();
  while (rows > 0) take.template operator()<1>();
}

// Up to a strip's rows times a panel.
template <class Type, bool kRowMajorA>
void multiply_rows(TileShapes& shapes, std::int64_t rows, std::int64_t units, const UnitsA& a, const std::int32_t* b, const OutputC& c,
                   int columns) {
  if constexpr (kInTiles<Type>) {
    static_assert(kRowMajorA);
    multiply_in_tiles<Type>(shapes, static_cast<int>(rows), units, a, b, c, columns);
  } else {
    static_cast<void>(shapes);
    multiply_in_registers<Type, kRowMajorA>(rows, units, a, b, c, columns);
  }
}

// Strips of a transposed A, [strips][units][kTileRows]. A tile would otherwise read each of its units from another page, and rows of a
// length such as the vocabulary's lie in few sets of the caches: none would be there for the next panel.
void pack_strips(std::int64_t rows, std::int64_t units, const UnitsA& a, std::int32_t* packed) {
  const std::int64_t whole = rows / kTileRows;
  const std::int64_t rest = rows % kTileRows;
  for (std::int64_t unit = 0; unit < units; ++unit) {
    const std::int32_t* from = a.data + unit * a.unit_stride;
    std::int32_t* to = packed + unit * kTileRows;
    for (std::int64_t strip = 0; strip < whole; ++strip) {
      __builtin_memcpy(to + strip * units * kTileRows, from + strip * kTileRows, kTileRows * sizeof(std::int32_t));
    }
    for (std::int64_t i = 0; i < rest; ++i) to[whole * units * kTileRows + i] = from[whole * kTileRows + i];
  }
}

// One thread's memory for packed panels of B and strips of A.
struct Packed {
  std::int32_t* panels;
  std::int32_t* strips;
};

// One thread's share of C: packs a group of B's panels, then multiplies all of its rows of A with it.
template <class Type, bool kRowMajorA, class SourceB>
void multiply_range(const Shape& shape, const UnitsA& a, const SourceB& b, const OutputC& c, Range strips, Range panels,
                    std::int64_t units_per_block, const Packed& packed) {
  TileShapes shapes;
  const std::int64_t groups = ceil_div(panels.end - panels.begin, kPanelsPerGroup);
  for (std::int64_t g = 0; g < groups; ++g) {
    const auto [first, last] = part_of(panels.end - panels.begin, groups, g);
    const std::int64_t group = panels.begin + first;
    const std::int64_t group_end = panels.begin + last;
    for (std::int64_t unit = 0; unit < shape.units; unit += units_per_block) {
      const std::int64_t left = unit + units_per_block < shape.units ? units_per_block : shape.units - unit;
      const std::int64_t units = kInTiles<Type> ? whole_tiles(left) : left;
      const std::int64_t panel_size = (units + kPanelExtra<Type>)*kTileColumns;
      const auto columns_of = [&shape](std::int64_t panel) {
        const std::int64_t rest = shape.n - panel * kTileColumns;
        return static_cast<int>(rest < kTileColumns ? rest : kTileColumns);
      };
      for (std::int64_t panel = group; panel < group_end; ++panel) {
        std::int32_t* const target = packed.panels + (panel - group) * panel_size;
        pack_panel(b, unit, left, panel * kTileColumns, columns_of(panel), target);
        for (std::int64_t i = left * kTileColumns; i < units * kTileColumns; ++i) target[i] = 0;
        if constexpr (kPanelExtra < Type >> 0) finish_byte_panel(target, units);
      }
      OutputC out = c;
      out.accumulate = c.accumulate || unit > 0;
      for (std::int64_t strip = strips.begin; strip < strips.end; ++strip) {
        const std::int64_t row = strip * kStripRows<Type>;
        const std::int64_t rows = shape.m - row < kStripRows<Type> ? shape.m - row : kStripRows<Type>;
        UnitsA rows_of_a = a.at(row, unit);
        if constexpr (!kRowMajorA) {
          static_assert(kStripRows<Type> == kTileRows);
          const std::int64_t place = (strip - strips.begin) % kStripsPerPack;
          if (place == 0) {
            const std::int64_t end = strip + kStripsPerPack < strips.end ? (strip + kStripsPerPack) * kTileRows : strips.end * kTileRows;
            pack_strips((end < shape.m ? end : shape.m) - row, units, rows_of_a, packed.strips);
          }
          rows_of_a = {packed.strips + place * units * kTileRows, 1, kTileRows};
        }
        for (std::int64_t panel = group; panel < group_end; ++panel) {
          multiply_rows<Type, kRowMajorA>(shapes, rows, units, rows_of_a, packed.panels + (panel - group) * panel_size,
                                          out.at(row, panel * kTileColumns), columns_of(panel));
        }
      }
    }
  }
}

template <class Type, bool kRowMajorA, class SourceB>
bool multiply(const Shape& shape, const UnitsA& a, const SourceB& b, const OutputC& c) {
  if (shape.m == 0 || shape.n == 0) return true;
  const std::int64_t strips = ceil_div(shape.m, kStripRows<Type>);
  const std::int64_t panels = ceil_div(shape.n, kTileColumns);
  const std::int64_t blocks = ceil_div(shape.units, kUnitsPerBlock<Type>);
  const std::int64_t units_per_block =
      ceil_div(ceil_div(shape.units, blocks > 0 ? blocks : 1), kUnitsMultiple<Type>) * kUnitsMultiple<Type>;
  const bool small = shape.m * shape.n * shape.units < 32768;
  const Grid grid = choose_grid(small ? 1 : omp_get_max_threads(), strips, panels, shape.m, shape.n);
  const std::int64_t threads = grid.row_parts * grid.panel_parts;
  const std::int64_t panels_size = kPanelsPerGroup * kTileColumns * (units_per_block + kPanelExtra<Type>);
  const std::int64_t scratch_size = panels_size + (kRowMajorA ? 0 : kStripsPerPack * kTileRows * units_per_block);
  const Scratch scratch(threads * scratch_size);
  if (scratch.data() == nullptr) return false;
#pragma omp parallel for num_threads(static_cast <int>(threads)) schedule(static, 1) if (threads > 1)
  for (std::int64_t part = 0; part < threads; ++part) {
    multiply_range<Type, kRowMajorA>(shape, a, b, c, part_of(strips, grid.row_parts, part / grid.panel_parts),
                                     part_of(panels, grid.panel_parts, part % grid.panel_parts), units_per_block,
                                     {scratch.data() + part * scratch_size, scratch.data() + part * scratch_size + panels_size});
  }
  return true;
}

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

// dy [rows, n] rounded to bf16, rows in pairs: [units, n], or its transpose with `stride` units a row and zeros behind.
void pair_rows(std::int64_t rows, std::int64_t n, const float* dy, std::int32_t* out) {
  const std::int64_t units = ceil_div(rows, 2);
  const Bf16Rows source{dy, n, rows};
#pragma omp parallel for schedule(static) if (units * n >= 32768)
  for (std::int64_t u = 0; u < units; ++u) {
    std::int32_t* row = out + u * n;
    if (2 * u + 1 < rows) {
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) row[i] = bf16_pair(dy[2 * u * n + i], dy[(2 * u + 1) * n + i]);
    } else {
      for (std::int64_t i = 0; i < n; ++i) row[i] = source.unit(u, i);
    }
  }
}

void pair_rows_transposed(std::int64_t rows, std::int64_t n, const float* dy, std::int64_t stride, std::int32_t* out) {
  const std::int64_t units = ceil_div(rows, 2);
  const Bf16Rows source{dy, n, rows};
#pragma omp parallel for schedule(static) if (units * n >= 32768)
  for (std::int64_t column = 0; column < n; column += kWidth) {
    std::int64_t u = 0;
    if (column + kWidth <= n) {
      for (; u + kWidth <= rows / 2; u += kWidth) {
        Ints block[kWidth];
        for (int i = 0; i < kWidth; ++i) {
          alignas(64) std::int32_t row[kWidth];
          const float* first = dy + 2 * (u + i) * n + column;
#pragma omp simd
          for (int j = 0; j < kWidth; ++j) row[j] = bf16_pair(first[j], first[n + j]);
          block[i] = load<Ints>(row);
        }
        transpose(block);
        for (int j = 0; j < kWidth; ++j) store(out + (column + j) * stride + u, block[j]);
      }
    }
    for (std::int64_t j = column; j < column + kWidth && j < n; ++j) {
      for (std::int64_t rest = u; rest < stride; ++rest) out[j * stride + rest] = rest < units ? source.unit(rest, j) : 0;
    }
  }
}

// dw (+)= dy^T x: dy's rows are rounded and paired once, x's as they are packed.
template <class SourceB>
bool multiply_bf16(std::int64_t rows, std::int64_t n, std::int64_t m, const float* dy, const SourceB& x, float* dw, bool accumulate) {
  const Shape shape{n, m, ceil_div(rows, 2)};
  const OutputC out{dw, m, accumulate, nullptr, nullptr};
  const std::int64_t stride = quantized_row_stride(rows) / 2;
  const Scratch rounded(n * (kInTiles<Bf16> ? stride : shape.units));
  if (rounded.data() == nullptr) return false;
  if constexpr (kInTiles<Bf16>) {  // which want what is summed over in rows
    pair_rows_transposed(rows, n, dy, stride, rounded.data());
    return multiply<Bf16, true>(shape, {rounded.data(), stride, 1}, x, out);
  } else {
    pair_rows(rows, n, dy, rounded.data());
    return multiply<Bf16, false>(shape, {rounded.data(), 1, n}, x, out);
  }
}

bool bf16_weight_gradient(std::int64_t rows, std::int64_t n, std::int64_t m, const float* dy, const float* x, float* dw, bool accumulate) {
  return multiply_bf16(rows, n, m, dy, Bf16Rows{x, m, rows}, dw, accumulate);
}

// dx (+)= dy w: dy is rounded and paired along its rows once, w as it is packed.
bool bf16_input_gradient(std::int64_t rows, std::int64_t n, std::int64_t m, const float* dy, const float* w, float* dx, bool accumulate) {
  const std::int64_t units = ceil_div(n, 2);
  const std::int64_t stride = quantized_row_stride(n) / 2;
  const Scratch rounded(rows * stride);
  if (rounded.data() == nullptr) return false;
#pragma omp parallel for schedule(static) if (rows * n >= 32768)
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* row = dy + i * n;
    std::int32_t* out = rounded.data() + i * stride;
#pragma omp simd
    for (std::int64_t u = 0; u < n / 2; ++u) out[u] = bf16_pair(row[2 * u], row[2 * u + 1]);
    if (n % 2 != 0) out[units - 1] = bf16_pair(row[n - 1], 0.0f);
    for (std::int64_t u = units; u < stride; ++u) out[u] = 0;
  }
  return multiply<Bf16, true>({rows, m, units}, {rounded.data(), stride, 1}, Bf16Rows{w, m, n}, {dx, m, accumulate, nullptr, nullptr});
}

template <class RowsAsFp32>
bool rounded_weight_gradient(std::int64_t rows, std::int64_t n, std::int64_t m, const float* dy, const RowsAsFp32& x, float* dw,
                             bool accumulate, bool in_bf16) {
  if (in_bf16) return multiply_bf16(rows, n, m, dy, RowsAsBf16<RowsAsFp32>{x, rows}, dw, accumulate);
  return multiply<Fp32, false>({n, m, rows}, {units_of(dy), 1, n}, x, {dw, m, accumulate, nullptr, nullptr});
}

bool integer_weight_gradient(std::int64_t rows, std::int64_t n, std::int64_t m, const float* dy, QuantizedRows x, float* dw,
                             bool accumulate, bool in_bf16) {
  return rounded_weight_gradient(rows, n, m, dy, Int16RowsAsFp32{x.codes, x.ld, x.scale}, dw, accumulate, in_bf16);
}

bool byte_weight_gradient(std::int64_t rows, std::int64_t n, std::int64_t m, const float* dy, ByteRows x, float* dw, bool accumulate,
                          bool in_bf16) {
  return rounded_weight_gradient(rows, n, m, dy, ByteRowsAsFp32{x.codes, x.ld, x.scale}, dw, accumulate, in_bf16);
}

// The largest magnitude among value(0) .. value(k - 1), NaN if any of them is NaN or infinite. Compared as bits, whose order is that of
// magnitudes.
template <class Value>
float largest_magnitude(std::int64_t k, Value&& value) {
  std::int32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (std::int64_t j = 0; j < k; ++j) {
    const std::int32_t magnitude = bits_of(value(j)) & 0x7fffffff;
    largest = magnitude > largest ? magnitude : largest;
  }
  const float magnitude = std::bit_cast<float>(largest);
  return magnitude + 0.0f * magnitude;
}

// How a row's integers are kept.
struct AsInt16 {
  using Code = std::int16_t;
  static constexpr float kLargest = 32767.0f;
  static constexpr std::int32_t kOffset = 0;
  static std::int64_t stride(std::int64_t k) { return quantized_row_stride(k); }
};
struct AsByte {
  using Code = std::uint8_t;
  static constexpr float kLargest = 127.0f;
  static constexpr std::int32_t kOffset = kByteOffset;
  static std::int64_t stride(std::int64_t k) { return byte_row_stride(k); }
};

template <class As, class Value>
void quantize_row(std::int64_t k, Value&& value, typename As::Code* codes, float* scale) {
  constexpr float kRoundingMagic = 12582912.0f;  // 1.5 * 2^23: adding it leaves no bits for the fraction
  const float largest = largest_magnitude(k, value);
  const std::int64_t stride = As::stride(k);
  if (!(largest >= kSmallestRow)) {
    *scale = 0.0f * largest;  // or NaN
    for (std::int64_t j = 0; j < stride; ++j) codes[j] = As::kOffset;
    return;
  }
  *scale = largest / As::kLargest;
  const float inverse = As::kLargest / largest;
#pragma omp simd
  for (std::int64_t j = 0; j < k; ++j) {
    const float rounded = (value(j) * inverse + kRoundingMagic) - kRoundingMagic;
    codes[j] = static_cast<typename As::Code>(static_cast<std::int32_t>(rounded) + As::kOffset);
  }
  for (std::int64_t j = k; j < stride; ++j) codes[j] = As::kOffset;
}

template <class As>
void quantize_all_rows(std::int64_t m, std::int64_t k, const float* x, std::int64_t ld, const float* column_scale, typename As::Code* codes,
                       float* scale) {
#pragma omp parallel for schedule(static) if (m * k >= 32768)
  for (std::int64_t i = 0; i < m; ++i) {
    const float* row = x + i * ld;
    typename As::Code* out = codes + i * As::stride(k);
    if (column_scale == nullptr) {
      quantize_row<As>(
          k, [row](std::int64_t j) { return row[j]; }, out, scale + i);
    } else {
      quantize_row<As>(
          k, [row, column_scale](std::int64_t j) { return row[j] * column_scale[j]; }, out, scale + i);
    }
  }
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
#if defined(__AVX512BF16__)
constexpr bool kHasFastBf16 = true;
#else
constexpr bool kHasFastBf16 = false;
#endif

}  // namespace

extern const GemmKernels gemm_table;
const GemmKernels gemm_table = {.has_fast_integer = kHasFastInteger,
                                .has_fast_bf16 = kHasFastBf16,
                                .fp32 = fp32,
                                .codes_forward = codes_forward,
                                .codes_input_gradient = codes_input_gradient,
                                .bf16_weight_gradient = bf16_weight_gradient,
                                .bf16_input_gradient = bf16_input_gradient,
                                .quantize_rows = quantize_all_rows<AsInt16>,
                                .integer_forward = integer_forward,
                                .integer_input_gradient = integer_input_gradient,
                                .integer_weight_gradient = integer_weight_gradient,
                                .quantize_rows_to_bytes = quantize_all_rows<AsByte>,
                                .byte_forward = byte_forward,
                                .byte_input_gradient = byte_input_gradient,
                                .byte_weight_gradient = byte_weight_gradient};

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
