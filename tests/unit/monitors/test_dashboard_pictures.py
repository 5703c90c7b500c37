"""What the dashboard's pages show of a fleet, before any of it is drawn."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from monitors import Alert, Incident, Status, delay_histogram
from monitors.app.dashboard import charts, frame, panels
from monitors.app.dashboard.charts import Remembered
from monitors.app.dashboard.view import View
from monitors.app.site import DeadLetter, Feed, Site
from monitors.fleet import Fleet, PipelineFacts, PipelineState, Source, Standing, views
from tests.unit.monitors.fleet_cases import DRIFT, FACTS, INCIDENT, STATUS, record

NOW = STATUS.time + 2.0
RELAYED = replace(FACTS, relay_group="fraud.relay", relayed_topics=("chargebacks",))


class Case:
    """One site with records put into it."""

    def __init__(self, *facts: PipelineFacts) -> None:
        self.fleet = Fleet(facts or [FACTS])
        self.feeds = {name: Feed(state="live", loaded=1.0, since=NOW) for name in self.fleet.pipelines}
        self.channels: list[dict[str, Any]] = []

        async def none(pipeline: str, most: int) -> list[DeadLetter]:
            return []

        self.site = Site(
            fleet=self.fleet,
            feeds=self.feeds,
            dead_letters=none,
            channels=lambda: self.channels,
            clock=lambda: NOW,
        )
        self._offsets = itertools.count()

    @property
    def pipeline(self) -> PipelineState:
        """The first."""
        return next(iter(self.fleet.pipelines.values()))

    def put(self, noun: Status | Alert | Incident, **changes: Any) -> None:
        """Put a record on its topic."""
        made = replace(noun, **changes)
        kind: Any = "status" if isinstance(made, Status) else "alerts"
        state = self.fleet.pipelines[made.pipeline]
        applied = state.apply(kind, made.partition or 0, next(self._offsets), record(made), seen_at=made.time)
        assert applied not in ("unreadable", "duplicate"), state.last_unreadable


def quality(case: Case, metric: str = "accuracy", **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"seconds": 3_600.0, "now": NOW, "partition": None, "zoom": None}
    return charts.quality(case.pipeline, metric, **(arguments | {"remembered": Remembered()} | changes))


# --- What is wrong ---------------------------------------------------------------------------------------


def test_critical_incidents_stand_on_every_page_and_warnings_on_their_own() -> None:
    case = Case(FACTS, replace(FACTS, name="clicks"))
    for name in ("fraud", "clicks"):
        case.put(STATUS, pipeline=name)
    case.put(INCIDENT, incident="one")
    case.put(INCIDENT, pipeline="clicks", incident="two", severity="critical", partition=None)

    pages = {page: frame.banners(case.site, NOW, page=page) for page in (None, "fraud", "clicks")}

    assert [item["title"] for item in pages["fraud"]] == ["fraud: one, partition 0", "clicks: two"]
    assert [item["title"] for item in pages["clicks"]] == ["clicks: two"]
    assert [item["tone"] for item in pages[None]] == ["bad", "warn"]
    assert pages["clicks"][0]["text"] == INCIDENT.text
    assert pages["clicks"][0]["since"] == INCIDENT.time
    assert pages["clicks"][0]["href"] == "/p/clicks?tab=alerts&kind=incident"


def test_an_incident_that_several_partitions_have_is_one_box_that_names_them() -> None:
    case = Case()
    case.put(STATUS)
    for partition in (0, 1, 2, 5):
        case.put(
            INCIDENT, partition=partition, time=INCIDENT.time - partition, text=f"No room for {partition}."
        )
    case.put(INCIDENT, partition=3, severity="critical")
    case.put(INCIDENT, partition=None, incident="relay-behind")

    found = frame.banners(case.site, NOW, page="fraud")

    assert [item["title"] for item in found] == [
        "fraud: snapshot-failed, partition 3",
        "fraud: snapshot-failed, partitions 0–2, 5",
        "fraud: relay-behind",
    ]
    assert len({item["key"] for item in found}) == 3
    assert found[1]["since"] == INCIDENT.time - 5
    assert found[1]["text"] == "Partition 0, for one: No room for 0."
    assert (
        frame.banners(case.site, NOW, page=None)[-1]["title"]
        == "2 warnings open; the pipelines below say which."
    )

    case.put(INCIDENT, partition=0, state="closed")
    case.put(INCIDENT, partition=1, state="closed")

    again = {item["title"]: item for item in frame.banners(case.site, NOW, page="fraud")}
    assert again["fraud: snapshot-failed, partitions 2, 5"]["key"] == found[1]["key"]


def test_more_than_a_few_banners_are_counted() -> None:
    case = Case()
    case.put(STATUS)
    for number in range(8):
        case.put(INCIDENT, incident=f"incident-{number}", severity="critical")

    found = frame.banners(case.site, NOW, page="fraud")

    assert len(found) == frame.MOST_BANNERS + 1
    assert found[-1]["word"] == "And 5 more"


@pytest.mark.parametrize(
    ("feed", "word", "said"),
    [
        (Feed(state="connecting"), "Not connected", "Start a broker (headrace broker)"),
        (Feed(state="connecting", restarts=1), "Kafka away", "goes on by itself"),
        (Feed(state="away", problem="no broker answers"), "Kafka away", "no broker answers"),
        (
            Feed(state="live", problem="the topic fraud.status is missing"),
            "Not connected",
            "fraud.status is missing",
        ),
        (Feed(state="loading", loaded=0.43), "Reading history", ""),
    ],
)
def test_a_feed_that_does_not_flow_says_why_and_what_to_do(feed: Feed, word: str, said: str) -> None:
    case = Case()
    case.feeds["fraud"] = feed

    (found,) = frame.banners(case.site, NOW, page="fraud")

    assert found["word"] == word
    assert said in found["text"]
    assert frame.live(case.site, ["fraud"], NOW)["tone"] != "good" or feed.state == "live"


def test_silence_names_the_command_that_ends_it() -> None:
    case = Case(replace(FACTS, settings_file="my settings/fraud.toml"))
    case.put(STATUS)

    assert frame.banners(case.site, NOW, page="fraud") == []
    (found,) = frame.banners(case.site, NOW + 600.0, page="fraud")

    assert found["command"] == "headrace run 'my settings/fraud.toml'"
    assert found["since"] == STATUS.time
    assert frame.head(case.pipeline, case.feeds["fraud"], NOW + 600.0, Remembered())["old"]


# --- The overview and the head ---------------------------------------------------------------------------


def test_the_worst_pipeline_comes_first() -> None:
    names = ("a-ok", "b-none", "c-critical", "d-warning", "e-away")
    case = Case(*(replace(FACTS, name=name) for name in names))
    for name in names:
        if name != "b-none":
            case.put(STATUS, pipeline=name)
    case.put(INCIDENT, pipeline="c-critical", severity="critical")
    case.put(INCIDENT, pipeline="d-warning")
    case.feeds["e-away"].state = "away"

    found = frame.overview(case.site, NOW, Remembered())

    assert [row["pipeline"] for row in found["rows"]] == [
        "c-critical",
        "e-away",
        "d-warning",
        "b-none",
        "a-ok",
    ]
    rows = {row["pipeline"]: row for row in found["rows"]}
    assert rows["b-none"]["command"] == "headrace run fraud.toml"
    assert rows["d-warning"]["say"] == f"snapshot-failed: {INCIDENT.text}"
    assert {item["text"] for item in found["summary"]} >= {"1 critical", "1 healthy", "1 no data yet"}


def test_quality_is_held_against_the_best_baseline() -> None:
    case = Case()
    case.put(STATUS)

    tiles = {
        tile["label"]: tile
        for tile in frame.head(case.pipeline, case.feeds["fraud"], NOW, Remembered())["tiles"]
    }

    assert tiles["Accuracy, last 1,000"]["value"] == "0.92"
    assert tiles["Accuracy, last 1,000"]["delta"] == "+0.31 over majority"
    assert tiles["Labels"]["delta"] == "come with the events"
    assert tiles["Lag"]["delta"] == "about 50 ms"


def test_metric_that_is_no_mean_is_a_range_over_partitions() -> None:
    case = Case(replace(FACTS, metrics=("roc_auc",)))
    for partition, figure in enumerate((0.7, 0.9)):
        case.put(STATUS, partition=partition, metrics={"roc_auc": {"value": figure, "window": figure}})

    (row,) = frame.overview(case.site, NOW, Remembered())["rows"]

    assert row["quality"]["value"] == "0.7 – 0.9"
    assert row["quality"]["delta"] == "over 2 partitions"
    assert row["spark"]["label"].startswith("events/s")


def test_late_labels_have_a_tile_of_their_own() -> None:
    case = Case()
    delay = {"p50": 2.0, "p95": 9.0, "count": 50}
    case.put(STATUS, questions=100, joined=60, expired=20, pending=20, label_delay=delay)

    tiles = frame.head(case.pipeline, case.feeds["fraud"], NOW, Remembered())["tiles"]

    (tile,) = (tile for tile in tiles if tile["label"] == "Labels that came, in all")
    assert (tile["value"], tile["delta"]) == ("75.0 %", "half of them within 2 s")


def test_channels_tell_whether_messages_arrive() -> None:
    case = Case()
    facts = {"pipeline": "fraud", "scheme": "slack", "waiting": 0, "open": 0, "last_sent": NOW}
    case.channels = [
        facts | {"name": "one", "sent": 3, "failed": 0, "last_error": None},
        facts | {"name": "two", "sent": 0, "failed": 4, "last_error": "refused\x00"},
        facts | {"name": "three", "sent": 0, "failed": 0, "last_error": None, "last_sent": None},
    ]

    found = [row["cells"] for row in frame.channel_rows(case.site)]

    assert [cells["state"]["text"] for cells in found] == ["Working", "Failing", "Nothing sent yet"]
    assert found[1]["state"]["sub"] == "refused‹0000›"
    assert found[2]["last"] == "never"


# --- Charts ----------------------------------------------------------------------------------------------


def test_quality_has_window_total_and_baselines_with_drifts_marked() -> None:
    case = Case()
    for number in range(5):
        case.put(STATUS, time=NOW - 50.0 + 10.0 * number, offset=200 * number, scored=200 * number)
    case.put(DRIFT, offset=500, time=NOW - 25.0)

    found = quality(case)

    labels = [line["label"] for line in found["picture"]["lines"]]
    assert labels == ["last 1,000", "since the start", "no-change, last 1,000", "majority, last 1,000"]
    assert len(found["picture"]["times"]) == 5
    (mark,) = found["marks"]
    assert mark["kind"] == "drift"
    assert NOW - 50.0 < mark["at"] < NOW
    assert "mean 0.1 → 0.4" in mark["detail"]


def test_without_labels_the_chart_says_what_it_waits_for() -> None:
    case = Case()
    nothing = {"value": None, "window": None}
    case.put(STATUS, scored=0, metrics={"accuracy": nothing, "roc_auc": nothing}, baselines={})

    assert "No label has come yet" in quality(case)["picture"]["none"]


def test_baselines_are_drawn_beside_the_first_metric_only() -> None:
    case = Case()
    case.put(STATUS)

    found = quality(case, "roc_auc")

    assert [line["label"] for line in found["picture"]["lines"]] == ["last 1,000", "since the start"]
    assert "Baselines are known for Accuracy only" in found["text"]


def test_several_partitions_are_averaged_where_that_means_something() -> None:
    case = Case()
    for partition in (0, 3):
        case.put(STATUS, partition=partition)

    assert "weighted by events" in quality(case)["text"]
    assert "this is partition 0" in quality(case, "roc_auc")["text"]
    assert quality(case, "roc_auc", partition=3)["text"].count("partition") == 0


def test_two_viewers_share_a_chart_and_a_new_drift_is_marked_at_once() -> None:
    case = Case()
    for number in range(200):
        case.put(STATUS, time=NOW - 1_000.0 + 5.0 * number)
    remembered = Remembered()

    one, two = (quality(case, remembered=remembered) for _ in range(2))
    case.put(DRIFT, time=NOW)
    three = quality(case, remembered=remembered)

    assert one["picture"]["times"] is two["picture"]["times"] is three["picture"]["times"]
    assert len(three["marks"]) == len(two["marks"]) + 1


def test_what_is_remembered_is_bounded() -> None:
    remembered = Remembered(most=2)
    made: list[int] = []

    for key in (1, 2, 1, 3, 1, 2):
        remembered.get(key, lambda key=key: made.append(key))  # type: ignore[misc]

    assert made == [1, 2, 3, 2]


def test_inside_a_zoom_the_chart_is_finer_and_outside_as_before() -> None:
    case = Case()
    for number in range(1_000):
        case.put(STATUS, time=NOW - 5_000.0 + 5.0 * number)
    whole = quality(case, seconds=86_400.0)["picture"]

    fine = quality(case, seconds=86_400.0, zoom=(NOW - 2_000.0, NOW - 1_000.0))["picture"]

    assert len(fine["times"]) > 3 * len(whole["times"])
    assert fine["times"] == sorted(set(fine["times"]))
    assert (fine["times"][0], fine["times"][-1]) == (whole["times"][0], whole["times"][-1])
    assert all(len(line["values"]) == len(fine["times"]) for line in fine["lines"])


# --- Behind the tabs -------------------------------------------------------------------------------------


def test_alert_rows_tell_what_changed_and_what_is_open() -> None:
    case = Case()
    case.put(STATUS)
    case.put(DRIFT)
    case.put(INCIDENT, incident="first", severity="critical")
    case.put(INCIDENT, incident="second")
    case.put(INCIDENT, incident="second", state="closed", text="It is over.")

    closed, was_open, still_open, drift = panels.alert_rows(case.pipeline, View(), NOW, 10)

    assert closed["cells"]["what"]["text"] == "second (over)"
    assert closed["cells"]["kind"]["text"] == "Closed"
    assert was_open["cells"]["what"]["text"] == "second (was open)"
    assert still_open["cells"]["what"]["text"] == "first (open)"
    assert still_open["tone"] == "bad"
    assert was_open["tone"] is None
    assert drift["cells"]["before"] == "0.1"
    assert drift["cells"]["after"] == {"text": "0.4", "sub": "+0.3 (+300 %)"}
    assert drift["cells"]["position"] == "payments[0]@500"
    assert len({row["key"] for row in (closed, was_open, still_open, drift)}) == 4


def test_an_empty_list_of_alerts_says_why() -> None:
    case = Case()
    case.put(STATUS)
    unwatched = Case(replace(FACTS, watches=()))

    assert "good news" in panels.no_alerts(case.pipeline, View())["title"]
    assert "[[drift]]" in panels.no_alerts(unwatched.pipeline, View())["command"]
    case.put(DRIFT)
    assert panels.no_alerts(case.pipeline, View(text="x"))["action"] == "Clear filters"


def test_a_watch_over_partitions_is_shown_where_it_drifted_last() -> None:
    case = Case()
    for partition in range(4):
        case.put(STATUS, partition=partition)
    case.put(DRIFT, partition=1, time=NOW - 500.0)
    case.put(DRIFT, partition=2, time=NOW - 100.0)
    case.put(DRIFT, partition=2, time=NOW - 90.0, offset=600)

    (card,) = panels.watches(case.pipeline, View(range="15m"), NOW)
    (short,) = panels.watches(case.pipeline, View(range="5m"), NOW)
    (one,) = panels.watches(case.pipeline, View(range="15m", partition=1), NOW)

    assert card["state"]["text"] == "3 drifts in 15 min"
    assert short["state"]["text"] == "2 drifts in 5 min"
    assert [square["tone"] for square in card["partitions"]] == ["calm", "bad", "bad", "calm"]
    assert [square["shown"] for square in card["partitions"]] == [False, False, True, False]
    assert one["partitions"] is None
    assert card["distribution"]["now"] == [0.92, 0.08]
    assert "mean 0.08 now, 0.1 before" in card["said"]


@pytest.mark.parametrize(
    "distribution",
    [
        None,
        "<b>",
        {"edges": [0, 1]},
        {"edges": [0.0, 1.0], "now": [1, 2], "before": [1]},
        {"edges": [1.0, 0.0], "now": [1], "before": [1]},
        {"edges": [0.0, float("nan")], "now": [1], "before": [1]},
        {"edges": [0.0, 1.0], "now": [-1], "before": [1]},
        {"edges": [0.0, 1.0], "now": ["1"], "before": [1]},
        {"edges": [0.0, 1.0], "now": [0], "before": [1]},
        {"edges": list(range(500)), "now": [1] * 499, "before": [1] * 499},
        {"edges": [True, False], "now": [1], "before": [1]},
    ],
)
def test_what_is_no_distribution_is_not_drawn(distribution: object) -> None:
    assert panels._distribution(distribution) is None


def test_a_watch_of_odd_types_is_shown_as_far_as_it_goes() -> None:
    case = Case()
    odd: dict[str, object] = {
        "watch": ["x"],
        "detector": None,
        "drifts": "many",
        "observed": -1,
        "mean_now": "high",
        "state": {},
    }
    case.put(STATUS)
    item = case.pipeline.partitions[0]
    item.status = replace(item.status, drift=[odd])

    (card,) = panels.watches(case.pipeline, View(range="1h"), NOW)

    assert card["now"] == card["before"] == "–"
    assert card["state"]["text"] == "Stable"


def test_partitions_and_workers_tell_who_is_silent() -> None:
    case = Case()
    for partition, worker in enumerate(("a", "a", "b", "a")):
        case.put(STATUS, partition=partition, worker=worker, time=NOW - (0.0 if worker == "a" else 600.0))

    partitions = panels.partition_rows(case.pipeline, NOW)
    workers = {row["key"]: row["cells"] for row in panels.worker_rows(case.pipeline, NOW)}

    assert [row["cells"]["state"]["text"] for row in partitions] == ["Live", "Live", "Silent", "Live"]
    assert workers["a"]["partitions"]["text"] == "0–1, 3"
    assert workers["b"]["state"]["text"] == "Silent"
    assert workers["b"]["rate"]["text"] == "0"


def test_the_relay_is_told_partition_by_partition_what_has_waited_longest_first() -> None:
    case = Case(RELAYED)
    pipeline = case.pipeline
    assert panels.relay_caption(pipeline, NOW) == (
        "Relay into payments, by the offsets of group fraud.relay. It is being read."
    )
    assert panels.relay_rows(pipeline, NOW) == []
    looks = {
        0: [Standing(50, 0, 50), Standing(60, 0, 60)],
        1: [Standing(50, 0, 60), Standing(50, 0, 90)],
        2: [Standing(None, 0, 40), Standing(None, 0, 40)],
        3: [Standing(50, 0, 90), Standing(60, 0, 90)],
        4: [Standing(50, 0, 50), Standing(50, 0, 58)],
    }
    for at, moment in ((0, NOW - 100.0), (1, NOW - 5.0)):
        pipeline.take_relay({Source("chargebacks", p): both[at] for p, both in looks.items()}, moment)

    rows = panels.relay_rows(pipeline, NOW)

    assert [(row["key"], row["cells"]["state"]["text"], row["cells"]["lag"]["text"]) for row in rows] == [
        ("chargebacks[1]", "Stands still", "40"),
        ("chargebacks[2]", "Stands still", "40"),
        ("chargebacks[3]", "Behind", "30"),
        ("chargebacks[4]", "Relaying", "8"),
        ("chargebacks[0]", "Up to date", "0"),
    ]
    assert rows[0]["cells"]["waited"]["text"] == "100 s"
    assert rows[1]["cells"]["offset"]["text"] == "nothing committed"
    assert panels.relay_caption(pipeline, NOW) == "Relay into payments, by the offsets of group fraud.relay"


def test_a_relay_that_can_not_be_read_is_said_and_its_figures_are_not_taken_for_those_of_now() -> None:
    case = Case(RELAYED)
    case.pipeline.take_relay({Source("chargebacks", 0): Standing(50, 0, 50)}, NOW - 300.0)
    case.pipeline.take_relay("127.0.0.1:9092 refused\x1b[2J.", NOW - 10.0)

    (row,) = panels.relay_rows(case.pipeline, NOW)

    assert row["cells"]["state"]["text"] == "Not known"
    assert panels.relay_caption(case.pipeline, NOW).endswith(
        "It can't be read, for 5 min: 127.0.0.1:9092 refused‹001B›[2J."
    )


def test_without_a_relay_there_is_nothing_to_tell_of_it() -> None:
    assert panels.relay_rows(Case().pipeline, NOW) == []
    assert panels.relay_caption(Case().pipeline, NOW) == ""


def test_classes_are_held_against_the_labels_that_came() -> None:
    case = Case()
    case.put(STATUS, classes={"predicted": {"a\u202e": 3, "": 1}, "label": {"a\u202e": 2, "b": 2}})

    found = panels.class_bars(case.pipeline, None)

    assert [bar["label"] for bar in found["bars"]] == ["a‹202E›", "b", "all others"]
    assert found["bars"][0]["value"] == "75.0 % predicted, 50.0 % came"


def facts_of(panel: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {fact["label"]: (fact["value"], fact.get("unit", "")) for fact in panel["facts"]}


LABELS: dict[str, Any] = {
    "questions": 110,
    "joined": 90,
    "expired": 10,
    "expired_early": 1,
    "late": 5,
    "unmatched": 3,
    "conflicting_labels": 2,
    "early": 10,
}


def test_every_state_of_a_label_is_told_with_its_share() -> None:
    case = Case()
    for partition in (0, 1):
        case.put(STATUS, partition=partition, **(LABELS if partition else {}))

    both, first = panels.label_facts(case.pipeline, None), panels.label_facts(case.pipeline, 0)

    facts = facts_of(both)
    assert (facts["Joined"], facts["Expired"]) == (("90", "(90.0 %)"), ("10", "(10.0 %)"))
    assert (facts["Late"], facts["Unmatched"]) == (("5", "(5.0 %)"), ("3", "(3.0 %)"))
    assert (facts["Conflicting"], facts["Duplicate"]) == (("2", "(2.0 %)"), ("0", "(0.0 %)"))
    assert facts["Early"] == ("10", "(10.0 %)")
    assert {fact["label"] for fact in both["facts"] if fact.get("tone")} == {
        "Expired early",
        "Late",
        "Unmatched",
        "Conflicting",
    }
    assert set(facts_of(first).values()) == {("0", "")}


def test_how_long_labels_take_is_a_bar_for_each_bin_that_is_near_one() -> None:
    case = Case()
    delay = {"p50": 40.0, "p95": 300.0, "count": 4}
    for partition, delays in enumerate(([-1.0, 0.5, 200.0], [40.0])):
        histogram = delay_histogram(delays)
        case.put(STATUS, partition=partition, label_delay=delay, label_delay_histogram=histogram)

    both, second = panels.delay_bars(case.pipeline, None), panels.delay_bars(case.pipeline, 1)

    assert "of each partition" in both["text"]
    assert facts_of(both)["95 % came within"] == ("5 min", "")
    assert [(bar["label"], bar["value"]) for bar in both["bars"]] == [
        ("label first", "1, 25.0 %"),
        ("up to 100 ms", "0, 0.0 %"),
        ("up to 1 s", "1, 25.0 %"),
        ("up to 10 s", "0, 0.0 %"),
        ("up to 60 s", "1, 25.0 %"),
        ("up to 5 min", "1, 25.0 %"),
        ("up to 15 min", "0, 0.0 %"),
    ]
    assert [bar["label"] for bar in second["bars"]] == ["up to 10 s", "up to 60 s", "up to 5 min"]


@pytest.mark.parametrize(
    "histogram", [None, {"bounds": [], "counts": [0.0]}, {"bounds": [1.0], "counts": [0.0, 0.0]}]
)
def test_without_a_label_in_a_record_of_its_own_there_are_no_bars(histogram: Any) -> None:
    case = Case()
    case.put(STATUS, label_delay_histogram=histogram)

    found = panels.delay_bars(case.pipeline, None)

    assert (found["bars"], found["text"]) == ([], "No label has come in a record of its own yet.")


@pytest.mark.parametrize(
    "changes",
    [
        {
            "label_delay_histogram": {
                "bounds": [-1e308, 1e-300, 1e308],
                "counts": [1.0, 2.0**52, 2.0**52, 0.5],
            }
        },
        {"label_delay_histogram": {"bounds": [], "counts": [3.0]}},
        {"label_delay_histogram": {"bounds": [float(n) for n in range(499)], "counts": [1.0] * 500}},
        {"label_delay": {"p50": -1e308, "p95": 1e308}, "label_health": {"coverage": -1e308, "x" * 300: None}},
        {"joined": -5, "expired": 5, "late": -1, "unmatched": 2**52, "early": 2**52},
    ],
)
def test_figures_that_no_worker_has_are_shown_as_they_are_and_stay_short(changes: dict[str, Any]) -> None:
    case = Case()
    for partition in (0, 1):
        case.put(STATUS, partition=partition, **changes)

    shown = [panels.label_facts(case.pipeline, None), panels.delay_bars(case.pipeline, None)]
    charts_ = panels.data_charts(case.pipeline, View(tab="data", range="1h"), NOW, None, Remembered())

    text = json.dumps([shown, charts_], allow_nan=False)
    assert len(shown[1]["bars"]) <= panels.MOST_BINS
    assert len(text) < 60_000
    json.dumps([views.labels(case.pipeline), views.partitions(case.pipeline, NOW)], allow_nan=False)


def test_dead_letters_are_shown_as_text_with_their_size() -> None:
    letter = DeadLetter(
        position="payments[0]@7",
        stage="decode",
        error="RecordError",
        message="it is no JSON",
        key=None,
        value='{"a": 1}\x00',
        bytes=5_000,
        time=NOW,
    )

    (row,) = panels.dead_letter_rows([letter])

    assert row["cells"]["size"] == "4.88 KiB"
    details = {item["label"]: item["text"] for item in row["details"]}
    assert details["Value (its first 9 characters)"] == '{"a": 1}‹0000›'
    assert details["Key"] == "–"


def test_learner_is_told_with_its_size_and_speed() -> None:
    case = Case()
    for partition in (0, 1):
        case.put(STATUS, partition=partition)

    facts = {fact["label"]: fact["value"] for fact in panels.learner_facts(case.pipeline)["facts"]}

    assert facts["Name"] == "logistic-regression"
    assert facts["Learned"] == "1,980"
    assert facts["Size"] == "41 KiB"
    assert facts["A prediction takes"] == "10 μs"
    assert panels.learner_parameters(case.pipeline)["facts"] == [
        {"label": "l2", "value": "0.001", "mono": True}
    ]


@pytest.mark.full
def test_a_page_over_fifty_partitions_is_made_in_a_tenth_of_a_second() -> None:
    """Of CPU: what others take of it at the same time is not the page's."""
    from tests.browser.pretend import pretend_site

    site = pretend_site(NOW, ["wide"])
    pipeline, feed = site.fleet.pipelines["wide"], site.feeds["wide"]
    took = []
    for _ in range(5):
        remembered = Remembered()
        begun = time.thread_time()
        frame.head(pipeline, feed, NOW, remembered)
        charts.quality(
            pipeline, "accuracy", seconds=3_600.0, now=NOW, partition=None, zoom=None, remembered=remembered
        )
        panels.alert_rows(pipeline, View(), NOW, 5)
        frame.banners(site, NOW, page="wide")
        took.append(time.thread_time() - begun)

    assert min(took) < 0.1


