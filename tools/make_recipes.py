#!/usr/bin/env python3
"""Writes recipes/MODEL/BITSbit-METHOD.yaml, one for each published run of StableQAT and its baselines.

    python3 tools/make_recipes.py

Settings are those of the authors' train files; figures are those of the paper's tables (arXiv 2601.19320v1).
"""

import pathlib
import textwrap

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "recipes"

# vocabulary, hidden, layers, query heads x size, key/value heads x size, feed-forward, query heads
MODELS = {
    "llama-3.2-1b": ("meta-llama/Llama-3.2-1B", (128256, 2048, 16, 2048, 512, 8192, 32)),
    "llama-3.2-3b": ("meta-llama/Llama-3.2-3B", (128256, 3072, 28, 3072, 1024, 8192, 24)),
    "qwen3-0.6b": ("Qwen/Qwen3-0.6B", (151936, 1024, 28, 2048, 1024, 3072, 16)),
    "qwen3-1.7b": ("Qwen/Qwen3-1.7B", (151936, 2048, 28, 2048, 1024, 6144, 16)),
}

METHODS = {"stableqat": "StableQAT", "ste": "baseline (ParetoQ: straight-through)", "dsq": "DSQ"}

# Average accuracy over eight tasks: full precision, rounded without training, then by method; and what the table says of the run.
PAPER = {
    ("llama-3.2-1b", 4): (60.45, 49.73, {"ste": 60.96, "dsq": 61.07, "stableqat": 61.24}, ""),
    ("llama-3.2-1b", 3): (60.45, 33.81, {"ste": 59.57, "dsq": 57.42, "stableqat": 60.12}, "with learning rate 2e-4"),
    ("llama-3.2-1b", 2): (60.45, None, {"ste": 57.29, "dsq": 56.39, "stableqat": 58.08}, "after 30e9 tokens"),
    ("llama-3.2-3b", 4): (68.46, 62.15, {"ste": 66.81, "dsq": 64.48, "stableqat": 67.15}, ""),
    ("llama-3.2-3b", 3): (68.46, 34.76, {"ste": 66.50, "dsq": 64.52, "stableqat": 66.90}, ""),
    ("llama-3.2-3b", 2): (68.46, 34.02, {"ste": 61.69, "dsq": 63.78, "stableqat": 63.05}, "after 30e9 tokens"),
}

# Dense bf16 peaks of the data sheets, in FLOP/s, and memory in GB.
GPUS = {"A100 80 GB": (312e12, 80), "H100 SXM": (989e12, 80), "H200": (989e12, 141)}
SHARE_OF_PEAK = 0.4
SEQUENCE = 2048
HEAD_CHUNK = 256  # rows of logits at a time
FP32 = 4


def micro_batch(model):
    return 4 if model == "qwen3-0.6b" else 1


def recomputes(model):
    """As the authors' program does above 3e9 parameters."""
    return weights(MODELS[model][1])[1] > 3e9


def memory(model):
    """What the program estimates before a run in float32 (src/train/memory_estimate.cc): all, and the activations among it."""
    shape = MODELS[model][1]
    vocabulary, hidden, layers, queries, keys, feed_forward, heads = shape
    quantized, total = weights(shape)
    scales = layers * (queries + 2 * keys + 2 * feed_forward + 2 * hidden)
    rows = micro_batch(model) * SEQUENCE
    norms = 2 * hidden + (queries + keys if model.startswith("qwen3") else 0)
    block = rows * FP32 * (norms + 2 * queries + 2 * keys + heads + 2 * feed_forward + 2 * hidden + feed_forward)
    activations = (block + layers * rows * hidden * FP32 if recomputes(model) else layers * block) + 3 * rows * hidden * FP32
    head = max(HEAD_CHUNK * vocabulary * FP32 + 3 * rows * hidden * FP32, rows * FP32 * (2 * feed_forward + 4 * hidden))
    state = 4 * FP32 * total + quantized + 5 * FP32 * scales
    return state + activations + head, activations


