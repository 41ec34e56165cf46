// Cases of the optimizer step's kernels: quantization and both passes of the fused update, by method.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/clone.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <string>

#include "bench/kernel_case.h"
#include "quant/tensor_dispatch.h"
#include "stableqat/base/error.h"
#include "stableqat/kernels/ref/fake_quantize.h"
#include "stableqat/kernels/update.h"
#include "stableqat/quant/quantizer_spec.h"

namespace stableqat::bench {

namespace {

constexpr float kAlpha = 0.2F;
constexpr kernels::AdamWRule kStep{.gradient_factor = 0.5, .step_size = 1e-4};

// A weight whose values lie on the grid and a little beyond, and a state of AdamW amid training.
struct Arrays {
  Arrays(std::int64_t rows, std::int64_t columns)
      : weight(at::randn({rows, columns}) * 0.03),
        gradient(at::randn({rows, columns})),
        first(at::randn({rows, columns}) * 0.1),
        second(at::rand({rows, columns}) + 0.01),
        short_first(first.to(at::kBFloat16)),
        short_second(second.to(at::kBFloat16)),
        scale(at::full({rows}, 0.01)),
        new_scale(at::full({rows}, 0.0101)),
        scale_gradient(at::empty({rows})),
        squares(at::empty({rows * columns}, at::kDouble)),
        alpha_terms(at::empty({rows}, at::kDouble)),
        codes(at::zeros({rows, columns}, at::kChar)),
        dequantized(at::empty({rows, columns})) {}

  kernels::QuantizedArrays<float> quantized() const {
    return {weight.size(0), weight.size(1), weight.data_ptr<float>(), gradient.data_ptr<float>(), scale.data_ptr<float>(), kAlpha};
  }
  kernels::UpdateOutputs<float> outputs() const {
    return {first.data_ptr<float>(), second.data_ptr<float>(), new_scale.data_ptr<float>(), codes.data_ptr<std::int8_t>(),
            dequantized.data_ptr<float>()};
  }

  kernels::UpdateOutputs<float, std::uint16_t> short_outputs() const {
    return {detail::bf16_bits(short_first), detail::bf16_bits(short_second), new_scale.data_ptr<float>(), codes.data_ptr<std::int8_t>(),
            dequantized.data_ptr<float>()};
  }

