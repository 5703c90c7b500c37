from __future__ import annotations

import math
import resource
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from stream.codec import (
    MAX_FEATURES,
    MAX_NAME_CHARACTERS,
    MAX_RECORD_BYTES,
    MAX_TEXT_CHARACTERS,
    EventDecoder,
    Task,
    dead_letter,
    encode_json,
    finite,
    scores_of,
)
from stream.errors import RecordError
from stream.records import Event, Record
from tests.helpers import body, record

#: 2026-01-31T00:00:00Z.
MOMENT = 1_769_817_600.0


def decode(value: bytes | None, *, timestamp: int = 5_000, task: Task = "binary", **fields: Any) -> Event:
    return EventDecoder(task=task, **fields).decode(record(value, timestamp=timestamp))


def reason(value: bytes | None, **fields: Any) -> str:
    with pytest.raises(RecordError) as caught:
        decode(value, **fields)
    return str(caught.value)


# What a record is -----------------------------------------------------------------------------------------------

SHAPES: dict[str, dict[str, Any]] = {
    "object": {"features": "features"},
    "list": {"features": ["a", "b"]},
    "all but": {"features": None, "excluded": ("source",)},
}


def shaped(shape: str, x: dict[str, object], **rest: object) -> bytes:
    """The same event in the three ways to say where features are."""
    return body(**rest, **({"features": x} if shape == "object" else x))


@pytest.mark.parametrize("shape", SHAPES)
class TestTheThreeWaysToSayWhereFeaturesAre:
    def test_features_and_label_are_a_labelled_event(self, shape: str) -> None:
        value = shaped(shape, {"a": 1.5, "b": "x"}, id="i", label=True, source="s")

        assert decode(value, **SHAPES[shape]) == Event("i", 5.0, {"a": 1.5, "b": "x"}, True)

    def test_a_labelled_event_needs_no_id(self, shape: str) -> None:
        assert decode(shaped(shape, {"a": 1}, label=0), **SHAPES[shape]) == Event(None, 5.0, {"a": 1}, False)

    @pytest.mark.parametrize("label", [{}, {"label": None}])
    def test_features_without_a_label_are_a_question(self, shape: str, label: dict[str, object]) -> None:
        assert decode(shaped(shape, {"a": 1}, id=7, **label), **SHAPES[shape]) == Event(
            7, 5.0, {"a": 1}, None
        )

    @pytest.mark.parametrize("x", [{}, {"a": None}])
    def test_a_label_and_an_id_are_an_answer(self, shape: str, x: dict[str, object]) -> None:
        assert decode(shaped(shape, x, id="i", label=1), **SHAPES[shape]) == Event("i", 5.0, None, True)

    def test_a_missing_or_null_feature_is_absent(self, shape: str) -> None:
        assert decode(shaped(shape, {"a": None, "b": 2}), **SHAPES[shape]).x == {"b": 2}

    @pytest.mark.parametrize("rest", [{"label": True}, {"id": 3}, {"source": "s"}, {}])
    def test_anything_else_is_no_event(self, shape: str, rest: dict[str, object]) -> None:
        assert "expected" in reason(shaped(shape, {}, **rest), **SHAPES[shape])

    def test_numbers_strings_and_booleans_stay_what_they_are(self, shape: str) -> None:
        for x in (
            {"a": 1, "b": 1.0},
            {"a": True, "b": False},
            {"a": "", "b": -0.0},
            {"a": 2**64 - 1, "b": 5e-324},
        ):
            x_decoded = decode(shaped(shape, dict(x)), **SHAPES[shape]).x
            assert repr(x_decoded) == repr(x)

    @pytest.mark.parametrize("nested", [[], [1], {}, {"c": 1}])
    def test_a_nested_feature_is_refused(self, shape: str, nested: object) -> None:
        assert 'feature "b" is a' in reason(shaped(shape, {"a": 1, "b": nested}), **SHAPES[shape])


def test_features_as_a_list_ignores_other_fields_even_odd_ones() -> None:
    value = body(a=1, other=[{}], label=True)

    assert decode(value, features=["a", "b"]).x == {"a": 1}


def test_a_field_may_be_the_id_and_a_feature_when_the_list_says_so() -> None:
    assert decode(body(id=4, a=1), features=["id", "a"]) == Event(4, 5.0, {"id": 4, "a": 1}, None)


def test_all_but_some_leaves_out_id_time_and_label() -> None:
    value = body(key=1, at=3, y=1, note="n", a=2)

    event = decode(value, id_field="key", time_field="at", label_field="y", features=None, excluded=("note",))

    assert event == Event(1, 3.0, {"a": 2}, True)


