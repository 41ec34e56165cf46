#!/usr/bin/env python3
"""Trains the same model with each way of computing, for several seeds, and compares where the losses end.

    benchmarks/compute_parity.py --program build/release/apps/stableqat/stableqat --model MODEL --json parity.json

A seed sets the order of the training text. If the choice of arithmetic mattered, the differences between two ways of computing would be larger than
those between seeds. Prints one row per run and a table of means with their standard deviations. Runs that the file of --json has already, made with
the same settings, are not made again.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAST = 20  # steps whose mean loss is taken as the end of training


def run(command):
    print("$", " ".join(map(str, command)), file=sys.stderr, flush=True)
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)


def train(args, compute, seed, folder):
    output = Path(folder) / f"{compute}-{seed}"
    run([args.program, "train", "--config", ROOT / "recipes" / "quickstart.yaml", "--model.path", args.model, "--quantization.bits", args.bits,
         "--data.train", ROOT / "data" / "text" / "train.jsonl.xz", "--data.shuffle_seed", seed, "--data.sequence_length", args.seq,
         "--train.micro_batch_size", args.batch, "--train.max_steps", args.steps, "--train.logging_steps", 1, "--train.save_steps", 0,
         "--train.compute", compute, "--train.learning_rate", args.learning_rate, "--train.output_dir", output, "--train.resume", "never", "--distillation.weight", 0])
    losses = [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    result = output / "perplexity.json"
    run([args.program, "eval", "--model", output / "last_checkpoint", "--ppl", ROOT / "data" / "text" / "valid.jsonl.xz", "--context", args.seq,
         "--max-tokens", args.eval_tokens, "--json", result])
    perplexity = json.loads(result.read_text())["perplexity"]
    shutil.rmtree(output)
    return {"compute": compute, "seed": seed, "first_loss": losses[0], "last_loss": statistics.mean(losses[-LAST:]), "perplexity": perplexity,
            "losses": losses}


def earlier_runs(file, settings):
    if not file or not Path(file).exists():
        return []
    found = json.loads(Path(file).read_text())
    if found["settings"] != settings:
        sys.exit(f"{file} has runs with other settings: {found['settings']}; name another file")
    return found["runs"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--computes", default="float,int8x2", help="values of train.compute [float,int8x2]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rate", default="3e-4")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--eval-tokens", type=int, default=8192)
    parser.add_argument("--json", help="write all runs, with the loss of each step, here")
    args = parser.parse_args()

    settings = {key: getattr(args, key) for key in ("model", "bits", "steps", "learning_rate", "batch", "seq", "eval_tokens")}
    runs = earlier_runs(args.json, settings)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, args.seeds + 1):
            for compute in args.computes.split(","):
                last = next((r for r in runs if (r["compute"], r["seed"]) == (compute, seed)), None)
                if last is None:
                    last = train(args, compute, seed, folder)
                    runs.append(last)
                    if args.json:
                        Path(args.json).write_text(json.dumps({"settings": settings, "runs": runs}) + "\n")
                print(f"{compute:8} seed {seed}  first loss {last['first_loss']:.5f}  last {LAST} steps {last['last_loss']:.4f}  "
                      f"perplexity {last['perplexity']:.2f}", flush=True)

    print(f"\n| compute | loss of the last {LAST} steps | perplexity |\n| --- | --- | --- |")
    for compute in args.computes.split(","):
        row = []
        for key in ("last_loss", "perplexity"):
            values = [r[key] for r in runs if r["compute"] == compute]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            row.append(f"{statistics.mean(values):.4g} +- {spread:.2g}")
        print(f"| {compute} | {row[0]} | {row[1]} |")


if __name__ == "__main__":
    main()
