// Cases of the kernels that pass over memory once: norms, rotations, gates, losses.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include "bench/kernel_case.h"
#include "stableqat/kernels/cross_entropy.h"
#include "stableqat/kernels/rms_norm.h"
#include "stableqat/kernels/rope.h"
#include "stableqat/kernels/swiglu.h"
#include "stableqat/models/functional.h"

namespace stableqat::bench {

namespace {

float* data(const at::Tensor& tensor) { return tensor.data_ptr<float>(); }
at::Tensor leaf(const at::Tensor& tensor) { return wide(tensor).requires_grad_(); }
double bytes(double arrays, const at::Tensor& array) { return arrays * static_cast<double>(array.nbytes()); }

struct NormArrays {
  NormArrays(std::int64_t rows, std::int64_t columns)
      : x(at::randn({rows, columns})),
        delta(at::randn({rows, columns})),
        dy(at::randn({rows, columns})),
        w(at::randn({columns})),
        sum(at::empty_like(x)),
        y(at::empty_like(x)),
        dx(at::empty_like(x)),
        dw(at::empty_like(w)),
        inverse_rms(at::empty({rows})),
        workspace(at::empty({kernels::kRmsNormBlocks, columns})) {}

  void forward(const kernels::RmsNormKernels& table) const {
    table.forward(x.size(0), x.size(1), data(x), data(delta), data(w), kEpsilon, data(sum), data(y), data(inverse_rms));
  }
  void backward(const kernels::RmsNormKernels& table) const {
    table.backward(x.size(0), x.size(1), data(sum), data(w), data(inverse_rms), data(dy), data(delta), data(dx), data(dw), data(workspace));
  }

