"""Several workers of one pipeline on one machine: `headrace run --workers N`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

import structlog

log = structlog.get_logger()

#: Seconds between two looks at the children.
LOOK: float = 0.1
#: Seconds that the others get to end cleanly once one has failed.
PATIENCE: float = 60.0


def run_workers(command: Sequence[str], workers: int) -> int:
    """Run so many processes of one command until all have ended; signals go to each of them.

    Args:
        command: Program and arguments of one worker.
        workers: How many.

    Returns:
        0 if all ended with 0. If one fails the others are ended, and its exit code is returned
        (128 + the signal's number if a signal ended it).
    """
    children: list[subprocess.Popen[bytes]] = []
    #: Signals that were passed on; a child that had not yet taken charge of them dies of one.
    passed_on: set[int] = set()

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed_on.add(number)
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    while len(children) < workers and not passed_on:
        children.append(subprocess.Popen(command))
    for early in tuple(passed_on):  # which came while the last child was made
        pass_on(early, None)
    failed: int | None = None
    deadline = float("inf")
    while any(child.poll() is None for child in children):
        time.sleep(LOOK)
        if failed is None:
            for child in children:
                if child.returncode and -child.returncode not in passed_on:
                    failed = child.returncode
                    deadline = time.monotonic() + PATIENCE
                    log.error("a worker failed, ending the others", pid=child.pid, exit_code=failed)
                    pass_on(signal.SIGTERM, None)
                    break
        elif time.monotonic() > deadline:
            for child in children:
                child.kill()
    codes = [child.returncode for child in children if -child.returncode not in passed_on]
    code = failed if failed is not None else next((code for code in codes if code), 0)
    return 128 - code if code < 0 else code


def worker_command(settings_file: str, *, stop_at_end: bool) -> list[str]:
    """The command line of one worker."""
    options = ["--stop-at-end"] if stop_at_end else []
    return [sys.executable, "-P", "-m", "stream.cli", "run", settings_file, *options]
