#include "stableqat/models/causal_lm.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/max.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <utility>

#include "models/kernel_choice.h"
#include "models/packed_token.h"
#include "stableqat/base/error.h"
#include "stableqat/models/functional.h"
#include "stableqat/models/model_source.h"

namespace stableqat {

namespace {

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

at::Tensor load_parameter(const ModelSource& source, const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) {
  const std::string where = source.path().string() + ", tensor " + name;
  const std::string remedy = "use a complete model whose config.json belongs to it";
  if (!source.has(name)) throw DataError({where, "nothing", "a tensor " + shape_text(shape), remedy});
  const std::vector<std::int64_t> found = source.shape(name);
  if (at::IntArrayRef(found) != shape) throw DataError({where, "shape " + shape_text(found), "shape " + shape_text(shape), remedy});
  at::Tensor tensor = at::empty(shape, at::kFloat);
  source.read(name, std::span<float>(tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())));
  // A sum is finite only if every term is: one pass instead of a mask of the tensor's size.
  if (!at::isfinite(tensor.sum(at::kDouble)).item<bool>()) {
    throw DataError({where, "values that are not finite (NaN or infinity)", "finite weights", "download or convert the model again"});
  }
  return tensor.to(dtype).requires_grad_();
}

// A view of the cache that holds what was there and the new rows.
at::Tensor extend(at::Tensor& stored, const at::Tensor& fresh, std::int64_t length) {
  stored.narrow(1, length, fresh.size(1)).copy_(fresh);
  return stored.narrow(1, 0, length + fresh.size(1));
}

at::Tensor as_tensor(const std::vector<std::int64_t>& values) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.data_ptr<std::int64_t>());
  return tensor;
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, std::int64_t batch, std::int64_t capacity, at::ScalarType dtype) : capacity_(capacity) {
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    keys_.push_back(at::empty({batch, capacity, config.num_key_value_heads, config.head_dim}, dtype));
    values_.push_back(at::empty({batch, capacity, config.num_key_value_heads, config.head_dim}, dtype));
  }
}

CausalLm::CausalLm(const ModelSource& source, at::ScalarType dtype)
    : config_(source.config()), dtype_(dtype), compute_dtype_(dtype), inverse_frequencies_(rope_inverse_frequencies(config_)) {
  layers_.resize(static_cast<std::size_t>(config_.num_hidden_layers));
  const std::int64_t c = config_.hidden_size;
  const std::int64_t f = config_.intermediate_size;
  const std::int64_t q = config_.num_attention_heads * config_.head_dim;
  const std::int64_t kv = config_.num_key_value_heads * config_.head_dim;
  const auto load = [&source, dtype](const std::string& name, at::IntArrayRef shape) { return load_parameter(source, name, shape, dtype); };
  const auto linear_layer = [&load](const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
    Linear layer;
    layer.weight = load(name + ".weight", {out, in});
    if (bias) layer.bias = load(name + ".bias", {out});
    return layer;
  };
  embedding_ = load("model.embed_tokens.weight", {config_.vocab_size, c});
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    DecoderLayer& layer = layers_[i];
    layer.input_norm = load(prefix + "input_layernorm.weight", {c});
    layer.q = linear_layer(prefix + "self_attn.q_proj", q, c, config_.attention_qkv_bias);
    layer.k = linear_layer(prefix + "self_attn.k_proj", kv, c, config_.attention_qkv_bias);
    layer.v = linear_layer(prefix + "self_attn.v_proj", kv, c, config_.attention_qkv_bias);
    layer.o = linear_layer(prefix + "self_attn.o_proj", c, q, config_.attention_output_bias);
    if (config_.qk_norm) {
      layer.q_norm = load(prefix + "self_attn.q_norm.weight", {config_.head_dim});
      layer.k_norm = load(prefix + "self_attn.k_norm.weight", {config_.head_dim});
    }
    layer.post_attention_norm = load(prefix + "post_attention_layernorm.weight", {c});
    layer.gate = linear_layer(prefix + "mlp.gate_proj", f, c, false);
    layer.up = linear_layer(prefix + "mlp.up_proj", f, c, false);
    layer.down = linear_layer(prefix + "mlp.down_proj", c, f, false);
  }
  norm_ = load("model.norm.weight", {c});
  if (!config_.tie_word_embeddings) head_ = linear_layer("lm_head", config_.vocab_size, c, false);
}

