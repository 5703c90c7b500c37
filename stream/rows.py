"""Rows of a file or of standard input as the events they stand for: what `send` sends and `backtest` runs on.

JSON Lines go as they are, a line a record. A CSV file has a header; its values become numbers, booleans or text,
an empty one is left out, and the columns go where the settings look for them.
"""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Final, Literal, NamedTuple, get_args

import orjson

from stream.errors import HeadraceError
from stream.settings import EventSettings, Settings

RowFormat = Literal["jsonl", "csv"]

SUFFIXES: Final[dict[str, RowFormat]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
#: Bytes of the beginning that decide on the format and the separator.
HEAD_BYTES: Final = 65_536
#: The most bytes of one CSV value; a record may have 256 KiB in all.
MAX_VALUE_BYTES: Final = 1_048_576
BOM: Final = b"\xef\xbb\xbf"
#: What counts as a number. Not "007", which is a code: as a number it would lose its zeros.
NUMBER: Final = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
WORDS: Final[dict[str, bool | None]] = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
    "": None,
    "nan": None,
    "NaN": None,
}


class RowError(HeadraceError):
    """A file of rows can't be read: where, what is there, what was expected."""

    exit_code = 2

    def __init__(self, place: str, text: str) -> None:
        super().__init__(place, text)
        #: The file and, where one is at fault, the line: `payments.csv:12`.
        self.place = place
        #: The rest of the sentence.
        self.text = text

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Row(NamedTuple):
    """One row, ready to be sent."""

    #: Its line in the file, from 1; the first of several.
    line: int
    #: The event as JSON.
    value: bytes


def read_rows(source: Path | None, format: RowFormat | None, settings: Settings) -> Iterator[Row]:
    """The rows of a file as the events that `headrace send` makes of them.

    Blank lines are left out. A JSON line is not looked into: one that is no event is a dead letter here as there.

    Args:
        source: The file; None or `-` is standard input.
        format: `jsonl` or `csv`; None goes by the file's name, and without a telling name by the first character.
        settings: Say where in an event id, time, label and features are. With one field for all features the CSV
            columns go into that one; otherwise they stay beside each other.

    Raises:
        RowError: The file can't be read or is not what its format asks for; names the file and the line.
    """
    if format is not None and format not in get_args(RowFormat):
        raise ValueError(f"format is {format!r}; expected jsonl or csv")
    if source is None or str(source) == "-":
        yield from _rows(_Head(sys.stdin.buffer), "<stdin>", format, settings.event)
        return
    try:
        with source.open("rb") as file:
            yield from _rows(_Head(file), str(source), format or SUFFIXES.get(source.suffix), settings.event)
    except FileNotFoundError:
        raise RowError(str(source), "there is no such file.") from None
    except IsADirectoryError:
        raise RowError(str(source), "this is a folder; expected a file.") from None
    except OSError as error:
        raise RowError(str(source), f"the file can't be read: {error.strerror}.") from None


