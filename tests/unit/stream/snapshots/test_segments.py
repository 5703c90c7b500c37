"""Snapshots of queues: which segments are written, when they go, and what becomes of a snapshot that lacks one."""

from __future__ import annotations

import errno
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stream import keyed
from stream.build import new_pipeline
from stream.errors import SnapshotError
from stream.pipeline import Pipeline
from stream.snapshots import keeper as keeping
from stream.snapshots.file import Fold, Tried, pickled, queues_of, sealed
from stream.snapshots.keeper import SnapshotKeeper, SnapshotPolicy, Taken, offset_of
from stream.snapshots.objects import ObjectStore
from stream.snapshots.segments import ORPHANED_SECONDS
from stream.snapshots.store import LocalDirectory, SnapshotStore
from stream.testing import ManualClock, MemoryStore
from tests.helpers import body, canonical, record, settings_for

KEY = b"k" * 32
POLICY = SnapshotPolicy(interval_seconds=10.0, interval_events=100, keep=2, max_bytes=1_000_000)
FOLD = Fold(pipeline="p", topic="events", topic_id="t", partition=0, origin=0, base="", shape={})


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed, "SEGMENT_ITEMS", 8)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000_000.0)


class Bench:
    """A partition that asks questions, and its snapshots."""

    def __init__(self, store: SnapshotStore, clock: ManualClock, policy: SnapshotPolicy = POLICY) -> None:
        self.store = store
        self.keeper = SnapshotKeeper(
            store, KEY, policy, clock=clock, wall_clock=clock, cpu_clock=lambda: 0.0, blocks=lambda: 0,
            start=lambda job: job(),
        )  # fmt: skip
        self.keeper.watch(0)
        self.pipeline = new_pipeline(settings_for("regression", labels={"remember": 0}))
        self.offset = 0

    def ask(self, count: int) -> None:
        """Questions; one of them has the offset as its id."""
        for _ in range(count):
            self._process(id=self.offset, features={"a": self.offset % 5})

    def answer(self, *ids: int) -> None:
        for number in ids:
            self._process(id=number, label=1.5)

    def _process(self, **fields: Any) -> None:
        self.pipeline.process(record(body(**fields), offset=self.offset))
        self.offset += 1

    def take(self) -> Taken:
        self.keeper.take(self.pipeline.state, FOLD, self.offset)
        (taken,) = self.keeper.collect()
        return taken

    def taken(self) -> str:
        taken = self.take()
        assert taken.name is not None, taken.reason
        return taken.name

    def segments_of(self, name: str) -> list[str]:
        return [segment for segment, _, _ in self.keeper.header(name).segments]

    def restored(self) -> tuple[int | None, list[str]]:
        """S of what a worker would go on from, and why not from a newer one."""
        fresh = SnapshotKeeper(self.store, KEY, POLICY)
        found = fresh.newest(FOLD, first=0, committed=1_000_000)
        if found.restored is None:
            return None, [item.reason for item in found.refused]
        if found.restored.header.next_offset == self.offset:
            assert canonical(found.restored.state) == canonical(self.pipeline.state)
        return found.restored.header.next_offset, [item.reason for item in found.refused]


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def bench(memory: MemoryStore, clock: ManualClock) -> Bench:
    return Bench(memory, clock)


def stores(tmp_path: Path) -> dict[str, SnapshotStore]:
    return {
        "memory": MemoryStore(),
        "directory": LocalDirectory(tmp_path / "p"),
        "objects": ObjectStore(f"memory://{uuid.uuid4().hex}/p"),
    }


# What is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "directory", "objects"])
def test_a_state_with_segments_comes_back_as_it_was(kind: str, tmp_path: Path, clock: ManualClock) -> None:
    bench = Bench(stores(tmp_path)[kind], clock)

    for count in (100, 30, 30):
        bench.ask(count)
        bench.answer(*range(bench.offset - count, bench.offset, 3))
        name = bench.taken()
        assert bench.restored() == (bench.offset, [])

    assert bench.segments_of(name)
    assert len(bench.store.names(0)) == 2
    named = {segment for snapshot in bench.store.names(0) for segment in bench.segments_of(snapshot)}
    assert {*bench.store.segments(0)} == named


def test_a_segment_is_written_once_and_named_by_every_snapshot(bench: Bench, memory: MemoryStore) -> None:
    bench.ask(20)
    first = bench.taken()
    written = dict(memory.files)
    bench.ask(8)
    bench.answer(1, 2)

    second = bench.taken()

    assert len(bench.segments_of(first)) == 2
    assert bench.segments_of(second)[:2] == bench.segments_of(first)
    assert len(bench.segments_of(second)) == 3
    assert {name: memory.files[name] for name in written} == written


