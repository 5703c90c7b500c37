"""What a person or a script is shown: plain JSON-able pictures of the fleet. The dashboard and the API share them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np

from monitors.fleet.fleet import Fleet, PartitionState, PipelineState, SeenAlert
from monitors.fleet.series import Numbers
from monitors.labels import LABEL_COUNTS, add_histograms, label_health
from monitors.prequential import METRICS, weighted_mean
from monitors.records import Alert, Incident, Severity, Status

#: Points of a chart unless more are asked for.
POINTS: Final = 600
#: Rows of a list of alerts unless more are asked for.
ROWS: Final = 200
#: Columns of the charts that are sums over the partitions; of the others the mean is taken.
SUMS: Final = ("rate", "lag_records", "pending", "dead_letters", "scored")

#: Columns that begin with one of these are of the first metric.
BASELINES: Final = ("no_change", "majority", "mean")

State = Literal["no-data", "stale", "critical", "warning", "ok"]

_WORST_FIRST: Final[Sequence[Severity]] = ("critical", "warning", "info")


def is_silent(pipeline: PipelineState, now: float) -> bool:
    """Whether there were statuses, and there is none lately."""
    arrived_at = max((item.arrived_at for item in pipeline.partitions.values()), default=now)
    return now - arrived_at > pipeline.facts.fresh_seconds


def state_of(pipeline: PipelineState, now: float) -> State:
    """How a pipeline is, in a word: the worst that is known."""
    severities = {seen.severity for seen in pipeline.open.values()}
    if "critical" in severities:
        return "critical"
    if not pipeline.partitions:
        return "no-data"
    if is_silent(pipeline, now):
        return "stale"
    return "warning" if "warning" in severities else "ok"


def overview(fleet: Fleet, now: float) -> list[dict[str, Any]]:
    """A line for each pipeline; `now` is epoch seconds."""
    return [summary(pipeline, now) for pipeline in fleet.pipelines.values()]


def summary(pipeline: PipelineState, now: float) -> dict[str, Any]:
    """What the overview says of a pipeline."""
    facts = pipeline.facts
    statuses = [item.status for item in pipeline.partitions.values()]
    fresh = [item for item in pipeline.partitions.values() if now - item.arrived_at <= facts.fresh_seconds]
    lags = [status.lag_records for status in statuses if status.lag_records is not None]
    metric = facts.metrics[0]
    baselines = dict.fromkeys(name for status in statuses for name in status.baselines)
    drifts = [
        seen for seen in pipeline.alerts if isinstance(seen.alert, Alert) and seen.alert.kind == "drift"
    ]
    return {
        "pipeline": facts.name,
        "task": facts.task,
        "learner": facts.learner,
        "state": state_of(pipeline, now),
        "metric": metric,
        "higher_is_better": METRICS[metric].higher_is_better,
        "quality": mean_figures(metric, statuses, lambda status: status.metrics.get(metric)),
        "baselines": {
            name: mean_figures(metric, statuses, lambda status, name=name: status.baselines.get(name))
            for name in baselines
        },
        "rate": sum(item.status.rate for item in fresh),
        "lag_records": sum(lags) if lags else None,
        "events": sum(status.events for status in statuses),
        "predictions": sum(status.predictions for status in statuses),
        "learned": sum(status.learned for status in statuses),
        "dead_letters": sum(status.dead_letters for status in statuses),
        "partitions": len(statuses),
        "silent": len(statuses) - len(fresh),
        "workers": len({item.status.worker for item in fresh}),
        "open": {
            severity: sum(seen.severity == severity for seen in pipeline.open.values())
            for severity in _WORST_FIRST
        },
        "drifts": pipeline.counts["drift"],
        "last_drift": None if not drifts else alert_row(pipeline, drifts[-1]),
        # By this machine's clock: that of a worker may be wrong.
        "age_seconds": min(
            (max(0.0, now - item.arrived_at) for item in pipeline.partitions.values()), default=None
        ),
    }


def mean_figures(metric: str, statuses: Sequence[Any], of: Any) -> dict[str, float | None]:
    """A figure of all partitions, `value` and `window`: the mean weighted by events; None for what is no mean.

    With one partition it is that one's figure.
    """
    figures = [of(status) or {} for status in statuses]
    if len(statuses) == 1:
        return {over: figures[0].get(over) for over in ("value", "window")}
    counts = {
        "value": [status.scored for status in statuses],
        "window": [min(status.scored, status.window) for status in statuses],
    }
    return {
        over: weighted_mean(
            metric, [(figure.get(over), n) for figure, n in zip(figures, counts[over], strict=True)]
        )
        for over in ("value", "window")
    }


def partitions(pipeline: PipelineState, now: float) -> list[dict[str, Any]]:
    """A line for each partition, in order."""
    return [partition_row(item, now) for _, item in sorted(pipeline.partitions.items())]


def partition_row(item: PartitionState, now: float) -> dict[str, Any]:
    """Where a partition stands."""
    status = item.status
    snapshot = status.snapshot
    return {
        "partition": status.partition,
        "worker": status.worker,
        "state": status.state,
        "offset": status.offset,
        "end": status.end,
        "lag_records": status.lag_records,
        "rate": status.rate,
        "events": status.events,
        "predictions": status.predictions,
        "learned": status.learned,
        "scored": status.scored,
        "pending": status.pending,
        "dead_letters": status.dead_letters,
        "labels": _labels([status]),
        "metrics": status.metrics,
        "baselines": status.baselines,
        "learner_seconds": status.learner_seconds,
        "snapshot": None
        if snapshot is None
        else {
            "name": snapshot.name,
            "offset": snapshot.offset,
            "bytes": snapshot.bytes,
            "age_seconds": max(0.0, now - snapshot.time),
        },
        "age_seconds": max(0.0, now - item.arrived_at),
    }


def labels(pipeline: PipelineState, partition: int | None = None) -> dict[str, Any]:
    """How the labels come, to all partitions or to one: sums, shares of them, and the delay of the worst of them."""
    found = pipeline.partitions.items()
    return _labels([item.status for number, item in found if partition in (None, number)])


def _labels(statuses: Sequence[Status]) -> dict[str, Any]:
    counts = {name: sum(getattr(status, name) for status in statuses) for name in LABEL_COUNTS}
    # What the statuses say of shares is not used: these are made from the counts that are shown beside them.
    health = label_health(counts)
    delays = [s.label_delay for s in statuses if s.label_delay]
    return {
        **counts,
        "duplicates": sum(s.duplicates for s in statuses),
        "coverage": health["coverage"],
        "shares": health,
        "delay_p50_seconds": max((delay["p50"] for delay in delays), default=None),
        "delay_p95_seconds": max((delay["p95"] for delay in delays), default=None),
        "delay_histogram": add_histograms(
            s.label_delay_histogram for s in statuses if s.label_delay_histogram
        ),
    }


def dead_letters(pipeline: PipelineState) -> dict[str, int]:
    """Dead letters by stage, over all partitions."""
    found: dict[str, int] = {}
    for item in pipeline.partitions.values():
        for stage, count in item.status.dead_letters_by_stage.items():
            found[stage] = found.get(stage, 0) + count
    return found


def drift_watches(pipeline: PipelineState, partition: int | None = None) -> list[dict[str, Any]]:
    """Each drift watch of each partition (or of one), with its means and its values now and before."""
    return [
        {"partition": number} | dict(watch)
        for number, item in sorted(pipeline.partitions.items())
        if partition in (None, number)
        for watch in item.status.drift
    ]


def classes(pipeline: PipelineState, partition: int | None = None) -> dict[str, dict[str, int]] | None:
    """How often each class was predicted, and came, in the windows of all partitions (or of one)."""
    found: dict[str, dict[str, int]] = {"predicted": {}, "label": {}}
    known = False
    for number, item in pipeline.partitions.items():
        if item.status.classes is None or partition not in (None, number):
            continue
        known = True
        for which, counts in found.items():
            for name, count in item.status.classes.get(which, {}).items():
                counts[name] = counts.get(name, 0) + count
    return found if known else None


def open_incidents(pipeline: PipelineState) -> list[dict[str, Any]]:
    """What is open, the worst first."""
    found = [alert_row(pipeline, seen) for seen in pipeline.open.values()]
    return sorted(found, key=lambda row: (_WORST_FIRST.index(row["severity"]), -row["seen_at"]))


def open_kinds(pipeline: PipelineState) -> list[list[dict[str, Any]]]:
    """What is open by kind: the rows of one kind are of the partitions that have it, the worst kind first."""
    found: dict[tuple[object, ...], list[dict[str, Any]]] = {}
    for row in open_incidents(pipeline):
        key = row["incident"], row["severity"], row["partition"] is None
        found.setdefault(key, []).append(row)
    return list(found.values())


def alerts(
    pipeline: PipelineState,
    *,
    kinds: Iterable[str] = (),
    severities: Iterable[str] = (),
    partition: int | None = None,
    text: str = "",
    since: float = 0.0,
    most: int = ROWS,
) -> list[dict[str, Any]]:
    """Alerts and incidents, the newest first.

    Args:
        pipeline: Whose.
        kinds: `drift`, `warning`, `incident`; none: all.
        severities: `critical`, `warning`, `info`; none: all.
        partition: Of this partition only.
        text: Only those with this text in what was watched, the detector, the name or the sentence.
        since: Only those seen since, epoch seconds.
        most: Rows at most.
    """
    kinds, severities, text = set(kinds), set(severities), text.casefold()
    rows: list[dict[str, Any]] = []
    for seen in reversed(pipeline.alerts):
        if len(rows) == most:
            break
        if (kinds and seen.alert.kind not in kinds) or (severities and seen.severity not in severities):
            continue
        if (partition is not None and seen.alert.partition != partition) or seen.seen_at < since:
            continue
        row = alert_row(pipeline, seen)
        if text and not any(
            text in str(row[key]).casefold() for key in ("watch", "detector", "incident", "text", "position")
        ):
            continue
        rows.append(row)
    return rows


def alert_row(pipeline: PipelineState, seen: SeenAlert) -> dict[str, Any]:
    """An alert or an incident as a row; what it has not is None."""
    alert = seen.alert
    topic = pipeline.facts.events_topic
    row: dict[str, Any] = {
        "kind": alert.kind,
        "severity": seen.severity,
        "seen_at": seen.seen_at,
        "time": alert.time,
        "partition": alert.partition,
        "offset": alert.offset,
        "position": topic if alert.partition is None else f"{topic}[{alert.partition}]@{alert.offset}",
        "record": f"{pipeline.facts.alerts_topic}[{seen.partition}]@{seen.offset}",
        "watch": None,
        "detector": None,
        "mean_before": None,
        "mean_after": None,
        "observed": None,
        "incident": None,
        "state": None,
        "text": None,
        "worker": None,
    }
    names = (
        ("incident", "state", "text", "worker")
        if isinstance(alert, Incident)
        else ("watch", "detector", "mean_before", "mean_after", "observed")
    )
    return row | {name: getattr(alert, name) for name in names}


# --- Charts ----------------------------------------------------------------------------------------------


def columns(pipeline: PipelineState) -> list[str]:
    """Names of all that can be charted: `rate`, `lag_records`, `accuracy window`, `watch feature:a adwin`, ..."""
    return list(dict.fromkeys(name for item in pipeline.partitions.values() for name in item.series.columns))


def chart(
    pipeline: PipelineState,
    names: Sequence[str],
    *,
    since: float,
    until: float,
    partition: int | None = None,
    points: int = POINTS,
) -> dict[str, Any]:
    """Figures over time, ready to draw.

    Over all partitions, `rate`, `lag_records`, `pending` and `dead_letters` are sums, metrics that are means are
    means weighted by events, other metrics are left out (see `omitted`), and the rest are plain means.

    Args:
        pipeline: Whose.
        names: Columns, see `columns`.
        since: First moment, epoch seconds.
        until: Last moment.
        partition: Of this partition only.
        points: Most points of each column.

    Returns:
        `times` (epoch seconds), `columns` (name to figures, None where nothing is known), `step_seconds`, and
        `omitted`: names of which there is no figure over several partitions.
    """
    step = max(1.0, (until - since) / max(1, points))
    chosen = [item for number, item in sorted(pipeline.partitions.items()) if partition in (None, number)]
    omitted = [name for name in names if len(chosen) > 1 and not _adds_up(pipeline, name)]
    drawn = [name for name in names if name not in omitted]
    wanted = [*drawn, "scored"]
    quiet = max(2 * step, pipeline.facts.fresh_seconds)
    lead = quiet if len(chosen) > 1 else 0.0
    read = [item.series.read(wanted, since=since - lead, until=until, step_seconds=step) for item in chosen]
    # Old figures lie thinner than new ones.
    holds = [
        max(quiet, 2 * float(np.median(np.diff(found)))) if len(found) > 1 else quiet for found, _ in read
    ]
    times = np.unique(np.concatenate([found for found, _ in read])) if read else np.empty(0)
    times = _with_gaps(times[times >= since - step], max(holds, default=quiet))  # a cell may begin before
    whole = np.full((len(read), len(times), len(wanted)), np.nan)
    for number, (found, figures) in enumerate(read):
        whole[number] = _held(times, found, figures, holds[number])
    scored = whole[:, :, -1]
    result: dict[str, list[float | None]] = {}
    for index, name in enumerate(drawn):
        # As many as the figure is made of, as in `mean_figures`.
        weights = np.minimum(scored, pipeline.facts.window) if name.endswith(" window") else scored
        result[name] = _listed(_over_partitions(name, whole[:, :, index], weights))
    return {"times": times.tolist(), "columns": result, "step_seconds": step, "omitted": omitted}


def _with_gaps(times: Numbers, seconds: float) -> Numbers:
    """With a moment at which nothing is known in each gap that is longer, so that no line is drawn over it."""
    before = np.flatnonzero(np.diff(times) > seconds + 1.0)
    return np.insert(times, before + 1, times[before] + seconds + 1.0)


def _held(times: Numbers, found: Numbers, figures: Numbers, seconds: float) -> Numbers:
    """A partition's figures at the times of all: workers write when they do, so the last ones hold for a while."""
    before = len(found) - len(times)
    if before >= 0 and np.array_equal(found[before:], times):
        return figures[before:]
    held = np.full((len(times), figures.shape[1]), np.nan)
    if len(found) == 0:
        return held
    index = np.searchsorted(found, times, side="right") - 1
    known = (index >= 0) & (times - found[index] <= seconds)
    held[known] = figures[index[known]]
    return held