void CausalLm::visit_linears(const LinearVisitor& f) {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    DecoderLayer& layer = layers_[i];
    f(prefix + "self_attn.q_proj", layer.q);
    f(prefix + "self_attn.k_proj", layer.k);
    f(prefix + "self_attn.v_proj", layer.v);
    f(prefix + "self_attn.o_proj", layer.o);
    f(prefix + "mlp.gate_proj", layer.gate);
    f(prefix + "mlp.up_proj", layer.up);
    f(prefix + "mlp.down_proj", layer.down);
  }
}

void CausalLm::visit_parameters(const ParameterVisitor& f) {
  f("model.embed_tokens.weight", ParameterRole::kEmbedding, embedding_);
  visit_linears([&f](const std::string& name, Linear& linear) {
    f(name + ".weight", ParameterRole::kProjection, linear.weight);
    if (linear.bias.defined()) f(name + ".bias", ParameterRole::kBias, linear.bias);
  });
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    DecoderLayer& layer = layers_[i];
    f(prefix + "input_layernorm.weight", ParameterRole::kNorm, layer.input_norm);
    f(prefix + "post_attention_layernorm.weight", ParameterRole::kNorm, layer.post_attention_norm);
    if (layer.q_norm.defined()) f(prefix + "self_attn.q_norm.weight", ParameterRole::kNorm, layer.q_norm);
    if (layer.k_norm.defined()) f(prefix + "self_attn.k_norm.weight", ParameterRole::kNorm, layer.k_norm);
  }
  f("model.norm.weight", ParameterRole::kNorm, norm_);
  if (head_.weight.defined()) f("lm_head.weight", ParameterRole::kHead, head_.weight);
}

void CausalLm::move_to(at::Device device) {
  visit_parameters([device](const std::string&, ParameterRole, at::Tensor& value) {
    if (value.device() != device) value = value.detach().to(device).requires_grad_();
  });
  inverse_frequencies_ = inverse_frequencies_.to(device);
  refresh_compute_copies();
}

void CausalLm::set_compute_dtype(at::ScalarType dtype) {
  compute_dtype_ = dtype;
  refresh_compute_copies();
}

void CausalLm::refresh_compute_copies() {
  const auto refresh = [this](const at::Tensor& weight, at::Tensor& compute) {
    if (weight.stride(0) == 0) return;  // has no values: its copy is somebody else's
    if (compute_dtype_ == weight.scalar_type()) {
      compute = at::Tensor();
    } else if (compute.defined() && compute.scalar_type() == compute_dtype_ && compute.device() == weight.device()) {
      compute.copy_(weight.detach());
    } else {
      compute = weight.detach().to(compute_dtype_);
    }
  };
  visit_linears([&refresh](const std::string&, Linear& linear) { refresh(linear.weight, linear.compute); });
  refresh(head(), head_compute_);
}

const at::Tensor& CausalLm::head_compute() const noexcept { return head_compute_.defined() ? head_compute_ : head(); }

at::Tensor CausalLm::embed(const at::Tensor& ids) const { return embedding_lookup(embedding_, ids.to(device())).to(compute_dtype_); }

at::Tensor CausalLm::attention(std::int64_t index, const LayerInput& x, const RopeTable& rope, const AttentionScope& scope) const {
  const DecoderLayer& layer = layers_[static_cast<std::size_t>(index)];
  const std::int64_t batch = x.value.size(0);
  const std::int64_t tokens = x.value.size(1);
  const std::vector<at::Tensor> projected = linear(x, {&layer.q, &layer.k, &layer.v});
  const auto heads = [&](const at::Tensor& y) { return y.view({batch, tokens, -1, config_.head_dim}); };
  at::Tensor q = heads(projected[0]);
  at::Tensor k = heads(projected[1]);
  at::Tensor v = heads(projected[2]);
  if (layer.q_norm.defined()) q = rms_norm(q, layer.q_norm, config_.rms_norm_eps);
  if (layer.k_norm.defined()) k = rms_norm(k, layer.k_norm, config_.rms_norm_eps);
  if (config_.has_rope(index)) {
    q = apply_rope(q, rope);
    k = apply_rope(k, rope);
  }
  if (KvCache* const cache = scope.cache; cache != nullptr) {
    k = extend(cache->keys_[static_cast<std::size_t>(index)], k, cache->length_);
    v = extend(cache->values_[static_cast<std::size_t>(index)], v, cache->length_);
  }
  const at::Tensor mixed = scope.packed != nullptr ? packed_attention(q, k, v, *scope.packed) : causal_attention(q, k, v);
  const at::Tensor joined = mixed.reshape({batch, tokens, -1});
  return linear(recompute_inputs_ ? LayerInput::kept_elsewhere(joined) : joined, layer.o);
}

