from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

import pytest

from monitors import Incident, Status
from monitors.fleet import Bounds, PipelineFacts, Source, Standing, Watchdog
from monitors.fleet.watchdogs import _JUDGES, _PIPELINE_JUDGES, GRACE_SECONDS, MOST_TEXT
from tests.unit.monitors.fleet_cases import FACTS, INCIDENT, STATUS
from tests.unit.monitors.watchdog_cases import ASKED, LABELLED, RELAYED, START, STEP, Scene

WORSE = {"accuracy": {"value": 0.9, "window": 0.4}}
COLLAPSED = {"predicted": {"true": 995, "false": 5}, "label": {"true": 400, "false": 600}}
EMPTY: dict[str, int] = {}
WITH_RELAY = replace(FACTS, relay_group="fraud.relay", relayed_topics=("chargebacks",))


def without(*names: str) -> dict[str, int]:
    return {name: more for name, more in LABELLED.items() if name not in names}


class Case(NamedTuple):
    """How a watchdog is made to bark, and to fall silent."""

    #: What grows and which fields are so while it is bad; when it opens, seconds after the last good status.
    grows: Mapping[str, int]
    fields: Mapping[str, Any]
    opens: int
    #: What is then so again, and when it closes, seconds after the last bad status.
    good: Mapping[str, Any]
    closes: int
    says: str
    #: What grows while all is well.
    healthy: Mapping[str, int] = LABELLED
    partition: int | None = 0
    #: For so long, seconds.
    calm: int = 300
    facts: PipelineFacts = FACTS


#: Where nothing else is said: a condition counts from the first status that shows it, 5 s after the last good one, and
#: is over 30 s after the first that shows that.
CASES: Mapping[Watchdog, Case] = {
    Watchdog.WORKER_GONE: Case(
        LABELLED,
        {"silent": (0,)},
        60,
        {},
        35,
        "payments[0]@7000: no status for 60 s (expected one within 60 s), the last from worker "
        "fraud-host-0. Its last line on standard error says why. Start one: headrace run fraud.toml",
    ),
    Watchdog.NO_PROGRESS: Case(
        {"end": 20},
        {"lag_records": 1_234},
        300,
        {"lag_records": 10},
        35,
        "payments[0]@7000: no record processed for 5 min while 1,234 records wait (expected one within 5 "
        "min). See the log of worker fraud-host-0 for what it waits for, then restart it.",
    ),
    Watchdog.LAG: Case(
        LABELLED,
        {"lag_records": 100_001},
        35,
        {"lag_records": 80_000},
        35,
        "payments[0]@7700: 100,001 records behind (expected at most 100,000). Add workers, up to one for "
        "each partition: headrace run fraud.toml --workers N",
    ),
    Watchdog.NO_EVENTS: Case(
        EMPTY,
        {"lag_records": 0},
        3_600,
        {},
        35,
        "payments: no event for 1 h (expected one within 1 h), and all records are read. Look whether the "
        "producer still writes to this topic at 127.0.0.1:9092.",
        partition=None,
    ),
    Watchdog.NO_LABELS: Case(
        without("learned", "scored"),
        {},
        3_600,
        {},
        35,
        "payments[0]@79000: no label for 1 h while 72,000 predictions were made (expected one within 1 h). "
        "Look whether labels are produced, with the ids and keys of their questions; what matches none is "
        "counted in headrace status fraud.toml",
    ),
    # It counts from when the first record that is not relayed was seen.
    Watchdog.RELAY_BEHIND: Case(
        LABELLED,
        {"relay_stands": True},
        305,
        {"relay_stands": False},
        35,
        "payments: nothing was relayed from chargebacks[0] for 5 min while 610 records wait (expected one within 5 "
        "min). Is a relay running, and what does its log say? See headrace status fraud.toml; start one: headrace "
        "run fraud.toml or, without workers, headrace relay fraud.toml",
        partition=None,
        facts=WITH_RELAY,
    ),
    # A tenth instead of all: below half of it after 333 s, and counters are kept of each 20 s. Nine tenths of it again
    # when no more than 66 s of the ten minutes are bad: after 534 s, and over after 30 s more.
    Watchdog.COVERAGE: Case(
        ASKED | {"joined": 2, "expired": 18},
        {},
        345,
        {},
        570,
        "payments[0]@107900: 48.2 % of the predictions due within ten minutes got their label (100 % "
        "before). Compare the label delay with [labels] expire_after_seconds, and look at late and unmatched "
        "labels: headrace status fraud.toml",
        healthy=ASKED,
        calm=5_000,
    ),
    Watchdog.BASELINE: Case(
        LABELLED,
        {"metrics": WORSE},
        605,
        {"metrics": STATUS.metrics},
        605,
        "payments[0]@19100: accuracy is 0.4 over the last 1,000 labels (no-change: 0.51), and has been worse "
        "for 10 min. Look for drift; if it stays, try another learner and learn anew: headrace rebuild "
        "fraud.toml",
    ),
    Watchdog.LEARNS_NOTHING: Case(
        without("learned"),
        {},
        600,
        {},
        35,
        "payments[0]@19000: 12,000 labels came within 10 min and none was learned (expected one within 10 "
        "min). The errors say why: headrace dead-letters list fraud.toml --stage learn",
    ),
    # One in ten: above 5 % of five minutes after 150 s, and counters are kept of each 20 s. Below 4 % again when less
    # than 120 s of them are bad: after 180 s, and over after 30 s more.
    Watchdog.DEAD_LETTERS: Case(
        LABELLED | {"dead_letters": 2},
        {},
        160,
        {},
        215,
        "payments[0]@10200: 320 dead letters and 6,300 events within five minutes (expected at most 5 %). "
        "See why: headrace dead-letters list fraud.toml",
    ),
    Watchdog.SNAPSHOT_OLD: Case(
        LABELLED,
        {"snapshot": "the last"},
        3_600,
        {},
        35,
        "payments[0]@79000: no new snapshot for 1 h while 72,000 records were processed (expected one within "
        "1 h). The log of worker fraud-host-0 says why; see also: headrace snapshots list fraud.toml",
    ),
    Watchdog.ONE_CLASS: Case(
        LABELLED,
        {"classes": COLLAPSED},
        35,
        {"classes": STATUS.classes},
        35,
        'payments[0]@7700: 99.5 % of the last 1,000 predictions are "true" and 40 % of the labels (expected '
        "less than 99 %). Look for a feature that went missing or changed its scale, then learn anew: "
        "headrace rebuild fraud.toml",
    ),
    # Over when the last one is 600 s ago, and for 30 s more.
    Watchdog.NOT_A_NUMBER: Case(
        LABELLED | {"non_finite": 1},
        {},
        5,
        {},
        630,
        "payments[0]@7100: 5 predictions within 10 min had a number that is NaN or infinite (expected "
        "none). The model has diverged: scale the features or lower the learning rate, then headrace rebuild "
        "fraud.toml",
    ),
}
ALL = [pytest.param(watchdog, case, id=watchdog.value.name) for watchdog, case in CASES.items()]


