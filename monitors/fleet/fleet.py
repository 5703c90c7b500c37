"""The state of the control plane: what each pipeline last said, what it said before, and what is open."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args

from monitors.fleet.reading import Unreadable, read_alert, read_status
from monitors.fleet.relay import RelayState, Source, Standing
from monitors.fleet.series import Series
from monitors.labels import LABEL_COUNTS, label_health
from monitors.records import Alert, Figures, Incident, Level, Severity, Status, Task

#: Alerts and incidents of a pipeline that are remembered.
MOST_ALERTS: Final = 5_000
#: Counters of a partition are kept for so long, one in so many seconds, to tell how they grew.
COUNTERS_KEPT_SECONDS: Final = 7_200.0
COUNTERS_STEP_SECONDS: Final = 20.0
#: Watches of a partition whose mean is charted.
MOST_WATCHES: Final = 20
#: Partitions of a pipeline, incidents that are open at once, and names that are counted: more are none of ours.
MOST_PARTITIONS: Final = 2_000
MOST_OPEN: Final = 10_000
MOST_NAMES: Final = 1_000
#: A status from further ahead of its record is refused, as Kafka does with timestamps; seconds.
MOST_AHEAD_SECONDS: Final = 3_600.0
#: Coverage and the other shares of labels are those of what came or was due within so long, seconds.
COVERAGE_SECONDS: Final = 600.0

TopicKind = Literal["status", "alerts"]
Applied = Literal["status", "alert", "incident", "duplicate", "unreadable"]

#: Kinds of alerts, which are counted beside the names of incidents.
_LEVELS: Final = get_args(Level)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineFacts:
    """What the settings say of a pipeline, as far as the control plane wants to know."""

    #: Name of the pipeline.
    name: str
    task: Task
    #: Names of its topics.
    events_topic: str
    alerts_topic: str
    status_topic: str
    dead_letters_topic: str
    #: The learner's name, or where it is built (`module:function`), and its parameters.
    learner: str
    parameters: Mapping[str, object]
    #: Names of its metrics; the first is set beside the baselines.
    metrics: Sequence[str]
    #: Scored predictions that the windowed figures look back on.
    window: int
    #: Drift watches: what is watched, and by which detector.
    watches: Sequence[tuple[str, str]]
    #: Seconds between two status records of a partition.
    status_interval_seconds: float
    #: How the settings file is called, for commands in remedies.
    settings_file: str
    #: Brokers, for people.
    brokers: str
    #: The relay's consumer group, and the topics that it reads; none: there is no relay.
    relay_group: str = ""
    relayed_topics: Sequence[str] = ()

    @property
    def fresh_seconds(self) -> float:
        """A status that is older says that nobody writes any more."""
        return max(30.0, 3 * self.status_interval_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenAlert:
    """An alert or an incident, and where its record lies on the alerts topic."""

    alert: Alert | Incident
    #: Partition and offset on the alerts topic.
    partition: int
    offset: int
    #: Wall clock at which it was seen; of history, the record's timestamp. Epoch seconds.
    seen_at: float

    @property
    def severity(self) -> Severity:
        """How bad it is: a drift is a warning, a detector's warning is good to know."""
        if isinstance(self.alert, Incident):
            return self.alert.severity if self.alert.state == "open" else "info"
        return "warning" if self.alert.kind == "drift" else "info"


class Counters(NamedTuple):
    """A partition's counters at one moment, since the origin."""

    #: Wall clock of the status, epoch seconds.
    time: float
    offset: int
    events: int
    predictions: int
    learned: int
    scored: int
    dead_letters: int
    non_finite: int
    expired: int
    unmatched: int
    questions: int
    joined: int
    late: int
    early: int
    duplicate_labels: int
    conflicting_labels: int
    expired_learned: int
    #: Those that wait now; the only one that falls as well.
    early_waiting: int

    @property
    def labels(self) -> int:
        """Labels that were learned, or where silence is learned as well: those that came, with their event or after."""
        return self.learned if not self.expired_learned else self.predictions - self.questions + self.joined

    @classmethod
    def of(cls, status: Status) -> Counters:
        """Those of a status."""
        return cls(status.time, *(getattr(status, name) for name in cls._fields[1:]))

    def is_ahead_of(self, other: Counters) -> bool:
        """Whether any of it is more than the other's, so that the other can't come after it."""
        return any(own > others for own, others in zip(self[:-1], other[:-1], strict=True))


