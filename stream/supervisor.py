"""Several processes of one pipeline on one machine: `headrace run --workers N`, and the relay beside the workers.

Each of them has a *place* here; one that dies is started again in its place. `after_death` decides, `Supervisor` does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Final, Literal

import structlog

from stream.errors import ConfigError, DeadLetterBudgetSpent, EnvironmentRefused, WorkersGaveUp

log = structlog.get_logger()

#: Seconds between two looks at the children.
LOOK: Final = 0.1
#: Seconds that the others get to end cleanly once it is given up.
PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When a worker that died is started again."""

    #: Seconds before the first restart; each further one waits twice as long, up to the longest pause.
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 30.0
    #: A worker that ran for so long was well: the pauses begin anew.
    steady_seconds: float = 60.0
    #: So many deaths in one place within the window are the end; None: none are. A pipeline that can't run at all is
    #: given up within two minutes; whoever started this process may start it again.
    most_deaths: int | None = 5
    window_seconds: float = 300.0
    #: Exit codes that no restart mends: the settings are wrong; the dead-letter budget would be there anew each time.
    hopeless: frozenset[int] = frozenset({ConfigError.exit_code, DeadLetterBudgetSpent.exit_code})


def relay_policy(policy: RestartPolicy, *, has_worked: bool) -> RestartPolicy:
    """When a relay that died is started again, beside workers that are restarted by this policy.

    What it refuses at first, such as a topic that is missing, nobody mends by waiting. Once it has worked it is never
    given up: without new labels the workers still predict, and that is what others wait for.
    """
    if has_worked:
        return replace(policy, most_deaths=None, hopeless=frozenset())
    return replace(policy, hopeless=policy.hopeless | {EnvironmentRefused.exit_code})


