"""Drift detectors over what a partition's learner sees and does: River's detectors, by name.

A watch is one detector on one sequence of numbers. `error` is 0 or 1 for classification and the absolute
error for regression; `label` and `prediction` are 0 or 1 for two classes and the number for regression;
`label:CLASS` is 1 for that one of several classes and 0 for the others; `label_delay` is the time that a label took;
`feature:NAME` is a numeric feature.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from operator import attrgetter
from typing import Any, Protocol, cast

from monitors.records import Label, Level, Task

# How many of the last values "mean after" and "now" look at.
_RECENT = 100
# Most values kept of those before: enough for a histogram of 20 bins, and few in a snapshot.
_SAMPLE = 512
_BINS = 20
# Detectors square what they are given: one value beyond this would turn their sums into inf or nan for ever.
_LIMIT = 1e100

_FEATURE = "feature:"
_CLASS = "label:"
_DELAY = "label_delay"


class RiverDetector(Protocol):
    """What we use of a River drift detector.

    Reading these two through River's properties costs twice the rest of a watch: 0.2 microseconds a value.
    """

    #: The last value showed a drift.
    _drift_detected: bool
    #: A drift may be near. Only the detectors with `has_warning` have it.
    _warning_detected: bool

    def update(self, x: float, /) -> None:
        """Take the next value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """What a detector's parameter may be."""

    #: Python type; a float may be written as a whole number.
    type: type
    #: Smallest value (excluded when `above` is set).
    low: float = -math.inf
    #: Largest value.
    high: float = math.inf
    #: The smallest value itself is not allowed.
    above: bool = False
    #: The only values allowed, when not empty.
    choices: tuple[str, ...] = ()

    def expected(self) -> str:
        """The rule in words, as a message ends it."""
        if self.choices:
            return f"one of: {', '.join(self.choices)}"
        words = {bool: "true or false", int: "a whole number", float: "a number"}[self.type]
        if self.low > -math.inf:
            words += f" {'above' if self.above else 'of at least'} {self.low:,.0f}"
        if self.high < math.inf:
            words += f" and at most {self.high:,}"
        return words

    def allows(self, value: object) -> bool:
        """Whether a value obeys the rule."""
        if self.choices:
            return value in self.choices
        if self.type is bool:
            return isinstance(value, bool)
        numeric = (int, float) if self.type is float else (int,)
        if not isinstance(value, numeric) or isinstance(value, bool) or not math.isfinite(value):
            return False
        return (self.low < value if self.above else self.low <= value) and value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSpec:
    """A drift detector by name: what it is fed and what may be set."""

    #: Name in the settings.
    name: str
    #: River's class, in `river.drift`.
    class_name: str
    #: One line for a table.
    summary: str
    #: The parameters of River's constructor that may be set.
    parameters: Mapping[str, Parameter]
    #: It takes 0 and 1 only.
    binary_input: bool = False
    #: It warns before it says drift.
    has_warning: bool = False
    #: It draws random numbers, so it needs a seed.
    seedable: bool = False
    #: It wants 1 - value: River's docstring asks for errors, the code looks for a mean that sinks.
    wants_correctness: bool = False

    @property
    def river(self) -> Callable[..., RiverDetector]:
        """River's class."""
        from river import drift  # noqa: PLC0415 - takes seconds, and who only reads alerts needs none of it

        return cast(Callable[..., RiverDetector], attrgetter(self.class_name)(drift))


