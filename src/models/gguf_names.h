// Names of tensors in GGUF files. Source: llama.cpp, gguf-py/gguf/tensor_mapping.py.
#pragma once

#include <string>
#include <string_view>

namespace stableqat {

// The GGUF name of a tensor with a Hugging Face name ("model.layers.0.mlp.up_proj.weight" -> "blk.0.ffn_up.weight"); "" when there is none.
std::string gguf_tensor_name(std::string_view name);

}  // namespace stableqat
