// The fused optimizer step against the reference kernels followed by AdamW, element by element: the same bits for every quantizer,
// surrogate, size, instruction set and number of threads.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "quant_settings.h"
#include "stableqat/base/half.h"
#include "stableqat/kernels/ref/fake_quantize.h"
#include "stableqat/kernels/update.h"

namespace stableqat::kernels {
namespace {

using stableqat::testing::all_quant_settings;
using stableqat::testing::QuantSetting;

constexpr AdamWRule kAdamW{.gradient_factor = 0.7,
                           .decay_factor = 0.999,
                           .beta1 = 0.9,
                           .beta2 = 0.99,
                           .root_correction2 = 0.31,
                           .epsilon = 1e-8,
                           .step_size = 2e-3};
constexpr double kScaleFactor = 0.0125;

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : kAllIsas) {
    if (isa <= best_isa()) isas.push_back(isa);
  }
  return isas;
}

// Numbers in [-1, 1).
template <class T>
std::vector<T> draw(std::uint64_t seed, std::int64_t count, double magnitude) {
  std::vector<T> values(static_cast<std::size_t>(count));
  for (T& value : values) {
    seed = seed * 6364136223846793005U + 1442695040888963407U;
    value = static_cast<T>(magnitude * (static_cast<double>(seed >> 11) / 0x1p52 - 1.0));
  }
  return values;
}

// The sum of squares in higher precision, and how far ours may be from it: a square and its run of eight additions are rounded to T, half a
// unit each, and every addition that follows to double.
struct Squares {
  template <class T>
  explicit Squares(const std::vector<T>& values) {
    long double exact = 0;
    for (const T value : values) exact += static_cast<long double>(value) * value;
    sum = static_cast<double>(exact);
    const double roundings =
        4.5 * std::numeric_limits<T>::epsilon() + 0.5 * static_cast<double>(values.size()) * std::numeric_limits<double>::epsilon();
    tolerance = roundings * sum;
  }
  double sum;
  double tolerance;
};

template <class T>
struct Arrays {
  Arrays(std::int64_t row_count, std::int64_t column_count)
      : rows(row_count),
        columns(column_count),
        weight(draw<T>(1, rows * columns, 0.1)),
        gradient(draw<T>(2, rows * columns, 0.5)),
        first(draw<T>(3, rows * columns, 0.1)),
        second(draw<T>(4, rows * columns, 0.2)),
        scale(draw<T>(5, rows, 0.01)),
        new_scale(draw<T>(6, rows, 0.01)),
        scale_gradient(scale.size()),
        codes(weight.size(), 1),
        dequantized(weight.size()) {
    for (T& value : second) value *= value;
    for (T& value : scale) value += T(0.025);
    for (T& value : new_scale) value += T(0.025);
  }

  QuantizedArrays<T> quantized() { return {rows, columns, weight.data(), gradient.data(), scale.data(), T(0.3)}; }

  // By the plain kernels. Returns the mapped gradient.
  std::vector<T> update_ref(const QuantRule& rule) {
    std::vector<T> mapped(weight.size());
    surrogate_backward_ref<T>(rule, rows, columns, weight.data(), scale.data(), T(0.3), kScaleFactor, gradient.data(), mapped.data(),
                              scale_gradient.data(), &alpha_gradient);
    const AdamWElement<T> adamw(kAdamW);
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = adamw.step(weight[i], mapped[i], first[i], second[i]);
    counts = fake_quantize_ref<T>(rule, rows, columns, weight.data(), new_scale.data(), codes.data(), dequantized.data());
    gradient.assign(gradient.size(), T(0));
    return mapped;
  }

  // By the fused ones.
  void update(const QuantRule& rule, Isa isa, bool dequantize = true) {
    sums = surrogate_sums<T>(rule, quantized(), kScaleFactor, scale_gradient.data(), isa);
    alpha_gradient = static_cast<T>(sums.alpha);
    T* values = dequantize ? dequantized.data() : nullptr;
    counts = update_kernels<T>(isa).update_quantized(rule, kAdamW, quantized(),
                                                     {first.data(), second.data(), new_scale.data(), codes.data(), values});
  }

  auto results() const {
    return std::tie(weight, first, second, gradient, scale_gradient, alpha_gradient, codes, dequantized, counts.changed, counts.clipped);
  }