def test_without_a_dead_letter_there_is_no_bar_of_any_stage() -> None:
    """A worker's status has every stage, with 0."""
    pipeline = PipelineState(FACTS)
    stages = {"decode": 0, "learn": 0}
    pipeline.apply("status", 0, 0, record(STATUS, dead_letters_by_stage=stages), seen_at=STATUS.time)

    assert panels.dead_letter_bars(pipeline)["bars"] == []

    more = record(STATUS, dead_letters=3, dead_letters_by_stage=stages | {"learn": 3})
    pipeline.apply("status", 0, 1, more, seen_at=STATUS.time)

    (bar,) = panels.dead_letter_bars(pipeline)["bars"]
    assert (bar["label"], bar["parts"][0]["share"]) == ("learn", 1.0)


def test_a_partition_that_has_only_replayed_is_shown() -> None:
    """As of a worker that began with a long replay, before its first live status."""
    case = Case()
    case.put(STATUS, state="replaying")

    assert frame.overview(case.site, NOW, Remembered())["rows"][0]["pipeline"] == "fraud"
    assert frame.head(case.pipeline, case.feeds["fraud"], NOW, Remembered())["tiles"]
    assert charts.known_seconds(case.pipeline, NOW) == 0.0


def test_workers_that_write_at_moments_of_their_own_are_added_up_all_the_time() -> None:
    """A line of sums must not fall to that of one worker between the statuses of the others."""
    case = Case()
    for second in range(0, 600, 5):
        for partition in range(3):
            case.put(
                STATUS,
                partition=partition,
                lag_records=10,
                rate=100.0,
                time=NOW - 600.0 + second + 1.7 * partition,
            )

    found = views.chart(case.pipeline, ["lag_records", "rate"], since=NOW - 500.0, until=NOW)

    assert set(found["columns"]["lag_records"]) == {30.0}
    assert set(found["columns"]["rate"]) == {300.0}


