#include "stableqat/quant/surrogate.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <sstream>

#include "stableqat/base/error.h"
#include "stableqat/kernels/quant_rule.h"

namespace stableqat {
namespace {

constexpr double kSqrt2Pi = std::numbers::sqrt2 * std::numbers::pi;

double scaled_sum(std::span<const double> amplitudes, double u) {
  double sum = 0;
  for (std::size_t m = 0; m < amplitudes.size(); ++m) {
    sum += amplitudes[m] * std::cos(static_cast<double>(2 * m + 1) * std::numbers::pi * u);
  }
  return kSqrt2Pi * sum;
}

struct Peak {
  double u = 0;
  double magnitude = 0;
};

// Largest |sqrt(2) pi S| on [0, 1/2] (S is even): a grid of 64 points per half wave of the highest term, each local maximum refined by
// golden-section search.
Peak largest_magnitude(std::span<const double> amplitudes) {
  const auto magnitude = [&](double u) { return std::abs(scaled_sum(amplitudes, u)); };
  const int points = 64 * static_cast<int>(2 * amplitudes.size());
  const double spacing = 0.5 / points;
  Peak peak;
  for (int i = 0; i <= points; ++i) {
    const double centre = i * spacing;
    if (magnitude(centre) < magnitude(centre - spacing) || magnitude(centre) < magnitude(centre + spacing)) continue;
    double low = centre - spacing;
    double high = centre + spacing;
    constexpr double kGolden = 0.6180339887498949;
    for (int step = 0; step < 60; ++step) {
      const double left = high - kGolden * (high - low);
      const double right = low + kGolden * (high - low);
      (magnitude(left) > magnitude(right) ? high : low) = magnitude(left) > magnitude(right) ? right : left;
    }
    for (const double u : {centre, 0.5 * (low + high)}) {
      if (magnitude(u) > peak.magnitude) peak = {u, magnitude(u)};
    }
  }
  return peak;
}

std::string to_text(double value) {
  std::ostringstream text;
  text.precision(9);
  text << value;
  return text.str();
}

}  // namespace

Surrogate Surrogate::fourier(double amplitude, int order) {
  if (!(amplitude >= 0 && amplitude < kAmplitudeLimit)) {
    throw ConfigError(
        {"surrogate amplitude", to_text(amplitude), "0 <= amplitude < " + to_text(kAmplitudeLimit) + " (1 / (sqrt(2) pi))",
         "from there on the surrogate is flat or its denominator can vanish; the paper's value is 0.21, 0 is straight-through"});
  }
  if (order < 0 || order >= kernels::kMaxAmplitudes) {
    throw ConfigError({"surrogate order", std::to_string(order), "0 to " + std::to_string(kernels::kMaxAmplitudes - 1),
                       "order 0 has nearly all of the gain"});
  }
  Surrogate surrogate;
  if (amplitude == 0) return surrogate;
  for (int m = 0; m <= order; ++m) surrogate.amplitudes_.push_back((m % 2 == 0 ? amplitude : -amplitude) / (2 * m + 1));
  return surrogate;
}

Surrogate Surrogate::from_amplitudes(std::vector<double> amplitudes) {
  if (amplitudes.size() > static_cast<std::size_t>(kernels::kMaxAmplitudes)) {
    throw ConfigError({"surrogate amplitudes", std::to_string(amplitudes.size()) + " values",
                       "at most " + std::to_string(kernels::kMaxAmplitudes), "leave out the highest orders"});
  }
  if (!std::ranges::all_of(amplitudes, [](double a) { return std::isfinite(a); })) {
    throw ConfigError({"surrogate amplitudes", "a value that is not finite", "numbers", "an empty list is straight-through"});
  }
  const Peak peak = largest_magnitude(amplitudes);
  if (peak.magnitude >= 1) {
    throw ConfigError({"surrogate amplitudes",
                       "|sqrt(2) pi sum a_m cos((2m+1) pi u)| = " + to_text(peak.magnitude) + " at u = " + to_text(peak.u),
                       "less than 1 for all u in [-1/2, 1/2]",
                       "at 1 the gradient vanishes or grows without bound; make the amplitudes smaller (one term: below " +
                           to_text(kAmplitudeLimit) + ")"});
  }
  Surrogate surrogate;
  if (std::ranges::any_of(amplitudes, [](double a) { return a != 0; })) surrogate.amplitudes_ = std::move(amplitudes);
  return surrogate;
}

double Surrogate::slope(double u) const {
  const double sum = scaled_sum(amplitudes_, u);
  return (1 - sum) / (1 + sum);
}

}  // namespace stableqat