def _adds_up(pipeline: PipelineState, name: str) -> bool:
    metric = name.split(" ", maxsplit=1)[0]
    if metric in BASELINES:
        metric = pipeline.facts.metrics[0]
    return metric not in METRICS or METRICS[metric].is_mean


def _over_partitions(name: str, figures: Numbers, weights: Numbers) -> Numbers:
    """One figure for each time, of (partitions, times)."""
    known = ~np.isnan(figures)
    if name in SUMS:
        return np.where(known.any(axis=0), np.where(known, figures, 0.0).sum(axis=0), np.nan)
    heavy = np.where(known, np.nan_to_num(weights, nan=1.0), 0.0)
    of = name.split(" ", maxsplit=1)[0]
    if (of not in METRICS and of not in BASELINES) or not heavy.any():
        heavy = known.astype(np.float64)
    total = heavy.sum(axis=0)
    mean = np.full(figures.shape[1], np.nan)
    np.divide((np.where(known, figures, 0.0) * heavy).sum(axis=0), total, out=mean, where=total > 0)
    return mean


def _listed(figures: Numbers) -> list[float | None]:
    return [None if np.isnan(figure) else float(figure) for figure in figures]


def marks(
    pipeline: PipelineState, *, since: float, until: float, partition: int | None = None
) -> list[dict[str, Any]]:
    """Drifts and warnings on the charts' time axis: when the partition passed the record, by wall clock."""
    passed = {number: _passed(item) for number, item in pipeline.partitions.items()}
    found = []
    for seen in pipeline.alerts:
        alert = seen.alert
        if isinstance(alert, Incident) or partition not in (None, alert.partition):
            continue
        at = _passed_at(passed.get(alert.partition), alert.offset, seen.seen_at)
        if since <= at <= until:
            found.append({"at": at} | alert_row(pipeline, seen))
    return found


