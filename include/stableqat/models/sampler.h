// Choosing the next token from logits. No LibTorch.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace stableqat {

// Applied in this order, as transformers does: repetition penalty, temperature, top-k, top-p, min-p.
struct SamplingOptions {
  double temperature = 0;         // 0 = the most likely token each time; the filters below then play no role
  std::int64_t top_k = 0;         // only the k most likely tokens; 0 = all
  double top_p = 1;               // only the most likely tokens that together have this probability
  double min_p = 0;               // only tokens with at least this share of the most likely one's probability
  double repetition_penalty = 1;  // logits of tokens that were there: divided by it when positive, else multiplied
  std::uint64_t seed = 42;        // same seed and logits, same tokens

  // Throws ConfigError for a value out of range, naming the flag.
  void validate() const;
};

// Not thread-safe.
class Sampler {
 public:
  // Throws ConfigError.
  explicit Sampler(const SamplingOptions& options);

  // logits [V] -> the id. `seen` holds the ids of prompt and answer so far, which the penalty is for. Of equally likely tokens the lowest
  // id goes first. Throws NumericError when the largest logit is not finite, ConfigError for no logits.
  std::int32_t choose(std::span<const float> logits, std::span<const std::int32_t> seen);

 private:
  struct Candidate {
    std::int32_t id;
    double logit;
  };

  SamplingOptions options_;
  std::mt19937_64 engine_;
  std::vector<Candidate> candidates_;
};

}  // namespace stableqat
