#include "tasks/python_random.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>

namespace stableqat::tasks {

namespace {

// init_by_array() of Matsumoto and Nishimura's mt19937ar.c, by which Python seeds the Mersenne Twister.
class ArraySeed {
 public:
  using result_type = std::uint_least32_t;

  explicit ArraySeed(std::uint64_t seed) : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)} {
    if (key_[1] == 0) length_ = 1;
  }

  template <class Iterator>
  void generate(Iterator begin, Iterator end) const {
    constexpr std::size_t kSize = std::mt19937::state_size;
    std::array<std::uint32_t, kSize> state{};
    state[0] = 19650218U;
    for (std::size_t i = 1; i < kSize; ++i) state[i] = 1812433253U * scrambled(state[i - 1]) + static_cast<std::uint32_t>(i);
    std::size_t i = 1;
    const auto next = [&] {
      if (++i == kSize) {
        state[0] = state[kSize - 1];
        i = 1;
      }
    };
    std::size_t j = 0;
    for (std::size_t k = 0; k < kSize; ++k, j = (j + 1) % length_) {
      state[i] = (state[i] ^ (scrambled(state[i - 1]) * 1664525U)) + key_[j] + static_cast<std::uint32_t>(j);
      next();
    }
    for (std::size_t k = 0; k + 1 < kSize; ++k) {
      state[i] = (state[i] ^ (scrambled(state[i - 1]) * 1566083941U)) - static_cast<std::uint32_t>(i);
      next();
    }
    state[0] = 0x80000000U;
    std::copy(state.begin(), state.begin() + (end - begin), begin);
  }

 private:
  static std::uint32_t scrambled(std::uint32_t x) { return x ^ (x >> 30); }

  std::array<std::uint32_t, 2> key_;
  std::size_t length_ = 2;
};

std::mt19937 seeded(std::uint64_t seed) {
  ArraySeed sequence(seed);
  return std::mt19937(sequence);
}

}  // namespace

PythonRandom::PythonRandom(std::uint64_t seed) : engine_(seeded(seed)) {}

// Draws as many bits as the limit has until they are below it. Lists of documents are shorter than 2^32.
std::size_t PythonRandom::below(std::size_t limit) {
  const int bits = std::bit_width(limit);
  for (;;) {
    const std::size_t value = engine_() >> (32 - bits);
    if (value < limit) return value;
  }
}

std::vector<std::size_t> PythonRandom::sample(std::size_t population, std::size_t count) {
  // Python remembers a small sample of a large list as a set, and shrinks a copy of the list otherwise; the bound estimates both sizes.
  std::size_t set_size = 21;
  if (count > 5) {
    std::size_t power = 1;
    while (power < 3 * count) power *= 4;
    set_size += power;
  }
  std::vector<std::size_t> chosen;
  if (population <= set_size) {
    std::vector<std::size_t> pool(population);
    std::iota(pool.begin(), pool.end(), std::size_t{0});
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t at = below(population - i);
      chosen.push_back(pool[at]);
      pool[at] = pool[population - i - 1];
    }
    return chosen;
  }
  while (chosen.size() < count) {
    const std::size_t at = below(population);
    if (std::find(chosen.begin(), chosen.end(), at) == chosen.end()) chosen.push_back(at);
  }
  return chosen;
}

}  // namespace stableqat::tasks
