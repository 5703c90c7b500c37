from __future__ import annotations

import marshal
import pickle
import random
from collections.abc import Iterator
from typing import Any

import pytest

from stream import keyed
from stream.keyed import NEVER, FrozenQueue, KeyedQueue, SegmentFile
from tests.helpers import canonical

#: Every kind of value that an item may be made of, as odd as they come.
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    -(10**30),
    0,
    -0.0,
    float("inf"),
    5e-324,
    "",
    "ß\ud800",
    b"\0\xff",
    (1, ("a", ())),
    [1, [2]],
    {"b": 1.5, "a": {"c": None}},
)


def write(frozen: FrozenQueue, store: dict[str, bytes]) -> tuple[Any, list[SegmentFile]]:
    """What a snapshot does with a frozen queue: segments that no file holds become files."""
    files = []
    for part in frozen.segments:
        if part.segment.file is None:
            name = f"{len(store)}"
            store[name] = part.content()
            part.segment.file = SegmentFile(name, len(store[name]), "")
        files.append(part.segment.file)
    return frozen.manifest(), files


def through_files(queue: KeyedQueue, store: dict[str, bytes]) -> KeyedQueue:
    """The queue as it comes back from files."""
    manifest, files = write(queue.freeze(), store)
    copy = KeyedQueue()
    copy.thaw(manifest, ((file, store[file.name]) for file in files))
    return copy


def filled(n: int, segment_items: int = 8) -> KeyedQueue:
    queue = KeyedQueue(segment_items)
    for i in range(n):
        queue.add(f"id-{i}", float(i), (i, {"a": i / 7}))
    return queue


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed, "SEGMENT_ITEMS", 8)


def drained(queue: KeyedQueue) -> Iterator[tuple[str, float, Any]]:
    while queue:
        yield queue.pop_oldest()


@pytest.mark.parametrize("behind", [0, 1, 300, 20_000])
def test_an_item_comes_back_exactly_as_it_was_however_many_came_after_it(behind: int) -> None:
    queue = KeyedQueue()
    queue.add("odd", 0.0, ODD)
    for i in range(behind):
        queue.add(f"id-{i}", 1.0, (i,))

    assert repr(queue.get("odd")) == repr(ODD)
    assert repr(queue.take("odd")) == repr(ODD)
    assert len(queue) == behind


def test_a_number_that_is_none_stays_one() -> None:
    queue = KeyedQueue(8)
    queue.add("nan", 0.0, (float("nan"),))
    for i in range(20):
        queue.add(f"id-{i}", 1.0, (i,))

    assert repr(queue.take("nan")) == "(nan,)"


def test_what_is_not_there_is_none_and_nothing_leaves_an_empty_queue() -> None:
    queue = KeyedQueue()

    assert (queue.get("a"), queue.take("a"), "a" in queue, len(queue), queue.oldest) == (
        None,
        None,
        False,
        0,
        NEVER,
    )
    with pytest.raises(IndexError, match="empty"):
        queue.pop_oldest()


def test_of_one_time_the_first_leaves_first_wherever_its_segment_ends(small: None) -> None:
    queue = KeyedQueue()
    for i in range(50):
        queue.add(f"id-{i}", 7.0, (i,))
    for i in range(50):
        if i % 6:
            queue.take(f"id-{i}")  # leaves few in each segment, which go to the open one
    queue.add("last", 7.0, (99,))

    assert [key for key, _, _ in drained(queue)] == [*(f"id-{i}" for i in range(0, 50, 6)), "last"]


def test_an_item_that_is_older_than_all_is_the_oldest_at_once() -> None:
    queue = filled(30)

    queue.add("old", -5.0, ("old",))

    assert queue.oldest == -5.0
    assert queue.pop_oldest() == ("old", -5.0, ("old",))
    assert queue.oldest == 0.0


def test_segments_that_lose_their_items_are_given_up(small: None) -> None:
    queue = KeyedQueue()
    for i in range(10_000):
        queue.add(f"id-{i}", float(i), (i,))
        if i >= 20 and i % 1_000:
            queue.take(f"id-{i - 20}")  # one in a thousand waits for ever

    left = len(queue)
    assert left == 29
    assert (
        len(queue.freeze().segments) <= left // 2 + 2
    )  # a segment of eight has at least two, but for the oldest
    assert next(key for key, _, _ in queue) == "id-980"


def test_queues_are_equal_by_their_items_and_not_by_their_segments() -> None:
    one, other = filled(40, segment_items=8), KeyedQueue(16)
    for i in range(60):
        other.add(f"id-{i}", float(i), (i, {"a": i / 7}))
    for i in range(40, 60):
        other.take(f"id-{i}")

    assert one == other
    assert canonical(one) == canonical(other)
    other.take("id-7")
    assert one != other
    assert canonical(one) != canonical(other)
    assert one != [*one]


