"""A learner of one's own: any function that returns a new River estimator."""

from __future__ import annotations

from river import base, compose, linear_model, optim, preprocessing


def fraud(learning_rate: float = 0.05) -> base.Estimator:
    """Numbers scaled, strings one-hot encoded, then a logistic regression.

    Args:
        learning_rate: Step of the gradient descent; `[learner] parameters` sets it.
    """
    numbers = compose.SelectType(int, float) | preprocessing.StandardScaler()
    # drop_zeros: without it River writes a 0 for each other category, which is many times slower.
    categories = compose.SelectType(str) | preprocessing.OneHotEncoder(drop_zeros=True)
    model = linear_model.LogisticRegression(optimizer=optim.SGD(learning_rate))
    return compose.Pipeline(numbers + categories, model)
