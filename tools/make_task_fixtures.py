#!/usr/bin/env python3
"""Writes tests/golden/data/tasks.json: what the LM evaluation harness makes of texts, templates, samples and windows.

    python3.11 -m venv harness-venv && harness-venv/bin/pip install 'lm_eval[hf]==0.4.13'
    harness-venv/bin/python tools/make_task_fixtures.py
"""

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import xxhash
from lm_eval import utils
from lm_eval.api.metrics import bits_per_byte, mean, mean_stderr, weighted_perplexity
from lm_eval.api.model import TemplateLM
from lm_eval.api.samplers import ContextSampler, FirstNSampler
from lm_eval.tasks import TaskManager
from lm_eval.tasks.hellaswag.utils import preprocess, process_docs
from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer
from lm_eval.tasks.winogrande import preprocess_winogrande
from tokenizers import Tokenizer

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

HELLASWAG_DOCUMENTS = [
    {"activity_label": "Removing ice", "ctx_a": "A man  stands.", "ctx_b": "HE scrapes [step] Ice", "label": "2",
     "endings": ["[title] one  two", " [header] x ", "plain", "a [title] b"]},
    {"activity_label": "Home", "ctx_a": "[header] How to [title] Start.", "ctx_b": "", "label": "0", "endings": ["b[c\nd]", "", "e ", "f"]},
]

WINOGRANDE_DOCUMENTS = [
    {"sentence": "The _ hit the file_name because _ was late. ", "option1": "car", "option2": "bus", "answer": "2"},
    {"sentence": "_  won.\u00a0", "option1": "Ann", "option2": "Eve", "answer": "1"},
]

# Context and continuation, with tokens across the boundary and blanks before it.
PAIRS = [("the answer", " is here"), ("the answer  ", "is here"), ("the answ", "er is"), ("th", "e"), ("tokeniz", "ation and"), ("a\u00a0", " b"),
         ("line\n", "next"), ("12", "34"), ("ends\t \n", " here"), ("", "b c"), ("", "<|endoftext|>b"), ("don", "'t")]

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


def spaces():
    return [c for c in range(0x110000) if chr(c).isspace()]


def lower_case():
    """Letters of the alphabets with two cases whose other form is one letter, both ways."""
    ranges = (range(0x41, 0x5B), range(0xC0, 0xDF), range(0x100, 0x180), range(0x386, 0x3AC), range(0x400, 0x430), range(0x460, 0x482),
              range(0x48A, 0x530), range(0x531, 0x557), range(0x1E00, 0x1E96), range(0x1EA0, 0x1F00), range(0xFF21, 0xFF3B))
    pairs = [(chr(c), chr(c).lower()) for letters in ranges for c in letters]
    return [[a, b] for a, b in pairs if a != b and len(b) == 1 and b.upper() == a]


def encoded_pairs():
    """The tokens of context and continuation, by the harness's own splitting and the tokenizers library."""
    tokenizer = Tokenizer.from_file(str(ROOT / "tests/golden/data/tokenizer/gpt2.json"))
    model = SimpleNamespace(backend="causal", prefix_token_id=tokenizer.token_to_id("<|endoftext|>"),
                            tok_encode=lambda text, add_special_tokens=None: tokenizer.encode(text).ids,
                            _loglikelihood_tokens=lambda requests, disable_tqdm: requests)
    model._encode_pair = lambda context, continuation: TemplateLM._encode_pair(model, context, continuation)
    made = TemplateLM.loglikelihood(model, [SimpleNamespace(args=pair) for pair in PAIRS], disable_tqdm=True)
    return [[*texts, context, continuation] for texts, context, continuation in made]


def hellaswag_documents():
    dataset = SimpleNamespace(map=lambda process: [process(dict(document)) for document in HELLASWAG_DOCUMENTS])
    return [{"document": document, **made} for document, made in zip(HELLASWAG_DOCUMENTS, process_docs(dataset))]


def winogrande_documents():
    return [{"document": document, "contexts": preprocess_winogrande.doc_to_choice(document),
             "continuation": preprocess_winogrande.doc_to_target(document), "gold": preprocess_winogrande.doc_to_text(document)}
            for document in WINOGRANDE_DOCUMENTS]


def rolling():
    """Documents as (log-likelihood, words, bytes), and their perplexities."""
    documents = [(-120.5, 31, 160), (-17.25, 4, 22), (-903.0, 260, 1300)]
    words = [(log_likelihood, count) for log_likelihood, count, _ in documents]
    size = [(log_likelihood, count) for log_likelihood, _, count in documents]
    return {"documents": documents, "word_perplexity": weighted_perplexity(words), "byte_perplexity": weighted_perplexity(size),
            "bits_per_byte": bits_per_byte(size)}


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
        "pairs": encoded_pairs(),
        "hellaswag_documents": hellaswag_documents(),
        "winogrande_documents": winogrande_documents(),
        "rolling": rolling(),
        "spaces": spaces(),
        "lower_case": lower_case(),
        "windows": [windows(23, 8), windows(5, 8), windows(8, 8), windows(16, 8), windows(1, 4), windows(9, 2)],
        "mean": {"values": values, "mean": mean(values), "stderr": mean_stderr(values)},
    }
    target = ROOT / "tests/golden/data/tasks.json"
    target.write_text(json.dumps(fixture, indent=1, ensure_ascii=True) + "\n", encoding="ascii")
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
