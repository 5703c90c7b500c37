from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import orjson
import pytest
from rich.console import Console

from monitors import Incident
from stream.settings import Settings
from stream.tools.open_incidents import Key, Reading, grouped, take
from stream.tools.status import StatusView, tables, with_open
from tests.unit.stream.tools.test_status import NOW, settings, status, view

OPEN = Incident(
    pipeline="p",
    partition=0,
    offset=7,
    incident="labels-unmatched",
    state="open",
    severity="warning",
    text="Half of the labels found no question.",
    worker="p-host-0",
    time=NOW - 600,
)


def record(noun: Incident, **changes: Any) -> bytes:
    return orjson.dumps(replace(noun, **changes).to_dict())


def with_status(*found: Incident, workers: int = 1, **fields: Any) -> StatusView:
    """The view of a pipeline of two partitions whose worker writes these fields."""
    fields = {"worker": "p-host-0", "incidents": [item.incident for item in found]} | fields
    opened: dict[Key, Incident] = {(item.partition, item.incident): item for item in found}
    known = view({0: status(0, **fields), 1: status(1, **fields)}, workers=workers)
    return with_open(settings(), known, Reading(opened, ()))


def only(found: StatusView) -> dict[str, Any]:
    listed: Any = found.to_dict()["incidents"]
    (kind,) = listed
    assert isinstance(kind, dict)
    return kind


def test_what_was_opened_and_not_closed_is_open() -> None:
    opened: dict[Key, Incident] = {}
    for value in (
        record(OPEN),
        record(OPEN, time=NOW, text="again"),
        record(OPEN, partition=1),
        record(OPEN, partition=None, incident="no-events", worker="monitor"),
        record(OPEN, partition=1, state="closed"),
        record(OPEN, pipeline="another", partition=5),
        b'{"kind": "drift"}',
        b"nonsense",
        None,
    ):
        take(opened, value, "p")

    assert opened == {
        (0, "labels-unmatched"): OPEN,
        (None, "no-events"): replace(OPEN, partition=None, incident="no-events", worker="monitor"),
    }


def test_partitions_that_have_the_same_incident_are_one_with_all_their_names() -> None:
    later = replace(OPEN, partition=1, time=NOW - 60, text="Later.")

    kind = only(with_status(later, OPEN))

    assert (kind["incident"], kind["severity"], kind["partitions"]) == ("labels-unmatched", "warning", [0, 1])
    assert (kind["since"], kind["text"], kind["doubt"]) == (NOW - 600, "Later.", None)
    assert kind["each"] == [
        {"partition": 0, "since": NOW - 600, "text": OPEN.text, "told_by": "p-host-0"},
        {"partition": 1, "since": NOW - 60, "text": "Later.", "told_by": "p-host-0"},
    ]


def test_the_worst_comes_first_and_what_may_be_over_last() -> None:
    worst = replace(OPEN, incident="worker-gone", severity="critical")
    whole = replace(OPEN, incident="no-events", severity="info", partition=None)

    kinds = grouped([(replace(worst, partition=1), "why not"), (whole, ""), (OPEN, ""), (worst, "")])

    assert [(kind.incident, kind.partitions) for kind in kinds] == [
        ("worker-gone", [0]),
        ("labels-unmatched", [0]),
        ("no-events", None),
        ("worker-gone", [1]),
    ]


@pytest.mark.parametrize(
    ("incident", "workers", "fields", "doubt"),
    [
        pytest.param(
            OPEN, 1, {"incidents": []}, "the one of now does not tell of it", id="the worker began anew"
        ),
        pytest.param(OPEN, 1, {"incidents": [OPEN.incident]}, None, id="its worker tells of it"),
        pytest.param(OPEN, 1, {"incidents": [], "time": OPEN.time - 1}, None, id="the status is from before"),
        pytest.param(OPEN, 1, {"incidents": [], "time": NOW - 300}, None, id="the status is old"),
        pytest.param(OPEN, 0, {}, "none runs now", id="no worker runs"),
        pytest.param(OPEN, 1, {"incidents": None}, None, id="a worker of an older version"),
        pytest.param(
            OPEN,
            1,
            {"incidents": None, "worker": "p-other-0"},
            "the one of now does not tell of it",
            id="another worker of an older version",
        ),
        pytest.param(replace(OPEN, worker="monitor"), 0, {"incidents": []}, None, id="the monitor closes it"),
    ],
)
def test_what_a_killed_worker_left_open_is_said_to_be_in_doubt(
    incident: Incident, workers: int, fields: dict[str, Any], doubt: str | None
) -> None:
    kind = only(with_status(incident, workers=workers, **fields))

    assert kind["doubt"] is None if doubt is None else str(kind["doubt"]).endswith(doubt)


def test_a_partition_that_was_not_read_to_its_end_is_named() -> None:
    found = with_open(settings(), view({0: status(0), 1: status(1)}), Reading({}, [1]))

    assert found.incidents == []
    assert found.warnings[0].startswith(
        "Of p.alerts the newest 20,000 records of partition 1 could not be read"
    )


def shown(settings_: Settings, found: StatusView) -> str:
    console = Console(width=150, file=StringIO())
    for table in tables(settings_, found, NOW):
        console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_table_names_what_is_open_where_for_how_long_and_what_to_do() -> None:
    hostile = replace(OPEN, partition=1, incident="odd\x1b[2J", time=NOW - 7_200)

    text = shown(
        settings(), with_status(OPEN, replace(OPEN, partition=1), hostile, incidents=["labels-unmatched"])
    )

    lines = [" ".join(line.split()) for line in text.partition("open incidents")[2].splitlines()]
    assert "labels-unmatched warning 0-1 10 min Half of the labels found no question." in lines
    assert any(
        line.startswith(r"odd\x1b[2J warning? 1 2 h May be over: the worker that told") for line in lines
    )


def test_without_an_open_incident_there_is_no_table() -> None:
    assert "incident" not in shown(settings(), with_status())
