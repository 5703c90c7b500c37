"""River's models, where the registry needs them a little different.

Three habits of River 0.26 break a fold over the log, and each class here mends one or more of them:

* classes and categories are kept in a `set`, whose order changes with the hash seed and through a pickle, and
  with it the order of probabilities, of sums and of equally good splits: kept in insertion order here;
* forests build their trees in `predict_proba_one` when it is called first: built in `learn_one` only;
* a few things are not there at all: a no-change regressor, naive Bayes over numbers and strings.

They keep River's names and parameters, so that River's documentation is theirs.
"""

from __future__ import annotations

import collections
import inspect
import math
from collections.abc import Iterable
from typing import Any

from river import base, dummy, ensemble, forest, naive_bayes, neighbors, tree
from river.forest.adaptive_random_forest import BaseTreeClassifier
from river.tree.splitter.nominal_splitter_classif import NominalSplitterClassif


class InsertionOrderedSet(dict[Any, None]):
    """What River asks of a set (add, iterate, contain), in the order in which things were added.

    Example:
        >>> classes = InsertionOrderedSet()
        >>> for name in ("wind", "rain", "wind"):
        ...     classes.add(name)
        >>> list(classes)
        ['wind', 'rain']
    """

    def add(self, item: Any) -> None:
        """Add an item that may already be there."""
        self[item] = None


class _InOrder:
    """An attribute to which River assigns a set and which holds its items in insertion order."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else instance.__dict__[self._name]

    def __set__(self, instance: Any, items: Iterable[Any]) -> None:
        instance.__dict__[self._name] = InsertionOrderedSet.fromkeys(items)


class NominalSplitter(NominalSplitterClassif):
    """River's observer of a string feature; of equally good splits it takes the category seen first."""

    _att_values: Any = _InOrder()


class _OrderedCategories:
    """A Hoeffding tree whose leaves observe string features by `NominalSplitter`."""

    def _new_leaf(self, *args: Any, **kwargs: Any) -> Any:
        leaf = super()._new_leaf(*args, **kwargs)  # type: ignore[misc]  # River's tree is the next base class
        leaf.new_nominal_splitter = NominalSplitter
        return leaf


class HoeffdingTreeClassifier(_OrderedCategories, tree.HoeffdingTreeClassifier):
    """`tree.HoeffdingTreeClassifier` with categories in insertion order."""


class HoeffdingAdaptiveTreeClassifier(_OrderedCategories, tree.HoeffdingAdaptiveTreeClassifier):
    """`tree.HoeffdingAdaptiveTreeClassifier` with classes and categories in insertion order."""

    classes: Any = _InOrder()


class _ForestTree(_OrderedCategories, BaseTreeClassifier):
    pass


class ARFClassifier(forest.ARFClassifier):
    """`forest.ARFClassifier` with categories in order, whose `predict_proba_one` changes nothing."""

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, float]:
        """Return the probability of each class; `{}` as long as nothing is learned."""
        return super().predict_proba_one(x, **kwargs) if len(self) else {}

    def _new_base_model(self) -> Any:
        # As River does it: each argument is the forest's attribute of that name.
        names = inspect.signature(_ForestTree).parameters.keys() - {"rng"}
        return _ForestTree(**{name: getattr(self, name) for name in names}, rng=self._rng)


class ARFRegressor(forest.ARFRegressor):
    """`forest.ARFRegressor` that changes nothing in `predict_one`."""

    def predict_one(self, x: dict[Any, Any]) -> Any:
        """Return the predicted number; 0.0 as long as nothing is learned."""
        return super().predict_one(x) if len(self) else 0.0


class SRPClassifier(ensemble.SRPClassifier):
    """`ensemble.SRPClassifier` that changes nothing in `predict_proba_one`."""

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, float]:
        """Return the probability of each class; `{}` as long as nothing is learned."""
        river: Any = super()
        return river.predict_proba_one(x, **kwargs) if len(self) else {}


