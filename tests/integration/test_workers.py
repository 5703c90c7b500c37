"""`headrace run --workers N`, and `--stop-at-end` where there is little or nothing to do."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types come in a package of their own
import pytest

from stream.broker import Broker
from tests.support import KafkaCase, labelled, wait_until

pytestmark = pytest.mark.integration


def test_two_workers_share_the_partitions_and_end_together_with_0(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=4) as case:
        case.send(labelled(number, number % 4) for number in range(400))

        parent = case.start("--workers", "2")
        case.wait_for_predictions(400, parent)
        wait_until(
            lambda: len({status["worker"] for status in case.statuses().values()}) == 2, "each has a share"
        )

        assert parent.stop() == 0, parent.stderr
        assert parent.said == ""
        assert case.assert_exactly_once() == 400


def test_a_worker_that_fails_ends_the_others_with_its_exit_code(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=2) as case:
        case.send(labelled(number, number % 2) for number in range(20))
        parent = case.start("--workers", "2")
        case.wait_for_predictions(20, parent)

        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        children[0].kill()

        assert parent.wait() == 128 + signal.SIGKILL, parent.stderr
        assert not any(child.is_running() for child in children)


def test_more_workers_than_partitions_stop_at_the_end(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=2) as case:
        case.send(labelled(number, number % 2) for number in range(200))

        case.run_to_end("--workers", "3")

        assert case.assert_exactly_once() == 200


def test_stop_at_end_waits_until_a_dead_worker_is_out_of_the_group(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Until its session is over, 10 s, the group gives a newcomer nothing: that is not the end."""
    with KafkaCase(
        broker.bootstrap_servers, tmp_path, topic_name, worker={"session_timeout_ms": 10_000}
    ) as case:
        case.send(labelled(number) for number in range(50))
        dead = case.start()
        case.wait_for_predictions(50, dead)
        dead.kill()
        case.send(labelled(number) for number in range(50, 100))

        case.run_to_end()

        assert case.assert_exactly_once() == 100


def test_a_signal_while_a_worker_starts_ends_it_with_0(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        for options in ((), ("--workers", "2")):
            for number in (signal.SIGTERM, signal.SIGINT):
                worker = case.start(*options)
                started = psutil.Process(worker.pid)
                wait_until(lambda: started.cpu_times().user > 0.8, "it imports", pause=0.01)  # noqa: B023
                worker.signal(number)
                assert worker.wait() == 0, f"{options} {number}: {worker.stderr}"
                assert worker.said == ""
