from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from monitors import SnapshotFacts
from monitors.fleet import Fleet, PipelineState, SeenAlert
from monitors.fleet import fleet as limits
from monitors.fleet.fleet import Applied, PartitionState, TopicKind
from tests.unit.monitors.fleet_cases import DRIFT, FACTS, INCIDENT, STATUS, record

NOW = STATUS.time


class Topics:
    """Hands records to a pipeline's state, each behind the last."""

    def __init__(self) -> None:
        self.pipeline = PipelineState(FACTS)
        self._next: dict[tuple[TopicKind, int], int] = {}

    def put(self, kind: TopicKind, value: bytes | None, *, partition: int = 0, at: float = NOW) -> Applied:
        offset = self._next.get((kind, partition), 0)
        self._next[(kind, partition)] = offset + 1
        return self.pipeline.apply(kind, partition, offset, value, seen_at=at)

    def status(self, **changes: Any) -> PartitionState:
        """A status, seen when it was made."""
        at = changes.get("time", NOW)
        assert self.put("status", record(STATUS, **changes), at=at) == "status"
        return self.pipeline.partitions[changes.get("partition", 0)]

    def alert(self, noun: Any = DRIFT, **changes: Any) -> Applied:
        return self.put("alerts", record(noun, **changes))


@pytest.fixture
def topics() -> Topics:
    return Topics()


# --- Records ---------------------------------------------------------------------------------------------


def test_a_record_that_comes_again_is_dropped(topics: Topics) -> None:
    """A session that begins anew may read again what was read."""
    pipeline = topics.pipeline
    values = [record(DRIFT, offset=offset) for offset in range(3)]

    first = [pipeline.apply("alerts", 0, offset, value, seen_at=NOW) for offset, value in enumerate(values)]
    version = pipeline.version
    again = [pipeline.apply("alerts", 0, offset, value, seen_at=NOW) for offset, value in enumerate(values)]

    assert (first, again) == (["alert"] * 3, ["duplicate"] * 3)
    assert (len(pipeline.alerts), pipeline.counts["drift"], pipeline.version) == (3, 3, version)
    assert pipeline.next_offset("alerts", 0) == 3
    assert pipeline.next_offset("alerts", 1) == pipeline.next_offset("status", 0) == 0


def test_a_topic_that_was_made_anew_is_read_from_its_beginning(topics: Topics) -> None:
    topics.status()
    topics.status()

    topics.pipeline.begin_again("status", 0)

    assert topics.pipeline.apply("status", 0, 0, record(STATUS, offset=7), seen_at=NOW) == "status"
    assert topics.pipeline.partitions[0].status.offset == 7


def test_an_alert_of_an_aborted_transaction_counts_once_when_it_is_written_again(topics: Topics) -> None:
    """The monitor reads what is not committed; the rewritten alert has the same position and bytes."""
    applied = [topics.alert(), topics.alert(), topics.alert(watch="label"), topics.alert(kind="warning")]

    assert applied == ["alert", "duplicate", "alert", "alert"]
    assert topics.pipeline.counts == {"drift": 2, "warning": 1}
    assert [seen.offset for seen in topics.pipeline.alerts] == [0, 2, 3]


def test_garbage_is_counted_and_its_place_is_told(topics: Topics) -> None:
    topics.status()

    assert topics.put("status", b"\x00garbage") == "unreadable"
    assert topics.pipeline.last_unreadable.startswith("fraud.status[0]@1: it is no JSON")
    assert topics.put("alerts", None, partition=3) == "unreadable"
    assert topics.pipeline.last_unreadable == "fraud.alerts[3]@0: it has no value; expected a JSON object"
    assert topics.put("status", record(STATUS, pipeline="other")) == "unreadable"
    assert topics.pipeline.last_unreadable == "fraud.status[0]@2: it is of pipeline 'other'; expected 'fraud'"
    assert topics.pipeline.unreadable == 3
    assert topics.pipeline.partitions[0].status == STATUS


def test_what_is_said_of_garbage_is_short(topics: Topics) -> None:
    topics.put("status", record(STATUS, pipeline="x" * 100_000))

    assert len(topics.pipeline.last_unreadable) < 400


def test_a_status_from_the_future_is_refused(topics: Topics) -> None:
    """It would be the last cell of every chart from then on."""
    assert topics.put("status", record(STATUS, time=NOW + 3_600)) == "status"
    assert topics.put("status", record(STATUS, time=NOW + 3_601)) == "unreadable"
    assert topics.pipeline.last_unreadable == (
        "fraud.status[0]@1: its time is 3,601 s ahead; expected at most 3,600 s. Look at the clock of its worker"
    )


