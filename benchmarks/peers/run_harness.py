#!/usr/bin/env python3
"""Times the LM evaluation harness (its `hf` model, fp32) beside `stableqat eval --tasks` on the same documents, and compares every request,
every log-likelihood and the table of results, which the harness makes of our results.json.

    run_harness.py --program build/release/apps/stableqat/stableqat --model SmolLM2-135M-Instruct.Q4_1.gguf --data-dir data/eval --limit 40

Our program runs before and after the harness, and the harness is compared with the mean of the two, so that a machine that drifts favours nobody.
Times are those of building requests and scoring them; loading the model is not counted on either side. The model is a GGUF file or a Hugging Face folder.
With --num-fewshot the documents stand for the examples as well. --tasks may also name wikitext, whose documents are cut from wikitext*test.txt*.
"""

import argparse
import json
import lzma
import os
import re
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
WIKITEXT = ("wikitext/wikitext.yaml", "wikitext_test")


def local_documents(name, data_dir):
    found = sorted(Path(data_dir).glob(f"{name}.jsonl*"))
    if not found:
        raise SystemExit(f"{data_dir}: no {name}.jsonl")
    return found[0].resolve()


def cut_wikitext(data_dir, target):
    """The corpus as JSON lines of articles, which begin at the headings of the first level."""
    source = sorted(Path(data_dir).glob("wikitext*test.txt*"))[0]
    text = (lzma.open(source, "rt", encoding="utf-8") if source.suffix == ".xz" else source.open(encoding="utf-8")).read()
    articles = re.split(r"\n(?= = [^=\n](?:[^\n]*[^=\n])? = \n)", text)
    target.write_text("".join(json.dumps({"page": page}) + "\n" for page in articles if page.strip()), encoding="utf-8")


def make_data_dir(arguments, folder):
    """A folder with the tasks' documents under the names of the split that is scored and of the one that examples come from."""
    folder.mkdir()
    for task in arguments.tasks.split(","):
        if task == "wikitext":
            cut_wikitext(arguments.data_dir, folder / "wikitext_test.jsonl")
            continue
        documents = local_documents(TASKS[task][1], arguments.data_dir)
        suffixes = "".join(documents.suffixes)
        (folder / f"{TASKS[task][1]}{suffixes}").symlink_to(documents)
        (folder / f"{task}_train{suffixes}").symlink_to(documents)


def write_local_task(folder, task, data_dir):
    """A task LOCAL_task that is the harness's own in all but where its documents come from."""
    import lm_eval

    definition, documents = TASKS.get(task, WIKITEXT)
    # The harness wants every split that a task names.
    splits = "".join(f"    {split}: {local_documents(documents, data_dir)}\n" for split in ("train", "validation", "test"))
    text = (f"include: {Path(lm_eval.__file__).parent / 'tasks' / definition}\ntask: local_{task}\ndataset_path: json\n"
            f"dataset_name: null\ndataset_kwargs:\n  data_files:\n{splits}")
    (Path(folder) / f"{task}.yaml").write_text(text, encoding="utf-8")


class Scores:
    """What a program said: log-likelihoods and requests by task and document, and the table of its results."""

    def __init__(self, seconds, results, samples):
        self.seconds = seconds
        self.likelihoods = {}
        self.requests = {}
        for task, rows in samples.items():
            in_order = sorted(rows, key=lambda row: row["doc_id"])
            answers = [[[answer] if isinstance(answer, (str, float)) else answer for answer in row["filtered_resps"]] for row in in_order]
            self.likelihoods[task] = [[float(answer[0]) for answer in document] for document in answers]
            self.requests[task] = [[list(request.values()) if isinstance(request, dict) else list(request) for request in
                                    (row["arguments"].values() if isinstance(row["arguments"], dict) else row["arguments"])] for row in in_order]
        self.table = table_of(results)


def table_of(results):
    """The harness's own table, with blanks as they come."""
    from lm_eval.utils import make_table

    return make_table(results).replace("local_", "")


def cells(table):
    return [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.strip("|-: ")]


