"""What the pages and the API are made from: the fleet, and how the monitor itself stands."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from monitors.fleet import Fleet

FeedState = Literal["connecting", "loading", "live", "away"]
"""No broker yet; reading what was written before; up to date; the broker was there and is not now."""


class Unavailable(Exception):
    """Kafka can't be read now; the sentence says why and what to do."""


@dataclass(slots=True)
class Feed:
    """How the reading of one pipeline's topics stands."""

    state: FeedState = "connecting"
    #: What is wrong and what to do, in a sentence; empty: nothing is.
    problem: str = ""
    #: Share of what was written before that is read, 0 to 1.
    loaded: float = 0.0
    #: Wall clock of the last change of `state`, epoch seconds.
    since: float = field(default_factory=time.time)
    #: Times that the reading had to begin again.
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that could not be used, as text for people: nothing in it is to be trusted."""

    #: Where the record stood: `payments[3]@1042`.
    position: str
    stage: str
    error: str
    message: str
    key: str | None
    #: Its first characters.
    value: str | None
    #: Bytes of the whole value.
    bytes: int
    #: Timestamp of the record, epoch seconds.
    time: float


@dataclass(slots=True)
class Site:
    """All that pages and API look at. They never change it."""

    fleet: Fleet
    #: By pipeline.
    feeds: Mapping[str, Feed]
    #: The newest dead letters of a pipeline, at most so many. Raises `Unavailable`.
    dead_letters: Callable[[str, int], Awaitable[Sequence[DeadLetter]]]
    #: Of each notification channel by pipeline and name: what it did last. See `monitors.notify`.
    channels: Callable[[], Sequence[Mapping[str, Any]]] = lambda: ()
    #: Wall clock, epoch seconds.
    clock: Callable[[], float] = time.time
    #: Viewers of the dashboard now.
    viewers: int = 0

    @property
    def version(self) -> int:
        """Changes whenever a page would look different, but for the passing of time."""
        return hash((self.fleet.version, *((feed.state, feed.problem) for feed in self.feeds.values())))
