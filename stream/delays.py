"""Labelled rows as questions and answers: how good would it have been, had each label come so much later?

Time and order are River's: `moment` and `delay` mean what they mean to `river.evaluate.progressive_val_score`.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import orjson
from river.stream import simulate_qa

from stream.codec import MAX_SECONDS
from stream.decoding import new_decoder
from stream.errors import RecordError
from stream.records import Features, Label, Record
from stream.rows import RowError
from stream.settings import Settings

#: Names that no event has: for an id and a time where the settings name no field.
ID_FIELD: Final = "headrace.id"
TIME_FIELD: Final = "headrace.time"

#: River's: a name of a feature, a function of the features, or None for the number of the row.
Moment = str | Callable[[Any], Any] | None
#: River's: what is added to the moment; or a name of a feature, or a function of features and label, that says it.
Delay = str | int | float | dt.timedelta | Callable[[Any, Any], Any]


class LateRow(NamedTuple):
    """A row, and when its label comes."""

    #: Its number, from 0, and its line in the file.
    number: int
    line: int | None
    #: The event as JSON, with its label.
    value: bytes
    #: When it is asked, and how much later the label comes; whatever can be added and compared.
    moment: Any
    delay: Any


class LateLabels:
    """Rows in the order in which questions are asked and labels come.

    Args:
        settings: The pipeline's settings.
        timed: Whether moments are event time, which both records then carry; else the question keeps its own.
        constant: The delay, if it is the same for every row: River then keeps labels in the order of their rows.
        keep: Whether to keep the rows, so that they can be evaluated once more.

    Attributes:
        settings: Those with which the records are read: fields for id and time are named.
        constant: See above.
        rows: How many rows there were.
        others: How many of them were questions or answers already.
        kept: Those that were labelled events, with their features and labels.
    """

    def __init__(self, settings: Settings, *, timed: bool, constant: Any = None, keep: bool = False) -> None:
        event = settings.event
        fields = {
            "id": event.id or ID_FIELD,
            "time": event.time or (TIME_FIELD if timed else None),
            "max_ahead_seconds": math.inf,
        }
        self.settings = settings.model_copy(update={"event": event.model_copy(update=fields)})
        self._timed = timed
        self.constant = constant
        self._keep = keep
        self.rows = 0
        self.others = 0
        self.kept: list[tuple[LateRow, Features, Label]] = []

    def records(self, rows: Iterable[LateRow]) -> Iterator[tuple[int | None, bytes]]:
        """The line and the value of each record: a question for a row and later its answer.

        A row that is no labelled event stays what it is, in its place.

        Raises:
            RowError: A moment and a delay don't go together.
        """
        decode = new_decoder(self.settings).decode
        event = self.settings.event
        id_field, time_field, label_field = event.id or "", event.time or "", event.label
        #: For each row whose label is still to come its id and the label, as they stand in it.
        coming: dict[int, tuple[Any, Any]] = {}
        for row, revealed in in_order(rows, self.constant):
            if revealed:
                if row.number not in coming:
                    continue
                event_id, label = coming.pop(row.number)
                answer = {id_field: event_id, label_field: label}
                if self._timed:
                    answer[time_field] = _as_sent(seconds_of(row.moment + row.delay, row))
                yield row.line, orjson.dumps(answer)
                continue
            self.rows += 1
            try:
                _, _, x, y = decode(Record(0, row.number, 0, None, row.value))
            except RecordError:  # a dead letter, in its place
                yield row.line, row.value
                continue
            if x is None or y is None:
                self.others += 1
                yield row.line, row.value
                continue
            if self._keep:
                self.kept.append((row, x, y))
            body = orjson.loads(row.value)
            label = body.pop(label_field)
            if body.get(id_field) is None:
                body[id_field] = f"row {row.number}"
            if self._timed:
                body[time_field] = _as_sent(seconds_of(row.moment, row))
            coming[row.number] = body[id_field], label
            yield row.line, orjson.dumps(body)


def in_order(rows: Iterable[LateRow], constant: Any) -> Iterator[tuple[LateRow, bool]]:
    """Each row twice, by River's own simulation: when it is asked, and when its label comes.

    Raises:
        RowError: A moment and a delay can't be added.
    """

    def pairs() -> Iterator[tuple[Any, Any]]:
        for row in rows:
            try:
                row.moment + row.delay
            except TypeError as error:
                text = (
                    f"its moment is {row.moment!r} and its delay {row.delay!r}; expected what can be added."
                )
                raise RowError(_place(row), text) from error
            yield row, row

    simulated: Any = simulate_qa
    for _, row, label in simulated(
        pairs(),
        moment=lambda row: row.moment,
        delay=constant if constant is not None else lambda row, _: row.delay,
        copy=False,
    ):
        yield row, label is not None


def rows_of_pairs(
    pairs: Iterable[tuple[Mapping[Any, Any], Any]],
    encode: Callable[[int, Mapping[Any, Any], Any], bytes],
    *,
    moment: Moment,
    delay: Delay,
) -> Iterator[LateRow]:
    """Rows of features and label with River's `moment` and `delay`."""
    for number, (x, y) in enumerate(pairs):
        try:
            asked = (
                number
                if moment is None
                else x[moment]
                if isinstance(moment, str)
                else moment(x)  # as River does
            )
            late = x[delay] if isinstance(delay, str) else delay(x, y) if callable(delay) else delay
        except KeyError as error:
            raise RowError(
                f"row {number}", f"there is no {error} in it, which moment or delay names."
            ) from error
        yield LateRow(number, None, encode(number, x, y), asked, late)