@dataclass(slots=True)
class PartitionState:
    """What a partition last said, and what it said before."""

    status: Status
    #: When the last status arrived, by this machine's clock; of history, when it was made.
    arrived_at: float
    series: Series = field(default_factory=Series)
    #: Counters over time, oldest first; the last is that of the last live status. A replay does again what was done
    #: before, so it adds none; and when the counters fall, those ahead of them belong to a state that is gone.
    counters: deque[Counters] = field(
        default_factory=lambda: deque(maxlen=int(COUNTERS_KEPT_SECONDS / COUNTERS_STEP_SECONDS))
    )
    #: When `offset` last moved, and when it was seen to have no records left; by the clock of the statuses.
    progressed_at: float = 0.0
    #: When a snapshot last held all that was learned, or was written; without one, and after a silence, when the
    #: first status was made.
    saved_at: float = 0.0
    #: Counters of the first live status that is known of this state, and those with which an event last came, a label
    #: last came and something was last learned, be it from silence. None: that was not seen.
    began: Counters | None = None
    last_event: Counters | None = None
    last_label: Counters | None = None
    last_learned: Counters | None = None

    def grown(self, seconds: float) -> tuple[Counters, Counters]:
        """The counters now, and those of so long ago, or the oldest there are. Equal: nothing live is known yet."""
        if not self.counters:
            counters = Counters.of(self.status)
            return counters, counters
        now = self.counters[-1]
        limit = now.time - seconds
        for counters in reversed(self.counters):
            if counters.time <= limit:
                return now, counters
        return now, self.counters[0]


