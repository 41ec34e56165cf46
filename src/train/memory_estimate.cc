#include "stableqat/train/memory_estimate.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <string_view>

#include "stableqat/base/row_range.h"
#include "stableqat/models/head.h"
#include "stableqat/models/parameters.h"
#include "stableqat/models/quantized_model.h"
#include "stableqat/train/settings.h"
#include "train/gradient_exchange.h"

namespace stableqat {

namespace {

// Activations that the plain forms keep / those that the kernels keep, as observed; bfloat16's norms keep float32 copies.
double plain_form_factor(at::ScalarType compute) {
  if (compute == at::kFloat) return 1.0;
  return compute == at::kDouble ? 1.3 : 1.8;
}

struct Counts {
  std::int64_t linear = 0;     // weights of the blocks' matrices
  std::int64_t quantized = 0;  // those that are quantized
  std::int64_t scales = 0;
  std::int64_t vectors = 0;  // norms and biases
  std::int64_t embedding = 0;
  std::int64_t head = 0;  // when it is not the embedding

  std::int64_t parameters() const { return linear + vectors + embedding + head; }
};

Counts count(const ModelConfig& model, const std::optional<QuantizationSettings>& settings) {
  static constexpr std::string_view kSuffix = ".weight";
  Counts counts;
  const auto add_matrix = [&](const ParameterShape& matrix, std::int64_t& sum) {
    sum += matrix.elements();
    if (!settings || !settings->layers.selects(matrix.name.substr(0, matrix.name.size() - kSuffix.size()))) return;
    counts.quantized += matrix.elements();
    counts.scales += matrix.sizes[0] * (settings->spec.group_size > 0 ? matrix.sizes[1] / settings->spec.group_size : 1);
  };
  for (const ParameterShape& parameter : parameter_shapes(model)) {
    switch (parameter.role) {
      case ParameterRole::kEmbedding:
        counts.embedding += parameter.elements();
        break;
      case ParameterRole::kHead:
        add_matrix(parameter, counts.head);
        break;
      case ParameterRole::kProjection:
        add_matrix(parameter, counts.linear);
        break;
      case ParameterRole::kNorm:
      case ParameterRole::kBias:
        counts.vectors += parameter.elements();
        break;
    }
  }
  return counts;
}

// Bytes that one row (token) of a block keeps from forward to backward: inputs of norms, of products, of attention and of the gate.
// Products of integers keep their input as integers of so many digits of a byte (0: no such products), selective recomputation keeps none
// of them.
double block_bytes_per_row(const ModelConfig& model, double element, int digits, bool keeps_inputs) {
  const auto c = static_cast<double>(model.hidden_size);
  const auto f = static_cast<double>(model.intermediate_size);
  const auto q = static_cast<double>(model.num_attention_heads * model.head_dim);
  const auto kv = static_cast<double>(model.num_key_value_heads * model.head_dim);
  const double norms = 2 * c + (model.qk_norm ? q + kv : 0);
  const double attention = 2 * q + 2 * kv + static_cast<double>(model.num_attention_heads);  // q, out, k, v, log-sums
  const double gate = 2 * f;
  const double products = digits > 0 ? digits * (2 * c + q + f) : element * (2 * c + f);  // attention's out is kept above already
  return element * (norms + attention + gate) + (keeps_inputs ? products : 0);
}

// What buckets of gradients in flight keep: sent and received.
struct ExchangeBytes {
  double blocks = 0;  // while backward is in the blocks
  double edges = 0;   // with the embedding or head, when backward is through
};

ExchangeBytes exchange_bytes(const ModelConfig& model, const TrainConfig& config, double element, int ranks) {
  ExchangeBytes most;
  if (ranks == 1) return most;
  std::multimap<std::int64_t, ParameterShape> by_turn;
  for (const ParameterShape& parameter : parameter_shapes(model))
    by_turn.emplace(turn_in_backward(parameter.name, parameter.role), parameter);
  BucketSizes sizes{config.distributed.bucket_mb << 20, static_cast<std::int64_t>(element) * ranks, {}};
  std::vector<bool> is_edge;
  for (const auto& [turn, parameter] : by_turn) {
    const std::int64_t rows = parameter.sizes[0];
    const std::size_t bucket = sizes.add(rows_per_rank(rows, ranks) * (parameter.elements() / rows));
    is_edge.resize(bucket + 1);
    is_edge[bucket] = is_edge[bucket] || parameter.role == ParameterRole::kEmbedding || parameter.role == ParameterRole::kHead;
  }
  const double sent = config.distributed.reduce == TrainConfig::Reduce::kBf16 ? 2.0 : element;
  for (std::size_t last = 0; last < sizes.pieces.size(); ++last) {
    double window = 0;
    for (std::size_t i = last + 1 - std::min(last + 1, GradientExchange::kMostInFlight); i <= last; ++i) {
      window += static_cast<double>(sizes.pieces[i]) * 2 * sent * (ranks - 1);
    }
    double& kind = is_edge[last] ? most.edges : most.blocks;
    kind = std::max(kind, window);
  }
  return most;
}

std::uint64_t bytes(double value) { return static_cast<std::uint64_t>(value); }

}  // namespace

std::uint64_t MemoryEstimate::total() const {
  std::uint64_t sum = 0;
  for (const Part& part : parts) sum += part.bytes;
  return sum;
}

MemoryEstimate estimate_memory(const ModelConfig& model, const TrainConfig& config, std::uint64_t process, int ranks) {
  const auto settings = quantization_settings(config.quantization);
  std::vector<std::string> notices;
  const NumericTypes types = numeric_types(config, notices);
  const Counts counts = count(model, settings);
  const auto master = static_cast<double>(at::elementSize(types.master));
  const auto element = static_cast<double>(at::elementSize(types.compute));
  const int digits = settings && settings->spec.group_size == 0 ? digits_of(types.products) : 0;
  const bool has_kernels = types.compute == at::kFloat;

  const auto parameters = static_cast<double>(counts.parameters());
  const double scales = static_cast<double>(counts.scales);
  const double copies =
      types.compute == types.master ? 0 : element * static_cast<double>(counts.linear + std::max(counts.head, counts.embedding));
  const double dequantized = types.products == CodeProducts::kOff ? master : 0;
  const double quantized = static_cast<double>(counts.quantized) * (1 + dequantized) + 2 * scales * master;

  const auto rows = static_cast<double>(config.train.micro_batch_size * config.data.sequence_length);
  const auto width = static_cast<double>(model.hidden_size);
  const auto layers = static_cast<double>(model.num_hidden_layers);
  const bool keeps_inputs = config.train.recompute != TrainConfig::Recompute::kSelective;
  const double block = rows * block_bytes_per_row(model, element, digits, keeps_inputs) * plain_form_factor(types.compute);
  const double edges = 3 * rows * width * element;  // embedding, input of the last norm, its output
  const double blocks = config.train.recompute == TrainConfig::Recompute::kBlock ? block + layers * rows * width * element : layers * block;

  // The head's chunk of logits and its gradients come and go before backward takes its own temporaries: the larger of the two counts.
  const double logits =
      std::min(rows, static_cast<double>(kHeadChunkRows)) * static_cast<double>(model.vocab_size) * std::max(element, 4.0);
  const double head = logits * (has_kernels ? 1 : 2) + 3 * rows * width * element;
  const double backward = rows * element * (2 * static_cast<double>(model.intermediate_size) + 4 * width);

  MemoryEstimate estimate;
  const auto add = [&estimate](const char* name, double size) {
    if (size > 0) estimate.parts.push_back({name, bytes(size)});
  };
  add("process", static_cast<double>(process));
  const auto share = 1.0 / ranks;  // of what each rank keeps for its rows only
  const auto masters = static_cast<double>(counts.quantized);
  add("weights", (parameters - masters + share * masters) * master + copies);
  add("quantized weights", quantized);
  add("gradients", (parameters + share * scales) * master);
  const double moment = config.train.moments == TrainConfig::Moments::kBfloat16 ? 2 : master;
  add("moments", 2 * share * (parameters + scales) * moment);
  add("activations", blocks + edges);
  const double edge = std::max(head, backward);
  add("head", edge);
  // Backward gives activations back while it fills buckets: those of one block are gone when its gradients are sent, all when the
  // embedding's are.
  const ExchangeBytes exchange = exchange_bytes(model, config, master, ranks);
  const double left = config.train.recompute == TrainConfig::Recompute::kBlock ? blocks : blocks - block;
  const double in_backward = edges + std::max(blocks + edge, left + backward + exchange.blocks);
  add("exchange", std::max(in_backward, exchange.edges) - (blocks + edges + edge));
  if (config.train.save_in_background) estimate.checkpoint_at_most = bytes(share * (parameters + scales) * (master + 2 * moment));
  if (config.distillation.weight > 0) add("teacher", parameters * master + copies + logits);
  return estimate;
}

std::string gigabytes(std::uint64_t size) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2f GB", static_cast<double>(size) / 1e9);
  return text;
}

std::string describe(const MemoryEstimate& estimate) {
  std::string text = gigabytes(estimate.total());
  const char* separator = ": ";
  for (const MemoryEstimate::Part& part : estimate.parts) {
    text += separator + part.name + " " + gigabytes(part.bytes);
    separator = ", ";
  }
  if (estimate.checkpoint_at_most > 0) {
    text += "; while a checkpoint is written, up to " + gigabytes(estimate.checkpoint_at_most) + " more where the disk is slow";
  }
  return text;
}

std::string describe_peak(std::uint64_t measured, const MemoryEstimate& estimate) {
  const auto total = static_cast<double>(estimate.total());
  char difference[32];
  std::snprintf(difference, sizeof(difference), "%+.0f %%", 100 * (static_cast<double>(measured) / total - 1));
  return "memory, peak: " + gigabytes(measured) + ", " + difference + " of the estimate";
}

}  // namespace stableqat