class Barking:
    """A scene in which all is well for a while, and then one thing goes wrong."""

    def __init__(self, case: Case, **scene: Any) -> None:
        self.case = case
        self.scene = Scene(**({"facts": case.facts} | scene))
        assert self.scene.run(case.calm, case.healthy) == []

    def goes_wrong(self, seconds: float) -> list[str]:
        given = dict(self.case.fields)
        if given.get("snapshot") == "the last":
            given["snapshot"] = self.scene.statuses[0].snapshot
        return self.scene.run(seconds, self.case.grows, **given)

    def is_well(self, seconds: float) -> list[str]:
        return self.scene.run(seconds, self.case.healthy, **self.case.good)


# --- Each of them ----------------------------------------------------------------------------------------


def test_each_has_a_case_and_a_bound_of_its_own() -> None:
    bounds = [watchdog.value.bound for watchdog in Watchdog]

    assert set(CASES) == set(Watchdog)
    assert sorted(bounds) == sorted(item.name for item in fields(Bounds))
    assert set(_JUDGES) == {watchdog.value.name for watchdog in Watchdog if watchdog.value.of == "partition"}
    assert set(_PIPELINE_JUDGES) == {dog.value.name for dog in Watchdog if dog.value.of == "pipeline"}
    assert len({watchdog.value.name for watchdog in Watchdog}) == len(Watchdog)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", watchdog.value.name) for watchdog in Watchdog)


@pytest.mark.parametrize(("watchdog", "case"), ALL)
def test_it_opens_once_in_its_time_and_not_a_moment_before_and_closes(watchdog: Watchdog, case: Case) -> None:
    name, partition = watchdog.value.name, case.partition
    barking = Barking(case)

    assert barking.goes_wrong(case.opens - 5) == []
    assert barking.goes_wrong(5) == [f"+5 {name} {partition} open"]
    assert barking.goes_wrong(300) == []  # one alert for as long as it is open

    said = barking.is_well(1_000)

    assert [line.partition(" ")[2] for line in said] == [f"{name} {partition} closed"]
    assert barking.scene.pipeline.open == {}


@pytest.mark.parametrize(("watchdog", "case"), ALL)
def test_it_closes_in_its_time(watchdog: Watchdog, case: Case) -> None:
    barking = Barking(case)
    barking.goes_wrong(case.opens)

    assert barking.is_well(case.closes) == [f"+{case.closes} {watchdog.value.name} {case.partition} closed"]


