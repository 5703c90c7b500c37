from __future__ import annotations

import hashlib
import math
import os
import pickle
import subprocess
import sys
import textwrap
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from river import base, datasets, evaluate, metrics

from learners import (
    LEARNERS,
    TASKS,
    Learner,
    LearnerError,
    Task,
    build_learner,
    digest_of_source,
    find_problems,
    learner_names,
    load_learner,
)
from learners.checks import example_rows

EVERY: list[tuple[str, Task]] = [(use, task) for task in TASKS for use in learner_names(task)]
DATASETS: dict[Task, Any] = {
    "binary": datasets.Phishing,
    "multiclass": datasets.ImageSegments,
    "regression": datasets.TrumpApproval,
}
METRICS: dict[Task, list[Any]] = {
    "binary": [metrics.Accuracy, metrics.LogLoss, metrics.ROCAUC],
    "multiclass": [metrics.Accuracy, metrics.CrossEntropy],
    "regression": [metrics.MAE],
}
SLOW = {"leveraging-bagging", "streaming-random-patches", "adaptive-random-forest"}


def small(use: str, task: Task) -> dict[str, object]:
    """Parameters that keep ensembles small and let trees split early."""
    wanted: dict[str, object] = {"n_models": 3, "n_estimators": 3, "grace_period": 20, "delta": 0.2}
    return {name: value for name, value in wanted.items() if name in LEARNERS[use].parameters(task)}


def equal_to_progressive_val_score(use: str, task: Task, parameters: dict[str, object], n: int) -> None:
    rows = list(DATASETS[task]().take(n))
    for metric_class in METRICS[task]:
        expected = evaluate.progressive_val_score(
            rows, build_learner(use, task, parameters, 7), metric_class()
        )
        metric = metric_class()
        learner = Learner(build_learner(use, task, parameters, 7), task)
        for i, (x, y) in enumerate(rows):
            y_pred, y_proba = learner.predict(x)
            scored = y_pred if getattr(metric, "requires_labels", True) else y_proba
            if scored is not None:
                metric.update(y, scored)
            learner.learn(x, y)
            if i % 67 == 66:
                learner = pickle.loads(pickle.dumps(learner))
        assert metric.get() == expected.get()
        assert math.isfinite(metric.get())


@pytest.mark.parametrize(("use", "task"), EVERY)
def test_streamed_metrics_equal_progressive_val_score(use: str, task: Task) -> None:
    equal_to_progressive_val_score(use, task, small(use, task), n=100 if use in SLOW else 350)


@pytest.mark.parametrize(("use", "task"), EVERY)
def test_every_registered_learner_keeps_its_promises_on_numbers_and_strings(use: str, task: Task) -> None:
    problems = find_problems(
        partial(build_learner, use, task, small(use, task), seed=5),
        task,
        rows=example_rows(task, strings=True, n=60 if use in SLOW else 140),
        pickle_every=17,
        hash_seed=False,  # for all of them at once, below
    )

    assert problems == []


ALL_PREDICTIONS = """
import hashlib
from learners import Learner, build_learner
from learners.checks import _run, example_rows
from tests.unit.learners.test_registry import EVERY, SLOW, small

for use, task in EVERY:
    rows = example_rows(task, strings=True, n=60 if use in SLOW else 130)
    predictions = _run(Learner(build_learner(use, task, small(use, task), 5), task), rows, pickle_every=23)
    print(use, task, hashlib.sha256("".join(predictions).encode()).hexdigest())
"""


def test_no_prediction_depends_on_the_hash_seed() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ALL_PREDICTIONS],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()},
            text=True,
        )
        for seed in ("1", "2")
    ]
    one, other = (process.communicate()[0] for process in processes)

    assert one.splitlines() == other.splitlines()
    assert len(one.splitlines()) == len(EVERY)


@pytest.mark.parametrize(("use", "task"), EVERY)
def test_numbers_near_the_largest_float_raise_nothing_and_leave_no_nan(use: str, task: Task) -> None:
    learner = Learner(build_learner(use, task, small(use, task), 1), task)
    for i, (x, y) in enumerate(example_rows(task, n=60)):
        if i % 10 == 9:
            x["number_2"] = 1.7e308 if i % 20 == 9 else -1.7e308
        learner.predict(x)
        learner.learn(x, y)

    y_pred, y_proba = learner.predict({"number_0": 1.0, "number_1": 2.0, "number_2": 0.5})

    assert y_pred is not None
    assert task != "regression" or math.isfinite(y_pred)
    assert all(math.isfinite(probability) for probability in (y_proba or {}).values())


def test_every_learner_says_in_one_line_what_it_is() -> None:
    for spec in LEARNERS.values():
        assert spec.summary.endswith(".")
        assert "\n" not in spec.summary
        assert spec.tasks


def test_every_task_has_its_baselines() -> None:
    assert {"no-change", "majority-class"} <= set(learner_names("binary")) & set(learner_names("multiclass"))
    assert {"no-change", "mean"} <= set(learner_names("regression"))


