"""When the watchdogs of `headrace monitor` bark: `[watchdogs]`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stream.settings.values import Section, whole
from stream.settings.words import Expected

OrOff = Annotated[float, Field(ge=0, allow_inf_nan=False), Expected("a number >= 0")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), Expected("a number from 0 to 1")]


class WatchdogSettings(Section):
    """When a watchdog of `headrace monitor` barks: its bound. 0 switches it off. See [Watchdogs](watchdogs.md)."""

    # The defaults are those of monitors.fleet.Bounds, which is not imported here: River would be with it.
    worker_seconds: OrOff = Field(
        default=60.0,
        description="`worker-gone`: no status of a partition for so long; at least 30, and three times "
        "`[worker] status_interval_seconds`.",
    )
    progress_seconds: OrOff = Field(
        default=300.0, description="`no-progress`: no record processed for so long, while some wait."
    )
    lag_records: Annotated[int, Field(ge=0), whole(0)] = Field(
        default=100_000, description="`lag`: a partition is further behind its end than this."
    )
    events_seconds: OrOff = Field(
        default=3_600.0, description="`no-events`: no event for so long, where there were some before."
    )
    labels_seconds: OrOff = Field(
        default=3_600.0,
        description="`no-labels`: no label for so long, while predictions go on; at least twice the usual label "
        "delay (p95).",
    )
    relay_seconds: OrOff = Field(
        default=300.0,
        description="`relay-behind`: a record has waited for so long to be relayed from a topic of its own.",
    )
    coverage_share: Share = Field(
        default=0.5,
        description="`coverage-falls`: the share of predictions that got their label is less, over ten minutes, than "
        "so much of what it was in the hour before.",
    )
    baseline_seconds: OrOff = Field(
        default=600.0,
        description="`worse-than-baseline`: the first metric is worse than that of no-change for so long, over its "
        "window.",
    )
    learn_seconds: OrOff = Field(
        default=600.0, description="`learns-nothing`: nothing learned for so long, while labels come."
    )
    dead_letter_share: Share = Field(
        default=0.05,
        description="`dead-letters`: more dead letters than this share of the events, over five minutes.",
    )
    snapshot_age_seconds: OrOff = Field(
        default=3_600.0,
        description="`snapshot-old`: no new snapshot for so long, while records are processed; at least three times "
        "`[snapshots] interval_seconds`.",
    )
    one_class_share: Share = Field(
        default=0.99,
        description="`one-class`: at least this share of the window's predictions are one class, and the labels are "
        "not.",
    )
    non_finite_seconds: OrOff = Field(
        default=600.0,
        description="`not-a-number`: a prediction that was NaN or infinite is told of for so long, at most 7200.",
    )
