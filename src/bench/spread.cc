#include "stableqat/bench/spread.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace stableqat::bench {

Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t count = values.size();
  Spread result;
  result.min = values.front();
  result.max = values.back();
  result.median = (values[(count - 1) / 2] + values[count / 2]) / 2;
  result.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(count);
  double squares = 0.0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  if (count > 1) result.deviation = std::sqrt(squares / static_cast<double>(count - 1));
  return result;
}

double median_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios(a.size());
  std::transform(a.begin(), a.end(), b.begin(), ratios.begin(), [](double x, double y) { return x / y; });
  return spread(std::move(ratios)).median;
}

}  // namespace stableqat::bench
