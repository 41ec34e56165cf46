#!/usr/bin/env python3
"""Compares exported models with programs that are not ours: every weight, bit for bit.

The reference is `stableqat export --format hf --dtype float32`: the dequantized weights. GGUF files are read and dequantized by `gguf`
(Q2_0, which gguf 0.19.0 does not know, from the layout's description), compressed-tensors folders decompressed by `compressed-tensors`,
GPTQ folders by a reader written here from the layout's description.

Needs: pip install -r tools/requirements.txt. Exit code 77 when a package is missing, 1 when a value differs.
Usage: check_export.py --reference FOLDER [--gguf FILE] [--compressed-tensors FOLDER] [--gptq FOLDER] [--rounded-embedding] [--json OUT]
"""

import argparse
import json
import pathlib
import re
import sys

BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MODEL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def huggingface_name(name):
    if name in MODEL_NAMES:
        return MODEL_NAMES[name]
    block, part, kind = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name).groups()
    return f"model.layers.{block}.{BLOCK_NAMES[part]}.{kind}"


def halves_from_pairs(rows, heads):
    """llama.cpp's llama rotates adjacent pairs, Hugging Face the halves of a head."""
    head_dim = rows.shape[0] // heads
    pairs = rows.reshape(heads, head_dim // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def add_q2_0():
    """A block of 64 weights: a half-precision step, then 16 bytes of levels, from the lowest bits up; weight = (level - 1) * step."""
    import gguf

    if "Q2_0" in gguf.GGMLQuantizationType.__members__:
        return
    kind = int.__new__(gguf.GGMLQuantizationType, 42)
    kind._name_, kind._value_ = "Q2_0", 42
    gguf.GGMLQuantizationType._member_map_["Q2_0"] = kind
    gguf.GGMLQuantizationType._value2member_map_[42] = kind
    gguf.GGML_QUANT_SIZES[kind] = (64, 18)


def dequantize(tensor):
    import gguf
    import numpy as np

    if tensor.tensor_type.name != "Q2_0":
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    blocks = np.asarray(tensor.data).reshape(-1, 18)
    step = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    levels = (blocks[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    return (levels.reshape(-1, 64).astype(np.float32) - 1) * step


def read_gguf(path, config):
    import gguf

    add_q2_0()
    reader = gguf.GGUFReader(path)
    architecture = reader.get_field("general.architecture").contents()
    weights = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        name = huggingface_name(tensor.name)
        values = dequantize(tensor).reshape([int(n) for n in reversed(tensor.shape)])
        if architecture == "llama" and ".q_proj." in name:
            values = halves_from_pairs(values, config["num_attention_heads"])
        if architecture == "llama" and ".k_proj." in name:
            values = halves_from_pairs(values, config["num_key_value_heads"])
        weights[name] = values
    types = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    return weights, ", ".join(types)


def load(folder):
    from safetensors.torch import load_file

    return load_file(pathlib.Path(folder) / "model.safetensors"), json.loads((pathlib.Path(folder) / "config.json").read_text())


def layers_with(tensors, suffix):
    return [name[: -len(suffix)] for name in tensors if name.endswith(suffix)]


def read_compressed_tensors(folder):
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig

    tensors, config = load(folder)
    scheme = QuantizationConfig.model_validate(config["quantization_config"]).config_groups["group_0"]
    weights = {}
    for layer in layers_with(tensors, ".weight_packed"):
        state = {key: tensors.pop(f"{layer}.{key}") for key in ("weight_packed", "weight_scale", "weight_shape")}
        weights[f"{layer}.weight"] = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
    weights |= tensors
    return {name: values.float().numpy() for name, values in weights.items()}, f"{scheme.weights.num_bits} bits"


def stream_codes(words, bits, count):
    """Codes of a little-endian stream along the first axis: words [W, N] of 32 bits -> [count, N]."""
    import numpy as np

    bit = ((words[:, None, :].astype(np.uint32) >> np.arange(32, dtype=np.uint32)[None, :, None]) & 1).reshape(-1, words.shape[1])
    groups = bit[: count * bits].reshape(count, bits, words.shape[1])
    return (groups << np.arange(bits)[None, :, None]).sum(1).astype(np.int64)


def read_gptq(folder):
    import numpy as np

    tensors, config = load(folder)
    settings = config["quantization_config"]
    bits, offset = settings["bits"], 1 if settings["checkpoint_format"] == "gptq" else 0
    weights = {}
    for layer in layers_with(tensors, ".qweight"):
        part = {key: tensors.pop(f"{layer}.{key}").numpy() for key in ("qweight", "qzeros", "scales", "g_idx")}
        codes = stream_codes(part["qweight"], bits, part["qweight"].shape[0] * 32 // bits)  # [in, out]
        zeros = stream_codes(part["qzeros"].T, bits, codes.shape[1]).T + offset  # [groups, out]
        groups = part["g_idx"]
        values = (codes - zeros[groups]).astype(np.float32) * part["scales"][groups].astype(np.float32)
        weights[f"{layer}.weight"] = np.ascontiguousarray(values.T)
    weights |= {name: values.float().numpy() for name, values in tensors.items()}
    return weights, f"{bits} bits, {settings['checkpoint_format']}"


def compare(title, weights, detail, reference, rounded_embedding):
    """Zeros of either sign are equal. Returns what is found, for a table."""
    import numpy as np

    missing = sorted(set(reference) ^ set(weights))
    if missing:
        sys.exit(f"{title}: tensors in one model only: {', '.join(missing[:5])}")
    row = {"file": pathlib.Path(title).name, "detail": detail, "compared": 0, "differing": 0}
    for name, expected in reference.items():
        found = weights[name]
        if name in TABLES and rounded_embedding:
            error = np.sqrt(((found - expected) ** 2).sum() / (expected**2).sum())
            print(f"{title}: {name} was rounded, relative rms error {error:.2e}")
            row["rounded"] = {name: float(error)}
            continue
        if found.shape != expected.shape:
            sys.exit(f"{title}: {name}: shape {found.shape}, expected {expected.shape}")
        differing = int((found != expected).sum())
        if differing:
            print(f"{title}: {name}: {differing} of {expected.size} values differ")
        row["differing"] += differing
        row["compared"] += expected.size
    path = pathlib.Path(title)
    row["bytes"] = (path if path.is_file() else path / "model.safetensors").stat().st_size
    print(f"{title} ({detail}), {row['bytes']} bytes: {row['differing']} of {row['compared']} weights differ from the reference's")
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", required=True)
    parser.add_argument("--gguf", action="append", default=[])
    parser.add_argument("--compressed-tensors", action="append", default=[])
    parser.add_argument("--gptq", action="append", default=[])
    parser.add_argument("--rounded-embedding", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    try:
        import compressed_tensors  # noqa: F401
        import gguf  # noqa: F401
        import safetensors.torch  # noqa: F401
    except ImportError as error:
        print(f"skipped: {error}")
        sys.exit(77)
    tensors, config = load(arguments.reference)
    reference = {name: values.float().numpy() for name, values in tensors.items()}
    rows = [compare(path, *read_gguf(path, config), reference, arguments.rounded_embedding) for path in arguments.gguf]
    rows += [compare(path, *read_compressed_tensors(path), reference, False) for path in arguments.compressed_tensors]
    rows += [compare(path, *read_gptq(path), reference, False) for path in arguments.gptq]
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n")
    sys.exit(1 if any(row["differing"] for row in rows) else 0)


if __name__ == "__main__":
    main()
