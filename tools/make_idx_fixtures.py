#!/usr/bin/env python3
"""Writes the token files in tests/golden/data/token_files, and from them the fuzzer's seeds, with nothing but `struct`.

Independent of the C++ writer and reader on purpose; megatron-core 0.12.0 writes the same bytes and reads these files. With --read PREFIX it prints the documents of any token file instead, one JSON list a line.
"""

import argparse
import json
import pathlib
import struct

MAGIC = b"MMIDIDX\x00\x00"
FORMATS = {1: "B", 2: "b", 3: "h", 4: "i", 5: "q", 8: "H"}


def write(prefix, element_type, sequences, document_index, modes=False):
    sizes = [len(s) for s in sequences]
    width = struct.calcsize("<" + FORMATS[element_type])
    offsets = [width * sum(sizes[:i]) for i in range(len(sizes))]
    index = MAGIC + struct.pack("<QBQQ", 1, element_type, len(sizes), len(document_index))
    index += struct.pack(f"<{len(sizes)}i", *sizes) + struct.pack(f"<{len(sizes)}q", *offsets)
    index += struct.pack(f"<{len(document_index)}q", *document_index)
    if modes:
        index += struct.pack(f"<{len(sizes)}b", *[0] * len(sizes))
    ids = [i for s in sequences for i in s]
    prefix.with_suffix(".idx").write_bytes(index)
    prefix.with_suffix(".bin").write_bytes(struct.pack(f"<{len(ids)}{FORMATS[element_type]}", *ids))


def read(prefix):
    index = prefix.with_suffix(".idx").read_bytes()
    if index[:9] != MAGIC:
        raise SystemExit("not an indexed dataset")
    version, element_type, sequences, entries = struct.unpack_from("<QBQQ", index, 9)
    if version != 1:
        raise SystemExit(f"version {version}")
    at = 34
    sizes = struct.unpack_from(f"<{sequences}i", index, at)
    offsets = struct.unpack_from(f"<{sequences}q", index, at + 4 * sequences)
    documents = struct.unpack_from(f"<{entries}q", index, at + 12 * sequences)
    data = prefix.with_suffix(".bin").read_bytes()
    for begin, end in zip(documents, documents[1:]):
        ids = []
        for i in range(begin, end):
            ids += struct.unpack_from(f"<{sizes[i]}{FORMATS[element_type]}", data, offsets[i])
        print(json.dumps(ids))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--read", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("tests/golden/data/token_files"))
    parser.add_argument("--seeds", type=pathlib.Path, default=pathlib.Path("tests/fuzz/corpus/idx"))
    arguments = parser.parse_args()
    if arguments.read:
        return read(arguments.read)
    small = [[1, 2, 3, 0], [0], [], [200, 100, 7, 0]]
    wide = [[49151, 5, 0], [65498, 0]]
    arguments.output.mkdir(parents=True, exist_ok=True)
    write(arguments.output / "uint16", 8, wide, [0, 1, 2])
    write(arguments.output / "int32", 4, [[151935, 70000, 0], [1, 0]], [0, 1, 2])
    write(arguments.output / "int64", 5, wide, [0, 1, 2])
    write(arguments.output / "int16", 3, [[32767, 0]], [0, 1])
    write(arguments.output / "uint8", 1, small, [0, 1, 2, 3, 4])
    write(arguments.output / "sentences", 8, small, [0, 2, 2, 4])
    write(arguments.output / "modes", 8, small, [0, 1, 2, 3, 4], modes=True)
    write(arguments.output / "float", 4, [[1]], [0, 1])
    path = arguments.output / "float.idx"
    path.write_bytes(path.read_bytes()[:17] + bytes([7]) + path.read_bytes()[18:])
    write(arguments.output / "empty", 8, [], [0])
    arguments.seeds.mkdir(parents=True, exist_ok=True)
    for index in arguments.output.glob("*.idx"):
        bin_size = index.with_suffix(".bin").stat().st_size
        (arguments.seeds / index.stem).write_bytes(struct.pack("<Q", bin_size) + index.read_bytes())


if __name__ == "__main__":
    main()
