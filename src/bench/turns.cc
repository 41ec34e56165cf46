#include "bench/turns.h"

#include <cmath>
#include <limits>
#include <memory>
#include <span>
#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/base/memory.h"
#include "stableqat/bench/isolated.h"
#include "stableqat/train/memory_estimate.h"

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
    return peak_memory();
  }

 private:
  TrainingSubject subject_;
};

Isolated method_process(const TrainingJob& job) {
  return Isolated([&job] {
    auto service = std::make_shared<MethodService>(job);
    return [service](const Json& request) { return service->answer(request); };
  });
}

// The same forward pass, so the same loss but for the order of additions inside LibTorch.
void check_losses(const std::vector<Outcome>& outcomes) {
  const auto loss_of = [&outcomes](std::string_view name) {
    for (const Outcome& outcome : outcomes) {
      if (outcome.method->name == name && !outcome.first.is_null()) return outcome.first.at("loss").get<double>();
    }
    return std::numeric_limits<double>::quiet_NaN();
  };
  const double ste = loss_of("ste");
  const double stableqat = loss_of("stableqat");
  if (std::abs(ste - stableqat) > 32 * static_cast<double>(std::numeric_limits<float>::epsilon()) * std::abs(ste)) {
    throw NumericError({"first loss of stableqat", std::to_string(stableqat),
                        std::to_string(ste) + ", that of ste, whose forward pass it shares", "report it with the command line"});
  }
}

class Contest {
 public:
  Contest(const std::vector<MethodJob>& methods, const Rounds& rounds, const Turns& turns, const BenchCallbacks& callbacks)
      : rounds_(rounds), turns_(turns), callbacks_(callbacks) {
    const std::uint64_t base = resident_memory();
    for (const MethodJob& method : methods) {
      Outcome& outcome = outcomes_.emplace_back();
      outcome.method = &method;
      outcome.estimated_bytes = estimate_memory(model_config(method.job), method.job.config, base).total();
    }
    total_ = methods.size() * static_cast<std::size_t>(rounds.warmup + rounds.repeats + (turns.with_parts ? 2 : 1));
  }

  std::vector<Outcome> run() {
    const bool all_fit = required_memory() <= available_memory();
    if (!all_fit && outcomes_.size() > 1 && callbacks_.log) {
      callbacks_.log(LogLevel::kWarning, "all methods together would take " + gigabytes(required_memory()) + " of memory, " +
                                             gigabytes(available_memory()) + " are available: they run one after the other, not in turns");
    }
    if (all_fit) {
      run(outcomes_);
    } else {
      for (Outcome& outcome : outcomes_) {
        outcome.in_turns = false;
        run({&outcome, 1});
      }
    }
    return std::move(outcomes_);
  }

 private:
  std::uint64_t required_memory() const {
    std::uint64_t sum = 0;
    for (const Outcome& outcome : outcomes_) sum += outcome.estimated_bytes;
    return sum;
  }

  static void require_memory(const Outcome& outcome) {
    if (outcome.estimated_bytes <= available_memory()) return;
    throw EnvironmentError({"method " + outcome.method->name, gigabytes(available_memory()) + " of memory available",
                            "about " + gigabytes(outcome.estimated_bytes),
                            "choose a smaller model, batch or sequence, or --train.recompute block"});
  }

  void run(std::span<Outcome> group) {
    std::vector<Isolated> processes;
    for (Outcome& outcome : group) {
      require_memory(outcome);
      processes.push_back(method_process(outcome.method->job));
      outcome.first = ask(processes.back(), "check");
    }
    check_losses(outcomes_);
    for (int round = 0; round < rounds_.warmup + rounds_.repeats; ++round) {
      for (std::size_t i = 0; i < group.size(); ++i) {
        Json answer = ask(processes[i], turns_.request);
        if (round >= rounds_.warmup) group[i].rounds.push_back(std::move(answer));
      }
      if (turns_.between) turns_.between();
    }
    for (std::size_t i = 0; i < group.size(); ++i) {
      if (turns_.with_parts) group[i].parts = ask(processes[i], "parts");
      group[i].peak_bytes = processes[i].ask("memory").get<std::uint64_t>();
    }
  }

  Json ask(Isolated& process, const char* request) {
    Json answer = process.ask(request);
    ++done_;
    if (callbacks_.progress) callbacks_.progress({turns_.stage, done_, total_, "steps"});
    return answer;
  }

  const Rounds& rounds_;
  const Turns& turns_;
  const BenchCallbacks& callbacks_;
  std::vector<Outcome> outcomes_;
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
};

}  // namespace

std::vector<double> Outcome::values(const char* key) const {
  std::vector<double> values;
  for (const Json& round : rounds) values.push_back(round.at(key).get<double>());
  return values;
}

std::vector<Outcome> take_turns(const std::vector<MethodJob>& methods, const Rounds& rounds, const Turns& turns,
                                const BenchCallbacks& callbacks) {
  return Contest(methods, rounds, turns, callbacks).run();
}

}  // namespace stableqat::bench
