"""The demo, `make demo`: real data through a real Kafka broker, and the numbers held against River's own.

It starts a broker, streams a data set that River ships through a worker in its own process, reads what the worker
wrote with another Kafka client, and compares each metric with `river.evaluate.progressive_val_score` to the last
digit. Then it streams data that drifts at known positions and shows what each detector made of it. It exits with 1
if a number differs or anything failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import orjson
import river.datasets
from kafka import (  # type: ignore[import-untyped]  # kafka-python ships no types
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    TopicPartition,
)
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from river.datasets import synth

from monitors import METRICS
from stream.backtesting import progressive_scores
from stream.broker import Broker
from stream.build import new_estimator
from stream.cli import HASH_SEED
from stream.errors import HeadraceError
from stream.settings import Settings, load_settings
from stream.settings.connection import kafka_python_config

FOLDER = Path(__file__).parent / "demo"
#: River's data sets have no annotations.
DATASETS: Mapping[str, Any] = {
    "phishing": river.datasets.Phishing,
    "images": river.datasets.ImageSegments,
    "trump": river.datasets.TrumpApproval,
}
#: The concepts of the synthetic data, one after the other: classification functions of River's `synth.Sine`.
CONCEPTS = (0, 1, 2, 3)
EVENTS_A_CONCEPT = 1_500
#: A drift counts as found if a detector says so within this many events.
FOUND_WITHIN = 250
#: Longest that a worker may take, seconds.
PATIENCE = 150.0
#: Width where no terminal says how wide it is, characters.
TEXT_WIDTH = 100

#: What is sent: the features and the label of each event.
Rows = Sequence[tuple[dict[str, Any], Any]]


class DemoFailed(Exception):
    """What went wrong, in a sentence."""


# --- Data ------------------------------------------------------------------------------------------------


def real_rows(dataset: str, limit: int | None = None) -> Rows:
    """A data set as River ships it; a class is text here, as it is for the learner."""
    data = DATASETS[dataset]()
    as_label = str if dataset == "images" else lambda y: y
    return [(x, as_label(y)) for x, y in islice(data, limit)]


def drifting_rows() -> Rows:
    """The concepts one after the other, and so drifts at 1,500, 3,000 and 4,500; the same on every machine."""
    rows = []
    for seed, concept in enumerate(CONCEPTS):
        data: Any = synth.Sine(classification_function=concept, seed=seed)
        rows += [
            ({f"x{name}": value for name, value in x.items()}, bool(y))
            for x, y in data.take(EVENTS_A_CONCEPT)
        ]
    return rows


# --- Through Kafka ---------------------------------------------------------------------------------------


class Read(NamedTuple):
    """What was read back from the output topics."""

    #: Predictions of each partition, in order.
    predictions: list[list[dict[str, Any]]]
    alerts: list[dict[str, Any]]
    dead_letters: int
    #: Status records of each partition, in order.
    statuses: list[list[dict[str, Any]]]


def create_topics(settings: Settings, partitions: int) -> None:
    """Make the pipeline's topics, one prediction partition for each event partition."""
    topics = settings.topics
    admin = KafkaAdminClient(**kafka_python_config(settings.kafka))
    try:
        admin.create_topics(
            {
                name: {"num_partitions": partitions, "replication_factor": 1}
                for name in (
                    topics.events,
                    topics.predictions,
                    topics.alerts,
                    topics.dead_letters,
                    topics.status,
                )
            },
            wait_for_metadata=True,
        )
    finally:
        admin.close()


def send(settings: Settings, rows: Rows, partitions: int, progress: Progress) -> None:
    """Send each row as an event, in turn to each partition."""
    producer = KafkaProducer(**kafka_python_config(settings.kafka), acks="all", linger_ms=20)
    task = progress.add_task("events sent", total=len(rows))
    sent = []
    for i, (x, y) in enumerate(rows):
        value = orjson.dumps({settings.event.label: y, **x})
        sent.append(producer.send(settings.topics.events, value, partition=i % partitions))
        progress.update(task, completed=i + 1)
    producer.flush(30)
    for future in sent:
        future.get(timeout=30)
    producer.close()


