"""The nouns of the data plane: what comes out of the log, what it decodes to, what goes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

#: A label once decoded: bool for binary, text for multi-class, finite float for regression.
Label = bool | str | float
#: Class → probability, as a learner gives it.
Scores = Mapping[Any, float]
#: Features as River takes them: numbers, booleans, and strings for categories.
Features = dict[str, float | int | bool | str]
#: Which output topic an `Output` belongs to.
OutputKind = Literal["predictions", "outcomes", "alerts", "dead_letters"]
#: How far a record came that is a dead letter, in the order in which the pipeline works.
Stage = Literal["decode", "predict", "score", "drift", "learn"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
#: What a relayed record is: an event as any other, or from the labels topic, and so an answer.
RelayedKind = Literal["events", "labels"]
#: Kafka's headers: names may repeat, order matters, a value may be missing.
Headers = Sequence[tuple[str, bytes | None]]

#: Makes a named tuple in half the time that its constructor takes; the event path makes three an event.
new_tuple: Final = tuple.__new__


class Record(NamedTuple):
    """One record of `<events>`: bytes at a position."""

    #: Partition of the events topic.
    partition: int
    #: Offset within the partition.
    offset: int
    #: The record's own timestamp, milliseconds since the epoch.
    timestamp: int
    #: The key's bytes, or None.
    key: bytes | None
    #: The value's bytes; None is a tombstone.
    value: bytes | None
    #: The record's headers, or None.
    headers: Headers | None = None


class Event(NamedTuple):
    """What a record decodes to. Features without a label: a question; a label without features: an answer."""

    #: What joins an answer to its question; as in the event, a string or an integer; None if it has none.
    id: str | int | None
    #: Event time, seconds since the epoch.
    time: float
    #: Features, or None in an answer.
    x: Features | None
    #: Label, or None in a question.
    y: Label | None


class Output(NamedTuple):
    """One record to be written because of one input record; it goes to the same partition with the same timestamp."""

    to: OutputKind
    key: bytes | None
    value: bytes | None
    headers: Headers | None = None


def position(topic: str, partition: int, offset: int) -> str:
    """A position as Headrace always prints it.

    Example:
        >>> position("clicks", 3, 1042)
        'clicks[3]@1042'
    """
    return f"{topic}[{partition}]@{offset}"
