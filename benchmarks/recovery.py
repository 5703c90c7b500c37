"""From `kill -9` to the first new prediction: of two workers the one at work is killed, again and again.

The dead one is not started again: its peer takes over, and only when that has predicted another peer is started.
Events keep coming all the time. Snapshots are set so that, at each kill, 10,000 records were committed since the
last one; how many the successor replayed is in its log, and is checked.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import orjson
from confluent_kafka import Consumer, ConsumerGroupState, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks.children import ROOT, ChildFailedError, environment
from benchmarks.events import FEATURES, event
from benchmarks.pipelines import MeasuredPipeline
from benchmarks.reader import quantile
from benchmarks.results import table
from benchmarks.topics import IN_ORDER, QUIET
from stream.snapshots.keeper import offset_of

SESSION_TIMEOUT_SECONDS = 6
#: What the README promises: so many seconds after the session timeout at most, 95 times of 100.
LIMIT_SECONDS = SESSION_TIMEOUT_SECONDS + 5.0
REPLAY = 10_000
#: How many more or fewer the successor may have to replay: those that came while the kill was on its way.
REPLAY_TOLERANCE = 500
RATE = 200
#: Records between two snapshots: more than are to be replayed, so that none is taken just before a kill.
INTERVAL_EVENTS = 12_000
SETTINGS = f"""\
session_timeout_ms = {SESSION_TIMEOUT_SECONDS * 1_000}

[snapshots]
interval_seconds = 3600
interval_events = {INTERVAL_EVENTS}
"""
#: A kill comes at any moment between two heartbeats, which are so many seconds apart.
HEARTBEAT_SECONDS = 1.0
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One kill; times are seconds after it."""

    #: Records between the snapshot and the committed offset.
    replayed: int
    #: The successor was given the partition.
    assigned: float
    #: It began to end the transaction that the dead worker left open; None: there was none.
    fenced: float | None
    #: It had the committed offset and the snapshot.
    restored: float
    #: A reader saw its first prediction.
    predicted: float

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of each part, in order; together they are `predicted`."""
        looked = self.assigned if self.fenced is None else self.fenced
        return {
            "until the group gives the partition to the peer": self.assigned,
            "until it takes the dead worker's transaction for dead": looked - self.assigned,
            "until that is ended and the snapshot is loaded": self.restored - looked,
            "until the replay is over and a prediction is read": self.predicted - self.restored,
        }


def recovery_of(
    killed_at: float, lines: Sequence[Mapping[str, Any]], seen: Sequence[tuple[int, float]]
) -> Recovery | None:
    """What the successor's log and a reader tell of a kill; None as long as it is not over.

    Args:
        killed_at: When, epoch seconds.
        lines: The successor's log.
        seen: Of each prediction read its event's offset, and when, epoch seconds; in order.
    """
    times: dict[str, float] = {}
    restored: Mapping[str, Any] = {}
    for line in lines:
        at = datetime.fromisoformat(line["timestamp"]).timestamp()
        if at < killed_at or line["event"] in times:
            continue
        times[line["event"]] = at - killed_at
        if line["event"] == "partition restored":
            restored = line
    if not restored:
        return None
    if restored["snapshot"] is None:
        raise SystemExit(f"the peer restored the partition without a snapshot: {restored}")
    committed = offset_of(restored["snapshot"]) + restored["replay_records"]
    # Whatever the dead worker had committed lies before that, whenever it was read.
    first = bisect_left(seen, (committed,))
    if first == len(seen):
        return None
    return Recovery(
        replayed=restored["replay_records"],
        assigned=times["partitions assigned"],
        fenced=times.get("ending the transaction of a worker that is gone"),
        restored=times["partition restored"],
        predicted=seen[first][1] - killed_at,
    )


class WorkerProcess:
    """One process of `headrace run`, with its log in a file."""

    def __init__(self, settings: Path) -> None:
        self._log = settings.with_name(f"{settings.stem}-{time.monotonic_ns()}.log")
        with self._log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stream.cli", "run", str(settings)],
                cwd=ROOT,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=file,
            )

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far."""
        *whole, _ = self._log.read_bytes().split(b"\n")
        return [orjson.loads(line) for line in whole if line.startswith(b"{")]

    def tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-8:])

    def newest_snapshot(self) -> int:
        """Offset of the last snapshot that it has written; 0 before the first."""
        written = [line["snapshot"] for line in self.lines() if line["event"] == "snapshot written"]
        return offset_of(written[-1]) if written else 0

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


class Traffic:
    """Events into partition 0 at a steady rate, and more when asked for; the offset of each is its number."""

    def __init__(self, servers: str, topic: str) -> None:
        self._producer = Producer({"bootstrap.servers": servers, "linger.ms": 0} | IN_ORDER)
        self._topic = topic
        self._rng = random.Random(11)
        self._weights = [self._rng.gauss(0.0, 1.0) for _ in range(FEATURES)]
        self._lock = Lock()
        self._sent = 0

    def send_up_to(self, offset: int) -> None:
        """Send all that is missing for the log to end there."""
        while self._sent < offset:
            self._send()

    def _send(self) -> None:
        with self._lock:
            body = event(f"{self._sent:08d}", self._rng, self._weights)
            self._producer.produce(self._topic, body, b"k", 0)
            self._sent += 1
        self._producer.poll(0)

    def run(self, stopped: Event) -> None:
        while not stopped.wait(1 / RATE):
            self._send()
        if self._producer.flush(PATIENCE_SECONDS):
            raise SystemExit(f"topic {self._topic} could not be filled")


