"""Status and alert records as workers write them, for the tests of the control plane."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from monitors import Alert, Incident, SnapshotFacts, Status
from monitors.fleet import PipelineFacts

FACTS = PipelineFacts(
    name="fraud",
    task="binary",
    events_topic="payments",
    alerts_topic="fraud.alerts",
    status_topic="fraud.status",
    dead_letters_topic="fraud.dead-letters",
    learner="logistic-regression",
    parameters={"l2": 0.001},
    metrics=("accuracy", "roc_auc"),
    window=1_000,
    watches=(("error", "adwin"), ("feature:amount", "page-hinkley")),
    status_interval_seconds=5.0,
    settings_file="fraud.toml",
    brokers="127.0.0.1:9092",
)

STATUS = Status(
    pipeline="fraud",
    partition=0,
    worker="fraud-host-0",
    offset=1_000,
    end=1_010,
    lag_records=10,
    events=1_000,
    predictions=1_000,
    learned=990,
    scored=989,
    dead_letters=0,
    pending=0,
    expired=0,
    expired_early=0,
    expired_learned=0,
    late=0,
    early=0,
    early_waiting=0,
    unmatched=0,
    duplicate_labels=0,
    conflicting_labels=0,
    corrected_labels=0,
    ignored=0,
    duplicates=0,
    non_finite=0,
    rate=200.0,
    window=1_000,
    metrics={"accuracy": {"value": 0.9, "window": 0.92}, "roc_auc": {"value": 0.95, "window": 0.96}},
    baselines={
        "no_change": {"value": 0.5, "window": 0.51},
        "majority": {"value": 0.6, "window": 0.61},
    },
    drift=[
        {
            "watch": "error",
            "detector": "adwin",
            "state": "stable",
            "observed": 989,
            "skipped": 0,
            "warnings": 0,
            "drifts": 1,
            "last_drift_at": 500,
            "mean_before": 0.1,
            "mean_now": 0.08,
            "distribution": {"edges": [0.0, 0.5, 1.0], "now": [92, 8], "before": [450, 50]},
        }
    ],
    questions=0,
    joined=0,
    label_health={},
    label_delay=None,
    label_delay_histogram=None,
    dead_letters_by_stage={},
    classes={"predicted": {"false": 600, "true": 400}, "label": {"false": 580, "true": 420}},
    learner_seconds={"predict": 1e-5, "learn": 2e-5},
    learner="StandardScaler | LogisticRegression",
    snapshot=SnapshotFacts(
        name="0-900", offset=900, time=1_000_000.0, bytes=21_000, pause_seconds=0.001, seconds=0.01
    ),
    state="live",
    time=1_000_000.0,
    incidents=[],
)

DRIFT = Alert(
    kind="drift",
    pipeline="fraud",
    watch="error",
    detector="adwin",
    partition=0,
    offset=500,
    time=999_950.0,
    mean_before=0.1,
    mean_after=0.4,
    observed=500,
)

INCIDENT = Incident(
    pipeline="fraud",
    partition=0,
    offset=700,
    incident="snapshot-failed",
    state="open",
    severity="warning",
    text="No room on the disk.",
    worker="fraud-host-0",
    time=999_970.0,
)


def record(noun: Status | Alert | Incident, **changes: Any) -> bytes:
    """A record's bytes, with some fields changed."""
    return orjson.dumps(replace(noun, **changes).to_dict())
