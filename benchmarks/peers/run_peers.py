#!/usr/bin/env python3
"""Times training in PyTorch (Hugging Face transformers, plain quantizers) beside `stableqat bench step`, in the same run.

    run_peers.py --program build/release/apps/stableqat/stableqat --shape smollm2-135m --batch 2 --seq 512 --accumulate 4 --json peers.json

A peer is METHOD.MODE. Modes: `eager`; `quantizer`, where the quantizers' functions are compiled by torch.compile; `model`, where the whole model is.
Every peer runs in a process of its own, one at a time. Before the first and after each of them our program runs, and a peer is compared with the mean
of its two neighbours, so that a machine that drifts favours nobody. All models have random weights and train on random tokens in fp32.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent.parent / "tests" / "golden" / "data" / "quantizers.json"
DEFAULT_PEERS = "none.eager,none.model,ste.eager,ste.quantizer,stableqat.eager,stableqat.quantizer,dsq.eager"

# As in src/bench/shapes.cc.
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192, "rope_theta": 5e5}
SHAPES = {
    "llama-3.2-1b": ("llama", 128256, 2048, 16, 32, 8, 64, 8192, 131072, LLAMA3_ROPE),
    "llama-3.2-3b": ("llama", 128256, 3072, 28, 24, 8, 128, 8192, 131072, LLAMA3_ROPE),
    "qwen3-0.6b": ("qwen3", 151936, 1024, 28, 16, 8, 128, 3072, 40960, {"rope_type": "default", "rope_theta": 1e6}),
    "smollm2-135m": ("llama", 49152, 576, 30, 9, 3, 64, 1536, 8192, {"rope_type": "default", "rope_theta": 1e5}),
    "tiny": ("llama", 512, 64, 2, 4, 2, 16, 192, 8192, {"rope_type": "default", "rope_theta": 1e4}),
}


def make_model(shape):
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

    kind, vocabulary, hidden, layers, heads, kv_heads, head_size, feed_forward, positions, rope = SHAPES[shape]
    config = {"llama": LlamaConfig, "qwen3": Qwen3Config}[kind](
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        head_dim=head_size, intermediate_size=feed_forward, max_position_embeddings=positions, rope_parameters=rope,
        tie_word_embeddings=True, use_cache=False)
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)


def peak_bytes():
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def run_worker(job):
    """One peer, in this process: prints one line of JSON."""
    import torch

    import quantizers

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    method, mode = job["peer"].split(".")
    model = make_model(job["shape"])
    vocabulary = model.config.vocab_size
    if method != "none":
        quantizers.quantize_layers(model.model.layers, method, job["bits"], mode == "quantizer")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True)
    parameters = list(model.parameters())
    run_model = torch.compile(model) if mode == "model" else model
    generator = torch.Generator().manual_seed(42)
    batches = [torch.randint(vocabulary, (job["batch"], job["seq"]), generator=generator) for _ in range(job["accumulate"])]

    def step():
        total = 0.0
        for ids in batches:
            loss = run_model(input_ids=ids, labels=ids).loss / len(batches)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    seconds, losses = [], []
    for i in range(job["warmup"] + job["repeats"]):
        start = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - start)
        print(f"{job['peer']}: step {i + 1} of {job['warmup'] + job['repeats']}, {seconds[-1]:.2f} s", file=sys.stderr)
    if not all(map(lambda loss: loss == loss and abs(loss) < 1e6, losses)):
        raise SystemExit(f"{job['peer']}: losses that are not finite: {losses}")
    timed = seconds[job["warmup"]:]
    median = statistics.median(timed)
    print(json.dumps({"peer": job["peer"], "method": method, "mode": mode,
                      "tokens_per_second": job["batch"] * job["seq"] * job["accumulate"] / median,
                      "step_seconds": median, "step_seconds_min": min(timed), "step_seconds_max": max(timed),
                      "first_step_seconds": seconds[0], "peak_bytes": peak_bytes(), "first_loss": losses[0],
                      "threads": torch.get_num_threads(), "torch": torch.__version__}))


def run_peer(peer, arguments):
    job = {"peer": peer, "shape": arguments.shape, "batch": arguments.batch, "seq": arguments.seq, "accumulate": arguments.accumulate,
           "bits": arguments.bits, "warmup": arguments.warmup, "repeats": arguments.repeats, "threads": arguments.threads}
    environment = dict(os.environ, TOKENIZERS_PARALLELISM="false")
    result = subprocess.run([sys.executable, str(HERE / "run_peers.py"), "--worker", json.dumps(job)], stdout=subprocess.PIPE,
                            env=environment, check=False)
    if result.returncode != 0:
        print(f"{peer}: failed with {result.returncode}, left out", file=sys.stderr)
        return None
    return json.loads(result.stdout.decode().splitlines()[-1])


def run_ours(arguments, path):
    """{method: row of `bench step`}"""
    command = [arguments.program, "bench", "step", "--shape", arguments.shape, "--batch", str(arguments.batch), "--seq", str(arguments.seq),
               "--accumulate", str(arguments.accumulate), "--bits", str(arguments.bits), "--methods", arguments.methods, "--warmup",
               str(arguments.warmup), "--repeats", str(arguments.repeats), "--json", str(path), *arguments.settings]
    if arguments.threads:
        command += ["--train.threads", str(arguments.threads)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return {row["method"]: row for row in json.loads(path.read_text(encoding="utf-8"))}


def mean_rate(runs, method):
    rates = [run[method]["tokens_per_second"] for run in runs if method in run]
    return statistics.fmean(rates) if rates else None


def compare(arguments):
    import quantizers

    print(f"quantizers agree with {quantizers.check(GOLDEN)} golden cases", file=sys.stderr)
    scratch = Path(arguments.json).with_suffix(".ours.json")
    ours, peers = [run_ours(arguments, scratch)], []
    for name in arguments.peers.split(","):
        peer = run_peer(name, arguments)
        ours.append(run_ours(arguments, scratch))
        if peer is None:
            continue
        for method in (peer["method"], "stableqat"):
            rate = mean_rate(ours[-2:], method)
            if rate is not None:
                peer[f"ours_{method}_tokens_per_second"] = rate
                peer[f"ratio_{method}"] = rate / peer["tokens_per_second"]
        peers.append(peer)
    scratch.unlink()
    return {"shape": arguments.shape, "batch": arguments.batch, "sequence_length": arguments.seq, "accumulate": arguments.accumulate,
            "bits": arguments.bits, "settings": arguments.settings, "peers": peers, "ours": ours}


def print_table(result):
    print(f"{'peer':<22}{'tokens/s':>10}{'step s':>9}{'first s':>9}{'peak GB':>9}{'ours, same method':>20}{'ours, stableqat':>18}")
    for peer in result["peers"]:
        same, stableqat = peer.get(f"ratio_{peer['method']}"), peer.get("ratio_stableqat")
        print(f"{peer['peer']:<22}{peer['tokens_per_second']:>10.1f}{peer['step_seconds']:>9.2f}{peer['first_step_seconds']:>9.1f}"
              f"{peer['peak_bytes'] / 1e9:>9.2f}{f'{same:.2f} x' if same else '-':>20}{f'{stableqat:.2f} x' if stableqat else '-':>18}")
    print("\nOurs, mean of all runs:")
    for method in result["ours"][0]:
        rows = [run[method] for run in result["ours"]]
        print(f"{method:<22}{statistics.fmean(r['tokens_per_second'] for r in rows):>10.1f}"
              f"{statistics.fmean(r['step_seconds'] for r in rows):>9.2f}{'':>9}{max(r['peak_bytes'] for r in rows) / 1e9:>9.2f}"
              f"   model FLOP/s {100 * statistics.fmean(r['model_flops_share'] for r in rows):.0f} % of the fp32 GEMM rate")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="What follows `--` is handed to `stableqat bench step`: settings such as --train.compute int8x2.")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--program", default="stableqat", help="the program to compare [stableqat]")
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m", help="shape of the model [smollm2-135m]")
    parser.add_argument("--batch", type=int, default=4, help="sequences per micro-batch [4]")
    parser.add_argument("--seq", type=int, default=128, help="tokens per sequence [128]")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches per step [1]")
    parser.add_argument("--bits", type=int, choices=(2, 3, 4), default=4, help="bits of the weights [4]")
    parser.add_argument("--methods", default="none,ste,stableqat,dsq", help="our methods, as in bench step [none,ste,stableqat,dsq]")
    parser.add_argument("--peers", default=DEFAULT_PEERS, help=f"peers to run [{DEFAULT_PEERS}]")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the timed ones; compilation falls into the first [2]")
    parser.add_argument("--repeats", type=int, default=4, help="timed steps [4]")
    parser.add_argument("--threads", type=int, default=0, help="0 = the default of each program [0]")
    parser.add_argument("--json", default="peers.json", help="where to write the results [peers.json]")
    parser.add_argument("settings", nargs="*", help="settings for our program, after --")
    arguments = parser.parse_args()
    if arguments.worker:
        run_worker(json.loads(arguments.worker))
        return
    result = compare(arguments)
    print_table(result)
    Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
