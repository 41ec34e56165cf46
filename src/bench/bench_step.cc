#include "stableqat/bench/bench_step.h"

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/base/memory.h"
#include "stableqat/bench/isolated.h"
#include "stableqat/bench/rates.h"

namespace stableqat::bench {

namespace {

using Json = nlohmann::json;

// The service of a method's process.
class MethodService {
 public:
  explicit MethodService(const TrainingJob& job) : subject_(job) {}

  Json answer(const Json& request) {
    const auto kind = request.get<std::string>();
    if (kind == "check") {
      const double loss = subject_.check();
      reset_peak_memory();
      return {{"loss", loss}, {"threads", subject_.threads()}};
    }
    if (kind == "step") {
      const StepSeconds s = subject_.step();
      return {{"total", s.total}, {"forward", s.forward}, {"backward", s.backward}, {"update", s.update}};
    }
    if (kind == "parts") {
      const StepParts p = subject_.step_parts();
      return {{"gemm", p.gemm}, {"attention", p.attention}, {"head", p.head}, {"update", p.update}, {"rest", p.rest}};
    }
    if (kind == "pass") {
      const PassCost c = subject_.pass();
      return {{"forward", c.forward_seconds},
              {"backward", c.backward_seconds},
              {"forward_bytes", c.forward_bytes},
              {"backward_bytes", c.backward_bytes}};
    }
    return {{"peak", peak_memory()}};
  }

 private:
  TrainingSubject subject_;
};

struct Candidate {
  const MethodJob& method;
  Isolated process;
  Json first;                // answer to "check"
  std::vector<Json> rounds;  // answers of the timed rounds

  std::vector<double> values(const char* key) const {
    std::vector<double> values;
    for (const Json& round : rounds) values.push_back(round.at(key).get<double>());
    return values;
  }
  double median(const char* key) const { return spread(values(key)).median; }
};

// The same forward pass, so the same loss but for the order of additions inside LibTorch.
void check_losses(const std::vector<Candidate>& candidates) {
  const Candidate* ste = nullptr;
  const Candidate* stableqat = nullptr;
  for (const Candidate& candidate : candidates) {
    if (candidate.method.name == "ste") ste = &candidate;
    if (candidate.method.name == "stableqat") stableqat = &candidate;
  }
  if (ste == nullptr || stableqat == nullptr) return;
  const double a = ste->first.at("loss").get<double>();
  const double b = stableqat->first.at("loss").get<double>();
  if (std::abs(a - b) > 32 * static_cast<double>(std::numeric_limits<float>::epsilon()) * std::abs(a)) {
    throw NumericError({"first loss of stableqat", std::to_string(b), std::to_string(a) + ", that of ste, whose forward pass it shares",
                        "report it with the command line"});
  }
}

// Counts the steps of all methods for the progress line.
class Counter {
 public:
  Counter(std::string_view stage, std::size_t total, const ProgressCallback& progress)
      : stage_(stage), total_(total), progress_(progress) {}

  void done() {
    ++done_;
    if (progress_) progress_({stage_, done_, total_, "steps"});
  }