def read_topic(
    settings: Settings,
    topic: str,
    partitions: int,
    is_complete: Callable[[], bool],
    isolation: str = "read_committed",
) -> Generator[Any]:
    """The records of a topic, and None whenever there is nothing for a moment.

    Once `is_complete` says that nobody writes to it any more, it is read up to the end it has then.
    """
    consumer = KafkaConsumer(
        **kafka_python_config(settings.kafka),
        isolation_level=isolation,
        auto_offset_reset="earliest",
        group_id=None,
    )
    places = [TopicPartition(topic, partition) for partition in range(partitions)]
    ends: dict[TopicPartition, int] = {}
    try:
        consumer.assign(places)
        while True:
            if not ends and is_complete():
                ends = consumer.end_offsets(places)
            if ends and all(consumer.position(place) >= ends[place] for place in places):
                return
            found = consumer.poll(timeout_ms=300)
            for records in found.values():
                yield from records
            if not found:
                yield None
    finally:
        consumer.close()


def run_worker(settings: Settings, rows: int, partitions: int, logs: Path, progress: Progress) -> list[Any]:
    """Run a worker in its own process to the end of the log, reading its predictions meanwhile."""
    log = logs / f"{settings.name}.log"
    task = progress.add_task("predictions read", total=rows)
    predictions: list[Any] = []
    command = [sys.executable, "-P", "-m", "stream.cli", "run", str(settings.path), "--stop-at-end"]
    environ = clean_environ() | {
        "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "HEADRACE_SNAPSHOTS__LOCATION": str(logs / "snapshots"),
    }
    deadline = time.monotonic() + PATIENCE
    with log.open("wb") as file, subprocess.Popen(command, env=environ, stdout=file, stderr=file) as worker:
        reading = read_topic(
            settings, settings.topics.predictions, partitions, lambda: worker.poll() is not None
        )
        try:
            for record in reading:
                if record is not None:
                    predictions.append(record)
                    progress.update(task, completed=len(predictions))
                elif time.monotonic() > deadline:
                    raise DemoFailed(f"the worker was not done after {PATIENCE:.0f} s\n{tail(log)}")
        finally:
            reading.close()
            if worker.poll() is None:
                worker.terminate()
                try:
                    worker.wait(10)
                except subprocess.TimeoutExpired:
                    worker.kill()
    if worker.returncode:
        raise DemoFailed(f"the worker ended with exit code {worker.returncode}\n{tail(log)}")
    return predictions


def read_to_end(
    settings: Settings, topic: str, partitions: int, isolation: str = "read_committed"
) -> list[Any]:
    """All records of a topic that nobody writes to any more."""
    reading = read_topic(settings, topic, partitions, lambda: True, isolation)
    return [record for record in reading if record is not None]


def stream_rows(settings: Settings, rows: Rows, partitions: int, logs: Path, progress: Progress) -> Read:
    """Send the rows, run a worker over them, read all it wrote."""
    create_topics(settings, partitions)
    send(settings, rows, partitions, progress)
    predictions: list[list[dict[str, Any]]] = [[] for _ in range(partitions)]
    for record in run_worker(settings, len(rows), partitions, logs, progress):
        predictions[record.partition].append(orjson.loads(record.value))
    statuses: list[list[dict[str, Any]]] = [[] for _ in range(partitions)]
    for record in read_to_end(settings, settings.topics.status, partitions, "read_uncommitted"):
        statuses[record.partition].append(orjson.loads(record.value))
    alerts = read_to_end(settings, settings.topics.alerts, partitions)
    dead_letters = read_to_end(settings, settings.topics.dead_letters, partitions)
    return Read(predictions, [orjson.loads(alert.value) for alert in alerts], len(dead_letters), statuses)