def test_the_size_of_a_snapshot_counts_its_segments(bench: Bench, memory: MemoryStore) -> None:
    bench.ask(100)

    taken = bench.take()

    assert taken.size == sum(len(content) for content in memory.files.values())
    found = bench.keeper.newest(FOLD, first=0, committed=1_000)
    assert found.restored is not None
    assert found.restored.size == taken.size


def test_what_is_too_large_with_its_segments_is_not_written_and_not_read(
    memory: MemoryStore, clock: ManualClock
) -> None:
    bench = Bench(memory, clock)
    bench.ask(200)
    taken = bench.take()
    small = Bench(memory, clock, replace(POLICY, max_bytes=taken.size - 1))

    assert "([snapshots] max_bytes)." in small.keeper.newest(FOLD, first=0, committed=1_000).refused[0].reason
    small.ask(200)
    refused = small.take()
    assert refused.name is None
    assert refused.reason.endswith(f"expected at most {taken.size - 1:,} ([snapshots] max_bytes).")


def test_the_state_goes_on_while_its_segments_are_written(memory: MemoryStore, clock: ManualClock) -> None:
    jobs: list[Callable[[], None]] = []
    bench = Bench(memory, clock)
    bench.keeper._start = jobs.append
    bench.ask(60)
    bench.answer(3, 17)
    before, offset = canonical(bench.pipeline.state), bench.offset
    bench.keeper.take(bench.pipeline.state, FOLD, offset)

    bench.answer(*range(20, 50))
    bench.ask(40)
    jobs.pop()()

    (taken,) = bench.keeper.collect()
    assert taken.name is not None
    assert canonical(bench.keeper.open(taken.name, FOLD).state) == before


def test_many_segments_are_read_several_at_a_time_and_in_order(
    memory: MemoryStore, clock: ManualClock
) -> None:
    bench = Bench(memory, clock)
    bench.ask(300)
    bench.taken()
    reading: list[str] = []
    memory.before = lambda method: (
        reading.append(threading.current_thread().name) if method == "get" else None
    )

    assert bench.restored() == (300, [])

    assert len(reading) == 1 + 300 // 8
    assert len({*reading}) > 1


def test_a_copy_that_is_tried_reads_no_segment(bench: Bench, memory: MemoryStore) -> None:
    bench.ask(100)
    bench.taken()
    read = 0

    def count(method: str) -> None:
        nonlocal read
        read += method == "get"

    memory.before = count
    bench.ask(1)
    bench.taken()

    assert read == 2  # one segment, to see that it is whole, and the snapshot


# What goes ------------------------------------------------------------------------------------------------------


def test_a_segment_goes_with_the_last_snapshot_that_names_it(bench: Bench, memory: MemoryStore) -> None:
    bench.ask(17)
    first = bench.segments_of(bench.taken())
    bench.answer(*range(17))
    second = bench.segments_of(bench.taken())
    assert (len(first), second) == (2, [])
    assert memory.segments(0) == sorted(first)

    bench.ask(1)
    bench.taken()

    assert memory.segments(0) == []


def test_a_worker_that_took_over_deletes_what_those_before_it_wrote(
    memory: MemoryStore, clock: ManualClock
) -> None:
    before = Bench(memory, clock)
    before.ask(17)
    before.taken()
    before.ask(1)
    before.taken()
    restored = SnapshotKeeper(memory, KEY, POLICY).newest(FOLD, first=0, committed=1_000).restored
    assert restored is not None
    after = Bench(memory, clock)
    after.pipeline.resume(restored.state)
    after.offset = before.offset
    after.answer(*range(18))

    after.taken()
    after.ask(1)
    after.taken()

    assert memory.segments(0) == []


def test_what_a_dead_writer_left_goes_once_it_is_old(
    bench: Bench, memory: MemoryStore, clock: ManualClock
) -> None:
    left = [f"0/{int(clock()) + seconds:012d}-{'ab' * 16}.segment" for seconds in (0, 1_000)]
    of_another = f"1/{1:012d}-{'ab' * 16}.segment"
    memory.files |= dict.fromkeys([*left, of_another], b"orphan")
    bench.ask(20)

    bench.taken()
    assert {*left} <= memory.files.keys()
    clock.sleep(ORPHANED_SECONDS + 500)
    bench.ask(1)
    name = bench.taken()

    assert memory.segments(0) == sorted([left[1], *bench.segments_of(name)])
    assert of_another in memory.files


