"""A member of a consumer group whose partitions are read from where we say, and no earlier than we say."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any, Generic, TypeVar

import structlog
from confluent_kafka import Consumer, TopicPartition

from stream.kafka.client import BATCH, REJOIN_PATIENCE

log = structlog.get_logger()

#: What a partition is called by whoever owns the member: its number, or its place among several topics.
P = TypeVar("P")


class Member(Generic[P]):
    """What the group has given to one consumer, and how far each partition has been read.

    Args:
        new_consumer: Makes the client; called again where the group has forgotten the first one.
        topics: What is subscribed to.
        place: What a partition is called.
        where: Topic and partition of what is called so.
        session_seconds: After this time the group gives the partitions of a silent member away.
    """

    def __init__(
        self,
        new_consumer: Callable[[], Consumer],
        topics: Sequence[str],
        *,
        place: Callable[[TopicPartition], P],
        where: Callable[[P], tuple[str, int]],
        session_seconds: float,
    ) -> None:
        self._new_consumer = new_consumer
        self._topics = list(topics)
        self._place = place
        self._where = where
        self._patience = max(REJOIN_PATIENCE, 3 * session_seconds)
        #: The client of now.
        self.consumer = new_consumer()
        self._subscribe: Callable[[], None] = lambda: None
        self._closing: Thread | None = None
        #: When it last began to wait for its share, seconds on the monotonic clock.
        self._waits_since = time.monotonic()
        #: Whether the group has given it its share, be it empty.
        self.has_assignment = False
        self._assigned: list[P] = []
        self._started: set[P] = set()
        #: The next offset to be read, control records counted, of each partition that was started.
        self.positions: dict[P, int] = {}

    def join(
        self, *, on_revoked: Callable[[Sequence[P]], None], on_lost: Callable[[Sequence[P]], None]
    ) -> None:
        """Become a member. `on_revoked` may still commit; at `on_lost` the partitions are another's already."""

        # A consumer that was replaced may still call back while it closes: it has no say any more.
        def assigned(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            if consumer is not self.consumer:
                return
            # Fetching starts in `start`, when the state is there: the assignment is taken empty-handed.
            consumer.incremental_assign([])
            self.has_assignment = True
            self._assigned += map(self._place, partitions)

        def let_go(
            consumer: Consumer, partitions: list[TopicPartition], tell: Callable[[Sequence[P]], None]
        ) -> None:
            if consumer is not self.consumer:
                return
            places = list(map(self._place, partitions))
            tell(places)
            self._assigned = [place for place in self._assigned if place not in places]
            started = [place for place in places if place in self._started]
            consumer.incremental_unassign([TopicPartition(*self._where(place)) for place in started])
            self._started.difference_update(started)

        def lost(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            if consumer is self.consumer:
                self.has_assignment = False
            let_go(consumer, partitions, on_lost)
            self._waits_since = time.monotonic()

        self._subscribe = lambda: self.consumer.subscribe(
            self._topics,
            on_assign=assigned,
            on_revoke=lambda consumer, partitions: let_go(consumer, partitions, on_revoked),
            on_lost=lost,
        )
        self._waits_since = time.monotonic()
        self._subscribe()

    def poll(self, timeout_seconds: float) -> Sequence[Any]:
        """The next messages of started partitions, errors among them; may run the callbacks."""
        first = self.consumer.poll(timeout_seconds)
        return () if first is None else (first, *self.consumer.consume(BATCH, 0))

    def rejoin_if_forgotten(self) -> None:
        """Join anew, with a new consumer, when the group has given no share for much too long.

        After a broker was frozen for longer than the session, a consumer was seen once in a few times never to ask
        for its place again. The old one is closed aside, since that may take as long.
        """
        if self.has_assignment or time.monotonic() - self._waits_since < self._patience:
            return
        self._waits_since = time.monotonic()
        if self._closing is not None and self._closing.is_alive():
            return
        log.warning("no share of the partitions for too long, joining anew", seconds=self._patience)
        self._closing = Thread(target=self.consumer.close, daemon=True)
        self.consumer = self._new_consumer()
        self._started.clear()
        self._assigned.clear()
        self._subscribe()
        self._closing.start()

    def take_assigned(self) -> Sequence[P]:
        """Partitions assigned since the last call; each waits for `start`."""
        if not self._assigned:
            return ()
        assigned, self._assigned = self._assigned, []
        return assigned

    def start(self, place: P, offset: int) -> None:
        """Read a partition from this offset on; of one that was started before, anew."""
        topic, partition = self._where(place)
        if place in self._started:
            self.consumer.incremental_unassign([TopicPartition(topic, partition)])
        self.consumer.incremental_assign([TopicPartition(topic, partition, offset)])
        self._started.add(place)
        self.positions[place] = offset
