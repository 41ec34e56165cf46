#!/usr/bin/env python3
"""Shows that rounding activations to 8 bits, as llama.cpp does, makes a model chaotic: no two runs of it agree but those with equal bits.

A Hugging Face folder (for instance `stableqat export --format hf --dtype float32`) runs in transformers on one block of text: as it is; with the
inputs of all linear layers rounded to Q8_0; and both again after embeddings were changed by a relative 1e-7. Printed are the differences of the
log-probabilities of the text's tokens between runs, and how far the inputs of each block's attention lie apart.

A rounding turns a difference of d steps (d < 1) into one of a whole step in a share d of the elements: of root mean square sqrt(d), far larger.

Usage: activation_rounding_noise.py --model FOLDER --text FILE [--tokens 256] [--change 1e-7] [--json OUT]
Needs: torch, transformers.
"""

import argparse
import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def rounded_q8_0(x):
    """To 8 bits in blocks of 32, with a scale in half precision."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    codes = torch.round(blocks * torch.where(scale != 0, 1 / scale, 0))
    return (codes * scale.half().to(x.dtype)).reshape(x.shape)


class Runs:
    def __init__(self, folder, ids):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.ids = ids
        self.rounding = False
        self.attention_inputs = []
        for name, layer in self.model.named_modules():
            if isinstance(layer, torch.nn.Linear):
                layer.register_forward_pre_hook(lambda _, inputs, first=name.endswith("q_proj"): self.before_product(inputs, first))

    def before_product(self, inputs, first):
        x = rounded_q8_0(inputs[0]) if self.rounding else inputs[0]
        if first:
            self.attention_inputs.append(x.double())
        return (x, *inputs[1:])

    def __call__(self, rounding, change=0.0):
        """Log-probabilities of all tokens but the first, and each block's input of attention."""
        self.rounding, self.attention_inputs = rounding, []
        embeddings = self.model.get_input_embeddings()(self.ids[None])
        noise = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1))
        logits = self.model(inputs_embeds=embeddings * (1 + change * noise)).logits[0].double()
        targets = self.ids[1:]
        return torch.log_softmax(logits, -1)[torch.arange(len(targets)), targets], self.attention_inputs


def distances(a, b):
    return [float((x - y).norm() / x.norm()) for x, y in zip(a, b)]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--change", type=float, default=1e-7)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    text = pathlib.Path(arguments.text).read_text()
    ids = torch.tensor(AutoTokenizer.from_pretrained(arguments.model)(text, add_special_tokens=False)["input_ids"][: arguments.tokens])
    runs = Runs(arguments.model, ids)
    plain, plain_inputs = runs(False)
    rounded, rounded_inputs = runs(True)
    changed, changed_inputs = runs(True, arguments.change)
    differences = {
        "plain, changed - plain": runs(False, arguments.change)[0] - plain,
        "rounded - plain": rounded - plain,
        "rounded, changed - rounded": changed - rounded,
    }
    result = {"tokens": len(plain), "change": arguments.change,
              "log_probability": {name: {"mean": float(d.mean()), "deviation": float(d.std())} for name, d in differences.items()},
              "attention_inputs": {"rounded, changed - rounded": distances(rounded_inputs, changed_inputs),
                                   "rounded - plain": distances(rounded_inputs, plain_inputs)}}
    print(f"{'log-probabilities, nats':28}{'mean':>10}{'deviation':>11}")
    for name, row in result["log_probability"].items():
        print(f"{name:28}{row['mean']:10.4f}{row['deviation']:11.4f}")
    print("\nrelative distance of each block's input of attention: changed from rounded, rounded from plain")
    for block, (one, other) in enumerate(zip(*result["attention_inputs"].values())):
        print(f"{block:4d}  {one:.1e}  {other:.1e}")
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
