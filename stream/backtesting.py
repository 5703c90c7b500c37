"""A pipeline over rows at hand, without a broker: how good would it have been?

The same `Pipeline` object that the worker runs is given the same bytes that the worker would be given, so what holds
here holds live.
"""

from __future__ import annotations

import copy
import html
import io
import math
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import orjson
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from river import base, evaluate
from river import metrics as river_metrics

from learners.learner import Task, final_estimator
from monitors import METRICS, Alert, DriftWatch, Figures
from stream.build import new_estimator, new_pipeline
from stream.decoding import new_decoder
from stream.delays import Delay, LateLabels, Moment, rows_of_events, rows_of_pairs
from stream.errors import ConfigError, Mistake, RecordError
from stream.pipeline import Pipeline
from stream.records import Features, Label, Output, Record
from stream.rows import RowError, RowFormat, read_rows
from stream.settings import Settings, load_settings

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Most alerts, and most dead letters, that a result keeps one by one; all are counted.
MOST_KEPT: Final = 10_000
#: Seconds that no event time spans.
FOR_EVER: Final = 1e18
#: Width of a result as text where no terminal says how wide it is, characters.
TEXT_WIDTH: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadRow:
    """A row that would go to the dead-letter topic, or one on which the learner raised."""

    #: Which row, from 0: its offset.
    offset: int
    #: Its line in the file, from 1; None for rows that come from no file.
    line: int | None
    #: `decode`, `predict`, `score`, `drift` or `learn`.
    stage: str
    #: Class of the error.
    error: str
    #: What is wrong with it.
    message: str


