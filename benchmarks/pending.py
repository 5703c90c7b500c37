"""A million pending questions: what they cost in memory, in pauses, at a restart, and an event.

The pipeline, the snapshot keeper and its directory are those of a worker; only Kafka is left out, since an event has to
be the same one with a few questions pending and with a million. Each answer belongs to a random one of those that wait,
which is the worst case for the processor's caches and for segments.
"""

from __future__ import annotations

import gc
import importlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson

from benchmarks.children import run_child
from benchmarks.events import event_bytes
from benchmarks.meter import peak_rss_mib
from benchmarks.results import spread, table
from stream.build import new_pipeline
from stream.pipeline import Pipeline
from stream.process import GC_THRESHOLDS
from stream.records import Record
from stream.settings import Settings
from stream.snapshots.file import Fold
from stream.snapshots.keeper import SnapshotKeeper, SnapshotPolicy, Taken
from stream.snapshots.store import LocalDirectory

KEY: Final = b"k" * 32
FOLD: Final = Fold(pipeline="pending", topic="events", topic_id="t", partition=0, origin=0, base="", shape={})
#: As by default: a snapshot after so many records.
INTERVAL_EVENTS: Final = 50_000
#: What is promised of a million: memory of the process, the worker's pause, a restart, and an event beside one of a
#: store that is nearly empty.
RSS_LIMIT_MIB: Final = 1_024.0
PAUSE_LIMIT_MS: Final = 150.0
RESTART_LIMIT_SECONDS: Final = 10.0
EVENT_LIMIT_US: Final = 3.0
#: Questions that wait in a store that is nearly empty.
NEARLY_EMPTY: Final = 100
COUNT: Final = 1_000_000
#: Rounds of both, in turns.
ROUNDS: Final = 8


class CountingDirectory(LocalDirectory):
    """A directory that knows how much was written."""

    written = 0

    def put(self, name: str, content: bytes) -> None:
        super().put(name, content)
        self.written += len(content)


def new(count: int) -> Pipeline:
    """A partition that lets so many questions wait, and a few more."""
    return new_pipeline(
        Settings.model_validate(
            {
                "name": "pending",
                "task": "binary",
                "topics": {"events": "events"},
                "learner": {"use": "logistic-regression"},
                "labels": {"capacity": 2 * count, "expire_after_seconds": 1e9},
            }
        )
    )


def keeper_of(folder: Path) -> tuple[SnapshotKeeper, CountingDirectory]:
    store = CountingDirectory(folder / "snapshots")
    policy = SnapshotPolicy(
        interval_seconds=10.0, interval_events=INTERVAL_EVENTS, keep=3, max_bytes=1_073_741_824
    )
    keeper = SnapshotKeeper(store, KEY, policy)
    keeper.watch(0)
    return keeper, store


class Load:
    """A partition under load."""

    def __init__(self, pipeline: Pipeline, keeper: SnapshotKeeper, store: CountingDirectory) -> None:
        self.pipeline = pipeline
        self.keeper = keeper
        self.store = store
        self.offset = 0
        self.waiting: list[int] = []
        self._since = 0
        self._rng = random.Random(5)
        self._bodies = [orjson.loads(body) for body in event_bytes(1_000)]
        #: What became of each snapshot, and the bytes that it wrote.
        self.snapshots: list[tuple[Taken, int]] = []

    def questions(self, count: int) -> Iterator[Record]:
        for _ in range(count):
            body = self._bodies[self.offset % 1_000]
            value = orjson.dumps({"id": f"tx-{self.offset:09d}", "features": body["features"]})
            self.waiting.append(self.offset)
            yield self._record(value)

    def pairs(self, count: int) -> Iterator[Record]:
        """Questions, each followed by the answer to a random one."""
        for _ in range(count):
            yield from self.questions(1)
            at = self._rng.randrange(len(self.waiting))
            self.waiting[at], self.waiting[-1] = self.waiting[-1], self.waiting[at]
            number = self.waiting.pop()
            label = self._bodies[number % 1_000]["label"]
            yield self._record(orjson.dumps({"id": f"tx-{number:09d}", "label": label}))

    def _record(self, value: bytes) -> Record:
        self.offset += 1
        return Record(0, self.offset - 1, self.offset, b"key", value, None)

    def work(self, records: Iterator[Record], *, snapshots: bool = True) -> float:
        """Process records; microseconds of CPU an event, of this thread and in the pipeline only."""
        process = self.pipeline.process
        spent, done = 0.0, 0
        while some := [record for _, record in zip(range(1_000), records, strict=False)]:
            began = time.thread_time()
            for record in some:
                process(record)
            spent += time.thread_time() - began
            done += len(some)
            self._since += len(some)
            if snapshots and self._since >= INTERVAL_EVENTS:
                self.snapshot()
        return spent / done * 1e6

    def snapshot(self) -> None:
        """Take one and wait until it is written, so that each has as many events behind it."""
        self._since = 0
        before = self.store.written
        self.keeper.take(self.pipeline.state, FOLD, self.offset)
        self.keeper.wait(60.0)
        (taken,) = self.keeper.collect()
        if taken.name is None:
            raise SystemExit(f"a snapshot failed: {taken.reason}")
        self.snapshots.append((taken, self.store.written - before))