def test_rare_statuses_of_several_workers_are_added_up_too() -> None:
    case = Case(replace(FACTS, status_interval_seconds=60.0))
    for minute in range(30):
        for partition in range(2):
            case.put(
                STATUS,
                partition=partition,
                lag_records=10,
                time=NOW - 1_800.0 + 60.0 * minute + 25.0 * partition,
            )

    found = views.chart(case.pipeline, ["lag_records"], since=NOW - 1_700.0, until=NOW)

    assert set(found["columns"]["lag_records"]) == {20.0}


def test_a_partition_without_a_worker_is_no_longer_added_up() -> None:
    case = Case()
    for second in range(0, 600, 5):
        for partition in range(2 if second < 300 else 1):
            case.put(STATUS, partition=partition, rate=100.0, time=NOW - 600.0 + second)

    found = views.chart(case.pipeline, ["rate"], since=NOW - 600.0, until=NOW)
    at = dict(zip(found["times"], found["columns"]["rate"], strict=True))

    assert {rate for time_, rate in at.items() if time_ < NOW - 310.0} == {200.0}
    assert {rate for time_, rate in at.items() if time_ > NOW - 250.0} == {100.0}


@pytest.mark.parametrize("partitions", [1, 2])
def test_no_line_is_drawn_over_a_time_of_which_nothing_is_known(partitions: int) -> None:
    """No worker ran, or the broker was away."""
    case = Case()
    for second in (*range(0, 300, 5), *range(600, 900, 5)):
        for partition in range(partitions):
            case.put(STATUS, partition=partition, time=NOW - 900.0 + second)

    found = views.chart(case.pipeline, ["accuracy window"], since=NOW - 900.0, until=NOW)
    at = zip(found["times"], found["columns"]["accuracy window"], strict=True)

    (unknown,) = [time_ for time_, figure in at if figure is None]
    assert NOW - 600.0 < unknown < NOW - 300.0


