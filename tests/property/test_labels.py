"""Labels that come late, early, out of order, twice, with another value or never, against a model in a few lines.

The model keeps lists and looks through all of them; it knows nothing of queues, windows of bytes or packed items.
"""

from __future__ import annotations

import pickle
from collections import Counter
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from river import base

from monitors import labels_that_came
from stream.build import new_pipeline
from stream.pipeline import Pipeline
from stream.records import Output, Record
from stream.settings import Settings
from tests.helpers import body, settings_for

X = dict[Any, Any]
IDS = st.sampled_from(["a", "b", "c", "d", "e", 7])
KINDS = st.sampled_from(["question", "question", "answer", "answer", "labelled"])
STEPS = st.sampled_from([0.0, 1.0, 1.0, 3.0, 9.0, -2.0, -30.0])
POLICIES = st.fixed_dictionaries(
    {
        "expire_after_seconds": st.sampled_from([1.0, 5.0, 20.0, 1e9]),
        "capacity": st.sampled_from([1, 2, 100]),
        "early_seconds": st.sampled_from([0.0, 2.0, 1e9]),
        "conflict": st.sampled_from(["first", "correct"]),
        "remember": st.sampled_from([0, 1, 3, 1000]),
    },
    optional={"silence": st.booleans()},
)


class Adder(base.Classifier):
    """Predicts by what it has learned, and remembers it: another order of labels gives other predictions.

    Args:
        fails: Which of its tries to learn fail, counted from 1.
    """

    def __init__(self, fails: frozenset[int] = frozenset()) -> None:
        self.fails = fails
        self.tries = 0
        self.pairs: list[tuple[float, bool]] = []
        self.total = 0.0

    def predict_proba_one(self, x: X, **kwargs: Any) -> dict[Any, float]:
        p = (self.total + x["f"]) % 1.0
        return {False: 1.0 - p, True: p}

    def learn_one(self, x: X, y: Any) -> None:
        self.tries += 1
        if self.tries in self.fails:
            raise ValueError("not now")
        self.pairs.append((x["f"], y))
        self.total = self.total * 0.5 + x["f"] * (0.3 if y else 0.7)


class Step(NamedTuple):
    """One record."""

    kind: str
    id: object
    time: float
    offset: int
    x: X
    y: bool


