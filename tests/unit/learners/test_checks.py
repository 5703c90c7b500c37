from __future__ import annotations

import random
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from river import base, forest, linear_model, naive_bayes, tree

from learners import LearnerError, check_learner, find_problems
from learners.checks import example_rows


class Echo(base.Classifier):
    """Sound: predicts the last label."""

    def __init__(self) -> None:
        self.last: Any = None
        self.seen: list[Any] = []

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        self.last = y

    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        return self.last

    @property
    def _multiclass(self) -> bool:
        return True


class PredictChangesState(Echo):
    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        self.seen.append(1)
        return None if len(self.seen) % 3 == 0 else self.last


class Unseeded(Echo):
    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        return random.random() < 0.5


class ForgetsInPickle(Echo):
    def __getstate__(self) -> dict[str, Any]:
        return {"last": None, "seen": []}


class CannotPickle(Echo):
    def __init__(self) -> None:
        super().__init__()
        self.function = lambda: None


class HashOrder(Echo):
    def __init__(self) -> None:
        super().__init__()
        self.classes: set[Any] = set()

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        self.classes.add(y)

    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        return next(iter(self.classes), None)


class NeedsFeature(Echo):
    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        self.seen = [x["number_0"]]
        self.last = y


class ChangesFeatures(Echo):
    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        x["extra"] = 1.0
        self.last = y


class WrongType(Echo):
    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        return 1


class RaisesOnNewClass(Echo):
    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        if y not in {"rain", "wind", "snow", "fog", "hail"}:
            raise KeyError(y)
        self.last = y


class NotFinite(base.Regressor):
    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        pass

    def predict_one(self, x: dict[Any, Any]) -> Any:
        return float("inf")


def test_a_sound_learner_has_no_problems() -> None:
    assert find_problems(Echo, "multiclass") == []


@pytest.mark.parametrize(
    ("build", "task", "sentence"),
    [
        (PredictChangesState, "multiclass", "predict changes state"),
        (Unseeded, "binary", "two runs of the same rows differ; seed every random part"),
        (ForgetsInPickle, "multiclass", "does not survive a pickle: predictions differ afterwards"),
        (CannotPickle, "multiclass", "does not survive a pickle: .*lambda"),
        (NeedsFeature, "multiclass", "features that vanish or appear: learn_one raised KeyError: 'number_0'"),
        (ChangesFeatures, "multiclass", "learn_one changed its features"),
        (WrongType, "multiclass", "predict_one gives 1, a int; expected a str or None"),
        (RaisesOnNewClass, "multiclass", "a class never seen before: learn_one raised KeyError"),
        (NotFinite, "regression", "predict_one gives inf; expected a finite number"),
        (partial(forest.ARFClassifier, n_models=2), "multiclass", "two runs of the same rows differ"),
        (linear_model.LinearRegression, "binary", "needs a classifier"),
        (linear_model.LogisticRegression, "multiclass", "OneVsRestClassifier"),
        (Echo().clone, "multiclass", None),
    ],
)
def test_each_broken_promise_is_named(build: Any, task: Any, sentence: str | None) -> None:
    if sentence is None:
        assert find_problems(build, task, hash_seed=False) == []
        return
    with pytest.raises(LearnerError, match=sentence):
        check_learner(build, task, hash_seed=False)


def test_strings_are_tried_when_asked_for() -> None:
    assert find_problems(naive_bayes.GaussianNB, "binary", hash_seed=False) == []
    assert any(
        "learn_one raised TypeError" in problem
        for problem in find_problems(naive_bayes.GaussianNB, "binary", strings=True, hash_seed=False)
    )


def test_a_tree_that_saw_a_number_and_a_string_under_one_name_is_found() -> None:
    problems = find_problems(tree.HoeffdingTreeClassifier, "binary", strings=True, hash_seed=False)

    assert any(problem.startswith("features that vanish or appear: ") for problem in problems)


def test_order_that_depends_on_the_hash_seed_is_found_in_two_processes() -> None:
    problems = find_problems(HashOrder, "multiclass")

    assert any("the hash seed" in problem for problem in problems)


def test_a_function_in_a_file_is_checked_by_its_name_in_other_processes_too(tmp_path: Path) -> None:
    (tmp_path / "sound_learner_file.py").write_text(
        textwrap.dedent(
            """
            from river import linear_model, preprocessing

            def build():
                print("a user's function may print")
                return preprocessing.StandardScaler() | linear_model.LogisticRegression()
            """
        )
    )

    assert find_problems("sound_learner_file:build", "binary", folder=tmp_path) == []


def test_what_could_not_be_checked_is_said() -> None:
    problems = find_problems(lambda: Echo(), "multiclass")  # noqa: PLW0108  # a lambda is the point

    assert len(problems) == 1
    assert "could not be checked" in problems[0]


def test_a_build_that_returns_one_object_twice_is_refused() -> None:
    same = Echo()

    assert "same object" in find_problems(lambda: same, "multiclass")[0]


def test_a_build_that_raises_is_a_problem_with_its_error() -> None:
    def build() -> base.Estimator:
        raise RuntimeError("no licence")

    assert find_problems(build, "binary") == ["build raised RuntimeError: no licence."]


def test_everything_broken_is_listed_at_once() -> None:
    class Both(WrongType, ChangesFeatures):
        pass

    problems = find_problems(Both, "multiclass", hash_seed=False)

    assert len(problems) >= 2


@pytest.mark.parametrize("strings", [False, True])
def test_example_rows_are_always_the_same_and_reach_every_class(strings: bool) -> None:
    rows = example_rows("multiclass", strings=strings)

    assert rows == example_rows("multiclass", strings=strings)
    assert {y for _, y in rows} == {"rain", "wind", "snow", "fog", "hail"}
    assert {y for _, y in example_rows("binary")} == {False, True}