def rss_mib() -> float:
    """Memory of this process that is resident now, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


def as_a_worker() -> None:
    """What a worker has in memory beside its partitions, and how it treats the collector."""
    for module in ("monitors.telemetry", "stream.kafka.log", "stream.worker"):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def fill(folder: Path, count: int) -> dict[str, Any]:
    """Let many questions wait, and work on, in turns with a partition where few do."""
    as_a_worker()
    few = Load(new(count), *keeper_of(folder / "few"))
    few.work(few.questions(NEARLY_EMPTY), snapshots=False)
    few.work(
        few.pairs(2 * INTERVAL_EVENTS), snapshots=False
    )  # until as many answered ids are remembered as may be
    base = rss_mib()
    load = Load(new(count), *keeper_of(folder))
    load.work(load.questions(count))
    load.snapshot()
    filling = list(load.snapshots)
    load.snapshots.clear()
    filled = rss_mib()
    load.work(load.pairs(2 * INTERVAL_EVENTS))
    rounds = []
    for _ in range(ROUNDS):
        rounds.append(
            (
                few.work(few.pairs(INTERVAL_EVENTS // 2), snapshots=False),
                load.work(load.pairs(INTERVAL_EVENTS // 2)),
            )
        )
    return {
        "pending": len(load.pipeline.state.labels.pending),
        "rounds_us": rounds,
        "base_mib": base,
        "filled_mib": filled,
        "steady_mib": rss_mib(),
        "peak_mib": peak_rss_mib(),
        "pauses_ms": [taken.pause_seconds * 1e3 for taken, _ in [*filling, *load.snapshots]],
        "seconds": [taken.seconds for taken, _ in load.snapshots],
        "size_mib": load.snapshots[-1][0].size / 2**20,
        "written_mib": [written / 2**20 for _, written in load.snapshots],
        "offset": load.offset,
    }


def restart(folder: Path, count: int) -> dict[str, Any]:
    """What a new process does with the newest snapshot."""
    as_a_worker()
    pipeline = new(count)
    keeper, _ = keeper_of(folder)
    began = time.monotonic()
    restored = keeper.newest(FOLD, first=0, committed=sys.maxsize).restored
    if restored is None:
        raise SystemExit("there is no snapshot to restore")
    pipeline.resume(restored.state)
    seconds = time.monotonic() - began
    return {
        "pending": len(pipeline.state.labels.pending),
        "offset": restored.header.next_offset,
        "seconds": seconds,
        "mib": rss_mib(),
        "peak_mib": peak_rss_mib(),
    }


def measure_pending(count: int = COUNT) -> dict[str, Any]:
    """Both, in processes of their own."""
    with tempfile.TemporaryDirectory(prefix="headrace-pending-") as folder:
        filled = run_child("benchmarks.pending", "fill", folder, count)
        restarted = run_child("benchmarks.pending", "restart", folder, count)
    for found in (filled, restarted):
        if found["pending"] != count:
            raise SystemExit(f"{count} questions, but {found['pending']} wait")
    if restarted["offset"] != filled["offset"]:
        raise SystemExit(f"restored at {restarted['offset']}, expected {filled['offset']}")
    return {"count": count, "filled": filled, "restarted": restarted}


def more_an_event(found: dict[str, Any]) -> list[float]:
    """Microseconds of CPU that an event costs more than with few questions, in each round."""
    return [many - few for few, many in found["filled"]["rounds_us"]]


def targets(found: dict[str, Any]) -> list[tuple[str, float, float, str]]:
    """What was to be reached: what, measured, at most, unit."""
    filled, restarted, count = found["filled"], found["restarted"], f"{found['count']:,} pending"
    return [
        (
            f"memory of the process, {count}",
            max(filled["peak_mib"], restarted["peak_mib"]),
            RSS_LIMIT_MIB,
            " MiB",
        ),
        (f"longest pause of a snapshot, {count}", max(filled["pauses_ms"]), PAUSE_LIMIT_MS, " ms"),
        (f"restart, {count}", restarted["seconds"], RESTART_LIMIT_SECONDS, " s"),
        (
            f"an event more than with {NEARLY_EMPTY} pending, {count}",
            median(more_an_event(found)),
            EVENT_LIMIT_US,
            " us",
        ),
    ]


def pending_text(found: dict[str, Any]) -> str:
    """The section's text."""
    filled, restarted = found["filled"], found["restarted"]

    rows = [
        (f"CPU an event with {NEARLY_EMPTY} pending, us", spread([few for few, _ in filled["rounds_us"]], 2)),
        (f"CPU an event with {found['count']:,} pending, us", spread([many for _, many in filled["rounds_us"]], 2)),
        ("the difference, us", spread(more_an_event(found), 2)),
        ("resident before, with the other partition, MiB", f"{filled['base_mib']:,.0f}"),
        ("resident with all pending; at the end, MiB", f"{filled['filled_mib']:,.0f}; {filled['steady_mib']:,.0f}"),
        ("most ever resident, MiB", f"{filled['peak_mib']:,.0f}"),
        ("worker stands still for a snapshot, ms", spread(filled["pauses_ms"], 1)),
        ("a snapshot until verified, s", spread(filled["seconds"], 2)),
        ("bytes of a snapshot with its segments, MiB", f"{filled['size_mib']:,.0f}"),
        ("bytes that a snapshot writes, MiB", spread(filled["written_mib"], 1)),
        ("restart: from the store to a state that goes on, s", f"{restarted['seconds']:.2f}"),
        ("resident after a restart; most until then, MiB",
         f"{restarted['mib']:,.0f}; {restarted['peak_mib']:,.0f}"),
    ]  # fmt: skip
    return f"""\
{found["count"]:,} questions of 10 features wait in one partition, `use = "logistic-regression"`; half of the
events are questions, half are answers to a random one that waits. A snapshot after each {INTERVAL_EVENTS:,} events,
in a directory of this machine. The pipeline and the keeper of a worker without Kafka, with all that a worker imports
in memory. In turns with it, {ROUNDS} rounds, a partition of the same process in which {NEARLY_EMPTY} wait; shown are
the median and the range.

{table(("what", "measured"), rows)}"""


def main() -> None:
    commands: dict[str, Callable[[Path, int], dict[str, Any]]] = {"fill": fill, "restart": restart}
    if sys.argv[1:2] and sys.argv[1] in commands:
        found = commands[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
        print(orjson.dumps(found).decode())
        return
    count = int(sys.argv[1]) if sys.argv[1:] else COUNT
    found = measure_pending(count)
    print(pending_text(found))
    for what, measured, limit, unit in targets(found):
        print(
            f"{what}: {measured:,.2f}{unit}, at most {limit:,g}{unit}: {'met' if measured <= limit else 'short'}"
        )


if __name__ == "__main__":
    main()
