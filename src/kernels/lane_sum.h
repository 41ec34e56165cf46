// Sums whose order of additions is fixed by the source, not by the vector width: the same bits on every instruction set.
#pragma once

#include <cstdint>

#include "stableqat/base/isa_namespace.h"

namespace stableqat::kernels {
inline namespace STABLEQAT_ISA {

inline constexpr int kLanes = 16;  // one AVX-512 register of floats
inline constexpr int kRun = 8;

// Fetches the next but some kRun * kLanes elements of an array, of which there may be fewer: the processor does so by itself only up to the
// end of a page.
template <class T>
inline void prefetch_run(const T* array) {
  constexpr int kAhead = 2048;
  constexpr int kLine = 64;
  for (int byte = 0; byte < kRun * kLanes * static_cast<int>(sizeof(T)); byte += kLine) {
    const auto* const line = static_cast<const char*>(static_cast<const void*>(array)) + kAhead + byte;
    __builtin_prefetch(line);
    __asm__ volatile("");  // GCC 12 takes a function that only fetches for one without effects, and drops its calls
  }
}

// Adds the lanes pairwise into the first.
template <class Sum>
Sum fold_lanes(Sum (&lanes)[kLanes]) {
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma omp simd
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

// sum of term(0) .. term(count - 1) in type Sum: term j goes to lane j mod 16, then lanes are added pairwise. Inlined and vectorized.
template <class Sum, class Term>
Sum lane_sum(std::int64_t count, Term&& term) {
  Sum lanes[kLanes] = {};
  const std::int64_t whole = count - count % kLanes;
  for (std::int64_t block = 0; block < whole; block += kLanes) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += static_cast<Sum>(term(block + lane));
  }
  for (std::int64_t j = whole; j < count; ++j) lanes[j - whole] += static_cast<Sum>(term(j));
  return fold_lanes(lanes);
}

// A sum of many terms of type T, nearly as exact as in double and much faster: in each lane, runs of kRun terms are added in T and the
// runs in double. Filled by for_each_run.
template <class T>
class RunSum {
 public:
  void add(int lane, T term) { run_[lane] += term; }
  void end_run() {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes_[lane] += static_cast<double>(run_[lane]);
      run_[lane] = T(0);
    }
  }
  double total() { return fold_lanes(lanes_); }

 private:
  T run_[kLanes] = {};
  double lanes_[kLanes] = {};
};

// Calls body(j, lane) for j = 0..count-1 with lane = j mod 16, and end_run() after every kRun terms of each lane, after the last whole
// lanes and at the end. Inlined and vectorized. `arrays`: what it reads from memory, by j.
template <class Body, class EndRun, class... Arrays>
void for_each_run(std::int64_t count, Body&& body, EndRun&& end_run, const Arrays*... arrays) {
  const std::int64_t whole = count - count % kLanes;
  for (std::int64_t begin = 0; begin < whole; begin += kRun * kLanes) {
    const std::int64_t end = whole - begin < kRun * kLanes ? whole : begin + kRun * kLanes;
    (prefetch_run(arrays + begin), ...);
    for (std::int64_t block = begin; block < end; block += kLanes) {
#pragma omp simd
      for (int lane = 0; lane < kLanes; ++lane) body(block + lane, lane);
    }
    end_run();
  }
  if (whole == count) return;
  for (std::int64_t j = whole; j < count; ++j) body(j, static_cast<int>(j - whole));
  end_run();
}

// The RunSum of term(0) .. term(count - 1).
template <class T, class Term, class... Arrays>
double run_sum(std::int64_t count, Term&& term, const Arrays*... arrays) {
  RunSum<T> sum;
  for_each_run(
      count, [&](std::int64_t j, int lane) { sum.add(lane, term(j)); }, [&] { sum.end_run(); }, arrays...);
  return sum.total();
}

}  // namespace STABLEQAT_ISA
}  // namespace stableqat::kernels
