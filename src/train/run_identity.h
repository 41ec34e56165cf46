// What all ranks of a run must have in common, compared before the first step.
#pragma once

#include <string>
#include <vector>

#include "stableqat/config/train_config.h"
#include "stableqat/data/token_loader.h"
#include "stableqat/dist/communicator.h"
#include "stableqat/models/quantized_model.h"

namespace stableqat {

// Each throws ConfigError on every rank when a rank differs from rank 0; the message names the configuration key. train.threads may differ.
void require_same_config(Communicator& communicator, const TrainConfig& config);
// By the number of tokens and by blocks of them from all over each stream.
void require_same_data(Communicator& communicator, const std::vector<WeightedStream>& streams);
// By all codes and all values that are not quantized.
void require_same_model(Communicator& communicator, QuantizedModel& model);

}  // namespace stableqat
