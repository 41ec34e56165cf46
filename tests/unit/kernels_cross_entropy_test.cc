// Loss kernels against their formulas in double. A probability is off by what its exponent is off (units of the exponent's terms) and by
// the error of the normalizing sum; the bounds below add these up.
#include "stableqat/kernels/cross_entropy.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "../support/kernel_test.h"

namespace stableqat::kernels {
namespace {

using testing::kUnit;
using testing::normal_values;

struct Softmax {
  Softmax(const float* x, std::int64_t count, double rate) : rate_(rate) {
    double max = -std::numeric_limits<double>::infinity();
    for (std::int64_t j = 0; j < count; ++j) max = std::max(max, rate * x[j]);
    double sum = 0.0;
    for (std::int64_t j = 0; j < count; ++j) {
      sum += std::exp(rate * x[j] - max);
      largest_ = std::max(largest_, std::abs(rate * x[j]));
    }
    log_sum_ = max + std::log(sum);
    // Exponents are rounded three times, exp twice (2 ulp), and at most 1024 terms are added in float; then their probability is a product.
    error = (6 * largest_ + 4 + std::min<double>(static_cast<double>(count), 1024) + 3) * kUnit;
  }
  double log_prob(double logit) const { return rate_ * logit - log_sum_; }
  double prob(double logit) const { return std::exp(log_prob(logit)); }

  double error = 0.0;  // relative, of a probability computed in float

 private:
  double rate_;
  double largest_ = 0.0;
  double log_sum_;
};

constexpr double kFlushed = 0x1p-125;  // exponentials below are zero

struct Rows {
  Rows(std::int64_t row_count, std::int64_t column_count) : rows(row_count), columns(column_count) {
    logits = normal_values(rows * columns, 11, 4.0F);
    teacher = normal_values(rows * columns, 12, 4.0F);
    for (std::size_t i = 0; i < logits.size(); ++i) teacher[i] = 0.5F * (teacher[i] + logits[i]);
    for (std::int64_t row = 0; row < rows; ++row) {
      targets.push_back((row * 7919 + columns - 1) % columns);
      // Every third row rises, so that the maximum changes from piece to piece; every fifth has a spread that no exp survives.
      float* x = logits.data() + row * columns;
      if (row % 3 == 1) std::sort(x, x + columns);
      if (row % 5 == 2) x[columns / 2] = 1000.0F;
    }
    losses.resize(static_cast<std::size_t>(rows));
    divergences = losses;
  }

