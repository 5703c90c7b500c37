"""What the worker's loop and the relay's do when the broker gives no answer, and when their producer is fenced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from stream.errors import FencedError
from stream.log import CommitRetriable, ProducerFenced

#: Seconds between two tries of what got no answer, and for how long a stopping process goes on trying.
RETRY_PAUSE: Final = 0.2
STOPPING_PATIENCE: Final = 15.0
#: A new producer is tried this often within a minute; once more means that another process uses this id.
MOST_FENCED_A_MINUTE: Final = 3

T = TypeVar("T")


class StoppedWaiting(Exception):
    """The process was told to stop while the broker gave no answer."""


def until_answered(
    step: Callable[[], T],
    *,
    again: Callable[[CommitRetriable], None],
    should_stop: Callable[[], bool],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> T:
    """Call a step again until it has happened or has failed: without an answer it may have happened.

    Args:
        step: Raises `CommitRetriable` as long as there is no answer.
        again: Told of that before each further try.
        should_stop: Whether the process is to stop: then it is patient for a while only.
        clock: Seconds that only grow.
        sleep: Waits.

    Raises:
        StoppedWaiting: The process is to stop, and was patient.
    """
    stopping_since: float | None = None
    while True:
        try:
            return step()
        except CommitRetriable as error:
            now = clock()
            if should_stop():
                stopping_since = now if stopping_since is None else stopping_since
                if now - stopping_since > STOPPING_PATIENCE:
                    raise StoppedWaiting(str(error)) from error
            again(error)
            sleep(RETRY_PAUSE)


class Fencings:
    """How often a producer was fenced of late.

    Args:
        writer: Its transactional id.
        whose: What needs an id of its own: `worker`, `machine`.
    """

    def __init__(self, writer: str, whose: str) -> None:
        self._writer = writer
        self._whose = whose
        self._at: list[float] = []

    def add(self, error: ProducerFenced, now: float) -> None:
        """Count one more.

        Raises:
            FencedError: It was one too many within a minute.
        """
        self._at = [at for at in self._at if now - at < 60.0] + [now]
        if len(self._at) > MOST_FENCED_A_MINUTE:
            raise FencedError(
                f"another process uses the transactional id {self._writer!r} (fenced {len(self._at)} times in a "
                f"minute). Give each {self._whose} its own: [worker] instance."
            ) from error