def run_harness(arguments, data_dir):
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
    lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(**source), batch_size=arguments.batch_size, device="cpu",
              max_length=arguments.max_length or None)
    with tempfile.TemporaryDirectory() as folder:
        names = arguments.tasks.split(",")
        for task in names:
            write_local_task(folder, task, data_dir)
        start = time.perf_counter()
        results = simple_evaluate(lm, tasks=[f"local_{task}" for task in names], task_manager=TaskManager(include_path=folder),
                                  limit=arguments.limit or None, num_fewshot=arguments.num_fewshot, log_samples=True)
        seconds = time.perf_counter() - start
    return Scores(seconds, results, {task.removeprefix("local_"): rows for task, rows in results["samples"].items()})


def run_ours(arguments, data_dir, folder):
    command = [arguments.program, "eval", "--model", arguments.model, "--tasks", arguments.tasks, "--data-dir", data_dir,
               "--limit", arguments.limit, "--num-fewshot", arguments.num_fewshot, "--output", folder, "--log-samples", "--quiet"]
    if arguments.threads:
        command += ["--threads", arguments.threads]
    if arguments.max_length:
        command += ["--max-length", arguments.max_length]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    samples = {}
    for task in arguments.tasks.split(","):
        lines = (folder / f"samples_{task}.jsonl").read_text(encoding="utf-8").splitlines()
        samples[task] = [json.loads(line) for line in lines]
    return Scores(float(results["total_evaluation_time_seconds"]), results, samples)


def largest_deviation(ours, theirs):
    worst = 0.0
    for task, documents in theirs.items():
        for mine, expected in zip(ours[task], documents, strict=True):
            worst = max([worst] + [abs(a - b) / (2e-3 + 1e-4 * abs(b)) for a, b in zip(mine, expected, strict=True)])
    return worst


def differing_cells(ours, theirs):
    """Rows of the two tables that differ; perplexities are rounded from likelihoods that differ in their last digits."""
    theirs_by_name = {}
    task = ""
    for row in cells(theirs):
        task = row[1] or task
        theirs_by_name[(task, row[5])] = row[2:]
    problems = []
    task = ""
    for row in cells(ours):
        task = row[1] or task
        expected = theirs_by_name.pop((task, row[5]), None)
        same = expected is not None and [cell for i, cell in enumerate(expected) if i != 5] == [cell for i, cell in enumerate(row[2:]) if i != 5]
        if not same or (row[7] != expected[5] and abs(float(row[7]) - float(expected[5])) > 1e-4 * float(row[7])):
            problems.append((row, expected))
    return problems + list(theirs_by_name.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--limit", type=int, default=40, help="documents of each task; 0 = all")
    parser.add_argument("--num-fewshot", type=int, default=0, help="examples, drawn from the documents themselves")
    parser.add_argument("--max-length", type=int, default=0, help="tokens that the model sees at most; 0 = its positions")
    parser.add_argument("--batch-size", type=int, default=16, help="of the harness")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", help="write the result to this file")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        make_data_dir(arguments, data_dir)
        before = run_ours(arguments, data_dir, Path(folder) / "before")
        theirs = run_harness(arguments, data_dir)
        after = run_ours(arguments, data_dir, Path(folder) / "after")
    requests = sum(len(document) for documents in theirs.likelihoods.values() for document in documents)
    seconds = (before.seconds + after.seconds) / 2
    deviation = largest_deviation(before.likelihoods, theirs.likelihoods)
    same_requests = before.requests == theirs.requests
    problems = differing_cells(before.table, theirs.table)
    report = {"requests": requests, "stableqat_seconds": [before.seconds, after.seconds], "harness_seconds": theirs.seconds,
              "ratio": theirs.seconds / seconds, "stableqat_requests_per_second": requests / seconds,
              "harness_requests_per_second": requests / theirs.seconds, "largest_deviation": deviation, "same_requests": same_requests,
              "same_table": not problems}
    print(before.table)
    for row, expected in problems:
        print(f"in the harness's table: {expected}, in ours: {row}")
    print(f"{requests} requests, {'all the same' if same_requests else 'SOME DIFFER'}: stableqat {before.seconds:.1f} and {after.seconds:.1f} s "
          f"({requests / seconds:.1f}/s), harness {theirs.seconds:.1f} s ({requests / theirs.seconds:.1f}/s), {theirs.seconds / seconds:.2f} times "
          f"as fast; largest deviation {deviation:.3f} of 2e-3 + 1e-4 |value|; table {'the same' if not problems else 'DIFFERS'}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if deviation <= 1.0 and same_requests and not problems else 1


if __name__ == "__main__":
    sys.exit(main())
