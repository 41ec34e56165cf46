#include "stableqat/kernels/cross_entropy.h"

#include <cfloat>
#include <cmath>

#include "kernels/cpu/exp2.h"
#include "kernels/parallel.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

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

// sum of 2^(rate * x - shift)
float sum_of_powers(std::int64_t count, const float* x, float rate, float shift) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < count; ++j) sum += exp2_nonpositive(rate * x[j] - shift);
  return sum;
}

// The softmax of rate * x over a row of logits x is 2^(power_rate * x - shift) / sum.
struct Softened {
  explicit Softened(float rate) : power_rate(kLog2E * rate) {}

  // Adds a piece of the row, whose maximum so far is `max`; a new maximum rescales the sum.
  void add(std::int64_t count, const float* x, float max) {
    const float new_shift = power_rate * max;
    sum = sum * static_cast<double>(exp2_nonpositive(shift - new_shift)) +
          static_cast<double>(sum_of_powers(count, x, power_rate, new_shift));
    shift = new_shift;
  }

  double log_prob(float logit) const {
    const double exponent = static_cast<double>(power_rate) * static_cast<double>(logit) - static_cast<double>(shift);
    return exponent / static_cast<double>(kLog2E) - std::log(sum);
  }

  float power_rate;
  float shift = -FLT_MAX;
  double sum = 0.0;
};

// Reads a row once for all the softmaxes wanted of it.
template <class... Softmax>
void normalize(std::int64_t columns, const float* x, Softmax&... softmax) {
  float max = -FLT_MAX;
  for_each_piece(columns, [&](std::int64_t first, std::int64_t count) {
    const float piece_max = max_of(count, x + first);
    if (piece_max > max) max = piece_max;
    (softmax.add(count, x + first, max), ...);
  });
}

void log_probs(std::int64_t rows, std::int64_t columns, const float* logits, const std::int64_t* targets, float* log_probs) {
#pragma omp parallel for schedule(static) if (worth_sharing(rows, columns))
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* x = logits + row * columns;
    Softened softmax(1.0F);
    normalize(columns, x, softmax);
    log_probs[row] = static_cast<float>(softmax.log_prob(x[targets[row]]));
  }
}

void gradient_in_place(std::int64_t rows, std::int64_t columns, const std::int64_t* targets, float scale, float* logits, double* losses) {
#pragma omp parallel for schedule(static) if (worth_sharing(rows, columns))
  for (std::int64_t row = 0; row < rows; ++row) {
    float* x = logits + row * columns;
    Softened softmax(1.0F);
    normalize(columns, x, softmax);
    losses[row] = -softmax.log_prob(x[targets[row]]);
    const float factor = static_cast<float>(static_cast<double>(scale) / softmax.sum);
    const float shift = softmax.shift;
#pragma omp simd
    for (std::int64_t j = 0; j < columns; ++j) x[j] = factor * exp2_nonpositive(kLog2E * x[j] - shift);
    x[targets[row]] -= scale;
  }
}

// The second pass over a row of student and teacher logits.
struct DistilledRow {
  float data_shift;     // of the student's softmax at temperature 1
  float data_factor;    // scale * (1 - weight) / its sum
  float rate;           // log2(e) / temperature
  float student_shift;  // of the softened ones
  float teacher_shift;
  float student_inverse;  // 1 / sum
  float teacher_inverse;
  float log2_ratio;        // of the student's sum to the teacher's
  float divergence_scale;  // scale * weight * temperature

  DistilledRow(const Softened& data, const Softened& student, const Softened& teacher, const DistillationTerms& terms, float scale)
      : data_shift(data.shift),
        data_factor(static_cast<float>(static_cast<double>(scale * (1.0F - terms.weight)) / data.sum)),
        rate(student.power_rate),
        student_shift(student.shift),
        teacher_shift(teacher.shift),
        student_inverse(static_cast<float>(1.0 / student.sum)),
        teacher_inverse(static_cast<float>(1.0 / teacher.sum)),
        log2_ratio(static_cast<float>(std::log2(student.sum / teacher.sum))),
        divergence_scale(scale * terms.weight * terms.temperature) {}

  // Overwrites x and returns the piece's share of the divergence of the softened distributions, in bits.
  float store(std::int64_t count, const float* teacher, float* x) const {
    float divergence = 0.0F;
#pragma omp simd reduction(+ : divergence)
    for (std::int64_t j = 0; j < count; ++j) {
      const float own = rate * x[j] - student_shift;
      const float wanted = rate * teacher[j] - teacher_shift;
      const float own_prob = student_inverse * exp2_nonpositive(own);
      const float wanted_prob = teacher_inverse * exp2_nonpositive(wanted);
      divergence += wanted_prob * ((wanted - own) + log2_ratio);
      x[j] = data_factor * exp2_nonpositive(kLog2E * x[j] - data_shift) + divergence_scale * (own_prob - wanted_prob);
    }
    return divergence;
  }
};

void distilled_gradient_in_place(std::int64_t rows, std::int64_t columns, const std::int64_t* targets, const DistillationTerms& terms,
                                 float scale, const float* teacher, float* logits, double* losses, double* divergences) {
  const double nats = static_cast<double>(terms.temperature) * static_cast<double>(terms.temperature) / static_cast<double>(kLog2E);
#pragma omp parallel for schedule(static) if (worth_sharing(rows, columns))
  for (std::int64_t row = 0; row < rows; ++row) {
    float* x = logits + row * columns;
    const float* wanted = teacher + row * columns;
    Softened data(1.0F);
    Softened student(1.0F / terms.temperature);
    Softened softened_teacher(1.0F / terms.temperature);
    normalize(columns, x, data, student);
    normalize(columns, wanted, softened_teacher);
    losses[row] = -data.log_prob(x[targets[row]]);
    const DistilledRow distilled(data, student, softened_teacher, terms, scale);
    double divergence = 0.0;
    for_each_piece(columns, [&](std::int64_t first, std::int64_t count) {
      divergence += static_cast<double>(distilled.store(count, wanted + first, x + first));
    });
    x[targets[row]] -= scale * (1.0F - terms.weight);
    divergences[row] = divergence * nats;
  }
}

}  // namespace

extern const CrossEntropyKernels cross_entropy_table = {log_probs, gradient_in_place, distilled_gradient_in_place};

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