@pytest.mark.parametrize(("watchdog", "case"), ALL)
def test_what_it_says_names_the_place_what_was_expected_and_what_to_do(
    watchdog: Watchdog, case: Case
) -> None:
    barking = Barking(case)
    barking.goes_wrong(case.opens)

    (incident,) = barking.scene.said

    assert incident == Incident(
        pipeline="fraud",
        partition=case.partition,
        offset=0 if case.partition is None else barking.scene.statuses[0].offset,
        incident=watchdog.value.name,
        state="open",
        severity=watchdog.value.severity,
        text=case.says,
        worker="monitor",
        time=barking.scene.now,
    )


@pytest.mark.parametrize(("watchdog", "case"), ALL)
def test_a_bound_of_0_switches_it_off(watchdog: Watchdog, case: Case) -> None:
    barking = Barking(case, bounds=Bounds(**{watchdog.value.bound: 0}))

    assert barking.goes_wrong(case.opens + 600) == []


@pytest.mark.parametrize(("watchdog", "case"), ALL)
def test_what_was_open_is_closed_when_it_is_switched_off(watchdog: Watchdog, case: Case) -> None:
    barking = Barking(case)
    barking.goes_wrong(case.opens)

    barking.scene.restart(Bounds(**{watchdog.value.bound: 0}))

    assert barking.goes_wrong(90) == [f"+60 {watchdog.value.name} {case.partition} closed"]


@pytest.mark.parametrize(("watchdog", "case"), ALL)
def test_a_monitor_that_restarts_opens_nothing_twice_and_closes_what_is_over(
    watchdog: Watchdog, case: Case
) -> None:
    name = watchdog.value.name
    barking = Barking(case)
    barking.goes_wrong(case.opens)

    barking.scene.restart()
    assert barking.goes_wrong(120) == []
    barking.scene.restart()

    assert [line.partition(" ")[2] for line in barking.is_well(1_000)] == [f"{name} {case.partition} closed"]


@pytest.mark.parametrize(
    ("watchdog", "case"),
    # The relay is seen without the workers' help.
    [item for item in ALL if item.values[0] not in (Watchdog.WORKER_GONE, Watchdog.RELAY_BEHIND)],
)
def test_while_a_partition_is_silent_only_its_worker_is_told_of(watchdog: Watchdog, case: Case) -> None:
    barking = Barking(case)
    barking.goes_wrong(max(0, case.opens - 40))  # a status is fresh for 30 s

    said = barking.scene.run(500, silent=(0,))

    assert said == ["+60 worker-gone 0 open"]


@pytest.mark.parametrize(("watchdog", "case"), ALL)
def test_what_is_open_stays_so_while_its_partition_is_silent(watchdog: Watchdog, case: Case) -> None:
    barking = Barking(case)
    barking.goes_wrong(case.opens)

    barking.scene.run(500, silent=(0,))

    assert (case.partition, watchdog.value.name) in barking.scene.pipeline.open


# --- The relay -------------------------------------------------------------------------------------------


def look_at_relay(scene: Scene, found: Mapping[Source, Standing] | str) -> list[str]:
    """What is said of the relay in the next look, while the worker only goes on writing statuses."""
    scene.now += STEP
    scene.pipeline.take_relay(found, scene.now)
    scene.publish(replace(scene.statuses[0], time=scene.now, lag_records=0))
    return [incident.text for incident in scene.look() if incident.incident == "relay-behind"]


def test_a_relay_that_stands_still_is_told_of_while_no_worker_runs() -> None:
    scene = Scene(facts=WITH_RELAY)
    scene.run(300)

    said = scene.run(400, silent=(0,), relay_stands=True)

    assert said == ["+60 worker-gone 0 open", "+305 relay-behind None open"]


def test_a_relay_that_gets_on_and_does_not_keep_up_is_told_of_with_the_worst_partition() -> None:
    scene = Scene(facts=WITH_RELAY)
    other = Source("chargebacks", 1)
    scene.run(300)

    said: list[str] = []
    for step in range(140):
        # One of a hundred records comes over in time; of the other partition nothing is behind for long.
        end = 1_000 * (step + 1)
        found = {RELAYED: Standing(10 * step, 0, end), other: Standing(end - 1_000 * (step > 100), 0, end)}
        said += look_at_relay(scene, found)

    (text,) = said
    assert text.startswith(
        "payments: the relay is behind: 60,400 records of chargebacks[0] wait, the next one for 5 min (expected at "
        "most 5 min). It catches up by itself, unless"
    )


def test_a_busy_relay_that_keeps_up_is_not_told_of() -> None:
    """There is always something on its way."""
    scene = Scene(facts=WITH_RELAY)
    scene.run(300)

    for step in range(200):
        found = {RELAYED: Standing(1_000 * step, 0, 1_000 * (step + 1))}
        assert look_at_relay(scene, found) == []


