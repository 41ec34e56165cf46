#include "stableqat/train/settings.h"

#include <ATen/cpu/Utils.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "stableqat/base/error.h"
#include "stableqat/kernels/gemm.h"

namespace stableqat {

namespace {

ScaleInit scale_init(TrainConfig::ScaleInit value) {
  switch (value) {
    case TrainConfig::ScaleInit::kMse:
      return ScaleInit::kMse;
    case TrainConfig::ScaleInit::kLsq:
      return ScaleInit::kLsq;
    case TrainConfig::ScaleInit::kAbsmax:
      break;
  }
  return ScaleInit::kAbsMax;
}

Surrogate surrogate(const TrainConfig::Quantization& config) {
  if (config.method != TrainConfig::Method::kStableqat || config.amplitude.empty()) return {};
  if (config.amplitude.size() == 1) return Surrogate::fourier(config.amplitude.front(), static_cast<int>(config.order));
  return Surrogate::from_amplitudes(config.amplitude);
}

}  // namespace

std::optional<QuantizationSettings> quantization_settings(const TrainConfig::Quantization& config) {
  if (config.method == TrainConfig::Method::kNone || config.bits == TrainConfig::kUnquantizedBits) return std::nullopt;
  QuantizationSettings settings;
  if (config.method == TrainConfig::Method::kSeq) settings.spec.kind = QuantizerKind::kSeq;
  if (config.method == TrainConfig::Method::kDsq) settings.spec.kind = QuantizerKind::kDsq;
  settings.spec.bits = static_cast<int>(config.bits);
  settings.spec.surrogate = surrogate(config);
  settings.spec.group_size = config.group_size;
  settings.spec.scale_init = scale_init(config.scale_init);
  settings.spec.fp16_scales = config.export_grid == TrainConfig::ExportGrid::kFp16;
  if (!config.layers.empty()) settings.layers.include = config.layers;
  settings.layers.exclude = config.exclude;
  settings.spec.validate();
  return settings;
}

bool starts_from_stored_scales(const TrainConfig::Quantization& config, const ModelSource& source) {
  const std::optional<QuantizationSettings> settings = quantization_settings(config);
  if (!settings || config.stored_scales == TrainConfig::StoredScales::kIgnore) return false;
  if (config.stored_scales == TrainConfig::StoredScales::kUse) return true;
  const std::optional<bool> fit = stored_scales_fit(source, settings->spec);
  if (fit) return *fit;
  throw ConfigError({"quantization.stored_scales", "auto, but " + source.path().string() + " does not say for how many bits its scales are",
                     "use or ignore", "use them if they are for " + std::to_string(config.bits) + " bits"});
}

namespace {

Recompute recompute_of(TrainConfig::Recompute choice) {
  switch (choice) {
    case TrainConfig::Recompute::kSelective:
      return Recompute::kSelective;
    case TrainConfig::Recompute::kBlock:
      return Recompute::kBlock;
    case TrainConfig::Recompute::kNone:
      break;
  }
  return Recompute::kNone;
}

}  // namespace

TrainStepOptions train_step_options(const TrainConfig& config) {
  const TrainConfig::Train& train = config.train;
  TrainStepOptions options;
  options.adamw = {.beta1 = train.adam_beta1,
                   .beta2 = train.adam_beta2,
                   .epsilon = train.adam_epsilon,
                   .weight_decay = train.weight_decay,
                   .moments_in_bf16 = train.moments == TrainConfig::Moments::kBfloat16,
                   .seed = static_cast<std::uint32_t>(train.seed)};
  options.max_grad_norm = train.max_grad_norm;
  options.scale_learning_rate_ratio = train.scale_learning_rate_ratio;
  options.recompute = recompute_of(train.recompute);
  options.cuda_graph = train.cuda_graph;
  options.reduce_in_bf16 = config.distributed.reduce == TrainConfig::Reduce::kBf16;
  options.bucket_bytes = config.distributed.bucket_mb << 20;
  return options;
}

namespace {

// kOff: none of codes.
CodeProducts products_of(TrainConfig::Compute compute) {
  switch (compute) {
    case TrainConfig::Compute::kInt8x1:
      return CodeProducts::kInt8x1;
    case TrainConfig::Compute::kInt8x2:
      return CodeProducts::kInt8x2;
    case TrainConfig::Compute::kFp8:
      return CodeProducts::kFp8;
    case TrainConfig::Compute::kAuto:
    case TrainConfig::Compute::kFloat:
      break;
  }
  return CodeProducts::kOff;
}

NumericTypes gpu_types(TrainConfig::Precision precision, std::vector<std::string>& notices) {
  switch (precision) {
    case TrainConfig::Precision::kFloat64:
      throw ConfigError({"train.precision", "float64 on a GPU", "bfloat16 or float32", "use train.device cpu for float64"});
    case TrainConfig::Precision::kFloat32:
      return {};
    case TrainConfig::Precision::kFloat16:
      notices.emplace_back("train.precision float16: computed in bfloat16, which needs no loss scaling");
      break;
    case TrainConfig::Precision::kAuto:
    case TrainConfig::Precision::kBfloat16:
      break;
  }
  return {at::kFloat, at::kBFloat16};
}

NumericTypes fp8_types(TrainConfig::Precision precision, std::vector<std::string>& notices) {
  NumericTypes types = gpu_types(precision, notices);
  if (types.compute != at::kBFloat16) {
    throw ConfigError({"train.compute", "fp8 with train.precision float32", "train.precision bfloat16 or auto",
                       "leave train.precision out, or use train.compute float"});
  }
  types.products = CodeProducts::kFp8;
  return types;
}

NumericTypes cpu_types(TrainConfig::Precision precision, std::vector<std::string>& notices) {
  switch (precision) {
    case TrainConfig::Precision::kFloat64:
      return {at::kDouble, at::kDouble};
    case TrainConfig::Precision::kBfloat16:
      return {at::kFloat, at::kBFloat16};
    case TrainConfig::Precision::kFloat16:
      notices.emplace_back("train.precision float16: computed in float32, which is at least as exact and not slower on this CPU");
      break;
    case TrainConfig::Precision::kAuto:
      if (at::cpu::init_amx()) return {at::kFloat, at::kBFloat16};
      break;
    case TrainConfig::Precision::kFloat32:
      break;
  }
  return {};
}

}  // namespace

TrainConfig::Compute chosen_compute(const TrainConfig& config, bool has_fast_integer) {
  if (config.train.compute != TrainConfig::Compute::kAuto) return config.train.compute;
  std::vector<std::string> notices;
  const bool on_cpu = config.train.device != TrainConfig::Device::kCuda;
  if (!has_fast_integer || !on_cpu || cpu_types(config.train.precision, notices).compute != at::kFloat) return TrainConfig::Compute::kFloat;
  const auto settings = quantization_settings(config.quantization);
  const bool proved = settings && settings->spec.bits == 4 && settings->spec.group_size == 0;
  return proved ? TrainConfig::Compute::kInt8x2 : TrainConfig::Compute::kFloat;
}

NumericTypes numeric_types(const TrainConfig& config, std::vector<std::string>& notices) {
  const TrainConfig::Compute compute = chosen_compute(config, kernels::gemm_kernels().has_fast_integer);
  if (compute != TrainConfig::Compute::kFloat && config.train.compute == TrainConfig::Compute::kAuto) {
    notices.emplace_back("train.compute auto: int8x2, for which this CPU has instructions; `float` takes products in float32");
  }
  return numeric_types(config.train.precision, compute, config.train.device, notices);
}

NumericTypes numeric_types(TrainConfig::Precision precision, TrainConfig::Compute compute, TrainConfig::Device device,
                           std::vector<std::string>& notices) {
  const CodeProducts products = products_of(compute);
  if (device == TrainConfig::Device::kCuda) {
    if (products == CodeProducts::kOff) return gpu_types(precision, notices);
    if (products == CodeProducts::kFp8) return fp8_types(precision, notices);
    throw ConfigError({"train.compute", "integer products on a GPU", "float", "leave train.compute out, or use train.device cpu"});
  }
  if (products == CodeProducts::kFp8) {
    throw ConfigError({"train.compute", "fp8 on a CPU", "float, int8x2 or int8x1", "use train.device cuda for products in float8"});
  }
  if (products == CodeProducts::kOff) {
    NumericTypes types = cpu_types(precision, notices);
    if (types.master == at::kFloat && types.compute == at::kFloat) types.products = CodeProducts::kFloat;
    return types;
  }
  if (precision == TrainConfig::Precision::kBfloat16 || precision == TrainConfig::Precision::kFloat64) {
    throw ConfigError({"train.compute", "integer products in another train.precision than float32", "train.precision float32 or auto",
                       "leave train.precision out, or use train.compute float"});
  }
  if (precision == TrainConfig::Precision::kFloat16) cpu_types(precision, notices);
  return {at::kFloat, at::kFloat, products};
}

void place(QuantizedModel& model, NumericTypes types, at::Device device) {
  model.model().set_compute_dtype(types.compute);
  const bool is_for_gpu = types.products == CodeProducts::kFp8;
  if (!is_for_gpu) model.set_code_products(types.products);
  if (!device.is_cpu()) model.move_to(device);
  if (is_for_gpu) model.set_code_products(types.products);
}

namespace {

void refuse_repeats(const TrainConfig::Data& data, double epochs) {
  if (epochs <= 1.0 || data.allow_repeats) return;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.2f", epochs);
  throw ConfigError({"data.max_train_tokens",
                     std::to_string(data.max_train_tokens) + " tokens, which are " + text.data() + " epochs of the data",
                     "at most one" + std::string(data.mixture.empty() ? "" : " of each source"),
                     "give more data, lower the budget, or allow it by data.allow_repeats: true"});
}

}  // namespace

std::int64_t total_steps(const TrainConfig& config, std::uint64_t blocks_per_epoch) {
  const std::int64_t blocks_per_step = config.train.micro_batch_size * config.train.gradient_accumulation_steps;
  if (config.train.max_steps > 0) return config.train.max_steps;
  double blocks = config.train.num_train_epochs * static_cast<double>(blocks_per_epoch);
  if (config.data.max_train_tokens > 0) {
    blocks = static_cast<double>(config.data.max_train_tokens / config.data.sequence_length);
    refuse_repeats(config.data, blocks / static_cast<double>(blocks_per_epoch));
  }
  const auto steps = static_cast<std::int64_t>(std::floor(blocks / static_cast<double>(blocks_per_step)));
  if (steps < 1) {
    throw ConfigError({"train.max_steps", "a run of less than one optimizer step", "at least one step",
                       "raise data.max_train_tokens or train.num_train_epochs, or lower the batch"});
  }
  return steps;
}

}  // namespace stableqat
