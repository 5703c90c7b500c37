"""What every process of a pipeline has, a worker as a relay: an id of its own, and little garbage to collect."""

from __future__ import annotations

import fcntl
import gc
import os
import socket
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import IO, Final

from stream.errors import EnvironmentRefused
from stream.settings import Settings

#: Allocations before the cyclic garbage collector looks; Python's own 700 is for programs that make cycles.
GC_THRESHOLDS: Final = (50_000, 20, 100)


class WriterSlot:
    """This process's transactional id: `{pipeline}-{instance}-{slot}`, the lowest slot that is free on this machine.

    The slot is a file lock, which ends with the process: a restart takes its own slot again, and two workers
    started by hand never share one. A relay's is `{pipeline}.relay-{instance}-{slot}`, with slots of its own.
    """

    def __init__(self, settings: Settings, kind: str = "") -> None:
        name = f"{settings.name}.{kind}" if kind else settings.name
        instance = settings.worker.instance or socket.gethostname()
        cluster = sha256(settings.kafka.bootstrap_servers.encode()).hexdigest()[:8]
        slot = 0
        try:
            folder = Path(tempfile.gettempdir()) / f"headrace-{os.getuid()}"
            folder.mkdir(mode=0o700, exist_ok=True)
            while True:
                self._lock: IO[str] = (folder / f"{name}-{cluster}-{instance}-{slot}.lock").open("a")
                try:
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._lock.close()
                    slot += 1
        except OSError as error:  # none is there, or it is full, read-only, or another user's
            raise EnvironmentRefused(
                "no lock file can be made by which the workers of this machine tell who is who "
                f"({error.strerror or error}{f': {error.filename}' if error.filename else ''}). Let this user write to "
                "the directory for temporary files, or name another one in TMPDIR, the same for each worker."
            ) from error
        #: 0 for the first worker of the pipeline on this machine, and so on.
        self.slot = slot
        self.writer = f"{name}-{instance}-{slot}"

    def release(self) -> None:
        """Let another process have the slot."""
        self._lock.close()


def spare_the_collector() -> None:
    """Let the cyclic garbage collector look seldom, and never at what was there before the first record.

    Outputs are kept until they are committed. By default the collector looks at all of them, and at all that was
    imported, again and again for nothing: no cycle is among them. That was a tenth of the CPU of an event.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
