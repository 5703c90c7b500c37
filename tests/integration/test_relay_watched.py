"""What the monitor tells of a real relay: while it works, when it is dead, and when nothing can be known of it."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import pytest

from stream.broker import Broker
from tests.integration.relaying import RelayCase, question, verdict
from tests.support import MonitorProcess, WorkerProcess, wait_until

pytestmark = pytest.mark.integration


def told(case: RelayCase, name: str) -> list[str]:
    """What was said on the alerts topic of this incident."""
    return [item["state"] for item in case.incidents() if item["incident"] == name]


def metric(monitor: MonitorProcess, case: RelayCase, name: str) -> float | None:
    """The value of the pipeline's one series of a family; None: there is none."""
    with urllib.request.urlopen(f"{monitor.address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith(f"headrace_monitor_{name}{{") and case.name in line]
    return float(found[0].rpartition(" ")[2]) if found else None


def test_the_relay_is_followed_its_death_is_told_and_its_return(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with RelayCase(
        broker, tmp_path, topic_name, partitions=2, labels=2, watchdogs={"relay_seconds": 5.0}
    ) as case:
        case.send(question(n, n % 2) for n in range(200))
        case.send_to(case.labels, (verdict(n, n % 2) for n in range(60)))
        with MonitorProcess(case.settings_file) as monitor:

            def state() -> Any:
                return monitor.get(f"/api/pipelines/{topic_name}")

            def places() -> dict[int, tuple[int | None, int]]:
                return {
                    p["partition"]: (p["next_offset"], p["lag_records"])
                    for p in state()["relay"]["partitions"]
                }

            wait_until(lambda: places() == {0: (None, 30), 1: (None, 30)}, "it is seen before it has begun")
            with case.relay() as relay:
                relay.wait_for("relay begins")
                wait_until(lambda: places() == {0: (30, 0), 1: (30, 0)}, "it has brought all over")
                assert state()["relay"]["problem"] is None
                assert metric(monitor, case, "relay_lag_records") == 0
                relay.process.kill()
                relay.process.wait()
            case.send_to(case.labels, (verdict(n, 1) for n in range(60, 70)))

            wait_until(lambda: places() == {0: (30, 0), 1: (30, 10)}, "what waits is seen")
            wait_until(lambda: told(case, "relay-behind") == ["open"], "the watchdog barks", seconds=180)

            def barking() -> list[Any]:
                return [row for row in state()["open_incidents"] if row["incident"] == "relay-behind"]

            wait_until(barking, "the monitor has it back from the topic")
            (row,) = barking()
            assert f"nothing was relayed from {case.labels}[1] for " in row["text"]
            assert "while 10 records wait" in row["text"]
            assert metric(monitor, case, "relay_lag_records") == 10
            waited = metric(monitor, case, "relay_waited_seconds")
            assert waited is not None
            assert waited >= 5
            assert state()["relay"]["waited_seconds"] >= waited

            with case.relay() as relay:
                wait_until(lambda: places() == {0: (30, 0), 1: (40, 0)}, "it has brought all over again")
                wait_until(lambda: told(case, "relay-behind") == ["open", "closed"], "it is over")
            assert monitor.end() == 0


def test_a_relay_that_can_not_be_seen_disturbs_no_other_reading(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with RelayCase(broker, tmp_path, topic_name, labels=1) as case:
        case.send(question(n) for n in range(20))
        # A worker that knows of no labels topic: the relay that it had beside it would end both when that is gone.
        alone = tmp_path / "alone.toml"
        alone.write_text(case.settings_file.read_text().partition("[labels]")[0])
        case.workers.append(WorkerProcess(alone))
        with MonitorProcess(case.settings_file) as monitor:

            def state() -> Any:
                return monitor.get(f"/api/pipelines/{topic_name}")

            monitor.wait_until_live(topic_name)
            wait_until(lambda: state()["predictions"] == 20, "statuses are read")
            wait_until(lambda: state()["relay"]["age_seconds"] is not None, "it is seen")
            with case.admin() as admin:
                admin.delete_topics([case.labels])
            wait_until(
                lambda: state()["relay"]["problem"] is not None, "it can't be seen any more", seconds=120
            )

            case.send(question(n) for n in range(20, 50))
            wait_until(lambda: state()["predictions"] == 50, "statuses are read as before")
            found = state()
            assert (found["feed"]["state"], found["state"]) == ("live", "ok")
            assert monitor.stderr.count("where the relay stands can't be read") <= 5
            age = metric(monitor, case, "relay_age_seconds")
            assert age is not None
            assert age > 0
            assert monitor.end() == 0