def _passed(item: PartitionState) -> tuple[Numbers, Numbers]:
    """When a partition had which next offset."""
    _, figures = item.series.read(["time", "offset"], since=0.0, until=np.inf, step_seconds=1.0)
    known = ~np.isnan(figures).any(axis=1)
    # A replay goes back and passes again what it had passed: the first time counts.
    return np.maximum.accumulate(figures[known, 0]), np.maximum.accumulate(figures[known, 1])


def _passed_at(passed: tuple[Numbers, Numbers] | None, offset: int, otherwise: float) -> float:
    """When a partition passed an offset, between the two statuses around it."""
    if passed is None:
        return otherwise
    times, offsets = passed
    index = int(np.searchsorted(offsets, offset, side="right"))
    if index == 0 or index == len(offsets):  # older than the charts, or newer than the last status
        return otherwise
    share = (offset - offsets[index - 1]) / max(1.0, offsets[index] - offsets[index - 1])
    return float(times[index - 1] + share * (times[index] - times[index - 1]))


def learner(pipeline: PipelineState) -> Mapping[str, Any]:
    """The learner: what it is, how much it has learned, how large it is and how long a call takes."""
    statuses = [item.status for item in pipeline.partitions.values()]
    timed = [s.learner_seconds for s in statuses if s.learner_seconds]
    return {
        "name": pipeline.facts.learner,
        "readable": next((s.learner for s in statuses), None),
        "parameters": dict(pipeline.facts.parameters),
        "learned": sum(s.learned for s in statuses),
        "bytes": sum(s.snapshot.bytes for s in statuses if s.snapshot is not None) or None,
        "seconds": {
            call: sum(t[call] for t in timed if call in t) / sum(call in t for t in timed)
            for call in ("predict", "learn")
            if any(call in t for t in timed)
        },
    }
