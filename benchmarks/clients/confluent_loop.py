"""confluent-kafka: consume, produce; in transactions of 200 ms (mode `exactly_once`), or idempotent only."""

from __future__ import annotations

import time
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaException, Producer

from benchmarks.clients.job import Arguments, Job

COMMIT_SECONDS = 0.2


def main(arguments: Arguments) -> None:
    exactly_once = arguments.mode == "exactly_once"
    job = Job(arguments.count)
    consumer = Consumer(
        {
            "bootstrap.servers": arguments.servers,
            "group.id": arguments.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    config: dict[str, Any] = {
        "bootstrap.servers": arguments.servers,
        "enable.idempotence": True,
        "retry.backoff.ms": 5,
        "delivery.report.only.error": True,
    }
    if exactly_once:
        config["transactional.id"] = arguments.group
    producer = Producer(config)
    if exactly_once:
        producer.init_transactions()
        producer.begin_transaction()
    consumer.subscribe([arguments.events])

    def commit() -> None:
        offsets = consumer.position(consumer.assignment())
        if exactly_once:
            producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
            producer.commit_transaction()
            producer.begin_transaction()
        else:
            producer.flush()
            consumer.commit(offsets=offsets, asynchronous=False)

    committed_at, uncommitted = time.monotonic(), False
    while not job.is_done:
        first = consumer.poll(0.005 if uncommitted else 0.5)
        if first is not None:
            uncommitted = True
            for message in (first, *consumer.consume(1000, 0)):
                if (error := message.error()) is not None:
                    raise KafkaException(error)
                prediction = job(orjson.loads(message.value() or b""))
                partition: Any = message.partition()
                producer.produce(arguments.predictions, orjson.dumps(prediction), message.key(), partition)
            producer.poll(0)
        if uncommitted and (first is None or time.monotonic() - committed_at > COMMIT_SECONDS):
            commit()
            committed_at, uncommitted = time.monotonic(), False
    if uncommitted:
        commit()
    job.report()


if __name__ == "__main__":
    main(Arguments.read())
