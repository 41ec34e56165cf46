// libstableqat_cuda.so for machines without a GPU: the table of library.cu, whose kernels run on host memory with a team of one thread.
// Rows and elements are the CUDA kernels' own; blocks and warps are loops.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <vector>

#include "fake_gpu_recording.h"
#include "kernels/cuda/cross_entropy_rows.h"
#include "kernels/cuda/element.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/fp8_rows.h"
#include "kernels/cuda/rms_norm_rows.h"
#include "kernels/cuda/team.h"
#include "kernels/cuda/update_rows.h"
#include "stableqat/kernels/cuda.h"

namespace stableqat::kernels::cuda {
namespace {

constexpr TeamOfOne kTeam;

template <class F>
void with_element(ElementType type, F&& f) {
  type == ElementType::kBFloat16 ? f.template operator()<BFloat16>() : f.template operator()<float>();
}

// As pointer arithmetic, but null stays null.
template <class T>
T* at(T* pointer, std::int64_t offset) {
  return pointer != nullptr ? pointer + offset : nullptr;
}

// The device.

Status device_count(int* count) {
  *count = 1;
  return nullptr;
}

Status device_name(int /*device*/, char* name, int capacity) {
  std::snprintf(name, static_cast<std::size_t>(capacity), "host");
  return nullptr;
}

Status allocate(std::size_t bytes, void** memory) {
  *memory = std::malloc(std::max<std::size_t>(bytes, 1));
  return *memory != nullptr ? nullptr : "out of memory";
}

Status release(void* memory) {
  std::free(memory);
  return nullptr;
}

Status synchronize(Stream /*stream*/) try {
  testing::refuse_in_capture("to wait for a stream");
  return nullptr;
} catch (const std::runtime_error&) {
  return "operation not permitted when stream is capturing";
}

Status copy(Stream stream, void* to, const void* from, std::size_t bytes) {
  if (const Status status = synchronize(stream)) return status;  // nobody says which of the two is the host's
  if (bytes > 0) std::memmove(to, from, bytes);
  return nullptr;
}

// update.cu

void add_counts(const QuantizeCounts& counts, CountsPointer total) {
  total[0] += static_cast<unsigned long long>(counts.changed);
  total[1] += static_cast<unsigned long long>(counts.clipped);
}

Status quantize(Stream /*stream*/, const QuantRule& rule, std::int64_t rows, std::int64_t columns, const float* weight, const float* scale,
                std::int8_t* codes, const DequantizedOutput& out, CountsPointer total) {
  with_rounding(rule, [&]<Rounding kRounding>() {
    const QuantElement<float, kRounding> element(rule);
    with_element(out.type, [&]<class T>() {
      QuantizeCounts counts;
      for (std::int64_t row = 0; row < rows; ++row) {
        const std::int64_t begin = row * columns;
        const QuantizedRow<T> quantized{codes + begin, at(static_cast<T*>(out.data), begin)};
        counts += quantize_row(kTeam, element, columns, weight + begin, scale[row], quantized);
      }
      add_counts(counts, total);
    });
  });
  return nullptr;
}

Status steps(Stream /*stream*/, const QuantRule& rule, std::int64_t count, const float* scale, float* step) {
  with_rounding(rule, [&]<Rounding kRounding>() {
    const QuantElement<float, kRounding> element(rule);
    for (std::int64_t i = 0; i < count; ++i) step[i] = element.step(scale[i]);
  });
  return nullptr;
}

Status surrogate_sums(Stream /*stream*/, const QuantRule& rule, const QuantizedArrays<float>& arrays, double scale_factor, double* squares,
                      float* scale_gradient, double* alpha_terms) {
  with_surrogate(rule, arrays.alpha, [&](auto surrogate) {
    for (std::int64_t row = 0; row < arrays.rows; ++row) {
      const std::int64_t begin = row * arrays.columns;
      const RowSums sums =
          surrogate_sums_of_row(kTeam, surrogate, arrays.columns, arrays.weight + begin, arrays.gradient + begin, arrays.scale[row]);
      squares[row] = sums.squares;
      scale_gradient[row] = static_cast<float>(scale_factor * sums.scale);
      if constexpr (decltype(surrogate)::kHasAlpha) alpha_terms[row] = sums.alpha;
    }
  });
  return nullptr;
}

Status update_quantized(Stream /*stream*/, const QuantRule& rule, const AdamWRule& adamw, FactorPointer factor,
                        const QuantizedArrays<float>& arrays, const UpdateOutputs<float>& outputs, const DequantizedOutput& out,
                        CountsPointer total) {
  AdamWElement<float> element(adamw);
  if (!take_factor(factor, element)) return nullptr;
  with_surrogate(rule, arrays.alpha, [&](auto surrogate) {
    with_element(out.type, [&]<class T>() {
      QuantizeCounts counts;
      for (std::int64_t row = 0; row < arrays.rows; ++row) {
        const std::int64_t begin = row * arrays.columns;
        const MovedRow moved{arrays.weight + begin, arrays.gradient + begin, outputs.first + begin, outputs.second + begin};
        const QuantizedRow<T> quantized{outputs.codes + begin, at(static_cast<T*>(out.data), begin)};
        counts += update_row(kTeam, surrogate, element, arrays.columns, moved, arrays.scale[row], outputs.scale[row], quantized);
      }
      add_counts(counts, total);
    });
  });
  return nullptr;
}

Status squares(Stream /*stream*/, std::int64_t count, const float* values, double* sums) {
  for (std::int64_t begin = 0; begin < count; begin += kSquaresBlock) {
    const std::int64_t end = std::min(begin + kSquaresBlock, count);
    double sum = 0.0;
    for (std::int64_t j = begin; j < end; ++j) sum += static_cast<double>(values[j]) * static_cast<double>(values[j]);
    sums[begin / kSquaresBlock] = sum;
  }
  return nullptr;
}

Status update_plain(Stream /*stream*/, const AdamWRule& adamw, FactorPointer factor, std::int64_t count, float* value, float* gradient,
                    float* first, float* second) {
  AdamWElement<float> element(adamw);
  if (!take_factor(factor, element)) return nullptr;
  for (std::int64_t i = 0; i < count; ++i) {
    value[i] = element.step(value[i], gradient[i], first[i], second[i]);
    gradient[i] = 0.0F;
  }
  return nullptr;
}

// rms_norm.cu

Status rms_norm_forward(Stream /*stream*/, ElementType type, std::int64_t rows, std::int64_t columns, const void* x, const void* delta,
                        const float* w, float eps, void* sum, void* y, float* inverse_rms) {
  with_element(type, [&]<class T>() {
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t begin = row * columns;
      rms_norm_forward_row(kTeam, columns, static_cast<const T*>(x) + begin, at(static_cast<const T*>(delta), begin), w, eps,
                           delta != nullptr ? static_cast<T*>(sum) + begin : nullptr, static_cast<T*>(y) + begin, inverse_rms + row);
    }
  });
  return nullptr;
}

// The whole workspace is used, as on a GPU: one that is too small has to show.
Status rms_norm_backward(Stream /*stream*/, ElementType type, std::int64_t rows, std::int64_t columns, const void* sum, const float* w,
                         const float* inverse_rms, const void* dy, const void* residual, void* dx, float* dw, float* workspace) {
  std::fill_n(workspace, kRmsNormBlocks * columns, 0.0F);
  with_element(type, [&]<class T>() {
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t begin = row * columns;
      rms_norm_backward_row(kTeam, columns, static_cast<const T*>(sum) + begin, w, inverse_rms[row], static_cast<const T*>(dy) + begin,
                            at(static_cast<const T*>(residual), begin), static_cast<T*>(dx) + begin,
                            workspace + row % kRmsNormBlocks * columns);
    }
  });
  for (std::int64_t j = 0; j < columns; ++j) {
    float total = 0.0F;
    for (std::int64_t block = 0; block < kRmsNormBlocks; ++block) total += workspace[block * columns + j];
    dw[j] = total;
  }
  return nullptr;
}