class AMFClassifier(forest.AMFClassifier):
    """`forest.AMFClassifier` with classes in insertion order."""

    _classes: Any = _InOrder()


class KNNClassifier(neighbors.KNNClassifier):
    """`neighbors.KNNClassifier` with classes in insertion order.

    Example:
        >>> engine = neighbors.LazySearch(window_size=2)
        >>> model = KNNClassifier(n_neighbors=1, engine=engine, cleanup_every=1)
        >>> for x, y in ((1.0, "wind"), (2.0, "rain"), (3.0, "snow")):
        ...     model.learn_one({"x": x}, y)
        >>> model.predict_proba_one({"x": 2.0})
        {'rain': 1.0, 'snow': 0.0}
    """

    classes: Any = _InOrder()

    def clean_up_classes(self) -> None:
        """Forget classes that have left the window; River's own raises with `LazySearch`."""
        engine: Any = self._nn
        self.classes = [y for (_, y), *_ in engine.window]


class NoChangeClassifier(dummy.NoChangeClassifier):
    """`dummy.NoChangeClassifier` with classes in insertion order."""

    classes: Any = _InOrder()


class NoChangeRegressor(base.Regressor):
    """Predict the last number seen; the baseline that any model of a slowly changing number has to beat.

    Example:
        >>> model = NoChangeRegressor()
        >>> model.learn_one({}, 3.5)
        >>> model.predict_one({})
        3.5
    """

    def __init__(self) -> None:
        self.last_value: float | None = None

    def learn_one(self, x: dict[Any, Any], y: float) -> None:
        """Remember `y`."""
        self.last_value = y

    def predict_one(self, x: dict[Any, Any]) -> Any:
        """Return the last number, None before the first."""
        return self.last_value


class GaussianNB(naive_bayes.GaussianNB):
    """`naive_bayes.GaussianNB` that counts strings, where River's raises.

    The probability of a category within a class is its share among those counted, each counted once more
    than seen (Laplace), one never seen included.

    Example:
        >>> model = GaussianNB()
        >>> for country, y in (("DE", True), ("DE", True), ("FR", False)):
        ...     model.learn_one({"country": country}, y)
        >>> {y: round(p, 2) for y, p in model.predict_proba_one({"country": "FR"}).items()}
        {True: 0.44, False: 0.56}
    """

    def __init__(self) -> None:
        river: Any = super()
        river.__init__()
        self._category_counts: dict[Any, dict[str, collections.Counter[str]]] = {}  # by class, by feature
        self._categories: dict[str, InsertionOrderedSet] = {}  # by feature

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        """Update the distributions of the class `y`."""
        numbers, strings = _split_by_type(x)
        river: Any = super()
        river.learn_one(numbers, y)
        for name, value in strings.items():
            counts = self._category_counts.setdefault(y, {}).setdefault(name, collections.Counter())
            counts[value] += 1
            self._categories.setdefault(name, InsertionOrderedSet()).add(value)

    def joint_log_likelihood(self, x: dict[Any, Any]) -> Any:
        """Return the log of the joint probability of `x` and each class."""
        numbers, strings = _split_by_type(x)
        river: Any = super()
        likelihoods = river.joint_log_likelihood(numbers)
        for name, value in strings.items():
            n_categories = len(self._categories.get(name, ())) + 1
            for y in likelihoods:
                counts = self._category_counts.get(y, {}).get(name) or collections.Counter()
                share = (counts[value] + 1) / (sum(counts.values()) + n_categories)
                likelihoods[y] += math.log(share)
        return likelihoods


def _split_by_type(x: dict[Any, Any]) -> tuple[dict[Any, Any], dict[Any, str]]:
    strings = {name: value for name, value in x.items() if isinstance(value, str)}
    if not strings:
        return x, strings
    return {name: value for name, value in x.items() if name not in strings}, strings