def test_what_is_known_of_the_relay_for_too_long_opens_and_closes_nothing() -> None:
    for stands, opened in ((False, []), (True, ["relay-behind"])):
        scene = Scene(facts=WITH_RELAY)
        scene.run(300)
        scene.run(400, relay_stands=stands)
        for _ in range(200):
            assert look_at_relay(scene, "no permission") == []

        relay = scene.pipeline.relay
        assert relay is not None
        assert not relay.is_fresh(scene.now)
        assert relay.problem == "no permission"
        assert [name for _, name in scene.pipeline.open if name == "relay-behind"] == opened


def test_what_is_open_is_closed_when_nothing_is_relayed_any_more() -> None:
    scene = Scene(facts=WITH_RELAY)
    scene.run(300)
    scene.run(400, relay_stands=True)
    without_relay = Scene()
    without_relay.deliver(scene.said[0])

    assert without_relay.run(120) == ["+95 relay-behind None closed"]


# --- Said, and not yet heard -----------------------------------------------------------------------------


def lagging(**scene: Any) -> Scene:
    found = Scene(**scene)
    found.run(300)
    assert found.run(35, lag_records=200_000) == ["+35 lag 0 open"]
    return found


def test_what_does_not_come_back_is_said_again_unchanged() -> None:
    scene = lagging(delivers=False)

    scene.run(70, lag_records=200_000)

    first, second, third = scene.said
    assert first == second == third
    assert first.time == START + 335


def test_what_has_come_back_is_not_said_again() -> None:
    scene = lagging(delivers=False)
    scene.run(10, lag_records=200_000)
    scene.deliver(scene.said[0])

    assert scene.run(300, lag_records=200_000) == []


def test_what_is_said_counts_before_it_comes_back() -> None:
    """The topic then has both, in order."""
    scene = lagging(delivers=False)

    said = scene.run(60, lag_records=0)

    assert [line.partition(" ")[2] for line in said] == ["lag 0 open", "lag 0 closed"]  # said again, and over


def test_an_opening_that_is_lost_is_opened_anew_after_the_monitor_was_away() -> None:
    scene = lagging(delivers=False)

    scene.watchdogs.resumed(scene.now)

    assert scene.run(100, lag_records=200_000) == ["+90 lag 0 open"]
    assert scene.said[-1].time > scene.said[0].time


def test_what_another_monitor_has_said_is_not_said_again() -> None:
    scene = Scene()
    scene.run(300)
    scene.deliver(
        replace(INCIDENT, incident="lag", worker="monitor", severity="warning", time=scene.now, offset=7)
    )

    assert scene.run(300, lag_records=200_000) == []
    assert scene.run(35, lag_records=0) == ["+35 lag 0 closed"]


def test_what_a_worker_has_said_is_left_to_it() -> None:
    scene = Scene()
    scene.deliver(INCIDENT)

    assert scene.run(600, incidents=[INCIDENT.incident]) == []
    assert list(scene.pipeline.open) == [(0, "snapshot-failed")]


def test_a_watchdog_of_another_version_is_closed() -> None:
    scene = Scene()
    scene.deliver(replace(INCIDENT, incident="no-coffee", worker="monitor"))

    assert scene.run(600) == ["+65 no-coffee 0 closed"]
    assert scene.said[0].text == "payments: this is no longer watched."
    assert scene.pipeline.open == {}


# --- Away ------------------------------------------------------------------------------------------------


def test_a_monitor_that_begins_judges_nothing_before_it_has_heard_for_a_while() -> None:
    scene = Scene()
    scene.watchdogs.began(scene.now)

    said = scene.run(200, lag_records=200_000)

    assert said == [f"+{GRACE_SECONDS + 30:.0f} lag 0 open"]


def test_a_worker_that_was_gone_before_the_monitor_began_is_told_of() -> None:
    scene = Scene()
    scene.publish(scene.statuses[0])
    scene.now += 86_400
    scene.watchdogs.began(scene.now)

    assert scene.run(100, silent=(0,)) == ["+60 worker-gone 0 open"]
    assert scene.said[0].text.startswith("payments[0]@1000: no status for 24 h (expected one within 60 s)")


def test_a_monitor_that_was_away_does_not_take_its_own_silence_for_the_workers() -> None:
    scene = Scene(partitions=3)
    scene.run(300)
    scene.now += 3_600
    scene.watchdogs.resumed(scene.now)

    assert scene.run(600) == []


@pytest.mark.parametrize("pause", [3_600.0, -3_600.0])
def test_a_machine_that_was_suspended_or_set_its_clock_counts_as_away(pause: float) -> None:
    scene = Scene()
    scene.run(300)
    scene.now += pause

    assert scene.look() == []
    assert scene.run(50, silent=(0,)) == []
    assert scene.run(600) == []


