#!/usr/bin/env python3
"""Runs an exported GGUF file in a stock llama.cpp (PyPI package xllamacpp) and compares it with this program on the same file.

Compared: the token ids of the export report's test text; greedy continuations of five prompts; with --text, the log-probability of every token
of blocks of --context tokens, each block a text of its own whose first token is given, not scored (as `stableqat eval --ppl` does). llama.cpp
is asked for one token at a time, and made to choose the true one.

llama.cpp rounds activations to 8 bits before products with quantized weights. --exact names a GGUF file with the same weights in F32, for which it
does not: what differs between its two runs is that rounding, what differs between us and its F32 run is ours or its arithmetic. The cache of keys and
values is F32 in both, and flash attention, which rounds to half precision, is off. Where a continuation parts, the margin is how much more likely the F32 run finds the first choice than the second, in nats;
with --text, margins below three standard deviations of the rounding's effect on them are near ties.

Beside ours as it is stands ours with `--activation-rounding llama.cpp`, which rounds inputs of products as llama.cpp does ("rounded" below): what is
compared then are the same numbers.

Passed: token ids agree; four of five continuations agree for 16 tokens, with ours rounded alike and as it is (with --exact: those of the F32 run with ours
as it is, and the others part at near ties); perplexity agrees within 0.5 % with both of ours, that of the F32 run within 0.1 % with ours as it is.

Needs: pip install -r tools/requirements.txt. Exit code 77 when the package is missing, 1 when a comparison fails.
Usage: compare_llama.py --gguf FILE --report FILE.json --program stableqat [--exact FILE] [--token-ids-only]
                        [--text FILE --tokens 2048 --context 256] [--json OUT]
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

from llama_server import LlamaServer

PROMPTS = [
    "The history of the printing press begins",
    "Water boils when",
    "In 1969, the first people",
    "The capital of France is",
    "To bake bread you need",
]
CONTINUATION = 24  # tokens asked for
AGREEING = 16  # tokens that have to agree, in all prompts but one
PERPLEXITY_TOLERANCE = 0.005  # relative, of the file
EXACT_TOLERANCE = 0.001  # relative, of the same weights in F32
# A margin is the difference of two log-probabilities: three standard deviations of what rounding activations does to it, in those of one.
NEAR_TIE = 3 * math.sqrt(2)


class Llama(LlamaServer):
    def __init__(self, path, threads):
        super().__init__(path, threads, exact=True)

    def tokenize(self, text, special=True):
        return self.post("/tokenize", {"content": text, "add_special": special, "parse_special": True})["tokens"]

    def complete(self, prompt, count, **settings):
        """Tokens as {"id", "token", "logprob", "top_logprobs"}: greedy, no penalty, probabilities before sampling."""
        body = {"prompt": prompt, "n_predict": count, "temperature": 0, "repeat_penalty": 1.0, "n_probs": 2, "return_tokens": True, "cache_prompt": True}
        return self.post("/completion", body | settings)["completion_probabilities"]

    def log_probability(self, context, target):
        entry = self.complete(context, 1, logit_bias=[[target, 1000.0]])[0]
        if entry["id"] != target:
            raise RuntimeError(f"llama.cpp chose {entry['id']} instead of {target}")
        return entry["logprob"]

    def margin(self, context):
        """How much more likely the first choice is than the second, in nats."""
        first, second = self.complete(context, 1)[0]["top_logprobs"][:2]
        return first["logprob"] - second["logprob"]


def run(arguments):
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def compare_tokens(llama, report):
    expected = report["test_ids"]
    found = llama.tokenize(report["test_text"])
    return {"token_ids": len(expected), "token_ids_agree": found == expected}


def agreeing_tokens(entries, text):
    """How many of llama.cpp's first tokens spell the beginning of the text."""
    spelled = ""
    for count, entry in enumerate(entries):
        spelled += entry["token"]
        if not text.startswith(spelled):
            return count
    return len(entries)


ROUNDED = ["--activation-rounding", "llama.cpp"]


def continuation(program, gguf, prompt, *flags):
    return run([program, "generate", "--model", gguf, "--prompt", prompt, "--max-tokens", str(CONTINUATION), "-q", *flags])[len(prompt) :]