// elementwise.cu

Status rope(Stream /*stream*/, ElementType type, const RopeShape& shape, float direction, const float* cos, const float* sin, const void* x,
            const HeadStrides& x_strides, void* y, const HeadStrides& y_strides) {
  const std::int64_t pairs = shape.batch * shape.tokens * shape.heads * (shape.head_size / 2);
  with_element(type, [&]<class T>() {
    for (std::int64_t i = 0; i < pairs; ++i) {
      rope_pair(shape, i, direction, cos, sin, static_cast<const T*>(x), x_strides, static_cast<T*>(y), y_strides);
    }
  });
  return nullptr;
}

Status forward_swiglu(Stream /*stream*/, ElementType type, std::int64_t count, const void* gate, const void* up, void* y) {
  with_element(type, [&]<class T>() {
    for (std::int64_t i = 0; i < count; ++i) {
      static_cast<T*>(y)[i] = swiglu_forward(static_cast<const T*>(gate)[i], static_cast<const T*>(up)[i]);
    }
  });
  return nullptr;
}

Status backward_swiglu(Stream /*stream*/, ElementType type, std::int64_t count, const void* gate, const void* up, const void* dy,
                       void* dgate, void* dup) {
  with_element(type, [&]<class T>() {
    for (std::int64_t i = 0; i < count; ++i) {
      const SwigluGradients<T> gradients =
          swiglu_backward(static_cast<const T*>(gate)[i], static_cast<const T*>(up)[i], static_cast<const T*>(dy)[i]);
      static_cast<T*>(dgate)[i] = gradients.gate;
      static_cast<T*>(dup)[i] = gradients.up;
    }
  });
  return nullptr;
}

