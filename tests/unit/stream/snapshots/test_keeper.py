from __future__ import annotations

import errno
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from stream.build import new_pipeline
from stream.errors import SnapshotError
from stream.pipeline import State
from stream.snapshots.file import Fold, Tried, require_of
from stream.snapshots.keeper import SnapshotKeeper, SnapshotPolicy, Taken, offset_of
from stream.testing import ManualClock, MemoryStore
from tests.helpers import body, canonical, record, settings_for

KEY = b"k" * 32
POLICY = SnapshotPolicy(interval_seconds=10.0, interval_events=100, keep=2, max_bytes=1_000_000)


def fold(partition: int = 0, **changes: Any) -> Fold:
    fields: dict[str, Any] = {
        "pipeline": "p",
        "topic": "events",
        "topic_id": "t",
        "origin": 0,
        "base": "",
        "shape": {},
    }
    return Fold(partition=partition, **(fields | changes))


def state_after(n: int) -> State:
    pipeline = new_pipeline(settings_for("regression"))
    for i in range(n):
        pipeline.process(record(body(features={"a": i}, label=i * 2), offset=i))
    return pipeline.state


class CpuClock:
    """Seconds of CPU: so many pass from each reading to the next."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cost = 0.0

    def __call__(self) -> float:
        self.now += self.cost
        return self.now


class Blocks:
    """How many blocks of memory the process has."""

    def __init__(self) -> None:
        self.count = 500_000

    def __call__(self) -> int:
        return self.count


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000.0)


@pytest.fixture
def cpu() -> CpuClock:
    return CpuClock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def keeper(store: MemoryStore, clock: ManualClock, cpu: CpuClock) -> SnapshotKeeper:
    return new_keeper(store, clock, cpu)


def new_keeper(
    store: MemoryStore,
    clock: ManualClock,
    cpu: CpuClock,
    *,
    policy: SnapshotPolicy = POLICY,
    start: Callable[[Callable[[], None]], None] = lambda job: job(),
    blocks: Callable[[], int] = lambda: 0,
) -> SnapshotKeeper:
    keeper = SnapshotKeeper(
        store,
        KEY,
        policy,
        clock=clock,
        wall_clock=clock,
        cpu_clock=cpu,
        blocks=blocks,
        start=start,
        version="0.1",
    )
    for partition in range(3):
        keeper.watch(partition)
    return keeper


def take(keeper: SnapshotKeeper, next_offset: int, partition: int = 0) -> Taken:
    keeper.take(state_after(next_offset % 20), fold(partition), next_offset)
    (taken,) = keeper.collect()
    return taken


# When -----------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_due_after_the_interval_if_there_is_anything_new(
    keeper: SnapshotKeeper, clock: ManualClock
) -> None:
    assert keeper.due({0: 5}) is None
    clock.sleep(9.9)
    assert keeper.due({0: 5}) is None
    clock.sleep(0.2)
    assert keeper.due({0: 0}) is None
    assert keeper.due({0: 5}) == 0


def test_a_snapshot_is_due_after_so_many_records_whatever_the_time(keeper: SnapshotKeeper) -> None:
    assert keeper.due({0: 99}) is None
    assert keeper.due({0: 100}) == 0


def test_the_interval_begins_again_with_each_snapshot(keeper: SnapshotKeeper, clock: ManualClock) -> None:
    clock.sleep(11)
    take(keeper, 5)
    assert keeper.due({0: 1}) is None
    clock.sleep(10)
    assert keeper.due({0: 1}) == 0


def test_of_several_that_are_due_the_one_that_waits_the_longest_comes_first(
    keeper: SnapshotKeeper, clock: ManualClock
) -> None:
    clock.sleep(1)
    take(keeper, 5, partition=0)
    clock.sleep(1)
    keeper.watch(1)
    clock.sleep(20)

    assert keeper.due({1: 5, 0: 5, 2: 5}) == 2
    assert keeper.due({1: 5, 0: 5}) == 0
    assert keeper.due({}) is None


def test_snapshots_of_all_partitions_together_take_a_twentieth_of_the_time(
    keeper: SnapshotKeeper, store: MemoryStore, clock: ManualClock, cpu: CpuClock
) -> None:
    cpu.cost = 0.5
    store.before = lambda method: clock.sleep(0.5) if method == "put" else None
    began, spent = clock(), 0.0
    offset = 0
    while clock() - began < 1_000:
        clock.sleep(0.25)
        partition = keeper.due({0: 1_000, 1: 1_000, 2: 1_000})
        if partition is not None:
            offset += 1
            take(keeper, offset, partition)
            spent += cpu.cost

    assert 0.02 < spent / (clock() - began) <= 0.0505
    counts = [sum(name.startswith(f"{p}/") for name in keeper.store.names(p)) for p in range(3)]
    assert counts == [2, 2, 2]  # each had its turn


def test_the_first_snapshot_of_a_large_state_waits_until_it_is_a_small_share_of_the_time(
    store: MemoryStore, clock: ManualClock, cpu: CpuClock
) -> None:
    blocks = Blocks()
    keeper = new_keeper(store, clock, cpu, blocks=blocks)
    blocks.count += 600_000  # 2.1 s

    clock.sleep(60)
    assert keeper.due({0: 1_000}) is None
    clock.sleep(15)
    assert keeper.due({0: 1_000}) == 0


def test_a_state_that_has_grown_waits_for_longer_than_its_last_snapshot_cost(
    store: MemoryStore, clock: ManualClock, cpu: CpuClock
) -> None:
    blocks = Blocks()
    keeper = new_keeper(store, clock, cpu, blocks=blocks)
    cpu.cost = 0.3
    clock.sleep(10)
    take(keeper, 5)
    blocks.count += 200_000  # 0.7 s

    clock.sleep(20)  # twice what 0.3 s need
    assert keeper.due({0: 1_000}) is None
    clock.sleep(5)
    assert keeper.due({0: 1_000}) == 0


def test_what_the_process_has_grown_by_is_shared_among_its_partitions(
    store: MemoryStore, clock: ManualClock, cpu: CpuClock
) -> None:
    blocks = Blocks()
    keeper = new_keeper(store, clock, cpu, blocks=blocks)
    blocks.count += 600_000  # 0.7 s for each of three

    clock.sleep(25)
    assert keeper.due({0: 1_000, 1: 1_000, 2: 0}) is not None
    assert keeper.due({0: 1_000}) is None


def test_a_small_state_waits_for_nothing(store: MemoryStore, clock: ManualClock, cpu: CpuClock) -> None:
    blocks = Blocks()
    keeper = new_keeper(store, clock, cpu, blocks=blocks)
    blocks.count += 28_000

    assert keeper.due({0: 100}) == 0


def test_whatever_the_size_of_a_state_it_is_kept_after_ten_minutes(
    store: MemoryStore, clock: ManualClock, cpu: CpuClock
) -> None:
    blocks = Blocks()
    keeper = new_keeper(store, clock, cpu, blocks=blocks)
    blocks.count += 100_000_000

    clock.sleep(599)
    assert keeper.due({0: 1_000}) is None
    clock.sleep(1)
    assert keeper.due({0: 1_000}) == 0


def test_the_copy_that_is_tried_is_gone_before_the_collector_could_walk_through_it(
    keeper: SnapshotKeeper, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_on: list[bool] = []
    ask = Tried.of

    def asked(state: State) -> Tried:
        is_on.append(gc.isenabled())
        return ask(state)

    monkeypatch.setattr(Tried, "of", asked)

    take(keeper, 5)

    assert is_on == [False]
    assert gc.isenabled()


def test_a_pause_of_the_worker_counts_as_cost(store: MemoryStore, clock: ManualClock, cpu: CpuClock) -> None:
    class SlowClock(ManualClock):
        def __call__(self) -> float:
            self.now += 0.1
            return self.now

    keeper = new_keeper(store, SlowClock(), cpu)

    taken = take(keeper, 5)

    assert taken.pause_seconds == pytest.approx(0.1)
    assert keeper.is_cheap(0, 0.2)
    assert not keeper.is_cheap(0, 0.05)


def test_what_a_snapshot_costs_is_not_known_before_the_first(keeper: SnapshotKeeper, cpu: CpuClock) -> None:
    assert keeper.is_cheap(0, 1.0)
    cpu.cost = 2.0
    take(keeper, 5)
    assert not keeper.is_cheap(0, 1.0)
    assert keeper.is_cheap(1, 1.0)


def test_after_a_failure_no_snapshot_of_any_partition_is_tried_for_an_interval(
    keeper: SnapshotKeeper, store: MemoryStore, clock: ManualClock
) -> None:
    store.error = OSError(errno.ENOSPC, "No space left on device")
    assert take(keeper, 5).name is None
    store.error = None

    clock.sleep(9.9)
    assert keeper.due({0: 1_000, 1: 1_000}) is None
    clock.sleep(0.2)
    assert keeper.due({0: 1_000, 1: 1_000}) is not None


# Taking ---------------------------------------------------------------------------------------------------------


def test_what_was_taken_is_told_once(keeper: SnapshotKeeper, store: MemoryStore) -> None:
    keeper.take(state_after(5), fold(), 5)

    (taken,) = keeper.collect()

    assert taken.name is not None
    assert (taken.partition, taken.next_offset, taken.reason) == (0, 5, "")
    assert offset_of(taken.name) == 5
    assert taken.size == len(store.files[taken.name])
    assert keeper.collect() == []


def test_the_state_may_go_on_while_its_snapshot_is_written(
    store: MemoryStore, clock: ManualClock, cpu: CpuClock
) -> None:
    jobs: list[Callable[[], None]] = []
    keeper = new_keeper(store, clock, cpu, start=jobs.append)
    state = state_after(5)
    before = canonical(state)

    keeper.take(state, fold(), 5)
    state.learner.learn({"a": 1.0}, 3.0)
    assert keeper.collect() == []
    assert not keeper.wait(0.0)
    assert keeper.due({0: 1_000, 1: 1_000}) is None
    jobs.pop()()

    assert keeper.wait(0.0)
    (taken,) = keeper.collect()
    assert taken.name is not None
    assert canonical(keeper.open(taken.name, fold()).state) == before


def test_a_real_thread_writes_it_and_can_be_waited_for(store: MemoryStore) -> None:
    may_write = threading.Event()
    store.before = lambda method: (may_write.wait(10), None)[1] if method == "put" else None
    keeper = SnapshotKeeper(store, KEY, POLICY)

    keeper.take(state_after(5), fold(), 5)

    assert not keeper.wait(0.01)
    assert keeper.collect() == []
    may_write.set()
    assert keeper.wait(10)
    assert [taken.name for taken in keeper.collect()] == store.names(0)


def test_only_the_newest_are_kept(keeper: SnapshotKeeper, store: MemoryStore) -> None:
    take(keeper, 7, partition=1)
    for offset in (5, 6, 9, 12):
        take(keeper, offset)

    assert [offset_of(name) for name in store.names(0)] == [12, 9]
    assert [offset_of(name) for name in store.names(1)] == [7]


def test_what_was_just_written_is_kept_beside_damaged_ones_of_its_offset(
    keeper: SnapshotKeeper, store: MemoryStore
) -> None:
    damaged = [f"0/{5:020d}-{seal}.snapshot" for seal in ("f" * 16, "f" * 15 + "e", "f" * 15 + "d")]
    store.files |= dict.fromkeys(damaged, b"damaged")

    taken = take(keeper, 5)

    assert taken.name in store.files


def test_those_that_can_not_be_used_push_out_none_that_can(
    keeper: SnapshotKeeper, store: MemoryStore, clock: ManualClock, cpu: CpuClock
) -> None:
    """Of five, the two newest were damaged: the next is not all that there is to go on from."""
    for offset in (5, 6, 7):
        take(keeper, offset)
    for offset, content in ((8, b"damaged"), (9, b"")):
        store.files[f"0/{offset:020d}-{'f' * 16}.snapshot"] = content
    restarted = new_keeper(store, clock, cpu)
    assert restarted.newest(fold(), first=0, committed=9).restored is not None

    take(restarted, 10)

    assert [offset_of(name) for name in store.names(0)] == [10, 9, 8, 7]
    take(restarted, 11)
    assert [offset_of(name) for name in store.names(0)] == [11, 10]


def test_one_that_was_damaged_since_it_was_written_pushes_out_none_either(
    keeper: SnapshotKeeper, store: MemoryStore
) -> None:
    for offset in (5, 6):
        take(keeper, offset)
    store.files[store.names(0)[0]] = b"damaged"
    assert keeper.newest(fold(), first=0, committed=6).restored is not None

    take(keeper, 7)

    assert [offset_of(name) for name in store.names(0)] == [7, 6, 5]


def test_one_of_an_earlier_fold_at_the_same_offset_pushes_out_none_of_this_one(
    keeper: SnapshotKeeper, store: MemoryStore, clock: ManualClock, cpu: CpuClock
) -> None:
    """As a rebuild leaves them."""
    for seconds in range(20):  # names end in the seal: one of either kind comes first
        clock.now += seconds
        keeper.take(state_after(3), fold(fold_id="before"), 5)
        clock.now += 1.0
        keeper.take(state_after(3), fold(), 5)
        before, rebuilt = keeper.collect()
        restarted = new_keeper(store, clock, cpu)

        take(restarted, 6)

        assert rebuilt.name in store.files
        assert before.name not in store.files or before.name > str(rebuilt.name)
        store.files.clear()


def test_a_snapshot_written_late_costs_no_newer_one_its_place(
    store: MemoryStore, clock: ManualClock, cpu: CpuClock
) -> None:
    jobs: list[Callable[[], None]] = []
    late = new_keeper(store, clock, cpu, start=jobs.append)
    late.take(state_after(3), fold(), 3)
    other = new_keeper(store, clock, cpu)
    take(other, 8)
    take(other, 9)

    jobs.pop()()

    assert [offset_of(name) for name in store.names(0)][:2] == [9, 8]


def test_what_reads_back_otherwise_is_a_failure_and_costs_no_older_one(
    keeper: SnapshotKeeper, store: MemoryStore
) -> None:
    for offset in (5, 6):
        take(keeper, offset)
    older = dict(store.files)

    def damage(method: str) -> None:
        if method == "get":
            newest = max(store.files)
            store.files[newest] = store.files[newest][:-1]

    store.before = damage
    taken = take(keeper, 7)

    assert taken.name is None
    assert taken.reason.endswith("what was read back is not what was written.")
    assert {name: store.files[name] for name in older} == older


@pytest.mark.parametrize("method", ["put", "get", "names", "delete"])
def test_whatever_call_of_the_store_fails_is_told_and_costs_no_older_snapshot(
    keeper: SnapshotKeeper, store: MemoryStore, method: str
) -> None:
    for offset in (5, 6):
        take(keeper, offset)
    older = dict(store.files)

    def fail(called: str) -> None:
        if called == method:
            raise OSError(errno.EIO, "Input/output error")

    store.before = fail
    taken = take(keeper, 7)

    assert taken.name is None
    assert taken.reason == "Input/output error."
    assert {name: store.files[name] for name in older} == older
    store.before = lambda _: None
    assert take(keeper, 8).name is not None


def test_an_error_without_a_number_is_told_too(keeper: SnapshotKeeper, store: MemoryStore) -> None:
    store.error = OSError("the bucket is gone")
    assert take(keeper, 5).reason == "the bucket is gone."


def test_a_bug_of_a_store_is_told_with_its_kind(keeper: SnapshotKeeper, store: MemoryStore) -> None:
    def fail(_: str) -> None:
        raise ValueError("whatever a library may raise")

    store.before = fail

    assert take(keeper, 5).reason == "ValueError: whatever a library may raise."


def test_no_more_threads_is_told_and_work_goes_on(
    store: MemoryStore, clock: ManualClock, cpu: CpuClock
) -> None:
    def refuse(_: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    keeper = new_keeper(store, clock, cpu, start=refuse)

    taken = take(keeper, 5)

    assert (taken.name, taken.reason) == (None, "can't start new thread.")
    assert keeper.wait(0.0)


def test_a_learner_that_can_not_be_pickled_is_told(keeper: SnapshotKeeper, store: MemoryStore) -> None:
    state = state_after(5)
    state.learner.estimator.hook = lambda: None  # type: ignore[attr-defined]  # what no pickle takes

    keeper.take(state, fold(), 5)

    (taken,) = keeper.collect()
    assert taken.name is None
    assert "learners.check_learner says what to change" in taken.reason
    assert store.files == {}
    assert keeper.wait(0.0)


def test_a_learner_that_could_not_be_opened_again_is_not_stored(
    keeper: SnapshotKeeper, store: MemoryStore
) -> None:
    state = state_after(5)
    state.learner.estimator.hook = threading.Thread  # type: ignore[attr-defined]  # pickles, and is not trusted

    keeper.take(state, fold(), 5)

    (taken,) = keeper.collect()
    assert 'add "threading" to [snapshots] trusted_modules' in taken.reason
    assert store.files == {}


def test_a_state_that_is_too_large_is_not_stored(
    store: MemoryStore, clock: ManualClock, cpu: CpuClock
) -> None:
    policy = SnapshotPolicy(interval_seconds=10.0, interval_events=100, keep=2, max_bytes=1_000)
    keeper = new_keeper(store, clock, cpu, policy=policy)

    taken = take(keeper, 5)

    assert taken.name is None
    assert taken.reason.endswith("expected at most 1,000 ([snapshots] max_bytes).")
    assert store.files == {}


# Restoring ------------------------------------------------------------------------------------------------------


def offsets(keeper: SnapshotKeeper, **arguments: Any) -> tuple[int | None, list[int]]:
    found = keeper.newest(fold(), **({"first": 0, "committed": 1_000} | arguments))
    restored = None if found.restored is None else found.restored.header.next_offset
    return restored, [offset_of(item.name) for item in found.refused]


@pytest.fixture
def filled(store: MemoryStore, clock: ManualClock, cpu: CpuClock) -> SnapshotKeeper:
    policy = SnapshotPolicy(interval_seconds=10.0, interval_events=100, keep=5, max_bytes=1_000_000)
    keeper = new_keeper(store, clock, cpu, policy=policy)
    for offset in (10, 20, 30):
        take(keeper, offset)
    return keeper


def test_the_newest_is_restored(filled: SnapshotKeeper) -> None:
    assert offsets(filled) == (30, [])


def test_there_may_be_none(keeper: SnapshotKeeper) -> None:
    assert offsets(keeper) == (None, [])
    assert not keeper.has_any(0)


def test_a_damaged_one_is_refused_and_the_next_older_one_taken(
    filled: SnapshotKeeper, store: MemoryStore
) -> None:
    store.files[store.names(0)[0]] = b""
    assert offsets(filled) == (20, [30])
    store.files[store.names(0)[1]] = b""
    assert offsets(filled) == (10, [30, 20])
    store.files[store.names(0)[2]] = b""
    assert offsets(filled) == (None, [30, 20, 10])
    assert filled.has_any(0)


def test_one_beyond_the_commit_is_not_used(filled: SnapshotKeeper) -> None:
    assert offsets(filled, committed=30) == (30, [])
    assert offsets(filled, committed=29) == (20, [30])
    found = filled.newest(fold(), first=0, committed=29)
    assert found.refused[0].reason.endswith("is of 30, after the committed offset 29.")


def test_one_that_the_log_can_not_go_on_from_is_not_used(filled: SnapshotKeeper) -> None:
    assert offsets(filled, first=30) == (30, [])
    assert offsets(filled, first=31) == (None, [30])
    found = filled.newest(fold(), first=31, committed=1_000)
    assert found.refused[0].reason.endswith(
        "is of 30, and the log now begins at 31: records between are gone."
    )


def test_one_that_was_deleted_meanwhile_is_passed_over(filled: SnapshotKeeper, store: MemoryStore) -> None:
    newest = store.names(0)[0]
    store.before = lambda method: (store.files.pop(newest, None), None)[1] if method == "get" else None

    assert offsets(filled) == (20, [])


def test_one_that_is_too_large_is_refused(filled: SnapshotKeeper, store: MemoryStore) -> None:
    store.files[store.names(0)[0]] += b"\0" * 1_000_000

    assert offsets(filled) == (20, [30])


@pytest.mark.parametrize("method", ["names", "get"])
def test_a_store_that_is_away_is_an_error_and_not_an_empty_store(
    filled: SnapshotKeeper, store: MemoryStore, method: str
) -> None:
    def fail(called: str) -> None:
        if called == method:
            raise OSError(errno.ETIMEDOUT, "timed out")

    store.before = fail

    with pytest.raises(OSError, match="timed out"):
        filled.newest(fold(), first=0, committed=1_000)


def test_a_header_can_be_read_alone_and_is_checked(filled: SnapshotKeeper, store: MemoryStore) -> None:
    name = store.names(0)[0]
    header = filled.header(name)
    require_of(header, fold(), name)
    assert (header.next_offset, header.headrace, header.created_at) == (30, "0.1", 1_000.0)
    with pytest.raises(SnapshotError, match="is of origin 0, expected 1"):
        require_of(header, fold(origin=1), name)
    with pytest.raises(SnapshotError, match="is of origin 0, expected 1"):
        filled.open(name, fold(origin=1))


def test_one_of_another_fold_with_the_same_beginning_is_not_used(filled: SnapshotKeeper) -> None:
    """As after a rebuild, when a module that the learner imports has changed: all else is equal."""
    rebuilt = fold(fold_id="0123456789abcdef")

    found = filled.newest(rebuilt, first=0, committed=1_000)

    assert found.restored is None
    assert [item.is_broken for item in found.refused] == [False] * 3