def compare_continuations(llama, exact, program, gguf):
    rows = []
    for prompt in PROMPTS:
        ours = continuation(program, gguf, prompt)
        entries = llama.complete(prompt, CONTINUATION)
        row = {"prompt": prompt, "agreeing": agreeing_tokens(entries, ours), "length": len(entries),
               "agreeing_rounded": agreeing_tokens(entries, continuation(program, gguf, prompt, *ROUNDED)), "length_rounded": len(entries)}
        if exact:
            exact_entries = exact.complete(prompt, CONTINUATION)
            row |= {"agreeing_exact": agreeing_tokens(exact_entries, ours), "length_exact": len(exact_entries)}
            for run_name, found in (("", entries), ("_exact", exact_entries)):
                count = row["agreeing" + run_name]
                if count < len(found):
                    row["margin" + run_name] = exact.margin(llama.tokenize(prompt) + [entry["id"] for entry in found[:count]])
        rows.append(row)
        print(f"  {row}", flush=True)
    result = {"prompts": len(rows), "tokens_compared": AGREEING, "prompts_agree": sum(agrees(row, "") for row in rows),
              "prompts_agree_rounded": sum(agrees(row, "_rounded") for row in rows)}
    if exact:
        result["prompts_agree_exact"] = sum(agrees(row, "_exact") for row in rows)
    return result | {"continuations": rows}


def agrees(row, run):
    """For the tokens that matter; the text may have ended before them."""
    return row["agreeing" + run] >= min(AGREEING, row["length" + run])


def near_ties(rows, deviation):
    """Continuations that part early, but where the F32 run itself hardly prefers one token."""
    return sum(not agrees(row, "") and row["margin"] < NEAR_TIE * deviation for row in rows)


def log_probabilities(llama, ids, context):
    """Of all tokens but the first of each block."""
    values = []
    for first in range(0, len(ids), context):
        block = ids[first : first + context]
        values += [llama.log_probability(block[:i], block[i]) for i in range(1, len(block))]
    return values


def perplexity(values):
    return math.exp(-sum(values) / len(values))


def compare_perplexity(llama, exact, program, gguf, text, tokens, context):
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / "ours.json"
        plain = pathlib.Path(folder) / "text.txt"
        plain.write_text(text)

        def evaluate(*flags):
            run([program, "eval", "--model", gguf, "--ppl", str(plain), "--context", str(context), "--max-tokens", str(tokens), "--json", str(result), "-q",
                 *flags])
            return json.loads(result.read_text())

        ours = evaluate()
        rounded = evaluate(*ROUNDED)
    ids = llama.tokenize(text, special=False)[:tokens]
    theirs = log_probabilities(llama, ids, context)
    if len(theirs) != ours["tokens"]:
        raise RuntimeError(f"llama.cpp scored {len(theirs)} tokens, we {ours['tokens']}")
    found = {"scored_tokens": ours["tokens"], "context": context, "perplexity": ours["perplexity"], "llama_perplexity": perplexity(theirs),
             "perplexity_ratio": perplexity(theirs) / ours["perplexity"], "rounded_perplexity": rounded["perplexity"],
             "rounded_ratio": perplexity(theirs) / rounded["perplexity"]}
    if exact:
        reference = log_probabilities(exact, ids, context)
        differences = [a - b for a, b in zip(theirs, reference)]
        found |= {"exact_perplexity": perplexity(reference), "exact_ratio": perplexity(reference) / ours["perplexity"],
                  "rounding_mean": statistics.mean(differences), "rounding_deviation": statistics.stdev(differences),
                  "rounding_mean_error": statistics.stdev(differences) / math.sqrt(len(differences))}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--report", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--exact")
    parser.add_argument("--token-ids-only", action="store_true")
    parser.add_argument("--text")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    try:
        llama = Llama(arguments.gguf, arguments.threads)
    except ImportError as error:
        print(f"skipped: {error}")
        sys.exit(77)
    exact = Llama(arguments.exact, arguments.threads) if arguments.exact else None
    result = {"gguf": pathlib.Path(arguments.gguf).name}
    result |= compare_tokens(llama, json.loads(pathlib.Path(arguments.report).read_text()))
    ok = result["token_ids_agree"]
    if not arguments.token_ids_only:
        result |= compare_continuations(llama, exact, arguments.program, arguments.gguf)
        agree = min(result["prompts_agree_rounded"], result.get("prompts_agree_exact", result["prompts_agree"]))
        ok = ok and agree >= len(PROMPTS) - 1
    if arguments.text:
        text = pathlib.Path(arguments.text).read_text()
        result |= compare_perplexity(llama, exact, arguments.program, arguments.gguf, text, arguments.tokens, arguments.context)
        ok = ok and all(abs(result[ratio] - 1) <= PERPLEXITY_TOLERANCE for ratio in ("perplexity_ratio", "rounded_ratio"))
        if exact:
            ok = ok and abs(result["exact_ratio"] - 1) <= EXACT_TOLERANCE
            if not arguments.token_ids_only:
                result["prompts_near_tie"] = near_ties(result["continuations"], result["rounding_deviation"])
                ok = ok and result["prompts_agree"] + result["prompts_near_tie"] == len(PROMPTS)
    print(json.dumps(result, indent=2))
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
