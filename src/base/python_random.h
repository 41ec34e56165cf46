// Draws without replacement as CPython makes them, so that a plan can be checked against `random.Random(seed).sample()`.
#pragma once

#include <array>
#include <cstdint>
#include <random>
#include <vector>

namespace stableqat {

// The state in which CPython starts its Mersenne twister (init_by_array of Matsumoto and Nishimura's mt19937ar.c, 2002) for an integer
// seed, as a seed sequence of std::mt19937, which takes it over word by word.
class PythonSeed {
 public:
  using result_type = std::uint32_t;

  explicit PythonSeed(std::uint64_t seed);

  template <class Iterator>
  void generate(Iterator begin, Iterator end) const {
    for (std::size_t i = 0; begin != end; ++begin, ++i) *begin = state_.at(i);
  }

 private:
  std::array<std::uint32_t, std::mt19937::state_size> state_;
};

// Python's random.Random(seed), for sample() only. Checked against CPython 3.11.
class PythonRandom {
 public:
  explicit PythonRandom(std::uint64_t seed);

  // The indices that sample(range(population), count) gives, in its order. 0 <= count <= population < 2^32.
  std::vector<std::uint64_t> sample(std::uint64_t population, std::uint64_t count);

 private:
  std::uint64_t below(std::uint64_t bound);

  std::mt19937 generator_;
};

}  // namespace stableqat
