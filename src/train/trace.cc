#include "stableqat/train/trace.h"

#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "stableqat/base/file.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

double microseconds() { return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::uint64_t bytes_of(c10::ArrayRef<const c10::IValue> inputs) {
  std::uint64_t sum = 0;
  for (const c10::IValue& input : inputs) {
    if (input.isTensor() && input.toTensor().defined()) sum += input.toTensor().nbytes();
  }
  return sum;
}

}  // namespace

struct TraceRecorder::State {
  struct Event {
    std::string name;
    bool is_exchange = false;
    std::uint64_t thread = 0;
    double begin = 0;
    double end = 0;
    std::uint64_t bytes = 0;  // of exchanges
  };
  // One event under way.
  struct Context final : at::ObserverContext {
    std::shared_ptr<State> state;
    Event event;
  };

  // LibTorch's callbacks carry no data of ours.
  static inline std::atomic<std::shared_ptr<State>> current;

  static std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& function) {
    auto context = std::make_unique<Context>();
    context->state = current.load();
    if (!context->state) return nullptr;
    context->event = {function.name(), function.isAsync(), at::RecordFunction::currentThreadId(), microseconds(), 0, 0};
    if (function.isAsync()) context->event.bytes = bytes_of(function.inputs());
    return context;
  }

  static void end(const at::RecordFunction&, at::ObserverContext* context) {
    if (context == nullptr) return;
    auto& own = *static_cast<Context*>(context);
    own.event.end = microseconds();
    const std::scoped_lock lock(own.state->mutex);
    own.state->events.push_back(std::move(own.event));
  }

  Json json() const {
    Json all = Json::array();
    const auto process = [&](const char* name, const std::string& value) {
      all.push_back({{"ph", "M"}, {"name", name}, {"pid", rank}, {"tid", 0}, {"args", {{"name", value}}}});
    };
    process("process_name", "rank " + std::to_string(rank));
    std::uint64_t id = 0;
    for (const Event& event : events) {
      Json entry{{"name", event.name}, {"pid", rank}, {"tid", event.thread}, {"ts", event.begin}};
      if (!event.is_exchange) {
        entry.update({{"ph", "X"}, {"cat", "work"}, {"dur", event.end - event.begin}});
        all.push_back(std::move(entry));
        continue;
      }
      entry.update({{"ph", "b"}, {"cat", "exchange"}, {"id", ++id}, {"args", {{"bytes", event.bytes}}}});
      all.push_back(entry);
      entry.update({{"ph", "e"}, {"ts", event.end}});
      entry.erase("args");
      all.push_back(std::move(entry));
    }
    return all;
  }

  int rank = 0;
  mutable std::mutex mutex;
  std::vector<Event> events;
};

TraceRecorder::TraceRecorder(std::filesystem::path path, int rank) : path_(std::move(path)), state_(std::make_shared<State>()) {
  { const AtomicFile can_be_written(path_); }
  state_->rank = rank;
  State::current.store(state_);
  callback_ =
      at::addGlobalCallback(at::RecordFunctionCallback(&State::begin, &State::end).needsInputs(true).scopes({at::RecordScope::USER_SCOPE}));
}

TraceRecorder::~TraceRecorder() { stop(); }

void TraceRecorder::stop() noexcept {
  if (callback_ == 0) return;
  at::removeCallback(std::exchange(callback_, 0));
  State::current.store(nullptr);
}

void TraceRecorder::finish() {
  stop();
  const std::scoped_lock lock(state_->mutex);
  write_text_file(path_, state_->json().dump(0) + "\n");
}

}  // namespace stableqat
