import json
import pickle
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import pytest
from river import base, datasets, dummy, evaluate, linear_model, preprocessing, stats, tree

from monitors import (
    METRICS,
    Label,
    Prequential,
    Task,
    check_metrics,
    metric_names,
    metric_problems,
    weighted_mean,
)

Row = tuple[dict[Any, Any], Any]
Scored = tuple[Any, Any, Any]

TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression")
EVERY_METRIC = [(name, task) for task in TASKS for name in metric_names(task)]


def predictions(model: Any, rows: list[Row]) -> list[Scored]:
    """Test, then train: label, predicted class or number, probabilities."""
    scored = []
    for x, y in rows:
        y_proba = model.predict_proba_one(x) if hasattr(model, "predict_proba_one") else None
        scored.append((y, model.predict_one(x), y_proba))
        model.learn_one(x, y)
    return scored


def first_rows(dataset: Any, n: int = 600) -> list[Row]:
    return list(dataset.take(n))


phishing, segments, approval = (
    datasets.Phishing,
    cast(Any, datasets.ImageSegments),
    cast(Any, datasets.TrumpApproval),
)
ROWS: dict[Task, list[Row]] = {
    "binary": first_rows(phishing()),
    "multiclass": first_rows(segments()),
    "regression": first_rows(approval()),
}
# Models that differ from their labels in every way a metric can see; one pass over each is enough.
SCORED: dict[Task, list[Scored]] = {
    "binary": predictions(preprocessing.StandardScaler() | linear_model.LogisticRegression(), ROWS["binary"]),
    "multiclass": predictions(tree.HoeffdingTreeClassifier(grace_period=50), ROWS["multiclass"]),
    "regression": predictions(cast(Any, linear_model.PARegressor)(), ROWS["regression"]),
}


class ReplayedClassifier(base.Classifier):
    """Predicts again what was predicted, so that River can score it."""

    def __init__(self, scored: list[Scored]) -> None:
        self.scored = scored
        self.at = 0

    @property
    def _multiclass(self) -> bool:
        return True

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        self.at += 1

    def predict_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        return self.scored[self.at][1]

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        return self.scored[self.at][2]


class ReplayedRegressor(base.Regressor):
    """The same for numbers."""

    def __init__(self, scored: list[Scored]) -> None:
        self.scored = scored
        self.at = 0

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        self.at += 1

    def predict_one(self, x: dict[Any, Any]) -> Any:
        return self.scored[self.at][1]


def model_for(task: Task) -> Any:
    return ReplayedRegressor(SCORED[task]) if task == "regression" else ReplayedClassifier(SCORED[task])


def streamed(scored: list[Scored], names: list[str], task: Task, window: int = 50) -> Prequential:
    prequential = Prequential(names, task, window)
    for y, y_pred, y_proba in scored:
        prequential.update(y, y_pred, y_proba)
    return prequential


def river_figure(model: Any, name: str, rows: list[Row]) -> float:
    metric: Any = METRICS[name].river()
    evaluate.progressive_val_score(rows, model, metric)
    return float(metric.get())


def river_window(scored: list[Scored], name: str, window: int) -> float:
    metric: Any = METRICS[name].river()
    asked = [(y, y_proba if METRICS[name].needs_scores else y_pred) for y, y_pred, y_proba in scored]
    for y, prediction in [pair for pair in asked if pair[1] is not None and pair[1] != {}][-window:]:
        metric.update(y, prediction)
    return float(metric.get())


class NoChangeRegressor(base.Regressor):
    """River has none: the label before, and no prediction for the first."""

    def __init__(self) -> None:
        self.last: float | None = None

    def learn_one(self, x: dict[Any, Any], y: float) -> None:
        self.last = y

    def predict_one(self, x: dict[Any, Any]) -> float | None:  # type: ignore[override]  # River skips None
        return self.last


@pytest.mark.parametrize(("name", "task"), EVERY_METRIC)
def test_a_metric_is_rivers_number_to_the_last_digit(name: str, task: Task) -> None:
    prequential = streamed(SCORED[task], [name], task)

    assert prequential.values()[name]["value"] == river_figure(model_for(task), name, ROWS[task])


