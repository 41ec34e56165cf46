// RMSNorm kernels against their formulas in double. Bounds follow from the number of roundings: a sum of n terms is off by at most n units
// of the sum of their magnitudes, in any order.
#include "stableqat/kernels/rms_norm.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <string>

#include "../support/kernel_test.h"

namespace stableqat::kernels {
namespace {

using testing::kUnit;
using testing::normal_values;

struct Case {
  std::int64_t rows;
  std::int64_t columns;
  bool with_delta;
};

constexpr float kEps = 1e-5F;

struct Arrays {
  explicit Arrays(const Case& c)
      : shape(c),
        x(normal_values(c.rows * c.columns, 1)),
        delta(normal_values(c.rows * c.columns, 2, 0.5F)),
        w(normal_values(c.columns, 3)),
        dy(normal_values(c.rows * c.columns, 4)),
        residual(normal_values(c.rows * c.columns, 5)),
        sum(x),
        y(x.size()),
        inverse(static_cast<std::size_t>(c.rows)),
        dx(x.size()),
        dw(w.size()),
        workspace(static_cast<std::size_t>(kRmsNormBlocks * c.columns)) {}

  void run(Isa isa) {
    const RmsNormKernels& kernels = rms_norm_kernels(isa);
    kernels.forward(shape.rows, shape.columns, x.data(), shape.with_delta ? delta.data() : nullptr, w.data(), kEps,
                    shape.with_delta ? sum.data() : nullptr, y.data(), inverse.data());
    kernels.backward(shape.rows, shape.columns, sum.data(), w.data(), inverse.data(), dy.data(),
                     shape.with_delta ? residual.data() : nullptr, dx.data(), dw.data(), workspace.data());
  }

  Case shape;
  std::vector<float> x, delta, w, dy, residual, sum, y, inverse, dx, dw, workspace;
};

// One row's outputs and the gradient of w against the formulas; adds to dw and its bound.
void check_row(const Arrays& a, std::size_t row, std::vector<double>& dw, std::vector<double>& dw_bound) {
  const auto n = static_cast<std::size_t>(a.shape.columns);
  const auto columns = static_cast<double>(n);
  const float* h = a.sum.data() + row * n;
  const float* dy = a.dy.data() + row * n;
  double squares = 0.0;
  double dot = 0.0;
  double dot_magnitude = 0.0;
  for (std::size_t j = 0; j < n; ++j) {
    squares += double{h[j]} * h[j];
    dot += double{dy[j]} * a.w[j] * h[j];
    dot_magnitude += std::abs(double{dy[j]} * a.w[j] * h[j]);
  }
  const double r = 1.0 / std::sqrt(squares / columns + double{kEps});
  const double r_error = (columns / 2 + 4) * kUnit;  // relative
  ASSERT_NEAR(a.inverse[row], r, r * r_error);
  for (std::size_t j = 0; j < n; ++j) {
    const double y = h[j] * r * a.w[j];
    ASSERT_NEAR(a.y[row * n + j], y, std::abs(y) * (r_error + 2 * kUnit)) << row << " " << j;
    const double direct = r * dy[j] * a.w[j];
    const double pull = r * r * r / columns * h[j];
    const double residual = a.shape.with_delta ? a.residual[row * n + j] : 0.0;
    const double bound = (r_error + 4 * kUnit) * std::abs(direct) + kUnit * std::abs(residual) +
                         std::abs(pull) * dot_magnitude * ((columns + 8) * kUnit + 3 * r_error);
    ASSERT_NEAR(a.dx[row * n + j], residual + direct - pull * dot, bound) << row << " " << j;
    dw[j] += r * dy[j] * h[j];
    dw_bound[j] += std::abs(r * dy[j] * h[j]) * (r_error + (static_cast<double>(a.shape.rows) + 3) * kUnit);
  }
}

TEST(RmsNormKernels, FollowTheFormulas) {
  for (const Isa isa : testing::supported_isas()) {
    for (const Case& c : {Case{1, 1, false}, Case{3, 7, true}, Case{33, 64, false}, Case{40, 576, true}, Case{100, 1000, true}}) {
      SCOPED_TRACE(std::string(isa_name(isa)) + " " + std::to_string(c.rows) + " x " + std::to_string(c.columns));
      Arrays a(c);
      a.run(isa);
      for (std::size_t i = 0; c.with_delta && i < a.x.size(); ++i) ASSERT_EQ(a.sum[i], a.x[i] + a.delta[i]);
      std::vector<double> dw(a.w.size());
      std::vector<double> bound(a.w.size());
      for (std::size_t row = 0; row < static_cast<std::size_t>(c.rows); ++row) check_row(a, row, dw, bound);
      for (std::size_t j = 0; j < dw.size(); ++j) ASSERT_NEAR(a.dw[j], dw[j], bound[j]) << j;
    }
  }
}

TEST(RmsNormKernels, ThreadsAndArraysInPlaceChangeNoBit) {
  const int threads = omp_get_max_threads();
  for (const Isa isa : testing::supported_isas()) {
    Arrays one({101, 576, true});
    omp_set_num_threads(1);
    one.run(isa);
    omp_set_num_threads(3);
    Arrays three({101, 576, true});
    three.run(isa);
    EXPECT_EQ(one.dx, three.dx);
    EXPECT_EQ(one.dw, three.dw);
    EXPECT_EQ(one.y, three.y);
    const RmsNormKernels& kernels = rms_norm_kernels(isa);
    kernels.forward(101, 576, three.x.data(), three.delta.data(), three.w.data(), kEps, three.x.data(), three.y.data(),
                    three.inverse.data());
    EXPECT_EQ(one.sum, three.x);
    EXPECT_EQ(one.y, three.y);
    kernels.backward(101, 576, three.x.data(), three.w.data(), three.inverse.data(), three.dy.data(), three.residual.data(),
                     three.residual.data(), three.dw.data(), three.workspace.data());
    EXPECT_EQ(one.dx, three.residual);
  }
  omp_set_num_threads(threads);
}

}  // namespace
}  // namespace stableqat::kernels
