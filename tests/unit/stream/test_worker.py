from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from river import base

from stream.build import new_pipeline, worker_policy
from stream.checkpoint import CommitMetadata
from stream.errors import (
    DeadLetterBudgetSpent,
    EnvironmentRefused,
    FencedError,
    ResourcesExhausted,
    in_a_line,
)
from stream.health import PartitionFacts, WorkerFacts
from stream.log import Committed
from stream.patience import STOPPING_PATIENCE
from stream.pipeline import Pipeline
from stream.records import Output, Record
from stream.settings import Settings
from stream.testing import Fault, ManualClock, MemoryCluster, MemoryLog, Step, SteppedWorker
from stream.worker import NOTHING_TO_DO, RECORDS_A_LOOK, Worker
from tests.helpers import body, fold, settings_for

SETTINGS = settings_for(topics={"events": "events", "outcomes": "outcomes"})


def feed(cluster: MemoryCluster, partition: int, rows: int, *, first: int = 0) -> None:
    """Labelled events, questions with late answers, and garbage, all of them a function of their number."""
    for i in range(first, first + rows):
        rng = random.Random(f"{partition}-{i}")
        x = {"a": rng.random(), "b": rng.random()}
        match i % 6:
            case 0:
                value = body(id=i, features=x)
            case 3:
                value = body(id=i - 3, label=x["a"] > 0.5)
            case 5 if i % 4 == 1:
                value = b"garbage"
            case _:
                value = body(features=x, label=x["a"] > 0.5)
        cluster.append(partition, value, key=b"k%d" % i)


def expected(cluster: MemoryCluster, partition: int, settings: Settings = SETTINGS) -> list[tuple[Any, ...]]:
    """The outputs of an uninterrupted run over all records of a partition."""
    return [(at, *output) for at, output in fold(settings, cluster.records(partition))]


def found(cluster: MemoryCluster, partition: int) -> list[tuple[Any, ...]]:
    """What a `read_committed` reader has of a partition."""
    return [(item.timestamp, *item[:4]) for item in cluster.outputs(partition)]