def test_the_grace_is_as_long_as_a_worker_may_be_silent() -> None:
    scene = Scene(facts=replace(FACTS, status_interval_seconds=100.0))
    scene.publish(scene.statuses[0])
    scene.watchdogs.began(scene.now)

    assert scene.run(300, silent=(0,)) == ["+300 worker-gone 0 open"]


def test_a_pipeline_of_which_nothing_was_ever_heard_has_nothing_wrong() -> None:
    """It has not been started: the dashboard calls that `no-data`. Nobody should be woken for it."""
    scene = Scene(partitions=0)

    assert scene.run(8_000) == []


# --- Partitions ------------------------------------------------------------------------------------------


def test_each_partition_is_judged_by_itself() -> None:
    scene = Scene(partitions=3)
    scene.run(300)

    assert scene.run(400, without("offset"), only=(1,), lag_records=9) == ["+300 no-progress 1 open"]
    assert scene.run(100, silent=(0,)) == ["+35 no-progress 1 closed", "+60 worker-gone 0 open"]


def test_a_partition_that_another_worker_takes_over_in_time_is_not_told_of() -> None:
    scene = Scene(partitions=2)
    scene.run(300)

    assert scene.run(55, silent=(1,)) == []
    assert scene.run(300, worker="fraud-other-0") == []


# --- Lag and progress ------------------------------------------------------------------------------------


def test_a_lag_around_its_bound_does_not_flap() -> None:
    scene = lagging()
    for lag in (99_999, 100_001, 80_001, 120_000) * 20:
        assert scene.run(40, lag_records=lag) == []
    for _ in range(20):  # never clear for long enough
        assert scene.run(25, lag_records=0) == []
        assert scene.run(10, lag_records=100_001) == []

    assert scene.run(35, lag_records=80_000) == ["+35 lag 0 closed"]


def test_a_lag_that_goes_by_is_not_told_of() -> None:
    scene = Scene()
    scene.run(300)
    for _ in range(20):
        assert scene.run(30, lag_records=200_000) == []
        assert scene.run(5, lag_records=0) == []


@pytest.mark.parametrize("lag", [0, None])
def test_a_partition_with_nothing_to_read_needs_no_progress(lag: int | None) -> None:
    scene = Scene()
    scene.run(300)

    assert scene.run(3_000, EMPTY, lag_records=lag) == []


def test_a_replay_is_progress() -> None:
    scene = Scene()
    scene.run(300)
    scene.run(5, EMPTY, offset=0, events=0, state="replaying", lag_records=7_000)

    assert scene.run(1_000, {"offset": 1, "events": 1}, state="replaying", lag_records=7_000) == []


# --- Events ----------------------------------------------------------------------------------------------


def test_a_stream_that_has_ended_is_told_of_once() -> None:
    scene = Scene(partitions=2)
    scene.run(300)

    assert scene.run(8_000, EMPTY, lag_records=0) == ["+3600 no-events None open"]


def test_a_stream_that_never_began_is_not_told_of() -> None:
    scene = Scene()

    assert scene.run(5_000, EMPTY, events=0, offset=0, lag_records=0) == []


def test_one_partition_with_events_is_enough() -> None:
    scene = Scene(partitions=2)
    scene.run(300)

    assert scene.run(5_000, EMPTY, only=(0,), lag_records=0) == []


def test_events_that_wait_to_be_read_are_events() -> None:
    scene = Scene(Bounds(progress_seconds=0))
    scene.run(300)

    assert scene.run(5_000, EMPTY, lag_records=5) == []


def test_while_a_partition_is_not_heard_of_nobody_knows_whether_it_has_events() -> None:
    scene = Scene(partitions=2)
    scene.run(300)

    said = scene.run(5_000, EMPTY, silent=(1,), lag_records=0)

    assert said == ["+60 worker-gone 1 open"]


# --- Labels ----------------------------------------------------------------------------------------------

ASKED_ONLY = dict.fromkeys(("offset", "end", "events", "predictions", "questions", "pending"), 20)


def test_the_first_label_may_take_its_time_until_predictions_expire() -> None:
    scene = Scene()
    scene.statuses[0] = replace(scene.statuses[0], learned=0, scored=0, predictions=0, events=0)

    assert scene.run(8_000, ASKED_ONLY) == []
    assert scene.run(60, ASKED_ONLY | {"expired": 20}) == ["+5 no-labels 0 open"]


def test_labels_that_usually_take_long_are_missed_later() -> None:
    scene = Scene()
    delay = {"p50": 3_000.0, "p95": 3_500.0, "count": 1_000.0}
    scene.run(300, ASKED, label_delay=delay)

    assert scene.run(7_200, ASKED_ONLY) == ["+7000 no-labels 0 open"]


@pytest.mark.parametrize("predictions", [0, 19])
def test_labels_are_not_missed_while_there_are_hardly_predictions(predictions: int) -> None:
    scene = Scene(Bounds(events_seconds=0))
    scene.run(300, ASKED)
    before = scene.statuses[0].predictions

    assert scene.run(5_000, {"events": 1, "offset": 1}, predictions=before + predictions) == []


