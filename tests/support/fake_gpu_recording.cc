#include "fake_gpu_recording.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

namespace stableqat::testing {
namespace {

struct Memory {
  std::size_t bytes = 0;
  std::uint64_t allocation = 0;
};

struct State {
  std::mutex mutex;
  std::map<const void*, Memory> memory;
  std::uint64_t allocations = 0;
  RecordedGraph* capture = nullptr;
  StreamHandle stream = nullptr;  // of the capture
};

// Never destroyed: tensors may outlive static objects.
State& state() {
  static auto* const all = new State;
  return *all;
}

std::atomic<std::int64_t>& replays() {
  static std::atomic<std::int64_t> count{0};
  return count;
}

// The block that holds `address`, or the end.
auto block_of(const std::map<const void*, Memory>& memory, const void* address) {
  auto next = memory.upper_bound(address);
  if (next == memory.begin()) return memory.end();
  const auto block = std::prev(next);
  const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(address) - static_cast<const std::byte*>(block->first));
  return offset < block->second.bytes ? block : memory.end();
}

}  // namespace

void add_device_memory(const void* begin, std::size_t bytes) {
  if (begin == nullptr || bytes == 0) return;
  State& all = state();
  const std::scoped_lock lock(all.mutex);
  all.memory[begin] = {bytes, ++all.allocations};
}

void remove_device_memory(const void* begin) noexcept {
  State& all = state();
  const std::scoped_lock lock(all.mutex);
  all.memory.erase(begin);
}

bool is_captured(StreamHandle stream) {
  State& all = state();
  const std::scoped_lock lock(all.mutex);
  if (all.capture == nullptr) return false;
  if (all.stream != stream) throw std::runtime_error("work for another stream than the captured one");
  return true;
}

void refuse_in_capture(const char* what) {
  State& all = state();
  const std::scoped_lock lock(all.mutex);
  if (all.capture != nullptr) throw std::runtime_error(std::string("operation not permitted when stream is capturing: ") + what);
}

void record(std::function<void()> work, const std::vector<const void*>& memory) {
  State& all = state();
  const std::scoped_lock lock(all.mutex);
  if (all.capture == nullptr) throw std::logic_error("no stream is captured");
  RecordedGraph& graph = *all.capture;
  for (const void* address : memory) {
    const auto block = block_of(all.memory, address);
    if (block == all.memory.end() || block->second.allocation >= graph.first_own_allocation_) continue;
    graph.used_[block->first] = block->second.allocation;
  }
  graph.calls_.push_back(std::move(work));
}

RecordedGraph::~RecordedGraph() {
  State& all = state();
  const std::scoped_lock lock(all.mutex);
  if (all.capture == this) all.capture = nullptr;
}

void RecordedGraph::begin(StreamHandle stream) {
  if (stream == nullptr) throw std::runtime_error("the default stream cannot be captured");
  State& all = state();
  const std::scoped_lock lock(all.mutex);
  if (all.capture != nullptr || !calls_.empty()) throw std::runtime_error("a capture in a capture, or a second one");
  for (const auto& [address, memory] : all.memory) {
    const auto* const bytes = static_cast<const std::byte*>(address);
    before_[address] = {memory.allocation, {bytes, bytes + memory.bytes}};
  }
  first_own_allocation_ = all.allocations + 1;
  all.capture = this;
  all.stream = stream;
}

void RecordedGraph::end() {
  State& all = state();
  const std::scoped_lock lock(all.mutex);
  if (all.capture != this) throw std::runtime_error("the end of a capture that did not begin");
  all.capture = nullptr;
  for (const auto& [address, memory] : all.memory) {
    const auto old = before_.find(address);
    auto* const bytes = static_cast<std::byte*>(const_cast<void*>(address));
    if (old != before_.end() && old->second.allocation == memory.allocation) {
      std::copy(old->second.values.begin(), old->second.values.end(), bytes);
    } else {
      std::memset(bytes, 0xff, memory.bytes);
    }
  }
  before_.clear();
  is_complete_ = true;
}

void RecordedGraph::replay() {
  if (!is_complete_) throw std::runtime_error("replay of a graph that was not captured");
  refuse_in_capture("replay");
  {
    State& all = state();
    const std::scoped_lock lock(all.mutex);
    for (const auto& [address, allocation] : used_) {
      const auto block = all.memory.find(address);
      if (block != all.memory.end() && block->second.allocation == allocation) continue;
      throw std::runtime_error("the graph uses memory that has been released since its capture");
    }
  }
  for (const std::function<void()>& call : calls_) call();
  ++replays();
}

std::int64_t recorded_graph_replays() { return replays(); }

}  // namespace stableqat::testing
