#!/usr/bin/env python3
"""Exports a tiny model of random weights of each architecture to GGUF and compares it with a stock llama.cpp (PyPI package xllamacpp).

Compared, in full precision: token ids, and the perplexity of a text, which follows rotations, their scaling, biases, norms of heads and the order of
rows; it has to agree within 1e-5, relative. Rounded to 4 bits, the file has to load and give a number.

Needs: pip install -r tools/requirements.txt. Exit code 77 when a package is missing, 1 when a comparison fails.
Usage: compare_architectures.py --program stableqat [--json OUT]
"""

import argparse
import json
import math
import pathlib
import sys
import tempfile

TEXT = "The quick brown fox, 1234567 times!\n\n  def f(x):\treturn x**2  # the end of that, then this and those"
TOKENS = 80  # of the text
TOLERANCE = 1e-5  # a hundred times what float32 arithmetic was seen to do

BASE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 260,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu",
        "torch_dtype": "float32"}
ARCHITECTURES = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "llama with scaled rotations": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    "qwen2": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 32, "attention_bias": False},
}


def byte_symbols():
    """GPT-2's spelling of the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def write_tokenizer(folder):
    symbols = byte_symbols()
    merges = [["t", "h"], ["th", "e"], [symbols[32], "the"]]
    vocab = {symbol: i for i, symbol in enumerate(symbols)} | {"".join(pair): 256 + i for i, pair in enumerate(merges)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
             "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": [" ".join(pair) for pair in merges]}
    end = {"id": 259, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None, "pre_tokenizer": byte_level,
                 "post_processor": None, "decoder": byte_level, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "chat_template": "{{ messages }}"}))


def write_model(folder, changes):
    import numpy
    from safetensors.numpy import save_file

    config = BASE | changes
    random = numpy.random.default_rng(1)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    tensors = {}

    def add(name, *shape, around=0.0):
        tensors[name] = (around + 0.2 * random.standard_normal(shape)).astype(numpy.float32)

    add("model.embed_tokens.weight", config["vocab_size"], hidden)
    add("model.norm.weight", hidden, around=1.0)
    if not config["tie_word_embeddings"]:
        add("lm_head.weight", config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, rows, columns in (("self_attn.q_proj", queries, hidden), ("self_attn.k_proj", keys, hidden), ("self_attn.v_proj", keys, hidden),
                                    ("self_attn.o_proj", hidden, queries), ("mlp.gate_proj", inner, hidden), ("mlp.up_proj", inner, hidden),
                                    ("mlp.down_proj", hidden, inner)):
            add(f"{prefix}{name}.weight", rows, columns)
            if config["model_type"] == "qwen2" and name[10:] in ("q_proj", "k_proj", "v_proj"):
                add(f"{prefix}{name}.bias", rows)
        for name in ("input_layernorm", "post_attention_layernorm"):
            add(f"{prefix}{name}.weight", hidden, around=1.0)
        if config["model_type"] == "qwen3":
            for name in ("q_norm", "k_norm"):
                add(f"{prefix}self_attn.{name}.weight", head, around=1.0)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(folder)


def compare(name, changes, program, root):
    from compare_llama import Llama, compare_tokens, log_probabilities, perplexity, run

    model = root / name.replace(" ", "_")
    write_model(model, changes)
    text = root / "text.txt"
    text.write_text(TEXT)
    row = {"architecture": name}
    for bits in ("", "4"):
        gguf, report, result = (model.with_suffix(f".{bits}{end}") for end in ("gguf", "json", "eval"))
        rounding = ["--bits", bits] if bits else []
        run([program, "export", "--model", str(model), *rounding, "--format", "gguf", "--output", str(gguf), "--json", str(report), "-q"])
        run([program, "eval", "--model", str(gguf), "--ppl", str(text), "--context", str(TOKENS), "--max-tokens", str(TOKENS), "--json", str(result),
             "-q"])
        ours = json.loads(result.read_text())
        llama = Llama(str(gguf), 1)
        row |= {key + bits: value for key, value in compare_tokens(llama, json.loads(report.read_text())).items()}
        theirs = log_probabilities(llama, llama.tokenize(TEXT, special=False)[:TOKENS], TOKENS)
        if len(theirs) != ours["tokens"]:
            raise RuntimeError(f"llama.cpp scored {len(theirs)} tokens, we {ours['tokens']}")
        row[f"ratio{bits}"] = perplexity(theirs) / ours["perplexity"]
    row["ok"] = row["token_ids_agree"] and row["token_ids_agree4"] and abs(row["ratio"] - 1) <= TOLERANCE and math.isfinite(row["ratio4"])
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    try:
        import numpy, safetensors, xllamacpp  # noqa: E401, F401
    except ImportError as error:
        print(f"skipped: {error}")
        sys.exit(77)
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for name, changes in ARCHITECTURES.items():
            rows.append(compare(name, changes, arguments.program, pathlib.Path(root)))
            print(json.dumps(rows[-1]), flush=True)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n")
    sys.exit(0 if all(row["ok"] for row in rows) else 1)


if __name__ == "__main__":
    main()
