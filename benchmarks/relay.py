"""How long the relay holds back readers of the events topic, how fast it is, and how fast history is merged.

    python -m benchmarks.relay

Three partitions of events and two of labels into one. `open` is the time from the first record of a transaction to the
answer of its commit.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from pathlib import Path

import orjson
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.topics import IN_ORDER, PATIENCE_SECONDS, QUIET
from stream.broker import Broker
from stream.kafka.relay import KafkaRelay
from stream.relay.relay import Relay
from stream.settings import Settings, load_settings
from stream.tools.merge import merge

SETTINGS = """
name = "{name}"
task = "binary"
[kafka]
bootstrap_servers = "{servers}"
[topics]
events = "{name}.log"
[event]
time = "at"
[labels]
topic = "labels"
[relay]
events = ["events"]
[learner]
use = "logistic-regression"
"""
BACKLOG = 200_000
RATE = 2_000
SECONDS = 20.0


def settings(folder: Path, servers: str, name: str) -> Settings:
    path = folder / f"{name}.toml"
    path.write_text(SETTINGS.format(name=name, servers=servers))
    create(servers, NewTopic(f"{name}.log", 1, 1))
    return load_settings(path, {})


def create(servers: str, *topics: NewTopic) -> None:
    admin = AdminClient(QUIET | {"bootstrap.servers": servers})
    for made in admin.create_topics(list(topics)).values():
        made.result(PATIENCE_SECONDS)


def produce(producer: Producer, number: int, at: float) -> None:
    """A question, and the label of the one 100 before."""
    features = {f"f{i}": (number * (i + 7) % 101) / 101 for i in range(10)}
    question = orjson.dumps({"id": number, "at": at, "features": features})
    producer.produce("events", question, b"%d" % number, number % 3, timestamp=int(at * 1_000))
    label = orjson.dumps({"id": number - 100, "at": at, "label": number % 2})
    producer.produce("labels", label, b"%d" % number, number % 2, timestamp=int(at * 1_000))


def backlog(servers: str) -> None:
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 20} | QUIET | IN_ORDER)
    begin = time.time() - BACKLOG / 1_000
    for number in range(BACKLOG // 2):
        produce(producer, number, begin + number / 1_000)
        if number % 1_000 == 0:
            producer.poll(0)
    producer.flush(PATIENCE_SECONDS)


def relay(settings: Settings, *, rate: float = 0.0) -> None:
    """All that is there, or with a rate what comes for some seconds."""
    stop = threading.Event()
    it = Relay(
        KafkaRelay(settings, f"{settings.name}.relay-bench-0"),
        settings,
        stop_at_end=not rate,
        should_stop=stop.is_set,
    )

    def feed() -> None:
        producer = Producer(
            {"bootstrap.servers": settings.kafka.bootstrap_servers, "linger.ms": 5} | QUIET | IN_ORDER
        )
        began = time.monotonic()
        for number in itertools.count(BACKLOG):
            ahead = began + (number - BACKLOG) * 2 / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            if time.monotonic() - began > SECONDS:
                break
            produce(producer, number, time.time())
            producer.poll(0)
        producer.flush(PATIENCE_SECONDS)
        time.sleep(1)
        stop.set()

    if rate:
        it_feeds = threading.Thread(target=feed)
        it_feeds.start()
    began, cpu = time.monotonic(), time.process_time()
    it.run()
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    figures = it.figures.to_dict()
    what = (
        f"at {rate:,.0f} a second"
        if rate
        else f"a backlog, {figures['relayed_records'] / seconds:,.0f} a second"
    )
    print(f"relay, {what}: {figures}")


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with Broker(folder / "broker", port=0, heap_mb=384) as broker:
            servers = broker.bootstrap_servers
            create(servers, NewTopic("events", 3, 1), NewTopic("labels", 2, 1))
            backlog(servers)
            cpu = time.process_time()
            merged = merge(settings(folder, servers, "merged"))
            cpu = (time.process_time() - cpu) / merged.records * 1e6
            rate = merged.records / merged.seconds
            print(f"merge: {merged.records:,} records, {rate:,.0f} a second, {cpu:.1f} us of CPU each")
            own = settings(folder, servers, "relayed")
            relay(own)
            relay(own, rate=RATE)
            relay(own, rate=50)


if __name__ == "__main__":
    main()
