// Cases of the kernels that arithmetic bounds: matrix products and attention.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "bench/kernel_case.h"
#include "stableqat/base/error.h"
#include "stableqat/kernels/attention.h"
#include "stableqat/kernels/gemm.h"
#include "stableqat/models/functional.h"
#include "stableqat/models/head.h"

namespace stableqat::bench {

namespace {

using kernels::GradientArithmetic;

const float* readable(const at::Tensor& tensor) { return tensor.const_data_ptr<float>(); }
float* writable(const at::Tensor& tensor) { return tensor.data_ptr<float>(); }

kernels::HeadStrides dense_strides(const at::Tensor& x) { return {x.stride(0), x.stride(1), x.stride(2)}; }
kernels::HeadView<const float> heads(const at::Tensor& x) { return {readable(x), dense_strides(x)}; }
kernels::HeadView<float> writable_heads(const at::Tensor& x) { return {writable(x), dense_strides(x)}; }

class Attention {
 public:
  Attention(const kernels::AttentionKernels& table, const ModelConfig& model, std::int64_t batch, std::int64_t tokens)
      : table_(table),
        shape_{batch, tokens, tokens, model.num_attention_heads, model.num_key_value_heads, model.head_dim},
        threads_(at::get_num_threads()) {
    const std::vector<std::int64_t> q_shape{batch, tokens, model.num_attention_heads, model.head_dim};
    const std::vector<std::int64_t> k_shape{batch, tokens, model.num_key_value_heads, model.head_dim};
    for (at::Tensor* tensor : {&q, &out, &d_out, &dq}) *tensor = at::randn(q_shape);
    for (at::Tensor* tensor : {&k, &v, &dk, &dv}) *tensor = at::randn(k_shape);
    lse_ = at::empty({batch, model.num_attention_heads, tokens});
    scratch_ = at::empty({std::max(table.forward_scratch(shape_, threads_), table.backward_scratch(shape_, threads_))});
  }

  void forward() const {
    table_.forward(shape_, scale(), heads(q), heads(k), heads(v), writable_heads(out), writable(lse_), writable(scratch_), threads_);
  }
  void backward() const {
    table_.backward(shape_, scale(), heads(q), heads(k), heads(v), heads(out), readable(lse_), heads(d_out), writable_heads(dq),
                    writable_heads(dk), writable_heads(dv), writable(scratch_), threads_);
  }

  // Of the causal half of q k^T and p v.
  double forward_flops() const {
    const auto tokens = static_cast<double>(shape_.tokens);
    return 2 * 2 * static_cast<double>(shape_.batch * shape_.heads * shape_.head_size) * tokens * (tokens + 1) / 2;
  }

  at::Tensor q, k, v, out, d_out, dq, dk, dv;

 private:
  float scale() const { return static_cast<float>(1 / std::sqrt(static_cast<double>(shape_.head_size))); }

  const kernels::AttentionKernels& table_;
  kernels::AttentionShape shape_;
  int threads_;
  at::Tensor lse_, scratch_;
};

void check_attention(const kernels::AttentionKernels& table, const ModelConfig& model) {
  constexpr std::int64_t kTokens = 70;
  const Attention a(table, model, 2, kTokens);
  a.forward();
  a.backward();
  const at::AutoGradMode grad(true);
  const at::Tensor q = wide(a.q).requires_grad_();
  const at::Tensor k = wide(a.k).requires_grad_();
  const at::Tensor v = wide(a.v).requires_grad_();
  const at::Tensor out = causal_attention_ref(q, k, v);
  out.backward(wide(a.d_out));
  require_close("attention.forward", a.out, out.detach());
  require_close("attention.backward", a.dq, q.grad());
  require_close("attention.backward", a.dk, k.grad());
  require_close("attention.backward", a.dv, v.grad());
}

// x [m, M], dy [m, N], a weight [N, M] as floats and as codes with scales, and room for all results.
struct Products {
  Products(const kernels::GemmKernels& kernels, std::int64_t rows, std::int64_t out, std::int64_t in)
      : table(&kernels), m(rows), N(out), M(in) {
    x = at::randn({m, M});
    dy = at::randn({m, N});
    codes = at::randint(-8, 8, {N, M}, at::kChar);
    scale = at::randn({N}).abs();
    w = codes * scale.unsqueeze(1);
    y = at::empty({m, N});
    dx = at::empty({m, M});
    dw = at::empty({N, M});
    x_codes = at::zeros({m, kernels::quantized_row_stride(M)}, at::kShort);
    x_scale = at::empty({m});
    dy_codes = at::zeros({m, kernels::quantized_row_stride(N)}, at::kShort);
    dy_scale = at::empty({m});
    x_bytes = at::zeros({m, kernels::byte_row_stride(M)}, at::kByte);
    dy_bytes = at::zeros({m, kernels::byte_row_stride(N)}, at::kByte);
  }

