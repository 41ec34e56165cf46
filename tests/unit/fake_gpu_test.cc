// The fake GPU against LibTorch's CPU, whose operators it runs: the same bits, on its own device only.
#include "../support/fake_gpu.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "../support/kernel_test.h"

namespace stableqat::testing {
namespace {

using Tensors = std::vector<at::Tensor>;

at::Tensor values(at::IntArrayRef shape, unsigned seed, at::ScalarType type = at::kFloat) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  std::vector<float> numbers = normal_values(count, seed);
  return at::from_blob(numbers.data(), shape, at::kFloat).clone().to(type);
}

void expect_same(const at::Tensor& found, const at::Tensor& expected, const std::string& what) {
  ASSERT_EQ(found.device(), fake_gpu()) << what;
  EXPECT_EQ(found.scalar_type(), expected.scalar_type()) << what;
  EXPECT_EQ(found.strides(), expected.strides()) << what;
  EXPECT_TRUE(found.cpu().equal(expected)) << what << '\n' << found.cpu().sub(expected);
}

struct Inputs {
  at::Tensor a, b, c, row, positive, ids, targets;
};

Inputs inputs_on(at::Device device, at::ScalarType type) {
  const at::Tensor ids = at::arange(7, at::kLong).mul(5).remainder(6);
  return {values({6, 5}, 1, type).to(device),
          values({5, 4}, 2, type).to(device),
          values({6, 5}, 3, type).to(device),
          values({5}, 4, type).to(device),
          values({6, 5}, 5, type).abs().add(0.5).to(device),
          ids.to(device),
          at::arange(6, at::kLong).remainder(5).unsqueeze(1).to(device)};
}

struct Case {
  const char* name;
  std::function<at::Tensor(const Inputs&)> function;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> list{
      {"mm", [](const Inputs& in) { return in.a.mm(in.b); }},
      {"mm of transposed views", [](const Inputs& in) { return in.b.t().mm(in.a.t()); }},
      {"mm_out, resized",
       [](const Inputs& in) {
         at::Tensor out = at::empty({0}, in.a.options());
         at::mm_out(out, in.a, in.b);
         return out;
       }},
      {"mm_out into rows",
       [](const Inputs& in) {
         const at::Tensor all = at::zeros({12, 4}, in.a.options());
         at::Tensor out = all.narrow(0, 6, 6);
         at::mm_out(out, in.a, in.b);
         return all;
       }},
      {"addmm", [](const Inputs& in) { return in.row.narrow(0, 0, 4).addmm(in.a, in.b); }},
      {"addmm_",
       [](const Inputs& in) {
         return at::ones({6, 4}, in.a.options()).addmm_(in.a, in.b, 0.5, 2.0);
       }},
      {"bmm", [](const Inputs& in) { return in.a.unsqueeze(0).bmm(in.b.unsqueeze(0)); }},
      {"matmul",
       [](const Inputs& in) {
         return in.a.view({2, 3, 5}).matmul(in.b);
       }},
      {"index_select", [](const Inputs& in) { return in.a.index_select(0, in.ids); }},
      {"index_add_", [](const Inputs& in) { return in.a.clone().index_add_(0, in.ids, in.c.index_select(0, in.ids)); }},
      {"index_put_", [](const Inputs& in) { return in.a.clone().index_put_({in.ids}, in.row, true); }},
      {"index", [](const Inputs& in) { return in.a.index({in.ids}); }},
      {"embedding", [](const Inputs& in) { return at::embedding(in.a, in.ids); }},
      {"arithmetic", [](const Inputs& in) { return (in.a + in.c * in.row - 2.0) / in.positive; }},
      {"in place", [](const Inputs& in) { return in.a.clone().add_(in.c, 0.5).mul_(in.row).sub_(1.0).div_(in.positive).zero_().fill_(3); }},
      {"add_ to a view",
       [](const Inputs& in) {
         const at::Tensor all = in.a.clone();
         all.select(1, 2).add_(1.0);
         all.t().narrow(0, 0, 2).mul_(2.0);
         return all;
       }},
      {"0-dim CPU operand", [](const Inputs& in) { return in.a * at::scalar_tensor(1.5); }},
      {"silu", [](const Inputs& in) { return at::silu(in.a); }},
      {"sigmoid, tanh, exp, log", [](const Inputs& in) { return in.a.sigmoid() + in.a.tanh() + in.a.exp() + in.positive.log(); }},
      {"softmax", [](const Inputs& in) { return in.a.softmax(-1); }},
      {"log_softmax", [](const Inputs& in) { return in.a.log_softmax(-1, at::kFloat); }},
      {"logsumexp", [](const Inputs& in) { return in.a.logsumexp({-1}, true); }},
      {"gather", [](const Inputs& in) { return in.a.gather(1, in.targets); }},
      {"scatter_add_", [](const Inputs& in) { return in.a.clone().scatter_add_(1, in.targets, in.c); }},
      {"rms", [](const Inputs& in) { return in.a * at::rsqrt(in.a.pow(2).mean({-1}, true) + 1e-5); }},
      {"sum", [](const Inputs& in) { return in.a.sum({0}, false, at::kFloat) + in.a.sum(); }},
      {"cat",
       [](const Inputs& in) {
         return at::cat({in.a, in.c.narrow(1, 0, 2)}, 1);
       }},
      {"split", [](const Inputs& in) { return in.a.split(4)[1]; }},
      {"permuted copy",
       [](const Inputs& in) {
         return in.a.view({2, 3, 5}).permute({2, 0, 1}).contiguous();
       }},
      {"expand",
       [](const Inputs& in) {
         return in.row.unsqueeze(0).expand({3, 5});
       }},
      {"reshape, flatten",
       [](const Inputs& in) {
         return in.a.t().reshape({10, 3}).flatten();
       }},
      {"resize_",
       [](const Inputs& in) {
         return in.a.clone().resize_({4, 5}).clone();
       }},
      {"set_", [](const Inputs& in) { return at::empty({0}, in.a.options()).set_(in.a); }},
      {"arange, outer, cos, sin",
       [](const Inputs& in) {
         const at::Tensor angles = at::outer(at::arange(4, in.a.options()), in.row);
         return angles.cos() + angles.sin();
       }},
      {"full, zeros_like",
       [](const Inputs& in) {
         return at::full({2, 2}, 3.0, in.a.options()) + at::zeros_like(in.b.narrow(0, 0, 2).narrow(1, 0, 2));
       }},
      {"where, comparisons", [](const Inputs& in) { return at::where(in.a > in.c, in.a, 0.0) + in.a.maximum(in.c); }},
      {"masked_fill", [](const Inputs& in) { return in.a.masked_fill(in.a.lt(0), -1.0); }},
      {"triu", [](const Inputs& in) { return in.a.triu(1); }},
      {"isfinite", [](const Inputs& in) { return in.a.isfinite().all(); }},
      {"argmax", [](const Inputs& in) { return in.a.argmax(-1); }},
      {"max", [](const Inputs& in) { return std::get<0>(in.a.max(1)) + in.a.amax({1}); }},
      {"sort, topk", [](const Inputs& in) { return std::get<0>(in.a.sort(1)).narrow(1, 0, 2) + std::get<0>(in.a.topk(2, 1)); }},
      {"norm", [](const Inputs& in) { return at::linalg_vector_norm(in.a); }},
      {"round, clamp", [](const Inputs& in) { return (in.a * 3.0).round().clamp(-2, 2); }},
      {"dtypes", [](const Inputs& in) { return in.a.to(at::kBFloat16).to(at::kDouble).to(at::kChar); }},
      {"other bits", [](const Inputs& in) { return in.a.view(at::kByte); }},
  };
  return list;
}

TEST(FakeGpu, OperatorsGiveTheBitsOfTheCpu) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const Inputs on_cpu = inputs_on(at::kCPU, type);
    const Inputs on_device = inputs_on(fake_gpu(), type);
    for (const Case& one : cases()) {
      const std::string what = std::string(one.name) + " in " + c10::toString(type);
      try {
        expect_same(one.function(on_device), one.function(on_cpu), what);
      } catch (const c10::Error& error) {
        ADD_FAILURE() << what << ": " << error.what_without_backtrace();
      }
    }
  }
}

