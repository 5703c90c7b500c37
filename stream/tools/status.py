"""`headrace status`: where each partition stands, from its last status record and from the group's offsets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson
from rich.box import SIMPLE_HEAD
from rich.table import Table

from monitors import LABEL_COUNTS, METRICS, add_histograms, label_health, ranges, weighted_mean
from stream.errors import EnvironmentRefused
from stream.settings import Settings
from stream.tools.cluster import Bounds, Cluster, Commit, Reader, TopicFacts
from stream.tools.open_incidents import LOOKED_AT, OpenIncident, Reading, doubt_of, grouped, read_open
from stream.tools.relayed import BETWEEN_LOOKS, Look, RelayView, lag_of, look_at, relay_view, sources_of
from stream.tools.watch import printable

#: Seconds within which a running worker has written a status, unless its interval is longer.
FRESH_SECONDS: Final = 30.0
#: Seconds to wait for the last status records.
READ_SECONDS: Final = 5.0
#: What a table has where nothing is known.
NOTHING: Final = "-"
#: The columns of the figures that are sums over partitions.
SUMS: Final = (
    *("events", "predictions", "learned", "scored", "dead_letters", "duplicates", "ignored"),
    *LABEL_COUNTS,
)
#: What became of labels: how its column is called, the counter, and the share of it in `label_health`.
LABEL_COLUMNS: Final = (
    ("early", "early", "early"),
    ("late", "late", "late"),
    ("unmatched", "unmatched", "unmatched"),
    ("duplicate", "duplicate_labels", "duplicate"),
    ("conflicting", "conflicting_labels", "conflicting"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionView:
    """One partition as far as it is known."""

    partition: int
    #: What the group has committed; None: nothing yet.
    next_offset: int | None
    #: Records that are not processed yet.
    lag_records: int
    #: Age of the last status record; None: there is none.
    age_seconds: float | None
    #: The last status record; empty: there is none.
    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """A pipeline as far as it is known."""

    pipeline: str
    #: Workers in the group now.
    workers: int
    partitions: Sequence[PartitionView]
    #: Sums over partitions, means weighted by events of the metrics that are means, shares of the sums, and of label
    #: delays the longest of any partition.
    totals: Mapping[str, Any]
    #: None: nothing is relayed, or it can't be seen.
    relay: RelayView | None = None
    #: What is open on the alerts topic. None: it can't be read.
    incidents: Sequence[OpenIncident] | None = None
    #: What should be looked into, a sentence each.
    warnings: Sequence[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return {
            "pipeline": self.pipeline,
            "workers": self.workers,
            "partitions": [
                {
                    "partition": view.partition,
                    "next_offset": view.next_offset,
                    "lag_records": view.lag_records,
                    "age_seconds": view.age_seconds,
                    "status": dict(view.status) or None,
                }
                for view in self.partitions
            ],
            "totals": dict(self.totals),
            "relay": None if self.relay is None else self.relay.to_dict(),
            "incidents": None if self.incidents is None else [kind.to_dict() for kind in self.incidents],
            "warnings": list(self.warnings),
        }


def read_status(settings: Settings) -> StatusView:
    """Ask Kafka where a pipeline stands.

    Raises:
        EnvironmentRefused: No broker answers, or a topic is missing.
    """
    topics = settings.topics
    with Cluster(settings) as cluster:
        found = cluster.topics([topics.events, topics.status])
        missing = [name for name in (topics.events, topics.status) if name not in found]
        if missing:
            raise EnvironmentRefused(
                f"there is no topic {', '.join(repr(name) for name in missing)}. "
                f"Make it: headrace topics create {settings.path}"
            )
        relay = _Relay(cluster, settings, found[topics.events])
        count = found[topics.events].partitions
        commits = cluster.commits(settings.name, topics.events)
        bounds = cluster.bounds(topics.events, count)
        status_bounds = cluster.bounds(topics.status, found[topics.status].partitions)
        workers = cluster.members(settings.name)
        statuses = _last_records(settings, status_bounds)
        view = view_of(
            settings, workers=workers, commits=commits, bounds=bounds, statuses=statuses, now=time.time()
        )
        return relay.seen_in(_with_incidents(cluster, settings, view))


def _with_incidents(cluster: Cluster, settings: Settings, view: StatusView) -> StatusView:
    """The view of the pipeline, with what is open. What goes wrong with it is a warning: all else is shown as ever."""
    topic = settings.topics.alerts
    try:
        facts = cluster.topics([topic]).get(topic)
        if facts is None:
            raise EnvironmentRefused(
                f"there is no topic {topic!r}. Make it: headrace topics create {settings.path}"
            )
        reading = read_open(settings, cluster.bounds(topic, facts.partitions))
    except EnvironmentRefused as error:
        return replace(view, warnings=[*view.warnings, f"Open incidents can't be seen: {error}"])
    return with_open(settings, view, reading)


def with_open(settings: Settings, view: StatusView, reading: Reading) -> StatusView:
    """The view of the pipeline, with what lies open on the alerts topic."""
    partitions = {item.partition: item for item in view.partitions}
    found = []
    for (partition, _), incident in reading.open.items():
        item = None if partition is None else partitions.get(partition)
        age = None if item is None else item.age_seconds
        is_fresh = age is not None and age <= _fresh_seconds(settings)
        status = {} if item is None else item.status
        found.append((incident, doubt_of(incident, status, is_fresh=is_fresh, workers=view.workers)))
    warnings = list(view.warnings)
    if reading.unread:
        warnings.append(
            f"Of {settings.topics.alerts} the newest {LOOKED_AT:,} records of partition"
            f"{'' if len(reading.unread) == 1 else 's'} {', '.join(map(str, reading.unread))} could not be read in "
            "time: incidents may be missing here, or be over."
        )
    return replace(view, incidents=grouped(found), warnings=warnings)


class _Relay:
    """Looks at the relay, if there is one: now, and again at the end, since what matters is what moves.

    What goes wrong with it is a warning: all else is shown as ever.
    """

    def __init__(self, cluster: Cluster, settings: Settings, events: TopicFacts) -> None:
        self._cluster = cluster
        self._settings = settings
        self._events = events
        self._problem = ""
        self._first: Look | None = None
        if settings.relayed_topics:
            try:
                self._sources = sources_of(cluster, settings, events)
                self._first = look_at(cluster, settings, self._sources)
            except EnvironmentRefused as error:
                self._problem = str(error)
        self._looked_at = time.monotonic()

    def seen_in(self, view: StatusView) -> StatusView:
        """The view of the pipeline, with what is known of the relay."""
        first = last = self._first
        relay, between = None, 0.0
        if first is not None and last is not None:
            try:
                if first.relays and any(lag_of(first).values()):
                    time.sleep(max(0.0, self._looked_at + BETWEEN_LOOKS - time.monotonic()))
                    between = time.monotonic() - self._looked_at
                    last = look_at(self._cluster, self._settings, self._sources)
                relay = relay_view(
                    self._settings, self._events, self._sources, first=first, last=last, seconds=between
                )
            except EnvironmentRefused as error:
                self._problem = str(error)
        problem = f"The relay can't be seen: {self._problem}" if self._problem else ""
        said = relay.warning if relay is not None else problem
        return replace(view, relay=relay, warnings=[*view.warnings, *([said] if said else [])])


def _last_records(settings: Settings, bounds: Sequence[Bounds]) -> dict[int, dict[str, Any]]:
    """The last record of each partition of the status topic."""
    topic = settings.topics.status
    filled = {partition: log for partition, log in enumerate(bounds) if log.end > log.first}
    last: dict[int, dict[str, Any]] = {}
    if not filled:
        return last
    read: set[int] = set()
    deadline = time.monotonic() + READ_SECONDS
    with Reader(settings, [(topic, partition) for partition in filled]) as reader:
        for partition, log in filled.items():
            reader.seek(topic, partition, log.end - 1)
        while len(read) < len(filled) and time.monotonic() < deadline:
            for record in reader.poll(0.5):
                read.add(record.partition)
                try:
                    body = orjson.loads(record.value or b"")
                except orjson.JSONDecodeError:
                    continue
                if isinstance(body, dict) and body.get("pipeline") == settings.name:
                    last[record.partition] = body
    return last


def view_of(
    settings: Settings,
    *,
    workers: int,
    commits: Mapping[int, Commit],
    bounds: Sequence[Bounds],
    statuses: Mapping[int, Mapping[str, Any]],
    now: float,
) -> StatusView:
    """Put together what is known; `now` is epoch seconds."""
    views = []
    for partition, log in enumerate(bounds):
        commit = commits.get(partition)
        status = statuses.get(partition, {})
        read = commit.next_offset if commit is not None else log.first
        end, lag = status.get("end"), status.get("lag_records")
        if end is not None and lag is not None:
            # How far the worker's position was: past control records too, which no commit ever reaches.
            read = max(read, end - lag)
        views.append(
            PartitionView(
                partition=partition,
                next_offset=None if commit is None else commit.next_offset,
                lag_records=max(0, log.end - read),
                age_seconds=None if "time" not in status else max(0.0, now - status["time"]),
                status=status,
            )
        )
    return StatusView(
        pipeline=settings.name,
        workers=workers,
        partitions=views,
        totals=_totals(settings, views),
        warnings=list(_warnings(settings, views, workers)),
    )


def _totals(settings: Settings, views: Sequence[PartitionView]) -> dict[str, Any]:
    totals: dict[str, Any] = {"lag_records": sum(view.lag_records for view in views)}
    statuses = [view.status for view in views if view.status]
    for name in SUMS:
        totals[name] = sum(status.get(name, 0) for status in statuses)
    totals["label_health"] = label_health(totals)
    delays = [delay for status in statuses if (delay := status.get("label_delay"))]
    totals["label_delay"] = {
        name: max(delay[name] for delay in delays) for name in ("p50", "p95") if delays
    } or None
    totals["label_delay_histogram"] = add_histograms(
        found for status in statuses if (found := status.get("label_delay_histogram"))
    )
    totals["metrics"] = {
        name: _mean(name, statuses, [status.get("metrics", {}).get(name) for status in statuses])
        | {"is": "mean weighted by events" if METRICS[name].is_mean else "no mean: see each partition"}
        for name in settings.metrics.use
    }
    first = settings.metrics.use[0]
    baselines = dict.fromkeys(name for status in statuses for name in status.get("baselines", {}))
    totals["baselines"] = {
        name: _mean(first, statuses, [status.get("baselines", {}).get(name) for status in statuses])
        for name in baselines
    }
    return totals


def _mean(
    name: str, statuses: Sequence[Mapping[str, Any]], figures: Sequence[Mapping[str, float | None] | None]
) -> dict[str, Any]:
    """The mean of one figure of all partitions, over all events and over the window."""
    scored = [status.get("scored", 0) for status in statuses]
    window = [min(status.get("scored", 0), status.get("window", 0)) for status in statuses]
    return {
        which: weighted_mean(
            name, [((figure or {}).get(which), count) for figure, count in zip(figures, counts, strict=True)]
        )
        for which, counts in (("value", scored), ("window", window))
    }


def _fresh_seconds(settings: Settings) -> float:
    """A status that is older says that nobody writes any more."""
    return max(FRESH_SECONDS, 3 * settings.worker.status_interval_seconds)


def _warnings(settings: Settings, views: Sequence[PartitionView], workers: int) -> Iterable[str]:
    fresh = _fresh_seconds(settings)
    ages = [view.age_seconds for view in views if view.age_seconds is not None]
    if workers == 0:
        yield f"No worker runs now; start one: headrace run {settings.path}"
    elif not ages or min(ages) > fresh:
        yield (
            f"No status within {fresh:.0f} s, though the group has {workers} member{'' if workers == 1 else 's'}: "
            "is a worker starting, or stuck?"
        )
    else:
        old = [view.partition for view in views if view.age_seconds is None or view.age_seconds > fresh]
        if old:
            yield (
                f"No status within {fresh:.0f} s of partition{'' if len(old) == 1 else 's'} "
                f"{', '.join(map(str, old))}: is its worker replaying, or stuck?"
            )


# --- For people ------------------------------------------------------------------------------------------


def tables(settings: Settings, view: StatusView, now: float) -> list[Table]:
    """What `headrace status` prints: where each partition stands, what is open, how labels come, how good it is.

    Args:
        settings: The pipeline's settings.
        view: What is known.
        now: Epoch seconds.
    """
    title = f"{view.pipeline}: {view.workers} worker{'' if view.workers == 1 else 's'}"
    where = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    where.add_column("partition", justify="right")
    for column in ("next offset", "lag", "state", "learned", "dead letters"):
        where.add_column(column, justify="left" if column == "state" else "right")
    where.add_column("last drift")
    where.add_column("status", justify="right")
    for item in view.partitions:
        status = item.status
        where.add_row(
            str(item.partition),
            NOTHING if item.next_offset is None else f"{item.next_offset:,}",
            f"{item.lag_records:,}",
            str(status.get("state", NOTHING)) if view.workers else "no worker",
            *(_count(status.get(name)) for name in ("learned", "dead_letters")),
            _last_drift(status),
            "never" if item.age_seconds is None else f"{_age(item.age_seconds)} ago",
        )
    if len(view.partitions) > 1:
        where.add_section()
        totals = view.totals
        where.add_row(
            "all",
            "",
            f"{totals['lag_records']:,}",
            "",
            *(_count(totals[name]) for name in ("learned", "dead_letters")),
            "",
            "",
        )

    window = next((item.status["window"] for item in view.partitions if "window" in item.status), None)
    good = Table(
        title="metrics" + (f" (in brackets: over the last {window:,} scored)" if window else ""),
        title_justify="left",
        caption=f"baselines are scored by {settings.metrics.use[0]}",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    good.add_column("partition", justify="right")
    good.add_column("scored", justify="right")
    for name in settings.metrics.use:
        good.add_column(name, justify="right")
    baselines = list(
        dict.fromkeys(name for item in view.partitions for name in item.status.get("baselines", {}))
    )
    for name in baselines:
        good.add_column(name.replace("_", "-"), justify="right")
    for item in view.partitions:
        status = item.status
        good.add_row(
            str(item.partition),
            _count(status.get("scored")),
            *(_both(status.get("metrics", {}).get(name)) for name in settings.metrics.use),
            *(_both(status.get("baselines", {}).get(name)) for name in baselines),
        )
    means = [name for name in settings.metrics.use if METRICS[name].is_mean]
    if len(view.partitions) > 1 and means:
        good.add_section()
        good.add_row(
            "mean, weighted by events",
            _count(view.totals["scored"]),
            *(
                _both(view.totals["metrics"][name]) if name in means else "no mean"
                for name in settings.metrics.use
            ),
            *(
                _both(view.totals["baselines"][name]) if settings.metrics.use[0] in means else "no mean"
                for name in baselines
            ),
        )
    # Where each event brings its label there is nothing to say of labels.
    has_labels = any(view.totals[name] for name in LABEL_COUNTS)
    relayed = [] if view.relay is None else [_relay_table(view.relay)]
    opened = [_incident_table(view.incidents, now)] if view.incidents else []
    return [where, *opened, *relayed, *(_label_tables(view) if has_labels else []), good]


def _incident_table(incidents: Sequence[OpenIncident], now: float) -> Table:
    """What is open, the worst first; what may be over, last."""
    table = Table(title="open incidents", title_justify="left", box=SIMPLE_HEAD)
    for column in ("incident", "severity", "partitions"):
        table.add_column(column)
    table.add_column("open for", justify="right")
    table.add_column("what happened, and what to do")
    for item in incidents:
        doubt = f"May be over: {item.doubt}. It said: " if item.doubt else ""
        table.add_row(
            printable(item.incident),
            f"{item.severity}?" if item.doubt else item.severity,
            "all" if item.partitions is None else ranges(item.partitions),
            _age(max(0.0, now - item.since)),
            doubt + printable(item.text),
        )
    return table


def _relay_table(relay: RelayView) -> Table:
    """How far each partition of each topic that is relayed has been brought over."""
    table = Table(
        title=f"relay: {relay.relays or 'none'} running (group {relay.group})",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("from")
    for column in ("next offset", "end", "lag"):
        table.add_column(column, justify="right")
    for item in relay.partitions:
        table.add_row(str(item), _count(item.next_offset), _count(item.end), _count(item.lag_records))
    if len(relay.partitions) > 1:
        table.add_section()
        table.add_row("all", "", "", _count(sum(item.lag_records for item in relay.partitions)))
    return table


def _label_tables(view: StatusView) -> list[Table]:
    """What became of questions and of labels since the origin: two tables, so that a terminal has room for each."""
    questions = Table(
        title="questions and their labels (p50, p95: delay of the last 1,000)",
        title_justify="left",
        caption="coverage: share of those no longer pending whose label came"
        + ("; p50, p95 of all: the longest" if len(view.partitions) > 1 else ""),
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    for column in ("partition", "asked", "joined", "pending", "expired", "coverage", "p50", "p95"):
        questions.add_column(column, justify="right")
    labels = Table(
        title="labels that did not fit (in brackets: share of those that came)",
        title_justify="left",
        caption="a label that came early is joined or unmatched later",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    for column in ("partition", *(name for name, _, _ in LABEL_COLUMNS)):
        labels.add_column(column, justify="right")

    def add(name: str, counts: Mapping[str, Any]) -> None:
        health = label_health(counts)
        delay = counts.get("label_delay") or {}
        questions.add_row(
            name,
            *(_count(counts.get(column)) for column in ("questions", "joined", "pending", "expired")),
            NOTHING if health["coverage"] is None else f"{health['coverage']:.1%}",
            *(_age(delay[which]) if which in delay else NOTHING for which in ("p50", "p95")),
        )
        labels.add_row(
            name, *(_with_share(counts.get(count), health[share]) for _, count, share in LABEL_COLUMNS)
        )

    for item in view.partitions:
        add(str(item.partition), item.status)
    if len(view.partitions) > 1:
        questions.add_section()
        labels.add_section()
        add("all", view.totals)
    return [questions, labels]


def _count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def _with_share(value: int | None, share: float | None) -> str:
    return _count(value) if not value or share is None else f"{value:,} ({share:.1%})"


def _both(figures: Mapping[str, float | None] | None) -> str:
    if not figures or figures.get("value") is None:
        return NOTHING
    window = figures.get("window")
    return f"{figures['value']:.4f}" + ("" if window is None else f" ({window:.4f})")


def _last_drift(status: Mapping[str, Any]) -> str:
    found = [
        (watch["last_drift_at"], watch["watch"], watch["detector"])
        for watch in status.get("drift", ())
        if watch.get("last_drift_at") is not None
    ]
    if not found:
        return "none" if status.get("drift") else NOTHING
    at, watch, detector = max(found)
    return f"@{at} {watch} ({detector})"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
