"""`headrace rebuild`: the next worker goes on as if the new settings had been there from the beginning."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]  # kafka-python ships no types
from kafka.admin import NewPartitions  # type: ignore[import-untyped]

from stream.broker import Broker
from stream.errors import EnvironmentRefused
from stream.kafka.client import CONSUMER_TUNING
from stream.kafka.log import read_partition
from stream.records import Record
from stream.snapshots.keeper import SnapshotKeeper
from stream.tools import rebuild as module
from stream.tools.group import end_transactions
from stream.tools.rebuild import RebuildOptions, Rebuilt, rebuild
from tests.integration.commands import (
    OTHER,
    Command,
    assert_refused,
    assert_written,
    headrace,
    headrace_json,
    mixed,
    stop,
    switched,
)
from tests.support import (
    PATIENCE,
    Feeder,
    Incoming,
    KafkaCase,
    labelled,
    wait_until,
    whole_seconds_ago,
    zoned,
)

pytestmark = pytest.mark.integration

#: The settings that `OTHER` takes the place of.
THOSE_BEFORE: Mapping[str, Any] = {"learner": {"use": "logistic-regression"}, "metrics": {}, "drift": []}


def replayed(case: KafkaCase) -> dict[int, int]:
    """How many records the last worker had to learn again, by partition."""
    return {
        line["partition"]: line["replay_records"] for line in case.workers[-1].logged("partition restored")
    }


@pytest.mark.parametrize("partitions", [pytest.param(1, marks=pytest.mark.full), 3])
def test_the_next_worker_goes_on_as_if_the_new_settings_had_always_been(
    broker: Broker, tmp_path: Path, topic_name: str, partitions: int
) -> None:
    """Outputs before the switch stay; labels of questions that were asked before it are learned after it."""
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=partitions) as case:
        case.send([*mixed(range(300), partitions), Incoming(0, b"no event")])
        case.run_to_end()
        before, old = case.statuses(), case.settings
        case.change(**OTHER)
        assert_refused(case, "drift, learner, metrics", "headrace rebuild")

        rebuilt = headrace_json(case, "rebuild")

        switch = {item["partition"]: item["next_offset"] for item in rebuilt}
        assert switch == case.committed()
        assert [(item["origin"], item["missing"], item["rows"]) for item in rebuilt] == [
            (0, 0, 0)
        ] * partitions
        assert [item["learned"] for item in rebuilt] == [before[p]["learned"] for p in range(partitions)]
        assert all(status["pending"] for status in before.values())
        case.send(mixed(range(300, 400), partitions))
        case.run_to_end()
        assert set(replayed(case).values()) == {0}
        assert_written(case, switched(case, [(old, {}, {}), (case.settings, switch, {})]))
        case.send(mixed(range(400, 450), partitions))
        case.run_to_end()
        assert set(replayed(case).values()) == {0}
        assert_written(case, switched(case, [(old, {}, {}), (case.settings, switch, {})]))


def test_it_follows_a_running_worker_and_takes_its_place_when_that_stops(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=2) as case:
        worker, old = case.start(), case.settings
        with Feeder(case, rate=200.0) as feeder:
            case.wait_for_predictions(200, worker)
            case.change(**OTHER)
            with Command(case, "rebuild", str(case.settings_file), "--json") as command:
                command.wait_for("1 worker still to be stopped")
                case.wait_for_more(300, worker)
                assert command.process.poll() is None
                stop(worker)
                rebuilt = json.loads(command.ends(0))
            switch = {item["partition"]: item["next_offset"] for item in rebuilt}
            assert min(switch.values()) > 0
            case.wait_for_more(200, case.start())
        case.wait_for_predictions(feeder.sent, case.workers[-1])
        stop(case.workers[-1])
        assert_written(case, switched(case, [(old, {}, {}), (case.settings, switch, {})]))
        assert case.count("predictions") == feeder.sent


def test_stopped_or_killed_at_any_time_it_has_changed_nothing(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(mixed(range(200)))
        worker = case.start()
        case.wait_for_predictions(180, worker)
        case.change(**OTHER)
        for number in (signal.SIGINT, signal.SIGKILL):
            with Command(case, "rebuild", str(case.settings_file)) as command:
                command.wait_for("still to be stopped")
                command.signal(number)
                if number == signal.SIGINT:
                    assert command.ends(3).splitlines()[-1] == "headrace: stopped; nothing was changed."
                else:
                    assert command.process.wait(PATIENCE) == -signal.SIGKILL
        stop(worker)
        case.change(**THOSE_BEFORE)
        case.send(mixed(range(200, 260)))
        case.run_to_end()

        assert replayed(case) == {0: 0}
        case.assert_exactly_once()


@pytest.mark.parametrize(
    "crash",
    [
        pytest.param("take:before:1", marks=pytest.mark.full),
        pytest.param("take:after:2", marks=pytest.mark.full),
        "commit:before:1",
        "commit:after:1",
    ],
)
def test_killed_around_the_switch_it_has_changed_all_or_nothing(
    broker: Broker, tmp_path: Path, topic_name: str, crash: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=2) as case:
        case.send(mixed(range(100), 2))
        case.run_to_end()
        old, switch = case.settings, case.committed()
        case.change(**OTHER)
        with Command(
            case,
            "rebuild",
            str(case.settings_file),
            program="tests.integration.crashing",
            environ={"CRASH": crash},
        ) as command:
            assert command.process.wait(PATIENCE) == -signal.SIGKILL, command.err
        if crash != "commit:after:1":
            case.change(**THOSE_BEFORE)

        case.send(mixed(range(100, 150), 2))
        case.run_to_end()

        assert set(replayed(case).values()) == {0}
        assert_written(case, switched(case, [(old, {}, {}), (case.settings, switch, {})]))


def test_workers_that_come_between_are_seen_and_nothing_is_changed(
    broker: Broker, tmp_path: Path, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that works and leaves, and one that stays, after the group was seen without members."""
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(mixed(range(100)))
        case.run_to_end()
        old = case.settings
        case.change(**OTHER)
        new = case.settings

        def one_works(*arguments: Any) -> None:
            end_transactions(*arguments)

            def keep_and_work(keeper: SnapshotKeeper, it: Any) -> Rebuilt:
                rebuilt = keep(keeper, it)
                work()
                return rebuilt

            monkeypatch.setattr(module, "_keep", keep_and_work)

        def work() -> None:
            case.change(**THOSE_BEFORE)
            case.send(mixed(range(100, 120)))
            case.run_to_end()

        def one_stays(*arguments: Any) -> None:
            end_transactions(*arguments)
            worker = case.start()
            wait_until(lambda: worker.logged("partition restored"), "it is at work")

        keep = module._keep
        for between, words in (
            (one_works, "has worked meanwhile"),
            (one_stays, "has members"),
        ):
            monkeypatch.setattr(module, "_keep", keep)
            monkeypatch.setattr(module, "end_transactions", between)
            with pytest.raises(EnvironmentRefused, match=words):
                rebuild(new, RebuildOptions(), waiting=lambda members: None)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

        case.send(mixed(range(120, 150)))
        case.wait_for_predictions(150, case.workers[-1])
        stop(case.workers[-1])
        assert case.settings.shape() == old.shape()
        case.assert_exactly_once()


