"""What stands behind each tab of a pipeline's page. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from monitors.app.dashboard.charts import Line, Remembered, Zoom, marks, picture, small
from monitors.app.dashboard.frame import SEVERITIES
from monitors.app.dashboard.view import KINDS, RANGES, TABS, View
from monitors.app.dashboard.view import SEVERITIES as SEVERITY_NAMES
from monitors.app.dashboard.words import (
    NOTHING,
    changed,
    count,
    many,
    number,
    per_second,
    plain,
    ranges,
    seconds,
    share,
    size,
    title,
)
from monitors.app.site import DeadLetter
from monitors.fleet import PipelineState, views
from monitors.prequential import METRICS
from monitors.records import Alert

#: Bins of a distribution at most, and classes that get a bar.
MOST_BINS: Final = 64
MOST_CLASSES: Final = 12
#: What has waited so long to be relayed is late, seconds: a relay that works needs a fraction of one.
RELAY_LATE_SECONDS: Final = 30.0
#: Watches of which there is a card at most.
MOST_WATCHES: Final = 60

_KIND_BADGES: Final = {
    "drift": {"text": "Drift", "tone": "bad", "icon": "drift"},
    "warning": {"text": "Warning", "tone": "warn", "icon": "warning"},
}


# --- Choices ---------------------------------------------------------------------------------------------


def tabs(pipeline: PipelineState) -> list[dict[str, Any]]:
    """The tabs, with a number where something waits there."""
    found = []
    for name, label in TABS.items():
        tab: dict[str, Any] = {"name": name, "label": label}
        if name == "alerts" and pipeline.open:
            worst = views.open_incidents(pipeline)[0]["severity"]
            tab |= {"count": len(pipeline.open), "tone": SEVERITIES[worst]["tone"], "counted": "open"}
        if name == "data" and (dead := sum(views.dead_letters(pipeline).values())):
            tab |= {"count": count(dead), "tone": "warn", "counted": "dead letters"}
        found.append(tab)
    return found


def controls(pipeline: PipelineState, view: View) -> list[dict[str, Any]]:
    """Time range and partition, for all tabs; the metric, where one is shown."""
    if view.tab == "partitions":
        return []
    groups: list[dict[str, Any]] = [
        {
            "name": "range",
            "kind": "one",
            "label": "Time range",
            "value": view.range,
            "options": [{"value": name, "label": label} for name, (label, _) in RANGES.items()],
        }
    ]
    metrics = pipeline.facts.metrics
    if view.tab == "quality" and len(metrics) > 1:
        groups.append(
            {
                "name": "metric",
                "kind": "select",
                "label": "Metric",
                "value": metric_of(pipeline, view),
                "options": [{"value": name, "label": title(name)} for name in metrics],
            }
        )
    if len(pipeline.partitions) > 1:
        groups.append(
            {
                "name": "partition",
                "kind": "select",
                "label": "Partition",
                "value": "" if view.partition is None else str(view.partition),
                "options": [
                    {"value": "", "label": f"all {len(pipeline.partitions)}"},
                    *({"value": str(p), "label": str(p)} for p in sorted(pipeline.partitions)),
                ],
            }
        )
    return groups


def metric_of(pipeline: PipelineState, view: View) -> str:
    """The metric that is shown."""
    metrics = pipeline.facts.metrics
    chosen = view.metric
    return chosen if chosen is not None and chosen in metrics and chosen in METRICS else metrics[0]


# --- Alerts ----------------------------------------------------------------------------------------------


def alert_filters(view: View) -> list[dict[str, Any]]:
    """What the list of alerts can be narrowed down to."""
    groups: list[dict[str, Any]] = [
        {
            "name": "kinds",
            "kind": "many",
            "label": "Kind",
            "value": list(view.kinds),
            "options": [
                {"value": "drift", "label": KINDS["drift"], "icon": "drift", "tone": "bad"},
                {"value": "warning", "label": KINDS["warning"], "icon": "warning", "tone": "warn"},
                {"value": "incident", "label": KINDS["incident"], "icon": "incident"},
            ],
        },
        {
            "name": "severities",
            "kind": "many",
            "label": "Severity",
            "value": list(view.severities),
            "options": [
                {
                    "value": name,
                    "label": label,
                    "icon": SEVERITIES[name]["icon"],
                    "tone": SEVERITIES[name]["tone"],
                }
                for name, label in SEVERITY_NAMES.items()
            ],
        },
        {
            "name": "when",
            "kind": "one",
            "label": "When",
            "value": "range" if view.in_range else "all",
            "options": [
                {"value": "all", "label": "Any time"},
                {"value": "range", "label": f"Last {RANGES[view.range][0]}"},
            ],
        },
        {"name": "text", "kind": "search", "label": "Watch, detector, text, position", "value": view.text},
    ]
    if view.filters_alerts:
        groups.append({"name": "clear", "kind": "button", "label": "Clear filters", "icon": "close"})
    return groups


ALERT_COLUMNS: Final[Sequence[Mapping[str, Any]]] = (
    {"key": "when", "label": "When"},
    {"key": "kind", "label": "Kind"},
    {"key": "what", "label": "What", "header": True, "wide": True},
    {"key": "before", "label": "Mean before", "align": "end"},
    {"key": "after", "label": "Mean after", "align": "end"},
    {"key": "position", "label": "Position", "mono": True},
)


def alert_rows(pipeline: PipelineState, view: View, now: float, most: int) -> list[dict[str, Any]]:
    """The alerts that the filters leave, the newest first."""
    found = views.alerts(
        pipeline,
        kinds=view.kinds,
        severities=view.severities,
        partition=view.partition,
        text=view.text,
        since=now - view.seconds if view.in_range else 0.0,
        most=most,
    )
    opened = {row["record"] for row in views.open_incidents(pipeline)}
    return [_incident_row(row, opened) if row["kind"] == "incident" else _drift_row(row) for row in found]


def _drift_row(row: Mapping[str, Any]) -> dict[str, Any]:
    before, after = row["mean_before"], row["mean_after"]
    change = changed(before, after)
    name = plain(row["watch"], 120)
    return {
        "key": row["record"],
        "about": f"{row['kind']} at {row['position']}",
        "cells": {
            "when": {"at": row["seen_at"]},
            "kind": _KIND_BADGES[row["kind"]],
            "what": {"text": name, "sub": f"by {plain(row['detector'], 60)}, partition {row['partition']}"},
            "before": number(before, 4),
            "after": {"text": number(after, 4), "sub": change},
            "position": plain(row["position"], 160),
        },
        "details": [
            {"label": "Change of the mean", "text": change or NOTHING},
            {"label": "Values seen by the detector", "text": count(row["observed"])},
            {"label": "Event time", "text": _utc(row["time"])},
            {"label": "Record", "text": plain(row["record"], 200)},
        ],
    }


def _incident_row(row: Mapping[str, Any], opened: set[str]) -> dict[str, Any]:
    severity = SEVERITIES[row["severity"]]
    closed = row["state"] == "closed"
    is_open = row["record"] in opened
    badge = {"text": "Closed", "tone": "good", "icon": "closed"} if closed else severity
    where = "whole pipeline" if row["partition"] is None else f"partition {row['partition']}"
    state = "over" if closed else "open" if is_open else "was open"
    return {
        "key": row["record"],
        "about": plain(row["incident"], 60),
        "tone": severity["tone"] if is_open and severity["tone"] in ("bad", "warn") else None,
        "cells": {
            "when": {"at": row["seen_at"]},
            "kind": badge,
            "what": {"text": f"{plain(row['incident'], 80)} ({state})", "sub": plain(row["text"], 240)},
            "before": "",
            "after": "",
            "position": {"text": plain(row["position"], 160), "sub": where},
        },
        "details": [
            {"label": "What and what to do", "text": plain(row["text"], 2_000)},
            {"label": "Told by", "text": plain(row["worker"], 120)},
            {"label": "At", "text": _utc(row["time"])},
            {"label": "Record", "text": plain(row["record"], 200)},
        ],
    }


def _utc(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return number(at)


def no_alerts(pipeline: PipelineState, view: View) -> dict[str, Any]:
    """What is said where the list of alerts is empty."""
    if view.filters_alerts and pipeline.alerts:
        return {
            "icon": "search",
            "title": "No alert fits these filters",
            "text": f"{many(len(pipeline.alerts), 'alert')} in all.",
            "action": "Clear filters",
        }
    if not pipeline.facts.watches:
        return no_watches()
    return {
        "icon": "ok",
        "title": "No alerts, and that is good news",
        "text": (
            f"{many(len(pipeline.facts.watches), 'drift watch', 'drift watches')} at work; none has spoken, and no "
            "incident was told."
        ),
    }


def no_watches() -> dict[str, Any]:
    """What is said where nothing is watched for drift."""
    return {
        "icon": "drift",
        "title": "Nothing is watched for drift",
        "text": "Add a watch to the settings and start the workers anew (headrace rebuild keeps the history):",
        "command": '[[drift]]\nwatch = "error"          # or label, prediction, label_delay, feature:NAME\n'
        'detector = "adwin"',
    }


# --- Features and drift ----------------------------------------------------------------------------------


def watches(pipeline: PipelineState, view: View, now: float) -> list[dict[str, Any]]:
    """A card for each watch; over several partitions, of the one that drifted last."""
    drifted: dict[tuple[str, str, int], tuple[int, float]] = {}
    since = now - view.seconds
    for seen in pipeline.alerts:
        alert = seen.alert
        if isinstance(alert, Alert) and alert.kind == "drift" and seen.seen_at >= since:
            key = (alert.watch, alert.detector, alert.partition)
            drifted[key] = (drifted.get(key, (0, 0.0))[0] + 1, seen.seen_at)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for watch in views.drift_watches(pipeline, view.partition):
        groups.setdefault((str(watch.get("watch")), str(watch.get("detector"))), []).append(watch)
    cards = []
    for (name, detector), found in list(groups.items())[:MOST_WATCHES]:
        by_partition = {
            watch["partition"]: (watch, *drifted.get((name, detector, watch["partition"]), (0, 0.0)))
            for watch in found
        }
        shown = max(
            by_partition, key=lambda p: (by_partition[p][2], by_partition[p][0].get("state") == "warning", -p)
        )
        cards.append(_card(name, detector, by_partition, shown, RANGES[view.range][0]))
    return cards


def means_chart(
    pipeline: PipelineState, view: View, now: float, zoom: Zoom, remembered: Remembered
) -> dict[str, Any]:
    """The mean of what is watched over time, with its drifts; features are as different as they are, so a few only."""
    columns = [name for name in views.columns(pipeline) if name.startswith("watch ")]
    errors = [name for name in columns if name.startswith("watch error ")] or columns
    tones = ("main", "second", "third", "base2")
    lines = [
        Line(name, plain(name.removeprefix("watch "), 60), tone)
        for name, tone in zip(errors, tones, strict=False)
    ]
    shown = "error" if errors and errors[0].startswith("watch error ") else ""
    return {
        "title": "Mean of what the learner gets wrong" if shown else "Means of what is watched",
        "text": "Over the last 100 values; over several partitions the mean of theirs." if shown else "",
        "picture": picture(
            pipeline,
            lines,
            seconds=view.seconds,
            now=now,
            partition=view.partition,
            zoom=zoom,
            none="No mean is known in this time range.",
            remembered=remembered,
        ),
        "marks": marks(
            pipeline, seconds=view.seconds, now=now, partition=view.partition, remembered=remembered
        ),
    }


def _card(
    name: str,
    detector: str,
    by_partition: Mapping[int, tuple[Mapping[str, Any], int, float]],
    shown: int,
    span: str,
) -> dict[str, Any]:
    watch, _, last = by_partition[shown]
    several = len(by_partition) > 1
    drifts = sum(number_of for _, number_of, _ in by_partition.values())
    warned = sum(found.get("state") == "warning" for found, _, _ in by_partition.values())
    if drifts:
        state = {"text": f"{many(drifts, 'drift')} in {span}", "tone": "bad", "icon": "drift"}
    elif warned:
        state = {"text": "Warning", "tone": "warn", "icon": "warning"}
    else:
        state = {"text": "Stable", "tone": "good", "icon": "ok"}
    before, now = _float(watch.get("mean_before")), _float(watch.get("mean_now"))
    distribution = _distribution(watch.get("distribution"))
    title_ = plain(name.removeprefix("feature:").removeprefix("label:"), 100)
    about = {
        "error": "what the learner gets wrong",
        "label": "the labels",
        "prediction": "the predictions",
        "label_delay": "how many seconds labels take",
    }.get(
        name,
        "a feature"
        if name.startswith("feature:")
        else "how often this class comes"
        if name.startswith("label:")
        else "a watch",
    )
    facts: list[dict[str, Any]] = []
    if last:
        facts.append({"label": "last drift", "at": last})
    elif (at := _whole(watch.get("last_drift_at"))) is not None:
        facts.append({"label": "last drift at offset", "value": count(at)})
    facts += [
        {"label": "drifts", "value": count(_whole(watch.get("drifts")))},
        {"label": "values", "value": count(_whole(watch.get("observed")))},
    ]
    if skipped := _whole(watch.get("skipped")):
        facts.append({"label": "not a number", "value": count(skipped)})
    card: dict[str, Any] = {
        "key": f"{name} {detector}",
        "title": title_,
        "about": f"{about}, by {plain(detector, 60)}" + (f"; shown: partition {shown}" if several else ""),
        "state": state,
        "before": number(before, 3),
        "now": number(now, 3),
        "change": changed(before, now),
        "distribution": distribution,
        "none": (
            "No values yet."
            if not _whole(watch.get("observed"))
            else "Too few values for a distribution yet."
            if now is not None
            else "The worker does not tell the distribution."
        ),
        "said": (
            f"Distribution of {title_} from {number(distribution['edges'][0], 3)} to "
            f"{number(distribution['edges'][-1], 3)}: mean {number(now, 3)} now, {number(before, 3)} before"
            if distribution
            else ""
        ),
        "facts": facts,
        "partitions": None,
    }
    if several:
        card["partitions"] = [
            {
                "partition": p,
                "shown": p == shown,
                "tone": "bad" if number_of else "warn" if found.get("state") == "warning" else "calm",
                "title": f"Partition {p}: "
                + (
                    f"{many(number_of, 'drift')} in {span}"
                    if number_of
                    else "warning"
                    if found.get("state") == "warning"
                    else "stable"
                ),
            }
            for p, (found, number_of, _) in sorted(by_partition.items())
        ]
    return card


def _float(value: object) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good and isinstance(value, int | float) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 else None


def _distribution(found: object) -> dict[str, Any] | None:
    """Shares of two histograms over the same bins; None if that is not what it is."""
    if not isinstance(found, Mapping):
        return None
    read: dict[str, list[float]] = {}
    for name in ("edges", "now", "before"):
        values = found.get(name)
        if not isinstance(values, Sequence) or isinstance(values, str) or len(values) > MOST_BINS + 1:
            return None
        numbers = [_float(value) for value in values]
        if any(value is None for value in numbers):
            return None
        read[name] = [value for value in numbers if value is not None]
    edges = read["edges"]
    bins = len(edges) - 1
    if bins < 1 or len(read["now"]) != bins or len(read["before"]) != bins or edges != sorted(edges):
        return None
    shares = {}
    for name in ("now", "before"):
        if any(value < 0 for value in read[name]):
            return None
        total = sum(read[name])
        shares[name] = [round(value / total, 5) if total else 0.0 for value in read[name]]
    if not any(shares["now"]):
        return None
    return {"edges": edges, **shares}


# --- Data and labels -------------------------------------------------------------------------------------


def data_charts(
    pipeline: PipelineState, view: View, now: float, zoom: Zoom, remembered: Remembered
) -> dict[str, dict[str, Any]]:
    """Rate, lag, labels that came, how late they were, and what did not fit."""
    over: dict[str, Any] = {
        "seconds": view.seconds,
        "now": now,
        "partition": view.partition,
        "zoom": zoom,
        "remembered": remembered,
        "none": "No figures in this time range. Choose a longer one.",
        "read": (
            "rate",
            "lag_records",
            "coverage",
            "early_share",
            "late_share",
            "unmatched_share",
            "conflicting_share",
            "label_delay_p50",
            "label_delay_p95",
            "pending",
            "dead_letters",
        ),
    }
    labelled = over | {"none": _no_late_labels(pipeline)}
    return {
        "rate": small(pipeline, "Rate", [Line("rate", "events per second", area=True, kind="rate")], **over),
        "lag": small(
            pipeline, "Lag", [Line("lag_records", "records behind", area=True, kind="count")], **over
        ),
        "coverage": small(
            pipeline,
            "Labels that came",
            [Line("coverage", "share of the labels due in 10 min", "third", area=True, kind="share")],
            most=1.0,
            **labelled,
        ),
        "odd": small(
            pipeline,
            "Labels that did not fit",
            [
                Line("late_share", "late", "second", kind="share"),
                Line("unmatched_share", "unmatched", "main", kind="share"),
                Line("conflicting_share", "conflicting", "third", kind="share"),
                Line("early_share", "early", "base2", kind="share"),
            ],
            text="Of the labels that came within 10 min.",
            **labelled,
        ),
        "delay": small(
            pipeline,
            "How late labels come",
            [
                Line("label_delay_p95", "95 % within", "second", kind="seconds"),
                Line("label_delay_p50", "half within", "third", kind="seconds"),
            ],
            **labelled,
        ),
        "pending": small(
            pipeline,
            "Waiting for a label",
            [Line("pending", "predictions", "third", area=True, kind="count")],
            **over,
        ),
        "dead": small(
            pipeline,
            "Dead letters since the start",
            [Line("dead_letters", "records", "base2", kind="count")],
            **over,
        ),
    }


def _no_late_labels(pipeline: PipelineState) -> str:
    labels = views.labels(pipeline)
    if labels["questions"] == 0 and any(item.status.learned for item in pipeline.partitions.values()):
        return "Every event brings its label, so none is late."
    if labels["questions"] == 0:
        return "No label has come yet."
    return "No label was due in this time range."


def label_facts(pipeline: PipelineState, partition: int | None) -> dict[str, Any]:
    """What became of questions and labels, in numbers since the start."""
    labels = views.labels(pipeline, partition)
    shares = labels["shares"]

    def fact(label: str, about: str, value: str, of: str = "", *, is_bad: bool = False) -> dict[str, Any]:
        found = {"label": label, "about": about, "value": count(labels[value])}
        if of and shares[of] is not None:
            found["unit"] = f"({share(shares[of])})"
        return found | ({"tone": "warn"} if is_bad and labels[value] else {})

    return {
        "title": "Labels since the start",
        "text": "In brackets: of the questions no longer waiting, or of the labels that came.",
        "facts": [
            fact("Questions", "events without a label", "questions"),
            fact("Joined", "the label found its question", "joined", "coverage"),
            fact("Waiting", "questions", "pending"),
            fact("Expired", "no label within the wait", "expired", "expired"),
            fact("Expired early", "of these, for want of room", "expired_early", is_bad=True),
            fact("Learned without a label", "of these, as silence means", "expired_learned"),
            fact("Early", "the label came first", "early", "early"),
            fact("Early and waiting", "labels", "early_waiting"),
            fact("Late", "after the question had expired", "late", "late", is_bad=True),
            fact("Unmatched", "labels without a question", "unmatched", "unmatched", is_bad=True),
            fact("Duplicate", "said again", "duplicate_labels", "duplicate"),
            fact("Conflicting", "said otherwise", "conflicting_labels", "conflicting", is_bad=True),
            fact("Corrected", "of these, learned as well", "corrected_labels"),
            fact("Asked twice", "events whose id was seen before", "duplicates"),
        ],
    }


def delay_bars(pipeline: PipelineState, partition: int | None) -> dict[str, Any]:
    """How long the last labels took."""
    labels = views.labels(pipeline, partition)
    histogram = labels["delay_histogram"]
    found: dict[str, Any] = {
        "title": "How long labels take",
        "text": "No label has come in a record of its own yet.",
        "facts": [],
        "bars": [],
    }
    if histogram is None or not sum(histogram["counts"]) > 0:
        return found
    bounds, counts = histogram["bounds"], histogram["counts"]
    total = sum(counts)
    filled = [number for number, of_bin in enumerate(counts) if of_bin]
    # The bins between the first and the last that is not empty, and one more at either side.
    shown = range(max(0, filled[0] - 1), min(len(counts), filled[-1] + 2))[:MOST_BINS]
    several = partition is None and len(pipeline.partitions) > 1
    return found | {
        "text": "Event time from a question to its label, of the last 1,000"
        + (" of each partition; the two times are those of the slowest." if several else "."),
        "facts": [
            {"label": "Half came within", "value": seconds(labels["delay_p50_seconds"])},
            {"label": "95 % came within", "value": seconds(labels["delay_p95_seconds"])},
        ],
        "bars": [
            {
                "label": _bin(bounds, number_),
                "parts": [{"kind": "came", "share": round(counts[number_] / total, 4)}],
                "value": f"{count(counts[number_])}, {share(counts[number_] / total)}",
            }
            for number_ in shown
        ],
    }


def _bin(bounds: Sequence[float], number_: int) -> str:
    """What is in a bin: `up to 15 min`."""
    if number_ == len(bounds):
        return plain(f"more than {seconds(bounds[-1])}" if bounds else "all", 40)
    return "label first" if bounds[number_] <= 0 else plain(f"up to {seconds(bounds[number_])}", 40)


RELAY_COLUMNS: Final[Sequence[Mapping[str, Any]]] = (
    {"key": "source", "label": "From", "header": True, "mono": True, "sort": True},
    {"key": "state", "label": "State", "sort": True},
    {"key": "offset", "label": "Next offset", "align": "end", "sort": True},
    {"key": "lag", "label": "Lag, records", "align": "end", "sort": True},
    {"key": "waited", "label": "The next waits for", "align": "end", "sort": True},
    {"key": "progressed", "label": "Last got on", "sort": True},
)


def relay_caption(pipeline: PipelineState, now: float) -> str:
    """What the table of the relay is, and what can't be known of it."""
    relay = pipeline.relay
    if relay is None:
        return ""
    caption = f"Relay into {plain(pipeline.facts.events_topic, 80)}, by the offsets of group {plain(relay.group, 80)}"
    if relay.problem:
        since = "" if relay.read_at is None else f", for {seconds(max(0.0, now - relay.read_at))}"
        return f"{caption}. It can't be read{since}: {plain(relay.problem, 400)}"
    return caption if relay.read_at is not None else f"{caption}. It is being read."


