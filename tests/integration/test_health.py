"""`/healthz` and `/readyz` of a real worker, as its broker comes and goes."""

from __future__ import annotations

import json
import os
import signal
import socket
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from stream.broker import Broker
from tests.helpers import free_port
from tests.support import PATIENCE, KafkaCase, labelled, wait_until

pytestmark = pytest.mark.integration


def ask(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """Status and body; 0 as long as nobody listens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except ConnectionError:
        return 0, {}
    finally:
        connection.close()


#: A learner of one's own that is there once a file is: until then no partition is restored. The first one that a
#: process builds is only looked at, with the settings.
PATIENT = """
import itertools
import time
from pathlib import Path

from river import linear_model

built = itertools.count()

def build():
    is_for_a_partition = next(built) > 0
    while is_for_a_partition and not Path(__file__).with_name("go-on").exists():
        time.sleep(0.01)
    return linear_model.LogisticRegression()
"""


def test_a_worker_is_ready_when_it_is_restored_and_not_while_its_broker_is_frozen(
    private_broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    port = free_port()
    (tmp_path / "patient.py").write_text(PATIENT)
    with KafkaCase(
        private_broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=2,
        learner={"build": "patient:build"},
        health={"port": port},
        worker={"session_timeout_ms": 2_000},
    ) as case:
        case.send(labelled(number, number % 2) for number in range(100))
        worker = case.start()
        wait_until(lambda: ask(port, "/readyz")[0] == 503, "it listens before it is ready")
        (tmp_path / "go-on").touch()
        wait_until(lambda: ask(port, "/readyz")[0] == 200, "it is ready")
        case.wait_for_predictions(100, worker)
        wait_until(
            lambda: [item["committed"] for item in ask(port, "/readyz")[1]["partitions"]] == [50, 50],
            "both partitions are committed",
        )

        os.kill(private_broker.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: ask(port, "/readyz")[0] == 503, "it is not ready without a broker")
            assert ask(port, "/readyz")[1]["reasons"]
            assert ask(port, "/healthz")[0] == 200
        finally:
            os.kill(private_broker.pid, signal.SIGCONT)
        wait_until(lambda: ask(port, "/readyz")[0] == 200, "it is ready again")

        assert worker.stop() == 0, worker.stderr
        assert ask(port, "/healthz")[0] == 0


def test_workers_on_one_machine_answer_at_ports_of_their_own_and_refuse_one_that_is_taken(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    port = free_port(2)
    with KafkaCase(
        broker.bootstrap_servers, tmp_path, topic_name, partitions=2, health={"port": port}
    ) as case:
        parent = case.start("--workers", "2")
        wait_until(
            lambda: [ask(port + slot, "/readyz")[0] for slot in (0, 1)] == [200, 200], "both are ready"
        )
        workers = [ask(port + slot, "/readyz")[1]["worker"] for slot in (0, 1)]
        assert workers == [f"{case.name}-test-{slot}" for slot in (0, 1)]
        assert parent.stop() == 0, parent.stderr

        with socket.create_server(("127.0.0.1", port)):
            refused = case.start()
            assert refused.wait() == 3
            assert refused.said.startswith(
                f"headrace: the health endpoint can't listen at 127.0.0.1:{port} (Address already in use)"
            )