// fp8.cu

Status round_rows(Stream /*stream*/, ElementType type, std::int64_t rows, std::int64_t columns, const void* x, const float* factor,
                  std::uint8_t* codes, float* scale) {
  with_element(type, [&]<class T>() {
    for (std::int64_t row = 0; row < rows; ++row) {
      round_row_to_e4m3(kTeam, columns, static_cast<const T*>(x) + row * columns, factor, codes + row * columns, scale + row);
    }
  });
  return nullptr;
}

// cross_entropy.cu

Status log_probs(Stream /*stream*/, ElementType type, std::int64_t rows, std::int64_t columns, const void* logits,
                 const std::int64_t* targets, float* out) {
  with_element(type, [&]<class T>() {
    for (std::int64_t row = 0; row < rows; ++row) {
      log_prob_of_row(kTeam, columns, static_cast<const T*>(logits) + row * columns, targets[row], out + row);
    }
  });
  return nullptr;
}

Status cross_entropy(Stream /*stream*/, ElementType type, std::int64_t rows, std::int64_t columns, const std::int64_t* targets, float scale,
                     void* logits, double* losses) {
  with_element(type, [&]<class T>() {
    for (std::int64_t row = 0; row < rows; ++row) {
      cross_entropy_row(kTeam, columns, targets[row], scale, static_cast<T*>(logits) + row * columns, losses + row);
    }
  });
  return nullptr;
}

Status distilled(Stream /*stream*/, ElementType type, std::int64_t rows, std::int64_t columns, const std::int64_t* targets,
                 const DistillationTerms& terms, float scale, const void* teacher, void* logits, double* losses, double* divergences) {
  with_element(type, [&]<class T>() {
    for (std::int64_t row = 0; row < rows; ++row) {
      distilled_row(kTeam, columns, targets[row], terms, scale, static_cast<const T*>(teacher) + row * columns,
                    static_cast<T*>(logits) + row * columns, losses + row, divergences + row);
    }
  });
  return nullptr;
}

// A kernel in its stream: now, or in the replays of what is captured.
template <auto kKernel>
struct InStream;

template <class... Arguments, Status (*kKernel)(Stream, Arguments...)>
struct InStream<kKernel> {
  static Status launch(Stream stream, Arguments... arguments) try {
    if (!testing::is_captured(stream)) return kKernel(stream, arguments...);
    std::vector<const void*> memory;
    (note_memory(memory, arguments), ...);
    // By value: what is behind references is the launch's.
    testing::record([stream, copies = std::tuple<std::decay_t<Arguments>...>(
                                 arguments...)] { std::apply([stream](const auto&... copy) { kKernel(stream, copy...); }, copies); },
                    memory);
    return nullptr;
  } catch (const std::runtime_error&) {
    return "a launch that a capture does not permit";
  }

 private:
  template <class T>
  static void note_memory(std::vector<const void*>& memory, const T& argument) {
    if constexpr (std::is_pointer_v<T>) memory.push_back(argument);
  }
};

constexpr CudaKernels kTable{
    .device_count = device_count,
    .device_name = device_name,
    .allocate = allocate,
    .release = release,
    .copy = copy,
    .synchronize = synchronize,
    .quantize = InStream<quantize>::launch,
    .steps = InStream<steps>::launch,
    .surrogate_sums = InStream<surrogate_sums>::launch,
    .update_quantized = InStream<update_quantized>::launch,
    .squares = InStream<squares>::launch,
    .update_plain = InStream<update_plain>::launch,
    .rms_norm_forward = InStream<rms_norm_forward>::launch,
    .rms_norm_backward = InStream<rms_norm_backward>::launch,
    .rope = InStream<rope>::launch,
    .swiglu_forward = InStream<forward_swiglu>::launch,
    .swiglu_backward = InStream<backward_swiglu>::launch,
    .round_rows_to_e4m3 = InStream<round_rows>::launch,
    .log_probs = InStream<log_probs>::launch,
    .cross_entropy = InStream<cross_entropy>::launch,
    .distilled = InStream<distilled>::launch,
};

}  // namespace
}  // namespace stableqat::kernels::cuda

extern "C" __attribute__((visibility("default"))) const stableqat::kernels::cuda::CudaKernels* stableqat_cuda_kernels(int version) {
  using namespace stableqat::kernels::cuda;
  return version == kCudaKernelsVersion ? &kTable : nullptr;
}
