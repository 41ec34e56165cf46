#include "stableqat/models/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include "models/fp8_products.h"
#include "models/matmul.h"
#include "models/tensor_views.h"
#include "stableqat/base/error.h"
#include "stableqat/kernels/gemm.h"
#include "stableqat/models/functional.h"
#include "stableqat/models/packed_matrix.h"

namespace stableqat {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// A matrix rounded to integers row by row: 16-bit ones (two digits) or bytes (one).
struct RoundedRows {
  at::Tensor codes;  // [R, quantized_row_stride(columns)] int16, or [R, byte_row_stride(columns)] uint8
  at::Tensor scale;  // [R]

  bool in_bytes() const { return codes.scalar_type() == at::kByte; }
  kernels::QuantizedRows shorts() const { return {codes.const_data_ptr<std::int16_t>(), codes.size(1), scale.const_data_ptr<float>()}; }
  kernels::ByteRows bytes() const { return {codes.const_data_ptr<std::uint8_t>(), codes.size(1), scale.const_data_ptr<float>()}; }
};

RoundedRows round_rows(const at::Tensor& x, int digits, const at::Tensor& column_scale = {}) {
  const std::int64_t rows = x.size(0);
  const std::int64_t columns = x.size(1);
  const auto* const values = x.const_data_ptr<float>();
  const auto* const column_scales = column_scale.defined() ? column_scale.const_data_ptr<float>() : nullptr;
  const kernels::GemmKernels& kernels = kernels::gemm_kernels();
  RoundedRows rounded{{}, at::empty({rows}, x.options())};
  auto* const scales = rounded.scale.mutable_data_ptr<float>();
  if (digits == 1) {
    rounded.codes = at::empty({rows, kernels::byte_row_stride(columns)}, x.options().dtype(at::kByte));
    kernels.quantize_rows_to_bytes(rows, columns, values, x.stride(0), column_scales, rounded.codes.mutable_data_ptr<std::uint8_t>(),
                                   scales);
  } else {
    rounded.codes = at::empty({rows, kernels::quantized_row_stride(columns)}, x.options().dtype(at::kShort));
    kernels.quantize_rows(rows, columns, values, x.stride(0), column_scales, rounded.codes.mutable_data_ptr<std::int16_t>(), scales);
  }
  return rounded;
}

kernels::GemmCodes codes_of(const at::Tensor& codes) { return {codes.const_data_ptr<std::int8_t>(), codes.size(0), codes.size(1)}; }

at::Tensor integer_forward(const RoundedRows& x, const at::Tensor& codes, const at::Tensor& step) {
  at::Tensor y = at::empty({x.scale.size(0), codes.size(0)}, step.options());
  const auto product = [&](auto kernel, auto rows) {
    matmul::require_memory(
        kernel(y.size(0), rows, codes_of(codes), step.const_data_ptr<float>(), y.mutable_data_ptr<float>(), y.size(1), false));
  };
  const kernels::GemmKernels& kernels = kernels::gemm_kernels();
  x.in_bytes() ? product(kernels.byte_forward, x.bytes()) : product(kernels.integer_forward, x.shorts());
  return y;
}

void add_integer_input_gradient(at::Tensor& dx, const at::Tensor& dy, int digits, const at::Tensor& codes, const at::Tensor& step) {
  const bool accumulate = dx.defined();
  if (!accumulate) dx = at::empty({dy.size(0), codes.size(1)}, dy.options());
  const RoundedRows rounded = round_rows(dy, digits, step);
  const auto product = [&](auto kernel, auto rows) {
    matmul::require_memory(kernel(dy.size(0), rows, codes_of(codes), dx.mutable_data_ptr<float>(), dx.size(1), accumulate));
  };
  const kernels::GemmKernels& kernels = kernels::gemm_kernels();
  digits == 1 ? product(kernels.byte_input_gradient, rounded.bytes()) : product(kernels.integer_input_gradient, rounded.shorts());
}

void add_integer_weight_gradient(at::Tensor& gradient, const at::Tensor& dy, const RoundedRows& x, std::int64_t columns) {
  const bool accumulate = gradient.defined();
  if (!accumulate) gradient = at::empty({dy.size(1), columns}, dy.options());
  const kernels::GemmKernels& kernels = kernels::gemm_kernels();
  const auto product = [&](auto kernel, auto rows) {
    matmul::require_memory(kernel(kernels.fast_gradients, dy.size(0), dy.size(1), columns, dy.const_data_ptr<float>(), rows,
                                  gradient.mutable_data_ptr<float>(), accumulate));
  };
  x.in_bytes() ? product(kernels.byte_weight_gradient, x.bytes()) : product(kernels.integer_weight_gradient, x.shorts());
}

using Source = LayerInput::Source;

// The input of layers once more, bit for bit.
at::Tensor made_again(Source source, const at::Tensor& first, const at::Tensor& second, double eps) {
  return source == Source::kRmsNorm ? rms_norm(first, second, eps) : swiglu(first, second);
}

// What backward keeps: the input's shape, the input as the layers multiplied it (plain, rounded or both) or what it is made from, and five
// tensors for each layer.
class LinearFunction : public Function<LinearFunction> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x, at::TensorList weights, std::span<const Linear* const> layers,
                               const LayerInput& input) {
    RECORD_USER_SCOPE("gemm");
    const at::Tensor rows = rows_of(x).contiguous();
    RoundedRows rounded;
    fp8::Rows fp8_rows;
    bool takes_plain = false;
    variable_list outputs;
    variable_list saved(kFirstLayer);
    c10::List<std::int64_t> digits;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const Linear& layer = *layers[i];
      at::Tensor y;
      if (layer.digits > 0) {
        if (!rounded.codes.defined()) rounded = round_rows(rows, layer.digits);
        y = integer_forward(rounded, layer.codes, layer.step);
      } else if (layer.fp8_codes.defined()) {
        takes_plain = true;  // by the weight's gradient
        if (!fp8_rows.codes.defined()) fp8_rows = fp8::rounded(rows);
        y = fp8::forward(fp8_rows, layer.fp8_codes, layer.step);
      } else {
        takes_plain = true;
        y = layer.codes.defined() ? matmul::forward(rows, layer.codes, layer.step)
                                  : matmul::forward(rows, layer.compute.defined() ? layer.compute : weights[i]);
      }
      digits.push_back(layer.digits);
      std::vector<std::int64_t> shape = x.sizes().vec();
      shape.back() = y.size(1);
      outputs.push_back(y.view(shape));
      saved.insert(saved.end(), {weights[i], layer.compute, layer.codes, layer.step, layer.fp8_transposed});
    }
    if (input.source == Source::kKept) {
      if (takes_plain) saved[kPlain] = rows;
      saved[kCodes] = rounded.codes;
      saved[kScale] = rounded.scale;
    } else if (input.source == Source::kKeptElsewhere) {
      saved[kPlain] = rows;
    } else {
      saved[kMadeFrom] = input.first.detach();
      saved[kMadeFrom + 1] = input.second.detach();
    }
    context->saved_data["source"] = static_cast<std::int64_t>(input.source);
    context->saved_data["eps"] = input.eps;
    context->saved_data["shape"] = x.sizes().vec();
    context->saved_data["digits"] = digits;
    context->save_for_backward(std::move(saved));
    return outputs;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    RECORD_USER_SCOPE("gemm");
    variable_list saved = context->get_saved_variables();
    const std::vector<std::int64_t> digits = context->saved_data["digits"].toIntVector();
    const auto [plain, rounded] = input_of(context, saved, digits);
    at::Tensor dx;
    variable_list results(1);
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      at::Tensor* const layer = &saved[kFirstLayer + kPerLayer * i];
      at::Tensor& weight = layer[0];
      const at::Tensor& compute = layer[1];
      const at::Tensor& codes = layer[2];
      const at::Tensor& step = layer[3];
      const at::Tensor& fp8_transposed = layer[4];
      results.emplace_back();
      if (!gradients[i].defined()) continue;
      const at::Tensor dy = rows_of(gradients[i]).contiguous();
      if (context->needs_input_grad(0)) {
        if (digits[i] > 0) {
          add_integer_input_gradient(dx, dy, static_cast<int>(digits[i]), codes, step);
        } else if (fp8_transposed.defined()) {
          fp8::add_input_gradient(dx, dy, fp8_transposed, step);
        } else if (codes.defined()) {
          matmul::add_input_gradient(dx, dy, codes, step);
        } else {
          matmul::add_input_gradient(dx, dy, compute.defined() ? compute : weight);
        }
      }
      if (!context->needs_input_grad(i + 1)) continue;
      at::Tensor& gradient = weight.is_leaf() ? weight.mutable_grad() : results.back();
      if (digits[i] > 0) {
        add_integer_weight_gradient(gradient, dy, rounded, weight.size(1));
      } else {
        matmul::add_weight_gradient(gradient, weight.scalar_type(), dy, plain);
      }
    }
    if (dx.defined()) results[0] = dx.view(context->saved_data["shape"].toIntVector());
    results.resize(results.size() + 2);  // layers and input are no tensors
    return results;
  }

 private:
  static constexpr std::size_t kPlain = 0;
  static constexpr std::size_t kCodes = 1;
  static constexpr std::size_t kScale = 2;
  static constexpr std::size_t kMadeFrom = 3;  // two tensors
  static constexpr std::size_t kFirstLayer = 5;
  static constexpr std::size_t kPerLayer = 5;

  struct Input {
    at::Tensor plain;  // [R, M], undefined when only the rounded rows were kept
    RoundedRows rounded;
  };

  static Input input_of(AutogradContext* context, const variable_list& saved, const std::vector<std::int64_t>& digits) {
    const auto source = static_cast<Source>(context->saved_data["source"].toInt());
    Input input{saved[kPlain], {saved[kCodes], saved[kScale]}};
    if (source == Source::kKept) return input;
    if (source != Source::kKeptElsewhere) {
      input.plain = rows_of(made_again(source, saved[kMadeFrom], saved[kMadeFrom + 1], context->saved_data["eps"].toDouble()));
    }
    const auto rounding = std::find_if(digits.begin(), digits.end(), [](std::int64_t count) { return count > 0; });
    if (rounding != digits.end()) input.rounded = round_rows(input.plain, static_cast<int>(*rounding));
    return input;
  }
};

