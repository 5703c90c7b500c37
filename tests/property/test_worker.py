"""Promise 3: whatever dies, moves or goes unanswered, a reader has what an uninterrupted run writes.

And whatever snapshots go through, each one that opens is the fold at its offset, which is never beyond the commit.
"""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream import keyed
from stream.build import new_pipeline, worker_policy
from stream.checkpoint import CommitMetadata, state_shape
from stream.errors import FencedError, SnapshotError
from stream.snapshots import keeper as keeping
from stream.snapshots import segments as segmenting
from stream.snapshots.file import Fold, Tried, header_of, opened, pickled, sealed
from stream.snapshots.keeper import SnapshotKeeper, SnapshotPolicy, offset_of
from stream.snapshots.segments import reader
from stream.snapshots.store import newest_first
from stream.testing import (
    Crashed,
    Fault,
    ManualClock,
    MemoryCluster,
    MemoryLog,
    MemoryStore,
    Step,
    SteppedWorker,
)
from stream.worker import Worker
from tests.helpers import body, canonical, settings_for

PARTITIONS = 2
WORKERS = 3
#: This one writes its snapshots in the background, and late: whenever the schedule says so.
LATE_WRITER = 2
KEY = b"k" * 32
#: Snapshots are taken often and few are kept.
SNAPSHOTS = SnapshotPolicy(interval_seconds=5.0, interval_events=4, keep=2, max_bytes=1_000_000)
#: Where others may do something while a worker stands still.
PAUSES: tuple[Step, ...] = ("poll", "send_offsets", "commit")
SETTINGS = settings_for(
    "regression",
    learner={"use": "linear-regression"},
    topics={"events": "events", "outcomes": "outcomes"},
    event={"id_window": 4},
    labels={
        "expire_after_seconds": 20,
        "capacity": 3,
        "early_seconds": 15,
        "remember": 5,
        "conflict": "correct",
        "silence": -1.0,
    },
)


@dataclass(frozen=True)
class Append:
    """Records come."""

    partition: int
    count: int


@dataclass(frozen=True)
class Go:
    """A worker goes on, so many pauses far; one that is dead or has never been is started."""

    worker: int
    pauses: int


@dataclass(frozen=True)
class Crash:
    """A worker dies where it pauses."""

    worker: int


@dataclass(frozen=True)
class Stop:
    """A worker is told to stop."""

    worker: int


@dataclass(frozen=True)
class Fail:
    """A step of a worker will fail."""

    worker: int
    step: Step
    fault: Fault
    after: int


@dataclass(frozen=True)
class Rebalance:
    """Partitions go to these workers, as far as they are there."""

    owners: tuple[int, ...]
    stale: bool


@dataclass(frozen=True)
class Lose:
    """A worker's session times out."""

    worker: int


@dataclass(frozen=True)
class TimeOut:
    """A worker's transaction times out."""

    worker: int


Method = Literal["put", "get", "names", "segments", "delete"]
STORE_METHODS: tuple[Method, ...] = ("put", "get", "names", "segments", "delete")


@dataclass(frozen=True)
class StoreCrash:
    """A worker dies before a call of the snapshot store: before `get` is after `put`, or while it restores."""

    worker: int
    method: Method
    after: int


@dataclass(frozen=True)
class Store:
    """The snapshot store is well, its disk is full, or it is away."""

    state: Literal["well", "full", "away"]


@dataclass(frozen=True)
class Damage:
    """The newest snapshot of a partition is damaged, or one of its segments, if the partition can do without."""

    partition: int
    how: Literal["flip", "cut", "delete", "swap", "of another shape"]
    #: Which of its segments; None: the snapshot itself.
    segment: int | None = None


@dataclass(frozen=True)
class Truncate:
    """Retention deletes what is before the oldest snapshot that can be used."""

    partition: int


@dataclass(frozen=True)
class FinishWriting:
    """What a worker has begun to write in the background is written now, whatever has become of the worker."""


