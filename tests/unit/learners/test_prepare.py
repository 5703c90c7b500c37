from __future__ import annotations

import copy
import math
import pickle
import random
from typing import Any

import pytest
from river import datasets, preprocessing

from learners.prepare import LARGEST, OTHER, KeepStrings, ScaleAndEncode


def test_numbers_are_scaled_as_rivers_standard_scaler_has_them_to_the_last_digit() -> None:
    rng = random.Random(1)
    trump_approval: Any = datasets.TrumpApproval
    rows: list[dict[str, Any]] = [x for x, _ in trump_approval().take(200)]
    rows += [{"a": rng.gauss(1e6, 1e-3), "b": rng.random() < 0.5, "c": rng.randrange(9)} for _ in range(200)]
    ours: Any = ScaleAndEncode()
    theirs: Any = preprocessing.StandardScaler()

    for x in rows:
        assert list(ours.transform_one(x).items()) == list(theirs.transform_one(x).items())
        ours.learn_one(x)
        theirs.learn_one(x)
        assert list(ours.transform_one(x).items()) == list(theirs.transform_one(x).items())


def test_a_string_becomes_a_feature_of_its_own() -> None:
    prepare = ScaleAndEncode()
    prepare.learn_one({"country": "DE"})

    assert prepare.transform_one({"country": "DE"}) == {"country=DE": 1}
    assert prepare.transform_one({"country": "FR"}) == {"country=FR": 1}


def test_zeros_stand_for_the_other_known_categories_in_the_order_they_came() -> None:
    prepare = ScaleAndEncode(zeros=True)
    for country in ("DE", "FR", "DE"):
        prepare.learn_one({"country": country})

    assert list(prepare.transform_one({"country": "FR"}).items()) == [("country=DE", 0), ("country=FR", 1)]
    assert prepare.transform_one({"country": "IT"}) == {"country=DE": 0, "country=FR": 0, "country=IT": 1}
    assert prepare.transform_one({}) == {}


@pytest.mark.parametrize("zeros", [False, True])
def test_categories_beyond_the_cap_are_one_other_category(zeros: bool) -> None:
    prepare = ScaleAndEncode(zeros=zeros, max_categories=2)
    for country in ("DE", "FR", "IT", "ES"):
        prepare.learn_one({"country": country})

    italy = prepare.transform_one({"country": "IT"})

    assert italy == prepare.transform_one({"country": "never seen"})
    assert {name for name, value in italy.items() if value} == {f"country={OTHER}"}
    assert {name for name, value in prepare.transform_one({"country": "FR"}).items() if value} == {
        "country=FR"
    }


def test_a_model_that_takes_strings_gets_at_most_the_cap_and_the_other_category() -> None:
    prepare = KeepStrings(max_categories=2)
    for i in range(10):
        prepare.learn_one({"id": f"{i}"})

    assert {prepare.transform_one({"id": f"{i}"})["id="] for i in range(20)} == {"0", "1", OTHER}


def test_a_feature_that_is_now_a_number_and_now_a_string_is_two_features() -> None:
    scaled, kept = ScaleAndEncode(), KeepStrings()
    for x in ({"a": 1.0}, {"a": "one"}, {"a": 3.0}, {"a": True}):
        scaled.learn_one(x)
        kept.learn_one(x)

    assert list(scaled.transform_one({"a": 2.0})) == ["a"]
    assert scaled.transform_one({"a": "one"}) == {"a=one": 1}
    assert kept.transform_one({"a": 2.0}) == {"a": 2.0}
    assert kept.transform_one({"a": "one"}) == {"a=": "one"}


def test_no_name_of_a_number_can_be_mistaken_for_that_of_a_string() -> None:
    names = ("a", "a=", "a==", "a=#")

    numbers = KeepStrings().transform_one(dict.fromkeys(names, 1.0))
    strings = KeepStrings().transform_one(dict.fromkeys(names, "x"))

    assert not set(numbers) & set(strings)
    assert len(strings) == len(names)


def test_booleans_become_zero_and_one() -> None:
    assert repr(KeepStrings().transform_one({"a": True, "b": False})) == repr({"a": 1, "b": 0})


def test_a_number_whose_square_overflows_leaves_no_nan_behind() -> None:
    prepare = ScaleAndEncode()
    for value in (1.0, 1.7e308, -1.7e308, 2.0):
        prepare.learn_one({"a": value})

    assert math.isfinite(prepare.transform_one({"a": 3.0})["a"])
    assert math.isfinite(prepare.transform_one({"a": -1.7e308})["a"])
    assert KeepStrings().transform_one({"a": -1.7e308}) == {"a": -LARGEST}


@pytest.mark.parametrize("prepare", [ScaleAndEncode(), ScaleAndEncode(zeros=True), KeepStrings()])
def test_transforming_changes_neither_state_nor_features(prepare: Any) -> None:
    for x in ({"a": 1.0, "s": "u"}, {"a": 2.0, "s": "v"}):
        prepare.learn_one(x)
    before = pickle.dumps(prepare)
    x = {"a": 5.0, "s": "never seen", "new": 1.0, "b": True}
    given = copy.deepcopy(x)

    prepare.transform_one(given)["added"] = 1

    assert pickle.dumps(prepare) == before
    assert given == x
    assert "added" not in prepare.transform_one(x)


def test_a_clone_has_the_parameters_and_none_of_the_state() -> None:
    prepare = ScaleAndEncode(zeros=True, max_categories=7)
    prepare.learn_one({"s": "u"})

    clone = prepare.clone()

    assert (clone.zeros, clone.max_categories) == (True, 7)
    assert clone.transform_one({"s": "v"}) == {"s=v": 1}