class Model:
    """What should come out, the slow way."""

    def __init__(self, policy: dict[str, Any], window: int, duplicates: str, fails: frozenset[int]) -> None:
        self.policy = policy
        self.window, self.duplicates = window, duplicates
        self.learner = Adder(fails)
        self.clock = float("-inf")
        #: Each waits: (time, id, offset, features, probabilities).
        self.waiting: list[tuple[float, str, int, X, dict[bool, float]]] = []
        #: Each has left: (id, its label or None, whether it expired, features, whether the label is still to be
        #: learned); the newest last.
        self.left: list[tuple[str, bool | None, bool, X, bool]] = []
        #: Labels that wait: (time, id, label).
        self.labels: list[tuple[float, str, bool]] = []
        #: Events seen: (id, offset, label in it, probabilities).
        self.seen: list[tuple[str, int, bool | None, dict[bool, float]]] = []
        #: What was scored: probability of true, label. What became of questions and labels.
        self.scored: list[tuple[float, bool]] = []
        self.states: list[tuple[str, str, bool | None]] = []
        self.predicted: list[tuple[int, float, int | None]] = []
        self.counts: Counter[str] = Counter()

    def tell(self, state: str, key: str, y: bool | None) -> None:
        self.counts[state] += 1
        self.states.append((state, key, y))

    def learn(self, x: X, y: bool, proba: dict[bool, float] | None) -> bool:
        """Whether it could be learned; scored with the probabilities, unless it was before."""
        if proba is not None:
            self.scored.append((proba[True], y))
        try:
            self.learner.learn_one(x, y)
        except ValueError:
            self.counts["failed"] += 1
            return False
        return True

    def leave(self, key: str, y: bool | None, expired: bool, x: X, learned: bool = True) -> None:
        self.left = [item for item in self.left if item[0] != key]
        self.left.append((key, y, expired, x, not learned))
        self.left = self.left[-self.policy["remember"] :] if self.policy["remember"] else []

    def expire(self, item: tuple[float, str, int, X, dict[bool, float]]) -> None:
        self.waiting.remove(item)
        _, key, _, x, proba = item
        y = self.policy.get("silence")
        if y is not None:
            self.learn(x, y, proba)
        self.leave(key, y, True, x)
        self.tell("expired", key, y)

    def try_again(self, closed: Any) -> None:
        """Its label or its question has come again."""
        if closed is not None and closed[4] and self.learn(closed[3], closed[1], None):
            self.leave(*closed[:4])

    def give_up(self, label: tuple[float, str, bool]) -> None:
        self.labels.remove(label)
        self.tell("unmatched", *label[1:])

    def see(self, step: Step) -> None:
        kind, event_id, time, offset, _, y = step
        key = str(event_id)
        policy = self.policy
        self.clock = max(self.clock, time)
        for item in sorted(self.waiting, key=lambda item: item[0]):
            if item[0] < self.clock - policy["expire_after_seconds"]:
                self.expire(item)
        for label in sorted(self.labels, key=lambda label: label[0]):
            if label[0] < self.clock - policy["early_seconds"]:
                self.give_up(label)
        seen = next((item for item in self.seen if item[0] == key), None)
        question = next((item for item in self.waiting if item[1] == key), None)
        closed = next((item for item in self.left if item[0] == key), None)
        answers = kind == "answer" or (
            kind == "labelled"
            and (
                seen[2] is None
                if seen is not None
                else question is not None or (closed is not None and self.window > 0)
            )
        )
        if answers:
            self.answer(step, seen, question, closed)
        elif seen is not None or question is not None:
            self.counts["seen again"] += 1
            first, proba = (seen[1], seen[3]) if seen is not None else (question[2], question[4])  # type: ignore[index]
            if self.duplicates != "drop":
                self.predicted.append((offset, proba[True], first if self.duplicates == "mark" else None))
            if kind == "question" or seen is None:
                self.try_again(closed)
            else:
                known = closed if closed is not None else (key, seen[2], False, None, False)
                if y != known[1]:
                    self.counts["came"] += 1
                    self.differ(key, y, known[3])
        else:
            self.ask(step)

    def ask(self, step: Step) -> None:
        kind, event_id, time, offset, x, y = step
        key = str(event_id)
        policy = self.policy
        proba = self.learner.predict_proba_one(x)
        self.predicted.append((offset, proba[True], None))
        if self.window:
            self.seen.append((key, offset, y if kind == "labelled" else None, proba))
            self.seen = self.seen[-self.window :]
        early = next((label for label in self.labels if label[1] == key), None)
        other: tuple[str, str, bool | None] | None = None
        if early is not None:
            self.labels.remove(early)
            if kind == "labelled":
                other = ("duplicate" if y == early[2] else "conflicting", key, y)
                if y != early[2] and policy["conflict"] == "correct":
                    other = ("conflicting", key, early[2])
                else:
                    y = early[2]
            else:
                self.counts["answered"] += 1
                y = early[2]
        elif kind == "question":
            self.counts["asked"] += 1
            if len(self.waiting) >= policy["capacity"]:
                self.expire(min(self.waiting, key=lambda item: item[0]))
            self.waiting.append((time, key, offset, x, proba))
            return
        self.counts["asked"] += kind == "question"
        learned = self.learn(x, y, proba)
        if kind == "question" or (learned and (early is not None or policy["conflict"] == "correct")):
            self.leave(key, y, False, x, learned)
        elif not learned and self.window:
            self.seen.pop()
        self.states.append(("joined", key, y))
        if other is not None:
            self.tell(*other)

    def answer(self, step: Step, seen: Any, question: Any, closed: Any) -> None:
        key, time, y = str(step.id), step.time, step.y
        policy = self.policy
        self.counts["came"] += 1
        waiting = next((label for label in self.labels if label[1] == key), None)
        if question is not None:
            self.waiting.remove(question)
            self.leave(key, y, False, question[3], self.learn(question[3], y, question[4]))
            self.counts["answered"] += 1
            self.states.append(("joined", key, y))
        elif closed is not None and closed[2]:
            self.tell("late", key, y)
        elif closed is not None:
            if y == closed[1]:
                self.try_again(closed)
                self.tell("duplicate", key, y)
            else:
                self.differ(key, y, closed[3])
        elif seen is not None and seen[2] is not None:
            if y == seen[2]:
                self.tell("duplicate", key, y)
            else:
                self.differ(key, y, None)
        elif seen is not None or not policy["early_seconds"]:
            self.tell("unmatched", key, y)
        elif waiting is not None and y == waiting[2]:
            self.tell("duplicate", key, y)
        elif waiting is not None:
            if policy["conflict"] == "correct":
                self.labels[self.labels.index(waiting)] = (time, key, y)
                self.labels.append(self.labels.pop(self.labels.index((time, key, y))))
            self.differ(key, y, None)
        else:
            if len(self.labels) >= policy["capacity"]:
                self.give_up(min(self.labels, key=lambda label: label[0]))
            self.labels.append((time, key, y))
            self.tell("early", key, y)

    def differ(self, key: str, y: bool, x: X | None) -> None:
        self.counts["conflicting"] += 1
        if x is None or self.policy["conflict"] == "first":
            self.states.append(("conflicting", key, y))
            return
        self.leave(key, y, False, x, self.learn(x, y, None))
        self.tell("corrected", key, y)


def record_of(step: Step) -> Record:
    kind, event_id, time, offset, x, y = step
    fields: dict[str, object] = {"id": event_id, "at": time}
    if kind != "answer":
        fields["features"] = x
    if kind != "question":
        fields["label"] = y
    return Record(0, offset, 10_000_000, str(event_id).encode(), body(**fields))


