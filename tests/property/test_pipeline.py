from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.build import new_pipeline
from stream.labels import LabelBook
from stream.records import Output, Record
from tests.helpers import body, settings_for

#: Few ids, so that questions meet answers, repeat, and are answered twice.
IDS = st.none() | st.sampled_from([1, "1", "a", "b", ""])
VALUES = st.sampled_from([0, 1.5, -2, True, "x", "y", "", 1e300, None])
FEATURES = st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, max_size=3)
TIMES = st.none() | st.sampled_from([0, 30, 59, 61, 200, -100, 1e12])
LABELS: dict[str, st.SearchStrategy[Any]] = {
    "binary": st.sampled_from([True, False, 1, "0", None, "spam"]),
    "multiclass": st.sampled_from(["x", "y", 3, 4.5, True, None, ""]),
    "regression": st.sampled_from([0, 1.5, -1e9, 1e300, None, "n/a"]),
}
GARBAGE = st.sampled_from([None, b"", b"{}", b"\xff", b"[]", b'{"features": 1}']) | st.binary(max_size=8)


def events(task: str) -> st.SearchStrategy[bytes]:
    """Labelled events, questions, answers and what is nearly one of these."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "id": IDS,
        "at": TIMES,
        "features": FEATURES,
        "label": LABELS[task],
    }
    return st.fixed_dictionaries({}, optional=fields).map(lambda found: body(**found))


@st.composite
def logs(draw: st.DrawFn, task: str) -> list[Record]:
    """One partition's records; control records leave gaps between the offsets."""
    values = draw(st.lists(GARBAGE | events(task) | events(task) | events(task), max_size=30))
    records, offset = [], 0
    for value in values:
        offset += draw(st.sampled_from([1, 1, 1, 2]))
        headers = draw(st.sampled_from([None, [("h", b"1")]]))
        records.append(Record(0, offset, 1_000 * offset, draw(st.sampled_from([None, b"k"])), value, headers))
    return records


def settings_of(task: str) -> Any:
    learner = {
        "binary": "hoeffding-adaptive-tree",
        "multiclass": "naive-bayes",
        "regression": "linear-regression",
    }
    return settings_for(
        task,
        learner={"use": learner[task]},
        topics={"events": "events", "outcomes": "outcomes"},
        event={"time": "at"},
        labels={"expire_after_seconds": 60, "capacity": 2},
        metrics={"window": 10},
        drift=[
            {"watch": "error", "detector": "adwin", "parameters": {"clock": 1, "grace_period": 1}},
            {
                "watch": "feature:a",
                "detector": "page-hinkley",
                "parameters": {"min_instances": 1, "threshold": 0.5},
            },
            {
                "watch": "label_delay",
                "detector": "page-hinkley",
                "parameters": {"min_instances": 1, "threshold": 5.0},
            },
            *([{"watch": "label:x", "detector": "adwin"}] if task == "multiclass" else []),
        ],
    )


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@given(data=st.data())
@settings(max_examples=60)
def test_the_same_records_give_the_same_bytes_however_they_are_cut_and_whoever_looks(
    task: str, data: st.DataObject
) -> None:
    """A second pipeline that is given the log in batches, and looked at between them, writes the same."""
    log = data.draw(logs(task))
    whole, cut = new_pipeline(settings_of(task)), new_pipeline(settings_of(task))

    expected: list[Output] = [output for record in log for output in whole.process(record)]
    found: list[Output] = []
    rest = log
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        batch, rest = rest[:size], rest[size:]
        for record in batch:
            found.extend(cut.process(record))
        cut.state.prequential.values()
        cut.state.prequential.baselines()
        cut.state.prequential.classes()
        cut.state.drift.status()
        cut.state.labels.delay()

    assert found == expected
    assert cut.state.prequential.values() == whole.state.prequential.values()
    assert cut.state.prequential.baselines() == whole.state.prequential.baselines()
    assert cut.state.drift.status() == whole.state.drift.status()
    assert cut.state.prequential.classes() == whole.state.prequential.classes()
    assert cut.state.labels.delays == whole.state.labels.delays


