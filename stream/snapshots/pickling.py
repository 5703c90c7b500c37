"""Where a state is pickled and tried: in this process, or, if it is large, in a copy of it.

A forest takes a second to pickle and as long to unpickle for the check, and in Python 3.11 and 3.12 its objects are
slower to use for good once they were pickled. The operating system makes a copy of the whole process in milliseconds
(`fork`): the copy has the state as it was at that moment, pickles and tries it, writes both into a pipe, and ends. It
is one thread that calls nothing but Python and the learner: librdkafka's threads are not in it, and our sockets and
files are closed before all else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import select
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from stream.errors import SnapshotError
from stream.pipeline import State
from stream.snapshots.file import (
    Payload,
    Tried,
    pickled,
    pickled_apart,
    queues_of,
    unpickled,
    without_collector,
)

#: Whether a copy of a process with several threads can go on at all. On macOS the system's own libraries forbid it.
HAS_COPIES: Final = sys.platform == "linux"
#: How much less of the processor than we a copy gets where there is not enough: `nice`. That is a tenth.
_NICE: Final = 10
#: So a copy may take so many times the seconds expected, and so many more; it is ended then.
SLOWER: Final = 20.0
PATIENCE: Final = 120.0
#: Of Linux's prctl, PR_SET_PDEATHSIG: a copy ends with the process that it is one of, however that ends.
_SET_PARENT_DEATH_SIGNAL: Final = 1
_PRCTL: Final = ctypes.CDLL(None).prctl if HAS_COPIES else None
#: What a copy is not ended by: its parent is told to end by the same Ctrl-C, and may want its last snapshot.
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STDERR: Final = 2
#: What a copy writes: the sizes of what it says and of the pickle, and those two.
_SIZES: Final = struct.Struct(">QQ")


class Pickled(NamedTuple):
    """A state as it was at one moment, and what a copy of it says of itself."""

    payload: Payload
    tried: Tried
    #: Seconds of CPU that another process spent on it.
    cpu_seconds: float = 0.0


#: Gives what was pickled, once, in whatever thread.
Rest = Callable[[], Pickled]


class CopyStuckError(SnapshotError):
    """A copy of this process did not come to an end."""


def in_this_process(state: State, trusted: Sequence[str], name: str) -> Rest:
    """Pickle a state now; the rest unpickles and tries it.

    Args:
        state: Not in use until this returns.
        trusted: Modules beside ours and River's that the learner's own classes may come from.
        name: For errors.

    Raises:
        SnapshotError: The learner can't be pickled. The rest raises it where it can't be unpickled.
    """
    held = [pickled(state)]

    def rest() -> Pickled:
        payload = held.pop()
        # The collector would walk through what is unpickled as soon as it may: it is gone before that.
        with without_collector():
            return Pickled(payload, Tried.of(unpickled(memoryview(payload.state), trusted, name)))

    return rest


def in_a_copy(
    state: State,
    trusted: Sequence[str],
    name: str,
    *,
    expected_seconds: float,
    patience: float = PATIENCE,
) -> Rest:
    """Have a copy of this process pickle and try a state; the rest waits for it.

    Args:
        state: Not in use until this returns, milliseconds later.
        trusted: Modules beside ours and River's that the learner's own classes may come from.
        name: For errors.
        expected_seconds: How much of the processor's time the copy will take.
        patience: Seconds that it may take beyond `SLOWER` times that.

    Raises:
        OSError: There can't be another process. The rest raises SnapshotError if the learner can't be pickled or
            unpickled, if the copy was killed, and CopyStuckError.
    """
    # By identity, which is the same in the copy: its pickle has them in an order of its own.
    frozen = {id(queue): queue.freeze() for queue in queues_of(state)}
    reading, writing = os.pipe()
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with warnings.catch_warnings():
            # Of locks that other threads hold: a copy takes none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            _be_the_copy(state, trusted, name, writing, parent)
    except OSError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    limit = SLOWER * expected_seconds + patience
    deadline = time.monotonic() + limit

    def rest() -> Pickled:
        try:
            sizes = _SIZES.unpack(_read(reading, _SIZES.size, deadline))
            said, content = (_read(reading, size, deadline) for size in sizes)
        except (EOFError, TimeoutError) as error:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            _, status, _ = os.wait4(child, 0)
            if isinstance(error, TimeoutError):
                raise CopyStuckError(
                    f"the process that pickles the state did not end within {limit:.0f} s."
                ) from None
            raise SnapshotError(
                f"the process that pickles the state ended with {os.waitstatus_to_exitcode(status)}, "
                "as where memory is short."
            ) from None
        finally:
            os.close(reading)
        usage = os.wait4(child, 0)[2]
        found = pickle.loads(said)
        if isinstance(found, str):
            raise SnapshotError(found)
        order, tried = found
        payload = Payload(content, [frozen[identity] for identity in order])
        return Pickled(payload, tried, usage.ru_utime + usage.ru_stime)

    return rest


def _be_the_copy(state: State, trusted: Sequence[str], name: str, writing: int, parent: int) -> NoReturn:
    """All that a copy does."""
    code = 1
    try:
        for file in map(int, os.listdir("/proc/self/fd")):
            if file > _STDERR and file != writing:
                with contextlib.suppress(OSError):  # that of the list itself
                    os.close(file)
        assert _PRCTL is not None
        _PRCTL(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() == parent:
            os.nice(_NICE)
            with contextlib.suppress(
                OSError
            ):  # the copy goes first, and not the worker, where memory runs out
                Path("/proc/self/oom_score_adj").write_text("1000")
            for part in _said_by_the_copy(state, trusted, name):
                _write(writing, part)
            code = 0
    finally:
        os._exit(code)


def _said_by_the_copy(state: State, trusted: Sequence[str], name: str) -> Sequence[bytes]:
    content = b""
    with without_collector():
        try:
            queues, content = pickled_apart(state)
            said: object = [id(queue) for queue in queues], Tried.of(unpickled(content, trusted, name))
        except SnapshotError as error:
            said = str(error)
    text = pickle.dumps(said)
    return _SIZES.pack(len(text), len(content)), text, content


def _write(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def _read(file: int, size: int, deadline: float) -> bytearray:
    """So many bytes.

    Raises:
        EOFError: There are fewer.
        TimeoutError: They did not come in time.
    """
    content = bytearray(size)
    rest = memoryview(content)
    poll = select.poll()
    poll.register(file, select.POLLIN)
    while rest:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1_000):
            raise TimeoutError
        count = os.readv(file, [rest])
        if not count:
            raise EOFError
        rest = rest[count:]
    return content