def test_labels_are_not_missed_when_predictions_have_ended_too() -> None:
    scene = Scene(Bounds(events_seconds=0))
    scene.run(300, ASKED)
    scene.run(600, ASKED_ONLY)

    assert scene.run(5_000, EMPTY, lag_records=0) == []


def test_a_learner_that_fails_on_each_label_is_no_lack_of_labels() -> None:
    scene = Scene()
    scene.run(300)

    assert scene.run(5_000, without("learned")) == ["+600 learns-nothing 0 open"]


def test_a_rare_label_is_enough_to_close() -> None:
    scene = Scene()
    scene.run(300)
    assert scene.run(3_600, without("learned", "scored")) == ["+3600 no-labels 0 open"]
    scene.run(5, {"learned": 1, "scored": 1})

    assert scene.run(60, without("learned", "scored")) == ["+30 no-labels 0 closed"]


def test_a_restarted_monitor_does_not_take_its_first_status_for_a_label() -> None:
    """Without any history it can't know."""
    scene = Scene()
    scene.deliver(replace(INCIDENT, incident="no-labels", worker="monitor", partition=0))

    assert scene.run(3_000, without("learned", "scored")) == []


#: One in ten gets its label, the others are learned as what silence means.
CLICKS = dict.fromkeys(("offset", "end", "events", "predictions", "questions", "learned", "scored"), 20) | {
    "joined": 2,
    "expired": 18,
    "expired_learned": 18,
}
SILENCE = CLICKS | {"joined": 0, "expired": 20, "expired_learned": 20}


def test_what_is_learned_from_silence_is_no_label() -> None:
    scene = Scene(Bounds(coverage_share=0))
    scene.run(3_600, CLICKS)

    assert scene.run(3_700, SILENCE) == ["+3600 no-labels 0 open"]
    assert scene.run(60, CLICKS) == ["+35 no-labels 0 closed"]


def test_where_silence_means_a_label_a_quiet_hour_of_few_predictions_is_none_without_labels() -> None:
    scene = Scene(Bounds(coverage_share=0))
    scene.run(3_600, CLICKS)
    before = scene.statuses[0]

    grown = {"predictions": 150, "questions": 150, "learned": 150, "scored": 150}
    grown |= {"expired": 150, "expired_learned": 150}
    later = {name: getattr(before, name) + count for name, count in grown.items()}
    assert scene.run(5_000, {"events": 1, "offset": 1}, **later) == []


def test_without_questions_there_is_no_coverage_to_fall() -> None:
    scene = Scene()

    assert scene.run(5_000) == []


def test_coverage_needs_some_labels_that_were_due() -> None:
    scene = Scene()
    scene.run(5_000, ASKED)
    joined, expired = scene.statuses[0].joined, scene.statuses[0].expired

    assert scene.run(10, ASKED, joined=joined, expired=expired + 19) == []
    assert scene.run(3_000, ASKED, joined=joined, expired=expired + 19) == []


def test_coverage_that_falls_by_chance_is_not_told_of() -> None:
    """Three of 40 where eight were expected: less than half, and it happens."""
    scene = Scene()
    joined, expired = 0, 0
    for number in range(75):
        joined, expired = joined + 4, expired + 16
        assert scene.run(60, joined=joined, expired=expired) == [], number

    for few in (1, 0, 1, 0, 1, 0, 0, 0, 0, 0):
        joined, expired = joined + few, expired + 4 - few
        assert scene.run(60, joined=joined, expired=expired) == []


def test_a_low_coverage_does_not_become_the_usual_one() -> None:
    scene = Scene()
    scene.run(5_000, ASKED)

    assert scene.run(9_000, ASKED | {"joined": 2, "expired": 18}) == ["+345 coverage-falls 0 open"]
    assert scene.run(3_000, ASKED | {"joined": 12, "expired": 8}) == []
    assert scene.run(3_000, ASKED) == ["+495 coverage-falls 0 closed"]


# --- Quality ---------------------------------------------------------------------------------------------


def figures(window: float | None, no_change: float | None) -> dict[str, Any]:
    return {
        "metrics": {"mae": {"value": 1.0, "window": window}},
        "baselines": {"no_change": {"value": 1.0, "window": no_change}},
    }


REGRESSION = replace(FACTS, task="regression", metrics=("mae",))


def test_of_an_error_less_is_better() -> None:
    scene = Scene(facts=REGRESSION)
    scene.run(300, classes=None, **figures(1.0, 2.0))

    assert scene.run(1_000, **figures(2.01, 2.0)) == ["+605 worse-than-baseline 0 open"]
    assert scene.said[0].text.startswith(
        "payments[0]@19100: mae is 2.01 over the last 1,000 labels (no-change: 2)",
    )


