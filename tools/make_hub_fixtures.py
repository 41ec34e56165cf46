"""Writes tests/golden/data/hub_samples.json: draws of CPython's random.sample(), which plans of samples are held to.

usage: python3 tools/make_hub_fixtures.py
"""

import json
import math
import pathlib
import random
import sys

TARGET = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "data" / "hub_samples.json"


def draws(seed, sizes):
    generator = random.Random(seed)
    return [{"population": n, "count": k, "drawn": generator.sample(range(n), k)} for n, k in sizes]


def main():
    # Both ways in which sample() draws, at their border (277 of 85 + 21), all of few, none; then SlimPajama's ten chunks as they are drawn.
    edges = [(10, 3), (100, 5), (100, 6), (30, 30), (1, 1), (7, 0), (277, 20), (278, 20), (85, 6), (86, 6), (3_000_000, 4)]
    files = [5912, 5911, 5919, 5917, 5933, 5915, 5906, 5921, 5920, 5912]
    chunks = [(n, math.ceil(n * 1e9 / 626e9)) for n in files]
    cases = [{"seed": seed, "draws": draws(seed, edges)} for seed in (0, 1, 42, 2**32 - 1, 2**32, 12345678901234567)]
    cases.append({"seed": 42, "draws": draws(42, chunks)})
    made_by = "CPython %d.%d random.Random(seed).sample(range(population), count), one call after the other" % sys.version_info[:2]
    TARGET.write_text(json.dumps({"made_by": made_by, "cases": cases}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
