#!/usr/bin/env python3
"""Writes tests/golden/data/tasks.json: what the LM evaluation harness makes of texts, templates, samples and windows.

    python3.11 -m venv harness-venv && harness-venv/bin/pip install 'lm_eval[hf]==0.4.13'
    harness-venv/bin/python tools/make_task_fixtures.py
"""

import json
import sys
import tempfile
from pathlib import Path

import xxhash
from lm_eval import utils
from lm_eval.api.metrics import mean, mean_stderr
from lm_eval.api.samplers import ContextSampler, FirstNSampler
from lm_eval.tasks import TaskManager
from lm_eval.tasks.hellaswag.utils import preprocess
from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks/peers"))
import run_harness  # noqa: E402

HELLASWAG = [
    "  Removing ice: plain text.  ",
    "How to [title] begin [step] Cut.   Three blanks, [header] and  two.",
    "[substeps] Nothing [left]",
    "no end [of bracket",
    "line [one\nline] two",
    "a [[b] c] d",
    "x [title] y [title]",
    "\u00a0no-break blanks\u2003",
    "[]empty [] brackets]",
]

CAPITALIZE = ["", "he", "A Man AND a dog", "\u00e9t\u00e9 \u00c9T\u00c9", "\u0436\u0416\u0436", "\u03b1\u0392\u0393", "1st Place", "mixed CASE here"]

WIKITEXT = [
    " = Title = \n \n A starring @-@ role , in 2 @,@ 000 ( of 3 @.@ 5 ) : yes ; no . \n",
    "the boys ' hats ' and \" quoted words \" here ; [ a ] { b } ( c )",
    "unclosed ( one \n and \" another",
    " = = Two = = \n = = = Three = = = \n = = = = Four = = = = ",
    "20 \u00b0 N of N 's \n  rest ! really ? yes",
    "( nested ( inner ) outer ) ' a ' b '",
    "\u2003wide blanks\u2003( \u2003in\u2003 )",
]

TEMPLATES = [
    ("Question: {{question}}\nAnswer:", {"question": "Why?"}),
    ("{{support.lstrip()}}\nQuestion: {{question}}\nAnswer:", {"support": " \n\tText.", "question": "q"}),
    ("{{choices.label.index(answerKey)}}", {"choices": {"label": ["1", "2", "3"]}, "answerKey": "3"}),
    ("{{choices.label.index(answerKey.lstrip())}}", {"choices": {"label": ["A", "B"]}, "answerKey": "  B"}),
    ("{{ choices.text[1] }} and {{choices['text'][-1]}}\n", {"choices": {"text": ["x", "y", "z"]}}),
    ("{{a|trim}}{{b|upper}}{{c|capitalize}}{{d|length}}", {"a": " x ", "b": "up", "c": "hELLO", "d": "four"}),
    ("{{answer|int - 1}}", {"answer": "2"}),
    ("{{text|replace('a', 'bb')}}{{text.replace(\"n\", '')}}", {"text": "banana"}),
    ("{{a + ' and ' + b}}", {"a": "one", "b": "two"}),
    ("{{number}} {{flag}} {{nothing}}", {"number": 7, "flag": True, "nothing": None}),
    ("a { b } c }} {{'{{'}}", {}),
]


def samples():
    cases = []
    # The last one shows the same few documents again and again, so that what is drawn may hold the question more than once.
    for seed, ids, count, shared in ((1234, range(50), 5, False), (1234, range(50), 5, True), (7, range(12), 3, True),
                                     (1234, range(400), 25, False), (1234, [0, 1, 2, 3] * 3, 5, True)):
        documents = [{"id": i} for i in ids]
        sampler = ContextSampler(documents, rnd=seed)
        drawn = [[d["id"] for d in sampler.sample(count, eval_doc=documents[i] if shared else None)] for i in range(8)]
        cases.append({"seed": seed, "documents": list(ids), "count": count, "shared_split": shared, "first_n": False, "drawn": drawn})
    documents = [{"id": i} for i in range(6)]
    first = FirstNSampler(documents, rnd=1234)
    cases.append({"seed": 1234, "documents": list(range(6)), "count": 3, "shared_split": True, "first_n": True,
                  "drawn": [[d["id"] for d in first.sample(3, eval_doc=documents[i])] for i in range(4)]})
    return cases


def windows(tokens, length):
    made = utils.get_rolling_token_windows(list(range(1, tokens + 1)), prefix_token=0, max_seq_len=length, context_len=1)
    return {"tokens": tokens, "max_length": length, "windows": [list(utils.make_disjoint_window(pair)) for pair in made]}


def request_hash(task):
    """XXH3 of all requests of a task, with its choices and right answers: length, colon, bytes, one after the other."""
    documents = {}
    for instance in task.instances:
        documents.setdefault(instance.doc_id, []).append(instance)
    texts = []
    for instances in documents.values():
        document = instances[0].doc
        for instance in sorted(instances, key=lambda i: i.idx):
            texts += list(instance.args)
        texts += task.doc_to_choice(document)
        texts.append(str(task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)))
    encoded = [text.encode() for text in texts]
    return xxhash.xxh3_64_hexdigest(b"".join(b"%d:" % len(text) + text for text in encoded))


def requests():
    """What the harness asks about the documents in data/eval, with and without examples from the same documents."""
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for name in run_harness.TASKS:
            run_harness.write_local_task(folder, name, ROOT / "data/eval")
        for shots, seed in ((0, 1234), (1, 1234), (5, 1234), (3, 7)):
            tasks = TaskManager(include_path=folder).load([f"local_{name}" for name in run_harness.TASKS])["tasks"]
            for name in run_harness.TASKS:
                task = tasks[f"local_{name}"]
                task.set_config("num_fewshot", shots)
                task.set_fewshot_seed(seed)
                task.build_all_requests(limit=None, rank=0, world_size=1)
                cases.append({"task": name, "num_fewshot": shots, "seed": seed, "hash": request_hash(task)})
    return cases


def main():
    article = (ROOT / "data/eval/wikitext_test.txt").read_text(encoding="utf-8").split("\n = Kiss You", 1)[0]
    pages = WIKITEXT + [article]
    values = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    fixture = {
        "hellaswag": [[text, preprocess(text)] for text in HELLASWAG],
        "capitalize": [[text, text.capitalize()] for text in CAPITALIZE],
        "wikitext": [[page, wikitext_detokenizer({"page": page}), *(process_results({"page": page}, (0.0,))[key][1] for key in
                      ("word_perplexity", "byte_perplexity"))] for page in pages],
        "templates": [[template, document, utils.apply_template(template, document)] for template, document in TEMPLATES],
        "samples": samples(),
        "requests": requests(),
        "windows": [windows(23, 8), windows(5, 8), windows(8, 8), windows(16, 8), windows(1, 4), windows(9, 2)],
        "mean": {"values": values, "mean": mean(values), "stderr": mean_stderr(values)},
    }
    target = ROOT / "tests/golden/data/tasks.json"
    target.write_text(json.dumps(fixture, indent=1, ensure_ascii=True) + "\n", encoding="ascii")
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