@pytest.mark.parametrize("window", [None, 2.0, 1.0])
def test_what_is_equal_better_or_not_known_is_not_worse(window: float | None) -> None:
    scene = Scene(facts=REGRESSION)

    assert scene.run(3_000, classes=None, **figures(window, 2.0)) == []
    assert scene.run(3_000, **figures(3.0, None)) == []


def test_a_window_that_is_not_full_is_not_judged() -> None:
    scene = Scene()

    assert scene.run(3_000, metrics=WORSE, scored=999) == []


def test_a_window_that_no_longer_moves_is_not_judged() -> None:
    scene = Scene()
    scene.run(1_000)
    scene.run(100, metrics=WORSE)

    assert scene.run(500, EMPTY, lag_records=0, metrics=STATUS.metrics) == []
    assert scene.run(3_000, EMPTY, lag_records=0, metrics=WORSE) == []


def test_a_regression_has_no_classes_to_collapse_into() -> None:
    scene = Scene(facts=REGRESSION)

    assert scene.run(600, classes=COLLAPSED, **figures(1.0, 2.0)) == []


@pytest.mark.parametrize(
    ("predicted", "label"),
    [
        ({"a": 989, "b": 11}, {"a": 500, "b": 500}),
        ({"a": 1_000}, {"a": 901, "b": 99}),
        ({"a": 499}, {"b": 499}),  # not yet half full
        ({"": 1_000}, {"b": 1_000}),  # many classes, none of which has a name here
        ({}, {}),
    ],
)
def test_what_is_no_collapse(predicted: dict[str, int], label: dict[str, int]) -> None:
    scene = Scene()

    assert scene.run(600, classes={"predicted": predicted, "label": label}) == []


def test_dead_letters_need_to_be_some() -> None:
    """A quiet topic: all that comes is wrong, and it is not much."""
    scene = Scene()
    scene.run(300)
    dead = scene.statuses[0].dead_letters

    assert scene.run(400, {"offset": 1}, dead_letters=dead + 19) == []
    assert scene.run(5, {"offset": 1}, dead_letters=dead + 38) == []
    assert scene.run(5, {"offset": 1}, dead_letters=dead + 40) == ["+5 dead-letters 0 open"]


def test_a_worker_that_restarts_with_an_old_snapshot_gets_the_time_for_a_new_one() -> None:
    scene = Scene()
    scene.run(300)
    old = scene.statuses[0].snapshot
    scene.run(7_200, silent=(0,))

    said = scene.run(3_595, snapshot=old)

    assert said == ["+35 worker-gone 0 closed"]


def test_a_partition_without_any_snapshot_is_told_of() -> None:
    scene = Scene()

    assert scene.run(3_700, snapshot=None) == ["+3605 snapshot-old 0 open"]


def test_a_partition_at_rest_needs_no_new_snapshot() -> None:
    scene = Scene(Bounds(events_seconds=0))
    scene.run(300)

    assert scene.run(5_000, EMPTY, lag_records=0, snapshot=scene.statuses[0].snapshot) == []


def test_nan_predictions_of_before_the_monitor_and_of_a_replay_are_old() -> None:
    scene = Scene()
    assert scene.run(300, non_finite=500) == []
    scene.run(30, EMPTY, state="replaying", non_finite=0, events=10)
    scene.run(30, EMPTY, state="replaying", non_finite=300, events=20)

    assert scene.run(300, non_finite=500, events=10_000) == []


# --- Bounds and words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("progress_seconds", -1, "a number >= 0"),
        ("labels_seconds", float("nan"), "a number >= 0"),
        ("lag_records", float("inf"), "a number >= 0"),
        ("dead_letter_share", 1.1, "a number from 0 to 1"),
        ("one_class_share", -0.1, "a number from 0 to 1"),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused(name: str, value: float, expected: str) -> None:
    bounds: dict[str, Any] = {name: value}

    with pytest.raises(ValueError, match=rf"^{name} is {value}; expected {expected}\.$"):
        Bounds(**bounds)


def test_no_text_is_longer_than_so_much_whatever_the_names_are() -> None:
    facts = replace(FACTS, settings_file="/a b/" + "x" * 5_000, events_topic="t" * 249, brokers="b," * 900)
    scene = Scene(facts=facts)
    long: dict[str, Any] = {"worker": "w" * 300}
    scene.run(300, **long)
    names = {"predicted": {"c" * 9_000: 1_000}, "label": {"d": 1_000}}
    scene.run(700, {"end": 20, "non_finite": 1}, lag_records=10**15, classes=names, **long)
    scene.run(100, silent=(0,))

    assert {incident.incident for incident in scene.said} >= {
        "lag",
        "no-progress",
        "one-class",
        "worker-gone",
    }
    assert all(len(incident.text) <= MOST_TEXT for incident in scene.said)


