#include "stableqat/export/distortion.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>

#include "export/number_text.h"
#include "stableqat/base/error.h"
#include "stableqat/models/packed_model.h"
#include "stableqat/models/quantized_model.h"

namespace stableqat {

namespace {

using Json = nlohmann::json;

template <class T>
std::span<const T> values_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<T>(), static_cast<std::size_t>(tensor.numel())};
}

// Of the master and code * step; a step holds for codes.size() / steps.size() codes.
double signal_to_noise_db(std::span<const float> master, std::span<const std::int8_t> codes, std::span<const float> steps) {
  const std::size_t group = codes.size() / steps.size();
  double signal = 0;
  double noise = 0;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const double value = static_cast<double>(master[i]);
    const double error = value - static_cast<double>(static_cast<float>(codes[i]) * steps[i / group]);
    signal += value * value;
    noise += error * error;
  }
  return noise > 0 ? 10 * std::log10(signal / noise) : std::numeric_limits<double>::infinity();
}

LayerDistortion measure(const QuantizedWeight& weight) {
  const CodeGrid grid = code_grid(weight.spec());
  LayerDistortion layer;
  layer.name = weight.name();
  layer.rows = weight.rows();
  layer.columns = weight.columns();
  const auto codes = values_of<std::int8_t>(weight.codes());
  const at::Tensor step = weight.step().contiguous();
  const auto steps = values_of<float>(step);
  layer.signal_to_noise_db = signal_to_noise_db(values_of<float>(weight.master()), codes, steps);
  const double count = static_cast<double>(codes.size());
  layer.clipped_share = static_cast<double>(weight.last_counts().clipped) / count;
  layer.lowest_code = grid.low;
  layer.code_stride = grid.stride;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(grid.levels));
  for (const std::int8_t code : codes) ++counts[static_cast<std::size_t>((code - grid.low) / grid.stride)];
  for (const std::int64_t number : counts) layer.code_shares.push_back(static_cast<double>(number) / count);
  std::vector<float> sorted(steps.begin(), steps.end());
  std::ranges::sort(sorted);
  layer.scale_min = static_cast<double>(sorted.front());
  layer.scale_median = static_cast<double>(sorted[sorted.size() / 2]);
  layer.scale_max = static_cast<double>(sorted.back());
  return layer;
}

std::string ratio_text(double decibels) { return std::isfinite(decibels) ? fixed_text(decibels, 2) : "exact"; }

}  // namespace

std::vector<LayerDistortion> measure_distortion(const QuantizedModel& model) {
  std::vector<LayerDistortion> layers;
  for (const QuantizedWeight& weight : model.weights()) {
    if (weight.master().scalar_type() != at::kFloat) throw ConfigError({"precision", "a model that is not float32", "float32", ""});
    layers.push_back(measure(weight));
  }
  return layers;
}

Json to_json(const std::vector<LayerDistortion>& layers) {
  Json result = Json::array();
  for (const LayerDistortion& layer : layers) {
    result.push_back({{"name", layer.name},
                      {"rows", layer.rows},
                      {"columns", layer.columns},
                      {"signal_to_noise_db", std::isfinite(layer.signal_to_noise_db) ? Json(layer.signal_to_noise_db) : Json()},
                      {"clipped_share", layer.clipped_share},
                      {"scale_min", layer.scale_min},
                      {"scale_median", layer.scale_median},
                      {"scale_max", layer.scale_max},
                      {"lowest_code", layer.lowest_code},
                      {"code_stride", layer.code_stride},
                      {"code_shares", layer.code_shares}});
  }
  return result;
}

std::string to_text(const std::vector<LayerDistortion>& layers) {
  std::size_t width = 5;
  for (const LayerDistortion& layer : layers) width = std::max(width, layer.name.size());
  std::string text = left_aligned("layer", width) + "  SNR dB  clipped  scale min..median..max          share of codes, %\n";
  for (const LayerDistortion& layer : layers) {
    const std::string scales = number_text(layer.scale_min) + ".." + number_text(layer.scale_median) + ".." + number_text(layer.scale_max);
    text += left_aligned(layer.name, width) + right_aligned(ratio_text(layer.signal_to_noise_db), 8) +
            right_aligned(fixed_text(100 * layer.clipped_share, 2) + " %", 9) + "  " + left_aligned(scales, 30);
    for (const double share : layer.code_shares) text += right_aligned(fixed_text(100 * share, 1), 5);
    text += "\n";
  }
  return text;
}

}  // namespace stableqat