def test_no_name_twice_in_a_fleet() -> None:
    fleet = Fleet([FACTS, replace(FACTS, name="other")])

    assert list(fleet.pipelines) == ["fraud", "other"]
    assert fleet.version == 0
    fleet.pipelines["fraud"].apply("status", 0, 0, record(STATUS), seen_at=NOW)
    assert fleet.version == 1
    with pytest.raises(ValueError, match="given twice"):
        Fleet([FACTS, FACTS])


# --- Memory ----------------------------------------------------------------------------------------------


def test_only_so_many_alerts_are_remembered_and_all_are_counted(topics: Topics) -> None:
    for offset in range(limits.MOST_ALERTS + 10):
        topics.alert(offset=offset)

    assert len(topics.pipeline.alerts) == limits.MOST_ALERTS
    assert topics.pipeline.counts["drift"] == limits.MOST_ALERTS + 10
    assert topics.pipeline.alerts[0].alert.offset == 10


def test_there_are_never_more_than_so_many_partitions(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_PARTITIONS", 3)
    for partition in range(3):
        topics.status(partition=partition)

    assert topics.put("status", record(STATUS, partition=3)) == "unreadable"
    assert topics.put("status", record(STATUS, partition=2)) == "status"
    assert len(topics.pipeline.partitions) == 3


def test_there_are_never_more_than_so_many_incidents_open_and_names_counted(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_OPEN", 3)
    monkeypatch.setattr(limits, "MOST_NAMES", 2)

    applied = [topics.alert(INCIDENT, incident=f"odd-{number}") for number in range(5)]

    assert applied == ["incident"] * 3 + ["unreadable"] * 2
    assert topics.pipeline.counts == {"odd-0": 1, "odd-1": 1}
    assert topics.alert(INCIDENT, incident="odd-0", state="closed") == "incident"
    assert topics.alert(INCIDENT, incident="odd-4") == "incident"


def test_an_incident_can_not_be_called_like_a_kind_of_alert(topics: Topics) -> None:
    assert topics.alert(INCIDENT, incident="drift") == "unreadable"
    assert topics.pipeline.counts["drift"] == 0


def test_counters_are_kept_thinly_and_for_so_long(topics: Topics) -> None:
    for number in range(3_000):
        topics.status(time=NOW + 5 * number, events=1_000 + number)
    item = topics.pipeline.partitions[0]

    assert len(item.counters) == 360
    now, before = item.grown(600.0)
    assert now.events == 3_999
    assert 600.0 <= now.time - before.time <= 620.0
    assert now.events - before.events == pytest.approx(120, abs=4)
    assert now.time - item.grown(1e9)[1].time >= 7_000.0


# --- Incidents -------------------------------------------------------------------------------------------


def test_an_incident_is_open_until_it_is_closed(topics: Topics) -> None:
    pipeline = topics.pipeline
    applied = [
        topics.alert(INCIDENT),
        topics.alert(INCIDENT, text="again"),  # another worker tells of the same
        topics.alert(INCIDENT, partition=1),
        topics.alert(INCIDENT, partition=None),
    ]

    assert applied == ["incident", "duplicate", "incident", "incident"]
    assert list(pipeline.open) == [(0, "snapshot-failed"), (1, "snapshot-failed"), (None, "snapshot-failed")]
    assert pipeline.open[(0, "snapshot-failed")].alert == INCIDENT

    assert topics.alert(INCIDENT, state="closed") == "incident"
    assert topics.alert(INCIDENT, state="closed") == "duplicate"
    assert list(pipeline.open) == [(1, "snapshot-failed"), (None, "snapshot-failed")]
    assert len(pipeline.alerts) == 4
    assert pipeline.counts == {"snapshot-failed": 3}


def test_how_bad_an_alert_is() -> None:
    def severity(noun: Any, **changes: Any) -> str:
        return SeenAlert(alert=replace(noun, **changes), partition=0, offset=0, seen_at=NOW).severity

    assert severity(DRIFT) == "warning"
    assert severity(DRIFT, kind="warning") == "info"
    assert severity(INCIDENT, severity="critical") == "critical"
    assert severity(INCIDENT, severity="critical", state="closed") == "info"


# --- Statuses --------------------------------------------------------------------------------------------


def test_progress_is_an_offset_that_moves_or_nothing_left_to_read(topics: Topics) -> None:
    def progressed(**changes: Any) -> float:
        return topics.status(**changes).progressed_at - NOW

    assert progressed(time=NOW) == 0
    assert progressed(time=NOW + 5) == 0
    assert progressed(time=NOW + 10, lag_records=None) == 0
    assert progressed(time=NOW + 15, offset=1_001) == 15
    assert progressed(time=NOW + 20, offset=1_001) == 15
    assert progressed(time=NOW + 25, offset=1_001, lag_records=0) == 25
    assert progressed(time=NOW + 30, offset=900, state="replaying") == 30


def test_counters_of_a_replay_are_not_counted_as_growth(topics: Topics) -> None:
    """It does again, silently, what was counted before."""
    topics.status(time=NOW, events=1_000, non_finite=7)
    topics.status(time=NOW + 30, events=0, non_finite=0, state="replaying")
    topics.status(time=NOW + 60, events=600, non_finite=5, state="replaying")
    item = topics.status(time=NOW + 90, events=1_010, non_finite=7)

    now, before = item.grown(600.0)
    assert (now.events - before.events, now.non_finite - before.non_finite) == (10, 0)


def test_a_partition_that_begins_with_a_replay_has_not_grown(topics: Topics) -> None:
    item = topics.status(events=500, state="replaying")
    assert item.grown(600.0)[0] == item.grown(600.0)[1]
    assert (item.began, item.last_event) == (None, None)

    item = topics.status(time=NOW + 5, events=1_000)

    assert item.grown(600.0)[0] == item.grown(600.0)[1] == item.began
    assert item.last_event is None


def test_counters_that_fall_begin_anew(topics: Topics) -> None:
    """`headrace reset` or `rebuild`: the old state's counters say nothing of the new one."""
    for number in range(10):
        topics.status(time=NOW + 60 * number, events=1_000 + number, joined=50, expired=50 + number)
    topics.status(time=NOW + 660, offset=5, events=5, joined=3, expired=2)
    item = topics.status(time=NOW + 720, offset=9, events=9, joined=6, expired=3)

    now, before = item.grown(600.0)
    assert (now.events - before.events, now.joined - before.joined) == (4, 3)
    _, figures = item.series.read(["coverage"], since=NOW + 710, until=NOW + 730, step_seconds=1.0)
    assert figures.tolist() == [[0.75]]


def test_counters_that_fall_a_little_lose_only_what_is_ahead(topics: Topics) -> None:
    """A worker that died had said more than it had committed."""
    for number in range(10):
        topics.status(time=NOW + 60 * number, events=1_000 + 10 * number)
    item = topics.status(time=NOW + 600, events=1_085)

    now, before = item.grown(600.0)
    assert now.events - before.events == 85


def test_when_events_and_labels_last_came(topics: Topics) -> None:
    topics.status(time=NOW, events=10, learned=5)
    topics.status(time=NOW + 5, events=11, learned=5)
    item = topics.status(time=NOW + 10, events=11, learned=5)

    assert item.last_event is not None
    assert (item.last_event.time, item.last_event.events) == (NOW + 5, 11)
    assert item.last_learned is None
    assert item.began is not None
    assert item.began.time == NOW

    item = topics.status(time=NOW + 15, events=11, learned=6)

    assert item.last_event is not None
    assert item.last_learned is not None
    assert (item.last_event.time, item.last_learned.time) == (NOW + 5, NOW + 15)


def test_since_when_a_snapshot_lacks_something(topics: Topics) -> None:
    def saved(offset: int, later: float, of: int, at: float) -> float:
        snapshot = SnapshotFacts(name="a", offset=of, time=NOW + at, bytes=1, pause_seconds=0.0, seconds=0.0)
        return topics.status(offset=offset, time=NOW + later, snapshot=snapshot).saved_at - NOW

    assert saved(100, 0, of=90, at=-50) == -50
    assert saved(101, 5, of=90, at=-50) == -50
    assert saved(101, 10, of=101, at=8) == 10
    assert saved(101, 15, of=101, at=8) == 15
    assert saved(102, 20, of=101, at=8) == 15
    assert saved(103, 25, of=102, at=22) == 22
    assert saved(104, 1_000, of=102, at=22) == 1_000  # nobody was there to write one
    assert saved(105, 1_005, of=102, at=22) == 1_000


def test_without_a_snapshot_it_lacks_all_since_the_first_status(topics: Topics) -> None:
    topics.status(snapshot=None)
    assert topics.status(snapshot=None, time=NOW + 20, offset=2_000).saved_at == NOW


def test_a_status_becomes_the_columns_of_the_charts(topics: Topics) -> None:
    item = topics.status(label_delay={"p50": 1.0, "p95": 9.0, "count": 3.0})
    names = item.series.columns

    times, figures = item.series.read(names, since=0.0, until=2 * NOW, step_seconds=4.0)

    assert times.tolist() == [NOW]
    found = dict(zip(names, figures[0].tolist(), strict=True))
    assert (
        found
        | {
            "rate": 200.0,
            "lag_records": 10.0,
            "label_delay_p95": 9.0,
            "accuracy window": 0.92,
            "no_change value": 0.5,
            "watch error adwin": 0.08,
            "snapshot_bytes": 21_000.0,
        }
        == found
    )


@pytest.mark.parametrize("mean", ["0.5", None, True, [1.0]])
def test_a_mean_that_is_no_number_is_no_column(topics: Topics, mean: object) -> None:
    item = topics.status(drift=[{"watch": "error", "detector": "adwin", "mean_now": mean}])

    assert "watch error adwin" not in item.series.columns


def test_shares_of_labels_are_those_of_the_last_ten_minutes(topics: Topics) -> None:
    for number in range(121):
        late = 5_000 if number <= 60 else 5_000 + 2 * (number - 60)
        item = topics.status(
            time=NOW + 20 * number, joined=8 * number, late=late, unmatched=7, early=number, early_waiting=3
        )

    shares = ["late_share", "unmatched_share", "early_share", "conflicting_share"]
    for number, expected in ((60, [0.0, 0.0, 1 / 8, 0.0]), (120, [0.2, 0.0, 0.1, 0.0])):
        at = NOW + 20 * number
        _, figures = item.series.read(shares, since=at, until=at, step_seconds=1.0)
        assert figures.tolist() == [[pytest.approx(share) for share in expected]]


def test_a_label_that_waits_early_has_come_and_none_comes_again_when_the_wait_is_over(topics: Topics) -> None:
    topics.status(time=NOW)
    topics.status(time=NOW + 20, early=30, early_waiting=30, joined=10)
    item = topics.status(time=NOW + 40, early=30, early_waiting=0, joined=20, unmatched=20)

    shares = ["early_share", "unmatched_share"]
    for at, expected in ((NOW + 20, [30 / 40, 0.0]), (NOW + 40, [30 / 40, 20 / 40])):
        _, figures = item.series.read(shares, since=at, until=at, step_seconds=1.0)
        assert figures.tolist() == [[pytest.approx(share) for share in expected]]
    assert len(item.counters) == 3  # that fewer wait is no fall of what was counted


def test_statuses_of_an_older_worker_and_then_of_a_newer_one_are_one_history(topics: Topics) -> None:
    """At an upgrade the newer one replays, and tells apart what the older one counted as unmatched."""
    body = orjson.loads(record(STATUS, joined=100, unmatched=50))
    for name in ("late", "early", "early_waiting", "duplicate_labels", "conflicting_labels", "label_health"):
        del body[name]
    for number in range(3):
        older = orjson.dumps(body | {"time": NOW + 20 * number})
        assert topics.put("status", older, at=NOW + 20 * number) == "status"

    item = topics.status(time=NOW + 60, joined=100, late=30, duplicate_labels=20)
    topics.status(time=NOW + 80, joined=110, late=30, duplicate_labels=20)

    _, figures = item.series.read(["late_share", "rate"], since=NOW, until=NOW + 80, step_seconds=20.0)
    assert len(figures) == 5
    assert figures[-1].tolist() == [0.0, 200.0]


def test_coverage_is_that_of_the_last_ten_minutes(topics: Topics) -> None:
    for number in range(121):
        joined = 1_000 + (2 * number if number <= 60 else 120)
        item = topics.status(time=NOW + 20 * number, joined=joined, expired=number)

    _, figures = item.series.read(["coverage"], since=NOW + 20 * 60, until=NOW + 20 * 60, step_seconds=1.0)
    assert figures.tolist() == [[pytest.approx(2 / 3)]]
    _, figures = item.series.read(["coverage"], since=NOW + 20 * 120, until=NOW + 20 * 120, step_seconds=1.0)
    assert figures.tolist() == [[0.0]]


def test_alerts_are_in_the_order_in_which_they_were_seen_whatever_partition_is_read_first(
    topics: Topics,
) -> None:
    """After a restart one partition of the alerts topic is read after the other."""
    for partition in (1, 0, 2):
        for at in (100.0, 200.0, 300.0):
            value = record(DRIFT, partition=partition, offset=int(at))
            topics.put("alerts", value, partition=partition, at=at + partition)
            assert topics.pipeline.taken is not None
            assert topics.pipeline.taken.seen_at == at + partition

    seen = [seen.seen_at for seen in topics.pipeline.alerts]
    assert seen == [100.0, 101.0, 102.0, 200.0, 201.0, 202.0, 300.0, 301.0, 302.0]


def test_of_a_long_history_the_newest_alerts_are_remembered(topics: Topics) -> None:
    for offset in range(limits.MOST_ALERTS):
        topics.put("alerts", record(DRIFT, offset=offset), at=1_000.0 + offset)
    for offset in range(3):
        topics.put(
            "alerts", record(DRIFT, partition=1, offset=offset), partition=1, at=10.0 + 2_000.0 * offset
        )

    alerts = topics.pipeline.alerts
    assert len(alerts) == limits.MOST_ALERTS
    assert alerts[0].seen_at == 1_002.0, "two of the oldest made room, and one was older still"
    assert [seen.seen_at for seen in alerts if seen.partition == 1] == [2_010.0, 4_010.0]
    assert topics.pipeline.counts["drift"] == limits.MOST_ALERTS + 3