def test_the_order_of_items_of_one_time_tells_queues_apart() -> None:
    one, other = KeyedQueue(), KeyedQueue()
    for key in "ab":
        one.add(key, 1.0, (key,))
    for key in "ba":
        other.add(key, 1.0, (key,))

    assert one != other


def test_a_queue_goes_through_a_pickle(small: None) -> None:
    queue = filled(30)
    queue.take("id-3")

    copy = pickle.loads(pickle.dumps(queue))

    assert copy == queue
    copy.add("id-3", 3.0, (3,))
    assert copy.pop_oldest()[0] == "id-0"


def test_a_snapshot_writes_each_segment_once() -> None:
    queue, store = filled(40), dict[str, bytes]()

    through_files(queue, store)
    assert len(store) == 4  # the fifth is open
    for i in range(3, 40):
        if i % 3 == 0:
            queue.take(f"id-{i}")
    through_files(queue, store)
    assert len(store) == 4
    for i in range(40, 48):
        queue.add(f"id-{i}", float(i), (i,))
    through_files(queue, store)

    assert len(store) == 5


def test_what_was_frozen_stays_as_it_was_while_the_queue_goes_on() -> None:
    queue, store = filled(44), dict[str, bytes]()
    queue.take("id-5")
    expected = pickle.loads(pickle.dumps(queue))
    frozen = queue.freeze()

    for i in range(0, 44, 2):
        queue.take(f"id-{i}")
    for i in range(100, 150):
        queue.add(f"id-{i}", 1.0, (i,))
    manifest, files = write(frozen, store)
    copy = KeyedQueue()
    copy.thaw(manifest, ((file, store[file.name]) for file in files))

    assert copy == expected


def test_a_queue_that_came_from_files_goes_on_as_if_nothing_had_been(small: None) -> None:
    rng = random.Random(4)
    queue, twin, store = KeyedQueue(), KeyedQueue(), dict[str, bytes]()
    for i in range(600):
        time = float(rng.randrange(50))
        for one in (queue, twin):
            one.add(f"id-{i}", time, (i,))
        gone = f"id-{rng.randrange(i + 1)}"
        assert queue.take(gone) == twin.take(gone)
        if i % 3 == 0 and queue:
            assert queue.pop_oldest() == twin.pop_oldest()
        if i % 17 == 0:
            queue = through_files(queue, store)
        assert queue.oldest == twin.oldest

    assert queue == twin
    assert list(drained(queue)) == list(drained(twin))


def test_what_is_added_after_a_restart_leaves_after_what_was_there() -> None:
    queue, store = filled(16), dict[str, bytes]()
    for i in range(15):
        queue.take(f"id-{i}")
    queue = through_files(queue, store)

    for i in range(20):
        queue.add(f"new-{i}", 15.0, (i,))

    assert [key for key, _, _ in queue] == ["id-15", *(f"new-{i}" for i in range(20))]


def test_the_oldest_may_leave_unseen(small: None) -> None:
    queue, twin = filled(40), filled(40)

    for _ in range(30):
        queue.drop_oldest()
        twin.pop_oldest()

    assert queue == twin
    with pytest.raises(IndexError, match="empty"):
        KeyedQueue().drop_oldest()


def test_files_that_do_not_belong_to_the_manifest_are_told() -> None:
    queue, store = filled(40), dict[str, bytes]()
    manifest, files = write(queue.freeze(), store)
    shorter = write(filled(20).freeze(), other := dict[str, bytes]())[1]

    with pytest.raises(ValueError, match="a key is there twice"):
        KeyedQueue().thaw(manifest, iter([(files[0], store[files[0].name])] * 4))
    cut = marshal.loads(other[shorter[0].name])
    with pytest.raises(ValueError, match="another number of items"):
        KeyedQueue().thaw(manifest, iter([(files[0], marshal.dumps([part[:3] for part in cut], 2))] * 4))


def test_what_a_snapshot_will_cost_is_told_by_what_no_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed, "SECONDS_AN_ITEM", 1.0)
    queue, store = filled(44), dict[str, bytes]()

    assert queue.snapshot_seconds() == 44
    through_files(queue, store)

    assert queue.snapshot_seconds() == 4


def test_the_blocks_of_memory_of_items_are_known() -> None:
    small, large = KeyedQueue(), KeyedQueue()
    for i in range(20_000):
        small.add(f"id-{i}", float(i), ("x" * 100,))
        large.add(f"id-{i}", float(i), ("x" * 1_000,))

    assert (small.blocks(), large.blocks()) == (40_000, 20_000)
