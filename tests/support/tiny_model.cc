#include "tiny_model.h"

#include <array>
#include <list>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "stableqat/base/file.h"
#include "stableqat/io/safetensors.h"

namespace stableqat::testing {

namespace fs = std::filesystem;

namespace {

class Generator {
 public:
  explicit Generator(std::uint64_t seed) : state_(seed) {}

  double uniform() {  // [-1, 1)
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<double>(state_ >> 11) * 0x1.0p-52 - 1.0;
  }

 private:
  std::uint64_t state_;
};

void append_utf8(std::string& text, unsigned code_point) {
  if (code_point < 0x80) {
    text += static_cast<char>(code_point);
  } else {
    text += static_cast<char>(0xC0 | (code_point >> 6));
    text += static_cast<char>(0x80 | (code_point & 0x3F));
  }
}

// GPT-2's spelling of a byte: itself where printable in Latin-1, else the next free code point from 256 on.
std::string byte_symbol(unsigned byte) {
  const auto printable = [](unsigned b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  unsigned code_point = byte;
  if (!printable(byte)) {
    code_point = 256;
    for (unsigned b = 0; b < byte; ++b) code_point += printable(b) ? 0 : 1;
  }
  std::string symbol;
  append_utf8(symbol, code_point);
  return symbol;
}

void write_tokenizer(const fs::path& directory) {
  nlohmann::json vocab = nlohmann::json::object();
  for (unsigned byte = 0; byte < 256; ++byte) vocab[byte_symbol(byte)] = byte;
  vocab["<|endoftext|>"] = 256;
  const nlohmann::json byte_level{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  const nlohmann::json tokenizer{{"version", "1.0"},
                                 {"truncation", nullptr},
                                 {"padding", nullptr},
                                 {"added_tokens",
                                  {{{"id", 256},
                                    {"content", "<|endoftext|>"},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", true}}}},
                                 {"normalizer", nullptr},
                                 {"pre_tokenizer", byte_level},
                                 {"post_processor", nullptr},
                                 {"decoder", byte_level},
                                 {"model",
                                  {{"type", "BPE"},
                                   {"dropout", nullptr},
                                   {"unk_token", nullptr},
                                   {"continuing_subword_prefix", nullptr},
                                   {"end_of_word_suffix", nullptr},
                                   {"fuse_unk", false},
                                   {"byte_fallback", false},
                                   {"ignore_merges", false},
                                   {"vocab", vocab},
                                   {"merges", nlohmann::json::array()}}}};
  write_text_file(directory / "tokenizer.json", tokenizer.dump());
}

}  // namespace

ModelConfig tiny_config() {
  ModelConfig config;
  config.vocab_size = 260;
  config.hidden_size = 64;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 16;
  config.intermediate_size = 128;
  config.max_position_embeddings = 512;
  config.tie_word_embeddings = true;
  return config;
}

void write_tiny_model(const fs::path& directory, const ModelConfig& config, std::uint64_t seed) {
  fs::create_directories(directory);
  write_text_file(directory / "config.json", to_json(config).dump(2));
  write_tokenizer(directory);
  Generator generator(seed);
  SafetensorsWriter writer;
  std::list<std::vector<float>> storage;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape, double center, double spread) {
    std::int64_t count = 1;
    for (std::int64_t size : shape) count *= size;
    std::vector<float>& values = storage.emplace_back(static_cast<std::size_t>(count));
    for (float& value : values) {
      value = static_cast<float>(center + spread * (generator.uniform() + generator.uniform() + generator.uniform()));
    }
    writer.add(name, DType::kF32, std::move(shape), std::as_bytes(std::span<const float>(values)));
  };
  const double spread = 0.08;
  const std::int64_t c = config.hidden_size;
  const std::int64_t q = config.num_attention_heads * config.head_dim;
  const std::int64_t kv = config.num_key_value_heads * config.head_dim;
  add("model.embed_tokens.weight", {config.vocab_size, c}, 0, spread);
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    add(prefix + "input_layernorm.weight", {c}, 1, 0.1);
    add(prefix + "post_attention_layernorm.weight", {c}, 1, 0.1);
    add(prefix + "self_attn.q_proj.weight", {q, c}, 0, spread);
    add(prefix + "self_attn.k_proj.weight", {kv, c}, 0, spread);
    add(prefix + "self_attn.v_proj.weight", {kv, c}, 0, spread);
    add(prefix + "self_attn.o_proj.weight", {c, q}, 0, spread);
    if (config.attention_qkv_bias) {
      add(prefix + "self_attn.q_proj.bias", {q}, 0, spread);
      add(prefix + "self_attn.k_proj.bias", {kv}, 0, spread);
      add(prefix + "self_attn.v_proj.bias", {kv}, 0, spread);
    }
    if (config.attention_output_bias) add(prefix + "self_attn.o_proj.bias", {c}, 0, spread);
    if (config.qk_norm) {
      add(prefix + "self_attn.q_norm.weight", {config.head_dim}, 1, 0.1);
      add(prefix + "self_attn.k_norm.weight", {config.head_dim}, 1, 0.1);
    }
    add(prefix + "mlp.gate_proj.weight", {config.intermediate_size, c}, 0, spread);
    add(prefix + "mlp.up_proj.weight", {config.intermediate_size, c}, 0, spread);
    add(prefix + "mlp.down_proj.weight", {c, config.intermediate_size}, 0, spread);
  }
  add("model.norm.weight", {c}, 1, 0.1);
  if (!config.tie_word_embeddings) add("lm_head.weight", {config.vocab_size, c}, 0, spread);
  writer.write(directory / "model.safetensors");
}

void write_tiny_corpus(const fs::path& file, int documents, std::uint64_t seed) {
  constexpr std::array kWords{"the",    "river", "was",   "wide",  "and",   "slow", "under", "a",
                              "bridge", "of",    "stone", "where", "boats", "went", "by"};
  Generator generator(seed);
  std::string text;
  for (int i = 0; i < documents; ++i) {
    std::string document;
    for (int word = 0; word < 60; ++word) {
      document += kWords[static_cast<std::size_t>((generator.uniform() + 1.0) / 2.0 * kWords.size())];
      document += word % 12 == 11 ? ". " : " ";
    }
    text += nlohmann::json{{"text", document}}.dump() + "\n";
  }
  write_text_file(file, text);
}

}  // namespace stableqat::testing
