// The proof that a timed step computes the right thing.
#pragma once

#include <ATen/core/Tensor.h>

#include "stableqat/models/quantized_model.h"
#include "stableqat/train/train_step.h"

namespace stableqat::bench {

// One optimizer step on ids [B, T], the first of its TrainStep, compared with plain forms of the same formulas; see
// TrainingSubject::check(). Returns the loss. Throws NumericError.
double checked_step(QuantizedModel& model, TrainStep& step, const at::Tensor& ids, const TrainStepOptions& options, double learning_rate);

}  // namespace stableqat::bench
