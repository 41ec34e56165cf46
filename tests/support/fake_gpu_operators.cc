#include "fake_gpu_operators.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/core/CPUAllocator.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace stableqat::testing {
namespace {

bool on_device(const at::Tensor& tensor) { return tensor.device().type() == kFakeGpuType; }

// Memory of `from` as memory of a storage on `device`, which keeps `from` alive.
c10::DataPtr shared_memory(c10::Storage from, c10::Device device) {
  void* const data = from.mutable_data();
  auto* const owner = new c10::Storage(std::move(from));
  return {data, owner, [](void* storage) { delete static_cast<c10::Storage*>(storage); }, device};
}

at::Tensor tensor_on(const c10::Storage& storage, c10::DispatchKey key, const at::Tensor& like) {
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), key, like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return tensor;
}

// The arguments of one call as CPU tensors over the same memory, and the way back for its results: what the operator did to storages and
// shapes of its arguments is done to the device's tensors, and results that are views of arguments are so on the device too.
class HostCall {
 public:
  c10::IValue to_host(const c10::IValue& value) {
    if (value.isTensor()) return host_tensor(value.toTensor());
    if (value.isStorage()) return host_storage(value.toStorage());
    if (value.isDevice()) return host_device(value.toDevice());
    return map_lists(value, [&](const at::Tensor& tensor) { return host_tensor(tensor); });
  }

  // To be called once, after the operator.
  void update_arguments() {
    for (const auto& [device, host] : tensors_) {
      const c10::Storage storage = device_storage(host.storage());
      c10::TensorImpl* const impl = device.unsafeGetTensorImpl();
      if (!storage.is_alias_of(device.storage())) impl->set_storage_keep_dtype(storage);
      if (device.sizes() != host.sizes() || device.strides() != host.strides() || device.storage_offset() != host.storage_offset()) {
        impl->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
      }
    }
  }

  c10::IValue to_device(const c10::IValue& value) {
    if (value.isTensor()) return device_tensor(value.toTensor());
    return map_lists(value, [&](const at::Tensor& tensor) { return device_tensor(tensor); });
  }

 private:
  struct Storages {
    c10::Storage device;
    c10::Storage host;
  };

  template <class F>
  static c10::IValue map_lists(const c10::IValue& value, F&& f) {
    if (value.isTensorList()) {
      c10::List<at::Tensor> tensors;
      for (const at::Tensor& tensor : value.toTensorVector()) tensors.push_back(f(tensor));
      return tensors;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> tensors;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
        tensors.push_back(tensor.has_value() ? std::optional(f(*tensor)) : std::nullopt);
      }
      return tensors;
    }
    return value;
  }

  static c10::Device host_device(c10::Device device) {
    if (device.type() != kFakeGpuType) return device;
    TORCH_CHECK(device.index() <= 0, "there is no device ", device);
    return c10::kCPU;
  }

  at::Tensor host_tensor(const at::Tensor& tensor) {
    if (!tensor.defined() || !on_device(tensor)) return tensor;
    for (const auto& [device, host] : tensors_) {
      if (device.is_same(tensor)) return host;
    }
    const at::Tensor host = tensor_on(host_storage(tensor.storage()), c10::DispatchKey::CPU, tensor);
    tensors_.emplace_back(tensor, host);
    return host;
  }

  c10::Storage host_storage(const c10::Storage& storage) {
    if (storage.device_type() != kFakeGpuType) return storage;
    for (const Storages& known : storages_) {
      if (known.device.unsafeGetStorageImpl() == storage.unsafeGetStorageImpl()) return known.host;
    }
    // Not the owner of its memory: the device's storage outlives the call.
    c10::DataPtr memory(storage.mutable_data(), c10::kCPU);
    storages_.push_back({storage, c10::Storage(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(memory), c10::GetCPUAllocator(),
                                               storage.resizable())});
    return storages_.back().host;
  }

  c10::Storage device_storage(const c10::Storage& host) {
    for (const Storages& known : storages_) {
      if (known.host.unsafeGetStorageImpl() != host.unsafeGetStorageImpl()) continue;
      if (host.data() != known.device.data() || host.nbytes() != known.device.nbytes()) {
        // The operator gave it other memory. The size is what it can see; the memory may be larger.
        known.device.set_data_ptr_noswap(shared_memory(host, fake_gpu_device()));
        known.device.set_nbytes(host.nbytes());
      }
      return known.device;
    }
    storages_.push_back({c10::Storage(c10::Storage::use_byte_size_t(), host.nbytes(), shared_memory(host, fake_gpu_device()),
                                      c10::GetAllocator(kFakeGpuType), host.resizable()),
                         host});
    return storages_.back().device;
  }

  at::Tensor device_tensor(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    for (const auto& [device, host] : tensors_) {
      if (host.is_same(tensor)) return device;
    }
    return tensor_on(device_storage(tensor.storage()), c10::DispatchKey::PrivateUse1, tensor);
  }

  std::vector<std::pair<at::Tensor, at::Tensor>> tensors_;
  std::vector<Storages> storages_;
};