 private:
  std::string_view stage_;
  std::uint64_t done_ = 0;
  std::uint64_t total_;
  const ProgressCallback& progress_;
};

std::vector<Candidate> start(const std::vector<MethodJob>& methods, Counter& counter) {
  std::vector<Candidate> candidates;
  for (const MethodJob& method : methods) {
    Isolated process([&job = method.job] {
      auto service = std::make_shared<MethodService>(job);
      return [service](const Json& request) { return service->answer(request); };
    });
    candidates.push_back({method, std::move(process), {}, {}});
  }
  for (Candidate& candidate : candidates) {
    candidate.first = candidate.process.ask("check");
    counter.done();
  }
  check_losses(candidates);
  return candidates;
}

// Rounds of one `request` to each; `between` runs after each round.
void take_turns(
    std::vector<Candidate>& candidates, const char* request, const Rounds& rounds, Counter& counter,
    const std::function<void()>& between = [] {}) {
  for (int round = 0; round < rounds.warmup + rounds.repeats; ++round) {
    for (Candidate& candidate : candidates) {
      Json answer = candidate.process.ask(request);
      if (round >= rounds.warmup) candidate.rounds.push_back(std::move(answer));
      counter.done();
    }
    between();
  }
}

std::size_t steps_in(const std::vector<MethodJob>& methods, const Rounds& rounds, int others) {
  return methods.size() * static_cast<std::size_t>(rounds.warmup + rounds.repeats + others);
}

Isolated gemm_process(const TrainingJob& job) {
  return Isolated([&job] {
    use_threads(job.config);
    auto reference = std::make_shared<GemmReference>(model_config(job), job.tokens_per_micro_batch());
    return [reference](const Json&) -> Json { return reference->flops_per_second(); };
  });
}

StepResult step_result(const Candidate& candidate, const Candidate& first, double gemm_rate, const Json& parts, std::uint64_t peak) {
  const TrainConfig& config = candidate.method.job.config;
  StepResult result;
  result.method = candidate.method.name;
  result.step_seconds = spread(candidate.values("total"));
  result.step_ratio = median_ratio(candidate.values("total"), first.values("total"));
  result.tokens_per_second = static_cast<double>(candidate.method.job.tokens_per_step()) / result.step_seconds.median;
  result.forward_seconds = candidate.median("forward");
  result.backward_seconds = candidate.median("backward");
  result.update_seconds = candidate.median("update");
  result.parts = {parts.at("gemm"), parts.at("attention"), parts.at("head"), parts.at("update"), parts.at("rest")};
  result.peak_bytes = peak;
  result.loss = candidate.first.at("loss");
  result.threads = candidate.first.at("threads");
  result.gemm_flops_per_second = gemm_rate;
  const TrainingFlops flops =
      training_flops(model_config(candidate.method.job), config.train.micro_batch_size, config.data.sequence_length);
  result.model_flops_per_step = flops.weights * static_cast<double>(config.train.gradient_accumulation_steps);
  result.model_flops_share = result.model_flops_per_step / result.step_seconds.median / gemm_rate;
  return result;
}

}  // namespace

std::vector<StepResult> bench_step(const std::vector<MethodJob>& methods, const Rounds& rounds, const BenchCallbacks& callbacks) {
  Counter counter("bench step", steps_in(methods, rounds, 2), callbacks.progress);
  std::vector<Candidate> candidates = start(methods, counter);
  Isolated gemm = gemm_process(methods.front().job);
  std::vector<double> gemm_rates;
  gemm.ask({});
  take_turns(candidates, "step", rounds, counter, [&] { gemm_rates.push_back(gemm.ask({}).get<double>()); });
  const double gemm_rate = spread(gemm_rates).median;
  std::vector<StepResult> results;
  for (Candidate& candidate : candidates) {
    const Json parts = candidate.process.ask("parts");
    const auto peak = candidate.process.ask("memory").at("peak").get<std::uint64_t>();
    results.push_back(step_result(candidate, candidates.front(), gemm_rate, parts, peak));
    counter.done();
  }
  return results;
}

std::vector<EfficiencyResult> bench_efficiency(const std::vector<MethodJob>& methods, const Rounds& rounds,
                                               const BenchCallbacks& callbacks) {
  Counter counter("bench efficiency", steps_in(methods, rounds, 1), callbacks.progress);
  std::vector<Candidate> candidates = start(methods, counter);
  take_turns(candidates, "pass", rounds, counter);
  std::vector<EfficiencyResult> results;
  for (Candidate& candidate : candidates) {
    EfficiencyResult result;
    result.method = candidate.method.name;
    result.forward_seconds = spread(candidate.values("forward"));
    result.backward_seconds = spread(candidate.values("backward"));
    result.forward_bytes = static_cast<std::int64_t>(candidate.median("forward_bytes"));
    result.backward_bytes = static_cast<std::int64_t>(candidate.median("backward_bytes"));
    result.peak_bytes = candidate.process.ask("memory").at("peak").get<std::uint64_t>();
    results.push_back(std::move(result));
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
          {"gemm_flops_per_second", r.gemm_flops_per_second},
          {"model_flops_per_step", r.model_flops_per_step},
          {"model_flops_share", r.model_flops_share},
          {"first_loss", r.loss},
          {"threads", r.threads}};
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
          {"peak_bytes", r.peak_bytes}};
}

}  // namespace stableqat::bench
