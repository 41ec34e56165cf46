// The object that carries quantization-aware training: a weight as master, scales and integer codes.
//
// Legend: N rows (out features), M columns (in features), G scales per row.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "stableqat/base/row_range.h"
#include "stableqat/kernels/cuda.h"
#include "stableqat/kernels/update.h"
#include "stableqat/quant/quantizer_spec.h"

namespace stableqat {

// A quantized weight in training. Once per optimizer step: any number of forward and backward passes that multiply with dequantized(),
// whose gradient accumulates; gradient_sums(), from which clipping and the optimizer's step of scale() and alpha() follow; update(), which
// moves the master, quantizes it with the new scale and starts the next gradient. The surrogate's map is linear in the gradient, so mapping
// the accumulated sum once is exact.
//
// Where several ranks train one model, each keeps the masters and scales of some rows only (keep_rows()), and takes codes and steps of the
// others from the ranks that train them. Codes, steps and dequantized() are whole everywhere.
//
// Tensors are dense, all of the master's dtype (float32 or float64) but the codes, and on the CPU unless move_to() was called. Move-only.
// Not thread-safe; the CPU kernels use OpenMP threads inside. Results do not depend on the number of threads. On a GPU the functions below
// put work into its queue and return, unless they return numbers.
class QuantizedWeight {
 public:
  static constexpr double kInitialAlpha = 0.2;

  // Shares `master` [N, M] (no copy when it is contiguous). `scale` [N, G] (or [N, 1] / [N] for one scale per row): without it,
  // initial_scale() of the master. `alpha` [1] is DSQ's, 0.2 without it. Call quantize() before the first use.
  // Throws ConfigError for an invalid spec or a group size that does not divide M, DataError for a wrong shape, dtype or device, a scale
  // or a weight that is not finite. `name` (the layer) goes into messages.
  QuantizedWeight(const at::Tensor& master, QuantizerSpec spec, std::optional<at::Tensor> scale = std::nullopt,
                  std::optional<at::Tensor> alpha = std::nullopt, std::string name = "weight");
  QuantizedWeight(QuantizedWeight&&) = default;
  QuantizedWeight& operator=(QuantizedWeight&&) = default;

  // Sets scale() from the master by spec().scale_init.
  void initialize_scale();

  // Moves all tensors but alpha() to a GPU. dequantized() becomes another leaf; where `product_type` (float32, bfloat16) is not the
  // master's type it has no values, and product() has them. Once, for float32 masters, before there is a gradient. Throws EnvironmentError
  // without our kernels.
  void move_to(at::Device device, at::ScalarType product_type);

  // The same on the CPU, with the gradient: for tests and checks.
  QuantizedWeight cpu_copy() const;

  // master, scale -> codes and dequantized weight, in place.
  void quantize();

  // Of the last quantize() or update(): codes that it changed (0 for the first), weights outside the quantizer's range.
  kernels::QuantizeCounts last_counts() const;
  // Sums over weights on the same device, which is waited for once.
  static kernels::QuantizeCounts last_counts(std::span<const QuantizedWeight> weights);
  // The same as a tensor where the weights are, not waited for: [2] float64, changed and clipped.
  static at::Tensor last_counts_tensor(std::span<const QuantizedWeight> weights);

  // [N, M], codes * step: a leaf that requires grad. Its storage stays the same unless keep_dequantized() or move_to() is called.
  const at::Tensor& dequantized() const noexcept { return dequantized_; }

  // [N, M], codes * step rounded to the product type of move_to(); undefined where that is the master's.
  const at::Tensor& product() const noexcept { return product_; }

  // Whether dequantized() has values, as it does at first. Those who multiply with codes() and step() can do without: it is then only the
  // leaf whose gradient accumulates, and reads as NaN.
  void keep_dequantized(bool keep);
  bool has_dequantized() const { return dequantized_.stride(0) != 0; }

  // From now on this object trains only these rows: master() and scale() hold no others, and the functions below that read the gradient
  // read theirs alone. Once, after quantize().
  void keep_rows(RowRange rows);
  RowRange own_rows() const noexcept { return own_rows_; }

  // Codes [rows, M] int8 and steps [rows, G] of rows that another rank trains, as quantize() has made them there.
  void set_rows(RowRange rows, const at::Tensor& codes, const at::Tensor& steps);

