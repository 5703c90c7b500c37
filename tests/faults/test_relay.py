"""The relay: each source record once, in order, with its bytes, whatever dies; and readers wait for milliseconds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from kafka.errors import KafkaError  # type: ignore[import-untyped]  # kafka-python ships no types

from stream.broker import Broker
from tests.integration.commands import Command, headrace_json
from tests.integration.relaying import RelayCase, question, verdict
from tests.support import PATIENCE, Feeder, Incoming, children, logged, wait_until, whole_seconds_ago

pytestmark = pytest.mark.faults
FULL = pytest.mark.full

#: Each step from what was polled to what is committed.
CRASHES = (
    "relay.claim:before:1",
    "relay.claim:after:1",
    "relay.send:after:1",
    "relay.send:after:7",
    "relay.send_offsets:before:1",
    "relay.send_offsets:after:1",
    "relay.commit:before:1",
    "relay.commit:after:1",
)


#: Sections under which a dead relay is missed soon, and its transaction never ends by itself while a test is patient.
DIES = {"session_timeout_ms": 1_500, "transaction_timeout_ms": 600_000}


def crash(case: RelayCase, where: str, *words: str, **environ: str) -> None:
    """Run a command that dies at a step."""
    program = "tests.faults.crashing"
    with Command(
        case, *words, str(case.settings_file), program=program, environ={"CRASH": where, **environ}
    ) as it:
        assert it.process.wait(PATIENCE) == -signal.SIGKILL, f"{where}:\n{it.err}"


def settled(case: RelayCase) -> bool:
    """Whether nothing is held back from readers of the events."""
    return case.ends("events") == case.ends("events", "read_uncommitted")


@pytest.mark.parametrize(
    "crashes", [pytest.param(CRASHES[5:6], id="one"), pytest.param(CRASHES, id="all", marks=FULL)]
)
def test_a_relay_killed_at_any_step_is_succeeded_by_itself_at_once(
    broker: Broker, tmp_path: Path, topic_name: str, crashes: tuple[str, ...]
) -> None:
    with RelayCase(broker, tmp_path, topic_name, labels=2, sources=[3], worker=DIES) as case:
        for number, where in enumerate(crashes):
            case.send_to(case.sources[0], (question(n, n % 3) for n in range(number * 50, number * 50 + 50)))
            case.send_to(case.labels, (verdict(n, n % 2) for n in range(number * 50, number * 50 + 50)))
            crash(case, where, "relay")

        began = time.monotonic()
        case.relay_to_end()

        assert time.monotonic() - began < PATIENCE, "it waited for a transaction to time out"
        assert settled(case)
        assert case.assert_relayed_once() == 100 * len(crashes)


@FULL
def test_a_relay_killed_at_any_step_is_succeeded_by_another_machine(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Each has a transactional id of its own, so it must end the dead one's transaction."""
    with RelayCase(broker, tmp_path, topic_name, partitions=2, labels=2, worker=DIES) as case:
        for number, where in enumerate(CRASHES):
            case.send_to(case.labels, (verdict(n, n % 2) for n in range(number * 50, number * 50 + 50)))
            crash(case, where, "relay", HEADRACE_WORKER__INSTANCE=f"machine-{number}")
        began = time.monotonic()
        case.relay_to_end()

        assert time.monotonic() - began < PATIENCE, "it waited for a transaction to time out"
        assert settled(case)
        assert case.assert_relayed_once() == 50 * len(CRASHES)


