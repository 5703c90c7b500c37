"""The contract of a learner, as a function: `check_learner(build, task)` says what is broken, and all of it.

What a learner promises, so that a replay of the log gives the same predictions, bit for bit: it raises
nothing, changes its state in `learn_one` only, draws no unseeded random numbers, does not depend on the hash
seed, and its state survives a pickle.
"""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from river import base

from learners.errors import LearnerError
from learners.learner import Features, Label, Learner, Prediction, Scores, Task
from learners.registry import load_learner

Build: TypeAlias = Callable[[], base.Estimator]
Row: TypeAlias = tuple[Features, Label]

#: How long one run in a process of its own may take, imports included.
_SUBPROCESS_TIMEOUT_SECONDS = 300


def check_learner(
    build: Build | str,
    task: Task,
    *,
    rows: Iterable[Row] | None = None,
    strings: bool = False,
    pickle_every: int = 20,
    hash_seed: bool = True,
    folder: Path | None = None,
) -> None:
    """Raise a `LearnerError` that lists everything broken in a learner; return when nothing is.

    Args:
        build: Builds a new estimator each time it is called, or says where such a function is:
            "package.module:function". The check of the hash seed runs it in processes of its own, so a
            callable must be one that pickle can send there: a function of a module, or a `functools.partial`
            of one.
        task: What the learner is for.
        rows: Features and labels to run it on; a small made-up set by default.
        strings: Whether the made-up rows have string features too, and features that are now a number and
            now a string.
        pickle_every: The state goes through a pickle after this many rows, again and again.
        hash_seed: Whether to compare two processes with different hash seeds, which takes some seconds.
        folder: Where to look for the module of a `build` given as text.

    Example:
        >>> from functools import partial
        >>> from learners import build_learner
        >>> check_learner(partial(build_learner, "hoeffding-tree", "binary", {}, seed=1), "binary")
    """
    problems = find_problems(
        build,
        task,
        rows=rows,
        strings=strings,
        pickle_every=pickle_every,
        hash_seed=hash_seed,
        folder=folder,
    )
    if problems:
        name = build if isinstance(build, str) else getattr(build, "__qualname__", repr(build))
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise LearnerError(f'learner "{name}" for {task} is broken in {len(problems)} way(s):{listed}')


def find_problems(
    build: Build | str,
    task: Task,
    *,
    rows: Iterable[Row] | None = None,
    strings: bool = False,
    pickle_every: int = 20,
    hash_seed: bool = True,
    folder: Path | None = None,
) -> list[str]:
    """Return one sentence for everything broken in a learner; see `check_learner` for the arguments."""
    make = _Maker(build, task, folder)
    some_rows = example_rows(task, strings=strings) if rows is None else list(rows)
    try:
        if make.estimator() is make.estimator():
            return ["build returns the same object each time; it must return a new estimator."]
        expected = _run(make(), some_rows)
    except LearnerError as error:
        return [str(error)]
    except _RowError as error:
        return [str(error)]
    problems: list[str] = []
    for check in (_output, _mutated_features, _features_come_and_go, _class_never_seen):
        problems += _guarded(partial(check, make, task, some_rows))
    unseeded = _guarded(partial(_rerun, make, some_rows, expected, _UNSEEDED, {}))
    if unseeded:
        return problems + unseeded
    for meaning, how in (
        (_PREDICT_CHANGES_STATE, {"extra_predictions": True}),
        (_LOST_IN_PICKLE, {"pickle_every": pickle_every}),
    ):
        problems += _guarded(partial(_rerun, make, some_rows, expected, meaning, how))
    if hash_seed:
        problems += _hash_seed(make, some_rows, pickle_every)
    return problems


def example_rows(task: Task, *, strings: bool = False, n: int = 350) -> list[Row]:
    """Return made-up rows, always the same: numbers, one of them rising, a boolean and, if asked for, strings.

    Classes appear one by one, the last one late.
    """
    rng = random.Random(3)
    classes: dict[Task, list[Label]] = {
        "binary": [False, True],
        "multiclass": ["rain", "wind", "snow", "fog", "hail"],
    }
    rows: list[Row] = []
    for i in range(n):
        x: Features = {f"number_{k}": rng.gauss(k, 1.0 + k) for k in range(4)}
        x["rising"] = float(i)  # sorted input makes long chains of some structures
        x["flag"] = rng.random() < 0.5
        level = int(4.99 * (0.3 + 0.7 * i / n) * rng.random())
        if strings:
            x["place"] = f"place {level if rng.random() < 0.7 else rng.randrange(9)}"
            x["rare"] = f"id {rng.randrange(n)}"
        if task == "regression":
            rows.append((x, 3.0 * level + x["number_0"]))
        else:
            known = classes[task]
            x["number_1"] += 2.0 * level
            rows.append((x, known[level % len(known)]))
    return rows


