"""What each part of an event's way costs in memory, without Kafka, in a process of its own.

    python -m benchmarks.parts SETTINGS COUNT

Prints microseconds of CPU an event: decode, encode, and the whole pipeline (which contains both, and River).
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import orjson

from benchmarks.events import event_bytes
from stream.build import new_decoder, new_pipeline
from stream.records import Record
from stream.settings import Settings, load_settings

ROUNDS = 5


def main(settings: Settings, count: int) -> None:
    records = [
        Record(0, offset, 1_700_000_000_000, b"k1", body) for offset, body in enumerate(event_bytes(count))
    ]
    decoder = new_decoder(settings)
    sample = new_pipeline(settings)
    events = [decoder.decode(record) for record in records[:1000]]
    asked = [event.x for event in events if event.x is not None]
    predicted = [sample.state.learner.predict(x) for x in asked]
    gc.collect()
    gc.freeze()

    def decode() -> None:
        for record in records:
            decoder.decode(record)

    def encode() -> None:
        make = sample._prediction  # as `process` has it; nothing public encodes and does nothing else
        for _ in range(count // len(events)):
            for record, event, (y_pred, y_proba) in zip(records, events, predicted, strict=False):
                make(record, event, y_pred, y_proba)

    def process() -> None:
        pipeline = new_pipeline(settings)
        for record in records:
            pipeline.process(record)

    parts: dict[str, Callable[[], None]] = {"decode": decode, "encode": encode, "process": process}
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(ROUNDS):
        for name, part in parts.items():
            began = time.process_time()
            part()
            taken[name].append((time.process_time() - began) / count * 1e6)
    sys.stdout.write(orjson.dumps({name: median(times) for name, times in taken.items()}).decode() + "\n")


if __name__ == "__main__":
    main(load_settings(Path(sys.argv[1]), environ={}), int(sys.argv[2]))
