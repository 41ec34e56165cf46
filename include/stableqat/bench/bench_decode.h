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
  std::vector<std::string> weights{"float32", "codes", "packed"};  // the kinds to time, in this order
};

struct DecodeResult {
  std::string weights;  // "float32", "codes" (int8) or "packed"
  Spread seconds_per_token;
  double tokens_per_second = 0.0;    // of the median
  std::int64_t bytes_per_token = 0;  // of weights, which every token reads
  double bytes_per_second = 0.0;
  double copy_share = 0.0;  // of the rate of a copy in the same run, bytes read and written
  double copy_bytes_per_second = 0.0;
  double logit_difference =
      0.0;  // of the last token's logits to the first kind's for the same text: largest, relative to the largest logit
  // Packed weights: largest difference of a layer's product to one in double, as a share of the bound on what its roundings can make.
  double product_difference = 0.0;
};

// Decodes the same text with each kind of weights, one kind after the other: the first chooses the most likely tokens, the others follow.
// Each packed layer's product is compared with one in double first. Throws NumericError when one lies outside of its bound, ConfigError for
// a model that is not float32. Afterwards `model` is packed. Kinds that the weights do not have are left out.
std::vector<DecodeResult> bench_decode(QuantizedModel& model, const DecodeOptions& options, const BenchCallbacks& callbacks = {});

nlohmann::ordered_json to_json(const DecodeResult& result);

}  // namespace stableqat::bench