@dataclass(frozen=True, kw_only=True, repr=False)
class BacktestResult:
    """What a pipeline made of some rows. Prints as a table, also in a notebook."""

    #: The pipeline's name, task and learner.
    name: str
    task: Task
    learner: str
    #: Rows that were read, and how many of them were events of any kind.
    rows: int
    events: int
    #: Predictions made, predictions scored, labels learned.
    predicted: int
    scored: int
    learned: int
    #: Questions that wait for their label, gave up waiting, and answers without their question.
    pending: int
    expired: int
    unmatched: int
    #: What became of questions and labels, by the names that a status has for it: `joined`, `late`, `early` and so on.
    labels: Mapping[str, int]
    #: Events whose id was seen before, which were not learned.
    duplicates: int
    #: Median (`p50`) and 95th percentile (`p95`) of the last label delays, seconds, and their count; None without any,
    #: and where rows have no time.
    label_delay: Mapping[str, float] | None
    #: Predictions that figures called `window` look back on.
    window: int
    #: For each metric its figure over all rows (`value`) and over the last of them (`window`).
    metrics: Figures
    #: The first metric for no-change and for majority class or mean.
    baselines: Figures
    #: What the drift detectors said; `offset` is the row, from 0. The first 10,000.
    alerts: Sequence[Alert]
    #: How many warnings and drifts there were.
    alert_count: int
    #: Rows that would go to the dead-letter topic. The first 10,000.
    dead_letters: Sequence[DeadRow]
    #: How many there were.
    dead_letter_count: int
    #: One mapping a prediction, as on the predictions topic; None unless asked for.
    predictions: Sequence[Mapping[str, Any]] | None
    #: The same metrics by `river.evaluate.progressive_val_score`; None unless asked for.
    expected: Mapping[str, float | None] | None
    #: Why there is nothing to compare with although it was asked for; else empty.
    not_compared: str = ""
    #: Seconds from the first row to the last, reading and decoding included.
    seconds: float
    #: The learner in the state after the last row; what was given to `backtest` is as it was.
    estimator: base.Estimator = field(compare=False)

    @property
    def events_per_second(self) -> float:
        """Rows in a second, reading and decoding included."""
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def equal(self) -> bool | None:
        """Whether every metric is `progressive_val_score`'s to the last digit; None if not compared."""
        if self.expected is None:
            return None
        return all(self.metrics[name]["value"] == value for name, value in self.expected.items())

    def to_dict(self) -> dict[str, object]:
        """All figures by name, ready for JSON; without the predictions and the estimator."""
        body: dict[str, object] = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.name not in ("predictions", "estimator")
        }
        return body | {
            "alerts": [alert.to_dict() for alert in self.alerts],
            "events_per_second": self.events_per_second,
            "equal": self.equal,
        }

    def header(self) -> list[str]:
        """Names of the columns of `lines`."""
        compared = ["progressive_val_score", "equal"] if self.expected is not None else []
        return ["metric", "all rows", f"last {min(self.window, self.scored):,}", *compared]

    def lines(self) -> list[list[str]]:
        """A line for each metric, and below the first one for each baseline, in words for a table."""
        shown = []
        for name, figures in self.metrics.items():
            line = [name, _figure(figures["value"], self.expected is not None), _figure(figures["window"])]
            if self.expected is not None:
                expected = self.expected[name]
                line += [_figure(expected, True), "yes" if expected == figures["value"] else "NO"]
            shown.append(line)
        below = [
            [f"  {name.replace('_', '-')}", _figure(figures["value"]), _figure(figures["window"])]
            + ([] if self.expected is None else ["", ""])
            for name, figures in self.baselines.items()
        ]
        return shown[:1] + below + shown[1:]

    def notes(self) -> list[str]:
        """Everything beside the metrics, a sentence or a list each."""
        notes = [
            f"{self.rows:,} rows, {self.learned:,} labels learned, {self.scored:,} predictions scored, "
            f"{self.alert_count:,} alerts, {self.dead_letter_count:,} dead letters; "
            f"{self.events_per_second:,.0f} events/s"
        ]
        notes += self._labels()
        if self.not_compared:
            notes.append(f"Not compared with progressive_val_score: {self.not_compared}.")
        notes += self._losses()
        notes += _alert_lines(self.alerts)
        notes += _dead_lines(self.dead_letters)
        return notes

    def _labels(self) -> Iterator[str]:
        counts = self.labels
        if counts["questions"] or counts["unmatched"]:
            expired = f"{self.expired:,} expired"
            some = [
                ("learned as what silence means", "expired_learned"),
                ("early, for want of room", "expired_early"),
            ]
            details = [f"{counts[key]:,} {words}" for words, key in some if counts[key]]
            yield (
                f"Questions: {counts['questions']:,}; {counts['joined']:,} joined with their label, {expired}"
                + (f" ({', '.join(details)})" if details else "")
                + f", {self.pending:,} wait for it."
            )
        names = ("late", "early", "unmatched", "duplicate_labels", "conflicting_labels", "corrected_labels")
        found = [f"{counts[name]:,} {name.removesuffix('_labels')}" for name in names if counts[name]]
        if found:
            yield f"Labels: {', '.join(found)}."
        if self.label_delay is not None:
            yield f"Label delay: median {self.label_delay['p50']:,g} s, 95 % within {self.label_delay['p95']:,g} s."
        if self.duplicates:
            yield f"Duplicates: {self.duplicates:,}, events with the id of an earlier one, which are not learned."

    def _losses(self) -> Iterator[str]:
        name = next(iter(self.metrics))
        own = self.metrics[name]["value"]
        for baseline, figures in self.baselines.items():
            other = figures["value"]
            if own is None or other is None or own == other:
                continue
            if (own > other) is not METRICS[name].higher_is_better:
                yield (
                    f"The learner loses to {baseline.replace('_', '-')}: "
                    f"{name} {_figure(own)} against {_figure(other)}."
                )

    def __rich__(self) -> RenderableType:
        title = Text(f"{self.name}: {self.learner} ({self.task})", style="bold")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for i, name in enumerate(self.header()):
            table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
        for line in self.lines():
            table.add_row(*line)
        return Group(title, table, *(Text(note) for note in self.notes()))

    def __repr__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=TEXT_WIDTH, no_color=True, highlight=False).print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    def _repr_html_(self) -> str:
        """The table as a notebook shows it."""

        def row(cells: Iterable[str], kind: str) -> str:
            return f"<tr>{''.join(f'<{kind}>{html.escape(cell)}</{kind}>' for cell in cells)}</tr>"

        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes())
        return (
            f"<table><caption>{html.escape(f'{self.name}: {self.learner} ({self.task})')}</caption>"
            f"<thead>{row(self.header(), 'th')}</thead>"
            f"<tbody>{''.join(row(line, 'td') for line in self.lines())}</tbody></table>{notes}"
        )


