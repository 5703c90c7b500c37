from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types come in a package of their own
import pytest

from stream.errors import WorkersGaveUp
from stream.supervisor import Deaths, GiveUp, Restart, RestartPolicy, Supervisor, after_death, relay_policy
from tests.support import wait_until

POLICY = RestartPolicy()
QUICK = RestartPolicy(first_pause_seconds=0.01)

# The decision ---------------------------------------------------------------------------------------------------


def lives(runs: list[float], policy: RestartPolicy = POLICY, code: int = 1) -> tuple[list[float], str]:
    """The pauses after runs of so many seconds each, and why it was given up; empty if it was not."""
    now, deaths = 1_000.0, Deaths()
    pauses: list[float] = []
    for seconds in runs:
        now += seconds
        decision = after_death(policy, deaths, code, ran_seconds=seconds, now=now)
        if isinstance(decision, GiveUp):
            return pauses, decision.why
        pauses.append(decision.pause_seconds)
        deaths = decision.deaths
        now += decision.pause_seconds
    return pauses, ""


def test_the_pause_doubles_and_the_fifth_death_within_five_minutes_is_the_last() -> None:
    assert lives([1.0] * 9) == ([1.0, 2.0, 4.0, 8.0], "it died 5 times within 300 s")


def test_the_pause_is_at_most_30_seconds() -> None:
    pauses, why = lives([1.0] * 8, RestartPolicy(most_deaths=100))

    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert why == ""


def test_a_worker_that_ran_for_a_minute_has_the_first_pause_again() -> None:
    assert lives([1.0, 1.0, 60.0, 1.0])[0] == [1.0, 2.0, 1.0, 2.0]


def test_a_worker_that_dies_now_and_then_is_never_given_up() -> None:
    assert lives([80.0] * 50) == ([1.0] * 50, "")


@pytest.mark.parametrize("code", [1, 3, 4, 6, -signal.SIGKILL, -signal.SIGSEGV])
def test_what_a_restart_may_mend_is_restarted(code: int) -> None:
    assert isinstance(after_death(POLICY, Deaths(), code, ran_seconds=1.0, now=0.0), Restart)


@pytest.mark.parametrize("code", [2, 5])
def test_what_no_restart_mends_is_given_up_at_once(code: int) -> None:
    assert lives([1_000.0], code=code) == ([], "no restart mends that")


# The processes --------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A supervisor takes charge of signals; put back what was there."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def sigterm_once(condition: Callable[[], object], what: str) -> None:
    """Send this process SIGTERM as soon as this is so: by then a supervisor has taken charge of it."""

    def send() -> None:
        wait_until(condition, what, pause=0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()


def sleeper(folder: Path, before: str = "") -> list[str]:
    """A program that leaves a file when it has done this, and sleeps."""
    touch = f"import os, pathlib, signal, sys, time; here = pathlib.Path({str(folder)!r}, str(os.getpid()))"
    return program(f"{touch}\n{before}\nhere.touch()\ntime.sleep(60)")


def test_workers_that_end_with_0_are_done() -> None:
    assert Supervisor(program(""), 3, QUICK).run() == 0


def test_a_worker_that_always_dies_is_given_up_with_its_exit_code_and_the_others_end(tmp_path: Path) -> None:
    """The first to come dies, again and again; the other waits for SIGTERM."""
    text = f"""
import pathlib, sys, time
folder = pathlib.Path({str(tmp_path)!r})
try:
    (folder / "other").touch(exist_ok=False)
except FileExistsError:
    (folder / str(time.monotonic_ns())).touch()
    sys.exit(6)
time.sleep(60)
"""
    began = time.monotonic()

    with pytest.raises(
        WorkersGaveUp, match=r"^gave up on worker \d of 2: it ended with exit code 6, and it"
    ) as caught:
        Supervisor(program(text), 2, QUICK).run()

    assert caught.value.exit_code == 6
    assert len(list(tmp_path.iterdir())) == 1 + 5
    assert time.monotonic() - began < 30


def test_a_worker_that_is_always_killed_is_given_up_with_128_and_the_signal() -> None:
    text = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"

    with pytest.raises(WorkersGaveUp, match="it ended with signal 9") as caught:
        Supervisor(program(text), 1, QUICK).run()

    assert caught.value.exit_code == 137


def test_a_signal_ends_all_workers_and_none_is_started_again(tmp_path: Path) -> None:
    sigterm_once(lambda: len(list(tmp_path.iterdir())) == 2, "both run")

    assert Supervisor(sleeper(tmp_path), 2, QUICK).run() == 0


def test_a_signal_during_the_pause_before_a_restart_ends_it() -> None:
    supervisor = Supervisor(program("import sys; sys.exit(1)"), 1, RestartPolicy(first_pause_seconds=60.0))
    sigterm_once(lambda: supervisor._places[0].deaths.at, "its death was seen")

    assert supervisor.run() == 0


def test_a_worker_that_ends_badly_when_told_to_end_gives_its_exit_code(tmp_path: Path) -> None:
    worker = sleeper(tmp_path, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))")
    sigterm_once(lambda: len(list(tmp_path.iterdir())) == 2, "both have taken charge of the signal")

    assert Supervisor(worker, 2, QUICK).run() == 7


