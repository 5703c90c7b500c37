from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream.build import new_pipeline
from stream.codec import (
    LARGEST_LABEL,
    MAX_FEATURES,
    MAX_NAME_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    EventDecoder,
    Task,
    dead_letter,
    encode_json,
    scores_of,
)
from stream.errors import RecordError
from stream.records import Event, Record
from tests.helpers import body, record, settings_for

LABEL_TYPE: dict[Task, type] = {"binary": bool, "multiclass": str, "regression": float}
TASKS = st.sampled_from(list(LABEL_TYPE))

#: Text that JSON in UTF-8 can carry.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT | st.sampled_from(["true", "1", 1, 0, 0.0, "2026-01-31"])
NAMES = st.sampled_from(["id", "label", "features", "at", "a", "b"]) | TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
#: Records that are nearly events, where the mistakes are.
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "id": SCALARS,
        "label": SCALARS | JSON,
        "at": SCALARS | JSON,
        "features": st.dictionaries(NAMES, SCALARS, max_size=4) | JSON,
        "a": SCALARS | JSON,
        "b": SCALARS,
    },
)
#: JSON as orjson would never write it: cut off, doubled, with literals of other dialects.
LITERALS = st.sampled_from(
    [
        *b'{ } [ ] : , "a" "label" "features" "id" "at" 1 1e999 -0 0.1 NaN Infinity true null "\\ud800" \xff'.split(),
        b" ",
        b"1" * 400,
    ]
)
VALUES = (
    st.binary(max_size=64)
    | st.lists(LITERALS, max_size=14).map(b"".join)
    | JSON.map(orjson.dumps)
    | NEARLY.map(orjson.dumps)
    | st.tuples(NEARLY.map(orjson.dumps), st.integers(0, 60)).map(lambda cut: cut[0][: cut[1]])
)
WAYS: list[dict[str, Any]] = [
    {"features": "features"},
    {"features": ["a", "b"]},
    {"features": None, "excluded": ("b",)},
]


def obeys_the_rules(event: Event, task: Task, at_most: float) -> bool:
    """Whether nothing in an event can hurt what comes after the decoder."""
    x, y = event.x, event.y
    return (
        (
            event.id is None
            or type(event.id) is int
            or (type(event.id) is str and len(event.id) <= MAX_TEXT_CHARACTERS)
        )
        and type(event.time) is float
        and math.isfinite(event.time)
        and event.time <= at_most
        and (y is None or type(y) is LABEL_TYPE[task])
        and (type(y) is not float or math.isfinite(y))
        and (x is not None or (y is not None and event.id is not None))
        and (
            x is None
            or (
                0 < len(x) <= MAX_FEATURES
                and all(len(name) <= MAX_NAME_CHARACTERS for name in x)
                and all(type(item) in (int, float, bool, str) for item in x.values())
                and all(math.isfinite(item) for item in x.values() if not isinstance(item, str))
                and all(len(item) <= MAX_TEXT_CHARACTERS for item in x.values() if isinstance(item, str))
            )
        )
    )


@given(
    values=st.lists(VALUES, min_size=1, max_size=4),
    task=TASKS,
    way=st.sampled_from(WAYS),
    time_field=st.sampled_from([None, "at"]),
    positive=st.sampled_from([None, "a", 1, True]),
)
def test_any_bytes_are_an_event_that_obeys_the_rules_or_a_record_error(
    values: list[bytes],
    task: Task,
    way: dict[str, Any],
    time_field: str | None,
    positive: str | bool | int | None,
) -> None:
    """One decoder for all values, as in a partition: what it remembers of the last is used on the next."""
    decoder = EventDecoder(task=task, time_field=time_field, positive=positive, **way)

    for value in values:
        bad = record(value, 5)
        try:
            event = decoder.decode(bad)
        except RecordError as error:
            letter = dead_letter(bad, pipeline="p", topic="t", stage="decode", error=error)
            assert letter.value == value
        else:
            assert obeys_the_rules(event, task, at_most=5.0 + 3_600.0), event
            fresh = EventDecoder(task=task, time_field=time_field, positive=positive, **way)
            assert repr(fresh.decode(bad)) == repr(event)


FEATURES = st.dictionaries(TEXT, NUMBERS | st.booleans() | TEXT, min_size=1, max_size=5)
LABELS: dict[Task, st.SearchStrategy[Any]] = {
    "binary": st.booleans(),
    "multiclass": TEXT,
    "regression": st.floats(-LARGEST_LABEL, LARGEST_LABEL),
}


@given(
    data=st.data(),
    task=TASKS,
    event_id=TEXT | st.integers(-(2**63), 2**64 - 1),
    time=st.floats(-1e10, 3_600.0),
    x=FEATURES,
)
def test_what_is_written_as_an_event_is_read_as_it_was(
    data: st.DataObject, task: Task, event_id: str | int, time: float, x: Any
) -> None:
    y = data.draw(LABELS[task] | st.none())
    decoder = EventDecoder(task=task, time_field="at")

    event = decoder.decode(Record(0, 0, 0, None, body(id=event_id, at=time, label=y, features=x)))

    assert repr(event) == repr(Event(event_id, time, x, y))


#: What a learner of anybody's own may give.
ODD_NUMBERS = st.floats() | st.floats().map(np.float64) | st.floats(width=32).map(np.float32)


@given(
    y_pred=st.none() | ODD_NUMBERS | st.booleans() | TEXT | st.booleans().map(np.bool_),
    y_proba=st.dictionaries(st.booleans(), ODD_NUMBERS) | st.dictionaries(TEXT, ODD_NUMBERS),
)
@example(y_pred=np.float64("nan"), y_proba={True: np.float64("nan"), False: -np.inf})
def test_any_prediction_is_written_as_valid_json(y_pred: Any, y_proba: dict[Any, Any]) -> None:
    scores = orjson.loads(encode_json({"prediction": y_pred, "scores": scores_of(y_proba)}))["scores"]

    assert list(scores) == sorted(scores)
    assert len(scores) == len(y_proba)
    assert all(type(score) in (float, type(None)) for score in scores.values())


@given(y_pred=ODD_NUMBERS, y=st.floats(-LARGEST_LABEL, LARGEST_LABEL))
def test_what_a_regressor_predicts_is_written_as_a_number_or_null(y_pred: float, y: float) -> None:
    from river import base

    class Odd(base.Regressor):
        def learn_one(self, x: dict[Hashable, Any], y: float) -> None:
            pass

        def predict_one(self, x: dict[Hashable, Any]) -> float:
            return y_pred

    settings = settings_for("regression", topics={"events": "events", "outcomes": "outcomes"})
    pipeline = new_pipeline(settings, Odd())

    outputs = pipeline.process(record(body(features={"a": 1}, label=y)))

    written = {output.to: orjson.loads(output.value or b"") for output in outputs}
    expected = pytest.approx(float(y_pred)) if math.isfinite(y_pred) else None
    assert written["predictions"]["prediction"] == written["outcomes"]["prediction"] == expected
    assert pipeline.state.non_finite == (expected is None)