def test_a_log_that_begins_later_than_the_state_is_learned_from_where_it_begins(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Then from a time on, as told."""
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        times = whole_seconds_ago(3_600)
        case.send(event._replace(timestamp=(times + n) * 1_000) for n, event in enumerate(mixed(range(100))))
        case.run_to_end()
        old, switch = case.settings, case.committed()
        with case.admin() as admin:
            admin.delete_records({TopicPartition(case.topic("events"), 0): 30})
        case.change(**OTHER)

        said = headrace(case, "rebuild")

        assert "log 30 to" in said
        assert "the log no longer has 30 offsets that the old state had learned" in said
        case.send(mixed(range(100, 120)))
        case.run_to_end()
        new = switched(case, [(case.settings, switch, {0: 30})])[0]["predictions"]
        found = case.read("predictions")[0]
        assert [record.content for record in found[-len(new) :]] == new
        assert len(found) == len(new) + sum(r.json["offset"] < switch[0] for r in found)

        again = case.committed()
        assert "expected a time with its zone" in headrace(case, "rebuild", "--from", "yesterday", code=2)
        (rebuilt,) = headrace_json(case, "rebuild", "--from", zoned(times + 45))
        assert rebuilt["origin"] == 45
        case.send(mixed(range(120, 140)))
        case.run_to_end()
        last = switched(case, [(case.settings, again, {0: 45})])[0]["predictions"]
        assert [record.content for record in case.read("predictions")[0][-len(last) :]] == last
        assert old.shape() != case.settings.shape()


def timed(number: int, *, x: bool = True, y: bool = True) -> dict[str, Any]:
    """An event with a time of its own: what is asked in a file is answered in the log."""
    body = orjson.loads(labelled(number).value or b"")
    features = body["features"] if x else None
    return {
        "id": body["id"],
        "at": 1_700_000_000 + number,
        **({"features": features} if features else {}),
        **({"label": body["label"]} if y else {}),
    }


@pytest.mark.parametrize("format", ["jsonl", pytest.param("csv", marks=pytest.mark.full)])
def test_rows_of_a_file_are_learned_before_the_log(
    broker: Broker, tmp_path: Path, topic_name: str, format: str
) -> None:
    """With questions that the log answers; and without its snapshots such a state asks for the file again."""
    rows = [timed(number, y=number % 3 > 0) for number in range(90)]
    values = [orjson.dumps(row) for row in rows]
    file = tmp_path / f"rows.{format}"
    if format == "jsonl":
        file.write_bytes(b"\n".join([*values, b""]))
    else:
        cells = ([row["id"], row["at"], row.get("label", ""), *row["features"].values()] for row in rows)
        lines = ["id,at,label,a,b,c", *(",".join(str(cell) for cell in line) for line in cells)]
        file.write_text("\n".join(lines).replace("True", "true").replace("False", "false") + "\n")
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, event={"time": "at"}) as case:
        case.send(Incoming(0, orjson.dumps(timed(number))) for number in range(100, 150))
        case.run_to_end()
        old, switch = case.settings, case.committed()
        case.change(**OTHER)

        said = headrace(case, "rebuild", "--rows", str(file))

        assert f"labels learned from 140 events (90 rows of {file}), log 0 to" in said
        answers = [Incoming(0, orjson.dumps(timed(number, x=False))) for number in range(60, 90, 3)]
        case.send([*answers, *(Incoming(0, orjson.dumps(timed(number))) for number in range(150, 200))])
        case.run_to_end()
        learned = [
            Record(0, number - 90, row["at"] * 1_000, row["id"].encode(), value)
            for number, (row, value) in enumerate(zip(rows, values, strict=True))
        ]
        assert_written(case, switched(case, [(old, {}, {}), (case.settings, switch, {})], learned))
        assert case.statuses()[0]["unmatched"] == 0

        shutil.rmtree(tmp_path / ".headrace" / "snapshots" / case.name)
        assert_refused(case, "began with a file of rows", "Give headrace rebuild the same file again")
        assert "the old state began with a file of rows" in headrace(case, "rebuild")
        headrace(case, "rebuild", "--rows", str(file))
        case.run_to_end()


def test_a_file_of_rows_that_can_not_be_used_is_refused_before_anything_is_done(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(labelled(number) for number in range(20))
        case.run_to_end()
        bad = tmp_path / "bad.jsonl"
        bad.write_text('{"id": 1}\ngarbage\n')
        os.mkfifo(tmp_path / "pipe")

        for rows, words in (
            (bad, "bad.jsonl:2: this is not JSON"),
            (tmp_path / "none.csv", "there is no such file"),
            (tmp_path / "pipe", "is no plain file"),
        ):
            assert words in headrace(case, "rebuild", "--rows", str(rows), code=2)

        case.send(labelled(number) for number in range(20, 30))
        case.run_to_end()
        assert case.assert_exactly_once() == 30


def test_more_partitions_are_taken_up_by_a_rebuild(broker: Broker, tmp_path: Path, topic_name: str) -> None:
    """What is new begins at its origin; what was there goes on."""
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(mixed(range(60)))
        case.run_to_end()
        kinds = ("events", "predictions", "alerts", "dead_letters", "status")
        with case.admin() as admin:
            admin.create_partitions({case.topic(kind): NewPartitions(2) for kind in kinds})
        case.partitions = 2
        wait_until(lambda: len(case.read("status")) == 2, "there are two partitions")
        case.send(mixed(range(60, 100), 2))
        assert_refused(case, "had 1 partitions at the origin and has 2 now", "headrace rebuild")

        rebuilt = headrace_json(case, "rebuild")

        assert [item["partition"] for item in rebuilt] == [0]
        case.run_to_end()
        case.assert_exactly_once()


def test_what_can_not_be_rebuilt_is_a_sentence(broker: Broker, tmp_path: Path, topic_name: str) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        assert "has committed nothing: there is no state to replace" in headrace(case, "rebuild", code=3)
        case.send(labelled(number) for number in range(20))
        case.run_to_end()
        committed = case.committed()

        case.change(snapshots={"enabled": False})
        assert "[snapshots] is not enabled" in headrace(case, "rebuild", code=3)

        case.change(snapshots={})
        full = headrace(
            case,
            "rebuild",
            code=3,
            preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000)),
        )
        assert "can't be kept in" in full
        assert "File too large. Nothing was changed." in full
        assert case.committed() == committed
        case.send(labelled(number) for number in range(20, 30))
        case.run_to_end()
        assert case.assert_exactly_once() == 30

        with case.admin() as admin:
            admin.delete_topics([case.topic("events")])
            wait_until(lambda: case.topic("events") not in admin.list_topics(), "the topic is gone")
        assert "headrace topics create" in headrace(case, "rebuild", code=3)
        case.create_topics(but=["predictions", "alerts", "dead_letters", "status"])
        said = headrace(case, "rebuild", code=3)
        assert (
            "its offsets were lost (an idle group's expire after seven days) or the topic was recreated"
            in said
        )
        assert "headrace reset" in said


def test_a_log_is_read_to_an_end_that_lies_behind_the_markers_of_its_producers(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        client = case.producer(transactional_id=f"{topic_name}-events")
        client.init_transactions()
        for first in (0, 3):
            client.begin_transaction()
            for number in range(first, first + 3):
                case.hand_over(client, labelled(number))
            client.commit_transaction()
        client.close()

        read = [record.offset for batch in read_partition(case.settings, 0, 0, 8) for record in batch]

        assert read == [0, 1, 2, 4, 5, 6]


def test_who_has_read_all_that_the_client_held_is_given_more_at_once(
    broker: Broker, tmp_path: Path, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With so much in hand the client stops fetching; by default it looks again after a second, ten times here."""
    monkeypatch.setattr(
        "stream.kafka.client.CONSUMER_TUNING",
        {**CONSUMER_TUNING, "queued.min.messages": 100, "fetch.message.max.bytes": 16_384},
    )
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(labelled(number) for number in range(3_000))

        def took() -> float:
            began = time.monotonic()
            assert sum(len(batch) for batch in read_partition(case.settings, 0, 0, 3_000)) == 3_000
            return time.monotonic() - began

        assert any(took() < 6.0 for _ in range(3)), "it waited each time; a machine does not stall each time"