def backtest(
    rows: Iterable[tuple[Mapping[Any, Any], Any]],
    learner: base.Estimator | Settings | Path | str,
    *,
    task: Task | None = None,
    metrics: Sequence[str] = (),
    window: int = 1000,
    drift: Sequence[tuple[str, str] | DriftWatch] = (),
    seed: int = 42,
    limit: int | None = None,
    predictions: bool = False,
    verify: bool = False,
    moment: Moment = None,
    delay: Delay | None = None,
) -> BacktestResult:
    """Predict, score, watch and learn, row by row, as a worker would do with the same events.

    Each row is written as the JSON of an event and goes through the pipeline that `headrace run` runs: what
    holds here holds live. So labels are what the task makes of them: a multi-class 3 is the text "3", and to
    compare with River's own evaluation give it rows with text labels. Names of features become text, and NaN
    becomes a missing feature.

    Some of River's averages over classes (`macro_f1`) add up in the order of a set of text, so their last digit
    differs between two processes. A worker runs with the environment variable PYTHONHASHSEED=0; so does who wants
    its last digit.

    Args:
        rows: Pairs of features and label, as River's data sets give them. A label of None makes a question.
        learner: A River estimator, which stays as it is: a copy learns. Or settings, or the path of a settings
            file; then labels and features are as in your events, and only `limit`, `predictions` and `verify`
            go with it.
        task: `binary`, `multiclass` or `regression`. Without it a regressor is for regression; a classifier is
            for two classes if the first label is a bool or it knows no more than two, else for several.
        metrics: Names as in the settings; without it the task's usual ones.
        window: Each metric is also taken over this many last predictions.
        drift: What to watch with which detector: `[("error", "adwin"), ("feature:amount", "kswin")]`.
        seed: For detectors that draw random numbers.
        limit: Most rows to take.
        predictions: Whether to keep every prediction in the result.
        verify: Whether to compute the metrics by `river.evaluate.progressive_val_score` as well.
        moment: With `delay`: when a row is asked, as in River. The name of a feature, or a function of the
            features; its values (times, dates, or seconds since the epoch) are then the event time. Without it rows
            are counted, and so is the delay.
        delay: How much later its label comes, as in River: a number, a `timedelta`, the name of a feature, or a
            function of features and label. Rows then become questions and answers in the order of
            `progressive_val_score(moment=, delay=)`, and the positions of alerts and dead letters are those in that
            log. With an estimator every question waits for its label; settings have their `[labels]`.

    Example:
        >>> from river import datasets, linear_model, preprocessing
        >>> model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
        >>> result = backtest(datasets.Phishing(), model, metrics=["accuracy"], verify=True)
        >>> result.metrics["accuracy"]["value"], result.equal
        (0.8928, True)
        >>> late = backtest(datasets.Phishing(), model, metrics=["accuracy"], delay=500, verify=True)
        >>> late.metrics["accuracy"]["value"], late.equal
        (0.7664, True)
    """
    if delay is None and moment is not None:
        raise TypeError("moment is given without delay; expected both, or delay alone")
    iterator = iter(rows)
    if isinstance(learner, base.Estimator):
        first = next(iterator, None)
        settings = _settings_of(
            task or _task_of(learner, first),
            metrics=metrics,
            window=window,
            drift=drift,
            seed=seed,
            late=delay is not None,
        )
        if first is not None:
            iterator = chain((first,), iterator)
        estimator = copy.deepcopy(learner)
    else:
        if task is not None or metrics or drift or window != 1000 or seed != 42:
            raise TypeError(
                "task, metrics, window, drift and seed go with an estimator; the settings have their own"
            )
        settings = learner if isinstance(learner, Settings) else load_settings(Path(learner))
        estimator = new_estimator(settings)
    kept: list[Mapping[str, Any]] = []
    iterator = islice(iterator, limit)
    late: LateLabels | None = None
    encoded: Iterator[tuple[int | None, bytes]]
    if delay is None:
        encoded = _encoded(iterator, settings)
    else:
        constant = None if callable(delay) or isinstance(delay, str) else delay
        late = LateLabels(settings, timed=moment is not None, constant=constant, keep=verify)
        encoded = late.records(rows_of_pairs(iterator, _encoder(settings), moment=moment, delay=delay))
    result = run_rows(
        encoded,
        settings,
        estimator,
        late=late,
        verify=verify,
        on_prediction=(lambda value: kept.append(orjson.loads(value))) if predictions else None,
    )
    return replace(result, predictions=kept) if predictions else result


