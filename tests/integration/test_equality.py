"""Promise 1 on a real broker: the number on the dashboard is River's number, and each prediction is River's."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice, product
from pathlib import Path
from typing import Any

import orjson
import pytest
from river import datasets, evaluate, metrics
from river.stream import simulate_qa

from learners.registry import build_learner
from stream.broker import Broker
from tests.support import Incoming, KafkaCase, events_of, wait_until, whole_seconds_ago

pytestmark = pytest.mark.integration

PHISHING = (datasets.Phishing, "binary", {"accuracy": metrics.Accuracy, "roc_auc": metrics.ROCAUC})
SEGMENTS = (datasets.ImageSegments, "multiclass", {"accuracy": metrics.Accuracy, "macro_f1": metrics.MacroF1})
APPROVAL = (datasets.TrumpApproval, "regression", {"mae": metrics.MAE, "rmse": metrics.RMSE})

#: Learner, its parameters, the data set with its task and metrics, and how many rows of it.
CASES: dict[str, tuple[dict[str, Any], Any, int]] = {
    "logistic-regression": ({}, PHISHING, 1_000),
    "hoeffding-tree": ({"grace_period": 50}, PHISHING, 1_000),
    "naive-bayes": ({}, SEGMENTS, 500),
    "linear-regression": ({}, APPROVAL, 800),
    "adaptive-random-forest": ({"n_models": 3}, APPROVAL, 400),
}


@pytest.mark.parametrize("partitions", [1, 4])
def test_streamed_metrics_and_predictions_are_those_of_river_per_partition(
    broker: Broker, tmp_path: Path, topic_name: str, partitions: int
) -> None:
    with ExitStack() as stack:
        cases = {}
        for use, (parameters, (data_set, task, measured), rows) in CASES.items():
            case = stack.enter_context(
                KafkaCase(
                    broker.bootstrap_servers,
                    tmp_path,
                    f"{topic_name}-{use}",
                    partitions=partitions,
                    task=task,
                    learner={"use": use, "parameters": parameters},
                    metrics={"use": list(measured)},
                )
            )
            case.send(events_of(islice(data_set(), rows), partitions))
            cases[use] = case

        workers = [case.start("--stop-at-end") for case in cases.values()]
        for worker in workers:
            worker.ends_well()

        expected = rivers_figures(partitions)
        for use, case in cases.items():
            parameters, (data_set, task, measured), rows = CASES[use]
            statuses, predictions = case.statuses(), case.read("predictions")
            for partition in range(partitions):
                part = list(islice(data_set(), rows))[partition::partitions]

                streamed = [statuses[partition]["metrics"][name]["value"] for name in measured]
                assert streamed == expected[use][partition], f"{use}, partition {partition}"

                bare = bare_loop(build_learner(use, task, parameters, 42), task, part)
                for record, (y_pred, scores) in zip(predictions[partition], bare, strict=True):
                    assert record.json.get("scores") == scores, f"{use}, partition {partition}"
                    if y_pred is not None:
                        assert record.json["prediction"] == y_pred, f"{use}, partition {partition}"


def rivers_figures(partitions: int) -> dict[str, list[list[float]]]:
    """`progressive_val_score` of each case, partition and metric, in a process with the hash seed of `headrace run`.

    River adds up macro figures in the order of a set of classes: the last digit follows from the hash seed.
    """
    program = f"import tests.integration.test_equality as t; t.print_figures({partitions})"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, list[list[float]]] = json.loads(answer.stdout)
    return figures


def print_figures(partitions: int) -> None:
    figures = {}
    for use, (parameters, (data_set, task, measured), rows) in CASES.items():
        parts = [list(islice(data_set(), rows))[number::partitions] for number in range(partitions)]
        figures[use] = [
            [
                evaluate.progressive_val_score(part, build_learner(use, task, parameters, 42), kind()).get()
                for kind in measured.values()
            ]
            for part in parts
        ]
    sys.stdout.write(json.dumps(figures, default=float))


def bare_loop(model: Any, task: str, rows: list[Any]) -> Iterator[tuple[Any, dict[str, float] | None]]:
    """River alone: the prediction and the scores of each row, before it is learned."""
    for x, y in rows:
        if task == "regression":
            yield model.predict_one(x), None
        else:
            scores = model.predict_proba_one(x)
            best = max(scores, key=scores.__getitem__, default=None)
            yield best, {str(c).lower() if task == "binary" else c: p for c, p in scores.items()} or None
        model.learn_one(x, y)


def test_the_hash_seed_of_the_environment_changes_no_byte(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Hoeffding adaptive trees keep classes in a set; `headrace run` fixes the seed for itself."""
    written = []
    data_set: Any = datasets.ImageSegments
    rows = list(islice(data_set(), 500))
    with ExitStack() as stack:
        cases = [
            stack.enter_context(
                KafkaCase(
                    broker.bootstrap_servers,
                    tmp_path,
                    f"{topic_name}-{seed}",
                    task="multiclass",
                    learner={"use": "hoeffding-adaptive-tree", "parameters": {"grace_period": 30}},
                )
            )
            for seed in (1, 2)
        ]
        timestamp = whole_seconds_ago(3_600) * 1_000
        for case in cases:
            case.send(record._replace(timestamp=timestamp) for record in events_of(rows))

        workers = [
            case.start("--stop-at-end", hash_seed=str(seed)) for seed, case in enumerate(cases, start=1)
        ]
        for worker in workers:
            worker.ends_well()

        for case in cases:
            (records,) = case.read("predictions").values()
            written.append([record.content for record in records])
    assert len(written[0]) == 500
    assert written[0] == written[1]


