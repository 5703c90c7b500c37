"""Faust: an agent that takes events one by one, or up to 1,000 at a time (mode `take`), and sends predictions."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import faust

from benchmarks.clients.job import Arguments, Job

WITHIN_SECONDS = 0.1


def main(arguments: Arguments) -> None:
    job = Job(arguments.count)
    app = faust.App(
        arguments.group,
        broker=f"kafka://{arguments.servers}",
        datadir=tempfile.mkdtemp(prefix="headrace-bench-"),
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        worker_redirect_stdouts=False,
    )
    events = app.topic(arguments.events, value_serializer="json")
    predictions = app.topic(arguments.predictions, value_serializer="json")

    async def end() -> None:
        await app.producer.flush()
        job.report()
        os._exit(0)  # Faust's own clean end takes seconds, and everything is written

    async def take(stream: Any) -> None:
        async for batch in stream.take(1000, within=WITHIN_SECONDS):
            for event in batch:
                await predictions.send(key=event["id"], value=job(event))
            if job.is_done:
                await end()

    async def one_by_one(stream: Any) -> None:
        async for event in stream:
            await predictions.send(key=event["id"], value=job(event))
            if job.is_done:
                await end()

    app.agent(events)(take if arguments.mode == "take" else one_by_one)
    faust.Worker(app, loglevel="WARN").execute_from_commandline()


if __name__ == "__main__":
    main(Arguments.read())