# What it means when a second run of the same rows differs from the first.
_UNSEEDED = (
    "two runs of the same rows differ; seed every random part (what predict, a pickle and the hash seed do can "
    "be told only then)."
)
_PREDICT_CHANGES_STATE = (
    "predict changes state: with predictions in between, later ones differ; let only learn_one change attributes "
    "and draw random numbers."
)
_LOST_IN_PICKLE = (
    "the state does not survive a pickle: predictions differ afterwards; keep all state in picklable attributes, "
    "and nothing in sets whose order matters."
)
_HASH_SEED = (
    "output changes with the hash seed (PYTHONHASHSEED) or with the process; keep nothing in sets or in order of "
    "hash() or id()."
)


class _RowError(Exception):
    """The learner raised on a row."""


class _Maker:
    """Builds learners, and can be sent to another process."""

    def __init__(self, build: Build | str, task: Task, folder: Path | None) -> None:
        self.build = build
        self.task = task
        self.folder = folder

    def estimator(self) -> base.Estimator:
        if isinstance(self.build, str):
            return load_learner(self.build, {}, self.folder, task=self.task)
        try:
            return self.build()
        except LearnerError:
            raise
        except Exception as error:
            raise LearnerError(f"build raised {type(error).__name__}: {error}.") from error

    def __call__(self) -> Learner:
        return Learner(self.estimator(), self.task)


def _run(
    learner: Learner, rows: Sequence[Row], *, pickle_every: int = 0, extra_predictions: bool = False
) -> list[str]:
    """Predict and learn row by row; return each prediction in a form that tells every bit and the order."""
    predictions: list[str] = []
    for i, (x, y) in enumerate(rows):
        if pickle_every and i % pickle_every == pickle_every - 1:
            learner = _through_pickle(learner, i)
        if extra_predictions:
            other = rows[(i * 7 + 3) % len(rows)][0]
            _call("predict_one", i, learner.predict, dict(list(other.items())[::2]))  # as a question may come
            _call("predict_one", i, learner.predict, dict(x))
        predictions.append(repr(_call("predict_one", i, learner.predict, dict(x))))
        _call("learn_one", i, learner.learn, dict(x), y)
    return predictions