def relay_rows(pipeline: PipelineState, now: float) -> list[dict[str, Any]]:
    """A line for each partition of each topic that is relayed, what has waited longest first."""
    relay = pipeline.relay
    if relay is None:
        return []
    fresh = relay.is_fresh(now)
    most = max((item.lag_records for item in relay.partitions.values()), default=0)
    behind = relay.behind()
    rest = [(source, item) for source, item in relay.partitions.items() if not item.lag_records]
    rows = []
    for source, item in (*behind, *rest):
        standing, lag, waited = item.standing, item.lag_records, item.waited_seconds(now)
        name = f"{plain(source.topic, 120)}[{source.partition}]"
        if not fresh:
            state = {"text": "Not known", "tone": "warn", "icon": "stale"}
        elif not lag:
            state = {"text": "Up to date", "tone": "good", "icon": "ok"}
        elif waited < RELAY_LATE_SECONDS:
            state = {"text": "Relaying", "tone": "good", "icon": "ok"}
        elif now - item.progressed_at >= RELAY_LATE_SECONDS:
            state = {"text": "Stands still", "tone": "bad", "icon": "critical"}
        else:
            state = {"text": "Behind", "tone": "warn", "icon": "warning"}
        begun = standing.next_offset is not None
        rows.append(
            {
                "key": name,
                "cells": {
                    "source": {"text": name, "sort": name},
                    "state": state,
                    "offset": {
                        "text": count(standing.next_offset) if begun else "nothing committed",
                        "sort": standing.next_offset,
                        "sub": f"of {count(standing.end)}",
                    },
                    "lag": {"text": count(lag), "sort": lag, "bar": lag / most if most else None},
                    "waited": {"text": seconds(waited) if lag else NOTHING, "sort": waited},
                    "progressed": {"ago": round(item.progressed_at, 1), "sort": item.progressed_at},
                },
            }
        )
    return rows


