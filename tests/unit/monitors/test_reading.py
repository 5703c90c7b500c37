from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from monitors import LABEL_COUNTS, Incident
from monitors.fleet import Unreadable, read_alert, read_status
from monitors.fleet.reading import FIRST_TIME, LAST_TIME, MOST_BYTES, MOST_REASON, MOST_TEXT
from tests.unit.monitors.fleet_cases import DRIFT, INCIDENT, STATUS, record


def changed(noun: Any, **changes: Any) -> bytes:
    """A record as another program might write it: with fields of any type."""
    return orjson.dumps({**noun.to_dict(), **changes})


def histogram(bounds: list[float], counts: list[float]) -> bytes:
    return changed(STATUS, label_delay_histogram={"bounds": bounds, "counts": counts})


def test_what_a_worker_writes_is_read_back_as_it_was() -> None:
    assert read_status(record(STATUS)) == STATUS
    assert read_status(record(STATUS, snapshot=None)).snapshot is None
    assert read_alert(record(DRIFT)) == DRIFT
    assert read_alert(record(INCIDENT)) == INCIDENT


def test_fields_of_a_newer_worker_are_left_aside() -> None:
    assert read_status(changed(STATUS, colour="blue", more={"deep": [1]})) == STATUS
    assert read_alert(changed(DRIFT, colour="blue")) == DRIFT
    assert read_alert(changed(INCIDENT, colour="blue")) == INCIDENT


def test_fields_that_an_older_worker_did_not_have_may_be_missing() -> None:
    body = STATUS.to_dict()
    came_later = (
        "dead_letters_by_stage",
        "classes",
        "learner_seconds",
        "label_delay",
        "label_delay_histogram",
        "incidents",
    )
    for name in (*came_later, "label_health", "ignored", *LABEL_COUNTS):
        del body[name]
    incident = INCIDENT.to_dict()
    del incident["severity"]

    status = read_status(orjson.dumps(body))

    assert (status.questions, status.label_delay, status.dead_letters_by_stage) == (0, None, {})
    assert (status.late, status.label_health, status.label_delay_histogram) == (0, {}, None)
    assert status.incidents is None
    assert isinstance(found := read_alert(orjson.dumps(incident)), Incident)
    assert found.severity == "warning"


def test_a_whole_number_is_a_number() -> None:
    assert read_status(changed(STATUS, rate=3)).rate == 3.0


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "it has no value; expected a JSON object"),
        (b"", "it is no JSON"),
        (b"\xff\xfe\x00", "it is no JSON"),
        (b"[]", "it is a JSON list; expected an object"),
        (b"null", "it is a JSON NoneType; expected an object"),
        (b"{}", "field 'pipeline': Field required and "),
        (b"[" * 100_000, "it is no JSON"),
        (b" " * (MOST_BYTES + 1), "it has 1,000,001 bytes; expected at most 1,000,000"),
        (changed(STATUS, offset="7"), "field 'offset': Input should be a valid integer"),
        (changed(STATUS, offset=7.5), "field 'offset': Input should be a valid integer"),
        (changed(STATUS, partition=True), "field 'partition': Input should be a valid integer"),
        (changed(STATUS, partition=-1), "it is of partition -1; expected 0 or more"),
        (changed(STATUS, partition=2**31), "it is of partition 2147483648; expected 0 or more"),
        (changed(STATUS, events=2**63), "it counts 9223372036854775808; expected at most"),
        (changed(STATUS, dead_letters_by_stage={"decode": 2**63}), "it counts 9223372036854775808"),
        (changed(STATUS, classes={"label": {"a": 2**63}}), "it counts 9223372036854775808"),
        (changed(STATUS, metrics={str(n): {} for n in range(501)}), "it has 501 metrics"),
        (
            changed(STATUS, drift=[{}] * 501),
            "it has 501 metrics, classes, stages, watches, bins or incidents",
        ),
        (changed(STATUS, label_health={str(n): 0.5 for n in range(501)}), "it has 501 metrics"),
        (
            changed(STATUS, label_health={"late": "1"}),
            "field 'label_health.late': Input should be a valid number",
        ),
        (changed(STATUS, late=2**63), "it counts 9223372036854775808; expected at most"),
        (changed(STATUS, label_delay_histogram={}.fromkeys(("bounds", "counts"), [1] * 501)), "it has 501"),
        (changed(STATUS, label_delay_histogram={"bounds": [1]}), "field 'label_delay_histogram' is none"),
        (
            histogram([1.0, 0.0], [1, 1, 1]),
            "field 'label_delay_histogram' is none; expected bounds that rise",
        ),
        (histogram([0.0, 1.0], [1, 1]), "field 'label_delay_histogram' is none; expected bounds that rise"),
        (histogram([0.0], [1, -1]), "field 'label_delay_histogram' is none; expected bounds that rise"),
        (histogram([0.0], [1, 1e300]), "it counts 1e+300; expected at most"),
        (changed(STATUS, classes={str(n): {} for n in range(501)}), "it has"),
        (changed(STATUS, label_delay={"p95": 1.0, "count": 1}), "field 'label_delay' lacks p50 or p95"),
        (changed(STATUS, state="asleep"), "field 'state': Input should be 'replaying' or 'live'"),
        (changed(STATUS, metrics={"accuracy": 1}), "field 'metrics.accuracy': Input should be an object"),
        (changed(STATUS, snapshot={"name": "a"}), "field 'snapshot.offset': Field required and 4 more"),
    ],
)
def test_what_is_no_status_is_refused_with_what_is_wrong(value: bytes | None, said: str) -> None:
    with pytest.raises(Unreadable) as raised:
        read_status(value)

    assert str(raised.value).startswith(said)


@pytest.mark.parametrize("field", ["time", "rate"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", '"nan"', '"inf"', "null"])
def test_a_number_that_is_none_is_refused(field: str, number: str) -> None:
    value = record(STATUS, **{field: 123.25}).replace(b"123.25", number.encode())
    assert number.encode() in value

    with pytest.raises(Unreadable):
        read_status(value)


def test_a_name_is_bounded_and_a_sentence_is_cut() -> None:
    with pytest.raises(Unreadable, match="field 'incident' has 301 characters; expected at most 300"):
        read_alert(record(INCIDENT, incident="x" * 301))
    with pytest.raises(Unreadable, match="field 'watch' has 301 characters"):
        read_alert(record(DRIFT, watch="x" * 301))

    found = read_alert(record(INCIDENT, text="x" * 100_000))

    assert isinstance(found, Incident)
    assert found.text == "x" * MOST_TEXT


def test_what_is_said_of_a_hostile_record_is_short() -> None:
    with pytest.raises(Unreadable) as raised:
        read_status(changed(STATUS, metrics={"x" * 100_000: 1}))

    assert len(str(raised.value)) == MOST_REASON


@pytest.mark.parametrize(("time", "shown"), [(-1e300, FIRST_TIME), (1e300, LAST_TIME), (0.0, 0.0)])
def test_a_time_that_no_calendar_has_is_the_first_or_the_last_one(time: float, shown: float) -> None:
    assert read_alert(changed(DRIFT, time=time)).time == shown
    assert read_alert(changed(INCIDENT, time=time)).time == shown
    status = read_status(changed(STATUS, time=time))
    assert status.time == shown
    datetime.fromtimestamp(shown, UTC)
