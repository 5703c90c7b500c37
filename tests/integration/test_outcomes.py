"""`headrace outcomes` as its users run it: a real worker writes outcomes, another client reads them back."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # pyarrow ships no types
import pytest

from stream.broker import Broker
from stream.errors import ConfigError, EnvironmentRefused
from stream.tools.outcomes import Edge, Wanted, export
from tests.integration.test_tools import Shell
from tests.support import Incoming, KafkaCase, whole_seconds_ago

pytestmark = pytest.mark.integration

#: A full second of an hour ago: records behind it are a millisecond apart.
BEGIN = whole_seconds_ago(3_600)


def question(name: str, at: float, partition: int = 0, **more: object) -> Incoming:
    value = {"id": name, "t": BEGIN + at, "features": {"a": at % 7}} | more
    return Incoming(partition, orjson.dumps(value), key=b"k", timestamp=round((BEGIN + at) * 1_000))


def answer(name: str, at: float, label: bool, partition: int = 0) -> Incoming:
    value = {"id": name, "t": BEGIN + at, "label": label}
    return Incoming(partition, orjson.dumps(value), key=b"k", timestamp=round((BEGIN + at) * 1_000))


#: Each state once at least; "c" and "w" wait at the end, "c" asked twice.
STORY = [
    question("a", 0),
    answer("early", 1, True),
    question("early", 2),
    question('=HYPERLINK("x"),\n', 3, label=False),
    answer("a", 10.25, True),
    answer("a", 11, True),
    answer("a", 12, False),
    question("silent", 20),
    question("w", 21, partition=1),
    question("c", 200),
    answer("silent", 201, True),
    question("c", 202),
    answer("stray", 203, True),
    question("last", 270, label=True),
]


def test_what_a_worker_writes_is_what_the_export_holds(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    shell = Shell(tmp_path, broker.bootstrap_servers)
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=2,
        topics={"events": f"{topic_name}.events", "outcomes": f"{topic_name}.outcomes"},
        event={"time": "t"},
        labels={"expire_after_seconds": 100, "early_seconds": 50, "silence": False},
    ) as case:
        settings = str(case.settings_file)
        case.send(STORY)
        case.run_to_end()
        client = case.producer()
        client.send(case.topic("outcomes"), value=b"garbage", partition=1).get(timeout=60)
        client.close()
        written = [
            (partition, record)
            for partition, records in case.read("outcomes").items()
            for record in records
            if record.value != b"garbage"
        ]

        text = shell("outcomes", settings)
        summary = shell.json("outcomes", settings, "--pending", "--output", "all.parquet")
        listed = pq.read_table(tmp_path / "all.parquet").to_pylist()

        rows = list(csv.DictReader(text.splitlines(keepends=True)))
        assert [row["state"] for row in rows] == [record.json["state"] for _, record in written]
        assert {row["state"] for row in rows} == {
            *("early", "joined", "duplicate", "conflicting", "expired", "late", "unmatched")
        }
        assert [row["id"] for row in rows] == [record.json["id"] for _, record in written]
        assert rows[3] == {
            "id": "a",
            "state": "joined",
            "partition": "0",
            "offset": "0",
            "label_offset": "4",
            "time": moment(0),
            "label_time": moment(10.25),
            "prediction": "false",
            "label": "true",
            "error": "1",
            "label_delay_seconds": "10.25",
            "outcome_offset": str(written[3][1].offset),
            "timestamp": moment(10.25),
        }
        assert [row["state"] for row in listed[: len(rows)]] == [row["state"] for row in rows]
        assert [(row["id"], row["state"], row["offset"]) for row in listed[len(rows) :]] == [
            ("c", "pending", 8),
            ("w", "pending", 0),
        ]
        assert (summary["rows"], summary["foreign"]) == (len(listed), 1)
        assert summary["first_foreign"].startswith(f"{topic_name}.outcomes[1]@")

        reading, writing = os.pipe()
        os.close(reading)  # as `head` has done when it has what it wants
        unread = subprocess.run(
            [sys.executable, "-m", "stream.cli", "outcomes", settings],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=tmp_path,
            env=shell.environ,
        )
        os.close(writing)
        assert (unread.returncode, unread.stderr) == (0, "")

        def exported(**wanted: Any) -> list[str]:
            export(case.settings, Wanted(output=tmp_path / "some.csv", **wanted))
            with (tmp_path / "some.csv").open(newline="") as file:
                return [f"{row['id']} {row['state']}" for row in csv.DictReader(file)]

        assert exported() == [f"{row['id']} {row['state']}" for row in rows]
        assert (tmp_path / "some.csv").read_text() == text
        assert exported(states=["late", "joined"], begin=at(11)) == ["silent late", "last joined"]
        assert exported(begin=at(11), end=at(200)) == ["a duplicate", "a conflicting"]
        assert exported(begin=at(100), end=at(203), pending=True) == [
            "silent expired",
            "silent late",
            "c pending",
        ]
        assert exported(pending=True, partition=1) == ["w pending"]
        first = summary["partitions"][0]
        assert exported(partition=0, begin=Edge(first["next_offset"], None)) == []
        assert exported(partition=0, end=Edge(first["from"] + 1, None)) == ["early early"]
        before = export(case.settings, Wanted(output=tmp_path / "some.csv", partition=0, end=at(11)))
        begin, next_offset = before.ranges[0]
        after = exported(partition=0, begin=Edge(next_offset, None))
        assert (begin, before.rows + len(after)) == (first["from"], len(exported(partition=0)))

        with pytest.raises(EnvironmentRefused, match=r"has no partition 2; expected 0 to 1"):
            exported(partition=2)
        with pytest.raises(
            ConfigError, match=r"--from: is an offset, and .* has 2 partitions: add --partition"
        ):
            exported(begin=Edge(0, None))
        case.change(topics={"events": f"{topic_name}.events", "outcomes": f"{topic_name}.not-there"})
        with pytest.raises(EnvironmentRefused, match=r"there is no topic .*headrace topics create"):
            exported()


@pytest.mark.full
def test_who_still_waits_is_told_only_once_open_transactions_are_over(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """A prediction may be seen before the outcome of its own transaction; the export waits for that one."""
    outcome = {"id": "a", "state": "joined", "partition": 0, "offset": 7, "label_offset": 7, "time": 1.0}
    outcome |= {"label_time": 1.0, "prediction": True, "label": True, "error": 0, "label_delay_seconds": 0.0}
    prediction = {"id": "a", "partition": 0, "offset": 7, "time": 1.0, "prediction": True}
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        topics={"events": f"{topic_name}.events", "outcomes": f"{topic_name}.outcomes"},
    ) as case:
        plain, open_one = case.producer(), case.producer(transactional_id=topic_name)
        plain.send(case.topic("predictions"), value=orjson.dumps(prediction), partition=0).get(timeout=60)
        plain.close()
        open_one.init_transactions()
        open_one.begin_transaction()
        open_one.send(case.topic("outcomes"), value=orjson.dumps(outcome), partition=0).get(timeout=60)

        with ThreadPoolExecutor(1) as pool:
            wanted = Wanted(output=tmp_path / "all.csv", pending=True)
            exporting = pool.submit(export, case.settings, wanted)
            time.sleep(3)
            assert not exporting.done()
            open_one.commit_transaction()
            found = exporting.result(timeout=60)
        open_one.close()

        assert found.states == {"joined": 1}


def moment(at: float) -> str:
    return datetime.fromtimestamp(BEGIN + at, UTC).isoformat().removesuffix("+00:00") + "Z"


def at(seconds: float) -> Edge:
    return Edge(None, round((BEGIN + seconds) * 1_000))