@pytest.mark.parametrize(("features", "kind"), [([1], "a list"), ("x", "a string"), (3, "a number")])
def test_features_that_are_no_object_are_refused(features: object, kind: str) -> None:
    assert reason(body(features=features)) == f'field "features" is {kind}; expected an object of features'


def test_what_was_decoded_before_does_not_change_what_a_record_decodes_to() -> None:
    """A decoder is no part of the state that a replay restores: it must give the same afresh."""
    values = [
        body(id=1, label=True, features={}),
        body(id=1, features={}),
        body(features={"a": 1}),
        body(features={"a": None}, id=1, label=True),
        body(features={"a": "x"}),
        body(features={"a": [1]}),
        body(features={"a": 1, "b": 2}),
        body(features={"b": 2, "a": 1}),
        body(features=[]),
    ]

    def outcome(decoder: EventDecoder, value: bytes) -> str:
        try:
            return repr(decoder.decode(record(value)))
        except RecordError as error:
            return str(error)

    for features in ("features", None):
        for before in values:
            for value in values:
                used = EventDecoder(task="binary", features=features)
                outcome(used, before)
                assert outcome(used, value) == outcome(EventDecoder(task="binary", features=features), value)


# Labels ---------------------------------------------------------------------------------------------------------


def label_of(label: object, task: Task, **fields: Any) -> object:
    return decode(body(features={"a": 1}, label=label), task=task, **fields).y


@pytest.mark.parametrize("label", [True, 1, 1.0, "true", "1"])
def test_binary_takes_what_means_true(label: object) -> None:
    assert label_of(label, "binary") is True


@pytest.mark.parametrize("label", [False, 0, 0.0, -0.0, "false", "0"])
def test_binary_takes_what_means_false(label: object) -> None:
    assert label_of(label, "binary") is False


@pytest.mark.parametrize("label", [2, -1, 0.5, "yes", "True", "", [], [1], {}, {"a": 1}])
def test_binary_refuses_any_other_label(label: object) -> None:
    found = reason(body(features={"a": 1}, label=label))

    assert found.startswith(f'field "label" is {orjson.dumps(label).decode()}; expected true, false, 1 or 0')


@pytest.mark.parametrize(
    ("positive", "truths", "falsehoods", "refused"),
    [
        ("yes", ["yes"], ["no", "YES", ""], [True, 1, [], {}]),
        ("1", ["1"], ["0", "true"], [1, True, 1.5]),
        (2, [2, 2.0], [1, 0, True, -2.5], ["2", [], {}]),
        (True, [True, 1], [False, 0, 7], ["true", []]),
        (False, [False, 0], [True, 1], ["false"]),
    ],
)
def test_positive_is_the_value_that_means_true(
    positive: Any, truths: list[object], falsehoods: list[object], refused: list[object]
) -> None:
    assert [label_of(label, "binary", positive=positive) for label in truths] == [True] * len(truths)
    assert [label_of(label, "binary", positive=positive) for label in falsehoods] == [False] * len(falsehoods)
    for label in refused:
        assert "expected a value like" in reason(body(features={"a": 1}, label=label), positive=positive)


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("a", "a"),
        ("", ""),
        (3, "3"),
        (3.0, "3"),
        (-0.0, "0"),
        (2.5, "2.5"),
        (1e300, "1e+300"),
        (2**64 - 1, "18446744073709551615"),
        (True, "true"),
        (False, "false"),
    ],
)
def test_multiclass_labels_become_text(label: object, text: str) -> None:
    assert label_of(label, "multiclass") == text


@pytest.mark.parametrize("label", [[], {}, ["a"], "x" * (MAX_NAME_CHARACTERS + 1)])
def test_multiclass_refuses_what_is_no_class(label: object) -> None:
    assert "expected" in reason(body(features={"a": 1}, label=label), task="multiclass")


@pytest.mark.parametrize("label", [1, 1.5, -2, 0, 1e100, 2**64 - 1])
def test_regression_labels_become_floats(label: float) -> None:
    y = label_of(label, "regression")

    assert type(y) is float
    assert y == float(label)


@pytest.mark.parametrize("label", ["1", "", True, False, [], {}])
def test_regression_refuses_what_is_no_number(label: object) -> None:
    found = reason(body(features={"a": 1}, label=label), task="regression")

    assert found == f"the label is {orjson.dumps(label).decode()}; expected a number (regression)"


