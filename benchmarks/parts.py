"""What each part of an event's way costs in memory, without Kafka, in a process of its own.

    python -m benchmarks.parts SETTINGS COUNT

Prints microseconds of CPU an event: decoding, the whole pipeline (which contains it, and River), and what the worker's
measuring of itself adds to its loop.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import orjson
import structlog

from benchmarks.events import event_bytes
from stream.build import new_pipeline, worker_policy
from stream.decoding import new_decoder
from stream.log import Committed
from stream.measurements import Measurements
from stream.pipeline import Pipeline
from stream.records import Output, Record
from stream.settings import Settings, load_settings
from stream.testing import ManualClock, MemoryCluster, MemoryLog
from stream.worker import Worker

ROUNDS = 5

#: Events of one run of a worker whose pipeline does nothing, and by how much its clocks are too fast: an event of a
#: microsecond passes for one of fifty, so that there are as many commits and readings an event as with a learner.
IDLE_EVENTS = 20_000
IDLE_SPEED = 50
IDLE_ROUNDS = 101


class IdlePipeline(Pipeline):
    """Answers each event with the same prediction, so that the worker's loop is all there is."""

    answer = (Output("predictions", None, b"{}"),)

    def process(self, record: Record) -> Sequence[Output]:
        self.state.events += 1
        return self.answer


class IdleLog(MemoryLog):
    """Writes nothing."""

    def send(self, partition: int, timestamp: int, outputs: Sequence[Output]) -> None:
        pass

    def send_offsets(self, commits: Mapping[int, Committed]) -> None:
        pass

    def commit(self) -> None:
        pass


class Nothing(Measurements):
    """Measures nothing."""

    def polled(self, *, is_first: bool) -> None:
        pass

    def wants_sample(self, records: int) -> bool:
        return False

    def processed(self, records: int, seconds: float) -> None:
        pass

    def committed(
        self, partition: int, pipeline: Pipeline, uncommitted: Sequence[tuple[int, Sequence[Output]]]
    ) -> None:
        pass

    def commit_ended(self, records: int, seconds: float) -> None:
        pass


def clock() -> float:
    return time.monotonic() * IDLE_SPEED


def idle_pipeline(settings: Settings) -> Pipeline:
    plain = new_pipeline(settings)
    return IdlePipeline(name=plain.name, topic=plain.topic, decoder=new_decoder(settings), state=plain.state)


def run_idle(settings: Settings, records: Sequence[Record], *, measured: bool) -> float:
    """Microseconds of CPU an event that a worker takes which does nothing with them."""
    cluster = MemoryCluster(partitions=1, clock=ManualClock())
    for record in records:
        cluster.append(0, record.value)
    log = IdleLog(cluster)
    cluster.assign({log: [0]})
    worker = Worker(
        log,
        worker_policy(settings, stop_at_end=True),
        lambda: idle_pipeline(settings),
        should_stop=lambda: False,
        clock=clock,
        tell=(lambda readings: None) if measured else None,
        measurements=Measurements(clock=clock) if measured else Nothing(clock=clock),
    )
    began = time.process_time()
    worker.run()
    return (time.process_time() - began) / len(records) * 1e6


def measuring(settings: Settings, count: int = IDLE_EVENTS) -> float:
    """Microseconds of CPU an event that a worker's measuring of itself takes: with less without, taking turns that are
    short, for the speed of a core that others use as well changes all the time.

    The wrapper around the learner's calls is not in it: two calls of a function for one event in 128.
    """
    records = [Record(0, offset, 0, None, b"{}") for offset in range(count)]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    return median(
        run_idle(settings, records, measured=True) - run_idle(settings, records, measured=False)
        for _ in range(IDLE_ROUNDS)
    )


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
    found = {name: median(times) for name, times in taken.items()}
    sys.stdout.write(orjson.dumps(found | {"measuring": measuring(settings)}).decode() + "\n")


if __name__ == "__main__":
    main(load_settings(Path(sys.argv[1]), environ={}), int(sys.argv[2]))
