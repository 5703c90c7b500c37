"""The segments of queues as files: written once, shared by snapshots, deleted when no snapshot names them.

A segment's name carries the beginning of its digest, and the snapshot that names it carries the whole, under its own
seal: a segment that is damaged, forged, or another's is not what that snapshot names.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from stream.errors import SnapshotError
from stream.keyed import SegmentFile
from stream.snapshots.store import SEGMENT, SnapshotStore

#: Seconds after which a segment that no snapshot names is what a dead writer left. A living one writes the snapshot
#: that names it within minutes.
ORPHANED_SECONDS: Final = 3_600.0
#: Segments that are asked for at once: each takes two round trips of an object store.
READERS: Final = 4
#: Fewer than this are read one after the other.
FEW: Final = 8


class SegmentMissing(SnapshotError):
    """A segment is not there; perhaps the snapshot is not there either, by now."""


def file_of(content: bytes, partition: int, written_at: float) -> SegmentFile:
    """How a segment is called, from its content and when it is written, epoch seconds."""
    digest = hashlib.sha256(content).hexdigest()
    return SegmentFile(
        f"{partition}/{max(0, int(written_at)):012d}-{digest[:32]}.segment", len(content), digest
    )


def is_orphaned(name: str, now: float) -> bool:
    """Whether a segment that no snapshot names is old enough for its writer to be dead.

    Example:
        >>> name = f"3/{1_000:012d}-{'0' * 32}.segment"
        >>> is_orphaned(name, now=4_600.0), is_orphaned(name, now=4_601.0)
        (False, True)
    """
    match = SEGMENT.fullmatch(name)
    return match is not None and now - int(match["written_at"]) > ORPHANED_SECONDS


def write(store: SnapshotStore, file: SegmentFile, content: bytes) -> None:
    """Write a segment, read it back and compare.

    Raises:
        OSError: The store does not take it.
        SnapshotError: What was read back is something else.
    """
    store.put(file.name, content)
    if hashlib.sha256(store.get(file.name, file.size)).hexdigest() != file.sha256:
        raise SnapshotError(f"{file.name}: what was read back is not what was written.")


def reader(store: SnapshotStore) -> Callable[[Sequence[SegmentFile]], Iterator[tuple[SegmentFile, bytes]]]:
    """Reads segments of a store, a few ahead of who takes them, each compared with its digest."""

    def read(file: SegmentFile) -> tuple[SegmentFile, bytes]:
        try:
            content = store.get(file.name, file.size)
        except FileNotFoundError as error:
            raise SegmentMissing(f"its segment {file.name} is missing.") from error
        found = hashlib.sha256(content).hexdigest()
        if found != file.sha256:
            raise SnapshotError(
                f"its segment {file.name} has the digest {found[:8]}…, expected {file.sha256[:8]}…: "
                "it is damaged, forged, or another's."
            )
        return file, content

    def read_all(files: Sequence[SegmentFile]) -> Iterator[tuple[SegmentFile, bytes]]:
        if len(files) < FEW:
            yield from map(read, files)
            return
        with ThreadPoolExecutor(READERS, thread_name_prefix="segments") as pool:
            ahead: deque[Future[tuple[SegmentFile, bytes]]] = deque()
            try:
                for file in files:
                    ahead.append(pool.submit(read, file))
                    if len(ahead) > READERS:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:  # one has failed: the others need not be read
                for future in ahead:
                    future.cancel()

    return read_all