@pytest.mark.parametrize(("name", "task"), EVERY_METRIC)
@pytest.mark.parametrize("window", [1, 50, 10_000])
def test_the_window_is_rivers_metric_over_the_last_scored_predictions(
    name: str, task: Task, window: int
) -> None:
    prequential = streamed(SCORED[task], [name], task, window)

    assert prequential.values()[name]["window"] == river_window(SCORED[task], name, window)


@pytest.mark.parametrize("task", TASKS)
def test_all_metrics_of_a_task_together_are_what_they_are_alone(task: Task) -> None:
    names = metric_names(task)

    together = streamed(SCORED[task], names, task).values()

    assert list(together) == names
    for name in names:
        assert together[name] == streamed(SCORED[task], [name], task).values()[name]


@pytest.mark.parametrize(("name", "task"), EVERY_METRIC)
def test_the_baselines_are_rivers_dummy_models(name: str, task: Task) -> None:
    def dummies() -> dict[str, Any]:
        if task == "regression":
            return {"no_change": NoChangeRegressor(), "mean": dummy.StatisticRegressor(stats.Mean())}
        return {"no_change": dummy.NoChangeClassifier(), "majority": dummy.PriorClassifier()}

    baselines = streamed(SCORED[task], [name], task, window=50).baselines()

    assert list(baselines) == list(dummies())
    for baseline, figures in baselines.items():
        value = river_figure(dummies()[baseline], name, ROWS[task])
        window = river_window(predictions(dummies()[baseline], ROWS[task]), name, 50)
        if METRICS[name].is_counted or name == "r2":
            assert figures == {"value": value, "window": window}
        else:
            assert figures["value"] == pytest.approx(value, rel=1e-12)
            assert figures["window"] == pytest.approx(window, rel=1e-12)


def test_of_equally_common_classes_the_majority_is_the_one_that_came_first() -> None:
    rng = random.Random(7)
    for _ in range(50):
        rows: list[Row] = [({}, rng.choice("abc")) for _ in range(rng.randrange(2, 40))]

        prequential = streamed(predictions(dummy.PriorClassifier(), rows), ["accuracy"], "multiclass")

        assert prequential.baselines()["majority"] == prequential.values()["accuracy"]


def test_the_baselines_look_at_the_first_metric_only() -> None:
    prequential = streamed(SCORED["binary"], ["f1", "accuracy"], "binary")

    assert prequential.baselines() == streamed(SCORED["binary"], ["f1"], "binary").baselines()
    assert prequential.baselines() != streamed(SCORED["binary"], ["accuracy"], "binary").baselines()


def test_a_prediction_that_is_none_is_not_scored_and_the_baselines_go_on() -> None:
    prequential = Prequential(["accuracy", "log_loss"], "binary", window=10)

    for y in (True, True, False):
        prequential.update(y, None, {})

    assert prequential.scored == 0
    nothing = {"value": None, "window": None}
    assert prequential.values() == {"accuracy": nothing, "log_loss": nothing}
    assert prequential.baselines()["no_change"] == {"value": 0.5, "window": 0.5}


def test_a_class_without_probabilities_is_scored_only_by_metrics_of_classes() -> None:
    prequential = Prequential(["accuracy", "log_loss"], "binary", window=10)

    prequential.update(True, True, None)

    assert prequential.values()["accuracy"] == {"value": 1.0, "window": 1.0}
    assert prequential.values()["log_loss"] == {"value": None, "window": None}


def test_before_the_first_label_there_is_no_figure() -> None:
    prequential = Prequential(["roc_auc"], "binary", window=10)

    assert prequential.values() == {"roc_auc": {"value": None, "window": None}}
    assert prequential.baselines()["majority"] == {"value": None, "window": None}


def test_before_the_second_label_no_change_has_no_figure_and_mean_has_rivers_zero() -> None:
    prequential = Prequential(["mae"], "regression", window=10)

    prequential.update(3.0, 2.0, None)

    assert prequential.baselines() == {
        "no_change": {"value": None, "window": None},
        "mean": {"value": 3.0, "window": 3.0},
    }


