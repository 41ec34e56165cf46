#include "stableqat/models/sampler.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "stableqat/base/error.h"

namespace stableqat {

namespace {

// Uniform in [0, 1) from the engine's 64 bits, the same on every standard library.
double uniform(std::mt19937_64& engine) { return static_cast<double>(engine() >> 11) * 0x1.0p-53; }

[[noreturn]] void out_of_range(const char* flag, double value, const char* expected) {
  throw ConfigError({flag, std::to_string(value), expected, ""});
}

void require_finite(double largest_logit) {
  if (!std::isfinite(largest_logit))
    throw NumericError({"logits", std::to_string(largest_logit), "finite numbers", "check the model's weights"});
}

}  // namespace

void SamplingOptions::validate() const {
  if (!(temperature >= 0)) out_of_range("--temperature", temperature, "0 or more");
  if (top_k < 0) out_of_range("--top-k", static_cast<double>(top_k), "0 (all) or more");
  if (!(top_p > 0 && top_p <= 1)) out_of_range("--top-p", top_p, "above 0, at most 1");
  if (!(min_p >= 0 && min_p <= 1)) out_of_range("--min-p", min_p, "0 to 1");
  if (!(repetition_penalty > 0)) out_of_range("--repetition-penalty", repetition_penalty, "above 0; 1 changes nothing");
}

Sampler::Sampler(const SamplingOptions& options) : options_(options), engine_(options.seed) { options_.validate(); }

std::int32_t Sampler::choose(std::span<const float> logits, std::span<const std::int32_t> seen) {
  if (logits.empty()) throw ConfigError({"logits", "none", "one for each token", ""});
  if (options_.temperature == 0 && options_.repetition_penalty == 1) {
    const auto best_logit = std::ranges::max_element(logits);
    require_finite(static_cast<double>(*best_logit));
    return static_cast<std::int32_t>(best_logit - logits.begin());
  }
  candidates_.clear();
  for (std::size_t id = 0; id < logits.size(); ++id)
    candidates_.push_back({static_cast<std::int32_t>(id), static_cast<double>(logits[id])});
  if (options_.repetition_penalty != 1) {
    for (const std::int32_t id : seen) {
      Candidate& candidate = candidates_[static_cast<std::size_t>(id)];
      const double logit = static_cast<double>(logits[static_cast<std::size_t>(id)]);  // the penalty holds once, however often it was there
      candidate.logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
    }
  }
  const auto more_likely = [](const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); };
  const Candidate best = *std::ranges::min_element(candidates_, more_likely);
  require_finite(best.logit);
  if (options_.temperature == 0) return best.id;

  std::size_t kept = candidates_.size();
  if (options_.top_k > 0) kept = std::min(kept, static_cast<std::size_t>(options_.top_k));
  std::ranges::partial_sort(candidates_, candidates_.begin() + static_cast<std::ptrdiff_t>(kept), more_likely);
  candidates_.resize(kept);
  double sum = 0;
  for (Candidate& candidate : candidates_) sum += candidate.logit = std::exp((candidate.logit - best.logit) / options_.temperature);
  double left = 0;  // of the candidates up to here
  std::size_t last = 0;
  while (last < kept && left < options_.top_p * sum && candidates_[last].logit >= options_.min_p) left += candidates_[last++].logit;
  candidates_.resize(last);

  double target = uniform(engine_) * left;
  for (const Candidate& candidate : candidates_) {
    target -= candidate.logit;
    if (target < 0) return candidate.id;
  }
  return candidates_.back().id;  // rounding left a sliver
}

}  // namespace stableqat
