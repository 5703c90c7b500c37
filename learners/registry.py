"""Learners by name, and learners of the user's own.

`build_learner("hoeffding-tree", "binary", {"grace_period": 100}, seed=1)` gives a River estimator: features
prepared where the model needs it, parameters checked, every random part seeded, so that the same events give
the same predictions in any process. `load_learner("models:fraud", ...)` calls a function of the user's own.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from river import base, dummy, ensemble, forest, linear_model, multiclass, neighbors, optim, stats, tree
from river.tree.splitter import QOSplitter

from learners import models
from learners.errors import LearnerError
from learners.learner import TASKS, Task, require_fit
from learners.prepare import KeepStrings, ScaleAndEncode


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter that the settings may set."""

    #: Types it takes, of bool, int, float, str and NoneType.
    types: frozenset[type]
    #: Its value when not set.
    default: object


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """One entry of the registry."""

    #: As in `[learner] use`.
    name: str
    #: One line, for docs and listings.
    summary: str
    #: The River class for each task it fits.
    models: Mapping[Task, type[base.Estimator]]
    #: Constructs the model from its class, task, checked parameters and seed.
    construct: Callable[[type[Any], Task, dict[str, Any], int], base.Estimator]
    #: The preparation of features for each task; a task without one needs none.
    prepare: Mapping[Task, Callable[..., base.Transformer]] = field(default_factory=dict)
    #: Parameters beside those of the model's constructor.
    extra: Mapping[str, Parameter] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks it fits."""
        return tuple(task for task in TASKS if task in self.models)

    def parameters(self, task: Task) -> dict[str, Parameter]:
        """Return what `[learner] parameters` may set for a task, by name."""
        found = dict(self.extra)
        for parameter in inspect.signature(self.models[task]).parameters.values():
            types = _simple_types(parameter)
            if types and parameter.name != "seed":
                found[parameter.name] = Parameter(types, parameter.default)
        if task in self.prepare:
            default = inspect.signature(self.prepare[task]).parameters["max_categories"].default
            found["max_categories"] = Parameter(frozenset({int}), default)
        return dict(sorted(found.items()))

    def build(self, task: Task, parameters: Mapping[str, object], seed: int) -> base.Estimator:
        """Return a new estimator; what does not fit is a `LearnerError`."""
        if task not in self.models:
            raise LearnerError(
                f'learner "{self.name}" does not do {task}; it does {", ".join(self.tasks)}. '
                f"For {task} there are: {', '.join(learner_names(task))}."
            )
        self._check(task, parameters)
        given = dict(parameters)
        prepare = {name: given.pop(name) for name in ("max_categories",) if name in given}
        model = self.construct(self.models[task], task, given, seed)
        return self.prepare[task](**prepare) | model if task in self.prepare else model

    def _check(self, task: Task, parameters: Mapping[str, object]) -> None:
        known = self.parameters(task)
        for name, value in parameters.items():
            where = f'learner "{self.name}": parameter "{name}"'
            if name == "seed":
                raise LearnerError(
                    f"{where} is not set here; set seed in [learner]: it seeds every random part."
                )
            if name not in known:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                raise LearnerError(f"{where} is unknown; {_did_you_mean(name, known)}{takes}.")
            types = known[name].types
            if not any(_is_a(value, wanted) for wanted in types):
                raise LearnerError(f"{where} is {value!r}; expected {_in_words(types)}.")
            if name in _AT_LEAST_ONE and isinstance(value, int | float) and value < 1:
                raise LearnerError(f"{where} is {value!r}; expected at least 1.")
            choices = _CHOICES.get(name, {}).get(task, ())
            if isinstance(value, str | int) and choices and value not in choices:
                raise LearnerError(f"{where} is {value!r}; expected one of {', '.join(map(str, choices))}.")


def build_learner(use: str, task: Task, parameters: Mapping[str, object], seed: int) -> base.Estimator:
    """Return a new estimator by its name in the registry.

    Args:
        use: A name from `learner_names()`.
        task: What it is used for.
        parameters: Parameters of the River model's constructor, plain values only.
        seed: Seeds every random part of the model.

    Example:
        >>> print(build_learner("logistic-regression", "binary", {"l2": 0.001}, seed=1))
        ScaleAndEncode | LogisticRegression
    """
    if use not in LEARNERS:
        raise LearnerError(
            f'learner "{use}" is unknown; {_did_you_mean(use, LEARNERS)}'
            f"there are {', '.join(LEARNERS)}. For one of your own use build."
        )
    spec = LEARNERS[use]
    try:
        estimator = spec.build(task, parameters, seed)
        if parameters:  # some values are refused by River only when the model is at work
            _try_out(spec.build(task, parameters, seed), task)
    except LearnerError:
        raise
    except Exception as error:
        raise LearnerError(
            f'learner "{use}": its parameters {dict(parameters)!r} make it raise '
            f"{type(error).__name__}: {error}; see the documentation of river's "
            f"{spec.models[task].__name__}."
        ) from error
    return estimator


def learner_names(task: Task | None = None) -> list[str]:
    """Return the names in the registry, all or those that fit a task.

    Example:
        >>> learner_names("regression")[0]
        'linear-regression'
    """
    return [name for name, spec in LEARNERS.items() if task is None or task in spec.models]


def load_learner(
    target: str,
    parameters: Mapping[str, object],
    folder: Path | None = None,
    *,
    task: Task | None = None,
) -> base.Estimator:
    """Call a function of the user's own and return the estimator it builds.

    Args:
        target: "package.module:function"; the function, or a class, is called once with the parameters and
            returns a new River classifier or regressor, or a pipeline that ends in one.
        parameters: Keyword arguments of the function.
        folder: Where to look for the module after Python's own path; it is appended to `sys.path`.
        task: What it is used for; without it whether the estimator fits is left to `Learner`.
    """
    module_name, function_name = _split_target(target)
    module = _import(module_name, folder)
    file = getattr(module, "__file__", None) or module_name
    function: Any = module
    for part in function_name.split("."):
        if not hasattr(function, part):
            names = [name for name in dir(function) if not name.startswith("_")]
            raise LearnerError(f'{file}: there is no "{part}"; {_did_you_mean(part, names)}define it there.')
        function = getattr(function, part)
    where = f'{file}: "{function_name}"'
    if not callable(function):
        raise LearnerError(
            f"{where} is {_described(function)}; expected a function or a class that returns a new estimator "
            "each time it is called."
        )
    try:
        inspect.signature(function).bind(**parameters)
    except TypeError as error:
        takes = ", ".join(inspect.signature(function).parameters) or "none"
        raise LearnerError(
            f"{where} cannot be called with the parameters {dict(parameters)!r}: {error}; it takes {takes}."
        ) from error
    except ValueError:
        pass  # a built-in without a signature: the call will tell
    try:
        estimator = function(**parameters)
    except Exception as error:
        raise LearnerError(f"{where} raised {type(error).__name__}: {error}.") from error
    try:
        require_fit(estimator, task or _likely_task(estimator))
    except LearnerError as error:
        raise LearnerError(f"{where} does not give what is needed: {error}") from error
    assert isinstance(estimator, base.Estimator)
    return estimator


def digest_of_source(target: str, folder: Path | None = None) -> str:
    """Return the SHA-256 of the file that defines the user's learner, in hex.

    State learned by one version of the file is not state of another. Only the file itself counts, not what
    it imports; where it has merely imported the function, the file that the function is defined in counts, too.
    """
    module_name, function_name = _split_target(target)
    module = _import(module_name, folder)
    file = getattr(module, "__file__", None)
    if file is None:
        raise LearnerError(
            f'module "{module_name}" of "{target}" has no source file; put the learner into one.'
        )
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    defined_in = getattr(sys.modules.get(_home_of(module, function_name)), "__file__", None)
    if defined_in is None or defined_in == file:
        return digest
    return hashlib.sha256(digest.encode() + Path(defined_in).read_bytes()).hexdigest()


def _home_of(module: ModuleType, function_name: str) -> str:
    """Name of the module that a function is defined in; River's, whose version counts anyhow, is not told."""
    function: Any = module
    for part in function_name.split("."):
        function = getattr(function, part, None)
    if not isinstance(function, FunctionType | type) or f"{function.__module__}.".startswith("river."):
        return ""
    return function.__module__