class Counting:
    """Makes pipelines and counts what their learners are asked."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self.made = 0
        self.processed: list[Record] = []

    def __call__(self) -> Pipeline:
        self.made += 1
        pipeline = new_pipeline(self.settings)
        process = pipeline.process

        def counted(record: Record) -> Sequence[Output]:
            self.processed.append(record)
            return process(record)

        pipeline.process = counted  # type: ignore[method-assign]  # only to count
        return pipeline


def new_worker(
    log: MemoryLog,
    *,
    settings: Settings = SETTINGS,
    stop_at_end: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    pipelines: Callable[[], Pipeline] | None = None,
    report: Callable[[WorkerFacts], None] | None = None,
) -> Worker:
    clock = log.cluster.clock
    return Worker(
        log,
        worker_policy(settings, stop_at_end=stop_at_end),
        pipelines or (lambda: new_pipeline(settings)),
        should_stop=should_stop,
        clock=clock,
        wall_clock=clock,
        sleep=clock.sleep,
        report=report,
    )


def run_to_end(cluster: MemoryCluster, log: MemoryLog | None = None, **arguments: Any) -> MemoryLog:
    """One worker that is alone with all partitions and stops at the end."""
    log = log or MemoryLog(cluster)
    cluster.assign({log: range(cluster.partition_count)})
    new_worker(log, stop_at_end=True, **arguments).run()
    return log


def stepped(cluster: MemoryCluster, writer: str = "w-0", batch: int = 10, **arguments: Any) -> SteppedWorker:
    log = MemoryLog(cluster, writer, batch=batch)
    return SteppedWorker(log, lambda should_stop: new_worker(log, should_stop=should_stop, **arguments))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000.0)


@pytest.fixture
def cluster(clock: ManualClock) -> MemoryCluster:
    return MemoryCluster(partitions=1, clock=clock)


@pytest.fixture
def pair(clock: ManualClock) -> MemoryCluster:
    return MemoryCluster(partitions=2, clock=clock)


# 1: begin -------------------------------------------------------------------------------------------------------


def test_the_origin_is_committed_before_any_output(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 20)

    log = run_to_end(cluster)

    assert log.calls.index("claim") < log.calls.index("start") < log.calls.index("send")
    assert found(cluster, 0) == expected(cluster, 0)


def test_a_crash_right_after_the_claim_leaves_the_origin_and_no_output(cluster: MemoryCluster) -> None:
    cluster.truncate(0, 0)
    feed(cluster, 0, 20)
    worker = stepped(cluster)
    cluster.assign({worker.log: [0]})
    worker.log.fail("claim", Fault.CRASH_AFTER)

    worker.step(5)

    assert worker.has_ended
    assert cluster.commits[0].next_offset == 0
    assert not cluster.has_outputs(0)


@pytest.mark.parametrize(
    ("start", "origin"),
    [
        ("earliest", 5),
        ("latest", 20),
        (datetime.fromtimestamp(12, UTC), 12),
        (datetime.fromtimestamp(11.5, UTC), 12),
        (datetime.fromtimestamp(99, UTC), 20),
    ],
)
def test_a_new_pipeline_begins_where_the_settings_say(
    cluster: MemoryCluster, start: str | datetime, origin: int
) -> None:
    feed(cluster, 0, 20)
    cluster.truncate(0, 5)
    settings = settings_for(topics={"events": "events", "start": start})

    run_to_end(cluster, settings=settings)

    metadata = CommitMetadata.decode(cluster.commits[0].metadata, group="p", where="")
    assert metadata.origin == origin
    assert found(cluster, 0) == [
        (at, *output) for at, output in fold(settings, cluster.records(0)[origin - 5 :])
    ]


def test_latest_is_used_once_and_a_restart_goes_on_from_the_origin(cluster: MemoryCluster) -> None:
    settings = settings_for(topics={"events": "events", "start": "latest"})
    feed(cluster, 0, 10)
    run_to_end(cluster, settings=settings)

    feed(cluster, 0, 10, first=10)
    run_to_end(cluster, settings=settings)

    assert found(cluster, 0) == [(at, *output) for at, output in fold(settings, cluster.records(0)[10:])]


def test_outputs_without_a_commit_are_refused(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 10)
    run_to_end(cluster)
    written = found(cluster, 0)
    cluster.commits.clear()

    with pytest.raises(
        EnvironmentRefused, match=r"events\[0\]: group 'p' has no committed offset, but there are"
    ):
        run_to_end(cluster)

    assert found(cluster, 0) == written


def test_a_claim_without_an_answer_is_looked_up_again(cluster: MemoryCluster) -> None:
    for fault in (Fault.RETRIABLE_DONE, Fault.RETRIABLE_NOT_DONE, Fault.ABORTABLE):
        cluster = MemoryCluster(partitions=1, clock=cluster.clock)
        feed(cluster, 0, 20)
        log = MemoryLog(cluster)
        log.fail("claim", fault)

        run_to_end(cluster, log)

        assert found(cluster, 0) == expected(cluster, 0)


# 5: restore -----------------------------------------------------------------------------------------------------


def commit_as_if(cluster: MemoryCluster, **changes: Any) -> None:
    """Change the metadata of the last commit."""
    committed = cluster.commits[0]
    metadata = orjson.loads(committed.metadata) | changes
    cluster.commits[0] = Committed(committed.next_offset, orjson.dumps(metadata).decode())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pipeline": "other"}, r"the commit is of pipeline 'other', not 'p'"),
        (
            {"topic_id": "topic-0"},
            r"the topic was deleted and created again since \(id topic-0, now topic-1\)",
        ),
        ({"partitions": 3}, r"the topic had 3 partitions at the origin and has 1 now"),
        ({"format": 2}, r"the commit has format 2; this version reads 1"),
        ({"format": 2, "epoch": 7}, r"the commit has format 2; this version reads 1"),
        (
            {"shape": {}},
            r"this has changed since the state began: drift, event, events, labels, learner",
        ),
    ],
)
def test_a_commit_made_under_other_circumstances_is_refused(
    cluster: MemoryCluster, changes: dict[str, Any], sentence: str
) -> None:
    feed(cluster, 0, 10)
    run_to_end(cluster)
    written = found(cluster, 0)
    commit_as_if(cluster, **changes)

    with pytest.raises(EnvironmentRefused, match=rf"^events\[0\]: .*{sentence}"):
        run_to_end(cluster)

    assert found(cluster, 0) == written


@pytest.mark.parametrize("metadata", ["", "leader", "{}", "[1]", '{"format": "x"}', "\x00"])
def test_a_commit_that_somebody_else_made_is_refused(cluster: MemoryCluster, metadata: str) -> None:
    feed(cluster, 0, 10)
    run_to_end(cluster)
    cluster.commits[0] = Committed(3, metadata)

    with pytest.raises(
        EnvironmentRefused, match=r"events\[0\]: group 'p' has a committed offset that Headrace did"
    ):
        run_to_end(cluster)


def test_changed_settings_are_refused_by_the_name_of_their_section(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 10)
    run_to_end(cluster)
    changed = settings_for(learner={"use": "logistic-regression", "parameters": {"l2": 0.5}})

    with pytest.raises(EnvironmentRefused, match=r"changed since the state began: learner\. "):
        run_to_end(cluster, settings=changed)


def test_settings_that_shape_no_state_may_change(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 10)
    run_to_end(cluster)
    feed(cluster, 0, 10, first=10)
    changed = settings_for(
        topics={"events": "events", "outcomes": "outcomes"},
        worker={"commit_interval_ms": 50, "instance": "b"},
    )

    run_to_end(cluster, settings=changed)

    assert found(cluster, 0) == expected(cluster, 0)


def test_a_log_truncated_past_the_origin_is_refused(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 20)
    run_to_end(cluster)
    cluster.truncate(0, 4)

    with pytest.raises(EnvironmentRefused, match=r"the log now begins at 4, but the state began at 0"):
        run_to_end(cluster)


def test_a_commit_beyond_the_end_is_refused(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 20)
    run_to_end(cluster)
    cluster.lose_records_from(0, 15)

    with pytest.raises(EnvironmentRefused, match=r"committed up to 20, but the log ends at 15"):
        run_to_end(cluster)


def test_replay_is_silent_and_a_restart_writes_what_an_uninterrupted_run_would(
    cluster: MemoryCluster,
) -> None:
    feed(cluster, 0, 30)
    run_to_end(cluster)
    before = found(cluster, 0)

    idle = run_to_end(cluster)

    assert "send" not in idle.calls
    assert "commit" not in idle.calls
    assert found(cluster, 0) == before

    feed(cluster, 0, 30, first=30)
    run_to_end(cluster)

    assert found(cluster, 0) == expected(cluster, 0)


def test_control_records_in_the_log_change_nothing(cluster: MemoryCluster) -> None:
    for i in range(10):
        feed(cluster, 0, 3, first=3 * i)
        cluster.append_marker(0)

    run_to_end(cluster)
    cluster.append_marker(0)
    run_to_end(cluster)

    assert found(cluster, 0) == expected(cluster, 0)
    assert cluster.commits[0].next_offset == 39


def test_records_behind_an_open_transaction_are_not_read_before_it_ends(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 10)
    cluster.hold(0)
    feed(cluster, 0, 10, first=10)

    run_to_end(cluster)
    assert cluster.commits[0].next_offset == 10

    cluster.release(0)
    run_to_end(cluster)
    assert found(cluster, 0) == expected(cluster, 0)


def test_a_dead_writers_open_transaction_is_ended_by_its_successor(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 20)
    first = stepped(cluster, "w-0", batch=5)
    cluster.assign({first.log: [0]})
    first.step(4)
    feed(cluster, 0, 10, first=20)
    first.log.fail("commit", Fault.CRASH_BEFORE)
    first.step(10)
    assert first.has_ended
    part = found(cluster, 0)

    run_to_end(cluster, MemoryLog(cluster, "w-1"))

    assert len(part) < len(expected(cluster, 0))
    assert found(cluster, 0) == expected(cluster, 0)


def test_a_takeover_is_committed_under_the_new_name_before_any_output(cluster: MemoryCluster) -> None:
    """Else the successor of a worker that died before its first commit would fence the one before, which lives."""
    feed(cluster, 0, 10)
    run_to_end(cluster, MemoryLog(cluster, "w-0"))
    feed(cluster, 0, 10, first=10)
    second = stepped(cluster, "w-1")
    cluster.assign({second.log: [0]})
    second.log.fail("send", Fault.CRASH_BEFORE)

    second.step(10)

    assert second.has_ended
    committed = cluster.commits[0]
    assert committed.next_offset == 10
    assert CommitMetadata.decode(committed.metadata, group="p", where="events[0]").writer == "w-1"


def test_a_restart_under_the_same_name_commits_nothing_before_its_first_output(
    cluster: MemoryCluster,
) -> None:
    feed(cluster, 0, 10)
    run_to_end(cluster, MemoryLog(cluster, "w-0"))

    again = run_to_end(cluster, MemoryLog(cluster, "w-0"))

    assert "claim" not in again.calls


# 2, 3: process and commit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.RETRIABLE_DONE, Fault.RETRIABLE_NOT_DONE])
@pytest.mark.parametrize("step", ["send_offsets", "commit"])
def test_a_commit_without_an_answer_is_called_again_and_never_aborted(
    cluster: MemoryCluster, step: Step, fault: Fault
) -> None:
    feed(cluster, 0, 20)
    log = MemoryLog(cluster)
    for _ in range(3):
        log.fail(step, fault)

    run_to_end(cluster, log)

    assert "abort" not in log.calls
    assert log.calls.count(step) >= 4
    assert found(cluster, 0) == expected(cluster, 0)


@pytest.mark.parametrize("step", ["send_offsets", "commit"])
def test_an_aborted_transaction_is_sent_again_without_asking_the_model_again(
    cluster: MemoryCluster, step: Step
) -> None:
    feed(cluster, 0, 40)
    log = MemoryLog(cluster, batch=10)
    log.fail(step, Fault.ABORTABLE)
    log.fail(step, Fault.ABORTABLE)
    pipelines = Counting()

    run_to_end(cluster, log, pipelines=pipelines)

    assert [item.offset for item in pipelines.processed] == list(range(40))
    assert pipelines.made == 1
    at = log.calls.index("abort")
    assert log.calls[at + 1] == "committed"
    assert log.calls[at + 2] == "send"
    assert found(cluster, 0) == expected(cluster, 0)


def test_an_aborted_transaction_is_not_sent_again_when_another_has_gone_on(cluster: MemoryCluster) -> None:
    """The session ends between a poll and the commit, so the commit is the first to know."""
    feed(cluster, 0, 10)
    pipelines = Counting()
    log = MemoryLog(cluster, "w-0")
    first = SteppedWorker(
        log,
        lambda should_stop: new_worker(log, should_stop=should_stop, pipelines=pipelines),
        pauses=("poll", "send"),
    )
    cluster.assign({log: [0]})
    first.step(3)
    assert log.calls[-1] == "poll", "about to send, in no transaction that its successor could end"
    cluster.lose(log)
    second = MemoryLog(cluster, "w-1")
    run_to_end(cluster, second)
    assert cluster.commits[0].next_offset == 10

    while "abort" not in log.calls:
        first.step()
    first.step()
    first.crash()

    assert found(cluster, 0) == expected(cluster, 0)
    at = log.calls.index("abort")
    assert log.calls[at + 1] == "committed"
    assert "send" not in log.calls[at:]


def test_a_fenced_producer_is_replaced_and_the_state_restored_by_a_silent_replay(
    cluster: MemoryCluster,
) -> None:
    for step in ("send", "send_offsets", "commit"):
        cluster = MemoryCluster(partitions=1, clock=cluster.clock)
        feed(cluster, 0, 40)
        log = MemoryLog(cluster, batch=10)
        log.fail(step, Fault.FATAL, after=1)
        pipelines = Counting()

        run_to_end(cluster, log, pipelines=pipelines)

        assert log.calls.count("renew_producer") == 1
        assert pipelines.made == 2
        assert found(cluster, 0) == expected(cluster, 0)


def test_a_transaction_that_ran_out_of_time_is_done_again(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 30)
    worker = stepped(cluster, batch=10)
    cluster.assign({worker.log: [0]})
    worker.log.fail("commit", Fault.RETRIABLE_NOT_DONE)
    worker.step(2)
    cluster.end_transaction("w-0")
    worker.step(8)
    worker.stop()

    assert worker.error is None
    assert "renew_producer" in worker.log.calls
    assert found(cluster, 0) == expected(cluster, 0)


def test_the_fourth_fencing_within_a_minute_ends_the_worker(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 20)
    log = MemoryLog(cluster)
    for _ in range(4):
        log.fail("commit", Fault.FATAL)

    with pytest.raises(
        FencedError, match=r"another process uses the transactional id 'w-0' \(fenced 4 times"
    ):
        run_to_end(cluster, log)

    assert found(cluster, 0) == []


def test_four_fencings_in_more_than_a_minute_do_not_end_the_worker(
    cluster: MemoryCluster, clock: ManualClock
) -> None:
    feed(cluster, 0, 20)
    log = MemoryLog(cluster)
    for _ in range(8):
        log.fail("commit", Fault.FATAL)
    log.before_step = lambda step: clock.sleep(25.0) if step == "poll" else None

    run_to_end(cluster, log)

    assert found(cluster, 0) == expected(cluster, 0)


def test_a_worker_told_to_stop_gives_up_on_a_broker_that_never_answers(
    cluster: MemoryCluster, clock: ManualClock
) -> None:
    feed(cluster, 0, 20)
    log = MemoryLog(cluster)
    for _ in range(1_000):
        log.fail("commit", Fault.RETRIABLE_NOT_DONE)
    cluster.assign({log: [0]})
    began = clock()

    new_worker(log, should_stop=lambda: clock() > began + 5).run()

    assert STOPPING_PATIENCE <= clock() - began <= STOPPING_PATIENCE + 10
    assert found(cluster, 0) == []


def longest_transaction(log: MemoryLog) -> int:
    """Most records whose outputs were sent between two commits."""
    longest = current = 0
    for step in log.calls:
        current = 0 if step == "commit" else current + (step == "send")
        longest = max(longest, current)
    return longest


def test_a_transaction_has_a_bounded_number_of_records(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.worker.MOST_RECORDS_A_COMMIT", 250)
    for i in range(1_000):
        cluster.append(0, body(features={"a": i}))

    log = run_to_end(cluster, MemoryLog(cluster, batch=100))

    # Time stands still and polls are full: nothing else makes a commit due.
    assert 200 < longest_transaction(log) <= 260
    assert found(cluster, 0) == expected(cluster, 0)


def test_a_transaction_has_bounded_bytes_of_dead_letters(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.worker.MOST_OPEN_BYTES", 10_000)
    for _ in range(400):
        cluster.append(0, b"x" * 100)

    log = run_to_end(cluster, MemoryLog(cluster, batch=100))

    assert 100 <= longest_transaction(log) < 120
    assert len(cluster.outputs(0, "dead_letters")) == 400


def test_a_slow_learner_commits_within_a_poll_of_many_records(
    cluster: MemoryCluster, clock: ManualClock
) -> None:
    """A transaction stays open about as long as the commit interval, not as long as a thousand slow predictions."""
    feed(cluster, 0, 1_000)
    opened: list[float] = []
    log = MemoryLog(cluster)

    def slow() -> Pipeline:
        pipeline = new_pipeline(SETTINGS)
        process = pipeline.process

        def slowly(record: Record) -> Sequence[Output]:
            clock.sleep(0.02)
            return process(record)

        pipeline.process = slowly  # type: ignore[method-assign]  # to be slow
        return pipeline

    commit = log.commit

    def timed_commit() -> None:
        opened.append(clock())
        commit()

    log.commit = timed_commit  # type: ignore[method-assign]  # to see when

    run_to_end(cluster, log, pipelines=slow)

    gaps = [later - earlier for earlier, later in itertools.pairwise(opened)]
    assert max(gaps) < 5.0
    assert found(cluster, 0) == expected(cluster, 0)


def test_a_learner_that_takes_seconds_for_an_event_commits_before_its_transaction_runs_out_of_time(
    cluster: MemoryCluster, clock: ManualClock
) -> None:
    """The broker ends a transaction after ten seconds: then nothing would ever be committed."""
    feed(cluster, 0, 40)
    log = MemoryLog(cluster)
    open_since: float | None = None

    def before(step: Step) -> None:
        nonlocal open_since
        if step == "send" and open_since is None:
            open_since = clock()
        if step == "commit":
            assert open_since is not None
            assert clock() - open_since < 10.0
            open_since = None

    def slow() -> Pipeline:
        pipeline = new_pipeline(SETTINGS)
        process = pipeline.process

        def slowly(record: Record) -> Sequence[Output]:
            clock.sleep(3.0)
            return process(record)

        pipeline.process = slowly  # type: ignore[method-assign]  # to be slow
        return pipeline

    log.before_step = before
    run_to_end(cluster, log, pipelines=slow)

    assert found(cluster, 0) == expected(cluster, 0)


def test_a_slow_learner_tells_how_far_it_is_within_a_poll_of_many_records(
    cluster: MemoryCluster, clock: ManualClock
) -> None:
    """Whoever watches would take a worker that says nothing for a whole poll for dead."""
    feed(cluster, 0, 200)

    def slow() -> Pipeline:
        pipeline = new_pipeline(SETTINGS)
        process = pipeline.process

        def slowly(record: Record) -> Sequence[Output]:
            clock.sleep(1.0)
            return process(record)

        pipeline.process = slowly  # type: ignore[method-assign]  # to be slow
        return pipeline

    run_to_end(cluster, pipelines=slow)

    told = [orjson.loads(status) for _, status in cluster.statuses]
    reached = [status["offset"] for status in told]
    assert max(later - earlier for earlier, later in itertools.pairwise([0, *reached])) <= RECORDS_A_LOOK
    assert all(status["lag_records"] == 200 - status["offset"] for status in told)


def test_records_without_outputs_are_committed_too(cluster: MemoryCluster) -> None:
    for i in range(10):
        cluster.append(0, body(id=i, label=True))  # answers to nothing

    run_to_end(cluster, settings=settings_for())

    assert cluster.commits[0].next_offset == 10
    assert cluster.outputs(0) == []


def test_a_poll_that_comes_back_empty_commits_at_once(cluster: MemoryCluster, clock: ManualClock) -> None:
    worker = stepped(cluster)
    cluster.assign({worker.log: [0]})
    worker.step(3)
    feed(cluster, 0, 1)
    before = clock()

    worker.step(2)

    assert len(found(cluster, 0)) == 1
    assert clock() - before < 0.25
    worker.stop()


def raising(error: BaseException, offset: int) -> Callable[[], Pipeline]:
    """Pipelines that raise on the record at an offset."""

    def failing() -> Pipeline:
        pipeline = new_pipeline(SETTINGS)
        process = pipeline.process

        def fail(record: Record) -> Sequence[Output]:
            if record.offset == offset:
                raise error
            return process(record)

        pipeline.process = fail  # type: ignore[method-assign]  # to fail
        return pipeline

    return failing


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(28, "No space left on device"), RecursionError("x")]
)
def test_an_error_that_is_no_records_fault_stops_the_worker_and_commits_nothing_of_it(
    cluster: MemoryCluster, error: Exception
) -> None:
    feed(cluster, 0, 8)

    sentence = rf"^events\[0\]@4: processing this record ended with {re.escape(in_a_line(error))}\. "
    with pytest.raises(ResourcesExhausted, match=sentence) as caught:
        run_to_end(cluster, pipelines=raising(error, 4))
    assert caught.value.__cause__ is error
    assert found(cluster, 0) == []

    run_to_end(cluster)
    assert found(cluster, 0) == expected(cluster, 0)


def test_an_unexpected_error_carries_the_position_in_a_note(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 8)

    with pytest.raises(LookupError) as caught:
        run_to_end(cluster, pipelines=raising(LookupError("a bug"), 4))

    assert caught.value.__notes__ == ["at events[0]@4"]
    assert found(cluster, 0) == []


def budget(dead_letters: int, seconds: float = 60.0) -> Settings:
    return settings_for(
        worker={"dead_letter_budget": dead_letters, "dead_letter_window_seconds": seconds},
        topics={"events": "events", "outcomes": "outcomes"},
    )


def committing_each_poll(log: MemoryLog) -> MemoryLog:
    """Let enough time pass in each poll of five records that a commit is due after it."""
    clock = log.cluster.clock
    log.batch = 5
    log.before_step = lambda step: clock.sleep(0.05) if step == "poll" else None
    return log


def test_more_dead_letters_than_the_budget_stop_the_worker_once_they_are_committed(
    cluster: MemoryCluster,
) -> None:
    for _ in range(30):
        cluster.append(0, b"garbage")
    log = committing_each_poll(MemoryLog(cluster))

    with pytest.raises(
        DeadLetterBudgetSpent,
        match=r"^events\[0\]@14: this was dead letter number 15 within 60 s; expected at most 12\. ",
    ):
        run_to_end(cluster, log, settings=budget(12))

    assert len(cluster.outputs(0, "dead_letters")) == 15
    assert cluster.commits[0].next_offset == 15
    assert orjson.loads(cluster.statuses[-1][1])["dead_letters"] == 15
    assert not log.is_member


def test_a_budget_of_0_stops_the_worker_at_the_first_dead_letter(cluster: MemoryCluster) -> None:
    cluster.append(0, body(features={"a": 1}, label=True))
    cluster.append(0, b"garbage")

    with pytest.raises(DeadLetterBudgetSpent, match=r"^events\[0\]@1: this was dead letter number 1 within"):
        run_to_end(cluster, settings=budget(0))

    assert cluster.commits[0].next_offset == 2


def test_dead_letters_that_are_only_replayed_are_not_counted(cluster: MemoryCluster) -> None:
    for _ in range(20):
        cluster.append(0, b"garbage")
    run_to_end(cluster, settings=budget(20))
    for i in range(10):
        cluster.append(0, body(features={"a": i}, label=True) if i % 2 else b"garbage")

    run_to_end(cluster, settings=budget(5))

    assert len(cluster.outputs(0, "dead_letters")) == 25


def test_a_restart_goes_on_behind_the_dead_letters_that_stopped_the_worker(cluster: MemoryCluster) -> None:
    for i in range(40):
        cluster.append(0, body(features={"a": i}, label=True) if i % 2 else b"garbage")
    stops = 0
    while True:
        try:
            run_to_end(cluster, committing_each_poll(MemoryLog(cluster)), settings=budget(6))
            break
        except DeadLetterBudgetSpent:
            stops += 1

    assert stops == 2
    assert found(cluster, 0) == expected(cluster, 0)


def test_dead_letters_of_an_aborted_transaction_count_once(cluster: MemoryCluster) -> None:
    for _ in range(10):
        cluster.append(0, b"garbage")
    log = MemoryLog(cluster)
    for _ in range(3):
        log.fail("commit", Fault.ABORTABLE)

    run_to_end(cluster, log, settings=budget(10))

    assert len(cluster.outputs(0, "dead_letters")) == 10


def test_dead_letters_spread_over_more_than_the_window_are_borne(
    cluster: MemoryCluster, clock: ManualClock
) -> None:
    for _ in range(30):
        cluster.append(0, b"garbage")
    log = MemoryLog(cluster, batch=5)
    log.before_step = lambda step: clock.sleep(10.0) if step == "poll" else None

    run_to_end(cluster, log, settings=budget(12, seconds=15.0))

    assert len(cluster.outputs(0, "dead_letters")) == 30


def test_dead_letters_committed_while_partitions_are_revoked_stop_the_worker_too(
    pair: MemoryCluster,
) -> None:
    for _ in range(10):
        pair.append(0, b"garbage")
    first = stepped(pair, "w-0", settings=budget(5))
    pair.assign({first.log: [0, 1]})
    first.step(2)
    first.log.fail("commit", Fault.ABORTABLE)
    while "abort" not in first.log.calls:
        first.step()
    second = stepped(pair, "w-1")
    second.step()
    pair.assign({first.log: [1], second.log: [0]})

    first.step(10)

    assert isinstance(first.error, DeadLetterBudgetSpent)
    assert len(pair.outputs(0, "dead_letters")) == 10
    second.stop()


def test_at_least_once_repeats_outputs_after_a_crash_with_the_same_bytes(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 30)
    log = MemoryLog(cluster, exactly_once=False, batch=10)
    log.fail("commit", Fault.CRASH_BEFORE)
    cluster.assign({log: [0]})
    with pytest.raises(BaseException, match="w-0"):
        new_worker(log, stop_at_end=True).run()
    part = found(cluster, 0)
    assert part

    run_to_end(cluster, MemoryLog(cluster, exactly_once=False))

    assert found(cluster, 0) == part + expected(cluster, 0)
    assert expected(cluster, 0)[: len(part)] == part


# 6: revocation and the end --------------------------------------------------------------------------------------


def test_revocation_commits_what_was_done(pair: MemoryCluster) -> None:
    for partition in (0, 1):
        feed(pair, partition, 30)
    pipelines = Counting()
    first = stepped(pair, "w-0", batch=25, pipelines=pipelines)
    pair.assign({first.log: [0, 1]})
    first.step(3)
    done = pair.commits[1].next_offset
    first.log.batch = 1_000

    second = stepped(pair, "w-1")
    second.step()
    pair.assign({first.log: [0], second.log: [1]})
    first.step(3)
    assert len(first.log.calls) > 0
    assert pair.commits[1].next_offset >= done
    second.step(10)
    first.step(10)
    first.stop()
    second.stop()

    assert first.error is None
    assert second.error is None
    for partition in (0, 1):
        assert found(pair, partition) == expected(pair, partition)
    offsets = [item.offset for item in pipelines.processed if item.partition == 0]
    assert offsets == list(range(30)), "the partition that stayed was neither restored nor processed twice"


def open_on_both(pair: MemoryCluster) -> tuple[SteppedWorker, Counting]:
    """A worker with uncommitted outputs of both partitions, about to poll."""
    pipelines = Counting()
    worker = stepped(pair, "w-0", batch=400, pipelines=pipelines)
    pair.assign({worker.log: [0, 1]})
    worker.step(3)
    for partition in (0, 1):
        feed(pair, partition, 1)
    worker.step()
    for partition in (0, 1):
        feed(pair, partition, 199, first=1)
    worker.step()
    assert worker.log.calls[-1] == "send", "not yet committed"
    return worker, pipelines


def test_a_revocation_whose_commit_fails_loses_only_the_revoked(pair: MemoryCluster) -> None:
    first, pipelines = open_on_both(pair)
    first.log.fail("commit", Fault.ABORTABLE)
    second = stepped(pair, "w-1", batch=400)
    second.step()
    pair.assign({first.log: [0], second.log: [1]})

    first.step()
    assert pair.commits[1].next_offset == 1
    second.step(8)
    first.step(8)
    first.stop()
    second.stop()

    for partition in (0, 1):
        assert found(pair, partition) == expected(pair, partition)
    assert [item.offset for item in pipelines.processed if item.partition == 0] == list(range(200))


def test_a_revocation_whose_commit_is_fenced_lets_go_of_the_revoked(pair: MemoryCluster) -> None:
    first, _ = open_on_both(pair)
    first.log.fail("commit", Fault.FATAL)
    second = stepped(pair, "w-1", batch=400)
    second.step()
    pair.assign({first.log: [0], second.log: [1]})

    first.step(2)
    second.step(8)
    first.step(8)
    first.stop()
    second.stop()

    assert first.error is None
    for partition in (0, 1):
        assert found(pair, partition) == expected(pair, partition)


def test_a_lost_partition_drops_its_state_and_its_outputs_are_not_committed(pair: MemoryCluster) -> None:
    first, _ = open_on_both(pair)
    pair.lose(first.log)
    pair.assign({})

    first.step()

    assert "abort" in first.log.calls
    assert pair.commits[0].next_offset == pair.commits[1].next_offset == 1
    assert len(found(pair, 0)) == len(found(pair, 1)) == 1

    pair.assign({first.log: [0, 1]})
    first.step(8)
    first.stop()
    for partition in (0, 1):
        assert found(pair, partition) == expected(pair, partition)


def test_a_stale_record_in_hand_after_a_rebalance_is_not_taken(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 20)
    pipelines = Counting()
    first = stepped(cluster, "w-0", batch=5, pipelines=pipelines)
    cluster.assign({first.log: [0]})
    first.step(3)
    # It comes back in the very poll that finds out: the record polled before is of the old state.
    cluster.lose(first.log)

    first.step(10)
    first.stop()

    assert pipelines.made == 2
    offsets = [item.offset for item in pipelines.processed]
    restored = offsets.index(0, 1)
    assert offsets[restored:] == list(range(20))
    assert found(cluster, 0) == expected(cluster, 0)


def test_sigterm_commits_what_was_done(cluster: MemoryCluster) -> None:
    worker = stepped(cluster, batch=400)
    cluster.assign({worker.log: [0]})
    worker.step(3)
    feed(cluster, 0, 1)
    worker.step()
    feed(cluster, 0, 299, first=1)
    worker.step()
    assert len(found(cluster, 0)) == 1

    worker.stop()

    assert worker.error is None
    assert found(cluster, 0) == expected(cluster, 0)


def test_stop_at_end_stops_at_the_end_seen_at_the_start(cluster: MemoryCluster) -> None:
    feed(cluster, 0, 20)
    log = MemoryLog(cluster)
    polls = iter(range(100))

    def feed_on(step: Step) -> None:
        if step == "poll" and (i := next(polls, None)) is not None:
            feed(cluster, 0, 1, first=20 + i)

    log.before_step = feed_on
    cluster.assign({log: [0]})

    new_worker(log, stop_at_end=True).run()

    assert cluster.commits[0].next_offset >= 20
    assert found(cluster, 0) == expected(cluster, 0)[: len(found(cluster, 0))]


def test_stop_at_end_ends_behind_trailing_control_records_and_on_an_empty_log(pair: MemoryCluster) -> None:
    feed(pair, 0, 5)
    for _ in range(3):
        pair.append_marker(0)

    run_to_end(pair)

    assert pair.commits[0].next_offset == 5
    assert pair.commits[1].next_offset == 0


def test_stop_at_end_ends_a_worker_that_owns_nothing(cluster: MemoryCluster, clock: ManualClock) -> None:
    feed(cluster, 0, 5)
    cluster.assign({})
    began = clock()

    new_worker(MemoryLog(cluster), stop_at_end=True).run()

    assert NOTHING_TO_DO <= clock() - began < NOTHING_TO_DO + 2


def test_stop_at_end_waits_for_its_share_as_long_as_the_group_needs(
    cluster: MemoryCluster, clock: ManualClock
) -> None:
    """A dead member's session may have to end first, which takes longer than a worker waits that has nothing to do."""
    feed(cluster, 0, 5)
    log = MemoryLog(cluster)
    began = clock()
    log.before_step = lambda _: cluster.assign({log: [0]}) if clock() > began + 3 * NOTHING_TO_DO else None

    new_worker(log, stop_at_end=True).run()

    assert found(cluster, 0) == expected(cluster, 0)