class Reader:
    """A `read_committed` reader of the predictions: each event's offset, and when its prediction was there."""

    def __init__(self, servers: str, topic: str) -> None:
        #: Offset and epoch seconds.
        self.seen: list[tuple[int, float]] = []
        self._consumer = Consumer(
            {"bootstrap.servers": servers, "group.id": "recovery", "isolation.level": "read_committed"}
        )
        self._consumer.assign([TopicPartition(topic, 0, 0)])

    def has_seen(self, offset: int) -> bool:
        return bool(self.seen) and self.seen[-1][0] >= offset

    def run(self, stopped: Event) -> None:
        while not stopped.is_set():
            for message in self._consumer.consume(1_000, 0.05):
                if message.error() is None:
                    self.seen.append((orjson.loads(message.value() or b"")["offset"], time.time()))
        self._consumer.close()


@contextmanager
def _in_threads(*jobs: Callable[[Event], None]) -> Iterator[None]:
    stopped = Event()
    threads = [Thread(target=job, args=(stopped,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def measure_recovery(
    servers: str, events: str, pipeline: MeasuredPipeline, *, kills: int
) -> Sequence[Recovery]:
    """Kill the worker at work so many times.

    Raises:
        ChildFailedError: A worker ended by itself, or did not do what it should; holds its last words.
        SystemExit: An event was predicted twice or not at all, or what was to be replayed was not what it should be.
    """
    rng = random.Random(3)
    admin = AdminClient(QUIET | {"bootstrap.servers": servers})
    traffic, reader = Traffic(servers, events), Reader(servers, pipeline.predictions)
    found: list[Recovery] = []
    with _in_threads(traffic.run, reader.run), ExitStack() as running:

        def start(instance: int) -> WorkerProcess:
            worker = WorkerProcess(pipeline.settings_of(f"worker-{instance}"))
            running.callback(worker.kill)
            return worker

        owner = start(0)
        _wait_for_prediction(0, reader, owner)
        snapshot = 0
        for kill in range(1, kills + 1):
            peer = start(kill)
            traffic.send_up_to(snapshot + INTERVAL_EVENTS)
            snapshot = _snapshot_after(snapshot, owner)
            _wait(lambda: _members(admin, pipeline.name) == 2, "two workers in the group", owner, peer)
            time.sleep(rng.uniform(0.0, HEARTBEAT_SECONDS))
            traffic.send_up_to(snapshot + REPLAY)
            _wait_for_prediction(snapshot + REPLAY - 1, reader, owner, peer)

            killed_at = time.time()
            owner.kill()
            recovery = _recovery(killed_at, peer, reader)
            if abs(recovery.replayed - REPLAY) > REPLAY_TOLERANCE:
                raise SystemExit(f"{recovery.replayed:,} records were replayed; expected about {REPLAY:,}")
            print(_line(kill, recovery), flush=True)
            found.append(recovery)
            owner = peer
    offsets = [offset for offset, _ in reader.seen]
    if offsets != list(range(len(offsets))):
        raise SystemExit("not every event was predicted once and in order")
    return found


def _snapshot_after(offset: int, owner: WorkerProcess) -> int:
    """Wait for the next snapshot; returns its offset."""
    _wait(lambda: owner.newest_snapshot() > offset, "a snapshot", owner)
    return owner.newest_snapshot()


def _wait_for_prediction(offset: int, reader: Reader, *workers: WorkerProcess) -> None:
    _wait(lambda: reader.has_seen(offset), f"prediction {offset:,}", *workers)


def _recovery(killed_at: float, peer: WorkerProcess, reader: Reader) -> Recovery:
    found: list[Recovery] = []

    def is_over() -> bool:
        recovery = recovery_of(killed_at, peer.lines(), reader.seen)
        if recovery is not None:
            found.append(recovery)
        return recovery is not None

    _wait(is_over, "a prediction of the peer", peer)
    return found[0]


def _members(admin: AdminClient, group: str) -> int:
    """How many workers share the partitions; 0 while they are about to."""
    described = admin.describe_consumer_groups([group])[group].result(PATIENCE_SECONDS)
    return len(described.members) if described.state == ConsumerGroupState.STABLE else 0


def _wait(condition: Callable[[], bool], what: str, *workers: WorkerProcess) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        for worker in workers:
            if worker.process.poll() is not None:
                raise ChildFailedError(f"a worker ended with {worker.process.returncode}\n{worker.tail()}")
        if time.monotonic() > deadline:
            tails = "\n\n".join(worker.tail() for worker in workers)
            raise ChildFailedError(f"{what} did not come in {PATIENCE_SECONDS:.0f} s\n{tails}")
        time.sleep(0.05)


def _line(kill: int, recovery: Recovery) -> str:
    phases = ", ".join(f"{seconds:.2f}" for seconds in recovery.phases.values())
    return (
        f"kill {kill}: {recovery.predicted:.2f} s to the first new prediction ({phases}), {recovery.replayed:,} "
        f"records replayed, load average {os.getloadavg()[0]:.1f}"
    )


def recovery_p95(recoveries: Sequence[Recovery]) -> float:
    """Seconds."""
    return quantile(sorted(recovery.predicted for recovery in recoveries), 0.95)


def recovery_table(recoveries: Sequence[Recovery]) -> str:
    """The whole, and each part for itself: quantiles of parts do not add up to that of the whole."""
    parts = {"**from the kill to the first new prediction**": [item.predicted for item in recoveries]}
    for name in recoveries[0].phases:
        parts[name] = [item.phases[name] for item in recoveries]
    rows = [
        [name, *(f"{quantile(sorted(values), share):.2f}" for share in (0.5, 0.95, 1.0))]
        for name, values in parts.items()
    ]
    return table(("part", "p50 s", "p95 s", "largest s"), rows)
