// The kernels on an NVIDIA GPU: the interfaces of update.h, rms_norm.h, rope.h, swiglu.h and cross_entropy.h on device memory and a stream.
//
// They are in a shared library of their own, libstableqat_cuda.so, which is opened when a GPU is first asked for; one program serves
// machines with and without one. Pointers are device pointers; arrays are dense and row-major and do not overlap unless said so. Calls put
// work into `stream` and return; each returns null, or the CUDA runtime's description of the error of its launch. Sums have a fixed order:
// same input, same bits. Thread-safe for different streams.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "stableqat/kernels/adamw_math.h"
#include "stableqat/kernels/cross_entropy.h"
#include "stableqat/kernels/head_strides.h"
#include "stableqat/kernels/quant_rule.h"
#include "stableqat/kernels/rope.h"
#include "stableqat/kernels/update.h"

namespace stableqat::kernels::cuda {

using Stream = void*;        // a cudaStream_t; null is the default stream
using Status = const char*;  // null: success

// Type of activations, and of the weights that products are computed with. Masters, scales, moments and norms are fp32.
enum class ElementType { kFloat, kBFloat16 };

// Rows of the scratch memory that RMSNorm's backward wants.
inline constexpr std::int64_t kRmsNormBlocks = 512;

struct DequantizedOutput {
  ElementType type = ElementType::kFloat;
  void* data = nullptr;  // [rows, columns], or null: none
};

// Device memory with what the gradients of a step are multiplied by, where only the GPU knows it: [1], or null: AdamWRule's factor is
// taken. If it is not finite, nothing is changed.
using FactorPointer = const double*;

// Device memory that counts are added to: codes that changed, weights that were clipped.
using CountsPointer = unsigned long long*;  // [2]

struct CudaKernels {
  // Number of devices that can be used, and a device's description.
  Status (*device_count)(int* count);
  // At most `capacity` characters with the final zero.
  Status (*device_name)(int device, char* name, int capacity);

  // Device memory, and copies in either direction in the order of the stream; synchronize() waits for the stream.
  Status (*allocate)(std::size_t bytes, void** memory);
  Status (*release)(void* memory);
  Status (*copy)(Stream stream, void* to, const void* from, std::size_t bytes);
  Status (*synchronize)(Stream stream);

  // update.h, float. `dequantized` of UpdateOutputs is not used: `out` says where and in which type.
  Status (*quantize)(Stream stream, const QuantRule& rule, std::int64_t rows, std::int64_t columns, const float* weight, const float* scale,
                     std::int8_t* codes, const DequantizedOutput& out, CountsPointer counts);
  // step [count] of scale [count]: what quantize() multiplies codes with.
  Status (*steps)(Stream stream, const QuantRule& rule, std::int64_t count, const float* scale, float* step);
  // squares [rows], scale_gradient [rows], alpha_terms [rows] (null unless DSQ) are overwritten.
  Status (*surrogate_sums)(Stream stream, const QuantRule& rule, const QuantizedArrays<float>& arrays, double scale_factor, double* squares,
                           float* scale_gradient, double* alpha_terms);
  Status (*update_quantized)(Stream stream, const QuantRule& rule, const AdamWRule& adamw, FactorPointer factor,
                             const QuantizedArrays<float>& arrays, const UpdateOutputs<float>& outputs, const DequantizedOutput& out,
                             CountsPointer counts);
  // squares [ceil(count / kSquaresBlock)]
  Status (*squares)(Stream stream, std::int64_t count, const float* values, double* squares);
  Status (*update_plain)(Stream stream, const AdamWRule& adamw, FactorPointer factor, std::int64_t count, float* value, float* gradient,
                         float* first, float* second);

  // rms_norm.h; workspace [kRmsNormBlocks, columns] of this header.
  Status (*rms_norm_forward)(Stream stream, ElementType type, std::int64_t rows, std::int64_t columns, const void* x, const void* delta,
                             const float* w, float eps, void* sum, void* y, float* inverse_rms);
  Status (*rms_norm_backward)(Stream stream, ElementType type, std::int64_t rows, std::int64_t columns, const void* sum, const float* w,
                              const float* inverse_rms, const void* dy, const void* residual, void* dx, float* dw, float* workspace);

  // rope.h; direction 1 turns forward, -1 is the gradient.
  Status (*rope)(Stream stream, ElementType type, const RopeShape& shape, float direction, const float* cos, const float* sin,
                 const void* x, const HeadStrides& x_strides, void* y, const HeadStrides& y_strides);

  // swiglu.h
  Status (*swiglu_forward)(Stream stream, ElementType type, std::int64_t count, const void* gate, const void* up, void* y);
  Status (*swiglu_backward)(Stream stream, ElementType type, std::int64_t count, const void* gate, const void* up, const void* dy,
                            void* dgate, void* dup);

  // Rows of activations and gradients in float8 e4m3fn: codes [rows, columns] and scale [rows], so that code * scale is x * factor, rounded
  // to nearest; the largest of a row becomes 448. factor [columns] or null: 1. A row that is not finite gets an infinite scale.
  Status (*round_rows_to_e4m3)(Stream stream, ElementType type, std::int64_t rows, std::int64_t columns, const void* x, const float* factor,
                               std::uint8_t* codes, float* scale);

  // cross_entropy.h
  Status (*log_probs)(Stream stream, ElementType type, std::int64_t rows, std::int64_t columns, const void* logits,
                      const std::int64_t* targets, float* log_probs);
  Status (*cross_entropy)(Stream stream, ElementType type, std::int64_t rows, std::int64_t columns, const std::int64_t* targets,
                          float scale, void* logits, double* losses);
  Status (*distilled)(Stream stream, ElementType type, std::int64_t rows, std::int64_t columns, const std::int64_t* targets,
                      const DistillationTerms& terms, float scale, const void* teacher, void* logits, double* losses, double* divergences);
};

// The library's only exported function; its version, so that a program does not use another version's table.
inline constexpr int kCudaKernelsVersion = 3;
inline constexpr const char* kCudaKernelsSymbol = "stableqat_cuda_kernels";
using CudaKernelsFunction = const CudaKernels* (*)(int version);  // null: another version

// The table, or null with the reason where the library, the driver or a GPU is missing. The first call opens the library. Thread-safe.
struct CudaBackend {
  const CudaKernels* kernels = nullptr;
  int devices = 0;
  std::string reason;  // why `kernels` is null
};
const CudaBackend& cuda_backend();

}  // namespace stableqat::kernels::cuda
