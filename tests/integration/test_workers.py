"""`headrace run --workers N`, and `--stop-at-end` where there is little or nothing to do."""

from __future__ import annotations

import re
import signal
import textwrap
from pathlib import Path

import orjson
import psutil  # type: ignore[import-untyped]  # its types come in a package of their own
import pytest

from stream.broker import Broker
from tests.support import PATIENCE, Feeder, Incoming, KafkaCase, children, labelled, wait_until

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


def test_a_killed_worker_is_started_again_and_each_event_is_still_predicted_once(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=2) as case:
        with Feeder(case, rate=100.0) as feeder:
            parent = case.start("--workers", "2", from_nothing=True)
            case.wait_for_predictions(100, parent)
            assert "scipy" not in Path(f"/proc/{parent.pid}/maps").read_text()  # nor what else River needs
            killed, other = children(parent.pid)
            killed.kill()

            wait_until(
                lambda: len(found := children(parent.pid)) == 2 and killed not in found, "it is there again"
            )
            assert other in children(parent.pid)
            seen = case.wait_for_more(200, parent)
            wait_until(
                lambda: len({status["worker"] for status in case.statuses().values()}) == 2,
                "each has a share again",
            )
            assert seen < feeder.sent
        case.wait_for_predictions(feeder.sent, parent)

        assert parent.stop() == 0, parent.stderr
        assert case.assert_exactly_once() == feeder.sent
        (death,) = parent.logged("a worker died, starting it again")
        assert (death["pid"], death["signal"], death["pause_seconds"]) == (killed.pid, "SIGKILL", 1.0)


@pytest.mark.full
def test_a_worker_that_always_dies_is_given_up_with_its_exit_code(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    (tmp_path / "hungry.py").write_text(
        textwrap.dedent(
            """
            from river import linear_model

            class Hungry(linear_model.LogisticRegression):
                def learn_one(self, x, y):
                    if x["a"] == 5:
                        raise MemoryError
                    super().learn_one(x, y)

            def build():
                return Hungry()
            """
        )
    )
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, learner={"build": "hungry:build"}) as case:
        case.send(Incoming(0, orjson.dumps({"features": {"a": a}, "label": a % 2})) for a in range(8))

        parent = case.start("--workers", "2")

        assert parent.wait() == 6, parent.stderr
        *own, last = parent.said.splitlines()
        assert re.match(
            r"headrace: gave up on worker \d of 2: it ended with exit code 6, and it died 5 times within 300 s\.",
            last,
        )
        where = f"{case.topic('events')}[0]@5"
        sentence = f"headrace: {where}: processing this record ended with MemoryError. "
        assert own
        assert all(line.startswith(sentence) for line in own), parent.said
        # The partition moves to the other worker, which dies of it too.
        assert 4 <= len(parent.logged("a worker died, starting it again")) <= 8


def test_workers_whose_dead_letter_budget_is_spent_are_not_started_again(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(
        broker.bootstrap_servers, tmp_path, topic_name, partitions=2, worker={"dead_letter_budget": 2}
    ) as case:
        case.send(labelled(number, number % 2) for number in range(20))
        parent = case.start("--workers", "2")
        case.wait_for_predictions(20, parent)
        case.send(Incoming(1, b"garbage") for _ in range(3))

        assert parent.wait() == 5, parent.stderr
        first, last = parent.said.splitlines()
        where = f"{case.topic('events')}[1]@12"
        assert first.startswith(f"headrace: {where}: this was dead letter number 3 within 60 s; expected")
        assert "exit code 5, and no restart mends that." in last
        assert case.assert_exactly_once() == 20
        assert len(case.read("dead_letters")[1]) == 3
        assert len(parent.logged("ended")) == 1


def test_workers_end_when_their_supervisor_is_killed(broker: Broker, tmp_path: Path, topic_name: str) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=2) as case:
        case.send(labelled(number, number % 2) for number in range(20))
        parent = case.start("--workers", "2")
        case.wait_for_predictions(20, parent)
        workers = children(parent.pid)

        parent.signal(signal.SIGKILL)

        _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
        assert not alive
        assert len(parent.logged("ended")) == 2


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


def catches_sigterm(pid: int) -> bool:
    """A process has its own handler for SIGTERM: the command sets it before anything slow."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_a_signal_while_a_worker_starts_ends_it_with_0(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        for options in ((), ("--workers", "2")):
            for number in (signal.SIGTERM, signal.SIGINT):
                worker = case.start(*options, from_nothing=True)
                wait_until(lambda: catches_sigterm(worker.pid), "it imports", pause=0.01)  # noqa: B023
                worker.signal(number)
                assert worker.wait() == 0, f"{options} {number}: {worker.stderr}"
                assert worker.said == ""