Action = (
    Append
    | Go
    | Crash
    | Stop
    | Fail
    | Rebalance
    | Lose
    | TimeOut
    | StoreCrash
    | Store
    | Damage
    | Truncate
    | FinishWriting
)

WORKER = st.integers(0, WORKERS - 1)
CRASHES = [Fault.CRASH_BEFORE, Fault.CRASH_AFTER]
RETRIABLE = [Fault.RETRIABLE_DONE, Fault.RETRIABLE_NOT_DONE]
#: The steps that fail, the ways in which they do, and how often they go well before.
FAILURES: list[tuple[Step, list[Fault], int]] = [
    ("commit", [Fault.ABORTABLE, Fault.FATAL, *RETRIABLE, *CRASHES], 2),
    ("send_offsets", [Fault.ABORTABLE, Fault.FATAL, *RETRIABLE, *CRASHES], 2),
    ("send", [Fault.FATAL, *CRASHES], 8),
    ("abort", [Fault.FATAL, *RETRIABLE, *CRASHES], 0),
    ("claim", [Fault.ABORTABLE, *RETRIABLE, *CRASHES], 1),
    ("committed", [*RETRIABLE, *CRASHES], 2),
    ("renew_producer", [*RETRIABLE, *CRASHES], 0),
    ("poll", CRASHES, 4),
    ("start", CRASHES, 1),
]
FAILS: st.SearchStrategy[Action] = st.one_of(
    *[
        st.builds(Fail, WORKER, st.just(step), st.sampled_from(faults), st.integers(0, after))
        for step, faults, after in FAILURES
    ]
)
ABORTS: st.SearchStrategy[Action] = st.builds(
    Fail, WORKER, st.sampled_from(["send_offsets", "commit"]), st.just(Fault.ABORTABLE), st.integers(0, 1)
)
GO: st.SearchStrategy[Action] = st.builds(Go, WORKER, st.integers(1, 8))
APPEND: st.SearchStrategy[Action] = st.builds(Append, st.integers(0, PARTITIONS - 1), st.integers(1, 12))
PARTITION = st.integers(0, PARTITIONS - 1)
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    GO,
    GO,
    GO,
    APPEND,
    APPEND,
    FAILS,
    ABORTS,
    st.builds(Rebalance, st.tuples(*[WORKER] * PARTITIONS), st.booleans()),
    st.builds(Crash, WORKER),
    st.builds(Stop, WORKER),
    st.builds(Lose, WORKER),
    st.builds(TimeOut, WORKER),
    st.builds(StoreCrash, WORKER, st.sampled_from(STORE_METHODS), st.integers(0, 4)),
    st.builds(Store, st.sampled_from(["well", "well", "full", "away"])),
    st.builds(Damage, PARTITION, st.sampled_from(["flip", "cut", "delete", "swap", "of another shape"])),
    st.builds(Damage, PARTITION, st.sampled_from(["flip", "cut", "delete", "swap"]), st.integers(0, 5)),
    st.builds(Truncate, PARTITION),
    st.just(FinishWriting()),
)


def value_of(partition: int, i: int) -> bytes:
    """Labelled events, questions, answers of every kind, garbage; each a function of its number."""
    x = {"a": (i * 7919 + partition) % 10, "b": i % 3}
    match i % 11:
        case 0 | 1:
            return body(id=i, features=x)
        case 2:
            return body(id=i, features=x, label=x["a"])
        case 3:
            return body(id=i - 3, label=x["a"])
        case 4:  # asked before
            return body(id=i - 3, features=x)
        case 5:
            return b"garbage"
        case 6 | 7:  # the second says something else
            return body(id=i - i % 11 + 1, label=i % 11)
        case 8:  # early
            return body(id=i + 3, label=x["b"])
        case 9:  # said before
            return body(id=i - 7, features=x, label=x["b"])
        case _:
            return body(features=x, label=x["a"] - x["b"])