# --- The numbers -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric of one partition, computed in three ways."""

    partition: int
    metric: str
    #: By the worker, as it says in its last status.
    streamed: float | None
    #: By a fresh River metric, from the predictions that were read back.
    read_back: float | None
    #: By `river.evaluate.progressive_val_score`.
    expected: float | None

    @property
    def equal(self) -> bool:
        """All three are there, and the same to the last digit."""
        return self.expected is not None and self.streamed == self.read_back == self.expected


def from_predictions(
    settings: Settings, rows: Rows, predictions: Sequence[Mapping[str, Any]], name: str
) -> float:
    """A metric over predictions that were read back, each with the label of its row."""
    metric: Any = METRICS[name].river()
    for body in predictions:
        label = rows[body["offset"]][1]
        if not METRICS[name].needs_scores:
            predicted = body["prediction"]
        elif settings.task == "binary":
            predicted = (
                {True: body["scores"]["true"], False: body["scores"]["false"]} if "scores" in body else None
            )
        else:
            predicted = body.get("scores")
        if predicted is not None:
            metric.update(label, predicted)
    return float(metric.get())


def compare(settings: Settings, rows: Rows, read: Read) -> list[Comparison]:
    """Each metric of each partition, computed in three ways; each partition is a learner of its own.

    Raises:
        DemoFailed: A prediction is missing, there twice, or out of order; or a record became a dead letter.
    """
    if read.dead_letters:
        raise DemoFailed(f"{read.dead_letters} records went to the dead-letter topic; expected none")
    partitions = len(read.predictions)
    found = []
    for partition, predictions in enumerate(read.predictions):
        own = rows[partition::partitions]
        offsets = [body["offset"] for body in predictions]
        if offsets != list(range(len(own))):
            raise DemoFailed(
                f"partition {partition}: read {len(offsets)} predictions of {len(own)} events; "
                "expected each once and in order"
            )
        if not read.statuses[partition]:
            raise DemoFailed(f"partition {partition}: the worker wrote no status")
        streamed = read.statuses[partition][-1]["metrics"]
        features = settings.event.features
        left_out = getattr(features, "except_", ())
        pairs = [({name: value for name, value in x.items() if name not in left_out}, y) for x, y in own]
        expected = progressive_scores(pairs, new_estimator(settings), settings.metrics.use)
        found += [
            Comparison(
                partition=partition,
                metric=name,
                streamed=streamed[name]["value"],
                read_back=from_predictions(settings, own, predictions, name),
                expected=expected[name],
            )
            for name in settings.metrics.use
        ]
    return found


def events_per_second(statuses: Sequence[Mapping[str, Any]]) -> float:
    """The worker's rate from its first event to its last, out of all its status records."""
    seconds = 0.0
    events = 0
    for status in statuses:
        if status["rate"]:
            seconds += (status["events"] - events) / status["rate"]
            events = status["events"]
    return events / seconds if seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What one detector made of drifts at known positions."""

    detector: str
    #: For each drift, events until the detector said so; None: not within the time allowed.
    delays: Sequence[int | None]
    #: Other alarms, because the error fell: the learner had learned, or learned again.
    recoveries: int
    #: All other alarms.
    false_alarms: int
    warnings: int


def judge(detector: str, alerts: Iterable[Mapping[str, Any]], drifts: Sequence[int], within: int) -> Judged:
    """Hold a detector's alerts against the true positions of the drifts.

    A drift is found by the first alarm in the `within` events from it on. Of the others, an alarm because the error
    fell is true as well, but not news of a drift; all the rest are false, a second one for the same drift too.
    """
    delays: list[int | None] = [None] * len(drifts)
    recoveries = false_alarms = warnings = 0
    for alert in sorted((a for a in alerts if a["detector"] == detector), key=lambda a: int(a["offset"])):
        if alert["kind"] == "warning":
            warnings += 1
            continue
        for i, drift in enumerate(drifts):
            if delays[i] is None and 0 <= alert["offset"] - drift < within:
                delays[i] = alert["offset"] - drift
                break
        else:
            if alert["mean_after"] < alert["mean_before"]:
                recoveries += 1
            else:
                false_alarms += 1
    return Judged(
        detector=detector, delays=delays, recoveries=recoveries, false_alarms=false_alarms, warnings=warnings
    )


# --- What is shown ---------------------------------------------------------------------------------------


def new_table(title: str, *columns: str) -> Table:
    """A table that fits 80 characters: words to the left, figures to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column, justify="left" if column in ("metric", "detector") else "right", no_wrap=True
        )
    return table


