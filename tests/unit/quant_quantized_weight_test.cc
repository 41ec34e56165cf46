#include "stableqat/quant/quantized_weight.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Half.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quantizer_cases.h"
#include "stableqat/base/error.h"

namespace stableqat {
namespace {

using golden::draw;

TEST(QuantizedWeight, QuantizesByHand) {
  QuantizedWeight weight(at::tensor({0.25, 0.75, -1.25, 9.0, -9.0, 0.6}, at::kDouble).reshape({1, 6}), {.bits = 3},
                         at::full({1, 1}, 0.5, at::kDouble));
  weight.quantize();
  // 0.5, 1.5 and -2.5 are ties and go to the even neighbour.
  EXPECT_TRUE(weight.codes().equal(at::tensor({0, 2, -2, 3, -4, 1}, at::kChar).reshape({1, 6})));
  EXPECT_TRUE(weight.dequantized().detach().equal(at::tensor({0.0, 1.0, -1.0, 1.5, -2.0, 0.5}, at::kDouble).reshape({1, 6})));
  EXPECT_EQ(weight.last_counts().clipped, 2);
}

// As the authors' DSQ does (the golden trace dsq_3 needs it): a model that was quantized before has many weights on the middle.
TEST(QuantizedWeight, DsqRoundsHalvesDown) {
  for (const auto type : {at::kFloat, at::kDouble}) {
    QuantizedWeight weight(at::tensor({0.25, 0.75, -1.25, -0.25, 1.25, 0.26}, type).reshape({1, 6}),
                           {.kind = QuantizerKind::kDsq, .bits = 3}, at::full({1, 1}, 0.5, type));
    weight.quantize();
    EXPECT_TRUE(weight.codes().equal(at::tensor({0, 1, -3, -1, 2, 1}, at::kChar).reshape({1, 6})));
    const at::Tensor by_definition = fake_quantize_autograd(weight.master(), weight.scale(), weight.spec(), weight.alpha());
    EXPECT_TRUE(by_definition.detach().equal(weight.dequantized().detach()));
  }
}

TEST(QuantizedWeight, CountsCodesThatChangedSinceTheLastTime) {
  QuantizedWeight weight(draw(1, 4, 32), {.bits = 4});
  weight.quantize();
  EXPECT_EQ(weight.last_counts().changed, 0) << "nothing to compare with";
  weight.quantize();
  EXPECT_EQ(weight.last_counts().changed, 0);
  const at::Tensor before = weight.codes().clone();
  weight.master().mul_(0.5);
  weight.quantize();
  const std::int64_t changed = weight.last_counts().changed;
  EXPECT_GT(changed, 0);
  EXPECT_EQ(changed, weight.codes().ne(before).sum().item<std::int64_t>());
}

TEST(QuantizedWeight, IsCodesTimesHalfPrecisionStepsBitForBit) {
  for (const auto kind : {QuantizerKind::kLsq, QuantizerKind::kSeq, QuantizerKind::kDsq}) {
    for (const int bits : {0, 2, 3, 4}) {
      QuantizedWeight weight((draw(2, 16, 96) * 0.05).to(at::kFloat), {.kind = kind, .bits = bits, .group_size = 32});
      weight.quantize();
      const at::Tensor step = weight.step();
      EXPECT_TRUE(step.to(at::kHalf).to(at::kFloat).equal(step)) << bits;
      const at::Tensor product = (weight.codes().to(at::kFloat).reshape({16, 3, 32}) * step.unsqueeze(-1)).reshape({16, 96});
      EXPECT_TRUE(product.equal(weight.dequantized().detach())) << bits;
      if (kind == QuantizerKind::kSeq && bits > 0) {
        EXPECT_TRUE(weight.codes().remainder(2).abs().eq(1).all().item<bool>()) << bits;
      }
    }
  }
}

// A checkpoint stores the scale in use: read back, it must give the same weights.
TEST(QuantizedWeight, GivesTheSameWeightsFromItsEffectiveScale) {
  for (const auto kind : {QuantizerKind::kLsq, QuantizerKind::kSeq}) {
    for (const int bits : {0, 1, 2, 3, 4}) {
      const QuantizerSpec spec{.kind = kind, .bits = bits};
      const at::Tensor master = (draw(10, 64, 40) * 0.02).to(at::kFloat);
      master.select(0, 3).zero_();  // scale at the floor
      QuantizedWeight weight(master, spec);
      weight.quantize();
      QuantizedWeight again(master, spec, weight.effective_scale());
      again.quantize();
      EXPECT_TRUE(again.effective_scale().equal(weight.effective_scale())) << bits;
      EXPECT_TRUE(again.dequantized().detach().equal(weight.dequantized().detach())) << bits;
    }
  }
}

TEST(QuantizedWeight, KeepsItsStorageSoThatAGraphCanHoldIt) {
  QuantizedWeight weight(draw(3, 4, 8), {.bits = 2});
  weight.quantize();
  const void* storage = weight.dequantized().data_ptr();
  weight.master().mul_(0.9);
  weight.quantize();
  EXPECT_EQ(weight.dequantized().data_ptr(), storage);
  EXPECT_TRUE(weight.dequantized().is_leaf() && weight.dequantized().requires_grad());
  EXPECT_FALSE(weight.master().requires_grad() || weight.scale().requires_grad());
}

TEST(QuantizedWeight, TakesTheMasterWithoutACopy) {
  const at::Tensor master = draw(4, 4, 8);
  EXPECT_EQ(QuantizedWeight(master, {.bits = 2}).master().data_ptr(), master.data_ptr());
}

// The map of the summed gradient is the sum of the maps: what makes one map per optimizer step exact.
TEST(QuantizedWeight, MapsGradientsLinearly) {
  for (const auto kind : {QuantizerKind::kLsq, QuantizerKind::kSeq, QuantizerKind::kDsq}) {
    QuantizerSpec spec{.kind = kind, .bits = 3};
    if (kind != QuantizerKind::kDsq) spec.surrogate = Surrogate::fourier(0.21, 1);
    QuantizedWeight weight(draw(5, 8, 65), spec);
    weight.quantize();
    QuantizedWeight::Gradients sum;
    for (std::uint64_t micro = 0; micro < 3; ++micro) {
      const at::Tensor gradient = draw(40 + micro, 8, 65);
      weight.clear_gradient();
      (weight.dequantized() * gradient).sum().backward();
      const auto mapped = weight.map_gradient();
      sum.master = micro == 0 ? mapped.master : sum.master + mapped.master;
      sum.scale = micro == 0 ? mapped.scale : sum.scale + mapped.scale;
      if (mapped.alpha.defined()) sum.alpha = micro == 0 ? mapped.alpha : sum.alpha + mapped.alpha;
    }
    weight.clear_gradient();
    for (std::uint64_t micro = 0; micro < 3; ++micro) (weight.dequantized() * draw(40 + micro, 8, 65)).sum().backward();
    const auto whole = weight.map_gradient();
    // A slope of at most 2 and three additions per element; 65 (or 520) terms of magnitude up to 8 (alpha: 2) per sum.
    constexpr double kEps = std::numeric_limits<double>::epsilon();
    EXPECT_LE((whole.master - sum.master).abs().max().item<double>(), 3 * 4 * 2 * kEps);
    EXPECT_LE((whole.scale - sum.scale).abs().max().item<double>(), 3 * 65 * 65 * 8 * kEps * spec.scale_gradient_factor(8 * 65));
    if (whole.alpha.defined()) {
      EXPECT_LE((whole.alpha - sum.alpha).abs().item<double>(), 3 * 520 * 520 * 2 * kEps);
    }
  }
}

TEST(QuantizedWeight, SumsOfTheGradientAreThoseOfItsMap) {
  for (const auto kind : {QuantizerKind::kLsq, QuantizerKind::kDsq}) {
    for (const std::int64_t group : {0, 32}) {
      QuantizedWeight weight(draw(6, 4, 96), {.kind = kind, .bits = 2, .group_size = group});
      weight.quantize();
      (weight.dequantized() * draw(7, 4, 96)).sum().backward();
      const auto mapped = weight.map_gradient();
      const auto sums = weight.gradient_sums();
      EXPECT_TRUE(sums.scale.equal(mapped.scale));
      EXPECT_EQ(sums.alpha.defined(), kind == QuantizerKind::kDsq);
      if (sums.alpha.defined()) {
        EXPECT_TRUE(sums.alpha.equal(mapped.alpha));
      }
      const double squares = mapped.master.square().sum().item<double>();
      EXPECT_NEAR(sums.master_squares.item<double>(), squares, 384 * std::numeric_limits<double>::epsilon() * squares);
    }
  }
}

TEST(QuantizedWeight, UpdateMapsWithTheOldScaleAndQuantizesWithTheNew) {
  const QuantizerSpec spec{.bits = 3, .surrogate = Surrogate::fourier(0.21)};
  QuantizedWeight weight(draw(6, 4, 40), spec);
  weight.quantize();
  (weight.dequantized() * draw(7, 4, 40)).sum().backward();
  const void* memory = weight.dequantized().grad().data_ptr();
  const auto mapped = weight.map_gradient();
  const at::Tensor before = weight.master().clone();
  const at::Tensor codes = weight.codes().clone();
  at::Tensor first = at::zeros_like(before);
  at::Tensor second = at::zeros_like(before);
  weight.scale().mul_(1.25);
  EXPECT_TRUE(weight.map_gradient().master.equal(mapped.master)) << "the gradient belongs to the weight that was multiplied";
  weight.update({.step_size = 0.01}, first, second);
  const auto counts = weight.last_counts();
  const at::Tensor moment = mapped.master * (1 - 0.9);
  EXPECT_LE((first - moment).abs().max().item<double>(), 4 * std::numeric_limits<double>::epsilon());
  QuantizedWeight fresh(weight.master().clone(), spec, weight.scale());
  fresh.quantize();
  EXPECT_FALSE(weight.master().equal(before));
  EXPECT_TRUE(weight.codes().equal(fresh.codes()));
  EXPECT_TRUE(weight.dequantized().detach().equal(fresh.dequantized().detach()));
  EXPECT_EQ(counts.changed, weight.codes().ne(codes).sum().item<std::int64_t>());
  EXPECT_EQ(weight.dequantized().grad().data_ptr(), memory);
  EXPECT_EQ(weight.dequantized().grad().abs().max().item<double>(), 0.0);
}

// Two objects with half of the rows each against one with all of them.
TEST(QuantizedWeight, RowsOfSeveralOwnersAreThoseOfOne) {
  for (const QuantizerSpec& spec : {QuantizerSpec{.bits = 3, .surrogate = Surrogate::fourier(0.21)},
                                    QuantizerSpec{.kind = QuantizerKind::kSeq, .bits = 2, .group_size = 32, .fp16_scales = true}}) {
    const std::vector<RowRange> ranges{{0, 5}, {5, 4}, {9, 0}};
    QuantizedWeight whole(draw(6, 9, 64), spec);
    std::vector<QuantizedWeight> parts;
    for (std::size_t i = 0; i < ranges.size(); ++i) parts.emplace_back(draw(6, 9, 64), spec);
    whole.quantize();
    (whole.dequantized() * draw(7, 9, 64)).sum().backward();
    at::Tensor first = at::zeros_like(whole.master());
    at::Tensor second = at::zeros_like(first);
    const double squares = whole.gradient_sums().master_squares.item<double>();
    whole.scale().mul_(1.25);
    whole.update({.step_size = 0.01}, first, second);
    double sum = 0;
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      QuantizedWeight& part = parts[i];
      const RowRange rows = ranges[i];
      part.quantize();
      part.keep_rows(rows);
      EXPECT_EQ(part.master().size(0), rows.count);
      EXPECT_EQ(part.rows(), 9);
      (part.dequantized() * draw(7, 9, 64)).sum().backward();
      sum += part.gradient_sums().master_squares.item<double>();
      part.scale().mul_(1.25);
      at::Tensor moment = at::zeros_like(part.master());
      part.update({.step_size = 0.01}, moment, at::zeros_like(moment));
      EXPECT_TRUE(part.master().equal(whole.master().narrow(0, rows.first, rows.count)));
      EXPECT_TRUE(moment.equal(first.narrow(0, rows.first, rows.count)));
      EXPECT_TRUE(part.codes().narrow(0, rows.first, rows.count).equal(whole.codes().narrow(0, rows.first, rows.count)));
    }
    EXPECT_NEAR(sum, squares, 1e-13 * squares);
    // Each gets what it lacks.
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      for (std::size_t other = 0; other < ranges.size(); ++other) {
        if (other == i) continue;
        const RowRange rows = ranges[other];
        parts[i].set_rows(rows, parts[other].codes().narrow(0, rows.first, rows.count),
                          parts[other].step().narrow(0, rows.first, rows.count));
      }
      EXPECT_TRUE(parts[i].codes().equal(whole.codes()));
      EXPECT_TRUE(parts[i].step().equal(whole.step()));
      EXPECT_TRUE(parts[i].dequantized().detach().equal(whole.dequantized().detach()));
    }
  }
}

