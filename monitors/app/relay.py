"""Reads where a pipeline's relay stands, every few seconds: the offsets of its group, and where its topics end.

Beside the reading of the status and alerts topics, with clients of its own: whatever goes wrong here is told of as the
relay's own trouble and touches nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from aiokafka.admin import AIOKafkaAdminClient  # type: ignore[import-untyped]
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]

from monitors.app.config import WatchedPipeline
from monitors.app.feed import REQUEST_TIMEOUT_MS, bounded, partitions_of, sentence
from monitors.app.site import Unavailable
from monitors.fleet import PipelineState, Source, Standing

log = structlog.get_logger()

#: Seconds between two looks, and how long one may take.
LOOK_SECONDS: Final = 5.0
LOOK_TIMEOUT: Final = 10.0
#: Seconds after which it is asked again how many partitions the topics have.
PLACES_SECONDS: Final = 60.0
#: Seconds to the next try, doubled from the first to the last while none succeeds.
FIRST_WAIT: Final = 1.0
LAST_WAIT: Final = 15.0
#: What a group's offset is where it has none.
NO_OFFSET: Final = -1


class RelayReader:
    """Keeps up to date what is known of one pipeline's relay.

    Args:
        pipeline: Whose, and how to reach it.
        state: Where it goes.
        clock: Wall clock, epoch seconds.
    """

    def __init__(
        self,
        pipeline: WatchedPipeline,
        state: PipelineState,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pipeline = pipeline
        self._state = state
        self._clock = clock

    async def run(self) -> None:
        """Read until cancelled."""
        wait = FIRST_WAIT
        while True:
            began = self._state.relay.read_at if self._state.relay is not None else None
            async with AsyncExitStack() as stack:
                try:
                    await self._session(stack)
                except Exception as error:  # a bug must not take anything else down with it
                    self._ended(error)
            if self._state.relay is not None and self._state.relay.read_at != began:
                wait = FIRST_WAIT
            await asyncio.sleep(wait)
            wait = min(LAST_WAIT, 2 * wait)

    def _ended(self, error: Exception) -> None:
        name, relay = self._pipeline.facts.name, self._state.relay
        if isinstance(error, Unavailable):
            problem = str(error)
        elif isinstance(error, (KafkaError, OSError, TimeoutError)):
            problem = sentence(self._pipeline.facts, error)
        else:
            log.error("reading where the relay stands failed", pipeline=name, exc_info=error)
            problem = f"reading it failed ({type(error).__name__}: {error}); it is tried again."
        if relay is not None and problem != relay.problem:
            log.warning("where the relay stands can't be read", pipeline=name, problem=problem)
        self._state.take_relay(problem, self._clock())

    async def _session(self, stack: AsyncExitStack) -> None:
        """Look again and again, until a look fails."""
        connection: dict[str, Any] = {
            **self._pipeline.connection,
            "client_id": "headrace-monitor",
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
        }
        # Without a group, and nothing is ever assigned to it: it is only asked where logs begin and end.
        consumer = AIOKafkaConsumer(**connection, group_id=None, isolation_level="read_committed")
        admin = AIOKafkaAdminClient(**connection)
        stack.push_async_callback(lambda: bounded(consumer.stop()))
        stack.push_async_callback(lambda: bounded(admin.close()))
        await asyncio.wait_for(
            asyncio.gather(consumer.start(), admin.start()), 2 * REQUEST_TIMEOUT_MS / 1_000
        )
        while True:
            places = await self._places(consumer)
            asked = time.monotonic()
            while time.monotonic() - asked < PLACES_SECONDS:
                found = await asyncio.wait_for(self._look(consumer, admin, places), LOOK_TIMEOUT)
                self._state.take_relay(found, self._clock())
                await asyncio.sleep(LOOK_SECONDS)

    async def _places(self, consumer: Any) -> list[TopicPartition]:
        topics = self._pipeline.facts.relayed_topics
        found = await partitions_of(consumer, topics)
        missing = [topic for topic in topics if not found[topic]]
        if missing:
            names = " and ".join(repr(topic) for topic in missing)
            raise Unavailable(
                f"there is no topic {names}, or this user may not see it. See headrace check "
                f"{self._pipeline.facts.settings_file}"
            )
        return [place for places in found.values() for place in places]

    async def _look(
        self, consumer: Any, admin: Any, places: Sequence[TopicPartition]
    ) -> dict[Source, Standing]:
        """Where the relay stands in each partition."""
        group = self._pipeline.facts.relay_group
        # First what is committed: what comes between the questions is lag, not records from nowhere.
        committed = await admin.list_consumer_group_offsets(group, partitions=list(places))
        # A group's coordinator that has just moved answers with nothing: that is not "nothing is committed".
        if any(place not in committed for place in places):
            raise Unavailable(
                f"the broker did not say what group {group!r} has committed; it is asked again."
            )
        first = await consumer.beginning_offsets(list(places))
        ends = await consumer.end_offsets(list(places))
        return {
            Source(place.topic, place.partition): Standing(
                None if committed[place].offset == NO_OFFSET else committed[place].offset,
                first[place],
                ends[place],
            )
            for place in places
        }
