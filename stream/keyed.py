"""Items that wait by key: taken by key, or oldest first. A million of them in half a gibibyte.

Items lie in *segments*: the open one takes additions, and is sealed when it is full. A sealed segment gets no more
items, it only loses them. So a snapshot has to write a segment once, and later only which of its items are left. Why so
is told in docs/decisions/0007-pending-questions-lie-in-segments.md.
"""

from __future__ import annotations

import heapq
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, count, islice
from marshal import dumps, loads
from typing import Any, Final, NamedTuple

NEVER: Final = float("inf")

#: What is kept: plain values (None, bool, int, float, str, bytes, and tuples, lists and dictionaries of them).
Item = tuple[Any, ...]

#: Items of a segment. A snapshot writes those of the open segment each time; all others are a file for each segment.
SEGMENT_ITEMS = 4_096
#: A sealed segment that has lost all but this share of its items gives the rest to the open one, and is gone.
SPARSE: Final = 0.25
#: The format of packed items: exact, plain values only, and the same bytes for equal items (a later one is not).
PACKED: Final = 2
#: Behind a packed item is its number, in so many bytes. So it costs no look at another place in memory.
NUMBER: Final = 8
#: The index is a table of so many dictionaries: a single one of a million keys stands still for 30 ms when it grows.
#: The bits of the hash that choose are some that a dictionary of this size does not look at.
SHARDS: Final = 256
LAST_SHARD: Final = SHARDS - 1
SHARD_SHIFT: Final = 48
#: The largest object, bytes, that the interpreter counts as a block of memory, and of how many items that is looked at.
LARGEST_BLOCK: Final = 512
LOOK: Final = 256
#: What a snapshot costs for each item that no file holds yet: to write, read back and compare it; 0.75 were measured.
SECONDS_AN_ITEM: Final = 1e-6


class SegmentFile(NamedTuple):
    """Where the items of a sealed segment are kept."""

    name: str
    #: Bytes, and SHA-256.
    size: int
    sha256: str


class Segment:
    """A sealed segment: items that only become fewer; the items themselves lie in the queue's index."""

    __slots__ = ("added", "alive", "at", "file", "items", "keys", "limit", "live", "number", "order", "times")

    def __init__(  # noqa: PLR0917 - made in two places
        self,
        number: int,
        keys: list[str | None],
        items: list[bytes | None] | None,
        times: array[float],
        added: array[int],
        alive: bytearray,
        order: array[int] | None,
        file: SegmentFile | None = None,
    ) -> None:
        self.number = number
        #: Some of those whose item has left are None.
        self.keys = keys
        #: Packed, each, those that have left as None; until a file holds them, so that they need not be gathered then.
        self.items = items
        self.times = times
        #: The number that each was added under, which grows: of equal times the one that came first leaves first.
        self.added = added
        #: For each slot whether its item is there, 1 or 0; how many are; and below how many something is to be done.
        self.alive = alive
        self.live = alive.count(1)
        self.limit = len(alive) // 2
        #: Slots, the oldest first; None: all, as they are. Those before `at` have left.
        self.order = order
        self.at = 0
        #: Where it is kept, once it is; the items in there may be more than those that are left.
        self.file = file

    def front(self) -> tuple[float, int, int]:
        """The oldest item's time, the number it was added under, and this segment's; there must be one."""
        alive, order = self.alive, self.order
        if order is None:
            self.at = slot = alive.index(1, self.at)
        else:
            while not alive[order[self.at]]:
                self.at += 1
            slot = order[self.at]
        return self.times[slot], self.added[slot], self.number


@dataclass(frozen=True, slots=True)
class FrozenSegment:
    """A sealed segment at one moment."""

    segment: Segment
    #: For each of its items whether it was there, a byte of 1 or 0.
    alive: bytes
    #: Keys and packed items; empty if a file holds them.
    keys: list[str | None]
    items: list[bytes | None]

    def content(self) -> bytes:
        """What its file holds."""
        segment = self.segment
        keys = [key if is_alive else None for key, is_alive in zip(self.keys, self.alive, strict=True)]
        return dumps((segment.added.tolist(), segment.times.tolist(), keys, self.items), PACKED)


