#include "stableqat/train/run_plan.h"

#include <algorithm>
#include <cmath>

#include "stableqat/base/row_range.h"
#include "stableqat/models/parameters.h"
#include "stableqat/models/quantized_model.h"
#include "stableqat/train/settings.h"
#include "train/weight_exchange.h"

namespace stableqat {

namespace {

constexpr std::string_view kWeight = ".weight";

bool is_matrix(const ParameterShape& parameter) {
  return parameter.role == ParameterRole::kProjection || parameter.role == ParameterRole::kHead;
}

// As QuantizedModel decides.
bool is_quantized(const ParameterShape& parameter, const std::optional<QuantizationSettings>& settings) {
  return settings && is_matrix(parameter) && settings->layers.selects(parameter.name.substr(0, parameter.name.size() - kWeight.size()));
}

struct Sizes {
  double quantized = 0;
  double plain = 0;
  double products = 0;  // parameters of matrices that a token is multiplied with
};

Sizes sizes_of(const ModelConfig& model, const std::optional<QuantizationSettings>& settings) {
  Sizes sizes;
  for (const ParameterShape& parameter : parameter_shapes(model)) {
    const auto count = static_cast<double>(parameter.elements());
    (is_quantized(parameter, settings) ? sizes.quantized : sizes.plain) += count;
    const bool is_tied_head = parameter.role == ParameterRole::kEmbedding && model.tie_word_embeddings;
    if (is_matrix(parameter) || is_tied_head) sizes.products += count;
  }
  return sizes;
}

// Forward and backward of one token: two operations for each weight forward, four backward, and attention's products over half of T keys.
double operations_per_token(const ModelConfig& model, const TrainConfig& config, const Sizes& sizes) {
  const auto width = static_cast<double>(model.num_attention_heads * model.head_dim);
  const double attention = 2.0 * static_cast<double>(model.num_hidden_layers * config.data.sequence_length) * width;
  const double forward = 2.0 * sizes.products + attention;
  double passes = 3.0;
  if (config.train.recompute == TrainConfig::Recompute::kBlock) passes += 1.0;
  if (config.distillation.weight > 0) passes += 1.0;  // the teacher's forward
  return passes * forward;
}

// Bytes to all other ranks alike: those of the own machine and of others go over different links at the same time.
double seconds_on_wire(double bytes, const ClusterRates& rates, int ranks) {
  if (ranks == 1) return 0.0;
  const int near = std::min(ranks, rates.ranks_per_machine) - 1;
  const double share = static_cast<double>(near) / (ranks - 1);
  return std::max(share * bytes / rates.link_in_machine, (1.0 - share) * bytes / rates.link_to_machines);
}

}  // namespace

Traffic step_traffic(const ModelConfig& model, const TrainConfig& config, int ranks) {
  Traffic traffic;
  if (ranks == 1) return traffic;
  const auto settings = quantization_settings(config.quantization);
  std::vector<std::string> notices;
  const at::ScalarType master = numeric_types(config, notices).master;
  const auto element = static_cast<std::uint64_t>(at::elementSize(master));
  const std::uint64_t sent_element = config.distributed.reduce == TrainConfig::Reduce::kBf16 ? 2 : element;
  const auto others = static_cast<std::uint64_t>(ranks - 1);
  std::uint64_t alphas = 0;
  for (const ParameterShape& parameter : parameter_shapes(model)) {
    const std::int64_t rows = parameter.sizes[0];
    const std::int64_t columns = parameter.elements() / rows;
    const auto piece = static_cast<std::uint64_t>(rows_per_rank(rows, ranks) * columns);
    traffic.gradients += others * piece * sent_element;
    if (is_quantized(parameter, settings)) {
      traffic.weights += others * packed_piece(settings->spec, rows, columns, master, ranks).bytes();
      alphas += settings->spec.kind == QuantizerKind::kDsq ? 1 : 0;
    } else {
      traffic.weights += others * piece * element;
    }
  }
  // Losses, stops and failed checkpoints (4), norms (3) and gradients of alpha, counts (2).
  traffic.control = others * (9 + alphas) * sizeof(double);
  return traffic;
}

RunPlan plan_run(const ModelConfig& model, const TrainConfig& config, const ClusterRates& rates, int ranks) {
  const auto settings = quantization_settings(config.quantization);
  const Sizes sizes = sizes_of(model, settings);
  RunPlan plan;
  plan.ranks = ranks;
  const std::int64_t per_rank = std::max<std::int64_t>(1, config.train.gradient_accumulation_steps / ranks);
  plan.micro_batches = per_rank * ranks;
  plan.memory = estimate_memory(model, config, 0, ranks);
  plan.traffic = step_traffic(model, config, ranks);

  const auto tokens = static_cast<double>(config.train.micro_batch_size * config.data.sequence_length);
  const double micro_batch = tokens * operations_per_token(model, config, sizes) / rates.operations;
  plan.compute = static_cast<double>(per_rank) * micro_batch;
  // Two passes of 8 and 34 bytes over the own rows (docs/architecture.md), 26 with short moments, and the others' codes unpacked to a byte.
  const double update_bytes = config.train.moments == TrainConfig::Moments::kBfloat16 ? 34.0 : 42.0;
  const double all = sizes.quantized + sizes.plain;
  plan.update = (update_bytes * all / ranks + 2.0 * sizes.quantized * (ranks - 1) / ranks) / rates.memory;
  plan.gradients = seconds_on_wire(static_cast<double>(plan.traffic.gradients), rates, ranks);
  // Backward, two thirds of a micro-batch, hides all but what its last bucket brings.
  const double buckets = std::max(1.0, std::ceil(4.0 * all / static_cast<double>(config.distributed.bucket_mb << 20)));
  plan.gradients_exposed = std::max(plan.gradients - micro_batch * 2.0 / 3.0, plan.gradients / buckets);
  plan.weights = seconds_on_wire(static_cast<double>(plan.traffic.weights), rates, ranks);
  plan.control = 3.0 * rates.latency * std::log2(static_cast<double>(ranks));
  plan.tokens_per_second = static_cast<double>(plan.micro_batches) * tokens / plan.step();
  const double alone = plan.compute + update_bytes * all / rates.memory;
  plan.efficiency = alone / plan.step();
  return plan;
}

}  // namespace stableqat