  double flops() const { return 2 * static_cast<double>(m) * static_cast<double>(N) * static_cast<double>(M); }

  void fp32_forward() const { done(table->fp32(m, N, M, {readable(x), M, false}, {readable(w), M, true}, writable(y), N, false)); }
  void fp32_input_gradient() const {
    done(table->fp32(m, M, N, {readable(dy), N, false}, {readable(w), M, false}, writable(dx), M, false));
  }
  void fp32_weight_gradient() const {
    done(table->fp32(N, M, m, {readable(dy), N, true}, {readable(x), M, false}, writable(dw), M, false));
  }
  template <GradientArithmetic kArithmetic>
  void weight_gradient() const {
    done(table->weight_gradient(kArithmetic, m, N, M, readable(dy), readable(x), writable(dw), false));
  }
  template <GradientArithmetic kArithmetic>
  void input_gradient() const {
    done(table->input_gradient(kArithmetic, m, N, M, readable(dy), readable(w), writable(dx), false));
  }
  void quantize_x() const { table->quantize_rows(m, M, readable(x), M, nullptr, x_codes.data_ptr<std::int16_t>(), writable(x_scale)); }
  void quantize_dy() const {
    table->quantize_rows(m, N, readable(dy), N, readable(scale), dy_codes.data_ptr<std::int16_t>(), writable(dy_scale));
  }
  void integer_forward() const {
    done(table->integer_forward(m, rows_of(x_codes, x_scale), weight(), readable(scale), writable(y), N, false));
  }
  void integer_input_gradient() const {
    done(table->integer_input_gradient(m, rows_of(dy_codes, dy_scale), weight(), writable(dx), M, false));
  }
  // Scales become those of the bytes.
  void quantize_x_to_bytes() const {
    table->quantize_rows_to_bytes(m, M, readable(x), M, nullptr, x_bytes.data_ptr<std::uint8_t>(), writable(x_scale));
  }
  void quantize_dy_to_bytes() const {
    table->quantize_rows_to_bytes(m, N, readable(dy), N, readable(scale), dy_bytes.data_ptr<std::uint8_t>(), writable(dy_scale));
  }
  void byte_forward() const { done(table->byte_forward(m, bytes_of(x_bytes, x_scale), weight(), readable(scale), writable(y), N, false)); }
  void byte_input_gradient() const { done(table->byte_input_gradient(m, bytes_of(dy_bytes, dy_scale), weight(), writable(dx), M, false)); }

  const kernels::GemmKernels* table;
  std::int64_t m, N, M;
  at::Tensor x, dy, codes, scale, w, y, dx, dw, x_codes, x_scale, dy_codes, dy_scale, x_bytes, dy_bytes;

