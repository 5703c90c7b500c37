"""Promise 3: each event is predicted once, in order, with the bytes of an uninterrupted run, whatever dies."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from stream.broker import Broker
from tests.support import Feeder, KafkaCase, WorkerProcess, labelled, wait_until

pytestmark = pytest.mark.faults


def restored(worker: WorkerProcess) -> int:
    """How many partitions a worker has taken over so far."""
    return len(worker.logged("partition restored"))


def finish(case: KafkaCase, feeder: Feeder, *workers: WorkerProcess) -> None:
    """All that was sent gets predicted; then the workers end cleanly."""
    case.wait_for_predictions(feeder.sent, *workers)
    for worker in workers:
        worker.signal(signal.SIGTERM)
    for worker in workers:
        assert worker.wait() == 0, worker.stderr


def test_a_second_worker_joins_and_leaves_in_mid_stream(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=4) as case:
        with Feeder(case) as feeder:
            first = case.start()
            case.wait_for_predictions(100, first)

            for _ in range(2):
                second = case.start()
                wait_until(lambda: restored(second) == 2, "the second worker has its share")  # noqa: B023
                case.wait_for_more(200, first, second)
                assert second.stop() == 0, second.stderr
                seen = case.wait_for_more(200, first)
            at_the_end_of_faults = feeder.sent
        assert seen < at_the_end_of_faults <= feeder.sent
        finish(case, feeder, first)

        assert case.assert_exactly_once() == feeder.sent
        assert not first.logged("producer fenced, starting a new one"), first.stderr


def test_a_worker_stopped_past_its_session_timeout_comes_back_as_a_stranger(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=4) as case:
        with Feeder(case) as feeder:
            first, second = case.start(), case.start()
            wait_until(lambda: min(restored(first), restored(second)) >= 2, "both workers have their share")
            case.wait_for_predictions(200, first, second)

            second.signal(signal.SIGSTOP)
            taken = restored(first)
            wait_until(lambda: restored(first) >= taken + 2, "the first worker has taken over")
            seen = case.wait_for_more(200, first)
            had = restored(second)
            second.signal(signal.SIGCONT)
            wait_until(lambda: restored(second) >= had + 2, "the second worker is back")
            seen = case.wait_for_more(200, first, second)
            assert seen < feeder.sent
        finish(case, feeder, first, second)

        assert case.assert_exactly_once() == feeder.sent


#: Where a worker dies, step by step of the protocol (DESIGN section 5), and in mid-transaction.
CRASHES = (
    "claim:before:1",
    "claim:after:1",
    "send:after:5",
    "send_offsets:before:2",
    "commit:before:2",  # the offsets are in the transaction: `committed` waits for it
    "commit:before:1",
    "commit:after:2",
    "commit:before:30",
)


def test_a_worker_killed_at_any_step_is_succeeded_by_another_machine(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Each successor has another transactional id, so it must end the dead one's transaction by itself."""
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=2,
        worker={"session_timeout_ms": 1_500, "transaction_timeout_ms": 60_000},
    ) as case:
        with Feeder(case, rate=100) as feeder:
            for number, crash in enumerate(CRASHES):
                worker = case.start(
                    program="tests.faults.crashing",
                    CRASH=crash,
                    HEADRACE_WORKER__INSTANCE=f"machine-{number}",
                )
                assert worker.wait() == -signal.SIGKILL, f"{crash}:\n{worker.stderr}"
            last = case.start()
            seen = case.wait_for_more(200, last)
            assert seen < feeder.sent
        finish(case, feeder, last)

        assert case.assert_exactly_once() == feeder.sent