def both(number: int, partitions: int) -> Incoming:
    """Questions and labels by turns."""
    make = question if number % 2 == 0 else verdict
    return make(number // 2, number // 2 % partitions)


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(3, id="few", marks=FULL),
        pytest.param(20, id="many", marks=[FULL, pytest.mark.timeout(2_700)]),
    ],
)
def test_relays_killed_at_random_moments_leave_no_gap_and_no_duplicate(
    broker: Broker, tmp_path: Path, topic_name: str, kills: int
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    worker = {"session_timeout_ms": 1_500}
    with RelayCase(broker, tmp_path, topic_name, labels=2, sources=[2], worker=worker) as case:
        relays = [case.relay(environ={"HEADRACE_WORKER__INSTANCE": f"machine-{n}"}) for n in range(2)]
        try:
            with Feeder(case, rate=1_000, event=lambda number, _: both(number, 2)) as feeder:
                for number in range(kills):
                    wait_until(
                        lambda: all(logged(it.err, "relay begins") for it in relays),
                        f"both are at work, seed {seed}",
                    )
                    time.sleep(chance.uniform(0.0, 0.5))  # the moment is the fault: any will do
                    victim = chance.randrange(2)
                    assert relays[victim].process.poll() is None, f"seed {seed}:\n{relays[victim].err}"
                    relays[victim].process.kill()
                    relays[victim].process.wait()
                    again = f"machine-{victim}" if number % 2 else f"machine-{number + 2}"
                    relays[victim] = case.relay(environ={"HEADRACE_WORKER__INSTANCE": again})
            case.relay_to_end()
            for it in relays:
                it.signal(signal.SIGTERM)
            for it in relays:
                it.ends(0)
        finally:
            for it in relays:
                it.process.kill()

        assert case.assert_relayed_once() == feeder.sent, f"seed {seed}"


@FULL
def test_a_frozen_and_a_killed_broker_cost_time_and_nothing_else(
    private_broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with RelayCase(private_broker, tmp_path, topic_name, labels=2, sources=[2]) as case:

        def relayed() -> int:
            try:
                return case.count("events")
            except KafkaError:  # a broker that comes back has no answer yet
                return 0

        with case.relay() as it:
            with Feeder(case, rate=300, event=lambda number, _: both(number, 2)) as feeder:
                wait_until(lambda: relayed() > 300, "it relays")
                os.kill(private_broker.pid, signal.SIGSTOP)
                time.sleep(12)  # longer than a commit waits for its answer, and than a transaction may last
                os.kill(private_broker.pid, signal.SIGCONT)
                sent = feeder.sent
                wait_until(lambda: relayed() > sent, "it goes on")
                private_broker.kill()
                time.sleep(10)  # that it is away is the fault
                private_broker.start()
                sent = feeder.sent
                wait_until(lambda: relayed() > sent, "it goes on again")
            case.relay_to_end()
            it.signal(signal.SIGTERM)
            it.ends(0)

        assert case.assert_relayed_once() == feeder.sent


def test_sigterm_ends_a_run_with_its_relay_and_a_killed_relay_is_started_again(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with RelayCase(broker, tmp_path, topic_name, labels=1) as case:
        case.send(question(n) for n in range(100))
        case.send_to(case.labels, (verdict(n) for n in range(50)))
        worker = case.start()

        def joined(count: int) -> bool:
            assert worker.is_running(), worker.stderr
            return case.statuses().get(0, {}).get("joined") == count

        wait_until(lambda: joined(50), "the labels are joined")
        (relay,) = children(worker.pid, "relay")
        relay.kill()
        case.send_to(case.labels, (verdict(n) for n in range(50, 100)))
        wait_until(lambda: joined(100), "the labels are joined by the next relay")

        assert worker.stop() == 0, worker.stderr
        (died,) = worker.logged("the relay died, starting it again")
        assert died["signal"] == "SIGKILL"
        assert len(worker.logged("relay ended")) == 1
        assert case.assert_relayed_once() == 100
        assert case.assert_exactly_once() == 100


@FULL
@pytest.mark.parametrize("where", ["relay.claim:after:1", "relay.commit:before:2", "relay.claim:before:2"])
def test_a_merge_that_is_interrupted_goes_on_and_no_relay_comes_between(
    broker: Broker, tmp_path: Path, topic_name: str, where: str
) -> None:
    begin = whole_seconds_ago(3_000)

    def at(record: Incoming, seconds: float) -> Incoming:
        return record._replace(timestamp=round(1_000 * (begin + seconds)))

    with RelayCase(broker, tmp_path, topic_name, labels=2, sources=[3]) as case:
        case.send_to(case.sources[0], (at(question(n, n % 3), n / 5) for n in range(8_000)))
        case.send_to(case.labels, (at(verdict(n, n % 2), n / 5 + 10.0) for n in range(8_000)))
        crash(case, where, "merge")
        with case.relay("--stop-at-end") as relay:
            assert "Let it finish: headrace merge" in relay.ends(3)

        merged = headrace_json(case, "merge")

        assert merged["resumed"]
        times = [record.timestamp for record in case.read("events")[0]]
        assert times == sorted(times)
        case.relay_to_end()
        assert case.assert_relayed_once() == 16_000


#: Sleeps 30 ms and works for 3, again and again until told to end; then tells how many milliseconds, at the 99th
#: percentile, the machine let it wait on top of that.
NEIGHBOUR = """
import signal, time

late, ended = [], []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
while not ended:
    began, cpu = time.monotonic(), time.process_time()
    time.sleep(0.03)
    while (worked := time.process_time() - cpu) < 0.003:
        pass
    late.append(time.monotonic() - began - 0.03 - worked)
print(1_000 * sorted(late)[int(len(late) * 0.99)])
"""


class Round(NamedTuple):
    """What was measured at the same time, milliseconds."""

    #: How long transactions were open, at the 99th percentile.
    open_p99: float
    #: How long the machine let a process wait that does little.
    late_p99: float

    @property
    def is_held(self) -> bool:
        return self.open_p99 <= 50.0 + max(0.0, self.late_p99)


@pytest.mark.alone
def test_readers_are_held_back_for_a_moment_only_under_load(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """At 2,000 records a second 99 of 100 transactions are open for 50 ms at most, where there is CPU.

    So this test runs by itself. What a machine takes from it nevertheless is no fault of the relay: a neighbour that
    does little is measured at the same time, and what that one had to wait, at its own 99th percentile, is granted on
    top (next to nothing on a machine that is idle otherwise). One round of three has to hold it, since a machine may
    stall; a relay that is too slow is so in each.
    """
    rounds: list[Round] = []
    with RelayCase(broker, tmp_path, topic_name, labels=2, sources=[3]) as case:
        case.relay_to_end()
        while len(rounds) < 3 and not (rounds and rounds[-1].is_held):
            rounds.append(held_back(case))
            print(rounds[-1])  # noqa: T201 - what the test is about

    assert any(it.is_held for it in rounds), rounds


def held_back(case: RelayCase) -> Round:
    """Seven seconds of load for a relay of its own."""
    with case.relay() as relay, Feeder(case, rate=2_000, event=lambda number, _: both(number, 2)):
        relay.wait_for("relay begins")
        neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR], stdout=subprocess.PIPE, text=True)
        try:
            before = sum(case.ends("events").values())
            wait_until(
                lambda: sum(case.ends("events").values()) > before + 14_000, "it has worked", pause=1.0
            )
            relay.signal(signal.SIGTERM)
            relay.ends(0)
        finally:
            neighbour.terminate()
            late, _ = neighbour.communicate()
    (ended,) = logged(relay.err, "relay ended")
    assert (
        ended["transactions"] >= 14
    )  # none holds more than 1,000 records; the fewer, the nearer is the p99 to the worst
    return Round(ended["open_p99_ms"], float(late))
