// Every instruction set's attention against plain softmax attention in float64.
#include "stableqat/kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <ostream>
#include <random>
#include <vector>

namespace stableqat::kernels {

void PrintTo(const AttentionShape& s, std::ostream* out) {
  *out << "B" << s.batch << " T" << s.tokens << " S" << s.keys << " H" << s.heads << " K" << s.kv_heads << " D" << s.head_size;
}

namespace {

using Values = std::vector<float>;

// Where the heads of a tensor lie: one after the other with a gap after each token, or head by head ([B, H, T, D]).
enum class Order { kTokens, kHeads };

// A [B, T, H, D] tensor in some memory layout.
struct Heads {
  Heads(std::int64_t batch, std::int64_t tokens, std::int64_t heads, std::int64_t head_size, Order order)
      : sizes{batch, tokens, heads, head_size} {
    constexpr std::int64_t kGap = 5;
    const std::int64_t token = heads * head_size + kGap;
    strides = order == Order::kTokens ? HeadStrides{tokens * token, token, head_size}
                                      : HeadStrides{tokens * heads * head_size, head_size, tokens * head_size};
    values.assign(static_cast<std::size_t>(batch * strides.batch), std::numeric_limits<float>::quiet_NaN());
  }

  std::size_t index(std::int64_t b, std::int64_t t, std::int64_t h) const {
    return static_cast<std::size_t>(b * strides.batch + t * strides.token + h * strides.head);
  }
  HeadView<const float> view() const { return {values.data(), strides}; }
  HeadView<float> view() { return {values.data(), strides}; }

  template <class Body>
  void for_each(const Body& body) {
    for (std::int64_t b = 0; b < sizes[0]; ++b) {
      for (std::int64_t t = 0; t < sizes[1]; ++t) {
        for (std::int64_t h = 0; h < sizes[2]; ++h) {
          for (std::int64_t d = 0; d < sizes[3]; ++d) body(values[index(b, t, h) + static_cast<std::size_t>(d)]);
        }
      }
    }
  }

  std::int64_t sizes[4];
  HeadStrides strides;
  Values values;
};

struct FreeDeleter {
  void operator()(float* memory) const { std::free(memory); }
};
std::unique_ptr<float, FreeDeleter> aligned(std::int64_t count) {
  const auto bytes = static_cast<std::size_t>((count + 15) / 16 * 64);
  return std::unique_ptr<float, FreeDeleter>(static_cast<float*>(std::aligned_alloc(64, bytes)));
}

struct Inputs {
  Inputs(const AttentionShape& s, Order order, float spread)
      : shape(s),
        scale(1.0F / std::sqrt(static_cast<float>(s.head_size))),
        q(s.batch, s.tokens, s.heads, s.head_size, order),
        k(s.batch, s.keys, s.kv_heads, s.head_size, order),
        v(s.batch, s.keys, s.kv_heads, s.head_size, order),
        d_out(s.batch, s.tokens, s.heads, s.head_size, order) {
    std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    for (Heads* heads : {&q, &k, &v, &d_out}) heads->for_each([&](float& value) { value = normal(generator); });
    q.for_each([&](float& value) { value *= spread; });
  }

  AttentionShape shape;
  float scale;
  Heads q, k, v, d_out;
};

struct Results {
  Results(const Inputs& in, Order order, const AttentionKernels& kernels, int threads)
      : out(in.q.sizes[0], in.q.sizes[1], in.q.sizes[2], in.q.sizes[3], order),
        dq(out),
        dk(in.k.sizes[0], in.k.sizes[1], in.k.sizes[2], in.k.sizes[3], order),
        dv(dk),
        lse(static_cast<std::size_t>(in.shape.batch * in.shape.heads * in.shape.tokens)) {
    const auto q = std::as_const(in.q).view();
    const auto k = in.k.view();
    const auto v = in.v.view();
    kernels.forward(in.shape, in.scale, q, k, v, out.view(), lse.data(), aligned(kernels.forward_scratch(in.shape, threads)).get(),
                    threads);
    kernels.backward(in.shape, in.scale, q, k, v, std::as_const(out).view(), lse.data(), in.d_out.view(), dq.view(), dk.view(), dv.view(),
                     aligned(kernels.backward_scratch(in.shape, threads)).get(), threads);
  }