def class_bars(pipeline: PipelineState, partition: int | None) -> dict[str, Any]:
    """How often each class is predicted, and how often it comes."""
    found = views.classes(pipeline, partition)
    if not found or not (found["predicted"] or found["label"]):
        return {
            "title": "Classes",
            "text": "Numbers are predicted here, no classes."
            if pipeline.facts.task == "regression"
            else "No class was predicted yet.",
            "bars": [],
            "legend": [],
        }
    totals = {which: sum(counts.values()) or 1 for which, counts in found.items()}
    names = sorted(
        {*found["predicted"], *found["label"]},
        key=lambda name: (name == "", -found["label"].get(name, 0), -found["predicted"].get(name, 0), name),
    )
    shown = names[:MOST_CLASSES]
    bars = []
    for name in shown:
        shares = {which: found[which].get(name, 0) / totals[which] for which in ("predicted", "label")}
        bars.append(
            {
                "label": plain(name, 60) if name else "all others",
                "parts": [
                    {"kind": "now", "share": round(shares["predicted"], 4)},
                    {"kind": "came", "share": round(shares["label"], 4)},
                ],
                "value": f"{share(shares['predicted'])} predicted, {share(shares['label'])} came",
            }
        )
    left = len(names) - len(shown)
    return {
        "title": "Classes",
        "text": f"Of the last {pipeline.facts.window:,} labels of each partition."
        + (f" {many(left, 'rarer class', 'rarer classes')} left out." if left else ""),
        "bars": bars,
        "legend": [{"kind": "now", "label": "predicted"}, {"kind": "came", "label": "came as label"}],
    }