@dataclass(frozen=True, slots=True)
class FrozenQueue:
    """A queue at one moment, which goes on meanwhile."""

    #: Most items of a segment, and a number that is larger than all that were given.
    segment_items: int
    base: int
    #: Of the open segment's items the numbers they were added under, times, keys, items.
    open: tuple[list[int], list[float], list[Any], list[Any]]
    segments: list[FrozenSegment]

    def files(self) -> list[SegmentFile]:
        """Where its segments lie, in their order; all have been written."""
        found = [part.segment.file for part in self.segments if part.segment.file is not None]
        if len(found) != len(self.segments):
            raise AssertionError("segments are written before the snapshot that names them")
        return found

    def manifest(self) -> tuple[Any, ...]:
        """What a snapshot holds of it beside its segments: plain values."""
        added, times, keys, items = self.open
        sealed = [(part.segment.number, len(part.alive), _bits(part.alive)) for part in self.segments]
        return self.segment_items, self.base, added, times, keys, items, sealed


class KeyedQueue:
    """Items by key, each with a time; they leave by key, or the oldest first, those of one time in the order they came.

    To add or to take one costs a microsecond, whatever the number of items; one in some thousands costs a millisecond
    or two. Two queues are equal if they hold the same items in the same order, wherever their segments end.

    Args:
        segment_items: Most items of a segment; None: as many as is best.

    Example:
        >>> queue = KeyedQueue()
        >>> queue.add("a", 20.0, (1.5, "x"))
        >>> queue.add("b", 10.0, (2.5, "y"))
        >>> len(queue), "a" in queue, queue.oldest
        (2, True, 10.0)
        >>> queue.pop_oldest()
        ('b', 10.0, (2.5, 'y'))
        >>> queue.take("a"), queue.take("a"), queue.oldest
        ((1.5, 'x'), None, inf)
    """

    __slots__ = (
        "_added",
        "_alive",
        "_at",
        "_base",
        "_count",
        "_few",
        "_front",
        "_fronts",
        "_index",
        "_items",
        "_keys",
        "_latest",
        "_order",
        "_segments",
        "_size",
        "_times",
        "oldest",
    )

    def __init__(self, segment_items: int | None = None) -> None:
        self._begin(segment_items or SEGMENT_ITEMS)

    def _begin(self, segment_items: int) -> None:
        self._size = segment_items
        self._few = max(1, int(segment_items * SPARSE))
        #: For each key its item, packed, and behind it the item's number: that of its segment times the size of a
        #: segment, plus the slot in it.
        self._index: list[dict[str, bytes]] = [{} for _ in range(SHARDS)]
        self._count = 0
        self._segments: dict[int, Segment] = {}
        #: A heap of each sealed segment's oldest item, or of one that was its oldest until it left.
        self._fronts: list[tuple[float, int, int]] = []
        #: The smallest time of all items; infinity without any. Read for every event.
        self.oldest = NEVER
        #: The number of that item.
        self._front = -1
        self._open(0)

    def _open(self, base: int) -> None:
        """Open an empty segment whose first slot has this number."""
        self._base = base
        self._keys: list[str | None] = []
        self._items: list[bytes | None] = []
        self._times = array("d")
        self._added = array("q")
        #: A byte of 0 for each slot whose item has left.
        self._alive = bytearray(b"\1") * self._size
        #: As in a sealed segment.
        self._order: list[int] | None = None
        self._at = 0
        #: The largest time in the open segment: what is not older goes to the end of its order.
        self._latest = -NEVER

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: str) -> bool:
        return key in self._index[hash(key) >> SHARD_SHIFT & LAST_SHARD]

    def add(self, key: str, time: float, item: Item) -> None:
        """Keep an item; there must be none of this key."""
        keys = self._keys
        slot = len(keys)
        if slot == self._size:
            self._seal()
            keys = self._keys
            slot = len(keys)
        number = self._base + slot
        packed = dumps(item, PACKED) + number.to_bytes(NUMBER, "little")
        self._index[hash(key) >> SHARD_SHIFT & LAST_SHARD][key] = packed
        keys.append(key)
        self._items.append(packed)
        self._times.append(time)
        self._added.append(number)
        self._count += 1
        if time < self.oldest:
            self.oldest = time
            self._front = number
        if time < self._latest:
            self._insert(slot, time)
        else:
            self._latest = time
            if self._order is not None:
                self._order.append(slot)

    def get(self, key: str) -> Item | None:
        """The item of this key, which stays; None if there is none."""
        entry = self._index[hash(key) >> SHARD_SHIFT & LAST_SHARD].get(key)
        if entry is None:
            return None
        item: Item = loads(entry)  # which ends where the item does
        return item

    def take(self, key: str) -> Item | None:
        """The item of this key, which leaves; None if there is none."""
        entry = self._index[hash(key) >> SHARD_SHIFT & LAST_SHARD].pop(key, None)
        if entry is None:
            return None
        self._leave(int.from_bytes(entry[-NUMBER:], "little"))
        item: Item = loads(entry)
        return item

    def pop_oldest(self) -> tuple[str, float, Item]:
        """The item with the smallest time, which leaves: its key, its time and itself. There must be one."""
        key, time = self._oldest_key(), self.oldest
        item = self.take(key)
        assert item is not None
        return key, time, item

    def drop_oldest(self) -> None:
        """Let the item with the smallest time leave, and do not look at it. There must be one."""
        key = self._oldest_key()
        del self._index[hash(key) >> SHARD_SHIFT & LAST_SHARD][key]
        self._leave(self._front)

    def _oldest_key(self) -> str:
        number = self._front
        if number < 0:
            raise IndexError("the queue is empty")
        at, slot = divmod(number, self._size)
        key = self._keys[slot] if number >= self._base else self._segments[at].keys[slot]
        assert key is not None
        return key

    def _leave(self, number: int) -> None:
        """The item of this number has left the index."""
        self._count -= 1
        slot = number - self._base
        if slot >= 0:
            self._alive[slot] = 0
            self._items[slot] = None
        else:
            at, slot = divmod(number, self._size)
            segment = self._segments[at]
            segment.alive[slot] = 0
            items = segment.items
            if items is not None:
                items[slot] = None
            segment.live = live = segment.live - 1
            if live < segment.limit:
                self._thin_out(at, segment)
        if number == self._front:
            self._find_front()

    # Segments ---------------------------------------------------------------------------------------------------

    def _insert(self, slot: int, time: float) -> None:
        """Put the newest item, which is older than others, into the order of the open segment."""
        order = list(range(slot)) if self._order is None else self._order
        times = self._times
        if self._at == slot:
            self._latest = time
        order.insert(bisect_right(order, time, lo=self._at, key=times.__getitem__), slot)
        self._order = order

    def _thin_out(self, at: int, segment: Segment) -> None:
        """Let go of the keys of a segment that has half of its items left, and of one that has few."""
        if segment.live >= self._few:
            segment.keys = [
                key if is_alive else None for key, is_alive in zip(segment.keys, segment.alive, strict=True)
            ]
            segment.limit = self._few
        # Not where the oldest item is: that one is emptied soon.
        elif not segment.live or self._front // self._size != at:
            del self._segments[at]
            self._carry(segment)
        else:
            segment.limit = segment.live // 2 + 1

    def _seal(self) -> None:
        """Seal the open segment and open another."""
        order = self._order
        segment = Segment(
            self._base // self._size,
            self._keys,
            self._items,
            self._times,
            self._added,
            self._alive[: len(self._keys)],
            None if order is None else array("L", order[self._at :]),
        )
        self._open(self._base + self._size)
        if segment.live >= self._few:
            self._hold(segment)
        else:
            self._carry(segment)

    def _gathered(self, segment: Segment) -> list[bytes | None]:
        """The packed items of a segment."""
        index = self._index
        return [
            index[hash(key) >> SHARD_SHIFT & LAST_SHARD][key] if key is not None and is_alive else None
            for key, is_alive in zip(segment.keys, segment.alive, strict=True)
        ]

    def _hold(self, segment: Segment) -> None:
        self._segments[segment.number] = segment
        heapq.heappush(self._fronts, segment.front())

    def _carry(self, segment: Segment) -> None:
        """Give the few items of a segment to the open one, with the places in the order that they have."""
        if not segment.live:
            return
        if len(self._keys) + segment.live > self._size:
            self._seal()
        alive, keys, index = segment.alive, self._keys, self._index
        for slot in compress(range(len(alive)), alive):
            key = segment.keys[slot]
            assert key is not None
            shard = index[hash(key) >> SHARD_SHIFT & LAST_SHARD]
            shard[key] = packed = _numbered(shard[key], self._base + len(keys))
            keys.append(key)
            self._items.append(packed)
            self._times.append(segment.times[slot])
            self._added.append(segment.added[slot])
        self._arrange()

    def _arrange(self) -> None:
        """Find the order of the open segment's items, and the oldest of all."""
        slots = _ordered(compress(range(len(self._keys)), self._alive), self._times, self._added)
        self._latest = self._times[slots[-1]] if slots else -NEVER
        self._order = None if len(slots) == len(self._keys) and _is_range(slots) else slots
        self._at = 0
        self._find_front()

    def _find_front(self) -> None:
        """Find the oldest item again."""
        time, added, front = NEVER, 0, -1
        count, order = len(self._keys), self._order
        if order is None:
            at = self._alive.find(1, self._at, count)
            slot = self._at = count if at < 0 else at
        else:
            at, alive, count = self._at, self._alive, len(order)
            while at < count and not alive[order[at]]:
                at += 1
            self._at = at
            slot = order[at] if at < count else 0
        if self._at < count:
            time, added, front = self._times[slot], self._added[slot], self._base + slot
        fronts = self._fronts
        while fronts:
            segment = self._segments.get(fronts[0][2])
            if segment is None:
                heapq.heappop(fronts)
                continue
            found = segment.front()
            if found != fronts[0]:
                heapq.heapreplace(fronts, found)
                if fronts[0] is not found:
                    continue
            if found[:2] < (time, added):
                slot = segment.at if segment.order is None else segment.order[segment.at]
                time, front = found[0], segment.number * self._size + slot
            break
        self.oldest, self._front = time, front

    # Snapshots --------------------------------------------------------------------------------------------------

    def freeze(self) -> FrozenQueue:
        """All that the queue holds now, in a few milliseconds: the rest of a snapshot may be made in another thread."""
        present = list(compress(range(len(self._keys)), self._alive))
        segments = []
        for segment in self._segments.values():
            is_new = segment.file is None
            if is_new and segment.items is None:  # its file was lost
                segment.items = self._gathered(segment)
            segments.append(
                FrozenSegment(
                    segment,
                    bytes(segment.alive),
                    segment.keys.copy() if is_new else [],
                    segment.items.copy() if is_new and segment.items is not None else [],
                )
            )
        return FrozenQueue(
            self._size,
            self._base + self._size,
            (
                [self._added[slot] for slot in present],
                [self._times[slot] for slot in present],
                [self._keys[slot] for slot in present],
                [self._items[slot] for slot in present],
            ),
            segments,
        )

    def thaw(self, manifest: Sequence[Any], segments: Iterator[tuple[SegmentFile, bytes]]) -> None:
        """Hold what a frozen queue held; this one must be new.

        Args:
            manifest: Of the frozen one.
            segments: Its segments in their order, and perhaps others behind them.

        Raises:
            ValueError: They do not belong together.
        """
        size, base, added, times, keys, items, sealed = manifest
        self._begin(size)
        for number, length, bits in sealed:
            self._thaw_segment(number, length, bits, *next(segments))
        self._open(base)
        self._keys = list(keys)
        self._times, self._added = array("d", times), array("q", added)
        for number, key, item in zip(count(base), keys, items, strict=False):
            packed = _numbered(item, number)
            self._index[hash(key) >> SHARD_SHIFT & LAST_SHARD][key] = packed
            self._items.append(packed)
        self._count += len(keys)
        if not len(added) == len(times) == len(keys) == len(items) <= size:
            raise ValueError("the open segment has another number of items than it says")
        if self._count != sum(map(len, self._index)):
            raise ValueError("a key is there twice")
        self._arrange()

    def _thaw_segment(self, number: int, length: int, bits: bytes, file: SegmentFile, content: bytes) -> None:
        added, times, keys, items = loads(content)
        if not length == len(added) == len(times) == len(keys) == len(items) <= self._size:
            raise ValueError(f"{file.name} has another number of items than the snapshot says")
        alive, index = _from_bits(bits, length), self._index
        for slot, is_alive in enumerate(alive):
            if is_alive:
                key = keys[slot]
                index[hash(key) >> SHARD_SHIFT & LAST_SHARD][key] = items[slot]
            else:
                keys[slot] = None
        slots = _ordered(range(length), times, added)
        order = None if _is_range(slots) else array("L", slots)
        segment = Segment(number, keys, None, array("d", times), array("q", added), alive, order, file)
        self._count += segment.live
        self._hold(segment)

    def blocks(self) -> int:
        """About how many blocks of memory the items take: what they cost a snapshot is not told by that."""
        some = list(islice(chain.from_iterable(shard.values() for shard in self._index), LOOK))
        small = sum(sys.getsizeof(entry) <= LARGEST_BLOCK for entry in some)
        return round(self._count * (1 + small / max(1, len(some))))

    def snapshot_seconds(self) -> float:
        """About how long the next snapshot of the items will take: by those that no file holds yet."""
        waiting = sum(segment.live for segment in self._segments.values() if segment.file is None)
        return (waiting + len(self._keys)) * SECONDS_AN_ITEM

    # Equality ---------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[tuple[str, float, Item]]:
        """Key, time and item of each, the oldest first; nothing may change meanwhile."""
        return ((key, time, loads(packed)) for key, time, packed in self.__getstate__())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeyedQueue):
            return NotImplemented
        return self.__getstate__() == other.__getstate__()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __getstate__(self) -> list[tuple[str, float, bytes]]:
        """Key, time and packed item of each, the oldest first."""
        found: list[tuple[float, int, str, bytes]] = []
        sealed = [(part.times, part.added, part.keys, part.alive) for part in self._segments.values()]
        open_ = (self._times, self._added, self._keys, self._alive[: len(self._keys)])
        index = self._index
        for times, added, keys, alive in (*sealed, open_):
            found += [
                (time, number, key, index[hash(key) >> SHARD_SHIFT & LAST_SHARD][key])
                for time, number, key, is_alive in zip(times, added, keys, alive, strict=True)
                if key is not None and is_alive
            ]
        found.sort(key=lambda entry: entry[:2])
        return [(key, time, packed[:-NUMBER]) for time, _, key, packed in found]

    def __setstate__(self, entries: Iterable[tuple[str, float, bytes]]) -> None:
        self._begin(SEGMENT_ITEMS)
        for key, time, packed in entries:
            self.add(key, time, loads(packed))


def _numbered(packed: bytes, number: int) -> bytes:
    """The same item with another number."""
    return packed[:-NUMBER] + number.to_bytes(NUMBER, "little")


def _ordered(slots: Iterable[int], times: Sequence[float], added: Sequence[int]) -> list[int]:
    """Slots by time, those of one time by when they were added."""
    found = list(slots)
    found.sort(key=added.__getitem__)
    found.sort(key=times.__getitem__)
    return found


def _is_range(slots: list[int]) -> bool:
    return slots == list(range(len(slots)))


def _bits(alive: bytes) -> bytes:
    """Bytes of 0 and 1 as bits.

    Example:
        >>> _from_bits(_bits(b"\\1\\0\\1"), 3)
        bytearray(b'\\x01\\x00\\x01')
    """
    digits = alive.translate(b"01" + bytes(254))
    return int(b"1" + digits, 2).to_bytes(len(alive) // 8 + 1, "big")


def _from_bits(bits: bytes, count: int) -> bytearray:
    digits = format(int.from_bytes(bits, "big"), "b")
    if len(digits) != count + 1:
        raise ValueError("a segment has another number of items than the snapshot says")
    return bytearray(digits[1:].encode().translate(bytes(48) + b"\0\1" + bytes(206)))
