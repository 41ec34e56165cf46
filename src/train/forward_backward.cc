#include "stableqat/train/forward_backward.h"

#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>

#include <vector>

namespace stableqat {

namespace {

HeadLoss head_loss(const CausalLm& model, const at::Tensor& hidden, const at::Tensor& ids, double gradient_scale, const Teacher* teacher) {
  RECORD_USER_SCOPE("head");
  if (teacher == nullptr) return head_forward_backward(model, hidden.detach(), ids, gradient_scale);
  const at::NoGradGuard no_grad;
  const Distillation distillation{teacher->model, teacher->model->hidden_states(ids), teacher->weight, teacher->temperature};
  return head_forward_backward(model, hidden.detach(), ids, gradient_scale, &distillation);
}

at::Tensor hidden_states(const CausalLm& model, const at::Tensor& ids) {
  RECORD_USER_SCOPE("forward");
  return model.hidden_states(ids);
}

at::Tensor as_leaf(const at::Tensor& x) { return x.detach().requires_grad_(); }

HeadLoss with_recomputation(CausalLm& model, const at::Tensor& ids, double gradient_scale, const Teacher* teacher) {
  const RopeTable rope = model.rope(0, ids.size(1));
  const at::Tensor embedded = model.embed(ids);
  std::vector<at::Tensor> inputs;
  at::Tensor x = embedded.detach();
  {
    RECORD_USER_SCOPE("forward");
    const at::NoGradGuard no_grad;
    for (std::int64_t i = 0; i < model.num_layers(); ++i) {
      inputs.push_back(x);
      x = model.layer(i, x, rope);
    }
  }
  x = as_leaf(x);
  const at::Tensor hidden = model.final_norm(x);
  HeadLoss loss = head_loss(model, hidden, ids, gradient_scale, teacher);
  RECORD_USER_SCOPE("backward");
  hidden.backward(loss.hidden_gradient);
  at::Tensor gradient = x.grad();
  for (std::int64_t i = model.num_layers() - 1; i >= 0; --i) {
    const at::Tensor input = as_leaf(inputs.back());
    inputs.pop_back();
    model.layer(i, input, rope).backward(gradient);
    gradient = input.grad();
  }
  embedded.backward(gradient);
  return loss;
}

}  // namespace

HeadLoss forward_backward(CausalLm& model, const at::Tensor& ids, double gradient_scale, Recompute recompute, const Teacher* teacher) {
  HeadLoss loss;
  model.set_recompute_inputs(recompute == Recompute::kSelective);
  if (recompute == Recompute::kBlock) {
    loss = with_recomputation(model, ids, gradient_scale, teacher);
  } else {
    const at::Tensor hidden = hidden_states(model, ids);
    loss = head_loss(model, hidden, ids, gradient_scale, teacher);
    RECORD_USER_SCOPE("backward");
    hidden.backward(loss.hidden_gradient);
  }
  loss.hidden_gradient = at::Tensor();
  return loss;
}

}  // namespace stableqat
