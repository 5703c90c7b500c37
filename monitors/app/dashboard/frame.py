"""What stands on every page, and the overview: the bar on top, what is wrong, how each pipeline stands. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from monitors.app.dashboard import charts
from monitors.app.dashboard.charts import Remembered
from monitors.app.dashboard.words import (
    NOTHING,
    against,
    count,
    many,
    number,
    per_second,
    plain,
    ranges,
    seconds,
    share,
    title,
)
from monitors.app.site import Feed, Site
from monitors.fleet import PipelineState, views
from monitors.records import Alert, Severity

#: A line without axes shows an hour, or what there is.
SPARK_SECONDS: Final = 3_600.0
SHORTEST_SPARK_SECONDS: Final = 300.0
#: Banners on a page; more are only counted.
MOST_BANNERS: Final = 3

_STATES: Final = {
    "ok": {"text": "Healthy", "tone": "good", "icon": "ok"},
    "warning": {"text": "Needs a look", "tone": "warn", "icon": "warning"},
    "critical": {"text": "Critical", "tone": "bad", "icon": "critical"},
    "stale": {"text": "Silent", "tone": "warn", "icon": "stale"},
    "no-data": {"text": "No data yet", "tone": "calm", "icon": "no-data"},
    "connecting": {"text": "Not connected", "tone": "warn", "icon": "away"},
    "loading": {"text": "Reading history", "tone": "calm", "icon": "stale"},
    "away": {"text": "Kafka away", "tone": "bad", "icon": "away"},
}
#: The worst first.
_ORDER: Final = ("critical", "away", "stale", "connecting", "warning", "no-data", "loading", "ok")
SEVERITIES: Final[dict[Severity, dict[str, str]]] = {
    "critical": {"text": "Critical", "tone": "bad", "icon": "critical"},
    "warning": {"text": "Warning", "tone": "warn", "icon": "warning"},
    "info": {"text": "Info", "tone": "info", "icon": "info"},
}


def href(pipeline: str, query: str = "") -> str:
    """The address of a pipeline's page."""
    return f"/p/{quote(pipeline, safe='')}{query}"


def standing(pipeline: PipelineState, feed: Feed, now: float) -> str:
    """How a pipeline stands, in a word: what the monitor knows of it, or why it knows nothing."""
    if feed.state == "away" or (feed.state == "connecting" and feed.restarts > 0):
        return "away"
    if feed.state != "live":
        return feed.state
    return views.state_of(pipeline, now)


def is_old(pipeline: PipelineState, word: str, now: float) -> bool:
    """Whether the figures are of some time ago, however the pipeline stands besides."""
    return word in ("away", "connecting") or views.is_silent(pipeline, now)


def live(site: Site, names: Sequence[str], now: float) -> dict[str, str]:
    """How fresh a page is, for the bar on top."""
    feeds = [site.feeds[name] for name in names]
    if any(feed.state in ("away", "connecting") for feed in feeds):
        return {"text": "Kafka can't be read", "tone": "bad", "icon": "away"}
    if any(feed.state == "loading" for feed in feeds):
        return {"text": "reading history", "tone": "calm", "icon": "stale"}
    if any(views.is_silent(site.fleet.pipelines[name], now) for name in names):
        return {"text": "no news", "tone": "warn", "icon": "stale"}
    return {"text": "live", "tone": "good", "icon": "ok"}


# --- What is wrong now -----------------------------------------------------------------------------------


