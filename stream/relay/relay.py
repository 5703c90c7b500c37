"""The relay's loop: poll, write into the events topic, commit; with nothing open between two polls.

A transaction that is open holds back every `read_committed` reader of the events topic behind it. So it is opened when
all that it is to hold is in hand, is bounded by records and bytes and by how long the last one took, and is committed
before the next poll. No callback of the group can come while one is open.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import structlog

from stream.errors import EnvironmentRefused
from stream.log import CommitAborted, CommitRetriable, Committed, ProducerFenced
from stream.patience import RETRY_PAUSE, Fencings, StoppedWaiting, until_answered
from stream.records import Headers
from stream.relay.headers import relay_headers
from stream.relay.log import Place, RelayLog, SourceRecord
from stream.relay.places import (
    Lost,
    RelayMetadata,
    choose_beginning,
    group_of,
    partitions_at_first,
    target,
)
from stream.settings import Settings

log = structlog.get_logger()

#: Most records and bytes in one transaction. Where those take too long it is less, of both, but not below a quarter:
#: then it is not their number that takes the time.
MOST_RECORDS: Final = 1_000
MOST_BYTES: Final = 1024 * 1024
LEAST_RECORDS: Final = 250
#: Least seconds between the begins of two transactions, unless a poll was full: each costs the log a control record,
#: and its readers a wait.
PAUSE: Final = 0.05
#: A poll of so many records was full: there is more.
FULL_POLL: Final = 500
#: Seconds that a poll may wait; a signal is heeded after that at the latest.
IDLE_POLL: Final = 0.2
#: Seconds between two log lines about how it stands.
REPORT_INTERVAL: Final = 60.0
#: The promise, seconds: a transaction is open no longer than this.
HELD_BACK: Final = 0.05
#: Seconds that the events topic may keep its end from readers, after all was relayed, before that is an error.
READABLE_PATIENCE: Final = 60.0

T = TypeVar("T")
#: Partition of the events topic, record, and all its headers.
Outgoing = tuple[int, SourceRecord, Headers]


@dataclass(slots=True)
class Owned:
    """A source partition that this relay owns."""

    #: Where its records go.
    to: int
    #: What its records are, as their header says it.
    kind: bytes
    #: The next offset to relay, and what each commit says about itself.
    next_offset: int
    committed: int
    metadata: str


def next_most_records(most: int, open_seconds: float) -> int:
    """How many records the next transaction may hold, after one that was open for so long.

    Example:
        >>> next_most_records(1_000, 0.045), next_most_records(500, 0.008), next_most_records(500, 0.030)
        (500, 1000, 500)
    """
    if open_seconds > 0.8 * HELD_BACK:
        return max(LEAST_RECORDS, most // 2)
    return min(MOST_RECORDS, most * 2) if open_seconds < 0.5 * HELD_BACK else most


class Figures:
    """How long transactions were open, and how many records they brought."""

    def __init__(self) -> None:
        self.records = 0
        self.transactions = 0
        #: How many of them were open for longer than is promised, and the longest of all, seconds.
        self.too_long = 0
        self.longest = 0.0
        self._last: deque[float] = deque(maxlen=10_000)

    def add(self, records: int, seconds: float) -> None:
        """Count a transaction."""
        self.records += records
        self.transactions += 1
        self.too_long += seconds > HELD_BACK
        self.longest = max(self.longest, seconds)
        self._last.append(seconds)

    def to_dict(self) -> dict[str, float]:
        """For a log line; the p99 is that of the last 10,000."""
        last = sorted(self._last)
        p99 = last[int(len(last) * 0.99)] if last else 0.0
        return {
            "relayed_records": self.records,
            "transactions": self.transactions,
            "open_p99_ms": round(1_000 * p99, 1),
            "open_max_ms": round(1_000 * self.longest, 1),
            "open_too_long": self.too_long,
        }


class Relay:
    """One member of the relay's group.

    Args:
        log: The member and its producer.
        settings: The pipeline's settings.
        stop_at_end: End when every source partition has been relayed to the end seen at the start, by whichever relay.
        lost: Where to go on in a partition whose place is lost; None: refuse.
        should_stop: Asked between two polls; True ends the relay cleanly.
        clock: Seconds that only grow.
        sleep: Waits.
    """

    def __init__(
        self,
        log: RelayLog,
        settings: Settings,
        *,
        stop_at_end: bool = False,
        lost: Lost | None = None,
        should_stop: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._log = log
        self._settings = settings
        self._pipeline = settings.name.encode()
        self._kinds = {topic: kind.encode() for topic, kind in settings.relayed_topics.items()}
        self._stop_at_end = stop_at_end
        self._lost = lost
        self._should_stop = should_stop
        self._clock = clock
        self._sleep = sleep
        self._owned: dict[Place, Owned] = {}
        #: Assigned, not yet begun; a dictionary for its order.
        self._waiting: dict[Place, None] = {}
        self._fencings = Fencings(log.writer, "machine")
        self._most_records = MOST_RECORDS
        self._began_at = float("-inf")
        self._reported_at = 0.0
        self.figures = Figures()

    def run(self) -> None:
        """Relay until told to stop, or with `stop_at_end` until the ends that were seen at the start.

        Raises:
            EnvironmentRefused: Kafka is not as the relay needs it; says what and what to do.
            FencedError: Another process keeps taking this relay's transactional id.
        """
        log_ = self._log
        places = [Place(topic, n) for topic, count in log_.partitions.items() for n in range(count)]
        ends: dict[Place, int] = {}
        at_end = False
        polled = 0
        try:
            if self._stop_at_end:
                ends = {place: self._until_answered(partial(log_.bounds, place))[1] for place in places}
            log_.join(on_revoked=self._let_go, on_lost=self._let_go)
            self._reported_at = self._clock()
            log.info(
                "relay joining its group, waiting for partitions",
                pipeline=self._settings.name,
                group=group_of(self._settings),
                topics=list(log_.partitions),
                to=self._settings.topics.events,
                relay=log_.writer,
            )
            while not self._should_stop() and not at_end:
                if polled < FULL_POLL:
                    self._sleep(max(0.0, min(PAUSE, self._began_at + PAUSE - self._clock())))
                records = log_.poll(IDLE_POLL)
                polled = len(records)
                # First what was polled, then what was assigned in that same call: see `stream.worker`.
                self._relay(records)
                self._begin_waiting()
                if not records:
                    self._commit_ends()
                    at_end = self._stop_at_end and self._is_at(ends)
                self._report()
            if at_end:
                self._wait_until_readable()
            log.info("relay ended", **self.figures.to_dict())
        except StoppedWaiting as error:
            log.warning(
                "relay stopped without its last commit: the next one does that again", reason=str(error)
            )
        finally:
            log_.leave()

    # Where to begin ---------------------------------------------------------------------------------------------

    def _let_go(self, places: Sequence[Place]) -> None:
        for place in places:
            self._owned.pop(place, None)
            self._waiting.pop(place, None)
        log.info("relay let go of partitions", partitions=list(map(str, places)))

    def _begin_waiting(self) -> None:
        """Find where assigned partitions go on; what a rebalance prevents waits for the next call."""
        self._waiting.update(dict.fromkeys(self._log.take_assigned()))
        if not self._waiting:
            return
        places = list(self._waiting)
        try:
            found = self._log.committed(places)
            others = found if len(found) == len(places) else self._log.all_committed()
            new = [place for place in places if place not in found or self._lost == "relayed"]
            relayed = self._log.last_relayed(new) if new else {}
            begun: dict[Place, Owned] = {}
            claims: dict[Place, Committed] = {}
            for place in places:
                owned = self._beginning(place, found.get(place), relayed.get(place), others)
                begun[place] = owned
                if found.get(place) != (owned.next_offset, owned.metadata):
                    # Before anything is written: should this relay die then, its successor must know whom to fence.
                    claims[place] = Committed(owned.next_offset, owned.metadata)
            if claims:
                self._log.claim(claims)
        except (CommitRetriable, CommitAborted) as error:
            log.info("relay has not yet begun", partitions=list(map(str, places)), reason=str(error))
            self._sleep(RETRY_PAUSE)
            return
        for place, owned in begun.items():
            self._owned[place] = owned
            self._log.start(place, owned.next_offset)
        self._waiting.clear()
        log.info("relay begins", partitions={str(place): owned.next_offset for place, owned in begun.items()})

    def _beginning(
        self,
        place: Place,
        committed: Committed | None,
        relayed: int | None,
        others: Mapping[Place, Committed],
    ) -> Owned:
        log_ = self._log
        topic_id = log_.topic_ids[place.topic]
        partitions = partitions_at_first(others, place.topic, topic_id)
        to = target(place.partition, log_.events_partitions)
        if to >= log_.events_partitions:
            raise EnvironmentRefused(
                f"{place}: the topic has more partitions than at the start, and {self._settings.topics.events} has "
                f"{log_.events_partitions}: keys have moved. Both need the same number of partitions."
            )
        first, end = log_.bounds(place)
        next_offset = choose_beginning(
            self._settings,
            place,
            committed,
            topic_id=topic_id,
            events_id=log_.events_id,
            first=first,
            end=end,
            at=lambda moment: log_.offset_at(place, int(moment.timestamp() * 1_000)),
            relayed=relayed,
            lost=self._lost,
            is_added=partitions is not None and place.partition >= partitions,
        )
        metadata = RelayMetadata(
            topic_id=topic_id,
            events_id=log_.events_id,
            writer=log_.writer,
            partitions=log_.partitions[place.topic] if partitions is None else partitions,
        )
        return Owned(to, self._kinds[place.topic], next_offset, next_offset, metadata.encode())

    # From one log to the other ----------------------------------------------------------------------------------

    def _relay(self, records: Sequence[SourceRecord]) -> None:
        """Write what was polled, in as many transactions as it takes; what is left after a failure is polled again."""
        at = 0
        while at < len(records):
            at, batch = self._batch(records, at)
            if not batch or not self._write(batch):
                return

    def _batch(self, records: Sequence[SourceRecord], at: int) -> tuple[int, list[Outgoing]]:
        """What goes into the next transaction, ready to be written, and where to go on behind it."""
        owned_places, pipeline = self._owned, self._pipeline
        batch: list[Outgoing] = []
        size, most_bytes = 0, MOST_BYTES * self._most_records // MOST_RECORDS
        for at in range(at, len(records)):  # noqa: B020, PLR1704 - where it got to is the result
            record = records[at]
            topic, partition, offset, _, key, value, headers = record
            owned = owned_places.get((topic, partition))  # type: ignore[call-overload]  # equal to a Place
            if owned is None or offset < owned.next_offset:
                continue  # from before a rebalance, or before a seek
            ours = relay_headers(pipeline, owned.kind, topic, partition, offset)
            batch.append((owned.to, record, ours if headers is None else [*headers, *ours]))
            owned.next_offset = offset + 1
            size += len(value or b"") + len(key or b"")
            if len(batch) >= self._most_records or size >= most_bytes:
                break
        return at + 1, batch

    def _write(self, batch: Sequence[Outgoing]) -> bool:
        """Write a batch in a transaction with its next offsets; False if it came to nothing: poll it again."""
        log_ = self._log
        commits = {
            place: Committed(owned.next_offset, owned.metadata)
            for place, owned in self._owned.items()
            if owned.next_offset > owned.committed
        }
        self._began_at = self._clock()
        try:
            # The offsets first: what holds back readers is the first record, and now little comes behind that.
            self._until_answered(lambda: log_.send_offsets(commits))
            opened_at = self._clock()
            for to, record, headers in batch:
                log_.send(to, record, headers)
            self._until_answered(log_.commit)
        except CommitAborted as error:
            log.info("relay's transaction aborted", reason=str(error))
            try:
                self._until_answered(log_.abort)
            except ProducerFenced as fenced:
                self._on_fenced(fenced)
            else:
                self._start_over()
            return False
        except ProducerFenced as error:
            self._on_fenced(error)
            return False
        open_seconds = self._clock() - opened_at
        self._most_records = next_most_records(self._most_records, open_seconds)
        self.figures.add(len(batch), open_seconds)
        for place in commits:
            owned = self._owned[place]
            owned.committed = owned.next_offset
        return True

    def _start_over(self) -> None:
        """Look again where each partition stands: what was committed is known to the broker only."""
        self._waiting.update(dict.fromkeys(self._owned))
        self._owned.clear()

    def _on_fenced(self, error: ProducerFenced) -> None:
        """A new producer; what was owned is looked at again."""
        self._fencings.add(error, self._clock())
        log.warning("relay's producer fenced, starting a new one", reason=str(error))
        self._until_answered(self._log.renew_producer)
        self._start_over()

    def _until_answered(self, step: Callable[[], T]) -> T:
        return until_answered(
            step, again=self._no_answer, should_stop=self._should_stop, clock=self._clock, sleep=self._sleep
        )

    @staticmethod
    def _no_answer(error: CommitRetriable) -> None:
        log.warning("relay got no answer, trying again", reason=str(error))

    # The end ----------------------------------------------------------------------------------------------------

    def _commit_ends(self) -> None:
        """Commit past the control records at the end of a log, so that what is committed says that all is relayed."""
        commits = {
            place: Committed(position, owned.metadata)
            for place, owned in self._owned.items()
            if (position := self._log.position(place)) > owned.next_offset
        }
        if not commits:
            return
        try:
            self._log.claim(commits)
        except (CommitRetriable, CommitAborted) as error:
            log.info("relay could not commit the ends of logs", reason=str(error))
            return
        for place, committed in commits.items():
            self._owned[place].next_offset = self._owned[place].committed = committed.next_offset

    def _is_at(self, ends: Mapping[Place, int]) -> bool:
        """Whether the group, this relay or another, has relayed all before these offsets."""
        if any(
            place in self._waiting or self._owned[place].committed < end
            for place, end in ends.items()
            if place in self._owned or place in self._waiting
        ):
            return False
        try:
            committed = self._log.all_committed()
        except CommitRetriable:
            return False
        return all(place in committed and committed[place].next_offset >= end for place, end in ends.items())

    def _wait_until_readable(self) -> None:
        """A commit is answered before its markers are written: only then a worker sees the end that is to be seen."""
        deadline = self._clock() + READABLE_PATIENCE
        while not self._until_answered(self._log.is_readable):
            if self._clock() > deadline:
                raise EnvironmentRefused(
                    f"all is relayed, but a transaction of another producer keeps the end of "
                    f"{self._settings.topics.events} from readers for {READABLE_PATIENCE:.0f} s. Start again when it "
                    "has ended."
                )
            self._sleep(RETRY_PAUSE / 10)

    def _report(self) -> None:
        now = self._clock()
        if now - self._reported_at < REPORT_INTERVAL:
            return
        self._reported_at = now
        lag = {str(place): self._log.lag(place, owned.next_offset) for place, owned in self._owned.items()}
        log.info("relaying", **self.figures.to_dict(), lag_records=sum(lag.values()), lag=lag)