def test_the_last_point_of_a_chart_is_the_figure_beside_it() -> None:
    """Weighted alike: the window by what is in it, baselines as the metric."""
    case = Case()
    for partition, (scored, window) in enumerate(((100_000, 0.9), (500, 0.3))):
        case.put(
            STATUS,
            partition=partition,
            scored=scored,
            metrics={"accuracy": {"value": window, "window": window}},
            baselines={"no_change": {"value": 1 - window, "window": 1 - window}},
        )

    names = ["accuracy window", "accuracy value", "no_change window", "no_change value"]
    found = views.chart(case.pipeline, names, since=NOW - 60.0, until=NOW)["columns"]
    summary = views.summary(case.pipeline, NOW)

    assert found["accuracy window"][-1] == pytest.approx(summary["quality"]["window"]) == pytest.approx(0.7)
    assert found["accuracy value"][-1] == pytest.approx(summary["quality"]["value"])
    for over in ("window", "value"):
        assert found[f"no_change {over}"][-1] == pytest.approx(summary["baselines"]["no_change"][over])


def test_a_worker_whose_clock_is_wrong_is_not_called_silent() -> None:
    case = Case()
    state = case.pipeline
    late = record(replace(STATUS, time=NOW - 120.0))
    assert state.apply("status", 0, 0, late, seen_at=NOW) == "status"

    assert views.state_of(state, NOW) == "ok"
    (row,) = panels.partition_rows(state, NOW)
    (worker,) = panels.worker_rows(state, NOW)
    assert row["cells"]["state"]["text"] == "Live"
    assert worker["cells"]["state"]["text"] == "Running"
    assert views.summary(state, NOW)["age_seconds"] == 0.0


