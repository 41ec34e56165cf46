// What quantization does to the weights, layer by layer.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace stableqat {

class QuantizedModel;

struct LayerDistortion {
  std::string name;  // Hugging Face's, without ".weight"
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  double signal_to_noise_db = 0;  // 10 log10(sum w^2 / sum (w - w_q)^2) of master and dequantized weight; infinite where they are equal
  double clipped_share = 0;       // of the weights, outside the quantizer's range
  double scale_min = 0;           // of the steps: weight = code * step
  double scale_median = 0;
  double scale_max = 0;
  int lowest_code = 0;
  int code_stride = 1;
  std::vector<double> code_shares;  // of the codes lowest_code + i * code_stride
};

// The present state of every quantized layer, in the order of QuantizedModel::weights().
std::vector<LayerDistortion> measure_distortion(const QuantizedModel& model);

// Array of one object per layer; an infinite ratio is null.
nlohmann::json to_json(const std::vector<LayerDistortion>& layers);
// A table for people, one line per layer. Ends in a newline.
std::string to_text(const std::vector<LayerDistortion>& layers);
// A picture: signal-to-noise ratio of every layer by kind of layer, and the shares of the codes.
std::string to_svg(const std::vector<LayerDistortion>& layers);

}  // namespace stableqat
