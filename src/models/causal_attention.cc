#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "models/kernel_choice.h"
#include "models/tensor_views.h"
#include "stableqat/kernels/attention.h"
#include "stableqat/models/functional.h"

namespace stableqat {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

kernels::AttentionShape shape_of(const at::Tensor& q, const at::Tensor& k) {
  return {q.size(0), q.size(1), k.size(1), q.size(2), k.size(2), q.size(3)};
}

float scale_of(const at::Tensor& q) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(q.size(3)))); }

at::Tensor empty_like_heads(const at::Tensor& x) { return at::empty(x.sizes(), x.options()); }

class AttentionFunction : public Function<AttentionFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    RECORD_USER_SCOPE("attention");
    const kernels::AttentionKernels& kernels = kernels::attention_kernels();
    const kernels::AttentionShape shape = shape_of(q, k);
    const int threads = at::get_num_threads();
    const at::Tensor out = empty_like_heads(q);
    const at::Tensor lse = at::empty({shape.batch, shape.heads, shape.tokens}, q.options());
    const at::Tensor scratch = at::empty({kernels.forward_scratch(shape, threads)}, q.options());
    kernels.forward(shape, scale_of(q), heads_of(q), heads_of(k), heads_of(v), writable_heads_of(out), lse.data_ptr<float>(),
                    scratch.data_ptr<float>(), threads);
    context->save_for_backward({q, k, v, out, lse});
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    RECORD_USER_SCOPE("attention");
    const auto saved = context->get_saved_variables();
    const at::Tensor& q = saved[0];
    const at::Tensor& k = saved[1];
    const at::Tensor& v = saved[2];
    const at::Tensor d_out = with_dense_heads(gradients[0]);
    const kernels::AttentionKernels& kernels = kernels::attention_kernels();
    const kernels::AttentionShape shape = shape_of(q, k);
    const int threads = at::get_num_threads();
    const at::Tensor dq = empty_like_heads(q);
    const at::Tensor dk = empty_like_heads(k);
    const at::Tensor dv = empty_like_heads(v);
    const at::Tensor scratch = at::empty({kernels.backward_scratch(shape, threads)}, q.options());
    kernels.backward(shape, scale_of(q), heads_of(q), heads_of(k), heads_of(v), heads_of(saved[3]), saved[4].const_data_ptr<float>(),
                     heads_of(d_out), writable_heads_of(dq), writable_heads_of(dk), writable_heads_of(dv), scratch.data_ptr<float>(),
                     threads);
    return {dq, dk, dv};
  }
};

// A token at a time: [B, 1, H, D].
at::Tensor attend_one_query(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const at::Tensor out = at::empty(q.sizes(), q.options());
  const kernels::HeadView<const float> queries = heads_of(q), keys = heads_of(k), values = heads_of(v);
  const kernels::HeadView<float> to = writable_heads_of(out);
  const std::int64_t group = q.size(2) / k.size(2);
  at::parallel_for(0, q.size(0) * q.size(2), std::max<std::int64_t>(1, 4096 / k.size(1)), [&](std::int64_t begin, std::int64_t end) {
    const at::Tensor scores = at::empty({k.size(1)}, q.options());
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t batch = i / q.size(2);
      const std::int64_t head = i % q.size(2);
      const auto at_head = [batch](const auto& view, std::int64_t which) {
        return view.data + batch * view.strides.batch + which * view.strides.head;
      };
      kernels::attention_kernels().one_query(k.size(1), q.size(3), scale_of(q), at_head(queries, head), at_head(keys, head / group),
                                             keys.strides.token, at_head(values, head / group), values.strides.token, at_head(to, head),
                                             scores.data_ptr<float>());
    }
  });
  return out;
}

at::Tensor repeat_heads(const at::Tensor& x, std::int64_t heads) {
  const std::int64_t groups = heads / x.size(1);
  if (groups == 1) return x;
  return x.unsqueeze(2).expand({x.size(0), x.size(1), groups, x.size(2), x.size(3)}).reshape({x.size(0), heads, x.size(2), x.size(3)});
}

}  // namespace

at::Tensor causal_attention_ref(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const std::int64_t tokens = q.size(1);
  const std::int64_t keys = k.size(1);
  const at::Tensor k_all = repeat_heads(k.transpose(1, 2), q.size(2));
  const at::Tensor v_all = repeat_heads(v.transpose(1, 2), q.size(2));
  std::optional<at::Tensor> mask;
  if (keys > tokens && tokens > 1) mask = at::ones({tokens, keys}, q.options().dtype(at::kBool)).tril(keys - tokens);
  return at::scaled_dot_product_attention(q.transpose(1, 2), k_all, v_all, mask, 0.0, keys == tokens).transpose(1, 2);
}

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  if (!has_cpu_kernels(q)) return causal_attention_ref(q, k, v);
  if (q.size(1) == 1 && !at::GradMode::is_enabled()) return attend_one_query(with_dense_heads(q), with_dense_heads(k), with_dense_heads(v));
  return AttentionFunction::apply(with_dense_heads(q), with_dense_heads(k), with_dense_heads(v));
}

}  // namespace stableqat