def backtest_file(
    settings: Settings,
    source: Path | None,
    *,
    format: RowFormat | None = None,
    limit: int | None = None,
    delay: float | str | None = None,
    verify: bool = False,
    on_prediction: Callable[[bytes], object] | None = None,
    on_row: Callable[[int], None] | None = None,
) -> BacktestResult:
    """What `headrace backtest` does: the rows of a file, read as `headrace send` would send them.

    Args:
        settings: The pipeline's settings.
        source: JSON Lines or CSV; None is standard input. See `stream.rows.read_rows`.
        format: `jsonl` or `csv`; None finds out.
        limit: Most rows to take.
        delay: Each label comes so many seconds of event time after its row, or as many as this field of the row says.
        verify: Whether to compute the metrics by `river.evaluate.progressive_val_score` as well.
        on_prediction: Given each prediction, as on the predictions topic.
        on_row: Told after every 1,000 records how many there were, for a progress bar.

    Raises:
        ConfigError: Labels are to be late, and events have no time.
        RowError: The file can't be read, or is not what its format asks for.
    """
    rows: Iterable[tuple[int | None, bytes]] = islice(read_rows(source, format, settings), limit)
    late: LateLabels | None = None
    if delay is not None:
        if settings.event.time is None:
            text = "is missing, and --delay counts seconds of event time; expected the field with the event's time."
            raise ConfigError([Mistake(place=str(settings.path), setting="[event] time", text=text)])
        constant = None if isinstance(delay, str) else delay
        late = LateLabels(settings, timed=True, constant=constant, keep=verify)
        rows = late.records(rows_of_events(rows, late.settings, delay))
    return run_rows(
        rows,
        settings,
        new_estimator(settings),
        late=late,
        verify=verify,
        on_prediction=on_prediction,
        on_row=on_row,
    )


def run_rows(
    rows: Iterable[tuple[int | None, bytes]],
    settings: Settings,
    estimator: base.Estimator,
    *,
    late: LateLabels | None = None,
    verify: bool = False,
    on_prediction: Callable[[bytes], object] | None = None,
    on_row: Callable[[int], None] | None = None,
) -> BacktestResult:
    """Give rows to a new pipeline, one partition from offset 0.

    A row has no timestamp as a record has. Where the settings name a field with the time, one without it counts
    as at the latest time seen, and no time is too far ahead; else row n is at n milliseconds.

    Args:
        rows: The line of each row, if it has one, and its event as JSON.
        settings: The pipeline's settings.
        estimator: Learns; a new one, or one to go on from.
        late: Made questions and answers of labelled rows; then these are the rows here.
        verify: See `backtest`.
        on_prediction: Given each prediction, as on the predictions topic.
        on_row: Told after every 1,000 rows how many there were.
    """
    settings = _without_clock(settings if late is None else late.settings)
    untouched = copy.deepcopy(estimator) if verify else None
    pipeline = new_pipeline(settings, estimator)
    state = pipeline.state
    process = pipeline.process
    values: list[bytes] = []
    alerts: list[Alert] = []
    alert_count = 0
    dead: list[DeadRow] = []
    offset = -1
    has_time = settings.event.time is not None

    begin = time.perf_counter()
    for offset, (line, value) in enumerate(rows):
        timestamp = int(state.clock * 1_000) if has_time and offset and math.isfinite(state.clock) else offset
        for output in process(Record(0, offset, timestamp, None, value)):
            if output.to == "predictions":
                if on_prediction is not None and output.value is not None:
                    on_prediction(output.value)
            elif output.to == "alerts":
                alert_count += 1
                if len(alerts) < MOST_KEPT:
                    alerts.append(Alert(**orjson.loads(output.value or b"")))
            elif output.to == "dead_letters" and len(dead) < MOST_KEPT:
                dead.append(_dead_row(offset, line, output))
        if verify and late is None:
            values.append(value)
        if on_row is not None and offset % 1_000 == 999:
            on_row(offset + 1)
    seconds = time.perf_counter() - begin

    expected, not_compared = None, ""
    if untouched is not None:
        if late is None:
            expected, not_compared = _expected(values, pipeline, settings, untouched)
        else:
            expected, not_compared = _expected_late(late, pipeline, settings.metrics.use, untouched)
    return BacktestResult(
        name=settings.name,
        task=settings.task,
        learner=state.learner.name,
        rows=offset + 1 if late is None else late.rows,
        events=state.events,
        predicted=state.predictions,
        scored=state.prequential.scored,
        learned=state.learner.learned,
        pending=len(state.labels.pending),
        expired=state.labels.expired,
        unmatched=state.labels.unmatched,
        labels=state.labels.counts(),
        duplicates=state.duplicates,
        label_delay=state.labels.delay() if has_time else None,
        window=state.prequential.window,
        metrics=state.prequential.values(),
        baselines=state.prequential.baselines(),
        alerts=alerts,
        alert_count=alert_count,
        dead_letters=dead,
        dead_letter_count=state.dead_letters,
        predictions=None,
        expected=expected,
        not_compared=not_compared,
        seconds=seconds,
        estimator=state.learner.estimator,
    )


