#include "fake_gpu_operators.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/ops/empty.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fake_gpu_recording.h"

namespace stableqat::testing {
namespace {

bool on_device(const at::Tensor& tensor) { return tensor.device().type() == kFakeGpuType; }

// Memory of a host storage as memory of the device, which keeps `from` alive.
c10::DataPtr shared_memory(const c10::Storage& from) {
  auto* const owner = new c10::Storage(from);
  return device_memory({from.mutable_data(), owner, [](void* storage) { delete static_cast<c10::Storage*>(storage); }, c10::kCPU},
                       from.nbytes());
}

// Errors of fake_gpu_recording.h as LibTorch's.
template <class F>
auto as_operator(F&& f) -> decltype(f()) {
  try {
    return f();
  } catch (const std::runtime_error& error) {
    TORCH_CHECK(false, error.what());
  }
}

// Whether work for the current stream is captured.
bool records_now() {
  return as_operator([] { return is_captured(c10::impl::VirtualGuardImpl(kFakeGpuType).getStream(fake_gpu_device()).native_handle()); });
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
  // Returns whether any had another shape or memory.
  bool update_arguments() {
    bool changed = false;
    for (const auto& [device, host] : tensors_) {
      const c10::Storage storage = device_storage(host.storage());
      c10::TensorImpl* const impl = device.unsafeGetTensorImpl();
      const bool has_own_storage = storage.is_alias_of(device.storage());
      if (!has_own_storage) impl->set_storage_keep_dtype(storage);
      changed = changed || !has_own_storage || device.sizes() != host.sizes();
      if (device.sizes() != host.sizes() || device.strides() != host.strides() || device.storage_offset() != host.storage_offset()) {
        impl->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
      }
    }
    return changed;
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
        known.device.set_data_ptr_noswap(shared_memory(host));
        known.device.set_nbytes(host.nbytes());
      }
      return known.device;
    }
    storages_.push_back({c10::Storage(c10::Storage::use_byte_size_t(), host.nbytes(), shared_memory(host), c10::GetAllocator(kFakeGpuType),
                                      host.resizable()),
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

using Stack = torch::jit::Stack;

void run_on_host(const c10::OperatorHandle& op, Stack& stack) {
  // What CPU kernels call in turn is no business of autograd's: the device's tensors have it.
  const at::AutoDispatchBelowADInplaceOrView guard;
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
}

template <class F>
void for_each_tensor(const Stack& values, F&& f) {
  for (const c10::IValue& value : values) {
    if (value.isTensor() && value.toTensor().defined()) f(value.toTensor());
    if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) f(tensor);
    }
    if (value.isOptionalTensorList()) {
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
        if (tensor.has_value() && tensor->defined()) f(*tensor);
      }
    }
  }
}

std::vector<const void*> memory_of(const Stack& values) {
  std::vector<const void*> memory;
  for_each_tensor(values, [&](const at::Tensor& tensor) { memory.push_back(tensor.storage().data()); });
  return memory;
}

// Whether a GPU has nothing to do: views.
bool is_free(const c10::OperatorHandle& op, const Stack& arguments, const Stack& results) {
  for (const c10::Argument& argument : op.schema().arguments()) {
    if (argument.alias_info() != nullptr && argument.alias_info()->isWrite()) return false;
  }
  const std::vector<const void*> known = memory_of(arguments);
  bool all_known = true;
  for_each_tensor(results, [&](const at::Tensor& result) {
    all_known = all_known && std::find(known.begin(), known.end(), result.storage().data()) != known.end();
  });
  return all_known;
}

bool only_allocates(const c10::OperatorHandle& op) {
  const std::string& name = op.operator_name().name;
  return name.starts_with("aten::empty") || name.starts_with("aten::new_empty");
}

// What was done for `arguments` into the same memory once more. The results are kept, and with them their memory.
void record_on_host(const c10::OperatorHandle& op, Stack arguments, Stack results) {
  std::vector<const void*> memory = memory_of(arguments);
  record(
      [op, arguments = std::move(arguments), results = std::move(results)] {
        std::vector<at::Tensor> to;
        for_each_tensor(results, [&](const at::Tensor& tensor) { to.push_back(tensor); });
        if (only_allocates(op)) {
          for (const at::Tensor& tensor : to) {
            if (tensor.nbytes() > 0) std::memset(tensor.mutable_data_ptr(), 0xff, tensor.nbytes());
          }
          return;
        }
        Stack stack = arguments;
        run_on_host(op, stack);
        std::size_t next = 0;
        for_each_tensor(stack, [&](const at::Tensor& from) {
          const at::Tensor& kept = to.at(next++);
          if (from.const_data_ptr() != kept.const_data_ptr()) kept.copy_(from);
        });
      },
      memory);
}

// What such an operator does to its arguments' shapes it would do again in each replay; to make room for a result is done only once.
void refuse_other_shapes(const c10::OperatorHandle& op) {
  const std::vector<c10::Argument>& arguments = op.schema().arguments();
  if (std::none_of(arguments.begin(), arguments.end(), [](const c10::Argument& argument) { return argument.is_out(); })) {
    as_operator([&op] { refuse_in_capture(op.operator_name().name.c_str()); });
  }
}

void call_on_host(const c10::OperatorHandle& op, Stack& stack) {
  HostCall call;
  const std::size_t arguments = op.schema().arguments().size();
  for (std::size_t i = stack.size() - arguments; i < stack.size(); ++i) stack[i] = call.to_host(stack[i]);
  const bool is_recorded = records_now();
  Stack kept = is_recorded ? Stack(stack.end() - static_cast<std::ptrdiff_t>(arguments), stack.end()) : Stack();
  run_on_host(op, stack);
  if (call.update_arguments() && is_recorded) refuse_other_shapes(op);
  const std::size_t results = op.schema().returns().size();
  if (is_recorded) {
    Stack made(stack.end() - static_cast<std::ptrdiff_t>(results), stack.end());
    if (!is_free(op, kept, made)) record_on_host(op, std::move(kept), std::move(made));
  }
  for (std::size_t i = stack.size() - results; i < stack.size(); ++i) stack[i] = call.to_device(stack[i]);
}

// Work that is not an operator of the CPU, now and in each replay.
template <class F>
void run_or_record(const std::vector<const void*>& memory, F&& work) {
  const auto guarded = [work] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    work();
  };
  if (records_now()) record(guarded, memory);
  guarded();
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

void call_on_one_device(const c10::OperatorHandle& op, Stack* stack) {
  if (reads_values(op)) count_wait(op.operator_name().name.c_str());
  for (std::size_t i = stack->size() - op.schema().arguments().size(); i < stack->size(); ++i) check_devices((*stack)[i], op);
  call_on_host(op, *stack);
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  if (!on_device(to) || (!on_device(from) && !non_blocking)) count_wait("a copy between host and device");
  if (!on_device(from)) as_operator([] { refuse_in_capture("a copy from pageable memory"); });
  HostCall call;
  const at::Tensor host_from = call.to_host(from).toTensor();
  const at::Tensor host_to = call.to_host(to).toTensor();
  run_or_record({from.storage().data(), to.storage().data()}, [=] { host_to.copy_(host_from, non_blocking); });
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
  HostCall call;
  const auto host = [&call](const at::Tensor& tensor) { return call.to_host(tensor).toTensor(); };
  run_or_record({self.storage().data(), a.storage().data(), b.storage().data(), out.storage().data()},
                [type, beta, alpha, self = host(self), a = host(a), b = host(b), out = host(out)] {
                  out.copy_(self.to(type).mul(beta).add(a.to(type).mm(b.to(type)), alpha));
                });
  return out;
}

// CUDA alone has it by rows: products of float8 with a scale for each row of `a` and each column of `b`. What it refuses is what LibTorch
// 2.11 refuses, or cuBLAS.
at::Tensor scaled_mm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_scale, const at::Tensor& b_scale,
                     const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& result_scale,
                     std::optional<at::ScalarType> type, bool /*use_fast_accum*/) {
  TORCH_CHECK(on_device(a) && on_device(b) && on_device(a_scale) && on_device(b_scale), "Expected all tensors to be on the same device");
  TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0), "mat1 and mat2 shapes cannot be multiplied");
  TORCH_CHECK(a.scalar_type() == at::kFloat8_e4m3fn && b.scalar_type() == at::kFloat8_e4m3fn, "Expected mat1 and mat2 to be Float8");
  TORCH_CHECK(a_scale.scalar_type() == at::kFloat && b_scale.scalar_type() == at::kFloat && a_scale.is_contiguous() &&
                  b_scale.is_contiguous() && a_scale.sizes() == at::IntArrayRef({a.size(0), 1}) &&
                  b_scale.sizes() == at::IntArrayRef({1, b.size(1)}),
              "Invalid scaling configuration: scale_a should be (M, 1) and scale_b (1, N), float and contiguous");
  TORCH_CHECK(a.size(1) % 16 == 0 && b.size(1) % 16 == 0, "Expected trailing dimension of mat1, and mat2, to be divisible by 16");
  TORCH_CHECK(a.stride(1) == 1 && b.stride(0) == 1, "cuBLAS takes mat1 by rows and mat2 by columns");
  TORCH_CHECK(!bias && !result_scale && type == at::kBFloat16, "not imitated");
  const at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options().dtype(at::kBFloat16));
  HostCall call;
  const auto host = [&call](const at::Tensor& tensor) { return call.to_host(tensor).toTensor(); };
  run_or_record({a.storage().data(), b.storage().data(), a_scale.storage().data(), b_scale.storage().data(), out.storage().data()},
                [a = host(a), b = host(b), a_scale = host(a_scale), b_scale = host(b_scale), out = host(out)] {
                  out.copy_(a.to(at::kFloat).mm(b.to(at::kFloat)).mul(a_scale).mul(b_scale));
                });
  return out;
}

}  // namespace