def test_who_hears_the_page_is_told_which_pipeline_drifted() -> None:
    case = Case(FACTS, replace(FACTS, name="other"))
    case.put(DRIFT, watch="label", offset=1)
    before = frame.drifts_counted(case.site, ["fraud", "other"])
    case.put(DRIFT, pipeline="other", watch="error", partition=2, offset=2)
    after = frame.drifts_counted(case.site, ["fraud", "other"])

    assert frame.news(case.site, before, after) == "New drift in other: error, partition 2."
    assert frame.news(case.site, after, after) == ""


def test_of_partitions_without_a_worker_lag_is_as_of_their_last_status_and_nothing_is_done() -> None:
    case = Case()
    case.put(STATUS, lag_records=0, rate=50.0, time=NOW)
    assert frame.lag_figure(views.summary(case.pipeline, NOW))["sub"] == "up to date"
    case.put(STATUS, partition=1, lag_records=0, rate=50.0, time=NOW - 600.0)

    summary = views.summary(case.pipeline, NOW)
    rows = panels.partition_rows(case.pipeline, NOW)

    assert (summary["partitions"], summary["silent"]) == (2, 1)
    assert frame.lag_figure(summary)["sub"] == "as of the last status"
    assert [row["cells"]["rate"]["text"] for row in rows] == ["50", "0"]