def settings_of(policy: dict[str, Any], window: int, duplicates: str) -> Settings:
    return settings_for(
        event={"time": "at", "id_window": window, "duplicates": duplicates, "max_ahead_seconds": 1e9},
        labels=policy,
        topics={"events": "events", "outcomes": "outcomes"},
    )


def crashed(pipeline: Pipeline, new: Pipeline) -> Pipeline:
    """Another process goes on from a snapshot."""
    new.resume(pickle.loads(pickle.dumps(pipeline.state)))
    return new


@given(
    steps=st.lists(st.tuples(KINDS, IDS, STEPS, st.booleans(), st.integers(0, 9) | st.none()), max_size=60),
    policy=POLICIES,
    window=st.sampled_from([0, 2, 1000]),
    duplicates=st.sampled_from(["mark", "repeat", "drop"]),
    fails=st.frozensets(st.integers(1, 30), max_size=12),
)
@settings(max_examples=400)
def test_labels_are_what_a_naive_model_says(
    steps: list[tuple[str, object, float, bool, int | None]],
    policy: dict[str, Any],
    window: int,
    duplicates: str,
    fails: frozenset[int],
) -> None:
    """Predictions, what is learned in which order, scores, outcomes and counters; with a restart here and there."""
    configured = settings_of(policy, window, duplicates)
    model = Model(policy, window, duplicates, fails)
    pipeline = new_pipeline(configured, Adder(fails))
    outputs: list[Output] = []
    time = 1_000.0
    for offset, (kind, event_id, seconds, y, crash) in enumerate(steps):
        time += seconds
        x = {"f": (offset * 0.37) % 1.0}
        model.see(step := Step(kind, event_id, time, offset, x, y))
        outputs += pipeline.process(record_of(step))
        if crash == 0:
            pipeline = crashed(pipeline, new_pipeline(configured, Adder()))

    found = [(item.to, orjson.loads(item.value or b"null")) for item in outputs]
    predictions = [item for to, item in found if to == "predictions"]
    assert [
        (item["offset"], item["scores"]["true"], item.get("duplicate_of")) for item in predictions
    ] == model.predicted
    outcomes = [item for to, item in found if to == "outcomes"]
    assert [(item["state"], str(item["id"]), item["label"]) for item in outcomes] == model.states
    assert len(found) == len(predictions) + len(outcomes) + model.counts["failed"]
    assert pipeline.state.dead_letters_by_stage["learn"] == model.counts["failed"]
    estimator: Any = pipeline.state.learner.estimator
    assert estimator.pairs == model.learner.pairs
    assert pipeline.state.prequential.scored == len(model.scored)
    right = sum((p > 0.5) == y for p, y in model.scored)
    accuracy = pipeline.state.prequential.values()["accuracy"]["value"]
    assert accuracy == (right / len(model.scored) if model.scored else accuracy)
    labels = pipeline.state.labels
    counts = {
        "expired": labels.expired,
        "late": labels.late,
        "early": labels.early_labels,
        "unmatched": labels.unmatched,
        "duplicate": labels.duplicate,
        "conflicting": labels.conflicting,
        "corrected": labels.corrected,
        "asked": labels.questions,
        "answered": labels.joined,
        "seen again": pipeline.state.duplicates,
    }
    assert counts == {name: model.counts[name] for name in counts}
    assert labels_that_came(labels.counts()) == model.counts["came"]
    assert (len(labels.pending), len(labels.early)) == (len(model.waiting), len(model.labels))
    assert labels.questions == labels.joined + labels.expired + len(labels.pending)
    for name in model.counts:
        event(name)


@pytest.mark.parametrize("silence", [None, False])
def test_a_thousand_questions_expire_with_a_record_and_the_rest_with_the_next(silence: bool | None) -> None:
    """After a jump of event time; one whose turn has not come is late all the same."""
    policy = {"expire_after_seconds": 10.0, **({} if silence is None else {"silence": silence})}
    pipeline = new_pipeline(settings_of(policy, 0, "mark"), Adder())
    for number in range(2_500):
        pipeline.process(record_of(Step("question", number, 1_000.0, number, {"f": 0.5}, True)))
    labels = pipeline.state.labels
    assert (len(labels.pending), labels.expired) == (2_500, 0)

    outputs = pipeline.process(record_of(Step("answer", 2_400, 2_000.0, 2_500, {}, True)))

    assert (labels.expired, labels.late, labels.joined) == (1_001, 1, 0)
    assert len(outputs) == 1_002
    for offset in range(2_501, 2_504):
        pipeline.process(record_of(Step("answer", "x", 2_000.0, offset, {}, True)))
    assert (labels.expired, len(labels.pending)) == (2_500, 0)
    assert labels.expired_learned == pipeline.state.learner.learned == (0 if silence is None else 2_500)