using Layers = std::span<const Linear* const>;

bool can_use_packed(const at::Tensor& x, Layers layers) {
  if (at::GradMode::is_enabled() || x.numel() >= kernels::kFewRows * x.size(-1)) return false;
  return std::all_of(layers.begin(), layers.end(), [](const Linear* layer) { return layer->packed != nullptr; });
}

std::vector<at::Tensor> packed_products(const at::Tensor& x, Layers layers) {
  const DigitActivations digits(rows_of(x).contiguous());
  std::vector<at::Tensor> outputs;
  for (const Linear* layer : layers) {
    std::vector<std::int64_t> shape = x.sizes().vec();
    shape.back() = layer->packed->rows();
    outputs.push_back(layer->packed->product(digits).view(shape));
  }
  return outputs;
}

bool rounds_inputs(Layers layers) {
  return std::any_of(layers.begin(), layers.end(), [](const Linear* layer) { return layer->input_rounding != ActivationRounding::kNone; });
}

// Layer by layer: each may round the input in its own way.
std::vector<at::Tensor> products_of_rounded(const at::Tensor& x, Layers layers) {
  if (at::GradMode::is_enabled()) {
    throw ConfigError({"activation rounding", "gradients", "evaluation only", "round the activations of a model that is not trained"});
  }
  std::vector<at::Tensor> outputs;
  LayerInput rounded(x);
  ActivationRounding kind = ActivationRounding::kNone;
  for (const Linear* layer : layers) {
    if (layer->input_rounding != kind) rounded.value = rounded_activations(x, layer->input_rounding);
    kind = layer->input_rounding;
    const std::vector<at::Tensor> weights{layer->weight};
    outputs.push_back(LinearFunction::apply(rounded.value, at::TensorList(weights), Layers(&layer, 1), rounded).front());
  }
  return outputs;
}

std::vector<at::Tensor> products(const LayerInput& x, Layers layers) {
  if (rounds_inputs(layers)) return products_of_rounded(x.value, layers);
  if (can_use_packed(x.value, layers)) return packed_products(x.value, layers);
  std::vector<at::Tensor> weights;
  for (const Linear* layer : layers) weights.push_back(layer->weight);
  return LinearFunction::apply(x.value, at::TensorList(weights), layers, x);
}

}  // namespace

std::vector<at::Tensor> linear(const LayerInput& x, std::initializer_list<const Linear*> layers) {
  std::vector<at::Tensor> outputs = products(x, Layers(layers.begin(), layers.size()));
  std::size_t i = 0;
  for (const Linear* layer : layers) {
    at::Tensor& y = outputs[i++];
    if (layer->bias.defined()) y = y + layer->bias.to(y.scalar_type());
  }
  return outputs;
}

at::Tensor linear(const LayerInput& x, const Linear& layer) { return linear(x, {&layer}).front(); }

}  // namespace stableqat
