"""The commands as their users run them: processes, their output, their exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]  # kafka-python ships no types
from river import datasets

from stream.broker import Broker
from tests.conftest import create_topic
from tests.integration.conftest import SecureBroker

pytestmark = pytest.mark.integration


class Shell:
    """Runs `headrace` in a folder, against a broker."""

    def __init__(self, folder: Path, servers: str) -> None:
        self.folder = folder
        self.environ = {**os.environ, "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": servers}

    def __call__(self, *words: str, stdin: str = "", code: int = 0) -> str:
        """Standard output, or standard error if it is to fail; never a traceback."""
        ended = subprocess.run(
            [sys.executable, "-m", "stream.cli", *words],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=self.environ,
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        return ended.stdout if code == 0 or not ended.stderr else ended.stderr

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code))


def watching(shell: Shell, *words: str) -> subprocess.Popen[str]:
    """`headrace watch` as a process that runs."""
    return subprocess.Popen(
        [sys.executable, "-m", "stream.cli", "watch", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=shell.folder,
        env={**shell.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.fixture
def shell(broker: Broker, tmp_path: Path) -> Shell:
    return Shell(tmp_path, broker.bootstrap_servers)


def settings_file(folder: Path, name: str, **topics: str) -> str:
    lines = [f'{key} = "{value}"' for key, value in ({"events": name} | topics).items()]
    (folder / "p.toml").write_text(
        f'name = "{name}"\ntask = "binary"\n[topics]\n'
        + "\n".join(lines)
        + '\n[learner]\nuse = "logistic-regression"\n'
    )
    return "p.toml"


def records_of(broker: Broker, topic: str, partition: int) -> list[Any]:
    where = TopicPartition(topic, partition)
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
    try:
        consumer.assign([where])
        end = consumer.end_offsets([where])[where]
        found: list[Any] = []
        while len(found) < end:
            found += consumer.poll(timeout_ms=1_000).get(where, [])
        return found
    finally:
        consumer.close()


def test_from_the_first_settings_to_predictions_on_the_terminal(
    shell: Shell, broker: Broker, topic_name: str
) -> None:
    name = topic_name
    rows = list(datasets.Phishing())
    columns = list(rows[0][0])
    text = "\n".join(
        [",".join([*columns, "is_phishing"])]
        + [",".join(str(value) for value in [*x.values(), int(y)]) for x, y in rows[:400]]
    )
    (shell.folder / "rows.csv").write_text(text + "\n")

    shell("init", name)
    settings = f"{name}.toml"

    made = shell.json("topics", "create", settings, "--partitions", "2")
    refusal = shell("topics", "create", settings, "--partitions", "3", code=3)
    assert len(made["created"]) == 5
    assert "has 2 partitions, not 3" in refusal

    after = shell.json("check", settings)
    assert {item["state"] for item in after["items"]} == {"ok"}
    assert any(item["text"].startswith("2 partitions are 2 learners") for item in after["items"])

    assert "Sent 400 events" in shell("send", settings, "rows.csv")
    lines = "".join(json.dumps({"id": f"e{i}", **x}) + "\n" for i, (x, _) in enumerate(rows[400:500]))
    assert "Sent 100 events" in shell("send", settings, stdin=lines)
    answers = "".join(json.dumps({"id": f"e{i}", "is_phishing": i % 2}) + "\n" for i in range(50))
    (shell.folder / "answers.jsonl").write_text(answers)
    assert shell.json("send", settings, "answers.jsonl")["events"] == 50
    shell("send", settings, "--raw", "--partition", "1", stdin="garbage \x1b[2J\n")

    sent = [*records_of(broker, name, 0), *records_of(broker, name, 1)]
    assert len(sent) == 551
    assert {record.key for record in sent} == {None, *(f"e{i}".encode() for i in range(100))}
    assert answers.splitlines()[7].encode() in {record.value for record in sent}

    with watching(shell, settings, "--from-beginning") as process:
        shell("run", settings, "--stop-at-end")
        assert process.stdout is not None
        seen = [process.stdout.readline() for _ in range(501)]
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=60)
    assert (rest, complaints, process.returncode) == ("", "", 0)
    shown = rf"{re.escape(name)}\[\d\]@\d+  e7:  (true|false) \(0\.\d+\)  learned \d+\n"
    assert sum(re.fullmatch(shown, line) is not None for line in seen) == 1
    assert "\x1b[2J" not in "".join(seen)
    assert sum("DEAD LETTER" in line for line in seen) == 1

    outputs = shell("watch", settings, "--from-beginning", "--json", "--limit", "501").splitlines()
    bodies = [json.loads(line) for line in outputs]
    predicted = {(b["partition"], b["offset"]) for b in bodies if b["output"] == "prediction"}
    (letter,) = (body for body in bodies if body["output"] == "dead_letter")
    assert len(predicted) == 500
    assert letter["position"].startswith(f"{name}[1]@")
    assert letter["stage"] == "decode"

    status = shell.json("status", settings)
    assert [view["lag_records"] for view in status["partitions"]] == [0, 0]
    assert status["totals"]["predictions"] == 500
    assert status["totals"]["learned"] == 450
    assert status["totals"]["pending"] == 50
    assert status["totals"]["dead_letters"] == 1
    assert status["totals"]["metrics"]["accuracy"]["value"] > 0.5
    assert status["totals"]["metrics"]["roc_auc"]["value"] is None
    assert status["warnings"] == [f"No worker runs now; start one: headrace run {settings}"]

    again = shell.json("check", settings)
    assert again["ok"]
    assert "for 2 of 2 partitions" in again["items"][-1]["text"]


def test_who_only_looks_needs_no_module_of_the_users_own(
    shell: Shell, broker: Broker, topic_name: str
) -> None:
    settings = settings_file(shell.folder, topic_name)
    file = shell.folder / settings
    file.write_text(file.read_text().replace('use = "logistic-regression"', 'build = "is_not_here:build"'))

    assert len(shell.json("topics", "create", settings)["created"]) == 5
    shell("send", settings, stdin='{"a": 1}\n')
    assert shell.json("status", settings)["totals"]["lag_records"] == 1
    shell("dead-letters", "list", settings)
    assert "[learner] build" in shell("check", settings, code=2)
    assert "[learner] build" in shell("run", settings, code=2)


def test_garbage_in_a_file_is_refused_with_its_line_before_anything_is_sent(
    shell: Shell, broker: Broker, topic_name: str
) -> None:
    settings = settings_file(shell.folder, topic_name)
    create_topic(broker, topic_name)
    (shell.folder / "rows.jsonl").write_text('{"id": 1}\n\ngarbage\n')

    refusal = shell("send", settings, "rows.jsonl", code=2)

    assert "rows.jsonl:3: this is not JSON" in refusal
    assert "Nothing was sent." in refusal
    assert records_of(broker, topic_name, 0) == []


def test_a_record_that_the_topic_does_not_take_is_named_with_its_line(
    shell: Shell, broker: Broker, topic_name: str
) -> None:
    settings = settings_file(shell.folder, topic_name)
    create_topic(broker, topic_name, 1, **{"max.message.bytes": "2000"})

    refusal = shell("send", settings, stdin='{"id": 1}\n{"id": "' + "x" * 5_000 + '"}\n', code=3)

    assert "<stdin>:2:" in refusal
    assert "max.message.bytes" in refusal


def test_wrong_topics_are_told_and_configure_mends_what_can_be_mended(
    shell: Shell, broker: Broker, topic_name: str
) -> None:
    name = topic_name
    settings = settings_file(shell.folder, name)
    create_topic(broker, name, partitions=2)
    create_topic(broker, f"{name}.dead-letters", partitions=2)
    create_topic(broker, f"{name}.alerts", partitions=2, **{"message.timestamp.type": "LogAppendTime"})

    refusal = shell("topics", "create", settings, code=3)
    made = shell.json("topics", "create", settings, "--configure")
    checked = shell.json("check", settings)

    assert "max.message.bytes=100000000" in refusal
    assert "Nothing was made." in refusal
    assert made["created"] == [f"{name}.predictions", f"{name}.status"]
    assert made["configured"] == {
        f"{name}.alerts": {"message.timestamp.type": "CreateTime"},
        f"{name}.dead-letters": {"max.message.bytes": "100000000"},
    }
    assert checked["ok"]


def test_a_broker_that_is_away_is_a_sentence(tmp_path: Path) -> None:
    shell = Shell(tmp_path, "127.0.0.1:1")

    said = shell("status", settings_file(tmp_path, "p"), code=3)

    assert said.startswith("headrace: no broker answered at 127.0.0.1:1 within 10 s while connecting.")
    assert len(said.splitlines()) == 1


def test_a_wrong_password_fails_the_check_with_each_client_and_is_never_shown(
    secure_broker: SecureBroker, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, secure_broker.broker.address("SASL"))
    kafka = {
        "SECURITY_PROTOCOL": "SASL_SSL",
        "CA_FILE": str(secure_broker.ca_file),
        "SASL_MECHANISM": "PLAIN",
        "SASL_USERNAME": secure_broker.user,
        "SASL_PASSWORD": "not-the-password",
    }
    shell.environ |= {f"HEADRACE_KAFKA__{key}": value for key, value in kafka.items()}

    said = shell("check", settings_file(tmp_path, "p"), code=3)

    failed = [line for line in said.splitlines() if line.startswith("failed")]
    assert [line.split()[3].rstrip(":") for line in failed] == ["confluent-kafka", "kafka-python", "aiokafka"]
    assert "not-the-password" not in said
