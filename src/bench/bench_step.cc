#include "stableqat/bench/bench_step.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "bench/turns.h"
#include "stableqat/bench/isolated.h"
#include "stableqat/bench/rates.h"
#include "stableqat/train/settings.h"

namespace stableqat::bench {

namespace {

using Json = nlohmann::json;

constexpr std::int64_t kMaxGemmRows = 4096;  // more are no faster and only take memory

// Measures the GEMM rate in a process of its own, which is started by the first measurement: after the methods' memory was checked.
class GemmRates {
 public:
  explicit GemmRates(const TrainingJob& job) : job_(job) {}

  void measure() {
    if (!process_) {
      process_.emplace([&job = job_] {
        use_threads(job.config);
        const at::Device device = open_device(job.config.train);
        const at::TensorOptions options = device.is_cpu() ? at::TensorOptions(at::kFloat) : at::TensorOptions(at::kBFloat16).device(device);
        auto reference = std::make_shared<GemmReference>(model_config(job), std::min(job.tokens_per_micro_batch(), kMaxGemmRows), options);
        return [reference](const Json&) -> Json { return reference->flops_per_second(); };
      });
      process_->ask({});  // touches the memory
    }
    rates_.push_back(process_->ask({}).get<double>());
  }
  double median() const { return spread(rates_).median; }

 private:
  const TrainingJob& job_;
  std::optional<Isolated> process_;
  std::vector<double> rates_;
};

StepResult step_result(const Outcome& outcome, const Outcome& first, double gemm_rate) {
  const TrainingJob& job = outcome.method->job;
  StepResult result;
  result.method = outcome.method->name;
  result.step_seconds = spread(outcome.values("total"));
  result.step_ratio = median_ratio(outcome.values("total"), first.values("total"));
  result.tokens_per_second = static_cast<double>(job.tokens_per_step()) / result.step_seconds.median;
  result.forward_seconds = outcome.median("forward");
  result.backward_seconds = outcome.median("backward");
  result.update_seconds = outcome.median("update");
  const Json& parts = outcome.parts;
  result.parts = {parts.at("gemm"), parts.at("attention"), parts.at("head"), parts.at("update"), parts.at("rest")};
  result.peak_bytes = outcome.peak_bytes;
  result.estimated_bytes = outcome.estimated_bytes;
  result.in_turns = outcome.in_turns;
  result.loss = outcome.first.at("loss");
  result.threads = outcome.first.at("threads");
  result.gemm_flops_per_second = gemm_rate;
  const TrainingFlops flops = training_flops(model_config(job), job.config.train.micro_batch_size, job.config.data.sequence_length);
  result.model_flops_per_step = flops.weights * static_cast<double>(job.config.train.gradient_accumulation_steps);
  result.model_flops_share = result.model_flops_per_step / result.step_seconds.median / gemm_rate;
  return result;
}

}  // namespace

std::vector<StepResult> bench_step(const std::vector<MethodJob>& methods, const Rounds& rounds, const BenchCallbacks& callbacks) {
  GemmRates gemm(methods.front().job);
  const std::vector<Outcome> outcomes = take_turns(methods, rounds, {"bench step", "step", true, [&gemm] { gemm.measure(); }}, callbacks);
  const double gemm_rate = gemm.median();
  std::vector<StepResult> results;
  for (const Outcome& outcome : outcomes) results.push_back(step_result(outcome, outcomes.front(), gemm_rate));
  return results;
}

std::vector<EfficiencyResult> bench_efficiency(const std::vector<MethodJob>& methods, const Rounds& rounds,
                                               const BenchCallbacks& callbacks) {
  std::vector<EfficiencyResult> results;
  for (const Outcome& outcome : take_turns(methods, rounds, {"bench efficiency", "pass", false, {}}, callbacks)) {
    EfficiencyResult& result = results.emplace_back();
    result.method = outcome.method->name;
    result.forward_seconds = spread(outcome.values("forward"));
    result.backward_seconds = spread(outcome.values("backward"));
    result.forward_bytes = static_cast<std::int64_t>(outcome.median("forward_bytes"));
    result.backward_bytes = static_cast<std::int64_t>(outcome.median("backward_bytes"));
    result.peak_bytes = outcome.peak_bytes;
    result.in_turns = outcome.in_turns;
  }
  return results;
}

nlohmann::ordered_json to_json(const StepResult& r) {
  return {{"method", r.method},
          {"tokens_per_second", r.tokens_per_second},
          {"step_seconds", r.step_seconds.median},
          {"step_seconds_min", r.step_seconds.min},
          {"step_seconds_max", r.step_seconds.max},
          {"step_seconds_deviation", r.step_seconds.deviation},
          {"step_ratio", r.step_ratio},
          {"forward_seconds", r.forward_seconds},
          {"backward_seconds", r.backward_seconds},
          {"update_seconds", r.update_seconds},
          {"part_seconds",
           {{"gemm", r.parts.gemm},
            {"attention", r.parts.attention},
            {"head", r.parts.head},
            {"update", r.parts.update},
            {"rest", r.parts.rest}}},
          {"peak_bytes", r.peak_bytes},
          {"estimated_peak_bytes", r.estimated_bytes},
          {"gemm_flops_per_second", r.gemm_flops_per_second},
          {"model_flops_per_step", r.model_flops_per_step},
          {"model_flops_share", r.model_flops_share},
          {"first_loss", r.loss},
          {"threads", r.threads},
          {"in_turns", r.in_turns}};
}

nlohmann::ordered_json to_json(const EfficiencyResult& r) {
  return {{"method", r.method},
          {"forward_seconds", r.forward_seconds.median},
          {"forward_seconds_mean", r.forward_seconds.mean},
          {"forward_seconds_deviation", r.forward_seconds.deviation},
          {"forward_bytes", r.forward_bytes},
          {"backward_seconds", r.backward_seconds.median},
          {"backward_seconds_mean", r.backward_seconds.mean},
          {"backward_seconds_deviation", r.backward_seconds.deviation},
          {"backward_bytes", r.backward_bytes},
          {"peak_bytes", r.peak_bytes},
          {"in_turns", r.in_turns}};
}

}  // namespace stableqat::bench