def test_stop_at_end_waits_for_an_assigned_partition_that_is_not_restored_yet(pair: MemoryCluster) -> None:
    feed(pair, 1, 20)
    log = MemoryLog(pair)
    for _ in range(50):
        log.fail("claim", Fault.ABORTABLE, after=1 if log.writer not in log.calls else 0)

    run_to_end(pair, log)

    assert found(pair, 1) == expected(pair, 1)


def test_status_tells_where_each_partition_stands(pair: MemoryCluster) -> None:
    feed(pair, 0, 30)

    run_to_end(pair)

    last = {partition: orjson.loads(status) for partition, status in pair.statuses}
    assert last[0]["offset"] == last[0]["end"] == 30
    assert last[0]["lag_records"] == 0
    assert last[0]["state"] == "live"
    assert last[0]["worker"] == "w-0"
    assert last[0]["dead_letters"] == len(pair.outputs(0, "dead_letters"))
    assert last[0]["predictions"] == len(pair.outputs(0, "predictions"))
    assert last[0]["dead_letters_by_stage"]["decode"] == last[0]["dead_letters"]
    assert (last[0]["questions"], last[0]["joined"]) == (5, 5)
    assert last[0]["label_delay"]["count"] == 5
    assert sum(last[0]["classes"]["label"].values()) == last[0]["scored"]
    assert last[1]["events"] == 0
    assert (last[1]["label_delay"], last[1]["learner_seconds"]) == (None, None)