def _call(what: str, row: int, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        raise _RowError(
            f"{what} raised {type(error).__name__}: {error} (row {row}: {arguments!r})."
        ) from error


def _through_pickle(learner: Learner, row: int) -> Learner:
    try:
        copied = pickle.loads(pickle.dumps(learner))
    except Exception as error:
        raise _RowError(
            f"the state does not survive a pickle: {type(error).__name__}: {error} (after {row} rows); keep no "
            "lambdas, local functions, generators or open files, and no chains as deep as the data is long."
        ) from error
    assert isinstance(copied, Learner)
    return copied


def _rerun(
    make: _Maker, rows: Sequence[Row], expected: list[str], meaning: str, how: dict[str, Any]
) -> list[str]:
    return _compare(expected, _run(make(), rows, **how), meaning)


def _guarded(check: Callable[[], Iterable[str]]) -> list[str]:
    try:
        return list(check())
    except _RowError as error:
        return [str(error)]


def _compare(expected: list[str], got: list[str], meaning: str) -> list[str]:
    for i, (one, other) in enumerate(zip(expected, got, strict=True)):
        if one != other:
            return [f"{meaning} First at row {i}: {one} and {other}."]
    return []


def _output(make: _Maker, task: Task, rows: Sequence[Row]) -> Iterator[str]:
    """Predictions are what the outputs can carry."""
    learner = make()
    for i, (x, y) in enumerate(rows):
        complaint = _wrong_prediction(task, learner.predict(dict(x)))
        if complaint:
            yield f"{complaint} (row {i})."
            return
        learner.learn(dict(x), y)


def _wrong_prediction(task: Task, prediction: Prediction) -> str | None:
    y_pred, y_proba = prediction
    wanted = {"binary": bool, "multiclass": str, "regression": float}[task]
    if y_pred is not None and type(y_pred) is not wanted:
        return (
            f"predict_one gives {y_pred!r}, a {type(y_pred).__name__}; expected a {wanted.__name__} or None"
        )
    if task == "regression":
        if isinstance(y_pred, float) and not math.isfinite(y_pred):
            return f"predict_one gives {y_pred!r}; expected a finite number"
        return None
    scores: Scores = y_proba or {}
    for label, probability in scores.items():
        if type(label) is not wanted:
            kind = type(label).__name__
            return f"predict_proba_one has the class {label!r}, a {kind}; expected a {wanted.__name__}"
        if not math.isfinite(probability):
            return (
                f"predict_proba_one gives {label!r} the probability {probability!r}; expected a finite number"
            )
    return None


def _mutated_features(make: _Maker, task: Task, rows: Sequence[Row]) -> Iterator[str]:
    """Features belong to the caller."""
    learner = make()
    for i, (x, y) in enumerate(rows[:20]):
        given = copy.deepcopy(x)
        learner.predict(given)
        if repr(given) != repr(x):
            yield f"predict_one changed its features from {x!r} to {given!r} (row {i}); work on a copy."
            return
        learner.learn(given, y)
        if repr(given) != repr(x):
            yield f"learn_one changed its features from {x!r} to {given!r} (row {i}); work on a copy."
            return


def _features_come_and_go(make: _Maker, task: Task, rows: Sequence[Row]) -> Iterator[str]:
    """Features vanish and appear, and change their type where the rows have strings at all."""
    try:
        learner = make()
        _call("predict_one", 0, learner.predict, {})
        _run(learner, list(_shaken(rows)))
        _run(make(), [({}, rows[0][1]), *_shaken(rows)])
    except _RowError as error:
        yield f"features that vanish or appear: {error}"


def _shaken(rows: Sequence[Row]) -> Iterator[Row]:
    has_strings = any(isinstance(value, str) for x, _ in rows for value in x.values())
    for i, (x, y) in enumerate(rows):
        names = list(x)
        shaken = {name: x[name] for k, name in enumerate(names) if (i + k) % 4}
        if i % 5 == 0:
            shaken[f"new_{i % 3}"] = float(i % 7)
        if has_strings and i % 3 == 0 and names:
            name = names[i % len(names)]
            shaken[name] = float(i) if isinstance(x[name], str) else f"text {i % 4}"
        yield ({} if i % 11 == 10 else shaken), y


def _class_never_seen(make: _Maker, task: Task, rows: Sequence[Row]) -> Iterator[str]:
    """A class appears after many others."""
    if task == "regression":
        return
    new_class: Label = "a class never seen before"
    before = [row for row in rows if row[1] != new_class]
    if task == "binary":
        new_class = not rows[0][1]
        before = [row for row in rows if row[1] != new_class]
    try:
        _run(make(), [*before, *((x, new_class) for x, _ in rows[-5:]), *rows[-5:]])
    except _RowError as error:
        yield f"a class never seen before: {error}"


# Two processes with different hash seeds.


def _hash_seed(make: _Maker, rows: Sequence[Row], pickle_every: int) -> list[str]:
    try:
        work = pickle.dumps((make, list(rows), pickle_every))
        if getattr(make.build, "__module__", None) == "__main__":
            raise pickle.PicklingError("it is defined in the main script")
    except Exception as error:
        return [
            f"whether output changes with the hash seed could not be checked: build cannot be sent to another "
            f'process ({error}); give a function of a module, or "package.module:function".'
        ]
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", "from learners.checks import _run_from_stdin; _run_from_stdin()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
        )
        for seed in ("1", "2")
    ]
    try:  # the second process waits for its input while the first one runs
        outputs = [process.communicate(work, timeout=_SUBPROCESS_TIMEOUT_SECONDS) for process in processes]
    except subprocess.TimeoutExpired:
        return [
            "whether output changes with the hash seed could not be checked: the learner took more than "
            f"{_SUBPROCESS_TIMEOUT_SECONDS} s in another process; give fewer rows."
        ]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, stderr) in zip(processes, outputs, strict=True):
        if process.returncode != 0:
            last = stderr.decode(errors="replace").strip().splitlines()[-1:]
            return [
                "whether output changes with the hash seed could not be checked: the learner does not run in "
                f"another process: {''.join(last)}"
            ]
    runs = [json.loads(stdout.splitlines()[-1]) for stdout, _ in outputs]
    return _compare(runs[0], runs[1], _HASH_SEED)


def _run_from_stdin() -> None:
    make, rows, pickle_every = pickle.loads(sys.stdin.buffer.read())
    predictions = _run(make(), rows, pickle_every=pickle_every)
    sys.stdout.write("\n" + json.dumps(predictions) + "\n")
