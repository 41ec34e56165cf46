// Which layers are quantized: glob patterns over module names.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace stableqat {

// Patterns have fnmatch's meaning: * any text (dots too), ? one character, [a-z] a set. A name is selected when it matches a pattern of
// `include` and none of `exclude`.
struct LayerSelection {
  // All linear layers of the decoder blocks.
  std::vector<std::string> include = {"model.layers.*.self_attn.*_proj", "model.layers.*.mlp.*_proj"};
  std::vector<std::string> exclude;

  // `name` is the module's Hugging Face name without ".weight", such as "model.layers.0.mlp.up_proj". Thread-safe.
  bool selects(const std::string& name) const;
};

}  // namespace stableqat
