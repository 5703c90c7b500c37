"""`/metrics` of real workers, asked by hand and by a real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from monitors.telemetry import Family, MonitorTelemetry
from stream.broker import Broker
from tests.helpers import free_port
from tests.support import PATIENCE, ROOT, Incoming, KafkaCase, labelled, wait_until
from tests.unit.monitors.test_telemetry import MONITOR, PIPELINE
from tests.unit.test_dashboards import DASHBOARDS, as_prometheus_takes_it, panels

pytestmark = pytest.mark.integration


def get(port: int, path: str) -> bytes:
    """The body; nothing as long as nobody listens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status in (200, 503), body
        return body
    except ConnectionError:
        return b""
    finally:
        connection.close()


def scrape(port: int) -> dict[str, list[tuple[Mapping[str, str], float]]]:
    """Every series by its name."""
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(get(port, "/metrics").decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(port: int, name: str, **labels: str) -> float:
    """The sum of the series of this name with these labels."""
    return sum(value for given, value in scrape(port).get(name, ()) if labels.items() <= given.items())


def partitions(port: int) -> list[str]:
    """The partitions that a worker tells of."""
    series = scrape(port)
    return sorted(
        {labels["partition"] for found in series.values() for labels, _ in found if "partition" in labels}
    )


#: What the monitor wants to be told.
TOKEN = "of-this-test-alone"


@contextmanager
def prometheus(folder: Path, port: int, target: int, monitor: int = 0) -> Iterator[None]:
    """A Prometheus as it is deployed, but that it asks a worker (and a monitor) here, and every second."""
    settings = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    token = folder / "monitor-token"
    token.write_text(TOKEN + "\n")
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(ROOT / "deploy" / name) for name in settings["rule_files"]]
    workers, control, _ = settings["scrape_configs"]
    workers["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
    control["static_configs"] = [{"targets": [f"127.0.0.1:{monitor}"] if monitor else []}]
    control["authorization"]["credentials_file"] = str(token)
    settings["scrape_configs"] = [workers, control]
    config = folder / "prometheus.yml"
    config.write_text(json.dumps(settings))
    said = folder / "prometheus.stderr"
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=stderr,
            stderr=stderr,
            cwd=folder,
        )
    try:
        wait_until(
            lambda: process.poll() is not None or get(port, "/-/ready").startswith(b"Prometheus"),
            "Prometheus is ready",
        )
        assert process.poll() is None, said.read_text()
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def asked(port: int, path: str) -> Any:
    """What Prometheus answers at its API."""
    answer = orjson.loads(get(port, f"/api/v1/{path}"))
    assert answer["status"] == "success"
    return answer["data"]


def query(port: int, text: str) -> list[float]:
    """The values of an instant query."""
    return [float(item["value"][1]) for item in asked(port, f"query?query={quote(text)}")["result"]]


