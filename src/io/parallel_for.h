// Splits a range of work over the cores, for jobs long enough to pay for starting threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

namespace stableqat::io {

// Calls work(begin, end) on disjoint ranges that cover [0, count), each at least `minimum` long (but the last). `work` must not throw.
inline void parallel_for(std::size_t count, std::size_t minimum, const std::function<void(std::size_t, std::size_t)>& work) {
  const std::size_t cores = std::max(1U, std::thread::hardware_concurrency());
  const std::size_t parts = std::clamp<std::size_t>(count / std::max<std::size_t>(minimum, 1), 1, cores);
  const std::size_t length = (count + parts - 1) / parts;
  std::vector<std::jthread> threads;
  for (std::size_t part = 1; part < parts; ++part) {
    threads.emplace_back(work, std::min(part * length, count), std::min((part + 1) * length, count));
  }
  work(0, std::min(length, count));
}

}  // namespace stableqat::io