# Ids and times --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_id", ["", "a", 0, -5, 2**63, "x" * MAX_TEXT_CHARACTERS])
def test_an_id_is_a_string_or_an_integer(event_id: object) -> None:
    assert decode(body(id=event_id, features={"a": 1})).id == event_id


@pytest.mark.parametrize("event_id", [1.5, True, [], {}, "x" * (MAX_TEXT_CHARACTERS + 1)])
def test_any_other_id_is_refused(event_id: object) -> None:
    assert reason(body(id=event_id, features={"a": 1})).startswith('field "id" ')


def test_without_an_id_field_events_have_no_id() -> None:
    assert decode(body(id=5, features={"a": 1}), id_field=None).id is None
    assert "expected" in reason(body(id=5, label=True), id_field=None)


def time_of(given: object, *, timestamp: float = MOMENT) -> float:
    value = body(features={"a": 1}, at=given)
    return decode(value, time_field="at", timestamp=int(timestamp * 1_000)).time


@pytest.mark.parametrize(
    "given",
    [
        1_769_817_600,
        1_769_817_600.0,
        1_769_817_600_000,
        1_769_817_600_000.0,
        "2026-01-31T00:00:00Z",
        "2026-01-31T00:00:00",
        "2026-01-31 00:00",
        "2026-01-31",
        "20260131T000000Z",
        "2026-01-31T02:00:00+02:00",
        "2026-01-30T18:30:00.000-05:30",
        None,
    ],
)
def test_a_time_is_epoch_seconds_milliseconds_or_iso_8601(given: object) -> None:
    assert time_of(given) == MOMENT


def test_times_keep_their_fractions() -> None:
    assert time_of(1.25) == 1.25
    assert time_of(1_769_817_600_123) == 1_769_817_600.123
    assert time_of("2026-01-31T00:00:00.5") == MOMENT + 0.5


def test_times_before_the_epoch_are_taken() -> None:
    assert time_of(-86_400) == -86_400.0
    assert time_of(-200_000_000_000) == -200_000_000.0
    assert time_of("1900-01-01") == -2_208_988_800.0
    assert time_of("0001-01-01T00:00:00+14:00") < 0


@pytest.mark.parametrize(
    "given", ["", "yesterday", "2026-13-01", "1769817600", True, False, [], {}, [1], "x" * 5_000]
)
def test_any_other_time_is_refused(given: object) -> None:
    value = body(features={"a": 1}, at=given)

    assert "expected epoch seconds, milliseconds or ISO 8601" in reason(value, time_field="at")


def test_a_time_may_be_ahead_of_the_record_only_so_far() -> None:
    value = body(features={"a": 1}, at=5.0 + 60.0)

    assert decode(value, time_field="at", max_ahead_seconds=60.0).time == 65.0
    assert "60 s ahead of the record's timestamp; expected at most 59 s" in reason(
        value, time_field="at", max_ahead_seconds=59.0
    )


@pytest.mark.parametrize(
    "given", ["3000-01-01", "9999-12-31T23:59:59-14:00", 32_503_680_000, 1e300, 2**64 - 1]
)
def test_one_event_from_the_far_future_is_refused(given: object) -> None:
    assert "ahead of the record's timestamp" in reason(body(features={"a": 1}, at=given), time_field="at")


# Hostile input --------------------------------------------------------------------------------------------------


def of_size(size: int) -> bytes:
    """An event of exactly so many bytes."""
    bare = len(body(features={"a": 1}, other=""))
    return body(features={"a": 1}, other="x" * (size - bare))


def test_a_record_has_at_most_256_kib() -> None:
    assert len(of_size(MAX_RECORD_BYTES)) == 256 * 1024
    assert decode(of_size(MAX_RECORD_BYTES)).x == {"a": 1}
    assert reason(of_size(MAX_RECORD_BYTES + 1)) == "the value has 262,145 bytes; expected at most 262,144"


def test_a_key_has_at_most_256_kib() -> None:
    decoder = EventDecoder(task="binary")
    event = record(body(features={"a": 1}), key=b"k" * MAX_RECORD_BYTES)

    assert decoder.decode(event).x == {"a": 1}
    with pytest.raises(RecordError, match="the key has 262,145 bytes; expected at most 262,144"):
        decoder.decode(event._replace(key=b"k" * (MAX_RECORD_BYTES + 1)))


