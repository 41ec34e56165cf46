#include "stableqat/models/functional.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <vector>

#include "models/tensor_views.h"

namespace stableqat {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

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

at::Tensor embedding_lookup(const at::Tensor& table, const at::Tensor& ids) { return EmbeddingFunction::apply(table, ids); }

}  // namespace stableqat
