#!/usr/bin/env python3
"""Several processes with one thread each beside one process with as many threads, at equal work, and `plan` beside what was measured.

    benchmarks/ranks.py --program build/release/apps/stableqat/stableqat --model MODEL --json ranks.json

Every run trains the same micro-batches for a few steps; its rate is that of the steps after the first. Runs take turns (--rounds). A trace of each
(train --profile) says where a step goes and how much of the gradients' exchange lies under backward. `plan` gets the rates of the run of one process
with one thread (operations, update) and of the weights' exchange of the run of two (link), and has to tell the step times of the others.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def settings(args, output):
    return ["--config", ROOT / "recipes" / "quickstart.yaml", "--model.path", args.model, "--quantization.bits", args.bits, "--data.train",
            ROOT / "data" / "text" / "train.jsonl.xz", "--data.sequence_length", args.seq, "--data.max_train_tokens", 0, "--data.valid", "",
            "--train.micro_batch_size", args.batch, "--train.gradient_accumulation_steps", args.accumulate, "--train.max_steps", args.steps,
            "--train.logging_steps", 1, "--train.save_steps", 0, "--train.output_dir", output, "--train.resume", "never",
            "--train.threads", 0, "--distillation.weight", 0]


def overlap(spans, covers):
    """Seconds of `spans` that lie under one of `covers`."""
    return sum(max(0.0, min(end, other_end) - max(begin, other_begin)) for begin, end in spans for other_begin, other_end in covers)


def read_trace(path, steps):
    spans, opened = {}, {}
    for event in json.loads(path.read_text()):
        if event["ph"] == "X":
            spans.setdefault(event["name"], []).append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "b":
            opened[event["id"]] = event
        elif event["ph"] == "e":
            begin = opened.pop(event["id"])
            spans.setdefault(event["name"], []).append((begin["ts"], event["ts"]))
    seconds = lambda name: sum(end - begin for begin, end in spans.get(name, [])) / 1e6 / steps
    buckets = spans.get("gloo:all_to_all", [])
    result = {name: seconds(name) for name in ("forward", "head", "backward", "update", "weight_exchange", "gradient_exchange", "gradient_sum")}
    total = sum(end - begin for begin, end in buckets)
    result["in_flight"] = total / 1e6 / steps
    result["in_flight_under_backward"] = overlap(buckets, spans.get("backward", [])) / total if total else None
    return result


def train(args, ranks, threads, work):
    output = work / "output"
    shutil.rmtree(output, ignore_errors=True)
    trace = work / "trace.json"
    command = [args.program] + (["launch", "--nproc", ranks, "--", "train"] if ranks > 1 else ["train"])
    command += settings(args, output) + ["--profile", trace, "--profile-steps", args.steps]
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    rates = [line["tokens_per_second"] for line in lines[1:]]
    tokens = args.batch * args.seq * args.accumulate
    memory = [line for line in done.stderr.splitlines() if "memory, peak" in line or "memory, estimated" in line]
    if args.keep_traces:
        shutil.copy(trace, Path(args.keep_traces) / f"{ranks}x{threads}.json")
    return {"ranks": ranks, "threads": threads, "tokens_per_second": statistics.mean(rates), "step_seconds": tokens / statistics.mean(rates),
            "bytes_per_step": lines[-1].get("bytes_sent", 0) / len(lines), "memory": memory, "trace": read_trace(trace, args.steps)}


def plan(args, ranks, operations, memory_rate, link, work):
    path = work / "plan.json"
    subprocess.run(list(map(str, [args.program, "plan", *settings(args, work / "none"), "--gpus", ranks, "--gpus-per-machine", ranks, "--operations",
                                  operations, "--memory-rate", memory_rate, "--link", link, "--json", path])), check=True, stdout=subprocess.DEVNULL)
    return json.loads(path.read_text())["plan"]


def check_plan(args, runs, work):
    """Rates from the smallest runs, then planned beside measured step times."""
    alone, pair = runs[1, 1], runs[2, 1]
    trial = plan(args, 1, 1e9, 1e9, 1e9, work)
    operations = trial["compute_seconds"] * 1e9 / (alone["step_seconds"] - alone["trace"]["update"])
    memory_rate = trial["update_seconds"] * 1e9 / alone["trace"]["update"]
    link = plan(args, 2, 1e9, 1e9, 1e9, work)["weight_bytes_sent"] / pair["trace"]["weight_exchange"]
    rows = []
    cores = len(os.sched_getaffinity(0))
    for (ranks, threads), run in sorted(runs.items()):
        if threads > 1:
            continue
        share = min(1.0, cores / ranks)  # ranks that share a core share its rates
        planned = plan(args, ranks, operations * share, memory_rate * share, link * share, work)
        rows.append({"ranks": ranks, "planned_seconds": planned["step_seconds"], "measured_seconds": run["step_seconds"],
                     "planned_bytes": sum(planned[key] for key in ("gradient_bytes_sent", "weight_bytes_sent", "control_bytes_sent")),
                     "counted_bytes": run["bytes_per_step"]})
    return {"operations": operations, "memory_rate": memory_rate, "link": link, "rows": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--bits", default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--accumulate", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--runs", default="1x2,2x1", help="PROCESSESxTHREADS, ...; 1x1 and 2x1 are what `plan` is held to")
    parser.add_argument("--keep-traces", help="folder")
    parser.add_argument("--json")
    args = parser.parse_args()
    shapes = [tuple(map(int, shape.split("x"))) for shape in args.runs.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        every = [train(args, ranks, threads, work) for _ in range(args.rounds) for ranks, threads in shapes]
        for run in every:
            print(json.dumps(run), flush=True)
        result = {"runs": every}
        mean = {}
        for shape in shapes:
            own = [run for run in every if (run["ranks"], run["threads"]) == shape]
            mean[shape] = dict(own[-1], step_seconds=statistics.mean(run["step_seconds"] for run in own),
                               tokens_per_second=statistics.mean(run["tokens_per_second"] for run in own))
        if (1, 2) in mean and (2, 1) in mean:
            result["two_processes_over_two_threads"] = mean[2, 1]["tokens_per_second"] / mean[1, 2]["tokens_per_second"]
            print("2 processes of 1 thread / 1 process of 2 threads:", round(result["two_processes_over_two_threads"], 3))
        if (1, 1) in mean and (2, 1) in mean:
            result["plan"] = check_plan(args, mean, work)
            print(json.dumps(result["plan"], indent=1))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
