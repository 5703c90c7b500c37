"""From produce to a `read_committed` reader, at a steady rate; producer, worker and reader are three processes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.children import run_child
from benchmarks.events import FEATURES, event
from benchmarks.topics import IN_ORDER

#: Seconds that a worker gets for its first prediction.
START_SECONDS = 90.0
PROBES = 5


def measure_latency(
    servers: str,
    events: str,
    predictions: str,
    is_alive: Callable[[], bool],
    *,
    rate: int,
    seconds: float,
    warm_up: float,
) -> dict[str, Any]:
    """Produce at a steady rate to a worker that runs; returns the reader's figures.

    Raises:
        TimeoutError: The worker did not predict anything.
    """
    rng = random.Random(11)
    weights = [rng.gauss(0.0, 1.0) for _ in range(FEATURES)]
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 0} | IN_ORDER)

    def produce() -> None:
        producer.produce(events, event(str(time.monotonic_ns()), rng, weights), b"k", 0)
        producer.poll(0)

    for _ in range(PROBES):
        produce()
    producer.flush(START_SECONDS)
    _wait_for_predictions(servers, predictions, is_alive)

    warm, count = PROBES + int(rate * warm_up), PROBES + int(rate * (warm_up + seconds))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(run_child, "benchmarks.reader", servers, predictions, count, warm)
        time.sleep(1.0)
        began = time.monotonic()
        for number in range(count - PROBES):
            ahead = began + number / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            produce()
        producer.flush(START_SECONDS)
        took = time.monotonic() - began
        figures = reading.result()
    return figures | {"rate": (count - PROBES) / took, "expected": count}


def _wait_for_predictions(servers: str, predictions: str, is_alive: Callable[[], bool]) -> None:
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "probe", "isolation.level": "read_committed"}
    )
    consumer.assign([TopicPartition(predictions, 0, 0)])
    deadline = time.monotonic() + START_SECONDS
    got = 0
    while got < PROBES:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            got += 1
        elif not is_alive():
            raise TimeoutError("it ended before its first prediction")
        elif time.monotonic() > deadline:
            raise TimeoutError(f"{got} of {PROBES} first predictions in {START_SECONDS:.0f} s")
    consumer.close()
