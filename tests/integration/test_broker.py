"""The broker of `headrace broker`, as its users meet it."""

from __future__ import annotations

import pytest
from kafka import KafkaConsumer, KafkaProducer  # type: ignore[import-untyped]

from stream.broker import Broker
from tests.conftest import create_topic

pytestmark = pytest.mark.integration


def produce(broker: Broker, topic: str, value: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    producer.send(topic, value).get(timeout=30)
    producer.close()


def read(broker: Broker, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap_servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=30_000,
    )
    values = []
    for record in consumer:
        values.append(record.value)
        if len(values) == count:
            break
    consumer.close()
    return values


def test_a_record_comes_back(broker: Broker, topic_name: str) -> None:
    create_topic(broker, topic_name)

    produce(broker, topic_name, b"one")

    assert read(broker, topic_name, 1) == [b"one"]


def test_restart_keeps_records_and_port_also_after_a_kill(private_broker: Broker, topic_name: str) -> None:
    create_topic(private_broker, topic_name)
    produce(private_broker, topic_name, b"one")
    address, pid = private_broker.bootstrap_servers, private_broker.pid

    private_broker.restart()
    produce(private_broker, topic_name, b"two")
    private_broker.kill()
    private_broker.start()

    assert private_broker.bootstrap_servers == address
    assert private_broker.pid != pid
    assert read(private_broker, topic_name, 2) == [b"one", b"two"]
