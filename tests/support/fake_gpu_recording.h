// Stream capture of the imitated GPU (fake_gpu.h): what is put into a captured stream is written down, and done again by replay.
//
// As with CUDA, a capture does nothing to memory: what it changed is put back at its end, and memory that was allocated meanwhile belongs
// to the graph and has no sensible values until a replay; neither has memory that a replay "allocates" again. The graph knows addresses
// only: stricter than CUDA, replay() throws when memory that was there before the capture has been released since. Stricter, too: while a
// stream is captured, work for other streams is refused, which CUDA would do at once, before all that is captured.
//
// No LibTorch here: cuda_on_host.cc uses it as well. Functions are thread-safe; one capture at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

namespace stableqat::testing {

using StreamHandle = void*;  // null is the default stream

// Memory of the device, from its allocation to its release.
void add_device_memory(const void* begin, std::size_t bytes);
void remove_device_memory(const void* begin) noexcept;

// Whether work that is put into `stream` now is to be given to record(). Throws std::runtime_error while another stream is captured.
bool is_captured(StreamHandle stream);

// Throws std::runtime_error while any stream is captured: for what CUDA does not permit then.
void refuse_in_capture(const char* what);

// `work` uses `memory`, addresses of which some may be null or no device's.
void record(std::function<void()> work, const std::vector<const void*>& memory);

// What a CUDA graph is on a real GPU. Keeps what the recorded work owns.
class RecordedGraph {
 public:
  RecordedGraph() = default;
  ~RecordedGraph();
  RecordedGraph(const RecordedGraph&) = delete;
  RecordedGraph& operator=(const RecordedGraph&) = delete;

  // `stream` must not be the default one.
  void begin(StreamHandle stream);
  void end();
  void replay();

 private:
  friend void record(std::function<void()> work, const std::vector<const void*>& memory);

  struct Block {
    std::uint64_t allocation = 0;
    std::vector<std::byte> values;
  };

  std::vector<std::function<void()>> calls_;
  std::map<const void*, Block> before_;        // all device memory when the capture began
  std::map<const void*, std::uint64_t> used_;  // of that, what the recorded work uses, by its allocation
  std::uint64_t first_own_allocation_ = 0;
  bool is_complete_ = false;
};

// Replays in this process so far.
std::int64_t recorded_graph_replays();

}  // namespace stableqat::testing
