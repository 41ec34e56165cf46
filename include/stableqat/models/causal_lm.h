// Decoder-only language model built from shared blocks: RMSNorm, rotary attention with grouped heads, gated MLP, tied or untied head.
// Llama, Mistral, Qwen2, Qwen3 and SmolLM3 differ in ModelConfig only.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "stableqat/models/functional.h"
#include "stableqat/models/linear.h"
#include "stableqat/models/model_config.h"
#include "stableqat/models/packed_batch.h"
#include "stableqat/models/parameters.h"

namespace stableqat {

class ModelSource;

struct DecoderLayer {
  at::Tensor input_norm;  // [C]
  Linear q, k, v, o;
  at::Tensor q_norm, k_norm;  // [D] or undefined
  at::Tensor post_attention_norm;
  Linear gate, up, down;
};

// Keys and values of the tokens seen so far, for generation. One per sequence batch; grows up to the capacity given.
class KvCache {
 public:
  KvCache(const ModelConfig& config, std::int64_t batch, std::int64_t capacity, at::ScalarType dtype);
  std::int64_t length() const noexcept { return length_; }
  std::int64_t capacity() const noexcept { return capacity_; }

 private:
  friend class CausalLm;
  std::vector<at::Tensor> keys_, values_;  // per layer [B, capacity, K, D]
  std::int64_t length_ = 0;
  std::int64_t capacity_ = 0;
};

// Not thread-safe: backward adds to the parameters' gradients. Const use without gradients from several threads is safe.
class CausalLm {
 public:
  // Reads all parameters as leaves of `dtype` (float32 or float64). Throws DataError for missing tensors, wrong shapes, values not finite.
  CausalLm(const ModelSource& source, at::ScalarType dtype);

  const ModelConfig& config() const noexcept { return config_; }
  at::ScalarType dtype() const noexcept { return dtype_; }
  at::ScalarType compute_dtype() const noexcept { return compute_dtype_; }
  std::int64_t num_layers() const noexcept { return config_.num_hidden_layers; }

  // Calls `f` for every parameter once (a tied head is the embedding), under its Hugging Face name, in a fixed order. The tensor may be
  // replaced.
  using ParameterVisitor = std::function<void(const std::string& name, ParameterRole role, at::Tensor& value)>;
  void visit_parameters(const ParameterVisitor& f);

  // Calls `f` for every linear layer of the decoder blocks, under its Hugging Face name without ".weight", in the order of
  // visit_parameters.
  using LinearVisitor = std::function<void(const std::string& name, Linear& layer)>;
  void visit_linears(const LinearVisitor& f);

  // Moves the parameters to a GPU, where they become other leaves. Those that are there stay.
  void move_to(at::Device device);
  at::Device device() const { return embedding_.device(); }

  // The type of activations and products; weights keep theirs. Call refresh_compute_copies() after weights changed.
  void set_compute_dtype(at::ScalarType dtype);
  void refresh_compute_copies();

  // ids [B, T] int64, on the CPU or where the model is -> [B, T, C]
  at::Tensor embed(const at::Tensor& ids) const;
  // Rotations for positions first..first+T-1, the same for all layers.
  RopeTable rope(std::int64_t first, std::int64_t tokens) const;
  // One decoder block, x [B, T, C] at the positions of `rope` -> [B, T, C].
  at::Tensor layer(std::int64_t index, const at::Tensor& x, const RopeTable& rope) const;
  at::Tensor final_norm(const at::Tensor& x) const;
  // embed, all layers, final norm. With a cache its length grows by T.
  at::Tensor hidden_states(const at::Tensor& ids, KvCache* cache = nullptr) const;
  // The same for packed sequences -> [N, C]. No gradient is recorded.
  at::Tensor hidden_states(const PackedBatch& batch) const;

  // Weight of the output head, [V, C]: the embedding when tied.
  const at::Tensor& head() const noexcept { return head_.weight.defined() ? head_.weight : embedding_; }
  // The head in the compute type.
  const at::Tensor& head_compute() const noexcept;

  // What logits of a few rows are taken from instead, or null.
  const std::shared_ptr<const PackedMatrix>& packed_head() const noexcept { return head_.packed; }
  void set_packed_head(std::shared_ptr<const PackedMatrix> packed) { head_.packed = std::move(packed); }

  // How the head's input is rounded before products without gradient; blocks have their own (Linear::input_rounding).
  ActivationRounding head_input_rounding() const noexcept { return head_.input_rounding; }
  void set_head_input_rounding(ActivationRounding rounding) noexcept { head_.input_rounding = rounding; }

  // Whether the gradients of a float32 head and of its input are taken in bf16 where that is an instruction. Off at first.
  void set_rounded_head_gradients(bool on) noexcept { rounded_head_gradients_ = on; }
  bool rounded_head_gradients() const noexcept { return rounded_head_gradients_; }

  // Whether backward makes the inputs of layers again, from what norms and gates keep, instead of keeping them too. Off at first.
  void set_recompute_inputs(bool on) noexcept { recompute_inputs_ = on; }

 private:
  // What flows from block to block is sum + delta; the next norm adds them (delta undefined: nothing to add).
  struct Residual {
    at::Tensor sum;
    at::Tensor delta;
  };
  // What the queries of a batch see besides its own tokens before them: what `cache` holds, to which the batch adds; or only their own
  // sequence of `packed`.
  struct AttentionScope {
    KvCache* cache = nullptr;
    const PackedBatch* packed = nullptr;
  };
  // The block at the positions of `rope`.
  LayerInput normed_input(const NormedSum& x, const at::Tensor& w) const;
  Residual block(std::int64_t index, const Residual& x, const RopeTable& rope, const AttentionScope& scope) const;
  at::Tensor attention(std::int64_t index, const LayerInput& x, const RopeTable& rope, const AttentionScope& scope) const;
  // embed, all layers, final norm.
  at::Tensor hidden_states(const at::Tensor& ids, const RopeTable& rope, const AttentionScope& scope) const;

  ModelConfig config_;
  at::ScalarType dtype_;
  at::ScalarType compute_dtype_;
  at::Tensor inverse_frequencies_;
  at::Tensor embedding_;
  at::Tensor head_compute_;  // compute copy of a tied head
  std::vector<DecoderLayer> layers_;
  at::Tensor norm_;
  Linear head_;  // undefined weight when tied; packed and input_rounding may be there
  bool rounded_head_gradients_ = false;
  bool recompute_inputs_ = false;
};

}  // namespace stableqat
