"""Telling people: every channel with its own outbox and its own pace."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from monitors.notify.notices import Message, Notice
from monitors.notify.outbox import ChannelPolicy, Outbox, Source
from monitors.notify.sender import Sender, scheme_of

#: Seconds that messages under way get when the notifier is stopped.
STOP_SECONDS: Final = 5.0
#: Notices by which one that is offered again is recognised, as after a rebalance.
RECENT: Final = 10_000

Send = Callable[[Message], Awaitable[str | None]]
"""Sends a message; says why that failed, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfig:
    """Where notices go, and which."""

    #: Its name in logs, metrics and on the dashboard.
    name: str
    #: An address of Apprise; it holds secrets, so it is in no text of this object.
    url: str = field(repr=False)
    #: Which, how often, and how.
    policy: ChannelPolicy = field(default_factory=ChannelPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelFacts:
    """How a channel stands; nothing of it is secret."""

    #: Its name.
    name: str
    #: What its address begins with, such as `slack`.
    scheme: str
    #: Messages delivered since the start.
    sent: int
    #: Attempts that failed since the start.
    failed: int
    #: Notices that are not delivered.
    waiting: int
    #: What is known to be open.
    open: int
    #: Why the last attempt failed. None: it did not.
    last_error: str | None
    #: When the last message was delivered, epoch seconds. None: none was.
    last_sent: float | None


class _Channel:
    def __init__(self, config: ChannelConfig, send: Send) -> None:
        self.name = config.name
        self.scheme = scheme_of(config.url) or "unknown"
        self.outbox = Outbox(config.policy)
        self.send = send
        self.woken = asyncio.Event()
        self.sent = 0
        self.failed = 0
        self.last_error: str | None = None
        self.last_sent: float | None = None


class Notifier:
    """Takes notices in and tells them on every channel; one that is down delays no other.

    Nothing is kept on disk. The records that notices come from are kept by Kafka: the caller commits what `settled`
    says, and after a restart offers everything from there again. So each notice is told at least once.

    All methods are for the thread of the event loop that `run` runs in.

    Args:
        channels: Where to.
        sender: Makes what sends to a channel.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        channels: Sequence[ChannelConfig],
        *,
        sender: Callable[[ChannelConfig], Send] = lambda config: Sender(config.url).send,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channels = [_Channel(config, sender(config)) for config in channels]
        self._clock = clock
        self._next: dict[Source, int] = {}
        self._recent: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._stopped = asyncio.Event()
        self._logger = structlog.get_logger()

    def offer(self, notice: Notice) -> None:
        """Take a notice in; those of a partition in the order of its log. One that was taken in before is no news."""
        if notice.topic is not None:
            mark = (notice.topic, notice.partition, notice.offset, notice.key, notice.state, notice.time)
            if mark in self._recent:
                return
            self._recent[mark] = None
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)
            self.skip(notice.topic, notice.partition, notice.offset)
        now = self._clock()
        for channel in self._channels:
            if channel.outbox.offer(notice, now):
                channel.woken.set()

    def skip(self, topic: str, partition: int, offset: int) -> None:
        """Take note of a record that nobody need be told of, so that `settled` goes on behind it."""
        source = (topic, partition)
        self._next[source] = max(offset + 1, self._next.get(source, 0))

    def begin_again(self, topic: str, partition: int) -> None:
        """The topic was made anew: its offsets start over. What is not delivered is still told."""
        source = (topic, partition)
        self._next.pop(source, None)
        for channel in self._channels:
            channel.outbox.uproot(source)

    def remember(self, notice: Notice) -> None:
        """Learn from a record before `settled` what is open, without telling it again: call it before any `offer`.

        Without it a restart loses reminders of what is open, and closings less severe than a channel tells.
        """
        for channel in self._channels:
            channel.outbox.remember(notice, self._clock())
            channel.woken.set()

    def settled(self) -> Mapping[Source, int]:
        """Of each topic and partition offered the next offset: everything before is delivered on every channel."""
        settled = dict(self._next)
        for channel in self._channels:
            for source, offset in channel.outbox.undelivered().items():
                settled[source] = min(offset, settled[source])
        return settled

    def facts(self) -> Sequence[ChannelFacts]:
        """How each channel stands, for display and metrics."""
        return [
            ChannelFacts(
                name=channel.name,
                scheme=channel.scheme,
                sent=channel.sent,
                failed=channel.failed,
                waiting=channel.outbox.waiting,
                open=channel.outbox.open,
                last_error=channel.last_error,
                last_sent=channel.last_sent,
            )
            for channel in self._channels
        ]

    async def run(self) -> None:
        """Send until `stop` is called; what is not delivered then is not settled either."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._serve(channel)) for channel in self._channels]
            await self._stopped.wait()
            if tasks:
                _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
                for task in late:
                    task.cancel()

    def stop(self) -> None:
        """End `run`; messages under way get a few seconds."""
        self._stopped.set()
        for channel in self._channels:
            channel.woken.set()

    async def _serve(self, channel: _Channel) -> None:
        outbox = channel.outbox
        while not self._stopped.is_set():
            now = self._clock()
            message = outbox.due(now)
            if message is None:
                channel.woken.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(outbox.wait(now)):
                        await channel.woken.wait()
                continue
            reason = await channel.send(message)
            channel.last_error = reason
            about = {"channel": channel.name, "scheme": channel.scheme, "notices": message.notices}
            if reason is None:
                outbox.delivered(self._clock())
                channel.sent += 1
                channel.last_sent = time.time()
                self._logger.info("notification sent", **about)
            else:
                outbox.failed(self._clock())
                channel.failed += 1
                again = outbox.wait(self._clock())
                self._logger.warning(
                    "notification not sent", **about, reason=reason, again_in_seconds=round(again or 0.0, 1)
                )
