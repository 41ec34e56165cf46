// Products in float8 on a GPU against products in double. In gpu_training_test the GPU is a fake one, in cuda_training_test a real one.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "../support/gpu_training.h"
#include "models/fp8_products.h"
#include "stableqat/base/error.h"
#include "stableqat/models/linear.h"
#include "stableqat/train/settings.h"

namespace stableqat {
namespace {

using testing::gpu;
using testing::kSpecs;
using testing::state_of;

constexpr std::int64_t kTokens = 21;
constexpr std::int64_t kOut = 48;
constexpr std::int64_t kIn = 32;
constexpr double kBFloat16Unit = 0x1p-8;  // half the distance of 1 to the next: the largest relative error of one rounding

at::Tensor pattern(std::int64_t seed, std::int64_t rows, std::int64_t columns) {
  const at::Tensor i = at::arange(rows * columns, at::kDouble);
  return ((i * static_cast<double>(seed) * 0.37 + i.remainder(7)).sin() * (1.0 + i.remainder(5))).view({rows, columns}).to(at::kFloat);
}

at::Tensor in_double(const at::Tensor& x) { return x.detach().cpu().to(at::kDouble); }

// A layer with codes of -8 to 7, and what it is in double.
struct Fp8Layer {
  Linear layer;
  at::Tensor weight;  // [N, M] float64