  // Gradients of the trained tensors.
  struct Gradients {
    at::Tensor master;  // [N, M]
    at::Tensor scale;   // [N, G]
    at::Tensor alpha;   // [1]; undefined unless DSQ
  };

  // The plain form, for tests: the accumulated gradient of dequantized() (none = zero) mapped to gradients of master, scale and alpha. Like
  // the functions below it maps with the scale and alpha of the last quantization, and the present master. Changes nothing. On the
  // CPU, wherever the weight is.
  Gradients map_gradient() const;

  // What clipping and the optimizer need to know of those gradients.
  struct GradientSums {
    at::Tensor master_squares;  // float64, sums to the squared norm of the master's gradient; the sum is not finite when a gradient is not
    at::Tensor scale;           // [N, G]
    at::Tensor alpha;           // [1], on the gradient's device; undefined unless DSQ
  };

  // Pass one over the accumulated gradient. Changes nothing but a gradient that is missing or not dense, which becomes a dense one.
  GradientSums gradient_sums();

  // Pass two: maps the gradient again, moves the master and its moments `first` and `second` (dense, of the master's shape; both of its
  // type or, on the CPU, both bfloat16), quantizes with the present scale(), and sets the accumulated gradient to zero.
  // `gradient_factor` (on a GPU only: [] float64, there) stands in for the rule's; if it is not finite, nothing is changed.
  void update(const kernels::AdamWRule& adamw, const at::Tensor& first, const at::Tensor& second, const at::Tensor& gradient_factor = {});

  // Sets the accumulated gradient to zero; its memory is there from then on.
  void clear_gradient();

  const QuantizerSpec& spec() const noexcept { return spec_; }
  const std::string& name() const noexcept { return name_; }
  std::int64_t rows() const { return codes_.size(0); }
  std::int64_t columns() const { return master_.size(1); }
  std::int64_t scales_per_row() const { return scale_.size(1); }

  // The trained tensors, for an optimizer or a checkpoint to read and write in place: [N, M], [N, G], [1] (alpha: undefined unless DSQ),
  // with N = own_rows().count.
  const at::Tensor& master() const noexcept { return master_; }
  const at::Tensor& scale() const noexcept { return scale_; }
  const at::Tensor& alpha() const noexcept { return alpha_; }

  // int8 [N, M], from the last quantize().
  const at::Tensor& codes() const noexcept { return codes_; }
  // [N, G], new tensor: w_q = code * step, exactly. What exporters write as the scale (fp16 values when spec().fp16_scales).
  at::Tensor step() const;
  // The same into `steps`, on a GPU and without waiting for it: [N, G] float32.
  void write_steps(const at::Tensor& steps) const;
  // [own_rows().count, G], new tensor on the CPU: the scale that x = w / scale uses: max(scale, 1e-5), moved with the step to the fp16
  // grid.
  at::Tensor effective_scale() const;

 private:
  // Arrays of the own rows.
  template <class T>
  kernels::QuantizedArrays<T> arrays() const;
  std::int8_t* own_codes() const;
  template <class T>
  T* dequantized_values() const;  // null when they are not kept
  std::int64_t segment_length() const { return columns() / scales_per_row(); }
  at::Tensor own_steps() const;
  void quantize_on_gpu();
  GradientSums gradient_sums_on_gpu();
  void update_on_gpu(const kernels::AdamWRule& adamw, const at::Tensor& first, const at::Tensor& second, const at::Tensor& gradient_factor);
  // Where the GPU's kernels put w_q, and the counts, set to zero.
  kernels::cuda::DequantizedOutput gpu_output() const;
  kernels::cuda::CountsPointer cleared_gpu_counts();
  // After a quantization: what it used is kept.
  void quantized();

  QuantizerSpec spec_;
  kernels::QuantRule rule_;
  std::string name_;
  RowRange own_rows_;
  at::Tensor master_;
  at::Tensor scale_;
  at::Tensor alpha_;
  at::Tensor scale_in_use_;  // as they were when codes and dequantized weight were made
  at::Tensor alpha_in_use_;
  at::Tensor codes_;
  at::Tensor steps_;  // [N, G] once there are rows of other ranks
  at::Tensor dequantized_;
  at::Tensor product_;
  kernels::QuantizeCounts counts_;
  at::Tensor gpu_counts_;  // [2] int64: the same, where the weight is on a GPU
  bool quantized_once_ = false;
};

}  // namespace stableqat