def dead_letter_bars(pipeline: PipelineState) -> dict[str, Any]:
    """Dead letters by the stage that refused them."""
    found = {stage: number_of for stage, number_of in views.dead_letters(pipeline).items() if number_of}
    total = sum(found.values())
    known = sum(item.status.dead_letters for item in pipeline.partitions.values())
    whose = {
        "decode": "no event as [event] says",
        "predict": "the learner failed to predict",
        "learn": "the learner failed to learn",
        "score": "a metric failed",
        "drift": "a detector failed",
    }
    text = f"{many(max(total, known), 'record')} could not be used."
    if not max(total, known):
        text = "None: every record could be used."
    return {
        "title": "Dead letters by stage",
        "text": text,
        "bars": [
            {
                "label": plain(stage, 40),
                "parts": [{"kind": "bad", "share": round(number_of / total, 4)}],
                "value": f"{count(number_of)}" + (f", {whose[stage]}" if stage in whose else ""),
            }
            for stage, number_of in sorted(found.items(), key=lambda item: -item[1])[:10]
        ],
        "legend": [],
    }


DEAD_LETTER_COLUMNS: Final[Sequence[Mapping[str, Any]]] = (
    {"key": "when", "label": "When"},
    {"key": "stage", "label": "Stage"},
    {"key": "reason", "label": "Reason", "wide": True},
    {"key": "position", "label": "Position", "mono": True, "header": True},
    {"key": "size", "label": "Size", "align": "end"},
)


