"""From a record's bytes to an event, and from what the pipeline decided to the bytes of an output.

Decoding is the hottest code of ours: it takes the short way for what is right (all names known, all values
numbers) and looks closely only at what is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, Literal

import orjson

from stream.errors import RecordError
from stream.records import Event, Features, Headers, Label, Output, Record, Scores, new_tuple, position
from stream.relay.headers import LABELS, relayed_for

#: Caps on hostile input. A value or a key above the first is refused before it is parsed.
MAX_RECORD_BYTES: Final = 256 * 1024
MAX_FEATURES: Final = 1_000
MAX_NAME_CHARACTERS: Final = 128
MAX_TEXT_CHARACTERS: Final = 1_024
#: Regression: squares of larger labels overflow, and one of them would leave every later figure without a value.
LARGEST_LABEL: Final = 1e100
#: The largest value that fits a dead-letter topic; a record that is larger unpacked is kept as size and digest.
MAX_DEAD_LETTER_BYTES: Final = 90_000_000
#: Times above this many seconds (the year 5138) can only be milliseconds.
MAX_SECONDS: Final = 1e11

Task = Literal["binary", "multiclass", "regression"]

TRUTH: Final[Mapping[object, bool]] = {
    True: True,
    False: False,
    "true": True,
    "false": False,
    "1": True,
    "0": False,
}
BINARY_NAMES: Final[Mapping[object, str]] = {False: "false", True: "true"}


class RelayedForAnother(Exception):
    """No mistake: the record was relayed into this log for another pipeline, which is to read it."""


class EventDecoder:
    """Reads events as the settings say where things are in them.

    Args:
        task: Fixes the label's type: bool, text or finite float.
        id_field: Top-level field with the event's id, or None when events have none.
        time_field: Field with the event's time, or None to use the record's timestamp.
        label_field: Field with the label.
        features: Name of the field that holds all features, or the list of the fields that are features.
        excluded: With `features=None`: all top-level fields but these are features.
        positive: Binary only: the label's value that means true; None takes true/false and 1/0.
        max_ahead_seconds: How far an event's time may be ahead of the record's timestamp.
        pipeline: Records that were relayed are read if it was for this pipeline.
        labels: Reads those of them that come from a labels topic; without it they are events as any other.

    Example:
        >>> decoder = EventDecoder(task="binary", features=["amount"], label_field="fraud")
        >>> decoder.decode(Record(0, 7, 1_000, None, b'{"id": "a", "amount": 3.5, "fraud": 0}'))
        Event(id='a', time=1.0, x={'amount': 3.5}, y=False)
    """

    #: Of the settings, for what is said about a label.
    _section = "event"

    def __init__(
        self,
        *,
        task: Task,
        id_field: str | None = "id",
        time_field: str | None = None,
        label_field: str = "label",
        features: str | list[str] | None = "features",
        excluded: tuple[str, ...] = (),
        positive: str | bool | int | None = None,
        max_ahead_seconds: float = 3600.0,
        pipeline: str = "",
        labels: LabelDecoder | None = None,
    ) -> None:
        self._pipeline = pipeline.encode()
        self._labels = labels
        self._id_field = id_field
        self._time_field = time_field
        self._label_field = label_field
        self._max_ahead_seconds = max_ahead_seconds
        self._positive = positive
        self._positive_kinds: tuple[type, ...] = (str,) if isinstance(positive, str) else (bool, int, float)
        self._object_field = features if isinstance(features, str) else None
        self._feature_fields = tuple(features) if isinstance(features, list) else None
        reserved = (name for name in (id_field, time_field, label_field) if name is not None)
        self._not_features = frozenset((*excluded, *reserved))
        #: Names of the features of the last event that was looked at closely, in order.
        self._checked_names: list[str] | None = None
        self._label: Callable[[object], Label]
        if task == "binary":
            self._label = TRUTH.__getitem__ if positive is None else self._is_positive
        else:
            self._label = _text_label if task == "multiclass" else _number_label

    def decode(self, record: Record) -> Event:
        """The event in a record.

        Raises:
            RecordError: The record is not an event; the reason says which field, what it is and what was expected.
            RelayedForAnother: Another pipeline is to read it.
        """
        _, _, timestamp, key, value, headers = record
        if headers is not None and (decoder := self._decoder_of(headers)) is not self:
            return decoder.decode(record)
        if value is None:
            raise RecordError("the value is empty (a tombstone); expected a JSON object")
        if len(value) > MAX_RECORD_BYTES:
            raise RecordError(f"the value has {len(value):,} bytes; expected at most {MAX_RECORD_BYTES:,}")
        if key is not None and len(key) > MAX_RECORD_BYTES:  # a prediction carries it, and must fit its topic
            raise RecordError(f"the key has {len(key):,} bytes; expected at most {MAX_RECORD_BYTES:,}")
        try:
            body = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise RecordError(f"the value is not valid JSON in UTF-8: {error}") from error
        if type(body) is not dict:
            raise RecordError(f"the value is {_kind(body)}; expected a JSON object")

        label = body.get(self._label_field)
        y = None if label is None else self.label(label)

        found = self._flat_features(body) if self._object_field is None else body.get(self._object_field)
        x: Any
        if found is None:
            x = None
        elif type(found) is dict and list(found) == self._checked_names:
            try:
                sum(found.values())  # has a sum: all are numbers; and orjson lets no infinity or NaN through
                x = found
            except TypeError:
                x = self._checked_features(found)
        else:
            x = self._checked_features(found)

        event_id = body.get(self._id_field)
        if event_id is not None:
            if type(event_id) is str:
                if len(event_id) > MAX_TEXT_CHARACTERS:
                    raise RecordError(
                        f'field "{self._id_field}" has {len(event_id):,} characters; '
                        f"expected at most {MAX_TEXT_CHARACTERS:,}"
                    )
            elif type(event_id) is not int:
                raise RecordError(
                    f'field "{self._id_field}" is {_kind(event_id)}; expected a string or an integer'
                )

        time = timestamp / 1_000
        if self._time_field is not None:
            given = body.get(self._time_field)
            if given is not None:
                time = self._time(given, time)

        if x is None and (y is None or event_id is None):
            raise RecordError(self._shape_reason(body))
        return new_tuple(Event, (event_id, time, x, y))

    def _decoder_of(self, headers: Headers) -> EventDecoder:
        """What reads a record with these headers."""
        relayed = relayed_for(headers)
        if relayed is None:
            return self
        pipeline, kind, _ = relayed
        if pipeline != self._pipeline:
            raise RelayedForAnother
        return self if self._labels is None or kind != LABELS else self._labels

    def time_of(self, record: Record) -> float | None:
        """When the event in a record was, seconds since the epoch; None if the record does not say it well."""
        if self._time_field is None or record.value is None or len(record.value) > MAX_RECORD_BYTES:
            return None
        try:
            given = orjson.loads(record.value)[self._time_field]
            return None if given is None else self._time(given, record.timestamp / 1_000)
        except (ValueError, LookupError, TypeError, RecordError):
            return None

    def label(self, given: object) -> Label:
        """The label that a value means.

        Raises:
            RecordError: It is none of this task.
        """
        try:
            return self._label(given)
        except (KeyError, TypeError):
            raise RecordError(
                f'field "{self._label_field}" is {_shown(given)}; expected true, false, 1 or 0 '
                f"(or name the value that means true: [{self._section}] positive)"
            ) from None

    def _flat_features(self, body: dict[str, object]) -> dict[str, object] | None:
        if self._feature_fields is None:
            return {name: item for name, item in body.items() if name not in self._not_features}
        return {name: body[name] for name in self._feature_fields if name in body}

    def _checked_features(self, found: object) -> Features | None:
        """Look at each feature; None when not one is left without the missing ones (null)."""
        if not isinstance(found, dict):
            raise RecordError(
                f'field "{self._object_field}" is {_kind(found)}; expected an object of features'
            )
        if len(found) > MAX_FEATURES:
            raise RecordError(f"it has {len(found):,} features; expected at most {MAX_FEATURES:,}")
        x: Features = {}
        for name, item in found.items():
            kind = type(item)
            if len(name) > MAX_NAME_CHARACTERS:
                raise RecordError(
                    f'the name of feature "{name[:32]}…" has {len(name):,} characters; '
                    f"expected at most {MAX_NAME_CHARACTERS}"
                )
            if kind is float or kind is int or kind is bool:
                x[name] = item
            elif kind is str:
                if len(item) > MAX_TEXT_CHARACTERS:
                    raise RecordError(
                        f'feature "{name}" has {len(item):,} characters; expected at most {MAX_TEXT_CHARACTERS:,}'
                    )
                x[name] = item
            elif item is not None:
                raise RecordError(
                    f'feature "{name}" is {_kind(item)}; expected a number, a string or a boolean'
                )
        self._checked_names = list(found) or None
        return x or None

    def _time(self, given: object, record_time: float) -> float:
        if isinstance(given, str):
            try:
                moment = datetime.fromisoformat(given)
            except ValueError:
                moment = None
            if moment is None:
                raise RecordError(
                    f'field "{self._time_field}" is {_shown(given)}; expected epoch seconds, milliseconds or ISO 8601'
                )
            time = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        elif isinstance(given, (int, float)) and not isinstance(given, bool):
            time = float(given) if abs(given) < MAX_SECONDS else given / 1_000
        else:
            raise RecordError(
                f'field "{self._time_field}" is {_kind(given)}; expected epoch seconds, milliseconds or ISO 8601'
            )
        if time - record_time > self._max_ahead_seconds:
            raise RecordError(
                f'field "{self._time_field}" is {_shown(given)}, {time - record_time:,.6g} s ahead of the record\'s '
                f"timestamp; expected at most {self._max_ahead_seconds:,.0f} s"
            )
        return time

    def _is_positive(self, label: object) -> bool:
        if not isinstance(label, self._positive_kinds):
            raise RecordError(
                f'field "{self._label_field}" is {_kind(label)}; expected a value like {_shown(self._positive)}'
            )
        return label == self._positive

    def _shape_reason(self, body: dict[str, object]) -> str:
        if not body:
            return "it is an empty object; expected features, or an id with a label"
        where = f'an object "{self._object_field}"' if self._object_field else "at least one feature"
        names = ", ".join(f'"{name[:32]}"' for name in list(body)[:8])
        if body.get(self._label_field) is not None:
            return f"it has a label but neither features nor an id; expected {where}, or an id (an answer)"
        return f'it has neither features nor a label (its fields: {names}); expected {where}, or "{self._label_field}"'


class LabelDecoder(EventDecoder):
    """Reads what comes from a labels topic: always an answer, whatever else is in it.

    Args:
        task: Fixes the label's type, as for events.
        id_field: Field with the id of the event that is labelled.
        time_field: Field with the time of the label, or None to use the record's timestamp.
        label_field: Field with the label.
        positive: Binary only: the label's value that means true.
        max_ahead_seconds: How far a label's time may be ahead of the record's timestamp.

    Example:
        >>> decoder = LabelDecoder(task="binary", id_field="tx", label_field="verdict", positive="fraud")
        >>> decoder.decode(Record(0, 7, 1_000, None, b'{"tx": "a", "verdict": "fraud", "features": {"a": 1}}'))
        Event(id='a', time=1.0, x=None, y=True)
    """

    _section = "labels"

    def __init__(
        self,
        *,
        task: Task,
        id_field: str | None = "id",
        time_field: str | None = None,
        label_field: str = "label",
        positive: str | bool | int | None = None,
        max_ahead_seconds: float = 3600.0,
    ) -> None:
        super().__init__(
            task=task,
            id_field=id_field,
            time_field=time_field,
            label_field=label_field,
            features=[],
            positive=positive,
            max_ahead_seconds=max_ahead_seconds,
        )

    def _decoder_of(self, headers: Headers) -> EventDecoder:
        return self

    def _shape_reason(self, body: dict[str, object]) -> str:
        wanted = ((self._id_field, "id"), (self._label_field, "label"))
        lacking = " and ".join(
            f'no "{name}" ([labels] {key})' for name, key in wanted if name is None or body.get(name) is None
        )
        names = ", ".join(f'"{name[:32]}"' for name in list(body)[:8]) or "none"
        return (
            f"as a label it has {lacking} (its fields: {names}); expected the id of an event, and its label"
        )


def _text_label(label: object) -> str:
    if isinstance(label, str):
        if len(label) > MAX_NAME_CHARACTERS:
            raise RecordError(
                f"the label has {len(label):,} characters; expected at most {MAX_NAME_CHARACTERS}"
            )
        return label
    if isinstance(label, bool):
        return "true" if label else "false"
    if isinstance(label, int):
        return str(label)
    if isinstance(label, float):
        return str(int(label)) if label.is_integer() and abs(label) < 2**53 else repr(label)
    raise RecordError(f"the label is {_kind(label)}; expected a string or a number (multi-class)")


def _number_label(label: object) -> float:
    if isinstance(label, (int, float)) and not isinstance(label, bool):
        if not -LARGEST_LABEL <= label <= LARGEST_LABEL:
            raise RecordError(f"the label is {label:.6g}; expected a number between -1e100 and 1e100")
        return float(label)
    raise RecordError(f"the label is {_shown(label)}; expected a number (regression)")


def _kind(value: object) -> str:
    """What a JSON value is, in words.

    Example:
        >>> _kind([1, 2]), _kind("n/a"), _kind(True)
        ('a list', 'a string', 'a boolean')
    """
    if value is None:
        return "null"
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return names[type(value)]


def _shown(value: object) -> str:
    """A JSON value for a message: itself if it is short, else its beginning."""
    try:
        text = orjson.dumps(value).decode()
    except TypeError:  # it reads deeper nesting than it writes
        return _kind(value)
    return text if len(text) <= 64 else f"{text[:64]}…"


def scores_of(y_proba: Scores) -> dict[str, float]:
    """Class → probability with text classes, sorted by class.

    Example:
        >>> scores_of({True: 0.75, False: 0.25})
        {'false': 0.25, 'true': 0.75}
    """
    # Asking, not trying: some of River's are counters, which have every key.
    if False in y_proba and True in y_proba:
        return {"false": y_proba[False], "true": y_proba[True]}
    return {BINARY_NAMES.get(label) or str(label): y_proba[label] for label in sorted(y_proba)}


def encode_json(body: Mapping[str, object]) -> bytes:
    """A JSON object as Headrace writes it: NaN and infinities become null, NumPy numbers numbers."""
    # The join copies. orjson gives back the front of a buffer of a kilobyte, and while that is kept, as an output is
    # until it is committed, the rest of the kilobyte fits no other: 2.7 kB an event instead of 0.5, and 2 us more.
    return b"".join((orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), b""))


def finite(value: float) -> float | None:
    """The value, or None in place of NaN and the infinities, which JSON has no name for."""
    return value if math.isfinite(value) else None


def dead_letter(record: Record, *, pipeline: str, topic: str, stage: str, error: BaseException) -> Output:
    """The record itself, byte for byte, with headers that say where it stood and why it is here.

    The original headers come first and untouched; ours start with `headrace.`. A value too large for any topic (a small
    compressed record can unpack to gigabytes) is left out, with its size and SHA-256 in two more headers.
    """
    message = str(error) or type(error).__name__
    value = record.value
    omitted: Headers = ()
    if value is not None and len(value) > MAX_DEAD_LETTER_BYTES:
        omitted = (
            ("headrace.omitted-bytes", str(len(value)).encode()),
            ("headrace.omitted-sha256", sha256(value).hexdigest().encode()),
        )
        value = None
    ours: Headers = (
        ("headrace.pipeline", pipeline.encode()),
        ("headrace.position", position(topic, record.partition, record.offset).encode()),
        ("headrace.topic", topic.encode()),
        ("headrace.partition", str(record.partition).encode()),
        ("headrace.offset", str(record.offset).encode()),
        ("headrace.stage", stage.encode()),
        ("headrace.error", type(error).__name__.encode()),
        ("headrace.message", message[:MAX_TEXT_CHARACTERS].encode("utf-8", "replace")),
    )
    return Output("dead_letters", record.key, value, (*(record.headers or ()), *ours, *omitted))