  at::Tensor weight, gradient, first, second, short_first, short_second, scale, new_scale, scale_gradient, squares, alpha_terms, codes,
      dequantized;
};

using Table = kernels::UpdateKernels<float>;

void quantize(const Table& table, const kernels::QuantRule& rule, const Arrays& a) {
  table.quantize(rule, a.weight.size(0), a.weight.size(1), a.weight.const_data_ptr<float>(), a.scale.const_data_ptr<float>(),
                 a.codes.data_ptr<std::int8_t>(), a.dequantized.data_ptr<float>());
}

void sums(const Table& table, const kernels::QuantRule& rule, const Arrays& a) {
  table.surrogate_sums(rule, a.quantized(), 1.0, a.squares.data_ptr<double>(), a.scale_gradient.data_ptr<float>(),
                       a.alpha_terms.data_ptr<double>());
}

void update(const Table& table, const kernels::QuantRule& rule, const Arrays& a) {
  table.update_quantized(rule, kStep, a.quantized(), a.outputs());
}

void update_short(const Table& table, const kernels::QuantRule& rule, const Arrays& a) {
  table.update_quantized_bf16(rule, kStep, a.quantized(), a.short_outputs());
}

void require_same(const std::string& what, const at::Tensor& found, const at::Tensor& expected) {
  require_close("update, " + what, found, expected.to(at::kDouble));
}

// Of the step with short moments: those of the first element by the plain kernels, rounded up or down.
void check_short(const Table& table, const kernels::QuantRule& rule, std::int64_t columns) {
  const Arrays exact(kCheckedRows, columns);
  Arrays a = exact;
  for (at::Tensor* tensor : {&a.weight, &a.gradient, &a.codes, &a.dequantized}) *tensor = tensor->clone();
  exact.first.copy_(exact.short_first);
  exact.second.copy_(exact.short_second);
  update(table, rule, exact);
  update_short(table, rule, a);
  require_same("weight with short moments", a.weight, exact.weight);
  require_same("codes with short moments", a.codes, exact.codes);
  const double worst = ((a.short_second.to(at::kFloat) - exact.second) / exact.second).abs().max().item<double>();
  if (worst >= 0x1p-7) {
    throw NumericError(
        {"short second moment", std::to_string(worst) + " from the exact one, relative", "less than a step of bfloat16", ""});
  }
}

// The plain kernels, then AdamW element by element.
void check(const Table& table, const kernels::QuantRule& rule, std::int64_t columns) {
  const Arrays a(kCheckedRows, columns);
  at::Tensor mapped = at::empty_like(a.weight);
  at::Tensor scale_gradient = at::empty_like(a.scale);
  float alpha_gradient = 0;
  kernels::surrogate_backward_ref<float>(rule, kCheckedRows, columns, a.weight.const_data_ptr<float>(), a.scale.const_data_ptr<float>(),
                                         kAlpha, 1.0, a.gradient.const_data_ptr<float>(), mapped.data_ptr<float>(),
                                         scale_gradient.data_ptr<float>(), &alpha_gradient);
  const kernels::AdamWElement<float> adamw(kStep);
  at::Tensor weight = a.weight.clone();
  at::Tensor first = a.first.clone();
  at::Tensor second = a.second.clone();
  for (std::int64_t i = 0; i < weight.numel(); ++i) {
    float& value = weight.data_ptr<float>()[i];
    value = adamw.step(value, mapped.data_ptr<float>()[i], first.data_ptr<float>()[i], second.data_ptr<float>()[i]);
  }
  at::Tensor codes = at::empty_like(a.codes);
  at::Tensor dequantized = at::empty_like(a.weight);
  kernels::fake_quantize_ref<float>(rule, kCheckedRows, columns, weight.const_data_ptr<float>(), a.new_scale.const_data_ptr<float>(),
                                    codes.data_ptr<std::int8_t>(), dequantized.data_ptr<float>());
  sums(table, rule, a);
  update(table, rule, a);
  require_same("gradient of the scale", a.scale_gradient, scale_gradient);
  require_same("weight", a.weight, weight);
  require_same("second moment", a.second, second);
  require_same("codes", a.codes, codes);
  require_same("dequantized", a.dequantized, dequantized);
  require_same("cleared gradient", a.gradient, at::zeros_like(a.gradient));
}

void add_method(std::vector<KernelCase>& cases, const Table& table, const std::string& method, const QuantizerSpec& spec, const Arrays& a) {
  const kernels::QuantRule rule = spec.rule();
  const auto elements = static_cast<double>(a.weight.numel());
  const auto compare = [&table, rule, columns = a.weight.size(1)] { check(table, rule, columns); };
  // Bytes per weight: fp32 weight, gradient; then these and two moments read and written, codes read and written, dequantized written.
  cases.push_back({"sums_" + method, KernelBound::kMemory, 8 * elements, compare, [&table, rule, a] { sums(table, rule, a); }});
  cases.push_back({"step_" + method, KernelBound::kMemory, 38 * elements, compare, [&table, rule, a] { update(table, rule, a); }});
}

}  // namespace

std::vector<KernelCase> update_cases(const KernelBenchOptions& options, kernels::Isa isa) {
  const Table& table = kernels::update_kernels<float>(isa);
  const std::int64_t columns = options.model.hidden_size;
  const Arrays a(streaming_rows(columns), columns);
  const auto elements = static_cast<double>(a.weight.numel());
  const QuantizerSpec ste{.bits = 4};
  const QuantizerSpec stableqat{.bits = 4, .surrogate = Surrogate::fourier(0.21)};
  const QuantizerSpec dsq{.kind = QuantizerKind::kDsq, .bits = 4};
  const auto compare = [&table, rule = ste.rule(), columns] { check(table, rule, columns); };
  std::vector<KernelCase> cases;
  cases.push_back({"quantize", KernelBound::kMemory, 10 * elements, compare, [&table, rule = ste.rule(), a] { quantize(table, rule, a); }});
  add_method(cases, table, "ste", ste, a);
  add_method(cases, table, "stableqat", stableqat, a);
  add_method(cases, table, "dsq", dsq, a);
  cases.push_back({"step_stableqat_bf16", KernelBound::kMemory, 30 * elements,
                   [&table, rule = stableqat.rule(), columns] { check_short(table, rule, columns); },
                   [&table, rule = stableqat.rule(), a] { update_short(table, rule, a); }});
  cases.push_back({"sums_none", KernelBound::kMemory, 4 * elements, compare,
                   [&table, a] { table.squares(a.gradient.numel(), a.gradient.const_data_ptr<float>(), a.squares.data_ptr<double>()); }});
  cases.push_back({"step_none", KernelBound::kMemory, 32 * elements, compare, [&table, a] {
                     table.update_plain(kStep, a.weight.numel(), a.weight.data_ptr<float>(), a.gradient.data_ptr<float>(),
                                        a.first.data_ptr<float>(), a.second.data_ptr<float>());
                   }});
  return cases;
}

}  // namespace stableqat::bench