def banners(site: Site, now: float, *, page: str | None) -> list[dict[str, Any]]:
    """What is wrong: on each page all that is critical; on a pipeline's page all of that pipeline."""
    found: list[dict[str, Any]] = []
    more = 0
    for name, pipeline in site.fleet.pipelines.items():
        if page is None or page == name:
            found += _feed_banner(pipeline, site.feeds[name])
            found += _silence_banner(pipeline, site.feeds[name], now)
        for rows in views.open_kinds(pipeline):
            severity = rows[0]["severity"]
            if severity == "critical" or (page == name and severity == "warning"):
                found.append(_incident_banner(name, rows))
            elif severity == "warning":
                more += 1
    found.sort(key=lambda item: (item["pipeline"] != page, ("bad", "warn", "calm").index(item["tone"])))
    if len(found) > MOST_BANNERS:
        left = found[MOST_BANNERS:]
        found = found[:MOST_BANNERS]
        found.append(
            {
                "key": "left",
                "tone": left[0]["tone"],
                "icon": left[0]["icon"],
                "word": f"And {len(left)} more",
                "title": "in " + ", ".join(dict.fromkeys(item["pipeline"] for item in left)),
                "href": "/" if page is not None else None,
            }
        )
    if page is None and more:
        found.append(
            {
                "key": "more",
                "tone": "warn",
                "icon": "warning",
                "word": "Warning",
                "title": f"{many(more, 'warning')} open; the pipelines below say which.",
            }
        )
    return found


