"""Outcomes and predictions as rows of a table, and the table as CSV or Parquet."""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple, Protocol, get_args

import orjson

from stream.codec import Task
from stream.errors import ConfigError, EnvironmentRefused, Mistake, ResourcesExhausted
from stream.labels import LabelState, id_text
from stream.records import Label
from stream.tools.cluster import Found

#: States that an outcome names.
STATES: Final[tuple[LabelState, ...]] = get_args(LabelState)
#: Characters at the beginning of a text by which a spreadsheet takes it for a formula.
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: The years that Python and every notebook have, 1 to 9999, in microseconds since the epoch.
FIRST_MICROSECOND: Final = -62_135_596_800_000_000
LAST_MICROSECOND: Final = 253_402_300_799_999_999

#: What a column holds: microseconds since the epoch (`time`), 64-bit integers, floats, text or truth values.
Kind = Literal["time", "integer", "float", "text", "truth"]


class Column(NamedTuple):
    """A column of the table."""

    name: str
    kind: Kind
    meaning: str


def columns(task: Task) -> list[Column]:
    """The columns of the table, in order.

    Example:
        >>> [column.name for column in columns("binary")][:4]
        ['id', 'state', 'partition', 'offset']
    """
    value: Kind = {"binary": "truth", "multiclass": "text", "regression": "float"}[task]  # type: ignore[assignment]
    error: Kind = "float" if task == "regression" else "integer"
    return [
        Column("id", "text", "The event's id; a number as text."),
        Column("state", "text", "What became of the question or of the label."),
        Column("partition", "integer", "Partition of the events topic."),
        Column("offset", "integer", "Offset of the question, or of the labelled event."),
        Column("label_offset", "integer", "Offset of the record in which the label came."),
        Column("time", "time", "Event time of the question."),
        Column("label_time", "time", "Event time of the label."),
        Column("prediction", value, "What was predicted."),
        Column("label", value, "The label."),
        Column("error", error, "0 right, 1 wrong; for regression the absolute error."),
        Column(
            "label_delay_seconds",
            "float",
            "Event time from question to label; negative: the label came first.",
        ),
        Column("outcome_offset", "integer", "Offset of the row's own record on the outcomes topic."),
        Column(
            "timestamp", "time", "Timestamp of that record: of the event because of which it was written."
        ),
    ]


#: Values of a row, in the order of the columns.
Row = tuple[object, ...]


# --- A row -----------------------------------------------------------------------------------------------


def microseconds(seconds: float) -> int | None:
    """Microseconds since the epoch; None for a time outside the years 1 to 9999.

    Example:
        >>> microseconds(1.5), microseconds(1e300)
        (1500000, None)
    """
    if not FIRST_MICROSECOND / 1e6 <= seconds <= LAST_MICROSECOND / 1e6:
        return None
    found = round(seconds * 1e6)
    return found if FIRST_MICROSECOND <= found <= LAST_MICROSECOND else None


def row_of(record: Found, task: Task) -> Row | None:
    """A record of an outcomes topic as a row; None if it is no outcome of a pipeline with this task."""
    body = _object(record.value)
    if body is None or body.get("state") not in STATES or body.get("partition") != record.partition:
        return None
    try:
        values = (
            _id(body["id"]),
            body["state"],
            record.partition,
            _whole(body["offset"]),
            _whole(body["label_offset"]),
            _time(body["time"]),
            _time(body["label_time"]),
            _label(body["prediction"], task),
            _label(body["label"], task),
            _error(body["error"], task),
            _number(body["label_delay_seconds"]),
        )
    except (KeyError, TypeError):
        return None
    return (*values, record.offset, _timestamp(record))


class Predicted(NamedTuple):
    """A prediction that was read."""

    #: The event's own offset, and its time.
    offset: int
    time: float | None
    #: Whether it may wait for a label: it has an id, and is not the prediction of an earlier event once more.
    may_wait: bool
    #: It as a row, if it waits.
    row: Row


def prediction_of(record: Found, task: Task) -> Predicted | None:
    """A record of a predictions topic; None if it is no prediction of a pipeline with this task."""
    body = _object(record.value)
    if body is None or body.get("partition") != record.partition:
        return None
    try:
        name, offset, time = _id(body["id"]), _whole(body["offset"]), _number(body["time"])
        predicted = _label(body["prediction"], task)
    except (KeyError, TypeError):
        return None
    if offset is None:
        return None
    begin = (name, "pending", record.partition, offset, None, None if time is None else microseconds(time))
    row = (*begin, None, predicted, None, None, None, None, _timestamp(record))
    return Predicted(offset, time, name is not None and "duplicate_of" not in body, row)


def _timestamp(record: Found) -> int | None:
    """Microseconds since the epoch; None for a timestamp of no year, which a topic may be told to take."""
    found = record.timestamp * 1_000
    return found if FIRST_MICROSECOND <= found <= LAST_MICROSECOND else None


def _object(value: bytes | None) -> dict[str, Any] | None:
    try:
        body = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    return body if type(body) is dict else None


def _id(value: object) -> str | None:
    if value is None:
        return None
    if type(value) is str or type(value) is int:
        return id_text(value)
    raise TypeError