def _without_clock(settings: Settings) -> Settings:
    """Compared with the time of a row, which nobody knows, every event's time would be far ahead."""
    event = settings.event.model_copy(update={"max_ahead_seconds": math.inf})
    return settings.model_copy(update={"event": event})


def progressive_scores(
    rows: Iterable[tuple[Features, Label]],
    estimator: base.Estimator,
    metrics: Sequence[str],
    *,
    moments: Sequence[tuple[Any, Any]] | None = None,
    constant_delay: Any = None,
) -> dict[str, float | None]:
    """The metrics as River's own evaluation has them, each in a new run with a copy of the estimator.

    None: not a finite number, or the metric is not for this estimator.

    Args:
        rows: Features and labels.
        estimator: Stays as it is.
        metrics: Their names.
        moments: For each row when it is asked, and how much later its label comes; None: at once.
        constant_delay: That delay, if it is the same for every row.
    """
    pairs = cast(list[tuple[dict[Hashable, Any], Any]], list(rows))
    now: tuple[Any, Any] = (None, None)

    def timed() -> Iterator[tuple[dict[Hashable, Any], Any]]:
        """River asks for a row's moment and delay as soon as it has it."""
        nonlocal now
        for pair, when in zip(pairs, moments or (), strict=True):
            now = when
            yield pair

    arguments: dict[str, Any] = {}
    if moments is not None:
        delay = constant_delay if constant_delay is not None else lambda x, y: now[1]
        arguments = {"moment": lambda x: now[0], "delay": delay}
    found: dict[str, float | None] = {}
    for name in metrics:
        metric = cast("river_metrics.base.Metric", METRICS[name].river())
        if not metric.works_with(estimator):
            found[name] = None
            continue
        try:
            data = pairs if moments is None else timed()
            evaluate.progressive_val_score(data, copy.deepcopy(estimator), metric, **arguments)
            value = float(metric.get())
        except ArithmeticError:
            value = math.nan
        found[name] = value if math.isfinite(value) else None
    return found


def _expected(
    values: Sequence[bytes], pipeline: Pipeline, settings: Settings, estimator: base.Estimator
) -> tuple[dict[str, float | None] | None, str]:
    """Run River's evaluation on the labelled events among the rows, or say why that would be something else."""
    state = pipeline.state
    decode = new_decoder(settings).decode
    pairs: list[tuple[Features, Label]] = []
    for offset, value in enumerate(values):
        try:
            event = decode(Record(0, offset, offset, None, value))
        except RecordError:
            continue
        if event.x is None or event.y is None:
            return None, "the rows hold questions or answers, and it learns each label at once"
        pairs.append((event.x, event.y))
    if state.learner.learned != len(pairs):
        return None, "not every labelled row was learned (see the dead letters)"
    if not state.prequential.scored:
        return None, "no prediction was scored"
    return progressive_scores(pairs, estimator, settings.metrics.use), ""


def _expected_late(
    late: LateLabels, pipeline: Pipeline, metrics: Sequence[str], estimator: base.Estimator
) -> tuple[dict[str, float | None] | None, str]:
    """Run River's evaluation on the rows, with their labels as late, or say why that would be something else."""
    state = pipeline.state
    if late.others:
        return None, "the rows hold questions or answers of their own"
    if not state.learner.learned == state.labels.joined == len(late.kept):
        return None, "not every label was joined with its row and learned"
    if not state.prequential.scored:
        return None, "no prediction was scored"
    scores = progressive_scores(
        [(x, y) for _, x, y in late.kept],
        estimator,
        metrics,
        moments=[(row.moment, row.delay) for row, _, _ in late.kept],
        constant_delay=late.constant,
    )
    return scores, ""


