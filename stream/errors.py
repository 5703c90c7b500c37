"""Whose fault it is, and so what to do next.

HeadraceError
├── ConfigError            operator: fix the settings file; every mistake at once
├── EnvironmentRefused     operator: broker, topics, permissions or offsets are not as they must be
├── RecordError            data: dead-letter the record, go on
├── SnapshotError          disk: this snapshot is not to be used; take an older one
├── FencedError            another process took this worker's transactional id
├── DeadLetterBudgetSpent  operator: too much is a dead letter; mend the producer or [event]
├── ResourcesExhausted     operator: memory, disk, files or stack ran out in the middle of a record
└── WorkersGaveUp          one of several workers keeps dying; it said why itself

Anything else is a bug: let it crash, with the position in a note of the error (`at clicks[3]@1042`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class HeadraceError(Exception):
    """Base of all errors that Headrace raises on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One thing that is wrong in a settings file."""

    #: Where: `app.toml:12` or the name of an environment variable.
    place: str
    #: Which setting, as written: `[labels] expire_after_seconds`; empty when it is about the whole file.
    setting: str
    #: What is wrong, what was expected, what to do: the rest of the sentence (`is -5; expected > 0.`)
    #: or one of its own after a colon.
    text: str

    def __str__(self) -> str:
        joint = " " if self.setting and not self.text.startswith(":") else ""
        return f"{self.place}: {self.setting}{joint}{self.text}"


class ConfigError(HeadraceError):
    """The settings can't be used; `mistakes` lists everything that is wrong with them."""

    exit_code = 2

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(mistakes)
        self.mistakes = tuple(mistakes)

    def __str__(self) -> str:
        return "\n".join(str(mistake) for mistake in self.mistakes)


class EnvironmentRefused(HeadraceError):
    """Kafka is not as this pipeline needs it: what was found, what was expected, what to do."""

    exit_code = 3


class FencedError(HeadraceError):
    """Another process uses this worker's transactional id."""

    exit_code = 4


class DeadLetterBudgetSpent(HeadraceError):
    """More records were dead letters than the operator bears; all of them are committed."""

    exit_code = 5


class ResourcesExhausted(HeadraceError):
    """Memory, disk, files or stack ran out: that says nothing about the record, which is done again after a restart."""

    exit_code = 6


class WorkersGaveUp(HeadraceError):
    """One of several workers keeps dying, or died of what no restart mends.

    Args:
        reason: The sentence.
        exit_code: What the worker ended with last; 128 + the signal's number if it was a signal.
    """

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason, exit_code)
        self.reason = reason
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self.reason


class RecordError(HeadraceError):
    """A record is not what the settings say; it goes to the dead-letter topic with this reason.

    Args:
        reason: One sentence: which field, what it is, what was expected.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class SnapshotError(HeadraceError):
    """A snapshot is damaged, forged, too large or another's: not to be used; an older one may be."""

    exit_code = 3


def in_a_line(error: BaseException) -> str:
    """Type and text of an error that is not ours, short and in one line.

    Example:
        >>> in_a_line(ValueError("no such\\nthing")), in_a_line(MemoryError())
        ('ValueError: no such thing', 'MemoryError')
    """
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
