#!/usr/bin/env python3
"""Writes tests/golden/data/events.bin, the records that TensorBoard's own protocol buffers give for a few events.

python3 -m pip install tensorboard==2.20.0
python3 tools/make_event_fixtures.py
"""

import io
import pathlib

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.summary.writer.record_writer import RecordWriter

PATH = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/data/events.bin"


def events():
    yield Event(wall_time=1700000000.25, file_version="brain.Event:2")
    yield Event(wall_time=1700000001.5, step=301, session_log=SessionLog(status=SessionLog.START))
    scalars = [Summary.Value(tag="train/loss", simple_value=2.5), Summary.Value(tag="train/learning_rate", simple_value=1e-4)]
    codes = HistogramProto(
        min=-2, max=1, num=10, sum=1 * -2 + 5 * -1 + 4 * 1, sum_squares=1 * 4 + 5 * 1 + 4 * 1, bucket_limit=[-1.5, -0.5, 0.5, 1.5], bucket=[1, 5, 0, 4]
    )
    yield Event(wall_time=1700000002.0, step=70000, summary=Summary(value=scalars + [Summary.Value(tag="codes/layer", histo=codes)]))


def main():
    stream = io.BytesIO()
    writer = RecordWriter(stream)
    for event in events():
        writer.write(event.SerializeToString())
    PATH.write_bytes(stream.getvalue())


if __name__ == "__main__":
    main()
