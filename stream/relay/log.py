"""The port between the relay and the logs it stands between; `stream.kafka.relay.KafkaRelay` is the real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from stream.log import Committed
from stream.records import Headers


class Place(NamedTuple):
    """A partition of a source topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class SourceRecord(NamedTuple):
    """One record of a source topic: bytes at a position."""

    topic: str
    partition: int
    offset: int
    #: The record's own timestamp, milliseconds since the epoch; negative if it has none.
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None


class RelayLog(Protocol):
    """One member of the relay's group, with the producer that writes into the events topic.

    Calls that can't go on raise `EnvironmentRefused`. `send_offsets` and `commit` raise the three errors of
    `stream.log`, `claim` the first two, `abort` the first and the third; questions to the broker and `renew_producer`
    raise the first.
    """

    #: Transactional id of this relay: `{pipeline}.relay-{instance}-{slot}`.
    writer: str
    #: Identity of the events topic, and its number of partitions.
    events_id: str
    events_partitions: int
    #: Each source topic's number of partitions, and identity.
    partitions: dict[str, int]
    topic_ids: dict[str, str]

    def join(
        self, *, on_revoked: Callable[[Sequence[Place]], None], on_lost: Callable[[Sequence[Place]], None]
    ) -> None:
        """Become a member; the two are called by `poll` only, and nothing is open then."""

    def poll(self, timeout_seconds: float) -> Sequence[SourceRecord]:
        """The next records of started partitions, waiting at most this long for the first; may run the callbacks."""

    def take_assigned(self) -> Sequence[Place]:
        """Partitions assigned since the last call; each waits for `start`."""

    def committed(self, places: Sequence[Place]) -> Mapping[Place, Committed]:
        """The last commits of partitions, after ending what a dead writer left open."""

    def all_committed(self) -> Mapping[Place, Committed]:
        """What is committed for every source partition, as it is now: nothing is waited for."""

    def claim(self, commits: Mapping[Place, Committed]) -> None:
        """Commit outside of a transaction, where nothing has been written."""

    def bounds(self, place: Place) -> tuple[int, int]:
        """The first offset that the log still has and its last stable offset."""

    def offset_at(self, place: Place, timestamp: int) -> int:
        """The first offset with this timestamp (milliseconds) or a later one; the end if there is none."""

    def last_relayed(self, places: Sequence[Place]) -> Mapping[Place, int]:
        """The last offset of each partition that the newest records of the events topic were relayed from.

        `stream.relay.places.UNTOLD` where there is none among them, though older ones may have been.
        """

    def start(self, place: Place, offset: int) -> None:
        """Let the records of an assigned partition come, from this offset; again to begin anew."""

    def position(self, place: Place) -> int:
        """How far the log is read: past control records too, at its end."""

    def lag(self, place: Place, next_offset: int) -> int:
        """Records behind, as far as that is known without asking."""

    def send_offsets(self, commits: Mapping[Place, Committed]) -> None:
        """Begin a transaction, if none is open, with the next offsets. Safe to call again."""

    def send(self, to: int, record: SourceRecord, headers: Headers) -> None:
        """Write a record into a partition of the events topic, in the open transaction."""

    def commit(self) -> None:
        """Commit the transaction. Safe to call again after `CommitRetriable`."""

    def abort(self) -> None:
        """Throw the open transaction away."""

    def renew_producer(self) -> None:
        """A new producer under the same id, which ends what the old one left open."""

    def is_readable(self) -> bool:
        """Whether a `read_committed` reader of the events topic gets to all that is in it now."""

    def leave(self) -> None:
        """Leave the group and close."""
