"""What a worker measures of itself, on a cluster in memory."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import orjson
import pytest

from monitors.telemetry import Family, PartitionReadings, WorkerReadings
from stream.build import new_pipeline, worker_policy
from stream.measurements import SAMPLED_ONE_IN, Measurements
from stream.records import Output
from stream.settings import Settings
from stream.testing import Fault, ManualClock, MemoryCluster, MemoryLog, SteppedWorker
from stream.worker import RECORDS_A_LOOK, REPORT_INTERVAL, Worker
from tests.helpers import body, record, settings_for

SETTINGS = settings_for(drift=[{"watch": "error", "detector": "ddm"}])


class Watched:
    """A stepped worker whose readings are kept."""

    def __init__(self, cluster: MemoryCluster, writer: str = "w-0", settings: Settings = SETTINGS) -> None:
        self.told: list[WorkerReadings] = []
        clock = cluster.clock
        self.log = MemoryLog(cluster, writer, batch=10)

        def make(should_stop: Callable[[], bool]) -> Worker:
            return Worker(
                self.log,
                worker_policy(settings, stop_at_end=False),
                lambda: new_pipeline(settings),
                should_stop=should_stop,
                clock=clock,
                wall_clock=clock,
                sleep=clock.sleep,
                tell=self.told.append,
            )

        self.worker = SteppedWorker(self.log, make)
        self._clock = clock

    def settle(self, steps: int = 40) -> WorkerReadings:
        """Work, let a while pass, and look."""
        self.worker.step(steps)
        self._clock.sleep(REPORT_INTERVAL)
        self.worker.step(3)
        return self.told[-1]

    def partition(self, number: int = 0) -> PartitionReadings:
        return next(item for item in self.told[-1].partitions if item.partition == number)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000.0)


@pytest.fixture
def cluster(clock: ManualClock) -> MemoryCluster:
    return MemoryCluster(partitions=1, clock=clock)


@pytest.fixture
def watched(cluster: MemoryCluster) -> Iterator[Watched]:
    watched = Watched(cluster)
    cluster.assign({watched.log: range(cluster.partition_count)})
    yield watched
    watched.worker.stop()


def labelled(number: int) -> bytes:
    return body(id=f"e{number}", features={"a": float(number % 7)}, label=number % 3 == 0)


NUMBERS = itertools.count()


def feed(cluster: MemoryCluster, count: int, partition: int = 0) -> None:
    for number in itertools.islice(NUMBERS, count):
        cluster.append(partition, labelled(number))


def test_counters_are_what_was_sent(cluster: MemoryCluster, watched: Watched) -> None:
    feed(cluster, 50)
    cluster.append(0, b"no event")
    cluster.append(0, body(id="q", features={"a": 1.0}))
    cluster.append(0, body(id="q", features={"a": 1.0}))
    cluster.append(0, body(id="q", label=True))
    cluster.append(0, body(id="q", label=True))
    cluster.append(0, body(id="q", label=False))
    cluster.append(0, body(id="r", label=True))

    readings = watched.settle()

    item = watched.partition()
    assert item.counts._asdict() == {
        "events": 56,
        "predictions": 51,
        "learned": 51,
        "scored": 51,
        "non_finite": 0,
        "duplicates": 1,
        "expired": 0,
        "expired_early": 0,
        "expired_learned": 0,
        "joined": 1,
        "late": 0,
        "unmatched": 0,
        "duplicate_labels": 1,
        "conflicting_labels": 1,
        "corrected_labels": 0,
        "early": 1,
    }
    assert item.dead_letters == {"decode": 1}
    assert (item.state, item.replay_records) == ("live", 0)
    assert readings.processed_records == 57
    assert sum(readings.distributions[Family.COMMIT_SIZE].counts) == readings.commits
    assert readings.distributions[Family.COMMIT_SIZE].total == 57
    assert item.label_delay is not None
    assert sum(item.label_delay.counts) == 1


def test_alarms_of_detectors_are_counted(cluster: MemoryCluster, watched: Watched) -> None:
    for number in range(600):
        flipped = number >= 300
        cluster.append(0, body(features={"a": float(number % 2)}, label=(number % 2 == 1) != flipped))

    watched.settle(200)

    (found,) = watched.partition().watches
    alerts = [orjson.loads(output.value or b"") for output in cluster.outputs(0, "alerts")]
    kinds = [alert["kind"] for alert in alerts]
    assert found.name == ("error", "ddm")
    assert (found.drifts, found.warnings) == (kinds.count("drift"), kinds.count("warning"))
    assert found.drifts >= 1


def test_what_is_replayed_counts_for_nothing(cluster: MemoryCluster, watched: Watched) -> None:
    feed(cluster, 40)
    watched.settle()
    assert watched.partition().counts.events == 40
    watched.worker.stop()
    feed(cluster, 7)

    successor = Watched(cluster, "w-1")
    cluster.assign({successor.log: [0]})
    readings = successor.settle()

    assert successor.partition().counts.events == 7
    assert successor.partition().counts.learned == 7
    assert readings.processed_records == 47
    successor.worker.stop()


def test_an_aborted_commit_counts_once(cluster: MemoryCluster, watched: Watched) -> None:
    feed(cluster, 5)
    cluster.append(0, b"no event")
    watched.log.fail("commit", Fault.ABORTABLE)

    readings = watched.settle()

    assert readings.aborted_commits == 1
    assert watched.partition().counts.events == 5
    assert watched.partition().dead_letters == {"decode": 1}


def test_a_fenced_producer_is_counted_and_its_work_counts_once(
    cluster: MemoryCluster, watched: Watched
) -> None:
    feed(cluster, 20)
    watched.settle()
    feed(cluster, 5)
    watched.log.fail("commit", Fault.FATAL)

    readings = watched.settle()

    assert readings.fenced == 1
    assert watched.partition().counts.events == 25


def test_a_partition_that_leaves_and_comes_back_goes_on_counting(clock: ManualClock) -> None:
    pair = MemoryCluster(partitions=2, clock=clock)
    one, other = Watched(pair, "w-0"), Watched(pair, "w-1")
    pair.assign({one.log: [0, 1]})
    for partition in (0, 1):
        feed(pair, 10, partition)
    one.settle()
    assert [item.partition for item in one.told[-1].partitions] == [0, 1]

    pair.assign({one.log: [0], other.log: [1]})
    one.settle()
    feed(pair, 3, 1)
    other.settle()
    one.settle()
    assert [item.partition for item in one.told[-1].partitions] == [0]
    assert other.partition(1).counts.events == 3

    pair.assign({one.log: [0, 1], other.log: []})
    other.settle()
    one.settle()
    feed(pair, 4, 1)
    one.settle()
    assert one.partition(1).counts.events == 14
    one.worker.stop()
    other.worker.stop()


def test_the_age_of_the_model_is_that_of_its_last_label(
    cluster: MemoryCluster, watched: Watched, clock: ManualClock
) -> None:
    feed(cluster, 3)
    watched.settle()
    learned_at = watched.partition().learned_at
    clock.sleep(100.0)
    cluster.append(0, body(id="q", features={"a": 1.0}))

    watched.settle()

    assert watched.partition().counts.events == 4
    assert watched.partition().learned_at == learned_at


# Without a worker -----------------------------------------------------------------------------------------------


class Counted(Measurements):
    """Counts how often it is told something."""

    calls: ClassVar[Counter[str]] = Counter()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            Counted.calls[name] += 1
        return super().__getattribute__(name)


def test_nothing_is_paid_for_each_event(cluster: MemoryCluster, clock: ManualClock) -> None:
    feed(cluster, 5_000)
    log = MemoryLog(cluster)
    cluster.assign({log: [0]})
    Counted.calls.clear()

    Worker(
        log,
        worker_policy(SETTINGS, stop_at_end=True),
        lambda: new_pipeline(SETTINGS),
        should_stop=lambda: False,
        clock=clock,
        measurements=Counted(clock=clock, wall_clock=clock),
    ).run()

    calls = Counted.calls
    timed = calls.pop("timed")
    assert timed <= 2 * 5_000 / SAMPLED_ONE_IN
    assert calls["wants_sample"] == calls["processed"] == 5_000 / RECORDS_A_LOOK
    assert sum(calls.values()) <= 2 * 5_000 / RECORDS_A_LOOK + 20


def test_one_event_in_128_is_timed_however_many_come_at_a_time() -> None:
    for size in (1, 7, 20):
        measurements = Measurements()
        looks = 100 * SAMPLED_ONE_IN
        sampled = sum(measurements.wants_sample(size) for _ in range(looks))

        assert sampled == pytest.approx(looks / SAMPLED_ONE_IN, abs=1)


def test_a_timed_method_does_what_it_did() -> None:
    clock = ManualClock()
    measurements = Measurements(clock=clock, wall_clock=clock)

    def method(x: Any, y: Any) -> Any:
        clock.sleep(0.5)
        return x / y

    measurements.restored(0, new_pipeline(SETTINGS), is_live=True)
    timed = measurements.timed(0, "learn", method)

    assert timed(6, 3) == 2
    with pytest.raises(ZeroDivisionError):
        timed(1, 0)
    reading = measurements.readings(turned_at=0.0, progressed_at=0.0, partitions=())
    assert sum(reading.learner_calls["learn"].counts) == 2
    assert reading.learner_calls["learn"].total == 1.0


def test_the_mean_time_of_a_call_is_that_since_it_was_last_asked_for() -> None:
    clock = ManualClock()
    measurements = Measurements(clock=clock, wall_clock=clock)
    for partition in (0, 1):
        measurements.restored(partition, new_pipeline(SETTINGS), is_live=True)
    predict, learn = (measurements.timed(0, call, clock.sleep) for call in ("predict", "learn"))

    assert measurements.learner_seconds(0) is None
    predict(1.0)
    predict(2.0)
    assert measurements.learner_seconds(0) == {"predict": 1.5}
    learn(4.0)
    assert measurements.learner_seconds(0) == {"predict": 1.5, "learn": 4.0}
    predict(0.5)
    assert measurements.learner_seconds(0) == {"predict": 0.5, "learn": 4.0}
    assert measurements.learner_seconds(1) is None


def test_each_label_delay_counts_with_the_commit_of_its_answer() -> None:
    measurements = Measurements()
    pipeline = new_pipeline(SETTINGS)
    values = [body(id="replayed", features={"a": 1.0}), body(id="replayed", label=True)]
    for offset, value in enumerate(values):
        pipeline.process(record(value, offset))
    measurements.restored(0, pipeline, is_live=True)

    for commit in range(1, 4):
        for number in range(commit):
            pipeline.process(record(body(id=f"{commit}.{number}", features={"a": 1.0}), offset=100 * commit))
            pipeline.process(record(body(id=f"{commit}.{number}", label=True), offset=100 * commit + commit))
        measurements.committed(0, pipeline, [])
    measurements.committed(0, pipeline, [])

    reading = measurements.partition(0, pipeline, next_offset=400, committed=400, status=None, incidents=())
    delay = reading.label_delay
    assert delay is not None
    assert (sum(delay.counts), delay.total) == (1 + 2 + 3, 1 * 1.0 + 2 * 2.0 + 3 * 3.0)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1_000])
def test_each_latency_that_is_looked_at_stands_for_its_share(count: int) -> None:
    clock = ManualClock(100.0)
    measurements = Measurements(clock=clock, wall_clock=clock)
    pipeline = new_pipeline(SETTINGS)
    measurements.restored(0, pipeline, is_live=True)
    output = Output("predictions", None, b"{}", None)

    measurements.committed(0, pipeline, [(99_000, (output,))] * count)
    measurements.committed(0, pipeline, [(101_000, (output,))])  # from the future
    measurements.committed(0, pipeline, [(99_000, (Output("dead_letters", None, b"", None),))])

    reading = measurements.readings(turned_at=0.0, progressed_at=0.0, partitions=())
    latency = reading.distributions[Family.LATENCY]
    assert (sum(latency.counts), latency.total) == (count, count)


def test_a_timed_learner_writes_the_same() -> None:
    values = [labelled(number) for number in range(50)]
    values += [body(id="q", features={"a": 1.0}), body(id="q", label=True)]
    plain, timed = new_pipeline(SETTINGS), new_pipeline(SETTINGS)
    measurements = Measurements()
    measurements.restored(0, timed, is_live=True)
    timed.observe_learner(partial(measurements.timed, 0))

    for offset, value in enumerate(values):
        assert timed.process(record(value, offset)) == plain.process(record(value, offset))

    reading = measurements.readings(turned_at=0.0, progressed_at=0.0, partitions=())
    assert sum(reading.learner_calls["predict"].counts) == 51
    assert sum(reading.learner_calls["learn"].counts) == 51
    timed.observe_learner(None)
    timed.process(record(labelled(1), 99))
    reading = measurements.readings(turned_at=0.0, progressed_at=0.0, partitions=())
    assert sum(reading.learner_calls["predict"].counts) == 51