def dead_letter_rows(found: Sequence[DeadLetter]) -> list[dict[str, Any]]:
    """The newest dead letters, with a look at the record."""
    rows = []
    for number_, letter in enumerate(found):
        shown = len(letter.value or "")
        rows.append(
            {
                "key": f"{letter.position} {number_}",
                "about": plain(letter.position, 100),
                "cells": {
                    "when": {"at": letter.time},
                    "stage": plain(letter.stage, 40),
                    "reason": {"text": plain(letter.message, 300), "sub": plain(letter.error, 80)},
                    "position": plain(letter.position, 160),
                    "size": size(letter.bytes),
                },
                "details": [
                    {"label": "Key", "text": NOTHING if letter.key is None else plain(letter.key, 300)},
                    {
                        "label": "Value"
                        + (f" (its first {many(shown, 'character')})" if letter.bytes > shown else ""),
                        "text": "none" if letter.value is None else plain(letter.value, 4_000),
                        "code": True,
                    },
                    {"label": "Reason", "text": plain(letter.message, 1_000)},
                ],
            }
        )
    return rows


def dead_letters_command(pipeline: PipelineState) -> str:
    """How to see all of them."""
    return f"headrace dead-letters list {shlex.quote(pipeline.facts.settings_file)}"


# --- Partitions and workers ------------------------------------------------------------------------------

