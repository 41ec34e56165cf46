#include "stableqat/bench/bench_scaling.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "bench/turns.h"
#include "stableqat/base/memory.h"
#include "stableqat/train/memory_estimate.h"

namespace stableqat::bench {

namespace {

std::int64_t scaled(std::int64_t value, double factor) {
  return std::max<std::int64_t>(1, std::llround(static_cast<double>(value) * factor));
}

ModelConfig with_width(const ModelConfig& model, double factor) {
  ModelConfig result = model;
  result.num_key_value_heads = scaled(model.num_key_value_heads, factor);
  result.num_attention_heads = result.num_key_value_heads * (model.num_attention_heads / model.num_key_value_heads);
  const double realized = static_cast<double>(result.num_attention_heads) / static_cast<double>(model.num_attention_heads);
  result.hidden_size = scaled(model.hidden_size, realized);
  result.intermediate_size = scaled(model.intermediate_size, realized);
  return result;
}

double exponent(double value, double previous, double x, double previous_x) {
  return std::log(value / previous) / std::log(x / previous_x);
}

void compare(ScalingResult& result, const ScalingResult& previous) {
  if (previous.axis != result.axis || !previous.skipped.empty()) return;
  const auto x = static_cast<double>(result.value);
  const auto previous_x = static_cast<double>(previous.value);
  result.time_exponent = exponent(result.step_seconds.median, previous.step_seconds.median, x, previous_x);
  result.memory_exponent = exponent(static_cast<double>(result.peak_bytes), static_cast<double>(previous.peak_bytes), x, previous_x);
}

ScalingResult measured(const ScalingPoint& point, const Rounds& rounds) {
  ScalingResult result;
  result.axis = point.axis;
  result.value = point.value;
  result.estimated_bytes = estimate_memory(model_config(point.job), point.job.config, resident_memory()).total();
  if (result.estimated_bytes > available_memory()) {
    result.skipped = "needs about " + gigabytes(result.estimated_bytes) + " of memory, " + gigabytes(available_memory()) + " are available";
    return result;
  }
  const std::vector<MethodJob> methods{{point.axis, point.job}};
  const Outcome outcome = std::move(take_turns(methods, rounds, {}, {}).front());
  result.step_seconds = spread(outcome.values("total"));
  result.tokens_per_second = static_cast<double>(point.job.tokens_per_step()) / result.step_seconds.median;
  result.peak_bytes = outcome.peak_bytes;
  return result;
}

}  // namespace

std::vector<ScalingPoint> scaling_points(const TrainingJob& job, std::int64_t max_tokens) {
  constexpr std::int64_t kMinTokens = 128;
  const ModelConfig model = model_config(job);
  std::vector<ScalingPoint> points;
  const auto add = [&](const char* axis, std::int64_t value, const ModelConfig& changed) -> TrainingJob& {
    points.push_back({axis, value, job});
    points.back().job.random_weights = changed;
    return points.back().job;
  };
  for (std::int64_t tokens = kMinTokens; tokens <= max_tokens; tokens *= 2) {
    add("tokens", tokens, model).config.data.sequence_length = tokens;
  }
  std::int64_t last_layers = 0;
  for (const double factor : {0.25, 0.5, 1.0, 2.0}) {
    ModelConfig changed = model;
    changed.num_hidden_layers = scaled(model.num_hidden_layers, factor);
    if (std::exchange(last_layers, changed.num_hidden_layers) != changed.num_hidden_layers) {
      add("layers", changed.num_hidden_layers, changed);
    }
  }
  std::int64_t last_width = 0;
  for (const double factor : {0.5, 1.0, 2.0}) {
    const ModelConfig changed = with_width(model, factor);
    if (std::exchange(last_width, changed.hidden_size) != changed.hidden_size) add("hidden", changed.hidden_size, changed);
  }
  return points;
}

std::vector<ScalingResult> bench_scaling(const std::vector<ScalingPoint>& points, const Rounds& rounds, const BenchCallbacks& callbacks) {
  std::vector<ScalingResult> results;
  for (const ScalingPoint& point : points) {
    if (callbacks.progress) callbacks.progress({"bench scaling", results.size(), points.size(), "points"});
    ScalingResult result = measured(point, rounds);
    if (!results.empty() && result.skipped.empty()) compare(result, results.back());
    results.push_back(std::move(result));
  }
  if (callbacks.progress) callbacks.progress({"bench scaling", points.size(), points.size(), "points"});
  return results;
}

nlohmann::ordered_json to_json(const ScalingResult& r) {
  nlohmann::ordered_json json{{"axis", r.axis}, {"value", r.value}, {"estimated_peak_bytes", r.estimated_bytes}};
  if (!r.skipped.empty()) {
    json["skipped"] = r.skipped;
    return json;
  }
  json["step_seconds"] = r.step_seconds.median;
  json["step_seconds_min"] = r.step_seconds.min;
  json["step_seconds_max"] = r.step_seconds.max;
  json["tokens_per_second"] = r.tokens_per_second;
  json["peak_bytes"] = r.peak_bytes;
  if (r.time_exponent) json["time_exponent"] = *r.time_exponent;
  if (r.memory_exponent) json["memory_exponent"] = *r.memory_exponent;
  return json;
}

}  // namespace stableqat::bench