@dataclass(frozen=True, slots=True, kw_only=True)
class Deaths:
    """What has befallen one place."""

    #: When its workers died, within the window; oldest first.
    at: tuple[float, ...] = ()
    #: How long the last restart waited, seconds; 0 before the first.
    pause_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Start it again, after a pause."""

    pause_seconds: float
    deaths: Deaths


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """End the others too."""

    why: str


def after_death(
    policy: RestartPolicy, deaths: Deaths, exit_code: int, *, ran_seconds: float, now: float
) -> Restart | GiveUp:
    """Decide what follows a death.

    Args:
        policy: When to go on.
        deaths: What befell the place before.
        exit_code: Of the worker; negative for a signal. Not 0: that is no death.
        ran_seconds: How long the worker had run.
        now: Seconds that only grow.

    Example:
        >>> after_death(RestartPolicy(), Deaths(), -9, ran_seconds=5.0, now=100.0)
        Restart(pause_seconds=1.0, deaths=Deaths(at=(100.0,), pause_seconds=1.0))
        >>> after_death(RestartPolicy(), Deaths(), 5, ran_seconds=5.0, now=100.0)
        GiveUp(why='no restart mends that')
    """
    if exit_code in policy.hopeless:
        return GiveUp(why="no restart mends that")
    at = (*(before for before in deaths.at if now - before < policy.window_seconds), now)
    if policy.most_deaths is not None and len(at) >= policy.most_deaths:
        return GiveUp(why=f"it died {len(at)} times within {policy.window_seconds:g} s")
    was_well = ran_seconds >= policy.steady_seconds or not deaths.pause_seconds
    pause = policy.first_pause_seconds if was_well else 2 * deaths.pause_seconds
    pause = min(pause, policy.longest_pause_seconds)
    return Restart(pause_seconds=pause, deaths=Deaths(at=at, pause_seconds=pause))


@dataclass(slots=True)
class Place:
    """One of the N workers or the relay, whichever process it is just now."""

    #: Program and arguments.
    command: Sequence[str]
    #: What its log lines begin with: `a worker`, `the relay`.
    title: str
    #: As it is called when it is given up: `worker 1 of 2`.
    name: str
    #: 1 to N; nothing for the relay.
    fields: Mapping[str, int]
    child: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    #: When it is to be started; None while it runs, and once it has ended for good.
    start_at: float | None = 0.0
    deaths: Deaths = field(default_factory=Deaths)
    #: Whether one ran for as long as is steady.
    has_worked: bool = False


class Supervisor:
    """Keeps so many processes of one command running, and one of another.

    Args:
        command: Program and arguments of one worker.
        workers: How many.
        policy: When one that died is started again.
        relay: Program and arguments of the relay, if there is to be one beside them.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        policy: RestartPolicy | None = None,
        *,
        relay: Sequence[str] | None = None,
    ) -> None:
        self._policy = policy or RestartPolicy()
        self._places = [
            Place(command, "a worker", f"worker {number} of {workers}", {"worker": number})
            for number in range(1, workers + 1)
        ]
        if relay is not None:
            self._places.append(Place(relay, "the relay", "the relay", {}))
        #: Signals that were passed on; a child that had not yet taken charge of them dies of one.
        self._passed_on: set[int] = set()
        self._failed: WorkersGaveUp | None = None
        #: The first exit code that is not 0 of a worker that died after it was told to end.
        self._code = 0

    def run(self) -> int:
        """Run until all have ended; SIGTERM and SIGINT go to each of them.

        Returns:
            0 if all have ended with 0, else the exit code of one that failed to end well when it was told to
            (128 + the signal's number if a signal ended it).

        Raises:
            WorkersGaveUp: One keeps dying, or died of what no restart mends; the others have been ended.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.pass_on)
        deadline = float("inf")
        while True:
            for place in self._places:
                self._look_after(place)
            if self._failed is not None and deadline == float("inf"):
                deadline = time.monotonic() + PATIENCE
            if all(place.child is None and place.start_at is None for place in self._places):
                break
            if time.monotonic() > deadline:
                for place in self._places:
                    if place.child is not None:
                        place.child.kill()
            time.sleep(LOOK)
        if self._failed is not None:
            raise self._failed
        if workers := sum(1 for place in self._places if place.fields):
            log.info("all workers have ended", workers=workers)
        return _shell_code(self._code)

    @property
    def was_told_to_end(self) -> bool:
        """Whether a signal came."""
        return bool(self._passed_on)

    def pass_on(self, number: int, frame: FrameType | None = None) -> None:
        """Send a signal to every worker; from then on none is started."""
        self._passed_on.add(number)
        for place in self._places:
            place.start_at = None
            if place.child is not None and place.child.poll() is None:
                place.child.send_signal(number)

    def _look_after(self, place: Place) -> None:
        now = time.monotonic()
        child = place.child
        if child is None:
            if place.start_at is not None and now >= place.start_at:
                self._start(place, now)
            return
        code = child.poll()
        if code is None:
            return
        if child.stdin is not None:
            child.stdin.close()
        place.child = None
        if code == 0 or -code in self._passed_on:
            return
        if self._passed_on:
            log.error(f"{place.title} died while it was ending", pid=child.pid, **place.fields, **_how(code))
            self._code = self._code or code
            return
        policy, ran = self._policy, now - place.started_at
        place.has_worked = place.has_worked or ran >= policy.steady_seconds
        if not place.fields:  # the relay; alone it has nobody to keep going
            policy = relay_policy(policy, has_worked=place.has_worked and len(self._places) > 1)
        decision = after_death(policy, place.deaths, code, ran_seconds=ran, now=now)
        if isinstance(decision, Restart):
            log.warning(
                f"{place.title} died, starting it again",
                pid=child.pid,
                **place.fields,
                **_how(code),
                pause_seconds=decision.pause_seconds,
            )
            place.deaths = decision.deaths
            place.start_at = now + decision.pause_seconds
            if self._passed_on:  # meanwhile
                place.start_at = None
            return
        log.error(
            f"{place.title} died, giving up and ending the others",
            pid=child.pid,
            **place.fields,
            **_how(code),
            reason=decision.why,
        )
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        self._failed = WorkersGaveUp(
            f"gave up on {place.name}: it ended with {how}, and {decision.why}. "
            "The others were ended too. Its own last lines, above, say why; mend that and start again.",
            _shell_code(code),
        )
        self.pass_on(signal.SIGTERM)

    def _start(self, place: Place, now: float) -> None:
        place.start_at = None
        place.started_at = now
        # The other end of its standard input is this process's alone: see `end_with_parent`.
        place.child = subprocess.Popen(place.command, stdin=subprocess.PIPE)
        for early in tuple(self._passed_on):  # which came while the child was made
            place.child.send_signal(early)


def _how(code: int) -> dict[str, int | str]:
    return {"exit_code": code} if code >= 0 else {"signal": signal.Signals(-code).name}


def _shell_code(code: int) -> int:
    return 128 - code if code < 0 else code


def end_with_parent() -> None:
    """Let this process end, as by SIGTERM, when its supervisor is gone, however it died.

    The supervisor holds the other end of standard input and writes nothing: the end of that input is its end.
    """

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock this thread would hold at exit
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def child_command(command: Literal["run", "relay"], settings_file: str, *, stop_at_end: bool) -> list[str]:
    """The command line of one worker, or of the relay."""
    options = ["--with-parent", *(["--stop-at-end"] if stop_at_end else [])]
    return [sys.executable, "-P", "-m", "stream.cli", command, settings_file, *options]
