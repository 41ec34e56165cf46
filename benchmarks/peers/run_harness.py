#!/usr/bin/env python3
"""Times the LM evaluation harness (its `hf` model, fp32) beside `stableqat eval --tasks` on the same documents, and compares every log-likelihood.

    run_harness.py --program build/release/apps/stableqat/stableqat --model SmolLM2-135M-Instruct.Q4_1.gguf --data-dir data/eval --limit 40

Our program runs before and after the harness, and the harness is compared with the mean of the two, so that a machine that drifts favours nobody.
Times are those of building requests and scoring them; loading the model is not counted on either side. The model is a GGUF file or a Hugging Face folder.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Of each task: the harness's own file, and the documents' file in --data-dir.
TASKS = {
    "arc_easy": ("arc/arc_easy.yaml", "arc_easy_test"),
    "arc_challenge": ("arc/arc_challenge.yaml", "arc_challenge_test"),
    "boolq": ("super_glue/boolq/default.yaml", "boolq_validation"),
    "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag_validation"),
    "openbookqa": ("openbookqa/openbookqa.yaml", "openbookqa_test"),
    "piqa": ("piqa/piqa.yaml", "piqa_validation"),
    "sciq": ("sciq/sciq.yaml", "sciq_test"),
    "winogrande": ("winogrande/default.yaml", "winogrande_xl_validation"),
}


def write_local_task(folder, task, data_dir):
    """A task LOCAL_task that is the harness's own in all but where its documents come from."""
    import lm_eval

    definition, documents = TASKS[task]
    found = sorted(Path(data_dir).glob(f"{documents}.jsonl*"))
    if not found:
        raise SystemExit(f"{data_dir}: no {documents}.jsonl")
    # Few-shot examples are not drawn, but the harness wants every split that a task names.
    splits = "".join(f"    {split}: {found[0].resolve()}\n" for split in ("train", "validation", "test"))
    text = (f"include: {Path(lm_eval.__file__).parent / 'tasks' / definition}\ntask: local_{task}\ndataset_path: json\n"
            f"dataset_name: null\ndataset_kwargs:\n  data_files:\n{splits}")
    (Path(folder) / f"{task}.yaml").write_text(text, encoding="utf-8")


def run_harness(arguments):
    """(seconds, {task: [[log-likelihood of each choice] of each document]})"""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    path = Path(arguments.model).resolve()
    source = {"pretrained_model_name_or_path": str(path)}
    if path.suffix == ".gguf":
        source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(**source), batch_size=arguments.batch_size, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        names = arguments.tasks.split(",")
        for task in names:
            write_local_task(folder, task, arguments.data_dir)
        start = time.perf_counter()
        results = simple_evaluate(lm, tasks=[f"local_{task}" for task in names], task_manager=TaskManager(include_path=folder),
                                  limit=arguments.limit or None, bootstrap_iters=0, log_samples=True)
        seconds = time.perf_counter() - start
    likelihoods = {}
    for task, rows in results["samples"].items():
        in_order = sorted(rows, key=lambda row: row["doc_id"])
        likelihoods[task.removeprefix("local_")] = [[float(answer[0]) for answer in row["filtered_resps"]] for row in in_order]
    return seconds, likelihoods


def run_ours(arguments, folder):
    command = [arguments.program, "eval", "--model", arguments.model, "--tasks", arguments.tasks, "--data-dir", arguments.data_dir,
               "--limit", str(arguments.limit), "--output", folder, "--quiet"]
    if arguments.threads:
        command += ["--threads", str(arguments.threads)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    results = json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))
    likelihoods = {}
    for line in (Path(folder) / "likelihoods.jsonl").read_text(encoding="utf-8").splitlines()[1:]:
        row = json.loads(line)
        likelihoods.setdefault(row["task"], {})[row["doc_id"]] = row["log_likelihoods"]
    return float(results["total_evaluation_time_seconds"]), {task: [rows[i] for i in sorted(rows)] for task, rows in likelihoods.items()}


def largest_deviation(ours, theirs):
    worst = 0.0
    for task, documents in theirs.items():
        for mine, expected in zip(ours[task], documents, strict=True):
            worst = max([worst] + [abs(a - b) / (2e-3 + 1e-4 * abs(b)) for a, b in zip(mine, expected, strict=True)])
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--limit", type=int, default=40, help="documents of each task; 0 = all")
    parser.add_argument("--batch-size", type=int, default=16, help="of the harness")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", help="write the result to this file")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    with tempfile.TemporaryDirectory() as folder:
        before, likelihoods = run_ours(arguments, folder)
        theirs, expected = run_harness(arguments)
        after, _ = run_ours(arguments, folder)
    requests = sum(len(document) for documents in expected.values() for document in documents)
    ours = (before + after) / 2
    deviation = largest_deviation(likelihoods, expected)
    report = {"requests": requests, "stableqat_seconds": [before, after], "harness_seconds": theirs, "ratio": theirs / ours,
              "stableqat_requests_per_second": requests / ours, "harness_requests_per_second": requests / theirs,
              "largest_deviation": deviation}
    print(f"{requests} requests: stableqat {before:.1f} and {after:.1f} s ({requests / ours:.1f}/s), harness {theirs:.1f} s "
          f"({requests / theirs:.1f}/s), {theirs / ours:.2f} times as fast; largest deviation {deviation:.3f} of 2e-3 + 1e-4 |value|")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if deviation <= 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
