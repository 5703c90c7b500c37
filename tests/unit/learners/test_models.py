from __future__ import annotations

import pickle
from typing import Any

import pytest
from river import ensemble, forest, naive_bayes, neighbors, tree

from learners import models
from learners.checks import Row, example_rows

ROWS = example_rows("multiclass", n=250)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (models.HoeffdingTreeClassifier(grace_period=30), tree.HoeffdingTreeClassifier(grace_period=30)),
        (
            models.HoeffdingAdaptiveTreeClassifier(grace_period=30, seed=1),
            tree.HoeffdingAdaptiveTreeClassifier(grace_period=30, seed=1),
        ),
        (models.ARFClassifier(n_models=3, seed=1), forest.ARFClassifier(n_models=3, seed=1)),
        (models.SRPClassifier(n_models=3, seed=1), ensemble.SRPClassifier(n_models=3, seed=1)),
        (models.AMFClassifier(n_estimators=3, seed=1), forest.AMFClassifier(n_estimators=3, seed=1)),
        (
            models.KNNClassifier(engine=neighbors.LazySearch()),
            neighbors.KNNClassifier(engine=neighbors.LazySearch()),
        ),
    ],
)
def test_predictions_are_those_of_rivers_own_class(ours: Any, theirs: Any) -> None:
    for x, y in ROWS:
        mine, rivers = ours.predict_proba_one(x), theirs.predict_proba_one(x)
        assert mine.keys() == rivers.keys()
        # the order in which trees add up may differ from a set's
        assert all(mine[label] == pytest.approx(rivers[label], abs=1e-12) for label in rivers)
        ours.learn_one(x, y)
        theirs.learn_one(x, y)


@pytest.mark.parametrize(
    "model",
    [
        models.HoeffdingAdaptiveTreeClassifier(seed=1),
        models.AMFClassifier(n_estimators=2, seed=1),
        models.KNNClassifier(engine=neighbors.LazySearch()),
        models.NoChangeClassifier(),
    ],
)
def test_classes_keep_the_order_in_which_they_came_through_pickle_and_clone(model: Any) -> None:
    for some in (model, model.clone()):
        for i, label in enumerate(("wind", "rain", "snow", "hail", "fog")):
            some.learn_one({"a": float(i)}, label)

        copied = pickle.loads(pickle.dumps(some))

        assert list(some.predict_proba_one({"a": 2.0})) == ["wind", "rain", "snow", "hail", "fog"]
        assert list(copied.predict_proba_one({"a": 2.0})) == ["wind", "rain", "snow", "hail", "fog"]


@pytest.mark.parametrize(
    "model",
    [
        models.HoeffdingTreeClassifier(),
        models.HoeffdingAdaptiveTreeClassifier(seed=1),
        models.ARFClassifier(n_models=1, seed=1),
    ],
)
def test_trees_watch_strings_by_a_splitter_that_keeps_their_order(model: Any) -> None:
    for i, place in enumerate(("z", "a", "m")):
        model.learn_one({"place": place}, f"class {i}")

    copied = pickle.loads(pickle.dumps(model))

    for some in (model, copied):
        leaf = some[0]._root if isinstance(some, models.ARFClassifier) else some._root
        splitter = leaf.splitters["place"]
        assert type(splitter) is models.NominalSplitter
        assert len(splitter._att_values) >= 2
        assert list(splitter._att_values) == [p for p in ("z", "a", "m") if p in splitter._att_values]


@pytest.mark.parametrize(
    ("model", "nothing"),
    [
        (models.ARFClassifier(n_models=2, seed=1), {}),
        (models.SRPClassifier(n_models=2, seed=1), {}),
    ],
)
def test_asking_a_forest_before_it_learned_changes_nothing(model: Any, nothing: object) -> None:
    assert model.predict_proba_one({"a": 1.0}) == nothing
    assert len(model) == 0


def test_asking_a_regression_forest_before_it_learned_changes_nothing() -> None:
    model = models.ARFRegressor(n_models=2, seed=1)

    assert model.predict_one({"a": 1.0}) == 0.0
    assert len(model) == 0


def test_naive_bayes_without_strings_is_rivers() -> None:
    ours: Any = models.GaussianNB()
    rivers_class: Any = naive_bayes.GaussianNB
    theirs = rivers_class()
    for x, y in ROWS:
        assert ours.predict_proba_one(x) == theirs.predict_proba_one(x)
        ours.learn_one(x, y)
        theirs.learn_one(x, y)


def test_naive_bayes_learns_from_strings_alone() -> None:
    rows: list[Row] = [({"s": "u"}, "a"), ({"s": "v"}, "b")] * 20
    model: Any = models.GaussianNB()
    for x, y in rows:
        model.learn_one(x, y)

    assert model.predict_one({"s": "u"}) == "a"
    assert model.predict_one({"s": "v"}) == "b"
    assert model.predict_proba_one({"s": "never seen"}) == pytest.approx({"a": 0.5, "b": 0.5})