def test_size_is_checked_before_anything_is_parsed() -> None:
    assert "bytes" in reason(b"[" * (MAX_RECORD_BYTES + 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_an_event_has_at_most_1000_features(shape: str) -> None:
    names = [f"f{i}" for i in range(MAX_FEATURES + 1)]
    arguments = SHAPES[shape] | ({"features": names} if shape == "list" else {})

    x = decode(shaped(shape, dict.fromkeys(names[:-1], 1)), **arguments).x
    assert x is not None
    assert len(x) == MAX_FEATURES
    assert reason(shaped(shape, dict.fromkeys(names, 1)), **arguments).startswith("it has 1,001 features")


def test_a_features_name_has_at_most_128_characters() -> None:
    assert decode(body(features={"é" * 128: 1})).x == {"é" * 128: 1}
    assert "has 129 characters; expected at most 128" in reason(body(features={"é" * 129: 1}))


def test_a_features_text_has_at_most_1024_characters() -> None:
    assert decode(body(features={"a": "é" * 1_024})).x == {"a": "é" * 1_024}
    assert reason(body(features={"a": "é" * 1_025})).startswith('feature "a" has 1,025 characters')


def test_the_caps_hold_also_behind_an_event_that_was_right() -> None:
    decoder = EventDecoder(task="binary")
    decoder.decode(record(body(features={"a": 1.0})))

    hostile: list[dict[str, object]] = [
        {"a": "x" * 1_025},
        {"a": [1]},
        {"a": {}},
        {"b" * 129: 1},
        {f"f{i}": i for i in range(1_001)},
    ]
    for x in hostile:
        with pytest.raises(RecordError):
            decoder.decode(record(body(features=x)))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"garbage",
        b"{",
        b"{}{}",
        b'{"features": {"a": NaN}}',
        b'{"features": {"a": Infinity}}',
        b'{"features": {"a": -Infinity}}',
        b'{"features": {"a": 1e999}}',
        b'{"features": {"a": -1e999}}',
        b'{"features": {"a": 1}, "label": 1e999}',
        b'{"features": {"a": "\xff"}}',
        b'{"features": {"\xc3\x28": 1}}',
        b'{"features": {"a": "\\ud800"}}',
        b'{"features": {"\\udfff": 1}}',
        b'{"features": {"a": "\x00"}}',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b'{"a": ' * 2_000 + b"1" + b"}" * 2_000,
        b"[" * 200_000,
        b"\x00" * 1_000,
    ],
)
def test_what_is_not_json_in_utf_8_is_refused(value: bytes) -> None:
    assert reason(value).startswith("the value is not valid JSON in UTF-8: ")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"[]", "a list"),
        (b"null", "null"),
        (b"1", "a number"),
        (b"1.5", "a number"),
        (b'"x"', "a string"),
        (b"true", "a boolean"),
    ],
)
def test_json_that_is_no_object_is_refused(value: bytes, kind: str) -> None:
    assert reason(value) == f"the value is {kind}; expected a JSON object"


def test_a_tombstone_and_an_empty_object_are_refused() -> None:
    assert reason(None) == "the value is empty (a tombstone); expected a JSON object"
    assert reason(b"{}") == "it is an empty object; expected features, or an id with a label"


DEEP = b'[{"a":' * 400 + b"1" + b"}]" * 400


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("field", ["label", "id", "at", "features", "other"])
def test_deep_nesting_is_refused_wherever_it_is(task: Task, field: str) -> None:
    """The parser reads 1,024 levels and writes 254: the reason must not quote what can't be written."""
    event = b'{"features": {"a": 1}, "%s": %s}' % (field.encode(), DEEP)

    if field == "other":
        assert decode(event, task=task).x == {"a": 1}
    else:
        assert "expected" in reason(event, task=task, time_field="at")


def test_of_a_repeated_key_the_last_counts() -> None:
    value = b'{"label": 1, "features": {"a": 1, "b": 5, "a": 2}, "label": 0}'

    assert decode(value) == Event(None, 5.0, {"a": 2, "b": 5}, False)


def test_integers_beyond_64_bits_become_floats() -> None:
    x = decode(b'{"features": {"a": 1%s, "b": 18446744073709551615}}' % (b"0" * 30)).x

    assert repr(x) == "{'a': 1e+30, 'b': 18446744073709551615}"


def test_reasons_stay_short_and_can_be_written_into_a_header() -> None:
    for value in (
        body(features={"a": 1}, label="x" * 100_000),
        body(**{"é" * 100_000: 1}),
        body(**{f"{i}" * 100: i for i in range(500)}),
        body(features={"x" * 100_000: 1}),
        body(features={"a": 1}, at="9" * 100_000),
    ):
        text = reason(value, time_field="at")
        assert len(text) < 600
        assert text.encode()


