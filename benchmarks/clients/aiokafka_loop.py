"""aiokafka: getmany, one batch of predictions for each partition, commit."""

from __future__ import annotations

import asyncio

import orjson
from aiokafka import (  # type: ignore[import-untyped]  # ships no types
    AIOKafkaConsumer,
    AIOKafkaProducer,
    TopicPartition,
)

from benchmarks.clients.job import Arguments, Job


async def main(arguments: Arguments) -> None:
    job = Job(arguments.count)
    consumer = AIOKafkaConsumer(
        arguments.events,
        bootstrap_servers=arguments.servers,
        group_id=arguments.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    producer = AIOKafkaProducer(bootstrap_servers=arguments.servers, enable_idempotence=True)
    await consumer.start()
    await producer.start()
    while not job.is_done:
        polled = await consumer.getmany(timeout_ms=500, max_records=1000)
        written = []
        for topic_partition, messages in polled.items():
            batch = producer.create_batch()
            for message in messages:
                value = orjson.dumps(job(orjson.loads(message.value)))
                if batch.append(key=message.key, value=value, timestamp=None) is None:  # it is full
                    written.append(
                        await producer.send_batch(
                            batch, arguments.predictions, partition=topic_partition.partition
                        )
                    )
                    batch = producer.create_batch()
                    batch.append(key=message.key, value=value, timestamp=None)
            written.append(
                await producer.send_batch(batch, arguments.predictions, partition=topic_partition.partition)
            )
        if polled:
            await asyncio.gather(*written)
            await consumer.commit(
                {
                    TopicPartition(where.topic, where.partition): messages[-1].offset + 1
                    for where, messages in polled.items()
                }
            )
    job.report()
    await producer.stop()
    await consumer.stop()


if __name__ == "__main__":
    asyncio.run(main(Arguments.read()))
