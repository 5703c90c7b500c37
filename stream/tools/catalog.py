"""`headrace catalog`: what the settings may name."""

from __future__ import annotations

from collections.abc import Iterator

from learners import LEARNERS
from monitors import DETECTORS, METRICS
from stream.settings import Task


def catalog(task: Task | None) -> Iterator[dict[str, object]]:
    """Everything that has a name: kind, name, the tasks it fits, what it is.

    Args:
        task: Only what fits this task; None: all.
    """
    for learner in LEARNERS.values():
        if task is None or task in learner.tasks:
            yield {
                "kind": "learner",
                "name": learner.name,
                "tasks": list(learner.tasks),
                "summary": learner.summary,
                "parameters": sorted({name for fit in learner.tasks for name in learner.parameters(fit)}),
            }
    for metric in METRICS.values():
        if task is None or task in metric.tasks:
            yield {
                "kind": "metric",
                "name": metric.name,
                "tasks": list(metric.tasks),
                "summary": metric.summary,
            }
    for detector in DETECTORS.values():
        if task == "regression" and detector.binary_input:
            continue
        tasks = ["binary", "multiclass"] if detector.binary_input else ["binary", "multiclass", "regression"]
        yield {
            "kind": "detector",
            "name": detector.name,
            "tasks": tasks,
            "summary": detector.summary,
            "parameters": sorted(detector.parameters),
        }
