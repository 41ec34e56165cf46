#!/usr/bin/env python3
"""Opens a checkpoint of `stableqat train` with transformers, as plain weights, and holds its scales to what the authors' layer expects.

    python3 -m pip install torch transformers
    python3 tools/check_checkpoint.py CHECKPOINT

Exit 0 if no weight is missing, nothing but scales and alphas is left over, and every scale is [out_features, 1] beside its weight.
"""

import pathlib
import sys

from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    folder = pathlib.Path(sys.argv[1])
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="auto")
    AutoTokenizer.from_pretrained(folder)
    extra = set(info["unexpected_keys"])
    scales = {key for key in extra if key.endswith(".weight_clip_val")}
    alphas = {key for key in extra if key.endswith(".alpha_dsq")}
    problems = [f"missing: {key}" for key in info["missing_keys"]] + [f"left over: {key}" for key in extra - scales - alphas]
    linears = {f"{name}.weight_clip_val": module for name, module in model.model.layers.named_modules() if hasattr(module, "out_features")}
    expected = {f"model.layers.{name}": module for name, module in linears.items()}
    problems += [f"no scale: {key}" for key in set(expected) - scales]
    with safe_open(folder / "model.safetensors", "pt") as file:
        for key in scales:
            shape = list(file.get_slice(key).get_shape())
            if key not in expected or shape != [expected[key].out_features, 1]:
                problems.append(f"{key}: shape {shape}")
        problems += [f"{key}: not [1]" for key in alphas if list(file.get_slice(key).get_shape()) != [1]]
    print("\n".join(problems) or f"{type(model).__name__}: all weights there, {len(scales)} scales, {len(alphas)} alphas")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