def figure(value: float | None) -> str:
    """All digits of a number."""
    return "-" if value is None else repr(value)


def short(value: float | None) -> str:
    """A number to look at."""
    return "-" if value is None else f"{value:.4f}"


def show_figures(console: Console, comparisons: Sequence[Comparison]) -> None:
    """Print the metrics beside River's own."""
    table = new_table(
        "Streamed through Kafka, and evaluated by River",
        "partition",
        "metric",
        "streamed",
        "progressive_val_score",
        "equal",
    )
    for item in comparisons:
        table.add_row(
            str(item.partition),
            item.metric,
            figure(item.streamed),
            figure(item.expected),
            "yes" if item.equal else "[bold red]NO[/]",
        )
    console.print(table)
    for item in comparisons:
        if item.read_back != item.streamed:
            console.print(
                f"Partition {item.partition}: {item.metric} from the predictions read back is {figure(item.read_back)}."
            )


def show_partitions(console: Console, settings: Settings, read: Read) -> None:
    """Print what each partition did, beside baselines that know nothing of the features."""
    first = settings.metrics.use[0]
    names = list(read.statuses[0][-1]["baselines"])
    table = new_table(
        "What the worker did",
        "partition",
        "events",
        "events/s",
        "drifts",
        first,
        *[name.replace("_", "-") for name in names],
    )
    losses = []
    for partition, statuses in enumerate(read.statuses):
        last = statuses[-1]
        drifts = sum(1 for a in read.alerts if a["partition"] == partition and a["kind"] == "drift")
        own = last["metrics"][first]["value"]
        others = [last["baselines"][name]["value"] for name in names]
        table.add_row(
            str(partition),
            f"{last['events']:,}",
            f"{events_per_second(statuses):,.0f}",
            str(drifts),
            short(own),
            *map(short, others),
        )
        for name, other in zip(names, others, strict=True):
            if own != other and (own < other) is METRICS[first].higher_is_better:
                losses.append(f"Partition {partition}: the learner loses to {name.replace('_', '-')}.")
    console.print(table)
    for loss in losses:
        console.print(loss)
    if losses:
        console.print()


def show_detectors(console: Console, judged: Sequence[Judged], drifts: Sequence[int]) -> None:
    """Print what each detector made of the drifts."""
    table = new_table(
        f"Drifts at {', '.join(f'{drift:,}' for drift in drifts)}: what the detectors said",
        "detector",
        "found",
        "delay in events",
        "recoveries",
        "false alarms",
        "warnings",
    )
    for item in judged:
        found = sum(delay is not None for delay in item.delays)
        table.add_row(
            item.detector,
            f"{found} of {len(drifts)}",
            ", ".join("-" if delay is None else str(delay) for delay in item.delays),
            str(item.recoveries),
            str(item.false_alarms),
            str(item.warnings),
        )
    console.print(table)
    console.print(
        f"Found: an alarm within {FOUND_WITHIN} events. Recovery: another alarm, because the error fell.\n"
        "False alarm: all the rest, a second one for the same drift too.\n"
        "All have River's own parameters and watch the same errors. Most of the time went to kswin.\n",
        style="dim",
    )


NEXT = """\
[bold]Try next[/]
  .venv/bin/python examples/demo.py --dataset images   or trump, or --all
  .venv/bin/python examples/demo.py --partitions 4     four learners
  .venv/bin/headrace --help                            your own data
  examples/own_learner/                                your own learner and settings"""