CROWDED = settings_for(labels={"capacity": 5})


def incidents(cluster: MemoryCluster) -> list[tuple[str, str]]:
    found = [orjson.loads(value) for _, value in cluster.incidents]
    return [(item["incident"], item["state"]) for item in found]


def ask(cluster: MemoryCluster, ids: range) -> None:
    for i in ids:
        cluster.append(0, body(id=i, features={"a": i % 7}))


def test_predictions_without_room_are_one_incident_until_there_is_room(
    cluster: MemoryCluster, clock: ManualClock
) -> None:
    worker = stepped(cluster, settings=CROWDED)
    cluster.assign({worker.log: [0]})

    for number in range(5):
        ask(cluster, range(10 * number, 10 * number + 10))
        worker.step(10)
        clock.sleep(10.0)
        worker.step(3)

    assert incidents(cluster) == [("pending-full", "open")]
    told = orjson.loads(cluster.incidents[0][1])
    assert (told["partition"], told["severity"], told["worker"]) == (0, "warning", "w-0")
    assert 0 < told["offset"] <= 50
    assert "than [labels] capacity, 5, allows" in told["text"]

    for i in range(45, 50):
        cluster.append(0, body(id=i, label=True))
    worker.step(10)
    for _ in range(40):
        clock.sleep(10.0)
        worker.step(3)

    assert incidents(cluster) == [("pending-full", "open"), ("pending-full", "closed")]
    worker.stop()


