#!/usr/bin/env python3
"""Runs an exported GGUF file in a stock llama.cpp (PyPI package xllamacpp) and compares it with this program on the same file.

Compared: the token ids of the export report's test text; greedy continuations of five prompts; with --text, the log-probability of every token
of blocks of --context tokens, each block a text of its own whose first token is given, not scored (as `stableqat eval --ppl` does). llama.cpp
is asked for one token at a time, and made to choose the true one. Its cache of keys and values is F32, and flash attention, which rounds to half
precision, is off.

llama.cpp rounds activations to 8 bits before products with quantized weights. That is chaotic: a change of 1e-7 in one run moves a log-probability
by as much as the rounding itself (0.13 nats on SmolLM2 at 4 bits; docs/evaluation.md), so only the same bits would agree with it token by token.
Hence prompts are taken in order from a list until five have a settled continuation, one whose every token leads the second best by
SETTLED nats in llama.cpp's own run; and perplexity is compared over thousands of tokens. What rounding does to it on the average shows beside ours with
`--activation-rounding llama.cpp` ("rounded"), which is reported and not judged.

--exact names a GGUF file with the same weights in F32, for which llama.cpp rounds nothing: then continuations have to agree that lead by EXACT_LEAD.

Passed: token ids agree; four of five settled continuations agree for 16 tokens; perplexity agrees within 0.5 %. With --exact: all continuations of the
F32 run that lead by EXACT_LEAD agree, and its perplexity within 0.1 %.

Needs: pip install -r tools/requirements.txt. Exit code 77 when the package is missing, 1 when a comparison fails.
Usage: compare_llama.py --gguf FILE --report FILE.json --program stableqat [--exact FILE] [--token-ids-only]
                        [--text FILE --tokens 4096 --context 256] [--json OUT]
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

SENTENCES = [
    "The teacher asked the students to read the first chapter.",
    "Rain falls on the hills and runs to the sea.",
    "Water is made of hydrogen and oxygen.",
    "She opened the door and walked into the garden.",
    "All of the birds flew south for the winter.",
    "He bought bread, milk, eggs and butter at the store.",
    "The train leaves the station at nine in the morning.",
    "Many people work in the city and live in the country.",
    "A small boat crossed the river before the storm.",
    "The old man told the children a story about a king.",
    "Plants need light, water and air to grow.",
    "My brother plays the piano every day after school.",
]
# Free ones, counting, and sentences that ask to be repeated.
PROMPTS = [
    "The history of the printing press begins",
    "Water boils when",
    "In 1969, the first people",
    "The capital of France is",
    "To bake bread you need",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,",
    "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, Monday, Tuesday,",
    "red, green, blue, red, green, blue, red, green, blue, red,",
    *(" ".join([sentence] * 4 + sentence.split()[:1]) for sentence in SENTENCES),
]
JUDGED = 5  # prompts
AGREEING = 16  # tokens that have to agree, in all judged prompts but one
SETTLED = 0.25  # nats; two standard deviations of what rounding activations does to a log-probability
PERPLEXITY_TOLERANCE = 0.005  # relative, of the file
EXACT_LEAD = 0.03  # nats, of the same weights in F32: ours decodes with activations rounded to 15 bits, which moved log-probabilities by 0.007
EXACT_TOLERANCE = 0.001  # relative, of the same weights in F32


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


def continuation(program, gguf, prompt):
    return run([program, "generate", "--model", gguf, "--prompt", prompt, "--max-tokens", str(AGREEING), "-q"])[len(prompt) :]


def smallest_lead(entries):
    """Of each token over the second best, in nats."""
    leads = [entry["top_logprobs"][0]["logprob"] - entry["top_logprobs"][1]["logprob"] for entry in entries]
    return round(min(leads), 3)


def compare_continuations(llama, exact, program, gguf):
    rows = []
    for prompt in PROMPTS:
        entries = llama.complete(prompt, AGREEING)
        ours = continuation(program, gguf, prompt)
        row = {"prompt": prompt, "lead": smallest_lead(entries), "agreeing": agreeing_tokens(entries, ours), "length": len(entries)}
        if exact:
            exact_entries = exact.complete(prompt, AGREEING)
            row |= {"lead_exact": smallest_lead(exact_entries), "agreeing_exact": agreeing_tokens(exact_entries, ours),
                    "length_exact": len(exact_entries)}
        rows.append(row)
        print(f"  {row}", flush=True)
        if sum(row["lead"] >= SETTLED for row in rows) == JUDGED:
            break
    judged = [row for row in rows if row["lead"] >= SETTLED]
    result = {"prompts": len(rows), "prompts_judged": len(judged), "tokens_compared": AGREEING,
              "prompts_agree": sum(row["agreeing"] == row["length"] for row in judged),
              "prompts_agree_unsettled": sum(row["agreeing"] == row["length"] for row in rows if row not in judged)}
    if exact:
        result["prompts_agree_exact"] = sum(row["agreeing_exact"] == row["length_exact"] for row in rows)
        result["prompts_part_exact"] = sum(row["agreeing_exact"] < row["length_exact"] and row["lead_exact"] >= EXACT_LEAD for row in rows)
    return result | {"continuations": rows}


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
        rounded = evaluate("--activation-rounding", "llama.cpp")
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


def passed(result):
    """Of what was compared."""
    ok = result["token_ids_agree"]
    if "prompts" in result:
        ok = ok and result["prompts_judged"] == JUDGED and result["prompts_agree"] >= JUDGED - 1
        ok = ok and result.get("prompts_part_exact", 0) == 0
    if "perplexity_ratio" in result:
        ok = ok and abs(result["perplexity_ratio"] - 1) <= PERPLEXITY_TOLERANCE
        ok = ok and abs(result.get("exact_ratio", 1) - 1) <= EXACT_TOLERANCE
    return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--report", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--exact")
    parser.add_argument("--token-ids-only", action="store_true")
    parser.add_argument("--text")
    parser.add_argument("--tokens", type=int, default=4096)
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
    if not arguments.token_ids_only:
        result |= compare_continuations(llama, exact, arguments.program, arguments.gguf)
    if arguments.text:
        text = pathlib.Path(arguments.text).read_text()
        result |= compare_perplexity(llama, exact, arguments.program, arguments.gguf, text, arguments.tokens, arguments.context)
    print(json.dumps(result, indent=2))
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if passed(result) else 1)


if __name__ == "__main__":
    main()
