"""`headrace status` on a real broker: where the relay stands, and what is open."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from stream.broker import Broker
from tests.integration.commands import headrace, headrace_json
from tests.integration.relaying import RelayCase, question, verdict
from tests.support import KafkaCase, wait_until

pytestmark = pytest.mark.integration


def places(status: dict[str, Any]) -> dict[int, tuple[int | None, int, int]]:
    """Next offset, end and lag of each partition of the labels topic."""
    return {
        item["partition"]: (item["next_offset"], item["end"], item["lag_records"])
        for item in status["relay"]["partitions"]
    }


def test_the_relay_is_shown_before_it_has_begun_while_it_works_stands_still_and_is_gone(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    # A relay that is stopped stays a member for as long as a slow machine takes for the look.
    with RelayCase(
        broker, tmp_path, topic_name, partitions=2, labels=2, worker={"session_timeout_ms": 60_000}
    ) as case:
        case.send_to(case.labels, (verdict(n, n % 2) for n in range(200)))

        new = headrace_json(case, "status")
        assert places(new) == {0: (None, 100, 100), 1: (None, 100, 100)}
        assert new["relay"]["relays"] == 0
        assert new["warnings"][-1].startswith(
            f"No relay runs now and nothing is committed for {case.labels}[0], {case.labels}[1] while 200 records of"
        )

        case.relay_to_end()
        drained = headrace_json(case, "status")
        assert places(drained) == {0: (100, 100, 0), 1: (100, 100, 0)}

        with case.relay() as relay:
            relay.wait_for("relay begins")
            assert headrace_json(case, "status")["relay"]["relays"] == 1
            case.send_to(case.labels, (verdict(n, n % 2) for n in range(200, 300)))
            wait_until(
                lambda: places(headrace_json(case, "status")) == {0: (150, 150, 0), 1: (150, 150, 0)},
                "it is relayed",
            )

            os.kill(relay.process.pid, signal.SIGSTOP)
            case.send_to(case.labels, (verdict(n, 1) for n in range(300, 310)))
            stopped = headrace_json(case, "status")
            assert places(stopped) == {0: (150, 150, 0), 1: (150, 160, 10)}
            place = re.escape(f"{case.labels}[1]")
            text = rf"10 records of {place} wait and none was relayed within \d+ s, though one runs:"
            assert re.match(text, stopped["warnings"][-1])
        assert f"{case.labels}[1]" in headrace(case, "status").partition("relay:")[2]


def test_a_relay_that_can_not_be_seen_hides_nothing_else(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with RelayCase(broker, tmp_path, topic_name, labels=1) as case:
        case.send(question(n) for n in range(20))
        case.run_to_end()
        with case.admin() as admin:
            admin.delete_topics([case.labels])

        def status() -> Any:
            return headrace_json(case, "status")

        wait_until(lambda: status()["relay"] is None, "the topic is gone")
        found = status()
        assert found["totals"]["predictions"] == 20
        assert found["warnings"][-1].startswith(f"The relay can't be seen: no topic {case.labels!r} at")


def test_what_is_open_is_shown_and_what_a_killed_worker_left_open_is_in_doubt(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=2,
        labels={"capacity": 20},
        worker={"session_timeout_ms": 10_000},
    ) as case:
        worker = case.start()

        def opened() -> Any:
            return headrace_json(case, "status")["incidents"]

        sent = 0

        def both_are_full() -> bool:
            nonlocal sent
            case.send(question(n, n % 2) for n in range(sent, sent + 100))
            sent += 100
            return [kind["partitions"] for kind in opened()] == [[0, 1]]

        wait_until(both_are_full, "more predictions wait than may, in both partitions")
        (kind,) = opened()
        assert (kind["incident"], kind["severity"], kind["doubt"]) == ("pending-full", "warning", None)
        assert kind["text"].startswith(
            "More predictions want to wait for their label than [labels] capacity, 20,"
        )
        assert [item["partition"] for item in kind["each"]] == [0, 1]
        told = [item["time"] for item in case.incidents() if item["incident"] == "pending-full"]
        assert kind["since"] == min(told)
        lines = [" ".join(line.split()) for line in headrace(case, "status").splitlines()]
        assert any(line.startswith("pending-full warning 0-1 ") for line in lines), lines

        case.wait_for_predictions(sent, worker)
        worker.kill()
        wait_until(
            lambda: (
                [kind["doubt"] for kind in opened()]
                == ["the worker that told of it ended without closing it, and none runs now"]
            ),
            "its group is empty",
        )
        case.start()
        wait_until(
            lambda: (
                [kind["doubt"] for kind in opened()]
                == [
                    "the worker that told of it ended without closing it; the one of now does not tell of it",
                ]
            ),
            "the next one writes a status",
        )
