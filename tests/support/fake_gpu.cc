#include "fake_gpu.h"

#include <ATen/core/Tensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

#include "fake_gpu_operators.h"
#include "fake_gpu_recording.h"

namespace stableqat::testing {
namespace {

class Memory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override { return device_memory(c10::GetCPUAllocator()->allocate(bytes), bytes); }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
};

// A thread's current stream, by its id: 0 is the default one, and there is one more.
thread_local c10::StreamId current_id = 0;
constexpr c10::StreamId kOtherStream = 1;

c10::Stream stream_with(c10::StreamId id) { return c10::Stream(c10::Stream::UNSAFE, fake_gpu_device(), id); }

// One device; work is done when a call returns, and so are events.
class DeviceGuard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return kFakeGpuType; }
  c10::Device exchangeDevice(c10::Device device) const override {
    setDevice(device);
    return fake_gpu_device();
  }
  c10::Device getDevice() const override { return fake_gpu_device(); }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.is_privateuseone() && device.index() <= 0, "there is no device ", device);
  }
  void uncheckedSetDevice(c10::Device /*device*/) const noexcept override {}
  c10::Stream getStream(c10::Device /*device*/) const override { return stream_with(current_id); }
  c10::Stream getDefaultStream(c10::Device /*device*/) const override { return stream_with(0); }
  c10::Stream getStreamFromGlobalPool(c10::Device /*device*/, bool /*high_priority*/) const override { return stream_with(kOtherStream); }
  c10::Stream getNewStream(c10::Device /*device*/, int /*priority*/) const override { return stream_with(kOtherStream); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream_with(std::exchange(current_id, stream.id())); }
  // CUDA's default stream is null, too.
  void* getStreamNativeHandle(c10::Stream stream) const override { return reinterpret_cast<void*>(stream.id()); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void** /*event*/, const c10::Stream& /*stream*/, c10::DeviceIndex /*device*/, c10::EventFlag /*flag*/) const override {}
  void block(void* /*event*/, const c10::Stream& /*stream*/) const override {}
  bool queryEvent(void* /*event*/) const override { return true; }
  bool queryStream(const c10::Stream& /*stream*/) const override { return true; }
  void synchronizeEvent(void* /*event*/) const override { count_wait("to wait for an event"); }
  void synchronizeStream(const c10::Stream& /*stream*/) const override { count_wait("to wait for a stream"); }
  void synchronizeDevice(c10::DeviceIndex /*device*/) const override { count_wait("to wait for the device"); }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex /*device*/) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  void setCurrentDevice(c10::DeviceIndex /*device*/) const override {}
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex /*device*/) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex /*device*/) const override { return 0; }
  c10::Device getDeviceFromPtr(void* /*data*/) const override { return fake_gpu_device(); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
};

// SDPBackend::math: the fused kernels of the CPU and of CUDA are no operators of this device.
std::int64_t composite_attention(const at::Tensor& /*query*/, const at::Tensor& /*key*/, const at::Tensor& /*value*/,
                                 const std::optional<at::Tensor>& /*mask*/, double /*dropout*/, bool /*is_causal*/,
                                 std::optional<double> /*scale*/, bool /*enable_gqa*/) {
  return 0;
}

// Nothing of this is ever released: LibTorch has no way to unregister a device, and tensors may outlive static objects.
at::Device register_device() {
  c10::register_privateuse1_backend("fake_gpu");
  c10::SetAllocator(kFakeGpuType, new Memory);
  c10::impl::registerDeviceGuard(kFakeGpuType, new DeviceGuard);
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  at::native::_fused_sdp_choice_stub.set_privateuse1_dispatch_ptr(composite_attention);
  register_fake_gpu_operators();
  return fake_gpu_device();
}

}  // namespace

at::Device fake_gpu() {
  static const at::Device device = register_device();
  return device;
}

std::int64_t fake_gpu_waits() { return waits_so_far(); }

std::int64_t fake_gpu_replays() { return recorded_graph_replays(); }

namespace {
// Before main(), because the first backward of a process, of CPU tensors too, starts the threads of all devices there are, and no more.
[[maybe_unused]] const at::Device registered = fake_gpu();
}  // namespace

}  // namespace stableqat::testing
