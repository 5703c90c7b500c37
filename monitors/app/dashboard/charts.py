"""Charts as pictures: lines and marks, made once for all who look at the same. Pure but for what it remembers."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from monitors.app.dashboard.words import number, plain, title
from monitors.fleet import PipelineState, views
from monitors.prequential import METRICS
from monitors.records import Alert

#: Points of a line, and of one without axes.
POINTS: Final = 600
SPARK_POINTS: Final = 120
#: Marks on a chart; of more the newest are shown.
MOST_MARKS: Final = 300
#: A chart is drawn anew after so long at most, seconds.
MOST_STEP: Final = 10.0
#: Pictures that are remembered.
MOST_REMEMBERED: Final = 256

T = TypeVar("T")
Zoom = tuple[float, float] | None
"""What of the range a viewer looks at, epoch seconds; None: all of it."""


class Remembered:
    """What was made for one viewer and is the same for the next; the oldest goes."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._found: OrderedDict[Hashable, Any] = OrderedDict()
        self._most = most

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made of this key before, or is made now."""
        if key in self._found:
            self._found.move_to_end(key)
        else:
            self._found[key] = make()
            if len(self._found) > self._most:
                self._found.popitem(last=False)
        found: T = self._found[key]
        return found


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: a column of the fleet's, and how it is drawn."""

    column: str
    label: str
    tone: str = "main"
    dashed: str = ""
    area: bool = False
    #: How its figures are written: number, share, count, rate, seconds, bytes.
    kind: str = "number"


def picture(
    pipeline: PipelineState,
    lines: Sequence[Line],
    *,
    seconds: float,
    now: float,
    partition: int | None,
    zoom: Zoom,
    none: str,
    remembered: Remembered,
    points: int = POINTS,
    zero: bool = False,
    most: float | None = None,
    read: Sequence[str] = (),
) -> dict[str, Any]:
    """A chart of the last so many seconds; inside the zoom it is finer. Charts with the same `read` are read once."""
    step = min(MOST_STEP, max(2.0, seconds / points))
    until = math.ceil(now / step) * step
    since = until - seconds
    names = tuple(dict.fromkeys((*read, *(line.column for line in lines))))
    # While there is little, each status shows; later a chart is drawn once in a step, for all viewers together.
    young = sum(len(item.series) for item in pipeline.partitions.values()) < 60 * max(
        1, len(pipeline.partitions)
    )
    key = (
        pipeline.facts.name,
        names,
        since,
        until,
        partition,
        zoom,
        points,
        pipeline.version if young else 0,
    )
    found = remembered.get(
        key,
        lambda: _columns(
            pipeline, names, since=since, until=until, partition=partition, zoom=zoom, points=points
        ),
    )
    return {
        "times": found["times"],
        "lines": [
            {
                "label": line.label,
                "values": found["columns"][line.column],
                "tone": line.tone,
                "dashed": line.dashed,
                "area": line.area,
                "kind": line.kind,
            }
            for line in lines
            if line.column in found["columns"]
        ],
        "since": since,
        "until": until,
        "zero": zero,
        "most": most,
        "none": none,
    }


def _columns(
    pipeline: PipelineState,
    names: Sequence[str],
    *,
    since: float,
    until: float,
    partition: int | None,
    zoom: Zoom,
    points: int,
) -> dict[str, Any]:
    whole = views.chart(pipeline, names, since=since, until=until, partition=partition, points=points)
    times, columns = whole["times"], whole["columns"]
    if zoom is not None and zoom[1] - zoom[0] < 0.9 * (until - since):
        fine = views.chart(pipeline, names, since=zoom[0], until=zoom[1], partition=partition, points=points)
        if fine["times"]:
            first, last = bisect_left(times, fine["times"][0]), bisect_left(times, fine["times"][-1])
            times = [*times[:first], *fine["times"], *times[last:]]
            columns = {
                name: [*values[:first], *fine["columns"][name], *values[last:]]
                for name, values in columns.items()
            }
    return {
        "times": [round(time, 1) for time in times],
        "columns": {name: [_short(value) for value in values] for name, values in columns.items()},
    }


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def marks(
    pipeline: PipelineState,
    *,
    seconds: float,
    now: float,
    partition: int | None,
    watch: Callable[[str], bool] = lambda name: True,
    kind: str = "",
    remembered: Remembered,
) -> list[dict[str, Any]]:
    """Drifts and warnings of the last so many seconds, the oldest first; `kind` names what `watch` picks."""
    until = math.ceil(now / MOST_STEP) * MOST_STEP
    key = ("marks", pipeline.facts.name, seconds, until, partition, kind, *sorted(pipeline.counts.items()))
    return remembered.get(
        key,
        lambda: [
            {
                "at": round(row["at"], 1),
                "kind": row["kind"],
                "title": f"{'Drift' if row['kind'] == 'drift' else 'Warning'}: {plain(row['watch'], 80)}",
                "detail": (
                    f"mean {number(row['mean_before'], 3)} → {number(row['mean_after'], 3)}, by "
                    f"{plain(row['detector'], 40)}, at {row['position']}"
                ),
            }
            for row in views.marks(pipeline, since=until - seconds, until=until, partition=partition)
            if watch(row["watch"])
        ][-MOST_MARKS:],
    )