  std::int64_t rows;
  std::int64_t columns;
  std::vector<float> logits, teacher;
  std::vector<std::int64_t> targets;
  std::vector<double> losses, divergences;
};

template <class Check>
void for_each_case(Check&& check) {
  for (const Isa isa : testing::supported_isas()) {
    for (const auto& [rows, columns] : {std::pair{1, 1}, {3, 5}, {7, 1023}, {6, 1025}, {40, 5001}}) {
      SCOPED_TRACE(std::string(isa_name(isa)) + " " + std::to_string(rows) + " x " + std::to_string(columns));
      check(isa, Rows(rows, columns));
    }
  }
}

TEST(CrossEntropyKernels, GradientAndLossFollowTheFormulas) {
  for_each_case([](Isa isa, const Rows& before) {
    const float scale = 0.37F;
    Rows after(before);
    std::vector<float> log_probs(after.losses.size());
    cross_entropy_kernels(isa).log_probs(before.rows, before.columns, before.logits.data(), before.targets.data(), log_probs.data());
    cross_entropy_kernels(isa).gradient_in_place(after.rows, after.columns, after.targets.data(), scale, after.logits.data(),
                                                 after.losses.data());
    for (std::int64_t row = 0; row < before.rows; ++row) {
      const float* x = before.logits.data() + row * before.columns;
      const Softmax softmax(x, before.columns, 1.0);
      const std::int64_t target = before.targets[static_cast<std::size_t>(row)];
      const double loss = -softmax.log_prob(x[target]);
      ASSERT_NEAR(after.losses[static_cast<std::size_t>(row)], loss, softmax.error);
      ASSERT_NEAR(log_probs[static_cast<std::size_t>(row)], -loss, softmax.error + kUnit * loss);
      for (std::int64_t j = 0; j < before.columns; ++j) {
        const double p = softmax.prob(x[j]);
        ASSERT_NEAR(after.logits[static_cast<std::size_t>(row * before.columns + j)], scale * (p - (j == target)),
                    scale * (softmax.error * p + kUnit * (j == target) + kFlushed))
            << row << " " << j;
      }
    }
  });
}

TEST(CrossEntropyKernels, DistilledGradientAndDivergenceFollowTheFormulas) {
  const DistillationTerms terms{0.3F, 2.5F};
  const double temperature = terms.temperature;
  const double weight = terms.weight;
  for_each_case([&](Isa isa, const Rows& before) {
    const float scale = 0.37F;
    Rows after(before);
    cross_entropy_kernels(isa).distilled_gradient_in_place(after.rows, after.columns, after.targets.data(), terms, scale,
                                                           after.teacher.data(), after.logits.data(), after.losses.data(),
                                                           after.divergences.data());
    for (std::int64_t row = 0; row < before.rows; ++row) {
      const auto index = static_cast<std::size_t>(row);
      const float* x = before.logits.data() + row * before.columns;
      const float* wanted = before.teacher.data() + row * before.columns;
      const Softmax hard(x, before.columns, 1.0);
      const Softmax soft(x, before.columns, 1.0 / temperature);
      const Softmax teacher(wanted, before.columns, 1.0 / temperature);
      const double error = soft.error + teacher.error + 8 * kUnit;
      const std::int64_t target = before.targets[index];
      double divergence = 0.0;
      double magnitude = 0.0;
      for (std::int64_t j = 0; j < before.columns; ++j) {
        const double p = teacher.prob(wanted[j]);
        const double difference = teacher.log_prob(wanted[j]) - soft.log_prob(x[j]);
        divergence += p * difference;
        magnitude += p * std::abs(difference);
        const double data = scale * (1 - weight) * (hard.prob(x[j]) - (j == target));
        const double pull = scale * weight * temperature * (soft.prob(x[j]) - p);
        const double bound = scale * (1 - weight) * (hard.error * hard.prob(x[j]) + 4 * kUnit * (j == target)) +
                             scale * weight * temperature * error * (soft.prob(x[j]) + p) + scale * kFlushed * 4;
        ASSERT_NEAR(after.logits[static_cast<std::size_t>(row * before.columns + j)], data + pull, bound) << row << " " << j;
      }
      ASSERT_NEAR(after.losses[index], -hard.log_prob(x[target]), hard.error);
      const double bound = error + magnitude * (error + std::min<double>(static_cast<double>(before.columns), 1024) * kUnit);
      ASSERT_NEAR(after.divergences[index], temperature * temperature * divergence, temperature * temperature * bound);
    }
  });
}

TEST(CrossEntropyKernels, NanSpoilsItsRowOnlyAndThreadsChangeNoBit) {
  const int threads = omp_get_max_threads();
  for (const Isa isa : testing::supported_isas()) {
    const CrossEntropyKernels& kernels = cross_entropy_kernels(isa);
    Rows one(9, 5001);
    one.logits[4 * 5001 + 3000] = std::numeric_limits<float>::quiet_NaN();
    one.logits[6 * 5001 + 77] = std::numeric_limits<float>::infinity();
    Rows three(one);
    omp_set_num_threads(1);
    kernels.gradient_in_place(9, 5001, one.targets.data(), 1.0F, one.logits.data(), one.losses.data());
    omp_set_num_threads(3);
    kernels.gradient_in_place(9, 5001, three.targets.data(), 1.0F, three.logits.data(), three.losses.data());
    for (std::size_t row = 0; row < 9; ++row) {
      const bool spoiled = row == 4 || row == 6;
      EXPECT_EQ(std::isnan(one.losses[row]), spoiled);
      for (std::size_t j = 0; j < 5001; ++j) {
        if (spoiled) {
          ASSERT_TRUE(std::isnan(one.logits[row * 5001 + j])) << row << " " << j;
        } else {
          ASSERT_EQ(one.logits[row * 5001 + j], three.logits[row * 5001 + j]);
        }
      }
      EXPECT_TRUE(spoiled || one.losses[row] == three.losses[row]);
    }
  }
  omp_set_num_threads(threads);
}

}  // namespace
}  // namespace stableqat::kernels