def test_a_pipeline_whose_workers_are_gone_is_critical_and_its_figures_are_old() -> None:
    case = Case()
    case.put(STATUS, time=NOW - 600.0)
    row, live = frame.overview(case.site, NOW, Remembered())["rows"][0], frame.live(case.site, ["fraud"], NOW)
    assert (row["state"]["text"], row["old"], live["text"]) == ("Silent", True, "no news")

    case.put(INCIDENT, incident="worker-gone", severity="critical")

    row, live = frame.overview(case.site, NOW, Remembered())["rows"][0], frame.live(case.site, ["fraud"], NOW)
    assert (row["state"]["text"], row["old"], live["text"]) == ("Critical", True, "no news")
    head = frame.head(case.pipeline, case.feeds["fraud"], NOW, Remembered())
    assert (head["state"]["text"], head["old"]) == ("Critical", True)
    assert [item["word"] for item in frame.banners(case.site, NOW, page="fraud")] == ["Critical", "Silent"]


def test_a_critical_incident_is_critical_though_no_status_is_known_any_more() -> None:
    case = Case()
    assert views.state_of(case.pipeline, NOW) == "no-data"

    case.put(INCIDENT, incident="worker-gone", severity="critical")

    assert views.state_of(case.pipeline, NOW) == "critical"
