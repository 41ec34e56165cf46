// Methods of training in processes of their own that take turns.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/bench/bench_step.h"

namespace stableqat::bench {

// What one method's process answered.
struct Outcome {
  const MethodJob* method = nullptr;
  nlohmann::json first;                // to the check: "loss", "threads"
  std::vector<nlohmann::json> rounds;  // of the timed rounds
  nlohmann::json parts;                // of one step more, where asked for
  std::uint64_t peak_bytes = 0;
  std::uint64_t estimated_bytes = 0;
  bool in_turns = true;  // false: memory did not suffice for all methods at once, and each had the machine to itself for all its rounds

  std::vector<double> values(const char* key) const;
  double median(const char* key) const { return spread(values(key)).median; }
};

struct Turns {
  std::string_view stage;         // for progress
  const char* request = "step";   // of each round: "step" or "pass"
  bool with_parts = false;        // ask for parts at the end
  std::function<void()> between;  // runs after each round; may be empty
};

// Checks and runs all methods. Errors as bench_step().
std::vector<Outcome> take_turns(const std::vector<MethodJob>& methods, const Rounds& rounds, const Turns& turns,
                                const BenchCallbacks& callbacks);

}  // namespace stableqat::bench