PARTITION_COLUMNS: Final[Sequence[Mapping[str, Any]]] = (
    {"key": "partition", "label": "Partition", "header": True, "sort": True},
    {"key": "state", "label": "State", "sort": True},
    {"key": "quality", "label": "Quality", "align": "end", "sort": True},
    {"key": "offset", "label": "Next offset", "align": "end", "sort": True},
    {"key": "lag", "label": "Lag, records", "align": "end", "sort": True},
    {"key": "rate", "label": "Events/s", "align": "end", "sort": True},
    {"key": "learned", "label": "Learned", "align": "end", "sort": True},
    {"key": "dead", "label": "Dead letters", "align": "end", "sort": True},
    {"key": "snapshot", "label": "Snapshot", "sort": True},
    {"key": "worker", "label": "Worker", "sort": True},
)

WORKER_COLUMNS: Final[Sequence[Mapping[str, Any]]] = (
    {"key": "worker", "label": "Worker", "header": True, "sort": True},
    {"key": "state", "label": "State"},
    {"key": "partitions", "label": "Partitions", "sort": True},
    {"key": "rate", "label": "Events/s", "align": "end", "sort": True},
    {"key": "lag", "label": "Lag, records", "align": "end", "sort": True},
    {"key": "seen", "label": "Last status", "sort": True},
)


