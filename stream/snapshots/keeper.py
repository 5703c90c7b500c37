"""When a snapshot is taken, and which one a partition is restored from.

The worker's thread pickles a small state, and makes a copy of the process that pickles a large one, which is the pause;
a thread of the keeper does the rest: it has the bytes unpickled and tried on a few rows, writes the segments that are
new, seals, stores, reads back and compares, and deletes what is beyond those to keep. So a store that is slow or gone
costs the data plane nothing.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Final, NamedTuple

from stream.errors import SnapshotError
from stream.keyed import KeyedQueue, Segment, SegmentFile
from stream.labels import RecentIds
from stream.pipeline import State
from stream.snapshots.file import (
    Fold,
    Header,
    Payload,
    Superseded,
    header_of,
    opened,
    queues_of,
    sealed,
)
from stream.snapshots.pickling import CopyStuckError, Rest, in_a_copy, in_this_process
from stream.snapshots.segments import SegmentMissing, file_of, is_orphaned, reader, write
from stream.snapshots.store import NAME, SnapshotStore

#: The share of a worker's time that snapshots may take. Less than the 5 % that are promised: a process has other costs
#: of a large state that this does not see, such as caches that are cold afterwards.
MOST_SHARE: Final = 0.03
#: What a snapshot costs for each block of memory that a state is made of: to pickle it and to unpickle the copy.
#: Measured with forests of 10,000 to 1,200,000 blocks: 2.6 to 3.4 microseconds. A state of arrays has few blocks.
SECONDS_A_BLOCK: Final = 3.5e-6
#: An expected cost below this many seconds is none: a process grows by that for other reasons than its states.
NO_COST: Final = 0.1
#: Seconds after the last snapshot, or after the beginning, from which on an expected cost puts none off: a guess
#: must not make of a restart that replays for minutes one that replays for hours.
LONGEST_WAIT: Final = 600.0
#: Seconds for which segments are used that were written for a snapshot that failed. Later they are written again:
#: after an hour others may take them for what a dead writer left.
UNNAMED_SECONDS: Final = 1_800.0
#: Seconds between two times that a partition is looked through for segments that dead writers left.
SWEEP_SECONDS: Final = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPolicy:
    """When a snapshot of a partition is due."""

    #: It is, this many seconds after the last one, or after this many records of the partition.
    interval_seconds: float
    interval_events: int
    #: Snapshots kept of each partition.
    keep: int
    #: Largest snapshot, with its segments, bytes.
    max_bytes: int

    def is_due(self, now: float, *, records: int, taken_at: float) -> bool:
        """Whether, with so many records since the last one, which was taken then.

        Example:
            >>> policy = SnapshotPolicy(interval_seconds=10, interval_events=500, keep=3, max_bytes=1_000)
            >>> policy.is_due(9.0, records=499, taken_at=0.0), policy.is_due(10.0, records=1, taken_at=0.0)
            (False, True)
        """
        return records >= self.interval_events or (records > 0 and now - taken_at >= self.interval_seconds)

    def rest(self, cost: float, *, failed: bool) -> float:
        """Seconds until the next snapshot of any partition, after one that cost so many.

        Example:
            >>> policy = SnapshotPolicy(interval_seconds=10, interval_events=500, keep=3, max_bytes=1_000)
            >>> round(policy.rest(0.3, failed=False), 1)
            9.7
        """
        rest = cost * (1 / MOST_SHARE - 1)
        return max(rest, self.interval_seconds) if failed else rest

    def may_cost(self, seconds: float, *, after: float) -> bool:
        """Whether a snapshot may be taken that will cost so much, so many seconds after the last one, or without one
        after the beginning: only then is it known before it is paid that a state is large, or has grown.

        Example:
            >>> policy = SnapshotPolicy(interval_seconds=10, interval_events=500, keep=3, max_bytes=1_000)
            >>> policy.may_cost(2.0, after=60.0), policy.may_cost(2.0, after=70.0), policy.may_cost(90.0, after=600.0)
            (False, True, True)
        """
        return seconds < NO_COST or after >= min(seconds / MOST_SHARE, LONGEST_WAIT)


class Restored(NamedTuple):
    """What a partition can go on from."""

    name: str
    header: Header
    state: State
    #: Bytes, with its segments.
    size: int


class Refused(NamedTuple):
    """A snapshot that is there and is not used."""

    name: str
    reason: str
    #: Something is wrong with it that a person should know; not so if it is merely of no use any more.
    is_broken: bool = True


class Found(NamedTuple):
    """What the store has for a partition."""

    #: The newest that is to be used; None if there is none.
    restored: Restored | None
    #: Newer ones that can't be.
    refused: Sequence[Refused]


class Taken(NamedTuple):
    """What became of a snapshot."""

    partition: int
    #: S.
    next_offset: int
    #: Its name, and its size in bytes, with its segments; without a name it failed, and `reason` says why.
    name: str | None
    size: int
    reason: str
    #: Seconds that the worker's thread stood still, and that it took in all.
    pause_seconds: float
    seconds: float


class _Known(NamedTuple):
    """What is remembered of a snapshot whose seal held."""

    #: Names of the segments that it needs.
    segments: frozenset[str]
    fold: Fold


def in_background(job: Callable[[], None]) -> None:
    """Run a job in a thread that a process may end without."""
    Thread(target=job, name="snapshot", daemon=True).start()


class SnapshotKeeper:
    """The snapshots of a worker's partitions.

    Args:
        store: Where they lie.
        key: Seals them.
        policy: When one is due.
        trusted: Modules that the learner's own classes may come from.
        version: Of Headrace.
        clock: Seconds that only grow.
        wall_clock: Epoch seconds, for people only.
        cpu_clock: Seconds of CPU of the calling thread, for the budget.
        blocks: How many blocks of memory this process has allocated: how large the states have become.
        start: Runs the second half of taking a snapshot.
        with_copies: Whether a copy of this process may pickle a large state.
    """

    def __init__(
        self,
        store: SnapshotStore,
        key: bytes,
        policy: SnapshotPolicy,
        *,
        trusted: Sequence[str] = (),
        version: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        cpu_clock: Callable[[], float] = time.thread_time,
        blocks: Callable[[], int] = sys.getallocatedblocks,
        start: Callable[[Callable[[], None]], None] = in_background,
        with_copies: bool = False,
    ) -> None:
        self.store = store
        self.policy = policy
        self._key = key
        self._trusted = tuple(trusted)
        self._version = version
        self._clock = clock
        self._wall_clock = wall_clock
        self._cpu_clock = cpu_clock
        self._blocks = blocks
        self._blocks_without = blocks()
        self._start = start
        self._with_copies = with_copies
        #: What the next snapshot will cost, seconds.
        self._expected = 0.0
        #: When each partition's last snapshot was taken, or the partition restored.
        self._taken_at: dict[int, float] = {}
        self._free_at = float("-inf")
        #: When the last one, of whatever partition, was done, or the first partition began; None before that.
        self._rested_since: float | None = None
        self._costs: dict[int, float] = {}
        self._results: SimpleQueue[tuple[Taken, float]] = SimpleQueue()
        #: By name of a snapshot what is known of it; None: it can't be used.
        self._known: dict[str, _Known | None] = {}
        #: Segments that were written and that no snapshot names yet, by file, and when.
        self._unnamed: dict[str, tuple[Segment, float]] = {}
        #: Such that have become too old, and are to be deleted.
        self._abandoned: list[str] = []
        #: How often written segments were looked at.
        self._looks = 0
        #: When each partition was last looked through for what dead writers left.
        self._swept_at: dict[int, float] = {}
        self._idle = Event()
        self._idle.set()

    # Restoring --------------------------------------------------------------------------------------------------

    def has_any(self, partition: int) -> bool:
        """Whether there is a snapshot of this partition, whatever its worth.

        Raises:
            OSError: The store does not say.
        """
        return bool(self.store.names(partition))

    def newest(self, fold: Fold, *, first: int, committed: int) -> Found:
        """The newest snapshot that passes every check, out of those at offsets the log can go on from.

        Args:
            fold: What it must be a state of.
            first: The first offset that the log still has.
            committed: C; a state beyond it has learned what may come otherwise.

        Raises:
            OSError: The store does not answer.
        """
        refused = []
        for name in self.store.names(fold.partition):
            offset = offset_of(name)
            if offset > committed:
                refused.append(
                    Refused(name, f"{name}: is of {offset}, after the committed offset {committed}.")
                )
                continue
            if offset < first:
                refused.append(
                    Refused(
                        name,
                        f"{name}: is of {offset}, and the log now begins at {first}: records between are gone.",
                    )
                )
                break
            try:
                return Found(self.open(name, fold), refused)
            except FileNotFoundError:
                continue  # pruned by the worker that had this partition
            except SnapshotError as error:
                is_broken = not isinstance(error, Superseded)
                if is_broken:
                    self._known[name] = None  # whatever was seen of it before
                refused.append(Refused(name, str(error), is_broken=is_broken))
        return Found(None, refused)

    def watch(self, partition: int) -> None:
        """A partition is this worker's from now on: its first snapshot is due an interval later."""
        now = self._taken_at[partition] = self._clock()
        for name in self._unnamed_of(partition):
            self._unnamed.pop(name, None)  # of a state that was lost
        if self._rested_since is None:
            self._rested_since = now

    def _unnamed_of(self, partition: int) -> list[str]:
        return [name for name in list(self._unnamed) if name.startswith(f"{partition}/")]

    # Taking -----------------------------------------------------------------------------------------------------

    def due(
        self, records: Mapping[int, int], states: Callable[[], Iterable[State]] = lambda: ()
    ) -> int | None:
        """The partition whose snapshot is to be taken now, if one is: of several the one that waits the longest.

        Args:
            records: For each partition how many records it has processed since its last snapshot.
            states: All states of this process.
        """
        now = self._clock()
        if now < self._free_at or not self._idle.is_set():
            return None
        due = [
            partition
            for partition, count in records.items()
            if self.policy.is_due(now, records=count, taken_at=self._taken_at[partition])
        ]
        if not due or self._rested_since is None:
            return None
        self._expected = self._expected_cost(len(records), states())
        if not self.policy.may_cost(self._expected, after=now - self._rested_since):
            return None
        return min(due, key=self._taken_at.__getitem__)

    def _expected_cost(self, partitions: int, states: Iterable[State]) -> float:
        """Seconds that a snapshot will cost, by how much the process has grown since it had no state yet.

        Items in queues are no part of that: of them only those are written that are new; and ids are written as one.
        """
        blocks, seconds = self._blocks() - self._blocks_without, 0.0
        for state in states:
            parts: list[KeyedQueue | RecentIds] = [*queues_of(state), state.recent]
            for part in parts:
                blocks -= part.blocks()
                seconds += part.snapshot_seconds()
        return (max(0, blocks) * SECONDS_A_BLOCK + seconds) / partitions

    def is_cheap(self, partition: int, seconds: float) -> bool:
        """Whether the last snapshot of this partition cost no more than so many seconds."""
        return self._costs.get(partition, 0.0) <= seconds

    def take(self, state: State, fold: Fold, next_offset: int) -> None:
        """Take a snapshot of a state that has learned all before `next_offset`; `collect` says what became of it."""
        begun = self._clock()
        partition = fold.partition
        self._taken_at[partition] = begun
        self._idle.clear()
        self._forget_unnamed(begun)
        try:
            rest = self._pickled(state, f"partition {partition}")
        except SnapshotError as error:
            self._failed(partition, next_offset, str(error), self._clock() - begun)
            return
        pause = self._clock() - begun

        def finish() -> None:
            cpu = self._cpu_clock()
            name, size, cost, reason = None, 0, pause, ""
            try:
                name, size, cpu_of_copy = self._write(rest, fold, next_offset)
                cost += cpu_of_copy
            except CopyStuckError as error:
                self._with_copies = False  # the learner, or a library of its, can't bear them
                reason = f"{error} The next ones are pickled in this process."
            except SnapshotError as error:
                reason = str(error)
            except OSError as error:
                reason = (
                    f"{str(error.strerror or error).rstrip('.')}."  # a store's own sentence ends like that
                )
            except Exception as error:
                reason = f"{type(error).__name__}: {error}."
            except BaseException as error:  # whatever it is: the next snapshot must be possible
                reason = f"{type(error).__name__}."
            cost += self._cpu_clock() - cpu
            taken = Taken(partition, next_offset, name, size, reason, pause, self._clock() - begun)
            self._results.put((taken, cost))
            self._idle.set()

        try:
            self._start(finish)
        except RuntimeError as error:  # no more threads
            with suppress(SnapshotError):
                rest()  # a copy waits to be read
            self._failed(partition, next_offset, f"{error}.", pause)

    def _pickled(self, state: State, name: str) -> Rest:
        if self._with_copies and self._expected >= NO_COST:
            with suppress(OSError):  # no memory, no processes: it takes longer without
                return in_a_copy(state, self._trusted, name, expected_seconds=self._expected)
        return in_this_process(state, self._trusted, name)

    def _failed(self, partition: int, next_offset: int, reason: str, pause: float) -> None:
        self._results.put((Taken(partition, next_offset, None, 0, reason, pause, pause), pause))
        self._idle.set()

    def _forget_unnamed(self, now: float) -> None:
        """Have segments written again that no snapshot has named for long."""
        for name, (segment, written_at) in list(self._unnamed.items()):
            if now - written_at > UNNAMED_SECONDS:
                segment.file = None
                del self._unnamed[name]
                self._abandoned.append(name)

    def _look_at_segments(self, payload: Payload, partition: int) -> None:
        """See that the segments that were written are still there, and one of them that it is whole.

        Each snapshot looks at another one. They may be weeks old, and every snapshot needs all of them.

        Raises:
            SnapshotError: One is not; it is written again for the next snapshot.
        """
        written = [part.segment for queue in payload.queues for part in queue.segments if part.segment.file]
        if not written:
            return
        there = {*self.store.segments(partition)}
        reason = ""
        for segment in written:
            if segment.file is not None and segment.file.name not in there:
                reason = f"its segment {segment.file.name} is missing."
                segment.file = None
        self._looks += 1
        one = written[self._looks % len(written)]
        if one.file is not None:
            try:
                deque(reader(self.store)([one.file]), maxlen=0)
            except SnapshotError as error:
                reason, one.file = str(error), None
        if reason:
            raise SnapshotError(f"{reason[0].upper()}{reason[1:]} It is written again for the next snapshot.")

    def _write_segments(self, payload: Payload, partition: int) -> int:
        """Write the segments that no file holds yet; the bytes of all."""
        while self._abandoned:
            self.store.delete(self._abandoned[-1])
            self._abandoned.pop()
        self._look_at_segments(payload, partition)
        size = 0
        for queue in payload.queues:
            for part in queue.segments:
                file = part.segment.file
                if file is None:
                    content = part.content()
                    file = file_of(content, partition, self._wall_clock())
                    self._require_room(size + file.size)
                    write(self.store, file, content)
                    self._unnamed[file.name] = part.segment, self._clock()
                    part.segment.file, part.segment.items = file, None
                part.keys.clear()  # so that what has left meanwhile is let go of
                part.items.clear()
                size += file.size
        return size

    def _require_room(self, size: int) -> None:
        if size > self.policy.max_bytes:
            raise SnapshotError(
                f"it has {size:,} bytes; expected at most {self.policy.max_bytes:,} ([snapshots] max_bytes)."
            )

    def _write(self, rest: Rest, fold: Fold, next_offset: int) -> tuple[str, int, float]:
        """Name and size of a snapshot that was written, and seconds of CPU that another process spent on it."""
        # Of a large state there is one copy at a time: each is let go of before the next is made.
        payload, tried, cpu_seconds = rest()
        segments_size = self._write_segments(payload, fold.partition)
        name, content, header = sealed(
            payload,
            tried,
            fold,
            next_offset,
            key=self._key,
            wall_clock=self._wall_clock(),
            version=self._version,
        )
        del payload
        size = segments_size + len(content)
        self._require_room(size)
        self.store.put(name, content)
        digest = hashlib.sha256(content).digest()
        del content
        if hashlib.sha256(self.store.get(name, self.policy.max_bytes)).digest() != digest:
            raise SnapshotError(f"{name}: what was read back is not what was written.")
        # Not those of larger offsets: they are of a fold before this one, and would count in place of this.
        others = [
            other
            for other in self.store.names(fold.partition)
            if other != name and offset_of(other) <= next_offset
        ]
        self._remember(name, header)
        # What was written for a snapshot that failed, and that no item has been in since.
        unused = self._unnamed_of(fold.partition)
        for file in unused:
            self._unnamed.pop(file, None)
        self.delete(fold.partition, list(self._beyond(others, fold)), unused)
        return name, size, cpu_seconds

    def _beyond(self, others: Iterable[str], fold: Fold) -> Iterator[str]:
        """Of the snapshots beside the newest, which comes first, those that are beyond the ones to keep.

        One that can't be used, or is of an earlier fold, counts for none: it would push out one that can.
        """
        good = 1
        for name in others:
            if good >= self.policy.keep:
                yield name
                continue
            known = self._look_up(name)
            good += known is not None and known.fold == fold

    def _remember(self, name: str, header: Header) -> None:
        self._known[name] = _Known(frozenset(segment for segment, _, _ in header.segments), fold_of(header))

    def delete(self, partition: int, snapshots: Sequence[str], segments: Iterable[str] = ()) -> None:
        """Delete snapshots, with the segments that no other one names; now and then what dead writers left as well.

        First the snapshots: a segment that is left over is found later, and one that is missing costs a snapshot.

        Args:
            partition: Whose they are.
            snapshots: Their names.
            segments: Segments that are of no use to their writer any more.

        Raises:
            OSError: The store does not answer.
        """
        candidates = set(segments)
        for name in snapshots:
            candidates |= self._named_by(name) or frozenset()
        for name in snapshots:
            self.store.delete(name)
        now = self._clock()
        sweep = now - self._swept_at.get(partition, float("-inf")) > SWEEP_SECONDS
        if not candidates and not sweep:
            return
        kept = self.store.names(partition)
        self._known = {
            name: found
            for name, found in list(self._known.items())
            if name in kept or not name.startswith(f"{partition}/")
        }
        named = [self._named_by(name) for name in kept]
        if sweep and None not in named:  # else that one's would be taken for nobody's
            wall_clock = self._wall_clock()
            candidates |= {name for name in self.store.segments(partition) if is_orphaned(name, wall_clock)}
            self._swept_at[partition] = now
        for file in sorted(candidates.difference(*(found for found in named if found))):
            self.store.delete(file)

    def _named_by(self, snapshot: str) -> frozenset[str] | None:
        """The segments that a snapshot names; None if it can't be used, or is gone."""
        known = self._look_up(snapshot)
        return None if known is None else known.segments

    def _look_up(self, snapshot: str) -> _Known | None:
        """What is known of a snapshot, once it has been looked at; None if it can't be used, or is gone."""
        if snapshot not in self._known:
            try:
                self._remember(snapshot, self.header(snapshot))
            except (SnapshotError, FileNotFoundError):
                self._known[snapshot] = None
        return self._known[snapshot]

    def collect(self) -> list[Taken]:
        """What became of snapshots since the last call; never waits."""
        found: list[Taken] = []
        while True:
            try:
                taken, cost = self._results.get_nowait()
            except Empty:
                return found
            self._costs[taken.partition] = cost
            self._rested_since = self._clock()
            self._free_at = self._rested_since + self.policy.rest(cost, failed=taken.name is None)
            found.append(taken)

    def wait(self, seconds: float) -> bool:
        """Wait until no snapshot is being written; False if that takes longer."""
        return self._idle.wait(max(0.0, seconds))

    # For the commands -------------------------------------------------------------------------------------------

    def header(self, name: str) -> Header:
        """A snapshot's header, once its seal holds.

        Raises:
            OSError: The store does not answer.
            SnapshotError: It is not to be used.
        """
        return header_of(name, self.store.get(name, self.policy.max_bytes), self._key)[0]

    def open(self, name: str, fold: Fold) -> Restored:
        """One snapshot, through every check.

        Raises:
            OSError: The store does not answer.
            SnapshotError: It is not to be used.
        """
        content = self.store.get(name, self.policy.max_bytes)

        def read(files: Sequence[SegmentFile]) -> Iterator[tuple[SegmentFile, bytes]]:
            self._require_room(len(content) + sum(file.size for file in files))
            return reader(self.store)(files)

        try:
            header, state = opened(name, content, fold=fold, key=self._key, trusted=self._trusted, read=read)
        except SegmentMissing:
            self.store.size(name)  # raises if the snapshot was pruned meanwhile, and its segments with it
            raise
        self._remember(name, header)
        return Restored(name, header, state, len(content) + segments_size(header))


def fold_of(header: Header) -> Fold:
    """Which fold a snapshot is of."""
    return Fold(
        pipeline=header.pipeline,
        topic=header.topic,
        topic_id=header.topic_id,
        partition=header.partition,
        origin=header.origin,
        base=header.base,
        shape=header.shape,
        fold_id=header.fold_id,
    )


def segments_size(header: Header) -> int:
    """Bytes of the segments that a snapshot names."""
    return sum(size for _, size, _ in header.segments)


def offset_of(name: str) -> int:
    """S, as a snapshot's name has it.

    Example:
        >>> offset_of("3/00000000000000001042-0123456789abcdef.snapshot")
        1042
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise AssertionError(f"{name!r} is no name of a snapshot")
    return int(match["offset"])
