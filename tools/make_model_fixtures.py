#!/usr/bin/env python3
"""Makes the small random models in tests/golden/data/models/ and the log-probabilities and gradients that transformers gives for them.

python3 -m pip install torch==2.11.0 transformers==5.23 safetensors gguf==0.19.0 peft==0.21.2
python3 tools/make_model_fixtures.py
"""

import contextlib
import json
import pathlib

import gguf
import numpy
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/data/models"

SHAPE = dict(vocab_size=48, hidden_size=16, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
BATCH, TOKENS = 2, 20
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=500000.0,
    factor=32.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8192,
)


def configs():
    """Each with what sets its family apart. The four frequencies of a head of 8 reach all three cases of llama3's scaling."""
    yield "llama2", LlamaConfig(**SHAPE | dict(num_key_value_heads=4), num_hidden_layers=2, rms_norm_eps=1e-5)
    yield "llama3", LlamaConfig(**SHAPE, num_hidden_layers=2, head_dim=8, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True)
    yield "llama_bias", LlamaConfig(**SHAPE, num_hidden_layers=2, attention_bias=True)
    yield "mistral", MistralConfig(**SHAPE, num_hidden_layers=2, head_dim=8, sliding_window=None)
    yield "qwen2", Qwen2Config(**SHAPE, num_hidden_layers=2, rope_parameters=dict(rope_type="default", rope_theta=1e6), tie_word_embeddings=True)
    yield "qwen3", Qwen3Config(**SHAPE, num_hidden_layers=2, head_dim=8, rope_parameters=dict(rope_type="default", rope_theta=1e6))
    # Layers 3 and 4 of no_rope_layer_interval 2 and 4: one layer in four has no rotation.
    yield "smollm3", SmolLM3Config(**SHAPE, num_hidden_layers=4, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2)


@contextlib.contextmanager
def float64_throughout():
    """transformers casts to float32 in norms and rotations; inside, those casts give float64, so that the numbers are exact to float64."""
    saved = torch.float32, torch.float, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = saved


def randomize(model, seed):
    """Values that bfloat16 holds, so that the file is small and exact."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        center, spread = (1.0, 0.2) if "norm" in name else (0.0, 0.3)
        values = center + spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(values.to(torch.bfloat16))


def evaluate(model, ids):
    log_probs = torch.log_softmax(model(ids).logits[:, :-1], dim=-1).gather(2, ids[:, 1:, None])[..., 0]
    (-log_probs.mean()).backward()
    return log_probs.detach()


def quantize(model, bits, seed):
    """Puts rounded weights in place of those of the blocks' linear layers, as the authors' layer computes them; returns weights and scales."""
    generator = torch.Generator().manual_seed(seed)
    stored = {}
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    for name, module in model.model.layers.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        weight = module.weight.data
        start = weight.abs().amax(dim=1, keepdim=True) / high
        # Trained scales are anywhere; float32, as they are stored (by numpy, whose name for it means what it says in here).
        scale = start * (0.5 + torch.rand(start.shape, generator=generator, dtype=torch.float64))
        scale = torch.from_numpy(scale.numpy().astype(numpy.float32))
        stored[f"model.layers.{name}.weight"] = weight.clone()
        stored[f"model.layers.{name}.weight_clip_val"] = scale
        module.weight.data = scale.double() * torch.clamp(torch.round(weight / scale.double()), low, high)
    return stored


def write_authors_checkpoint(name, bits, with_alpha, seed):
    """What the authors' program leaves: a Hugging Face folder with the scales beside the weights, and its settings in config.json."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(configs())["llama3"]
    with float64_throughout():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation="eager")
        randomize(model, seed)
        ids = torch.randint(0, config.vocab_size, (BATCH, TOKENS), generator=torch.Generator().manual_seed(100 + seed))
        stored = quantize(model, bits, seed)
        log_probs = evaluate(model, ids)
    numbers = {"ids": ids.tolist(), "log_probs": log_probs.tolist(), "loss": -log_probs.mean().item()}
    (folder / "expected.json").write_text(json.dumps(numbers, separators=(",", ":")) + "\n")
    tensors = {key: parameter.data for key, parameter in model.named_parameters()} | stored
    tensors = {key: value if key.endswith("clip_val") else value.to(torch.bfloat16) for key, value in tensors.items()}
    if with_alpha:
        tensors |= {key.replace("weight_clip_val", "alpha_dsq"): torch.tensor([0.2]) for key in stored if key.endswith("clip_val")}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = config.to_dict() | {"architectures": ["LlamaForCausalLM"], "w_bits": bits, "efficient": True}
    settings |= {"sine_soft_q": {"enable": not with_alpha, "amplitude": None if with_alpha else [0.21]}}
    keys = ("chunk_size_feed_forward", "id2label", "label2id", "is_encoder_decoder", "output_attentions", "output_hidden_states", "problem_type", "return_dict")
    (folder / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if k not in keys}, indent=2, default=str) + "\n")


