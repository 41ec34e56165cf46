#include "stableqat/bench/bench_decode.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randint.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bench/packed_check.h"
#include "bench/stopwatch.h"
#include "stableqat/base/error.h"
#include "stableqat/bench/rates.h"
#include "stableqat/models/head.h"
#include "stableqat/models/packed_matrix.h"

namespace stableqat::bench {

namespace {

// Bytes of weights that a token reads: all matrices of the blocks, the head.
std::int64_t weight_bytes(CausalLm& model) {
  std::int64_t bytes = 0;
  const auto count = [&bytes](const Linear& layer, const at::Tensor& weight) {
    if (layer.packed) {
      bytes += layer.packed->bytes();
    } else if (layer.codes.defined()) {
      bytes += layer.codes.numel() + 4 * layer.step.numel();
    } else {
      bytes += weight.numel() * static_cast<std::int64_t>(weight.element_size());
    }
  };
  model.visit_linears([&](const std::string&, Linear& layer) { count(layer, layer.weight); });
  Linear head;
  head.packed = model.packed_head();
  count(head, model.head());
  return bytes;
}

// Decodes a text again and again.
class Decoding {
 public:
  Decoding(const CausalLm& model, const DecodeOptions& options)
      : model_(model), options_(options), prompt_(at::randint(model.config().vocab_size, {1, options.prompt_tokens}, at::kLong)) {}

  // Seconds of one token. The first call chooses the text.
  double run() {
    KvCache cache(model_.config(), 1, options_.prompt_tokens + options_.tokens, model_.compute_dtype());
    const at::Tensor hidden = model_.hidden_states(prompt_, &cache);
    logits_ = logits(model_, hidden.select(1, -1));
    const bool choose = !text_.defined();
    std::vector<at::Tensor> chosen;
    const Stopwatch watch;
    for (std::int64_t i = 0; i < options_.tokens; ++i) {
      const at::Tensor id = choose ? logits_.argmax(-1).view({1, 1}) : text_.narrow(1, i, 1);
      if (choose) chosen.push_back(id);
      logits_ = logits(model_, model_.hidden_states(id, &cache).select(1, -1));
    }
    const double seconds = watch.seconds() / static_cast<double>(options_.tokens);
    if (choose) text_ = at::cat(chosen, 1);
    return seconds;
  }

  const at::Tensor& last_logits() const { return logits_; }

 private:
  const CausalLm& model_;
  DecodeOptions options_;
  at::Tensor prompt_;
  at::Tensor text_;
  at::Tensor logits_;
};

}  // namespace

std::vector<DecodeResult> bench_decode(QuantizedModel& model, const DecodeOptions& options, const BenchCallbacks& callbacks) {
  const at::NoGradGuard no_grad;
  CopyReference copy;
  copy.bytes_per_second();
  model.set_code_products(CodeProducts::kOff);
  Decoding decoding(model.model(), options);
  std::vector<DecodeResult> results;
  at::Tensor expected;
  const auto measure = [&](const char* weights) {
    DecodeResult result;
    result.weights = weights;
    result.bytes_per_token = weight_bytes(model.model());
    std::vector<double> seconds;
    std::vector<double> copies;
    for (int round = 0; round < options.rounds.warmup + options.rounds.repeats; ++round) {
      if (callbacks.progress) callbacks.progress({"bench decode", results.size(), options.weights.size(), "kinds of weights"});
      const double rate = copy.bytes_per_second();
      const double taken = decoding.run();
      if (round < options.rounds.warmup) continue;
      seconds.push_back(taken);
      copies.push_back(rate);
    }
    if (!expected.defined()) expected = decoding.last_logits().clone();
    result.logit_difference = ((decoding.last_logits() - expected).abs().max() / expected.abs().max()).item<double>();
    result.seconds_per_token = spread(seconds);
    result.copy_bytes_per_second = spread(copies).median;
    result.tokens_per_second = 1 / result.seconds_per_token.median;
    result.bytes_per_second = static_cast<double>(result.bytes_per_token) * result.tokens_per_second;
    result.copy_share = result.bytes_per_second / result.copy_bytes_per_second;
    results.push_back(std::move(result));
  };
  const auto wanted = [&options](const char* weights) { return std::ranges::find(options.weights, weights) != options.weights.end(); };
  if (wanted("float32")) measure("float32");
  model.set_code_products(CodeProducts::kFloat);
  if (wanted("codes") && !model.weights().empty()) measure("codes");
  if (!wanted("packed")) return results;
  model.pack_for_decoding();
  if (const double share = check_packed_products(model); share > 0) {
    measure("packed");
    results.back().product_difference = share;
  }
  return results;
}

nlohmann::ordered_json to_json(const DecodeResult& result) {
  return {{"weights", result.weights},
          {"tokens_per_second", result.tokens_per_second},
          {"seconds_per_token", result.seconds_per_token.median},
          {"seconds_per_token_min", result.seconds_per_token.min},
          {"seconds_per_token_max", result.seconds_per_token.max},
          {"bytes_per_token", result.bytes_per_token},
          {"bytes_per_second", result.bytes_per_second},
          {"copy_bytes_per_second", result.copy_bytes_per_second},
          {"copy_share", result.copy_share},
          {"logit_difference", result.logit_difference},
          {"product_difference", result.product_difference},
          {"threads", at::get_num_threads()}};
}

}  // namespace stableqat::bench
