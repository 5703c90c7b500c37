"""How labels come, as people are told of it: by a real worker on the alerts topic, and by the monitor's API."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer

from monitors import labels_that_came
from stream.broker import Broker
from tests.helpers import free_port
from tests.support import KafkaCase, MonitorProcess, wait_until

pytestmark = pytest.mark.integration

COUNT = 240


def test_answers_of_another_partitioner_are_told_of_with_the_cause(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Questions by librdkafka as it is, answers by kafka-python: half of these come to another partition."""
    port = free_port()
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=2,
        event={"time": "at"},
        labels={"capacity": 20, "early_seconds": 1.0},
        worker={"session_timeout_ms": 60_000},  # or a stall would let it begin, and tell of all, again
        health={"port": port},
    ) as case:
        began = time.time() - 10 * COUNT
        asking = Producer({"bootstrap.servers": broker.bootstrap_servers})
        answering = case.producer()
        for first in range(0, COUNT, 20):
            for i in range(first, first + 20):
                question = orjson.dumps({"id": i, "at": began + 10 * i, "features": {"a": i % 7}})
                asking.produce(case.topic("events"), key=b"key-%d" % i, value=question)
            assert asking.flush(30) == 0
            for i in range(first, first + 20):
                answer = orjson.dumps({"id": i, "at": began + 10 * (first + 20), "label": i % 2 == 0})
                answering.send(case.topic("events"), key=b"key-%d" % i, value=answer)
            answering.flush()
        answering.close()
        worker = case.start()
        with MonitorProcess(case.settings_file) as monitor:
            monitor.wait_until_live(topic_name)

            def state() -> Any:
                return monitor.get(f"/api/pipelines/{topic_name}")

            wait_until(
                lambda: (
                    {row["incident"] for row in state()["open_incidents"]}
                    == {"pending-full", "labels-unmatched"}
                ),
                "both are open",
            )
            wait_until(lambda: state()["events"] == 2 * COUNT, "the last status has come")
            found = state()
            texts = {row["incident"]: row["text"] for row in found["open_incidents"]}
            assert "different partitioners or keys" in texts["labels-unmatched"]
            assert "than [labels] capacity, 20, allows" in texts["pending-full"]
            labels = found["labels"]
            assert labels["questions"] == labels_that_came(labels) == COUNT
            assert labels["joined"] + labels["expired"] + labels["pending"] == COUNT
            assert labels["expired"] == labels["expired_early"] > 0
            assert labels["unmatched"] > COUNT / 4
            assert labels["shares"]["unmatched"] == labels["unmatched"] / COUNT
            assert sum(labels["delay_histogram"]["counts"]) == labels["joined"]

            def exposed() -> str:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                    text: str = answer.read().decode()
                    return text

            series = f'{{incident="labels-unmatched",partition="0",pipeline="{topic_name}"}} 1.0'
            wait_until(lambda: series in exposed(), "the worker's readings have it too")
            assert monitor.end() == 0

        assert worker.stop() == 0, worker.stderr
        told = [(item["partition"], item["incident"], item["state"]) for item in case.incidents()]
        assert len(told) == len(set(told))  # once each
        states = [state for _, _, state in told]
        assert states.count("open") == states.count("closed") == len(told) / 2