# How the models are constructed.


def _seeded(model: type[Any], task: Task, parameters: dict[str, Any], seed: int) -> base.Estimator:
    if "seed" in inspect.signature(model).parameters:
        parameters["seed"] = seed
    estimator = model(**parameters)
    assert isinstance(estimator, base.Estimator)
    return estimator


def _with_learning_rate(
    model: type[Any], task: Task, parameters: dict[str, Any], seed: int
) -> base.Estimator:
    if "learning_rate" in parameters:
        parameters["optimizer"] = optim.SGD(parameters.pop("learning_rate"))
    return _seeded(model, task, parameters, seed)


def _one_vs_rest(model: type[Any], task: Task, parameters: dict[str, Any], seed: int) -> base.Estimator:
    estimator = _seeded(model, task, parameters, seed)
    if task != "multiclass":
        return estimator
    assert isinstance(estimator, base.Classifier)
    return multiclass.OneVsRestClassifier(estimator)


def _with_lazy_search(model: type[Any], task: Task, parameters: dict[str, Any], seed: int) -> base.Estimator:
    # River's default engine draws random numbers while it predicts.
    search = {name: parameters.pop(name) for name in _LAZY_SEARCH if name in parameters}
    return _seeded(model, task, {**parameters, "engine": neighbors.LazySearch(**search)}, seed)