TEST(QuantizedWeight, AGradientThatIsMissingOrNotDenseIsTakenAsItIs) {
  QuantizedWeight weight(draw(6, 4, 40), {.bits = 2});
  weight.quantize();
  EXPECT_EQ(weight.gradient_sums().master_squares.item<double>(), 0.0);
  EXPECT_EQ(weight.map_gradient().scale.abs().max().item<double>(), 0.0);
  const at::Tensor gradient = draw(7, 40, 4).t();
  weight.dequantized().mutable_grad() = gradient;
  const at::Tensor scale = weight.map_gradient().scale;
  EXPECT_TRUE(weight.gradient_sums().scale.equal(scale));
}

TEST(QuantizedWeight, TakesScalesOfACheckpointInTheirShapes) {
  const at::Tensor master = draw(8, 4, 64);
  EXPECT_EQ(QuantizedWeight(master, {.bits = 3}, at::full({4, 1}, 0.1)).scale().scalar_type(), at::kDouble);
  EXPECT_EQ(QuantizedWeight(master, {.bits = 3}, at::full({4}, 0.1)).scale().sizes(), (std::vector<std::int64_t>{4, 1}));
  EXPECT_EQ(QuantizedWeight(master, {.bits = 3, .group_size = 32}, at::full({4, 2}, 0.1)).scales_per_row(), 2);
  EXPECT_THROW(QuantizedWeight(master, {.bits = 3}, at::full({4, 2}, 0.1)), DataError);
  EXPECT_THROW(QuantizedWeight(master, {.bits = 3, .group_size = 32}, at::full({2, 4}, 0.1)), DataError);
  EXPECT_THROW(QuantizedWeight(master, {.bits = 3}, at::full({4, 1}, std::nan(""))), DataError);
}

