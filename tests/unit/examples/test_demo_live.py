"""The data of the live demo: what it is made to show is in it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import orjson
import pytest

from examples import demo_live
from examples.demo_live import Activity, Payments
from stream.build import new_pipeline
from stream.records import Record
from stream.settings import load_settings


def bodies(records: list[demo_live.Sent]) -> list[dict[str, object]]:
    """Those that are JSON objects."""
    found = []
    for record in records:
        try:
            found.append(orjson.loads(record.value))
        except orjson.JSONDecodeError:
            continue
    return found


def test_payments_are_asked_first_and_mostly_answered_later() -> None:
    records = list(islice(Payments(200.0, 60.0).records(), 20_000))

    assert [record.at for record in records] == sorted(record.at for record in records)
    asked: set[object] = set()
    answers = labelled = 0
    for body in bodies(records):
        if "amount" in body:
            asked.add(body.get("id"))
            labelled += "fraud" in body
        elif "id" in body:
            assert body["id"] in asked
            answers += 1
    assert 0.2 < labelled / len(asked) < 0.4
    assert 0.85 < answers / (len(asked) - labelled) < 0.95


def test_all_partitions_of_the_sensors_get_events() -> None:
    records = list(islice(Activity(100.0, 60.0).records(), 400))

    assert {record.partition for record in records} == set(range(demo_live.PIPELINES["activity"]))
    assert {body["activity"] for body in bodies(records)} == set(Activity.NAMES)


@pytest.mark.parametrize("name", demo_live.PIPELINES)
def test_the_drifts_are_found_and_garbage_is_refused(name: str) -> None:
    settings = load_settings(Path(demo_live.FOLDER) / f"{name}.toml", {})
    pipeline = new_pipeline(settings)
    source = Payments(200.0, 10.0) if name == "payments" else Activity(200.0, 10.0)
    kinds = set()
    for offset, record in enumerate(islice(source.records(), 7_000)):
        if record.partition:
            continue
        for output in pipeline.process(Record(0, offset, int(record.at * 1_000), None, record.value, None)):
            if output.to == "alerts":
                alert = orjson.loads(output.value or b"")
                kinds.add((alert["kind"], alert["watch"]))
            kinds.add((output.to, ""))

    assert ("drift", "error") in kinds
    assert (("dead_letters", "") in kinds) is (name == "payments")
