// What a TrainConfig means for the parts of a run.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "stableqat/config/train_config.h"
#include "stableqat/models/quantized_model.h"
#include "stableqat/train/train_step.h"

namespace stableqat {

// nullopt = full precision. Throws ConfigError (amplitude, bits and method that do not go together).
std::optional<QuantizationSettings> quantization_settings(const TrainConfig::Quantization& config);

// Whether the run starts from scales that the start model keeps (quantization.stored_scales). Throws ConfigError when `auto` cannot tell.
bool starts_from_stored_scales(const TrainConfig::Quantization& config, const ModelSource& source);

TrainStepOptions train_step_options(const TrainConfig& config);

struct NumericTypes {
  at::ScalarType master = at::kFloat;   // weights, scales, moments
  at::ScalarType compute = at::kFloat;  // activations and matrix products
  CodeProducts products = CodeProducts::kOff;
};

// train.compute with `auto` decided: int8x2 where golden losses and long runs do not tell it from float (docs/numerics.md) and it is faster:
// at 4 bits with a scale a row, in float32 on a CPU with instructions for it.
TrainConfig::Compute chosen_compute(const TrainConfig& config, bool has_fast_integer);

// The types of the run on this machine, by the function below.
NumericTypes numeric_types(const TrainConfig& config, std::vector<std::string>& notices);

// `auto` is bfloat16 on GPUs and where the CPU has AMX for it, and float32 elsewhere. float16 is replaced, with a line in `notices`, by
// float32 on the CPU, which it would only make slower, and by bfloat16 on a GPU. Throws ConfigError for integer products in another
// precision than float32 or on a GPU, for float8 products in float32 or on the CPU, and for float64 on a GPU.
NumericTypes numeric_types(TrainConfig::Precision precision, TrainConfig::Compute compute, TrainConfig::Device device,
                           std::vector<std::string>& notices);

// Throws ConfigError for settings that do not go together or are not for their device, without a model, data or a GPU.
void check_settings(const TrainConfig& config);

// The device, ready for tensors: the first call for CUDA opens LibTorch's CUDA part, which the program is not linked with. Throws
// EnvironmentError where that, our kernels, a driver or a GPU is missing, ConfigError for settings that are for the other device only.
at::Device open_device(const TrainConfig::Train& config);

// A model as it was read is computed in `types`, on `device`. Of what is not needed there the memory is free afterwards: to be called
// before moments and gradients are made. Throws what QuantizedModel::set_code_products() and move_to() do.
void place(QuantizedModel& model, NumericTypes types, at::Device device);

// Steps of the run: max_steps, or the token budget, or the epochs, whichever is set first in this order. `blocks_per_epoch` counts blocks
// of the sequence length. Throws ConfigError for less than one step, and for a budget of more than one epoch unless data.allow_repeats.
std::int64_t total_steps(const TrainConfig& config, std::uint64_t blocks_per_epoch);

}  // namespace stableqat