TEST(QuantizedWeight, DsqStartsAtTheAuthorsAlphaOrTheCheckpoints) {
  const QuantizerSpec spec{.kind = QuantizerKind::kDsq, .bits = 3};
  EXPECT_DOUBLE_EQ(QuantizedWeight(draw(9, 2, 8), spec).alpha().item<double>(), 0.2);
  EXPECT_DOUBLE_EQ(QuantizedWeight(draw(9, 2, 8), spec, std::nullopt, at::full({1}, 0.125)).alpha().item<double>(), 0.125);
  EXPECT_FALSE(QuantizedWeight(draw(9, 2, 8), {.bits = 3}).alpha().defined());
}

TEST(QuantizedWeight, RefusesWhatItCannotHold) {
  EXPECT_THROW(QuantizedWeight(draw(1, 4, 48), {.bits = 3, .group_size = 32}), ConfigError);
  EXPECT_THROW(QuantizedWeight(draw(1, 4, 48), {.bits = 5}), ConfigError);
  EXPECT_THROW(QuantizedWeight(draw(1, 4, 48).to(at::kHalf), {.bits = 3}), DataError);
  EXPECT_THROW(QuantizedWeight(draw(1, 4, 48).flatten(), {.bits = 3}), DataError);
  EXPECT_THROW(QuantizedWeight(at::Tensor(), {.bits = 3}), DataError);
  EXPECT_THROW(QuantizedWeight(at::full({2, 4}, std::nan("")), {.bits = 3}, at::full({2}, 0.1)), DataError);
}

}  // namespace
}  // namespace stableqat