def test_a_worker_that_dies_in_its_first_commit_after_a_takeover_costs_its_neighbour_nothing(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """The last commit of a partition names the worker before the one that died: that one lives, and is not fenced."""
    with KafkaCase(
        broker.bootstrap_servers, tmp_path, topic_name, partitions=4, worker={"session_timeout_ms": 1_500}
    ) as case:
        with Feeder(case, rate=100) as feeder:
            first = case.start()
            case.wait_for_predictions(100, first)
            second = case.start(program="tests.faults.crashing", CRASH="commit:before:1")
            assert second.wait() == -signal.SIGKILL, second.stderr
            taken = restored(first)
            wait_until(lambda: restored(first) >= taken + 2, "the first worker has taken over")
            seen = case.wait_for_more(100, first)
            assert seen < feeder.sent
        finish(case, feeder, first)

        assert case.assert_exactly_once() == feeder.sent
        assert not first.logged("producer fenced, starting a new one"), first.stderr


@pytest.mark.parametrize("kills", [5, pytest.param(15, marks=[pytest.mark.full, pytest.mark.timeout(1_200)])])
def test_workers_killed_at_random_moments_leave_no_gap_and_no_duplicate(
    broker: Broker, tmp_path: Path, topic_name: str, kills: int
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=3,
        worker={"session_timeout_ms": 1_500, "commit_interval_ms": 5},
    ) as case:
        with Feeder(case, rate=600) as feeder:
            workers = [case.start(), case.start()]
            case.wait_for_predictions(50)
            for _ in range(kills):
                victim = chance.choice(workers)
                wait_until(lambda: restored(victim) or not victim.is_running(), f"it works, seed {seed}")  # noqa: B023
                time.sleep(chance.uniform(0.0, 0.5))  # the moment is the fault: any will do
                assert victim.is_running(), f"seed {seed}:\n{victim.stderr}"
                victim.kill()
                workers[workers.index(victim)] = case.start()
            seen = case.wait_for_more(300, *workers)
            assert seen < feeder.sent
        finish(case, feeder, *workers)

        assert case.assert_exactly_once(why=f"(seed {seed})") == feeder.sent


def test_at_least_once_repeats_only_the_same_bytes_after_a_kill(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=2,
        worker={"session_timeout_ms": 1_500, "delivery": "at_least_once"},
    ) as case:
        with Feeder(case) as feeder:
            for crash in ("commit:before:3", "send:after:300", "send_offsets:before:4"):
                worker = case.start(program="tests.faults.crashing", CRASH=crash)
                assert worker.wait() == -signal.SIGKILL, worker.stderr
            last = case.start()
            seen = case.wait_for_more(200, last)
            assert seen < feeder.sent

        expected = case.fold()

        def firsts() -> dict[int, dict[int, tuple[object, ...]]]:
            """The first prediction of each position; a later one must be the same."""
            found: dict[int, dict[int, tuple[object, ...]]] = {}
            for partition, records in case.read("predictions").items():
                of_partition = found.setdefault(partition, {})
                for record in records:
                    assert of_partition.setdefault(record.json["offset"], record.content) == record.content
            return found

        wait_until(lambda: sum(map(len, firsts().values())) >= feeder.sent, "all is predicted")
        assert last.stop() == 0, last.stderr
        for partition, by_offset in firsts().items():
            assert list(by_offset.values()) == expected[partition]["predictions"]
        assert case.count("predictions") > feeder.sent, "no kill came at a bad moment"


def test_a_frozen_and_a_killed_broker_cost_time_and_nothing_else(
    private_broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Frozen for 12 seconds, longer than a commit waits for its answer and than a transaction may last."""
    import os

    with KafkaCase(private_broker.bootstrap_servers, tmp_path, topic_name, partitions=2) as case:
        with Feeder(case, rate=200) as feeder:
            first, second = case.start(), case.start()
            wait_until(lambda: min(restored(first), restored(second)) >= 1, "both workers have their share")
            case.wait_for_predictions(100, first, second)

            os.kill(private_broker.pid, signal.SIGSTOP)
            frozen_at = time.monotonic()
            wait_until(lambda: time.monotonic() - frozen_at > 12, "the commit has timed out")
            os.kill(private_broker.pid, signal.SIGCONT)
            assert case.predicted() < feeder.sent
            case.wait_for_more(200, first, second)

            private_broker.kill()
            private_broker.start()
            assert case.predicted() < feeder.sent
            case.wait_for_more(200, first, second)
        finish(case, feeder, first, second)

        assert case.assert_exactly_once() == feeder.sent


def test_sigterm_and_sigint_end_a_worker_with_0_and_its_work_committed(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(labelled(number) for number in range(300))
        for number in (signal.SIGTERM, signal.SIGINT):
            worker = case.start()
            case.wait_for_predictions(1, worker)
            wait_until(lambda: restored(worker), "it is at work")  # noqa: B023
            worker.signal(number)
            assert worker.wait(30) == 0, worker.stderr
            assert worker.said == "", worker.stderr
        (committed,) = case.committed().values()
        assert committed == case.count("predictions")