void check_device(const at::Tensor& tensor, const c10::OperatorHandle& op) {
  TORCH_CHECK(!tensor.defined() || on_device(tensor) || (tensor.device().is_cpu() && tensor.dim() == 0),
              "Expected all tensors to be on the same device, but ", toString(op.operator_name()), " got one on ", fake_gpu_device(),
              " and one on ", tensor.device(), ", of shape ", tensor.sizes());
}

void check_devices(const c10::IValue& value, const c10::OperatorHandle& op) {
  if (value.isTensor()) {
    check_device(value.toTensor(), op);
  } else if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorVector()) check_device(tensor, op);
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) check_device(tensor.value_or(at::Tensor()), op);
  }
}

void call_on_host(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  // What CPU kernels call in turn is no business of autograd's: the device's tensors have it.
  const at::AutoDispatchBelowADInplaceOrView guard;
  HostCall call;
  const std::size_t arguments = op.schema().arguments().size();
  for (std::size_t i = stack.size() - arguments; i < stack.size(); ++i) stack[i] = call.to_host(stack[i]);
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
  call.update_arguments();
  for (std::size_t i = stack.size() - op.schema().returns().size(); i < stack.size(); ++i) stack[i] = call.to_device(stack[i]);
}

std::atomic<std::int64_t>& waits() {
  static std::atomic<std::int64_t> count{0};
  return count;
}

// Operators that have to see values to return.
bool reads_values(const c10::OperatorHandle& op) {
  static const std::set<std::string> names{"aten::_local_scalar_dense", "aten::equal",   "aten::masked_select", "aten::nonzero",
                                           "aten::repeat_interleave",   "aten::_unique2"};
  return names.contains(op.operator_name().name);
}

void call_on_one_device(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  if (reads_values(op)) ++waits();
  for (std::size_t i = stack->size() - op.schema().arguments().size(); i < stack->size(); ++i) check_devices((*stack)[i], op);
  call_on_host(op, *stack);
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  if (!on_device(to) || (!on_device(from) && !non_blocking)) ++waits();
  const at::AutoDispatchBelowADInplaceOrView guard;
  HostCall call;
  call.to_host(to).toTensor().copy_(call.to_host(from).toTensor(), non_blocking);
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

// CUDA alone has it: products of bfloat16 added to float32. What it refuses is what LibTorch 2.11 refuses.
at::Tensor& addmm_dtype_out(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b, at::ScalarType type, const at::Scalar& beta,
                            const at::Scalar& alpha, at::Tensor& out) {
  TORCH_CHECK(on_device(self) && on_device(a) && on_device(b) && on_device(out), "Expected all tensors to be on the same device");
  TORCH_CHECK(a.scalar_type() == b.scalar_type() && out.scalar_type() == type &&
                  (type == a.scalar_type() || (type == at::kFloat && (a.scalar_type() == at::kBFloat16 || a.scalar_type() == at::kHalf))),
              "out_dtype must be the same as input dtype or fp32 for fp16/bf16 inputs");
  TORCH_CHECK(self.scalar_type() == type || self.scalar_type() == a.scalar_type(), "self dtype must match either out_dtype or mat1 dtype");
  const at::AutoDispatchBelowADInplaceOrView guard;
  return out.copy_(self.to(type).mul(beta).add(a.to(type).mm(b.to(type)), alpha));
}

}  // namespace

std::int64_t waits_so_far() { return waits(); }

void register_fake_gpu_operators() {
  using c10::DispatchKey;
  static auto* const fallback = new torch::Library(torch::Library::IMPL, "_", DispatchKey::PrivateUse1, __FILE__, __LINE__);
  fallback->fallback(torch::CppFunction::makeFromBoxedFunction<&call_on_one_device>());
  static auto* const operators = new torch::Library(torch::Library::IMPL, "aten", DispatchKey::PrivateUse1, __FILE__, __LINE__);
  operators->impl("_copy_from", copy_from);
  operators->impl("_copy_from_and_resize", copy_from_and_resize);
  operators->impl("addmm.dtype_out", addmm_dtype_out);
  // Where the CPU has a kernel besides a general definition (silu_backward), a fallback would not be asked, and results would not be the
  // CPU's.
  constexpr DispatchKey kGeneral[] = {DispatchKey::CompositeImplicitAutograd, DispatchKey::CompositeExplicitAutograd,
                                      DispatchKey::CompositeExplicitAutogradNonFunctional};
  c10::Dispatcher& dispatcher = c10::Dispatcher::singleton();
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    const std::optional<c10::OperatorHandle> op = name.getNamespace() == "aten" ? dispatcher.findOp(name) : std::nullopt;
    if (!op.has_value() || !op->hasKernelForDispatchKey(DispatchKey::CPU)) continue;
    if (std::none_of(std::begin(kGeneral), std::end(kGeneral), [&](DispatchKey key) { return op->hasKernelForDispatchKey(key); })) continue;
    operators->impl(toString(name).c_str(), torch::CppFunction::makeFromBoxedFunction<&call_on_one_device>());
  }
}

}  // namespace stableqat::testing
