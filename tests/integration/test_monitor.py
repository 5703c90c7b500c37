"""`headrace monitor` beside real workers on a real broker: what it tells is what lies on the topics."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from stream.broker import Broker
from tests.integration.conftest import SecureBroker, Web
from tests.support import PATIENCE, ROOT, Incoming, KafkaCase, MonitorProcess, toml, wait_until

pytestmark = pytest.mark.integration

TOKEN = "5f0c7e2a9b4d8136e1f2a3b4c5d6e7f8"
METRICS: dict[str, Any] = {"use": ["accuracy"], "window": 100}


def drifting(count: int, *, flips_at: int, seed: int = 7) -> Iterator[Incoming]:
    """Labelled events whose concept is reversed at one of them."""
    rng = random.Random(seed)
    for number in range(count):
        x = {"a": rng.gauss(0, 1), "b": rng.gauss(0, 1)}
        label = (x["a"] > 0) != (number >= flips_at)
        yield Incoming(0, orjson.dumps({"id": str(number), "features": x, "label": label}))


def drift_case(broker: Broker, tmp_path: Path, name: str) -> KafkaCase:
    return KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        name,
        drift=[{"watch": "error", "detector": "adwin"}],
        metrics=METRICS,
    )


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "stream.cli", "monitor", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environ},
        timeout=PATIENCE,
    )


def positions(rows: list[dict[str, Any]]) -> list[str]:
    return [row["record"] for row in rows]


def test_a_drift_is_told_within_two_seconds_and_again_after_a_restart(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with drift_case(broker, tmp_path, topic_name) as case:
        worker = case.start()
        with MonitorProcess(case.settings_file) as monitor:
            monitor.wait_until_live(topic_name)
            events = list(drifting(2_000, flips_at=1_000))
            for sent in (1_000, 1_100, 2_000):
                case.send(events[case.predicted() : sent])
                case.wait_for_predictions(sent, worker)
                wait_until(
                    lambda: monitor.get("/api/pipelines")[0]["events"] == sent,  # noqa: B023
                    "a status of all that was sent has come",
                )
            drifts = [r.json for r in case.read("alerts")[0] if not r.is_incident]
            assert any(drift["kind"] == "drift" for drift in drifts)

            wait_until(
                lambda: len(monitor.get(f"/api/pipelines/{topic_name}/alerts")) == len(drifts),
                "each alert has come",
                seconds=2.0,
                pause=0.1,
            )
            rows = monitor.get(f"/api/pipelines/{topic_name}/alerts")
            assert [row["offset"] for row in reversed(rows)] == [drift["offset"] for drift in drifts]
            assert rows[0]["position"] == f"{case.settings.topics.events}[0]@{drifts[-1]['offset']}"
            wait_until(
                lambda: monitor.get(f"/api/pipelines/{topic_name}")["events"] == 2_000,
                "the last status has come",
            )
            before = monitor.get(f"/api/pipelines/{topic_name}")
            assert before["state"] == "ok"
            assert before["workers"] == 1
            status = case.statuses()[0]
            assert before["quality"]["value"] == status["metrics"]["accuracy"]["value"]
            assert monitor.end() == 0

        assert worker.is_running()
        with MonitorProcess(case.settings_file) as again:
            again.wait_until_live(topic_name)
            assert positions(again.get(f"/api/pipelines/{topic_name}/alerts")) == positions(rows)
            after = again.get(f"/api/pipelines/{topic_name}")
            assert after["events"] == before["events"]
            chart = again.get(f"/api/pipelines/{topic_name}/chart?column=accuracy%20window&seconds=600")
            known = [value for value in chart["columns"]["accuracy window"] if value is not None]
            assert min(known) < 0.9 * max(known)
            assert {mark["offset"] for mark in chart["marks"]} == {drift["offset"] for drift in drifts}
            assert again.end(signal.SIGINT) == 0


def test_garbage_on_its_topics_is_counted_and_stops_nothing(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    hostile = [
        None,
        b"",
        b"\x00\xff",
        b"[]",
        b'{"kind":"drift"}',
        b'{"pipeline":"another","kind":"incident"}',
        b'{"kind":"incident","pipeline":"<script>","partition":1' + b"0" * 30 + b"}",
        b"9" * 100_000,
    ]
    with drift_case(broker, tmp_path, topic_name) as case:
        client = case.producer()
        for kind in ("alerts", "status"):
            for value in hostile:
                client.send(case.topic(kind), key=b"k", value=value, partition=0).get(timeout=60)
        client.close()
        with MonitorProcess(case.settings_file) as monitor:
            monitor.wait_until_live(topic_name)

            found = monitor.get(f"/api/pipelines/{topic_name}")
            assert found["unreadable_records"] == 2 * len(hostile)
            assert found["state"] == "no-data"

            case.send(drifting(200, flips_at=1_000))
            worker = case.start()
            case.wait_for_predictions(200, worker)
            wait_until(lambda: monitor.get("/api/pipelines")[0]["state"] == "ok", "a status has come")


def test_dead_letters_are_shown_as_they_are(broker: Broker, tmp_path: Path, topic_name: str) -> None:
    with drift_case(broker, tmp_path, topic_name) as case, MonitorProcess(case.settings_file) as monitor:
        monitor.wait_until_live(topic_name)
        assert monitor.get(f"/api/pipelines/{topic_name}/dead-letters") == []
        case.send([Incoming(0, b"<img src=x onerror=alert(1)>", key=b"\xff"), Incoming(0, None, key=b"k")])
        case.run_to_end()

        def shown() -> Any:
            return monitor.get(f"/api/pipelines/{topic_name}/dead-letters?most=5")

        # Whoever asks again at once gets the answer of before.
        wait_until(shown, "they are shown", seconds=30)
        letters = shown()
        assert {letter["position"] for letter in letters} == {
            f"{case.settings.topics.events}[0]@{offset}" for offset in (0, 1)
        }
        assert {letter["value"] for letter in letters} == {"<img src=x onerror=alert(1)>", None}


def test_without_a_broker_it_says_so_and_goes_on_when_there_is_one(
    private_broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with drift_case(private_broker, tmp_path, topic_name) as case:
        private_broker.stop()
        with MonitorProcess(case.settings_file) as monitor:

            def feed() -> dict[str, Any]:
                found: dict[str, Any] = monitor.get("/api/pipelines")[0]["feed"]
                return found

            wait_until(lambda: feed()["problem"], "it says that no broker answers")
            assert feed()["state"] == "connecting"
            assert private_broker.bootstrap_servers in feed()["problem"]

            private_broker.start()
            monitor.wait_until_live(topic_name)
            assert feed()["problem"] is None

            private_broker.stop()
            wait_until(lambda: feed()["state"] == "away", "it sees that the broker is gone")
            private_broker.start()
            monitor.wait_until_live(topic_name)
            case.send(drifting(200, flips_at=1_000))
            case.run_to_end()
            wait_until(lambda: monitor.get("/api/pipelines")[0]["events"] == 200, "the last status has come")
            assert monitor.end() == 0


def test_a_broker_that_does_not_answer_any_more_is_told_of_and_does_not_hold_up_the_end(
    private_broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """As a firewall that drops everything, or a machine that stands still: no connection is cut."""
    with (
        drift_case(private_broker, tmp_path, topic_name) as case,
        MonitorProcess(case.settings_file) as monitor,
    ):
        monitor.wait_until_live(topic_name)
        os.kill(private_broker.pid, signal.SIGSTOP)
        try:
            wait_until(
                lambda: monitor.get("/api/pipelines")[0]["feed"]["state"] == "away", "it is seen", seconds=30
            )
            assert monitor.end() == 0
        finally:
            os.kill(private_broker.pid, signal.SIGCONT)


def test_a_client_that_never_ends_does_not_hold_up_the_end(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """As one that waits for a frozen broker now and then: it takes no notice of being cancelled."""
    with (
        drift_case(broker, tmp_path, topic_name) as case,
        MonitorProcess(case.settings_file, program="tests.integration.stuck") as monitor,
    ):
        wait_until(lambda: "waits for ever" in monitor.stderr, "its client is in that state")

        assert monitor.end() == 0
        assert "ended without waiting for a broker that does not answer" in monitor.stderr


@pytest.mark.parametrize(
    "way", [*(pytest.param(way, marks=pytest.mark.full) for way in ("tls", "mutual tls")), "SCRAM-SHA-512"]
)
def test_it_reads_through_tls_and_sasl(
    secure_broker: SecureBroker, way: str, tmp_path: Path, topic_name: str
) -> None:
    kafka = (
        secure_broker.tls()
        if way == "tls"
        else secure_broker.mutual_tls()
        if way == "mutual tls"
        else secure_broker.sasl(way)
    )
    connection = {
        key: getattr(value, "get_secret_value", lambda value=value: str(value))()
        for key, value in kafka
        if key in kafka.model_fields_set and value is not None and key != "librdkafka"
    }
    with KafkaCase(secure_broker.broker.bootstrap_servers, tmp_path, topic_name, metrics=METRICS) as case:
        case.send(drifting(50, flips_at=1_000))
        case.run_to_end()
        settings = tmp_path / "secure.toml"
        settings.write_text(
            toml(
                {
                    "name": topic_name,
                    "task": "binary",
                    "kafka": connection,
                    "topics": {"events": case.settings.topics.events},
                    "learner": {"use": "logistic-regression"},
                    "metrics": {"use": ["accuracy"]},
                }
            )
        )
        with MonitorProcess(settings) as monitor:
            monitor.wait_until_live(topic_name)

            assert monitor.get("/api/pipelines")[0]["events"] == 50


def test_a_token_guards_all_but_health(broker: Broker, tmp_path: Path, topic_name: str) -> None:
    with (
        drift_case(broker, tmp_path, topic_name) as case,
        MonitorProcess(case.settings_file, HEADRACE_MONITOR_TOKEN=TOKEN) as monitor,
    ):
        monitor.wait_until_live(topic_name)
        monitor.token = TOKEN[::-1]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            monitor.get("/api/pipelines")
        assert TOKEN not in monitor.stderr


def test_a_drift_that_could_not_be_told_before_a_crash_is_told_after_it(
    broker: Broker, tmp_path: Path, topic_name: str, web: Web
) -> None:
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        drift=[{"watch": "error", "detector": "adwin"}],
        notifications=[{"name": "web", "url": web.url(), "group_seconds": 0}],
        metrics=METRICS,
    ) as case:
        with MonitorProcess(case.settings_file) as first:
            first.wait_until_live(topic_name)  # the first run begins with what comes from now on
            web.answers = [500] * 1_000
            case.send(drifting(2_000, flips_at=1_000))
            case.run_to_end()
            drifts = [r.json for r in case.read("alerts")[0] if not r.is_incident]
            assert drifts
            wait_until(lambda: web.asked > 0, "the webhook was tried")
            first.process.kill()
        assert web.bodies == []
        web.answers = []

        with MonitorProcess(case.settings_file) as second:
            places = [f"[0]@{drift['offset']}:" for drift in drifts]

            def said() -> str:
                return "\n".join(body["message"] for body in web.bodies)

            wait_until(
                lambda: all(place in said() for place in places), f"the webhook has {places}: {said()}"
            )
            told = second.get(f"/api/pipelines/{topic_name}")["notifications"]
            assert [(channel["name"], channel["scheme"]) for channel in told] == [("web", "json")]
            assert "s3cret" not in second.stderr
            assert second.end() == 0
        count = len(web.bodies)

        with MonitorProcess(case.settings_file) as third:
            third.wait_until_live(topic_name)
            assert third.get(f"/api/pipelines/{topic_name}")["notifications"][0]["waiting"] == 0
            assert third.end() == 0
        assert len(web.bodies) == count


def test_topics_that_were_made_anew_are_read_from_their_beginning(
    broker: Broker, tmp_path: Path, topic_name: str, web: Web
) -> None:
    def garbage(count: int) -> None:
        client = case.producer()
        for kind in ("alerts", "status"):
            for _ in range(count):
                client.send(case.topic(kind), key=b"k", value=b"x", partition=0).get(timeout=60)
        client.close()

    notifications = [{"name": "web", "url": web.url(), "group_seconds": 0, "severity": "info"}]
    with (
        KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, notifications=notifications) as case,
        MonitorProcess(case.settings_file) as monitor,
    ):
        monitor.wait_until_live(topic_name)
        garbage(20)

        def unreadable() -> int:
            return int(monitor.get(f"/api/pipelines/{topic_name}")["unreadable_records"])

        wait_until(lambda: unreadable() == 40, "all has come")
        with case.admin() as admin:
            admin.delete_topics([case.topic("alerts"), case.topic("status")])
        wait_until(lambda: monitor.get("/api/pipelines")[0]["feed"]["state"] == "away", "it sees that")

        case.create_topics(but=["events", "predictions", "dead_letters"])
        garbage(3)
        alert = {
            "pipeline": topic_name,
            "kind": "incident",
            "incident": "made-anew",
            "partition": 0,
            "offset": 0,
            "state": "open",
            "severity": "warning",
            "text": "x",
            "worker": "w",
            "time": 0.0,
        }
        client = case.producer()
        client.send(case.topic("alerts"), key=b"k", value=orjson.dumps(alert), partition=0).get(timeout=60)
        client.close()

        wait_until(lambda: unreadable() == 46, "all of the new topics has come")
        wait_until(lambda: any("made-anew" in body["title"] for body in web.bodies), "people are told")


@pytest.mark.full
def test_what_was_written_while_the_machine_was_suspended_is_read(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Kafka takes its partitions away meanwhile, and Faust would go on from the ends of the topics."""
    with drift_case(broker, tmp_path, topic_name) as case, MonitorProcess(case.settings_file) as monitor:
        monitor.wait_until_live(topic_name)
        client = case.producer()
        monitor.process.send_signal(signal.SIGSTOP)
        for _ in range(45):  # longer than the session of its consumer group
            client.send(case.topic("alerts"), key=b"k", value=b"x", partition=0).get(timeout=60)
            time.sleep(1.0)
        monitor.process.send_signal(signal.SIGCONT)

        wait_until(
            lambda: monitor.get(f"/api/pipelines/{topic_name}")["unreadable_records"] == 45, "all has come"
        )
        wait_until(lambda: "gave the monitor its partitions again" in monitor.stderr, "it says why")
        client.close()


