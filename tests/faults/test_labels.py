"""Labels in a topic of their own: late, lost, doubled and conflicting, with workers and relay killed on the way.

Every label is a function of its number, so what must come out is known without any code of ours: each question's
outcome by its number, and the metrics by a loop over River in the order of the log.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from river import metrics

from learners.registry import build_learner
from stream.broker import Broker
from tests.integration.relaying import RelayCase, question, verdict
from tests.support import Feeder, Incoming, children, wait_until

pytestmark = pytest.mark.faults
FULL = pytest.mark.full
PARTITIONS = 2
#: A label comes after at most so many other questions; each number stands for a place in time.
LONGEST_DELAY = 150
FATES = ("lost", "doubled", "conflicting", "plain")
WEIGHTS = (5, 5, 1, 89)


def fate(number: int) -> tuple[str, int]:
    """What happens to the label of a question, and after how many further questions it comes."""
    chance = random.Random(number)
    return chance.choices(FATES, WEIGHTS)[0], chance.randrange(LONGEST_DELAY)


def other(label: Incoming) -> Incoming:
    """The same label with the other value."""
    body = orjson.loads(label.value or b"")
    body["verdict"] = "fine" if body["verdict"] == "fraud" else "fraud"
    return label._replace(value=orjson.dumps(body))


def stream() -> Iterator[Incoming]:
    """Questions in order, and between them the labels that are due, for ever."""
    due: dict[int, list[Incoming]] = {}
    number = 0
    while True:
        yield question(number, number % PARTITIONS)
        what, delay = fate(number)
        label = verdict(number, number % PARTITIONS)
        if what != "lost":
            due.setdefault(number + delay, []).append(label)
        if what == "doubled":
            due.setdefault(number + delay + 3, []).append(label)
        if what == "conflicting":
            due.setdefault(number + delay + 5, []).append(other(label))
        yield from due.pop(number, ())
        number += 1


def rivers_figures(case: RelayCase, partition: int) -> dict[str, float]:
    """The metrics of one partition by a plain loop over River, in the order of the log."""
    learner: Any = build_learner("logistic-regression", "binary", {}, seed=42)
    kinds: dict[str, Any] = {"accuracy": metrics.Accuracy, "roc_auc": metrics.ROCAUC}
    figures = {name: kind() for name, kind in kinds.items()}
    waiting: dict[str, Any] = {}
    early: dict[str, bool] = {}
    done: set[str] = set()

    def learn(event_id: str, x: Any, proba: Any, y: bool) -> None:
        figures["accuracy"].update(y, max(proba, key=proba.get))
        figures["roc_auc"].update(y, proba)
        learner.learn_one(x, y)
        done.add(event_id)

    for record in case.read("events")[partition]:
        body = record.json
        if "tx" not in body:
            x, proba = body["features"], learner.predict_proba_one(body["features"])
            if body["id"] in early:
                learn(body["id"], x, proba, early[body["id"]])
            else:
                waiting[body["id"]] = x, proba
        elif body["tx"] in waiting:
            x, proba = waiting.pop(body["tx"])
            learn(body["tx"], x, proba, body["verdict"] == "fraud")
        elif body["tx"] not in done:  # it has overtaken its question; the first of two counts
            early.setdefault(body["tx"], body["verdict"] == "fraud")
    return {name: metric.get() for name, metric in figures.items()}


@contextmanager
def killed(
    broker: Broker, folder: Path, name: str, kills: int, labels: Mapping[str, Any] | None = None
) -> Iterator[tuple[RelayCase, int, int]]:
    """A pipeline that took the stream in while its workers and relays were killed; with how much of it, and a seed."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    with RelayCase(
        broker,
        folder,
        name,
        partitions=PARTITIONS,
        labels=PARTITIONS,
        topics={"events": f"{name}.events", "outcomes": f"{name}.outcomes"},
        snapshots={"interval_events": 200, "interval_seconds": 1.0},
        learner={"use": "logistic-regression", "seed": 42},
        metrics={"use": ["accuracy", "roc_auc"]},
    ) as case:
        case.change(labels={**case.settings.labels.model_dump(exclude_unset=True), **(labels or {})})
        worker = case.start("--workers", "2")
        records = stream()
        with Feeder(case, rate=500, event=lambda _, __: next(records)) as feeder:
            for number in range(kills):
                case.wait_for_more(150, worker)
                time.sleep(chance.uniform(0.0, 0.3))  # the moment is the fault: any will do
                kind = "run" if number % 2 == 0 else "relay"
                wait_until(lambda: children(worker.pid, kind), f"there is one to kill, seed {seed}")  # noqa: B023
                chance.choice(children(worker.pid, kind)).send_signal(signal.SIGKILL)
            case.wait_for_more(150, worker)
            for who, count in (("a worker", (kills + 1) // 2), ("the relay", kills // 2)):
                wait_until(
                    lambda: len(worker.logged(f"{who} died, starting it again")) >= count,  # noqa: B023
                    f"each death is seen, seed {seed}",
                )
            wait_until(
                lambda: worker.stderr.rfind('"relay begins"') > worker.stderr.rfind('"the relay died'),
                f"the relay is back, seed {seed}",
            )
        assert worker.stop() == 0, worker.stderr
        case.run_to_end()

        case.assert_relayed_once()
        case.assert_exactly_once(("predictions", "alerts", "dead_letters", "outcomes"))
        yield case, feeder.sent, seed


@pytest.mark.parametrize(
    "kills", [pytest.param(2, id="few"), pytest.param(8, id="many", marks=[FULL, pytest.mark.timeout(2_700)])]
)
def test_late_lost_doubled_and_conflicting_labels_with_kills_on_the_way(
    broker: Broker, tmp_path: Path, topic_name: str, kills: int
) -> None:
    with killed(broker, tmp_path, topic_name, kills) as (case, sent, seed):
        _assert_fates(case, sent, seed)
        for partition, status in case.statuses().items():
            found = {name: figure["value"] for name, figure in status["metrics"].items()}
            assert found == rivers_figures(case, partition), f"seed {seed}"


@FULL
@pytest.mark.timeout(2_700)
def test_expiry_silence_and_corrections_with_kills_on_the_way(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Each question is joined once, or expires once, or waits."""
    labels = {"expire_after_seconds": 0.3, "silence": False, "conflict": "correct", "capacity": 40}
    with killed(broker, tmp_path, topic_name, 6, labels=labels) as (case, _, seed):
        ended = Counter(
            outcome.json["id"]
            for written in case.read("outcomes").values()
            for outcome in written
            if outcome.json["state"] in ("joined", "expired")
        )
        assert set(ended.values()) == {1}, f"seed {seed}"
        statuses = case.statuses().values()
        assert len(ended) + sum(s["pending"] for s in statuses) == sum(s["questions"] for s in statuses)
        for name in ("joined", "expired_learned", "expired_early", "late", "corrected_labels"):
            assert sum(s[name] for s in statuses) > 0, name


def _assert_fates(case: RelayCase, sent: int, seed: int) -> None:
    """Each question has the outcome that its number says, whatever was killed."""
    records = stream()
    questions: dict[str, tuple[int, str]] = {}
    labels: dict[str, list[bool]] = {}
    for _ in range(sent):
        body = orjson.loads(next(records).value or b"")
        if "tx" in body:
            labels.setdefault(body["tx"], []).append(body["verdict"] == "fraud")
        else:
            number = len(questions)
            questions[body["id"]] = number, fate(number)[0]
    outcomes: dict[str, list[dict[str, Any]]] = {}
    for written in case.read("outcomes").values():
        for outcome in written:
            outcomes.setdefault(outcome.json["id"], []).append(outcome.json)
    early = Counter(o["state"] for told in outcomes.values() for o in told)["early"]
    for event_id in questions:
        expected = labels.get(event_id, [])
        # A label may overtake its question on its way through the relay: then it waits for it.
        told = [item for item in outcomes.get(event_id, []) if item["state"] != "early"]
        states = [("joined", label) for label in expected[:1]]
        states += [("duplicate" if label == expected[0] else "conflicting", label) for label in expected[1:]]
        assert sorted((item["state"], item["label"]) for item in told) == sorted(states), (
            f"{event_id}, seed {seed}"
        )
    statuses = case.statuses().values()
    assert sum(s["joined"] for s in statuses) == len(labels)
    assert sum(s["pending"] for s in statuses) == len(questions) - len(labels)
    assert sum(s["early"] for s in statuses) == early
    assert all(s["late"] == s["unmatched"] == s["expired"] == 0 for s in statuses)
