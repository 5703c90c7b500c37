"""What the event path calls: one River estimator, asked once an event."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal, TypeAlias, get_args

from river import active, base, compose

from learners.errors import LearnerError

Task: TypeAlias = Literal["binary", "multiclass", "regression"]
#: Every task, in the order of the docs.
TASKS: tuple[Task, ...] = get_args(Task)

Features: TypeAlias = dict[str, Any]
#: A class (bool or str) or a number; None as long as the estimator has no prediction.
Label: TypeAlias = Any
Scores: TypeAlias = dict[Any, float]
#: `(y_pred, y_proba)`; `y_proba` is None for regression and for classifiers without probabilities.
Prediction: TypeAlias = tuple[Label, Scores | None]


class Learner:
    """One River estimator on the event path: predicts, learns, counts the labels it learned.

    Predictions are River's own, bit for bit. A classifier is asked once, by `predict_proba_one`, and its
    class is the most probable one (the first of several). Only one that overrides `predict_one` is asked
    for its class as well, and only one without probabilities is asked for nothing else.

    Args:
        estimator: A River classifier or regressor, or a pipeline that ends in one.
        task: What it is used for; an estimator that does not fit is a `LearnerError`.

    Example:
        >>> from river import linear_model, preprocessing
        >>> learner = Learner(preprocessing.StandardScaler() | linear_model.LogisticRegression(), "binary")
        >>> learner.name
        'StandardScaler | LogisticRegression'
        >>> learner.predict({"amount": 1.0})
        (False, {False: 0.5, True: 0.5})
        >>> learner.learn({"amount": 1.0}, True)
        >>> learner.learned
        1
    """

    __slots__ = ("_learn", "estimator", "learned", "name", "predict", "task")

    #: The River estimator. Replace the learner, not this: the methods below are bound to it.
    estimator: base.Estimator
    #: What it is used for.
    task: Task
    #: Readable, for outputs and tables.
    name: str
    #: Labels learned so far; a label on which the estimator raised is not counted.
    learned: int
    #: `predict(x) -> (y_pred, y_proba)`. No state changes. `y_pred` None means no prediction yet.
    predict: Callable[[Features], Prediction]

    def __init__(self, estimator: base.Estimator, task: Task) -> None:
        require_fit(estimator, task)
        self.estimator = estimator
        self.task = task
        self.learned = 0
        self._bind()

    def learn(self, x: Features, y: Label) -> None:
        """Learn one label with the features it belongs to."""
        self._learn(x, y)
        self.learned += 1

    def _bind(self) -> None:
        # Methods are looked up once, here: an event costs one call more than River's own.
        estimator: Any = self.estimator
        self.name = str(estimator)
        self._learn: Callable[[Features, Label], None] = estimator.learn_one
        if self.task == "regression":
            self.predict = _number(estimator.predict_one)
        elif not _has_method(estimator, "predict_proba_one"):
            self.predict = _class_only(estimator.predict_one)
        elif _has_method(estimator, "predict_one"):
            self.predict = _class_and_probabilities(estimator.predict_one, estimator.predict_proba_one)
        else:
            self.predict = _most_probable_class(estimator.predict_proba_one)

    def __getstate__(self) -> tuple[base.Estimator, Task, int]:
        return self.estimator, self.task, self.learned

    def __setstate__(self, state: tuple[base.Estimator, Task, int]) -> None:
        self.estimator, self.task, self.learned = state
        self._bind()


def final_estimator(estimator: base.Estimator) -> base.Estimator:
    """Return the last step of a pipeline, or the estimator itself when it is none."""
    while isinstance(estimator, compose.Pipeline) and len(estimator):
        estimator = estimator[-1]
    return estimator


def require_fit(estimator: object, task: Task) -> None:
    """Raise `LearnerError` unless River's own description of the estimator fits the task."""
    if task not in TASKS:
        raise LearnerError(f"task is {task!r}; expected one of {', '.join(TASKS)}.")
    if isinstance(estimator, type):
        raise LearnerError(
            f"learner is the class {estimator.__name__}; expected an instance: {estimator.__name__}(...)."
        )
    if not isinstance(estimator, base.Estimator):
        raise LearnerError(
            f"learner is {_a(type(estimator).__name__)}; expected a River classifier or regressor, "
            "or a River pipeline that ends in one."
        )
    final = final_estimator(estimator)
    name = type(final).__name__
    if isinstance(final, active.base.ActiveLearningClassifier):
        raise LearnerError(
            f"{name} chooses which labels it learns; every label is learned here: use its classifier."
        )
    wanted = base.Regressor if task == "regression" else base.Classifier
    if not isinstance(final, wanted):
        kind = wanted.__name__.lower()
        raise LearnerError(
            f'task "{task}" needs a {kind}, and {name} is none; '
            f"use a River {kind} or a pipeline that ends in one."
        )
    if task == "multiclass" and not getattr(final, "_multiclass", False):
        raise LearnerError(
            f'task "multiclass" needs more than two classes, and {name} knows two; '
            "wrap it in river.multiclass.OneVsRestClassifier or use a multi-class model."
        )


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _has_method(estimator: base.Estimator, method: str) -> bool:
    """Whether the final estimator has its own version of a method of `base.Classifier`."""
    return getattr(type(final_estimator(estimator)), method) is not getattr(base.Classifier, method)


def _number(predict_one: Callable[[Features], Any]) -> Callable[[Features], Prediction]:
    def predict(x: Features) -> Prediction:
        y_pred = predict_one(x)
        # float() also turns NumPy's numbers into Python's, which JSON can carry.
        return (None if y_pred is None else float(y_pred)), None

    return predict


def _most_probable_class(predict_proba_one: Callable[[Features], Any]) -> Callable[[Features], Prediction]:
    def predict(x: Features) -> Prediction:
        y_proba = predict_proba_one(x)
        if not y_proba:
            return None, None
        # max(y_proba, key=y_proba.get), as base.Classifier.predict_one has it, in a third of the time.
        y_pred, highest = None, None
        for label, probability in y_proba.items():
            if type(probability) is not float:
                return max(y_proba, key=y_proba.get), _as_floats(y_proba)
            if highest is None or probability > highest:
                y_pred, highest = label, probability
        return y_pred, y_proba

    return predict


def _class_only(predict_one: Callable[[Features], Any]) -> Callable[[Features], Prediction]:
    def predict(x: Features) -> Prediction:
        y_pred = predict_one(x)
        return (None if y_pred == {} else y_pred), None

    return predict


def _class_and_probabilities(
    predict_one: Callable[[Features], Any], predict_proba_one: Callable[[Features], Any]
) -> Callable[[Features], Prediction]:
    def predict(x: Features) -> Prediction:
        y_pred = predict_one(x)
        try:
            y_proba = predict_proba_one(x)
        except NotImplementedError:  # a wrapper around a classifier that has none
            return y_pred, None
        return y_pred, _as_floats(y_proba) if y_proba else None

    return predict


def _as_floats(y_proba: dict[Hashable, Any]) -> Scores:
    return {label: float(probability) for label, probability in y_proba.items()}
