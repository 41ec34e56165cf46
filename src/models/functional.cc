#include "stableqat/models/functional.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <vector>

namespace stableqat {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::Tensor rows_of(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

class LinearFunction : public Function<LinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& compute) {
    context->save_for_backward({x, w, compute.value_or(at::Tensor())});
    return at::matmul(x, compute.value_or(w).t());
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    at::Tensor w = saved[1];
    const at::Tensor& operand = saved[2].defined() ? saved[2] : w;
    const at::Tensor dy = rows_of(gradients[0]);
    at::Tensor dx;
    if (context->needs_input_grad(0)) dx = at::mm(dy, operand).view(x.sizes());
    at::Tensor dw;
    if (context->needs_input_grad(1)) {
      if (w.is_leaf()) {
        accumulate(w, dy.t(), rows_of(x));
      } else {
        dw = at::mm(dy.t(), rows_of(x));
      }
    }
    return {dx, dw, at::Tensor()};
  }

 private:
  static void accumulate(at::Tensor& w, const at::Tensor& dy_t, const at::Tensor& x) {
    at::Tensor& gradient = w.mutable_grad();
    if (!gradient.defined()) {
      gradient = at::mm(dy_t, x).to(w.scalar_type());
    } else if (gradient.scalar_type() == x.scalar_type()) {
      gradient.addmm_(dy_t, x);
    } else {
      gradient.add_(at::mm(dy_t, x));
    }
  }
};

class EmbeddingFunction : public Function<EmbeddingFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& table, const at::Tensor& ids) {
    context->save_for_backward({table, ids});
    std::vector<std::int64_t> sizes = ids.sizes().vec();
    sizes.push_back(table.size(1));
    return table.index_select(0, ids.reshape({-1})).view(sizes);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    at::Tensor table = saved[0];
    at::Tensor& gradient = table.mutable_grad();
    if (!gradient.defined()) gradient = at::zeros_like(table);
    gradient.index_add_(0, saved[1].reshape({-1}), rows_of(gradients[0]).to(table.scalar_type()));
    return {at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& compute, const at::Tensor& b) {
  const at::Tensor y = LinearFunction::apply(x, w, compute.defined() ? std::make_optional(compute) : std::nullopt);
  return b.defined() ? y + b.to(y.scalar_type()) : y;
}

at::Tensor embedding_lookup(const at::Tensor& table, const at::Tensor& ids) { return EmbeddingFunction::apply(table, ids); }

}  // namespace stableqat
