"""Quix Streams: a streaming data frame, apply and to_topic. Runs in an environment of its own."""

from __future__ import annotations

import tempfile

from quixstreams import Application  # type: ignore[import-not-found]  # in .venv-bench only

from benchmarks.clients.job import Arguments, Job


def main(arguments: Arguments) -> None:
    job = Job(arguments.count)
    app = Application(
        broker_address=arguments.servers,
        consumer_group=arguments.group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        state_dir=tempfile.mkdtemp(prefix="headrace-bench-"),
        loglevel="WARNING",
    )
    events = app.topic(arguments.events, value_deserializer="json")
    predictions = app.topic(arguments.predictions, value_serializer="json")
    app.dataframe(events).apply(job).to_topic(predictions)
    app.run(count=arguments.count, collect=False)
    job.report()


if __name__ == "__main__":
    main(Arguments.read())
