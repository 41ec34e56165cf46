#include "base/python_random.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <set>

namespace stableqat {

namespace {

constexpr std::uint32_t kBaseSeed = 19650218;

// CPython keeps the drawn indices in a set where that is smaller than a list of the population; the two draw differently.
bool uses_list(std::uint64_t population, std::uint64_t count) {
  std::uint64_t set_size = 21;
  if (count > 5) {
    std::uint64_t table = 1;
    while (table < 3 * count) table *= 4;
    set_size += table;
  }
  return population <= set_size;
}

}  // namespace

PythonSeed::PythonSeed(std::uint64_t seed) : state_{} {
  std::array<std::uint32_t, 2> key{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  const std::size_t key_length = key[1] != 0 ? 2 : 1;
  constexpr std::size_t kSize = std::mt19937::state_size;

  state_[0] = kBaseSeed;
  for (std::size_t i = 1; i < kSize; ++i) {
    state_[i] = 1812433253U * (state_[i - 1] ^ (state_[i - 1] >> 30)) + static_cast<std::uint32_t>(i);
  }
  std::size_t i = 1;
  const auto advance = [&] {
    if (++i < kSize) return;
    state_[0] = state_[kSize - 1];
    i = 1;
  };
  for (std::size_t k = 0; k < kSize; ++k, advance()) {
    const auto j = static_cast<std::uint32_t>(k % key_length);
    state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1664525U)) + key[j] + j;
  }
  for (std::size_t k = 1; k < kSize; ++k, advance()) {
    state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1566083941U)) - static_cast<std::uint32_t>(i);
  }
  state_[0] = 0x80000000U;
}

PythonRandom::PythonRandom(std::uint64_t seed) {
  PythonSeed sequence(seed);
  generator_.seed(sequence);
}

// Python's getrandbits(k) for k <= 32: the upper bits of one number.
std::uint64_t PythonRandom::below(std::uint64_t bound) {
  const int bits = std::bit_width(bound);
  std::uint64_t number;
  do {
    number = generator_() >> (32 - bits);
  } while (number >= bound);
  return number;
}

std::vector<std::uint64_t> PythonRandom::sample(std::uint64_t population, std::uint64_t count) {
  std::vector<std::uint64_t> drawn;
  drawn.reserve(count);
  if (uses_list(population, count)) {
    std::vector<std::uint64_t> pool(population);
    std::iota(pool.begin(), pool.end(), std::uint64_t{0});
    for (std::uint64_t i = 0; i < count; ++i) {
      std::uint64_t& place = pool[below(population - i)];
      drawn.push_back(place);
      place = pool[population - i - 1];
    }
    return drawn;
  }
  std::set<std::uint64_t> taken;
  while (drawn.size() < count) {
    const std::uint64_t index = below(population);
    if (taken.insert(index).second) drawn.push_back(index);
  }
  return drawn;
}

}  // namespace stableqat
