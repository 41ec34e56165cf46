// The backward surrogate of rounding: straight-through (STE) or the rotated damped Fourier surrogate (RDFS) of any order.
#pragma once

#include <span>
#include <vector>

namespace stableqat {

// With u = x - round(x) and S(u) = sum_m a_m cos((2m+1) pi u), rounding's derivative is replaced by
//   g(u) = (1 - sqrt(2) pi S) / (1 + sqrt(2) pi S)
// (paper, section 2; cos((2m+1) pi (x + x_q)) = cos((2m+1) pi u) because 2 (2m+1) x_q is even). No amplitudes: g = 1, the STE.
// Immutable after construction, cheap to copy, thread-safe.
class Surrogate {
 public:
  // At 1 / (sqrt(2) pi) = 0.22508 the surrogate lies flat on the plateaus and 1 + sqrt(2) pi S can vanish.
  static constexpr double kAmplitudeLimit = 0.2250790790392765;
  static constexpr double kDefaultAmplitude = 0.21;

  // Straight-through.
  Surrogate() = default;

  // a_m = amplitude * (-1)^m / (2m+1), m = 0..order. Amplitude 0 is straight-through. Throws ConfigError for an amplitude outside
  // [0, kAmplitudeLimit) or an order outside [0, 7].
  static Surrogate fourier(double amplitude, int order = 0);

  // The a_m as given. Throws ConfigError for more than 8 amplitudes, one that is not finite, or when |sqrt(2) pi S| reaches 1 on [-1/2,
  // 1/2].
  static Surrogate from_amplitudes(std::vector<double> amplitudes);

  bool is_straight_through() const noexcept { return amplitudes_.empty(); }
  std::span<const double> amplitudes() const noexcept { return amplitudes_; }

  // g at u in [-1/2, 1/2], in double.
  double slope(double u) const;

  friend bool operator==(const Surrogate&, const Surrogate&) = default;

 private:
  std::vector<double> amplitudes_;
};

}  // namespace stableqat
