"""What each part of an event's way costs in memory, without Kafka, in a process of its own.

    python -m benchmarks.parts SETTINGS COUNT

Prints microseconds of CPU an event: decoding, and the whole pipeline (which contains it, and River).
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
    gc.collect()
    gc.freeze()

    def decode() -> None:
        for record in records:
            decoder.decode(record)

    def process() -> None:
        pipeline = new_pipeline(settings)
        for record in records:
            pipeline.process(record)

    parts: dict[str, Callable[[], None]] = {"decode": decode, "process": process}
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(ROUNDS):
        for name, part in parts.items():
            began = time.process_time()
            part()
            taken[name].append((time.process_time() - began) / count * 1e6)
    sys.stdout.write(orjson.dumps({name: median(times) for name, times in taken.items()}).decode() + "\n")


if __name__ == "__main__":
    main(load_settings(Path(sys.argv[1]), environ={}), int(sys.argv[2]))
