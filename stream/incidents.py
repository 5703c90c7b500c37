"""Incidents: what a person should know of a running worker, told once for as long as it lasts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import structlog

from monitors import Incident, labels_that_came
from stream.codec import encode_json

log = structlog.get_logger()

#: Incidents of snapshots.
SNAPSHOT_INCIDENTS: Final = ("snapshot-failed", "snapshot-refused", "snapshot-store-away")


class Incidents:
    """The incidents of a worker's partitions, each written when it opens and when it closes.

    Args:
        publish: Writes the record of one for a partition.
        pipeline: The pipeline's name.
        worker: The worker's transactional id.
        wall_clock: Epoch seconds.
    """

    def __init__(
        self,
        publish: Callable[[int, bytes], None],
        *,
        pipeline: str,
        worker: str,
        wall_clock: Callable[[], float],
    ) -> None:
        self._publish = publish
        self._pipeline = pipeline
        self._worker = worker
        self._wall_clock = wall_clock
        #: The partition and which one.
        self._open: set[tuple[int, str]] = set()

    def open(self, partition: int, offset: int, incident: str, text: str) -> None:
        """Tell of something; once, however often it comes again, until it is closed."""
        log.warning(incident, partition=partition, text=text)
        if (partition, incident) not in self._open:
            self._open.add((partition, incident))
            self._write(partition, offset, incident, "open", text)

    def close(self, partition: int, offset: int, text: str, incidents: Collection[str]) -> None:
        """Those of these incidents of a partition that are open are over."""
        for incident in self.of(partition):
            if incident in incidents:
                self._open.discard((partition, incident))
                self._write(partition, offset, incident, "closed", text)

    def of(self, partition: int) -> Sequence[str]:
        """Names of those of a partition that are open."""
        return sorted(incident for of, incident in self._open if of == partition)

    def let_go(self, partitions: Sequence[int]) -> None:
        """Close what is open of partitions that this worker lets go of: whoever has them next tells of it anew."""
        for partition in partitions:
            self.close(partition, 0, "The worker has let go of the partition.", self.of(partition))

    def _write(
        self, partition: int, offset: int, incident: str, state: Literal["open", "closed"], text: str
    ) -> None:
        body = Incident(
            pipeline=self._pipeline,
            partition=partition,
            offset=offset,
            incident=incident,
            state=state,
            text=text,
            worker=self._worker,
            time=self._wall_clock(),
        )
        self._publish(partition, encode_json(body.to_dict()))


# --- How labels come -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelBounds:
    """From when on somebody should know how labels come."""

    #: `[labels] capacity`: most predictions that wait.
    capacity: int
    #: Over how many seconds shares are taken.
    window_seconds: float = 600.0
    #: That many labels without a question, and that share of the labels that came, are too many.
    unmatched: int = 10
    unmatched_share: float = 0.1
    #: That many events with an id that was seen before, and that share of the events predicted on, are too many.
    repeated: int = 100
    repeated_share: float = 0.25
    #: An incident is over when there is no more than so much of what opens it,
    over_share: float = 0.5
    #: and where predictions had no room, when there was room for so many seconds and there is that share of it.
    room_seconds: float = 300.0
    room_share: float = 0.1


class Told(NamedTuple):
    """What a look at the labels found; the same thing is told again only once it has been otherwise."""

    incident: str
    state: Literal["open", "closed"]
    #: What happened, and what to do.
    text: str


class _Look(NamedTuple):
    """Counters since the origin, at one moment."""

    time: float
    #: Labels in records of their own.
    came: int
    unmatched: int
    #: Events that were predicted on, or would have been but for their id.
    events: int
    repeated: int
    expired_early: int


class LabelWatch:
    """Sees from a partition's counters when something is wrong with its labels: `pending-full`, `labels-unmatched`
    and `ids-repeat`.

    It compares counters with earlier ones, so it must only be shown those of a live partition: what a replay counts was
    told of when it happened.

    Args:
        bounds: From when on somebody should know.

    Example:
        >>> watch = LabelWatch(LabelBounds(capacity=1_000))
        >>> counts = {"pending": 1_000, "expired_early": 7}
        >>> watch.look(counts, predictions=1_007, duplicates=0, now=0.0)
        []
        >>> watch.look(counts | {"expired_early": 8}, predictions=1_008, duplicates=0, now=5.0)[0].incident
        'pending-full'
        >>> watch.look(counts | {"expired_early": 9}, predictions=1_009, duplicates=0, now=10.0)
        []
    """

    def __init__(self, bounds: LabelBounds) -> None:
        self._bounds = bounds
        #: Oldest first; the first is the last one from before the window, if there is one.
        self._looks: deque[_Look] = deque()
        self._full_at: float | None = None
        self._said: dict[str, str] = {}

    def look(self, counts: Mapping[str, int], *, predictions: int, duplicates: int, now: float) -> list[Told]:
        """Say what has begun and what is over.

        Args:
            counts: See `monitors.LABEL_COUNTS`, of a live partition.
            predictions: Predictions made since the origin.
            duplicates: Events whose id had been seen before, since the origin.
            now: Seconds that only grow.
        """
        seen = _Look(
            time=now,
            came=labels_that_came(counts),
            unmatched=counts.get("unmatched", 0),
            events=predictions + duplicates,
            repeated=duplicates,
            expired_early=counts.get("expired_early", 0),
        )
        looks = self._looks
        looks.append(seen)
        while len(looks) > 1 and looks[1].time <= now - self._bounds.window_seconds:
            looks.popleft()
        if len(looks) == 1:
            return []
        found = [*self._room(counts.get("pending", 0), looks[-2], seen), *self._shares(looks[0], seen)]
        new = [told for told in found if self._said.get(told.incident) != told.state]
        self._said.update((told.incident, told.state) for told in new)
        return new

    def _room(self, pending: int, before: _Look, now: _Look) -> Iterator[Told]:
        """Predictions that had to expire because too many wait."""
        bounds = self._bounds
        if now.expired_early > before.expired_early:
            self._full_at = now.time
            yield Told(
                "pending-full",
                "open",
                f"More predictions want to wait for their label than [labels] capacity, {bounds.capacity:,}, allows: "
                f"the oldest expire before their time ({now.expired_early:,} so far), and their labels will be late. "
                "Look whether labels come at all; if they only take long, raise capacity (or lower "
                "expire_after_seconds) and run headrace rebuild.",
            )
        elif self._full_at is None or (
            now.time - self._full_at >= bounds.room_seconds
            and pending <= (1 - bounds.room_share) * bounds.capacity
        ):
            yield Told(
                "pending-full",
                "closed",
                f"There is room again: {pending:,} predictions wait, of {bounds.capacity:,} that may.",
            )

    def _shares(self, before: _Look, now: _Look) -> Iterator[Told]:
        """Too many labels without a question, too many events with an id that was seen before."""
        bounds = self._bounds
        within = f"within {max(1, round((now.time - before.time) / 60)):,} min"
        came, unmatched = now.came - before.came, now.unmatched - before.unmatched
        state = self._state(unmatched, came, least=bounds.unmatched, most=bounds.unmatched_share)
        if state is not None:
            yield Told(
                "labels-unmatched",
                state,
                f"{unmatched:,} of {came:,} labels {within} found no question."
                + (
                    ""
                    if state == "closed"
                    else " The usual cause: questions and answers are produced with different partitioners or keys, so "
                    "that they are in different partitions. Java's client and kafka-python hash a key by murmur2, "
                    "librdkafka and what is built on it (confluent-kafka) by CRC32: give it partitioner = "
                    "murmur2_random, and give an answer its question's key. Else compare the ids, and look whether the "
                    "questions are older than the pipeline, or come later than [labels] early_seconds: of a history of "
                    "two topics the relay may bring the labels first, and headrace merge is for that."
                ),
            )
        events, repeated = now.events - before.events, now.repeated - before.repeated
        state = self._state(repeated, events, least=bounds.repeated, most=bounds.repeated_share)
        if state is not None:
            yield Told(
                "ids-repeat",
                state,
                f"{repeated:,} of {events:,} events {within} had an id that was seen before."
                + (
                    ""
                    if state == "closed"
                    else " They are not learned. If [event] id names a field that is not one event's own (a user, a "
                    "session), name another, or set id_window = 0, and run headrace rebuild; else the producer sends "
                    "twice."
                ),
            )

    def _state(self, part: int, whole: int, *, least: int, most: float) -> Literal["open", "closed"] | None:
        """Whether a share is clearly too large or clearly not; None: neither, or too little came to tell."""
        if part >= least and part >= most * whole:
            return "open"
        if whole >= least and part <= self._bounds.over_share * most * whole:
            return "closed"
        return None