def test_drift_alerts_are_those_of_the_fold_and_outcomes_join_late_labels(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Questions, and their answers two hundred events later: scored as `progressive_val_score` does with a delay."""
    rows = list(islice(datasets.Phishing(), 600))
    delay = 200
    records = []
    for number in range(len(rows) + delay):
        if number >= delay:
            records.append(
                Incoming(0, orjson.dumps({"id": number - delay, "label": rows[number - delay][1]}))
            )
        if number < len(rows):
            records.append(Incoming(0, orjson.dumps({"id": number, "features": rows[number][0]})))
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        topics={"events": f"{topic_name}.events", "outcomes": f"{topic_name}.outcomes"},
        metrics={"use": ["accuracy"]},
        drift=[
            {"watch": "error", "detector": "ddm"},
            {"watch": "label", "detector": "adwin", "parameters": {"delta": 0.5}},
        ],
    ) as case:
        case.send(records)

        case.run_to_end()

        assert case.assert_exactly_once(["predictions", "alerts", "dead_letters", "outcomes"]) == len(rows)
        (outcomes,) = case.read("outcomes").values()
        assert [outcome.json["label"] for outcome in outcomes] == [y for _, y in rows]
        assert case.count("alerts") > 0
        accuracy: Any = metrics.Accuracy
        expected = evaluate.progressive_val_score(
            # by position: the answer to a row comes right before the row `delay` later
            [(x | {"#": number}, y) for number, (x, y) in enumerate(rows)],
            without(build_learner("logistic-regression", "binary", {}, 42), "#"),
            accuracy(),
            moment="#",
            delay=delay,
        )
        (status,) = case.statuses().values()
        assert status["metrics"]["accuracy"]["value"] == expected.get()


#: How late each label is, by its row's number: a constant in seconds, or a function. Rows are a minute apart.
DELAYS: dict[str, Any] = {
    "four-hours": timedelta(hours=4),
    "random": lambda x, y: timedelta(seconds=random.Random(x["#"]).expovariate(1 / 7_200)),
    "per-row": lambda x, y: timedelta(minutes=x["#"] * 37 % 211),
}
#: The first row's event time, some days ago; nothing expires, and nothing is ahead of its record.
BEGIN = datetime.fromtimestamp(whole_seconds_ago(5 * 86_400), UTC)


def moment_of(x: Any) -> datetime:
    return BEGIN + timedelta(minutes=x["#"])


def late_events(rows: list[Any], partitions: int, delay: Any) -> Iterator[Incoming]:
    """Questions and answers in the order in which River's own simulation has them, each row in its partition."""
    numbered = [(x | {"#": number}, y) for number, (x, y) in enumerate(rows)]
    for number, x, y in simulate_qa(numbered, moment=moment_of, delay=delay):
        body = {"id": number, "at": moment_of(x).timestamp()}
        if y is None:
            body |= {"features": x}
        else:
            late = delay(x, y) if callable(delay) else delay
            body |= {"label": y, "at": (moment_of(x) + late).timestamp()}
        yield Incoming(number % partitions, orjson.dumps(body))


@contextmanager
def drip(case: KafkaCase, events: list[Incoming], held_back: int) -> Iterator[threading.Event]:
    """While the block runs send these events, over about two seconds; all of them are there at its end.

    The last so many wait for what is yielded: what a test does in mid-stream never comes too late for it.
    """
    go_on = threading.Event()

    def send() -> None:
        client = case.producer()
        for number, event in enumerate(events):
            if number == len(events) - held_back:
                client.flush()
                go_on.wait()
            case.hand_over(client, event)
            if number % (len(events) // 40) == 0:
                client.flush()
                time.sleep(0.05)
        client.flush()
        client.close()

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send)
        try:
            yield go_on
        finally:
            go_on.set()
        sent.result()


def assert_late_labels_are_rivers(
    broker: Broker,
    folder: Path,
    name: str,
    use: str,
    delay: str,
    *,
    partitions: int = 1,
) -> None:
    """A worker that is killed half-way and one that goes on: the figures are those of `progressive_val_score`."""
    parameters, (data_set, task, measured), rows = CASES[use]
    data = list(islice(data_set(), rows))
    metric, river = next(iter(measured.items()))
    with KafkaCase(
        broker.bootstrap_servers,
        folder,
        name,
        partitions=partitions,
        task=task,
        topics={"events": f"{name}.events", "outcomes": f"{name}.outcomes"},
        event={"time": "at"},
        labels={"expire_after_seconds": 30 * 86_400},
        learner={"use": use, "parameters": parameters},
        metrics={"use": [metric]},
        snapshots={"interval_seconds": 0.2},
        worker={"commit_interval_ms": 50},
    ) as case:
        events = list(late_events(data, partitions, DELAYS[delay]))
        first = len(events) // 10
        asked = [number for number, event in enumerate(events) if b'"features"' in (event.value or b"")]
        case.send(events[:first])
        worker = case.start()
        case.wait_for_predictions(1, worker)
        with drip(case, events[first:], len(events) - asked[len(data) * 3 // 4]) as go_on:
            case.wait_for_predictions(len(data) // 2, worker)
            worker.kill()
            assert case.predicted() < len(data), "it was killed before the end"
            go_on.set()
        case.run_to_end()

        case.assert_exactly_once(["predictions", "outcomes", "dead_letters"])
        statuses = case.statuses()
        numbered = [(x | {"#": number}, y) for number, (x, y) in enumerate(data)]
        for partition in range(partitions):
            expected = evaluate.progressive_val_score(
                numbered[partition::partitions],
                build_learner(use, task, parameters, 42),
                river(),
                moment=moment_of,
                delay=DELAYS[delay],
            )
            status = statuses[partition]
            assert status["metrics"][metric]["value"] == expected.get(), f"partition {partition}"
            assert status["learned"] == status["joined"] == len(numbered[partition::partitions])


def test_late_labels_score_as_in_river_though_a_worker_is_killed(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    assert_late_labels_are_rivers(broker, tmp_path, topic_name, "linear-regression", "random")


@pytest.mark.full
@pytest.mark.parametrize("case", list(product(CASES, DELAYS)), ids=" ".join)
def test_late_labels_of_every_case_score_as_in_river_though_a_worker_is_killed(
    broker: Broker, tmp_path: Path, topic_name: str, case: tuple[str, str]
) -> None:
    assert_late_labels_are_rivers(broker, tmp_path, topic_name, *case, partitions=2)


def without(model: Any, name: str) -> Any:
    """The model behind a step that hides one feature."""
    from river import compose

    return compose.Discard(name) | model


def test_stop_at_end_ends_behind_a_transaction_that_was_aborted(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """A producer's transactions leave control records, and aborted records, in `<events>`."""
    from kafka import KafkaProducer  # type: ignore[import-untyped]  # kafka-python ships no types

    from tests.support import labelled

    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        producer = KafkaProducer(
            bootstrap_servers=broker.bootstrap_servers, transactional_id=f"{topic_name}-source"
        )
        producer.init_transactions()
        for number in range(30):
            if number % 10 == 0:
                producer.begin_transaction()
            producer.send(case.topic("events"), value=labelled(number).value, partition=0)
            if number % 10 == 9:
                producer.flush()
                (producer.abort_transaction if number == 29 else producer.commit_transaction)()
        producer.close()
        wait_until(lambda: case.ends("events")[0] == 33, "the transactions have ended")

        case.run_to_end()
        case.run_to_end()  # a restart, which finds nothing to do behind the control records

        (predictions,) = case.read("predictions").values()
        assert [p.json["offset"] for p in predictions] == [*range(10), *range(11, 21)]