  std::int64_t rows, columns;
  std::vector<T> weight, gradient, first, second, scale, new_scale, scale_gradient;
  std::vector<std::int8_t> codes;
  std::vector<T> dequantized;
  T alpha_gradient = 0;
  SurrogateSums sums;
  QuantizeCounts counts;
};

template <class T>
void expect_equal_to_reference(const QuantSetting& setting, std::int64_t rows, std::int64_t columns, bool fp16_scales) {
  const QuantRule rule =
      QuantizerSpec{.kind = setting.kind, .bits = setting.bits, .surrogate = setting.surrogate, .fp16_scales = fp16_scales}.rule();
  Arrays<T> expected(rows, columns);
  const Squares squares(expected.update_ref(rule));
  ASSERT_GT(expected.counts.changed, 0);
  double squares_plain = 0;
  for (const Isa isa : available_isas()) {
    const std::string what = describe(setting) + ", " + std::to_string(rows) + " x " + std::to_string(columns) + ", " +
                             std::string(isa_name(isa)) + (sizeof(T) == 8 ? ", double" : ", float");
    Arrays<T> found(rows, columns);
    found.update(rule, isa);
    EXPECT_TRUE(found.results() == expected.results()) << what;
    EXPECT_NEAR(found.sums.squares, squares.sum, squares.tolerance) << what;
    if (isa == Isa::kPlain) squares_plain = found.sums.squares;
    EXPECT_EQ(found.sums.squares, squares_plain) << what;

    Arrays<T> without(rows, columns);
    without.update(rule, isa, false);
    without.dequantized = expected.dequantized;
    EXPECT_TRUE(without.results() == expected.results()) << what << ", without dequantized";
  }
}

// Columns: none and some beyond the lanes, short rows that share a tile, and rows longer than a tile.
TEST(UpdateKernels, EqualTheReferenceForEverySettingSizeAndInstructionSet) {
  for (const QuantSetting& setting : all_quant_settings()) {
    for (const std::int64_t columns : {1, 7, 16, 33, 130}) {
      expect_equal_to_reference<float>(setting, 5, columns, true);
      expect_equal_to_reference<double>(setting, 5, columns, false);
    }
    for (const std::int64_t group : {32, 64, 128}) expect_equal_to_reference<float>(setting, 67, group, true);
    expect_equal_to_reference<float>(setting, 2, 2075, false);
  }
}

TEST(UpdateKernels, QuantizeEqualsTheReference) {
  for (const QuantSetting& setting : all_quant_settings()) {
    const QuantRule rule = QuantizerSpec{.kind = setting.kind, .bits = setting.bits}.rule();
    for (const std::int64_t columns : {5, 32, 100, 2075}) {
      Arrays<float> expected(9, columns);
      const QuantizeCounts counts = fake_quantize_ref<float>(rule, 9, columns, expected.weight.data(), expected.scale.data(),
                                                             expected.codes.data(), expected.dequantized.data());
      for (const Isa isa : available_isas()) {
        Arrays<float> found(9, columns);
        const QuantizeCounts same = update_kernels<float>(isa).quantize(rule, 9, columns, found.weight.data(), found.scale.data(),
                                                                        found.codes.data(), found.dequantized.data());
        EXPECT_TRUE(found.codes == expected.codes && found.dequantized == expected.dequantized) << describe(setting) << " " << columns;
        EXPECT_EQ(same.changed, counts.changed);
        EXPECT_EQ(same.clipped, counts.clipped);
      }
    }
  }
}

TEST(UpdateKernels, GiveTheSameBitsForAnyNumberOfThreads) {
  const int threads = omp_get_max_threads();
  for (const QuantizerKind kind : {QuantizerKind::kLsq, QuantizerKind::kDsq}) {
    for (const std::int64_t columns : {32, 1000}) {
      const QuantRule rule = QuantizerSpec{.kind = kind, .bits = 4}.rule();
      omp_set_num_threads(1);
      Arrays<float> expected(100000 / columns, columns);
      const double squares = sum_of_squares<float>(100000, expected.weight.data());
      expected.update(rule, active_isa());
      for (const int count : {2, 3}) {
        omp_set_num_threads(count);
        Arrays<float> found(100000 / columns, columns);
        EXPECT_EQ(sum_of_squares<float>(100000, found.weight.data()), squares);
        found.update(rule, active_isa());
        EXPECT_TRUE(found.results() == expected.results()) << count << " threads";
        EXPECT_EQ(found.sums.squares, expected.sums.squares);
      }
    }
  }
  omp_set_num_threads(threads);
}

