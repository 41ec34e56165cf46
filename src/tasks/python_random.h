// random.Random of Python 3: the same seed draws the same samples as a program in Python does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace stableqat::tasks {

class PythonRandom {
 public:
  explicit PythonRandom(std::uint64_t seed);

  // Positions that random.sample() takes of a list of `population` items; count <= population.
  std::vector<std::size_t> sample(std::size_t population, std::size_t count);

 private:
  std::size_t below(std::size_t limit);

  std::mt19937 engine_;
};

}  // namespace stableqat::tasks