TEST(FakeGpu, CopiesBothWays) {
  const at::Tensor host = values({3, 4}, 1);
  const at::Tensor device = host.to(fake_gpu());
  EXPECT_TRUE(device.is_privateuseone());
  EXPECT_NE(device.const_data_ptr<float>(), host.const_data_ptr<float>());
  EXPECT_EQ(device.const_data_ptr<float>()[5], host.const_data_ptr<float>()[5]);
  at::Tensor back = at::empty({4, 3}, at::kDouble).t();
  back.copy_(device);
  EXPECT_TRUE(back.equal(host.to(at::kDouble)));
  at::Tensor wide = at::empty({2, 3, 4}, device.options());
  wide.copy_(host, /*non_blocking=*/true);
  EXPECT_TRUE(wide.cpu()[1].equal(host));
  EXPECT_TRUE(host.to(device.options().dtype(at::kBFloat16)).cpu().equal(host.to(at::kBFloat16)));
  EXPECT_EQ(device.sum().item<float>(), host.sum().item<float>());
  EXPECT_TRUE(device.equal(device.clone()));
  EXPECT_EQ(at::empty_like(host, device.options()).device(), fake_gpu());
}

TEST(FakeGpu, HasAStreamAndEventsAndGuards) {
  const c10::DeviceGuard guard(fake_gpu());
  const c10::impl::VirtualGuardImpl device(fake_gpu().type());
  EXPECT_EQ(device.getDevice(), fake_gpu());
  EXPECT_EQ(device.deviceCount(), 1);
  const c10::Stream stream = device.getStream(fake_gpu());
  EXPECT_EQ(stream.native_handle(), nullptr);
  c10::Event event(fake_gpu().type());
  event.record(stream);
  event.synchronize();
  EXPECT_TRUE(event.query());
  stream.synchronize();
  EXPECT_THROW(at::ones({1}, at::TensorOptions().device(c10::Device(fake_gpu().type(), 1))), c10::Error);
}