class PipelineState:
    """What is known of one pipeline.

    Args:
        facts: What its settings say.
    """

    def __init__(self, facts: PipelineFacts) -> None:
        self.facts = facts
        self.partitions: dict[int, PartitionState] = {}
        #: Alerts and incidents, oldest first: of history one partition is read after the other.
        self.alerts: deque[SeenAlert] = deque(maxlen=MOST_ALERTS)
        #: The one that was taken in last.
        self.taken: SeenAlert | None = None
        #: Incidents that are open, by partition (None: the whole pipeline) and name.
        self.open: dict[tuple[int | None, str], SeenAlert] = {}
        #: Drift alerts by kind, incidents that opened by name.
        self.counts: Counter[str] = Counter()
        #: Records that were neither, and what the last one was.
        self.unreadable = 0
        self.last_unreadable = ""
        #: Where its relay stands; None: it has none.
        self.relay = RelayState(facts.relay_group, facts.relayed_topics) if facts.relayed_topics else None
        #: Changes with whatever is applied.
        self.version = 0
        self._next: dict[tuple[TopicKind, int], int] = {}
        self._positions: dict[tuple[object, ...], None] = {}

    def apply(
        self, kind: TopicKind, partition: int, offset: int, value: bytes | None, *, seen_at: float
    ) -> Applied:
        """Take in a record of the status or alerts topic.

        A record that was taken in before is dropped, and so is an alert that is there twice: one of an aborted
        transaction is written again with the same position and bytes.

        Args:
            kind: Which of the two topics.
            partition: The record's partition there.
            offset: The record's offset there.
            value: Its bytes.
            seen_at: Wall clock, epoch seconds; for history, the record's timestamp.
        """
        if offset < self._next.get((kind, partition), 0):
            return "duplicate"
        self._next[(kind, partition)] = offset + 1
        self.version += 1
        try:
            found = read_status(value) if kind == "status" else read_alert(value)
            self._refuse_what_is_not_ours(found, seen_at)
        except Unreadable as error:
            topic = self.facts.status_topic if kind == "status" else self.facts.alerts_topic
            self.unreadable += 1
            self.last_unreadable = f"{topic}[{partition}]@{offset}: {error}"
            return "unreadable"
        if isinstance(found, Status):
            self._take_status(found, seen_at)
            return "status"
        seen = SeenAlert(alert=found, partition=partition, offset=offset, seen_at=seen_at)
        if isinstance(found, Incident):
            return self._take_incident(found, seen)
        return self._take_alert(found, seen)

    def take_relay(self, found: Mapping[Source, Standing] | str, now: float) -> None:
        """Where the relay stands; or why that can't be read, and what to do."""
        if self.relay is None:
            return
        self.version += 1
        if isinstance(found, str):
            self.relay.problem = found
        else:
            self.relay.take(found, now)

    def next_offset(self, kind: TopicKind, partition: int) -> int:
        """The first offset of a topic's partition that has not been taken in."""
        return self._next.get((kind, partition), 0)

    def begin_again(self, kind: TopicKind, partition: int) -> None:
        """The topic was made anew: its offsets start over."""
        self._next.pop((kind, partition), None)

    def _refuse_what_is_not_ours(self, found: Status | Alert | Incident, seen_at: float) -> None:
        """Refuse what no worker of this pipeline writes, and what would take memory without end."""
        if found.pipeline != self.facts.name:
            raise Unreadable(f"it is of pipeline {found.pipeline!r}; expected {self.facts.name!r}")
        if isinstance(found, Status):
            if found.time > seen_at + MOST_AHEAD_SECONDS:
                ahead = found.time - seen_at
                raise Unreadable(
                    f"its time is {ahead:,.0f} s ahead; expected at most {MOST_AHEAD_SECONDS:,.0f} s. Look at the "
                    "clock of its worker"
                )
            if found.partition not in self.partitions and len(self.partitions) >= MOST_PARTITIONS:
                raise Unreadable(f"{MOST_PARTITIONS:,} partitions are known; expected no more")
        elif isinstance(found, Incident):
            which = (found.partition, found.incident)
            if found.incident in _LEVELS:
                raise Unreadable(f"an incident is called {found.incident!r}, as alerts are")
            if found.state == "open" and which not in self.open and len(self.open) >= MOST_OPEN:
                raise Unreadable(f"{MOST_OPEN:,} incidents are open; expected no more")

    def _take_status(self, status: Status, seen_at: float) -> None:
        item = self.partitions.get(status.partition)
        snapshot = status.snapshot
        if item is None:
            item = self.partitions[status.partition] = PartitionState(status, seen_at)
            item.progressed_at = status.time
            item.saved_at = status.time if snapshot is None else min(snapshot.time, status.time)
        before = item.status
        if status.offset != before.offset or status.lag_records == 0:
            item.progressed_at = status.time
        if snapshot is not None:
            item.saved_at = max(item.saved_at, min(snapshot.time, status.time))
        if status.time - before.time > self.facts.fresh_seconds or (
            snapshot is not None and status.offset <= snapshot.offset
        ):
            item.saved_at = status.time
        item.status, item.arrived_at = status, seen_at
        if status.state == "live":
            _count(item, Counters.of(status))
        item.series.add(status.time, _figures(status, item))

    def _take_alert(self, alert: Alert, seen: SeenAlert) -> Applied:
        position = (alert.partition, alert.offset, alert.watch, alert.detector, alert.kind)
        if position in self._positions:
            return "duplicate"
        self._positions[position] = None
        if len(self._positions) > 2 * MOST_ALERTS:
            del self._positions[next(iter(self._positions))]
        self.counts[alert.kind] += 1
        self._remember(seen)
        return "alert"

    def _take_incident(self, incident: Incident, seen: SeenAlert) -> Applied:
        which = (incident.partition, incident.incident)
        if incident.state == "open":
            if which in self.open:
                return "duplicate"
            self.open[which] = seen
            if incident.incident in self.counts or len(self.counts) < MOST_NAMES:
                self.counts[incident.incident] += 1
        elif self.open.pop(which, None) is None:
            return "duplicate"
        self._remember(seen)
        return "incident"

    def _remember(self, seen: SeenAlert) -> None:
        self.taken = seen
        alerts = self.alerts
        if not alerts or seen.seen_at >= alerts[-1].seen_at:
            alerts.append(seen)
            return
        if len(alerts) == alerts.maxlen:
            if seen.seen_at <= alerts[0].seen_at:
                return
            alerts.popleft()
        alerts.insert(bisect_right(alerts, seen.seen_at, key=lambda other: other.seen_at), seen)


