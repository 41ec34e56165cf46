// Captures and replays of the fake GPU: what CUDA says of them in its manual.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include <functional>

#include "../support/fake_gpu.h"
#include "../support/fake_gpu_recording.h"
#include "stableqat/kernels/cuda.h"

namespace stableqat::testing {
namespace {

c10::Stream other_stream() { return c10::impl::VirtualGuardImpl(fake_gpu().type()).getStreamFromGlobalPool(fake_gpu()); }

void capture(RecordedGraph& graph, const std::function<void()>& work) {
  const c10::StreamGuard guard(other_stream());
  graph.begin(other_stream().native_handle());
  work();
  graph.end();
}

at::TensorOptions on_device() { return at::TensorOptions().device(fake_gpu()); }

TEST(FakeGpuCapture, DoesNothingUntilAReplay) {
  const at::Tensor x = at::ones({4}, on_device());
  const at::Tensor sum = at::zeros({4}, on_device());
  at::Tensor square;
  RecordedGraph graph;
  const std::int64_t before = fake_gpu_replays();
  capture(graph, [&] {
    square = x * x;
    sum.add_(square);
    sum.t().add_(1.0);
  });
  EXPECT_TRUE(sum.cpu().equal(at::zeros({4})));
  EXPECT_TRUE(square.cpu().isnan().all().item<bool>());
  x.fill_(3.0);
  graph.replay();
  EXPECT_TRUE(square.cpu().equal(at::full({4}, 9.0)));
  EXPECT_TRUE(sum.cpu().equal(at::full({4}, 10.0)));
  x.fill_(2.0);
  graph.replay();
  EXPECT_TRUE(sum.cpu().equal(at::full({4}, 15.0)));
  EXPECT_EQ(fake_gpu_replays() - before, 2);
}

TEST(FakeGpuCapture, HoldsOurKernelsToo) {
  using kernels::cuda::ElementType;
  const at::Tensor gate = at::ones({4}, on_device());
  const at::Tensor y = at::zeros({4}, on_device());
  const auto launch = [&](kernels::cuda::Stream stream) {
    return kernels::cuda::cuda_backend().kernels->swiglu_forward(stream, ElementType::kFloat, 4, gate.const_data_ptr(),
                                                                 gate.const_data_ptr(), y.mutable_data_ptr());
  };
  RecordedGraph graph;
  capture(graph, [&] {
    EXPECT_EQ(launch(other_stream().native_handle()), nullptr);
    EXPECT_NE(launch(nullptr), nullptr) << "the default stream is not captured";
    EXPECT_NE(kernels::cuda::cuda_backend().kernels->synchronize(nullptr), nullptr);
  });
  EXPECT_TRUE(y.cpu().equal(at::zeros({4})));
  gate.fill_(2.0);
  graph.replay();
  const at::Tensor replayed = y.cpu().clone();
  EXPECT_EQ(launch(nullptr), nullptr);
  EXPECT_TRUE(y.cpu().equal(replayed));
  EXPECT_GT(replayed[0].item<float>(), 1.7F);
}

// Memory that is made in a graph is not what it was when it was last used.
TEST(FakeGpuCapture, MemoryOfItsOwnHasNoValuesAtFirst) {
  const at::Tensor x = at::ones({4}, on_device());
  at::Tensor own;
  RecordedGraph graph;
  capture(graph, [&] {
    own = at::empty({4}, on_device());
    own.add_(x);
  });
  graph.replay();
  own.fill_(1.0);
  graph.replay();
  EXPECT_TRUE(own.cpu().isnan().all().item<bool>());
}

TEST(FakeGpuCapture, RefusesWhatCudaRefuses) {
  const at::Tensor x = at::ones({4}, on_device());
  const at::Tensor host = at::ones({4});
  RecordedGraph graph;
  EXPECT_THROW(graph.begin(nullptr), std::runtime_error);
  capture(graph, [&] {
    EXPECT_THROW(x.sum().item<float>(), c10::Error);
    EXPECT_THROW(x.cpu(), c10::Error);
    EXPECT_THROW(host.to(fake_gpu(), at::kFloat, /*non_blocking=*/true), c10::Error);
    EXPECT_THROW(x.nonzero(), c10::Error);
    EXPECT_THROW(other_stream().synchronize(), c10::Error);
    EXPECT_THROW(graph.replay(), std::runtime_error);
    RecordedGraph second;
    EXPECT_THROW(second.begin(other_stream().native_handle()), std::runtime_error);
    const c10::StreamGuard back(c10::impl::VirtualGuardImpl(fake_gpu().type()).getDefaultStream(fake_gpu()));
    EXPECT_THROW(x + x, c10::Error) << "another stream than the captured one";
  });
  EXPECT_TRUE((x + x).cpu().equal(at::full({4}, 2.0)));
}

TEST(FakeGpuCapture, NoticesMemoryThatIsGone) {
  at::Tensor x = at::ones({4}, on_device());
  const at::Tensor sum = at::zeros({4}, on_device());
  RecordedGraph graph;
  capture(graph, [&] { sum.add_(x); });
  graph.replay();
  EXPECT_TRUE(sum.cpu().equal(at::ones({4})));
  x = at::ones({4}, on_device());
  EXPECT_THROW(graph.replay(), std::runtime_error);
}

TEST(FakeGpuCapture, StreamsAreTheThreads) {
  const c10::impl::VirtualGuardImpl device(fake_gpu().type());
  EXPECT_EQ(device.getStream(fake_gpu()).native_handle(), nullptr);
  {
    const c10::StreamGuard guard(other_stream());
    EXPECT_NE(device.getStream(fake_gpu()).native_handle(), nullptr);
  }
  EXPECT_EQ(device.getStream(fake_gpu()).native_handle(), nullptr);
}

}  // namespace
}  // namespace stableqat::testing
