"""What the reader of a pipeline's topics does by itself; beside a broker it is tested in tests/integration."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from aiokafka import TopicPartition  # type: ignore[import-untyped]

from monitors import Incident
from monitors.app import feed
from monitors.app.config import WatchedPipeline
from monitors.app.feed import PipelineReader, Record
from monitors.app.site import DeadLetter, Feed, Unavailable
from monitors.fleet import Bounds, PipelineState, Watchdogs
from tests.unit.monitors.fleet_cases import FACTS, INCIDENT, STATUS, record


class SaidWatchdogs:
    """Watchdogs that say what they are told to."""

    def __init__(self, incidents: Sequence[Incident]) -> None:
        self.incidents = incidents

    def look(self, state: PipelineState, now: float) -> Sequence[Incident]:
        return self.incidents


class TwoPartitions:
    """A Faust app, its consumer and its topic: the alerts topic has two partitions."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Any]] = []
        self.consumer = self

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition(FACTS.alerts_topic, 0), TopicPartition(FACTS.alerts_topic, 1)}

    def topic(self, name: str, **_: object) -> TwoPartitions:
        assert name == FACTS.alerts_topic
        return self

    async def send(self, *, key: None, value: bytes, partition: int) -> asyncio.Future[None]:
        assert partition in (0, 1), "Unrecognized partition"  # as aiokafka has it
        if b"broken" in value:
            raise RuntimeError("broken")
        self.sent.append((partition, orjson.loads(value)["partition"]))
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.set_result(None)
        return written


def reader(incidents: Sequence[Incident]) -> PipelineReader:
    pipeline = WatchedPipeline(facts=FACTS, connection={}, bounds=Bounds())
    watchdogs = cast(Watchdogs, SaidWatchdogs(incidents))
    return PipelineReader(pipeline, PipelineState(FACTS), Feed(), watchdogs=watchdogs)


def test_what_is_said_of_a_partition_that_there_is_not_keeps_nothing_back() -> None:
    found = [replace(INCIDENT, partition=partition) for partition in (10**9, 0, None, 1)]
    app = TwoPartitions()

    asyncio.run(reader(found)._look(cast(Any, app)))

    assert app.sent == [(0, 10**9), (0, 0), (0, None), (1, 1)]


def test_an_alert_that_can_t_be_written_keeps_the_others_back_no_more() -> None:
    app = TwoPartitions()

    asyncio.run(reader([replace(INCIDENT, text="broken"), INCIDENT])._look(cast(Any, app)))

    assert app.sent == [(INCIDENT.partition, INCIDENT.partition)]


def letters(count: int) -> list[DeadLetter]:
    return [
        DeadLetter(
            position=f"e[0]@{n}", stage="decode", error="E", message="", key=None, value=None, bytes=0, time=n
        )
        for n in range(count)
    ]


def asked_for_letters(
    monkeypatch: pytest.MonkeyPatch, *several: int, fails: bool = False
) -> tuple[list[int], list[object]]:
    """So many dead letters asked for at once: what was read, and what each was answered."""
    if feed.LETTERS_KEPT_SECONDS:  # a machine that stalls for a second must not make them old
        monkeypatch.setattr(feed, "LETTERS_KEPT_SECONDS", 60.0)
    read: list[int] = []
    is_reading = False

    async def reading(self: PipelineReader, most: int) -> list[DeadLetter]:
        nonlocal is_reading
        assert not is_reading, "one at a time"
        is_reading = True
        read.append(most)
        await asyncio.sleep(0.01)
        is_reading = False
        if fails:
            raise Unavailable("no broker answers")
        return letters(most)

    async def go() -> list[object]:
        of = reader([])
        return list(await asyncio.gather(*map(of.dead_letters, several), return_exceptions=True))

    monkeypatch.setattr(PipelineReader, "_dead_letters", reading)
    return read, asyncio.run(go())


def test_dead_letters_are_read_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    read, answers = asked_for_letters(monkeypatch, 50, 50, 20, 200, 100)

    assert read == [50, 200]
    assert answers == [letters(50), letters(50), letters(50)[:20], letters(200), letters(200)[:100]]


def test_a_broker_that_is_away_is_not_asked_again_for_each_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    read, answers = asked_for_letters(monkeypatch, 50, 200, 50, fails=True)

    assert read == [50]
    assert [str(answer) for answer in answers] == ["no broker answers"] * 3
    assert all(isinstance(answer, Unavailable) for answer in answers)


