#!/usr/bin/env python3
"""Runs an exported GGUF file in a stock llama.cpp (PyPI package xllamacpp) and compares it with this program on the same file.

Compared: the token ids of the export report's test text; greedy continuations of five prompts; with --text, perplexity, by asking for one
token at a time and forcing the true one. llama.cpp rounds activations to 8 bits, so continuations may part after some tokens.

Needs: pip install -r tools/requirements.txt. Exit code 77 when the package is missing, 1 when a comparison fails.
Usage: compare_llama.py --gguf FILE --report FILE.json --program stableqat [--token-ids-only] [--text FILE --tokens 512] [--json OUT]
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

PROMPTS = [
    "The history of the printing press begins",
    "Water boils when",
    "In 1969, the first people",
    "The capital of France is",
    "To bake bread you need",
]
CONTINUATION = 24  # tokens asked for
AGREEING = 16  # tokens that have to agree, in all prompts but one
PERPLEXITY_TOLERANCE = 0.005  # relative


class Llama:
    def __init__(self, path, threads):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = path
        params.n_ctx = 2048
        params.n_parallel = 1
        params.cpuparams.n_threads = threads
        params.warmup = False
        self.server = xllamacpp.Server(params)

    def post(self, path, body):
        request = urllib.request.Request(self.server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def tokenize(self, text, special=True):
        return self.post("/tokenize", {"content": text, "add_special": special, "parse_special": True})["tokens"]

    def greedy(self, prompt, count):
        answer = self.post("/completion", {"prompt": prompt, "n_predict": count, "temperature": 0, "n_probs": 1, "return_tokens": True})
        pieces = [entry["token"] for entry in answer["completion_probabilities"]]
        return answer["tokens"], "".join(pieces[:AGREEING]), answer["timings"]

    def log_probability(self, context, target):
        """Of `target` after `context`. The bias makes the sampler choose it; the reported probability is that before sampling."""
        answer = self.post(
            "/completion",
            {"prompt": context, "n_predict": 1, "temperature": 0, "n_probs": 1, "logit_bias": [[target, 1000.0]], "cache_prompt": True,
             "return_tokens": True},
        )
        entry = answer["completion_probabilities"][0]
        if entry["id"] != target:
            raise RuntimeError(f"llama.cpp chose {entry['id']} instead of {target}")
        return entry["logprob"]


def run(arguments):
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def compare_tokens(llama, report):
    expected = report["test_ids"]
    found = llama.tokenize(report["test_text"])
    return {"token_ids": len(expected), "token_ids_agree": found == expected}


def compare_continuations(llama, program, gguf):
    agreeing = []
    for prompt in PROMPTS:
        _, start, _ = llama.greedy(prompt, CONTINUATION)
        ours = run([program, "generate", "--model", gguf, "--prompt", prompt, "--max-tokens", str(CONTINUATION), "-q"])
        agreeing.append(ours[len(prompt) :].startswith(start))
        if not agreeing[-1]:
            print(f"  {prompt!r}\n    llama.cpp {start!r}\n    ours      {ours[len(prompt):]!r}")
    return {"prompts": len(PROMPTS), "tokens_compared": AGREEING, "prompts_agree": sum(agreeing)}


def compare_perplexity(llama, program, gguf, text, tokens):
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / "ours.json"
        plain = pathlib.Path(folder) / "text.txt"
        plain.write_text(text)
        run([program, "eval", "--model", gguf, "--ppl", str(plain), "--context", str(tokens), "--max-tokens", str(tokens), "--json", str(result), "-q"])
        ours = json.loads(result.read_text())
    ids = llama.tokenize(text, special=False)[:tokens]
    total = -sum(llama.log_probability(ids[:i], ids[i]) for i in range(1, len(ids)))
    theirs = math.exp(total / (len(ids) - 1))
    return {"perplexity_tokens": ours["tokens"], "perplexity": ours["perplexity"], "llama_perplexity": theirs,
            "perplexity_ratio": theirs / ours["perplexity"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--report", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--token-ids-only", action="store_true")
    parser.add_argument("--text")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    try:
        llama = Llama(arguments.gguf, arguments.threads)
    except ImportError as error:
        print(f"skipped: {error}")
        sys.exit(77)
    result = {"gguf": pathlib.Path(arguments.gguf).name}
    result |= compare_tokens(llama, json.loads(pathlib.Path(arguments.report).read_text()))
    ok = result["token_ids_agree"]
    if not arguments.token_ids_only:
        result |= compare_continuations(llama, arguments.program, arguments.gguf)
        ok = ok and result["prompts_agree"] >= len(PROMPTS) - 1
    if arguments.text:
        text = pathlib.Path(arguments.text).read_text()
        result |= compare_perplexity(llama, arguments.program, arguments.gguf, text, arguments.tokens)
        ok = ok and abs(result["perplexity_ratio"] - 1) <= PERPLEXITY_TOLERANCE
    print(json.dumps(result, indent=2))
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
