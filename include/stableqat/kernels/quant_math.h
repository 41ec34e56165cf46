// Arithmetic of quantizers and surrogates for one element. Shared by all back ends: no libm call and no branch in
// what is done per weight, so that loops are vectorized, usable on CPU and CUDA. Sources: reference paper sections 1-3 (rounding, RDFS,
// DSQ).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "stableqat/base/half.h"
#include "stableqat/base/isa_namespace.h"
#include "stableqat/kernels/host_device.h"
#include "stableqat/kernels/quant_rule.h"

namespace stableqat::kernels {
inline namespace STABLEQAT_ISA {

// Scales are clamped from below at this value.
inline constexpr double kMinScale = 1e-5;

// Added to a small number, it leaves no bits for the fraction: 1.5 * 2^23 (float), 1.5 * 2^52 (double).
template <class T>
inline constexpr T kRoundingMagic = T(1.5) / std::numeric_limits<T>::epsilon();

// Round half to even for |v| < 2^22 (float) or 2^51 (double).
template <class T>
STABLEQAT_HOST_DEVICE inline T round_half_even(T v) {
  return (v + kRoundingMagic<T>)-kRoundingMagic<T>;
}

// max(low, min(v, high)); NaN becomes low.
template <class T>
STABLEQAT_HOST_DEVICE inline T clamp(T v, T low, T high) {
  const T above = v > low ? v : low;
  return above < high ? above : high;
}

// cos(pi u) on [-1/2, 1/2], where 2u is the distance between a value and its rounded neighbour: even polynomial with p(0) = 1. Float:
// minimax (Remez exchange), 2.5e-10 before rounding; double: the Taylor series, 2e-17 before rounding.
template <class T>
STABLEQAT_HOST_DEVICE inline T cos_pi(T u);

template <>
STABLEQAT_HOST_DEVICE inline double cos_pi<double>(double u) {
  constexpr double kPi = 3.14159265358979323846;
  const double z = (kPi * u) * (kPi * u);
  // sum (-1)^k z^k / (2k)!, k = 0..10
  double sum = 1.0 / 2432902008176640000.0;
  sum = sum * z - 1.0 / 6402373705728000.0;
  sum = sum * z + 1.0 / 20922789888000.0;
  sum = sum * z - 1.0 / 87178291200.0;
  sum = sum * z + 1.0 / 479001600.0;
  sum = sum * z - 1.0 / 3628800.0;
  sum = sum * z + 1.0 / 40320.0;
  sum = sum * z - 1.0 / 720.0;
  sum = sum * z + 1.0 / 24.0;
  sum = sum * z - 1.0 / 2.0;
  return sum * z + 1.0;
}

template <>
STABLEQAT_HOST_DEVICE inline float cos_pi<float>(float u) {
  const float z = u * u;
  const float z2 = z * z;  // Estrin's scheme: short chains of dependent operations
  const float low = (1.0f - 4.9348021560877555f * z) + z2 * (4.058709599760349f - 1.335216104877859f * z);
  return low + z2 * z2 * (0.2349539256681429f - 0.02442069997816229f * z);
}

// 2^f on [-1/2, 1/2], 1 at 0. Float: minimax (Remez exchange), 2e-9 before rounding; double: the Taylor series, 1e-17 before rounding.
template <class T>
STABLEQAT_HOST_DEVICE inline T exp2_fraction(T f);

template <>
STABLEQAT_HOST_DEVICE inline double exp2_fraction<double>(double f) {
  const double argument = f * 0.69314718055994530942;
  double sum = 1.0;
  for (int k = 13; k > 0; --k) sum = sum * (argument * (1.0 / k)) + 1.0;
  return sum;
}

template <>
STABLEQAT_HOST_DEVICE inline float exp2_fraction<float>(float f) {
  const float f2 = f * f;  // Estrin's scheme
  const float low = (1.0f + 0.6931472057372674f * f) + f2 * (0.24022646890634453f + 0.05550328776965761f * f);
  const float high = (0.009618488957094495f + 0.001339993121907509f * f) + f2 * 0.00015345812006837918f;
  return low + f2 * f2 * high;
}

// 2^z for z in [-1000, 0] (double) or [-120, 0] (float): 2^(z - round(z)), shifted by round(z).
template <class T>
STABLEQAT_HOST_DEVICE inline T exp2_negative(T z) {
  using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
  constexpr int kMantissaBits = std::numeric_limits<T>::digits - 1;
  const T shifted = z + kRoundingMagic<T>;  // its lowest bits are round(z) in two's complement
  const T fraction = exp2_fraction(z - (shifted - kRoundingMagic<T>));
  return std::bit_cast<T>(std::bit_cast<Bits>(fraction) + (std::bit_cast<Bits>(shifted) << kMantissaBits));
}

// value, negated if `sign` is negative; no branch, no select.
template <class T>
STABLEQAT_HOST_DEVICE inline T flip_by_sign(T sign, T value) {
  using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
  constexpr Bits kSignBit = Bits(1) << (8 * sizeof(T) - 1);
  return std::bit_cast<T>(std::bit_cast<Bits>(value) ^ (std::bit_cast<Bits>(sign) & kSignBit));
}

// The nearest fp16 value of a positive number, ties to even; at most 65504. The result is exact in T.
template <class T>
STABLEQAT_HOST_DEVICE inline T round_to_half(T value) {
  constexpr T kLargest = T(65504);
  return static_cast<T>(half_to_float(float_to_half(static_cast<float>(value < kLargest ? value : kLargest))));
}

// What has to be known when a loop is compiled for it to be vectorized.
enum class Rounding {
  kInteger,          // code = round(x): LSQ
  kIntegerTiesDown,  // the same, but halves go down: DSQ takes the sign of the distance to the middle, and at the middle none is positive
  kAffine,           // the general form of QuantRule: SEQ
  kSign
};
enum class Slope { kStraightThrough, kOneTerm, kFourier };  // by the number of amplitudes: 0, 1, any

// A quantizer's element functions in arithmetic type T (float or double). Pass it by value: loops keep its members in registers.
template <class T, Rounding kRounding>
class QuantElement {
 public:
  STABLEQAT_HOST_DEVICE explicit QuantElement(const QuantRule& rule)
      : half_scales_(rule.half_scales),
        clip_low_(T(rule.clip_low)),
        clip_high_(T(rule.clip_high)),
        levels_(T(rule.levels)),
        shift_(T(rule.shift)),
        code_factor_(T(rule.code_factor)),
        code_offset_(T(rule.code_offset)),
        steps_per_scale_(T(rule.steps_per_scale)),
        scales_per_step_(T(1) / T(rule.steps_per_scale)),
        mask_low_(T(rule.mask_low)),
        mask_high_(T(rule.mask_high)),
        edge_low_(T(rule.edge_low)),
        edge_high_(T(rule.edge_high)) {
    for (int m = 0; m < kMaxAmplitudes; ++m) amplitudes_[m] = T(rule.amplitudes[m]);
  }

  // Distance of neighbouring codes: the learned scale after the floor, per step, on the fp16 grid if the rule says so.
  STABLEQAT_HOST_DEVICE T step(T scale) const {
    const T floored = scale > T(kMinScale) ? scale : T(kMinScale);
    const T exact = floored / steps_per_scale_;
    return half_scales_ ? round_to_half(exact) : exact;
  }

  // The scale that quantization and gradients use. Equals the floored scale exactly unless fp16 rounding moved it.
  STABLEQAT_HOST_DEVICE T effective_scale(T scale) const {
    const T floored = scale > T(kMinScale) ? scale : T(kMinScale);
    return half_scales_ ? step(scale) * steps_per_scale_ : floored;
  }

  // x = w / scale on the grid, as a T: its integer code, and its distance from the rounded value in steps, in [-1/2, 1/2]. Beyond the ends
  // of the grid as at the end. NaN takes the lowest code.
  struct Rounded {
    T code;
    T distance;
  };
  STABLEQAT_HOST_DEVICE Rounded round(T x) const {
    const T clipped = clamp(x, clip_low_, clip_high_);
    const T v = kRounding == Rounding::kAffine ? clipped * levels_ - shift_ : clipped;
    const T nearest = round_half_even(v);
    const T rounded = kRounding == Rounding::kIntegerTiesDown && nearest - v == T(0.5) ? nearest - T(1) : nearest;
    if constexpr (kRounding == Rounding::kSign) return {x >= T(0) ? T(1) : T(-1), v - rounded};
    if constexpr (kIsInteger) return {rounded, v - rounded};
    return {rounded * code_factor_ + code_offset_, v - rounded};
  }
  STABLEQAT_HOST_DEVICE T code(T x) const { return round(x).code; }

  STABLEQAT_HOST_DEVICE bool inside(T x) const { return x >= mask_low_ && x <= mask_high_; }

  // inside() as a factor, and an argument for functions that are multiplied by it: unlike a select, no branch around what follows.
  STABLEQAT_HOST_DEVICE T pass(T x) const { return inside(x) ? T(1) : T(0); }
  STABLEQAT_HOST_DEVICE T clamp_to_mask(T x) const { return clamp(x, mask_low_, mask_high_); }

  // g, the surrogate for d x_q / d x inside the mask, from the distance to the rounded value.
  template <Slope kSlope>
  STABLEQAT_HOST_DEVICE T slope(T distance) const {
    if constexpr (kSlope == Slope::kStraightThrough) return T(1);
    const T sum = fourier_sum<kSlope>(cos_pi(distance));
    return (T(1) - sum) / (T(1) + sum);
  }

  // d w_q / d scale of an element with this x and code. LSQ's form, also for the Fourier surrogate (paper, section 2); a sign's w_q is
  // linear in the scale.
  STABLEQAT_HOST_DEVICE T scale_slope(T x, T code_of_x) const {
    if constexpr (kRounding == Rounding::kSign) return code_of_x;
    if constexpr (kIsInteger) return code_of_x - (inside(x) ? x : T(0));  // the edges are the outermost codes
    const T outside = x < mask_low_ ? edge_low_ : edge_high_;
    return inside(x) ? code_of_x * scales_per_step_ - x : outside;
  }

 private:
  static constexpr bool kIsInteger = kRounding == Rounding::kInteger || kRounding == Rounding::kIntegerTiesDown;

  // sum_m b_m cos((2m+1) pi u) from cos(pi u), by cos((2m+3) t) = 2 cos(2t) cos((2m+1) t) - cos((2m-1) t).
  template <Slope kSlope>
  STABLEQAT_HOST_DEVICE T fourier_sum(T cosine) const {
    if constexpr (kSlope == Slope::kOneTerm) return amplitudes_[0] * cosine;
    const T twice_cos_2 = T(4) * cosine * cosine - T(2);
    T previous = cosine;  // cos(-pi u)
    T current = cosine;
    T sum = T(0);
    for (int m = 0; m < kMaxAmplitudes; ++m) {  // a fixed number, so that the loop around is vectorized; the rest are zeros
      sum += amplitudes_[m] * current;
      const T next = twice_cos_2 * current - previous;
      previous = current;
      current = next;
    }
    return sum;
  }

  bool half_scales_;
  T clip_low_, clip_high_;
  T levels_, shift_;
  T code_factor_, code_offset_;
  T steps_per_scale_, scales_per_step_;
  T mask_low_, mask_high_;
  T edge_low_, edge_high_;
  T amplitudes_[kMaxAmplitudes] = {};
};

// Whether the codes are the rounded values: v = x, code = q, step = scale, and the edges are the outermost codes.
STABLEQAT_HOST_DEVICE inline bool is_integer(const QuantRule& rule) {
  return rule.levels == 1 && rule.shift == 0 && rule.code_factor == 1 && rule.code_offset == 0 && rule.steps_per_scale == 1 &&
         rule.edge_low == rule.clip_low && rule.edge_high == rule.clip_high;
}

// Calls function.operator()<kRounding>() with the compile-time choice of `rule`.
template <class Function>
decltype(auto) with_rounding(const QuantRule& rule, Function&& function) {
  if (rule.is_sign) return function.template operator()<Rounding::kSign>();
  if (rule.is_soft) return function.template operator()<Rounding::kIntegerTiesDown>();
  return is_integer(rule) ? function.template operator()<Rounding::kInteger>() : function.template operator()<Rounding::kAffine>();
}

// DSQ's soft staircase in the unit interval that holds x: (tanh(k (x - m)) / (1 - alpha) + 1) / 2, k = log(2 / alpha - 1), m the middle.
// alpha -> 1 is the straight line, alpha -> 0 the staircase.
template <class T>
class SoftStaircase {
 public:
  // alpha is kept in [kMinAlpha, kMaxAlpha], where both parameters are finite.
  static constexpr double kMinAlpha = 1e-3;
  static constexpr double kMaxAlpha = 1.0 - 1e-3;

  STABLEQAT_HOST_DEVICE explicit SoftStaircase(T alpha) {
    const T a = clamp(alpha, T(kMinAlpha), T(kMaxAlpha));
    const T stretch = T(1) / (T(1) - a);
    const T sharpness = std::log(T(2) / a - T(1));        // k
    const T sharpness_slope = T(-2) / (a * (T(2) - a));   // d k / d alpha
    decay_ = T(-2 * 1.44269504088896340736) * sharpness;  // exp(-2 k |d|) = 2^(decay |d|)
    x_factor_ = T(2) * stretch * sharpness;
    tanh_factor_ = T(-0.5) * stretch * stretch;
    slope_factor_ = T(-2) * stretch * sharpness_slope;
  }

  struct Slopes {
    T x;      // d staircase / d x
    T alpha;  // d staircase / d alpha
  };

  // `distance` = x - round(x), in [-1/2, 1/2]: x lies 1/2 - |distance| from the middle, on the other side.
  STABLEQAT_HOST_DEVICE Slopes slopes(T distance) const {
    const T magnitude = T(0.5) - std::abs(distance);
    const T decayed = exp2_negative(decay_ * magnitude);
    const T inverse = T(1) / (T(1) + decayed);
    const T tanh = (T(1) - decayed) * inverse;            // of k |d|
    const T quarter_slope = decayed * inverse * inverse;  // (1 - tanh^2) / 4
    const T alpha = tanh_factor_ * tanh + slope_factor_ * magnitude * quarter_slope;
    return {x_factor_ * quarter_slope, flip_by_sign(distance, alpha)};
  }

 private:
  // They hold the 4 that quarter_slope lacks; those of alpha's slope are negative, as they apply on the far side of the middle.
  T decay_;
  T x_factor_;
  T tanh_factor_, slope_factor_;
};

// Gradients of one element from the incoming gradient of w_q: of the weight, and its terms of the sums for scale (before LSQ's factor) and
// alpha (before the row's effective scale).
template <class T>
struct ElementGradients {
  T weight;
  T scale;
  T alpha;  // 0 unless DSQ
};

// The backward of LSQ, SEQ, sign and ternary with the straight-through or the Fourier surrogate.
template <class T, Rounding kRounding, Slope kSlope>
class FourierSurrogate {
 public:
  static constexpr bool kHasAlpha = false;

  STABLEQAT_HOST_DEVICE explicit FourierSurrogate(const QuantRule& rule) : element_(rule) {}

  STABLEQAT_HOST_DEVICE const QuantElement<T, kRounding>& element() const { return element_; }

  STABLEQAT_HOST_DEVICE ElementGradients<T> gradients(T x, T incoming) const {
    const auto [code, distance] = element_.round(x);
    return {element_.inside(x) ? incoming * element_.template slope<kSlope>(distance) : T(0), incoming * element_.scale_slope(x, code),
            T(0)};
  }

 private:
  QuantElement<T, kRounding> element_;
};

// The backward of DSQ.
template <class T>
class SoftSurrogate {
 public:
  static constexpr bool kHasAlpha = true;

  STABLEQAT_HOST_DEVICE SoftSurrogate(const QuantRule& rule, T alpha) : element_(rule), staircase_(alpha) {}

  STABLEQAT_HOST_DEVICE const QuantElement<T, Rounding::kIntegerTiesDown>& element() const { return element_; }

  STABLEQAT_HOST_DEVICE ElementGradients<T> gradients(T x, T incoming) const {
    const T code = element_.code(x);
    const auto slopes = staircase_.slopes(element_.clamp_to_mask(x) - code);  // the mask reaches half a step beyond the outermost codes
    const T passed = element_.pass(x) * incoming;
    const T weight = passed * slopes.x;
    return {weight, incoming * code - x * weight, passed * slopes.alpha};
  }

 private:
  QuantElement<T, Rounding::kIntegerTiesDown> element_;
  SoftStaircase<T> staircase_;
};

// Calls function(surrogate) with the FourierSurrogate or SoftSurrogate of `rule`. `alpha` is read for DSQ only.
template <class T, class Function>
decltype(auto) with_surrogate(const QuantRule& rule, T alpha, Function&& function) {
  if (rule.is_soft) return function(SoftSurrogate<T>(rule, alpha));
  return with_rounding(rule, [&]<Rounding kRounding>() {
    if (rule.amplitude_count == 0) return function(FourierSurrogate<T, kRounding, Slope::kStraightThrough>(rule));
    if (rule.amplitude_count == 1) return function(FourierSurrogate<T, kRounding, Slope::kOneTerm>(rule));
    return function(FourierSurrogate<T, kRounding, Slope::kFourier>(rule));
  });
}

}  // namespace STABLEQAT_ISA
}  // namespace stableqat::kernels
