"""Watchdogs: what is wrong with a pipeline although no worker says so. Pure: `now` is an argument.

`Watchdog` is the list; docs/reference/watchdogs.md is written from it. What is open lies on the alerts topic, so
`Watchdogs` needs no memory of its own to go on after a restart: only of how long a condition holds, and of what it
has said and not yet seen there.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum, unique
from typing import Final, Literal, NamedTuple

import numpy as np

from monitors.fleet.fleet import COVERAGE_SECONDS, Counters, PartitionState, PipelineFacts, PipelineState
from monitors.prequential import METRICS
from monitors.records import Incident, Severity, Status, Task

#: Who says it, on the alerts topic.
WORKER: Final = "monitor"
#: A condition must hold for so long before an incident opens, and be over for so long before it closes, seconds,
#: unless the watchdog has a time of its own.
SETTLED_SECONDS: Final = 30.0
#: What was said and is not back from the alerts topic after so long is said again, seconds.
REPEAT_SECONDS: Final = 30.0
#: Nothing is judged so soon after the monitor began or was away, seconds; longer where `worker-gone` waits longer.
GRACE_SECONDS: Final = 60.0
#: A pause between two looks that counts as having been away, seconds: a suspended machine says nothing of it.
AWAY_SECONDS: Final = 120.0
#: An incident closes when the figure is this share of the bound, or less.
CLEAR_SHARE: Final = 0.8
#: Fewer than this are no evidence: predictions without a label, labels without learning, dead letters, due labels.
LEAST: Final = 20
#: Dead letters are counted over so long, seconds.
DEAD_LETTERS_SECONDS: Final = 300.0
#: Coverage is set beside that of so long before, seconds.
COVERAGE_BEFORE_SECONDS: Final = 3_600.0
#: A class that so many of the labels are is rightly predicted all the time.
COMMON_SHARE: Final = 0.9
#: How improbable a fall of the coverage must be by chance, standard deviations.
DEVIATIONS: Final = 3.0
#: Longest text of an incident, longest name in it, and longest path in a command, characters.
MOST_TEXT: Final = 700
MOST_NAME: Final = 100
MOST_PATH: Final = 250

Key = tuple[int | None, str]
"""Partition (None: the whole pipeline) and name, as in `PipelineState.open`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """When a watchdog barks. 0 switches it off.

    Raises:
        ValueError: A bound is negative, not finite, or a share above 1.
    """

    #: `worker-gone`: seconds without a status of a partition; at least 30, and three status intervals.
    worker_seconds: float = 60.0
    #: `no-progress`: seconds in which a partition with records to read processes none.
    progress_seconds: float = 300.0
    #: `lag`: records behind the end of a partition.
    lag_records: int = 100_000
    #: `no-events`: seconds without any event, where there were some before.
    events_seconds: float = 3_600.0
    #: `no-labels`: seconds without a label, while predictions go on; at least twice the usual label delay (p95).
    labels_seconds: float = 3_600.0
    #: `relay-behind`: seconds that the next record to be relayed has waited.
    relay_seconds: float = 300.0
    #: `coverage-falls`: share of what the coverage was in the hour before; over ten minutes.
    coverage_share: float = 0.5
    #: `worse-than-baseline`: seconds for which the first metric's window is worse than that of no-change.
    baseline_seconds: float = 600.0
    #: `learns-nothing`: seconds without anything learned, while labels come.
    learn_seconds: float = 600.0
    #: `dead-letters`: dead letters, as a share of the events over five minutes.
    dead_letter_share: float = 0.05
    #: `snapshot-old`: seconds for which a partition goes on without a new snapshot.
    snapshot_age_seconds: float = 3_600.0
    #: `one-class`: share of the window's predictions that are the same class.
    one_class_share: float = 0.99
    #: `not-a-number`: seconds that a prediction which was NaN or infinite is told of.
    non_finite_seconds: float = 600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            most = 1.0 if field.name.endswith("_share") else math.inf
            if not (0 <= value <= most and math.isfinite(value)):
                expected = "a number from 0 to 1" if most == 1.0 else "a number >= 0"
                raise ValueError(f"{field.name} is {value}; expected {expected}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogSpec:
    """A watchdog: one name, one meaning."""

    #: Name of its incidents.
    name: str
    #: How bad it is when it barks.
    severity: Severity
    #: Its bound: the field of `Bounds`, and the setting.
    bound: str
    #: What it watches.
    of: Literal["partition", "pipeline"] = "partition"
    #: Its condition looks back on a time of its own, so it opens at once.
    looks_back: bool = True
    #: Its condition must hold for the bound, in seconds, and be over for as long.
    holds_for_bound: bool = False
    #: Tasks that it fits.
    tasks: tuple[Task, ...] = ("binary", "multiclass", "regression")
    #: When it barks, in a sentence or two.
    meaning: str
    #: When it falls silent again.
    over: str
    #: What to do.
    remedy: str


@unique
class Watchdog(Enum):
    """Every watchdog, in the order of the reference page.

    Example:
        >>> Watchdog.LAG.value.name, Watchdog.LAG.value.severity
        ('lag', 'warning')
    """

    WORKER_GONE = WatchdogSpec(
        name="worker-gone",
        severity="critical",
        bound="worker_seconds",
        meaning="A partition that had a worker has sent no status for so long: its worker has died, hangs, was "
        "stopped, or waits for the snapshot store, and no other has taken over. A pipeline of which nothing was ever "
        "heard is not told of: it has not been started, which is no fault.",
        over="A status has come.",
        remedy="Start a worker: `headrace run SETTINGS`. The last line on standard error of the one that ended says "
        "why. One that still runs hangs in the learner, on the disk or on the broker: `/healthz` says more. For a "
        "pipeline that is meant to end, as with `--stop-at-end`, switch it off.",
    )
    NO_PROGRESS = WatchdogSpec(
        name="no-progress",
        severity="critical",
        bound="progress_seconds",
        meaning="A partition has records to read, and its worker lives and has processed none of them for so long.",
        over="It processes records again, or there are none left.",
        remedy="The worker's log says what it waits for: the broker, the snapshot store, an event on which the learner "
        "does not end. Then restart it: nothing is lost.",
    )
    LAG = WatchdogSpec(
        name="lag",
        severity="warning",
        bound="lag_records",
        looks_back=False,
        meaning="A partition is more than so many records behind its end.",
        over="The lag is below 0.8 of the bound.",
        remedy="More comes in than is learned: add workers, up to one for each partition "
        "(`headrace run SETTINGS --workers=4`), or take a cheaper learner. A worker that began at an old offset "
        "catches up by itself.",
    )
    NO_EVENTS = WatchdogSpec(
        name="no-events",
        severity="info",
        bound="events_seconds",
        of="pipeline",
        meaning="No event has come on any partition for so long, though some came before and all that is there was "
        "read. Only good to know: a quiet night and a stream that has ended look the same as a dead producer. It is "
        "told once.",
        over="Events come again.",
        remedy="Look whether the producer still runs, and writes to this topic and cluster. If quiet hours are usual, "
        "raise the bound.",
    )
    NO_LABELS = WatchdogSpec(
        name="no-labels",
        severity="warning",
        bound="labels_seconds",
        meaning="Predictions go on (at least 20), and for so long no label has come for any of them; at least twice "
        "the usual label delay (p95). While none has ever come, it waits until the first predictions have expired. "
        "With `[labels] silence`, what is learned from silence is no label, and at least 20 must have been due by the "
        "share that usually comes.",
        over="A label has come.",
        remedy="Look whether labels are produced, on the events topic, with the question's id and key. Those of "
        "unknown ids are counted as early at first, then as unmatched: `headrace status SETTINGS`. If labels come once "
        "a day, raise the bound.",
    )
    RELAY_BEHIND = WatchdogSpec(
        name="relay-behind",
        severity="warning",
        bound="relay_seconds",
        of="pipeline",
        meaning="In a topic that the relay reads (`[labels] topic`, `[relay] events`) a record has waited for so long "
        "to be relayed: no relay runs, it stands still, or more comes than it brings over. Told by the offsets of the "
        "relay's group and the ends of its topics, so of a dead relay too. A monitor that has just begun counts from "
        "then. Nothing is told without a relay, nor while these offsets can't be read.",
        over="What waits was written within 0.8 of that time, or nothing waits.",
        remedy="`headrace status SETTINGS` says whether a relay runs and where it stands; its log says why it ended. "
        "`headrace run SETTINGS` starts it beside the workers, `headrace relay SETTINGS` alone. If its place is lost, "
        "it says how to go on. One that catches up by itself needs nothing.",
    )
    COVERAGE = WatchdogSpec(
        name="coverage-falls",
        severity="warning",
        bound="coverage_share",
        meaning="Of the predictions whose wait ended in the last ten minutes (at least 20), the share that got its "
        "label is less than so much of what it was in the hour before, and by more than chance. Without questions "
        "there is no coverage, and nothing is told.",
        over="Coverage is back to nine tenths of what it was.",
        remedy="Labels come too late or without the right id: compare the label delay with `[labels] "
        "expire_after_seconds`, and look at late and unmatched labels: `headrace status SETTINGS`.",
    )
    BASELINE = WatchdogSpec(
        name="worse-than-baseline",
        severity="warning",
        bound="baseline_seconds",
        holds_for_bound=True,
        meaning="Over its window, once that is full, and for so long, the first metric is worse than that of "
        "no-change, which only repeats the label before. Told only while predictions are scored.",
        over="It is as good as no-change, or better, for as long.",
        remedy="Look for drift and for features that changed. If it stays, try another learner on a file "
        "(`headrace backtest SETTINGS FILE`), then `headrace rebuild SETTINGS`.",
    )
    LEARNS_NOTHING = WatchdogSpec(
        name="learns-nothing",
        severity="warning",
        bound="learn_seconds",
        meaning="Labels come (at least 20 predictions were scored), and for so long the learner has learned none.",
        over="It has learned one.",
        remedy="It raises on each: `headrace dead-letters list SETTINGS --stage=learn` says what. Mend the learner, "
        "then `headrace rebuild SETTINGS`.",
    )
    DEAD_LETTERS = WatchdogSpec(
        name="dead-letters",
        severity="warning",
        bound="dead_letter_share",
        meaning="Within five minutes there were at least 20 dead letters, and more than this share of the events.",
        over="The share is below 0.8 of the bound, or there are fewer than 20.",
        remedy="`headrace dead-letters list SETTINGS` says why. Stage `decode`: mend the producer or `[event]`; "
        "others: the learner. Then `headrace dead-letters replay SETTINGS`.",
    )
    SNAPSHOT_OLD = WatchdogSpec(
        name="snapshot-old",
        severity="warning",
        bound="snapshot_age_seconds",
        meaning="A partition has learned for so long without a new snapshot, so a restart would take long. At least "
        "three times `[snapshots] interval_seconds`; nothing is told with `[snapshots] enabled = false`.",
        over="There is a newer snapshot.",
        remedy="An incident or the worker's log says what is wrong with the store, such as a full disk. Then "
        "`headrace snapshots list SETTINGS`.",
    )
    ONE_CLASS = WatchdogSpec(
        name="one-class",
        severity="warning",
        bound="one_class_share",
        looks_back=False,
        tasks=("binary", "multiclass"),
        meaning="In a window that is at least half full, at least this share of the predictions are one class, and at "
        "most 0.9 of the labels.",
        over="Other classes are predicted clearly more often, or the labels are of that class too.",
        remedy="The learner has collapsed: look for a feature that went missing or changed its scale. Then "
        "`headrace rebuild SETTINGS`, with another learner or smaller steps.",
    )
    NOT_A_NUMBER = WatchdogSpec(
        name="not-a-number",
        severity="critical",
        bound="non_finite_seconds",
        meaning="Within so long (two hours at most) a predicted number or score was NaN or infinite, and was written "
        "as null.",
        over="There was none for so long.",
        remedy="The model has diverged: scale the features, lower the learning rate, then `headrace rebuild SETTINGS`.",
    )


_NAMES: Final = frozenset(dog.value.name for dog in Watchdog)
_GONE: Final = Watchdog.WORKER_GONE.value.name
_COVERAGE: Final = Watchdog.COVERAGE.value.name


class Verdict(NamedTuple):
    """What a watchdog finds: it holds, it is over, or (None) neither is clear and all stays as it is."""

    holds: bool | None
    #: Got versus expected, a clause.
    found: str = ""
    #: What to do, a sentence.
    remedy: str = ""


UNCLEAR: Final = Verdict(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What the watchdog of a partition looks at."""

    bounds: Bounds
    facts: PipelineFacts
    item: PartitionState
    now: float
    #: What the coverage was before it fell, while that is open, as far as it is known.
    reference: float | None
    #: Names of the incidents of its workers that are open.
    told: Sequence[str] = ()

    @property
    def status(self) -> Status:
        return self.item.status

    @property
    def settings(self) -> str:
        return _short(shlex.quote(self.facts.settings_file), MOST_PATH)


class _Judged(NamedTuple):
    """What a watchdog finds of a partition, or of the pipeline."""

    spec: WatchdogSpec
    partition: int | None
    #: Next offset; 0 for the pipeline.
    offset: int
    verdict: Verdict


class _Said(NamedTuple):
    """What was said and is not yet seen on the alerts topic."""

    incident: Incident
    at: float


class Watchdogs:
    """The watchdogs of one pipeline.

    Ask them every few seconds while the pipeline's state is up to date. What they say goes to the alerts topic and
    comes back from there into the state; until then it counts as said, and after `REPEAT_SECONDS` it is said again,
    the same record.

    Only what is fresh is judged: of a partition without a recent status only `worker-gone` is told, and all else
    stays as it was.

    Args:
        bounds: When they bark.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._began = -math.inf
        self._looked = -math.inf
        self._said: dict[Key, _Said] = {}
        #: Since when it is time to change what is open, by the clock of the looks.
        self._since: dict[Key, float] = {}
        #: Coverage before it fell.
        self._references: dict[Key, float] = {}

    def began(self, now: float) -> None:
        """The monitor begins, with what it has read up to now: nothing is judged before it has heard for a while."""
        self._began = now
        self._looked = now
        self._since.clear()
        self._said.clear()  # what arrived has been read, and what has not is judged anew

    def resumed(self, now: float) -> None:
        """The monitor was away from the brokers and is back: a worker's silence was its own."""
        self.began(now)

    def look(self, pipeline: PipelineState, now: float) -> list[Incident]:
        """What opens and closes now, in a fixed order.

        Args:
            pipeline: What is known of the pipeline, up to date.
            now: Wall clock, epoch seconds.
        """
        if not 0 <= now - self._looked <= AWAY_SECONDS:
            self.began(now)
        self._looked = now
        self._confirm(pipeline)
        found = self._again(now)
        grace = max(GRACE_SECONDS, self._bounds.worker_seconds, pipeline.facts.fresh_seconds)
        if now - self._began < grace:
            return found
        watching = [
            watchdog.value
            for watchdog in Watchdog
            if getattr(self._bounds, watchdog.value.bound) > 0 and pipeline.facts.task in watchdog.value.tasks
        ]
        for judged in self._judge(pipeline, watching, now):
            state = self._settled(pipeline, judged, now)
            if state is not None:
                found.append(self._say(pipeline.facts, judged, state, now))
        found += self._close_all_but(watching, pipeline, now)
        found += self._close_what_is_forgotten(pipeline, now)
        return found

    # What was said ----------------------------------------------------------------------------------------------

    def _confirm(self, pipeline: PipelineState) -> None:
        for key, said in list(self._said.items()):
            if (key in pipeline.open) == (said.incident.state == "open"):
                del self._said[key]

    def _again(self, now: float) -> list[Incident]:
        late = {key: said for key, said in self._said.items() if now - said.at >= REPEAT_SECONDS}
        self._said |= {key: _Said(said.incident, now) for key, said in late.items()}
        return [said.incident for said in late.values()]

    def _is_open(self, pipeline: PipelineState, key: Key) -> bool:
        said = self._said.get(key)
        return key in pipeline.open if said is None else said.incident.state == "open"

    def _say(
        self, facts: PipelineFacts, judged: _Judged, state: Literal["open", "closed"], now: float
    ) -> Incident:
        _, found, remedy = judged.verdict
        topic = facts.events_topic
        place = topic if judged.partition is None else f"{topic}[{judged.partition}]@{judged.offset}"
        return self._remember(
            Incident(
                pipeline=facts.name,
                partition=judged.partition,
                offset=judged.offset,
                incident=judged.spec.name,
                state=state,
                severity=judged.spec.severity,
                text=_short(f"{place}: {found}.{f' {remedy}' if state == 'open' else ''}", MOST_TEXT),
                worker=WORKER,
                time=now,
            )
        )

    def _remember(self, incident: Incident) -> Incident:
        key = incident.partition, incident.incident
        self._since.pop(key, None)
        self._said[key] = _Said(incident, incident.time)
        return incident

    def _close_all_but(
        self, watching: Sequence[WatchdogSpec], pipeline: PipelineState, now: float
    ) -> list[Incident]:
        """Close what a monitor opened by a watchdog that is off now, or that this monitor does not have."""
        watched = {spec.name for spec in watching}
        text = f"{pipeline.facts.events_topic}: this is no longer watched."
        return [
            self._remember(replace(seen.alert, state="closed", text=text, time=now))
            for key, seen in pipeline.open.items()
            if isinstance(seen.alert, Incident)
            and seen.alert.worker == WORKER
            and key[1] not in watched
            and key not in self._said
        ]

    def _close_what_is_forgotten(self, pipeline: PipelineState, now: float) -> list[Incident]:
        """Close what a worker opened and no longer tells of: it was killed, and its successor knows nothing of it."""
        found = []
        for key, seen in pipeline.open.items():
            item = None if key[0] is None else pipeline.partitions.get(key[0])
            opened = seen.alert
            if item is None or not isinstance(opened, Incident) or key in self._said:
                continue
            is_relays = opened.worker.startswith(
                f"{pipeline.facts.name}.relay-"
            )  # which writes no such status
            if opened.worker == WORKER or key[1] in _NAMES or is_relays:
                continue
            status, fresh = item.status, now - item.arrived_at <= pipeline.facts.fresh_seconds
            told = status.incidents
            if (
                not fresh
                or status.state != "live"
                or told is None
                or key[1] in told
                or status.time <= opened.time
            ):
                self._since.pop(key, None)
            elif now - self._since.setdefault(key, now) >= SETTLED_SECONDS:
                place = f"{pipeline.facts.events_topic}[{key[0]}]@{status.offset}"
                text = f"{place}: worker {_short(status.worker)} no longer tells of it."
                closed = replace(
                    opened, state="closed", offset=status.offset, text=text, worker=WORKER, time=now
                )
                found.append(self._remember(closed))
        return found

    # What is so -------------------------------------------------------------------------------------------------

    def _judge(
        self, pipeline: PipelineState, watching: Sequence[WatchdogSpec], now: float
    ) -> Iterator[_Judged]:
        """What each watchdog finds, of all that is fresh."""
        facts = pipeline.facts
        partitions = sorted(pipeline.partitions.items())
        for spec in watching:
            if spec.of == "pipeline":
                yield _Judged(spec, None, 0, _PIPELINE_JUDGES[spec.name](pipeline, self._bounds, now))
                continue
            judge = _JUDGES[spec.name]
            for partition, item in partitions:
                key = partition, spec.name
                if spec.name != _GONE and now - item.arrived_at > facts.fresh_seconds:
                    self._since.pop(key, None)
                    continue
                if not self._is_open(pipeline, key):
                    self._references.pop(key, None)
                elif spec.name == _COVERAGE and key not in self._references and key in pipeline.open:
                    before = _coverage_before(item, pipeline.open[key].alert.time)
                    if before is not None:  # another monitor opened it, which knew what it had been
                        self._references[key] = before
                reference = self._references.get(key)
                view = _View(
                    bounds=self._bounds,
                    facts=facts,
                    item=item,
                    now=now,
                    reference=reference,
                    told=_told_by_workers(pipeline, partition) if spec.name == _GONE else (),
                )
                verdict = judge(view)
                if verdict.holds and reference is None and spec.name == _COVERAGE:
                    # Later the hour before would be one of low coverage.
                    self._references[key] = _coverages(item)[1].share
                yield _Judged(spec, partition, item.status.offset, verdict)

    def _settled(
        self, pipeline: PipelineState, judged: _Judged, now: float
    ) -> Literal["open", "closed"] | None:
        """Whether it is time to open or to close: what speaks for it has held long enough."""
        key = judged.partition, judged.spec.name
        is_open, holds = self._is_open(pipeline, key), judged.verdict.holds
        if holds is None or holds == is_open:
            self._since.pop(key, None)
            return None
        since = self._since.setdefault(key, now)
        if now - since < self._settles_after(judged.spec, opens=not is_open):
            return None
        return "closed" if is_open else "open"

    def _settles_after(self, spec: WatchdogSpec, *, opens: bool) -> float:
        if spec.holds_for_bound:
            return float(getattr(self._bounds, spec.bound))
        return 0.0 if opens and spec.looks_back else SETTLED_SECONDS


def _told_by_workers(pipeline: PipelineState, partition: int) -> Sequence[str]:
    return sorted(
        name
        for (of, name), seen in pipeline.open.items()
        if of == partition and isinstance(seen.alert, Incident) and seen.alert.worker != WORKER
    )


# --- Judges ----------------------------------------------------------------------------------------------


def _worker_gone(view: _View) -> Verdict:
    silent = view.now - view.item.arrived_at
    most = max(view.bounds.worker_seconds, view.facts.fresh_seconds)
    worker = _short(view.status.worker)
    if silent < most:
        return Verdict(False if silent <= view.facts.fresh_seconds else None, f"worker {worker} reports")
    return Verdict(
        True,
        f"no status for {_time(silent)} (expected one within {_time(most)}), the last from worker {worker}",
        # One that waits for the snapshot store lives and sends none.
        f"A worker may live and wait: see {_short(', '.join(view.told))}. If none runs: headrace run {view.settings}"
        if view.told
        else f"Its last line on standard error says why. Start one: headrace run {view.settings}",
    )


def _no_progress(view: _View) -> Verdict:
    status = view.status
    still = status.time - view.item.progressed_at
    if not status.lag_records:
        return Verdict(False, "all records are processed") if status.lag_records == 0 else UNCLEAR
    most = view.bounds.progress_seconds
    if still < most:
        return Verdict(False if still < CLEAR_SHARE * most else None, "records are processed")
    return Verdict(
        True,
        f"no record processed for {_time(still)} while {_count(status.lag_records, 'record')} wait "
        f"(expected one within {_time(most)})",
        f"See the log of worker {_short(status.worker)} for what it waits for, then restart it.",
    )


def _lag(view: _View) -> Verdict:
    lag, most = view.status.lag_records, view.bounds.lag_records
    if lag is None:
        return UNCLEAR
    if lag > most:
        return Verdict(
            True,
            f"{lag:,} records behind (expected at most {most:,})",
            f"Add workers, up to one for each partition: headrace run {view.settings} --workers N",
        )
    return Verdict(False if lag <= CLEAR_SHARE * most else None, f"{lag:,} records behind (at most {most:,})")


def _no_events(pipeline: PipelineState, bounds: Bounds, now: float) -> Verdict:
    facts = pipeline.facts
    items = list(pipeline.partitions.values())
    live = [
        (item, item.began)
        for item in items
        if now - item.arrived_at <= facts.fresh_seconds and item.status.state == "live" and item.began
    ]
    most = bounds.events_seconds
    if any(
        item.last_event and item.status.time - item.last_event.time < CLEAR_SHARE * most for item, _ in live
    ):
        return Verdict(False, "events come")
    # Records that wait to be read may be events; and a partition that is not heard of may have some.
    is_sure = len(live) == len(items) and not any(item.status.lag_records for item in items)
    if not is_sure or not any(item.status.events for item in items):
        return UNCLEAR
    quiet = min(item.status.time - (item.last_event or began).time for item, began in live)
    if quiet < most:
        return UNCLEAR
    return Verdict(
        True,
        f"no event for {_time(quiet)} (expected one within {_time(most)}), and all records are read",
        f"Look whether the producer still writes to this topic at {_short(facts.brokers)}.",
    )


def _relay_behind(pipeline: PipelineState, bounds: Bounds, now: float) -> Verdict:
    relay, most = pipeline.relay, bounds.relay_seconds
    if relay is None:
        return Verdict(False, "nothing is relayed")
    if not relay.is_fresh(now):
        return UNCLEAR
    behind = relay.behind()
    waited = behind[0][1].waited_seconds(now) if behind else 0.0
    if waited < most:
        return Verdict(False if waited < CLEAR_SHARE * most else None, "what waited was relayed")
    source, item = behind[0]
    late = sum(other.waited_seconds(now) >= most for _, other in behind) - 1
    place = f"{_short(source.topic)}[{source.partition}]"
    others = f" (and {_count(late, 'partition')} more)" if late else ""
    settings = _short(shlex.quote(pipeline.facts.settings_file), MOST_PATH)
    still = now - item.progressed_at
    if still >= most:
        return Verdict(
            True,
            f"nothing was relayed from {place}{others} for {_time(still)} while "
            f"{_count(item.lag_records, 'record')} wait (expected one within {_time(most)})",
            f"Is a relay running, and what does its log say? See headrace status {settings}; start one: headrace run "
            f"{settings} or, without workers, headrace relay {settings}",
        )
    return Verdict(
        True,
        f"the relay is behind: {_count(item.lag_records, 'record')} of {place}{others} wait, the next one for "
        f"{_time(waited)} (expected at most {_time(most)})",
        "It catches up by itself, unless more comes than it brings over or the broker is slow: see headrace status "
        f"{settings}",
    )


def _no_labels(view: _View) -> Verdict:
    item, now = view.item, Counters.of(view.status)
    if view.status.state != "live" or item.began is None:
        return UNCLEAR
    last = item.last_label or item.began
    silent = now.time - last.time
    most = max(view.bounds.labels_seconds, 2 * (view.status.label_delay or {}).get("p95", 0.0))
    if item.last_label is not None and silent < CLEAR_SHARE * most:
        return Verdict(False, "labels come")
    unlabelled = now.predictions - last.predictions
    # Where silence means a label few predictions get another one.
    usual = now.joined / (now.joined + now.expired) if now.expired_learned else 1.0
    if silent < most or unlabelled * usual < LEAST:
        return UNCLEAR
    if item.last_event is None or now.time - item.last_event.time > most / 2:
        return UNCLEAR  # predictions do not go on
    if now.learned == 0 and now.expired == 0:
        return UNCLEAR  # the first label may not be due yet
    return Verdict(
        True,
        f"no label for {_time(silent)} while {_count(unlabelled, 'prediction')} were made (expected one within "
        f"{_time(most)})",
        "Look whether labels are produced, with the ids and keys of their questions; what matches none is counted in "
        f"headrace status {view.settings}",
    )


class _Coverage(NamedTuple):
    """How many of the predictions that were due got their label."""

    joined: int
    due: int

    @property
    def share(self) -> float:
        return self.joined / self.due if self.due > 0 else 0.0


def _coverages(item: PartitionState) -> tuple[_Coverage, _Coverage]:
    """The coverage of the last ten minutes, and of the hour before."""
    now, then = item.grown(COVERAGE_SECONDS)
    _, before = item.grown(COVERAGE_SECONDS + COVERAGE_BEFORE_SECONDS)

    def coverage(until: Counters, since: Counters) -> _Coverage:
        joined, expired = until.joined - since.joined, until.expired - since.expired
        return _Coverage(joined, joined + expired)

    return coverage(now, then), coverage(then, before)


def _coverage_before(item: PartitionState, opened_at: float) -> float | None:
    """The coverage of the hour before it fell, as the charts have it. None: they don't."""
    until = opened_at - COVERAGE_SECONDS
    since = until - COVERAGE_BEFORE_SECONDS
    _, figures = item.series.read(["coverage"], since=since, until=until, step_seconds=60.0)
    known = figures[~np.isnan(figures)]
    return float(known.mean()) if known.size else None


def _coverage(view: _View) -> Verdict:
    now, before = _coverages(view.item)
    reference = view.reference
    if reference is None and before.due >= LEAST:
        reference = before.share
    if view.status.state != "live" or now.due < LEAST or reference is None:
        return UNCLEAR
    found = (
        f"{_share(now.share)} of the predictions due within ten minutes got their label "
        f"({_share(reference)} before)"
    )
    by_chance = DEVIATIONS * math.sqrt(now.due * reference * (1 - reference))
    if now.share < view.bounds.coverage_share * reference and now.joined + by_chance < now.due * reference:
        return Verdict(
            True,
            found,
            "Compare the label delay with [labels] expire_after_seconds, and look at late and unmatched labels: "
            f"headrace status {view.settings}",
        )
    return Verdict(False if now.share >= 0.9 * reference else None, found)


def _worse_than_baseline(view: _View) -> Verdict:
    status = view.status
    metric = view.facts.metrics[0]
    window = status.metrics.get(metric, {}).get("window")
    baseline = status.baselines.get("no_change", {}).get("window")
    now, before = view.item.grown(view.bounds.baseline_seconds)
    if status.state != "live" or window is None or baseline is None or metric not in METRICS:
        return UNCLEAR
    if status.scored < status.window or now.scored <= before.scored:
        return UNCLEAR
    compared = f"{metric} is {window:.4g} over the last {status.window:,} labels (no-change: {baseline:.4g})"
    if window == baseline or (window > baseline) == METRICS[metric].higher_is_better:
        return Verdict(False, compared)
    return Verdict(
        True,
        f"{compared}, and has been worse for {_time(view.bounds.baseline_seconds)}",
        f"Look for drift; if it stays, try another learner and learn anew: headrace rebuild {view.settings}",
    )


def _learns_nothing(view: _View) -> Verdict:
    item, now = view.item, Counters.of(view.status)
    if view.status.state != "live" or item.began is None:
        return UNCLEAR
    last = item.last_learned or item.began
    idle, most = now.time - last.time, view.bounds.learn_seconds
    labels = now.scored - last.scored
    if item.last_learned is not None and idle < CLEAR_SHARE * most:
        return Verdict(False, "it learns")
    if idle < most or labels < LEAST:
        return UNCLEAR
    return Verdict(
        True,
        f"{_count(labels, 'label')} came within {_time(idle)} and none was learned (expected one within {_time(most)})",
        f"The errors say why: headrace dead-letters list {view.settings} --stage learn",
    )


def _dead_letters(view: _View) -> Verdict:
    if view.status.state != "live":
        return UNCLEAR
    now, before = view.item.grown(DEAD_LETTERS_SECONDS)
    dead, events = now.dead_letters - before.dead_letters, now.events - before.events
    share = min(1.0, dead / max(dead, events, 1))
    most = view.bounds.dead_letter_share
    found = (
        f"{_count(dead, 'dead letter')} and {_count(events, 'event')} within five minutes "
        f"(expected at most {_share(most)})"
    )
    if dead < LEAST or share < CLEAR_SHARE * most:
        return Verdict(False, found)
    if share <= most:
        return UNCLEAR
    return Verdict(True, found, f"See why: headrace dead-letters list {view.settings}")


def _snapshot_old(view: _View) -> Verdict:
    status, began = view.status, view.item.began
    if status.state != "live" or began is None:
        return UNCLEAR
    age, most = status.time - view.item.saved_at, view.bounds.snapshot_age_seconds
    records = status.offset - (began.offset if status.snapshot is None else status.snapshot.offset)
    if records <= 0 or age < CLEAR_SHARE * most:
        return Verdict(False, "the snapshot is new again" if status.snapshot else "there was nothing to keep")
    if age < most:
        return UNCLEAR
    return Verdict(
        True,
        f"no new snapshot for {_time(age)} while {_count(records, 'record')} were processed (expected one within "
        f"{_time(most)})",
        f"The log of worker {_short(status.worker)} says why; see also: headrace snapshots list {view.settings}",
    )


def _one_class(view: _View) -> Verdict:
    status = view.status
    classes = status.classes or {}
    predicted, labels = classes.get("predicted", {}), classes.get("label", {})
    made, came = sum(predicted.values()), sum(labels.values())
    if status.state != "live" or 2 * min(made, came) < max(status.window, 2):
        return UNCLEAR
    # "" stands for all classes that are not counted by name.
    name = max((name for name in sorted(predicted) if name), key=lambda name: predicted[name], default=None)
    if name is None:
        return UNCLEAR
    share, common = predicted[name] / made, labels.get(name, 0) / came
    found = f'{_share(share)} of the last {made:,} predictions are "{_short(name)}" and {_share(common)} of the labels'
    most = view.bounds.one_class_share
    if share >= most and common <= COMMON_SHARE:
        return Verdict(
            True,
            f"{found} (expected less than {_share(most)})",
            "Look for a feature that went missing or changed its scale, then learn anew: "
            f"headrace rebuild {view.settings}",
        )
    # Clearly over: twice as far from one class as the bound, or a class that is common indeed.
    return Verdict(False if share <= 2 * most - 1 or common > (1 + COMMON_SHARE) / 2 else None, found)


def _not_a_number(view: _View) -> Verdict:
    if view.status.state != "live":
        return UNCLEAR
    now, before = view.item.grown(view.bounds.non_finite_seconds)
    bad, within = now.non_finite - before.non_finite, _time(view.bounds.non_finite_seconds)
    if bad <= 0:
        return Verdict(False, f"no predicted number was NaN or infinite within {within}")
    return Verdict(
        True,
        f"{_count(bad, 'prediction')} within {within} had a number that is NaN or infinite (expected none)",
        "The model has diverged: scale the features or lower the learning rate, then "
        f"headrace rebuild {view.settings}",
    )


#: What each watchdog of a partition finds, by name.
_JUDGES: Final[Mapping[str, Callable[[_View], Verdict]]] = {
    Watchdog.WORKER_GONE.value.name: _worker_gone,
    Watchdog.NO_PROGRESS.value.name: _no_progress,
    Watchdog.LAG.value.name: _lag,
    Watchdog.NO_LABELS.value.name: _no_labels,
    Watchdog.COVERAGE.value.name: _coverage,
    Watchdog.BASELINE.value.name: _worse_than_baseline,
    Watchdog.LEARNS_NOTHING.value.name: _learns_nothing,
    Watchdog.DEAD_LETTERS.value.name: _dead_letters,
    Watchdog.SNAPSHOT_OLD.value.name: _snapshot_old,
    Watchdog.ONE_CLASS.value.name: _one_class,
    Watchdog.NOT_A_NUMBER.value.name: _not_a_number,
}


#: The same of those that watch a pipeline as a whole.
_PIPELINE_JUDGES: Final[Mapping[str, Callable[[PipelineState, Bounds, float], Verdict]]] = {
    Watchdog.NO_EVENTS.value.name: _no_events,
    Watchdog.RELAY_BEHIND.value.name: _relay_behind,
}


# --- Words -----------------------------------------------------------------------------------------------


def _time(seconds: float) -> str:
    """A time for people: `45 s`, `12 min`, `3.5 h`, `2 days`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 3_600:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3_600:.1f}".removesuffix(".0") + " h"
    return f"{seconds / 86_400:,.0f} days"


def _share(share: float) -> str:
    percent = f"{100 * share:.1f}"
    return f"{percent.removesuffix('.0')} %"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _short(text: str, most: int = MOST_NAME) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
