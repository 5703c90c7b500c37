"""Promise 1: the number on the dashboard is River's number, to the last digit."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from river import compose, datasets, evaluate, metrics
from river.datasets import synth
from river.stream import simulate_qa

from learners.registry import LEARNERS
from stream import backtest
from stream.build import new_estimator, new_pipeline
from stream.settings import Settings
from tests.helpers import body, record, settings_for

Row = tuple[dict[str, Any], Any]

DATA: dict[str, Any] = {
    "binary": datasets.Phishing,
    "multiclass": datasets.ImageSegments,
    "regression": datasets.TrumpApproval,
}
#: Ours and River's name of each metric.
METRICS: dict[str, dict[str, Any]] = {
    "binary": {"accuracy": metrics.Accuracy, "roc_auc": metrics.ROCAUC, "log_loss": metrics.LogLoss},
    "multiclass": {
        "accuracy": metrics.Accuracy,
        "macro_f1": metrics.MacroF1,
        "cross_entropy": metrics.CrossEntropy,
    },
    "regression": {"mae": metrics.MAE, "rmse": metrics.RMSE, "r2": metrics.R2},
}
ALL = [(name, task) for name, spec in LEARNERS.items() for task in spec.tasks]
#: Rows in the inner loop: all of the data would take minutes.
SHORT = 500


def rows(task: str, count: int | None) -> list[Row]:
    return list(islice(DATA[task](), count))


def settings_of(name: str, task: str, *metric_names: str, small: bool = False) -> Settings:
    known = LEARNERS[name].parameters(task)  # type: ignore[arg-type]  # one of its tasks
    # Leveraging bagging shows each of its models each row w times.
    parameters = {
        size: n for size, n in {"n_models": 3, "n_estimators": 3, "w": 2}.items() if small and size in known
    }
    return settings_for(
        task, learner={"use": name, "parameters": parameters}, metrics={"use": list(metric_names)}
    )


def streamed(settings: Settings, values: Iterable[bytes]) -> dict[str, float | None]:
    """The metrics after these events have been through a pipeline."""
    pipeline = new_pipeline(settings)
    for offset, value in enumerate(values):
        pipeline.process(record(value, offset))
    assert pipeline.state.dead_letters == 0
    return {name: figures["value"] for name, figures in pipeline.state.prequential.values().items()}


def labelled(data: Iterable[Row]) -> Iterator[bytes]:
    for x, y in data:
        yield body(features=x, label=y)


def rivers(settings: Settings, data: list[Row], metric: metrics.base.Metric, **arguments: Any) -> float:
    """`progressive_val_score` of the same estimator."""
    evaluate.progressive_val_score(data, new_estimator(settings), metric, **arguments)  # type: ignore[arg-type]  # rows
    return metric.get()


@pytest.mark.parametrize(("name", "task"), ALL)
def test_every_learner_scores_as_in_river(name: str, task: str) -> None:
    metric, river = next(iter(METRICS[task].items()))
    settings = settings_of(name, task, metric, small=True)
    data = rows(task, SHORT)

    assert streamed(settings, labelled(data)) == {metric: rivers(settings, data, river())}


@pytest.mark.full
@pytest.mark.timeout(5_400)
@pytest.mark.parametrize(("name", "task"), ALL)
def test_every_learner_scores_as_in_river_on_all_of_the_data(name: str, task: str) -> None:
    metric, river = next(iter(METRICS[task].items()))
    settings = settings_of(name, task, metric)
    data = rows(task, None)

    assert streamed(settings, labelled(data)) == {metric: rivers(settings, data, river())}


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("logistic-regression", "binary"),
        ("hoeffding-tree", "multiclass"),
        ("linear-regression", "regression"),
    ],
)
def test_every_metric_is_rivers(name: str, task: str) -> None:
    settings = settings_of(name, task, *METRICS[task])
    data = rows(task, 1_001)

    found = streamed(settings, labelled(data))

    assert found == {metric: rivers(settings, data, river()) for metric, river in METRICS[task].items()}


def questions_and_answers(data: Iterable[Row], delay: int) -> Iterator[bytes]:
    """The rows as questions, each answered so many questions later: in River's own order."""
    for i, x, y in simulate_qa(data, moment=None, delay=delay):  # type: ignore[arg-type]  # rows
        yield body(id=i, features=x) if y is None else body(id=i, label=y)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("logistic-regression", "binary"),
        ("naive-bayes", "multiclass"),
        ("hoeffding-tree", "regression"),
    ],
)
@pytest.mark.parametrize("delay", [2, 40])
def test_late_labels_score_as_in_river_with_delay(name: str, task: str, delay: int) -> None:
    metric, river = next(iter(METRICS[task].items()))
    settings = settings_of(name, task, metric)
    data = rows(task, SHORT)

    found = streamed(settings, questions_and_answers(data, delay))

    assert found == {metric: rivers(settings, data, river(), delay=delay)}
    assert found != streamed(settings, labelled(data)), "the delay makes a difference"


