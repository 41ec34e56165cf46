// Rows of logits and their losses, as in kernels/cross_entropy.h; T is the type of the logits.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/cuda/element.h"
#include "stableqat/kernels/cross_entropy.h"
#include "stableqat/kernels/host_device.h"

namespace stableqat::kernels::cuda {

// log softmax(rate * x)[j] = rate * x[j] - log_sum.
struct Softmax {
  float rate;
  float log_sum;

  STABLEQAT_HOST_DEVICE float log_probability(float logit) const { return rate * logit - log_sum; }
  STABLEQAT_HOST_DEVICE float probability(float logit) const { return std::exp(log_probability(logit)); }
};

// Reads the row once: every member keeps the maximum of its own elements and rescales its sum when that grows.
template <class Team, class T>
STABLEQAT_HOST_DEVICE Softmax softmax_of_row(const Team& team, std::int64_t columns, const T* x, float rate) {
  float max = -std::numeric_limits<float>::max();
  float sum = 0.0F;
  for (std::int64_t j = team.rank(); j < columns; j += team.size()) {
    const float value = rate * to_float(x[j]);
    if (value > max) {
      sum *= std::exp(max - value);
      max = value;
    }
    sum += std::exp(value - max);
  }
  const float largest = team.max(max);
  return {rate, largest + std::log(team.sum(sum * std::exp(max - largest)))};
}

template <class Team, class T>
STABLEQAT_HOST_DEVICE void log_prob_of_row(const Team& team, std::int64_t columns, const T* logits, std::int64_t target, float* log_prob) {
  const Softmax softmax = softmax_of_row(team, columns, logits, 1.0F);
  if (team.rank() == 0) *log_prob = softmax.log_probability(to_float(logits[target]));
}

// *loss of a row, and its logits turned into their gradient.
template <class Team, class T>
STABLEQAT_HOST_DEVICE void cross_entropy_row(const Team& team, std::int64_t columns, std::int64_t target, float scale, T* logits,
                                             double* loss) {
  const Softmax softmax = softmax_of_row(team, columns, logits, 1.0F);
  for (std::int64_t j = team.rank(); j < columns; j += team.size()) {
    const float logit = to_float(logits[j]);
    if (j == target) *loss = -static_cast<double>(softmax.log_probability(logit));
    logits[j] = from_float<T>(scale * (softmax.probability(logit) - (j == target ? 1.0F : 0.0F)));
  }
}

// The same with the teacher's part.
template <class Team, class T>
STABLEQAT_HOST_DEVICE void distilled_row(const Team& team, std::int64_t columns, std::int64_t target, const DistillationTerms& terms,
                                         float scale, const T* teacher, T* logits, double* loss, double* divergence) {
  const float rate = 1.0F / terms.temperature;
  const Softmax plain = softmax_of_row(team, columns, logits, 1.0F);
  const Softmax student = softmax_of_row(team, columns, logits, rate);
  const Softmax wanted = softmax_of_row(team, columns, teacher, rate);
  float sum = 0.0F;
  for (std::int64_t j = team.rank(); j < columns; j += team.size()) {
    const float logit = to_float(logits[j]);
    const float teacher_logit = to_float(teacher[j]);
    if (j == target) *loss = -static_cast<double>(plain.log_probability(logit));
    const float probability = wanted.probability(teacher_logit);
    sum += probability * (wanted.log_probability(teacher_logit) - student.log_probability(logit));
    const float of_data = plain.probability(logit) - (j == target ? 1.0F : 0.0F);
    const float of_teacher = terms.temperature * (student.probability(logit) - probability);
    logits[j] = from_float<T>(scale * ((1.0F - terms.weight) * of_data + terms.weight * of_teacher));
  }
  const float total = team.sum(sum);
  if (team.rank() == 0) *divergence = static_cast<double>(terms.temperature * terms.temperature * total);
}

}  // namespace stableqat::kernels::cuda
