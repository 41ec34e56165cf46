#!/usr/bin/env python3
"""Cuts data/text/{train,valid}.jsonl.xz from a larger collection of JSON lines with keys text, source and id.

Only sources whose licence lets everyone pass them on are taken (KEEP). Both files get the same share of bytes per source, and each file is
ordered so that every prefix has about these shares too: a short training run or a perplexity over the first blocks sees the whole mixture.
The choice depends on nothing but the documents' ids. Needed only to remake the corpus, never at build or run time.

    tools/cut_corpus.py --train IN/train-*.jsonl.xz --valid IN/valid.jsonl.xz --output data/text
"""

import argparse
import hashlib
import json
import lzma
import pathlib
import re

# source -> share of the bytes of each file, near its share in the collection
KEEP = {
    "classic-books": 0.60,
    "python-peps": 0.12,
    "rust-rfcs": 0.10,
    "rust-blog": 0.07,
    "us-presidents": 0.055,
    "18f-handbook": 0.02,
    "til": 0.02,
    "rust-book": 0.015,
}
TRAIN_BYTES = 8_000_000
VALID_BYTES = 400_000


def allowed(document):
    """Since July 2019 every new PEP is public domain or CC0 (PEP 1); older ones could choose another licence, so they are left out."""
    if document["source"] not in KEEP:
        return False
    if document["source"] != "python-peps":
        return True
    number = int(re.search(r"pep-(\d+)", document["id"]).group(1))
    return 601 <= number <= 999


def origin(document):
    """The book or file a document was cut from: `Author/Title#12` and `pep-0804.rst~1` are parts."""
    return document["source"] + "/" + re.split(r"[#~]", document["id"])[0]


def size(document):
    return len(document["text"].encode())


def read(paths):
    documents = []
    for path in paths:
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            documents += [json.loads(line) for line in lines]
    documents = [document for document in documents if allowed(document)]
    return sorted(documents, key=lambda d: hashlib.sha256((d["source"] + "/" + d["id"]).encode()).digest())


def cut(documents, total):
    """Up to `total` bytes, always taking next from the source that lags furthest behind its share; an exhausted source drops out."""
    queues = {source: iter([d for d in documents if d["source"] == source]) for source in KEEP}
    taken = dict.fromkeys(KEEP, 0)
    chosen = []
    while queues and sum(taken.values()) < total:
        source = min(queues, key=lambda s: taken[s] / KEEP[s])
        document = next(queues[source], None)
        if document is None:
            del queues[source]
            continue
        chosen.append(document)
        taken[source] += size(document)
    return chosen


def write(path, documents):
    text = "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents)
    path.write_bytes(lzma.compress(text.encode(), check=lzma.CHECK_CRC64, preset=9 | lzma.PRESET_EXTREME))
    print(f"{path.name}: {len(documents)} documents, {sum(map(size, documents)):,} bytes of text, {path.stat().st_size:,} on disk")
    for source in KEEP:
        part = [d for d in documents if d["source"] == source]
        print(f"| {source} | {len(part)} | {sum(map(size, part)):,} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--valid", nargs="+", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    train = cut(read(arguments.train), TRAIN_BYTES)
    valid = cut(read(arguments.valid), VALID_BYTES)
    shared = {origin(d) for d in train} & {origin(d) for d in valid}
    if shared:
        parser.error(f"in train and in valid: {sorted(shared)[:5]}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    write(arguments.output / "train.jsonl.xz", train)
    write(arguments.output / "valid.jsonl.xz", valid)


if __name__ == "__main__":
    main()
