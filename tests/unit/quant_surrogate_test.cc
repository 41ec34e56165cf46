// Closed forms of the paper (sections 2 and 4) and limits of the surrogate's settings.
#include "stableqat/quant/surrogate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/kernels/quant_math.h"
#include "stableqat/kernels/ref/fake_quantize.h"
#include "stableqat/quant/quantizer_spec.h"

namespace stableqat {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr double kSqrt2 = std::numbers::sqrt2;

struct Moments {
  double mean = 0;
  double variance = 0;
};

// g at the midpoints of `per_cell` equal parts of every unit of the clipping range [q_min, q_max], by the kernels.
std::vector<double> slopes_over_range(const QuantizerSpec& spec, int per_cell, double alpha = 0.2) {
  const std::int64_t count = std::int64_t{per_cell} * (q_max(spec.bits) - q_min(spec.bits));
  std::vector<double> x(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = q_min(spec.bits) + (static_cast<double>(i) + 0.5) / per_cell;
  const std::vector<double> ones(x.size(), 1.0);
  std::vector<double> slopes(x.size());
  const double scale = 1.0;
  double scale_gradient = 0;
  double alpha_gradient = 0;
  kernels::surrogate_backward_ref(spec.rule(), 1, count, x.data(), &scale, alpha, 1.0, ones.data(), slopes.data(), &scale_gradient,
                                  &alpha_gradient);
  return slopes;
}

Moments moments(const std::vector<double>& values) {
  Moments result;
  for (const double v : values) result.mean += v / static_cast<double>(values.size());
  for (const double v : values) result.variance += (v - result.mean) * (v - result.mean) / static_cast<double>(values.size());
  return result;
}

TEST(Surrogate, LiesBetweenGridPointAndThresholdValues) {
  const double a = 0.21 * kSqrt2 * kPi;
  const Surrogate surrogate = Surrogate::fourier(0.21);
  EXPECT_DOUBLE_EQ(surrogate.slope(0.0), (1 - a) / (1 + a));
  EXPECT_NEAR(surrogate.slope(0.5), 1.0, 1e-15);
  for (const double g : slopes_over_range({.bits = 3, .surrogate = surrogate, .fp16_scales = false}, 1001)) {
    EXPECT_GE(g, (1 - a) / (1 + a) - 1e-15);
    EXPECT_LE(g, 1.0 + 1e-15);
  }
}

TEST(Surrogate, MomentsReachTheLimitsOfTheorem42) {
  const Surrogate surrogate = Surrogate::fourier(Surrogate::kAmplitudeLimit * (1 - 1e-12));
  for (const int bits : {2, 3, 4}) {
    const Moments found = moments(slopes_over_range({.bits = bits, .surrogate = surrogate, .fp16_scales = false}, 4096));
    // The midpoint rule is off by h^2 / 24 times the change over a cell of g' (4 pi) and of (g^2)' (8 pi).
    const double tolerance = 8 * kPi / (24.0 * 4096 * 4096) + 1e-11;
    EXPECT_NEAR(found.mean, 4 / kPi - 1, tolerance) << bits;
    EXPECT_NEAR(found.variance, 16 / (3 * kPi) - 16 / (kPi * kPi), tolerance) << bits;
  }
}

TEST(Surrogate, DsqHasMeanOneAndAVarianceThatGrowsAsAlphaVanishes) {
  const QuantizerSpec spec{.kind = QuantizerKind::kDsq, .bits = 3, .fp16_scales = false};
  double previous = 0;
  for (const double alpha : {0.5, 0.2, 0.05, 0.01}) {
    const Moments found = moments(slopes_over_range(spec, 4096, alpha));
    EXPECT_NEAR(found.mean, 1.0, 1e-5) << alpha;
    EXPECT_GT(found.variance, 1.5 * previous) << alpha;
    previous = found.variance;
  }
}

constexpr double kVanillaAmplitude = 2 * kSqrt2 / (kPi * kPi);  // of the undamped Fourier series

// L2 distance over one period between the curve that a surrogate stands for and the rotated rounding function. In the plane turned by 45
// degrees, t = (x + x_q) / sqrt 2 and f = (x_q - x) / sqrt 2, rounding is a triangle wave of period sqrt 2 with f = -t around 0, and
// g = (1 + f') / (1 - f'). Going back from g: f' = (g - 1) / (g + 1), undamped by vanilla / amplitude and integrated over a quarter of the
// period, u = sqrt 2 t in [0, 1/2]; the other quarters are its mirror images.
double distance_to_rotated_staircase(const Surrogate& surrogate, double amplitude) {
  constexpr int kPoints = 20000;
  constexpr double kStep = 0.5 / kPoints;
  double f = 0;
  double squared = 0;
  for (int i = 0; i < kPoints; ++i) {
    const double u = (i + 0.5) * kStep;
    const double g = surrogate.slope(u);
    const double df_du = (g - 1) / (g + 1) / kSqrt2 * (kVanillaAmplitude / amplitude);
    const double difference = f + 0.5 * kStep * df_du + u / kSqrt2;
    squared += difference * difference * kStep;
    f += kStep * df_du;
  }
  return std::sqrt(squared * 4 / kSqrt2);
}

TEST(Surrogate, EachOrderIsCloserToTheRotatedStaircaseThanTheOneBefore) {
  constexpr double kAmplitude = 0.2;
  double mean_square = 1.0 / 24;  // of the triangle wave; Parseval: each term takes half its squared coefficient off
  double previous = distance_to_rotated_staircase(Surrogate(), kAmplitude);
  EXPECT_NEAR(previous, std::sqrt(kSqrt2 * mean_square), 1e-8) << "straight-through is the member of order zero";
  for (int order = 0; order < kernels::kMaxAmplitudes; ++order) {
    const double coefficient = kVanillaAmplitude / ((2 * order + 1) * (2 * order + 1));
    mean_square -= coefficient * coefficient / 2;
    const double distance = distance_to_rotated_staircase(Surrogate::fourier(kAmplitude, order), kAmplitude);
    EXPECT_NEAR(distance, std::sqrt(kSqrt2 * mean_square), 1e-7) << order;
    EXPECT_LT(distance, previous) << order;
    previous = distance;
  }
}

TEST(Surrogate, OtherCoefficientsOfTheSameOrderAreFarther) {
  constexpr double kAmplitude = 0.2;
  const double best = distance_to_rotated_staircase(Surrogate::fourier(kAmplitude, 1), kAmplitude);
  for (const double first : {0.97, 1.03}) {
    for (const double second : {0.9, 1.1}) {
      const Surrogate other = Surrogate::from_amplitudes({first * kAmplitude, -second * kAmplitude / 3});
      EXPECT_GT(distance_to_rotated_staircase(other, kAmplitude), best) << first << " " << second;
    }
  }
}

template <class T>
void expect_zero_amplitude_is_straight_through() {
  constexpr std::int64_t kColumns = 203;
  for (const int bits : {0, 1, 2, 3, 4, 8}) {
    kernels::QuantRule straight = QuantizerSpec{.bits = bits}.rule();
    kernels::QuantRule zero = straight;
    zero.amplitude_count = 2;  // two terms of amplitude 0, which Surrogate would drop
    std::vector<T> weight(kColumns);
    std::vector<T> gradient(kColumns);
    for (std::size_t i = 0; i < weight.size(); ++i) {
      weight[i] = static_cast<T>(std::sin(0.37 * static_cast<double>(i)));
      gradient[i] = static_cast<T>(std::cos(1.7 * static_cast<double>(i)));
    }
    const T scale = T(0.19);
    std::vector<T> found(weight.size());
    std::vector<T> expected(weight.size());
    T found_scale = 0;
    T expected_scale = 0;
    kernels::surrogate_backward_ref<T>(straight, 1, kColumns, weight.data(), &scale, 0, 0.3, gradient.data(), expected.data(),
                                       &expected_scale, nullptr);
    kernels::surrogate_backward_ref<T>(zero, 1, kColumns, weight.data(), &scale, 0, 0.3, gradient.data(), found.data(), &found_scale,
                                       nullptr);
    EXPECT_EQ(found, expected) << bits;
    EXPECT_EQ(found_scale, expected_scale) << bits;
  }
}

TEST(Surrogate, AmplitudeZeroIsStraightThroughBitForBit) {
  EXPECT_EQ(Surrogate::fourier(0.0, 2), Surrogate());
  EXPECT_EQ(Surrogate::from_amplitudes({0.0, 0.0}), Surrogate());
  expect_zero_amplitude_is_straight_through<float>();
  expect_zero_amplitude_is_straight_through<double>();
}

TEST(Surrogate, AmplitudeAndOrderAreTheListWithAlternatingSigns) {
  EXPECT_EQ(Surrogate::fourier(0.21, 2), Surrogate::from_amplitudes({0.21, -0.21 / 3, 0.21 / 5}));
}

TEST(Surrogate, RefusesAmplitudesFromTheIllConditionedLimitOn) {
  EXPECT_DOUBLE_EQ(Surrogate::kAmplitudeLimit, 1 / (kSqrt2 * kPi));
  EXPECT_NO_THROW(Surrogate::fourier(0.22507));
  for (const double amplitude : {0.2250791, 1.0, -0.01, std::nan("")}) EXPECT_THROW(Surrogate::fourier(amplitude), ConfigError);
  EXPECT_THROW(Surrogate::fourier(0.2, -1), ConfigError);
  EXPECT_THROW(Surrogate::fourier(0.2, kernels::kMaxAmplitudes), ConfigError);
}

TEST(Surrogate, RefusesListsWhoseSumReachesOneAnywhere) {
  EXPECT_THROW(Surrogate::from_amplitudes({0.2250791}), ConfigError);
  EXPECT_THROW(Surrogate::from_amplitudes({-0.2250791}), ConfigError);
  EXPECT_THROW(Surrogate::from_amplitudes({0.21, 0.07}), ConfigError);  // terms add up at u = 0
  EXPECT_NO_THROW(Surrogate::from_amplitudes({0.15, 0.07}));
  // |S| of {a, -a/3} is largest at u = 1/4, 2 sqrt(2) / 3 of a: a list that order 0 alone would forbid.
  const double edge = Surrogate::kAmplitudeLimit * 3 / (2 * kSqrt2);
  EXPECT_NO_THROW(Surrogate::from_amplitudes({edge * (1 - 1e-9), -edge * (1 - 1e-9) / 3}));
  EXPECT_THROW(Surrogate::from_amplitudes({edge * (1 + 1e-9), -edge * (1 + 1e-9) / 3}), ConfigError);
  EXPECT_THROW(Surrogate::from_amplitudes({std::nan("")}), ConfigError);
  EXPECT_THROW(Surrogate::from_amplitudes(std::vector<double>(kernels::kMaxAmplitudes + 1, 0.01)), ConfigError);
}

TEST(Exp2, IsWithinAFewRoundingsOfThePower) {
  for (int i = 0; i <= 30000; ++i) {
    const double z = -i / 1000.0;
    EXPECT_NEAR(kernels::exp2_negative(z) / std::exp2(z), 1.0, 4 * std::numeric_limits<double>::epsilon()) << z;
    const float z32 = static_cast<float>(z);
    EXPECT_NEAR(static_cast<double>(kernels::exp2_negative(z32)) / std::exp2(static_cast<double>(z32)), 1.0,
                4 * std::numeric_limits<float>::epsilon())
        << z;
  }
}

TEST(CosPi, PolynomialsAreWithinTwoRoundingsOfTheCosine) {
  for (int i = -5000; i <= 5000; ++i) {
    const double u = i / 10000.0;
    EXPECT_NEAR(kernels::cos_pi(u), std::cos(kPi * u), 2 * std::numeric_limits<double>::epsilon()) << u;
    const float u32 = static_cast<float>(u);
    EXPECT_NEAR(kernels::cos_pi(u32), std::cos(kPi * static_cast<double>(u32)), 2 * std::numeric_limits<float>::epsilon()) << u;
  }
}

}  // namespace
}  // namespace stableqat
