#include "stableqat/quant/scale_init.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quantizer_cases.h"
#include "stableqat/base/error.h"

namespace stableqat {
namespace {

using golden::draw;

// sum (w - w_q)^2 of one row or group, written out from the definitions.
double squared_error(const at::Tensor& weight, double scale, const QuantizerSpec& spec) {
  const at::Tensor values = weight.to(at::kDouble).contiguous();
  const double levels = spec.bits == 0 ? 1.5 : std::ldexp(1.0, spec.bits - 1);
  const double shift = spec.bits == 0 ? 0.0 : 0.5;
  double sum = 0;
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    const double w = values.const_data_ptr<double>()[i];
    double q = std::clamp<double>(std::nearbyint(w / scale), q_min(spec.bits), q_max(spec.bits));
    if (spec.kind == QuantizerKind::kSeq) q = (std::nearbyint(std::clamp(w / scale, -0.99, 0.99) * levels - shift) + shift) / levels;
    sum += (w - q * scale) * (w - q * scale);
  }
  return sum;
}

double ratio(const at::Tensor& a, const at::Tensor& b) { return (a / b - 1).abs().max().item<double>(); }

TEST(InitialScale, FollowsTheAuthorsFormulas) {
  const at::Tensor w = draw(11, 6, 50);
  const at::Tensor largest = w.abs().amax({1}, true);
  const at::Tensor mean = w.abs().mean({1}, true);
  constexpr double kRounding = 4 * std::numeric_limits<double>::epsilon();
  EXPECT_LE(ratio(initial_scale(w, {.bits = 1}), mean), kRounding);
  EXPECT_LE(ratio(initial_scale(w, {.bits = 0}), largest), kRounding);
  EXPECT_LE(ratio(initial_scale(w, {.bits = 2}), largest), kRounding);
  EXPECT_LE(ratio(initial_scale(w, {.bits = 3}), largest / 3), kRounding);
  EXPECT_LE(ratio(initial_scale(w, {.bits = 4}), largest / 7), kRounding);
  EXPECT_LE(ratio(initial_scale(w, {.bits = 8}), largest / 127), kRounding);
  EXPECT_LE(ratio(initial_scale(w, {.kind = QuantizerKind::kSeq, .bits = 3}), largest), kRounding);
  EXPECT_LE(ratio(initial_scale(w, {.bits = 4, .scale_init = ScaleInit::kLsq}), mean * (2 / std::sqrt(7.0))), kRounding);
  // SEQ's levels are alpha / 4 apart at 3 bits.
  EXPECT_LE(ratio(initial_scale(w, {.kind = QuantizerKind::kSeq, .bits = 3, .scale_init = ScaleInit::kLsq}), mean * (8 / std::sqrt(3.0))),
            kRounding);
}

TEST(InitialScale, MseOfASignIsTheMean) {
  const at::Tensor w = draw(12, 4, 200);
  EXPECT_LE(ratio(initial_scale(w, {.bits = 1, .scale_init = ScaleInit::kMse}), w.abs().mean({1}, true)), 1e-12);
}

TEST(InitialScale, MseIsAsGoodAsAFineSearch) {
  for (const auto kind : {QuantizerKind::kLsq, QuantizerKind::kSeq}) {
    for (const int bits : {0, 2, 3, 4}) {
      for (std::uint64_t seed = 20; seed < 24; ++seed) {
        QuantizerSpec spec{.kind = kind, .bits = bits};
        const at::Tensor w = draw(seed, 1, 576) * 0.1;
        const double start = initial_scale(w, spec).item<double>();
        double best = squared_error(w, start, spec);
        for (int k = 1; k < 3000; ++k) best = std::min(best, squared_error(w, start * (k / 3000.0), spec));
        spec.scale_init = ScaleInit::kMse;
        const double found = squared_error(w, initial_scale(w, spec).item<double>(), spec);
        EXPECT_LE(found, best * 1.005) << "kind " << static_cast<int>(kind) << ", " << bits << " bits";
      }
    }
  }
}

TEST(InitialScale, MseIsNoWorseThanAbsMaxInAnyGroup) {
  QuantizerSpec spec{.bits = 3, .group_size = 32};
  const at::Tensor w = draw(30, 8, 96).to(at::kFloat);
  const at::Tensor absmax = initial_scale(w, spec);
  spec.scale_init = ScaleInit::kMse;
  const at::Tensor mse = initial_scale(w, spec);
  ASSERT_EQ(mse.sizes(), (std::vector<std::int64_t>{8, 3}));
  for (std::int64_t group = 0; group < 24; ++group) {
    const at::Tensor part = w.flatten().narrow(0, group * 32, 32);
    EXPECT_LE(squared_error(part, mse.flatten()[group].item<double>(), spec),
              squared_error(part, absmax.flatten()[group].item<double>(), spec) * (1 + 1e-5));
  }
}

TEST(InitialScale, RowsOfZerosTakeTheFloor) {
  const at::Tensor w = draw(31, 3, 64);
  w.select(0, 1).zero_();
  for (const auto init : {ScaleInit::kAbsMax, ScaleInit::kMse, ScaleInit::kLsq}) {
    for (const int bits : {0, 1, 2, 3, 8}) {
      const at::Tensor scale = initial_scale(w, {.bits = bits, .scale_init = init});
      EXPECT_EQ(scale.select(0, 1).item<double>(), 1e-5);
      EXPECT_GT(scale.select(0, 0).item<double>(), 1e-3);
    }
  }
}

TEST(InitialScale, NamesTheRowThatIsNotFinite) {
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    const at::Tensor w = draw(32, 3, 64);
    w.select(0, 2).select(0, 5).fill_(bad);
    try {
      initial_scale(w, {.bits = 3}, "layers.7.up_proj");
      FAIL();
    } catch (const DataError& error) {
      EXPECT_EQ(error.text().where, "layers.7.up_proj");
      EXPECT_NE(error.text().found.find("row 2"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace stableqat