def rows_of_events(
    rows: Iterable[tuple[int | None, bytes]], settings: Settings, delay: float | str
) -> Iterator[LateRow]:
    """Rows of a file: asked at their event time, their label so many seconds later, or as many as a field of each says.

    That field is no feature: what it says is known only when the label comes.

    Raises:
        RowError: The field of a labelled row is no number >= 0.
    """
    decode = new_decoder(settings).decode
    label_field = settings.event.label
    clock = 0.0
    for number, (line, given) in enumerate(rows):
        value, late = given, 0.0 if isinstance(delay, str) else delay
        body = _object(given) if isinstance(delay, str) else None
        if isinstance(delay, str) and body is not None:
            found = body.pop(delay, None)
            value = orjson.dumps(body)
            if body.get(label_field) is not None:
                if type(found) not in (int, float) or not 0 <= found < math.inf:
                    what = "missing" if found is None else orjson.dumps(found).decode()[:64]
                    text = (
                        f'field "{delay}" is {what}; expected the label\'s delay, a number of seconds >= 0.'
                    )
                    raise RowError(f"row {number}" if line is None else f"line {line}", text)
                late = float(found)
        try:
            time = decode(Record(0, number, int(clock * 1_000), None, value)).time
            if time > clock or not number:
                clock = time
        except RecordError:  # it will be a dead letter, in this place
            time = clock
        yield LateRow(number, line, value, time, late)


def seconds_of(moment: Any, row: LateRow) -> float:
    """A moment as event time, seconds since the epoch; a time without a zone is UTC.

    Raises:
        RowError: It is none.
    """
    if isinstance(moment, dt.datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
    if isinstance(moment, dt.date):
        return dt.datetime(moment.year, moment.month, moment.day, tzinfo=dt.UTC).timestamp()
    try:
        seconds = float(moment)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise RowError(
            _place(row), f"its moment is {moment!r}; expected a time, a date or a number of seconds."
        )
    return seconds


def _as_sent(seconds: float) -> float:
    """A time as an event says it: so large a number is one of milliseconds.

    Example:
        >>> _as_sent(1.5), _as_sent(1e12)
        (1.5, 1000000000000000.0)
    """
    return seconds if abs(seconds) < MAX_SECONDS else seconds * 1_000


def _object(value: bytes) -> dict[str, Any] | None:
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return body if type(body) is dict else None


def _place(row: LateRow) -> str:
    return f"row {row.number}" if row.line is None else f"line {row.line}"
