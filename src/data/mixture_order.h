// Which source the n-th block of a mixture comes from.
#pragma once

#include <cstdint>
#include <vector>

namespace stableqat {

// Sources take turns as evenly as their weights allow: among the first n blocks, source i has weight_i * n of them to within a few, and
// over every group of kGroup blocks to within one. Depends on nothing but the weights; any place in constant time after the group's first.
// Not thread-safe.
class MixtureOrder {
 public:
  static constexpr std::uint64_t kGroup = 1024;

  // Weights of any sum. Throws ConfigError for none, for one that is not positive and for a share below 1 / kGroup.
  explicit MixtureOrder(const std::vector<double>& weights);

  struct Place {
    std::size_t source;
    std::uint64_t index;  // how many blocks of that source come before
  };
  Place operator()(std::uint64_t n);

  double share(std::size_t source) const { return bounds_[source + 1] - bounds_[source]; }

 private:
  // Blocks of `source` in the first `groups` groups.
  std::uint64_t before(std::size_t source, std::uint64_t groups) const;
  void lay_out(std::uint64_t group);

  std::vector<double> bounds_;  // shares summed up: 0, ..., 1
  std::uint64_t group_ = ~std::uint64_t{0};
  std::vector<Place> places_;  // of that group
};

}  // namespace stableqat
