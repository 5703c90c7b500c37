"""One log by time out of history: which record comes next, and what goes into one transaction."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Final

from stream.relay.log import SourceRecord

#: Most records and bytes in one transaction: no reader waits for it, and what is interrupted is done again.
MOST_RECORDS: Final = 5_000
MOST_BYTES: Final = 4 * 1024 * 1024

#: When a record was, seconds since the epoch.
TimeOf = Callable[[SourceRecord], float]


def merged(sources: Sequence[tuple[Iterable[SourceRecord], TimeOf]]) -> Iterator[SourceRecord]:
    """The records of several logs by time, of each log in its own order.

    Only the next record of each log is looked at, so memory is bounded, and where to go on after an interruption
    follows from how far each log was read. A log whose times go back keeps its order: a record that is older than the
    one before it comes directly behind.

    Args:
        sources: Logs, and what tells the times of their records. Of equal times the first log's comes first.

    Example:
        >>> def log(topic, *times):
        ...     return [SourceRecord(topic, 0, n, time, None, None, None) for n, time in enumerate(times)]
        >>> def when(record):
        ...     return record.timestamp
        >>> [(r.topic, r.offset) for r in merged([(log("a", 1, 5, 3), when), (log("b", 1, 4), when)])]
        [('a', 0), ('b', 0), ('b', 1), ('a', 1), ('a', 2)]
    """

    def timed(records: Iterable[SourceRecord], time_of: TimeOf) -> Iterator[tuple[float, SourceRecord]]:
        return ((time_of(record), record) for record in records)

    logs = [timed(records, time_of) for records, time_of in sources]
    return (record for _, record in heapq.merge(*logs, key=itemgetter(0)))


def chunks(records: Iterable[SourceRecord]) -> Iterator[list[SourceRecord]]:
    """As many records at once as one transaction takes; in hand before it is opened."""
    chunk: list[SourceRecord] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += len(record.value or b"") + len(record.key or b"")
        if len(chunk) >= MOST_RECORDS or size >= MOST_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
