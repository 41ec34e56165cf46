#include "train/captured_micro_step.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/record_function.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

#include "stableqat/base/error.h"

namespace stableqat {

namespace {

// LibTorch's CUDA part, from which it takes its symbols, is open where there is a GPU.
MakeStreamGraph* open_library() {
  // Never closed, as LibTorch's.
  void* const library = dlopen(kStreamGraphLibrary, RTLD_NOW | RTLD_LOCAL);
  void* const symbol = library != nullptr ? dlsym(library, kMakeStreamGraph) : nullptr;
  if (symbol != nullptr) return reinterpret_cast<MakeStreamGraph*>(symbol);
  const char* const text = dlerror();
  throw EnvironmentError({kStreamGraphLibrary, text != nullptr ? text : "cannot be opened", "the library of this build, beside the program",
                          "build it (docs/cuda.md), or leave train.cuda_graph out"});
}

std::unique_ptr<StreamGraph> make_stream_graph() {
  static MakeStreamGraph* const make = open_library();
  return make();
}

// Of what a micro-step reads and adds to.
std::vector<const void*> places_of(CausalLm& model) {
  std::vector<const void*> places;
  const auto add = [&places](const at::Tensor& tensor) { places.push_back(tensor.defined() ? tensor.const_data_ptr() : nullptr); };
  model.visit_parameters([&add](const std::string&, ParameterRole, at::Tensor& value) {
    add(value);
    add(value.grad());
  });
  model.visit_linears([&add](const std::string&, Linear& layer) {
    for (const at::Tensor& tensor : {layer.compute, layer.step, layer.fp8_codes, layer.fp8_transposed}) add(tensor);
  });
  add(model.head_compute());
  return places;
}

[[noreturn]] void throw_not_captured(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  throw EnvironmentError({"CUDA graph", text.substr(0, text.find('\n')), "a micro-step that a GPU can record, and memory for it",
                          "leave train.cuda_graph out, or lower train.micro_batch_size"});
}

}  // namespace

CapturedMicroStep::CapturedMicroStep(CausalLm& model, Recompute recompute) : model_(model), recompute_(recompute) { make_stream_graph(); }

CapturedMicroStep::~CapturedMicroStep() = default;

CapturedMicroStep::Work CapturedMicroStep::work_of(const at::Tensor& ids, double gradient_scale, const Teacher* teacher) {
  return {ids.sizes().vec(), gradient_scale, teacher != nullptr ? *teacher : Teacher{}, places_of(model_)};
}

// A majority vote with a short memory: neither a shorter micro-batch now and then nor two kinds in turn lead to recordings without end.
bool CapturedMicroStep::is_usual(const Work& work) {
  if (work == usual_) {
    lead_ = std::min(lead_ + 1, kRunBefore + 1);
  } else if (--lead_ <= 0) {
    usual_ = work;
    lead_ = 1;
  }
  return work == usual_ && lead_ > kRunBefore;
}

void CapturedMicroStep::capture(const Work& work) {
  graph_.reset();  // before its successor takes as much memory
  losses_ = at::Tensor();
  const Teacher* const teacher = work.teacher.model != nullptr ? &work.teacher : nullptr;
  std::unique_ptr<StreamGraph> graph = make_stream_graph();
  // Backward follows in LibTorch's threads: its functions run in the stream in which their forward ran.
  const c10::StreamGuard guard(c10::impl::VirtualGuardImpl(ids_.device().type()).getStreamFromGlobalPool(ids_.device()));
  graph->begin();
  try {
    losses_ = forward_backward(model_, ids_, work.gradient_scale, recompute_, teacher).losses;
  } catch (...) {
    const std::exception_ptr error = std::current_exception();
    try {
      graph->end();
    } catch (const EnvironmentError&) {
      // It follows from the error that is thrown.
    }
    try {
      std::rethrow_exception(error);
    } catch (const c10::Error& found) {
      throw_not_captured(found);
    }
  }
  graph->end();
  graph_ = std::move(graph);
  recorded_ = work;
}

HeadLoss CapturedMicroStep::run(const at::Tensor& ids, double gradient_scale, const Teacher* teacher) {
  const Work work = work_of(ids, gradient_scale, teacher);
  const bool is_next = is_usual(work);
  const bool is_recorded = graph_ != nullptr && work == recorded_;
  // Neither copy is blocking: a GPU's queue need not be empty before the tokens are copied into it.
  if (!is_recorded && !is_next) {
    return forward_backward(model_, ids.to(at::TensorOptions().device(model_.device()), /*non_blocking=*/true), gradient_scale, recompute_,
                            teacher);
  }
  if (!is_recorded) {
    ids_ = at::empty(ids.sizes(), ids.options().device(model_.device()));
    ids_.copy_(ids, /*non_blocking=*/true);
    capture(work);
  } else {
    ids_.copy_(ids, /*non_blocking=*/true);
  }
  RECORD_USER_SCOPE("graph");
  graph_->replay();
  ++replays_;
  return {losses_.clone(), {}};
}

}  // namespace stableqat