def _whole(value: object) -> int | None:
    if value is None or (type(value) is int and 0 <= value < 2**63):
        return value
    raise TypeError


def _number(value: object) -> float | None:
    if value is None:
        return None
    if type(value) is float or type(value) is int:
        return float(value)
    raise TypeError


def _time(value: object) -> int | None:
    seconds = _number(value)
    return None if seconds is None else microseconds(seconds)


def _label(value: object, task: Task) -> Label | None:
    if task == "regression":
        return _number(value)
    if value is None or type(value) is (bool if task == "binary" else str):
        return value
    raise TypeError


def _error(value: object, task: Task) -> float | int | None:
    return _number(value) if task == "regression" else _whole(value)


# --- A file ----------------------------------------------------------------------------------------------


class Sink(Protocol):
    """Where rows go."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write some rows."""

    def close(self) -> None:
        """Write what comes last."""


class CsvSink:
    r"""Rows as CSV in UTF-8 (RFC 4180, lines end with a line feed).

    A value that is not known is empty, and texts are in quotation marks, so that an empty text is something else. Times
    are UTC in ISO 8601; floats have all the digits that they need to be read back as they are.

    Args:
        file: Takes the bytes.
        table: The columns.
        spreadsheet: Put an apostrophe before a text that a spreadsheet would take for a formula.

    Example:
        >>> import io
        >>> CsvSink(io.BytesIO(), [Column("id", "text", ""), Column("error", "float", "")]).line(('a"b', None))
        '"a""b",\n'
    """

    def __init__(self, file: BinaryIO, table: Sequence[Column], *, spreadsheet: bool = False) -> None:
        self._file = file
        self._spreadsheet = spreadsheet
        self._written = [_CSV[column.kind] for column in table]
        self._texts = [number for number, column in enumerate(table) if column.kind == "text"]
        file.write((",".join(column.name for column in table) + "\n").encode())

    def line(self, row: Row) -> str:
        """A row as a line."""
        if self._spreadsheet:
            values = list(row)
            for number in self._texts:
                if like_a_formula(values[number]):
                    values[number] = f"'{values[number]}"
            row = tuple(values)
        return (
            ",".join(
                "" if value is None else written(value)
                for written, value in zip(self._written, row, strict=True)
            )
            + "\n"
        )

    def write(self, rows: Sequence[Row]) -> None:
        """Write some rows."""
        self._file.write("".join(map(self.line, rows)).encode())

    def close(self) -> None:
        """Hand over what is still in a buffer."""
        self._file.flush()


def like_a_formula(value: object) -> bool:
    """Whether a spreadsheet would take a text for a formula, and follow it.

    Example:
        >>> like_a_formula("=HYPERLINK(0)"), like_a_formula("a=b"), like_a_formula(-1.5)
        (True, False, False)
    """
    return type(value) is str and value.startswith(FORMULA)


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _truth(value: Any) -> str:
    return "true" if value else "false"


def _moment(value: Any) -> str:
    return (EPOCH + timedelta(microseconds=value)).isoformat().removesuffix("+00:00") + "Z"


_CSV: Final[Mapping[Kind, Callable[[Any], str]]] = {
    "time": _moment,
    "integer": str,
    "float": repr,
    "text": _quoted,
    "truth": _truth,
}


class ParquetSink:
    """Rows as Parquet, a row group for each time that some are written.

    Args:
        file: Takes the bytes.
        table: The columns.

    Raises:
        EnvironmentRefused: Nothing that writes Parquet is installed.
    """

    def __init__(self, file: BinaryIO, table: Sequence[Column]) -> None:
        self._arrow = arrow()
        a = self._arrow
        kinds = {
            "time": a.timestamp("us", tz="UTC"),
            "integer": a.int64(),
            "float": a.float64(),
            "text": a.string(),
            "truth": a.bool_(),
        }
        self._schema = a.schema([a.field(column.name, kinds[column.kind]) for column in table])
        self._writer = importlib.import_module("pyarrow.parquet").ParquetWriter(file, self._schema)

    def write(self, rows: Sequence[Row]) -> None:
        """Write some rows."""
        arrays = [
            self._arrow.array(values, kind)
            for values, kind in zip(zip(*rows, strict=True), self._schema.types, strict=True)
        ]
        self._writer.write_batch(self._arrow.record_batch(arrays, schema=self._schema))

    def close(self) -> None:
        """Write the footer, without which it is no Parquet file."""
        self._writer.close()


def arrow() -> Any:
    """Apache Arrow.

    Raises:
        EnvironmentRefused: It is not installed.
    """
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise EnvironmentRefused(
            'Parquet needs pyarrow, which is not installed; run: pip install "headrace[parquet]" (or export CSV)'
        ) from error


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of another one, if there is one, when all of it is written, and not before.

    Raises:
        ConfigError: It can't be made there.
        ResourcesExhausted: It can't be written; what was there before still is.
    """
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        file = temporary.open("xb")
    except OSError as error:
        text = f"is {str(path)!r}, which can't be written: {error.strerror}."
        raise ConfigError([Mistake(place="--output", setting="", text=text)]) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ResourcesExhausted(f"{path} can't be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
