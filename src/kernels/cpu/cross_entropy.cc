#include "stableqat/kernels/cross_entropy.h"

#include <cfloat>
#include <cmath>

#include "kernels/cpu/exp.h"
#include "kernels/isa_table.h"
#include "kernels/parallel.h"

namespace stableqat::kernels::STABLEQAT_ISA {

namespace {

// A row is walked in pieces that stay in the first-level cache while several loops go over them.
constexpr std::int64_t kPiece = 1024;

template <class Body>
inline void for_each_piece(std::int64_t columns, Body&& body) {
  for (std::int64_t first = 0; first < columns; first += kPiece) body(first, columns - first < kPiece ? columns - first : kPiece);
}

float max_of(std::int64_t count, const float* x) {
  float result = -FLT_MAX;
#pragma omp simd reduction(max : result)
  for (std::int64_t j = 0; j < count; ++j) result = x[j] > result ? x[j] : result;
  return result;
}

// sum of exp(rate * x - shift)
float sum_of_exp(std::int64_t count, const float* x, float rate, float shift) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < count; ++j) sum += exp_nonpositive(rate * x[j] - shift);
  return sum;
}

// sums[k] = sum of exp(rates[k] * x - rates[k] * max) over a row and its maximum, in one pass over memory: a new maximum rescales the sums.
template <int n>
struct Normalizer {
  float max = -FLT_MAX;
  double sums[n] = {};

  Normalizer(std::int64_t columns, const float* x, const float (&rates)[n]) {
    for_each_piece(columns, [&](std::int64_t first, std::int64_t count) {
      const float piece_max = max_of(count, x + first);
      const float old_max = max;
      if (piece_max > max) max = piece_max;
      for (int k = 0; k < n; ++k) {
        if (max > old_max) sums[k] *= static_cast<double>(exp_nonpositive(rates[k] * old_max - rates[k] * max));
        sums[k] += static_cast<double>(sum_of_exp(count, x + first, rates[k], rates[k] * max));
      }
    });
  }

  // log softmax of a logit of the row, at rate 1 (the first one).
  double log_prob(float logit) const { return static_cast<double>(logit) - static_cast<double>(max) - std::log(sums[0]); }
};

constexpr float kRateOne[1] = {1.0F};

void log_probs(std::int64_t rows, std::int64_t columns, const float* logits, const std::int64_t* targets, float* log_probs) {
#pragma omp parallel for schedule(static) if (worth_sharing(rows, columns))
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* x = logits + row * columns;
    log_probs[row] = static_cast<float>(Normalizer<1>(columns, x, kRateOne).log_prob(x[targets[row]]));
  }
}

void gradient_in_place(std::int64_t rows, std::int64_t columns, const std::int64_t* targets, float scale, float* logits, double* losses) {
#pragma omp parallel for schedule(static) if (worth_sharing(rows, columns))
  for (std::int64_t row = 0; row < rows; ++row) {
    float* x = logits + row * columns;
    const Normalizer<1> normalizer(columns, x, kRateOne);
    losses[row] = -normalizer.log_prob(x[targets[row]]);
    const float max = normalizer.max;
    const float factor = static_cast<float>(static_cast<double>(scale) / normalizer.sums[0]);
#pragma omp simd
    for (std::int64_t j = 0; j < columns; ++j) x[j] = factor * exp_nonpositive(x[j] - max);
    x[targets[row]] -= scale;
  }
}

// What turns a row of student and teacher logits into the gradient.
struct DistilledRow {
  float rate;  // 1 / temperature
  float student_max;
  float student_shift;  // rate * student_max, as the sums were taken
  float teacher_shift;
  float data_factor;       // scale * (1 - weight) / sum of exp(x - student_max)
  float divergence_scale;  // scale * weight * temperature
  float student_inverse;   // 1 / sum of exp(rate * x - student_shift)
  float teacher_inverse;
  float log_ratio;  // log of the student's softened sum over the teacher's

  DistilledRow(const Normalizer<2>& student, const Normalizer<1>& teacher, const DistillationTerms& terms, float scale)
      : rate(1.0F / terms.temperature),
        student_max(student.max),
        student_shift(rate * student.max),
        teacher_shift(rate * teacher.max),
        data_factor(static_cast<float>(static_cast<double>(scale * (1.0F - terms.weight)) / student.sums[0])),
        divergence_scale(scale * terms.weight * terms.temperature),
        student_inverse(static_cast<float>(1.0 / student.sums[1])),
        teacher_inverse(static_cast<float>(1.0 / teacher.sums[0])),
        log_ratio(static_cast<float>(std::log(student.sums[1] / teacher.sums[0]))) {}

  // Overwrites x and returns the piece's share of the divergence of the softened distributions.
  float store(std::int64_t count, const float* teacher, float* x) const {
    float divergence = 0.0F;
#pragma omp simd reduction(+ : divergence)
    for (std::int64_t j = 0; j < count; ++j) {
      const float own = rate * x[j] - student_shift;
      const float wanted = rate * teacher[j] - teacher_shift;
      const float own_prob = student_inverse * exp_nonpositive(own);
      const float wanted_prob = teacher_inverse * exp_nonpositive(wanted);
      divergence += wanted_prob * ((wanted - own) + log_ratio);
      x[j] = data_factor * exp_nonpositive(x[j] - student_max) + divergence_scale * (own_prob - wanted_prob);
    }
    return divergence;
  }
};

void distilled_gradient_in_place(std::int64_t rows, std::int64_t columns, const std::int64_t* targets, const DistillationTerms& terms,
                                 float scale, const float* teacher, float* logits, double* losses, double* divergences) {
  const float rate = 1.0F / terms.temperature;
#pragma omp parallel for schedule(static) if (worth_sharing(rows, columns))
  for (std::int64_t row = 0; row < rows; ++row) {
    float* x = logits + row * columns;
    const float* wanted = teacher + row * columns;
    const Normalizer<2> student_sums(columns, x, {1.0F, rate});
    losses[row] = -student_sums.log_prob(x[targets[row]]);
    const DistilledRow distilled(student_sums, Normalizer<1>(columns, wanted, {rate}), terms, scale);
    double divergence = 0.0;
    for_each_piece(columns, [&](std::int64_t first, std::int64_t count) {
      divergence += static_cast<double>(distilled.store(count, wanted + first, x + first));
    });
    x[targets[row]] -= scale * (1.0F - terms.weight);
    divergences[row] = divergence * static_cast<double>(terms.temperature) * static_cast<double>(terms.temperature);
  }
}

}  // namespace

extern const CrossEntropyKernels cross_entropy_table = {log_probs, gradient_in_place, distilled_gradient_in_place};

}  // namespace stableqat::kernels::STABLEQAT_ISA