# --- Late labels, by time and by row ---------------------------------------------------------------------

#: Fixed, random and per-row delays; rows have their number as the feature "#", and "wait" for delays of their own.
DELAYS: dict[str, dict[str, Any]] = {
    "rows": {"moment": None, "delay": 40},
    "a-day": {
        "moment": lambda x: datetime(2026, 3, 1) + timedelta(hours=x["#"]),
        "delay": timedelta(days=1),
    },
    "random": {"moment": None, "delay": lambda x, y: random.Random(x["#"]).randrange(200)},
    "random-times": {
        "moment": lambda x: datetime(2026, 3, 1) + timedelta(seconds=int(x["#"]) // 3),
        "delay": lambda x, y: timedelta(seconds=random.Random(x["#"]).expovariate(1 / 20)),
    },
    "per-row": {"moment": "#", "delay": "wait"},
}

LATE = [
    ("logistic-regression", "binary"),
    ("hoeffding-tree", "binary"),
    ("adaptive-random-forest", "binary"),
    ("naive-bayes", "multiclass"),
    ("linear-regression", "regression"),
    ("hoeffding-tree", "regression"),
]


def numbered(data: Iterable[Row]) -> list[Row]:
    return [(x | {"#": number, "wait": number * 37 % 101}, y) for number, (x, y) in enumerate(data)]


def hidden(name: str, model: Any) -> Any:
    """The model behind a step that takes away one feature."""
    return compose.Discard(name) | model


def with_late_labels(name: str, task: str, data: list[Row], when: str, *, small: bool = True) -> None:
    """Streamed figures with late labels are River's, and not those with labels at once."""
    metric, river = next(iter(METRICS[task].items()))
    settings = settings_of(name, task, metric, small=small)

    found = backtest(data, new_estimator(settings), task=settings.task, metrics=[metric], **DELAYS[when])

    assert found.labels["joined"] == found.learned == len(data)
    assert found.metrics[metric]["value"] == rivers(settings, data, river(), **DELAYS[when])


@pytest.mark.parametrize("when", list(DELAYS))
@pytest.mark.parametrize(("name", "task"), LATE)
def test_late_labels_by_time_and_by_row_score_as_in_river(name: str, task: str, when: str) -> None:
    with_late_labels(name, task, numbered(rows(task, 300)), when)


@pytest.mark.parametrize("when", list(DELAYS))
def test_late_labels_of_a_drifting_stream_score_as_in_river(when: str) -> None:
    """A synthetic stream whose concept changes while labels of the old one still come."""
    stream: Any = synth.ConceptDriftStream(
        stream=synth.SEA(seed=1, variant=0), drift_stream=synth.SEA(seed=2, variant=3), position=200, width=20
    )
    data = [({f"f{name}": value for name, value in x.items()}, y) for x, y in stream.take(400)]

    with_late_labels("hoeffding-tree", "binary", numbered(data), when)


@pytest.mark.full
@pytest.mark.timeout(5_400)
@pytest.mark.parametrize("when", list(DELAYS))
@pytest.mark.parametrize(("name", "task"), ALL)
def test_every_learner_with_late_labels_scores_as_in_river(name: str, task: str, when: str) -> None:
    with_late_labels(name, task, numbered(rows(task, SHORT)), when)


@pytest.mark.full
@pytest.mark.timeout(5_400)
@pytest.mark.parametrize("when", list(DELAYS))
@pytest.mark.parametrize(("name", "task"), LATE)
def test_late_labels_score_as_in_river_on_all_of_the_data(name: str, task: str, when: str) -> None:
    with_late_labels(name, task, numbered(rows(task, None)), when, small=False)
