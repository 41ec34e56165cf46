// Settings of one training run: the struct, its YAML file and command-line form, its help and its reference page.
// All four come from one table (src/config/train_config_fields.cc), so they cannot disagree.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "stableqat/config/field.h"

namespace stableqat {

// Every value is meaningful: there is no "unset". Meaning, unit and range of each field: docs/configuration.md, generated from the table.
struct TrainConfig {
  enum class Method { kNone, kSte, kStableqat, kDsq, kSeq };
  enum class ScaleInit { kAbsmax, kMse, kLsq };
  enum class ExportGrid { kNone, kFp16 };
  enum class Scheduler { kCosine, kLinear, kConstant };
  enum class Precision { kAuto, kFloat32, kBfloat16, kFloat16, kFloat64 };
  enum class Compute { kAuto, kFloat, kInt8x2, kInt8x1, kFp8 };
  enum class Device { kCpu, kCuda };
  enum class Recompute { kNone, kSelective, kBlock };
  enum class Moments { kFloat, kBfloat16 };
  enum class StoredScales { kAuto, kUse, kIgnore };
  enum class ReportTo { kNone, kTensorBoard };
  enum class Reduce { kFp32, kBf16 };

  static constexpr std::int64_t kTernaryBits = 0;  // written 1.58; the authors' files say 0
  static constexpr std::int64_t kUnquantizedBits = 16;

  struct Model {
    std::string path;

    bool operator==(const Model&) const = default;
  };

  struct Quantization {
    Method method = Method::kStableqat;
    std::int64_t bits = 4;  // 1, 2, 3, 4, 8, kTernaryBits or kUnquantizedBits
    std::vector<double> amplitude = {
        0.21};                    // one value: amplitude A of the series of `order`; several: the terms' own amplitudes a_0, a_1, ...
    std::int64_t order = 0;       // M; 0 when `amplitude` holds several values
    std::int64_t group_size = 0;  // columns that share a scale; 0 = the whole row
    ScaleInit scale_init = ScaleInit::kMse;
    StoredScales stored_scales = StoredScales::kAuto;
    ExportGrid export_grid = ExportGrid::kFp16;
    std::vector<std::string> layers;  // empty = all linear layers of the decoder blocks
    std::vector<std::string> exclude;

    bool operator==(const Quantization&) const = default;
  };

  struct Data {
    std::string root;  // "" = the current folder
    std::vector<std::string> train;
    std::vector<WeightedPath> mixture;  // in place of `train`
    std::string valid;                  // "" = no evaluation while training
    std::int64_t sequence_length = 2048;
    std::string json_key = "text";
    bool skip_bad_lines = false;
    std::int64_t max_train_tokens = 0;  // 0 = num_train_epochs decides
    bool allow_repeats = false;
    std::int64_t overlap_tokens = 1'000'000'000;  // of the training data, searched for `valid`; 0 = not searched
    std::int64_t shuffle_seed = 42;

    bool operator==(const Data&) const = default;
  };

  struct Train {
    std::string output_dir;
    std::int64_t micro_batch_size = 1;
    std::int64_t gradient_accumulation_steps = 1;
    std::int64_t max_steps = 0;  // 0 = max_train_tokens, then num_train_epochs decides
    double num_train_epochs = 1.0;
    double learning_rate = 1e-4;
    double scale_learning_rate_ratio = 1.0;  // learning rate of the scales / learning_rate; 0 = scales stay at their start values
    Scheduler lr_scheduler = Scheduler::kCosine;
    std::int64_t warmup_steps = 0;
    double warmup_ratio = 0.0;
    double weight_decay = 0.0;
    double adam_beta1 = 0.9;
    double adam_beta2 = 0.999;
    double adam_epsilon = 1e-8;
    Moments moments = Moments::kFloat;
    double max_grad_norm = 1.0;  // 0 = no clipping
    std::int64_t seed = 42;
    Device device = Device::kCpu;
    Precision precision = Precision::kAuto;
    Compute compute = Compute::kAuto;
    Recompute recompute = Recompute::kNone;
    bool cuda_graph = false;
    std::int64_t logging_steps = 10;
    ReportTo report_to = ReportTo::kNone;
    std::string logging_dir;  // "" = output_dir/runs
    bool code_histograms = false;
    bool save_before_training = true;
    std::int64_t save_steps = 500;      // 0 = only at the end
    std::int64_t save_total_limit = 2;  // 0 = keep all
    std::int64_t save_keep_every = 0;   // steps whose multiples stay; 0 = none
    bool save_in_background = true;
    std::int64_t eval_steps = 0;          // 0 = only at the end
    std::int64_t eval_tokens = 0;         // 0 = all of data.valid
    std::vector<std::string> eval_tasks;  // empty = none
    std::string eval_data_dir;
    std::int64_t eval_limit = 100;  // documents of each task; 0 = all
    std::string resume = "auto";    // "auto", "never" or a checkpoint folder
    std::int64_t threads = 0;       // 0 = all cores

    bool operator==(const Train&) const = default;
  };

  struct Distillation {
    double weight = 0.0;  // 0 = off, 1 = no data loss
    double temperature = 1.0;
    std::string teacher;  // "" = the start model in full precision

    bool operator==(const Distillation&) const = default;
  };

  struct Distributed {
    Reduce reduce = Reduce::kFp32;
    std::int64_t bucket_mb = 25;
    double timeout = 600.0;  // seconds

    bool operator==(const Distributed&) const = default;
  };

  Model model;
  Quantization quantization;
  Data data;
  Train train;
  Distillation distillation;
  Distributed distributed;

  bool operator==(const TrainConfig&) const = default;
};

// Reads a YAML file (`path` empty = defaults only), then applies `arguments` (as on the command line: "--train.max_steps", "10" or
// "--train.max_steps=10") over it, and validates the result. Keys of the authors' files that have no meaning here add one line each to
// `notices`. Throws ConfigError (unknown key with the nearest name, wrong type, out of range, given twice, malformed YAML, settings that
// exclude each other) and DataError when the file cannot be read. Opens no other file. Thread-safe.
TrainConfig load_train_config(const std::filesystem::path& path, std::span<const std::string> arguments, std::vector<std::string>& notices);

// Ranges of all fields, required fields, and settings that exclude each other. Throws ConfigError that names the key.
// The amplitude's upper bound belongs to the surrogate, which checks it.
void validate(const TrainConfig& config);

// Every key with its value, as YAML that load_train_config reads back to an equal struct.
std::string to_yaml(const TrainConfig& config);

// All keys as flags with type, default and one sentence; for `stableqat train --help`.
std::string train_config_help();

// The page docs/configuration.md.
std::string train_config_reference();

}  // namespace stableqat
