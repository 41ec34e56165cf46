// Work of a GPU's stream that is written down once and then started as a whole: a CUDA graph. LibTorch's is in its CUDA part, so it comes
// from a library of its own, libstableqat_cuda_graph.so, of which this is the interface.
#pragma once

#include <memory>

namespace stableqat {

// To be used by one thread. begin(), end() and replay() throw EnvironmentError.
class StreamGraph {
 public:
  virtual ~StreamGraph() = default;

  // Until end(), work that is put into the current stream, which must not be the default one, is recorded and not done. It may come from
  // other threads, but must neither wait for the GPU nor give it pageable memory of the host. Memory that LibTorch allocates for it
  // meanwhile is the graph's alone as long as that lives. Waits for the GPU first. Once for each graph.
  virtual void begin() = 0;
  virtual void end() = 0;
  // Puts the recorded work into the current stream. It finds the addresses that it was recorded with, whatever is there now.
  virtual void replay() = 0;
};

// The library's only symbol.
using MakeStreamGraph = std::unique_ptr<StreamGraph>();
inline constexpr const char* kMakeStreamGraph = "stableqat_make_stream_graph";
inline constexpr const char* kStreamGraphLibrary = "libstableqat_cuda_graph.so";

}  // namespace stableqat