  static constexpr float kEpsilon = 1e-5F;
  at::Tensor x, delta, dy, w, sum, y, dx, dw, inverse_rms, workspace;
};

void check_rms_norm(const kernels::RmsNormKernels& table, std::int64_t columns) {
  const NormArrays a(kCheckedRows, columns);
  a.forward(table);
  a.backward(table);
  const at::AutoGradMode grad(true);
  const at::Tensor sum = leaf(a.x + a.delta);
  const at::Tensor w = leaf(a.w);
  const at::Tensor y = rms_norm_ref(sum, w, NormArrays::kEpsilon);
  y.backward(wide(a.dy));
  require_close("rms_norm.forward", a.y, y.detach());
  require_close("rms_norm.backward", a.dx, sum.grad() + a.delta);
  require_close("rms_norm.backward", a.dw, w.grad());
}

}  // namespace

std::vector<KernelCase> rms_norm_cases(const KernelBenchOptions& options, kernels::Isa isa) {
  const auto& table = kernels::rms_norm_kernels(isa);
  const std::int64_t columns = options.model.hidden_size;
  const NormArrays a(streaming_rows(columns), columns);
  a.forward(table);
  const auto check = [&table, columns] { check_rms_norm(table, columns); };
  // x, delta -> sum, y; sum, dy, residual -> dx.
  return {{"forward", KernelBound::kMemory, bytes(4, a.x), check, [&table, a] { a.forward(table); }},
          {"backward", KernelBound::kMemory, bytes(4, a.x), check, [&table, a] { a.backward(table); }}};
}

std::vector<KernelCase> rope_cases(const KernelBenchOptions& options, kernels::Isa isa) {
  const auto& table = kernels::rope_kernels(isa);
  const std::int64_t heads = options.model.num_attention_heads;
  const std::int64_t size = options.model.head_dim;
  const auto arrays = [heads, size](std::int64_t tokens) {
    const at::Tensor angles = at::outer(at::arange(tokens, at::kFloat), at::randn({size / 2}));
    return std::vector<at::Tensor>{at::randn({1, tokens, heads, size}), at::empty({1, tokens, heads, size}), angles.cos(), angles.sin()};
  };
  const auto call = [heads, size](auto function, const std::vector<at::Tensor>& a, const at::Tensor& from, const at::Tensor& to) {
    const std::int64_t tokens = from.size(1);
    const kernels::HeadStrides strides{tokens * heads * size, heads * size, size};
    function({1, tokens, heads, size}, data(a[2]), data(a[3]), kernels::HeadView<const float>{data(from), strides},
             kernels::HeadView<float>{data(to), strides});
  };
  const auto check = [&table, arrays, call, size] {
    const auto a = arrays(kCheckedRows);
    call(table.forward, a, a[0], a[1]);
    const at::Tensor c = wide(a[2]).view({1, -1, 1, size / 2});
    const at::Tensor s = wide(a[3]).view({1, -1, 1, size / 2});
    const at::Tensor x = wide(a[0]).narrow(-1, 0, size / 2);
    const at::Tensor y = wide(a[0]).narrow(-1, size / 2, size / 2);
    require_close("rope.forward", a[1], at::cat({x * c - y * s, y * c + x * s}, -1));
    const at::Tensor back = at::empty_like(a[0]);
    call(table.backward, a, a[1], back);
    require_close("rope.backward", back, wide(a[0]));  // a rotation and its inverse
  };
  const auto a = arrays(streaming_rows(heads * size));
  return {{"forward", KernelBound::kMemory, bytes(2, a[0]), check, [&table, a, call] { call(table.forward, a, a[0], a[1]); }},
          {"backward", KernelBound::kMemory, bytes(2, a[0]), check, [&table, a, call] { call(table.backward, a, a[0], a[1]); }}};
}

std::vector<KernelCase> swiglu_cases(const KernelBenchOptions& options, kernels::Isa isa) {
  const auto& table = kernels::swiglu_kernels(isa);
  struct Arrays {
    explicit Arrays(std::int64_t count)
        : gate(at::randn({count})), up(at::randn({count})), dy(at::randn({count})), a(at::empty({count})), b(at::empty({count})) {}
    at::Tensor gate, up, dy, a, b;
  };
  const auto forward = [&table](const Arrays& x) { table.forward(x.gate.numel(), data(x.gate), data(x.up), data(x.a)); };
  const auto backward = [&table](const Arrays& x) {
    table.backward(x.gate.numel(), data(x.gate), data(x.up), data(x.dy), data(x.a), data(x.b));
  };
  const auto check = [forward, backward, columns = options.model.intermediate_size] {
    const Arrays x(kCheckedRows * columns);
    forward(x);
    const at::AutoGradMode grad(true);
    const at::Tensor gate = leaf(x.gate);
    const at::Tensor up = leaf(x.up);
    const at::Tensor y = swiglu_ref(gate, up);
    y.backward(wide(x.dy));
    require_close("swiglu.forward", x.a, y.detach());
    backward(x);
    require_close("swiglu.backward", x.a, gate.grad());
    require_close("swiglu.backward", x.b, up.grad());
  };
  const Arrays x(streaming_rows(1));
  return {{"forward", KernelBound::kMemory, bytes(3, x.gate), check, [forward, x] { forward(x); }},
          {"backward", KernelBound::kMemory, bytes(5, x.gate), check, [backward, x] { backward(x); }}};
}

std::vector<KernelCase> cross_entropy_cases(const KernelBenchOptions& options, kernels::Isa isa) {
  const auto& table = kernels::cross_entropy_kernels(isa);
  const std::int64_t columns = options.model.vocab_size;
  struct Arrays {
    Arrays(std::int64_t rows, std::int64_t width)
        : logits(at::randn({rows, width})),
          targets(at::randint(width, {rows}, at::kLong)),
          losses(at::empty({rows}, at::kDouble)),
          log_probs(at::empty({rows})) {}
    at::Tensor logits, targets, losses, log_probs;
  };
  const auto log_probs = [&table](const Arrays& a) {
    table.log_probs(a.logits.size(0), a.logits.size(1), data(a.logits), a.targets.const_data_ptr<std::int64_t>(), data(a.log_probs));
  };
  const auto gradient = [&table](const Arrays& a) {
    table.gradient_in_place(a.logits.size(0), a.logits.size(1), a.targets.const_data_ptr<std::int64_t>(), 1.0F, data(a.logits),
                            a.losses.data_ptr<double>());
  };
  const auto check = [log_probs, gradient, columns] {
    const Arrays a(kCheckedRows, columns);
    const at::Tensor log_softmax = at::log_softmax(wide(a.logits), 1);
    const at::Tensor expected = log_softmax.gather(1, a.targets.unsqueeze(1)).squeeze(1);
    log_probs(a);
    require_close("cross_entropy.log_probs", a.log_probs, expected);
    gradient(a);
    require_close("cross_entropy.gradient", a.losses, -expected);
    require_close("cross_entropy.gradient", a.logits, log_softmax.exp() - at::one_hot(a.targets, columns));
  };
  const Arrays a(streaming_rows(columns), columns);
  return {{"log_probs", KernelBound::kMemory, bytes(1, a.logits), check, [log_probs, a] { log_probs(a); }},
          {"gradient", KernelBound::kMemory, bytes(2, a.logits), check, [gradient, a] { gradient(a); }}};
}

}  // namespace stableqat::bench