TEST(FakeGpu, MakesTensorsInEveryWay) {
  const at::TensorOptions options = at::TensorOptions().device(fake_gpu());
  EXPECT_EQ(at::empty({2}, options.device(fake_gpu().type())).device(), fake_gpu());
  EXPECT_EQ(at::randn({5}, options).fill_(2.0).device(), fake_gpu());
  EXPECT_EQ(at::scalar_tensor(2.0, options).item<float>(), 2.0F);
  EXPECT_EQ(at::empty({0, 3}, options).cpu().numel(), 0);
  std::vector<float> memory{1, 2, 3};
  const at::Tensor over = at::from_blob(memory.data(), {3}, options);
  over.mul_(2.0);
  EXPECT_EQ(over.device(), fake_gpu());
  EXPECT_EQ(memory[2], 6.0F);
  const at::Tensor pinned = at::empty({3}, at::TensorOptions().pinned_memory(true)).fill_(1.0);
  EXPECT_EQ(pinned.to(fake_gpu(), at::kFloat, /*non_blocking=*/true).sum().item<float>(), 3.0F);
  const Tensors many{over.clone(), over.clone()};
  at::_foreach_mul_(many, 0.5);
  EXPECT_EQ(many[1].cpu()[2].item<float>(), 3.0F);
  EXPECT_EQ(at::_foreach_norm(many)[0].device(), fake_gpu());
}

// A view of a result and of its own storage, and storages that change their memory.
TEST(FakeGpu, ViewsShareMemoryAndResizedTensorsKeepTheirValues) {
  const at::Tensor device = values({3, 4}, 1).to(fake_gpu());
  EXPECT_TRUE(device.t().is_alias_of(device));
  EXPECT_TRUE(device.view({4, 3}).detach().is_alias_of(device));
  EXPECT_EQ(device.select(0, 1).const_data_ptr<float>(), device.const_data_ptr<float>() + 4);
  const at::Tensor before = device.cpu();
  device.resize_({100, 4});
  EXPECT_EQ(device.device(), fake_gpu());
  EXPECT_TRUE(device.narrow(0, 0, 3).cpu().equal(before));
  device.narrow(0, 99, 1).fill_(2.0);
  EXPECT_EQ(device.cpu()[99][3].item<float>(), 2.0F);
}

TEST(FakeGpu, RefusesTensorsOfTwoDevices) {
  const at::Tensor host = values({4, 4}, 1);
  const at::Tensor device = host.to(fake_gpu());
  const at::Tensor ids = at::arange(2, at::kLong);
  EXPECT_THROW(device + host, c10::Error);
  EXPECT_THROW(host + device, c10::Error);
  EXPECT_THROW(at::Tensor(host).add_(device), c10::Error);
  EXPECT_THROW(at::Tensor(device).mul_(host), c10::Error);
  EXPECT_THROW(device.mm(host), c10::Error);
  EXPECT_THROW(host.mm(device), c10::Error);
  EXPECT_THROW(at::cat({device, host}), c10::Error);
  EXPECT_THROW(device.index_select(0, ids), c10::Error);
  EXPECT_THROW(device.index({ids}), c10::Error);
  EXPECT_THROW(at::where(host > 0, device, device), c10::Error);
  EXPECT_THROW(device.equal(host), c10::Error);
  at::Tensor out = at::empty({4, 4});
  EXPECT_THROW(at::mm_out(out, device, device), c10::Error);
  EXPECT_THROW(at::scaled_dot_product_attention(device.view({1, 1, 4, 4}), host.view({1, 1, 4, 4}), device.view({1, 1, 4, 4})), c10::Error);
}

std::thread::id backward_thread;

// x^2 by a function of our own.
class Square : public torch::autograd::Function<Square> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x) {
    context->save_for_backward({x});
    return x * x;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    backward_thread = std::this_thread::get_id();
    return {gradients[0] * context->get_saved_variables()[0] * 2.0};
  }
};

