"""`headrace rebuild` that dies at a step: `python -m tests.integration.crashing rebuild SETTINGS`.

The environment variable CRASH says where: `commit:before:1` is SIGKILL before the first call of `Cluster.commit`,
`take:after:2` after the second of `SnapshotKeeper.take`.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from stream.cli import main
from stream.snapshots.keeper import SnapshotKeeper
from stream.tools.cluster import Cluster

OWNERS = {"commit": Cluster, "take": SnapshotKeeper}


def die_at(step: str, when: str, number: int) -> None:
    """Let the process kill itself before or after so many calls of a step."""
    real = getattr(OWNERS[step], step)
    calls = 0

    def crashing(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments)
        if calls == number and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(OWNERS[step], step, crashing)


if __name__ == "__main__":
    step, when, number = os.environ["CRASH"].split(":")
    die_at(step, when, int(number))
    main()
