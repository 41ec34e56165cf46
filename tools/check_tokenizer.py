#!/usr/bin/env python3
"""Checks our tokenizer against Hugging Face's: what we save is loaded there, and both give the same ids on real and on random text.

    python3 -m pip install tokenizers transformers
    python3 tools/check_tokenizer.py --compare build/dev/tests/compare_tokens --model MODEL [--text FILE ...] [--random N]

MODEL is a GGUF file, a Hugging Face folder or a tokenizer.json; FILE is plain text or .xz. Exit 0 if all ids agree.
"""

import argparse
import hashlib
import json
import lzma
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

from make_tokenizer_fixtures import PIECES


def read(path):
    opened = lzma.open(path, "rt", encoding="utf-8", newline="") if path.suffix == ".xz" else open(path, encoding="utf-8", newline="")
    with opened as file:
        return file.read().replace("===== ", "==== ")  # no headings inside a section


def random_text(seed):
    """Pieces that a pre-tokenizer must tell apart, and characters from all of Unicode."""
    chosen = random.Random(seed)
    text = []
    for _ in range(chosen.randint(1, 400)):
        code_point = chosen.randrange(0x20, chosen.choice([0x80, 0x3000, 0x20000, 0x110000]))
        odd = chosen.random() < 0.2 and not 0xD800 <= code_point < 0xE000
        text.append(chr(code_point) if odd else chosen.choice(PIECES))
    return "".join(text)


def golden(tokenizer, sections):
    result = {}
    for name, text in sections.items():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        digest = hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()
        result[name] = {"count": len(ids), "sha256": digest, "first": ids[:64]}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--text", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--random", type=int, default=2000)
    arguments = parser.parse_args()

    sections = {f"file {path}": read(path) + "\n" for path in arguments.text}
    sections |= {f"random {seed}": random_text(seed) + "\n" for seed in range(arguments.random)}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        text_file = folder / "text.txt"
        text_file.write_bytes("".join(f"===== {name} =====\n{text}" for name, text in sections.items()).encode())

        def compare(model, expected, *more):
            (folder / "golden.json").write_text(json.dumps(expected))
            command = [arguments.compare, folder / "golden.json", "--text", text_file, "--model", model, *more]
            return subprocess.run(command, check=False).returncode

        saved = folder / "saved"
        compare(arguments.model, {}, "--save", saved)
        expected = golden(Tokenizer.from_file(str(saved / "tokenizer.json")), sections)
        failed = compare(arguments.model, expected) + compare(saved, expected)
        try:
            from transformers import AutoTokenizer
        except ImportError:
            print("transformers is not here: not tried")
        else:
            loaded = AutoTokenizer.from_pretrained(saved)
            for name, text in sections.items():
                failed += (
                    hashlib.sha256(struct.pack(f"<{len(ids := loaded.encode(text, add_special_tokens=False))}I", *ids)).hexdigest()
                    != expected[name]["sha256"]
                )
            print(
                f"{type(loaded).__name__} of transformers: bos {loaded.bos_token}, eos {loaded.eos_token}, template {bool(loaded.chat_template)}"
            )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