# --- The demo --------------------------------------------------------------------------------------------


def clean_environ() -> dict[str, str]:
    """The environment without settings of another pipeline."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}


def demo_settings(name: str, broker: Broker) -> Settings:
    """Settings from `examples/demo`, for the broker of the demo."""
    return load_settings(
        FOLDER / f"{name}.toml", {"HEADRACE_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers}
    )


def run_dataset(
    console: Console, settings: Settings, rows: Rows, partitions: int, logs: Path
) -> tuple[Read, bool]:
    """Stream rows, print the tables; whether all numbers are equal."""
    columns = (TextColumn("  {task.description:<17}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        read = stream_rows(settings, rows, partitions, logs, progress)
    comparisons = compare(settings, rows, read)
    show_figures(console, comparisons)
    show_partitions(console, settings, read)
    return read, all(item.equal for item in comparisons)


def run_demo(console: Console, datasets: Sequence[str], partitions: int, *, with_drifts: bool) -> bool:
    """Run all of it; whether all numbers are equal."""
    equal = True
    with tempfile.TemporaryDirectory(prefix="headrace-demo-") as folder:
        logs = Path(folder)
        console.print("Starting a Kafka broker (the first time it is downloaded) ...")
        with Broker(logs / "broker", port=0, heap_mb=384) as broker:
            console.print(f"Kafka runs on {broker.bootstrap_servers}.\n")
            for dataset in datasets:
                settings = demo_settings(dataset, broker)
                rows = real_rows(dataset)
                console.print(
                    f"[bold]{dataset}[/]: {len(rows):,} events that River ships, {settings.task}, "
                    f"{settings.learner.use}"
                )
                _, same = run_dataset(console, settings, rows, partitions, logs)
                equal = equal and same
            if with_drifts:
                settings = demo_settings("drifts", broker)
                rows = drifting_rows()
                console.print(
                    f"[bold]drifts[/]: {len(rows):,} synthetic events whose concept changes at known positions"
                )
                read, same = run_dataset(console, settings, rows, 1, logs)
                equal = equal and same
                drifts = [EVENTS_A_CONCEPT * i for i in range(1, len(CONCEPTS))]
                names = [watch.detector for watch in settings.drift]
                show_detectors(
                    console, [judge(name, read.alerts, drifts, FOUND_WITHIN) for name in names], drifts
                )
    return equal


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def main() -> int:
    """Read the options, run, and say how it ended."""
    parser = argparse.ArgumentParser(
        description="Real data through a real Kafka broker, held against River's own numbers."
    )
    parser.add_argument(
        "--dataset", choices=list(DATASETS), default="phishing", help="which real data (default: phishing)"
    )
    parser.add_argument("--all", action="store_true", help="all three data sets, one after the other")
    parser.add_argument(
        "--partitions", type=int, choices=range(1, 13), default=1, metavar="N", help="1 to 12 (default: 1)"
    )
    parser.add_argument("--no-drifts", action="store_true", help="leave out the data that drifts")
    options = parser.parse_args()

    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        # River adds up averages over classes in the order of a set: the last digit goes by the order of hashes.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": HASH_SEED})

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=TEXT_WIDTH)
    begin = time.monotonic()
    datasets = list(DATASETS) if options.all else [options.dataset]
    try:
        equal = run_demo(console, datasets, options.partitions, with_drifts=not options.no_drifts)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    except (DemoFailed, HeadraceError) as error:
        console.print(f"The demo failed: {error}", markup=False)
        return 1
    seconds = time.monotonic() - begin
    if not equal:
        console.print(f"[bold red]NOT EQUAL:[/] a streamed number is not River's. ({seconds:.0f} s)")
        return 1
    console.print(
        "[bold green]All numbers are equal[/], to the last digit: as streamed, from the predictions\n"
        f"that another Kafka client read back, and by progressive_val_score. ({seconds:.0f} s)\n"
    )
    console.print(NEXT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
