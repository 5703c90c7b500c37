"""The job that all loops do, and how they are started."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from river import drift, metrics

from benchmarks.meter import Reading, report
from benchmarks.models import logistic_regression


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a loop is told."""

    servers: str
    events: str
    predictions: str
    #: Events to process; 0 means: until ended.
    count: int
    mode: str

    @classmethod
    def read(cls) -> Arguments:
        servers, events, predictions, count, *mode = sys.argv[1:]
        return cls(servers, events, predictions, int(count), *(mode or [""]))

    @property
    def group(self) -> str:
        return f"group-of-{self.predictions}"


class Job:
    """Predict, score, watch, learn: a decoded event in, a prediction to encode out.

    Args:
        count: Events to process; 0 means no end.
    """

    def __init__(self, count: int) -> None:
        self._model: Any = logistic_regression()
        self._accuracy: Any = metrics.Accuracy()  # type: ignore[no-untyped-call]  # River's, without annotations
        self._adwin: Any = drift.ADWIN()  # type: ignore[no-untyped-call]  # the same
        self._count = count
        self._began: Reading | None = None
        self.done = 0

    def __call__(self, event: dict[str, Any]) -> dict[str, Any]:
        if self._began is None:
            self._began = Reading.now()
        x, y = event["features"], event["label"]
        y_proba = self._model.predict_proba_one(x)
        y_pred = max(y_proba, key=y_proba.get)
        self._accuracy.update(y, y_pred)
        self._adwin.update(0.0 if y == y_pred else 1.0)
        self._model.learn_one(x, y)
        self.done += 1
        return {"id": event["id"], "prediction": y_pred, "score": y_proba[True]}

    @property
    def is_done(self) -> bool:
        """Whether all events were processed."""
        return 0 < self._count <= self.done

    def report(self) -> None:
        """Say what it cost, once everything is written."""
        if self._began is None:
            raise SystemExit("no event came")
        report(self.done, self._began, Reading.now(), accuracy=self._accuracy.get())
