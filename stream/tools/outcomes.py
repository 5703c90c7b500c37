"""`headrace outcomes`: what became of predictions and labels, as a table for a notebook.

One row a record of the outcomes topic, partition after partition and in the order of the log, so that two exports of
the same range are the same bytes. Questions that still wait come from the predictions topic: one bit is kept for each
event, not one row.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from stream.codec import Task
from stream.errors import ConfigError, EnvironmentRefused, Mistake
from stream.labels import LabelState
from stream.records import position
from stream.settings import Settings
from stream.tools.cluster import Bounds, Cluster, Found, Reader, TopicFacts, time_of
from stream.tools.table import (
    STATES,
    CsvSink,
    ParquetSink,
    Row,
    Sink,
    arrow,
    columns,
    like_a_formula,
    prediction_of,
    replaced,
    row_of,
)

#: So many rows are written at once, or so many bytes of records: a row group of a Parquet file.
ROWS: Final = 50_000
ROWS_BYTES: Final = 16 * 1024 * 1024
#: Events whose bits lie in one piece.
PIECE: Final = 1 << 16
#: How much older than its question's the timestamp of an answer may be, in milliseconds: so far before a range it is
#: looked for what no longer waits. A clock that is off by more than a day is off by years.
SKEW_MS: Final = 86_400_000


# --- What is asked for -----------------------------------------------------------------------------------


class Edge(NamedTuple):
    """One end of a range."""

    #: Offset on the outcomes topic; None: it is a time.
    offset: int | None
    #: Timestamp of a record, milliseconds since the epoch; None: it is an offset.
    timestamp: int | None


def edge_of(text: str, option: str) -> Edge:
    """An end of a range as an option says it.

    Raises:
        ConfigError: It is neither an offset nor a time.

    Example:
        >>> edge_of("12", "--from"), edge_of("1970-01-01T00:00:01Z", "--to").timestamp
        (Edge(offset=12, timestamp=None), 1000)
    """
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return Edge(int(text), None)
    return Edge(None, round(time_of(text, option, "an offset, or ").timestamp() * 1_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which outcomes are exported, and where to."""

    #: From here on, and up to here without it; None: all there is.
    begin: Edge | None = None
    end: Edge | None = None
    #: None: all of them.
    partition: int | None = None
    states: Sequence[LabelState] = STATES
    #: Whether also the questions that still wait.
    pending: bool = False
    #: CSV or Parquet, by its name; None: CSV to standard output.
    output: Path | None = None
    #: Whether texts are changed that a spreadsheet would take for formulas.
    spreadsheet: bool = False


@dataclass(slots=True, kw_only=True)
class Export:
    """What was exported."""

    topic: str
    #: The file; None: standard output.
    output: str | None
    rows: int = 0
    #: Rows by state.
    states: Counter[str] = field(default_factory=Counter)
    #: For each partition where its range began, and the next offset behind it: the first that is left out.
    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    #: Records that are no outcomes of this pipeline, and where the first of them stands.
    foreign: int = 0
    first_foreign: str | None = None
    #: Texts that a spreadsheet takes for formulas; None: not looked for.
    formulas: int | None = None
    #: Predictions with neither an outcome nor a wait that could still go on; None: not looked for.
    untold: int | None = None

    def to_dict(self) -> dict[str, object]:
        """The fields by name, ready for JSON."""
        return {
            "topic": self.topic,
            "output": self.output,
            "rows": self.rows,
            "states": dict(self.states),
            "partitions": [
                {"partition": partition, "from": begin, "next_offset": end}
                for partition, (begin, end) in self.ranges.items()
            ],
            "foreign": self.foreign,
            "first_foreign": self.first_foreign,
            "formulas": self.formulas,
            "untold": self.untold,
        }


# --- The export ------------------------------------------------------------------------------------------