  // What one_query() makes of it, for a single token.
  static Heads query_results(const Inputs& in, const AttentionKernels& kernels) {
    Heads out = in.q;
    Values scores(static_cast<std::size_t>(in.shape.keys));
    for (std::int64_t b = 0; b < in.shape.batch; ++b) {
      for (std::int64_t h = 0; h < in.shape.heads; ++h) {
        const std::int64_t kv_head = h / (in.shape.heads / in.shape.kv_heads);
        kernels.one_query(in.shape.keys, in.shape.head_size, in.scale, in.q.values.data() + in.q.index(b, 0, h),
                          in.k.values.data() + in.k.index(b, 0, kv_head), in.k.strides.token,
                          in.v.values.data() + in.v.index(b, 0, kv_head), in.v.strides.token, out.values.data() + out.index(b, 0, h),
                          scores.data());
      }
    }
    return out;
  }

  Heads out, dq, dk, dv;
  Values lse;
};

// A number with the sum of the magnitudes of its terms, which its rounding error is proportional to, and what may be lost where the terms
// are too small for float32.
struct Sum {
  void add(const Sum& a, double b) {
    value += a.value * b;
    size += a.size * std::abs(b);
    underflow += a.underflow * std::abs(b);
  }
  double value = 0;
  double size = 0;
  double underflow = 0;
};

// The definition, in float64, with bounds for what float32 makes of it. A sum of n terms is off by at most u n times their magnitudes, and
// nearly always by less than 8 u sqrt(n) times (Higham & Mary, "A new approach to probabilistic rounding error analysis", 2019).
class Reference {
 public:
  explicit Reference(const Inputs& in)
      : in_(in), d_(in.shape.head_size), out_(in.q.values.size()), dq_(out_.size()), dk_(in.k.values.size()), dv_(dk_.size()) {
    const AttentionShape& s = in.shape;
    for (std::int64_t b = 0; b < s.batch; ++b) {
      for (std::int64_t h = 0; h < s.heads; ++h) {
        for (std::int64_t t = 0; t < s.tokens; ++t) add_row(b, h, t);
      }
    }
  }

  void expect_near(const Results& results) const {
    for (std::size_t i = 0; i < lse_.size(); ++i) ASSERT_NEAR(results.lse[i], lse_[i], lse_bound_[i]) << "lse " << i;
    compare("out", results.out, out_);
    compare("dq", results.dq, dq_);
    compare("dk", results.dk, dk_);
    compare("dv", results.dv, dv_);
  }

  void expect_near(const Heads& query_results) const { compare("one query", query_results, out_); }

 private:
  static constexpr double kSmallest = std::numeric_limits<float>::min();

  static double rounding(std::int64_t terms) { return 8 * 0x1p-24 * std::sqrt(static_cast<double>(terms)); }

  double dot(const Heads& a, std::size_t i, const Heads& b, std::size_t j, double* size) const {
    double sum = 0;
    *size = 0;
    for (std::size_t c = 0; c < static_cast<std::size_t>(d_); ++c) {
      const double term = static_cast<double>(a.values[i + c]) * b.values[j + c];
      sum += term;
      *size += std::abs(term);
    }
    return sum;
  }