def test_what_a_replay_counts_is_no_incident(cluster: MemoryCluster, clock: ManualClock) -> None:
    ask(cluster, range(100))
    run_to_end(cluster, settings=CROWDED)
    assert incidents(cluster) == [("pending-full", "open"), ("pending-full", "closed")]
    cluster.incidents.clear()

    worker = stepped(cluster, "w-1", settings=CROWDED)
    cluster.assign({worker.log: [0]})
    for _ in range(40):
        clock.sleep(2.0)
        worker.step(2)

    assert orjson.loads(cluster.statuses[-1][1])["expired_early"] == 95
    assert orjson.loads(cluster.statuses[-1][1])["state"] == "live"
    assert incidents(cluster) == []
    worker.stop()


def test_labels_in_other_partitions_than_their_questions_are_told_of(
    pair: MemoryCluster, clock: ManualClock
) -> None:
    worker = stepped(pair, settings=settings_for(labels={"early_seconds": 1.0}))
    pair.assign({worker.log: [0, 1]})
    ask(pair, range(60))
    for i in range(60):
        pair.append(1, body(id=i, label=True), timestamp=5_000 * i)
    for _ in range(5):
        worker.step(20)
        clock.sleep(10.0)

    (only,) = [orjson.loads(value) for _, value in pair.incidents]
    assert (only["incident"], only["state"], only["partition"]) == ("labels-unmatched", "open", 1)
    assert "different partitioners or keys" in only["text"]
    worker.stop()


