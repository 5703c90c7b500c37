"""Prequential metrics: score every prediction that was made before its label was learned.

The figures are River's own: `river.evaluate.progressive_val_score` gives the same number to the last digit.
The event path only appends to lists. Every 256 labels those are folded into River's metric objects: a metric
that counts pairs of label and prediction is told each distinct pair once, with its count as the weight (whole
numbers, so nothing is rounded); a metric that adds up floats is told every pair in order. Reading folds the
rest into a copy, so the state never depends on when somebody looked.
"""

import copy
import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, islice, starmap
from typing import TYPE_CHECKING, Any, Protocol, cast

from monitors.records import Label, Task

if TYPE_CHECKING:
    from river import metrics

# A fold costs some 20 microseconds beside its pairs: nothing when 256 labels share it.
_BATCH = 256
# Classes that are told one by one; a table of a thousand helps nobody.
_MOST_CLASSES = 20

Pair = tuple[Label, Any]
"""A label and what was predicted for it: a label, a number or a probability."""


class RiverMetric(Protocol):
    """What we use of a River metric."""

    def update(self, y_true: object, y_pred: object, w: float = ..., /) -> None:
        """Score one prediction with a weight."""

    def get(self) -> float:
        """The figure so far."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric by name: what it fits and how its figure is to be read."""

    #: Name in the settings.
    name: str
    #: Tasks it fits.
    tasks: tuple[Task, ...]
    #: River's class, in `river.metrics`.
    class_name: str
    #: One line for a table.
    summary: str
    #: It is given probabilities, not the predicted class.
    needs_scores: bool = False
    #: A high figure is a good one.
    higher_is_better: bool = True
    #: A mean over events: figures of several partitions may be averaged, weighted by events.
    is_mean: bool = False
    #: It depends on pairs only through how often each occurs.
    is_counted: bool = True

    @property
    def river(self) -> Callable[[], RiverMetric]:
        """Makes River's metric, empty."""
        from river import metrics  # noqa: PLC0415 - takes seconds, and who only reads figures needs none of it

        return cast(Callable[[], RiverMetric], getattr(metrics, self.class_name))


_CLASSES: tuple[Task, ...] = ("binary", "multiclass")
_BINARY: tuple[Task, ...] = ("binary",)


def _specs() -> Iterator[MetricSpec]:
    def classes(name: str, river: str, summary: str, *, is_mean: bool = False) -> MetricSpec:
        return MetricSpec(name, _CLASSES, river, summary, is_mean=is_mean)

    def binary(name: str, river: str, summary: str) -> MetricSpec:
        return MetricSpec(name, _BINARY, river, summary)

    def numbers(name: str, river: str, summary: str, *, is_mean: bool) -> MetricSpec:
        return MetricSpec(
            name,
            ("regression",),
            river,
            summary,
            higher_is_better=False,
            is_mean=is_mean,
            is_counted=False,
        )

    yield classes("accuracy", "Accuracy", "share of predictions that were right", is_mean=True)
    yield classes("balanced_accuracy", "BalancedAccuracy", "mean of the recalls of the classes")
    yield classes("cohen_kappa", "CohenKappa", "accuracy beyond what chance would give")
    yield classes("geometric_mean", "GeometricMean", "geometric mean of the recalls of the classes")
    yield binary("mcc", "MCC", "Matthews correlation of label and prediction")
    yield binary("f1", "F1", "harmonic mean of precision and recall")
    yield binary("precision", "Precision", "share of predicted positives that were positive")
    yield binary("recall", "Recall", "share of positives that were predicted")
    yield binary("jaccard", "Jaccard", "true positives among all that are or were called positive")
    for kind, how in (("macro", "mean over classes"), ("weighted", "mean over classes by their frequency")):
        for name in ("f1", "precision", "recall", "jaccard"):
            river = kind.title() + name.title()
            # Recall weighted by how often each class occurs is accuracy.
            is_mean = (kind, name) == ("weighted", "recall")
            yield classes(f"{kind}_{name}", river, f"{name}, {how}", is_mean=is_mean)
    for name in ("f1", "precision", "recall", "jaccard"):
        river = "Micro" + name.title()
        # With one label an event the micro averages of these three are accuracy.
        yield classes(f"micro_{name}", river, f"{name} over all classes together", is_mean=name != "jaccard")
    yield MetricSpec(
        "log_loss",
        _BINARY,
        "LogLoss",
        "minus the log of the probability given to the label",
        needs_scores=True,
        higher_is_better=False,
        is_mean=True,
        is_counted=False,
    )
    yield MetricSpec(
        "cross_entropy",
        ("multiclass",),
        "CrossEntropy",
        "minus the log of the probability given to the label",
        needs_scores=True,
        higher_is_better=False,
        is_mean=True,
        is_counted=False,
    )
    yield MetricSpec(
        "roc_auc",
        _BINARY,
        "ROCAUC",
        "chance that a positive is ranked above a negative (River's, at 10 thresholds)",
        needs_scores=True,
    )
    yield numbers("mae", "MAE", "mean absolute error", is_mean=True)
    yield numbers("mse", "MSE", "mean squared error", is_mean=True)
    yield numbers("rmse", "RMSE", "root of the mean squared error", is_mean=False)
    yield numbers("mape", "MAPE", "mean absolute error in percent of the label", is_mean=True)
    yield numbers("smape", "SMAPE", "mean absolute error in percent of both", is_mean=True)
    yield MetricSpec(
        "r2", ("regression",), "R2", "share of the label's variance that is explained", is_counted=False
    )