  void add_row(std::int64_t b, std::int64_t h, std::int64_t t) {
    const AttentionShape& s = in_.shape;
    const std::int64_t head = h / (s.heads / s.kv_heads);
    const auto seen = static_cast<std::size_t>(s.keys - s.tokens + t + 1);
    const std::size_t row = in_.q.index(b, t, h);
    std::vector<double> p(seen);
    double score_error = 0;  // of any score of this row: what it is off, and so the relative error of a probability
    for (std::size_t j = 0; j < seen; ++j) {
      double size = 0;
      p[j] = in_.scale * dot(in_.q, row, in_.k, in_.k.index(b, static_cast<std::int64_t>(j), head), &size);
      score_error = std::max(score_error, in_.scale * size * rounding(d_));
    }
    const double largest = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (double& value : p) sum += value = std::exp(value - largest);
    for (double& value : p) value /= sum;
    lse_.push_back(largest + std::log(sum));
    const double p_error = 2 * score_error + rounding(s.keys);
    lse_bound_.push_back(p_error + std::abs(lse_.back()) * 0x1p-22);
    // Gradients take p twice, once in delta, and are sums over D, keys or rows.
    error_ = std::max(error_, 2 * p_error + rounding(d_) + rounding(s.tokens * s.heads / s.kv_heads));

    double delta = 0;
    double delta_size = 0;
    for (std::size_t c = 0; c < static_cast<std::size_t>(d_); ++c) {
      for (std::size_t j = 0; j < seen; ++j) {
        const double value = in_.v.values[in_.v.index(b, static_cast<std::int64_t>(j), head) + c];
        out_[row + c].add({p[j], p[j], kSmallest}, value);
      }
      delta += out_[row + c].value * in_.d_out.values[row + c];
      delta_size += out_[row + c].size * std::abs(in_.d_out.values[row + c]);
    }
    for (std::size_t j = 0; j < seen; ++j) {
      const std::size_t key = in_.k.index(b, static_cast<std::int64_t>(j), head);
      double dp_size = 0;
      const double dp = dot(in_.d_out, row, in_.v, key, &dp_size);
      const double slope_size = in_.scale * (dp_size + delta_size);
      const Sum ds{in_.scale * p[j] * (dp - delta), p[j] * slope_size, kSmallest * (1 + slope_size)};
      for (std::size_t c = 0; c < static_cast<std::size_t>(d_); ++c) {
        dq_[row + c].add(ds, in_.k.values[key + c]);
        dk_[key + c].add(ds, in_.q.values[row + c]);
        dv_[key + c].add({p[j], p[j], kSmallest}, in_.d_out.values[row + c]);
      }
    }
  }

  void compare(const char* name, const Heads& found, const std::vector<Sum>& expected) const {
    for (std::int64_t b = 0; b < found.sizes[0]; ++b) {
      for (std::int64_t t = 0; t < found.sizes[1]; ++t) {
        for (std::int64_t h = 0; h < found.sizes[2]; ++h) {
          for (std::int64_t c = 0; c < d_; ++c) {
            // Inputs and results of a call have the same strides.
            const std::size_t i = found.index(b, t, h) + static_cast<std::size_t>(c);
            ASSERT_NEAR(found.values[i], expected[i].value, error_ * expected[i].size + expected[i].underflow)
                << name << " at batch " << b << ", token " << t << ", head " << h << ", element " << c;
          }
        }
      }
    }
  }

