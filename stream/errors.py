"""Whose fault it is, and so what to do next.

HeadraceError
├── ConfigError          operator: fix the settings file; every mistake at once
├── EnvironmentRefused   operator: broker, topics, permissions or offsets are not as they must be
├── RecordError          data: dead-letter the record, go on
└── FencedError          another process took this worker's transactional id

Anything else is a bug: let it crash, with the position in the log.
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