def partition_rows(pipeline: PipelineState, now: float) -> list[dict[str, Any]]:
    """A line for each partition."""
    rows = views.partitions(pipeline, now)
    fresh = pipeline.facts.fresh_seconds
    most = max((row["lag_records"] or 0 for row in rows), default=0)
    metric = pipeline.facts.metrics[0]
    found = []
    for row in rows:
        snapshot = row["snapshot"]
        quality = (row["metrics"].get(metric) or {}).get("window")
        lag = row["lag_records"]
        rate = 0.0 if row["age_seconds"] > fresh else row["rate"]  # nobody works on it any more
        found.append(
            {
                "key": str(row["partition"]),
                "cells": {
                    "partition": {
                        "text": str(row["partition"]),
                        "sort": row["partition"],
                        "choose": row["partition"],
                    },
                    "state": _partition_state(row, fresh),
                    "quality": {"text": number(quality), "sort": quality},
                    "offset": {
                        "text": count(row["offset"]),
                        "sort": row["offset"],
                        "sub": f"of {count(row['end'])}" if row["end"] is not None else None,
                    },
                    "lag": {
                        "text": count(lag),
                        "sort": lag,
                        "bar": (lag or 0) / most if most else None,
                    },
                    "rate": {"text": per_second(rate), "sort": rate},
                    "learned": {"text": count(row["learned"]), "sort": row["learned"]},
                    "dead": {"text": count(row["dead_letters"]), "sort": row["dead_letters"]},
                    "snapshot": {"text": "none yet", "sort": None}
                    if snapshot is None
                    else {
                        "ago": round(now - snapshot["age_seconds"], 1),
                        "sort": -snapshot["age_seconds"],
                        "sub": size(snapshot["bytes"]),
                    },
                    "worker": plain(row["worker"], 80),
                },
            }
        )
    return found


