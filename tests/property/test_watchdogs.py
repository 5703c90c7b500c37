from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from monitors import Incident, SnapshotFacts
from monitors.fleet import Bounds, PipelineState, Watchdogs
from tests.unit.monitors.fleet_cases import FACTS, STATUS, record

#: Short, so that all of them bark within some minutes.
BOUNDS: Final = Bounds(
    progress_seconds=60.0,
    lag_records=1_000,
    events_seconds=90.0,
    labels_seconds=60.0,
    baseline_seconds=60.0,
    learn_seconds=60.0,
    snapshot_age_seconds=90.0,
    non_finite_seconds=60.0,
)
COUNTERS: Final = ("offset", "events", "predictions", "learned", "scored", "joined", "expired")
ODD: Final = ("dead_letters", "non_finite")

#: A turn of one partition: how much its counters grow, and what else it says. None: it says nothing.
TURN = st.none() | st.fixed_dictionaries(
    {
        "grows": st.fixed_dictionaries(
            dict.fromkeys(COUNTERS, st.sampled_from([0, 20, 20]))
            | dict.fromkeys(ODD, st.sampled_from([0, 0, 30]))
            | {"events": st.sampled_from([0, 20, 20, -500])}
        ),
        "fields": st.fixed_dictionaries(
            {
                "lag_records": st.sampled_from([0, 10, 900, 5_000, None]),
                "state": st.sampled_from(["live", "live", "live", "replaying"]),
                "metrics": st.sampled_from([{}, *({"accuracy": {"window": at}} for at in (0.1, 0.9, None))]),
                "classes": st.sampled_from(
                    [None, STATUS.classes, {"predicted": {"a": 999}, "label": {"a": 500, "b": 499}}]
                ),
                "snapshot": st.sampled_from(["new", "old", None]),
            }
        ),
    }
)
#: For how many turns of 10 s it stays so, and which partitions do what.
PHASES = st.lists(
    st.tuples(st.integers(1, 20), st.fixed_dictionaries({0: TURN, 1: TURN}), st.integers(0, 30)), max_size=8
)
Phases = list[tuple[int, dict[int, dict[str, Any] | None], int]]


class Play:
    """Plays phases to watchdogs; what they say comes back after a while, or the monitor restarts first."""

    def __init__(self) -> None:
        self.pipeline = PipelineState(FACTS)
        self.watchdogs = Watchdogs(BOUNDS)
        self.now = STATUS.time
        self.statuses = {partition: replace(STATUS, partition=partition) for partition in (0, 1)}
        self.said: list[Incident] = []
        self.offsets = {"status": 0, "alerts": 0}
        self._under_way: list[tuple[float, Incident]] = []

    def put(self, kind: Any, value: bytes) -> str:
        applied = self.pipeline.apply(kind, 0, self.offsets[kind], value, seen_at=self.now)
        self.offsets[kind] += 1
        return applied

    def turn(self, turns: dict[int, dict[str, Any] | None], delay: float) -> None:
        self.now += 10.0
        while self._under_way and self._under_way[0][0] <= self.now:
            self.put("alerts", record(self._under_way.pop(0)[1]))
        for partition, turn in turns.items():
            if turn is None:
                continue
            before = self.statuses[partition]
            values = {name: max(0, getattr(before, name) + more) for name, more in turn["grows"].items()}
            fields = dict(turn["fields"])
            fields["snapshot"] = {
                "new": SnapshotFacts(
                    name="n", offset=values["offset"], time=self.now, bytes=1, pause_seconds=0.0, seconds=0.0
                ),
                "old": before.snapshot,
                None: None,
            }[fields["snapshot"]]
            self.statuses[partition] = replace(before, **values, **fields, time=self.now)
            assert self.put("status", record(self.statuses[partition])) == "status"
        for incident in self.watchdogs.look(self.pipeline, self.now):
            self.said.append(incident)
            at = max(
                [self.now + delay, *(time for time, _ in self._under_way[-1:])]
            )  # the topic keeps the order
            self._under_way.append((at, incident))


def played(phases: Phases, *, restarts: bool = False) -> Play:
    play = Play()
    for count, turns, delay in phases:
        for _ in range(count):
            play.turn(turns, delay)
        if restarts:
            # What was under way has arrived by the time the next monitor has read the topic.
            for _, incident in play._under_way:
                play.put("alerts", record(incident))
            play._under_way.clear()
            play.watchdogs = Watchdogs(BOUNDS)
    return play


@settings(max_examples=60)
@given(phases=PHASES, restarts=st.booleans())
def test_what_opens_and_closes_takes_turns_whatever_the_statuses_are(phases: Phases, restarts: bool) -> None:
    open_now: set[tuple[int | None, str]] = set()
    last: dict[tuple[int | None, str], Incident] = {}

    for incident in played(phases, restarts=restarts).said:
        key = (incident.partition, incident.incident)
        if incident == last.get(key):
            continue  # said again, the same record: the reader drops it
        last[key] = incident
        if incident.state == "open":
            assert key not in open_now
            open_now.add(key)
        else:
            assert key in open_now
            open_now.remove(key)
        assert incident.worker == "monitor"
        assert len(incident.text) <= 700


@settings(max_examples=30)
@given(phases=PHASES)
def test_what_is_said_depends_on_nothing_but_statuses_and_times(phases: Phases) -> None:
    assert played(phases).said == played(phases).said


@settings(max_examples=20)
@given(
    rates=st.fixed_dictionaries({0: st.integers(1, 500), 1: st.integers(1, 500)}),
    asked=st.booleans(),
    lag=st.integers(0, 1_000),
    turns=st.integers(1, 150),
)
def test_a_healthy_pipeline_is_never_told_of(
    rates: dict[int, int], asked: bool, lag: int, turns: int
) -> None:
    play = Play()
    names = (*COUNTERS[:5], "joined") if asked else COUNTERS[:5]
    healthy: dict[int, dict[str, Any] | None] = {
        partition: {
            "grows": dict.fromkeys(names, rate),
            "fields": {"lag_records": lag, "snapshot": "new", "state": "live"},
        }
        for partition, rate in rates.items()
    }

    for _ in range(turns):
        play.turn(healthy, 0.0)

    assert play.said == []