@pytest.mark.parametrize(("code", "why"), [(3, "no restart mends that"), (4, "it died 5 times")])
def test_a_relay_that_never_worked_ends_the_workers_and_is_named(code: int, why: str) -> None:
    relay, worker = program(f"import sys; sys.exit({code})"), program("import time; time.sleep(60)")

    with pytest.raises(
        WorkersGaveUp, match=rf"^gave up on the relay: it ended with exit code {code}, and {why}"
    ) as caught:
        Supervisor(worker, 2, QUICK, relay=relay).run()

    assert caught.value.exit_code == code


@pytest.mark.parametrize("code", [1, 2, 3, 4, -signal.SIGKILL])
def test_a_relay_that_has_worked_is_started_again_for_ever_and_the_workers_go_on(code: int) -> None:
    pauses, why = lives([1.0] * 50, relay_policy(POLICY, has_worked=True), code)

    assert (pauses[:6], set(pauses[5:]), why) == ([1.0, 2.0, 4.0, 8.0, 16.0, 30.0], {30.0}, "")


def test_workers_outlive_a_relay_that_keeps_dying_once_it_has_worked(tmp_path: Path) -> None:
    """Its first life is as long as is steady here; after that it dies at once, ten times and more."""
    lived = tmp_path / "lives"
    relay = program(
        f"import sys, time\nlived = open({str(lived)!r}, 'a'); print(1, file=lived, flush=True)\n"
        f"time.sleep(0.5 if len(open({str(lived)!r}).readlines()) == 1 else 0)\nsys.exit(3)"
    )
    worker = program("import time; time.sleep(60)")
    policy = RestartPolicy(first_pause_seconds=0.01, longest_pause_seconds=0.02, steady_seconds=0.4)

    sigterm_once(lambda: lived.exists() and len(lived.read_text().split()) > 10, "it died ten times")

    assert Supervisor(worker, 1, policy, relay=relay).run() in {0, 3}  # 3: the relay's, if it died just then


def test_a_relay_alone_ends_with_0_and_a_signal_is_told(tmp_path: Path) -> None:
    ended = Supervisor([], 0, QUICK, relay=program(""))
    told = Supervisor([], 0, QUICK, relay=sleeper(tmp_path))

    assert ended.run() == 0
    sigterm_once(lambda: list(tmp_path.iterdir()), "it runs")
    assert told.run() == 0

    assert not ended.was_told_to_end
    assert told.was_told_to_end


def test_no_worker_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    worker = f"""
import os, pathlib, time
from stream.supervisor import end_with_parent
end_with_parent()
pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))
time.sleep(60)
"""
    supervisor = f"from stream.supervisor import Supervisor; Supervisor({program(worker)!r}, 1).run()"
    process = subprocess.Popen(program(supervisor), stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: pid_file.exists() and pid_file.read_text(), "the worker runs")
    finally:
        process.kill()
        process.wait()

    def has_ended() -> bool:
        try:
            return bool(psutil.Process(int(pid_file.read_text())).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    wait_until(has_ended, "it has ended")
