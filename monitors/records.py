"""The nouns that monitors and the pipeline share: what an alert says and what a status says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

Task = Literal["binary", "multiclass", "regression"]
"""What is learned. Labels are then bool, str and float."""

Label = bool | str | float
"""A label or a predicted label, as the task has it."""

Level = Literal["warning", "drift"]
"""Warning: prepare. Drift: act."""

Severity = Literal["info", "warning", "critical"]
"""Good to know; look at it today; somebody should look now."""

Figures = Mapping[str, Mapping[str, float | None]]
"""Per metric (or baseline): `value`, over everything scored, and `window`, over the last of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What a drift detector said, with the position of the record at which it said it."""

    #: Warning or drift.
    kind: Level
    #: Name of the pipeline.
    pipeline: str
    #: What was watched: `error`, `label`, `label:CLASS`, `label_delay`, `prediction` or `feature:NAME`.
    watch: str
    #: Name of the detector, as in the settings.
    detector: str
    #: Partition of the events topic.
    partition: int
    #: Offset of the record at which the detector spoke (not the next one).
    offset: int
    #: Event time of that record, epoch seconds.
    time: float
    #: Mean of the watched values since the last drift, or since the start. None: not a finite number.
    mean_before: float | None
    #: Mean of the last 100 watched values, or of those since the last drift when they are fewer.
    mean_after: float | None
    #: Values the detector had been given since the start, this one included.
    observed: int

    def to_dict(self) -> dict[str, object]:
        """The fields by name, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something about the running of a pipeline that a person should know; it opens and closes.

    It lies on the alerts topic like an `Alert`, and unlike that it is no function of the log: it is written outside
    any transaction, with the time at which it was seen.
    """

    #: Tells it from an `Alert`.
    kind: Literal["incident"] = "incident"
    #: Name of the pipeline.
    pipeline: str
    #: Partition of the events topic; None: it is about the whole pipeline.
    partition: int | None
    #: Next offset of the partition when it happened; 0: not known then.
    offset: int
    #: Which one, such as `snapshot-failed`; open until one of the same name and partition is closed.
    incident: str
    #: Whether it begins or is over.
    state: Literal["open", "closed"]
    #: How bad it is.
    severity: Severity = "warning"
    #: What happened, where, and what to do, in a sentence.
    text: str
    #: Who saw it: the worker's transactional id, or its instance without transactions; `monitor`: a watchdog.
    worker: str
    #: Wall clock, epoch seconds.
    time: float

    def to_dict(self) -> dict[str, object]:
        """The fields by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFacts:
    """The newest snapshot of a partition."""

    #: Its name in the store.
    name: str
    #: S: the first offset that it has not learned.
    offset: int
    #: Wall clock when it was written, epoch seconds.
    time: float
    #: Its size.
    bytes: int
    #: Seconds that the worker stood still for it; 0: another worker wrote it.
    pause_seconds: float
    #: Seconds until it was written, read back and verified; 0: another worker wrote it.
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One partition at one moment: a view of its state, never an input to it."""

    #: Name of the pipeline.
    pipeline: str
    #: Partition of the events topic.
    partition: int
    #: The worker that owns the partition: its transactional id, or its instance without transactions.
    worker: str
    #: Next offset: the first one that is not processed.
    offset: int
    #: End of the partition (last stable offset). None: not known yet.
    end: int | None
    #: Records behind the end, from the consumer's position. None: not known yet.
    lag_records: int | None
    #: Events decoded since the origin: labelled events, questions and answers.
    events: int
    #: Predictions made since the origin.
    predictions: int
    #: Events predicted on that had no label in them, since the origin.
    questions: int
    #: Answers that found their question, since the origin. Of those whose wait is over this share has its label:
    #: joined / (joined + expired).
    joined: int
    #: Labels the learner has learned.
    learned: int
    #: Predictions scored by the metrics.
    scored: int
    #: Records sent to the dead-letter topic since the origin.
    dead_letters: int
    #: The same by how far they came: `decode`, `predict`, `score`, `drift` and `learn`.
    dead_letters_by_stage: Mapping[str, int]
    #: Predictions waiting for their label.
    pending: int
    #: Predictions that gave up waiting.
    expired: int
    #: Of these, how many had to because `[labels] capacity` was reached; how many were learned as what silence means.
    expired_early: int
    expired_learned: int
    #: Answers that came after their question had expired.
    late: int
    #: Answers that came before their question and were kept for a while; how many of them wait now.
    early: int
    early_waiting: int
    #: Answers whose question did not come within `[labels] early_seconds`, or is forgotten.
    unmatched: int
    #: Answers that said again what was known; those that said something else; of these, those that were learned.
    duplicate_labels: int
    conflicting_labels: int
    corrected_labels: int
    #: Questions and labelled events whose id had been seen before.
    duplicates: int
    #: Records that were relayed for another pipeline.
    ignored: int
    #: Shares since the origin, see `monitors.labels.label_health`: `coverage` and `expired` of the questions whose wait
    #: is over; `early`, `late`, `unmatched`, `duplicate` and `conflicting` of the labels that came. None: of nothing.
    label_health: Mapping[str, float | None]
    #: Label delay of the last up to 1,000 answers: median `p50` and `p95`, seconds of event time, and their `count`.
    #: None: there was none yet.
    label_delay: Mapping[str, float] | None
    #: The same delays in bins: `counts` of those up to each of `bounds`, seconds, and of those beyond the last. A
    #: label that came before its question has a delay of 0 or less.
    label_delay_histogram: Mapping[str, Sequence[float]] | None
    #: Predicted numbers that were NaN or infinite, written as null.
    non_finite: int
    #: Events per second since the last status.
    rate: float
    #: How many scored predictions the figures called `window` look back on.
    window: int
    #: The metrics by name.
    metrics: Figures
    #: The first metric for no-change and for majority class or mean.
    baselines: Mapping[str, Mapping[str, float | None]]
    #: How often each class was `predicted`, and was the `label`, in the window: see `Prequential.classes`. None:
    #: regression.
    classes: Mapping[str, Mapping[str, int]] | None
    #: One mapping for each drift watch: see `DriftMonitor.status`.
    drift: Sequence[Mapping[str, object]]
    #: Readable name of the learner.
    learner: str
    #: Mean seconds of one call of it, `predict` and `learn`, as timed now and then: since the last status, or when it
    #: last was. None: it was not yet.
    learner_seconds: Mapping[str, float] | None
    #: The newest snapshot: written by this worker, or the one it began with. None: there is none yet.
    snapshot: SnapshotFacts | None
    #: Silent replay up to the committed offset, or processing what is new.
    state: Literal["replaying", "live"]
    #: Wall clock when the status was made, epoch seconds.
    time: float
    #: Names of the incidents of the partition that its worker has open: one that it does not name was left open by
    #: another, which was killed. None: its worker is of a version that does not say.
    incidents: Sequence[str] | None = None

    def to_dict(self) -> dict[str, object]:
        """The fields by name, ready for JSON."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return found | {"snapshot": None if self.snapshot is None else asdict(self.snapshot)}


def ranges(numbers: Iterable[int], to: str = "-") -> str:
    """Numbers such as those of partitions, those that follow each other as one.

    Example:
        >>> ranges([7, 0, 2, 1, 3])
        '0-3, 7'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}{to}{run[-1]}" for run in runs)