def export(
    settings: Settings,
    wanted: Wanted,
    *,
    checked: Callable[[int], None] = lambda records: None,
    advanced: Callable[[int], None] = lambda records: None,
) -> Export:
    """Write what is wanted.

    Args:
        settings: The pipeline's settings.
        wanted: Which outcomes, and where to.
        checked: Told how many records there are at most.
        advanced: Told now and then how many were read.

    Raises:
        ConfigError: What is wanted does not go together.
        EnvironmentRefused: A topic or a partition is missing, the broker is away, or nothing writes Parquet.
    """
    _require_sense(settings, wanted)
    output, task = wanted.output, settings.task
    if output is not None and output.suffix == ".parquet":
        arrow()  # before anything is asked or made
    with Cluster(settings) as cluster:
        spans = list(_spans(cluster, settings, wanted))
    checked(sum(span.records for span in spans))
    found = Export(topic=settings.topics.outcomes or "", output=None if output is None else str(output))
    if output is None or output.suffix == ".csv":
        found.formulas = 0
    if output is None:
        sink: Sink = CsvSink(sys.stdout.buffer, columns(task), spreadsheet=wanted.spreadsheet)
        _write(settings, wanted, spans, sink, found, advanced=advanced)
        return found
    with replaced(output) as file:
        if output.suffix == ".csv":
            sink = CsvSink(file, columns(task), spreadsheet=wanted.spreadsheet)
        else:
            sink = ParquetSink(file, columns(task))
        _write(settings, wanted, spans, sink, found, advanced=advanced)
    return found


def _require_sense(settings: Settings, wanted: Wanted) -> None:
    output = wanted.output
    if settings.topics.outcomes is None:
        raise EnvironmentRefused(
            f"{settings.path}: [topics] outcomes is missing, so no outcomes are written. Name a topic, such as "
            f'outcomes = "{settings.name}.outcomes", make it (headrace topics create {settings.path}), and start the '
            "workers again: from then on they write what becomes of each prediction."
        )
    if output is not None and (output.suffix not in (".csv", ".parquet") or output.is_dir()):
        raise _option("--output", f"is {str(output)!r}; expected the name of a .csv or .parquet file, or -.")
    if wanted.spreadsheet and output is not None and output.suffix == ".parquet":
        raise _option("--spreadsheet", "is for CSV, and --output is Parquet; leave one of them out.")
    edges = [edge for edge in (wanted.begin, wanted.end) if edge is not None]
    if wanted.pending and any(edge.offset is not None for edge in edges):
        raise _option(
            "--pending", "needs times in --from and --to: an offset of outcomes says nothing of predictions."
        )
    if wanted.pending and settings.event.duplicates == "repeat":
        raise _option(
            "--pending",
            'can\'t tell a question from the repeated prediction of another: [event] duplicates is "repeat"; expected '
            '"mark" or "drop".',
        )


def _option(option: str, text: str) -> ConfigError:
    return ConfigError([Mistake(place=option, setting="", text=text)])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """What is read of a partition."""

    partition: int
    #: From where, and up to where, outcomes are read.
    begin: int
    end: int
    #: Before this offset they are read only to know what no longer waits.
    since: int
    #: The same for predictions; nothing without `pending`.
    predictions: tuple[int, int] = (0, 0)

    @property
    def records(self) -> int:
        """How many records these are, at most."""
        first, last = self.predictions
        return max(0, self.end - self.begin) + max(0, last - first)


