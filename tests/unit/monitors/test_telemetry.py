"""The list of what Prometheus is told, and the text that it scrapes."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from monitors import SnapshotFacts
from monitors.telemetry import (
    LABEL_STATES,
    LEVELS,
    MOST_CHANNELS,
    MOST_CHARACTERS,
    MOST_RELAYED,
    MOST_WATCHDOGS,
    MOST_WATCHES,
    SEVERITIES,
    STAGES,
    TOPIC_KINDS,
    ChannelReadings,
    Counts,
    Distribution,
    Family,
    MonitorReadings,
    MonitorTelemetry,
    PartitionReadings,
    PipelineReadings,
    RelayReadings,
    Telemetry,
    Watch,
    WatchReading,
    WorkerReadings,
    families,
)
from stream.testing import ManualClock
from tests.unit.monitors.test_records import STATUS

ROOT = Path(__file__).parents[3]
SPECS = [family.value for family in Family]
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
HOSTILE = 'a"b\\c\nheadrace_fake 1\n# TYPE x counter\r\u2028\ud800{}=,' + "x" * 500


def watch(number: int = 0, name: str = "error") -> WatchReading:
    return WatchReading(name=Watch(name, "adwin"), warned=True, skipped=3, drifts=number, warnings=7)


SNAPSHOT = SnapshotFacts(
    name="0/00000000000000000007-0123456789abcdef.snapshot",
    offset=7,
    time=900.0,
    bytes=2_048,
    pause_seconds=0.1,
    seconds=0.2,
)


def distribution(family: Family, *values: float) -> Any:
    found = Distribution(family.value.buckets)
    for value in values:
        found.observe(value)
    return found.reading()


PARTITION = PartitionReadings(
    partition=3,
    state="live",
    committed=12,
    counts=Counts(events=10, predictions=9, learned=8, joined=5, late=4, unmatched=3, conflicting_labels=1),
    dead_letters={"decode": 2, "learn": 1},
    label_delay=distribution(Family.LABEL_DELAY, 0.003, 7.0, 1e9),
    watches=[watch(1)],
    learned_at=990.0,
    status=replace(STATUS, snapshot=SNAPSHOT, lag_records=5),
    snapshots_written=4,
    snapshots_failed=1,
    incidents=["snapshot-failed"],
)


READINGS = WorkerReadings(
    turned_at=50.0,
    progressed_at=40.0,
    processed_records=20,
    processing_seconds=0.5,
    commits=6,
    aborted_commits=1,
    fenced=0,
    distributions={
        family: distribution(family, 0.003, 7.0, 1e9)
        for family in families("worker")
        if family.value.kind == "histogram" and family not in (Family.LEARNER_CALL, Family.LABEL_DELAY)
    },
    learner_calls={
        "predict": distribution(Family.LEARNER_CALL, 2e-5),
        "learn": distribution(Family.LEARNER_CALL),
    },
    partitions=[PARTITION, PartitionReadings(partition=4, state="waiting")],
)
PIPELINE = PipelineReadings(
    pipeline="p",
    is_connected=True,
    is_history_loaded=True,
    restarts=1,
    records={"status": 500, "alerts": 20},
    unreadable=2,
    status_arrived_at=990.0,
    partitions=4,
    workers=2,
    lag_records=30,
    metric="accuracy",
    quality={"value": 0.8, "window": 0.7},
    baselines={"no_change": {"value": 0.6, "window": 0.5}},
    open_incidents={"critical": 1, "info": 2},
    drift_alerts={"drift": 3},
    relay=RelayReadings(read_at=997.0, topics={"chargebacks": (7, 42.0), "returns": (0, 0.0)}),
    watchdog_openings={"silent": 1, "lag-grows": 0},
    channels=[ChannelReadings(channel="chat", sent=5, failed=1, waiting=2), ChannelReadings(channel="mail")],
)
MONITOR = MonitorReadings(
    began_at=900.0,
    loop_delay=distribution(Family.MONITOR_LOOP_DELAY, 0.001, 0.2),
    viewers=3,
    pipelines=[PIPELINE, PipelineReadings(pipeline="q", is_connected=False, is_history_loaded=False)],
)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(
        pipeline="p",
        topic="events",
        worker="p-host-0",
        version="1.2.3",
        clock=ManualClock(60.0),
        wall_clock=ManualClock(1_000.0),
    )


@pytest.fixture
def monitor() -> MonitorTelemetry:
    return MonitorTelemetry(version="1.2.3", wall_clock=ManualClock(1_000.0))


def samples(
    telemetry: Telemetry | MonitorTelemetry,
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and labels; one that comes twice is a mistake."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(telemetry.exposition()[1].decode()):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(telemetry: Telemetry | MonitorTelemetry, name: str, **labels: str) -> float | None:
    """The value of the one series of the pipeline with these labels; None if there is none."""
    return samples(telemetry).get((name, tuple(sorted(({"pipeline": "p"} | labels).items()))))


# The list -------------------------------------------------------------------------------------------------------


def test_names_are_unique_and_as_prometheus_wants_them() -> None:
    names = [spec.name for spec in SPECS]

    assert len(set(names)) == len(names)
    for spec in SPECS:
        assert re.fullmatch(r"headrace(_[a-z]+)+", spec.name)
        assert spec.name.endswith("_total") == (spec.kind == "counter")
        assert not spec.unit or spec.name.removesuffix("_total").endswith(f"_{spec.unit}")
        assert all(unit == spec.unit for unit in ("seconds", "bytes", "records") if f"_{unit}" in spec.name)


def test_every_family_says_what_it_means_in_sentences() -> None:
    for spec in SPECS:
        assert spec.meaning.endswith(".")
        assert not spec.remedy or spec.remedy.endswith(".")


def test_labels_come_from_a_short_list() -> None:
    known = {"pipeline", "partition", "topic", "worker", "version", "state", "call", "result", "stage"}
    known |= {"metric", "over", "baseline", "watch", "detector", "incident"}
    known |= {"kind", "level", "severity", "watchdog", "channel"}
    of_the_monitor = {
        "headrace_monitor_info",
        "headrace_monitor_loop_delay_seconds",
        "headrace_monitor_viewers",
    }

    assert {label for spec in SPECS for label in spec.labels} == known
    assert {spec.name for spec in SPECS if "pipeline" not in spec.labels} == of_the_monitor
    assert all(spec.labels[0] == "pipeline" for spec in SPECS if "pipeline" in spec.labels)


def test_what_the_monitor_tells_can_be_told_from_what_a_worker_tells() -> None:
    for spec in SPECS:
        assert (spec.told_by == "monitor") == (
            spec.name.startswith("headrace_monitor_") or spec.name == "headrace_open_incidents"
        )


def test_histograms_and_only_they_have_buckets_that_rise() -> None:
    for spec in SPECS:
        assert bool(spec.buckets) == (spec.kind == "histogram")
        assert list(spec.buckets) == sorted(set(spec.buckets))


def test_every_family_is_in_the_reference_page() -> None:
    page = (ROOT / "docs" / "reference" / "prometheus.md").read_text(encoding="utf-8")

    assert re.findall(r"(?m)^## (\w+)$", page) == [spec.name for spec in SPECS]


# The text -------------------------------------------------------------------------------------------------------


def test_before_the_first_readings_there_is_the_worker_and_its_process(telemetry: Telemetry) -> None:
    names = {name for name, _ in samples(telemetry)}

    assert value(telemetry, "headrace_worker_info", topic="events", worker="p-host-0", version="1.2.3") == 1
    assert "process_resident_memory_bytes" in names
    assert [name for name in names if name.startswith("headrace_")] == ["headrace_worker_info"]


def test_every_family_has_a_series(telemetry: Telemetry) -> None:
    telemetry.update(READINGS)
    parsed = text_string_to_metric_families(telemetry.exposition()[1].decode())
    found = {family.name: family for family in parsed if family.name.startswith("headrace_")}

    for spec in (family.value for family in families("worker")):
        family = found.pop(spec.name.removesuffix("_total"))
        assert (family.type, family.documentation) == (spec.kind, spec.meaning)
        assert family.samples
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(spec.labels)
    assert found == {}


def test_readings_arrive_as_they_are(telemetry: Telemetry) -> None:
    telemetry.update(READINGS)

    assert value(telemetry, "headrace_loop_age_seconds") == 10
    assert value(telemetry, "headrace_progress_age_seconds") == 20
    assert value(telemetry, "headrace_partitions", state="waiting") == 1
    assert value(telemetry, "headrace_events_total", partition="3") == 10
    assert value(telemetry, "headrace_events_total", partition="4") is None
    assert value(telemetry, "headrace_partition_live", partition="3") == 1
    assert value(telemetry, "headrace_partition_live", partition="4") == 0
    assert value(telemetry, "headrace_model_age_seconds", partition="3") == 10
    assert value(telemetry, "headrace_snapshot_age_seconds", partition="3") == 100
    assert value(telemetry, "headrace_incident_open", partition="3", incident="snapshot-failed") == 1
    stages = [value(telemetry, "headrace_dead_letters_total", partition="3", stage=stage) for stage in STAGES]
    assert stages == [2, 0, 0, 0, 1]
    states = [value(telemetry, "headrace_labels_total", partition="3", state=state) for state in LABEL_STATES]
    assert dict(zip(LABEL_STATES, states, strict=True)) == {
        "joined": 5,
        "late": 4,
        "unmatched": 3,
        "duplicate": 0,
        "conflicting": 1,
    }


def test_a_histogram_counts_what_is_at_most_its_bound(telemetry: Telemetry) -> None:
    telemetry.update(READINGS)
    name = "headrace_commit_seconds"

    assert value(telemetry, f"{name}_bucket", le="0.0025") == 0
    assert value(telemetry, f"{name}_bucket", le="0.005") == 1
    assert value(telemetry, f"{name}_bucket", le="10.0") == 2
    assert value(telemetry, f"{name}_bucket", le="+Inf") == value(telemetry, f"{name}_count") == 3
    assert value(telemetry, f"{name}_sum") == pytest.approx(1e9)


def test_a_metric_that_is_undefined_is_absent(telemetry: Telemetry) -> None:
    status = replace(STATUS, metrics={"accuracy": {"value": 0.5, "window": None}}, lag_records=None)
    telemetry.update(replace(READINGS, partitions=[replace(PARTITION, status=status)]))

    assert value(telemetry, "headrace_metric_value", partition="3", metric="accuracy", over="all") == 0.5
    assert value(telemetry, "headrace_metric_value", partition="3", metric="accuracy", over="window") is None
    assert value(telemetry, "headrace_lag_records", partition="3") is None


def test_a_partition_that_left_disappears(telemetry: Telemetry) -> None:
    telemetry.update(READINGS)
    telemetry.update(replace(READINGS, partitions=[]))

    assert all(dict(labels).get("partition") is None for _, labels in samples(telemetry))


def test_there_are_as_many_series_as_the_docs_say(telemetry: Telemetry) -> None:
    page = (ROOT / "docs" / "how-to" / "scrape-with-prometheus.md").read_text(encoding="utf-8")
    said = re.search(r"about (\d+) series for each of its partitions \(.*\) and (\d+) of its own", page)
    assert said is not None

    telemetry.update(replace(READINGS, partitions=[PARTITION]))

    own = [key for key in samples(telemetry) if key[0].startswith("headrace_")]
    of_partition = [labels for _, labels in own if "partition" in dict(labels)]
    assert len(of_partition) == pytest.approx(int(said[1]), rel=0.2)
    assert len(own) - len(of_partition) == pytest.approx(int(said[2]), rel=0.05)


def test_there_are_only_so_many_watches(telemetry: Telemetry) -> None:
    many = [watch(number, f"feature:{number}") for number in range(3 * MOST_WATCHES)]
    telemetry.update(replace(READINGS, partitions=[replace(PARTITION, watches=many)]))

    assert sum(name == "headrace_drifts_total" for name, _ in samples(telemetry)) == MOST_WATCHES


def test_two_watches_of_one_name_are_two_series(telemetry: Telemetry) -> None:
    long = "feature:" + "x" * MOST_CHARACTERS
    watches = [watch(1), watch(2), watch(3, long + "y"), watch(4, long + "z")]
    telemetry.update(replace(READINGS, partitions=[replace(PARTITION, watches=watches)]))

    found = [
        (dict(labels)["detector"], count)
        for (name, labels), count in samples(telemetry).items()
        if name == "headrace_drifts_total"
    ]
    assert found == [("adwin", 1), ("adwin (2)", 2), ("adwin", 3), ("adwin (2)", 4)]


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_hostile_names_stay_inside_their_labels(accept: str) -> None:
    telemetry = Telemetry(pipeline=HOSTILE, topic=HOSTILE, worker=HOSTILE, version=HOSTILE)
    partition = replace(
        PARTITION,
        watches=[watch(1, HOSTILE)],
        incidents=[HOSTILE],
        status=replace(STATUS, metrics={HOSTILE: {"value": 1.0}}, baselines={HOSTILE: {"value": 1.0}}),
    )
    telemetry.update(replace(READINGS, partitions=[partition]))

    content_type, text = telemetry.exposition(accept)
    parse = openmetrics_families if accept else text_string_to_metric_families
    parsed = list(parse(text.decode()))

    assert ("openmetrics" in content_type) == bool(accept)
    assert {
        family.name for family in parsed if not family.name.startswith(("headrace_", "process_"))
    } == set()
    assert "headrace_fake" not in {family.name for family in parsed}
    watched = next(family.samples for family in parsed if family.name == "headrace_drift_state")
    assert watched[0].labels["watch"] == HOSTILE[:MOST_CHARACTERS].replace("\ud800", "?")


def test_promtool_finds_nothing_to_complain_of(telemetry: Telemetry, prometheus_installed: None) -> None:
    telemetry.update(READINGS)

    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=telemetry.exposition()[1],
        capture_output=True,
        check=False,
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


# The monitor's -------------------------------------------------------------------------------------------------


def test_before_its_first_readings_there_is_the_monitor_and_its_process(monitor: MonitorTelemetry) -> None:
    found = samples(monitor)

    assert found[("headrace_monitor_info", (("version", "1.2.3"),))] == 1
    assert ("process_resident_memory_bytes", ()) in found
    assert [name for name, _ in found if name.startswith("headrace_")] == ["headrace_monitor_info"]


def test_every_family_of_the_monitor_has_a_series(monitor: MonitorTelemetry) -> None:
    monitor.update(MONITOR)
    parsed = text_string_to_metric_families(monitor.exposition()[1].decode())
    found = {family.name: family for family in parsed if family.name.startswith("headrace_")}

    for spec in (family.value for family in families("monitor")):
        family = found.pop(spec.name.removesuffix("_total"))
        assert (family.type, family.documentation) == (spec.kind, spec.meaning)
        assert family.samples
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(spec.labels)
    assert found == {}


def test_readings_of_the_monitor_arrive_as_they_are(monitor: MonitorTelemetry) -> None:
    monitor.update(MONITOR)

    assert samples(monitor)[("headrace_monitor_viewers", ())] == 3
    assert value(monitor, "headrace_monitor_broker_connected") == 1
    assert value(monitor, "headrace_monitor_history_loaded") == 1
    assert value(monitor, "headrace_monitor_consumer_restarts_total") == 1
    assert [value(monitor, "headrace_monitor_records_total", kind=kind) for kind in TOPIC_KINDS] == [500, 20]
    assert value(monitor, "headrace_monitor_unreadable_records_total") == 2
    assert value(monitor, "headrace_monitor_status_age_seconds") == 10
    assert value(monitor, "headrace_monitor_partitions") == 4
    assert value(monitor, "headrace_monitor_workers") == 2
    assert value(monitor, "headrace_monitor_lag_records") == 30
    assert value(monitor, "headrace_monitor_metric_value", metric="accuracy", over="window") == 0.7
    baseline = {"metric": "accuracy", "baseline": "no_change"}
    assert value(monitor, "headrace_monitor_baseline_value", over="all", **baseline) == 0.6
    assert value(monitor, "headrace_monitor_relay_lag_records", topic="chargebacks") == 7
    assert value(monitor, "headrace_monitor_relay_waited_seconds", topic="chargebacks") == 42
    assert value(monitor, "headrace_monitor_relay_waited_seconds", topic="returns") == 0
    assert value(monitor, "headrace_monitor_relay_age_seconds") == 3
    incidents = [value(monitor, "headrace_open_incidents", severity=severity) for severity in SEVERITIES]
    assert incidents == [1, 0, 2]
    assert [value(monitor, "headrace_monitor_drift_alerts_total", level=level) for level in LEVELS] == [3, 0]
    assert value(monitor, "headrace_monitor_watchdog_openings_total", watchdog="silent") == 1
    notifications = "headrace_monitor_notifications"
    assert value(monitor, f"{notifications}_total", channel="chat", result="sent") == 5
    assert value(monitor, f"{notifications}_total", channel="chat", result="failed") == 1
    assert value(monitor, f"{notifications}_waiting", channel="chat") == 2
    assert value(monitor, f"{notifications}_total", channel="mail", result="sent") == 0


def test_without_any_status_its_age_is_that_of_the_monitor(monitor: MonitorTelemetry) -> None:
    monitor.update(MONITOR)
    name = "headrace_monitor_status_age_seconds"

    assert samples(monitor)[(name, (("pipeline", "q"),))] == 100


def test_what_the_monitor_does_not_know_is_absent(monitor: MonitorTelemetry) -> None:
    unknown = replace(PIPELINE, lag_records=None, quality={"value": None}, baselines={"no_change": {}})
    monitor.update(replace(MONITOR, pipelines=[unknown]))

    names = {name for name, _ in samples(monitor)}

    assert "headrace_monitor_lag_records" not in names
    assert "headrace_monitor_metric_value" not in names
    assert "headrace_monitor_baseline_value" not in names


def test_a_relay_that_was_never_read_is_as_old_as_the_monitor_and_without_a_relay_there_is_nothing(
    monitor: MonitorTelemetry,
) -> None:
    unread = replace(PIPELINE, relay=RelayReadings(read_at=None))
    monitor.update(replace(MONITOR, pipelines=[unread, replace(PIPELINE, pipeline="q", relay=None)]))

    relay = [(name, value) for (name, _), value in samples(monitor).items() if "_relay_" in name]

    assert relay == [("headrace_monitor_relay_age_seconds", 100)]


def test_there_are_only_so_many_channels_and_watchdogs(monitor: MonitorTelemetry) -> None:
    many = replace(
        PIPELINE,
        watchdog_openings={f"w{number}": 1 for number in range(3 * MOST_WATCHDOGS)},
        channels=[ChannelReadings(channel=f"c{number}") for number in range(3 * MOST_CHANNELS)],
        relay=RelayReadings(read_at=990.0, topics={f"t{n}": (1, 1.0) for n in range(3 * MOST_RELAYED)}),
    )
    monitor.update(replace(MONITOR, pipelines=[many]))

    names = [name for name, _ in samples(monitor)]

    assert names.count("headrace_monitor_watchdog_openings_total") == MOST_WATCHDOGS
    assert names.count("headrace_monitor_notifications_waiting") == MOST_CHANNELS
    assert names.count("headrace_monitor_relay_lag_records") == MOST_RELAYED


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_hostile_names_stay_inside_their_labels_in_the_monitor_too(accept: str) -> None:
    monitor = MonitorTelemetry(version=HOSTILE)
    pipeline = replace(
        PIPELINE,
        pipeline=HOSTILE,
        metric=HOSTILE,
        baselines={HOSTILE: {"value": 1.0}},
        watchdog_openings={HOSTILE: 1, HOSTILE + "y": 2},
        channels=[ChannelReadings(channel=HOSTILE), ChannelReadings(channel=HOSTILE + "y")],
        relay=RelayReadings(read_at=990.0, topics={HOSTILE: (1, 1.0), HOSTILE + "y": (2, 2.0)}),
    )
    monitor.update(replace(MONITOR, pipelines=[pipeline]))

    parse = openmetrics_families if accept else text_string_to_metric_families
    parsed = {family.name: family for family in parse(monitor.exposition(accept)[1].decode())}

    assert {name for name in parsed if not name.startswith(("headrace_", "process_"))} == set()
    assert "headrace_fake" not in parsed
    waiting = [
        sample.labels["channel"] for sample in parsed["headrace_monitor_notifications_waiting"].samples
    ]
    shown = HOSTILE[:MOST_CHARACTERS].replace("\ud800", "?")
    assert waiting == [shown, shown[: MOST_CHARACTERS - 4] + " (2)"]


def test_promtool_finds_nothing_to_complain_of_in_the_monitor_either(
    monitor: MonitorTelemetry, prometheus_installed: None
) -> None:
    monitor.update(MONITOR)

    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=monitor.exposition()[1],
        capture_output=True,
        check=False,
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_the_stages_are_those_of_the_pipeline() -> None:
    text = (ROOT / "stream" / "pipeline.py").read_text(encoding="utf-8")
    named = set(re.findall(r'stage = "(\w+)"|record, "(\w+)", \w+\)', text))

    assert {one or other for one, other in named} == set(STAGES)