def test_a_status_tells_how_long_the_learner_takes(cluster: MemoryCluster, clock: ManualClock) -> None:
    class Slow(base.Classifier):
        def predict_proba_one(self, x: Any, **kwargs: Any) -> dict[Any, float]:
            clock.sleep(0.25)
            return {False: 0.25, True: 0.75}

        def learn_one(self, x: Any, y: Any) -> None:
            pass

    feed(cluster, 0, 300)

    run_to_end(cluster, pipelines=lambda: new_pipeline(SETTINGS, Slow()))

    seconds = orjson.loads(cluster.statuses[-1][1])["learner_seconds"]
    assert seconds == {"predict": 0.25, "learn": 0.0}


def test_a_typical_status_has_at_most_four_kilobytes(cluster: MemoryCluster) -> None:
    settings = settings_for(
        event={"time": "at"},
        metrics={"use": ["accuracy", "roc_auc", "f1"], "window": 1_000},
        drift=[
            {"watch": "error", "detector": "ddm"},
            {"watch": "feature:a", "detector": "adwin"},
            {"watch": "feature:b", "detector": "page-hinkley"},
        ],
    )
    rng = random.Random(1)
    for i in range(4_000):
        x = {"a": rng.gauss(0.0, 1.0), "b": rng.expovariate(1 / 250.0)}
        value = (
            body(id=i, features=x, at=i)
            if i % 2 == 0
            else body(id=i - 1, label=rng.random() < 0.2, at=i + 0.7)
        )
        cluster.append(0, value)

    run_to_end(cluster, settings=settings)

    written = cluster.statuses[-1][1]
    assert all(watch["distribution"] for watch in orjson.loads(written)["drift"])
    assert len(written) <= 4_096


