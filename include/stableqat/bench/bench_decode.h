// `stableqat bench decode`: text token by token, from packed weights and from the same weights in float32.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "stableqat/bench/bench_step.h"
#include "stableqat/models/quantized_model.h"

namespace stableqat::bench {

struct DecodeOptions {
  std::int64_t prompt_tokens = 32;  // random
  std::int64_t tokens = 64;         // that are timed
  Rounds rounds{1, 5};
};

struct DecodeResult {
  std::string weights;  // "float32", "codes" (int8) or "packed"
  Spread seconds_per_token;
  double tokens_per_second = 0.0;    // of the median
  std::int64_t bytes_per_token = 0;  // of weights, which every token reads
  double bytes_per_second = 0.0;
  double copy_share = 0.0;  // of the rate of a copy in the same run, bytes read and written
  double copy_bytes_per_second = 0.0;
  double logit_difference = 0.0;  // of the last token's logits to float32's for the same text: largest, relative to the largest logit
};

// A coarse guard, not a derived bound: a model rounded to 3 bits without training, on random text, was seen at 0.0113, above the 0.01 that
// stood here first. The products themselves are held to computed bounds in kernels_packed_test and models_linear_test.
inline constexpr double kLargestLogitDifference = 0.05;

// Decodes the same text with each kind of weights, one kind after the other: float32 chooses the most likely tokens, the others follow.
// Throws NumericError when their logits differ from float32's by more than kLargestLogitDifference, ConfigError for a model that is not
// float32. Afterwards `model` is packed. Without quantized weights only float32 is timed.
std::vector<DecodeResult> bench_decode(QuantizedModel& model, const DecodeOptions& options, const BenchCallbacks& callbacks = {});

nlohmann::ordered_json to_json(const DecodeResult& result);

}  // namespace stableqat::bench
