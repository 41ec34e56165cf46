#!/usr/bin/env python3
"""Times text generation in llama.cpp (package xllamacpp) beside `stableqat bench decode`, on the same GGUF files, in the same run.

    run_decode.py --program build/release/apps/stableqat/stableqat --json decode.json 2bit.gguf 4bit.gguf

Each file is timed by our program, by llama.cpp and by our program again, every time in a process of its own, and llama.cpp is compared with the
mean of its two neighbours. Both continue a prompt of 32 tokens greedily. Our time is that of the model and the choice of the most likely token;
llama.cpp's is what its server reports for each predicted token, which includes its sampler.

Needs: pip install -r tools/requirements.txt.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from llama_server import LlamaServer  # noqa: E402

PROMPT_TOKENS = 32


def time_ours(program, path, arguments):
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "decode.json"
        command = [program, "bench", "decode", "--model", path, "--weights", "packed", "--prompt-tokens", str(PROMPT_TOKENS), "--tokens",
                   str(arguments.tokens), "--repeats", str(arguments.repeats), "--threads", str(arguments.threads), "--json", str(result), "-q"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(result.read_text())[0]


def worker(path, tokens, repeats, threads):
    """llama.cpp in this process: prints milliseconds of a token, one number for each repetition."""
    server = LlamaServer(path, threads, warmup=True)
    prompt = [100 + 37 * i for i in range(PROMPT_TOKENS)]

    def complete():
        body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        timings = server.post("/completion", body)["timings"]
        if timings["predicted_n"] != tokens:
            raise RuntimeError(f"llama.cpp predicted {timings['predicted_n']} tokens instead of {tokens}")
        return timings["predicted_per_token_ms"]

    complete()
    print(json.dumps([complete() for _ in range(repeats)]))


def time_llama(path, arguments):
    command = [sys.executable, __file__, "--worker", path, "--tokens", str(arguments.tokens), "--repeats", str(arguments.repeats), "--threads",
               str(arguments.threads)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--program")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.tokens, arguments.repeats, arguments.threads)
        return
    if not arguments.files or not arguments.program:
        parser.error("name --program and at least one GGUF file")
    rows = []
    for path in arguments.files:
        before = time_ours(arguments.program, path, arguments)
        theirs = time_llama(path, arguments)
        after = time_ours(arguments.program, path, arguments)
        ours = 1e3 * statistics.mean([before["seconds_per_token"], after["seconds_per_token"]])
        row = {"file": Path(path).name, "bytes": Path(path).stat().st_size, "ours_ms": ours, "llama_ms": statistics.median(theirs),
               "llama_ms_min": min(theirs), "llama_ms_max": max(theirs), "speedup": statistics.median(theirs) / ours,
               "ours_bytes_per_token": before["bytes_per_token"], "ours_copy_share": statistics.mean([before["copy_share"], after["copy_share"]]),
               "threads": arguments.threads}
        rows.append(row)
        print(f"{row['file']}: ours {1e3 / ours:.1f} tokens/s, llama.cpp {1e3 / row['llama_ms']:.1f}, ratio {row['speedup']:.2f}", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
