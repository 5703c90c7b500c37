"""Promise 3: whatever dies, moves or goes unanswered, a reader has what an uninterrupted run writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream.build import new_pipeline, worker_policy
from stream.errors import FencedError
from stream.testing import Fault, ManualClock, MemoryCluster, MemoryLog, Step, SteppedWorker
from stream.worker import Worker
from tests.helpers import body, settings_for

PARTITIONS = 2
WORKERS = 3
#: Where others may do something while a worker stands still.
PAUSES: tuple[Step, ...] = ("poll", "send_offsets", "commit")
SETTINGS = settings_for(
    "regression",
    learner={"use": "linear-regression"},
    topics={"events": "events", "outcomes": "outcomes"},
    labels={"expire_after_seconds": 20, "capacity": 3},
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


Action = Append | Go | Crash | Stop | Fail | Rebalance | Lose | TimeOut

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
)


def value_of(partition: int, i: int) -> bytes:
    """Labelled events, questions, answers, garbage; each a function of its number."""
    x = {"a": (i * 7919 + partition) % 10, "b": i % 3}
    match i % 7:
        case 0 | 1:
            return body(id=i, features=x)
        case 3 | 5:
            return body(id=i - 3, label=x["a"])
        case 6:
            return b"garbage"
        case _:
            return body(features=x, label=x["a"] - x["b"])


class Schedule:
    """A cluster, its workers, and what is done to them."""

    def __init__(self) -> None:
        self.clock = ManualClock(1_000.0)
        self.cluster = MemoryCluster(partitions=PARTITIONS, clock=self.clock)
        self.workers: dict[int, SteppedWorker] = {}
        self.oracles = [new_pipeline(SETTINGS) for _ in range(PARTITIONS)]
        self.expected: list[list[tuple[Any, ...]]] = [[] for _ in range(PARTITIONS)]

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
            should_stop=should_stop,
            clock=self.clock,
            wall_clock=self.clock,
            sleep=self.clock.sleep,
        )

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

    def finish(self) -> None:
        """Kill all, let one worker go on to the end, and compare every byte."""
        for worker in self.workers.values():
            worker.crash()
        log = MemoryLog(self.cluster, "w-last")
        self.cluster.assign({log: range(PARTITIONS)})
        self._new(log, lambda: False, stop_at_end=True).run()
        self.cluster.end_all_transactions()
        for partition in range(PARTITIONS):
            assert self.found(partition) == self.expected[partition]


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


@given(st.lists(ACTIONS, min_size=3, max_size=30))
@settings(max_examples=100)
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
def test_any_schedule_of_crashes_and_rebalances_writes_what_an_uninterrupted_run_writes(
    actions: list[Action],
) -> None:
    run(BEGIN + actions)