METRICS: Mapping[str, MetricSpec] = {spec.name: spec for spec in _specs()}
"""The metrics we take. Left out: what needs arguments (the F-beta kinds), what compares clusterings, what
keeps a window of its own, and RMSLE, which raises on labels of -1 and below."""


def metric_names(task: Task) -> list[str]:
    """Names of the metrics that fit a task."""
    return [spec.name for spec in METRICS.values() if task in spec.tasks]


def metric_problems(names: Sequence[str], task: Task) -> list[str]:
    """Everything that is wrong with a list of metrics, a sentence each; empty when it fits.

    Example:
        >>> for problem in metric_problems(["acuracy", "mae"], "binary"):
        ...     print(problem)
        metric "acuracy" is not known; did you mean "accuracy"?
        metric "mae" is for regression, not for binary.
    """
    if not names:
        return [f"no metric is named; expected one or more of: {', '.join(metric_names(task))}."]
    problems = []
    for i, name in enumerate(names):
        spec = METRICS.get(name)
        if spec is None:
            fits = metric_names(task)
            near = get_close_matches(name, fits, n=1) or get_close_matches(name, METRICS, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"expected one of: {', '.join(fits)}."
            problems.append(f'metric "{name}" is not known; {hint}')
        elif task not in spec.tasks:
            problems.append(f'metric "{name}" is for {" and ".join(spec.tasks)}, not for {task}.')
        elif name in names[:i]:
            problems.append(f'metric "{name}" is named twice.')
    return problems


def check_metrics(names: Sequence[str], task: Task) -> None:
    """Raise ValueError, with all that `metric_problems` finds, unless the metrics fit the task."""
    if problems := metric_problems(names, task):
        raise ValueError(" ".join(problems))


def weighted_mean(name: str, figures: Iterable[tuple[float | None, int]]) -> float | None:
    """A metric over several partitions: the mean of their figures, weighted by events.

    Args:
        name: The metric. One that is no mean over events has no such figure: None.
        figures: For each partition its figure and the number of events in it. A partition without events does
            not count; one with events and no figure makes the whole None.

    Example:
        >>> weighted_mean("accuracy", [(0.5, 100), (0.8, 200), (None, 0)])
        0.7
        >>> weighted_mean("roc_auc", [(0.5, 100), (0.8, 200)]) is None
        True
    """
    if not METRICS[name].is_mean:
        return None
    total, events = 0.0, 0
    for value, n in figures:
        if n <= 0:
            continue
        if value is None:
            return None
        total += value * n
        events += n
    return total / events if events else None


class Prequential:
    """The metrics of one partition, cumulative and over a window, beside two baselines.

    A prediction that is None is not scored, and empty probabilities are not scored by the metrics that want
    probabilities, both as in River. The baselines look at the labels alone and are scored by the first
    metric: `no_change` predicts the label before this one, `majority` the commonest so far (all their
    frequencies, where the metric wants probabilities), `mean` the mean of the labels so far. They are River's
    `NoChangeClassifier`, `PriorClassifier` and `StatisticRegressor(stats.Mean())`, in plain code.

    The window is kept as pairs, and its figure is computed from them when it is read: that is every few
    seconds, where `river.utils.Rolling` would cost 2.6 microseconds an event.

    Args:
        names: Metrics, of which the first is the one the baselines are scored by.
        task: Decides the type of label, see `monitors.records.Task`.
        window: How many of the last scored predictions the windowed figures look at.

    Example:
        >>> prequential = Prequential(["accuracy"], "binary", window=2)
        >>> for y, y_pred in [(True, None), (True, True), (False, True), (True, True)]:
        ...     prequential.update(y, y_pred, None)
        >>> prequential.scored, prequential.values()
        (3, {'accuracy': {'value': 0.6666666666666666, 'window': 0.5}})
        >>> prequential.baselines()["no_change"]
        {'value': 0.3333333333333333, 'window': 0.0}
    """

    __slots__ = (
        "_baselines",
        "_by_class",
        "_by_score",
        "_class_pairs",
        "_labels",
        "_score_pairs",
        "names",
        "scored",
        "task",
        "window",
    )

    def __init__(self, names: Sequence[str], task: Task, window: int) -> None:
        check_metrics(names, task)
        if window < 1:
            raise ValueError(f"window is {window}; expected at least 1.")
        self.names = tuple(names)
        self.task: Task = task
        self.window = window
        #: Predictions scored.
        self.scored = 0
        self._labels: list[Label] = []
        self._class_pairs: list[Pair] = []
        self._score_pairs: list[Pair] = []
        self._by_class = _Scores([name for name in names if not METRICS[name].needs_scores], window)
        self._by_score = _Scores([name for name in names if METRICS[name].needs_scores], window)
        needs_scores = METRICS[names[0]].needs_scores
        guesses: dict[str, _Guess]
        if task == "regression":
            guesses = {"no_change": _LastValue(), "mean": _MeanValue()}
        elif not needs_scores:
            guesses = {"no_change": _LastValue(), "majority": _Majority()}
        elif task == "binary":
            guesses = {"no_change": _LastProbability(), "majority": _Frequency()}
        else:
            guesses = {"no_change": _LastProbabilities(), "majority": _Frequencies()}
        self._baselines = {
            name: (guess, _Scores(names[:1], window, plain=True)) for name, guess in guesses.items()
        }

    def update(self, y: Label, y_pred: Label | None, y_proba: Mapping[Label, float] | None) -> None:
        """Score one prediction, now that its label is known.

        Args:
            y: The label.
            y_pred: The class or number that was predicted; None is not scored.
            y_proba: The probabilities that were predicted, if there were any.
        """
        labels = self._labels
        labels.append(y)
        if y_pred is not None:
            self.scored += 1
            self._class_pairs.append((y, y_pred))
        if y_proba and self._by_score.metrics:
            self._score_pairs.append((y, _score(self.task, y, y_proba)))
        if len(labels) >= _BATCH:
            self._fold()

    def _fold(self) -> None:
        self._by_class.fold(self._class_pairs)
        self._by_score.fold(self._score_pairs)
        for guess, scores in self._baselines.values():
            scores.fold(guess.pairs(self._labels))
        self._labels.clear()
        self._class_pairs.clear()
        self._score_pairs.clear()

    def values(self) -> dict[str, dict[str, float | None]]:
        """For each metric its figure over all that was scored (`value`) and over the `window`.

        None: nothing scored yet, or not a finite number.
        """
        found = self._by_class.read(self._class_pairs) | self._by_score.read(self._score_pairs)
        return {name: found[name] for name in self.names}

    def classes(self) -> dict[str, dict[str, int]] | None:
        """How often each class was predicted, and was the label, among the last `window` that were scored.

        None for regression. Classes are as in JSON, `true` and `false` of two, the commonest first; beyond 20 the rest
        are counted together as the class without a name, the empty string.

        Example:
            >>> prequential = Prequential(["accuracy"], "binary", window=2)
            >>> for y, y_pred in [(False, False), (True, False), (True, True)]:
            ...     prequential.update(y, y_pred, None)
            >>> prequential.classes()
            {'predicted': {'false': 1, 'true': 1}, 'label': {'true': 2}}
        """
        if self.task == "regression":
            return None
        recent = self._by_class.with_recent(self._class_pairs)
        name = _binary_name if self.task == "binary" else str
        return {
            "predicted": _commonest(name(y_pred) for _, y_pred in recent),
            "label": _commonest(name(y) for y, _ in recent),
        }

    def baselines(self) -> dict[str, dict[str, float | None]]:
        """The first metric for each baseline, cumulative (`value`) and over the `window`."""
        return {
            name: scores.read(copy.deepcopy(guess).pairs(self._labels))[self.names[0]]
            for name, (guess, scores) in self._baselines.items()
        }


def _score(task: Task, y: Label, y_proba: Mapping[Label, float]) -> object:
    """What the metrics look at: of two classes the positive one's probability, of several the label's."""
    if task == "binary":
        return y_proba.get(True, 0.0)
    return {y: y_proba[y]} if y in y_proba else {}


def _binary_name(y: Label) -> str:
    return "true" if y else "false"


def _commonest(names: Iterable[str]) -> dict[str, int]:
    counts = Counter(names)
    unnamed = counts.pop("", 0)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    unnamed += sum(n for _, n in ordered[_MOST_CLASSES:])
    return dict(ordered[:_MOST_CLASSES]) | ({"": unnamed} if unnamed else {})


class _Scores:
    """Some metrics over one sequence of pairs, and the last pairs themselves."""

    __slots__ = ("metrics", "recent", "undefined")

    def __init__(self, names: Sequence[str], window: int, *, plain: bool = False) -> None:
        self.metrics: dict[str, RiverMetric | _MeanLoss] = {
            name: _MeanLoss(name) if plain and name in _LOSSES else METRICS[name].river() for name in names
        }
        self.recent: deque[Pair] = deque(maxlen=window)
        #: Metrics whose arithmetic overflowed (River raises): without a figure from then on.
        self.undefined: list[str] = []

    def fold(self, pairs: Sequence[Pair]) -> None:
        for name, metric in self.metrics.items():
            if not _feed(name, metric, pairs) and name not in self.undefined:
                self.undefined.append(name)
        self.recent.extend(pairs)

    def with_recent(self, pairs: Sequence[Pair]) -> deque[Pair]:
        recent = self.recent.copy()
        recent.extend(pairs)
        return recent

    def read(self, pairs: Sequence[Pair]) -> dict[str, dict[str, float | None]]:
        recent = self.with_recent(pairs)
        found = {}
        for name, metric in self.metrics.items():
            value = window = None
            if recent:
                total = copy.deepcopy(metric)
                if _feed(name, total, pairs) and name not in self.undefined:
                    value = _finite(total)
                part = METRICS[name].river()
                if _feed(name, part, recent):
                    window = _finite(part)
            found[name] = {"value": value, "window": window}
        return found


def _feed(name: str, metric: "RiverMetric | _MeanLoss", pairs: Sequence[Pair]) -> bool:
    """Give the pairs to the metric; False when its arithmetic overflowed."""
    if isinstance(metric, _MeanLoss):
        metric.update_many(pairs)
        return True
    if METRICS[name].is_counted:
        if name == "roc_auc":
            # It asks of a probability only which thresholds it exceeds, so the next threshold stands for it.
            thresholds = (*cast("metrics.ROCAUC", metric).thresholds, math.inf)
            pairs = [(y, thresholds[bisect_left(thresholds, p)]) for y, p in pairs]
        for (y, y_pred), n in Counter(pairs).items():
            metric.update(y, y_pred, float(n))
        return True
    try:
        for y, y_pred in pairs:
            metric.update(y, y_pred)
    except ArithmeticError:
        return False
    return True


def _finite(metric: "RiverMetric | _MeanLoss") -> float | None:
    try:
        value = float(metric.get())
    except ArithmeticError:
        return None
    return value if math.isfinite(value) else None


class _Guess(Protocol):
    """A baseline: what it would have predicted for each label, knowing those before."""

    def pairs(self, labels: Sequence[Label]) -> list[Pair]:
        """Predict each label, then learn it. A label without a prediction has no pair."""


class _LastValue:
    """The label before."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last: Label | None = None

    def pairs(self, labels: Sequence[Label]) -> list[Pair]:
        if not labels:
            return []
        before = islice(chain((self.last,), labels), 0 if self.last is not None else 1, len(labels))
        scored = labels if self.last is not None else labels[1:]
        self.last = labels[-1]
        return list(zip(scored, before, strict=True))


class _LastProbability(_LastValue):
    """Certainty that the label before comes again, as the probability of True."""

    __slots__ = ()

    def pairs(self, labels: Sequence[Label]) -> list[Pair]:
        return [(y, 1.0 if last else 0.0) for y, last in super().pairs(labels)]


class _LastProbabilities(_LastValue):
    """Certainty that the label before comes again, of several classes."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        super().__init__()
        #: Classes that have come. River gives no probability to others; its cross entropy then adds nothing.
        self.seen: dict[Label, None] = {}

    def pairs(self, labels: Sequence[Label]) -> list[Pair]:
        pairs: list[Pair] = []
        for y in labels:
            if self.last is not None:
                pairs.append((y, {y: 1.0 if y == self.last else 0.0} if y in self.seen else {}))
            self.seen[y] = None
            self.last = y
        return pairs


class _Majority:
    """The commonest label so far; of several the one that came first."""

    __slots__ = ("counts", "majority", "most")

    def __init__(self) -> None:
        self.counts: dict[Label, int] = {}
        self.majority: Label | None = None
        self.most = 0

    def pairs(self, labels: Sequence[Label]) -> list[Pair]:
        pairs: list[Pair] = []
        counts, majority, most = self.counts, self.majority, self.most
        for y in labels:
            if majority is not None:
                pairs.append((y, majority))
            counts[y] = n = counts.get(y, 0) + 1
            if n > most:
                majority, most = y, n
            elif n == most:
                majority = max(counts, key=counts.__getitem__)
        self.majority, self.most = majority, most
        return pairs


class _Frequencies:
    """How often each class has come so far, as probabilities."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts: dict[Label, int] = {}
        self.total = 0

    def pairs(self, labels: Sequence[Label]) -> list[Pair]:
        pairs: list[Pair] = []
        for y in labels:
            n = self.counts.get(y, 0)
            if self.total:
                pairs.append((y, {y: n / self.total} if n else {}))
            self.counts[y] = n + 1
            self.total += 1
        return pairs


class _Frequency:
    """How often True has come so far, as its probability."""

    __slots__ = ("positives", "total")

    def __init__(self) -> None:
        self.positives = 0
        self.total = 0

    def pairs(self, labels: Sequence[Label]) -> list[Pair]:
        pairs: list[Pair] = []
        positives, total = self.positives, self.total
        for y in labels:
            if total:
                pairs.append((y, positives / total))
            positives += y is True
            total += 1
        self.positives, self.total = positives, total
        return pairs


class _MeanValue:
    """The mean of the labels so far, and 0.0 before the first, as River has it."""

    __slots__ = ("mean", "n")

    def __init__(self) -> None:
        self.mean = 0.0
        self.n = 0

    def pairs(self, labels: Sequence[Label]) -> list[Pair]:
        pairs: list[Pair] = []
        mean, n = self.mean, self.n
        for y in labels:
            pairs.append((y, mean))
            n += 1
            mean += (float(y) - mean) / n
        self.mean, self.n = mean, n
        return pairs


def _clamp(p: float) -> float:
    return 1e-15 if p < 1e-15 else 1 - 1e-15 if p > 1 - 1e-15 else p


def _log_loss(y: bool, p: float) -> float:
    p = _clamp(p)
    return -math.log(p if y else 1 - p)


def _cross_entropy(y: Label, p: Mapping[Label, float]) -> float:
    return -math.log(_clamp(p[y])) if p else 0.0


def _square(y: float, p: float) -> float:
    return (y - p) * (y - p)


_LOSSES: Mapping[str, Callable[[Any, Any], float]] = {
    "log_loss": _log_loss,
    "cross_entropy": _cross_entropy,
    "mae": lambda y, p: abs(y - p),
    "mse": _square,
    "rmse": _square,
    "mape": lambda y, p: 100 * abs(y - p) / abs(y) if y else 0.0,
    "smape": lambda y, p: 200 * abs(y - p) / (abs(y) + abs(p)) if y or p else 0.0,
}


class _MeanLoss:
    """River's metrics that are means of a float, in plain code: for baselines, which may differ by rounding.

    On log loss they cost a quarter of what River's would.
    """

    __slots__ = ("n", "name", "total")

    def __init__(self, name: str) -> None:
        self.name = name
        self.total = 0.0
        self.n = 0

    def update_many(self, pairs: Sequence[Pair]) -> None:
        self.total += sum(starmap(_LOSSES[self.name], pairs))
        self.n += len(pairs)

    def get(self) -> float:
        mean = self.total / self.n
        return math.sqrt(mean) if self.name == "rmse" else mean