def _incident_banner(pipeline: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One box for an incident, whichever partitions have it: it begins with the first and tells of the last."""
    row = rows[0]
    severity = SEVERITIES[row["severity"]]
    where, text = "", row["text"]
    if len(rows) > 1:
        where = f", partitions {plain(ranges(item['partition'] for item in rows), 80)}"
        text = f"Partition {row['partition']}, for one: {text}"
    elif row["partition"] is not None:
        where = f", partition {row['partition']}"
    return {
        "key": f"{pipeline} {row['incident']} {row['severity']} {row['partition'] is None}",
        "pipeline": pipeline,
        "tone": severity["tone"],
        "icon": severity["icon"],
        "word": severity["text"],
        "title": f"{pipeline}: {plain(row['incident'], 80)}{where}",
        "href": href(pipeline, "?tab=alerts&kind=incident"),
        "since": min(item["time"] for item in rows),
        "text": plain(text, 600),
    }


def _feed_banner(pipeline: PipelineState, feed: Feed) -> list[dict[str, Any]]:
    facts = pipeline.facts
    if feed.state == "loading":
        return [
            {
                "key": f"feed {facts.name}",
                "pipeline": facts.name,
                "tone": "calm",
                "icon": "stale",
                "word": "Reading history",
                "title": f"{facts.name}: {feed.loaded:.0%} of what was written before.",
                "progress": round(feed.loaded, 3),
                "text": plain(feed.problem),
            }
        ]
    if feed.state == "live" and not feed.problem:
        return []
    again = feed.state == "away" or feed.restarts > 0
    said = {
        "connecting": f"No connection to Kafka at {facts.brokers}",
        "away": f"Kafka at {facts.brokers} can't be read",
        "live": "The topics can't be read as they should",
    }[feed.state]
    help_ = feed.problem or (
        "What you see is from before; it goes on by itself once the broker is back."
        if again
        else "Start a broker (headrace broker), or mend bootstrap_servers in [kafka] of the settings."
    )
    return [
        {
            "key": f"feed {facts.name}",
            "pipeline": facts.name,
            "tone": "bad" if again else "warn",
            "icon": "away",
            "word": "Kafka away" if again else "Not connected",
            "title": f"{facts.name}: {said}",
            "since": feed.since,
            "text": plain(help_, 600),
        }
    ]


def _silence_banner(pipeline: PipelineState, feed: Feed, now: float) -> list[dict[str, Any]]:
    if feed.state != "live" or not views.is_silent(pipeline, now):
        return []
    last = max(item.arrived_at for item in pipeline.partitions.values())
    return [
        {
            "key": f"silence {pipeline.facts.name}",
            "pipeline": pipeline.facts.name,
            "tone": "warn",
            "icon": "stale",
            "word": "Silent",
            "title": f"{pipeline.facts.name}: no worker has reported",
            "since": last,
            "text": (
                f"A status is due every {seconds(pipeline.facts.status_interval_seconds)}. The figures are of "
                "then. Look whether its workers run, and start one:"
            ),
            "command": run_command(pipeline),
        }
    ]


def run_command(pipeline: PipelineState) -> str:
    """How a worker of the pipeline is started."""
    return f"headrace run {shlex.quote(pipeline.facts.settings_file)}"


def drifts_counted(site: Site, names: Sequence[str]) -> dict[str, int]:
    """How many drifts there were of each of these pipelines."""
    return {name: site.fleet.pipelines[name].counts["drift"] for name in names}


def news(site: Site, before: Mapping[str, int], counted: Mapping[str, int]) -> str:
    """The newest drift of a pipeline that has drifted since, in a sentence; "": none has."""
    for name in counted:
        drifts = site.fleet.pipelines[name].alerts if counted[name] > before.get(name, 0) else ()
        for seen in reversed(drifts):
            if isinstance(seen.alert, Alert) and seen.alert.kind == "drift":
                return (
                    f"New drift in {name}: {plain(seen.alert.watch, 80)}, partition {seen.alert.partition}."
                )
    return ""


# --- The overview ----------------------------------------------------------------------------------------


def overview(site: Site, now: float, remembered: Remembered) -> dict[str, Any]:
    """All pipelines, the worst first."""
    standings = {
        name: standing(pipeline, site.feeds[name], now) for name, pipeline in site.fleet.pipelines.items()
    }
    names = sorted(standings, key=lambda name: (_ORDER.index(standings[name]), name))
    summary = []
    for word in _ORDER:
        number_of = sum(found == word for found in standings.values())
        if number_of:
            summary.append(_STATES[word] | {"text": f"{number_of} {_STATES[word]['text'].lower()}"})
    return {
        "rows": [_row(site.fleet.pipelines[name], standings[name], now, remembered) for name in names],
        "summary": summary,
    }


def _row(pipeline: PipelineState, word: str, now: float, remembered: Remembered) -> dict[str, Any]:
    facts = pipeline.facts
    summary = views.summary(pipeline, now)
    last = summary["last_drift"]
    say, command = "", ""
    if word == "no-data":
        say, command = "No worker has reported yet. Start one:", run_command(pipeline)
    elif word == "warning":  # what is critical stands above
        first = views.open_incidents(pipeline)[0]
        say = f"{plain(first['incident'], 80)}: {plain(first['text'])}"
    opened = summary["open"]
    problems = ", ".join(f"{opened[name]} {name}" for name in ("critical", "warning", "info") if opened[name])
    span = spark_seconds(pipeline, now)
    metric_column, spark_label = _spark_column(pipeline, summary, span)
    return {
        "pipeline": facts.name,
        "href": href(facts.name),
        "state": _STATES[word],
        "old": is_old(pipeline, word, now),
        "about": f"{facts.task}, {plain(facts.learner, 80)}",
        "quality": quality_figure(pipeline, summary),
        "spark": charts.spark(
            pipeline, metric_column, spark_label, seconds=span, now=now, remembered=remembered
        ),
        "facts": [
            {"label": "Rate", "value": per_second(summary["rate"]), "unit": "events/s"},
            lag_figure(summary),
            {
                "label": "Drifts",
                "value": count(summary["drifts"]),
                "at": last["seen_at"] if last else None,
                "sub": None if last else "none seen",
            },
            {
                "label": "Open incidents",
                "value": problems or "none",
                "tone": "bad" if opened["critical"] else "warn" if opened["warning"] else None,
            },
            {
                "label": "Partitions",
                "value": count(summary["partitions"]),
                "sub": many(summary["workers"], "worker"),
            },
            {"label": "Events", "value": count(summary["events"])},
            {"label": "Learned", "value": count(summary["learned"]), "unit": "labels"},
            {
                "label": "Dead letters",
                "value": count(summary["dead_letters"]),
                "tone": "warn" if summary["dead_letters"] else None,
            },
        ],
        "say": say,
        "command": command,
    }


def spark_seconds(pipeline: PipelineState, now: float) -> float:
    """How far back the lines without axes go: full minutes."""
    known = 60.0 * math.ceil(charts.known_seconds(pipeline, now) / 60.0)
    return min(SPARK_SECONDS, max(SHORTEST_SPARK_SECONDS, known))


def _spark_column(pipeline: PipelineState, summary: dict[str, Any], span: float) -> tuple[str, str]:
    last = "last hour" if span == SPARK_SECONDS else f"last {span / 60.0:.0f} min"
    if summary["quality"]["window"] is None and len(pipeline.partitions) > 1:
        return "rate", f"events/s, {last}"
    metric = summary["metric"]
    return f"{metric} window", f"{title(metric)}, {last}"


def lag_figure(summary: dict[str, Any]) -> dict[str, Any]:
    """How far behind, and for how long at this rate."""
    lag, rate = summary["lag_records"], summary["rate"]
    sub = ""
    if lag is None:
        sub = "not known yet"
    elif summary["silent"]:  # what came since is behind as well
        sub = "as of the last status"
    elif lag == 0:
        sub = "up to date"
    elif rate > 0:
        sub = f"about {seconds(lag / rate)}"
    return {"label": "Lag", "value": count(lag), "unit": "records", "sub": sub}


def quality_figure(pipeline: PipelineState, summary: dict[str, Any], over: str = "window") -> dict[str, Any]:
    """The first metric against the best of the baselines."""
    metric, better = summary["metric"], summary["higher_is_better"]
    value = summary["quality"][over]
    last = f"{title(metric)}, last {pipeline.facts.window:,}"
    label = last if over == "window" else f"{title(metric)}, since the start"
    if value is None:
        found = [
            figure
            for item in pipeline.partitions.values()
            if (figure := (item.status.metrics.get(metric) or {}).get(over)) is not None
        ]
        if len(found) > 1:
            return {
                "label": label,
                "value": f"{number(min(found), 3)} – {number(max(found), 3)}",
                "delta": f"over {many(len(found), 'partition')}",
                "tone": "calm",
            }
        return {"label": label, "value": NOTHING, "delta": "no label yet", "tone": "calm"}
    known = {name: both[over] for name, both in summary["baselines"].items() if both[over] is not None}
    if not known:
        return {"label": label, "value": number(value), "delta": "", "tone": "calm"}
    best = (max if better else min)(known, key=lambda name: known[name])
    delta, tone = against(value, known[best], best, higher_is_better=better)
    return {"label": label, "value": number(value), "delta": delta, "tone": tone}


CHANNEL_COLUMNS: Final[Sequence[Mapping[str, Any]]] = (
    {"key": "channel", "label": "Channel", "header": True},
    {"key": "pipeline", "label": "Pipeline"},
    {"key": "state", "label": "State"},
    {"key": "sent", "label": "Sent", "align": "end"},
    {"key": "failed", "label": "Failed", "align": "end"},
    {"key": "waiting", "label": "Waiting", "align": "end"},
    {"key": "last", "label": "Last sent"},
)


def channel_rows(site: Site) -> list[dict[str, Any]]:
    """A line for each notification channel: whether what it is for arrives."""
    rows = []
    for facts in site.channels():
        problem = facts.get("last_error")
        if problem:
            state = {"text": "Failing", "tone": "bad", "icon": "critical", "sub": plain(problem, 300)}
        elif facts.get("sent"):
            state = {"text": "Working", "tone": "good", "icon": "ok"}
        else:
            state = {"text": "Nothing sent yet", "tone": "calm", "icon": "no-data"}
        last = facts.get("last_sent")
        rows.append(
            {
                "key": f"{facts['pipeline']} {facts['name']}",
                "cells": {
                    "channel": {"text": plain(facts["name"], 80), "sub": plain(facts.get("scheme", ""), 40)},
                    "pipeline": {"text": facts["pipeline"], "href": href(facts["pipeline"])},
                    "state": state,
                    "sent": count(facts.get("sent")),
                    "failed": count(facts.get("failed")),
                    "waiting": count(facts.get("waiting")),
                    "last": "never" if last is None else {"ago": last},
                },
            }
        )
    return rows


# --- The head of a pipeline's page -----------------------------------------------------------------------


def head(pipeline: PipelineState, feed: Feed, now: float, remembered: Remembered) -> dict[str, Any]:
    """Name, state and key figures of a pipeline."""
    facts = pipeline.facts
    word = standing(pipeline, feed, now)
    summary = views.summary(pipeline, now)
    tiles: list[dict[str, Any]] = []
    if pipeline.partitions:
        tiles = _tiles(pipeline, summary, now, remembered)
    return {
        "name": facts.name,
        "state": _STATES[word],
        "about": (
            f"{facts.task}, {plain(facts.learner, 80)}, from {plain(facts.events_topic, 80)}"
            + (
                f" ({many(summary['partitions'], 'partition')}, {many(summary['workers'], 'worker')})"
                if tiles
                else ""
            )
        ),
        "seen": max((item.arrived_at for item in pipeline.partitions.values()), default=None),
        "tiles": tiles,
        "old": is_old(pipeline, word, now),
    }


def _tiles(
    pipeline: PipelineState, summary: dict[str, Any], now: float, remembered: Remembered
) -> list[dict[str, Any]]:
    span = spark_seconds(pipeline, now)

    def line(column: str) -> dict[str, Any]:
        return charts.spark(pipeline, column, "", seconds=span, now=now, remembered=remembered)

    icons = {"good": "up", "bad": "down", "calm": None}
    tiles = []
    for over, column in (("window", "window"), ("value", "value")):
        found = quality_figure(pipeline, summary, over)
        tile = found | {"icon": icons[found["tone"]]}
        if summary["quality"][over] is not None:
            tile["spark"] = line(f"{summary['metric']} {column}")
        tiles.append(tile)
    lag = lag_figure(summary)
    last = summary["last_drift"]
    drifts: dict[str, Any] = {"label": "Drifts", "value": count(summary["drifts"]), "tone": "calm"}
    if last:
        drifts |= {"at": last["seen_at"], "prefix": "last "}
    else:
        drifts["delta"] = "none seen" if pipeline.facts.watches else "nothing is watched"
    since = line("rate")
    drifts["spark"] = since | {"values": [], "times": []} if last else None
    tiles += [
        {
            "label": "Rate",
            "value": per_second(summary["rate"]),
            "unit": "events/s",
            "delta": f"{count(summary['events'])} since the start",
            "tone": "calm",
            "spark": since | {"marks": []},
        },
        {
            "label": "Lag",
            "value": lag["value"],
            "unit": "records",
            "delta": lag["sub"],
            "tone": "calm",
            "spark": line("lag_records") | {"marks": []},
        },
        _labels_tile(pipeline, summary) | {"spark": line("coverage") | {"marks": []}},
        drifts,
    ]
    return tiles


def _labels_tile(pipeline: PipelineState, summary: dict[str, Any]) -> dict[str, Any]:
    labels = views.labels(pipeline)
    if summary["learned"] and not any(labels[name] for name in ("questions", "pending", "expired")):
        return {"label": "Labels", "value": "100 %", "delta": "come with the events", "tone": "calm"}
    tile: dict[str, Any] = {
        "label": "Labels that came, in all",
        "value": share(labels["coverage"]),
        "tone": "calm",
    }
    if labels["coverage"] is None:
        tile["delta"] = (
            f"{many(labels['pending'], 'prediction')} waiting" if labels["pending"] else "none is due yet"
        )
    elif labels["delay_p50_seconds"] is not None:
        tile["delta"] = f"half of them within {seconds(labels['delay_p50_seconds'])}"
    return tile
