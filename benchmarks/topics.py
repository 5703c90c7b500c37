"""Topics of a benchmark: made, filled and read."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

PATIENCE_SECONDS = 60.0
#: librdkafka tells on standard error what is no news here.
QUIET: dict[str, str | int | float | bool] = {"log_level": 4}
#: Records keep their order: else a batch that a young topic refused is sent again behind those that came after it.
IN_ORDER: dict[str, str | int | float | bool] = {"enable.idempotence": True}


def create_topics(servers: str, *names: str) -> None:
    """Make topics of one partition."""
    admin = AdminClient(QUIET | {"bootstrap.servers": servers})
    for made in admin.create_topics([NewTopic(name, 1, 1) for name in names]).values():
        made.result(PATIENCE_SECONDS)


def delete_topics(servers: str, *names: str) -> None:
    admin = AdminClient(QUIET | {"bootstrap.servers": servers})
    for gone in admin.delete_topics(list(names)).values():
        gone.result(PATIENCE_SECONDS)


def fill(servers: str, topic: str, events: Iterable[bytes]) -> None:
    """Write events into partition 0, keyed by their position."""
    producer = Producer(
        {"bootstrap.servers": servers, "linger.ms": 20, "queue.buffering.max.messages": 2_000_000} | IN_ORDER
    )
    for number, body in enumerate(events):
        producer.produce(topic, body, f"k{number % 1000}".encode(), 0)
        if number % 10_000 == 0:
            producer.poll(0)
    if producer.flush(PATIENCE_SECONDS):
        raise SystemExit(f"topic {topic} could not be filled")
