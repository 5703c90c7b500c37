"""Processes of `headrace` that begin as copies of one that has loaded what they need.

River takes two seconds of CPU to import, and the tests start a thousand workers on real brokers. A fork of a process
that has imported it and done nothing else begins at once. From there on it is a process as any other: with a session,
an environment and standard streams of its own, and ended by real signals. What copies share is where things lie in
memory; tests of what must not depend on that, and of how a process starts, say `from_nothing`.

`python -m tests.forks FD` is the process that is copied; tests talk to it through the socket FD. Linux only.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

#: Programs that change nothing that is bound while modules are imported.
PROGRAMS = ("stream.cli", "tests.faults.crashing")
#: Most bytes of a request: arguments and environment.
MOST_BYTES = 200_000
HASH_SEED = "0"
#: A pid, and then an exit code, in so many digits.
PID_BYTES = 10
PR_SET_PDEATHSIG = 1


class Request(NamedTuple):
    """What a copy is to become."""

    program: str
    words: list[str]
    environ: dict[str, str]
    cwd: str


def can_fork(program: str, environ: Mapping[str, str]) -> bool:
    """Whether such a process may be a copy."""
    return sys.platform == "linux" and program in PROGRAMS and environ.get("PYTHONHASHSEED") == HASH_SEED


class Fork:
    """A process that began as a copy, with the methods of `subprocess.Popen` that tests use.

    Args:
        program: A module of `PROGRAMS`.
        words: Its arguments.
        stdout: A file; None throws away.
        stderr: A file.
        environ: All of its environment.
        cwd: Where it is.
    """

    def __init__(
        self,
        program: str,
        words: Sequence[str],
        *,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes],
        environ: Mapping[str, str],
        cwd: Path,
    ) -> None:
        request = json.dumps(Request(program, list(words), dict(environ), str(cwd))).encode()
        assert len(request) <= MOST_BYTES
        self.returncode: int | None = None
        files = [stderr.fileno(), *([] if stdout is None else [stdout.fileno()])]
        for _ in range(2):
            self._told, tells = os.pipe()
            try:
                with contextlib.suppress(OSError):  # it is gone
                    socket.send_fds(_original(), [request], [tells, *files])
            finally:
                os.close(tells)
            # By a pipe of its own, first the pid and then the code: nothing that is shared can get out of step.
            if pid := os.read(self._told, PID_BYTES):
                self.pid = int(pid)
                return
            os.close(self._told)
            _original.cache_clear()
        raise AssertionError("the process that is copied ended; its standard error is that of this one")

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, seconds: float | None) -> int | None:
        if self.returncode is None:
            told = select.poll()
            told.register(self._told)
            if told.poll(None if seconds is None else seconds * 1_000):
                code = os.read(self._told, 100)
                os.close(self._told)
                self.returncode = int(code) if code else -signal.SIGKILL  # it ends with its original
        return self.returncode


@functools.cache
def _original() -> socket.socket:
    """The socket of this process's own original; it ends with us."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONHASHSEED": HASH_SEED},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.kill()  # it has nothing to save
        process.wait()

    atexit.register(end)
    return ours


# The process that is copied ---------------------------------------------------------------------------------------


def serve(connection: socket.socket) -> Request | None:
    """Make copies, and tell how each ended. Returns in each copy with its request, and with None at the end of all."""
    original = os.getpid()
    woken, wake = os.pipe()
    for fd in (woken, wake):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waited_for = select.poll()
    for fd in (connection.fileno(), woken):
        waited_for.register(fd, select.POLLIN)
    copies: dict[int, int] = {}
    while True:
        ready = [fd for fd, _ in waited_for.poll()]
        if woken in ready:
            os.read(woken, 1_000)
            _tell_of_ends(copies)
        if connection.fileno() in ready:
            data, fds, _, _ = socket.recv_fds(connection, MOST_BYTES, 3)
            if not data:
                return None
            tells, *files = fds
            has_begun, begins = os.pipe()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != original:
                    os.kill(os.getpid(), signal.SIGKILL)
                os.setsid()
                for fd, standard in zip(files, (2, 1), strict=False):
                    os.dup2(fd, standard)
                for fd in (woken, wake, has_begun, tells, *files, *copies.values()):
                    os.close(fd)
                connection.close()
                os.close(begins)
                return Request(*json.loads(data))
            for fd in (begins, *files):
                os.close(fd)
            os.read(has_begun, 1)  # its end: from now on it leads a session of its own
            os.close(has_begun)
            copies[pid] = tells
            _tell(tells, pid)


def _tell(where: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(where, str(number).zfill(PID_BYTES).encode())


def _tell_of_ends(copies: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            tells = copies.pop(found[0])
            _tell(tells, os.waitstatus_to_exitcode(found[1]))
            os.close(tells)


def main() -> None:
    """Load what a worker needs, and serve."""
    import numpy as np
    import typer  # noqa: F401

    import stream.build
    import stream.kafka.log
    import stream.kafka.relay
    import stream.supervisor
    import stream.worker  # noqa: F401

    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        return
    # As in a process that starts from nothing.
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.environ)
    tempfile.tempdir = None
    np.random.seed()
    sys.argv[1:] = request.words
    runpy.run_module(request.program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
