#!/usr/bin/env python3
"""Our tokenizer beside Hugging Face's and tiktoken: the same ids first, then one-core rates, in turns within one run.

    python3 -m pip install -r benchmarks/peers/requirements.txt
    python3 benchmarks/peers/run_tokenizers.py --speed build/release/tests/tokenizer_speed --work /tmp/tokenizers \\
        --corpus train.jsonl.xz --gpt2 VOCAB.json.xz MERGES.txt.xz --model SmolLM2.gguf --text prose.jsonl.xz mix.txt.xz [--json FILE]

Vocabularies: GPT-2's own from --gpt2; Llama 3's and Qwen 3's rules and a SentencePiece one (Llama 2's rules), trained on --corpus with 32,000
tokens; the one of --model, as our program writes it. Each is made once, in --work.
"""

import argparse
import json
import lzma
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy
import tiktoken
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
from make_tokenizer_fixtures import GPT2, LLAMA3, QWEN2, split  # noqa: E402

VOCABULARY = 32000
TRAINING_CHARACTERS = 6_000_000


def opened(path):
    path = str(path)
    return lzma.open(path, "rt", encoding="utf-8", newline="") if path.endswith(".xz") else open(path, encoding="utf-8", newline="")


def documents(path):
    with opened(path) as file:
        if ".jsonl" in str(path):
            return [json.loads(line)["text"] for line in file]
        return [file.read().removeprefix("\ufeff")]


def training_texts(path):
    """Enough for a vocabulary whose merges look like those of the real ones."""
    texts, size = [], 0
    for text in documents(path):
        texts.append(text)
        size += len(text)
        if size > TRAINING_CHARACTERS:
            break
    return texts


def gpt2(vocabulary_path, merges_path):
    vocabulary = json.loads(opened(vocabulary_path).read())
    lines = [line for line in opened(merges_path).read().split("\n") if line and not line.startswith("#version")]
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(line.split(" ")) for line in lines]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_level(expression, texts, ignore_merges, normalizer=None):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split(expression))
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def sentencepiece(texts):
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, limit_alphabet=2000, special_tokens=names, show_progress=False)
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(names[:3])
    return tokenizer


def make_vocabularies(arguments):
    makers = {
        "gpt2": lambda: gpt2(*arguments.gpt2),
        "llama3": lambda: byte_level(LLAMA3, training_texts(arguments.corpus), True),
        "qwen3": lambda: byte_level(QWEN2, training_texts(arguments.corpus), False, normalizers.NFC()),
        "sentencepiece": lambda: sentencepiece(training_texts(arguments.corpus)),
    }
    folders = {}
    for name, make in makers.items():
        if arguments.only and name not in arguments.only:
            continue
        folder = arguments.work / name
        if not (folder / "tokenizer.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make().save(str(folder / "tokenizer.json"))
        folders[name] = folder
    if arguments.model:
        folder = arguments.work / arguments.model.stem
        nothing = arguments.work / "nothing.json"
        nothing.write_text("{}")
        command = [arguments.compare, nothing, "--text", nothing, "--model", arguments.model, "--save", folder]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL)  # it only has to save
        folders[arguments.model.stem] = folder
    return folders


def as_tiktoken(tokenizer):
    """The same GPT-2 vocabulary for tiktoken, whose ranks are the ids."""
    content = json.loads(tokenizer.to_str())["model"]["vocab"]
    alphabet = sorted(range(256), key=lambda b: not (33 <= b <= 126 or 161 <= b <= 172 or 174 <= b))
    spelled = {chr(b) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b else chr(256 + i - 188): b for i, b in enumerate(alphabet)}
    ranks = {bytes(spelled[c] for c in token): id for token, id in content.items() if all(c in spelled for c in token)}
    ranks.pop(b"<|endoftext|>", None)
    return tiktoken.Encoding("same", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={})


