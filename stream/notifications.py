"""The channels of a pipeline, as the monitor takes them: settings and secrets become plain values."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from stream.errors import EnvironmentRefused
from stream.settings import Settings, read_addresses

if TYPE_CHECKING:
    from monitors.notify import ChannelConfig


def channels_of(settings: Settings, environ: Mapping[str, str] | None = None) -> Sequence[ChannelConfig]:
    """Read the addresses of `[[notifications]]` and return the channels, in their order.

    Raises:
        ConfigError: With every mistake at once: an address that can't be read, or that Apprise can't use.
        EnvironmentRefused: There are channels, and Apprise is not installed.
    """
    # Imported here: monitors brings River, and `headrace --help` should not wait for it.
    from monitors.notify import ChannelConfig, ChannelPolicy  # noqa: PLC0415
    from monitors.notify.sender import problems  # noqa: PLC0415

    if not settings.notifications:
        return []
    if find_spec("apprise") is None:
        raise EnvironmentRefused(
            "Apprise, which sends notifications, is missing: pip install 'headrace[monitor]'"
        )
    addresses = read_addresses(settings, environ, problems)
    return [
        ChannelConfig(
            name=channel.name_at(i),
            url=address,
            policy=ChannelPolicy(
                severity=channel.severity,
                group_seconds=channel.group_seconds,
                at_most_per_hour=channel.at_most_per_hour,
                reminder_seconds=channel.reminder_seconds,
            ),
        )
        for i, (channel, address) in enumerate(zip(settings.notifications, addresses, strict=True))
    ]


def send_tests(settings: Settings, channels: Sequence[ChannelConfig]) -> Sequence[str | None]:
    """Send a test message to each channel, all at the same time; return why each failed, or None."""
    from monitors.notify import Message  # noqa: PLC0415
    from monitors.notify.notices import when  # noqa: PLC0415
    from monitors.notify.sender import Sender  # noqa: PLC0415

    def message(channel: ChannelConfig) -> Message:
        return Message(
            title=f"[test] {settings.name}: a test message",
            body=f"Channel {channel.name} of pipeline {settings.name} works. It tells what is at least "
            f"{channel.policy.severity}. Sent by hand at {when(time.time())}; nothing is wrong.",
            severity="info",
            is_over=False,
            notices=1,
        )

    async def send_all() -> Sequence[str | None]:
        return await asyncio.gather(*(Sender(channel.url).send(message(channel)) for channel in channels))

    return asyncio.run(send_all())