def _spans(cluster: Cluster, settings: Settings, wanted: Wanted) -> Iterator[_Span]:
    topic, predictions = settings.topics.outcomes or "", settings.topics.predictions
    facts = _topic(cluster, settings, topic)
    if wanted.partition is not None and wanted.partition >= facts.partitions:
        raise EnvironmentRefused(
            f"{topic} has no partition {wanted.partition}; expected 0 to {facts.partitions - 1}."
        )
    partitions = list(range(facts.partitions)) if wanted.partition is None else [wanted.partition]
    for option, edge in (("--from", wanted.begin), ("--to", wanted.end)):
        if edge is not None and edge.offset is not None and len(partitions) > 1:
            raise _option(
                option, f"is an offset, and {topic} has {facts.partitions} partitions: add --partition."
            )
    asked: list[Bounds] = []
    if wanted.pending:
        # In this order, and outcomes as far as they are open: what a prediction's own transaction says is seen.
        count = _topic(cluster, settings, predictions).partitions
        asked = cluster.bounds(predictions, count)
        if count != facts.partitions:
            raise EnvironmentRefused(
                f"{predictions} has {count} partitions and {topic} has {facts.partitions}; expected the same number. "
                f"See: headrace check {settings.path}"
            )
    bounds = cluster.bounds(topic, facts.partitions, with_open=wanted.pending)
    since = wanted.begin.timestamp if wanted.begin is not None else None

    def reached(name: str, timestamp: int, ends: Sequence[Bounds]) -> dict[int, int]:
        at = cluster.offsets_at(name, partitions, timestamp)
        return {partition: at.get(partition, ends[partition].end) for partition in partitions}

    times = reached(topic, since, bounds) if since is not None else {}
    marks = reached(topic, since - SKEW_MS, bounds) if since is not None and wanted.pending else times
    from_predictions = reached(predictions, since, asked) if since is not None and wanted.pending else {}
    for partition in partitions:
        first, end = bounds[partition]
        start = times.get(partition, first)
        if wanted.begin is not None and wanted.begin.offset is not None:
            start = max(first, wanted.begin.offset)
        if wanted.end is not None and wanted.end.offset is not None:
            end = min(end, wanted.end.offset)
        yield _Span(
            partition=partition,
            begin=min(start, marks.get(partition, start)),
            end=end,
            since=start,
            predictions=(from_predictions.get(partition, asked[partition].first), asked[partition].end)
            if asked
            else (0, 0),
        )


def _topic(cluster: Cluster, settings: Settings, name: str) -> TopicFacts:
    found = cluster.topics([name]).get(name)
    if found is None:
        raise EnvironmentRefused(
            f"there is no topic {name!r}. Make it: headrace topics create {settings.path}"
        )
    return found


def _write(
    settings: Settings,
    wanted: Wanted,
    spans: Sequence[_Span],
    sink: Sink,
    found: Export,
    *,
    advanced: Callable[[int], None],
) -> None:
    desk = Desk(settings.task, wanted, found, expire_after_seconds=settings.labels.expire_after_seconds)
    buffer = Buffer(sink)
    count = 0
    with Reader(settings, [(found.topic, span.partition) for span in spans]) as reader:
        for span in spans:
            desk.begin(span.since)
            found.ranges[span.partition] = (span.since, max(span.since, span.end))
            for topic, (begin, end), row_of_record in (
                (found.topic, (span.begin, span.end), desk.outcome),
                (settings.topics.predictions, span.predictions, desk.prediction),
            ):
                if begin >= end:
                    continue
                reader.turn_to(topic, span.partition, begin)
                for records in reader.read_to(topic, {span.partition: end}):
                    for record in records:
                        row = row_of_record(record)
                        if row is not None:
                            buffer.add(row, len(record.value or b""))
                    count += len(records)
                    advanced(count)
            if desk.left_out_from is not None:
                found.ranges[span.partition] = (span.since, desk.left_out_from)
    buffer.flush()
    sink.close()


class Buffer:
    """Rows on their way to a sink, so many at once that it is worth it, and never more."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._rows: list[Row] = []
        self._bytes = 0

    def add(self, row: Row, size: int) -> None:
        """Take a row; `size` is about how many bytes it has."""
        self._rows.append(row)
        self._bytes += size
        if len(self._rows) >= ROWS or self._bytes >= ROWS_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is there."""
        if self._rows:
            self._sink.write(self._rows)
        self._rows, self._bytes = [], 0