# What it reports of itself --------------------------------------------------------------------------------------


def test_a_worker_reports_how_its_partitions_stand(pair: MemoryCluster, clock: ManualClock) -> None:
    for partition in (0, 1):
        feed(pair, partition, 40)
    run_to_end(pair)
    feed(pair, 0, 40, first=40)
    pair.is_balanced = False
    reports: list[WorkerFacts] = []
    worker = stepped(pair, batch=10, report=reports.append)
    pause = worker.log.before_step

    def slow(step: Step) -> None:
        clock.sleep(0.3 if step == "poll" else 0.0)
        pause(step)

    worker.log.before_step = slow

    worker.step(3)
    assert (reports[-1].has_assignment, reports[-1].partitions) == (False, ())

    pair.assign({worker.log: [0, 1]})
    worker.log.fail("committed", Fault.RETRIABLE_NOT_DONE, after=1)
    worker.step(40)
    worker.stop()

    states = [tuple(item.state for item in facts.partitions) for facts in reports]
    seen = list(dict.fromkeys(states))
    assert seen[0] == ()
    assert ("replaying", "waiting") in seen
    assert ("live", "live") in seen
    assert reports[-1].partitions == (
        PartitionFacts(partition=0, state="live", next_offset=80, committed=80),
        PartitionFacts(partition=1, state="live", next_offset=40, committed=40),
    )
    assert reports[-1].has_assignment


def test_a_worker_reports_at_most_every_quarter_of_a_second(
    cluster: MemoryCluster, clock: ManualClock
) -> None:
    feed(cluster, 0, 1_000)
    times: list[float] = []
    log = MemoryLog(cluster, batch=10)
    log.before_step = lambda step: clock.sleep(0.001)

    run_to_end(cluster, log, report=lambda facts: times.append(facts.turned_at))

    assert len(times) > 2
    assert all(later - earlier >= 0.25 for earlier, later in itertools.pairwise(times))


def test_a_worker_whose_commit_gets_no_answer_comes_round_but_does_not_progress(
    cluster: MemoryCluster, clock: ManualClock
) -> None:
    feed(cluster, 0, 20)
    log = MemoryLog(cluster)
    for _ in range(1_000):
        log.fail("commit", Fault.RETRIABLE_NOT_DONE)
    cluster.assign({log: [0]})
    began = clock()
    reports: list[WorkerFacts] = []

    new_worker(log, should_stop=lambda: clock() > began + 70, report=reports.append).run()

    assert reports[-1].turned_at - reports[-1].progressed_at > 60
    assert all(later.turned_at - earlier.turned_at < 1 for earlier, later in itertools.pairwise(reports))