def seconds_of(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def ours(arguments, folder, path, ids_path=None):
    more = ["--ids", ids_path] if ids_path else []
    command = [arguments.speed, "--model", folder / "tokenizer.json", "--text", path, "--repeats", str(arguments.repeats), *more]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(arguments, name, folder, path):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = documents(path)
    size = sum(len(text.encode()) for text in texts)
    expected = [id for text in texts for id in (*tokenizer.encode(text, add_special_tokens=False).ids, -1)]
    ids_path = arguments.work / "ids"
    ours(arguments, folder, path, ids_path)
    found = numpy.fromfile(ids_path, dtype="<i4")
    same = len(found) == len(expected) and bool((found == numpy.array(expected, dtype="<i4")).all())
    rows = {"ours": [], "ours_first": [], "tokenizers": [], "tokenizers_batch_fast": [], "tiktoken": []}
    other = as_tiktoken(tokenizer) if name == "gpt2" else None
    for _ in range(arguments.rounds):
        mine = ours(arguments, folder, path)
        rows["ours"].append(mine["seconds"])
        rows["ours_first"].append(mine["first_seconds"])
        rows["tokenizers"].append(seconds_of(lambda: [tokenizer.encode(text, add_special_tokens=False) for text in texts])[0])
        rows["tokenizers_batch_fast"].append(seconds_of(lambda: tokenizer.encode_batch_fast(texts, add_special_tokens=False))[0])
        if other:
            rows["tiktoken"].append(seconds_of(lambda: [other.encode_ordinary(text) for text in texts])[0])
    rates = {key: size / statistics.median(values) / 1e6 for key, values in rows.items() if values}
    return {"vocabulary": name, "text": pathlib.Path(path).name, "bytes": size, "ids": len(expected) - len(texts), "same_ids": same, "megabytes_per_second": rates}


def write_hard_cases(folder):
    """Texts on which a quadratic method shows: pairs of a quarter and the whole."""
    generator = numpy.random.default_rng(1)
    letters = "".join(map(chr, 97 + generator.integers(0, 26, 1_000_000)))
    base64 = "".join("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[i] for i in generator.integers(0, 64, 1_000_000))
    texts = {"word": letters, "one_letter": "a" * 1_000_000, "spaces": " " * 100_000, "base64": base64}
    for name, text in texts.items():
        pair = []
        for size in (len(text) // 4, len(text)):
            pair.append(folder / f"{name}_{size}.txt")
            pair[-1].write_text(text[:size])
        yield name, pair


def compare_hard_cases(arguments, name, folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = []
    for case, pair in write_hard_cases(arguments.work):
        mine = [ours(arguments, folder, path)["first_seconds"] for path in pair]
        theirs = [seconds_of(lambda text=path.read_text(): tokenizer.encode(text, add_special_tokens=False))[0] for path in pair]
        size = pair[1].stat().st_size
        rows.append({"vocabulary": name, "case": case, "bytes": size, "ours_seconds": mine, "tokenizers_seconds": theirs})
        print(f"{name:<24} {case:<12} quarter and whole: ours {mine[0]:.4f} {mine[1]:.4f} s, tokenizers {theirs[0]:.3f} {theirs[1]:.3f} s", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=pathlib.Path, required=True)
    parser.add_argument("--compare", type=pathlib.Path, help="compare_tokens, needed for --model")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--gpt2", type=pathlib.Path, nargs=2, required=True)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, nargs="+", default=[])
    parser.add_argument("--only", nargs="+", help="vocabularies to compare: gpt2, llama3, qwen3, sentencepiece, or the name of --model's file")
    parser.add_argument("--hard-cases", action="store_true", help="long words, spaces and base64 instead of --text, whose time must be linear")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="within a round, of ours; the fastest counts")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    results = []
    for name, folder in make_vocabularies(arguments).items():
        if arguments.only and name not in arguments.only:
            continue
        if arguments.hard_cases:
            results += compare_hard_cases(arguments, name, folder)
            continue
        for path in arguments.text:
            results.append(compare(arguments, name, folder, path))
            row = results[-1]
            rates = ", ".join(f"{key} {value:.1f}" for key, value in row["megabytes_per_second"].items())
            print(f"{name:<24} {row['text']:<24} {'same ids' if row['same_ids'] else 'OTHER IDS'}  MB/s: {rates}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(0 if all(row.get("same_ids", True) for row in results) else 1)


if __name__ == "__main__":
    main()