def test_nothing_is_swept_while_a_snapshot_can_not_be_read(
    bench: Bench, memory: MemoryStore, clock: ManualClock
) -> None:
    """What it names is not known; another worker may have the key to it."""
    orphan = f"0/{1:012d}-{'ab' * 16}.segment"
    strange = f"0/{9_999:020d}-0123456789abcdef.snapshot"
    memory.files |= {orphan: b"orphan", strange: b"sealed with another key"}
    bench.ask(1)
    bench.taken()
    assert orphan in memory.files

    del memory.files[strange]
    bench.ask(1)
    bench.taken()

    assert orphan not in memory.files


@pytest.mark.parametrize("call", range(1, 9))
@pytest.mark.parametrize("method", ["put", "get", "names", "segments", "delete"])
def test_whatever_call_fails_the_older_snapshot_opens_and_the_next_one_is_whole(
    bench: Bench, memory: MemoryStore, method: str, call: int
) -> None:
    for _ in range(3):
        bench.ask(17)
        bench.taken()
    older = bench.offset
    bench.answer(*range(0, 20))
    bench.ask(17)
    calls = 0

    def fail(called: str) -> None:
        nonlocal calls
        calls += called == method
        if called == method and calls == call:
            raise OSError(errno.EIO, "Input/output error")

    memory.before = fail
    taken = bench.take()
    memory.before = lambda _: None

    if taken.name is None:
        assert taken.reason == "Input/output error."
    assert bench.restored()[0] in {older, bench.offset}
    assert bench.restored()[1] == []
    bench.ask(1)
    bench.taken()
    assert bench.restored() == (bench.offset, [])


def test_segments_that_were_written_for_a_snapshot_that_failed_are_used_by_the_next(
    bench: Bench, memory: MemoryStore
) -> None:
    bench.ask(40)
    puts: list[str] = []

    def fill(method: str) -> None:
        if method == "put":
            puts.append(method)
            if len(puts) == 4:
                raise OSError(errno.ENOSPC, "No space left on device")

    memory.before = fill
    assert bench.take().name is None
    written = memory.segments(0)
    assert len(written) == 3

    name = bench.taken()

    assert sorted(bench.segments_of(name)[:3]) == written
    assert len(puts) == 4 + 1 + 1  # that one, and the snapshot


def test_they_are_written_again_once_others_might_take_them_for_a_dead_writers(
    bench: Bench, memory: MemoryStore, clock: ManualClock
) -> None:
    bench.ask(17)
    memory.before = lambda method: (_ for _ in ()).throw(OSError("away")) if method == "names" else None
    assert bench.take().name is None  # after its segments and itself were written, as it happens
    memory.before = lambda _: None
    for name in memory.names(0):
        del memory.files[name]
    early = memory.segments(0)
    assert len(early) == 2

    clock.sleep(keeping.UNNAMED_SECONDS + 1)
    name = bench.taken()

    assert not {*early} & {*bench.segments_of(name)}
    assert memory.segments(0) == sorted(bench.segments_of(name))


# What is damaged ------------------------------------------------------------------------------------------------


def flip(files: dict[str, bytes], name: str, others: list[str]) -> None:
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])


def cut(files: dict[str, bytes], name: str, others: list[str]) -> None:
    files[name] = files[name][:-1]


def lengthen(files: dict[str, bytes], name: str, others: list[str]) -> None:
    files[name] += b"\0"


def empty(files: dict[str, bytes], name: str, others: list[str]) -> None:
    files[name] = b""


def swap(files: dict[str, bytes], name: str, others: list[str]) -> None:
    files[name], files[others[0]] = files[others[0]], files[name]


def remove(files: dict[str, bytes], name: str, others: list[str]) -> None:
    del files[name]


@pytest.mark.parametrize("hurt", [flip, cut, lengthen, empty, swap, remove])
@pytest.mark.parametrize("count", [17, 200])
def test_a_snapshot_whose_segment_is_not_what_it_was_is_refused_and_the_next_older_one_used(
    bench: Bench, memory: MemoryStore, hurt: Callable[..., None], count: int
) -> None:
    bench.ask(17)
    bench.taken()
    older = bench.offset
    bench.ask(count)
    newest = bench.taken()
    *others, segment = bench.segments_of(newest)[2:]

    hurt(memory.files, segment, others or bench.segments_of(newest)[:1])

    offset, reasons = bench.restored()
    if hurt is swap and not others:
        assert offset is None  # both name the other one
    else:
        assert offset == older
    assert reasons[0].startswith(f"{newest}: ")
    assert reasons[0].count(newest) == 1
    assert ".segment" in reasons[0]