class _Head:
    """A binary stream whose beginning may be looked at before it is read; a pipe can't be rewound."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.first = raw.readline(HEAD_BYTES)
        while self.first and not self.first.strip() and len(self.first) < HEAD_BYTES:
            line = raw.readline(HEAD_BYTES)
            if not line:
                break
            self.first += line
        self.first = self.first.removeprefix(BOM)

    def lines(self) -> Iterator[bytes]:
        """All lines, from the beginning."""
        head = self.first
        if head and not head.endswith(b"\n"):
            head += self._raw.readline()
        yield from io.BytesIO(head)
        yield from self._raw


def _rows(head: _Head, name: str, format: RowFormat | None, event: EventSettings) -> Iterator[Row]:
    beginning = head.first.lstrip()
    if format is None:
        format = "jsonl" if beginning.startswith((b"{", b"[")) else "csv"
    if format == "csv":
        return _csv_rows(head, name, event)
    if beginning.startswith(b"["):
        raise RowError(
            name, "this begins a JSON list; expected JSON Lines, one object a line (jq -c '.[]' makes them)."
        )
    return _json_rows(head)


def _json_rows(head: _Head) -> Iterator[Row]:
    for number, line in enumerate(head.lines(), start=1):
        if value := line.strip():
            yield Row(number, value)


def _csv_rows(head: _Head, name: str, event: EventSettings) -> Iterator[Row]:
    first = head.first.lstrip().split(b"\n", 1)[0]
    separator = "," if b"," in first else "\t" if b"\t" in first else ";" if b";" in first else ","
    lines = _decoded(head.lines(), name)
    csv.field_size_limit(MAX_VALUE_BYTES)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=separator != "\t", strict=True)
    convert: _Converter | None = None
    end = 0
    while True:
        try:
            values = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise RowError(f"{name}:{end + 1}", f"this is not CSV: {error}.") from None
        line, end = end + 1, reader.line_num
        if not values:
            continue
        if convert is None:
            _check_header(values, f"{name}:{line}", event)
            convert = _Converter(values, event)
        elif len(values) != len(convert.names):
            raise RowError(
                f"{name}:{line}",
                f"the row has {len(values)} values; expected {len(convert.names)}, as the header has.",
            )
        else:
            yield Row(line, convert(values))
    if convert is None:
        raise RowError(name, "it is empty; expected a header and rows (CSV).")


def _decoded(lines: Iterator[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise RowError(
                f"{name}:{number}",
                f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8.",
            ) from None


def _check_header(names: Sequence[str], place: str, event: EventSettings) -> None:
    if "" in names:
        raise RowError(place, f"column {names.index('') + 1} has no name; expected a header (CSV).")
    for name in names:
        if names.count(name) > 1:
            raise RowError(place, f'column "{name}" is there {names.count(name)} times; expected it once.')
    if not isinstance(event.features, tuple):
        return
    missing = [name for name in event.features if name not in names]
    is_answers = len(missing) == len(event.features) and event.label in names and event.id in names
    if missing and not is_answers:
        near = get_close_matches(missing[0], names, n=1)
        hint = f' (did you mean "{near[0]}"?)' if near else ""
        raise RowError(
            place,
            f'there is no column "{missing[0]}"{hint}, which [event] features names; '
            "add it, with empty values if there are none, or take it out of the settings.",
        )


class _Converter:
    """Makes the event of a CSV row."""

    def __init__(self, names: Sequence[str], event: EventSettings) -> None:
        self.names = list(names)
        self._id = event.id
        #: The label is compared with a text then, so it must stay one.
        self._text_label = event.label if isinstance(event.positive, str) else None
        self._object = event.features if isinstance(event.features, str) else None
        reserved = {event.id, event.time, event.label}
        self._beside = [name in reserved for name in names]

    def __call__(self, values: Sequence[str]) -> bytes:
        body: dict[str, object] = {}
        features: dict[str, object] = body if self._object is None else {}
        for name, text, beside in zip(self.names, values, self._beside, strict=True):
            if name in (self._id, self._text_label):
                value: object = text or None
            else:
                value = _value(text)
            if value is not None:
                (body if beside else features)[name] = value
        if self._object is not None and features:
            body[self._object] = features
        return orjson.dumps(body)


def _value(text: str) -> str | float | bool | None:
    """A CSV value as JSON would have it; None: missing.

    Example:
        >>> [_value(text) for text in ("3", "2.50", "1e3", "true", "007", "DE", "", "nan")]
        [3, 2.5, 1000.0, True, '007', 'DE', None, None]
    """
    stripped = text.strip()
    if stripped in WORDS:
        return WORDS[stripped]
    if NUMBER.fullmatch(stripped) is None:
        return text
    if stripped.lstrip("+-").isdecimal() and len(stripped) < 19:  # fits in 64 bits
        return int(stripped)
    number = float(stripped)
    return number if math.isfinite(number) else text
