// What repeated measurements say.
#pragma once

#include <vector>

namespace stableqat::bench {

struct Spread {
  double median = 0.0;
  double mean = 0.0;
  double deviation = 0.0;  // standard deviation of a single measurement; 0 for one
  double min = 0.0;
  double max = 0.0;
};

// `values` must not be empty.
Spread spread(std::vector<double> values);

// The median of a[i] / b[i]: of measurements taken in pairs, so that drift of the machine cancels. Same length, not empty.
double median_ratio(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace stableqat::bench