def _count(item: PartitionState, counters: Counters) -> None:
    """Keep the counters of a live status, and what grew with it."""
    kept = item.counters
    while kept and kept[-1].is_ahead_of(counters):
        kept.pop()
    if item.began is None or item.began.is_ahead_of(counters):
        item.began, item.last_event, item.last_label, item.last_learned = counters, None, None, None
    event, learned = item.last_event or item.began, item.last_learned or item.began
    label = item.last_label or item.began
    if counters.events > event.events or event.is_ahead_of(counters):
        item.last_event = counters
    if counters.learned > learned.learned or learned.is_ahead_of(counters):
        item.last_learned = counters
    # One that is scored has come too, though the learner raised on it.
    is_scored = counters.scored > label.scored and not counters.expired_learned
    if counters.labels > label.labels or is_scored or label.is_ahead_of(counters):
        item.last_label = counters
    if len(kept) > 1 and kept[-1].time - kept[-2].time < COUNTERS_STEP_SECONDS:
        kept[-1] = counters
    else:
        kept.append(counters)


def _figures(status: Status, item: PartitionState) -> dict[str, float | None]:
    """The columns of a status for the charts."""
    now, before = item.grown(COVERAGE_SECONDS)
    grown = {name: getattr(now, name) - getattr(before, name) for name in LABEL_COUNTS if name in now._fields}
    health = label_health(grown)
    found: dict[str, float | None] = {
        # With its own time: a cell's is where it begins.
        "time": status.time,
        "offset": float(status.offset),
        "rate": status.rate,
        "lag_records": None if status.lag_records is None else float(status.lag_records),
        "scored": float(status.scored),
        "pending": float(status.pending),
        "dead_letters": float(status.dead_letters),
        "coverage": health["coverage"],
        **{f"{name}_share": health[name] for name in ("early", "late", "unmatched", "conflicting")},
        "label_delay_p50": (status.label_delay or {}).get("p50"),
        "label_delay_p95": (status.label_delay or {}).get("p95"),
        "predict_seconds": (status.learner_seconds or {}).get("predict"),
        "learn_seconds": (status.learner_seconds or {}).get("learn"),
        "snapshot_bytes": None if status.snapshot is None else float(status.snapshot.bytes),
    }
    for figures in (status.metrics, status.baselines):
        found |= _both(figures)
    for watch in list(status.drift)[:MOST_WATCHES]:
        mean = watch.get("mean_now")
        if isinstance(mean, (int, float)) and not isinstance(mean, bool):
            found[f"watch {watch.get('watch')} {watch.get('detector')}"] = float(mean)
    return found


def _both(figures: Figures) -> dict[str, float | None]:
    return {f"{name} {over}": value for name, both in figures.items() for over, value in both.items()}


class Fleet:
    """All pipelines that a control plane watches.

    Args:
        pipelines: What their settings say; no name twice.
    """

    def __init__(self, pipelines: Sequence[PipelineFacts]) -> None:
        self.pipelines = {facts.name: PipelineState(facts) for facts in pipelines}
        if len(self.pipelines) < len(pipelines):
            raise ValueError("a pipeline is given twice; expected each name once")

    @property
    def version(self) -> int:
        """Changes with whatever is applied to any pipeline."""
        return sum(state.version for state in self.pipelines.values())
