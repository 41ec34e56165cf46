#include "stableqat/bench/run_observer.h"

#include <ATen/record_function.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <chrono>
#include <string_view>

namespace stableqat::bench {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr std::string_view kHead = "head";                  // the scope of train/forward_backward.cc
constexpr auto kSlot = c10::DebugInfoKind::PROFILER_STATE;  // where LibTorch's allocator looks for an observer

double* part_of(PartSeconds& seconds, std::string_view scope) {
  if (scope == kHead) return &seconds.head;
  if (scope == "attention" || scope.find("scaled_dot_product") != scope.npos) return &seconds.attention;
  for (const std::string_view product : {"gemm", "aten::matmul", "aten::mm", "aten::addmm", "aten::addmm_", "aten::linear"}) {
    if (scope == product) return &seconds.gemm;
  }
  return nullptr;
}

}  // namespace

// LibTorch's callbacks carry no data of ours: they find this by the thread's slot.
struct RunObserver::State : public c10::MemoryReportingInfoBase {
  Clock::time_point micro_batch_start;
  double forward_seconds = 0.0;
  PartSeconds parts;
  bool is_inside_part = false;  // only the outermost counts
  std::int64_t bytes = 0;
  std::int64_t peak = 0;

  void reportMemoryUsage(void*, std::int64_t change, std::size_t, std::size_t, c10::Device device) override {
    if (!device.is_cpu()) return;
    bytes += change;
    peak = std::max(peak, bytes);
  }
  bool memoryProfilingEnabled() const override { return true; }
};

class RunObserver::Scope : public at::ObserverContext {
 public:
  static std::unique_ptr<at::ObserverContext> open(const at::RecordFunction& function) {
    auto* state = dynamic_cast<State*>(c10::ThreadLocalDebugInfo::get(kSlot));
    if (state == nullptr || state->is_inside_part) return nullptr;
    const std::string_view name = function.name();
    if (name == kHead) state->forward_seconds = seconds_since(state->micro_batch_start);
    double* part = part_of(state->parts, name);
    return part != nullptr ? std::make_unique<Scope>(*state, *part) : nullptr;
  }

  static void close(const at::RecordFunction&, at::ObserverContext* context) {
    if (context == nullptr) return;
    const Scope& scope = *static_cast<Scope*>(context);
    scope.seconds_ += seconds_since(scope.start_);
    scope.state_.is_inside_part = false;
  }

  Scope(State& state, double& seconds) : state_(state), seconds_(seconds), start_(Clock::now()) { state_.is_inside_part = true; }

 private:
  State& state_;
  double& seconds_;
  Clock::time_point start_;
};

struct RunObserver::Impl {
  std::shared_ptr<State> state = std::make_shared<State>();
  c10::DebugInfoGuard guard{kSlot, state};
  at::CallbackHandle callback = 0;

  void watch(bool everything) {
    using at::RecordScope;
    at::RecordFunctionCallback observer(&Scope::open, &Scope::close);
    if (everything) {
      observer.scopes({RecordScope::FUNCTION, RecordScope::USER_SCOPE});
    } else {
      observer.scopes({RecordScope::USER_SCOPE});
    }
    callback = at::addThreadLocalCallback(observer);
  }
};

RunObserver::RunObserver() : impl_(std::make_unique<Impl>()) { impl_->watch(false); }

RunObserver::~RunObserver() { at::removeCallback(impl_->callback); }

void RunObserver::begin_micro_batch() {
  impl_->state->micro_batch_start = Clock::now();
  impl_->state->forward_seconds = 0.0;
}
double RunObserver::forward_seconds() const { return impl_->state->forward_seconds; }

void RunObserver::observe_parts(bool on) {
  at::removeCallback(impl_->callback);
  impl_->watch(on);
  if (on) impl_->state->parts = {};
}

const PartSeconds& RunObserver::parts() const { return impl_->state->parts; }

std::int64_t RunObserver::tensor_bytes() const { return impl_->state->bytes; }
std::int64_t RunObserver::peak_tensor_bytes() const { return impl_->state->peak; }
void RunObserver::reset_peak() { impl_->state->peak = impl_->state->bytes; }

}  // namespace stableqat::bench
