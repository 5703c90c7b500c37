"""`headrace` whose Kafka clients take no notice of being told to end: `python -m tests.integration.stuck monitor FILE`.

As aiokafka's sometimes do while a broker that took the connection does not answer.
"""

from __future__ import annotations

import asyncio
import sys
from typing import NoReturn

from stream.cli import main


async def never(*_: object) -> NoReturn:
    """Wait for ever, whoever cancels it."""
    sys.stderr.write("waits for ever\n")
    while True:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            continue


def take_no_notice() -> None:
    """Let each client of aiokafka start and stop like this."""
    from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped]  # ships no types

    AIOKafkaConsumer.start = AIOKafkaConsumer.stop = never


if __name__ == "__main__":
    take_no_notice()
    main()