@pytest.mark.full
def test_a_worker_that_dies_is_told_of_once_and_closed_when_another_has_come(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with drift_case(broker, tmp_path, topic_name) as case:

        def gone() -> list[str]:
            return [i["state"] for i in case.incidents() if i["incident"] == "worker-gone"]

        worker = case.start()
        case.send(drifting(100, flips_at=1_000))
        case.wait_for_predictions(100, worker)
        with MonitorProcess(case.settings_file) as monitor:
            monitor.wait_until_live(topic_name)
            worker.kill()
            wait_until(lambda: monitor.get("/api/pipelines")[0]["state"] == "stale", "the status is old")
            wait_until(lambda: gone() == ["open"], "the watchdog barks", seconds=180)

            def barking() -> list[Any]:
                found: list[Any] = monitor.get(f"/api/pipelines/{topic_name}")["open_incidents"]
                return found

            wait_until(barking, "the monitor has it back from the topic")
            found = barking()
            assert [(i["incident"], i["severity"]) for i in found] == [("worker-gone", "critical")]
            assert "headrace run" in found[0]["text"]
            assert monitor.end() == 0

        with MonitorProcess(case.settings_file) as monitor:
            monitor.wait_until_live(topic_name)
            assert monitor.get("/api/pipelines")[0]["open"]["critical"] == 1
            case.start()
            wait_until(lambda: gone() == ["open", "closed"], "it is closed", seconds=240)
            wait_until(lambda: monitor.get("/api/pipelines")[0]["state"] == "ok", "all is well")


def test_it_refuses_to_be_open_to_others_without_a_token(tmp_path: Path) -> None:
    settings = tmp_path / "p.toml"
    settings.write_text(
        toml(
            {
                "name": "p",
                "task": "binary",
                "topics": {"events": "e"},
                "learner": {"use": "logistic-regression"},
            }
        )
    )

    ended = command(str(settings), "--host", "0.0.0.0")
    assert ended.returncode == 2
    assert "HEADRACE_MONITOR_TOKEN" in ended.stderr

    ended = command(str(settings), HEADRACE_MONITOR_TOKEN="secret")
    assert ended.returncode == 2
    assert "128 random bits" in ended.stderr
    assert "secret" not in ended.stderr.replace("--token", "")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = command(str(settings), "--port", str(taken.getsockname()[1]))
    assert ended.returncode == 3
    assert "--port" in ended.stderr

    ended = command(str(settings), str(settings))
    assert ended.returncode == 2
    assert "given twice" in ended.stderr
