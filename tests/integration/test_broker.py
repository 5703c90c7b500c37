"""The broker of `headrace broker`, as its users meet it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types come in a package of their own
import pytest
from kafka import KafkaConsumer, KafkaProducer  # type: ignore[import-untyped]

from stream.broker import Broker
from stream.errors import EnvironmentRefused
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


def test_restart_ends_a_frozen_broker_cleanly_and_keeps_port_and_records(
    private_broker: Broker, topic_name: str
) -> None:
    create_topic(private_broker, topic_name)
    produce(private_broker, topic_name, b"one")
    address, pid = private_broker.bootstrap_servers, private_broker.pid

    os.kill(pid, signal.SIGSTOP)
    private_broker.restart()
    produce(private_broker, topic_name, b"two")
    private_broker.kill()
    private_broker.start()

    assert private_broker.bootstrap_servers == address
    assert private_broker.pid != pid
    assert not psutil.pid_exists(pid)
    assert private_broker.log_file.read_text().count("[BrokerServer id=1] shut down") == 1, "once cleanly"
    assert read(private_broker, topic_name, 2) == [b"one", b"two"]


def test_nobody_but_this_machine_can_connect(broker: Broker) -> None:
    listening = [c for c in psutil.Process(broker.pid).net_connections() if c.status == psutil.CONN_LISTEN]

    assert broker.port in {c.laddr.port for c in listening}
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}


def test_data_directory_of_a_running_broker_is_refused(broker: Broker) -> None:
    with pytest.raises(EnvironmentRefused, match=r"is in use by a running broker \(started by process \d+\)"):
        Broker(broker.data_dir, port=0).start()

    assert broker.is_running


def test_port_in_use_is_refused_by_name(broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentRefused, match=rf"^Port {broker.port} on 127\.0\.0\.1 .* with --port "):
        Broker(tmp_path / "data", port=broker.port).start()


def test_broker_that_ends_while_it_starts_says_why_and_where_its_log_is(
    kafka_installed: None, tmp_path: Path
) -> None:
    broker = Broker(tmp_path / "data", port=0, properties={"authorizer.class.name": "no.such.Class"})

    with pytest.raises(EnvironmentRefused) as refusal:
        broker.start()

    assert "no.such.Class" in str(refusal.value)
    assert str(tmp_path / "data" / "broker.log") in str(refusal.value)
    assert not broker.is_running


RUN = "import sys; from pathlib import Path; from stream.broker import run_broker; "
RUN += "sys.exit(run_broker(Path(sys.argv[1]), port=0, heap_mb=256))"


def run_broker(data_dir: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    """`headrace broker` in a process of its own, ready; and its java."""
    command = [sys.executable, "-c", RUN, str(data_dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("broker: ready at 127.0.0.1:"), line
    assert line.endswith(f"(data in {data_dir}, log in {data_dir}/broker.log). Ctrl-C ends it.\n"), line
    (java,) = (child for child in psutil.Process(process.pid).children() if child.name() == "java")
    return process, java


def test_ctrl_c_ends_the_command_cleanly(kafka_installed: None, tmp_path: Path) -> None:
    process, java = run_broker(tmp_path / "data")

    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    assert not java.is_running()


def test_command_fails_with_a_sentence_when_java_dies(kafka_installed: None, tmp_path: Path) -> None:
    process, java = run_broker(tmp_path / "data")

    java.kill()
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert errors.startswith(
        f"broker: ended by itself, not by Ctrl-C; its log is {tmp_path}/data/broker.log, and ends:\n"
    )


def test_java_does_not_outlive_a_killed_command_and_its_data_can_be_used_again(
    kafka_installed: None, tmp_path: Path
) -> None:
    process, java = run_broker(tmp_path / "data")

    process.kill()
    process.communicate()
    process, _ = run_broker(tmp_path / "data")  # waits until the old one is gone

    assert not java.is_running() or java.status() == psutil.STATUS_ZOMBIE

    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0
