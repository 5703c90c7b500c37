"""Promise 3: each event is predicted once, in order, with the bytes of an uninterrupted run, whatever dies."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]
import pytest

from stream.broker import Broker
from tests.faults.helpers import FREQUENT, assert_from_snapshots, finish, restored
from tests.support import Feeder, KafkaCase, WorkerProcess, labelled, wait_until

pytestmark = pytest.mark.faults


def memory_of(worker: WorkerProcess) -> int:
    """Resident bytes."""
    return int(psutil.Process(worker.pid).memory_info().rss)


def test_a_second_worker_joins_and_leaves_in_mid_stream(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=4,
        worker={"session_timeout_ms": 60_000},  # nobody dies here, even if the machine stalls
        snapshots=FREQUENT,
    ) as case:
        with Feeder(case) as feeder:
            first = case.start()
            case.wait_for_predictions(100, first)

            for _ in range(2):
                second = case.start()
                wait_until(lambda: restored(second) >= 2, "the second worker has its share")  # noqa: B023
                case.wait_for_more(200, first, second)
                assert second.stop() == 0, second.stderr
                assert_from_snapshots(second, 2, most=0)  # taken when they were let go
                seen = case.wait_for_more(200, first)
            at_the_end_of_faults = feeder.sent
        assert seen < at_the_end_of_faults <= feeder.sent
        finish(case, feeder, first)

        assert case.assert_exactly_once() == feeder.sent
        assert not first.logged("producer fenced, starting a new one"), first.stderr


def test_a_worker_stopped_past_its_session_timeout_comes_back_as_a_stranger(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Without snapshots: each partition that moves is learned again from its origin."""
    with KafkaCase(
        broker.bootstrap_servers, tmp_path, topic_name, partitions=4, snapshots={"enabled": False}
    ) as case:
        with Feeder(case) as feeder:
            first, second = case.start(), case.start()
            wait_until(lambda: min(restored(first), restored(second)) >= 2, "both workers have their share")
            case.wait_for_predictions(200, first, second)

            taken = restored(first)
            second.signal(signal.SIGSTOP)
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
        snapshots=FREQUENT,
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
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=4,
        worker={"session_timeout_ms": 1_500},
        snapshots=FREQUENT,
    ) as case:
        with Feeder(case, rate=100) as feeder:
            # Nobody is to think that it has died, though a machine stands still for a moment.
            first = case.start(HEADRACE_WORKER__SESSION_TIMEOUT_MS="60000")
            case.wait_for_predictions(100, first)
            wait_until(lambda: restored(first) >= 4, "the first worker has them all")
            taken = restored(first)
            second = case.start(program="tests.faults.crashing", CRASH="commit:before:1")
            assert second.wait() == -signal.SIGKILL, second.stderr
            wait_until(lambda: restored(first) >= taken + 2, "the first worker has taken over")
            seen = case.wait_for_more(100, first)
            assert seen < feeder.sent
        finish(case, feeder, first)

        assert case.assert_exactly_once() == feeder.sent
        assert not first.logged("producer fenced, starting a new one"), first.stderr


LINEAR = {"use": "logistic-regression"}
FOREST = {"use": "adaptive-random-forest", "parameters": {"n_models": 3}}
#: What a worker may grow by while the broker is frozen, away, and back: room for its queues, not for a leak.
MOST_GROWN_MIB = 64
AT_LENGTH = [pytest.mark.full, pytest.mark.timeout(3_600)]


class Kills(NamedTuple):
    """How many workers are killed, of what, in which stream."""

    learner: dict[str, Any]
    partitions: int
    kills: int
    #: Events a second.
    rate: float


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(Kills(LINEAR, 4, 4, 600), id="linear"),
        pytest.param(Kills(LINEAR, 4, 25, 600), id="linear-full", marks=AT_LENGTH),
        pytest.param(Kills(FOREST, 4, 12, 200), id="forest-full", marks=AT_LENGTH),
    ],
)
def test_workers_killed_at_random_moments_leave_no_gap_and_no_duplicate(
    broker: Broker, tmp_path: Path, topic_name: str, kills: Kills
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=kills.partitions,
        learner=kills.learner,
        worker={"session_timeout_ms": 3_000, "commit_interval_ms": 5},
        snapshots=FREQUENT,
    ) as case:
        with Feeder(case, rate=kills.rate) as feeder:
            workers = [case.start(), case.start()]
            case.wait_for_predictions(50)
            for _ in range(kills.kills):
                wait_until(
                    lambda: sum(1 for worker in workers if restored(worker)) >= min(2, kills.partitions),
                    f"as many work as can, seed {seed}",
                )
                victim = chance.choice([worker for worker in workers if restored(worker)])
                time.sleep(chance.uniform(0.0, 0.5))  # the moment is the fault: any will do
                assert victim.is_running(), f"seed {seed}:\n{victim.stderr}"
                victim.kill()
                workers[workers.index(victim)] = case.start()
            seen = case.wait_for_more(300, *workers)
            assert seen < feeder.sent
        finish(case, feeder, *workers)

        assert case.assert_exactly_once(why=f"(seed {seed})") == feeder.sent
        taken = [line for worker in case.workers for line in worker.logged("partition restored")]
        assert any(line["snapshot"] for line in taken), f"no worker began from a snapshot, seed {seed}"


def test_at_least_once_repeats_only_the_same_bytes_after_a_kill(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=2,
        worker={"session_timeout_ms": 1_500, "delivery": "at_least_once"},
        snapshots=FREQUENT,
    ) as case:
        with Feeder(case) as feeder:
            # the last one with its outputs written and their offsets not
            for crash in ("commit:before:3", "send:after:300", "_commit_offsets:before:4"):
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


@pytest.mark.parametrize(
    "away_seconds", [pytest.param(15, marks=pytest.mark.full), pytest.param(70, marks=AT_LENGTH)]
)
def test_a_frozen_and_a_killed_broker_cost_time_and_nothing_else(
    private_broker: Broker, tmp_path: Path, topic_name: str, away_seconds: float
) -> None:
    """Frozen for 12 seconds, longer than a commit waits for its answer and than a transaction may last; then away."""
    with KafkaCase(
        private_broker.bootstrap_servers, tmp_path, topic_name, partitions=2, snapshots=FREQUENT
    ) as case:
        with Feeder(case, rate=200) as feeder:
            workers = first, second = case.start(), case.start()
            wait_until(lambda: min(restored(first), restored(second)) >= 1, "both workers have their share")
            case.wait_for_predictions(500, first, second)
            before = [memory_of(worker) for worker in workers]

            os.kill(private_broker.pid, signal.SIGSTOP)
            frozen_at = time.monotonic()
            wait_until(lambda: time.monotonic() - frozen_at > 12, "the commit has timed out")
            os.kill(private_broker.pid, signal.SIGCONT)
            seen = case.wait_for_more(200, first, second)
            assert seen < feeder.sent

            private_broker.kill()
            killed_at = time.monotonic()
            most = before
            while time.monotonic() - killed_at < away_seconds:
                most = [max(was, memory_of(worker)) for was, worker in zip(most, workers, strict=True)]
                time.sleep(0.5)  # that it is away is the fault
            private_broker.start()
            seen = case.wait_for_more(200, first, second)
            assert seen < feeder.sent
            most = [max(was, memory_of(worker)) for was, worker in zip(most, workers, strict=True)]
        finish(case, feeder, first, second)

        assert case.assert_exactly_once() == feeder.sent
        grown = [(now - was) / 2**20 for was, now in zip(before, most, strict=True)]
        assert max(grown) < MOST_GROWN_MIB, f"grown by {grown} MiB"


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
