from __future__ import annotations

from stream.settings import Task
from stream.tools.catalog import catalog


def names(kind: str, task: Task | None) -> set[object]:
    return {entry["name"] for entry in catalog(task) if entry["kind"] == kind}


def test_only_what_fits_a_task_is_listed() -> None:
    assert "mae" in names("metric", "regression")
    assert "accuracy" not in names("metric", "regression")
    assert "logistic-regression" not in names("learner", "multiclass")
    assert "ddm" not in names("detector", "regression")
    assert {"adwin", "ddm"} <= names("detector", "binary")


def test_without_a_task_all_is_listed() -> None:
    assert {"accuracy", "mae"} <= names("metric", None)
