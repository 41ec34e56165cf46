// The rows of TrainConfig.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "stableqat/config/field.h"
#include "stableqat/config/train_config.h"

namespace stableqat {

// Rows bound to `config`, which must outlive them.
std::vector<Field> fields(TrainConfig& config);

// Keys of the authors' files and command line that load_train_config turns into fields of TrainConfig.
struct AuthorsData {
  WeightedPath slimpajama{"", 0.0};
  WeightedPath fineweb_edu{"", 0.0};
  std::string tokenized_name;
  bool truncate = false;
  std::int64_t truncate_length = 0;
};
std::vector<Field> fields(AuthorsData& data);

// Keys of the authors' train files that have no field.
std::span<const ForeignKey> train_foreign_keys();

}  // namespace stableqat
