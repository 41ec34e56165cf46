// The rows of TrainConfig.
#pragma once

#include <span>
#include <vector>

#include "stableqat/config/field.h"
#include "stableqat/config/train_config.h"

namespace stableqat {

// Rows bound to `config`, which must outlive them.
std::vector<Field> fields(TrainConfig& config);

// Keys of the authors' train files that have no field.
std::span<const ForeignKey> train_foreign_keys();

}  // namespace stableqat