@pytest.mark.parametrize("task", TASKS)
def test_figures_are_plain_finite_floats(task: Task) -> None:
    prequential = streamed(SCORED[task], metric_names(task), task)

    figures = [*prequential.values().values(), *prequential.baselines().values()]

    for figure in figures:
        assert all(type(number) is float for number in figure.values())
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize("y_pred", [float("nan"), float("inf"), 1e200])
def test_a_figure_that_is_not_finite_is_none_and_the_window_recovers(y_pred: float) -> None:
    prequential = Prequential(["mse", "mae"], "regression", window=2)
    prequential.update(1.0, 2.0, None)
    prequential.update(1.0, y_pred, None)

    assert prequential.values()["mse"] == {"value": None, "window": None}

    for _ in range(300):
        prequential.update(1.0, 3.0, None)
    assert prequential.values()["mse"] == {"value": None, "window": 4.0}
    assert prequential.values()["mae"]["window"] == 2.0


@pytest.mark.parametrize("names", [["accuracy"], ["log_loss"], ["roc_auc", "f1"]])
@pytest.mark.parametrize("window", [50, 1_000])
def test_classes_are_those_of_the_window_whatever_the_metrics(names: list[str], window: int) -> None:
    prequential = Prequential(names, "binary", window)
    pairs: list[tuple[object, object]] = []

    for i, (y, y_pred, y_proba) in enumerate(SCORED["binary"]):
        prequential.update(y, y_pred, y_proba)
        pairs += [(y, y_pred)] if y_pred is not None else []
        if i % 61 == 0:
            recent = [[str(item).lower() for item in pair] for pair in pairs[-window:]]
            assert prequential.classes() == {
                "predicted": Counter(y_pred for _, y_pred in recent),
                "label": Counter(y for y, _ in recent),
            }


def test_beyond_twenty_classes_the_rarest_are_counted_together() -> None:
    prequential = Prequential(["cross_entropy"], "multiclass", window=1_000)
    for n in range(30):
        for _ in range(n + 1):
            prequential.update(f"class {n:02}", "", None)
    prequential.update("", "b", None)

    classes = prequential.classes()

    assert classes is not None
    assert classes["predicted"] == {"b": 1, "": 465}
    assert list(classes["label"].items()) == [
        *((f"class {n:02}", n + 1) for n in range(29, 9, -1)),
        ("", sum(range(1, 11)) + 1),
    ]


def test_classes_that_are_as_common_are_in_the_order_of_their_names() -> None:
    prequential = Prequential(["accuracy"], "multiclass", window=10)
    for y in "zab":
        prequential.update(y, "c", None)

    classes = prequential.classes()

    assert classes is not None
    assert list(classes["label"]) == ["a", "b", "z"]


def test_numbers_have_no_classes() -> None:
    prequential = Prequential(["mae"], "regression", window=10)
    prequential.update(1.0, 2.0, None)

    assert prequential.classes() is None


@pytest.mark.parametrize("task", TASKS)
def test_reading_changes_nothing(task: Task) -> None:
    names = metric_names(task)
    quiet, curious = Prequential(names, task, 20), Prequential(names, task, 20)

    for i, (y, y_pred, y_proba) in enumerate(SCORED[task]):
        quiet.update(y, y_pred, y_proba)
        curious.update(y, y_pred, y_proba)
        if i % 83 == 0:
            curious.values()
            curious.baselines()
            curious.classes()

    assert state(quiet) == state(curious)
    assert quiet.values() == curious.values()


def state(thing: Any) -> Any:
    """Everything inside, in order, without looking at identities."""
    if isinstance(thing, Mapping):
        return [(key, state(value)) for key, value in thing.items()]
    if isinstance(thing, str | int | float | bool | None):
        return repr(thing)
    slots = [name for cls in type(thing).__mro__ for name in getattr(cls, "__slots__", ())]
    if slots or hasattr(thing, "__dict__"):
        names = slots + list(getattr(thing, "__dict__", {}))
        return type(thing).__name__, [(name, state(getattr(thing, name))) for name in names]
    return [state(part) for part in thing]