def _partition_state(row: Mapping[str, Any], fresh: float) -> dict[str, str]:
    if row["age_seconds"] > fresh:
        return {"text": "Silent", "tone": "warn", "icon": "stale"}
    if row["state"] == "replaying":
        return {"text": "Replaying", "tone": "info", "icon": "info"}
    return {"text": "Live", "tone": "good", "icon": "ok"}


def worker_rows(pipeline: PipelineState, now: float) -> list[dict[str, Any]]:
    """A line for each worker that spoke last of some partition."""
    workers: dict[str, list[Mapping[str, Any]]] = {}
    for row in views.partitions(pipeline, now):
        workers.setdefault(row["worker"], []).append(row)
    found = []
    for name, rows in sorted(workers.items()):
        age = min(row["age_seconds"] for row in rows)
        owned = [row["partition"] for row in rows]
        lags = [row["lag_records"] for row in rows if row["lag_records"] is not None]
        silent = age > pipeline.facts.fresh_seconds
        found.append(
            {
                "key": name,
                "cells": {
                    "worker": plain(name, 100),
                    "state": {"text": "Silent", "tone": "warn", "icon": "stale"}
                    if silent
                    else {"text": "Running", "tone": "good", "icon": "ok"},
                    "partitions": {
                        "text": ranges(owned),
                        "sort": len(owned),
                        "sub": many(len(owned), "partition"),
                    },
                    "rate": {
                        "text": per_second(0.0 if silent else sum(row["rate"] for row in rows)),
                        "sort": sum(row["rate"] for row in rows),
                    },
                    "lag": {"text": count(sum(lags)) if lags else NOTHING, "sort": sum(lags)},
                    "seen": {"ago": round(now - age, 1), "sort": -age},
                },
            }
        )
    return found


# --- The learner -----------------------------------------------------------------------------------------


def learner_facts(pipeline: PipelineState) -> dict[str, Any]:
    """What learns, and how much it has."""
    found = views.learner(pipeline)
    several = len(pipeline.partitions)
    return {
        "title": "Learner",
        "text": plain(found["readable"] or "", 600),
        "facts": [
            {"label": "Name", "value": plain(found["name"], 120), "mono": True},
            {"label": "Task", "value": pipeline.facts.task},
            {
                "label": "Learned",
                "about": f"by {several} learners, one a partition" if several > 1 else "",
                "value": count(found["learned"]),
                "unit": "labels",
            },
            {
                "label": "Size",
                "about": "of the newest snapshot" + ("s together" if several > 1 else ""),
                "value": size(found["bytes"]),
            },
            {"label": "A prediction takes", "value": seconds(found["seconds"].get("predict"))},
            {"label": "Learning from a label takes", "value": seconds(found["seconds"].get("learn"))},
        ],
    }


def learner_parameters(pipeline: PipelineState) -> dict[str, Any]:
    """The parameters, as the settings have them."""
    parameters = pipeline.facts.parameters
    return {
        "title": "Parameters",
        "text": "" if parameters else "None in the settings: all are River's own.",
        "facts": [
            {"label": plain(name, 60), "value": plain(value, 200), "mono": True}
            for name, value in list(parameters.items())[:60]
        ],
    }


def learner_charts(
    pipeline: PipelineState, view: View, now: float, zoom: Zoom, remembered: Remembered
) -> dict[str, dict[str, Any]]:
    """Time of a call and size over time."""
    over: dict[str, Any] = {
        "seconds": view.seconds,
        "now": now,
        "partition": view.partition,
        "zoom": zoom,
        "remembered": remembered,
        "read": ("predict_seconds", "learn_seconds", "snapshot_bytes"),
    }
    return {
        "time": small(
            pipeline,
            "Time per event",
            [
                Line("predict_seconds", "predict", kind="seconds"),
                Line("learn_seconds", "learn", "second", kind="seconds"),
            ],
            none="No call was timed in this time range.",
            **over,
        ),
        "size": small(
            pipeline,
            "Size of a snapshot",
            [Line("snapshot_bytes", "of one partition", "third", area=True, kind="bytes")],
            none="There was no snapshot in this time range.",
            **over,
        ),
    }