  Fp8Layer() {
    const at::Tensor i = at::arange(kOut * kIn, at::kLong);
    const at::Tensor codes = ((i * 7 + i.floor_divide(5)).remainder(16) - 8).view({kOut, kIn});
    const at::Tensor step = (0.01 + 0.003 * at::arange(kOut, at::kFloat).remainder(9)).view({kOut, 1});
    weight = codes.to(at::kDouble) * step.to(at::kDouble);
    layer.step = step.to(gpu());
    layer.fp8_codes = codes.to(at::kFloat).to(gpu()).to(at::kFloat8_e4m3fn);
    layer.fp8_transposed = codes.t().contiguous().to(at::kFloat).to(gpu()).to(at::kFloat8_e4m3fn);
    layer.weight = at::zeros({kOut, kIn}).to(gpu()).requires_grad_();
    layer.weight.mutable_grad() = at::zeros({kOut, kIn}).to(gpu());
    layer.compute = weight.to(at::kBFloat16).to(gpu());
  }
};

void expect_within(const at::Tensor& found, const at::Tensor& expected, const at::Tensor& allowed, const std::string& what) {
  const at::Tensor excess = (in_double(found) - expected).abs() - allowed;
  EXPECT_LE(excess.max().item<double>(), 0.0) << what;
}

// What rounding x [R, M] to e4m3 can do to it: half a step of three bits of mantissa, or of the smallest ones.
at::Tensor rounding_of(const at::Tensor& x) {
  return x.abs() * (0x1p-4 + 0x1p-20) + std::get<0>(x.abs().max(1, /*keepdim=*/true)) / 448.0 * 0x1p-10;
}

class Fp8Test : public testing::GpuTrainingFolder {
 protected:
  QuantizedModel fp8_model(const QuantizerSpec& spec) const {
    QuantizedModel model(*source_, at::kFloat, QuantizationSettings{spec, {}});
    place(model, {at::kFloat, at::kBFloat16, CodeProducts::kFp8}, gpu());
    return model;
  }
};

TEST_F(Fp8Test, ProductsAreThoseOfDoubleWithinTheFormatsRounding) {
  const Fp8Layer exact;
  const at::Tensor x = pattern(3, kTokens, kIn).to(at::kBFloat16);
  const at::Tensor dy = pattern(5, kTokens, kOut).to(at::kBFloat16);
  at::Tensor on_gpu = x.to(gpu()).requires_grad_();
  const at::Tensor y = linear(on_gpu, exact.layer);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  y.backward(dy.to(gpu()));
  const at::Tensor w = exact.weight;
  const at::Tensor expected = in_double(x).mm(w.t());
  expect_within(y, expected, rounding_of(in_double(x)).mm(w.t().abs()) + 1.125 * kBFloat16Unit * in_double(x).abs().mm(w.t().abs()),
                "forward");
  const at::Tensor scaled = in_double(dy) * in_double(exact.layer.step).t();
  const at::Tensor codes = w / in_double(exact.layer.step);
  expect_within(on_gpu.grad(), in_double(dy).mm(w),
                rounding_of(scaled).mm(codes.abs()) + 1.125 * kBFloat16Unit * in_double(dy).abs().mm(w.abs()), "gradient of the input");
  // The weight's is that of bfloat16.
  const at::Tensor gradient = in_double(dy).t().mm(in_double(x));
  expect_within(exact.layer.weight.grad(), gradient, 2 * (kTokens + 1) * 0x1p-23 * in_double(dy).t().abs().mm(in_double(x).abs()),
                "gradient of the weight");
}

// Values that the format holds: nothing but the result is rounded.
TEST_F(Fp8Test, ExactValuesGiveExactProducts) {
  const Fp8Layer exact;
  at::Tensor x = at::arange(kTokens * kIn, at::kLong).remainder(29).sub(14).view({kTokens, kIn}).to(at::kDouble);
  x.select(1, 5).fill_(448.0);  // the scale is 1
  at::Tensor rows = x * at::arange(kTokens, at::kDouble).remainder(5).sub(2).exp2().view({kTokens, 1});
  const at::Tensor y = linear(rows.to(at::kBFloat16).to(gpu()), exact.layer);
  const at::Tensor expected = rows.mm(exact.weight.t());
  expect_within(y, expected, kBFloat16Unit * expected.abs() + 1e-5 * rows.abs().mm(exact.weight.t().abs()), "forward");
}

// Several layers of one input: their gradients of it are added.
TEST_F(Fp8Test, LayersWithOneInput) {
  const Fp8Layer first, second;
  const at::Tensor x = pattern(3, kTokens, kIn).to(at::kBFloat16);
  at::Tensor on_gpu = x.to(gpu()).requires_grad_();
  const std::vector<at::Tensor> both = linear(on_gpu, {&first.layer, &second.layer});
  EXPECT_TRUE(both[0].cpu().equal(both[1].cpu()));
  (both[0] + both[1]).backward(pattern(5, kTokens, kOut).to(at::kBFloat16).to(gpu()));
  at::Tensor alone = x.to(gpu()).requires_grad_();
  linear(alone, first.layer).backward(pattern(5, kTokens, kOut).to(at::kBFloat16).to(gpu()));
  EXPECT_TRUE(on_gpu.grad().cpu().equal((alone.grad() + alone.grad()).cpu()));
}

void expect_fresh_codes(QuantizedModel& model) {
  std::size_t next = 0;
  model.model().visit_linears([&](const std::string& name, Linear& layer) {
    if (next == model.weights().size() || !model.weights()[next].dequantized().is_same(layer.weight)) return;
    const QuantizedWeight& weight = model.weights()[next++];
    const at::Tensor codes = weight.codes().cpu().to(at::kFloat);
    EXPECT_TRUE(layer.fp8_codes.to(at::kFloat).cpu().equal(codes)) << name;
    EXPECT_TRUE(layer.fp8_transposed.to(at::kFloat).cpu().equal(codes.t())) << name;
    EXPECT_TRUE(layer.step.cpu().equal(weight.step().cpu())) << name;
  });
  EXPECT_EQ(next, model.weights().size());
}

TEST_F(Fp8Test, CodesAndStepsFollowEachUpdateIntoTheSameMemory) {
  for (QuantizerSpec spec : {kSpecs[0], kSpecs[2], kSpecs[3]}) {
    for (const bool fp16_scales : {false, true}) {
      spec.fp16_scales = fp16_scales;
      QuantizedModel model = fp8_model(spec);
      std::vector<const void*> places;
      model.model().visit_linears([&](const std::string&, Linear& layer) { places.push_back(layer.fp8_transposed.const_data_ptr()); });
      TrainStep step(model, {});
      expect_fresh_codes(model);
      const at::Tensor before = model.weights()[0].codes().cpu().clone();
      for (int i = 0; i < 2; ++i) {
        step.accumulate(ids(i), 1.0);
        step.update(2e-2);
        expect_fresh_codes(model);
      }
      EXPECT_FALSE(model.weights()[0].codes().cpu().equal(before));
      std::size_t next = 0;
      model.model().visit_linears(
          [&](const std::string&, Linear& layer) { EXPECT_EQ(layer.fp8_transposed.const_data_ptr(), places[next++]); });
    }
  }
}

// Rounding to 2^-4 at most, in every product of two blocks: some percent of the loss's distance to that of bfloat16 products.
TEST_F(Fp8Test, StepsAreNearThoseOfBfloat16AndTheSameAsGraphs) {
  QuantizedModel plain = gpu_model(kSpecs[0], at::kBFloat16);
  QuantizedModel eager_model = fp8_model(kSpecs[0]);
  QuantizedModel captured_model = fp8_model(kSpecs[0]);
  TrainStep bf16(plain, {.adamw = {}, .max_grad_norm = 1.0});
  TrainStep eager(eager_model, {.adamw = {}, .max_grad_norm = 1.0, .recompute = Recompute::kSelective});
  TrainStep captured(captured_model, {.adamw = {}, .max_grad_norm = 1.0, .cuda_graph = true});
  for (int i = 0; i < 5; ++i) {
    const double expected = bf16.accumulate(ids(i), 1.0).loss();
    const double loss = eager.accumulate(ids(i), 1.0).loss();
    EXPECT_NEAR(loss, expected, 0x1p-4 * expected) << i;
    EXPECT_NE(loss, expected);
    EXPECT_NEAR(captured.accumulate(ids(i), 1.0).loss(), loss, 1e-3 * loss);
    const StepReport report = bf16.update(1e-3);
    EXPECT_NEAR(eager.update(1e-3).norms.total, report.norms.total, 0.25 * report.norms.total);
    captured.update(1e-3);
  }
  EXPECT_EQ(captured.replays(), 3);
#if !defined(STABLEQAT_REAL_GPU)
  EXPECT_TRUE(testing::equal(state_of(captured_model, captured), state_of(eager_model, eager)));
  const std::int64_t before = testing::fake_gpu_waits();
  eager.accumulate(ids(9), 1.0);
  eager.start_update(1e-3);
  EXPECT_EQ(testing::fake_gpu_waits(), before);
#endif
}

TEST_F(Fp8Test, WhatItDoesNotTakeIsRefused) {
  const auto with = [](QuantizerSpec spec, int bits, std::int64_t group_size) {
    spec.bits = bits;
    spec.group_size = group_size;
    return spec;
  };
  EXPECT_THROW(fp8_model(with(kSpecs[1], 8, 0)), ConfigError);
  EXPECT_THROW(fp8_model(with(kSpecs[1], 4, 32)), ConfigError);
  EXPECT_NO_THROW(fp8_model(with(kSpecs[1], 4, 0)));
  QuantizedModel on_cpu = model(kSpecs[0], at::kBFloat16);
  EXPECT_THROW(on_cpu.set_code_products(CodeProducts::kFp8), ConfigError);
  QuantizedModel in_float = gpu_model(kSpecs[0], at::kFloat);
  EXPECT_THROW(in_float.set_code_products(CodeProducts::kFp8), ConfigError);
  ModelConfig odd = testing::tiny_config();
  odd.intermediate_size = 136;
  testing::write_tiny_model(folder_ / "odd", odd);
  source_ = ModelSource::open(folder_ / "odd");
  EXPECT_THROW(fp8_model(kSpecs[0]), ConfigError);
}

TEST(Fp8Settings, AreForAGpuAndBfloat16) {
  std::vector<std::string> notices;
  using Config = TrainConfig;
  const auto types = [&](Config::Precision precision, Config::Device device) {
    return numeric_types(precision, Config::Compute::kFp8, device, notices);
  };
  EXPECT_EQ(types(Config::Precision::kAuto, Config::Device::kCuda).products, CodeProducts::kFp8);
  EXPECT_EQ(types(Config::Precision::kBfloat16, Config::Device::kCuda).compute, at::kBFloat16);
  EXPECT_THROW(types(Config::Precision::kFloat32, Config::Device::kCuda), ConfigError);
  EXPECT_THROW(types(Config::Precision::kAuto, Config::Device::kCpu), ConfigError);
}

}  // namespace
}  // namespace stableqat
