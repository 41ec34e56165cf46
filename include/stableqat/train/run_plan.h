// What a run over several ranks keeps, sends and takes, told before it starts. Bytes are counted as the run counts them; times follow from
// rates that the caller states, by a simple model (docs/distributed.md).
#pragma once

#include <cstdint>
#include <vector>

#include "stableqat/config/train_config.h"
#include "stableqat/dist/communicator.h"
#include "stableqat/models/model_config.h"
#include "stableqat/train/memory_estimate.h"

namespace stableqat {

// What one rank sends in an optimizer step: exactly what Communicator::traffic() counts. Throws ConfigError (quantization settings).
Traffic step_traffic(const ModelConfig& model, const TrainConfig& config, int ranks);

// Of one rank, in bytes or operations per second.
struct ClusterRates {
  int ranks_per_machine = 8;
  double operations = 400e12;      // that forward and backward reach
  double memory = 2e12;            // reads + writes of the optimizer step
  double link_in_machine = 300e9;  // each way
  double link_to_machines = 25e9;  // each way
  double latency = 20e-6;          // seconds of an exchange, times log2 of the number of ranks
};

struct RunPlan {
  int ranks = 1;
  std::int64_t micro_batches = 1;  // per step, of all ranks: as configured, or one for each rank where that is more
  MemoryEstimate memory;           // of one rank
  Traffic traffic;                 // of one rank and step

  // Seconds of a step. What of the exchange of gradients backward does not hide, and the exchange of weights, add to the others.
  double compute = 0.0;
  double update = 0.0;
  double gradients = 0.0;  // on the wire
  double gradients_exposed = 0.0;
  double weights = 0.0;
  double control = 0.0;
  double step() const { return compute + update + gradients_exposed + weights + control; }

  double tokens_per_second = 0.0;
  double efficiency = 1.0;  // tokens per second and rank / those of one rank with the same micro-batches per rank
};

// Throws ConfigError. Thread-safe.
RunPlan plan_run(const ModelConfig& model, const TrainConfig& config, const ClusterRates& rates, int ranks);

}  // namespace stableqat
