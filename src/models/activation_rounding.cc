#include "stableqat/models/activation_rounding.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <vector>

#include "models/tensor_views.h"
#include "stableqat/base/error.h"
#include "stableqat/io/ggml_encode.h"
#include "stableqat/models/causal_lm.h"
#include "stableqat/models/model_source.h"

namespace stableqat {

namespace {

constexpr std::int64_t kBlockQ8_0 = 32;
constexpr std::int64_t kBlockQ8_K = 256;

void round_q8_0(std::span<const float> values, std::span<std::byte> blocks, std::span<float> out) {
  encode_floats(GgmlType::kQ8_0, values, blocks);
  dequantize_blocks(GgmlType::kQ8_0, blocks, out);
}

// One block. The first of several values of largest magnitude decides about the sign.
void round_q8_k(std::span<const float> values, std::span<float> out) {
  const float extreme = *std::ranges::max_element(values, {}, [](float value) { return std::fabs(value); });
  if (extreme == 0) return std::fill(out.begin(), out.end(), 0.0F);
  const float inverse = -127.0F / extreme;
  const float scale = 1.0F / inverse;
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = scale * std::min(127.0F, std::nearbyint(inverse * values[i]));
}

void round_row(std::span<const float> row, ActivationRounding rounding, std::vector<std::byte>& scratch, std::span<float> out) {
  if (rounding == ActivationRounding::kQ8_0) {
    scratch.resize(row.size() / kBlockQ8_0 * ggml_block(GgmlType::kQ8_0)->bytes);
    return round_q8_0(row, scratch, out);
  }
  for (std::size_t first = 0; first < row.size(); first += kBlockQ8_K) {
    round_q8_k(row.subspan(first, kBlockQ8_K), out.subspan(first, kBlockQ8_K));
  }
}

void require_blocks(const std::string& where, std::int64_t columns, ActivationRounding rounding) {
  if (columns % activation_block(rounding) == 0) return;
  throw ConfigError({where, "rows of " + std::to_string(columns) + " values",
                     "a multiple of " + std::to_string(activation_block(rounding)) + " for " + activation_rounding_name(rounding), ""});
}

using RoundingOf = std::function<ActivationRounding(const std::string& layer, const at::Tensor& weight)>;

void set_rounding(CausalLm& model, const RoundingOf& rounding_of) {
  if (model.compute_dtype() == at::kBFloat16) {
    throw ConfigError({"activation rounding", "arithmetic in bfloat16", "float32 or float64", "choose another --precision"});
  }
  const auto checked = [&](const std::string& name, const at::Tensor& weight) {
    const ActivationRounding rounding = rounding_of(name, weight);
    require_blocks(name, weight.size(1), rounding);
    return rounding;
  };
  model.visit_linears([&](const std::string& name, Linear& layer) { layer.input_rounding = checked(name, layer.weight); });
  model.set_head_input_rounding(checked("lm_head", model.head()));
}

}  // namespace

ActivationRounding activation_rounding_of(GgmlType type) noexcept {
  switch (type) {
    case GgmlType::kQ4_0:
    case GgmlType::kQ4_1:
    case GgmlType::kQ5_0:
    case GgmlType::kQ5_1:
    case GgmlType::kQ8_0:
    case GgmlType::kQ2_0:
      return ActivationRounding::kQ8_0;
    case GgmlType::kQ2_K:
    case GgmlType::kQ3_K:
    case GgmlType::kQ4_K:
    case GgmlType::kQ5_K:
    case GgmlType::kQ6_K:
    case GgmlType::kTQ1_0:
    case GgmlType::kTQ2_0:
      return ActivationRounding::kQ8_K;
    default:
      return ActivationRounding::kNone;
  }
}

std::int64_t activation_block(ActivationRounding rounding) noexcept {
  return rounding == ActivationRounding::kNone ? 1 : rounding == ActivationRounding::kQ8_0 ? kBlockQ8_0 : kBlockQ8_K;
}

std::string activation_rounding_name(ActivationRounding rounding) {
  return rounding == ActivationRounding::kNone ? "none" : rounding == ActivationRounding::kQ8_0 ? "q8_0" : "q8_k";
}

at::Tensor rounded_activations(const at::Tensor& x, ActivationRounding rounding) {
  if (rounding == ActivationRounding::kNone) return x;
  const at::Tensor rows = rows_of(x.detach()).to(at::kFloat).contiguous();
  const std::int64_t columns = rows.size(1);
  require_blocks("activations", columns, rounding);
  const at::Tensor out = at::empty_like(rows);
  const auto* source = rows.const_data_ptr<float>();
  auto* target = out.mutable_data_ptr<float>();
  const auto width = static_cast<std::size_t>(columns);
  at::parallel_for(0, rows.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::byte> scratch;
    for (std::int64_t row = begin; row < end; ++row) {
      round_row({source + row * columns, width}, rounding, scratch, {target + row * columns, width});
    }
  });
  return out.view(x.sizes()).to(x.scalar_type());
}

void round_activations(CausalLm& model, ActivationRounding rounding) {
  set_rounding(model, [rounding](const std::string&, const at::Tensor& weight) {
    const bool falls_back = rounding == ActivationRounding::kQ8_K && weight.size(1) % kBlockQ8_K != 0;
    return falls_back ? ActivationRounding::kQ8_0 : rounding;
  });
}

void round_activations_like_llama_cpp(CausalLm& model, const ModelSource& source) {
  set_rounding(model, [&source](const std::string& layer, const at::Tensor&) {
    // A tied head has the embedding's blocks.
    const bool tied = layer == "lm_head" && !source.has("lm_head.weight");
    const auto type = source.ggml_type(tied ? "model.embed_tokens.weight" : layer + ".weight");
    if (!type) {
      throw ConfigError({source.path().string(), "a model without ggml's types", "a GGUF file for the rounding llama.cpp chooses by type",
                         "name a GGUF file, or the rounding itself: q8_0 or q8_k"});
    }
    return activation_rounding_of(*type);
  });
}

}  // namespace stableqat