def _tree(model: type[Any], task: Task, parameters: dict[str, Any], seed: int) -> base.Estimator:
    if task == "regression":
        # River's default splitter is a binary tree as deep as the data is sorted: pickle gives up on it.
        parameters["splitter"] = QOSplitter()
    return _seeded(model, task, parameters, seed)


def _ensemble_of_trees(model: type[Any], task: Task, parameters: dict[str, Any], seed: int) -> base.Estimator:
    # The same trees as River's streaming random patches has by default.
    if task == "regression":
        member = tree.HoeffdingTreeRegressor(grace_period=50, delta=0.01, splitter=QOSplitter())
        return _seeded(model, task, {**parameters, "model": member}, seed)
    classifier = models.HoeffdingTreeClassifier(grace_period=50, delta=0.01)
    return _seeded(model, task, {**parameters, "model": classifier}, seed)


def _mean(model: type[Any], task: Task, parameters: dict[str, Any], seed: int) -> base.Estimator:
    return dummy.StatisticRegressor(stats.Mean())


# How features are prepared: numbers only, absent is zero; numbers only, absent is unknown; strings welcome.


def _sparse(max_categories: int = 1000) -> base.Transformer:
    return ScaleAndEncode(max_categories=max_categories)


def _dense(max_categories: int = 100) -> base.Transformer:
    return ScaleAndEncode(zeros=True, max_categories=max_categories)


def _strings(max_categories: int = 100) -> base.Transformer:
    return KeepStrings(max_categories=max_categories)


_NUMBER = frozenset({int, float})
_LEARNING_RATE = {"learning_rate": Parameter(_NUMBER, 0.01)}
_LAZY_SEARCH = {
    "window_size": Parameter(frozenset({int}), 50),
    "min_distance_keep": Parameter(_NUMBER, 0.0),
}