def _specs() -> Iterator[DetectorSpec]:
    # Beyond these River divides by zero, takes the log of it or overflows, or a window eats the memory.
    probability = Parameter(type=float, low=0.0, high=0.999999, above=True)
    count = Parameter(type=int, low=1, high=1_000_000)
    positive = Parameter(type=float, low=0.0, above=True)
    yes_no = Parameter(type=bool)
    yield DetectorSpec(
        name="adwin",
        class_name="ADWIN",
        summary="adaptive window: the means of its older and newer part differ",
        parameters={
            "delta": probability,
            "clock": count,
            "max_buckets": count,
            "min_window_length": count,
            "grace_period": count,
        },
    )
    yield DetectorSpec(
        name="kswin",
        class_name="KSWIN",
        summary="Kolmogorov-Smirnov test between older and newer values (about 300 microseconds an event)",
        parameters={
            "alpha": probability,
            "window_size": Parameter(type=int, low=2, high=1_000_000),
            "stat_size": count,
            "seed": Parameter(type=int, low=0, high=2**63 - 1),
        },
        seedable=True,
    )
    yield DetectorSpec(
        name="page-hinkley",
        class_name="PageHinkley",
        summary="cumulative sum of what exceeds the mean so far",
        parameters={
            "min_instances": count,
            "delta": Parameter(type=float, low=0.0),
            "threshold": positive,
            "alpha": Parameter(type=float, low=0.0, high=1.0, above=True),
            "mode": Parameter(type=str, choices=("up", "down", "both")),
        },
    )
    yield DetectorSpec(
        name="ddm",
        class_name="binary.DDM",
        summary="the error rate rises beyond its lowest point",
        parameters={"warm_start": count, "warning_threshold": positive, "drift_threshold": positive},
        binary_input=True,
        has_warning=True,
    )
    yield DetectorSpec(
        name="eddm",
        class_name="binary.EDDM",
        summary="errors come closer together (often too early)",
        parameters={"warm_start": count, "alpha": probability, "beta": probability},
        binary_input=True,
        has_warning=True,
    )
    confidences = {"drift_confidence": probability, "warning_confidence": probability}
    yield DetectorSpec(
        name="hddm-a",
        class_name="binary.HDDMA",
        summary="Hoeffding's bound on means: abrupt changes",
        parameters={**confidences, "two_sided_test": yes_no},
        binary_input=True,
        has_warning=True,
    )
    yield DetectorSpec(
        name="hddm-w",
        class_name="binary.HDDMW",
        summary="McDiarmid's bound on weighted means: gradual changes",
        parameters={**confidences, "lambda_val": probability, "two_sided_test": yes_no},
        binary_input=True,
        has_warning=True,
    )
    yield DetectorSpec(
        name="fhddm",
        class_name="binary.FHDDM",
        summary="the share of right predictions in a window falls below its best",
        parameters={
            "sliding_window_size": count,
            "confidence_level": probability,
            "short_window_size": count,
        },
        binary_input=True,
        wants_correctness=True,
    )


DETECTORS: Mapping[str, DetectorSpec] = {spec.name: spec for spec in _specs()}
"""The drift detectors we take."""