template <class T>
void expect_plain_equal_to_reference(std::int64_t count) {
  Arrays<T> expected(1, count);
  const AdamWElement<T> adamw(kAdamW);
  const Squares squares(expected.gradient);
  for (std::size_t i = 0; i < expected.weight.size(); ++i) {
    expected.weight[i] = adamw.step(expected.weight[i], expected.gradient[i], expected.first[i], expected.second[i]);
  }
  expected.gradient.assign(expected.gradient.size(), T(0));
  for (const Isa isa : available_isas()) {
    Arrays<T> found(1, count);
    const double same_squares = sum_of_squares<T>(count, found.gradient.data(), isa);
    EXPECT_NEAR(same_squares, squares.sum, squares.tolerance) << isa_name(isa);
    EXPECT_EQ(same_squares, sum_of_squares<T>(count, found.gradient.data(), Isa::kPlain)) << isa_name(isa);
    update_kernels<T>(isa).update_plain(kAdamW, count, found.weight.data(), found.gradient.data(), found.first.data(), found.second.data());
    EXPECT_TRUE(found.results() == expected.results()) << isa_name(isa) << ", " << count;
  }
}

TEST(UpdateKernels, PlainTensorsEqualTheReference) {
  for (const std::int64_t count : {1, 15, 16, 100, 4096, 4097, 40000}) {
    expect_plain_equal_to_reference<float>(count);
    expect_plain_equal_to_reference<double>(count);
  }
}

// Moments in bfloat16: the same element by element, whatever the instruction set, and whichever rows of the tensor are given.
TEST(UpdateKernels, ShortMomentsEqualTheReference) {
  AdamWRule adamw = kAdamW;
  adamw.seed = 77;
  adamw.first_element = 5000;
  const AdamWElement<float> element(adamw);
  const auto shortened = [](const std::vector<float>& values) {
    std::vector<std::uint16_t> bits(values.size());
    float_to_bfloat16(values, bits);
    return bits;
  };
  for (const QuantizerKind kind : {QuantizerKind::kLsq, QuantizerKind::kDsq}) {
    const QuantRule rule = QuantizerSpec{.kind = kind, .bits = 3}.rule();
    for (const std::int64_t columns : {7, 130, 2075}) {
      Arrays<float> expected(5, columns);
      std::vector<std::uint16_t> first = shortened(expected.first);
      std::vector<std::uint16_t> second = shortened(expected.second);
      const std::vector<std::uint16_t> first_before = first;
      const std::vector<std::uint16_t> second_before = second;
      Arrays<float> mapped = expected;
      const std::vector<float> gradient = mapped.update_ref(rule);
      for (std::size_t i = 0; i < first.size(); ++i) {
        expected.weight[i] = element.step(expected.weight[i], gradient[i], first[i], second[i], static_cast<std::uint32_t>(i));
      }
      ASSERT_NE(second, second_before);
      const std::vector<float> plain_gradient = expected.gradient;
      for (const Isa isa : available_isas()) {
        Arrays<float> found(5, columns);
        std::vector<std::uint16_t> found_first = first_before;
        std::vector<std::uint16_t> found_second = second_before;
        update_kernels<float>(isa).update_quantized_bf16(
            rule, adamw, found.quantized(),
            {found_first.data(), found_second.data(), found.new_scale.data(), found.codes.data(), found.dequantized.data()});
        EXPECT_TRUE(found.weight == expected.weight && found_first == first && found_second == second) << isa_name(isa) << ", " << columns;
        EXPECT_EQ(found.gradient, std::vector<float>(found.gradient.size(), 0.0F));

        // The last two rows alone.
        Arrays<float> part(5, columns);
        const auto skipped = static_cast<std::size_t>(3 * columns);
        found_first = first_before;
        found_second = second_before;
        AdamWRule of_part = adamw;
        of_part.first_element += 3 * columns;
        QuantizedArrays<float> rows = part.quantized();
        rows.rows = 2;
        rows.weight += skipped;
        rows.gradient += skipped;
        rows.scale += 3;
        update_kernels<float>(isa).update_quantized_bf16(
            rule, of_part, rows,
            {found_first.data() + skipped, found_second.data() + skipped, part.new_scale.data() + 3, part.codes.data() + skipped, nullptr});
        EXPECT_TRUE(std::equal(second.begin() + static_cast<std::ptrdiff_t>(skipped), second.end(),
                               found_second.begin() + static_cast<std::ptrdiff_t>(skipped)))
            << isa_name(isa);

        Arrays<float> plain(5, columns);
        found_first = first_before;
        found_second = second_before;
        std::vector<float> value = plain.weight;
        std::vector<std::uint16_t> plain_first = first_before;
        std::vector<std::uint16_t> plain_second = second_before;
        for (std::size_t i = 0; i < value.size(); ++i) {
          value[i] = element.step(value[i], plain_gradient[i], plain_first[i], plain_second[i], static_cast<std::uint32_t>(i));
        }
        update_kernels<float>(isa).update_plain_bf16(adamw, 5 * columns, plain.weight.data(), plain.gradient.data(), found_first.data(),
                                                     found_second.data());
        EXPECT_TRUE(plain.weight == value && found_first == plain_first && found_second == plain_second) << isa_name(isa);
      }
    }
  }
}

