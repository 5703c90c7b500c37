"""`headrace` that stops at a step: `python -m tests.faults.crashing run SETTINGS`, or relay, or merge.

The environment variable CRASH says where: `commit:before:3` is SIGKILL before the third commit, `send:after:50` after
the fiftieth call of `send`. A fourth word names another signal: `write:after:2:SIGSTOP` freezes the process when its
second snapshot is written and not yet renamed. CRASH_PID names another process that is sent the signal, as the broker.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from threading import Lock
from typing import Any

import stream.pipeline
import stream.worker
from stream.cli import main
from stream.kafka.log import KafkaLog
from stream.kafka.relay import KafkaRelay
from stream.snapshots.keeper import SnapshotKeeper
from stream.snapshots.store import LocalDirectory

#: Where steps are called, by name. Any other name is a method of the log, such as `claim` and `commit` (1, 3); of the
#: relay's, with `relay.` before it.
STEPS: Mapping[str, tuple[Any, str]] = {
    "pickle": (SnapshotKeeper, "_pickled"),  # 4: the worker's thread stands still
    "write": (LocalDirectory, "_write"),  # 4: the temporary file
    "put": (LocalDirectory, "put"),  # 4: the temporary file, then the rename
    "get": (LocalDirectory, "get"),  # 4: reading back; 5
    "delete": (LocalDirectory, "delete"),  # 4: dropping the oldest
    "names": (LocalDirectory, "names"),  # 5
    "restore": (stream.worker.Worker, "_restore"),  # 5
    "revoke": (stream.worker.Worker, "_on_revoked"),  # 6
    "let_go": (stream.worker.Worker, "_snapshot_before_letting_go"),  # 6
    "dead_letter": (stream.pipeline, "dead_letter"),  # 7
}


def stop_at(step: str, when: str, number: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Let the process send itself (or another one) a signal before or after so many calls of one step."""
    if step.startswith("relay."):
        owner, name = KafkaRelay, step.removeprefix("relay.")
    else:
        owner, name = STEPS.get(step, (KafkaLog, step))
    real = getattr(owner, name)
    lock = Lock()  # a snapshot is written by a thread of its own
    calls = 0

    def stop() -> None:
        os.kill(int(os.environ.get("CRASH_PID", os.getpid())), how)
        time.sleep(0.5)  # a SIGSTOP may reach the other threads before this one

    def stopping(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        with lock:
            calls += 1
            is_the_one = calls == number
        if is_the_one and when == "before":
            stop()
        result = real(*arguments, **named)
        if is_the_one and when == "after":
            stop()
        return result

    setattr(owner, name, stopping)


if __name__ == "__main__":
    step, when, number, *how = os.environ["CRASH"].split(":")
    stop_at(step, when, int(number), signal.Signals[how[0]] if how else signal.SIGKILL)
    main()
