"""The port between the worker and the log: what the worker asks of Kafka, and the three ways a commit can fail.

`stream.kafka.log.KafkaLog` is the real one; `stream.testing.MemoryLog` serves the tests of the worker's decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from stream.records import Output, Record


class Committed(NamedTuple):
    """What the group has committed for one partition."""

    #: The next offset, C: outputs of all records before it are out.
    next_offset: int
    #: What the commit says about itself (`stream.checkpoint.CommitMetadata` as JSON).
    metadata: str


class CommitRetriable(Exception):
    """No answer, or one that says "again". Call it again; a commit may have happened, so never abort it."""


class CommitAborted(Exception):
    """A rebalance or a stale generation: nothing of the transaction counts. Abort, look, send again."""


class ProducerFenced(Exception):
    """Another producer took this transactional id, or the transaction timed out: a new producer is needed."""


class Log(Protocol):
    """One member of the consumer group, with the producer that belongs to it.

    Calls that can't go on raise `EnvironmentRefused`. `send_offsets` and `commit` raise the three errors above, `claim`
    the first two, `abort` the first and the third; questions to the broker and `renew_producer` raise the first.
    """

    #: Transactional id of this worker: `{pipeline}-{instance}-{slot}`.
    writer: str
    #: Identity of the events topic; a recreated topic has another one.
    topic_id: str
    #: Number of partitions of the events topic.
    partition_count: int

    def join(
        self, *, on_revoked: Callable[[Sequence[int]], None], on_lost: Callable[[Sequence[int]], None]
    ) -> None:
        """Become a member. `on_revoked` may still commit; at `on_lost` the partitions are another's already."""

    def poll(self, timeout_seconds: float) -> Sequence[Record]:
        """The next records of started partitions, waiting at most this long for the first; may run the callbacks."""

    def has_assignment(self) -> bool:
        """Whether the group has given this member its share, be it empty."""

    def take_assigned(self) -> Sequence[int]:
        """Partitions assigned since the last call; each waits for `start`."""

    def committed(self, partition: int) -> Committed | None:
        """The last commit of a partition, after ending what a dead writer left open."""

    def all_committed(self) -> Mapping[int, Committed]:
        """What is committed for each partition, as it is now: what a transaction holds back is not waited for."""

    def claim(self, partition: int, committed: Committed) -> None:
        """Commit the origin, before any output; raises as `commit` does."""

    def bounds(self, partition: int) -> tuple[int, int]:
        """The first offset that the log still has and its last stable offset."""

    def offset_at(self, partition: int, timestamp: int) -> int:
        """The first offset with this timestamp (milliseconds) or a later one; the end if there is none."""

    def has_outputs(self, partition: int) -> bool:
        """Whether any prediction, outcome or dead letter was ever written for this partition."""

    def start(self, partition: int, offset: int) -> None:
        """Let the records of an assigned partition come, from this offset; again to begin anew."""

    def position(self, partition: int) -> int:
        """How far the log is read: past control records too, at its end."""

    def end(self, partition: int) -> int | None:
        """The log's end as far as it is known without asking; None as long as nothing was fetched."""

    def send(self, partition: int, timestamp: int, outputs: Sequence[Output]) -> None:
        """Write outputs into the open transaction, opening one if there is none."""

    def send_offsets(self, commits: Mapping[int, Committed]) -> None:
        """Add the input offsets to the transaction. Safe to call again."""

    def commit(self) -> None:
        """Commit the transaction. Safe to call again after `CommitRetriable`."""

    def abort(self) -> None:
        """Throw the open transaction away."""

    def renew_producer(self) -> None:
        """A new producer under the same id, which ends what the old one left open."""

    def publish_status(self, partition: int, body: bytes) -> None:
        """Write a status record, outside any transaction."""

    def publish_alert(self, partition: int, body: bytes) -> None:
        """Write an incident to the alerts, outside any transaction: it is no function of the log."""

    def open_bytes(self) -> int:
        """Bytes of large outputs (dead letters) written since the last commit."""

    def leave(self) -> None:
        """Leave the group and close."""
