#!/usr/bin/env python3
"""Makes tests/golden/data/arrow/: Parquet files with texts and with documents of a task, and a dataset of token blocks as the authors' pre-tokenization saves it.

python3 -m pip install pyarrow==26.0.1 datasets==5.2.0
python3 tools/make_arrow_fixtures.py
"""

import itertools
import json
import pathlib
import shutil

import pyarrow
import pyarrow.parquet
from datasets import Dataset

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests/golden/data/arrow"
TEXTS = ["first", "", None, "zweite \u00fc", "line\nbreak", "last"]


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    table = pyarrow.table({"id": list(range(6)), "text": pyarrow.array(TEXTS, pyarrow.string()), "meta": ["m"] * 6})
    pyarrow.parquet.write_table(table, FOLDER / "texts.parquet", row_group_size=4, compression="snappy")
    large = pyarrow.table({"content": pyarrow.array(TEXTS, pyarrow.large_string())})
    pyarrow.parquet.write_table(large, FOLDER / "large.parquet", compression="zstd")

    with open(ROOT / "data/eval/arc_easy_test.jsonl", encoding="utf-8") as lines:
        documents = [json.loads(line) for line in itertools.islice(lines, 5)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(documents), FOLDER / "arc_easy_test.parquet", row_group_size=2)

    # 10 rows of 8 ids in two files.
    rows = [list(range(8 * i, 8 * i + 8)) for i in range(10)]
    dataset = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * 8] * 10, "labels": rows})
    dataset.save_to_disk(FOLDER / "saved" / "train_data", num_shards=2)


if __name__ == "__main__":
    main()