def weights(shape):
    """Of the quantized layers and of all tensors (the head is the embedding)."""
    vocabulary, hidden, layers, queries, keys, feed_forward, _ = shape
    quantized = layers * (2 * hidden * queries + 2 * hidden * keys + 3 * hidden * feed_forward)
    return quantized, quantized + vocabulary * hidden + (2 * layers + 1) * hidden


def tokens(model, bits):
    return 20e9 if model.startswith("llama") else 30e9 if bits == 2 else 10e9


def expected(model, bits, method):
    if (model, bits) not in PAPER:
        return "Expected: the paper's tables have no such run of this model."
    full, rounded, trained, remark = PAPER[model, bits]
    rounded = "" if rounded is None else f", rounded without training {rounded:.2f}"
    remark = f" ({remark}; this file is what the authors' repository ships)" if remark else ""
    return f"Expected: {trained[method]:.2f} % average accuracy over eight zero-shot tasks{remark}; full precision {full:.2f}{rounded}. The paper's figures."


def cost(model, bits):
    shape = MODELS[model][1]
    _, total = weights(shape)
    _, _, layers, queries, _, _, _ = shape
    peak, activations = memory(model)
    # A pass: two operations a weight and token, and attention's two products over half of the sequence. One forward, two backward.
    passes = 4 if recomputes(model) else 3
    operations = tokens(model, bits) * passes * (2 * total + 2 * layers * queries * SEQUENCE)
    hours = ", ".join(f"{name} {operations / (SHARE_OF_PEAK * peak) / 3600:,.0f}" for name, (peak, _) in GPUS.items())
    fitting = ", ".join(name for name, (_, size) in GPUS.items() if peak < 0.9 * size * 1e9) or "none of these"
    return (
        f"Memory: {peak / 1e9:.0f} GB at the peak, estimated for float32, {activations / 1e9:.1f} of them activations; one GPU holds that: {fitting}.\n"
        f"Time: {operations:.2g} operations. GPU hours at {SHARE_OF_PEAK:.0%} of the peak, computed, not measured: {hours}."
    )


def head(model, bits, method):
    lines = [
        f"{MODELS[model][0]} in {bits} bits, {METHODS[method]}: {tokens(model, bits):.0e} tokens".replace("e+", "e") + f" in sequences of {SEQUENCE}.",
        expected(model, bits, method),
        *cost(model, bits).split("\n"),
        "Data: SlimPajama and FineWeb-Edu in equal parts, tokenized by `stableqat tokenize` to tokens/slimpajama and tokens/fineweb_edu.",
    ]
    return "".join(f"# {part}\n" for line in lines for part in textwrap.wrap(line, 138))


def recipe(model, bits, method):
    path, _ = MODELS[model]
    rate = "2e-4" if model.startswith("qwen") and bits == 3 and method != "dsq" else "1e-4"
    amplitude = "  amplitude: 0.21\n" if method == "stableqat" else ""
    recompute = "  recompute: block\n" if recomputes(model) else ""
    return f"""{head(model, bits, method)}model:
  path: {path}
quantization:
  method: {method}
  bits: {bits}
{amplitude}  scale_init: absmax  # the authors'; mse starts nearer to full precision
data:
  root: tokens
  mixture: [{{path: slimpajama, weight: 0.5}}, {{path: fineweb_edu, weight: 0.5}}]
  sequence_length: {SEQUENCE}
  max_train_tokens: {tokens(model, bits):.0e}
train:
  output_dir: runs/{model}-{bits}bit-{method}
  micro_batch_size: {micro_batch(model)}
  gradient_accumulation_steps: {8 // micro_batch(model)}
  learning_rate: {rate}
  lr_scheduler: cosine
{recompute}  logging_steps: 1
  report_to: tensorboard
  save_steps: 1000
  save_total_limit: 1
""".replace("e+", "e")


def main():
    for model in MODELS:
        (FOLDER / model).mkdir(exist_ok=True)
        for bits in (2, 3, 4):
            for method in METHODS:
                (FOLDER / model / f"{bits}bit-{method}.yaml").write_text(recipe(model, bits, method))


if __name__ == "__main__":
    main()