@pytest.fixture(autouse=True, scope="module")
def small_segments() -> Iterator[None]:
    """Segments of two items, and writers that count as dead soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyed, "SEGMENT_ITEMS", 2)
        patch.setattr(keeping, "SWEEP_SECONDS", 5.0)
        patch.setattr(keeping, "UNNAMED_SECONDS", 10.0)
        patch.setattr(segmenting, "ORPHANED_SECONDS", 20.0)
        yield


class LateKeeper(SnapshotKeeper):
    """Nobody's time passes while it waits, so nothing is written meanwhile."""

    def wait(self, seconds: float) -> bool:
        return super().wait(0.0)


class Schedule:
    """A cluster, its workers, their snapshots, and what is done to them."""

    def __init__(self) -> None:
        self.clock = ManualClock(1_000.0)
        self.cluster = MemoryCluster(partitions=PARTITIONS, clock=self.clock)
        self.workers: dict[int, SteppedWorker] = {}
        self.oracles = [new_pipeline(SETTINGS) for _ in range(PARTITIONS)]
        self.expected: list[list[tuple[Any, ...]]] = [[] for _ in range(PARTITIONS)]
        #: The oracles' states by the next offset, pickled.
        self.states: list[dict[int, bytes]] = [{0: pickle.dumps(oracle.state)} for oracle in self.oracles]
        self.files: dict[str, bytes] = {}
        self.store: Literal["well", "full", "away"] = "well"
        self.store_crashes: dict[tuple[MemoryLog, Method], int] = {}
        self.writing: list[Callable[[], None]] = []
        #: What was found in the store so far: by name its content and whether it opens.
        self.looked_at: dict[str, tuple[list[bytes | None], bool]] = {}
        self.snapshots_seen = 0
        self.segments_seen = 0

    def do(self, action: Action) -> None:
        """Do it, and see that nobody saw what no uninterrupted run writes."""
        running = self.workers.get(action.worker) if hasattr(action, "worker") else None
        match action:
            case Append(partition, count):
                for i in range(count):
                    offset = self.cluster.append(partition, value_of(partition, i), key=b"%d" % i)
                    record = self.cluster.at(partition, offset)
                    assert record is not None
                    outputs = self.oracles[partition].process(record)
                    self.expected[partition] += [(record.timestamp, *output) for output in outputs]
                    self.states[partition][offset + 1] = pickle.dumps(self.oracles[partition].state)
                self.cluster.append_marker(partition)
            case Go(number, pauses):
                self._worker(number).step(pauses)
            case Crash() if running:
                running.crash()
            case Stop() if running:
                running.stop()
            case Fail(_, step, fault, after) if running:
                running.log.fail(step, fault, after=after)
            case Rebalance(owners, stale):
                target: dict[MemoryLog, list[int]] = {}
                for partition, number in enumerate(owners):
                    target.setdefault(self._worker(number).log, []).append(partition)
                self.cluster.assign(target, stale=stale)
            case Lose() if running and not running.has_ended:
                self.cluster.lose(running.log)
            case TimeOut() if running and running.log.is_member:
                self.cluster.end_transaction(running.log.writer)
            case StoreCrash(_, method, after) if running:
                self.store_crashes[running.log, method] = after
            case Store(state):
                self.store = state
            case Damage(partition, how, segment):
                if segment is None:
                    self.damage(partition, how)
                else:
                    self.damage_segment(partition, how, segment)
            case Truncate(partition):
                self.truncate(partition)
            case FinishWriting() if self.writing:
                self.writing.pop(0)()
        self.see_that_nothing_is_wrong()

    def _worker(self, number: int) -> SteppedWorker:
        """The running worker of that number, started if need be; it is a member at once."""
        worker = self.workers.get(number)
        if worker is None or worker.has_ended:
            log = MemoryLog(self.cluster, f"w-{number}", batch=5)
            worker = SteppedWorker(log, lambda should_stop: self._new(log, should_stop), pauses=PAUSES)
            self.workers[number] = worker
            worker.step()
        return worker

    def _new(self, log: MemoryLog, should_stop: Any, *, stop_at_end: bool = False) -> Worker:
        return Worker(
            log,
            worker_policy(SETTINGS, stop_at_end=stop_at_end),
            lambda: new_pipeline(SETTINGS),
            self._keeper(log),
            should_stop=should_stop,
            clock=self.clock,
            wall_clock=self.clock,
            sleep=self.clock.sleep,
        )

    # Snapshots --------------------------------------------------------------------------------------------------

    def _keeper(self, log: MemoryLog) -> SnapshotKeeper:
        store = MemoryStore()
        store.files = self.files

        def before(method: Any) -> None:
            ahead = self.store_crashes.get((log, method))
            if ahead is not None:
                self.store_crashes[log, method] = ahead - 1
                if ahead == 0:
                    log.crash()
                    raise Crashed(log.writer)
            if self.store == "away":
                raise OSError(errno.ETIMEDOUT, "timed out")
            if self.store == "full" and method == "put":
                raise OSError(errno.ENOSPC, "no space left on device")

        def write_later(job: Callable[[], None]) -> None:
            def write() -> None:
                with suppress(Crashed):
                    job()

            self.writing.append(write)

        store.before = before
        is_late = log.writer == f"w-{LATE_WRITER}"
        return LateKeeper(
            store,
            KEY,
            SNAPSHOTS,
            clock=self.clock,
            wall_clock=self.clock,
            cpu_clock=lambda: 0.0,
            blocks=lambda: 0,
            start=write_later if is_late else lambda job: job(),
        )

    def fold(self, partition: int, **changes: Any) -> Fold:
        commit = self.cluster.commits[partition]
        metadata = CommitMetadata.decode(commit.metadata, group="p", where="")
        return Fold(
            pipeline="p",
            topic="events",
            topic_id=self.cluster.topic_id,
            partition=partition,
            origin=metadata.origin,
            base="",
            shape=state_shape(SETTINGS) | changes,
        )

    def names(self, partition: int) -> list[str]:
        return newest_first([name for name in self.files if name.startswith(f"{partition}/")])

    def segments(self, name: str) -> list[str]:
        """The segments that a snapshot names; none if it is damaged."""
        try:
            return [segment for segment, _, _ in header_of(name, self.files[name], KEY)[0].segments]
        except SnapshotError:
            return []

    def usable(self, partition: int) -> list[int]:
        """Offsets of the snapshots that a partition could be restored from."""
        return [
            offset_of(name)
            for name in self.names(partition)
            if self.opens(name, partition) and offset_of(name) >= self.cluster.first(partition)
        ]

    def opens(self, name: str, partition: int) -> bool:
        """Whether it opens; if so it is what the oracle knew there, and not beyond the commit."""
        contents = [self.files.get(file) for file in (name, *self.segments(name))]
        known = self.looked_at.get(name)
        if known is None or known[0] != contents:
            self.looked_at[name] = contents, self._look(name, self.files[name], partition)
        return self.looked_at[name][1]

    def _look(self, name: str, content: bytes, partition: int) -> bool:
        assert partition in self.cluster.commits, f"{name} was taken before the first commit"
        try:
            read = reader(self._plain_store())
            header, state = opened(name, content, fold=self.fold(partition), key=KEY, trusted=(), read=read)
        except SnapshotError:
            return False
        self.snapshots_seen += 1
        self.segments_seen += len(header.segments)
        committed = self.cluster.commits[partition].next_offset
        assert header.origin <= header.next_offset <= committed, f"{name} is beyond the commit {committed}"
        expected = pickle.loads(self.states[partition][header.next_offset])
        assert canonical(state) == canonical(expected), f"{name} is not the fold at its offset"
        return True

    def damage(self, partition: int, how: str) -> None:
        names, others = self.names(partition), self.names(1 - partition)
        hurt = [(partition, names), *([(1 - partition, others)] if how == "swap" else [])]
        for number, of in hurt:
            if not of or (self.cluster.first(number) and len(self.usable(number)) < 2):
                return  # it could never go on
        newest = names[0]
        match how:
            case "flip":
                content = bytearray(self.files[newest])
                content[len(content) // 2] ^= 1
                self.files[newest] = bytes(content)
            case "cut":
                self.files[newest] = self.files[newest][: len(self.files[newest]) // 2]
            case "delete":
                del self.files[newest]
            case "swap":
                other = others[0]
                self.files[newest], self.files[other] = self.files[other], self.files[newest]
            case "of another shape":
                self.plant(partition)

    def damage_segment(self, partition: int, how: str, number: int) -> None:
        """All snapshots that name it are of no use then: unless the log reaches back, another one must be."""
        newest = [segment for name in self.names(partition)[:1] for segment in self.segments(name)]
        segments = [segment for segment in newest if segment in self.files]
        if not segments:
            return
        hurt = segments[number % len(segments)]
        names = self.names(partition)
        if self.cluster.first(partition) and not any(
            offset_of(name) in self.usable(partition) and hurt not in self.segments(name) for name in names
        ):
            return
        content = self.files[hurt]
        match how:
            case "flip":
                self.files[hurt] = content[:-1] + bytes([content[-1] ^ 1])
            case "cut":
                self.files[hurt] = content[:-1]
            case "delete":
                del self.files[hurt]
            case "swap":
                others = [other for name in names for other in self.segments(name)]
                self.files[hurt] = self.files.get(others[-1], b"")

    def _plain_store(self) -> MemoryStore:
        store = MemoryStore()
        store.files = self.files
        return store

    def plant(self, partition: int) -> None:
        """Beside the newest snapshot lies one that another version wrote, which has learned something else."""
        name = self.names(partition)[0]
        offset = offset_of(name)
        state = pickle.loads(self.states[1 - partition][0])
        other = sealed(
            pickled(state),
            Tried.of(state),
            self.fold(partition, river="0.1"),
            offset,
            key=KEY,
            wall_clock=0.0,
            version="0",
        )
        self.files[other.name] = other.content

    def truncate(self, partition: int) -> None:
        usable = self.usable(partition)
        reading = [
            worker.log.next_offset(partition)
            for worker in self.workers.values()
            if not worker.has_ended and not worker.log.is_dead
        ]
        if usable:
            first = min([usable[-1], *(offset for offset in reading if offset is not None)])
            self.cluster.truncate(partition, max(first, self.cluster.first(partition)))

    # What must hold ---------------------------------------------------------------------------------------------

    def found(self, partition: int) -> list[tuple[Any, ...]]:
        return [(item.timestamp, *item[:4]) for item in self.cluster.outputs(partition)]

    def see_that_nothing_is_wrong(self) -> None:
        for worker in self.workers.values():
            error = None if worker.log.is_dead else worker.error
            if error is not None and not isinstance(error, FencedError):
                raise error
        for partition in range(PARTITIONS):
            # Topic by topic: an open transaction holds back one and not the other.
            found, expected = self.found(partition), self.expected[partition]
            for to in ("predictions", "outcomes", "dead_letters"):
                seen = [item for item in found if item[1] == to]
                assert seen == [item for item in expected if item[1] == to][: len(seen)]
            for name in self.names(partition):
                self.opens(name, partition)

    def finish(self) -> None:
        """Kill all, let one worker go on to the end, and compare every byte."""
        for worker in self.workers.values():
            worker.crash()
        self.store = "well"
        log = MemoryLog(self.cluster, "w-last")
        self.cluster.assign({log: range(PARTITIONS)})
        self._new(log, lambda: False, stop_at_end=True).run()
        self.cluster.end_all_transactions()
        for partition in range(PARTITIONS):
            assert self.found(partition) == self.expected[partition]
        self.see_that_nothing_is_wrong()


def run(actions: list[Action]) -> None:
    schedule = Schedule()
    try:
        for action in actions:
            schedule.do(action)
        schedule.finish()
    finally:
        for worker in schedule.workers.values():
            worker.crash()


BEGIN: list[Action] = [Append(0, 12), Append(1, 12), Rebalance((0, 1), False), Go(0, 6), Go(1, 6)]


SCHEDULES = st.lists(ACTIONS, min_size=3, max_size=30)


@given(SCHEDULES)
@settings(max_examples=60)
@example([Fail(0, "commit", Fault.RETRIABLE_NOT_DONE, 0), Append(0, 5), Go(0, 3), TimeOut(0), Go(0, 8)])
@example(
    [
        Fail(0, "send_offsets", Fault.CRASH_AFTER, 0),
        Append(0, 5),
        Go(0, 3),
        Rebalance((2, 1), False),
        Go(2, 8),
    ]
)
@example(
    [Append(0, 9), Fail(0, "commit", Fault.FATAL, 0), Rebalance((1, 0), True), Go(0, 4), Go(1, 8), Go(0, 8)]
)
@example([Append(1, 9), Lose(1), Rebalance((0, 0), False), Go(0, 8), Go(1, 8)])
@example([Append(0, 9), Lose(0), Go(0, 20)])
@example([Append(0, 9), Fail(0, "commit", Fault.ABORTABLE, 0), Go(0, 20), Append(0, 9), Go(0, 20)])
@example(
    [Append(0, 20), Go(0, 2), Lose(0), Append(0, 5), Rebalance((1, 1), False), Go(1, 9), Go(0, 9), Go(1, 9)]
)
@example([Append(0, 9), Go(0, 8), Damage(0, "flip"), Crash(0), Rebalance((1, 1), False), Go(1, 9)])
@example(
    [Append(0, 9), Go(0, 8), Truncate(0), Damage(0, "cut"), Crash(0), Rebalance((1, 1), False), Go(1, 9)]
)
@example(
    [Append(0, 9), Append(1, 9), Go(0, 8), Go(1, 8), Damage(0, "swap"), Rebalance((1, 0), False), Go(0, 9)]
)
@example(
    [Append(0, 9), Go(0, 8), Damage(0, "of another shape"), Rebalance((1, 1), False), Go(0, 2), Go(1, 9)]
)
@example([StoreCrash(0, "get", 0), Append(0, 9), Go(0, 8), Rebalance((1, 1), False), Go(1, 9)])
@example(
    [
        Rebalance((2, 2), False),
        Go(0, 2),
        Go(2, 9),
        Rebalance((0, 0), False),
        Go(2, 2),
        Go(0, 9),
        FinishWriting(),
    ]
)
@example(
    [
        Append(0, 12),
        Go(0, 12),
        Damage(0, "delete", 0),
        Append(0, 12),
        Go(0, 12),
        Crash(0),
        Rebalance((1, 1), False),
        Go(1, 9),
    ]
)
@example([Append(0, 9), Go(0, 8), Store("away"), Crash(0), Rebalance((1, 1), False), Go(1, 9), Store("well")])
def test_any_schedule_of_crashes_and_rebalances_writes_what_an_uninterrupted_run_writes(
    actions: list[Action],
) -> None:
    run(BEGIN + actions)


@pytest.mark.full
@given(SCHEDULES)
@settings(max_examples=2_000, print_blob=True)
def test_two_thousand_schedules(actions: list[Action]) -> None:
    run(BEGIN + actions)


def test_schedules_do_take_snapshots() -> None:
    """Or the others would prove nothing."""
    schedule = Schedule()
    for action in [*BEGIN, Append(0, 20), Go(0, 20), Go(1, 20)]:
        schedule.do(action)
    try:
        assert schedule.snapshots_seen >= 4
        assert schedule.segments_seen >= 4
        assert schedule.usable(0)
        assert schedule.usable(1)
    finally:
        for worker in schedule.workers.values():
            worker.crash()