def write_expected(model, ids, log_probs, folder):
    numbers = {"ids": ids.tolist(), "log_probs": log_probs.tolist(), "loss": -log_probs.mean().item()}
    (folder / "expected.json").write_text(json.dumps(numbers, separators=(",", ":")) + "\n")
    gradients = {name: parameter.grad.to(torch.float32) for name, parameter in model.named_parameters()}
    save_file(gradients, folder / "gradients.safetensors")


def adjacent_pairs(rows, heads):
    """llama.cpp rotates neighbours where transformers rotates halves."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def llama3_divisors(scaling, head_dim):
    wavelengths = 2 * numpy.pi * scaling["rope_theta"] ** (numpy.arange(0, head_dim, 2) / head_dim)
    turns = scaling["original_max_position_embeddings"] / wavelengths
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    blend = numpy.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - blend) / factor + blend)).astype(numpy.float32)


def write_gguf(name, model, path, tokens=None):
    config = model.config
    architecture = {"llama3": "llama"}.get(name, name)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    names = gguf.get_tensor_name_map({v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[architecture], config.num_hidden_layers)
    if tokens:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL])
        writer.add_token_merges([" ".join(tokens[256])])
        writer.add_eos_token_id(len(tokens) - 1)
    if name == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(config.rope_parameters, head_dim))
    for key, parameter in model.named_parameters():
        values = parameter.detach().numpy().astype(numpy.float32)
        if architecture in ("llama", "smollm3"):
            if ".q_proj." in key:
                values = adjacent_pairs(values, config.num_attention_heads)
            if ".k_proj." in key:
                values = adjacent_pairs(values, config.num_key_value_heads)
        matrix = values.ndim == 2
        writer.add_tensor(names.get_name(key, (".weight", ".bias")), values.astype(numpy.float16) if matrix else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def byte_tokenizer():
    """The 256 bytes, one merge, and the end of text."""
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["th"]
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, [("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer, tokens + ["<|endoftext|>"]


def write_fine_tuned(seed):
    """A model that LoRA fine-tuned, merged and saved by peft and transformers in float16 and several files; the same as an unquantized GGUF."""
    folder = FOLDER.parent / "fine_tuned"
    tokenizer, tokens = byte_tokenizer()
    config = LlamaConfig(**SHAPE | dict(vocab_size=len(tokens)), num_hidden_layers=2, head_dim=8, rope_parameters=LLAMA3_ROPE, eos_token_id=len(tokens) - 1, bos_token_id=None)
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    randomize(base, seed)
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"))
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().half().save_pretrained(folder / "merged", max_shard_size="20KB")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder / "merged")
    with float64_throughout():
        model = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float64, attn_implementation="eager")
        ids = torch.randint(0, config.vocab_size, (BATCH, TOKENS), generator=torch.Generator().manual_seed(100 + seed))
        log_probs = evaluate(model, ids)
    numbers = {"ids": ids.tolist(), "log_probs": log_probs.tolist(), "loss": -log_probs.mean().item()}
    (folder / "expected.json").write_text(json.dumps(numbers, separators=(",", ":")) + "\n")
    write_gguf("llama3", model, folder / "merged.gguf", tokens)
    for path in (*folder.glob("adapter/README.md"), *folder.glob("*/generation_config.json")):
        path.unlink()
    for path in folder.rglob("*.*"):
        path.chmod(0o644)


def main():
    for seed, (name, config) in enumerate(configs()):
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        with float64_throughout():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation="eager")
            randomize(model, seed)
            ids = torch.randint(0, config.vocab_size, (BATCH, TOKENS), generator=torch.Generator().manual_seed(100 + seed))
            log_probs = evaluate(model, ids)
        write_expected(model, ids, log_probs, folder)
        if name in ("llama3", "qwen2", "qwen3", "smollm3"):
            write_gguf(name, model, folder / "model.gguf")
        model.to(torch.bfloat16).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
    write_authors_checkpoint("authors_lsq_3", 3, False, 20)
    write_authors_checkpoint("authors_dsq_4", 4, True, 21)
    write_fine_tuned(22)
    for path in FOLDER.glob("*/*"):
        path.chmod(0o644)


if __name__ == "__main__":
    main()
