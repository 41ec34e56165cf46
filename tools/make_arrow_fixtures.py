#!/usr/bin/env python3
"""Makes tests/golden/data/arrow/: Parquet files with texts, and a dataset of token blocks as the authors' pre-tokenization saves it.

python3 -m pip install pyarrow==26.0.1 datasets==5.2.0
python3 tools/make_arrow_fixtures.py
"""

import pathlib
import shutil

import pyarrow
import pyarrow.parquet
from datasets import Dataset

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/data/arrow"
TEXTS = ["first", "", None, "zweite \u00fc", "line\nbreak", "last"]


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    table = pyarrow.table({"id": list(range(6)), "text": pyarrow.array(TEXTS, pyarrow.string()), "meta": ["m"] * 6})
    pyarrow.parquet.write_table(table, FOLDER / "texts.parquet", row_group_size=4, compression="snappy")
    large = pyarrow.table({"content": pyarrow.array(TEXTS, pyarrow.large_string())})
    pyarrow.parquet.write_table(large, FOLDER / "large.parquet", compression="zstd")

    # 10 rows of 8 ids in two files.
    rows = [list(range(8 * i, 8 * i + 8)) for i in range(10)]
    dataset = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * 8] * 10, "labels": rows})
    dataset.save_to_disk(FOLDER / "saved" / "train_data", num_shards=2)


if __name__ == "__main__":
    main()