#: Every learner by name, in the order of the docs: linear, others, trees, ensembles, baselines.
LEARNERS: dict[str, LearnerSpec] = {
    spec.name: spec
    for spec in (
        LearnerSpec(
            name="logistic-regression",
            summary="Linear, fast, probabilities; the first to try for two classes.",
            models={"binary": linear_model.LogisticRegression},
            construct=_with_learning_rate,
            prepare={"binary": _sparse},
            extra=_LEARNING_RATE,
        ),
        LearnerSpec(
            name="softmax-regression",
            summary="Logistic regression for any number of classes.",
            models={
                "binary": linear_model.SoftmaxRegression,
                "multiclass": linear_model.SoftmaxRegression,
            },
            construct=_with_learning_rate,
            prepare={"binary": _sparse, "multiclass": _sparse},
            extra=_LEARNING_RATE,
        ),
        LearnerSpec(
            name="linear-regression",
            summary="Linear, fast; the first to try for a number.",
            models={"regression": linear_model.LinearRegression},
            construct=_with_learning_rate,
            prepare={"regression": _sparse},
            extra=_LEARNING_RATE,
        ),
        LearnerSpec(
            name="passive-aggressive",
            summary="Linear; each error is mended at once, which follows change and also noise.",
            models={
                "binary": linear_model.PAClassifier,
                "multiclass": linear_model.PAClassifier,
                "regression": linear_model.PARegressor,
            },
            construct=_one_vs_rest,
            prepare={"binary": _sparse, "multiclass": _sparse, "regression": _sparse},
        ),
        LearnerSpec(
            name="naive-bayes",
            summary="Gaussian for numbers, counts for strings; useful after a handful of labels.",
            models={"binary": models.GaussianNB, "multiclass": models.GaussianNB},
            construct=_seeded,
            prepare={"binary": _strings, "multiclass": _strings},
        ),
        LearnerSpec(
            name="knn",
            summary="Nearest neighbours among the last window_size labels; forgets by itself.",
            models={
                "binary": models.KNNClassifier,
                "multiclass": models.KNNClassifier,
                "regression": neighbors.KNNRegressor,
            },
            construct=_with_lazy_search,
            prepare={"binary": _sparse, "multiclass": _sparse, "regression": _sparse},
            extra=_LAZY_SEARCH,
        ),
        LearnerSpec(
            name="hoeffding-tree",
            summary="A decision tree that grows with the data; for what is not linear and does not change.",
            models={
                "binary": models.HoeffdingTreeClassifier,
                "multiclass": models.HoeffdingTreeClassifier,
                "regression": tree.HoeffdingTreeRegressor,
            },
            construct=_tree,
            prepare={"binary": _strings, "multiclass": _strings, "regression": _dense},
        ),
        LearnerSpec(
            name="hoeffding-adaptive-tree",
            summary="A Hoeffding tree that replaces branches which have grown worse.",
            models={
                "binary": models.HoeffdingAdaptiveTreeClassifier,
                "multiclass": models.HoeffdingAdaptiveTreeClassifier,
                "regression": tree.HoeffdingAdaptiveTreeRegressor,
            },
            construct=_tree,
            prepare={"binary": _strings, "multiclass": _strings, "regression": _dense},
        ),
        LearnerSpec(
            name="adaptive-random-forest",
            summary="A forest whose trees watch their own drift; strong and slow.",
            models={
                "binary": models.ARFClassifier,
                "multiclass": models.ARFClassifier,
                "regression": models.ARFRegressor,
            },
            construct=_tree,
            prepare={"binary": _strings, "multiclass": _strings, "regression": _dense},
        ),
        LearnerSpec(
            name="aggregated-mondrian-forest",
            summary="A forest of random trees, good early; grows with every event unless max_nodes is set.",
            models={
                "binary": models.AMFClassifier,
                "multiclass": models.AMFClassifier,
                "regression": forest.AMFRegressor,
            },
            construct=_seeded,
            prepare={"binary": _dense, "multiclass": _dense, "regression": _dense},
        ),
        LearnerSpec(
            name="leveraging-bagging",
            summary="Hoeffding trees on resampled events, the worst replaced at a drift; slow.",
            models={
                "binary": ensemble.LeveragingBaggingClassifier,
                "multiclass": ensemble.LeveragingBaggingClassifier,
            },
            construct=_ensemble_of_trees,
            prepare={"binary": _strings, "multiclass": _strings},
        ),
        LearnerSpec(
            name="streaming-random-patches",
            summary="Hoeffding trees, each on some events and some of the first event's features; slow.",
            models={
                "binary": models.SRPClassifier,
                "multiclass": models.SRPClassifier,
                "regression": ensemble.SRPRegressor,
            },
            construct=_ensemble_of_trees,
            prepare={"binary": _strings, "multiclass": _strings, "regression": _dense},
        ),
        LearnerSpec(
            name="no-change",
            summary="Baseline: the last label again.",
            models={
                "binary": models.NoChangeClassifier,
                "multiclass": models.NoChangeClassifier,
                "regression": models.NoChangeRegressor,
            },
            construct=_seeded,
        ),
        LearnerSpec(
            name="majority-class",
            summary="Baseline: the most frequent class so far.",
            models={"binary": dummy.PriorClassifier, "multiclass": dummy.PriorClassifier},
            construct=_seeded,
        ),
        LearnerSpec(
            name="mean",
            summary="Baseline: the mean of the labels so far.",
            models={"regression": dummy.StatisticRegressor},
            construct=_mean,
        ),
    )
}

