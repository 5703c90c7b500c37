"""What the worker does with snapshots: steps 4 to 6 of the checkpoint protocol."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from stream.build import new_pipeline, worker_policy
from stream.checkpoint import CommitMetadata
from stream.errors import EnvironmentRefused
from stream.records import Output, Record
from stream.settings import Settings
from stream.snapshots.file import Sealed, header_of
from stream.snapshots.keeper import SnapshotKeeper, SnapshotPolicy, offset_of
from stream.testing import Fault, ManualClock, MemoryCluster, MemoryLog, MemoryStore, Step, SteppedWorker
from stream.worker import STORE_PATIENCE, Worker
from tests.helpers import body, fold, settings_for
from tests.unit.stream.snapshots.test_file import resealed

KEY = b"k" * 32
SETTINGS = settings_for("regression", topics={"events": "events", "outcomes": "outcomes"})
POLICY = SnapshotPolicy(interval_seconds=1_000.0, interval_events=10, keep=3, max_bytes=1_000_000)
AWAY = OSError(errno.ETIMEDOUT, "timed out")
FULL = OSError(errno.ENOSPC, "No space left on device")


class CheckedStore(MemoryStore):
    """Sees with each snapshot that O <= S <= C."""

    def __init__(self, cluster: MemoryCluster) -> None:
        super().__init__()
        self.cluster = cluster
        self.full = False
        self.puts: list[str] = []

    def put(self, name: str, content: bytes) -> None:
        committed = self.cluster.commits[int(name.partition("/")[0])]
        origin = CommitMetadata.decode(committed.metadata, group="", where="").origin
        assert origin <= offset_of(name) <= committed.next_offset, "a snapshot beyond the commit"
        if self.full:
            raise FULL
        self.puts.append(name)
        super().put(name, content)

    def offsets(self, partition: int = 0) -> list[int]:
        return [offset_of(name) for name in self.ordered(partition)]

    def ordered(self, partition: int = 0) -> list[str]:
        return sorted((name for name in self.files if name.startswith(f"{partition}/")), reverse=True)


class Bench:
    """A cluster and a snapshot store; each worker on it has a keeper of its own."""

    def __init__(self, partitions: int = 1) -> None:
        self.clock = ManualClock(1_000.0)
        self.cluster = MemoryCluster(partitions=partitions, clock=self.clock)
        self.store = CheckedStore(self.cluster)
        self.settings = SETTINGS
        self.processed: list[Record] = []
        self.start: Callable[[Callable[[], None]], None] = lambda job: job()

    def feed(self, rows: int, partition: int = 0) -> None:
        for _ in range(rows):
            i = len(self.cluster.records(partition)) + self.cluster.first(partition)
            value = body(id=i, features={"a": i % 7, "b": i % 3}) if i % 4 == 0 else None
            value = value or (body(id=i - 1, label=i % 5) if i % 4 == 1 else None)
            self.cluster.append(partition, value or body(features={"a": i % 7}, label=i % 7 + 0.5))

    def worker(
        self,
        log: MemoryLog,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        stop_at_end: bool = False,
        policy: SnapshotPolicy | None = POLICY,
        settings: Settings | None = None,
    ) -> Worker:
        keeper = None
        if policy is not None:
            keeper = SnapshotKeeper(
                self.store,
                KEY,
                policy,
                clock=self.clock,
                wall_clock=self.clock,
                cpu_clock=lambda: 0.0,
                blocks=lambda: 0,
                start=self.start,
            )
        return Worker(
            log,
            worker_policy(settings or self.settings, stop_at_end=stop_at_end),
            self.pipeline,
            keeper,
            should_stop=should_stop,
            clock=self.clock,
            wall_clock=self.clock,
            sleep=self.clock.sleep,
        )

    def pipeline(self) -> Any:
        pipeline = new_pipeline(self.settings)
        process = pipeline.process

        def counted(record: Record) -> Any:
            self.processed.append(record)
            return process(record)

        pipeline.process = counted  # type: ignore[method-assign]  # only to see what is replayed
        return pipeline

    def run(self, writer: str = "w-0", **arguments: Any) -> MemoryLog:
        """One worker with all partitions, to the end; returns its log. `processed` has what it processed."""
        self.processed.clear()
        log = MemoryLog(self.cluster, writer, batch=10)
        self.cluster.assign({log: range(self.cluster.partition_count)})
        self.worker(log, stop_at_end=True, **arguments).run()
        return log

    def stepped(
        self, writer: str = "w-0", *, batch: int = 10, pauses: Sequence[Step] = ("poll",), **arguments: Any
    ) -> SteppedWorker:
        log = MemoryLog(self.cluster, writer, batch=batch)
        worker = SteppedWorker(
            log, lambda should_stop: self.worker(log, should_stop=should_stop, **arguments), pauses=pauses
        )
        worker.step()
        return worker

    def incidents(self) -> list[tuple[str, str]]:
        found = [orjson.loads(value) for _, value in self.cluster.incidents]
        return [(item["incident"], item["state"]) for item in found]

    def incident(self) -> dict[str, Any]:
        (only,) = [orjson.loads(value) for _, value in self.cluster.incidents]
        assert isinstance(only, dict)
        return only

    def named(self, partition: int = 0) -> str | None:
        return CommitMetadata.decode(self.cluster.commits[partition].metadata, group="", where="").snapshot

    def see_that_outputs_are_right(self) -> None:
        for partition in range(self.cluster.partition_count):
            first = self.cluster.first(partition)
            self.cluster.truncate(partition, 0)
            expected = [(at, *out) for at, out in fold(self.settings, self.cluster.records(partition))]
            self.cluster.truncate(partition, first)
            assert [(o.timestamp, *o[:4]) for o in self.cluster.outputs(partition)] == expected


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def pair() -> Bench:
    return Bench(partitions=2)


# 4: snapshot ----------------------------------------------------------------------------------------------------


def test_snapshots_are_taken_after_commits_and_the_next_commit_names_the_newest(bench: Bench) -> None:
    bench.feed(35)
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    names = []
    for _ in range(12):
        worker.step()
        names.append(bench.named() if bench.cluster.commits else None)
    bench.feed(1)
    worker.step(3)

    assert len(bench.store.puts) >= 2
    assert bench.named() == bench.store.puts[-1]
    assert names[0] is None
    worker.stop()
    bench.see_that_outputs_are_right()


def test_nothing_is_taken_before_the_first_record(bench: Bench) -> None:
    bench.run()

    assert bench.store.files == {}


def test_nothing_is_taken_while_outputs_are_uncommitted(bench: Bench) -> None:
    bench.feed(40)
    worker = bench.stepped(pauses=("poll", "send", "send_offsets", "commit"))
    bench.cluster.assign({worker.log: [0]})

    for _ in range(200):
        before, committed = len(bench.store.puts), bench.cluster.commits.get(0)
        worker.step()
        if len(bench.store.puts) > before:
            assert bench.cluster.commits[0] != committed or bench.store.offsets()[0] == (
                committed and committed.next_offset
            )
    assert bench.store.puts
    worker.crash()


def test_nothing_is_taken_while_replaying(bench: Bench) -> None:
    bench.feed(100)
    bench.run(policy=None)

    worker = bench.stepped(batch=5)
    bench.cluster.assign({worker.log: [0]})
    for _ in range(15):
        worker.step()
        assert bench.store.puts == []
    worker.step(20)

    assert bench.store.offsets() == [100]
    worker.crash()


def test_an_aborted_commit_takes_no_snapshot_and_names_none(bench: Bench) -> None:
    bench.feed(10)
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    worker.step(2)
    assert bench.store.offsets() == [10]
    bench.feed(10)
    worker.log.fail("commit", Fault.ABORTABLE)
    worker.log.fail("commit", Fault.ABORTABLE)

    worker.step()
    assert bench.store.offsets() == [10]
    assert bench.named() is None  # the commit that would have named it did not come about
    worker.step(3)

    assert bench.store.offsets() == [20, 10]
    assert bench.cluster.commits[0].next_offset == 20
    assert bench.named() == bench.store.ordered()[1]
    worker.stop()
    bench.see_that_outputs_are_right()


@pytest.mark.parametrize("step", ["send_offsets", "commit"])
@pytest.mark.parametrize(
    "fault",
    [Fault.ABORTABLE, Fault.FATAL, Fault.RETRIABLE_DONE, Fault.RETRIABLE_NOT_DONE, Fault.CRASH_AFTER],
)
def test_whatever_becomes_of_a_commit_no_snapshot_runs_ahead(bench: Bench, step: Step, fault: Fault) -> None:
    bench.feed(60)
    for after in range(6):
        worker = bench.stepped(f"w-{after}")
        bench.cluster.assign({worker.log: [0]})
        worker.log.fail(step, fault, after=after)
        worker.step(8)
        worker.crash()
        bench.feed(12)
    bench.run("w-last")

    assert bench.store.puts
    bench.cluster.end_all_transactions()
    bench.see_that_outputs_are_right()


def test_a_full_disk_opens_one_incident_keeps_the_old_ones_and_stops_nothing(bench: Bench) -> None:
    bench.feed(20)
    policy = SnapshotPolicy(interval_seconds=1.0, interval_events=10, keep=3, max_bytes=1_000_000)
    worker = bench.stepped(policy=policy)
    bench.cluster.assign({worker.log: [0]})
    worker.step(6)
    older = dict(bench.store.files)
    assert older

    bench.store.full = True
    for _ in range(5):
        bench.feed(10)
        worker.step(10)
    assert bench.cluster.commits[0].next_offset == 70
    assert bench.store.files == older
    assert bench.incidents() == [("snapshot-failed", "open")]
    body_ = bench.incident()
    assert body_["kind"] == "incident"
    assert (body_["pipeline"], body_["partition"], body_["worker"]) == ("p", 0, "w-0")
    assert (
        "in memory: No space left on device. Work goes on, the older ones are as they were" in body_["text"]
    )

    bench.store.full = False
    bench.feed(10)
    worker.step(12)
    assert bench.incidents() == [("snapshot-failed", "open"), ("snapshot-failed", "closed")]
    assert bench.store.offsets()[0] == 80
    worker.stop()
    bench.see_that_outputs_are_right()


def test_a_snapshot_ends_no_incident_that_is_not_about_snapshots(bench: Bench) -> None:
    bench.settings = settings_for(
        "regression", topics=bench.settings.topics.model_dump(), labels={"capacity": 1}
    )
    policy = SnapshotPolicy(interval_seconds=1.0, interval_events=10, keep=3, max_bytes=1_000_000)
    worker = bench.stepped(policy=policy)
    bench.cluster.assign({worker.log: [0]})
    for number in range(60):
        bench.cluster.append(0, body(id=number, features={"a": number}))
        worker.step(3)
        bench.clock.sleep(2.0)

    assert len(bench.store.files) > 1
    assert bench.incidents() == [("pending-full", "open")]
    worker.stop()


def test_the_status_has_the_newest_snapshot(bench: Bench) -> None:
    bench.feed(20)

    bench.run()

    last = orjson.loads(bench.cluster.statuses[-1][1])
    assert last["snapshot"]["name"] == bench.store.ordered()[0]
    assert last["snapshot"]["offset"] == 20
    assert last["snapshot"]["bytes"] == len(bench.store.files[last["snapshot"]["name"]])


# 5: restore -----------------------------------------------------------------------------------------------------


def test_a_restart_replays_from_the_newest_snapshot_only_and_silently(bench: Bench) -> None:
    bench.feed(25)
    bench.run()
    older = bench.store.ordered()[1]
    assert 0 < offset_of(older) < 25
    bench.store.files = {older: bench.store.files[older]}
    written = bench.cluster.outputs(0)

    log = bench.run()

    assert [record.offset for record in bench.processed] == list(range(offset_of(older), 25))
    assert "send" not in log.calls
    assert bench.cluster.outputs(0) == written
    bench.feed(10)
    bench.run()
    assert [record.offset for record in bench.processed] == list(range(25, 35))
    bench.see_that_outputs_are_right()
    assert bench.incidents() == []


def test_a_restart_at_the_commit_replays_nothing(bench: Bench) -> None:
    bench.feed(25)
    bench.run()
    assert bench.store.offsets()[0] == 25

    bench.run()

    assert bench.processed == []


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "swap"])
def test_a_damaged_newest_one_is_passed_over_for_the_next_with_one_incident(bench: Bench, how: str) -> None:
    bench.feed(40)
    bench.run()
    newest, second = bench.store.ordered()[:2]
    content = bytearray(bench.store.files[newest])
    match how:
        case "flip":
            content[len(content) // 2] ^= 4
        case "cut":
            del content[-100:]
        case "empty":
            content.clear()
        case _:
            content = bytearray(bench.store.files[second])
    bench.store.files[newest] = bytes(content)

    bench.run()

    assert [record.offset for record in bench.processed] == list(range(offset_of(second), 40))
    found = [orjson.loads(value) for _, value in bench.cluster.incidents]
    assert [(item["incident"], item["state"]) for item in found[:1]] == [("snapshot-refused", "open")]
    assert found[0] == {
        "kind": "incident",
        "pipeline": "p",
        "partition": 0,
        "offset": 40,
        "incident": "snapshot-refused",
        "severity": "warning",
        "state": "open",
        "text": found[0]["text"],
        "worker": "w-0",
        "time": found[0]["time"],
    }
    assert newest in found[0]["text"]
    assert f"Restored from the one at {offset_of(second)} instead." in found[0]["text"]
    bench.feed(20)
    bench.run()
    bench.see_that_outputs_are_right()


def test_the_incident_is_closed_by_the_next_snapshot(bench: Bench) -> None:
    bench.feed(40)
    bench.run()
    bench.store.files[bench.store.ordered()[0]] = b""

    bench.feed(20)
    bench.run()

    assert bench.incidents() == [("snapshot-refused", "open"), ("snapshot-refused", "closed")]


def test_none_usable_means_from_the_origin_with_an_incident(bench: Bench) -> None:
    bench.feed(40)
    bench.run()
    bench.store.files = dict.fromkeys(bench.store.files, b"")

    bench.run()

    assert [record.offset for record in bench.processed] == list(range(40))
    assert bench.incidents()[0] == ("snapshot-refused", "open")
    text = orjson.loads(bench.cluster.incidents[0][1])["text"]
    assert "is damaged" in text
    assert "Learning again from the origin, 40 records." in text
    bench.see_that_outputs_are_right()


def test_those_of_an_earlier_format_mean_from_the_origin_with_an_incident(bench: Bench) -> None:
    bench.feed(40)
    bench.run()
    earlier = [
        resealed(Sealed(name, content, header_of(name, content, KEY)[0]), key=KEY, format=1)
        for name, content in bench.store.files.items()
    ]
    bench.store.files = {snapshot.name: snapshot.content for snapshot in earlier}

    bench.run()

    assert [record.offset for record in bench.processed] == list(range(40))
    text = orjson.loads(bench.cluster.incidents[0][1])["text"]
    assert "has format 1; this version reads 3. Learning again from the origin, 40 records." in text
    bench.see_that_outputs_are_right()


def test_a_named_one_that_is_gone_means_from_the_origin_with_an_incident(bench: Bench) -> None:
    bench.feed(25)
    bench.run()
    bench.feed(5)
    bench.run()  # names it
    assert bench.named()
    bench.store.files.clear()

    bench.run()

    assert [record.offset for record in bench.processed] == list(range(30))
    assert (
        "is not in memory. Learning again from the origin, 30 records."
        in orjson.loads(bench.cluster.incidents[0][1])["text"]
    )


def test_a_named_one_that_is_gone_is_told_of_beside_one_of_an_earlier_fold(bench: Bench) -> None:
    """What was written before a rebuild may have the same offset, or a larger one, and is of no use."""
    bench.feed(30)
    bench.run()
    older = dict(bench.store.files)
    bench.settings = settings_for(
        "regression", topics={"events": "events", "outcomes": "outcomes"}, metrics={"window": 50}
    )
    bench.store.files.clear()
    bench.cluster = MemoryCluster(partitions=1, clock=bench.clock)
    bench.store.cluster = bench.cluster
    bench.feed(30)
    bench.run()
    bench.feed(5)
    bench.run()  # names it
    named = bench.named()
    assert named is not None
    assert offset_of(named) == 30
    bench.store.files = older
    bench.cluster.incidents.clear()

    bench.run()

    assert [record.offset for record in bench.processed] == list(range(35))
    text = orjson.loads(bench.cluster.incidents[0][1])["text"]
    assert text == (
        f"{named}, which the last commit names, is not in memory. Learning again from the origin, 35 records."
    )


def test_none_usable_and_a_truncated_log_are_refused_with_the_remedy(bench: Bench) -> None:
    bench.feed(40)
    bench.run()
    bench.store.files = dict.fromkeys(bench.store.files, b"")
    bench.cluster.truncate(0, 5)
    written = bench.cluster.outputs(0)

    with pytest.raises(EnvironmentRefused) as raised:
        bench.run()

    text = str(raised.value)
    assert text.startswith(
        "events[0]: the log now begins at 5, but the state began at 0, and there is no snapshot"
    )
    assert "The newest one can't be used: 0/" in text
    assert "headrace rebuild learns the state again" in text
    assert bench.cluster.outputs(0) == written


def test_a_log_that_was_truncated_up_to_the_snapshot_is_enough(bench: Bench) -> None:
    bench.feed(45)
    bench.run()
    newest = bench.store.ordered()[0]
    bench.store.files = {name: bench.store.files[name] for name in bench.store.ordered()[1:2]}
    bench.cluster.truncate(0, bench.store.offsets()[0])
    assert bench.store.offsets()[0] < offset_of(newest)

    bench.feed(10)
    bench.run()

    bench.see_that_outputs_are_right()


def test_a_log_that_was_truncated_past_the_snapshot_is_refused(bench: Bench) -> None:
    bench.feed(45)
    bench.run()
    bench.store.files = {name: bench.store.files[name] for name in bench.store.ordered()[1:2]}
    offset = bench.store.offsets()[0]
    bench.cluster.truncate(0, offset + 1)

    with pytest.raises(
        EnvironmentRefused,
        match=rf"is of {offset}, and the log now begins at {offset + 1}: records between are gone",
    ):
        bench.run()


def test_a_commit_before_the_logs_beginning_is_refused_whatever_snapshots_there_are(bench: Bench) -> None:
    bench.feed(45)
    bench.run()
    bench.feed(5)
    bench.cluster.truncate(0, 47)

    with pytest.raises(
        EnvironmentRefused, match=r"committed up to 45, but the log now begins at 47: 2 events were"
    ):
        bench.run()


def test_a_log_emptied_by_retention_is_gone_on_from_though_it_ended_with_a_control_record(
    bench: Bench,
) -> None:
    """What a transaction of a producer leaves behind the last event is no event that was never processed."""
    bench.feed(30)
    bench.cluster.append_marker(0)
    worker = bench.stepped(policy=replace(POLICY, interval_seconds=10.0))
    bench.cluster.assign({worker.log: [0]})
    while bench.store.offsets()[:1] != [31]:
        worker.step()
    worker.crash()
    assert bench.cluster.commits[0].next_offset == 31

    bench.cluster.truncate(0, 31)
    bench.feed(10)
    bench.run()

    assert [record.offset for record in bench.processed] == list(range(31, 41))
    bench.see_that_outputs_are_right()


def test_control_records_are_stepped_over_once_and_not_while_events_come(bench: Bench) -> None:
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    commits = []
    for _ in range(5):
        bench.feed(3)
        bench.cluster.append_marker(0)
        worker.step(3)
        commits.append(bench.cluster.commits[0].next_offset)
    assert commits == [3, 7, 11, 15, 19]

    worker.step(100)

    assert bench.cluster.commits[0].next_offset == 20
    assert worker.log.calls.count("commit") == 6
    worker.stop()
    bench.see_that_outputs_are_right()


@pytest.mark.parametrize("step", ["send_offsets", "commit"])
@pytest.mark.parametrize(
    "fault",
    [Fault.ABORTABLE, Fault.FATAL, Fault.RETRIABLE_DONE, Fault.RETRIABLE_NOT_DONE, Fault.CRASH_AFTER],
)
def test_whatever_becomes_of_stepping_over_control_records_no_output_is_lost_or_repeated(
    bench: Bench, step: Step, fault: Fault
) -> None:
    bench.feed(12)
    bench.cluster.append_marker(0)
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    while not bench.cluster.commits or bench.cluster.commits[0].next_offset < 12:
        worker.step()

    worker.log.fail(step, fault)
    worker.step(100)
    bench.feed(9)
    worker.step(5)
    worker.crash()
    bench.run()

    assert bench.cluster.commits[0].next_offset == 22
    bench.see_that_outputs_are_right()


def test_snapshots_without_a_commit_are_refused(bench: Bench) -> None:
    bench.feed(20)
    bench.run()
    bench.cluster.commits.clear()
    bench.cluster._outputs[0].clear()

    with pytest.raises(
        EnvironmentRefused, match=r"has no committed offset, but there are snapshots in memory"
    ):
        bench.run()


def test_a_snapshot_beyond_the_commit_is_not_used(bench: Bench) -> None:
    bench.feed(20)
    bench.run()
    early = bench.cluster.commits[0]
    bench.feed(20)
    bench.run()
    bench.cluster.commits[0] = early  # the group's offsets went back: outputs after 20 come again
    older = [offset for offset in bench.store.offsets() if offset <= 20]
    assert older
    assert bench.store.offsets()[0] == 40

    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    bench.processed.clear()
    worker.step(3)
    worker.crash()

    assert bench.processed[0].offset == 20
    assert bench.incidents()[0] == ("snapshot-refused", "open")
    assert "is of 40, after the committed offset 20." in orjson.loads(bench.cluster.incidents[0][1])["text"]


def test_a_snapshot_of_an_earlier_shape_is_not_used(bench: Bench) -> None:
    bench.feed(20)
    other = settings_for(
        "regression", learner={"use": "mean"}, topics={"events": "events", "outcomes": "outcomes"}
    )
    bench.settings = other
    bench.run()
    of_another_shape = dict(bench.store.files)
    bench.cluster.commits.clear()
    bench.cluster._outputs[0].clear()
    bench.store.files.clear()
    bench.settings = SETTINGS
    bench.run(policy=None)
    bench.store.files = of_another_shape

    bench.run()

    assert [record.offset for record in bench.processed] == list(range(20))
    assert bench.cluster.incidents == [], "nothing is wrong with it"
    bench.see_that_outputs_are_right()


def test_a_crash_between_a_snapshot_and_the_commit_that_names_it_costs_nothing(bench: Bench) -> None:
    bench.feed(20)
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    worker.step(3)
    assert bench.store.offsets()[0] == bench.cluster.commits[0].next_offset
    worker.crash()

    bench.run()

    assert bench.processed == [] or bench.processed[0].offset >= bench.store.offsets()[-1]
    bench.see_that_outputs_are_right()


# 5: a store that is away ----------------------------------------------------------------------------------------


def waiting(bench: Bench) -> SteppedWorker:
    """A worker that restores while the store is away, after a run that named its snapshot."""
    bench.feed(25)
    bench.run()
    bench.feed(5)
    bench.run()
    assert bench.named()
    bench.processed.clear()
    bench.store.error = AWAY
    worker = bench.stepped()
    bench.cluster.assign({worker.log: range(bench.cluster.partition_count)})
    return worker


def test_a_partition_waits_for_a_store_that_is_away_and_goes_on_by_itself(bench: Bench) -> None:
    worker = waiting(bench)
    worker.step(20)
    assert bench.processed == []
    assert bench.incidents() == [("snapshot-store-away", "open")]
    assert bench.incident()["text"] == (
        "The snapshots in memory can't be read: timed out. The partition waits for it."
    )

    bench.store.error = None
    bench.feed(10)
    worker.step(10)

    assert bench.processed[0].offset == 30
    assert bench.incidents() == [("snapshot-store-away", "open"), ("snapshot-store-away", "closed")]
    worker.stop()
    bench.see_that_outputs_are_right()


def test_a_store_that_stays_away_is_done_without_where_the_log_reaches_the_origin(bench: Bench) -> None:
    began = bench.clock()
    worker = waiting(bench)
    while not bench.processed and bench.clock() - began < 10 * STORE_PATIENCE:
        worker.step()

    assert STORE_PATIENCE <= bench.clock() - began <= STORE_PATIENCE + 5
    assert bench.processed[0].offset == 0
    assert (
        "Learning again from the origin, 30 records." in orjson.loads(bench.cluster.incidents[-1][1])["text"]
    )
    worker.crash()


def test_a_store_that_stays_away_is_waited_for_where_the_log_does_not_reach_the_origin(bench: Bench) -> None:
    worker = waiting(bench)
    bench.cluster.truncate(0, 10)

    worker.step(int(10 * STORE_PATIENCE))

    assert not worker.has_ended
    assert bench.processed == []
    worker.stop()
    assert worker.error is None


def test_a_partition_that_comes_back_has_the_same_patience_again(bench: Bench) -> None:
    worker = waiting(bench)
    worker.step(10)
    bench.cluster.assign({worker.log: []})
    worker.step(2)
    bench.clock.sleep(STORE_PATIENCE)
    bench.cluster.assign({worker.log: [0]})

    worker.step(10)

    assert bench.processed == []
    worker.crash()


def test_a_partition_that_waits_for_the_store_does_not_hold_up_the_others(pair: Bench) -> None:
    pair.feed(25, partition=0)
    pair.run()
    pair.feed(5, partition=0)
    pair.run()
    assert pair.named(0)
    assert pair.named(1) is None
    pair.cluster.truncate(0, 10)
    pair.feed(10, partition=1)
    pair.store.error = AWAY
    pair.processed.clear()
    worker = pair.stepped()
    pair.cluster.assign({worker.log: [0, 1]})

    worker.step(6)

    assert pair.cluster.commits[1].next_offset == 10
    assert {record.partition for record in pair.processed} == {1}
    worker.crash()


def test_a_new_pipeline_waits_for_a_store_that_is_away_and_says_so(bench: Bench) -> None:
    bench.feed(5)
    bench.store.error = AWAY
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    worker.step(20)
    assert bench.cluster.commits == {}
    assert bench.incidents() == [("snapshot-store-away", "open")]

    bench.store.error = None
    worker.step(10)

    worker.stop()
    bench.see_that_outputs_are_right()


def test_a_worker_that_is_told_to_stop_does_not_wait_for_the_store(bench: Bench) -> None:
    worker = waiting(bench)
    worker.step(3)

    worker.stop()

    assert worker.error is None


# 6: letting go --------------------------------------------------------------------------------------------------


def test_a_stopped_worker_leaves_nothing_to_replay(bench: Bench) -> None:
    bench.feed(7)
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    worker.step(3)
    assert bench.store.puts == []  # seven are too few

    worker.stop()

    assert bench.store.offsets() == [7]
    bench.run()
    assert bench.processed == []


def test_a_revoked_partition_leaves_nothing_to_replay(bench: Bench) -> None:
    bench.feed(7)
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    worker.step(3)
    other = bench.stepped("w-1")
    bench.cluster.assign({other.log: [0]})

    worker.step(2)

    assert bench.store.offsets() == [7]
    bench.processed.clear()
    bench.feed(3)
    other.step(3)
    assert [record.offset for record in bench.processed] == [7, 8, 9]
    worker.stop()
    other.stop()
    bench.see_that_outputs_are_right()


def test_a_partition_that_is_let_go_twice_is_not_kept_twice(bench: Bench) -> None:
    bench.feed(7)
    bench.run()
    bench.run()
    bench.run()

    assert bench.store.offsets() == [7]


def test_a_revocation_whose_commit_fails_takes_no_snapshot(bench: Bench) -> None:
    bench.feed(7)
    worker = bench.stepped(pauses=("poll", "send_offsets"))
    bench.cluster.assign({worker.log: [0]})
    worker.step(3)
    committed = bench.cluster.commits[0].next_offset
    worker.log.fail("commit", Fault.ABORTABLE)
    bench.cluster.assign({worker.log: []}, stale=True)

    worker.step(6)

    assert all(offset <= committed for offset in bench.store.offsets())
    worker.crash()


def test_a_lost_partition_takes_no_snapshot(bench: Bench) -> None:
    bench.feed(7)
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    worker.step(2)
    bench.cluster.lose(worker.log)
    bench.cluster.assign({})

    worker.step(2)

    assert bench.store.files == {}
    worker.crash()


def test_a_full_disk_does_not_keep_a_worker_from_ending(bench: Bench) -> None:
    bench.feed(25)
    bench.store.full = True

    bench.run()

    assert bench.cluster.commits[0].next_offset == 25
    assert bench.incidents() == [("snapshot-failed", "open"), ("snapshot-failed", "closed")]
    bench.see_that_outputs_are_right()


def test_a_snapshot_that_was_begun_and_finishes_after_the_partition_is_lost_is_harmless(bench: Bench) -> None:
    jobs: list[Callable[[], None]] = []
    bench.start = jobs.append
    bench.feed(20)
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    worker.step(3)
    assert jobs
    worker.crash()
    bench.start = lambda job: job()
    bench.feed(20)
    bench.run("w-1")

    jobs.pop()()

    assert bench.store.offsets()[0] == 40
    bench.run("w-2")
    assert bench.processed == []
    bench.see_that_outputs_are_right()


def test_a_snapshot_that_fails_after_its_partition_was_lost_opens_no_incident(bench: Bench) -> None:
    """Nobody would close it: this worker writes no more snapshots of the partition."""
    jobs: list[Callable[[], None]] = []
    bench.start = jobs.append
    bench.feed(20)
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    worker.step(3)
    assert jobs
    bench.cluster.lose(worker.log)
    bench.cluster.assign({})
    worker.step(2)

    bench.store.full = True
    jobs.pop()()
    worker.step(2)

    assert bench.incidents() == []
    worker.stop()


def test_an_incident_is_closed_when_the_partition_is_let_go(bench: Bench) -> None:
    bench.feed(20)
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    worker.step(2)
    bench.store.error = OSError(errno.ENOSPC, "No space left on device")
    worker.step(4)
    assert bench.incidents() == [("snapshot-failed", "open")]

    bench.cluster.assign({})
    worker.step(2)

    assert bench.incidents() == [("snapshot-failed", "open"), ("snapshot-failed", "closed")]
    worker.stop()


def test_a_partition_is_not_begun_beside_commits_of_another_count(pair: Bench) -> None:
    """The topic has grown: this worker has got a new partition only, whose keys belonged to the old ones."""
    pair.feed(5, partition=0)
    pair.run()
    committed = pair.cluster.commits[0]
    one = committed.metadata.replace('"partitions":2', '"partitions":1')
    pair.cluster.commits = {0: committed._replace(metadata=one)}
    pair.feed(5, partition=1)
    worker = pair.stepped()
    pair.cluster.assign({worker.log: [1]})

    worker.step(4)

    assert isinstance(worker.error, EnvironmentRefused)
    assert "had 1 partitions at the origin and has 2 now" in str(worker.error)
    assert 1 not in pair.cluster.commits


def test_an_incident_among_the_alerts_is_no_output_of_an_earlier_life(bench: Bench) -> None:
    bench.cluster.write(0, 0, [Output("alerts", b"0", b'{"kind":"incident"}')], None)
    bench.feed(5)

    bench.run()

    assert bench.cluster.commits[0].next_offset == 5


def test_a_snapshot_that_fails_while_the_partition_is_let_go_leaves_no_incident_open(bench: Bench) -> None:
    """Its next owner does not know of it, so nobody would ever close it."""
    bench.feed(7)
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    worker.step(3)
    bench.store.error = OSError(errno.ENOSPC, "No space left on device")

    bench.cluster.assign({})
    worker.step(2)

    assert bench.incidents() == [("snapshot-failed", "open"), ("snapshot-failed", "closed")]
    worker.stop()


def test_a_status_names_the_incidents_that_are_open(bench: Bench) -> None:
    """By it the monitor closes what a worker that was killed has left open."""
    bench.feed(20)
    worker = bench.stepped()
    bench.cluster.assign({worker.log: [0]})
    worker.step(2)
    bench.store.error = OSError(errno.ENOSPC, "No space left on device")
    worker.step(4)
    bench.clock.sleep(10.0)
    worker.step(2)
    assert orjson.loads(bench.cluster.statuses[-1][1])["incidents"] == ["snapshot-failed"]

    bench.store.error = None
    bench.clock.sleep(1_000.0)  # the next is tried in a while
    bench.feed(10)
    worker.step(12)
    bench.clock.sleep(10.0)
    worker.step(2)

    assert bench.incidents() == [("snapshot-failed", "open"), ("snapshot-failed", "closed")]
    assert orjson.loads(bench.cluster.statuses[-1][1])["incidents"] == []
    worker.stop()
