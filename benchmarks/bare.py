"""The bare River loop, in a process of its own: events in memory, already decoded; nothing but River's calls.

python -m benchmarks.bare benchmarks.models:logistic_regression 100000
python -m benchmarks.bare logistic-regression 100000        (a name: Headrace's own, with its preparation)
"""

from __future__ import annotations

import gc
import sys
from typing import Any

import orjson
from river import drift, metrics

from benchmarks.events import event_bytes
from benchmarks.meter import Reading, report
from learners.registry import build_learner, load_learner


def new_model(name: str) -> Any:
    if ":" in name:
        return load_learner(name, {}, None, task="binary")
    return build_learner(name, "binary", {}, 42)


def main(name: str, count: int) -> None:
    model = new_model(name)
    accuracy: Any = metrics.Accuracy()  # type: ignore[no-untyped-call]  # River's, without annotations
    adwin: Any = drift.ADWIN()  # type: ignore[no-untyped-call]  # the same
    drifts = 0
    rows = [(body["features"], body["label"]) for body in map(orjson.loads, event_bytes(count))]
    gc.collect()
    gc.freeze()  # the rows are no work of the loop's: the collector shall not walk them again and again

    began = Reading.now()
    for x, y in rows:
        y_proba = model.predict_proba_one(x)
        if y_proba:
            y_pred = max(y_proba, key=y_proba.get)  # as River's own predict_one has it
            accuracy.update(y, y_pred)
            adwin.update(0.0 if y == y_pred else 1.0)
            if adwin.drift_detected:
                drifts += 1
        model.learn_one(x, y)
    report(count, began, Reading.now(), accuracy=accuracy.get(), drifts=drifts)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
