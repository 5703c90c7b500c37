"""The nouns that monitors and the pipeline share: what an alert says and what a status says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

Task = Literal["binary", "multiclass", "regression"]
"""What is learned. Labels are then bool, str and float."""

Label = bool | str | float
"""A label or a predicted label, as the task has it."""

Level = Literal["warning", "drift"]
"""Warning: prepare. Drift: act."""

Figures = Mapping[str, Mapping[str, float | None]]
"""Per metric (or baseline): `value`, over everything scored, and `window`, over the last of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What a drift detector said, with the position of the record at which it said it."""

    #: Warning or drift.
    kind: Level
    #: Name of the pipeline.
    pipeline: str
    #: What was watched: `error`, `label`, `prediction` or `feature:NAME`.
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
    #: Labels the learner has learned.
    learned: int
    #: Predictions scored by the metrics.
    scored: int
    #: Records sent to the dead-letter topic since the origin.
    dead_letters: int
    #: Predictions waiting for their label.
    pending: int
    #: Predictions that gave up waiting.
    expired: int
    #: Answers whose question is not pending: never asked, expired, or answered before.
    unmatched: int
    #: Questions whose id was already waiting for its label.
    duplicates: int
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
    #: One mapping for each drift watch: see `DriftMonitor.status`.
    drift: Sequence[Mapping[str, object]]
    #: Readable name of the learner.
    learner: str
    #: Silent replay up to the committed offset, or processing what is new.
    state: Literal["replaying", "live"]
    #: Wall clock when the status was made, epoch seconds.
    time: float

    def to_dict(self) -> dict[str, object]:
        """The fields by name, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