@pytest.mark.parametrize("task", TASKS)
def test_a_pickle_in_mid_stream_gives_the_same_figures(task: Task) -> None:
    whole = streamed(SCORED[task], metric_names(task), task)
    pickled = Prequential(metric_names(task), task, 50)

    for i, (y, y_pred, y_proba) in enumerate(SCORED[task]):
        if i % 97 == 0:
            pickled = pickle.loads(pickle.dumps(pickled))
        pickled.update(y, y_pred, y_proba)

    assert pickled.values() == whole.values()
    assert pickled.baselines() == whole.baselines()
    assert pickled.scored == whole.scored
    assert pickled.classes() == whole.classes()


@pytest.mark.parametrize(
    ("names", "task", "expected"),
    [
        (["acuracy"], "binary", 'metric "acuracy" is not known; did you mean "accuracy"?'),
        (["xyz"], "regression", "expected one of: mae, mse, rmse, mape, smape, r2."),
        (["roc_auc"], "multiclass", 'metric "roc_auc" is for binary, not for multiclass.'),
        (["accuracy"], "regression", 'metric "accuracy" is for binary and multiclass, not for regression.'),
        (["f1", "f1"], "binary", 'metric "f1" is named twice.'),
        ([], "binary", "no metric is named; expected one or more of: accuracy,"),
    ],
)
def test_metrics_that_do_not_fit_are_refused_in_a_sentence(
    names: list[str], task: Task, expected: str
) -> None:
    with pytest.raises(ValueError, match="metric") as refused:
        check_metrics(names, task)

    assert expected in str(refused.value)
    with pytest.raises(ValueError, match="metric"):
        Prequential(names, task, window=10)


def test_every_problem_with_the_metrics_is_told_at_once() -> None:
    assert len(metric_problems(["acuracy", "mae", "f1", "f1"], "binary")) == 3


def test_a_window_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="window is 0; expected at least 1"):
        Prequential(["accuracy"], "binary", window=0)


@pytest.mark.parametrize(("name", "task"), EVERY_METRIC)
def test_exactly_the_metrics_that_are_means_may_be_averaged_over_partitions(name: str, task: Task) -> None:
    pairs = SCORED[task]
    parts: list[tuple[float | None, int]] = []
    for part in (pairs[1:150], pairs[150:]):
        prequential = Prequential([name], task, 10)
        for y, y_pred, y_proba in part:
            prequential.update(y, y_pred, y_proba)
        parts.append((prequential.values()[name]["value"], prequential.scored))
    whole = Prequential([name], task, 10)
    for y, y_pred, y_proba in pairs[1:]:
        whole.update(y, y_pred, y_proba)
    value = whole.values()[name]["value"]

    if METRICS[name].is_mean:
        assert weighted_mean(name, parts) == pytest.approx(value, rel=1e-9)
    else:
        averaged = sum((figure or 0.0) * n for figure, n in parts) / sum(n for _, n in parts)
        assert averaged != pytest.approx(value, rel=1e-9)
        assert weighted_mean(name, parts) is None


def test_a_mean_over_partitions_needs_a_figure_for_each_that_has_events() -> None:
    assert weighted_mean("accuracy", [(0.5, 2), (None, 0)]) == 0.5
    assert weighted_mean("accuracy", [(0.5, 2), (None, 3)]) is None
    assert weighted_mean("accuracy", []) is None


@pytest.mark.parametrize(("name", "task"), EVERY_METRIC)
def test_a_better_prediction_has_the_better_figure(name: str, task: Task) -> None:
    rng = random.Random(3)
    labels: dict[Task, list[Label]] = {
        "binary": [True, False],
        "multiclass": ["a", "b", "c"],
        "regression": [1.0, 2.0, 5.0],
    }
    right, wrong = Prequential([name], task, 100), Prequential([name], task, 100)
    for _ in range(100):
        y = rng.choice(labels[task])
        other = rng.choice([label for label in labels[task] if label != y])
        right.update(y, y, None if task == "regression" else {y: 0.9, other: 0.1})
        wrong.update(y, other, None if task == "regression" else {y: 0.1, other: 0.9})

    good, bad = right.values()[name]["value"], wrong.values()[name]["value"]
    assert good is not None
    assert bad is not None
    assert (good > bad) == METRICS[name].higher_is_better
    river: Any = METRICS[name].river()
    assert river.bigger_is_better == METRICS[name].higher_is_better
    assert getattr(river, "requires_labels", True) != METRICS[name].needs_scores