RopeTable CausalLm::rope(std::int64_t first, std::int64_t tokens) const {
  return rope_table(inverse_frequencies_, first, tokens, dtype_ == at::kDouble ? at::kDouble : at::kFloat);
}

LayerInput CausalLm::normed_input(const NormedSum& x, const at::Tensor& w) const {
  return recompute_inputs_ ? LayerInput::of_rms_norm(x.normed, x.sum, w, config_.rms_norm_eps) : x.normed;
}

CausalLm::Residual CausalLm::block(std::int64_t index, const Residual& x, const RopeTable& rope, const AttentionScope& scope) const {
  const DecoderLayer& layer = layers_[static_cast<std::size_t>(index)];
  const NormedSum before = add_rms_norm(x.sum, x.delta, layer.input_norm, config_.rms_norm_eps);
  const at::Tensor mixed = attention(index, normed_input(before, layer.input_norm), rope, scope);
  const NormedSum between = add_rms_norm(before.sum, mixed, layer.post_attention_norm, config_.rms_norm_eps);
  const std::vector<at::Tensor> gate_up = linear(normed_input(between, layer.post_attention_norm), {&layer.gate, &layer.up});
  const at::Tensor gated = swiglu(gate_up[0], gate_up[1]);
  return {between.sum, linear(recompute_inputs_ ? LayerInput::of_swiglu(gated, gate_up[0], gate_up[1]) : gated, layer.down)};
}

at::Tensor CausalLm::layer(std::int64_t index, const at::Tensor& x, const RopeTable& rope) const {
  const Residual result = block(index, {x, {}}, rope, {});
  return result.sum + result.delta;
}

at::Tensor CausalLm::final_norm(const at::Tensor& x) const { return rms_norm(x, norm_, config_.rms_norm_eps); }

at::Tensor CausalLm::hidden_states(const at::Tensor& ids, KvCache* cache) const {
  if (cache != nullptr && cache->length_ + ids.size(1) > cache->capacity_) {
    throw ConfigError({"key/value cache", std::to_string(cache->length_ + ids.size(1)) + " tokens",
                       "at most " + std::to_string(cache->capacity_), "make the cache as long as prompt and answer together"});
  }
  if (cache != nullptr && ids.numel() == 1 && !at::GradMode::is_enabled() && has_kernels(cache->keys_[0]) &&
      can_decode_packed(config_, layers_)) {
    const at::Tensor hidden =
        decode_packed_token(config_, layers_, norm_, embed(ids), rope(cache->length_, 1), {cache->keys_, cache->values_, cache->length_});
    ++cache->length_;
    return hidden.view({1, 1, -1});
  }
  const at::Tensor hidden = hidden_states(ids, rope(cache == nullptr ? 0 : cache->length_, ids.size(1)), {cache, nullptr});
  if (cache != nullptr) cache->length_ += ids.size(1);
  return hidden;
}

at::Tensor CausalLm::hidden_states(const PackedBatch& batch) const {
  const at::NoGradGuard no_grad;
  const at::Tensor positions = as_tensor(batch.positions());
  const RopeTable all = rope(0, positions.max().item<std::int64_t>() + 1);
  const RopeTable own{all.cos.index_select(0, positions.to(device())), all.sin.index_select(0, positions.to(device()))};
  return hidden_states(as_tensor(batch.ids()).unsqueeze(0), own, {nullptr, &batch}).squeeze(0);
}

at::Tensor CausalLm::hidden_states(const at::Tensor& ids, const RopeTable& rope, const AttentionScope& scope) const {
  Residual x{embed(ids), {}};
  for (std::int64_t i = 0; i < num_layers(); ++i) x = block(i, x, rope, scope);
  return add_rms_norm(x.sum, x.delta, norm_, config_.rms_norm_eps).normed;
}

}  // namespace stableqat