def known_seconds(pipeline: PipelineState, now: float) -> float:
    """For how long something is known of a pipeline, two hours at most."""
    # A partition that has only replayed so far has counted nothing.
    oldest = [item.counters[0].time for item in pipeline.partitions.values() if item.counters]
    return max(0.0, now - min(oldest)) if oldest else 0.0


def drift_times(pipeline: PipelineState, since: float) -> list[float]:
    """When drifts were seen, the newest 50."""
    found: list[float] = []
    for seen in reversed(pipeline.alerts):
        if seen.seen_at < since or len(found) == 50:
            break
        if isinstance(seen.alert, Alert) and seen.alert.kind == "drift":
            found.append(round(seen.seen_at, 1))
    return found


def shown_partition(pipeline: PipelineState, chosen: int | None, metric: str) -> tuple[int | None, str]:
    """Which partition a metric is shown of, and why if that was not chosen."""
    if chosen is not None and chosen in pipeline.partitions:
        return chosen, ""
    if len(pipeline.partitions) < 2:
        return None, ""
    if METRICS[metric].is_mean:
        return None, (
            f"Over all {len(pipeline.partitions)} partitions: each has a learner of its own; "
            "shown is their mean, weighted by events."
        )
    first = min(pipeline.partitions)
    return first, (
        f"{title(metric)} is no mean over events, so there is none for all partitions together: "
        f"this is partition {first}. Choose another above."
    )


def quality(
    pipeline: PipelineState,
    metric: str,
    *,
    seconds: float,
    now: float,
    partition: int | None,
    zoom: Zoom,
    remembered: Remembered,
) -> dict[str, Any]:
    """Quality over time: windowed, cumulative, and the baselines."""
    facts = pipeline.facts
    shown, why = shown_partition(pipeline, partition, metric)
    lines = [
        Line(f"{metric} window", f"last {facts.window:,}", area=METRICS[metric].higher_is_better),
        Line(f"{metric} value", "since the start", "second"),
    ]
    if metric == facts.metrics[0]:
        names = dict.fromkeys(
            name for item in pipeline.partitions.values() for name in item.status.baselines if name.isascii()
        )
        for name, (tone, dashed) in zip(names, (("base", "dashed"), ("base2", "dotted")), strict=False):
            lines.append(Line(f"{name} window", f"{title(name)}, last {facts.window:,}", tone, dashed))
        beside = ""
    else:
        beside = f"Baselines are known for {title(facts.metrics[0])} only, the first of [metrics]."
    none = "No label has come yet: quality is known once labels come."
    if any(item.status.scored for item in pipeline.partitions.values()):
        none = "No figures in this time range. Choose a longer one."
    how = METRICS[metric].summary + (
        "; more is better." if METRICS[metric].higher_is_better else "; less is better."
    )
    return {
        "title": title(metric),
        "text": " ".join(part for part in (how[0].upper() + how[1:], why, beside) if part),
        "picture": picture(
            pipeline,
            lines,
            seconds=seconds,
            now=now,
            partition=shown,
            zoom=zoom,
            none=none,
            remembered=remembered,
            most=1.0 if METRICS[metric].higher_is_better else None,
        ),
        "marks": marks(pipeline, seconds=seconds, now=now, partition=shown, remembered=remembered),
    }


def small(
    pipeline: PipelineState,
    name: str,
    lines: Sequence[Line],
    *,
    text: str = "",
    none: str,
    seconds: float,
    now: float,
    partition: int | None,
    zoom: Zoom,
    remembered: Remembered,
    most: float | None = None,
    read: Sequence[str] = (),
) -> dict[str, Any]:
    """A chart beside others, without marks."""
    return {
        "title": name,
        "text": text,
        "small": True,
        "picture": picture(
            pipeline,
            lines,
            seconds=seconds,
            now=now,
            partition=partition,
            zoom=zoom,
            none=none,
            remembered=remembered,
            points=POINTS // 2,
            zero=True,
            most=most,
            read=read,
        ),
    }


def spark(
    pipeline: PipelineState, column: str, label: str, *, seconds: float, now: float, remembered: Remembered
) -> dict[str, Any]:
    """A line without axes, with the drifts on it."""
    metric = pipeline.facts.metrics[0]
    found = picture(
        pipeline,
        [Line(column, label)],
        seconds=seconds,
        now=now,
        partition=None,
        zoom=None,
        none="",
        remembered=remembered,
        points=SPARK_POINTS,
        read=(f"{metric} window", f"{metric} value", "rate", "lag_records", "coverage"),
    )
    return {
        "times": found["times"],
        "values": found["lines"][0]["values"] if found["lines"] else [],
        "since": found["since"],
        "until": found["until"],
        "marks": drift_times(pipeline, found["since"]),
        "label": label,
    }