def answers_of(labels: LabelBook) -> int:
    """How many answers have been counted."""
    return (
        labels.joined
        + labels.late
        + labels.early_labels
        + labels.unmatched
        + labels.duplicate
        + labels.conflicting
    )


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@given(data=st.data())
@settings(max_examples=60)
def test_every_record_is_accounted_for(task: str, data: st.DataObject) -> None:
    """A prediction or a dead letter for each record, or it is a duplicate or an answer, which is counted."""
    log = data.draw(logs(task))
    pipeline = new_pipeline(settings_of(task))
    state = pipeline.state

    for record in log:
        before = (state.predictions, state.dead_letters, state.duplicates, answers_of(state.labels))
        outputs = pipeline.process(record)
        after = (state.predictions, state.dead_letters, state.duplicates, answers_of(state.labels))
        kinds = [output.to for output in outputs]

        assert after != before
        assert kinds.count("predictions") == state.predictions - before[0] + state.duplicates - before[2]
        assert kinds.count("dead_letters") == state.dead_letters - before[1]
        assert all(output.value == record.value for output in outputs if output.to == "dead_letters")
        # Of what a record lets expire, the key is that of its own record.
        assert all(output.key == record.key for output in outputs if output.to != "outcomes")

    labels = state.labels
    assert labels.questions <= state.predictions
    assert labels.joined + labels.expired + len(labels.pending) <= labels.questions
    assert len(labels.delays) == labels.joined
    undecoded = len(log) - state.events
    assert undecoded <= state.dead_letters
    assert len(state.labels.pending) <= 2


WRITE_ALL = """
import hashlib, sys
from itertools import islice
from river import datasets
from stream.build import new_pipeline
from tests.helpers import body, record, settings_for

CASES = [
    ("binary", "hoeffding-adaptive-tree", {"grace_period": 50}, 300),
    ("multiclass", "hoeffding-adaptive-tree", {"grace_period": 30}, 200),
    ("multiclass", "adaptive-random-forest", {"n_models": 2, "grace_period": 20}, 150),
    ("multiclass", "aggregated-mondrian-forest", {"n_estimators": 2}, 80),
    ("multiclass", "leveraging-bagging", {"n_models": 2, "w": 1}, 80),
    ("multiclass", "streaming-random-patches", {"n_models": 2}, 80),
    ("multiclass", "softmax-regression", {}, 150),
    ("multiclass", "passive-aggressive", {}, 150),
    ("multiclass", "naive-bayes", {}, 150),
    ("multiclass", "no-change", {}, 80),
    ("regression", "adaptive-random-forest", {"n_models": 2}, 80),
    ("regression", "knn", {}, 80),
]
DATA = {"binary": datasets.Phishing, "multiclass": datasets.ImageSegments, "regression": datasets.TrumpApproval}
WATCHED = {"binary": "empty_server_form_handler", "multiclass": "hue-mean", "regression": "gallup"}

for task, use, parameters, rows in CASES:
    settings = settings_for(
        task,
        learner={"use": use, "parameters": parameters},
        topics={"events": "events", "outcomes": "outcomes"},
        # Not macro_f1: River adds it up in the order of a set, so its last digit is the hash seed's.
        metrics={"use": ["mae" if task == "regression" else "accuracy"]},
        drift=[{"watch": "error", "detector": "kswin"}, {"watch": "feature:" + WATCHED[task], "detector": "adwin"}],
    )
    pipeline = new_pipeline(settings)
    digest = hashlib.sha256()
    labels = {}
    for i, (x, y) in enumerate(islice(DATA[task](), rows)):
        # Categories and classes by name, and some labels late.
        labels[i] = y
        x = {**x, "colour": ["red", "green", "blue", "grey"][i * 7 % 4], "place": "p%d" % (i * 5 % 11)}
        late = (body(id=i, features=x), body(id=i - 5, label=labels.get(i - 5, y)))
        for value in late if i % 5 == 0 else (body(features=x, label=y),):
            for output in pipeline.process(record(value, i)):
                digest.update(repr(output).encode())
    figures = repr([pipeline.state.prequential.values(), pipeline.state.prequential.baselines()])
    print(task, use, pipeline.state.learner.learned, digest.hexdigest(), figures)
"""


def test_processes_with_other_hash_seeds_write_the_same_bytes() -> None:
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE_ALL],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "4711")
    ]
    first, second = (process.communicate(timeout=120)[0].splitlines() for process in processes)

    assert [process.returncode for process in processes] == [0, 0]
    assert len(first) == 12
    assert first == second
