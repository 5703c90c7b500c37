"""The logs between which a relay stands, in memory, with a script of what goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from stream.log import CommitAborted, CommitRetriable, Committed, ProducerFenced
from stream.records import Headers
from stream.relay.headers import relayed_for
from stream.relay.log import Place, SourceRecord
from stream.settings import Settings

#: What a step of a commit does, once: no answer (and it had happened, or not), a stale member, another producer of this
#: id, the end of the process before it or after it, a rebalance that takes all away and gives it back; or records that
#: were polled before come once more, as from before a seek.
Fault = Literal[
    "no answer", "done, no answer", "aborted", "fenced", "dies before", "dies after", "rebalance", "once more"
]


class Died(BaseException):
    """The process is no more."""


class Logs:
    """Source topics, the events topic and what the group has committed; outlives the relays."""

    def __init__(self, sources: Mapping[str, int], events_partitions: int = 1) -> None:
        self.sources: dict[Place, list[SourceRecord]] = {
            Place(topic, number): [] for topic, count in sources.items() for number in range(count)
        }
        self.partitions = dict(sources)
        self.events: list[list[tuple[SourceRecord, Headers]]] = [[] for _ in range(events_partitions)]
        self.committed: dict[Place, Committed] = {}
        #: Where each source's log begins, and where it ends if that is not behind its last record.
        self.first: dict[Place, int] = {}
        self.end: dict[Place, int] = {}
        #: What happens at the next calls of a step, in order.
        self.faults: dict[str, list[Fault | None]] = {}

    def add(self, place: Place, *offsets: int) -> None:
        """Records at these offsets, told apart by their values."""
        self.sources[place] += [
            SourceRecord(*place, offset, 1_000 + offset, b"k", f"{place}@{offset}".encode(), None)
            for offset in offsets
        ]

    def values(self) -> list[list[bytes | None]]:
        """What is in the events topic, by partition."""
        return [[record.value for record, _ in partition] for partition in self.events]


class MemoryRelay:
    """`stream.relay.log.RelayLog` on `Logs`: the one member of its group."""

    def __init__(self, logs: Logs, writer: str = "p.relay-test-0") -> None:
        self.writer = writer
        self.events_id = "events-id"
        self.events_partitions = len(logs.events)
        self.partitions = dict(logs.partitions)
        self.topic_ids = {topic: f"{topic}-id" for topic in logs.partitions}
        self.logs = logs
        self.batch = 7
        self.in_transaction = False
        self.has_left = False
        self._assigned: list[Place] = []
        self._positions: dict[Place, int] = {}
        self._polled: list[SourceRecord] = []
        self._sent: list[tuple[int, SourceRecord, Headers]] = []
        self._offsets: dict[Place, Committed] = {}
        self._done: bool = False
        self._on_revoked: Callable[[Sequence[Place]], None] = lambda places: None

    def join(
        self, *, on_revoked: Callable[[Sequence[Place]], None], on_lost: Callable[[Sequence[Place]], None]
    ) -> None:
        self._assigned = list(self.logs.sources)
        self._on_revoked = on_revoked

    def poll(self, timeout_seconds: float) -> Sequence[SourceRecord]:
        assert not self.in_transaction, "readers of the log would wait for this poll"
        fault = self._fault("poll")
        if fault == "once more":
            return self._polled
        if fault == "rebalance":
            self._on_revoked(list(self._positions))
            stale = (
                self._next_records()
            )  # as librdkafka may: polled before the callback, handed over after it
            self._assigned, self._positions = list(self.logs.sources), {}
            return stale
        self._polled = self._next_records()
        return self._polled

    def _next_records(self) -> list[SourceRecord]:
        found: list[SourceRecord] = []
        for place, at in self._positions.items():
            records = [record for record in self.logs.sources[place] if record.offset >= at][: self.batch]
            found += records
            if records:
                self._positions[place] = records[-1].offset + 1
            else:
                self._positions[place] = max(at, self.bounds(place)[1])
        return found

    def take_assigned(self) -> Sequence[Place]:
        assigned, self._assigned = self._assigned, []
        return assigned

    def committed(self, places: Sequence[Place]) -> Mapping[Place, Committed]:
        assert not self.in_transaction
        return {place: self.logs.committed[place] for place in places if place in self.logs.committed}

    def all_committed(self) -> Mapping[Place, Committed]:
        return dict(self.logs.committed)

    def claim(self, commits: Mapping[Place, Committed]) -> None:
        fault = self._fault("claim")
        if fault == "aborted":
            raise CommitAborted("stale")
        self.logs.committed |= commits
        if fault == "dies after":
            raise Died

    def bounds(self, place: Place) -> tuple[int, int]:
        records = self.logs.sources[place]
        end = records[-1].offset + 1 if records else 0
        return self.logs.first.get(place, 0), max(end, self.logs.end.get(place, 0))

    def offset_at(self, place: Place, timestamp: int) -> int:
        found = [record.offset for record in self.logs.sources[place] if record.timestamp >= timestamp]
        return found[0] if found else self.bounds(place)[1]

    def last_relayed(self, places: Sequence[Place]) -> Mapping[Place, int]:
        found: dict[Place, int] = {}
        for partition in self.logs.events:
            for record, headers in partition:
                if relayed_for(headers) is not None:
                    found[Place(record.topic, record.partition)] = record.offset
        return {place: found[place] for place in places if place in found}

    def start(self, place: Place, offset: int) -> None:
        self._positions[place] = offset

    def position(self, place: Place) -> int:
        return self._positions[place]

    def lag(self, place: Place, next_offset: int) -> int:
        return self.bounds(place)[1] - next_offset

    def send(self, to: int, record: SourceRecord, headers: Headers) -> None:
        if self._fault("send") == "fenced":
            raise ProducerFenced("another")
        assert self.in_transaction
        self._sent.append((to, record, headers))

    def send_offsets(self, commits: Mapping[Place, Committed]) -> None:
        if not self.in_transaction:
            self.in_transaction, self._done = True, False
        self._step("send_offsets", lambda: self._offsets.update(commits))

    def commit(self) -> None:
        def happen() -> None:
            if not self._done:
                for to, record, headers in self._sent:
                    self.logs.events[to].append((record, headers))
                self.logs.committed |= self._offsets
                self._done = True

        self._step("commit", happen)
        self._close()

    def abort(self) -> None:
        self._step("abort", lambda: None)
        self._close()

    def renew_producer(self) -> None:
        self._close()

    def is_readable(self) -> bool:
        return self._fault("is_readable") is None

    def leave(self) -> None:
        self.has_left = True

    def _close(self) -> None:
        self._sent.clear()
        self._offsets.clear()
        self.in_transaction = False

    def _fault(self, step: str) -> Fault | None:
        script = self.logs.faults.get(step)
        return script.pop(0) if script else None

    def _step(self, step: str, happen: Callable[[], None]) -> None:
        fault = self._fault(step)
        if fault == "dies before":
            raise Died
        if fault == "no answer":
            raise CommitRetriable("nothing")
        if fault == "aborted" and not self._done:
            raise CommitAborted("stale")
        if fault == "fenced" and not self._done:
            raise ProducerFenced("another")
        happen()
        if fault == "done, no answer":
            raise CommitRetriable("nothing")
        if fault == "dies after":
            raise Died


class Clock:
    """Seconds that pass when somebody sleeps, and a little at each look."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        self.now += 0.000_1
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def relay_settings(**sections: object) -> Settings:
    """A pipeline `p` that relays the topics a and b into events, and labels."""
    return Settings.model_validate(
        {
            "name": "p",
            "task": "binary",
            "topics": {"events": "log"},
            "labels": {"topic": "labels"},
            "relay": {"events": ["a"]},
            "learner": {"use": "logistic-regression"},
            **sections,
        }
    )