// A decoder layer of sorts on x [B, T, C]: embedding, attention, a gated MLP, cross entropy. The loss and the gradients of all leaves.
Tensors loss_and_gradients(at::Device device, at::ScalarType type, const std::function<at::Tensor(Tensors)>& attend) {
  Tensors leaves;
  const std::vector<std::vector<std::int64_t>> shapes{{11, 8}, {8, 24}, {8, 8}, {8, 12}, {8, 12}, {12, 8}};
  for (const std::vector<std::int64_t>& shape : shapes) {
    leaves.push_back(values(shape, static_cast<unsigned>(leaves.size()), type).to(device).requires_grad_());
  }
  const at::Tensor ids = at::arange(14, at::kLong).mul(7).remainder(11).view({2, 7}).to(device);
  at::Tensor x = at::embedding(leaves[0], ids);
  Tensors heads;
  for (const at::Tensor& part : x.matmul(leaves[1]).split(8, -1)) heads.push_back(part.view({2, 7, 2, 4}).transpose(1, 2));
  x = x + attend(heads).transpose(1, 2).reshape({2, 7, 8}).matmul(leaves[2]);
  x = x * at::rsqrt(x.pow(2).mean({-1}, true) + 1e-5);
  x = x + (at::silu(x.matmul(leaves[3])) * Square::apply(x.matmul(leaves[4]))).matmul(leaves[5]);
  const at::Tensor logits = x.view({14, 8}).matmul(leaves[0].t());
  const at::Tensor loss = -logits.log_softmax(-1).gather(1, ids.view({14, 1})).mean();
  loss.backward();
  Tensors results{loss.detach()};
  for (const at::Tensor& leaf : leaves) results.push_back(leaf.grad());
  return results;
}

at::Tensor sdpa(const Tensors& qkv) { return at::scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], {}, 0.0, /*is_causal=*/true); }

// The same by plain operators, so that the CPU's fused kernel is not taken.
at::Tensor plain_attention(const Tensors& qkv) {
  const at::Tensor mask = at::ones({7, 7}, qkv[0].options().dtype(at::kBool)).triu(1);
  return (qkv[0].matmul(qkv[1].transpose(-2, -1)) * 0.5).masked_fill(mask, -1e30).softmax(-1).matmul(qkv[2]);
}

TEST(FakeGpu, AutogradGivesTheBitsOfTheCpuInAThreadOfTheDevice) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Tensors expected = loss_and_gradients(at::kCPU, type, plain_attention);
    EXPECT_EQ(backward_thread, std::this_thread::get_id());
    const Tensors found = loss_and_gradients(fake_gpu(), type, plain_attention);
    EXPECT_NE(backward_thread, std::this_thread::get_id());
    for (std::size_t i = 0; i < found.size(); ++i) expect_same(found[i], expected[i], "tensor " + std::to_string(i));
  }
}

TEST(FakeGpu, AttentionHasTheValuesAndGradientsOfTheCpus) {
  const Tensors expected = loss_and_gradients(at::kCPU, at::kDouble, sdpa);
  const Tensors found = loss_and_gradients(fake_gpu(), at::kDouble, sdpa);
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_EQ(found[i].device(), fake_gpu());
    const double norm = at::linalg_vector_norm(expected[i]).item<double>();
    // Sums of at most 24 terms, through some ten products.
    EXPECT_LE(at::linalg_vector_norm(found[i].cpu() - expected[i]).item<double>(), 10 * 24 * 0x1p-53 * norm * 10) << i;
  }
  // It is the definition by plain operators, whose bits are known.
  const at::Tensor q = values({1, 2, 7, 4}, 1, at::kBFloat16);
  const at::Tensor found_bits = at::scaled_dot_product_attention(q.to(fake_gpu()), q.to(fake_gpu()), q.to(fake_gpu()), {}, 0.0, true);
  expect_same(found_bits, std::get<0>(at::_scaled_dot_product_attention_math(q, q, q, {}, 0.0, true)), "attention");
  EXPECT_NO_THROW(loss_and_gradients(fake_gpu(), at::kBFloat16, sdpa));
}

TEST(FakeGpu, GradientsAccumulate) {
  const at::Tensor leaf = values({3, 3}, 1).to(fake_gpu()).requires_grad_();
  leaf.mutable_grad() = at::ones({3, 3}, leaf.options().requires_grad(false));
  leaf.mul(2.0).sum().backward();
  leaf.mul(leaf.detach()).sum().backward();
  expect_same(leaf.grad(), leaf.detach().cpu() + 3.0, "gradient");
  // A gradient reaches the host's leaf across the copy, as with CUDA.
  const at::Tensor host = values({3, 3}, 2).requires_grad_();
  host.to(fake_gpu()).mul(3.0).sum().backward();
  EXPECT_TRUE(host.grad().equal(at::full({3, 3}, 3.0)));
}

}  // namespace
}  // namespace stableqat::testing
