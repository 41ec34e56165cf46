#include "quantizer_cases.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/kernels/ref/fake_quantize.h"
#include "stableqat/quant/fake_quantize.h"
#include "stableqat/quant/quantized_weight.h"

namespace stableqat::golden {
namespace {

using nlohmann::json;

at::Tensor numbers(const json& object, const char* key, at::IntArrayRef shape) {
  const at::Tensor flat = at::tensor(object.at(key).get<std::vector<double>>(), at::kDouble);
  const std::int64_t expected = c10::multiply_integers(shape);
  if (flat.numel() != expected) throw DataError({key, std::to_string(flat.numel()) + " values", std::to_string(expected), ""});
  return flat.reshape(shape);
}

QuantizerSpec read_spec(const json& object, const std::string& method) {
  QuantizerSpec spec{.bits = object.at("bits").get<int>(), .fp16_scales = false};
  if (method == "seq") {
    spec.kind = QuantizerKind::kSeq;
  } else if (method == "dsq") {
    spec.kind = QuantizerKind::kDsq;
  } else if (method == "stableqat") {
    spec.surrogate = Surrogate::from_amplitudes(object.at("amplitude").get<std::vector<double>>());
  } else if (method != "ste") {
    throw DataError({"method", method, "ste, stableqat, seq or dsq", ""});
  }
  return spec;
}

QuantizerCase read_case(const json& object) {
  QuantizerCase golden;
  golden.method = object.at("method").get<std::string>();
  golden.spec = read_spec(object, golden.method);
  const auto rows = object.at("rows").get<std::int64_t>();
  const auto cols = object.at("cols").get<std::int64_t>();
  const auto seed = object.at("seed").get<std::uint64_t>();
  golden.name = golden.method + " " + std::to_string(golden.spec.bits) + " bits, order " + std::to_string(object.value("order", 0)) + ", " +
                std::to_string(rows) + " x " + std::to_string(cols);
  golden.weight = draw(seed, rows, cols) * 0.1;
  golden.gradient = draw(seed + 1, rows, cols);
  golden.scale = numbers(object, "scale", {rows, 1});
  golden.expected.output = numbers(object, "output", {rows, cols});
  golden.expected.grad_weight = numbers(object, "grad_weight", {rows, cols});
  golden.expected.grad_scale = numbers(object, "grad_scale", {rows});
  if (golden.method == "dsq") {
    golden.alpha = at::full({1}, object.value("alpha", QuantizedWeight::kInitialAlpha), at::kDouble);
    golden.expected.grad_alpha = numbers(object, "grad_alpha", {1});
    if (golden.spec.bits == 1) golden.skipped = "the authors' dsq has three levels at 1 bit; ours has none (a sign has no interval)";
  }
  return golden;
}

// Largest |found - expected|; clears `within` when it exceeds 1024 roundings of the largest |expected|.
double largest_difference(const at::Tensor& found, const at::Tensor& expected, bool& within) {
  if (!expected.defined()) return 0;
  const double difference = (found.reshape(expected.sizes()) - expected).abs().max().item<double>();
  const double tolerance = 1024 * std::numeric_limits<double>::epsilon() * expected.abs().max().item<double>();
  within = within && difference <= tolerance;
  return difference;
}

}  // namespace

at::Tensor draw(std::uint64_t seed, std::int64_t rows, std::int64_t cols) {
  at::Tensor result = at::empty({rows, cols}, at::kDouble);
  double* values = result.mutable_data_ptr<double>();
  std::uint64_t state = seed;
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    double sum = 0;
    for (int draw = 0; draw < 3; ++draw) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      sum += static_cast<double>(state >> 11) / 9007199254740992.0 * 2 - 1;
    }
    values[i] = sum / 3;
  }
  return result;
}

