"""The models that are measured, as a user would write them: River only."""

from __future__ import annotations

from river import base, compose, forest, linear_model, preprocessing, tree


def logistic_regression() -> compose.Pipeline:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def hoeffding_tree() -> base.Classifier:
    return tree.HoeffdingTreeClassifier()


def random_forest() -> base.Classifier:
    return forest.ARFClassifier(n_models=10, seed=42)


def grown_forest() -> base.Classifier:
    """A forest that is large soon and hardly grows from then on, for its leaves lie at most nine splits deep."""
    return forest.ARFClassifier(n_models=10, max_depth=9, seed=42)
