#!/usr/bin/env python3
"""Writes tests/golden/data/activation_rounding.json: rows of values as ggml rounds activations to 8 bits, and which of its two block types each weight
type asks for, from ggml's own library (as the PyPI package pywhispercpp brings it).

    pip download --no-deps pywhispercpp==1.5.1 && unzip pywhispercpp-*.whl -d ggml
    tools/make_activation_fixtures.py ggml

Halves and ties in magnitude are among the rows; every value is written as the bits of a float32.
"""

import ctypes
import json
import pathlib
import random
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Of ggml.h.
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
         "BF16": 30, "TQ1_0": 34, "TQ2_0": 35}
NAMES = {0: "none", 1: "none", 8: "q8_0", 9: "q8_0", 15: "q8_k", 30: "none"}  # F32, F16, Q8_0, Q8_1, Q8_K, BF16
BLOCKS = {"q8_0": (32, 34), "q8_K": (256, 292)}  # values, bytes


class CpuTraits(ctypes.Structure):
    _fields_ = [("from_float", ctypes.c_void_p), ("vec_dot", ctypes.c_void_p), ("vec_dot_type", ctypes.c_int), ("nrows", ctypes.c_int64)]


def bits(values):
    return [struct.unpack("<I", struct.pack("<f", value))[0] for value in values]


def rounded(base, kind, row):
    values, size = BLOCKS[kind]
    source = (ctypes.c_float * len(row))(*row)
    blocks = ctypes.create_string_buffer(len(row) // values * size)
    target = (ctypes.c_float * len(row))()
    getattr(base, f"quantize_row_{kind}_ref")(source, blocks, ctypes.c_int64(len(row)))
    getattr(base, f"dequantize_row_{kind}")(blocks, target, ctypes.c_int64(len(row)))
    return list(target)


def rows():
    draw = random.Random(7)
    yield [draw.gauss(0, 1) for _ in range(256)]
    yield [draw.gauss(0, 30) * (8 if i == 77 else 1) for i in range(512)]
    yield [1e-4 * draw.gauss(0, 1) for _ in range(256)]
    yield [(i % 509 - 254) / 2 for i in range(256)] + [127.0 if i in (3, 40) else -127.0 if i == 9 else (i - 128) / 2 for i in range(256)]
    yield [0.0] * 256
    yield [-3.0 if i % 2 else 3.0 for i in range(256)]


def main():
    folder = pathlib.Path(sys.argv[1])
    base = ctypes.CDLL(str(folder / "libggml-base.so.0"), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"))
    cpu.ggml_get_type_traits_cpu.restype = ctypes.POINTER(CpuTraits)
    types = {name: NAMES[cpu.ggml_get_type_traits_cpu(number).contents.vec_dot_type] for name, number in TYPES.items()}
    cases = [{"input": bits(row), "q8_0": bits(rounded(base, "q8_0", row)), "q8_k": bits(rounded(base, "q8_K", row))} for row in rows()]
    target = ROOT / "tests/golden/data/activation_rounding.json"
    target.write_text(json.dumps({"types": types, "rows": cases}) + "\n", encoding="ascii")
    print(f"{target}: {target.stat().st_size} bytes; {types}")


if __name__ == "__main__":
    main()