def test_what_is_scraped_is_what_was_sent_whatever_it_is_called(
    broker: Broker, tmp_path: Path, topic_name: str, prometheus_installed: None
) -> None:
    port = free_port()
    hostile = 'a"b\\c\n# TYPE headrace_fake counter\nheadrace_fake{x="'
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=2,
        task="multiclass",
        learner={"use": "naive-bayes"},
        drift=[{"watch": f"feature:{hostile}", "detector": "adwin"}, {"watch": "error", "detector": "ddm"}],
        health={"port": port},
    ) as case:
        events = [
            orjson.dumps(
                {"id": f"{hostile}{i}", "features": {hostile: i, "b": hostile}, "label": f"{hostile}{i % 2}"}
            )
            for i in range(60)
        ]
        events += [orjson.dumps({"id": hostile, "features": {hostile: 1}}), orjson.dumps({hostile: hostile})]
        events += [orjson.dumps({"id": hostile, "label": hostile}), hostile.encode()]
        case.send(
            Incoming(i % 2 if i < 60 else 0, value, key=hostile.encode()) for i, value in enumerate(events)
        )
        worker = case.start()
        wait_until(lambda: total(port, "headrace_committed_offset") == 64, "all is committed")
        wait_until(lambda: "headrace_lag_records" in scrape(port), "there is a status")

        assert total(port, "headrace_learned_total") == 61
        assert total(port, "headrace_events_total", partition="0") == 32
        assert total(port, "headrace_events_total", partition="1") == 30
        assert total(port, "headrace_predictions_total") == 61
        # A learner that has seen no label has no prediction to be scored.
        assert total(port, "headrace_scored_total") == 61 - 2
        assert total(port, "headrace_dead_letters_total", stage="decode") == 2
        assert total(port, "headrace_dead_letters_total") == 2
        assert total(port, "headrace_processed_records_total") == 64
        delays = [total(port, "headrace_label_delay_seconds_count", partition=number) for number in "01"]
        assert sorted(delays) == [0, 1]
        assert total(port, "headrace_commit_records_sum") == 64
        assert total(port, "headrace_event_to_prediction_seconds_count") > 0
        assert total(port, "headrace_learner_call_seconds_count", call="predict") > 0
        assert total(port, "process_resident_memory_bytes") > 1e7
        series = scrape(port)
        assert "headrace_fake" not in series
        assert {labels["watch"] for labels, _ in series["headrace_drift_state"]} == {
            f"feature:{hostile}",
            "error",
        }
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=get(port, "/metrics"), capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
        assert worker.stop() == 0, worker.stderr


def test_a_partition_that_goes_to_another_worker_goes_with_its_series(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    port = free_port(2)
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=2,
        worker={"session_timeout_ms": 60_000},  # or partitions would move after a stall, too
        health={"port": port},
    ) as case:
        case.send(labelled(number, number % 2) for number in range(100))
        first = case.start()
        wait_until(lambda: total(port, "headrace_events_total") == 100, "all was processed")
        assert partitions(port) == ["0", "1"]

        second = case.start()
        wait_until(lambda: len(partitions(port)) == 1, "one partition has left")
        wait_until(lambda: total(port + 1, "headrace_partition_live") == 1, "the other worker has it")
        assert sorted([*partitions(port), *partitions(port + 1)]) == ["0", "1"]

        case.send(labelled(number, number % 2) for number in range(100, 140))
        wait_until(
            lambda: (
                total(port, "headrace_events_total") + total(port + 1, "headrace_events_total")
                == 50 + 20 + 20
            ),
            "each counts what it committed itself",
        )
        assert [total(slot, "headrace_model_labels") for slot in (port, port + 1)] != [0, 0]
        assert (second.stop(), first.stop()) == (0, 0)


def test_prometheus_scrapes_a_worker_and_answers(
    broker: Broker, tmp_path: Path, topic_name: str, prometheus_installed: None
) -> None:
    port, own = free_port(), free_port()
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        drift=[{"watch": "error", "detector": "adwin"}],
        health={"port": port},
    ) as case:
        case.send(labelled(number) for number in range(200))
        worker = case.start()
        wait_until(lambda: total(port, "headrace_events_total") == 200, "all was processed")
        with prometheus(tmp_path, own, port):
            text = f'sum(headrace_events_total{{pipeline="{case.name}"}})'
            wait_until(lambda: query(own, text) == [200.0], "Prometheus has asked")
            wait_until(
                lambda: query(own, 'headrace_metric_value{metric="accuracy",over="all"}') != [],
                "and after a status",
            )
            case.send(labelled(number) for number in range(200, 250))
            wait_until(lambda: query(own, text) == [250.0], "Prometheus has asked again")

            def is_well() -> bool:
                """A scrape that took more than its second was lost; the next one tells that all is well."""
                (target,) = asked(own, "targets")["activeTargets"]
                no_alert = asked(own, "alerts")["alerts"] == []
                return no_alert and (target["health"], target["lastError"]) == ("up", "")

            wait_until(is_well, "the worker is up, and nothing alerts")
            wait_until(
                lambda: (
                    {rule["health"] for group in asked(own, "rules")["groups"] for rule in group["rules"]}
                    == {"ok"}
                ),
                "all rules were evaluated",
            )
            metadata = asked(own, "metadata")
            assert metadata["headrace_lag_records"][0]["type"] == "gauge"
        assert worker.stop() == 0, worker.stderr


