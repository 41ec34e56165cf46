#include "data/mixture_order.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "stableqat/base/error.h"

namespace stableqat {

MixtureOrder::MixtureOrder(const std::vector<double>& weights) : bounds_{0.0} {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  double below = 0.0;
  for (const double weight : weights) {
    if (!(weight / sum * static_cast<double>(kGroup) >= 1.0)) {
      throw ConfigError({"mixture", "a weight of " + std::to_string(weight) + " among weights that sum to " + std::to_string(sum),
                         "shares of at least 1/" + std::to_string(kGroup), "leave the source out, or raise its weight"});
    }
    below += weight;
    bounds_.push_back(below / sum);
  }
  if (weights.empty()) throw ConfigError({"mixture", "no source", "at least one", ""});
  bounds_.back() = 1.0;
}

std::uint64_t MixtureOrder::before(std::size_t source, std::uint64_t groups) const {
  // One product and one floor per bound: nothing that another compiler could round otherwise.
  const auto bound = [&](std::size_t i) {
    return static_cast<std::uint64_t>(std::floor(bounds_[i] * static_cast<double>(groups * kGroup)));
  };
  return bound(source + 1) - bound(source);
}

void MixtureOrder::lay_out(std::uint64_t group) {
  struct Turn {
    double time;
    Place place;
  };
  std::vector<Turn> turns;
  for (std::size_t source = 0; source + 1 < bounds_.size(); ++source) {
    const std::uint64_t first = before(source, group);
    const std::uint64_t count = before(source, group + 1) - first;
    for (std::uint64_t i = 0; i < count; ++i) {
      turns.push_back({static_cast<double>(2 * i + 1) / static_cast<double>(2 * count), {source, first + i}});
    }
  }
  std::stable_sort(turns.begin(), turns.end(), [](const Turn& a, const Turn& b) { return a.time < b.time; });
  places_.clear();
  for (const Turn& turn : turns) places_.push_back(turn.place);
  group_ = group;
}

MixtureOrder::Place MixtureOrder::operator()(std::uint64_t n) {
  if (bounds_.size() == 2) return {0, n};
  if (n / kGroup != group_) lay_out(n / kGroup);
  return places_[n % kGroup];
}

}  // namespace stableqat