std::vector<QuantizerCase> read_quantizer_cases(const std::filesystem::path& path) {
  const std::string text = read_text_file(path);
  std::vector<QuantizerCase> cases;
  try {
    for (const json& object : json::parse(text)) cases.push_back(read_case(object));
  } catch (const json::exception& error) {
    throw DataError({path.string() + ", case " + std::to_string(cases.size()), error.what(), "a list of quantizer cases", ""});
  }
  if (cases.empty()) throw DataError({path.string(), "no cases", "a list of quantizer cases", ""});
  return cases;
}

QuantizerNumbers run_kernels(const QuantizerCase& golden) {
  const kernels::QuantRule rule = golden.spec.rule();
  const std::int64_t rows = golden.weight.size(0);
  const std::int64_t cols = golden.weight.size(1);
  const at::Tensor codes = at::zeros({rows, cols}, at::kChar);
  QuantizerNumbers result{at::empty_like(golden.weight), at::empty_like(golden.weight), at::empty({rows}, at::kDouble),
                          at::empty({1}, at::kDouble)};
  kernels::fake_quantize_ref(rule, rows, cols, golden.weight.const_data_ptr<double>(), golden.scale.const_data_ptr<double>(),
                             codes.mutable_data_ptr<std::int8_t>(), result.output.mutable_data_ptr<double>());
  kernels::surrogate_backward_ref(rule, rows, cols, golden.weight.const_data_ptr<double>(), golden.scale.const_data_ptr<double>(),
                                  golden.alpha.defined() ? golden.alpha.item<double>() : 0.0,
                                  golden.spec.scale_gradient_factor(rows * cols), golden.gradient.const_data_ptr<double>(),
                                  result.grad_weight.mutable_data_ptr<double>(), result.grad_scale.mutable_data_ptr<double>(),
                                  result.grad_alpha.mutable_data_ptr<double>());
  return result;
}

QuantizerNumbers run_quantized_weight(const QuantizerCase& golden) {
  QuantizedWeight weight(golden.weight.clone(), golden.spec, golden.scale,
                         golden.alpha.defined() ? std::optional(golden.alpha) : std::nullopt);
  weight.quantize();
  const at::Tensor output = weight.dequantized().detach().clone();
  (weight.dequantized() * golden.gradient).sum().backward();
  const QuantizedWeight::Gradients gradients = weight.map_gradient();
  return {output, gradients.master, gradients.scale, gradients.alpha};
}

QuantizerNumbers run_autograd(const QuantizerCase& golden) {
  const at::Tensor weight = golden.weight.clone().set_requires_grad(true);
  const at::Tensor scale = golden.scale.clone().set_requires_grad(true);
  const at::Tensor alpha = golden.alpha.defined() ? golden.alpha.clone().set_requires_grad(true) : at::Tensor();
  const at::Tensor output = fake_quantize_autograd(weight, scale, golden.spec, alpha);
  (output * golden.gradient).sum().backward();
  return {output.detach(), weight.grad(), scale.grad(), alpha.defined() ? alpha.grad() : at::Tensor()};
}

double Deviation::largest() const { return std::max({output, grad_weight, grad_scale, grad_alpha}); }

void Deviation::include(const Deviation& other) {
  output = std::max(output, other.output);
  grad_weight = std::max(grad_weight, other.grad_weight);
  grad_scale = std::max(grad_scale, other.grad_scale);
  grad_alpha = std::max(grad_alpha, other.grad_alpha);
  within_tolerance = within_tolerance && other.within_tolerance;
}

Deviation compare(const QuantizerNumbers& found, const QuantizerNumbers& expected) {
  Deviation deviation;
  bool& within = deviation.within_tolerance;
  deviation.output = largest_difference(found.output, expected.output, within);
  deviation.grad_weight = largest_difference(found.grad_weight, expected.grad_weight, within);
  deviation.grad_scale = largest_difference(found.grad_scale, expected.grad_scale, within);
  deviation.grad_alpha = largest_difference(found.grad_alpha, expected.grad_alpha, within);
  return deviation;
}

}  // namespace stableqat::golden
