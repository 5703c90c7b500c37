from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from river import (
    active,
    base,
    compose,
    datasets,
    dummy,
    ensemble,
    imblearn,
    linear_model,
    multiclass,
    naive_bayes,
    preprocessing,
    tree,
)

from learners import Learner, LearnerError, Task
from learners.learner import final_estimator

# River has no types for these constructors.
GaussianNB: Any = naive_bayes.GaussianNB
ImageSegments: Any = datasets.ImageSegments
OneVsOneClassifier: Any = multiclass.OneVsOneClassifier
PAClassifier: Any = linear_model.PAClassifier
PARegressor: Any = linear_model.PARegressor
TrumpApproval: Any = datasets.TrumpApproval


class CountingClassifier(base.Classifier):
    """Counts how often it is asked; its class is not the most probable one where told so."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        pass

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, float]:
        self.asked.append("probabilities")
        return {False: 0.5, True: 0.5}


class OwnClassClassifier(CountingClassifier):
    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        self.asked.append("class")
        return True


class ClassOnlyClassifier(base.Classifier):
    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        pass

    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        return True


class FixedRegressor(base.Regressor):
    def __init__(self, value: Any) -> None:
        self.value = value

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        if y < 0:
            raise ValueError("negative")

    def predict_one(self, x: dict[Any, Any]) -> Any:
        return self.value


class FixedProbabilities(CountingClassifier):
    def __init__(self, y_proba: Any) -> None:
        super().__init__()
        self.y_proba = y_proba

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        return self.y_proba


def test_a_classifier_is_asked_once_and_ties_go_to_the_first_class() -> None:
    estimator = CountingClassifier()

    assert Learner(estimator, "binary").predict({}) == (False, {False: 0.5, True: 0.5})
    assert estimator.asked == ["probabilities"]


def test_a_classifier_with_a_predict_one_of_its_own_is_asked_for_its_class_too() -> None:
    estimator = OwnClassClassifier()

    assert Learner(estimator, "binary").predict({}) == (True, {False: 0.5, True: 0.5})
    assert sorted(estimator.asked) == ["class", "probabilities"]


def test_a_pipeline_is_judged_by_its_final_estimator() -> None:
    inner = OwnClassClassifier()
    nested = preprocessing.StandardScaler() | compose.Pipeline(preprocessing.MinMaxScaler(), inner)

    assert final_estimator(nested) is inner
    assert Learner(nested, "binary").predict({"x": 1.0}) == (True, {False: 0.5, True: 0.5})


def test_a_classifier_without_probabilities_gives_none_for_them() -> None:
    assert Learner(ClassOnlyClassifier(), "binary").predict({}) == (True, None)


def test_a_wrapper_around_a_classifier_without_probabilities_gives_none_for_them() -> None:
    wrapper = imblearn.RandomOverSampler(ClassOnlyClassifier(), desired_dist={False: 0.5, True: 0.5}, seed=1)

    assert Learner(wrapper, "binary").predict({}) == (True, None)


@pytest.mark.parametrize("nothing", [{}, None])
def test_no_probabilities_yet_is_no_prediction(nothing: object) -> None:
    assert Learner(FixedProbabilities(nothing), "binary").predict({}) == (None, None)


def test_no_number_yet_is_no_prediction() -> None:
    assert Learner(FixedRegressor(None), "regression").predict({}) == (None, None)


@pytest.mark.parametrize(
    "y_proba",
    [
        {"a": 0.2, "b": 0.5, "c": 0.3},
        {"a": 0.5, "b": 0.5},
        {"a": float("nan"), "b": 0.5},
        {"a": 0.5, "b": float("nan"), "c": 0.6},
        {"a": -0.0, "b": 0.0},
        {"a": np.float64(0.1), "b": np.float64(0.9)},
        {"a": 0.0, "b": 1},
    ],
)
def test_the_class_is_the_one_river_would_choose(y_proba: dict[str, float]) -> None:
    estimator = FixedProbabilities(y_proba)

    y_pred, scores = Learner(estimator, "binary").predict({})

    assert y_pred == estimator.predict_one({})
    assert scores is not None
    assert repr(scores) == repr({label: float(probability) for label, probability in y_proba.items()})


def test_numpy_numbers_come_out_as_pythons() -> None:
    y_pred, _ = Learner(FixedRegressor(np.float64(0.1)), "regression").predict({})

    assert type(y_pred) is float
    assert y_pred == 0.1


@pytest.mark.parametrize(
    ("estimator", "task", "dataset"),
    [
        (preprocessing.StandardScaler() | linear_model.LogisticRegression(), "binary", datasets.Phishing()),
        (preprocessing.StandardScaler() | PAClassifier(), "binary", datasets.Phishing()),
        (dummy.NoChangeClassifier(), "binary", datasets.Phishing()),
        (GaussianNB(), "multiclass", ImageSegments()),
        (
            preprocessing.StandardScaler() | OneVsOneClassifier(linear_model.LogisticRegression()),
            "multiclass",
            ImageSegments(),
        ),
        (
            preprocessing.StandardScaler() | ensemble.VotingClassifier([tree.HoeffdingTreeClassifier()] * 2),
            "multiclass",
            ImageSegments(),
        ),
        (preprocessing.StandardScaler() | PARegressor(), "regression", TrumpApproval()),
    ],
)
def test_predictions_are_rivers_to_the_last_bit(estimator: Any, task: Task, dataset: Any) -> None:
    learner = Learner(estimator, task)

    for x, y in dataset.take(150):
        expected = estimator.predict_one(x)
        y_pred, y_proba = learner.predict(x)
        assert y_pred == expected
        if y_proba is not None:
            assert list(y_proba.items()) == list(estimator.predict_proba_one(x).items())
        learner.learn(x, y)


def test_labels_learned_are_counted_and_a_label_that_raised_is_not() -> None:
    learner = Learner(FixedRegressor(1.0), "regression")
    learner.learn({}, 1.0)

    with pytest.raises(ValueError, match="negative"):
        learner.learn({}, -1.0)

    assert learner.learned == 1


def test_a_learner_survives_a_pickle_and_stays_bound_to_its_own_estimator() -> None:
    learner = Learner(preprocessing.StandardScaler() | linear_model.LogisticRegression(), "binary")
    learner.learn({"x": 1.0}, True)

    copied = pickle.loads(pickle.dumps(learner))
    copied.learn({"x": 2.0}, False)

    assert (copied.learned, learner.learned) == (2, 1)
    assert copied.name == learner.name == "StandardScaler | LogisticRegression"
    assert copied.predict({"x": 3.0}) != learner.predict({"x": 3.0})


@pytest.mark.parametrize(
    ("estimator", "task", "sentence"),
    [
        (linear_model.LinearRegression(), "binary", "needs a classifier, and LinearRegression is none"),
        (
            linear_model.LogisticRegression(),
            "regression",
            "needs a regressor, and LogisticRegression is none",
        ),
        (preprocessing.StandardScaler(), "binary", "needs a classifier, and StandardScaler is none"),
        (linear_model.LogisticRegression(), "multiclass", "OneVsRestClassifier"),
        (
            preprocessing.StandardScaler() | linear_model.LogisticRegression(),
            "multiclass",
            "LogisticRegression knows two",
        ),
        (linear_model.LogisticRegression, "binary", r"expected an instance: LogisticRegression\(\.\.\.\)"),
        ("model", "binary", "learner is a str; expected a River classifier or regressor"),
        (linear_model.LogisticRegression(), "ranking", "task is 'ranking'"),
        (active.EntropySampler(linear_model.LogisticRegression(), seed=1), "binary", "chooses which labels"),
    ],
)
def test_an_estimator_that_does_not_fit_is_refused_in_one_sentence(
    estimator: Any, task: Any, sentence: str
) -> None:
    with pytest.raises(LearnerError, match=sentence):
        Learner(estimator, task)