c10::DataPtr device_memory(c10::DataPtr memory, std::size_t bytes) {
  void* const data = memory.get();
  add_device_memory(data, bytes);
  auto* const owner = new c10::DataPtr(std::move(memory));
  const auto release = [](void* context) {
    auto* const held = static_cast<c10::DataPtr*>(context);
    remove_device_memory(held->get());
    delete held;
  };
  return {data, owner, release, fake_gpu_device()};
}

std::int64_t waits_so_far() { return waits(); }

void count_wait(const char* what) {
  as_operator([what] { refuse_in_capture(what); });
  ++waits();
}

void register_fake_gpu_operators() {
  using c10::DispatchKey;
  static auto* const fallback = new torch::Library(torch::Library::IMPL, "_", DispatchKey::PrivateUse1, __FILE__, __LINE__);
  fallback->fallback(torch::CppFunction::makeFromBoxedFunction<&call_on_one_device>());
  static auto* const operators = new torch::Library(torch::Library::IMPL, "aten", DispatchKey::PrivateUse1, __FILE__, __LINE__);
  operators->impl("_copy_from", copy_from);
  operators->impl("_copy_from_and_resize", copy_from_and_resize);
  operators->impl("addmm.dtype_out", addmm_dtype_out);
  operators->impl("_scaled_mm", scaled_mm);
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
