"""Promise 3: whatever dies, moves or goes unanswered, a reader has what an uninterrupted run writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream.build import new_pipeline, worker_policy
from stream.testing import Fault, ManualClock, MemoryCluster, MemoryLog, Step, SteppedWorker
from stream.worker import Worker
from tests.helpers import body, settings_for

PARTITIONS = 2
WORKERS = 3
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
    """A worker does so many polls; one that is dead or has never been is started."""

    worker: int
    polls: int


@dataclass(frozen=True)
class Crash:
    """A worker dies between two polls."""

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
FAILS = st.one_of(
    st.builds(
        Fail,
        WORKER,
        st.sampled_from(["send_offsets", "commit"]),
        st.sampled_from(list(Fault)),
        st.integers(0, 2),
    ),
    st.builds(
        Fail,
        WORKER,
        st.just("claim"),
        st.sampled_from([Fault.RETRIABLE_DONE, Fault.RETRIABLE_NOT_DONE, Fault.ABORTABLE, *CRASHES]),
        st.integers(0, 1),
    ),
    st.builds(Fail, WORKER, st.just("send"), st.sampled_from([Fault.FATAL, *CRASHES]), st.integers(0, 8)),
    st.builds(Fail, WORKER, st.just("abort"), st.sampled_from([Fault.FATAL, *CRASHES]), st.just(0)),
    st.builds(
        Fail,
        WORKER,
        st.sampled_from(["poll", "committed", "start", "renew_producer"]),
        st.sampled_from(CRASHES),
        st.integers(0, 2),
    ),
)
OWNERS = st.tuples(*[WORKER] * PARTITIONS)
GO = st.builds(Go, WORKER, st.integers(1, 4))
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    GO,
    GO,
    st.builds(Append, st.integers(0, PARTITIONS - 1), st.integers(1, 12)),
    FAILS,
    st.builds(Rebalance, OWNERS, st.booleans()),
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
            case Go(number, polls):
                self._worker(number).step(polls)
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
        # Time passes, so that being fenced now and then does not count as being fenced again and again.
        self.clock.sleep(21.0)
        self.see_that_nothing_is_wrong()

    def _worker(self, number: int) -> SteppedWorker:
        """The running worker of that number, started if need be; it is a member at once."""
        worker = self.workers.get(number)
        if worker is None or worker.has_ended:
            log = MemoryLog(self.cluster, f"w-{number}", batch=5)
            worker = self.workers[number] = SteppedWorker(
                log, lambda should_stop: self._new(log, should_stop)
            )
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
            if worker.has_ended and not worker.log.is_dead and worker.error is not None:
                raise worker.error
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


BEGIN: list[Action] = [Append(0, 12), Append(1, 12), Rebalance((0, 1), False), Go(0, 3), Go(1, 3)]


@given(st.lists(ACTIONS, max_size=25))
@settings(max_examples=100)
@example([Fail(0, "commit", Fault.RETRIABLE_NOT_DONE, 0), TimeOut(0), Go(0, 4)])
@example(
    [
        Fail(0, "send_offsets", Fault.CRASH_AFTER, 0),
        Append(0, 5),
        Go(0, 3),
        Rebalance((2, 1), False),
        Go(2, 5),
    ]
)
@example(
    [Append(0, 9), Fail(0, "commit", Fault.FATAL, 0), Rebalance((1, 0), True), Go(0, 2), Go(1, 4), Go(0, 4)]
)
@example([Append(1, 9), Lose(1), Rebalance((0, 0), False), Go(0, 4), Go(1, 3)])
def test_any_schedule_of_crashes_and_rebalances_writes_what_an_uninterrupted_run_writes(
    actions: list[Action],
) -> None:
    run(BEGIN + actions)