// Division by a row's scale is composed of other operations on AVX-512: many quotients, and those that are infinite or no number. In a row
// one gradient is 1, so that the sum of its scale gradients is code - x.
TEST(UpdateKernels, QuotientsAreThoseOfDivision) {
  constexpr std::int64_t kRows = 4096;
  constexpr std::int64_t kColumns = 16;
  const QuantRule rule = QuantizerSpec{.kind = QuantizerKind::kLsq, .bits = 8, .fp16_scales = false}.rule();
  Arrays<float> arrays(kRows, kColumns);
  constexpr float kLargest = std::numeric_limits<float>::max();
  const float ends[] = {INFINITY, -INFINITY, NAN, kLargest, -kLargest, 1e34F, 0.0F, -0.0F, 1e-30F};
  for (std::size_t i = 0; i < std::size(ends); ++i) arrays.weight[16 * i + i] = ends[i];
  for (std::size_t row = 0; row < kRows; ++row) {
    for (std::size_t j = 0; j < kColumns; ++j) arrays.gradient[row * kColumns + j] = row % kColumns == j ? 1.0F : 0.0F;
  }
  for (const Isa isa : available_isas()) {
    surrogate_sums<float>(rule, arrays.quantized(), 1.0, arrays.scale_gradient.data(), isa);
    for (std::size_t row = 0; row < kRows; ++row) {
      const float x = arrays.weight[row * kColumns + row % kColumns] / arrays.scale[row];
      const float code = std::isnan(x) ? -128.0F : std::nearbyint(std::clamp(x, -128.0F, 127.0F));
      const float expected = x >= -128.0F && x <= 127.0F ? code - x : code;
      ASSERT_EQ(arrays.scale_gradient[row], expected) << isa_name(isa) << ", row " << row << ": " << x;
    }
  }
}

TEST(UpdateKernels, SumsShowAGradientThatIsNotFinite) {
  for (const QuantSetting& setting : all_quant_settings()) {
    const QuantRule rule = QuantizerSpec{.kind = setting.kind, .bits = setting.bits, .surrogate = setting.surrogate}.rule();
    for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      for (const std::size_t position : {std::size_t{0}, std::size_t{40}}) {
        Arrays<float> arrays(2, 41);
        arrays.gradient[position] = bad;
        const SurrogateSums sums = surrogate_sums<float>(rule, arrays.quantized(), kScaleFactor, arrays.scale_gradient.data());
        EXPECT_FALSE(std::isfinite(sums.squares + arrays.scale_gradient[0])) << describe(setting) << ", position " << position;
      }
    }
  }
  EXPECT_FALSE(std::isfinite(sum_of_squares<float>(3, std::vector<float>{0.0F, std::nanf(""), 1.0F}.data())));
  EXPECT_EQ(sum_of_squares<float>(0, nullptr), 0.0);
}

}  // namespace
}  // namespace stableqat::kernels
