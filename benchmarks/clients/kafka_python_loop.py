"""kafka-python: a loop over the consumer, a send for each event, offsets committed by the client's own timer."""

from __future__ import annotations

import orjson
from kafka import KafkaConsumer, KafkaProducer  # type: ignore[import-untyped]  # ships no types

from benchmarks.clients.job import Arguments, Job


def main(arguments: Arguments) -> None:
    job = Job(arguments.count)
    consumer = KafkaConsumer(
        arguments.events,
        bootstrap_servers=arguments.servers,
        group_id=arguments.group,
        auto_offset_reset="earliest",
        value_deserializer=orjson.loads,
    )
    producer = KafkaProducer(bootstrap_servers=arguments.servers, value_serializer=orjson.dumps)
    for message in consumer:
        producer.send(arguments.predictions, key=message.key, value=job(message.value))
        if job.is_done:
            break
    producer.flush()
    job.report()
    consumer.close()
    producer.close()


if __name__ == "__main__":
    main(Arguments.read())
