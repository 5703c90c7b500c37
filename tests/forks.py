"""Processes of `headrace` that begin as copies of one that has loaded what they need.

River takes two seconds of CPU to import, and the tests start a thousand workers on real brokers. A fork of a process
that has imported it and done nothing else begins at once. From there on it is a process as any other: with a session,
an environment and standard streams of its own, and ended by real signals. How a process starts from nothing is tested
by those that commands, supervisors and the demos start.

`python -m tests.forks FD` is the process that is copied; tests talk to it through the socket FD. Linux only.
"""

from __future__ import annotations

import atexit
import contextlib
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
from typing import IO, Any

#: Programs that change nothing that is bound while modules are imported.
PROGRAMS = ("stream.cli", "tests.faults.crashing")
#: Most bytes of a request: arguments and environment.
MOST_BYTES = 200_000
HASH_SEED = "0"


def can_fork(program: str, environ: Mapping[str, str]) -> bool:
    """Whether such a process may be a copy."""
    return sys.platform == "linux" and program in PROGRAMS and environ.get("PYTHONHASHSEED") == HASH_SEED


class Fork:
    """A process that began as a copy, with the methods of `subprocess.Popen` that tests use.

    Args:
        program: A module of `PROGRAMS`.
        words: Its arguments.
        stderr: A file, as a file descriptor.
        environ: All of its environment.
        cwd: Where it is.
    """

    def __init__(
        self, program: str, words: Sequence[str], *, stderr: IO[bytes], environ: Mapping[str, str], cwd: Path
    ) -> None:
        request = json.dumps([program, list(words), dict(environ), str(cwd)]).encode()
        assert len(request) <= MOST_BYTES
        self.returncode: int | None = None
        self._code, theirs = os.pipe()
        connection = _original()
        socket.send_fds(connection, [request], [stderr.fileno(), theirs])
        os.close(theirs)
        self.pid = int(connection.recv(100))

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
        if self.returncode is None and select.select([self._code], [], [], seconds)[0]:
            told = os.read(self._code, 100)
            os.close(self._code)
            assert told, "the process that was copied is gone, and nobody knows how this one ended"
            self.returncode = int(told)
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
        process.wait()

    atexit.register(end)
    return ours


# The process that is copied ---------------------------------------------------------------------------------------


def serve(connection: socket.socket) -> list[Any] | None:
    """Make copies, and tell how each ended. Returns in each copy with its request, and with None at the end of all."""
    woken, wake = os.pipe()
    for fd in (woken, wake):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    copies: dict[int, int] = {}
    waited_for: list[Any] = [connection, woken]
    while True:
        ready, _, _ = select.select(waited_for, [], [])
        if woken in ready:
            os.read(woken, 1_000)
            _tell_of_ends(copies)
        if connection in ready:
            data, fds, _, _ = socket.recv_fds(connection, MOST_BYTES, 2)
            if not data:
                return None
            stderr, code = fds
            has_begun, begins = os.pipe()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.setsid()
                os.dup2(stderr, 2)
                for fd in (woken, wake, has_begun, stderr, code, *copies.values()):
                    os.close(fd)
                connection.close()
                os.close(begins)
                found: list[Any] = json.loads(data)
                return found
            for fd in (begins, stderr):
                os.close(fd)
            os.read(has_begun, 1)  # its end: from now on it leads a session of its own
            os.close(has_begun)
            copies[pid] = code
            connection.send(str(pid).encode())


def _tell_of_ends(copies: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            code = copies.pop(found[0])
            with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(code, str(os.waitstatus_to_exitcode(found[1])).encode())
            os.close(code)


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
    program, words, environ, folder = request
    # As in a process that starts from nothing.
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    tempfile.tempdir = None
    np.random.seed()
    sys.argv[1:] = words
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