def _settings_of(
    task: Task,
    *,
    metrics: Sequence[str],
    window: int,
    drift: Sequence[tuple[str, str] | DriftWatch],
    seed: int,
    late: bool,
) -> Settings:
    """The settings of a backtest that was given an estimator; with late labels every question waits for its own."""
    watches = [watch if isinstance(watch, DriftWatch) else DriftWatch(*watch) for watch in drift]
    return Settings.model_validate(
        {
            "name": "backtest",
            "task": task,
            "topics": {"events": "rows"},
            "event": {"id": None, "id_window": 0},
            "labels": {"expire_after_seconds": FOR_EVER, "capacity": sys.maxsize} if late else {},
            # Not what learns, which is the estimator that was given; the seed is that of the drift detectors.
            "learner": {"build": "rows:estimator", "seed": seed},
            "metrics": {"window": window} | ({"use": tuple(metrics)} if metrics else {}),
            "drift": [
                {"watch": watch.watch, "detector": watch.detector, "parameters": dict(watch.parameters)}
                for watch in watches
            ],
        }
    )


def _task_of(estimator: base.Estimator, first: tuple[Mapping[Any, Any], Any] | None) -> Task:
    final = final_estimator(estimator)
    if isinstance(final, base.Regressor):
        return "regression"
    if not getattr(final, "_multiclass", False) or (first is not None and isinstance(first[1], bool)):
        return "binary"
    return "multiclass"


def _encoded(
    rows: Iterator[tuple[Mapping[Any, Any], Any]], settings: Settings
) -> Iterator[tuple[None, bytes]]:
    """Each row as the JSON of an event."""
    encode = _encoder(settings)
    for number, (x, y) in enumerate(rows):
        yield None, encode(number, x, y)


def _encoder(settings: Settings) -> Callable[[int, Mapping[Any, Any], Any], bytes]:
    """What makes of a row, by its number, the JSON of an event."""
    label = settings.event.label
    where = settings.event.features if isinstance(settings.event.features, str) else None
    option = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY

    def encode(number: int, x: Mapping[Any, Any], y: Any) -> bytes:
        body = {**x, label: y} if where is None else {where: x, label: y}
        try:
            return orjson.dumps(body, option=option)
        except TypeError as error:
            raise RowError(f"row {number}", f"it can't be written as JSON: {error}.") from error

    return encode


def _dead_row(offset: int, line: int | None, output: Output) -> DeadRow:
    headers = {name: (value or b"").decode() for name, value in output.headers or ()}
    return DeadRow(
        offset=offset,
        line=line,
        stage=headers["headrace.stage"],
        error=headers["headrace.error"],
        message=headers["headrace.message"],
    )


def _figure(value: float | None, exact: bool = False) -> str:
    """A figure for a table: all digits, or so many that one can compare."""
    if value is None:
        return "-"
    return repr(value) if exact else f"{value:.4f}" if abs(value) < 1e4 else f"{value:.5g}"


def _alert_lines(alerts: Sequence[Alert], most: int = 10) -> Iterator[str]:
    offsets: dict[tuple[str, str, str], list[int]] = {}
    for alert in alerts:
        offsets.setdefault((alert.detector, alert.watch, alert.kind), []).append(alert.offset)
    for (detector, watch, kind), found in offsets.items():
        more = f" and {len(found) - most:,} more" if len(found) > most else ""
        yield f"{kind.capitalize()}: {detector} on {watch} at row {', '.join(map(str, found[:most]))}{more}"


def _dead_lines(dead: Sequence[DeadRow], most: int = 5) -> Iterator[str]:
    reasons: dict[tuple[str, str], list[DeadRow]] = {}
    for row in dead:
        reasons.setdefault((row.stage, row.message), []).append(row)
    for (stage, message), found in islice(reasons.items(), most):
        first = found[0]
        where = f"row {first.offset}" if first.line is None else f"line {first.line}"
        times = f"{len(found):,} times, first at {where}" if len(found) > 1 else where
        yield f"Dead letter ({stage}; {times}): {message}"
    if len(reasons) > most:
        yield f"Dead letters for {len(reasons) - most:,} other reasons"