class Desk:
    """Sorts out the records of a partition: which are rows, and which questions still wait.

    Args:
        task: What the pipeline predicts.
        wanted: Which rows are.
        found: Counts.
        expire_after_seconds: How long a question waits.
    """

    def __init__(self, task: Task, wanted: Wanted, found: Export, *, expire_after_seconds: float) -> None:
        self._task = task
        self._wanted = wanted
        self._found = found
        self._wait = expire_after_seconds
        self._earliest = _timestamp(wanted.begin, float("-inf"))
        self._latest = _timestamp(wanted.end, float("inf"))
        self._texts = [number for number, column in enumerate(columns(task)) if column.kind == "text"]
        if wanted.pending:
            found.untold = 0
        self.begin(0)

    def begin(self, since: int) -> None:
        """Begin with a partition; outcomes before this offset say who no longer waits, and are no rows."""
        self._since = since
        #: Offset of the first outcome that is left out since it is after the range of times.
        self.left_out_from: int | None = None
        #: One bit for each event that has an outcome.
        self._closed: dict[int, bytearray] = {}
        #: The largest event time seen; that of the pipeline is never less.
        self._clock = float("-inf")

    def outcome(self, record: Found) -> Row | None:
        """The row of an outcome; None if it is not wanted, or none."""
        if record.timestamp >= self._latest and record.offset >= self._since and self.left_out_from is None:
            self.left_out_from = record.offset
        row = row_of(record, self._task)
        if row is None:
            self._foreign(record)
            return None
        if self._wanted.pending:
            self._close(row)
        if record.offset < self._since or row[1] not in self._wanted.states:
            return None
        return self._counted(row, record)

    def prediction(self, record: Found) -> Row | None:
        """The row of a question that still waits, by its prediction; after all outcomes, and in order."""
        predicted = prediction_of(record, self._task)
        if predicted is None:
            self._foreign(record)
            return None
        if predicted.time is not None and predicted.time > self._clock:
            self._clock = predicted.time
        if not predicted.may_wait or self._is_closed(predicted.offset):
            return None
        if not self._earliest <= record.timestamp < self._latest:
            return None
        if predicted.time is None or predicted.time < self._clock - self._wait:
            self._found.untold = (self._found.untold or 0) + 1
            return None
        return self._counted(predicted.row, record)

    def _counted(self, row: Row, record: Found) -> Row | None:
        if not self._earliest <= record.timestamp < self._latest:
            return None
        found = self._found
        found.rows += 1
        found.states[str(row[1])] += 1
        if found.formulas is not None:
            found.formulas += sum(like_a_formula(row[number]) for number in self._texts)
        return row

    def _foreign(self, record: Found) -> None:
        self._found.foreign += 1
        if self._found.first_foreign is None:
            self._found.first_foreign = position(record.topic, record.partition, record.offset)

    def _close(self, row: Row) -> None:
        offset, times = row[3], (row[5], row[6])
        for time in times:
            if isinstance(time, int) and time / 1e6 > self._clock:
                self._clock = time / 1e6
        if isinstance(offset, int):
            piece = self._closed.setdefault(offset // PIECE, bytearray(PIECE // 8))
            piece[offset % PIECE // 8] |= 1 << offset % 8

    def _is_closed(self, offset: int) -> bool:
        piece = self._closed.get(offset // PIECE)
        return piece is not None and bool(piece[offset % PIECE // 8] >> offset % 8 & 1)


def _timestamp(edge: Edge | None, default: float) -> float:
    return default if edge is None or edge.timestamp is None else edge.timestamp


def sentences_of(found: Export, wanted: Wanted) -> list[str]:
    """What was exported, in words; how many of what comes last."""
    lines = []
    if found.foreign:
        lines.append(
            f"Left out: {found.foreign:,} record{'s' * (found.foreign > 1)} that this pipeline did not write or whose "
            f"labels are of another task, first at {found.first_foreign}."
        )
    if found.untold:
        lines.append(
            f"Left out: {found.untold:,} prediction{'s' * (found.untold > 1)} without an outcome, made too long ago to "
            "wait for a label still: from before outcomes were written, or the outcomes are deleted by now."
        )
    if found.formulas and not wanted.spreadsheet:
        lines.append(
            f"{found.formulas:,} text{'s' * (found.formulas > 1)} would be taken for formulas by a spreadsheet: for "
            "one, export with --spreadsheet."
        )
    states = ", ".join(f"{count:,} {state}" for state, count in found.states.most_common())
    rows = f"{found.rows:,} row{'s' * (found.rows != 1)}"
    where = "" if found.output is None else f" to {found.output}"
    lines.append(f"Wrote {rows} of {found.topic}{where}" + (f": {states}." if states else "."))
    return lines
