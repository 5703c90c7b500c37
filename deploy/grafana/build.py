"""The dashboards, and the files that Grafana reads: `make dashboards` writes them anew.

    python -m deploy.grafana.build deploy/grafana/dashboards

Metrics are named through the one list, `monitors.telemetry.Family`: a misspelt one is a type error, and a label that a
family does not have is refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from deploy.grafana.panels import Annotation, Color, Dashboard, Panel, Query, Row, Selector, Variable
from monitors.telemetry import Family

LIVE: Final[dict[int, tuple[str, Color]]] = {0: ("not live", "yellow"), 1: ("live", "green")}
WARNED: Final[dict[int, tuple[str, Color]]] = {0: ("stable", "green"), 1: ("warning", "yellow")}
UP: Final[dict[int, tuple[str, Color]]] = {0: ("down", "red"), 1: ("up", "green")}
YES: Final[dict[int, tuple[str, Color]]] = {0: ("no", "red"), 1: ("yes", "green")}

PIPELINE: Final = Variable(name="pipeline", label="Pipeline", of=Family.PARTITIONS.value.name)
PARTITION: Final = Variable(
    name="partition", label="Partition", of=f'{Family.LIVE.value.name}{{pipeline=~"$pipeline"}}'
)
INSTANCE: Final = Variable(
    name="instance", label="Worker", of=f'{Family.WORKER.value.name}{{pipeline=~"$pipeline"}}'
)
METRIC: Final = Variable(
    name="metric", label="Metric", of=f'{Family.METRIC.value.name}{{pipeline=~"$pipeline"}}'
)
#: Prometheus' own series of what fires; not all of our alerts are about one pipeline.
FIRING: Final = 'ALERTS{alertname=~"Headrace.+",alertstate="firing",pipeline=~"$pipeline"}'

ALERTS: Final = Annotation(
    name="Alerts",
    expr=FIRING,
    title="{{alertname}}",
    text="{{severity}}: {{pipeline}} {{partition}} {{instance}}",
    color="red",
)


def pipelines() -> Dashboard:
    """How the models do, what they are fed, and what is wrong."""
    at = Selector("pipeline", "partition")
    each = "{{pipeline}} {{partition}}"
    drifts = f"increase({at(Family.DRIFTS)}[1m]) > 0"
    joined = f"sum by (pipeline) ({at.rate(Family.LABELS, state='joined')})"
    expired = f"sum by (pipeline) ({at.rate(Family.EXPIRED)})"
    return Dashboard(
        uid="headrace-pipelines",
        title="Headrace: pipelines",
        description="How the models do, what they are fed, and what is wrong.",
        variables=[PIPELINE, PARTITION, METRIC],
        annotations=[
            Annotation(
                name="Drifts",
                expr=drifts,
                title="Drift of {{watch}}",
                text="{{detector}} in partition {{partition}} of {{pipeline}}",
                color="yellow",
            ),
            ALERTS,
        ],
        rows=[
            Row(
                title="Now",
                panels=[
                    Panel(
                        title="Partitions that are not live",
                        kind="stat",
                        width=4,
                        height=4,
                        colors={1: "yellow"},
                        queries=[Query(expr=f"count({at(Family.LIVE)}) - sum({at(Family.LIVE)})")],
                        about=[Family.LIVE],
                    ),
                    Panel(
                        title="Events",
                        kind="stat",
                        unit="ops",
                        width=4,
                        height=4,
                        queries=[Query(expr=f"sum({at.rate(Family.EVENTS)})")],
                        about=[Family.EVENTS],
                    ),
                    Panel(
                        title="Lag",
                        kind="stat",
                        width=4,
                        height=4,
                        colors={1_000: "yellow", 100_000: "red"},
                        queries=[Query(expr=f"sum({at(Family.LAG)})")],
                        about=[Family.LAG],
                    ),
                    Panel(
                        title="Open incidents",
                        kind="stat",
                        width=4,
                        height=4,
                        colors={1: "red"},
                        queries=[
                            Query(
                                expr=f"sum by (severity) ({at(Family.OPEN_INCIDENTS)})", legend="{{severity}}"
                            )
                        ],
                        about=[Family.OPEN_INCIDENTS],
                    ),
                    Panel(
                        title="Alerts that fire",
                        note="Rules of `deploy/alerts.yml` that fire now.",
                        kind="stat",
                        width=4,
                        height=4,
                        colors={1: "red"},
                        queries=[Query(expr=f"count({FIRING}) or vector(0)")],
                    ),
                    Panel(
                        title="Workers",
                        kind="stat",
                        width=4,
                        height=4,
                        queries=[
                            Query(expr=f"count by (pipeline) ({at(Family.WORKER)})", legend="{{pipeline}}")
                        ],
                        about=[Family.WORKER],
                    ),
                    Panel(
                        title="State of the partitions",
                        kind="state-timeline",
                        width=12,
                        names=LIVE,
                        queries=[
                            Query(expr=f"max by (pipeline, partition) ({at(Family.LIVE)})", legend=each)
                        ],
                        about=[Family.LIVE],
                    ),
                    Panel(
                        title="Incidents of workers that are open",
                        note="Empty is good. Incidents of the monitor's watchdogs are on the dashboard of the monitor.",
                        kind="table",
                        width=12,
                        queries=[Query(expr=f"{at(Family.INCIDENT)} == 1")],
                        columns={
                            "pipeline": "Pipeline",
                            "partition": "Partition",
                            "incident": "Incident",
                            "instance": "Worker",
                        },
                        about=[Family.INCIDENT],
                    ),
                ],
            ),
            Row(
                title="Quality",
                panels=[
                    Panel(
                        title="Metric over the window, and baselines",
                        note="Broken down by partition; each partition has a learner of its own.",
                        width=12,
                        height=10,
                        queries=[
                            Query(
                                expr=at(Family.METRIC, metric="~$metric", over="window"),
                                legend=f"{each} {{{{metric}}}}",
                            ),
                            Query(
                                expr=at(Family.BASELINE, metric="~$metric", over="window"),
                                legend=f"{each} {{{{metric}}}} of {{{{baseline}}}}",
                            ),
                        ],
                        about=[Family.METRIC, Family.BASELINE],
                    ),
                    Panel(
                        title="First metric of the whole pipeline over the window, and baselines",
                        note="Told by the monitor.",
                        width=12,
                        height=10,
                        queries=[
                            Query(
                                expr=at(Family.MONITOR_METRIC, over="window"),
                                legend="{{pipeline}} {{metric}}",
                            ),
                            Query(
                                expr=at(Family.MONITOR_BASELINE, over="window"),
                                legend="{{pipeline}} {{metric}} of {{baseline}}",
                            ),
                        ],
                        about=[Family.MONITOR_METRIC, Family.MONITOR_BASELINE],
                    ),
                    Panel(
                        title="Metric over everything, and baselines",
                        queries=[
                            Query(
                                expr=at(Family.METRIC, metric="~$metric", over="all"),
                                legend=f"{each} {{{{metric}}}}",
                            ),
                            Query(
                                expr=at(Family.BASELINE, metric="~$metric", over="all"),
                                legend=f"{each} {{{{metric}}}} of {{{{baseline}}}}",
                            ),
                        ],
                        about=[Family.METRIC, Family.BASELINE],
                    ),
                    Panel(
                        title="Labels that the model has learned",
                        queries=[Query(expr=at(Family.MODEL_LABELS), legend=each)],
                        about=[Family.MODEL_LABELS],
                    ),
                    Panel(
                        title="Since the last label",
                        unit="s",
                        queries=[Query(expr=at(Family.MODEL_AGE), legend=each)],
                        about=[Family.MODEL_AGE],
                    ),
                ],
            ),
            Row(
                title="Flow",
                panels=[
                    Panel(
                        title="Events",
                        unit="ops",
                        queries=[Query(expr=at.rate(Family.EVENTS), legend=each)],
                        about=[Family.EVENTS],
                    ),
                    Panel(
                        title="Predictions, labels learned and scores",
                        unit="ops",
                        queries=[
                            Query(
                                expr=f"sum by (pipeline) ({at.rate(family)})",
                                legend=f"{{{{pipeline}}}} {what}",
                            )
                            for family, what in (
                                (Family.PREDICTIONS, "predicted"),
                                (Family.LEARNED, "learned"),
                                (Family.SCORED, "scored"),
                            )
                        ],
                        about=[Family.PREDICTIONS, Family.LEARNED, Family.SCORED],
                    ),
                    Panel(
                        title="Lag",
                        queries=[Query(expr=at(Family.LAG), legend=each)],
                        about=[Family.LAG],
                    ),
                    Panel(
                        title="From event to prediction",
                        unit="s",
                        queries=[
                            Query(
                                expr=at.quantile(level, Family.LATENCY, "pipeline"),
                                legend=f"{{{{pipeline}}}} {name}",
                            )
                            for level, name in ((0.5, "median"), (0.99, "99th percentile"))
                        ],
                        about=[Family.LATENCY],
                    ),
                    Panel(
                        title="Dead letters",
                        unit="ops",
                        queries=[
                            Query(
                                expr=f"sum by (pipeline, stage) ({at.rate(Family.DEAD_LETTERS)})",
                                legend="{{pipeline}} {{stage}}",
                            )
                        ],
                        about=[Family.DEAD_LETTERS],
                    ),
                    Panel(
                        title="Predictions that are no numbers",
                        unit="ops",
                        queries=[Query(expr=at.rate(Family.NON_FINITE), legend=each)],
                        about=[Family.NON_FINITE],
                    ),
                ],
            ),
            Row(
                title="Drift",
                panels=[
                    Panel(
                        title="State of the detectors",
                        kind="state-timeline",
                        width=12,
                        names=WARNED,
                        queries=[
                            Query(
                                expr=at(Family.DRIFT_STATE), legend=f"{each} {{{{watch}}}} {{{{detector}}}}"
                            )
                        ],
                        about=[Family.DRIFT_STATE],
                    ),
                    Panel(
                        title="Drifts",
                        is_bars=True,
                        width=12,
                        queries=[
                            Query(
                                expr=f"increase({at(Family.DRIFTS)}[$__rate_interval])",
                                legend=f"{each} {{{{watch}}}} {{{{detector}}}}",
                            )
                        ],
                        about=[Family.DRIFTS],
                    ),
                    Panel(
                        title="Warnings",
                        is_bars=True,
                        queries=[
                            Query(
                                expr=f"increase({at(Family.WARNINGS)}[$__rate_interval])",
                                legend=f"{each} {{{{watch}}}} {{{{detector}}}}",
                            )
                        ],
                        about=[Family.WARNINGS],
                    ),
                    Panel(
                        title="Values that a detector could not be given",
                        queries=[
                            Query(expr=at(Family.SKIPPED), legend=f"{each} {{{{watch}}}} {{{{detector}}}}")
                        ],
                        about=[Family.SKIPPED],
                    ),
                    Panel(
                        title="Drift alerts that the monitor has read",
                        queries=[Query(expr=at(Family.DRIFT_ALERTS), legend="{{pipeline}} {{level}}")],
                        about=[Family.DRIFT_ALERTS],
                    ),
                ],
            ),
            Row(
                title="Labels",
                panels=[
                    Panel(
                        title="Predictions that wait for their label",
                        queries=[Query(expr=at(Family.PENDING), legend=each)],
                        about=[Family.PENDING],
                    ),
                    Panel(
                        title="Coverage",
                        note="Of the questions whose wait ended, the share that got its label.",
                        unit="percentunit",
                        queries=[Query(expr=f"{joined} / ({joined} + {expired})", legend="{{pipeline}}")],
                        about=[Family.LABELS, Family.EXPIRED],
                    ),
                    Panel(
                        title="Labels by what became of them",
                        unit="ops",
                        queries=[
                            Query(
                                expr=f"sum by (pipeline, state) ({at.rate(Family.LABELS)})",
                                legend="{{pipeline}} {{state}}",
                            )
                        ],
                        about=[Family.LABELS],
                    ),
                    Panel(
                        title="Questions that expired",
                        unit="ops",
                        queries=[
                            Query(
                                expr=f"sum by (pipeline) ({at.rate(family)})",
                                legend=f"{{{{pipeline}}}} {what}",
                            )
                            for family, what in (
                                (Family.EXPIRED, "all"),
                                (Family.EXPIRED_EARLY, "for want of room"),
                                (Family.EXPIRED_LEARNED, "learned as silence"),
                            )
                        ],
                        about=[Family.EXPIRED, Family.EXPIRED_EARLY, Family.EXPIRED_LEARNED],
                    ),
                    Panel(
                        title="Labels before their question",
                        queries=[
                            Query(expr=at(Family.EARLY_WAITING), legend=f"{each} waiting"),
                            Query(
                                expr=f"increase({at(Family.EARLY)}[$__rate_interval])", legend=f"{each} came"
                            ),
                        ],
                        about=[Family.EARLY_WAITING, Family.EARLY],
                    ),
                    Panel(
                        title="Duplicate events and corrected labels",
                        unit="ops",
                        queries=[
                            Query(
                                expr=f"sum by (pipeline) ({at.rate(family)})",
                                legend=f"{{{{pipeline}}}} {what}",
                            )
                            for family, what in (
                                (Family.DUPLICATES, "duplicate events"),
                                (Family.CORRECTED, "corrected labels"),
                            )
                        ],
                        about=[Family.DUPLICATES, Family.CORRECTED],
                    ),
                    Panel(
                        title="Label delay",
                        unit="s",
                        queries=[
                            Query(
                                expr=at.quantile(level, Family.LABEL_DELAY, "pipeline"),
                                legend=f"{{{{pipeline}}}} {name}",
                            )
                            for level, name in ((0.5, "median"), (0.95, "95th percentile"))
                        ],
                        about=[Family.LABEL_DELAY],
                    ),
                ],
            ),
        ],
    )


def workers() -> Dashboard:
    """What the worker processes do with their time, their memory and their disk."""
    at = Selector("pipeline", "partition", "instance")
    each = "{{instance}} {{partition}}"

    def process(name: str) -> str:
        return f'{name}{{job="headrace",instance=~"$instance"}}'

    def quantiles(family: Family, by: str = "instance") -> list[Query]:
        shown = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
        return [
            Query(expr=at.quantile(level, family, by), legend=f"{shown} {name}")
            for level, name in ((0.5, "median"), (0.99, "99th percentile"))
        ]

    return Dashboard(
        uid="headrace-workers",
        title="Headrace: workers",
        description="What the worker processes do with their time, their memory and their disk.",
        variables=[PIPELINE, INSTANCE, PARTITION],
        annotations=[
            Annotation(
                name="Starts",
                expr=f"changes({process('process_start_time_seconds')}[1m]) > 0",
                title="Start of {{instance}}",
                text="A process of a worker began.",
                color="blue",
            ),
            ALERTS,
        ],
        rows=[
            Row(
                title="Processes",
                panels=[
                    Panel(
                        title="Workers",
                        kind="table",
                        queries=[Query(expr=at(Family.WORKER))],
                        columns={
                            "instance": "Address",
                            "worker": "Worker",
                            "pipeline": "Pipeline",
                            "version": "Version",
                        },
                        about=[Family.WORKER],
                    ),
                    Panel(
                        title="Answering",
                        note="Whether Prometheus gets an answer from the worker.",
                        kind="state-timeline",
                        names=UP,
                        queries=[Query(expr=process("up"), legend="{{instance}}")],
                    ),
                    Panel(
                        title="Starts within an hour",
                        note="More than one or two: it dies again and again. Its last line on standard error says why.",
                        queries=[
                            Query(
                                expr=f"changes({process('process_start_time_seconds')}[1h])",
                                legend="{{instance}}",
                            )
                        ],
                    ),
                    Panel(
                        title="Since the loop came round",
                        unit="s",
                        queries=[Query(expr=at(Family.LOOP_AGE), legend="{{instance}}")],
                        about=[Family.LOOP_AGE],
                    ),
                    Panel(
                        title="Since something was committed",
                        unit="s",
                        queries=[Query(expr=at(Family.PROGRESS_AGE), legend="{{instance}}")],
                        about=[Family.PROGRESS_AGE],
                    ),
                    Panel(
                        title="Partitions by state",
                        queries=[Query(expr=at(Family.PARTITIONS), legend="{{instance}} {{state}}")],
                        about=[Family.PARTITIONS],
                    ),
                    Panel(
                        title="Memory",
                        note="Grows without end: the model does, or too many predictions wait for their label.",
                        unit="bytes",
                        queries=[
                            Query(expr=process("process_resident_memory_bytes"), legend="{{instance}}"),
                        ],
                    ),
                    Panel(
                        title="CPU",
                        note="Of one core. The loop uses at most one, librdkafka's threads some of another.",
                        unit="percentunit",
                        queries=[
                            Query(
                                expr=f"rate({process('process_cpu_seconds_total')}[$__rate_interval])",
                                legend="{{instance}}",
                            )
                        ],
                    ),
                    Panel(
                        title="Open files",
                        note="Of all files and connections that are allowed.",
                        unit="percentunit",
                        queries=[
                            Query(
                                expr=f"{process('process_open_fds')} / {process('process_max_fds')}",
                                legend="{{instance}}",
                            )
                        ],
                    ),
                ],
            ),
            Row(
                title="Records",
                panels=[
                    Panel(
                        title="Busy",
                        note="1: at its limit.",
                        unit="percentunit",
                        queries=[Query(expr=at.rate(Family.PROCESSING), legend="{{instance}}")],
                        about=[Family.PROCESSING],
                    ),
                    Panel(
                        title="Records processed",
                        unit="ops",
                        queries=[Query(expr=at.rate(Family.PROCESSED), legend="{{instance}}")],
                        about=[Family.PROCESSED],
                    ),
                    Panel(
                        title="Time of a record",
                        note="From its bytes to its outputs; River's part of it is beside.",
                        unit="s",
                        queries=[
                            Query(
                                expr=f"{at.rate(Family.PROCESSING)} / {at.rate(Family.PROCESSED)}",
                                legend="{{instance}}",
                            )
                        ],
                        about=[Family.PROCESSING, Family.PROCESSED],
                    ),
                    Panel(
                        title="River's time of an event",
                        note="Means of the learner's calls.",
                        unit="s",
                        queries=[
                            Query(
                                expr=at.mean(Family.LEARNER_CALL, "instance, call"),
                                legend="{{instance}} {{call}}",
                            )
                        ],
                        about=[Family.LEARNER_CALL],
                    ),
                    Panel(
                        title="River's time of an event: the slow ones",
                        unit="s",
                        queries=quantiles(Family.LEARNER_CALL, "instance, call"),
                        about=[Family.LEARNER_CALL],
                    ),
                    Panel(
                        title="From event to prediction",
                        unit="s",
                        queries=quantiles(Family.LATENCY),
                        about=[Family.LATENCY],
                    ),
                ],
            ),
            Row(
                title="Commits",
                panels=[
                    Panel(
                        title="Commits",
                        unit="ops",
                        queries=[Query(expr=at.rate(Family.COMMITS), legend="{{instance}} {{result}}")],
                        about=[Family.COMMITS],
                    ),
                    Panel(
                        title="Time of a commit",
                        unit="s",
                        queries=quantiles(Family.COMMIT),
                        about=[Family.COMMIT],
                    ),
                    Panel(
                        title="Records in a commit",
                        queries=[
                            Query(expr=at.mean(Family.COMMIT_SIZE, "instance"), legend="{{instance}} mean"),
                            *quantiles(Family.COMMIT_SIZE)[1:],
                        ],
                        about=[Family.COMMIT_SIZE],
                    ),
                    Panel(
                        title="From poll to commit",
                        unit="s",
                        queries=quantiles(Family.POLL_TO_COMMIT),
                        about=[Family.POLL_TO_COMMIT],
                    ),
                    Panel(
                        title="Committed records a second, by partition",
                        note="How fast the committed next offset moves.",
                        unit="ops",
                        queries=[Query(expr=f"deriv({at(Family.OFFSET)}[5m])", legend=each)],
                        about=[Family.OFFSET],
                    ),
                    Panel(
                        title="Fenced",
                        is_bars=True,
                        queries=[
                            Query(
                                expr=f"increase({at(Family.FENCED)}[$__rate_interval])",
                                legend="{{instance}}",
                            )
                        ],
                        about=[Family.FENCED],
                    ),
                ],
            ),
            Row(
                title="Snapshots",
                panels=[
                    Panel(
                        title="Age of the newest snapshot",
                        unit="s",
                        queries=[Query(expr=at(Family.SNAPSHOT_AGE), legend=each)],
                        about=[Family.SNAPSHOT_AGE],
                    ),
                    Panel(
                        title="Size of the newest snapshot",
                        unit="bytes",
                        queries=[Query(expr=at(Family.SNAPSHOT_BYTES), legend=each)],
                        about=[Family.SNAPSHOT_BYTES],
                    ),
                    Panel(
                        title="Offsets that a restart would replay",
                        queries=[
                            Query(expr=f"{at(Family.OFFSET)} - {at(Family.SNAPSHOT_OFFSET)}", legend=each)
                        ],
                        about=[Family.OFFSET, Family.SNAPSHOT_OFFSET],
                    ),
                    Panel(
                        title="Offsets still to replay",
                        queries=[Query(expr=at(Family.REPLAY), legend=each)],
                        about=[Family.REPLAY],
                    ),
                    Panel(
                        title="Standing still for a snapshot",
                        unit="s",
                        queries=quantiles(Family.SNAPSHOT_PAUSE),
                        about=[Family.SNAPSHOT_PAUSE],
                    ),
                    Panel(
                        title="Until a snapshot is written and verified",
                        unit="s",
                        queries=quantiles(Family.SNAPSHOT_WRITE),
                        about=[Family.SNAPSHOT_WRITE],
                    ),
                    Panel(
                        title="Snapshots written and failed",
                        is_bars=True,
                        queries=[
                            Query(
                                expr=f"sum by (instance, result) (increase({at(Family.SNAPSHOTS)}"
                                "[$__rate_interval]))",
                                legend="{{instance}} {{result}}",
                            )
                        ],
                        about=[Family.SNAPSHOTS],
                    ),
                ],
            ),
        ],
    )


def monitor() -> Dashboard:
    """How the control plane itself stands, and whether people are told."""
    at = Selector("pipeline")

    def process(name: str) -> str:
        return f'{name}{{job="headrace-monitor"}}'

    return Dashboard(
        uid="headrace-monitor",
        title="Headrace: monitor",
        description="How the control plane itself stands, and whether people are told.",
        variables=[Variable(name="pipeline", label="Pipeline", of=Family.MONITOR_CONNECTED.value.name)],
        annotations=[ALERTS],
        rows=[
            Row(
                title="Itself",
                panels=[
                    Panel(
                        title="Monitors",
                        kind="table",
                        width=6,
                        queries=[Query(expr=at(Family.MONITOR))],
                        columns={"instance": "Address", "version": "Version"},
                        about=[Family.MONITOR],
                    ),
                    Panel(
                        title="Answering",
                        note="Whether Prometheus gets an answer from the monitor: with the wrong token it does not.",
                        kind="state-timeline",
                        width=6,
                        names=UP,
                        queries=[Query(expr=process("up"), legend="{{instance}}")],
                    ),
                    Panel(
                        title="Delay of the event loop",
                        unit="s",
                        width=6,
                        queries=[
                            Query(
                                expr=at.quantile(level, Family.MONITOR_LOOP_DELAY, "instance"),
                                legend=f"{{{{instance}}}} {name}",
                            )
                            for level, name in ((0.5, "median"), (0.99, "99th percentile"))
                        ],
                        about=[Family.MONITOR_LOOP_DELAY],
                    ),
                    Panel(
                        title="Viewers",
                        width=6,
                        queries=[Query(expr=at(Family.MONITOR_VIEWERS), legend="{{instance}}")],
                        about=[Family.MONITOR_VIEWERS],
                    ),
                    Panel(
                        title="Memory",
                        note="Bounded by the number of pipelines, partitions and charts.",
                        unit="bytes",
                        width=6,
                        queries=[Query(expr=process("process_resident_memory_bytes"), legend="{{instance}}")],
                    ),
                    Panel(
                        title="CPU",
                        note="Of one core.",
                        unit="percentunit",
                        width=6,
                        queries=[
                            Query(
                                expr=f"rate({process('process_cpu_seconds_total')}[$__rate_interval])",
                                legend="{{instance}}",
                            )
                        ],
                    ),
                ],
            ),
            Row(
                title="What it reads",
                panels=[
                    Panel(
                        title="Broker connected",
                        kind="state-timeline",
                        names=YES,
                        queries=[Query(expr=at(Family.MONITOR_CONNECTED), legend="{{pipeline}}")],
                        about=[Family.MONITOR_CONNECTED],
                    ),
                    Panel(
                        title="History loaded",
                        kind="state-timeline",
                        names=YES,
                        queries=[Query(expr=at(Family.MONITOR_HISTORY), legend="{{pipeline}}")],
                        about=[Family.MONITOR_HISTORY],
                    ),
                    Panel(
                        title="Readings that were begun again",
                        is_bars=True,
                        queries=[
                            Query(
                                expr=f"increase({at(Family.MONITOR_RESTARTS)}[$__rate_interval])",
                                legend="{{pipeline}}",
                            )
                        ],
                        about=[Family.MONITOR_RESTARTS],
                    ),
                    Panel(
                        title="Records read",
                        unit="ops",
                        queries=[Query(expr=at.rate(Family.MONITOR_RECORDS), legend="{{pipeline}} {{kind}}")],
                        about=[Family.MONITOR_RECORDS],
                    ),
                    Panel(
                        title="Records that were nothing of the kind",
                        is_bars=True,
                        queries=[
                            Query(
                                expr=f"increase({at(Family.MONITOR_UNREADABLE)}[$__rate_interval])",
                                legend="{{pipeline}}",
                            )
                        ],
                        about=[Family.MONITOR_UNREADABLE],
                    ),
                    Panel(
                        title="Since the newest status",
                        unit="s",
                        queries=[Query(expr=at(Family.STATUS_AGE), legend="{{pipeline}}")],
                        about=[Family.STATUS_AGE],
                    ),
                    Panel(
                        title="Since the relay's place was read",
                        unit="s",
                        queries=[Query(expr=at(Family.RELAY_AGE), legend="{{pipeline}}")],
                        about=[Family.RELAY_AGE],
                    ),
                ],
            ),
            Row(
                title="What it sees",
                panels=[
                    Panel(
                        title="Partitions and workers",
                        queries=[
                            Query(expr=at(Family.MONITOR_PARTITIONS), legend="{{pipeline}} partitions"),
                            Query(expr=at(Family.MONITOR_WORKERS), legend="{{pipeline}} workers"),
                        ],
                        about=[Family.MONITOR_PARTITIONS, Family.MONITOR_WORKERS],
                    ),
                    Panel(
                        title="Lag",
                        queries=[Query(expr=at(Family.MONITOR_LAG), legend="{{pipeline}}")],
                        about=[Family.MONITOR_LAG],
                    ),
                    Panel(
                        title="Open incidents",
                        queries=[Query(expr=at(Family.OPEN_INCIDENTS), legend="{{pipeline}} {{severity}}")],
                        about=[Family.OPEN_INCIDENTS],
                    ),
                    Panel(
                        title="Lag of the relay",
                        note="Records that wait in a topic of their own.",
                        queries=[Query(expr=at(Family.RELAY_LAG), legend="{{pipeline}} {{topic}}")],
                        about=[Family.RELAY_LAG],
                    ),
                    Panel(
                        title="The next record to be relayed waits",
                        unit="s",
                        queries=[Query(expr=at(Family.RELAY_WAITED), legend="{{pipeline}} {{topic}}")],
                        about=[Family.RELAY_WAITED],
                    ),
                    Panel(
                        title="Incidents that watchdogs opened",
                        is_bars=True,
                        queries=[
                            Query(
                                expr=f"increase({at(Family.WATCHDOG_OPENINGS)}[$__rate_interval])",
                                legend="{{pipeline}} {{watchdog}}",
                            )
                        ],
                        about=[Family.WATCHDOG_OPENINGS],
                    ),
                ],
            ),
            Row(
                title="Notifications",
                panels=[
                    Panel(
                        title="Messages sent and failed",
                        is_bars=True,
                        width=12,
                        queries=[
                            Query(
                                expr=f"increase({at(Family.NOTIFICATIONS)}[$__rate_interval])",
                                legend="{{pipeline}} {{channel}} {{result}}",
                            )
                        ],
                        about=[Family.NOTIFICATIONS],
                    ),
                    Panel(
                        title="Notices that wait",
                        width=12,
                        queries=[
                            Query(expr=at(Family.NOTIFICATIONS_WAITING), legend="{{pipeline}} {{channel}}")
                        ],
                        about=[Family.NOTIFICATIONS_WAITING],
                    ),
                ],
            ),
        ],
    )


def dashboards() -> dict[str, Dashboard]:
    """All of them, by the name of their file."""
    return {f"{item.uid}.json": item for item in (pipelines(), workers(), monitor())}


def text(dashboard: Dashboard) -> str:
    """The file that Grafana reads."""
    return json.dumps(dashboard.to_json(), indent=1, ensure_ascii=False) + "\n"


def main(folder: Path) -> None:
    """Write all dashboards into a folder, and delete what is no longer one."""
    found = dashboards()
    for path in folder.glob("*.json"):
        if path.name not in found:
            path.unlink()
    for name, dashboard in found.items():
        (folder / name).write_text(text(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