def test_dead_letters_are_read_again_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LETTERS_KEPT_SECONDS", 0.0)

    read, _ = asked_for_letters(monkeypatch, 5, 5)

    assert read == [5, 5]


class Ends:
    """A consumer that says where the topics end, and nothing else."""

    def __init__(self, *ends: int) -> None:
        self.ends = list(ends)

    def assignment(self) -> set[TopicPartition]:
        return set()

    def pause(self) -> None:
        pass

    async def end_offsets(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, self.ends.pop(0))


class Running:
    """A Faust app that runs."""

    crashed = should_stop = False


def watched(monkeypatch: pytest.MonkeyPatch, *ends: int) -> Ends:
    """Look where the topics end as often as there are ends, of each of which one record was read."""
    monkeypatch.setattr(feed, "PROBE_SECONDS", 0.0)
    of = reader([])
    for kind in ("status", "alerts"):
        of._state.apply(kind, 0, 9, b"", seen_at=0.0)
    places: Any = {
        TopicPartition(FACTS.status_topic, 0): "status",
        TopicPartition(FACTS.alerts_topic, 0): "alerts",
    }
    consumer = Ends(*ends)
    asyncio.run(of._watch_over(cast(Any, Running()), consumer, places))
    return consumer


def test_a_topic_that_was_made_anew_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="made anew"):
        watched(monkeypatch, 10, 0, 0)


def test_a_leader_that_does_not_know_the_end_for_a_moment_is_no_new_topic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(IndexError):  # it looked on until there was no more to look at
        watched(monkeypatch, 10, 9, 10, 9, 10)


class Away(TwoPartitions):
    """The broker is gone: nothing that is sent arrives."""

    async def send(self, *, key: None, value: bytes, partition: int) -> asyncio.Future[None]:
        self.sent.append((partition, None))
        raise TimeoutError


def test_without_a_broker_one_incident_is_waited_for_and_not_each() -> None:
    app = Away()

    asyncio.run(
        reader([replace(INCIDENT, partition=partition) for partition in (0, 1)])._look(cast(Any, app))
    )

    assert app.sent == [(0, None)]


def test_what_watchdogs_opened_before_the_monitor_began_is_not_counted_as_opened_by_it() -> None:
    """Or each restart would look to Prometheus as if all of it had opened just now."""
    found = reader([])

    def take(offset: int, *, live: bool, **changes: Any) -> None:
        value = record(INCIDENT, **changes)
        found._take(Record("alerts", 0, offset, value, 1_000.0), live=live)

    take(0, live=False, incident="lag")
    take(1, live=True, incident="lag", state="closed")
    assert found.openings == {}

    take(2, live=True, incident="lag")
    take(3, live=True, incident="lag")  # of another monitor
    take(4, live=True, incident="snapshot-failed")
    assert found.openings == {"lag": 1}


class Log:
    """A consumer of a status topic with one partition, whose records are from a time long gone."""

    def __init__(self, values: Sequence[bytes], timestamp: float) -> None:
        self.values = values
        self.timestamp = timestamp
        self.at: dict[TopicPartition, int] = {}

    def assign(self, places: Sequence[TopicPartition]) -> None:
        self.at = dict.fromkeys(places, 0)

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.at[place] = offset

    async def position(self, place: TopicPartition) -> int:
        return self.at[place]

    async def beginning_offsets(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    async def end_offsets(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, len(self.values))

    async def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[TopicPartition, None]:
        assert all(time > 1_000 * self.timestamp for time in times.values())
        return dict.fromkeys(times)

    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        found: dict[TopicPartition, list[Any]] = {}
        for place, at in self.at.items():
            found[place] = [
                SimpleNamespace(offset=offset, value=self.values[offset], timestamp=1_000 * self.timestamp)
                for offset in range(at, len(self.values))
            ]
            self.at[place] = len(self.values)
        return found


@pytest.mark.parametrize("records", [0, 3])
def test_of_a_pipeline_that_has_been_silent_for_days_the_last_status_is_known(records: int) -> None:
    """Or after a restart of the monitor it would be one that has never run."""
    values = [record(STATUS, offset=offset) for offset in range(records)]
    of = reader([])
    places: Any = {TopicPartition(FACTS.status_topic, 0): "status"}

    asyncio.run(of._read_history(Log(values, STATUS.time), places))

    assert [item.status.offset for item in of._state.partitions.values()] == [2][:records]
    assert all(item.arrived_at == STATUS.time for item in of._state.partitions.values())
    assert of._feed.loaded == 1.0