@contextmanager
def monitor_endpoint(telemetry: MonitorTelemetry) -> Iterator[int]:
    """The port of a `/metrics` that wants the token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            kind, body = telemetry.exposition(self.headers.get("Accept", ""))
            self.send_response(200 if is_known and self.path == "/metrics" else 401)
            self.send_header("Content-Type", kind)
            self.end_headers()
            if is_known:
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def silent_panels(own: int) -> Iterator[tuple[str, str]]:
    """Dashboard and query of what is not drawn; all else has the labels that the panel names."""
    for name, dashboard in DASHBOARDS.items():
        for annotation in dashboard["annotations"]["list"]:
            asked(own, f"query?query={quote(as_prometheus_takes_it(annotation['expr']))}")
        for panel in panels(dashboard):
            for target in panel["targets"]:
                text = as_prometheus_takes_it(target["expr"])
                found = asked(own, f"query?query={quote(text)}")["result"]
                if not found:
                    yield name, target["expr"]
                # What the legend or the table names must be there, or nobody can tell the series apart.
                named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                for step in panel["transformations"]:
                    named |= set(step["options"].get("include", {}).get("names", ()))
                for item in found:
                    assert named <= set(item["metric"]), (name, panel["title"])


def test_every_panel_of_every_dashboard_is_drawn_from_a_live_worker(
    broker: Broker, tmp_path: Path, topic_name: str, prometheus_installed: None
) -> None:
    port, own = free_port(), free_port()
    telemetry = MonitorTelemetry(version="test")
    telemetry.update(
        replace(
            MONITOR,
            began_at=time.time(),
            pipelines=[replace(PIPELINE, pipeline=topic_name, status_arrived_at=time.time())],
        )
    )
    with (
        monitor_endpoint(telemetry) as monitor,
        KafkaCase(
            broker.bootstrap_servers,
            tmp_path,
            topic_name,
            drift=[{"watch": "error", "detector": "ddm"}],
            snapshots={"interval_events": 50},
            health={"port": port},
        ) as case,
    ):
        case.send(labelled(number) for number in range(200))
        worker = case.start()
        wait_until(lambda: total(port, "headrace_snapshot_offset") > 0, "a status tells of a snapshot")
        with prometheus(tmp_path, own, port, monitor):
            wait_until(lambda: query(own, "count_over_time(headrace_lag_records[1m]) > 2"), "it has asked")
            wait_until(lambda: query(own, "count_over_time(headrace_monitor_viewers[1m]) > 2"), "the monitor")
            wait_until(lambda: query(own, 'ALERTS{alertname="HeadraceCriticalIncident"}'), "it alerts")

            silent: list[tuple[str, str]] = []

            def all_are_drawn() -> bool:
                """After a scrape that took more than its second, and was lost, there is nothing until the next one."""
                silent[:] = silent_panels(own)
                # No incident is open on the worker, and an empty table is good.
                return [Family.INCIDENT.value.name in text for _, text in silent] == [True]

            def all_are_up() -> bool:
                targets = asked(own, "targets")["activeTargets"]
                return {(item["labels"]["job"], item["health"]) for item in targets} == {
                    ("headrace", "up"),
                    ("headrace-monitor", "up"),
                }

            try:
                wait_until(all_are_drawn, "each panel but that of the incidents is drawn", pause=1.0)
            finally:
                print(silent)  # noqa: T201 - which are not
            wait_until(all_are_up, "Prometheus reaches both")
        assert worker.stop() == 0, worker.stderr
