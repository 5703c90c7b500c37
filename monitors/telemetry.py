"""What Prometheus is told: one list of every family of series, and the text that it scrapes.

`Family` is the list; docs/reference/prometheus.md is written from it, and the dashboards ask for nothing else. Whoever
has something to tell hands over readings, which never change: a worker its `WorkerReadings` to `Telemetry`, the monitor
its `MonitorReadings` to `MonitorTelemetry`. They make text of the last ones when they are asked, in whatever thread.
The only module that imports prometheus_client.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as PrometheusFamily

from monitors.records import Figures, Status

#: Upper bounds of buckets, seconds: of what is done with records on their way, from half a millisecond to a minute;
LATENCIES: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
#: of one call of a learner: 10 microseconds (a linear model) to a second;
CALLS: Final = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1, 1.0)
#: of how long a label takes: a second to a month.
DELAYS: Final = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0)
#: Upper bounds of buckets, seconds: of how late an event loop comes round, from a millisecond to ten seconds.
LOOP_DELAYS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
#: Upper bounds of buckets, records of one commit: up to the most there can be.
SIZES: Final = (1.0, 10.0, 100.0, 1_000.0, 5_000.0, 10_000.0, 20_000.0)
#: Most drift watches of a partition that are exported, and most metrics: each is some series for each partition.
MOST_WATCHES: Final = 100
MOST_METRICS: Final = 50
#: Most notification channels and watchdogs of a pipeline that are exported, of each.
MOST_CHANNELS: Final = 50
MOST_WATCHDOGS: Final = 50
#: Most topics of a pipeline that are relayed and are exported.
MOST_RELAYED: Final = 50
#: Longest value of a label, characters.
MOST_CHARACTERS: Final = 200
#: Where a dead letter can come from.
STAGES: Final = ("decode", "predict", "score", "drift", "learn")
#: What a label in a record of its own can become: each of them becomes one, when it is known which.
LABEL_STATES: Final = ("joined", "late", "unmatched", "duplicate", "conflicting")
#: How bad an incident can be, the worst first.
SEVERITIES: Final = ("critical", "warning", "info")
#: What a drift alert can be.
LEVELS: Final = ("drift", "warning")
#: The topics that a monitor reads.
TOPIC_KINDS: Final = ("status", "alerts")

Kind = Literal["counter", "gauge", "histogram"]
Unit = Literal["", "records", "seconds", "bytes"]
PartitionState = Literal["waiting", "replaying", "live"]
Call = Literal["predict", "learn"]
Teller = Literal["worker", "monitor"]

_PARTITION: Final = ("pipeline", "partition")


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySpec:
    """A family of series: one name, one meaning."""

    #: As Prometheus wants it: the unit last, then `_total` for a counter.
    name: str
    #: What may be computed from it.
    kind: Kind
    #: Whose `/metrics` has it.
    told_by: Teller = "worker"
    #: Names of its labels.
    labels: tuple[str, ...] = ("pipeline",)
    #: Empty: a plain number.
    unit: Unit = ""
    #: What it says, a sentence.
    meaning: str
    #: What to do when it is bad; empty: it can't be.
    remedy: str = ""
    #: Upper bounds of a histogram's buckets, without the infinite one.
    buckets: tuple[float, ...] = ()


@unique
class Family(Enum):
    """Every family of series, in the order of the reference page.

    Example:
        >>> Family.LAG.value.name
        'headrace_lag_records'
    """

    # The worker and its loop
    WORKER = FamilySpec(
        name="headrace_worker_info",
        kind="gauge",
        labels=("pipeline", "topic", "worker", "version"),
        meaning="1; its labels say which worker this is (its transactional id) and of which version.",
        remedy="Fewer than there should be: a worker is gone; its last line on standard error says why.",
    )
    LOOP_AGE = FamilySpec(
        name="headrace_loop_age_seconds",
        kind="gauge",
        unit="seconds",
        meaning="Time since the worker's loop last came round.",
        remedy="Minutes: the learner or the disk hangs. `/healthz` asks for a restart after 300 s.",
    )
    PROGRESS_AGE = FamilySpec(
        name="headrace_progress_age_seconds",
        kind="gauge",
        unit="seconds",
        meaning="Time since something was committed, or there was nothing to read.",
        remedy="More than a minute: the broker does not answer, or the learner is very slow. `/readyz` says more.",
    )
    PARTITIONS = FamilySpec(
        name="headrace_partitions",
        kind="gauge",
        labels=("pipeline", "state"),
        meaning="Partitions of this worker that are `waiting` (assigned, not restored), `replaying` or `live`.",
        remedy="Waiting for long: the log says why, most likely the snapshot store is away.",
    )
    PROCESSED = FamilySpec(
        name="headrace_processed_records_total",
        kind="counter",
        unit="records",
        meaning="Records that this worker has processed, replayed ones too.",
    )
    PROCESSING = FamilySpec(
        name="headrace_processing_seconds_total",
        kind="counter",
        unit="seconds",
        meaning="Time that these took from their bytes to their outputs in the producer's hands: decoding, learner, "
        "metrics, detectors, encoding.",
        remedy="Near one second a second: the worker is at its limit. Add workers, up to one for each partition, or "
        "take a cheaper learner.",
    )
    LEARNER_CALL = FamilySpec(
        name="headrace_learner_call_seconds",
        kind="histogram",
        labels=("pipeline", "call"),
        unit="seconds",
        buckets=CALLS,
        meaning="Time of one call of the learner, `predict` or `learn`: River's share of an event. Measured on about "
        "one event in 128, replayed ones too.",
        remedy="It grows: the model does. Bound it (`max_size`, `max_depth` and the like) or take a cheaper one.",
    )
    # Commits
    COMMITS = FamilySpec(
        name="headrace_commits_total",
        kind="counter",
        labels=("pipeline", "result"),
        meaning="Commits by result: `committed`, or `aborted`, which are sent again.",
        remedy="Many aborted: the group rebalances all the time. Look for workers that come and go.",
    )
    FENCED = FamilySpec(
        name="headrace_producer_fenced_total",
        kind="counter",
        meaning="Times that another process took this worker's transactional id, or a transaction ran out of time.",
        remedy="Give each worker its own `[worker] instance`; after a stall, look for what stalled it.",
    )
    COMMIT = FamilySpec(
        name="headrace_commit_seconds",
        kind="histogram",
        unit="seconds",
        buckets=LATENCIES,
        meaning="Time of one commit: outputs flushed, offsets sent, transaction committed.",
        remedy="Slow: so is the broker, its disk or the network.",
    )
    COMMIT_SIZE = FamilySpec(
        name="headrace_commit_records",
        kind="histogram",
        unit="records",
        buckets=SIZES,
        meaning="Records in one commit.",
    )
    POLL_TO_COMMIT = FamilySpec(
        name="headrace_poll_to_commit_seconds",
        kind="histogram",
        unit="seconds",
        buckets=LATENCIES,
        meaning="Time from the poll that brought the oldest record of a commit to the commit's end.",
        remedy="Lower `[worker] commit_interval_ms`; if `headrace_commit_seconds` is most of it, look at the broker.",
    )
    LATENCY = FamilySpec(
        name="headrace_event_to_prediction_seconds",
        kind="histogram",
        unit="seconds",
        buckets=LATENCIES,
        meaning="Latency: time from the event's record timestamp to the commit of its prediction, by wall clock. "
        "Estimated from up to 8 records of each partition in each commit; records with a timestamp in the future are "
        "left out.",
        remedy="Grows with the lag: add workers. High without lag: see `headrace_poll_to_commit_seconds`, "
        "then the producer's clock and its `linger.ms`.",
    )
    # What was done with the records
    EVENTS = FamilySpec(
        name="headrace_events_total",
        kind="counter",
        labels=_PARTITION,
        meaning="Events: labelled events, questions and answers.",
        remedy="No increase: nothing is produced, or nothing is read: see the lag.",
    )
    PREDICTIONS = FamilySpec(
        name="headrace_predictions_total",
        kind="counter",
        labels=_PARTITION,
        meaning="Predictions written.",
    )
    LEARNED = FamilySpec(
        name="headrace_learned_total",
        kind="counter",
        labels=_PARTITION,
        meaning="Labels learned.",
        remedy="No increase while there are events: no labels come, or the learner fails on them: see dead letters "
        "of stage `learn`.",
    )
    SCORED = FamilySpec(
        name="headrace_scored_total",
        kind="counter",
        labels=_PARTITION,
        meaning="Predictions scored by the metrics.",
    )
    NON_FINITE = FamilySpec(
        name="headrace_non_finite_total",
        kind="counter",
        labels=_PARTITION,
        meaning="Predicted numbers that were NaN or infinite, written as null.",
        remedy="The model has diverged: scale the features, lower the learning rate, then rebuild.",
    )
    DEAD_LETTERS = FamilySpec(
        name="headrace_dead_letters_total",
        kind="counter",
        labels=(*_PARTITION, "stage"),
        meaning=f"Dead letters by stage: {', '.join(f'`{stage}`' for stage in STAGES)}.",
        remedy="`headrace dead-letters list` says why. Stage `decode`: mend the producer or `[event]`; others: the "
        "learner.",
    )
    # Labels
    PENDING = FamilySpec(
        name="headrace_pending",
        kind="gauge",
        labels=_PARTITION,
        meaning="Predictions that wait for their label.",
        remedy="At `[labels] capacity` the oldest expire early: raise it, or look for the labels.",
    )
    LABELS = FamilySpec(
        name="headrace_labels_total",
        kind="counter",
        labels=(*_PARTITION, "state"),
        meaning="Labels that came in records of their own, by what they became: `joined` (found their question), "
        "`late` (after it had expired), `unmatched` (it never came, or is forgotten), `duplicate` (said again) and "
        "`conflicting` (said otherwise).",
        remedy="Late: raise `[labels] expire_after_seconds`. Unmatched: questions and answers need the same id, key "
        "and partitioner. Duplicate or conflicting: ask who produces them.",
    )
    CORRECTED = FamilySpec(
        name="headrace_corrected_labels_total",
        kind="counter",
        labels=_PARTITION,
        meaning='Conflicting labels that were learned as well, with `[labels] conflict = "correct"`.',
    )
    EARLY = FamilySpec(
        name="headrace_early_labels_total",
        kind="counter",
        labels=_PARTITION,
        meaning="Labels that came before their question and were kept for it. They become one of the states later.",
        remedy="Many: questions are produced late, or their event time is not when they were asked.",
    )
    EARLY_WAITING = FamilySpec(
        name="headrace_early_labels_waiting",
        kind="gauge",
        labels=_PARTITION,
        meaning="Labels that wait for their question now, as of the last status.",
        remedy="It grows and nothing is joined: see unmatched labels in `headrace_labels_total`.",
    )
    EXPIRED = FamilySpec(
        name="headrace_expired_total",
        kind="counter",
        labels=_PARTITION,
        meaning="Predictions that gave up waiting for their label.",
        remedy="Labels are late or missing: raise `[labels] expire_after_seconds` or look at their producer.",
    )
    EXPIRED_EARLY = FamilySpec(
        name="headrace_expired_early_total",
        kind="counter",
        labels=_PARTITION,
        meaning="Of these, those that had to because `[labels] capacity` predictions waited.",
        remedy="Raise `[labels] capacity`, or lower `expire_after_seconds`: their labels come too late in any case.",
    )
    EXPIRED_LEARNED = FamilySpec(
        name="headrace_expired_learned_total",
        kind="counter",
        labels=_PARTITION,
        meaning="Of these, those that were learned as what silence means: `[labels] silence`.",
    )
    DUPLICATES = FamilySpec(
        name="headrace_duplicates_total",
        kind="counter",
        labels=_PARTITION,
        meaning="Questions and labelled events whose id had been seen before: they are not learned.",
        remedy="The producer sends twice, or `[event] id` names a field that is not one event's own: name another, or "
        "set `[event] id_window = 0`.",
    )
    LABEL_DELAY = FamilySpec(
        name="headrace_label_delay_seconds",
        kind="histogram",
        unit="seconds",
        labels=_PARTITION,
        buckets=DELAYS,
        meaning="Label delay: event time from a question to its answer; of at most 1,000 answers of a partition a "
        "commit.",
        remedy="Near `[labels] expire_after_seconds`: raise that.",
    )
    # Where a partition stands
    LIVE = FamilySpec(
        name="headrace_partition_live",
        kind="gauge",
        labels=_PARTITION,
        meaning="1: the partition is up to date with its commits; 0: it waits to be restored, or replays.",
        remedy="0 for long: a long replay (take snapshots more often), or a snapshot store that is away.",
    )
    OFFSET = FamilySpec(
        name="headrace_committed_offset",
        kind="gauge",
        labels=_PARTITION,
        meaning="The committed next offset.",
    )
    REPLAY = FamilySpec(
        name="headrace_replay_records",
        kind="gauge",
        labels=_PARTITION,
        unit="records",
        meaning="Offsets still to replay before the partition is live.",
    )
    LAG = FamilySpec(
        name="headrace_lag_records",
        kind="gauge",
        labels=_PARTITION,
        unit="records",
        meaning="Records behind the end of the partition, as of the last status.",
        remedy="It grows: more events come than the worker can do. Add workers, up to one for each partition.",
    )
    # The model
    MODEL_LABELS = FamilySpec(
        name="headrace_model_labels",
        kind="gauge",
        labels=_PARTITION,
        meaning="Labels that the model has learned since the origin, as of the last status.",
        remedy="Less than before: a fresh start or a rebuild.",
    )
    MODEL_AGE = FamilySpec(
        name="headrace_model_age_seconds",
        kind="gauge",
        labels=_PARTITION,
        unit="seconds",
        meaning="Time since the last label was learned here, or since the partition was restored, by wall clock.",
        remedy="Longer than labels usually take: they no longer come, or can't be learned: see dead letters of stage "
        "`learn`, and unmatched answers.",
    )
    METRIC = FamilySpec(
        name="headrace_metric_value",
        kind="gauge",
        labels=(*_PARTITION, "metric", "over"),
        meaning='A metric over everything scored (`over="all"`) or the last `[metrics] window` (`over="window"`), '
        "as of the last status. Absent while it is undefined.",
        remedy="Worse than before or than the baseline: look at the drift alerts, then at the labels, then at the "
        "features.",
    )
    BASELINE = FamilySpec(
        name="headrace_baseline_value",
        kind="gauge",
        labels=(*_PARTITION, "baseline", "metric", "over"),
        meaning="The first metric for a baseline: `no_change`, and `majority` or `mean`.",
        remedy="Better than the model: that is of no use as it is.",
    )
    DRIFT_STATE = FamilySpec(
        name="headrace_drift_state",
        kind="gauge",
        labels=(*_PARTITION, "watch", "detector"),
        meaning=f"A drift detector: 0 stable, 1 warning. For the first {MOST_WATCHES} of a pipeline; the second one "
        "of the same watch and name is called `NAME (2)`.",
        remedy="A warning: prepare.",
    )
    DRIFTS = FamilySpec(
        name="headrace_drifts_total",
        kind="counter",
        labels=(*_PARTITION, "watch", "detector"),
        meaning="Drifts that a detector has seen.",
        remedy="The alert has the means before and after. Find out what changed: the world, or a producer.",
    )
    WARNINGS = FamilySpec(
        name="headrace_drift_warnings_total",
        kind="counter",
        labels=(*_PARTITION, "watch", "detector"),
        meaning="Warnings that a detector has given.",
    )
    SKIPPED = FamilySpec(
        name="headrace_drift_skipped_values",
        kind="gauge",
        labels=(*_PARTITION, "watch", "detector"),
        meaning="Values since the origin that a detector was not given: no usable numbers.",
        remedy="It grows: the feature is missing, or is no number.",
    )
    # Snapshots and incidents
    SNAPSHOTS = FamilySpec(
        name="headrace_snapshots_total",
        kind="counter",
        labels=(*_PARTITION, "result"),
        meaning="Snapshots by result: `written` or `failed`.",
        remedy="Failed: the incident on the alerts topic says why. Work goes on; a restart replays more.",
    )
    SNAPSHOT_AGE = FamilySpec(
        name="headrace_snapshot_age_seconds",
        kind="gauge",
        labels=_PARTITION,
        unit="seconds",
        meaning="Time since the newest snapshot was written, by wall clock. An idle partition needs no new one.",
        remedy="Much more than `[snapshots] interval_seconds` while there are events: see failed ones.",
    )
    SNAPSHOT_OFFSET = FamilySpec(
        name="headrace_snapshot_offset",
        kind="gauge",
        labels=_PARTITION,
        meaning="The first offset that the newest snapshot has not learned: a restart replays from there.",
        remedy="Far behind `headrace_committed_offset`: the events topic must still reach back to it.",
    )
    SNAPSHOT_BYTES = FamilySpec(
        name="headrace_snapshot_size_bytes",
        kind="gauge",
        labels=_PARTITION,
        unit="bytes",
        meaning="Size of the newest snapshot.",
        remedy="Near `[snapshots] max_bytes`: bound the model, or raise that.",
    )
    SNAPSHOT_PAUSE = FamilySpec(
        name="headrace_snapshot_pause_seconds",
        kind="histogram",
        unit="seconds",
        buckets=LATENCIES,
        meaning="Time that the worker stood still for a snapshot.",
        remedy="Long: the process is large, and copying it takes time, or no copy of it could be made. "
        "Bound the model, or take snapshots less often.",
    )
    SNAPSHOT_WRITE = FamilySpec(
        name="headrace_snapshot_seconds",
        kind="histogram",
        unit="seconds",
        buckets=LATENCIES,
        meaning="Time from a snapshot's beginning until it was written, read back and verified.",
        remedy="Long: the store is slow. The worker does not wait for it.",
    )
    INCIDENT = FamilySpec(
        name="headrace_incident_open",
        kind="gauge",
        labels=(*_PARTITION, "incident"),
        meaning="1 while an incident of this name is open; absent otherwise.",
        remedy="Its record on the alerts topic says what to do; `headrace watch` shows it.",
    )
    # The monitor itself
    MONITOR = FamilySpec(
        name="headrace_monitor_info",
        kind="gauge",
        told_by="monitor",
        labels=("version",),
        meaning="1; its label says of which version this monitor is.",
        remedy="Absent: nobody watches, and no notifications are sent. The workers go on.",
    )
    MONITOR_LOOP_DELAY = FamilySpec(
        name="headrace_monitor_loop_delay_seconds",
        kind="histogram",
        told_by="monitor",
        labels=(),
        unit="seconds",
        buckets=LOOP_DELAYS,
        meaning="How much later than asked the monitor's event loop came round, measured about once a second.",
        remedy="More than a tenth of a second again and again: too many pipelines, partitions or viewers for one "
        "monitor. Start a second one for some of the pipelines.",
    )
    MONITOR_VIEWERS = FamilySpec(
        name="headrace_monitor_viewers",
        kind="gauge",
        told_by="monitor",
        labels=(),
        meaning="Browsers that have the dashboard open.",
    )
    # How the monitor reads
    MONITOR_CONNECTED = FamilySpec(
        name="headrace_monitor_broker_connected",
        kind="gauge",
        told_by="monitor",
        meaning="1: the monitor reads the status and alerts topics of this pipeline; 0: it can't at the moment.",
        remedy="0: all else that the monitor says of the pipeline is as old as that. Its log says why: broker, login "
        "or topics. It tries again by itself.",
    )
    MONITOR_HISTORY = FamilySpec(
        name="headrace_monitor_history_loaded",
        kind="gauge",
        told_by="monitor",
        meaning="1: what was written before the monitor began is read; 0: charts and open incidents are not complete "
        "yet.",
        remedy="0 for minutes: the broker is slow, or the topics are very long: give them less `retention.ms`.",
    )
    MONITOR_RESTARTS = FamilySpec(
        name="headrace_monitor_consumer_restarts_total",
        kind="counter",
        told_by="monitor",
        meaning="Times that the reading of a pipeline's topics failed and was begun again.",
        remedy="More than a few: the monitor's log says why, most likely the broker or the network.",
    )
    MONITOR_RECORDS = FamilySpec(
        name="headrace_monitor_records_total",
        kind="counter",
        told_by="monitor",
        labels=("pipeline", "kind"),
        unit="records",
        meaning=f"Records read, by kind of topic: {' or '.join(f'`{kind}`' for kind in TOPIC_KINDS)}.",
    )
    MONITOR_UNREADABLE = FamilySpec(
        name="headrace_monitor_unreadable_records_total",
        kind="counter",
        told_by="monitor",
        unit="records",
        meaning="Records on these topics that were no status, alert or incident of the pipeline; they are left out.",
        remedy="Another program, or another version of Headrace, writes to these topics. The monitor shows the last.",
    )
    # What the monitor sees of a pipeline
    STATUS_AGE = FamilySpec(
        name="headrace_monitor_status_age_seconds",
        kind="gauge",
        told_by="monitor",
        unit="seconds",
        meaning="Time since the newest status record of any partition arrived, or since the monitor began if there is "
        "none.",
        remedy="Many times `[worker] status_interval_seconds`: no worker runs, or none reaches the broker.",
    )
    MONITOR_PARTITIONS = FamilySpec(
        name="headrace_monitor_partitions",
        kind="gauge",
        told_by="monitor",
        meaning="Partitions of which the monitor has seen a status.",
        remedy="Fewer than the events topic has: some have had no worker for as long as statuses are kept.",
    )
    MONITOR_WORKERS = FamilySpec(
        name="headrace_monitor_workers",
        kind="gauge",
        told_by="monitor",
        meaning="Workers that wrote a status lately.",
        remedy="Fewer than were started: one is gone, or there are more workers than partitions.",
    )
    MONITOR_LAG = FamilySpec(
        name="headrace_monitor_lag_records",
        kind="gauge",
        told_by="monitor",
        unit="records",
        meaning="Records behind the end, all partitions together, as of their last statuses. Absent until known.",
        remedy="See `headrace_lag_records`.",
    )
    RELAY_LAG = FamilySpec(
        name="headrace_monitor_relay_lag_records",
        kind="gauge",
        told_by="monitor",
        labels=("pipeline", "topic"),
        unit="records",
        meaning="Records of a topic that the relay reads which are not relayed yet, all partitions together, by the "
        "offsets of its group; without a commit all that the topic holds. Absent without a relay, and while these "
        "offsets can't be read.",
        remedy="It grows: no relay runs, or it does not keep up. `headrace status` says which.",
    )
    RELAY_WAITED = FamilySpec(
        name="headrace_monitor_relay_waited_seconds",
        kind="gauge",
        told_by="monitor",
        labels=("pipeline", "topic"),
        unit="seconds",
        meaning="For how long the next record to be relayed has waited, at least: since the monitor first saw it "
        "there. Of the partition where that is longest; 0: nothing waits. Absent as the lag is.",
        remedy="Minutes: labels come that much too late, and after `[labels] expire_after_seconds` for nothing. Look "
        "at the relay's log; start one with `headrace run` or `headrace relay`.",
    )
    RELAY_AGE = FamilySpec(
        name="headrace_monitor_relay_age_seconds",
        kind="gauge",
        told_by="monitor",
        unit="seconds",
        meaning="Time since the monitor last read where the relay stands, or since it began if it never could. Absent "
        "without a relay.",
        remedy="More than a minute: it can't. Its log says why, such as a topic that is missing or a permission to "
        "describe the relay's group.",
    )
    MONITOR_METRIC = FamilySpec(
        name="headrace_monitor_metric_value",
        kind="gauge",
        told_by="monitor",
        labels=("pipeline", "metric", "over"),
        meaning="The first metric of the whole pipeline: the mean over its partitions, weighted by events. Only for "
        "metrics that are means, or with one partition; absent otherwise, and while it is undefined.",
        remedy="See `headrace_metric_value`, which has it for each partition.",
    )
    MONITOR_BASELINE = FamilySpec(
        name="headrace_monitor_baseline_value",
        kind="gauge",
        told_by="monitor",
        labels=("pipeline", "baseline", "metric", "over"),
        meaning="The same for a baseline.",
        remedy="Better than the model: that is of no use as it is.",
    )
    OPEN_INCIDENTS = FamilySpec(
        name="headrace_open_incidents",
        kind="gauge",
        told_by="monitor",
        labels=("pipeline", "severity"),
        meaning="Incidents that are open, those of workers and those that the monitor's watchdogs opened, by severity: "
        f"{', '.join(f'`{severity}`' for severity in SEVERITIES)}.",
        remedy="The dashboard and the record on the alerts topic say what happened and what to do.",
    )
    DRIFT_ALERTS = FamilySpec(
        name="headrace_monitor_drift_alerts_total",
        kind="counter",
        told_by="monitor",
        labels=("pipeline", "level"),
        meaning=f"Drift alerts read, by level: {' or '.join(f'`{level}`' for level in LEVELS)}. Those of history too.",
        remedy="See `headrace_drifts_total`.",
    )
    WATCHDOG_OPENINGS = FamilySpec(
        name="headrace_monitor_watchdog_openings_total",
        kind="counter",
        told_by="monitor",
        labels=("pipeline", "watchdog"),
        meaning="Incidents that a watchdog has opened since the monitor began.",
        remedy="Many of one kind: its bound is too tight for this pipeline, or the cause was never mended.",
    )
    # Notifications
    NOTIFICATIONS = FamilySpec(
        name="headrace_monitor_notifications_total",
        kind="counter",
        told_by="monitor",
        labels=("pipeline", "channel", "result"),
        meaning="Messages to a notification channel by result: `sent`, or `failed`, which are tried again.",
        remedy="Failed and none sent: address, password or network of the channel. Nobody is told through it.",
    )
    NOTIFICATIONS_WAITING = FamilySpec(
        name="headrace_monitor_notifications_waiting",
        kind="gauge",
        told_by="monitor",
        labels=("pipeline", "channel"),
        meaning="Notices that wait: for their group, for the limit of messages an hour, or for the pause after a "
        "failure.",
        remedy="It grows: the channel fails, or there is more to tell than the limit lets through.",
    )


def families(teller: Teller) -> list[Family]:
    """Those that a worker has at its `/metrics`, or the monitor at its own."""
    return [family for family in Family if family.value.told_by == teller]


class Counts(NamedTuple):
    """What one partition has done, for the counters."""

    events: int = 0
    predictions: int = 0
    learned: int = 0
    scored: int = 0
    non_finite: int = 0
    duplicates: int = 0
    expired: int = 0
    expired_early: int = 0
    expired_learned: int = 0
    joined: int = 0
    late: int = 0
    unmatched: int = 0
    duplicate_labels: int = 0
    conflicting_labels: int = 0
    corrected_labels: int = 0
    early: int = 0


class Watch(NamedTuple):
    """A drift watch as the settings name it."""

    watch: str
    detector: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchReading:
    """How a drift watch of a partition stands."""

    name: Watch
    #: It is in its warning state.
    warned: bool
    #: Values it was not given, since the origin.
    skipped: int
    #: What it said since the worker began.
    drifts: int
    warnings: int


class DistributionReading(NamedTuple):
    """A histogram at one moment."""

    #: How many values there were in each bucket, the infinite one last.
    counts: tuple[int, ...]
    #: Their sum.
    total: float


class Distribution:
    """A histogram that grows: of one thread, read by others through `reading`.

    Example:
        >>> took = Distribution((0.1, 1.0))
        >>> took.observe(0.1)
        >>> took.observe(5.0, times=2)
        >>> took.reading()
        DistributionReading(counts=(1, 0, 2), total=10.1)
    """

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value; several times if it stands for others."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._total += value * times

    def reading(self) -> DistributionReading:
        """What has been counted so far."""
        return DistributionReading(tuple(self._counts), self._total)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionReadings:
    """How one partition of a worker stands. Counters are of what this worker has committed since it began."""

    partition: int
    state: PartitionState
    #: The committed next offset; None while it waits.
    committed: int | None = None
    #: Offsets still to replay.
    replay_records: int = 0
    counts: Counts = field(default_factory=Counts)
    #: By stage.
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    #: None while it waits.
    label_delay: DistributionReading | None = None
    watches: Sequence[WatchReading] = ()
    #: Wall clock of the last label learned, epoch seconds; None while it waits.
    learned_at: float | None = None
    #: The last one; None: there is none yet.
    status: Status | None = None
    snapshots_written: int = 0
    snapshots_failed: int = 0
    #: Names of the open ones.
    incidents: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReadings:
    """What a worker says of itself; counters begin with the process."""

    #: By its clock, seconds that only grow: when the loop last came round, and when something was last committed or
    #: there was nothing to read.
    turned_at: float
    progressed_at: float
    processed_records: int
    processing_seconds: float
    commits: int
    aborted_commits: int
    fenced: int
    #: Histograms without further labels.
    distributions: Mapping[Family, DistributionReading]
    learner_calls: Mapping[Call, DistributionReading]
    partitions: Sequence[PartitionReadings]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelReadings:
    """What one notification channel of a pipeline has done since the monitor began."""

    #: Its name in the settings; of one that comes twice the second is exported as `NAME (2)`.
    channel: str
    #: Messages that arrived, as far as the channel said.
    sent: int = 0
    #: Attempts that failed; each is tried again.
    failed: int = 0
    #: Notices that wait to be sent.
    waiting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayReadings:
    """What the monitor knows of a pipeline's relay."""

    #: Wall clock when it was last read, epoch seconds. None: it never was.
    read_at: float | None
    #: By topic: records that are not relayed, and for how long the next one has waited, seconds. Empty: not known now.
    topics: Mapping[str, tuple[int, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineReadings:
    """What the monitor knows of one pipeline. Counters are of what it has seen since it began, history included."""

    #: Its name; no two of them in one `MonitorReadings`.
    pipeline: str
    #: Whether its topics are being read at the moment.
    is_connected: bool
    #: Whether what was written before the monitor began is read.
    is_history_loaded: bool
    #: Times that the reading failed and was begun again.
    restarts: int = 0
    #: Records read, by kind of topic: see `TOPIC_KINDS`; what is missing counts as 0.
    records: Mapping[str, int] = field(default_factory=dict)
    #: Records that were no status, alert or incident of this pipeline.
    unreadable: int = 0
    #: Wall clock, epoch seconds, when the newest status arrived; of history, when it was made. None: there is none.
    status_arrived_at: float | None = None
    #: Partitions of which a status was seen.
    partitions: int = 0
    #: Workers that wrote a status lately.
    workers: int = 0
    #: Records behind, all partitions together. None: not known.
    lag_records: int | None = None
    #: Name of the first metric.
    metric: str = ""
    #: That metric of the whole pipeline, as `value` and `window`; None or missing: undefined, or no mean.
    quality: Mapping[str, float | None] = field(default_factory=dict)
    #: The same for each baseline by its name.
    baselines: Figures = field(default_factory=dict)
    #: Incidents that are open, by severity: see `SEVERITIES`; what is missing counts as 0.
    open_incidents: Mapping[str, int] = field(default_factory=dict)
    #: Drift alerts seen, by level: see `LEVELS`; what is missing counts as 0.
    drift_alerts: Mapping[str, int] = field(default_factory=dict)
    #: Incidents opened, by watchdog. Name every watchdog from the start, with 0: Prometheus sees a counter grow only
    #: from a value that it knows.
    watchdog_openings: Mapping[str, int] = field(default_factory=dict)
    #: None: it has no relay.
    relay: RelayReadings | None = None
    #: Its notification channels, each from the start.
    channels: Sequence[ChannelReadings] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorReadings:
    """What the monitor says of itself and of its pipelines."""

    #: Wall clock when it began, epoch seconds.
    began_at: float
    #: How late its event loop came round: a `Distribution(Family.MONITOR_LOOP_DELAY.value.buckets)`.
    loop_delay: DistributionReading
    #: Browsers that have the dashboard open.
    viewers: int = 0
    pipelines: Sequence[PipelineReadings] = ()


class _Exporter(ABC):
    """Text for Prometheus, made when it is asked for."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and text.

        Args:
            accept: What the client takes: its header of that name.
        """
        encoder, content_type = choose_encoder(accept)
        return content_type, encoder(self._registry)

    def collect(self) -> Iterator[PrometheusFamily]:
        """The families that have any series, for prometheus_client."""
        found = _Families()
        self._put(found)
        return found.in_order()

    @abstractmethod
    def _put(self, found: _Families) -> None:
        """Add all samples."""


class Telemetry(_Exporter):
    """The last readings of a worker as text for Prometheus.

    Args:
        pipeline: Name of the pipeline.
        topic: The events topic.
        worker: The worker's transactional id.
        version: Of Headrace.
        clock: That of the readings.
        wall_clock: Epoch seconds.
    """

    def __init__(
        self,
        *,
        pipeline: str,
        topic: str,
        worker: str,
        version: str,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._info = (pipeline, topic, worker, version)
        self._pipeline = pipeline
        self._clock = clock
        self._wall_clock = wall_clock
        self._readings: WorkerReadings | None = None
        super().__init__()

    def update(self, readings: WorkerReadings) -> None:
        """Replace what is known."""
        self._readings = readings

    def _put(self, found: _Families) -> None:
        found.put(Family.WORKER, self._info, 1)
        readings = self._readings
        if readings is not None:
            _put_worker(found, readings, pipeline=self._pipeline, now=self._clock())
            for item in readings.partitions:
                _put_partition(found, item, pipeline=self._pipeline, now=self._wall_clock())


class MonitorTelemetry(_Exporter):
    """The last readings of the monitor as text for Prometheus.

    Args:
        version: Of Headrace.
        wall_clock: That of the readings, epoch seconds.

    Example:
        >>> telemetry = MonitorTelemetry(version="1.2.3", wall_clock=lambda: 1_030.0)
        >>> pipeline = PipelineReadings(
        ...     pipeline="payments", is_connected=True, is_history_loaded=True, status_arrived_at=1_020.0
        ... )
        >>> delay = Distribution(Family.MONITOR_LOOP_DELAY.value.buckets).reading()
        >>> telemetry.update(MonitorReadings(began_at=1_000.0, loop_delay=delay, pipelines=[pipeline]))
        >>> content_type, text = telemetry.exposition()
        >>> [line for line in text.decode().splitlines() if line.startswith("headrace_monitor_status_age")]
        ['headrace_monitor_status_age_seconds{pipeline="payments"} 10.0']
    """

    def __init__(self, *, version: str, wall_clock: Callable[[], float] = time.time) -> None:
        self._version = version
        self._wall_clock = wall_clock
        self._readings: MonitorReadings | None = None
        super().__init__()

    def update(self, readings: MonitorReadings) -> None:
        """Replace what is known."""
        self._readings = readings

    def _put(self, found: _Families) -> None:
        found.put(Family.MONITOR, [self._version], 1)
        readings = self._readings
        if readings is not None:
            found.put_distribution(Family.MONITOR_LOOP_DELAY, [], readings.loop_delay)
            found.put(Family.MONITOR_VIEWERS, [], readings.viewers)
            for item in readings.pipelines:
                _put_pipeline(found, item, began_at=readings.began_at, now=self._wall_clock())


class _Families:
    """Samples by family, as prometheus_client wants them."""

    def __init__(self) -> None:
        self._found: dict[Family, PrometheusFamily] = {}

    def put(self, family: Family, labels: Sequence[str], value: float) -> None:
        """Add a sample of a counter or a gauge."""
        found = self._family(family)
        if not isinstance(found, CounterMetricFamily | GaugeMetricFamily):
            raise AssertionError(f"{family} is no counter and no gauge")
        found.add_metric([_text(label) for label in labels], value)

    def put_distribution(self, family: Family, labels: Sequence[str], reading: DistributionReading) -> None:
        """Add the samples of a histogram."""
        found = self._family(family)
        if not isinstance(found, HistogramMetricFamily):
            raise AssertionError(f"{family} is no histogram")
        below, buckets = 0, []
        for bound, count in zip((*map(str, family.value.buckets), "+Inf"), reading.counts, strict=True):
            below += count
            buckets.append((bound, float(below)))
        found.add_metric([_text(label) for label in labels], buckets, reading.total)

    def in_order(self) -> Iterator[PrometheusFamily]:
        """All that was put, as the list has it."""
        return (self._found[family] for family in Family if family in self._found)

    def _family(self, family: Family) -> PrometheusFamily:
        found = self._found.get(family)
        if found is None:
            found = self._found[family] = _new_family(family.value)
        return found


def _new_family(spec: FamilySpec) -> PrometheusFamily:
    new: type[CounterMetricFamily] | type[GaugeMetricFamily] | type[HistogramMetricFamily]
    match spec.kind:
        case "counter":
            new = CounterMetricFamily
        case "gauge":
            new = GaugeMetricFamily
        case "histogram":
            new = HistogramMetricFamily
    return new(spec.name, spec.meaning, labels=spec.labels, unit=spec.unit)


def _text(label: str) -> str:
    """A label's value that is neither too long nor anything but UTF-8; prometheus_client escapes the rest."""
    return label[:MOST_CHARACTERS].encode("utf-8", "replace").decode()


class _Numbered:
    """Names that are told apart: the second of the same one gets a number.

    As they are shown: two that begin alike may be one when they are cut.

    >>> numbered = _Numbered()
    >>> [numbered("adwin", of) for of in ("error", "error", "label")]
    ['adwin', 'adwin (2)', 'adwin']
    """

    def __init__(self) -> None:
        self._seen: Counter[tuple[str, str]] = Counter()

    def __call__(self, name: str, of: str = "") -> str:
        shown = _text(name)
        self._seen[of, shown] += 1
        count = self._seen[of, shown]
        if count == 1:
            return shown
        number = f" ({count})"
        return shown[: MOST_CHARACTERS - len(number)] + number


def _put_worker(found: _Families, readings: WorkerReadings, *, pipeline: str, now: float) -> None:
    found.put(Family.LOOP_AGE, [pipeline], max(0.0, now - readings.turned_at))
    found.put(Family.PROGRESS_AGE, [pipeline], max(0.0, now - readings.progressed_at))
    states = Counter(item.state for item in readings.partitions)
    for state in ("waiting", "replaying", "live"):
        found.put(Family.PARTITIONS, [pipeline, state], states[state])
    found.put(Family.PROCESSED, [pipeline], readings.processed_records)
    found.put(Family.PROCESSING, [pipeline], readings.processing_seconds)
    found.put(Family.COMMITS, [pipeline, "committed"], readings.commits)
    found.put(Family.COMMITS, [pipeline, "aborted"], readings.aborted_commits)
    found.put(Family.FENCED, [pipeline], readings.fenced)
    for family, reading in readings.distributions.items():
        found.put_distribution(family, [pipeline], reading)
    for call, reading in readings.learner_calls.items():
        found.put_distribution(Family.LEARNER_CALL, [pipeline, call], reading)


def _put_partition(found: _Families, item: PartitionReadings, *, pipeline: str, now: float) -> None:
    labels = (pipeline, str(item.partition))
    found.put(Family.LIVE, labels, int(item.state == "live"))
    for incident in item.incidents:
        found.put(Family.INCIDENT, (*labels, incident), 1)
    if item.committed is None:
        return
    found.put(Family.OFFSET, labels, item.committed)
    found.put(Family.REPLAY, labels, item.replay_records)
    counts = item.counts
    for family, count in (
        (Family.EVENTS, counts.events),
        (Family.PREDICTIONS, counts.predictions),
        (Family.LEARNED, counts.learned),
        (Family.SCORED, counts.scored),
        (Family.NON_FINITE, counts.non_finite),
        (Family.CORRECTED, counts.corrected_labels),
        (Family.EARLY, counts.early),
        (Family.EXPIRED, counts.expired),
        (Family.EXPIRED_EARLY, counts.expired_early),
        (Family.EXPIRED_LEARNED, counts.expired_learned),
        (Family.DUPLICATES, counts.duplicates),
    ):
        found.put(family, labels, count)
    became = (
        *(counts.joined, counts.late, counts.unmatched),
        *(counts.duplicate_labels, counts.conflicting_labels),
    )
    for state, count in zip(LABEL_STATES, became, strict=True):
        found.put(Family.LABELS, (*labels, state), count)
    for stage in STAGES:
        found.put(Family.DEAD_LETTERS, (*labels, stage), item.dead_letters.get(stage, 0))
    if item.label_delay is not None:
        found.put_distribution(Family.LABEL_DELAY, labels, item.label_delay)
    if item.learned_at is not None:
        found.put(Family.MODEL_AGE, labels, max(0.0, now - item.learned_at))
    _put_watches(found, labels, item.watches[:MOST_WATCHES])
    found.put(Family.SNAPSHOTS, (*labels, "written"), item.snapshots_written)
    found.put(Family.SNAPSHOTS, (*labels, "failed"), item.snapshots_failed)
    if item.status is not None:
        _put_status(found, labels, item.status, now)


def _put_watches(found: _Families, labels: Sequence[str], watches: Sequence[WatchReading]) -> None:
    numbered = _Numbered()
    for item in watches:
        watch = _text(item.name.watch)
        own = (*labels, watch, numbered(item.name.detector, watch))
        found.put(Family.DRIFT_STATE, own, int(item.warned))
        found.put(Family.DRIFTS, own, item.drifts)
        found.put(Family.WARNINGS, own, item.warnings)
        found.put(Family.SKIPPED, own, item.skipped)


def _put_status(found: _Families, labels: Sequence[str], status: Status, now: float) -> None:
    if status.lag_records is not None:
        found.put(Family.LAG, labels, status.lag_records)
    found.put(Family.PENDING, labels, status.pending)
    found.put(Family.EARLY_WAITING, labels, status.early_waiting)
    found.put(Family.MODEL_LABELS, labels, status.learned)
    names = list(status.metrics)[:MOST_METRICS]
    for name in names:
        _put_figures(found, Family.METRIC, (*labels, name), status.metrics[name])
    for baseline, figures in status.baselines.items():
        _put_figures(found, Family.BASELINE, (*labels, baseline, *names[:1]), figures)
    snapshot = status.snapshot
    if snapshot is not None:
        found.put(Family.SNAPSHOT_AGE, labels, max(0.0, now - snapshot.time))
        found.put(Family.SNAPSHOT_OFFSET, labels, snapshot.offset)
        found.put(Family.SNAPSHOT_BYTES, labels, snapshot.bytes)


def _put_figures(
    found: _Families, family: Family, labels: Sequence[str], figures: Mapping[str, float | None]
) -> None:
    for over, key in (("all", "value"), ("window", "window")):
        figure = figures.get(key)
        if figure is not None:
            found.put(family, (*labels, over), figure)


def _put_pipeline(found: _Families, item: PipelineReadings, *, began_at: float, now: float) -> None:
    labels = (item.pipeline,)
    found.put(Family.MONITOR_CONNECTED, labels, int(item.is_connected))
    found.put(Family.MONITOR_HISTORY, labels, int(item.is_history_loaded))
    found.put(Family.MONITOR_RESTARTS, labels, item.restarts)
    for kind in TOPIC_KINDS:
        found.put(Family.MONITOR_RECORDS, (*labels, kind), item.records.get(kind, 0))
    found.put(Family.MONITOR_UNREADABLE, labels, item.unreadable)
    arrived_at = began_at if item.status_arrived_at is None else item.status_arrived_at
    found.put(Family.STATUS_AGE, labels, max(0.0, now - arrived_at))
    found.put(Family.MONITOR_PARTITIONS, labels, item.partitions)
    found.put(Family.MONITOR_WORKERS, labels, item.workers)
    if item.lag_records is not None:
        found.put(Family.MONITOR_LAG, labels, item.lag_records)
    if item.relay is not None:
        _put_relay(found, item.relay, labels, began_at=began_at, now=now)
    _put_figures(found, Family.MONITOR_METRIC, (*labels, item.metric), item.quality)
    for baseline, figures in item.baselines.items():
        _put_figures(found, Family.MONITOR_BASELINE, (*labels, baseline, item.metric), figures)
    for severity in SEVERITIES:
        found.put(Family.OPEN_INCIDENTS, (*labels, severity), item.open_incidents.get(severity, 0))
    for level in LEVELS:
        found.put(Family.DRIFT_ALERTS, (*labels, level), item.drift_alerts.get(level, 0))
    numbered = _Numbered()
    for watchdog in list(item.watchdog_openings)[:MOST_WATCHDOGS]:
        own = (*labels, numbered(watchdog))
        found.put(Family.WATCHDOG_OPENINGS, own, item.watchdog_openings[watchdog])
    numbered = _Numbered()
    for channel in item.channels[:MOST_CHANNELS]:
        own = (*labels, numbered(channel.channel))
        found.put(Family.NOTIFICATIONS, (*own, "sent"), channel.sent)
        found.put(Family.NOTIFICATIONS, (*own, "failed"), channel.failed)
        found.put(Family.NOTIFICATIONS_WAITING, own, channel.waiting)


def _put_relay(
    found: _Families, relay: RelayReadings, labels: Sequence[str], *, began_at: float, now: float
) -> None:
    read_at = began_at if relay.read_at is None else relay.read_at
    found.put(Family.RELAY_AGE, labels, max(0.0, now - read_at))
    numbered = _Numbered()
    for topic, (lag, waited) in list(relay.topics.items())[:MOST_RELAYED]:
        own = (*labels, numbered(topic))
        found.put(Family.RELAY_LAG, own, lag)
        found.put(Family.RELAY_WAITED, own, waited)