  const Inputs& in_;
  std::int64_t d_;
  std::vector<Sum> out_, dq_, dk_, dv_;  // where the kernels' tensors have the same element
  std::vector<double> lse_, lse_bound_;
  double error_ = 0;
};

std::vector<Isa> supported() {
  std::vector<Isa> isas;
  for (const Isa isa : kAllIsas) {
    if (isa <= std::min(best_isa(), Isa::kAvx512)) isas.push_back(isa);
  }
  return isas;
}

void expect_definition(const AttentionShape& shape, Order order, float spread) {
  const Inputs in(shape, order, spread);
  const Reference reference(in);
  for (const Isa isa : supported()) {
    SCOPED_TRACE(isa_name(isa));
    reference.expect_near(Results(in, order, attention_kernels(isa), 2));
    if (shape.tokens == 1) reference.expect_near(Results::query_results(in, attention_kernels(isa)));
  }
}

class AttentionTest : public ::testing::TestWithParam<AttentionShape> {};

TEST_P(AttentionTest, IsItsDefinition) { expect_definition(GetParam(), Order::kTokens, 1.0F); }

// Batch, tokens, keys, heads, key/value heads, head size.
INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest,
                         ::testing::Values(AttentionShape{2, 70, 70, 3, 1, 64},    // groups of 3, a tile and a bit
                                           AttentionShape{1, 130, 130, 3, 3, 80},  // no groups, two spans
                                           AttentionShape{1, 33, 200, 4, 1, 96},   // more keys than queries
                                           AttentionShape{2, 40, 40, 8, 1, 128},   // groups of 8
                                           AttentionShape{1, 300, 300, 2, 1, 24},  // half a vector beside whole ones
                                           AttentionShape{1, 64, 64, 1, 1, 64},    // exactly one tile
                                           AttentionShape{1, 40, 2300, 1, 1, 16},  // spans of more than one block
                                           AttentionShape{2, 1, 77, 9, 3, 64},     // one new token
                                           AttentionShape{1, 1, 1, 1, 1, 8},       // nothing to choose from
                                           AttentionShape{1, 1, 130, 2, 1, 91},    // whole vectors and a remainder
                                           AttentionShape{1, 9, 9, 40, 2, 256},    // groups of 20, long heads
                                           AttentionShape{1, 65, 67, 2, 2, 7}));   // nothing is a multiple of anything

TEST(Attention, TakesHeadsBeforeTokens) { expect_definition({2, 50, 90, 6, 2, 64}, Order::kHeads, 1.0F); }

// Scores far beyond the range of exp: only differences count.
TEST(Attention, SharpDistributionsStayExact) { expect_definition({1, 100, 100, 2, 1, 64}, Order::kTokens, 100.0F); }

TEST(Attention, ResultsDoNotDependOnTheNumberOfThreads) {
  const Inputs in({2, 200, 300, 6, 2, 48}, Order::kHeads, 1.0F);
  for (const Isa isa : supported()) {
    const Results one(in, Order::kHeads, attention_kernels(isa), 1);
    for (const int threads : {2, 3}) {
      const Results more(in, Order::kHeads, attention_kernels(isa), threads);
      EXPECT_EQ(one.out.values, more.out.values);
      EXPECT_EQ(one.lse, more.lse);
      EXPECT_EQ(one.dq.values, more.dq.values);
      EXPECT_EQ(one.dk.values, more.dk.values);
      EXPECT_EQ(one.dv.values, more.dv.values);
    }
  }
}

// Whatever keys and whatever finite values come later do not reach a query.
TEST(Attention, UnseenKeysDoNotMatter) {
  Inputs in({1, 50, 50, 2, 1, 64}, Order::kTokens, 1.0F);
  for (const Isa isa : supported()) {
    const Results before(in, Order::kTokens, attention_kernels(isa), 1);
    Inputs changed = in;
    std::fill_n(changed.k.values.begin() + static_cast<std::ptrdiff_t>(changed.k.index(0, 49, 0)), 64,
                std::numeric_limits<float>::quiet_NaN());
    std::fill_n(changed.v.values.begin() + static_cast<std::ptrdiff_t>(changed.v.index(0, 49, 0)), 64, 1e30F);
    const Results after(changed, Order::kTokens, attention_kernels(isa), 1);
    const std::size_t last = in.q.index(0, 49, 0);
    EXPECT_TRUE(std::equal(before.lse.begin(), before.lse.begin() + 49, after.lse.begin()));
    for (std::int64_t t = 0; t < 49; ++t) {
      for (std::size_t c = 0; c < 128; ++c) {
        const std::size_t i = in.q.index(0, t, 0) + c;
        ASSERT_EQ(before.out.values[i], after.out.values[i]) << isa_name(isa) << " token " << t;
      }
    }
    EXPECT_TRUE(std::isnan(after.out.values[last]));
  }
}

}  // namespace
}  // namespace stableqat::kernels