# Parameters that River takes and then cannot use, or replaces by its default with a line on standard output.
_AT_LEAST_ONE = {
    "grace_period", "max_categories", "memory_estimate_period", "n_estimators", "n_models", "n_neighbors",
    "window_size",
}  # fmt: skip
_CLASSES_LEAVES: tuple[str, ...] = ("mc", "nb", "nba")
_CHOICES: dict[str, dict[Task, tuple[Any, ...]]] = {
    # River's "me" and "half" call methods that its random generator does not have.
    "bagging_method": dict.fromkeys(TASKS, ("bag", "wt", "subag")),
    "leaf_prediction": {
        "binary": _CLASSES_LEAVES,
        "multiclass": _CLASSES_LEAVES,
        "regression": ("mean", "model", "adaptive"),
    },
    "mode": dict.fromkeys(TASKS, (0, 1, 2)),
    "split_criterion": dict.fromkeys(TASKS, ("gini", "info_gain", "hellinger")),
}

_SIMPLE: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str, "None": type(None)}


def _simple_types(parameter: inspect.Parameter) -> frozenset[type]:
    """Return the plain types a constructor's parameter takes; none for nested estimators and the like."""
    if parameter.name == "max_features":  # annotated too narrowly, or not at all
        return frozenset({int, float, str})
    if parameter.annotation is inspect.Parameter.empty:
        plain = type(parameter.default)
        return _NUMBER if plain in _NUMBER else frozenset({plain} & {bool, str})
    parts = [part.strip() for part in str(parameter.annotation).split("|")]
    types = frozenset(_SIMPLE[part] for part in parts if part in _SIMPLE)
    return frozenset() if types <= {type(None)} else types


def _is_a(value: object, wanted: type) -> bool:
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, int | float) if wanted is float else isinstance(value, wanted)


def _in_words(types: Iterable[type]) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
    wanted = set(types)
    if float in wanted:
        wanted.discard(int)
    return " or ".join(word for plain, word in words.items() if plain in wanted)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f'did you mean "{nearest[0]}"? ' if nearest else ""


def _try_out(estimator: Any, task: Task) -> None:
    labels: dict[Task, tuple[object, ...]] = {
        "binary": (True, False, True),
        "multiclass": ("a", "b", "c"),
        "regression": (1.0, 2.0, 4.0),
    }
    for i, y in enumerate(labels[task]):
        x = {"a": float(i), "b": 1.0 - i, "c": "de"}
        estimator.predict_one(x)
        estimator.learn_one(x, y)
    estimator.predict_one({"a": 0.5, "b": 0.0, "c": "fr"})


# Learners of the user's own.


def _split_target(target: str) -> tuple[str, str]:
    module_name, colon, function_name = target.partition(":")
    names = [*module_name.split("."), *function_name.split(".")]
    if not colon or not all(name.isidentifier() for name in names):
        raise LearnerError(
            f'learner "{target}" does not say where it is; expected "package.module:function", such as '
            '"models:fraud" for the function fraud in models.py.'
        )
    return module_name, function_name


def _import(module_name: str, folder: Path | None) -> ModuleType:
    if folder is not None and str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))
        importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            looked = f"in {folder} and on Python's path" if folder else "on Python's path"
            raise LearnerError(
                f'there is no module "{error.name}" {looked}; put {error.name.replace(".", "/")}.py there.'
            ) from error
        raise LearnerError(
            f'importing "{module_name}" raised {type(error).__name__}: {error}; install what it needs.'
        ) from error
    except Exception as error:
        raise LearnerError(
            f'importing "{module_name}" raised {type(error).__name__}: {error}; '
            f"try python -c 'import {module_name}' for the whole story."
        ) from error


def _likely_task(estimator: object) -> Task:
    return "regression" if isinstance(estimator, base.Regressor) else "binary"


def _described(value: object) -> str:
    if isinstance(value, base.Estimator):
        return f"an instance of {type(value).__name__}"
    return f"{value!r}"