@pytest.mark.parametrize(("use", "task"), EVERY)
def test_nothing_random_is_left_unseeded(use: str, task: Task) -> None:
    estimator = build_learner(use, task, {}, 1)

    def unseeded(value: Any) -> list[str]:
        if not isinstance(value, base.Base):
            return []
        parameters = vars(value) if not hasattr(value, "steps") else value.steps
        return [name for name, inner in parameters.items() if name == "seed" and inner is None] + [
            name for inner in parameters.values() for name in unseeded(inner)
        ]

    assert unseeded(estimator) == []


def test_another_seed_gives_other_predictions() -> None:
    rows = example_rows("multiclass", n=100)
    outputs = []
    for seed in (1, 1, 2):
        learner = Learner(build_learner("aggregated-mondrian-forest", "multiclass", {}, seed), "multiclass")
        for x, y in rows:
            learner.learn(x, y)
        outputs.append(learner.predict(rows[0][0]))

    assert outputs[0] == outputs[1] != outputs[2]


@pytest.mark.parametrize(
    ("use", "task", "parameters", "sentence"),
    [
        ("logistic-regresion", "binary", {}, 'is unknown; did you mean "logistic-regression"?'),
        (
            "logistic-regression",
            "multiclass",
            {},
            "does not do multiclass; it does binary. .*softmax-regression",
        ),
        ("logistic-regression", "binary", {"l3": 1.0}, 'parameter "l3" is unknown; did you mean "l2"?'),
        ("logistic-regression", "binary", {"l2": "much"}, "parameter \"l2\" is 'much'; expected a number"),
        ("logistic-regression", "binary", {"l2": True}, 'parameter "l2" is True; expected a number'),
        ("logistic-regression", "binary", {"optimizer": "adam"}, 'parameter "optimizer" is unknown'),
        ("logistic-regression", "binary", {"l1": 0.1, "l2": 0.1}, "make it raise"),
        ("adaptive-random-forest", "binary", {"seed": 1}, r"set seed in \[learner\]"),
        ("adaptive-random-forest", "binary", {"n_models": 2.5}, "expected a whole number"),
        ("adaptive-random-forest", "binary", {"n_models": 0}, "expected at least 1"),
        ("adaptive-random-forest", "binary", {"max_features": "all"}, "Invalid max_features: all"),
        (
            "hoeffding-tree",
            "binary",
            {"split_criterion": "best"},
            "expected one of gini, info_gain, hellinger",
        ),
        ("hoeffding-tree", "regression", {"leaf_prediction": "nba"}, "expected one of mean, model, adaptive"),
        ("leveraging-bagging", "binary", {"bagging_method": "half"}, "expected one of bag, wt, subag"),
        ("passive-aggressive", "binary", {"mode": 7}, "expected one of 0, 1, 2"),
        ("knn", "regression", {"aggregation_method": "max"}, "Invalid aggregation_method: max"),
        ("mean", "regression", {"statistic": 1}, "it takes none"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(
    use: str, task: Task, parameters: dict[str, object], sentence: str
) -> None:
    with pytest.raises(LearnerError, match=sentence):
        build_learner(use, task, parameters, 1)


@pytest.mark.parametrize(
    ("use", "task", "parameters"),
    [
        ("logistic-regression", "binary", {"l2": 1, "learning_rate": 0.1, "max_categories": 10}),
        ("knn", "multiclass", {"window_size": 10, "n_neighbors": 2, "cleanup_every": 5}),
        ("adaptive-random-forest", "binary", {"max_features": 0.5, "n_models": 2}),
        ("adaptive-random-forest", "regression", {"max_features": "log2", "max_depth": 3}),
        ("streaming-random-patches", "regression", {"subspace_size": "sqrt", "lam": 2}),
        ("passive-aggressive", "multiclass", {"C": 0.5, "mode": 2}),
        ("hoeffding-tree", "binary", {"max_depth": None}),
    ],
)
def test_parameters_of_the_constructor_are_taken(use: str, task: Task, parameters: dict[str, object]) -> None:
    learner = Learner(build_learner(use, task, parameters, 1), task)
    for x, y in example_rows(task, n=30):
        learner.learn(x, y)

    assert learner.predict({"number_0": 1.0})[0] is not None


def test_the_learning_rate_reaches_the_optimizer() -> None:
    estimator: Any = build_learner("linear-regression", "regression", {"learning_rate": 0.25}, 1)

    assert estimator["LinearRegression"].optimizer.learning_rate == 0.25


def test_parameters_are_listed_with_their_defaults_and_without_the_seed() -> None:
    parameters = LEARNERS["adaptive-random-forest"].parameters("binary")

    assert parameters["n_models"].default == 10
    assert "seed" not in parameters
    assert "drift_detector" not in parameters


# Learners of the user's own.

_names = count()


def write_module(folder: Path, text: str) -> str:
    """Write a module under a name of its own: Python imports each name once."""
    name = f"own_learner_{next(_names)}"
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return name


GOOD = """
from river import linear_model, preprocessing

def scaled(l2=0.0):
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(l2=l2)

class Fraud(linear_model.LogisticRegression):
    pass

ready = linear_model.LogisticRegression()

def broken():
    return {}["missing"]

def text():
    return "model"
"""


def test_a_function_builds_the_estimator_with_its_parameters(tmp_path: Path) -> None:
    name = write_module(tmp_path, GOOD)

    estimator: Any = load_learner(f"{name}:scaled", {"l2": 0.5}, tmp_path, task="binary")

    assert estimator["LogisticRegression"].l2 == 0.5
    assert sys.path[-1] == str(tmp_path)


def test_a_class_is_called_like_a_function(tmp_path: Path) -> None:
    name = write_module(tmp_path, GOOD)

    estimator = load_learner(f"{name}:Fraud", {"l2": 0.5}, tmp_path, task="binary")

    assert type(estimator).__name__ == "Fraud"


def test_a_learner_from_a_file_survives_a_pickle(tmp_path: Path) -> None:
    name = write_module(tmp_path, GOOD)
    learner = Learner(load_learner(f"{name}:Fraud", {}, tmp_path), "binary")
    learner.learn({"a": 1.0}, True)

    assert pickle.loads(pickle.dumps(learner)).predict({"a": 1.0}) == learner.predict({"a": 1.0})


@pytest.mark.parametrize(
    ("function", "parameters", "task", "sentence"),
    [
        ("scalled", {}, "binary", 'there is no "scalled"; did you mean "scaled"?'),
        ("scaled", {"l3": 1}, "binary", "l3.*; it takes l2"),
        ("scaled", {}, "regression", "needs a regressor, and LogisticRegression is none"),
        ("scaled", {}, "multiclass", "OneVsRestClassifier"),
        ("scaled", {}, None, None),
        ("ready", {}, "binary", "an instance of LogisticRegression; expected a function or a class"),
        ("broken", {}, "binary", "raised KeyError: 'missing'"),
        ("text", {}, "binary", "learner is a str"),
    ],
)
def test_what_a_function_gets_wrong_is_said_with_its_file(
    tmp_path: Path, function: str, parameters: dict[str, object], task: Task | None, sentence: str | None
) -> None:
    name = write_module(tmp_path, GOOD)
    if sentence is None:
        assert load_learner(f"{name}:{function}", parameters, tmp_path, task=task)
        return

    with pytest.raises(LearnerError, match=sentence) as caught:
        load_learner(f"{name}:{function}", parameters, tmp_path, task=task)

    assert f"{name}.py" in str(caught.value)


def test_an_error_in_the_users_code_is_chained(tmp_path: Path) -> None:
    name = write_module(tmp_path, GOOD)

    with pytest.raises(LearnerError) as caught:
        load_learner(f"{name}:broken", {}, tmp_path)

    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import a_package_nobody_has", "a_package_nobody_has.*; install what it needs"),
        ("1 / 0", "raised ZeroDivisionError"),
        ("def build(:", "raised SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    name = write_module(tmp_path, text)

    with pytest.raises(LearnerError, match=sentence):
        load_learner(f"{name}:build", {}, tmp_path)


@pytest.mark.parametrize(
    "target", ["models", "models.fraud", ":fraud", "models:", "models.py:fraud()", "a b:c"]
)
def test_a_target_that_names_no_function_is_refused(target: str) -> None:
    with pytest.raises(LearnerError, match=r'expected "package\.module:function"'):
        load_learner(target, {})


def test_a_missing_module_is_refused_with_the_place_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match='there is no module "no_such_learner" in '):
        load_learner("no_such_learner:build", {}, tmp_path)


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    name = write_module(tmp_path, GOOD)

    digest = digest_of_source(f"{name}:scaled", tmp_path)

    assert digest == hashlib.sha256((tmp_path / f"{name}.py").read_bytes()).hexdigest()


def test_the_digest_is_that_of_the_file_that_defines_the_function_too(tmp_path: Path) -> None:
    """A package whose `__init__` merely imports its learner: a change of the learner is one of the state."""
    defined = write_module(tmp_path, GOOD)
    named = write_module(tmp_path, f"from {defined} import scaled")
    before = digest_of_source(f"{named}:scaled", tmp_path)

    (tmp_path / f"{defined}.py").write_text(f"{GOOD}\n# changed\n")
    changed = digest_of_source(f"{named}:scaled", tmp_path)

    assert changed != before
    (tmp_path / f"{named}.py").write_text(f"from {defined} import scaled\n# changed\n")
    assert digest_of_source(f"{named}:scaled", tmp_path) not in (before, changed)


def test_the_digest_of_rivers_own_model_and_of_what_is_no_function_is_that_of_the_file(
    tmp_path: Path,
) -> None:
    """The version of River counts anyhow, and that of Python."""
    name = write_module(
        tmp_path,
        """
        from functools import partial
        from river.linear_model import LogisticRegression as own

        made = partial(own)
        """,
    )
    of_file = hashlib.sha256((tmp_path / f"{name}.py").read_bytes()).hexdigest()

    assert digest_of_source(f"{name}:own", tmp_path) == of_file
    assert digest_of_source(f"{name}:made", tmp_path) == of_file