def test_a_segment_of_another_partition_is_no_substitute(bench: Bench, memory: MemoryStore) -> None:
    bench.ask(17)
    name = bench.taken()
    mine = bench.segments_of(name)[0]
    other = Bench(MemoryStore(), ManualClock(5.0))
    other.offset = 100
    other.ask(30)
    memory.files[mine] = other.store.get(other.segments_of(other.taken())[0], 10_000)

    offset, reasons = bench.restored()

    assert offset is None
    assert "damaged, forged, or another's" in reasons[0] or "expected at most" in reasons[0]


def test_nothing_of_a_segment_is_parsed_before_its_digest_holds(
    bench: Bench, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.ask(17)
    segment = bench.segments_of(bench.taken())[0]
    flip(memory.files, segment, [])
    parsed: list[bytes] = []
    monkeypatch.setattr(keyed, "loads", parsed.append)

    bench.restored()

    assert parsed == []


def test_a_snapshot_that_was_pruned_with_its_segments_while_it_was_read_is_passed_over(
    bench: Bench, memory: MemoryStore
) -> None:
    bench.ask(17)
    bench.taken()
    older = bench.offset
    bench.ask(17)
    newest = bench.taken()
    only = bench.segments_of(newest)[-1]

    def prune(method: str) -> None:
        reads.append(method)
        if reads.count("get") == 2 and newest in memory.files:
            del memory.files[newest], memory.files[only]

    reads: list[str] = []
    memory.before = prune

    assert bench.restored() == (older, [])


@pytest.mark.parametrize("hurt", [flip, remove])
def test_a_segment_that_is_damaged_while_the_worker_runs_is_told_and_written_again(
    bench: Bench, memory: MemoryStore, hurt: Callable[..., None]
) -> None:
    bench.ask(33)
    segment = bench.segments_of(bench.taken())[2]
    hurt(memory.files, segment, [])
    reasons = []

    for _ in range(5):  # each snapshot looks at another segment
        bench.ask(1)
        reasons.append(bench.take().reason)

    (told,) = filter(None, reasons)
    assert told.startswith(f"Its segment {segment} ")
    assert told.endswith("It is written again for the next snapshot.")
    assert bench.restored() == (bench.offset, [])


def test_a_snapshot_that_holds_no_queue_for_its_state_is_refused() -> None:
    state = new_pipeline(settings_for("regression")).state
    payload = pickled(state)
    without = sealed(
        payload._replace(queues=payload.queues[1:]),
        Tried.of(state),
        FOLD,
        1,
        key=KEY,
        wall_clock=0.0,
        version="0",
    )
    store = MemoryStore()
    store.put(without.name, without.content)

    with pytest.raises(SnapshotError, match="its queues can't be filled: it has 3, and what 2 hold"):
        SnapshotKeeper(store, KEY, POLICY).open(without.name, FOLD)


# What it costs --------------------------------------------------------------------------------------------------


def test_a_million_items_in_queues_make_no_expensive_state(memory: MemoryStore, clock: ManualClock) -> None:
    pipeline: Pipeline = new_pipeline(settings_for("regression"))
    blocks = 1_000_000
    keeper = SnapshotKeeper(memory, KEY, POLICY, clock=clock, wall_clock=clock, blocks=lambda: blocks)
    keeper.watch(0)
    for i in range(5_000):
        pipeline.process(record(body(id=i, features={"a": 1}), offset=i))
    (pending, _, _) = queues_of(pipeline.state)
    assert pending.blocks() == pytest.approx(10_000)
    blocks += pending.blocks() + 20_000  # less than 0.1 s

    assert keeper.due({0: 100}) is None
    assert keeper.due({0: 100}, lambda: [pipeline.state]) == 0


def test_the_queues_of_a_state_are_those_that_a_snapshot_freezes() -> None:
    state = new_pipeline(settings_for("regression")).state

    assert len(pickled(state).queues) == len(queues_of(state))


def test_offsets_of_snapshots_are_found_beside_segments(bench: Bench, memory: MemoryStore) -> None:
    bench.ask(17)
    bench.taken()

    assert [offset_of(name) for name in memory.names(0)] == [17]
