"""Where a pipeline's relay stands, as seen from outside: by its group's offsets and the ends of the logs it reads.

Pure: `now` is an argument. The relay itself is not asked, so this tells it too when the relay is dead; and no record
is read, so a record's own timestamp, which may be of last year, plays no part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

#: What was read longer ago says nothing of now, seconds.
FRESH_SECONDS: Final = 60.0
#: Ends of a partition that are remembered with their times; with more, every other one is forgotten.
MOST_ENDS: Final = 600
#: Partitions that are kept, of all topics together: more are none of ours.
MOST_PARTITIONS: Final = 2_000


class Source(NamedTuple):
    """A partition of a topic that is relayed."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Standing(NamedTuple):
    """What Kafka says of one."""

    #: What the relay's group has committed: all before it is relayed. None: nothing yet.
    next_offset: int | None
    #: Where its log begins and ends (last stable offset).
    first: int
    end: int

    @property
    def reached(self) -> int:
        """The first offset that is there and is not relayed."""
        return max(self.first, self.next_offset or 0)


class _End(NamedTuple):
    end: int
    #: When the log was first seen to end there, epoch seconds.
    at: float


@dataclass(slots=True)
class RelayedPartition:
    """A partition of a topic that is relayed, over time."""

    standing: Standing
    #: When it last got on, or when it was last seen to have nothing that is not relayed. Epoch seconds.
    progressed_at: float
    #: Ends behind what is relayed, oldest first.
    _ends: deque[_End] = field(default_factory=deque)

    @property
    def lag_records(self) -> int:
        """Records that are there and not relayed; without a commit all that are there."""
        return max(0, self.standing.end - self.standing.reached)

    @property
    def waits_since(self) -> float | None:
        """Since when the next record to be relayed is known to be there, epoch seconds. None: there is none.

        It may have been there for longer: since before this monitor began, and one look longer.
        """
        return self._ends[0].at if self._ends else None

    def waited_seconds(self, now: float) -> float:
        """For how long the next record to be relayed has waited, at least."""
        since = self.waits_since
        return 0.0 if since is None else max(0.0, now - since)

    def take(self, standing: Standing, now: float) -> None:
        """What a later look has found."""
        before, self.standing = self.standing, standing
        if standing.reached != before.reached or not self.lag_records:
            self.progressed_at = now
        ends = self._ends
        if standing.end < before.end:  # the topic was made anew
            ends.clear()
        while ends and ends[0].end <= standing.reached:
            ends.popleft()
        if self.lag_records and (not ends or standing.end > ends[-1].end):
            if len(ends) >= MOST_ENDS:
                # The oldest stays: it says since when.
                kept = list(ends)[::2]
                ends.clear()
                ends.extend(kept)
            ends.append(_End(standing.end, now))


class RelayState:
    """What is known of a pipeline's relay.

    Args:
        group: Its consumer group.
        topics: What it reads.

    Example:
        >>> relay = RelayState("fraud.relay", ["chargebacks"])
        >>> source = Source("chargebacks", 0)
        >>> relay.take({source: Standing(5, 0, 5)}, now=1_000.0)
        >>> relay.take({source: Standing(5, 0, 9)}, now=1_005.0)
        >>> relay.take({source: Standing(5, 0, 12)}, now=1_065.0)
        >>> relay.partitions[source].lag_records, relay.partitions[source].waited_seconds(1_065.0)
        (7, 60.0)
    """

    def __init__(self, group: str, topics: Sequence[str]) -> None:
        self.group = group
        self.topics = list(topics)
        self.partitions: dict[Source, RelayedPartition] = {}
        #: When it was last read, epoch seconds. None: not yet.
        self.read_at: float | None = None
        #: Why it can't be read now, and what to do; empty: it can.
        self.problem = ""

    def take(self, found: Mapping[Source, Standing], now: float) -> None:
        """What a look has found, of all partitions there are."""
        for source in [source for source in self.partitions if source not in found]:
            del self.partitions[source]
        for source, standing in sorted(found.items())[:MOST_PARTITIONS]:
            item = self.partitions.get(source)
            if item is None:
                item = self.partitions[source] = RelayedPartition(standing, now)
            item.take(standing, now)
        self.read_at, self.problem = now, ""

    def is_fresh(self, now: float) -> bool:
        """Whether what is known is of now."""
        return self.read_at is not None and abs(now - self.read_at) <= FRESH_SECONDS

    def behind(self) -> list[tuple[Source, RelayedPartition]]:
        """Partitions with records that are not relayed, that one first whose next record has waited longest."""
        found = [(source, item) for source, item in self.partitions.items() if item.lag_records]
        return sorted(found, key=lambda pair: (pair[1].waits_since or 0.0, pair[0]))

    def by_topic(self, now: float) -> dict[str, tuple[int, float]]:
        """Of each topic the lag, and for how long the next record has waited; nothing of what is not known now."""
        found: dict[str, tuple[int, float]] = {}
        for source, item in self.partitions.items() if self.is_fresh(now) else ():
            lag, waited = found.get(source.topic, (0, 0.0))
            found[source.topic] = (lag + item.lag_records, max(waited, item.waited_seconds(now)))
        return found

    def to_dict(self, now: float) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "group": self.group,
            "topics": list(self.topics),
            "age_seconds": None if self.read_at is None else max(0.0, now - self.read_at),
            "problem": self.problem or None,
            "lag_records": None
            if self.read_at is None
            else sum(item.lag_records for item in self.partitions.values()),
            "waited_seconds": max(
                (item.waited_seconds(now) for item in self.partitions.values()), default=0.0
            )
            if self.read_at is not None
            else None,
            "partitions": [
                {
                    "topic": source.topic,
                    "partition": source.partition,
                    "next_offset": item.standing.next_offset,
                    "end": item.standing.end,
                    "lag_records": item.lag_records,
                    "waited_seconds": item.waited_seconds(now),
                    "idle_seconds": max(0.0, now - item.progressed_at),
                }
                for source, item in self.partitions.items()
            ],
        }
