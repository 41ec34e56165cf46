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
#include "stableqat/kernels/quant_rule.h"

#ifdef __CUDACC__
#define STABLEQAT_HOST_DEVICE __host__ __device__
#else
#define STABLEQAT_HOST_DEVICE
#endif

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
  float sum = -0.02442069997816229f;
  sum = sum * z + 0.2349539256681429f;
  sum = sum * z - 1.335216104877859f;
  sum = sum * z + 4.058709599760349f;
  sum = sum * z - 4.9348021560877555f;
  return sum * z + 1.0f;
}

// 2^z for z in [-1000, 0] (double) or [-120, 0] (float): the Taylor series of 2^f on [-1/2, 1/2], shifted by round(z).
template <class T>
STABLEQAT_HOST_DEVICE inline T exp2_negative(T z) {
  using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
  constexpr int kTerms = sizeof(T) == 8 ? 13 : 8;
  constexpr int kMantissaBits = std::numeric_limits<T>::digits - 1;
  const T shifted = z + kRoundingMagic<T>;  // its lowest bits are round(z) in two's complement
  const T argument = (z - (shifted - kRoundingMagic<T>)) * T(0.69314718055994530942);
  T sum = T(1);
  for (int k = kTerms; k > 0; --k) sum = sum * (argument * (T(1) / T(k))) + T(1);
  const Bits power = (std::bit_cast<Bits>(shifted) << kMantissaBits) + std::bit_cast<Bits>(T(1));
  return sum * std::bit_cast<T>(power);
}

// The nearest fp16 value of a positive number, ties to even; at most 65504. The result is exact in T.
template <class T>
STABLEQAT_HOST_DEVICE inline T round_to_half(T value) {
  constexpr T kLargest = T(65504);
  return static_cast<T>(half_to_float(float_to_half(static_cast<float>(value < kLargest ? value : kLargest))));
}

// What has to be known when a loop is compiled for it to be vectorized.
enum class Rounding { kNearest, kSign };
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
        mask_low_(T(rule.mask_low)),
        mask_high_(T(rule.mask_high)),
        edge_low_(T(rule.edge_low)),
        edge_high_(T(rule.edge_high)),
        amplitude_count_(rule.amplitude_count) {
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

  // The integer code of x = w / scale, as a T. NaN takes the lowest code.
  STABLEQAT_HOST_DEVICE T code(T x) const {
    if constexpr (kRounding == Rounding::kSign) return x >= T(0) ? T(1) : T(-1);
    return round_half_even(clamp(x, clip_low_, clip_high_) * levels_ - shift_) * code_factor_ + code_offset_;
  }

  STABLEQAT_HOST_DEVICE bool inside(T x) const { return x >= mask_low_ && x <= mask_high_; }

  // inside() as a factor, and an argument for functions that are multiplied by it: unlike a select, no branch around what follows.
  STABLEQAT_HOST_DEVICE T pass(T x) const { return inside(x) ? T(1) : T(0); }
  STABLEQAT_HOST_DEVICE T clamp_to_mask(T x) const { return clamp(x, mask_low_, mask_high_); }

  // g(x), the surrogate for d x_q / d x. For x inside the mask.
  template <Slope kSlope>
  STABLEQAT_HOST_DEVICE T slope(T x) const {
    if constexpr (kSlope == Slope::kStraightThrough) return T(1);
    const T v = x * levels_ - shift_;
    const T sum = fourier_sum<kSlope>(cos_pi(v - round_half_even(v)));
    return (T(1) - sum) / (T(1) + sum);
  }

  // d w_q / d scale of an element with this x and code. LSQ's form, also for the Fourier surrogate (paper, section 2); a sign's w_q is
  // linear in the scale.
  STABLEQAT_HOST_DEVICE T scale_slope(T x, T code_of_x) const {
    if constexpr (kRounding == Rounding::kSign) return code_of_x;
    const T outside = x < mask_low_ ? edge_low_ : edge_high_;
    return inside(x) ? code_of_x / steps_per_scale_ - x : outside;
  }

 private:
  // sum_m b_m cos((2m+1) pi u) from cos(pi u), by cos((2m+3) t) = 2 cos(2t) cos((2m+1) t) - cos((2m-1) t).
  template <Slope kSlope>
  STABLEQAT_HOST_DEVICE T fourier_sum(T cosine) const {
    if constexpr (kSlope == Slope::kOneTerm) return amplitudes_[0] * cosine;
    const T twice_cos_2 = T(4) * cosine * cosine - T(2);
    T previous = cosine;  // cos(-pi u)
    T current = cosine;
    T sum = T(0);
    for (int m = 0; m < amplitude_count_; ++m) {
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
  T steps_per_scale_;
  T mask_low_, mask_high_;
  T edge_low_, edge_high_;
  int amplitude_count_;
  T amplitudes_[kMaxAmplitudes] = {};
};

// Calls function.operator()<kRounding, kSlope>() with the compile-time choices of `rule`.
template <class Function>
decltype(auto) dispatch(const QuantRule& rule, Function&& function) {
  const auto by_slope = [&]<Rounding kRounding>() {
    if (rule.amplitude_count == 0) return function.template operator()<kRounding, Slope::kStraightThrough>();
    if (rule.amplitude_count == 1) return function.template operator()<kRounding, Slope::kOneTerm>();
    return function.template operator()<kRounding, Slope::kFourier>();
  };
  return rule.is_sign ? by_slope.template operator()<Rounding::kSign>() : by_slope.template operator()<Rounding::kNearest>();
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
    stretch_ = T(1) / (T(1) - a);
    sharpness_ = std::log(T(2) / a - T(1));
    sharpness_slope_ = T(-2) / (a * (T(2) - a));
    decay_ = T(-2 * 1.44269504088896340736) * sharpness_;  // exp(-2 k |d|) = 2^(decay |d|)
  }

  struct Slopes {
    T x;      // d staircase / d x
    T alpha;  // d staircase / d alpha
  };

  STABLEQAT_HOST_DEVICE Slopes slopes(T x) const {
    const T offset = x - round_half_even(x);  // exact; x lies 1/2 - |offset| from the middle, on the other side
    const T sign = offset < T(0) ? T(1) : T(-1);
    const T magnitude = T(0.5) + sign * offset;
    const T decayed = exp2_negative(decay_ * magnitude);
    const T inverse = T(1) / (T(1) + decayed);
    const T tanh = (T(1) - decayed) * inverse;  // of k |d|
    const T tanh_slope = T(4) * decayed * inverse * inverse;
    return {T(0.5) * stretch_ * sharpness_ * tanh_slope,
            sign * (T(0.5) * stretch_ * (stretch_ * tanh + tanh_slope * magnitude * sharpness_slope_))};
  }

 private:
  T stretch_;
  T sharpness_;        // k
  T sharpness_slope_;  // d k / d alpha
  T decay_;
};

}  // namespace STABLEQAT_ISA
}  // namespace stableqat::kernels
