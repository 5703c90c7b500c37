"""What happens to features before a registry learner sees them.

Most River models take numbers only, many only scaled ones, and one value of another type can make a model
raise for ever after. These transformers take whatever an event may carry, numbers, booleans and strings, a
feature that is a number today and a string tomorrow included, and hand on what the model can take. Like
every River transformer they learn in `learn_one` only; `transform_one` changes nothing.
"""

from __future__ import annotations

import math
from typing import Any

from river import base

#: Larger numbers count as this one: the square of a scaled 1e200 is infinite, and one infinity in a running
#: variance is NaN for ever after.
LARGEST = 1e100

#: The category that stands for all those beyond the cap.
OTHER = "(other)"


class ScaleAndEncode(base.Transformer):
    """Scale numbers to zero mean and unit variance, turn strings into 0/1 features.

    Numbers come out as `preprocessing.StandardScaler` has them, to the last digit; booleans count as 0 and 1.
    The string `"DE"` of the feature `country` becomes `{"country=DE": 1}`. A feature that comes now as a
    number and now as a string is two features.

    Args:
        zeros: Also write a 0 for each other known category, which a model needs that takes an absent feature
            for unknown (trees) and not for zero (linear models, distances).
        max_categories: Most categories a feature has, the first ones learned; all others are `(other)`.

    Example:
        >>> prepare = ScaleAndEncode(zeros=True)
        >>> prepare.learn_one({"amount": 10.0, "country": "DE"})
        >>> prepare.learn_one({"amount": 30.0, "country": "FR"})
        >>> prepare.transform_one({"amount": 40.0, "country": "FR"})
        {'amount': 2.0, 'country=DE': 0, 'country=FR': 1}
    """

    def __init__(self, zeros: bool = False, max_categories: int = 1000) -> None:
        self.zeros = zeros
        self.max_categories = max_categories
        self._moments: dict[str, list[float]] = {}  # feature → [count, mean, variance]
        self._categories = _Categories(max_categories)

    def learn_one(self, x: dict[Any, Any]) -> None:
        """Update means, variances and known categories."""
        moments = self._moments
        for name, value in x.items():
            if type(value) is not float and isinstance(value, str):
                self._categories.learn(name, value)
                continue
            number = value if -LARGEST < value < LARGEST else math.copysign(LARGEST, value)
            if name in moments:
                moment = moments[name]
                count = moment[0] + 1
                old_mean = moment[1]
                mean = old_mean + (number - old_mean) / count
                variance = moment[2]
                moment[0] = count
                moment[1] = mean
                moment[2] = variance + ((number - old_mean) * (number - mean) - variance) / count
            else:
                moments[name] = [1, 0.0 + number, 0.0]

    def transform_one(self, x: dict[Any, Any]) -> dict[Any, Any]:
        """Return the scaled and encoded features; `x` stays as it is."""
        moments = self._moments
        prepared: dict[Any, Any] = {}
        for name, value in x.items():
            if type(value) is not float and isinstance(value, str):
                if self.zeros:
                    prepared.update(self._categories.zeros(name))
                prepared[self._categories.feature(name, value)] = 1
                continue
            moment = moments.get(name)
            if moment is not None and (variance := moment[2]):
                number = value if -LARGEST < value < LARGEST else math.copysign(LARGEST, value)
                prepared[name] = (number - moment[1]) / variance**0.5
            else:
                prepared[name] = 0.0
        return prepared


class KeepStrings(base.Transformer):
    """Keep strings as categories for a model that takes them, under names that numbers cannot have.

    The string feature `country` becomes `country=`, so that a number of the same name never meets it: a tree
    that has seen both under one name raises from then on. Numbers stay as they are, booleans become 0 and 1.

    Args:
        max_categories: Most categories a feature has, the first ones learned; all others are `(other)`.

    Example:
        >>> prepare = KeepStrings()
        >>> prepare.learn_one({"amount": 10.0, "country": "DE"})
        >>> prepare.transform_one({"amount": 10.0, "country": "DE", "new": True})
        {'amount': 10.0, 'country=': 'DE', 'new': 1}
    """

    def __init__(self, max_categories: int = 100) -> None:
        self.max_categories = max_categories
        self._categories = _Categories(max_categories)

    def learn_one(self, x: dict[Any, Any]) -> None:
        """Update the known categories."""
        for name, value in x.items():
            if type(value) is not float and isinstance(value, str):
                self._categories.learn(name, value)

    def transform_one(self, x: dict[Any, Any]) -> dict[Any, Any]:
        """Return the features with strings renamed; `x` stays as it is."""
        prepared: dict[Any, Any] = {}
        for name, value in x.items():
            if type(value) is not float and isinstance(value, str):
                prepared[f"{name}="] = self._categories.category(name, value)
                continue
            number = value if -LARGEST < value < LARGEST else math.copysign(LARGEST, value)
            if number is True or number is False:
                number = int(number)
            # A number may be called "country=" too.
            prepared[f"{name}#" if name[-1:] == "=" else name] = number
        return prepared


class _Categories:
    """The categories of each string feature, in the order in which they were learned, up to a cap."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._features: dict[str, dict[str, str]] = {}  # feature → category → name of its 0/1 feature
        self._zeros: dict[str, dict[str, int]] = {}  # feature → name of each 0/1 feature → 0

    def learn(self, name: str, value: str) -> None:
        known = self._features.setdefault(name, {})
        if value not in known:
            category = value if len(known) < self._cap else OTHER
            feature = f"{name}={category}"
            if category is value:
                known[value] = feature
            self._zeros.setdefault(name, {})[feature] = 0

    def category(self, name: str, value: str) -> str:
        known = self._features.get(name, ())
        return value if value in known or len(known) < self._cap else OTHER

    def feature(self, name: str, value: str) -> str:
        known = self._features.get(name)
        if known is not None and value in known:
            return known[value]
        return f"{name}={self.category(name, value)}"

    def zeros(self, name: str) -> dict[str, int]:
        return self._zeros.get(name, {})