@dataclass(frozen=True, slots=True)
class DriftWatch:
    """One detector on one sequence of numbers, as the settings have it."""

    #: `error`, `label`, `label:CLASS`, `label_delay`, `prediction` or `feature:NAME`.
    watch: str
    #: Name in `DETECTORS`.
    detector: str = "adwin"
    #: Arguments of River's constructor that differ from its defaults.
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A detector spoke."""

    #: Warning or drift.
    level: Level
    #: What was watched.
    watch: str
    #: Name of the detector.
    detector: str
    #: Mean of the watched values since the last drift, or since the start. None: not a finite number.
    mean_before: float | None
    #: Mean of the last 100 of them.
    mean_after: float | None
    #: Values given to the detector since the start, this one included.
    observed: int


def drift_problems(watch: str, detector: str, parameters: Mapping[str, object], task: Task) -> list[str]:
    """Everything that is wrong with a watch, a sentence each; empty when it fits.

    Example:
        >>> for problem in drift_problems("errors", "page_hinkley", {}, "binary"):
        ...     print(problem)
        watch "errors" is not known; did you mean "error"?
        detector "page_hinkley" is not known; did you mean "page-hinkley"?
        >>> drift_problems("error", "ddm", {}, "regression")
        ['detector "ddm" takes only 0 and 1, "error" is any number here; use adwin, kswin or page-hinkley.']
    """
    problems = []
    is_number = watch.startswith(_FEATURE) or watch == _DELAY or task == "regression"
    several = task == "multiclass"
    watches = ["error", *([] if several else ["label", "prediction"]), _DELAY]
    named = ["feature:NAME", *(["label:CLASS"] if several else [])]
    if watch in ("label", "prediction") and several:
        instead = '"label:CLASS"' if watch == "label" else '"error"'
        problems.append(
            f'watch "{watch}" is a class of many here, not a number; watch {instead} or a feature.'
        )
    elif watch == _FEATURE:
        problems.append('watch "feature:" names no feature; expected feature:NAME.')
    elif watch == _CLASS:
        problems.append('watch "label:" names no class; expected label:CLASS.')
    elif watch.startswith(_CLASS) and not several:
        problems.append(
            f'watch "{watch}" is for one of several classes, task "multiclass"; watch "label" here.'
        )
    elif watch not in watches and not watch.startswith((_FEATURE, _CLASS)):
        near = get_close_matches(watch, watches, n=1)
        expected = f"expected {', '.join([*watches, *named[:-1]])} or {named[-1]}."
        problems.append(
            f'watch "{watch}" is not known; ' + (f'did you mean "{near[0]}"?' if near else expected)
        )

    spec = DETECTORS.get(detector)
    if spec is None:
        near = get_close_matches(detector, DETECTORS, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"expected one of: {', '.join(DETECTORS)}."
        return [*problems, f'detector "{detector}" is not known; {hint}']
    if spec.binary_input and not problems and is_number:
        problems.append(
            f'detector "{detector}" takes only 0 and 1, "{watch}" is any number here; '
            "use adwin, kswin or page-hinkley."
        )
    return problems + _parameter_problems(spec, parameters)


def _parameter_problems(spec: DetectorSpec, parameters: Mapping[str, object]) -> list[str]:
    problems = []
    for name, value in parameters.items():
        rule = spec.parameters.get(name)
        if rule is None:
            near = get_close_matches(name, spec.parameters, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"expected one of: {', '.join(spec.parameters)}."
            problems.append(f'parameter "{name}" of {spec.name} is not known; {hint}')
        elif not rule.allows(value):
            problems.append(f'parameter "{name}" of {spec.name} is {value!r}; expected {rule.expected()}.')
    if not problems:
        problems += _disagreements(spec.name, parameters)
    return problems


def _disagreements(detector: str, parameters: Mapping[str, Any]) -> list[str]:
    """What each parameter allows, and the two together do not."""
    if detector == "kswin":
        window, stat = parameters.get("window_size", 100), parameters.get("stat_size", 30)
        if window < 2 * stat:
            return [
                f"kswin compares two samples of stat_size, {stat}, out of window_size, {window}; "
                "expected a window of at least twice stat_size."
            ]
    if detector == "fhddm":
        window, short = parameters.get("sliding_window_size", 100), parameters.get("short_window_size", 1)
        if short > window:
            return [f"fhddm: short_window_size is {short}; expected at most sliding_window_size, {window}."]
    if detector == "eddm":
        alpha, beta = parameters.get("alpha", 0.95), parameters.get("beta", 0.9)
        if alpha < beta:
            return [f"eddm: alpha (warning), {alpha}, is below beta (drift), {beta}; expected at least that."]
    return []


def check_drift(watch: str, detector: str, parameters: Mapping[str, object], task: Task) -> None:
    """Raise ValueError, with all that `drift_problems` finds, unless the watch fits the task."""
    if problems := drift_problems(watch, detector, parameters, task):
        raise ValueError(" ".join(problems))


_NONE: tuple[Alarm, ...] = ()


class DriftMonitor:
    """The drift watches of one partition.

    `predicted` feeds what is known with the features (`prediction`, `feature:NAME`), `labelled` what is known
    with the label (`error`, `label`, `label:CLASS`); a labelled event goes through both, in that order. `delayed`
    feeds how long a label took that came in a record of its own. A warning is told once, when the detector enters
    that state. After a drift the detector starts afresh with the next value, and so do the means.

    Args:
        watches: What to watch with which detector; no pair of the two twice.
        task: Decides what a label is, see `monitors.records.Task`.
        seed: For the detectors that draw random numbers.

    Example:
        >>> monitor = DriftMonitor([DriftWatch("error", "ddm")], "binary", seed=1)
        >>> for i in range(60):
        ...     for alarm in monitor.labelled(True, i % 10 > 0 and i < 50, at=i):
        ...         print(i, alarm.level, round(alarm.mean_before, 3))
        52 warning 0.151
        54 drift 0.182
    """

    __slots__ = (
        "_delays",
        "_errors",
        "_features",
        "_labels",
        "_numeric",
        "_predictions",
        "_watches",
        "task",
        "watches_delays",
        "watches_predictions",
    )

    def __init__(self, watches: Sequence[DriftWatch], task: Task, seed: int) -> None:
        seen: list[tuple[str, str]] = []
        for watch in watches:
            check_drift(watch.watch, watch.detector, watch.parameters, task)
            if (watch.watch, watch.detector) in seen:
                raise ValueError(f'"{watch.watch}" is watched by {watch.detector} twice; expected once.')
            seen.append((watch.watch, watch.detector))
        self.task: Task = task
        self._numeric = task == "regression"
        self._watches = tuple(_Watched(watch, seed) for watch in watches)
        self._errors = tuple(w for w in self._watches if w.watch == "error")
        #: Each with the class whose coming it watches; None: the label itself.
        self._labels = tuple(
            (None if w.watch == "label" else w.watch.removeprefix(_CLASS), w)
            for w in self._watches
            if w.watch == "label" or w.watch.startswith(_CLASS)
        )
        self._delays = tuple(w for w in self._watches if w.watch == _DELAY)
        self._predictions = tuple(w for w in self._watches if w.watch == "prediction")
        self._features = tuple(
            (w.watch.removeprefix(_FEATURE), w) for w in self._watches if w.watch.startswith(_FEATURE)
        )
        #: Whether `predicted` has anything to feed; if not, it need not be called.
        self.watches_predictions = bool(self._predictions or self._features)
        #: The same of `delayed`.
        self.watches_delays = bool(self._delays)

    def predicted(self, x: Mapping[str, object], y_pred: Label | None, at: int) -> tuple[Alarm, ...]:
        """A prediction was made.

        Args:
            x: The features. One that is watched and is missing, or no number, is skipped and counted; a
                boolean is 0 or 1.
            y_pred: The prediction; None is not watched.
            at: The record's offset, kept as `last_drift_at` for the status.
        """
        alarms = _NONE
        if self._predictions and y_pred is not None:
            value = float(y_pred)
            for watched in self._predictions:
                if (alarm := watched.feed(value, at)) is not None:
                    alarms += (alarm,)
        for name, watched in self._features:
            number = x.get(name)
            if not isinstance(number, (float, int)):
                watched.skipped += 1
            elif (alarm := watched.feed(number, at)) is not None:
                alarms += (alarm,)
        return alarms

    def labelled(self, y: Label, y_pred: Label | None, at: int) -> tuple[Alarm, ...]:
        """A label is known.

        Args:
            y: The label.
            y_pred: What had been predicted for it; without a prediction (None) there is no error.
            at: The record's offset, kept as `last_drift_at` for the status.
        """
        alarms = _NONE
        if self._errors and y_pred is not None:
            error = abs(float(y) - float(y_pred)) if self._numeric else 0.0 if y == y_pred else 1.0
            for watched in self._errors:
                if (alarm := watched.feed(error, at)) is not None:
                    alarms += (alarm,)
        for name, watched in self._labels:
            value = float(y) if name is None else 1.0 if y == name else 0.0
            if (alarm := watched.feed(value, at)) is not None:
                alarms += (alarm,)
        return alarms

    def delayed(self, seconds: float, at: int) -> tuple[Alarm, ...]:
        """A label came in a record of its own.

        Args:
            seconds: Event time from its question; negative: it came before that.
            at: The record's offset, kept as `last_drift_at` for the status.
        """
        alarms = _NONE
        for watched in self._delays:
            if (alarm := watched.feed(seconds, at)) is not None:
                alarms += (alarm,)
        return alarms

    def counts(self) -> list[dict[str, object]]:
        """One mapping for each watch: what it is, its state and its counters since the start. Quickly had."""
        return [watched.counts() for watched in self._watches]

    def status(self) -> list[dict[str, object]]:
        """One mapping for each watch: its counts, its means, and how its values are distributed.

        Beside `counts`: `mean_before` (since the last drift, or the start) and `mean_now` (of the last 100 values),
        None without values; `distribution`, see `histogram`, of the last 100 values, or of those since the last
        drift, beside the values before them. Right after a drift, until there are 100 values before those of now,
        these are of the time before the drift: what it drifted from.
        """
        return [watched.status() for watched in self._watches]

    def alarms(self) -> tuple[int, ...]:
        """Drifts and warnings since the start: two numbers for each watch, in order."""
        return tuple(count for watched in self._watches for count in (watched.drifts, watched.warnings))


def histogram(now: Sequence[float], before: Sequence[float]) -> dict[str, list[float] | list[int]] | None:
    """Two samples counted in the same bins; None without any values.

    Twenty equal bins from the smallest to the largest value of both, the upper edge of the last one included; two bins
    for values that are all 0 or 1, and one, without width, for a single value.

    Returns:
        `edges`, one more than there are bins, rounded to a thousandth of a bin; `now` and `before`, how many values
        are in each bin.

    Example:
        >>> histogram([0.0, 1.0, 1.0], [0.0, 0.0])
        {'edges': [0.0, 0.5, 1.0], 'now': [1, 2], 'before': [2, 0]}
        >>> histogram([7], [])
        {'edges': [7.0, 7.0], 'now': [1], 'before': [0]}
    """
    values = [*now, *before]
    if not values:
        return None
    low, high = float(min(values)), float(max(values))
    bins = _BINS
    if all(value in (0, 1) for value in values):
        low, high, bins = 0.0, 1.0, 2
    width = (high - low) / bins
    if width == 0.0:  # also where the two differ by less than a float can be divided
        return {"edges": [low, high], "now": [len(now)], "before": [len(before)]}
    digits = 3 - math.floor(math.log10(width))
    counted = {}
    for name, sample in (("now", now), ("before", before)):
        counts = [0] * bins
        for value in sample:
            counts[min(int((value - low) / width), bins - 1)] += 1
        counted[name] = counts
    edges = [round(low + width * number, digits) for number in range(bins + 1)]
    return {"edges": edges, **counted}


class _Watched:
    """A watch at work."""

    __slots__ = (
        "_before_drift",
        "_correctness",
        "_has_warning",
        "_keep_at",
        "_recent",
        "_river",
        "_sample",
        "_stride",
        "_total",
        "detector",
        "drifts",
        "last_drift_at",
        "observed",
        "skipped",
        "start",
        "warned",
        "warnings",
        "watch",
    )

    def __init__(self, watch: DriftWatch, seed: int) -> None:
        spec = DETECTORS[watch.detector]
        seeded = {"seed": seed} if spec.seedable else {}
        self._river = spec.river(**(seeded | dict(watch.parameters)))
        self._correctness = spec.wants_correctness
        self._has_warning = spec.has_warning
        self.watch = watch.watch
        self.detector = watch.detector
        #: Values given to the detector since the start, and how many of them before the last drift.
        self.observed = 0
        self.start = 0
        #: Values that were no usable number.
        self.skipped = 0
        self.drifts = 0
        self.warnings = 0
        #: Offset of the last drift.
        self.last_drift_at: int | None = None
        #: The detector is in its warning state.
        self.warned = False
        self._total = 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)
        #: Of the values since the last drift that are no longer among the recent ones every so many-th, from the first;
        #: and at which count of `observed` the next one leaves that is to be kept.
        self._sample: list[float] = []
        self._stride = 1
        self._keep_at = _RECENT + 1
        #: The sample of before the last drift, until that of after it says enough.
        self._before_drift: list[float] = []

    def feed(self, value: float, at: int) -> Alarm | None:
        if not -_LIMIT < value < _LIMIT:  # false for nan, too
            self.skipped += 1
            return None
        self.observed += 1
        self._total += value
        if self.observed == self._keep_at:
            self._keep()
        self._recent.append(value)
        river = self._river
        river.update(1 - value if self._correctness else value)
        if river._drift_detected:
            alarm = self._alarm("drift")
            self.drifts += 1
            self.last_drift_at = at
            self.warned = False
            self.start = self.observed
            self._total = 0.0
            self._begin_sample()
            return alarm
        if self._has_warning and river._warning_detected is not self.warned:
            self.warned = not self.warned
            if self.warned:
                self.warnings += 1
                return self._alarm("warning")
        return None

    def _keep(self) -> None:
        """Keep the value that leaves the recent ones; of a full sample only every second."""
        sample = self._sample
        sample.append(self._recent[0])
        if len(sample) > _SAMPLE:
            del sample[1::2]  # an odd number: the first and the last one stay
            self._stride *= 2
        elif len(sample) == _RECENT:
            self._before_drift = []
        self._keep_at = self.observed + self._stride

    def _begin_sample(self) -> None:
        """A drift: what was sampled is of the time before it; of a short time, all of its values are."""
        is_short = len(self._sample) < _RECENT
        self._before_drift = [*self._sample, *self._recent] if is_short else self._sample
        self._sample = []
        self._stride = 1
        self._keep_at = self.observed + _RECENT + 1
        self._recent.clear()

    def _alarm(self, level: Level) -> Alarm:
        return Alarm(
            level=level,
            watch=self.watch,
            detector=self.detector,
            mean_before=self._mean_before(),
            mean_after=self._mean_now(),
            observed=self.observed,
        )

    def _mean_before(self) -> float | None:
        values = self.observed - self.start
        return self._total / values if values else None

    def _mean_now(self) -> float | None:
        return math.fsum(self._recent) / len(self._recent) if self._recent else None

    def status(self) -> dict[str, object]:
        return self.counts() | {
            "mean_before": self._mean_before(),
            "mean_now": self._mean_now(),
            "distribution": histogram(self._recent, self._before_drift or self._sample),
        }

    def counts(self) -> dict[str, object]:
        return {
            "watch": self.watch,
            "detector": self.detector,
            "state": "warning" if self.warned else "stable",
            "observed": self.observed,
            "skipped": self.skipped,
            "warnings": self.warnings,
            "drifts": self.drifts,
            "last_drift_at": self.last_drift_at,
        }
