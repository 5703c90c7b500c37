"""What a pipeline makes of records that were relayed."""

from __future__ import annotations

from typing import Any

import pytest

from stream.build import new_pipeline
from stream.codec import RelayedForAnother
from stream.decoding import new_decoder
from stream.errors import RecordError
from stream.records import Event, Headers, Record
from stream.relay.headers import EVENTS, KIND, LABELS, PIPELINE, POSITION, relay_headers
from tests.helpers import body
from tests.unit.stream.relay.memory import relay_settings

SETTINGS = relay_settings(
    event={"time": "at"},
    labels={"topic": "labels", "id": "tx", "label": "verdict", "positive": "fraud", "time": "told"},
)


def relayed(value: bytes | None, kind: bytes = LABELS, pipeline: bytes = b"p", *more: Any) -> Record:
    headers = [("own", b"1"), *relay_headers(pipeline, kind, "labels", 0, 7), *more]
    return Record(0, 3, 5_000, b"k", value, headers)


def test_a_label_is_read_where_the_settings_say_it_is_in_a_label() -> None:
    value = body(tx="a", verdict="fraud", told=4, features={"a": 1.0}, id="no", label=0)

    assert new_decoder(SETTINGS).decode(relayed(value)) == Event("a", 4.0, None, True)


def test_a_label_without_a_time_has_that_of_its_record() -> None:
    assert new_decoder(SETTINGS).decode(relayed(body(tx=1, verdict="x"))) == Event(1, 5.0, None, False)


def test_where_things_are_in_an_event_is_where_they_are_in_a_label_unless_it_is_said() -> None:
    decoder = new_decoder(relay_settings(event={"id": "key", "label": "y", "positive": "bad", "time": "at"}))

    assert decoder.decode(relayed(body(key="a", y="bad", at=3))) == Event("a", 3.0, None, True)


def test_an_event_that_was_relayed_is_an_event_as_any_other() -> None:
    record = relayed(body(id="a", features={"a": 1.0}, label=1, at=4), EVENTS)

    assert new_decoder(SETTINGS).decode(record) == Event("a", 4.0, {"a": 1.0}, True)


def test_a_replayed_dead_letter_is_still_a_label() -> None:
    record = relayed(body(tx="a", verdict="x"), LABELS, b"p", ("headrace.attempt", b"1"))

    assert new_decoder(SETTINGS).decode(record).y is False


def test_the_last_relay_is_the_one_that_counts() -> None:
    record = relayed(
        body(id="a", features={"a": 1.0}), LABELS, b"other", *relay_headers(b"p", EVENTS, "a", 0, 1)
    )

    assert new_decoder(SETTINGS).decode(record).x == {"a": 1.0}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (body(verdict="x"), 'as a label it has no "tx" ([labels] id) (its fields: "verdict")'),
        (body(tx="a", verdict=None), 'as a label it has no "verdict" ([labels] label)'),
        (body(), 'no "tx" ([labels] id) and no "verdict" ([labels] label) (its fields: none)'),
        (None, "the value is empty (a tombstone)"),
        (b"[]", "the value is a list; expected a JSON object"),
        (body(tx=1.5, verdict="x"), 'field "tx" is a number; expected a string or an integer'),
    ],
)
def test_a_label_that_is_none_is_a_dead_letter_that_says_why(value: bytes | None, words: str) -> None:
    with pytest.raises(RecordError) as caught:
        new_decoder(SETTINGS).decode(relayed(value))

    assert words in str(caught.value)


def test_a_label_of_the_wrong_kind_names_the_setting_of_labels() -> None:
    decoder = new_decoder(relay_settings())

    with pytest.raises(RecordError, match=r"\[labels\] positive"):
        decoder.decode(relayed(body(id="a", label="maybe")))


def test_what_was_relayed_for_another_pipeline_is_ignored_and_counted() -> None:
    pipeline = new_pipeline(SETTINGS)
    record = relayed(body(tx="a", verdict="x"), LABELS, b"other")

    with pytest.raises(RelayedForAnother):
        new_decoder(SETTINGS).decode(record)
    assert pipeline.process(record) == ()
    state = pipeline.state
    assert (state.ignored, state.events, state.dead_letters, state.clock) == (1, 0, 0, float("-inf"))


@pytest.mark.parametrize(
    "headers",
    [
        None,
        [],
        [(PIPELINE, b"other")],
        [(PIPELINE, b"other"), (KIND, b"labels")],
        [(PIPELINE, b"other"), (POSITION, b"a[0]@1"), (KIND, b"labels")],
        [(PIPELINE, b"other"), (KIND, b"\xff"), (POSITION, b"a[0]@1")],
        [(PIPELINE, None), (KIND, b"labels"), (POSITION, b"a[0]@1")],
        [("trace", b"1"), (POSITION, None)],
    ],
)
def test_headers_that_the_relay_did_not_write_mean_nothing(headers: Headers | None) -> None:
    record = Record(0, 3, 5_000, b"k", body(id="a", features={"a": 1.0}), headers)

    assert new_decoder(SETTINGS).decode(record).x == {"a": 1.0}


def test_a_dead_letter_keeps_all_headers_of_what_was_relayed() -> None:
    record = relayed(body(tx="a"))

    (letter,) = new_pipeline(SETTINGS).process(record)

    assert letter.to == "dead_letters"
    assert letter.value == record.value
    assert list(letter.headers or ())[:4] == list(record.headers or ())