# Dead letters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, b"", b"\xff\x00\xfe", b"x" * 1_000_000])
@pytest.mark.parametrize("key", [None, b"", b"\xff"])
@pytest.mark.parametrize(
    "headers", [None, [], [("a", b"1"), ("a", None), ("headrace.stage", b"\xff"), ("", b"")], (("b", b""),)]
)
def test_a_dead_letter_keeps_key_value_and_headers_and_adds_its_own(
    value: bytes | None, key: bytes | None, headers: Any
) -> None:
    bad = record(value, 1_042, key=key, headers=headers)

    letter = dead_letter(bad, pipeline="fraud", topic="clicks", stage="decode", error=RecordError("no"))

    given = tuple(headers or ())
    assert (letter.to, letter.key, letter.value) == ("dead_letters", key, value)
    assert letter.headers is not None
    assert tuple(letter.headers[: len(given)]) == given
    assert dict(letter.headers[len(given) :]) == {
        "headrace.pipeline": b"fraud",
        "headrace.position": b"clicks[0]@1042",
        "headrace.topic": b"clicks",
        "headrace.partition": b"0",
        "headrace.offset": b"1042",
        "headrace.stage": b"decode",
        "headrace.error": b"RecordError",
        "headrace.message": b"no",
    }


def test_a_dead_letters_message_is_short_and_utf_8_whatever_the_error_says() -> None:
    for error, message in (
        (ValueError("é" * 5_000), ("é" * 1_024).encode()),
        (ValueError("\ud800"), b"?"),
        (KeyError(), b"KeyError"),
    ):
        letter = dead_letter(record(b""), pipeline="p", topic="t", stage="learn", error=error)
        assert letter.headers is not None
        assert dict(letter.headers)["headrace.message"] == message


# Encoding -------------------------------------------------------------------------------------------------------


def test_scores_are_sorted_by_class_and_named_in_text() -> None:
    assert list(scores_of({True: 0.25, False: 0.75}).items()) == [("false", 0.75), ("true", 0.25)]
    assert scores_of({True: 1.0}) == {"true": 1.0}
    assert scores_of({False: 1.0}) == {"false": 1.0}
    assert list(scores_of({"b": 0.5, "a": 0.5})) == ["a", "b"]


def test_scores_of_a_mapping_that_has_every_key_are_those_it_holds() -> None:
    y_proba: Counter[Any] = Counter({"b": 1, "a": 3})

    assert scores_of(y_proba) == {"a": 3, "b": 1}
    assert scores_of(Counter({True: 2})) == {"true": 2}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64(math.nan), np.float32(math.inf)])
def test_what_json_has_no_name_for_is_null(value: float) -> None:
    assert encode_json({"a": value, "b": {"c": value}}) == b'{"a":null,"b":{"c":null}}'
    assert finite(value) is None


def test_numpy_values_are_written_as_the_numbers_they_are() -> None:
    values = {
        "a": np.float64(0.1),
        "b": np.int64(3),
        "c": np.bool_(True),
        "d": np.str_("x"),
        "e": np.float32(0.5),
    }

    assert orjson.loads(encode_json(values)) == {"a": 0.1, "b": 3, "c": True, "d": "x", "e": 0.5}


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the size of a process is read where Linux has it"
)
def test_outputs_that_are_kept_take_no_more_memory_than_they_are_long() -> None:
    """As they came from the library 20,000 of 110 bytes, the most there are in a transaction, took 25 MB."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident()
    kept = [encode_json({"id": f"{number:08d}", "learner": "x" * 80}) for number in range(20_000)]
    grown = resident() - before

    assert len(kept[0]) == 110
    assert grown < 10_000_000


def test_a_label_whose_square_overflows_is_refused() -> None:
    decoder = EventDecoder(task="regression")

    with pytest.raises(RecordError, match=r"the label is 1e\+200; expected a number between"):
        decoder.decode(Record(0, 0, 0, None, b'{"features": {"a": 1}, "label": 1e200}'))


def test_a_value_too_large_for_any_topic_leaves_its_size_and_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.codec.MAX_DEAD_LETTER_BYTES", 10)
    large = Record(0, 0, 0, b"k", b"x" * 11, [("h", b"1")])

    letter = dead_letter(large, pipeline="p", topic="t", stage="decode", error=RecordError("too large"))

    assert (letter.key, letter.value) == (b"k", None)
    assert letter.headers is not None
    assert letter.headers[0] == ("h", b"1")
    assert dict(letter.headers)["headrace.omitted-bytes"] == b"11"
    assert dict(letter.headers)["headrace.omitted-sha256"] == sha256(b"x" * 11).hexdigest().encode()
