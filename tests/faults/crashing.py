"""`headrace` that dies at a step of the checkpoint protocol: `python -m tests.faults.crashing run SETTINGS`.

The environment variable CRASH says where: `commit:before:3` is SIGKILL before the third commit, `send:after:50` after
the fiftieth call of `send`.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from stream.cli import main
from stream.kafka_log import KafkaLog


def die_at(step: str, when: str, number: int) -> None:
    """Let the process kill itself before or after so many calls of one step of the log."""
    real = getattr(KafkaLog, step)
    calls = 0

    def crashing(log: KafkaLog, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(log, *arguments)
        if calls == number and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(KafkaLog, step, crashing)


if __name__ == "__main__":
    step, when, number = os.environ["CRASH"].split(":")
    die_at(step, when, int(number))
    main()
