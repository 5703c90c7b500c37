"""A `read_committed` reader of predictions in a process of its own, which says how long each was on its way.

    python -m benchmarks.reader SERVERS TOPIC COUNT SKIP

An event's id is the monotonic clock when it was produced, in nanoseconds, so the prediction itself says when that was.
The first SKIP predictions are warm-up. Ends after COUNT predictions, or 20 s after the last one.
"""

from __future__ import annotations

import math
import sys
import time

import orjson
from confluent_kafka import Consumer, TopicPartition

GIVE_UP_SECONDS = 20.0


def main(servers: str, topic: str, count: int, skip: int) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"reader-of-{topic}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    latencies: list[int] = []
    seen: set[str] = set()
    last = time.monotonic()
    while len(latencies) < count and time.monotonic() - last < GIVE_UP_SECONDS:
        message = consumer.poll(0.5)
        if message is None or message.error() is not None:
            continue
        now = time.monotonic_ns()
        last = now / 1e9
        event_id = orjson.loads(message.value() or b"")["id"]
        seen.add(event_id)
        latencies.append(now - int(event_id))
    consumer.close()
    measured = sorted(latency / 1e6 for latency in latencies[skip:])
    figures = {
        "predictions": len(latencies),
        "distinct": len(seen),
        "p50_ms": quantile(measured, 0.50),
        "p99_ms": quantile(measured, 0.99),
        "max_ms": quantile(measured, 1.0),
    }
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


def quantile(ordered: list[float], share: float) -> float:
    """The value below which this share of the ordered values lies; NaN of none.

    Example:
        >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5), quantile([1.0, 2.0], 1.0)
        (2.0, 2.0)
    """
    if not ordered:
        return float("nan")
    return ordered[max(0, min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1))]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