def test_a_settings_file_with_a_space_is_quoted() -> None:
    scene = lagging(facts=replace(FACTS, settings_file="my pipelines/fraud.toml"))

    assert scene.said[0].text.endswith("headrace run 'my pipelines/fraud.toml' --workers N")


@pytest.mark.parametrize("zeros", [True, False])
def test_a_status_of_odd_figures_is_no_trouble(zeros: bool) -> None:
    """Anybody may write to the topic."""
    odd: dict[str, Any] = {
        "window": 0,
        "metrics": {},
        "baselines": {"no_change": {}},
        "classes": {"predicted": {"a": 0}, "label": {}} if zeros else {"predicted": {"a": 9, "b": -9}},
        "label_delay": {},
        "snapshot": None,
        "lag_records": None,
    }
    scene = Scene()

    assert scene.run(600, **odd) == []


def test_the_same_statuses_give_the_same_incidents() -> None:
    def said() -> list[Incident]:
        scene = Scene(partitions=2)
        scene.run(300)
        scene.run(400, {"end": 20}, lag_records=500_000)
        scene.run(100, silent=(0, 1))
        return scene.said

    first = said()

    assert len(first) > 4
    assert first == said()


def test_a_status_is_made_as_a_worker_makes_it() -> None:
    scene = Scene()
    scene.run(10)

    status = scene.statuses[0]
    assert isinstance(status, Status)
    assert (status.offset, status.end, status.lag_records, status.time) == (1_200, 1_210, 10, START + 10)


def test_another_monitor_knows_what_the_coverage_had_been_and_closes_no_sooner() -> None:
    scene = Scene()
    scene.run(5_000, ASKED)
    low = ASKED | {"joined": 2, "expired": 18}
    assert scene.run(600, low) == ["+345 coverage-falls 0 open"]

    scene.run(6_000, low)
    scene.restart()

    assert scene.run(6_000, low) == []
    assert scene.run(3_000, ASKED) == ["+575 coverage-falls 0 closed"]


def test_labels_that_end_with_one_that_could_not_be_learned_have_ended() -> None:
    scene = Scene()
    scene.run(600)
    scene.run(5, {"learned": 0, "scored": 1})

    assert scene.run(4_000, without("learned", "scored")) == ["+3600 no-labels 0 open"]


# --- What workers opened ---------------------------------------------------------------------------------


def test_an_incident_that_a_killed_worker_left_open_is_closed() -> None:
    """Its successor writes on the same partition, and knows nothing of it."""
    scene = Scene()
    scene.run(100, incidents=[])
    failed = replace(INCIDENT, partition=0, worker="fraud-host-0", time=scene.now)
    scene.deliver(failed)
    assert scene.run(300, incidents=["snapshot-failed"]) == []

    assert scene.run(60, incidents=[]) == ["+35 snapshot-failed 0 closed"]
    assert scene.pipeline.open == {}
    closed = scene.said[-1]
    assert (closed.worker, closed.severity) == ("monitor", failed.severity)
    assert closed.text == f"payments[0]@{closed.offset}: worker fraud-host-0 no longer tells of it."


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"incidents": ["snapshot-failed"]}, id="it still tells of it"),
        pytest.param({"incidents": None}, id="an older worker, which does not say"),
        pytest.param({"incidents": [], "state": "replaying"}, id="it has not looked yet"),
    ],
)
def test_an_incident_of_a_worker_stays_open(fields: dict[str, Any]) -> None:
    scene = Scene(Bounds(learn_seconds=0))
    scene.run(100, incidents=[])
    scene.deliver(replace(INCIDENT, partition=0, time=scene.now))

    assert scene.run(300, **fields) == []
    assert (0, INCIDENT.incident) in scene.pipeline.open


def test_an_incident_of_a_relay_is_the_relay_s_to_close() -> None:
    scene = Scene()
    scene.run(100, incidents=[])
    scene.deliver(replace(INCIDENT, worker="fraud.relay-host-0", time=scene.now))

    assert scene.run(300, incidents=[]) == []


def test_an_incident_of_a_partition_without_a_worker_stays_open() -> None:
    scene = Scene(Bounds(worker_seconds=0))
    scene.run(100, incidents=[])
    scene.deliver(replace(INCIDENT, partition=0, time=scene.now))

    assert scene.run(300, silent=(0,)) == []


def test_a_worker_that_waits_for_the_snapshot_store_is_not_called_dead() -> None:
    """It sends no status of a partition that it could not restore."""
    scene = Scene()
    scene.run(100)
    scene.deliver(replace(INCIDENT, incident="snapshot-store-away", partition=0, time=scene.now))

    assert scene.run(120, silent=(0,)) == ["+60 worker-gone 0 open"]
    assert scene.said[-1].text.endswith(
        "A worker may live and wait: see snapshot-store-away. If none runs: headrace run fraud.toml"
    )