 private:
  static void done(bool had_memory) {
    if (!had_memory) throw EnvironmentError({"gemm kernel", "no memory for its scratch", "some 350 KB a thread", "close other programs"});
  }
  static kernels::QuantizedRows rows_of(const at::Tensor& values, const at::Tensor& scales) {
    return {values.const_data_ptr<std::int16_t>(), values.size(1), readable(scales)};
  }
  static kernels::ByteRows bytes_of(const at::Tensor& values, const at::Tensor& scales) {
    return {values.const_data_ptr<std::uint8_t>(), values.size(1), readable(scales)};
  }
  kernels::GemmCodes weight() const { return {codes.const_data_ptr<std::int8_t>(), N, M}; }
};

// Every element is a sum whose rounding errors are bounded by the sum of the sizes of its terms: |a| |b|.
void require_product(const std::string& what, const at::Tensor& found, const at::Tensor& a, const at::Tensor& b) {
  require_close("gemm." + what, found, at::mm(a, b), at::mm(a.abs(), b.abs()));
}

at::Tensor rounded_rows(const at::Tensor& codes, const at::Tensor& scale, std::int64_t columns) {
  return wide(codes.narrow(1, 0, columns)) * wide(scale).unsqueeze(1);
}

// Those of two real matrices.
constexpr std::pair<const char*, void (Products::*)() const> kRealProducts[] = {
    {"fp32_forward", &Products::fp32_forward},
    {"fp32_input_gradient", &Products::fp32_input_gradient},
    {"fp32_weight_gradient", &Products::fp32_weight_gradient},
    {"bf16_weight_gradient", &Products::weight_gradient<GradientArithmetic::kBf16>},
    {"bf16_input_gradient", &Products::input_gradient<GradientArithmetic::kBf16>},
    {"int12_weight_gradient", &Products::weight_gradient<GradientArithmetic::kInt12>},
    {"int12_input_gradient", &Products::input_gradient<GradientArithmetic::kInt12>},
};

// Rounded along a dimension of one block, each error carried to the `carry`th value from there if that is not 0.
at::Tensor as_int12(const at::Tensor& values, std::int64_t dim, std::int64_t carry) {
  const at::Tensor largest = values.abs().amax(dim, true);
  const at::Tensor exact = values * (2047 / largest);
  for (std::int64_t i = 0; carry > 0 && i + carry < exact.size(dim); ++i) {
    const at::Tensor from = exact.select(dim, i);
    exact.select(dim, i + carry).add_(from - from.round());
  }
  return wide(exact.round()) * wide(largest / 2047);
}

void check_products(const kernels::GemmKernels& table) {
  const Products p(table, 37, 70, 150);
  const at::Tensor w = wide(p.codes) * wide(p.scale).unsqueeze(1);
  const at::Tensor dy_t = wide(p.dy).t();
  p.fp32_forward();
  require_product("fp32_forward", p.y, wide(p.x), wide(p.w).t());
  p.fp32_input_gradient();
  require_product("fp32_input_gradient", p.dx, wide(p.dy), wide(p.w));
  p.fp32_weight_gradient();
  require_product("fp32_weight_gradient", p.dw, dy_t, wide(p.x));
  p.weight_gradient<GradientArithmetic::kBf16>();
  require_product("bf16_weight_gradient", p.dw, wide(p.dy.to(at::kBFloat16)).t(), wide(p.x.to(at::kBFloat16)));
  p.input_gradient<GradientArithmetic::kBf16>();
  require_product("bf16_input_gradient", p.dx, wide(p.dy.to(at::kBFloat16)), wide(p.w.to(at::kBFloat16)));
  p.weight_gradient<GradientArithmetic::kInt12>();
  require_product("int12_weight_gradient", p.dw, as_int12(p.dy, 0, 1).t(), as_int12(p.x, 0, 0));
  p.input_gradient<GradientArithmetic::kInt12>();
  require_product("int12_input_gradient", p.dx, as_int12(p.dy, 1, 16), as_int12(p.w, 0, 0));
  p.quantize_x();
  const at::Tensor x = rounded_rows(p.x_codes, p.x_scale, p.M);
  // Half a step of the row's grid, and a few roundings.
  require_close("gemm.quantize_rows", p.x, x, wide(p.x_scale).unsqueeze(1) * 0.51,
                1 / static_cast<double>(std::numeric_limits<float>::epsilon()));
  p.integer_forward();
  require_product("integer_forward", p.y, x, w.t());
  p.quantize_dy();
  p.integer_input_gradient();
  require_product("integer_input_gradient", p.dx, rounded_rows(p.dy_codes, p.dy_scale, p.N), wide(p.codes));
  p.quantize_x_to_bytes();
  p.quantize_dy_to_bytes();
  p.byte_forward();
  require_product("byte_forward", p.y, rounded_rows(p.x_bytes.to(at::kShort) - 128, p.x_scale, p.M), w.t());
  p.byte_input_gradient();
  require_product("byte_input_gradient", p.dx, rounded_rows(p.dy_bytes.to(at::kShort) - 128, p.dy_scale, p.N), wide(p.codes));
}

}  // namespace

std::vector<KernelCase> attention_cases(const KernelBenchOptions& options, kernels::Isa isa) {
  const auto& table = kernels::attention_kernels(isa);
  const auto a = std::make_shared<const Attention>(table, options.model, options.batch, options.tokens);
  a->forward();
  const auto check = [&table, model = options.model] { check_attention(table, model); };
  // Backward computes the scores again and has four products more; the first is not counted, as it is no part of the result.
  return {{"forward", KernelBound::kArithmetic, a->forward_flops(), check, [a] { a->forward(); }},
          {"backward", KernelBound::kArithmetic, 2 * a->forward_flops(), check, [a] { a->backward(); }}};
}

std::vector<KernelCase> head_cases(const KernelBenchOptions& options, kernels::Isa isa) {
  const auto& table = kernels::gemm_kernels(isa);
  const std::int64_t rows = std::min(options.batch * options.tokens, kHeadChunkRows);
  const std::int64_t vocab = options.model.vocab_size;
  const std::int64_t hidden = options.model.hidden_size;
  const auto head = std::make_shared<std::optional<Products>>();  // gigabytes with large vocabularies: made when one is asked for
  const auto check = [&table, rows, vocab, hidden, head] {
    check_products(table);
    if (!*head) head->emplace(table, rows, vocab, hidden);
  };
  const double flops = 2 * static_cast<double>(rows) * static_cast<double>(vocab) * static_cast<double>(hidden);
  std::vector<KernelCase> cases;
  const auto add = [&](const char* name, void (Products::*run)() const) {
    cases.push_back({name, KernelBound::kArithmetic, flops, check, [head, run] { (**head.*run)(); }});
  };
  for (const auto& [name, run] : kRealProducts) add(name, run);
  return cases;
}

std::vector<KernelCase> gemm_cases(const KernelBenchOptions& options, kernels::Isa isa) {
  const auto& table = kernels::gemm_kernels(isa);
  const auto p =
      std::make_shared<const Products>(table, options.batch * options.tokens, options.model.intermediate_size, options.model.hidden_size);
  p->quantize_x();
  p->quantize_dy();
  p->quantize_x_to_bytes();
  p->quantize_dy_to_bytes();
  const auto check = [&table] { check_products(table); };
  std::vector<KernelCase> cases;
  const auto add = [&](const char* name, void (Products::*run)() const) {
    cases.push_back({name, KernelBound::kArithmetic, p->flops(), check, [p, run] { (*p.*run)(); }});
  };
  for (const auto& [name, run] : kRealProducts) add(name, run);
  add("integer_forward", &Products::integer_forward);
  add("integer_input_gradient", &Products::integer_input_gradient);
  add("byte_forward", &Products::byte_forward);
  add("byte_input_gradient", &Products::byte_input_gradient);
  const auto streamed = std::make_shared<const Products>(table, streaming_rows(p->M), 1, p->M);
  cases.push_back({"quantize_rows", KernelBound::kMemory, static_cast<double>(streamed->x.nbytes() + streamed->x_codes.nbytes()), check,
                   [streamed] { streamed->quantize_x(); }});
  cases.push_back({"quantize_rows_to_bytes", KernelBound::kMemory, static_cast<double>(streamed->x.nbytes() + streamed->x_bytes.nbytes()),
                   check, [streamed] { streamed->quantize_x_to_bytes(); }});
  return cases;
}

}  // namespace stableqat::bench
