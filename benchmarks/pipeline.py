"""`make bench`: what Headrace costs beside River, and how long a prediction takes.

The bare River loop and one worker from Kafka to Kafka, exactly once, take turns on the same events (bare, Kafka,
bare, Kafka ...), each time in a process of its own. Ratios and differences are taken within a round, since a
machine that is busy is busy for both; what is shown is the median of the rounds. Results go to BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.children import run_child, running_child
from benchmarks.events import event_bytes
from benchmarks.latency import measure_latency
from benchmarks.pipelines import MeasuredPipeline
from benchmarks.results import FILE, circumstances, table, write_section
from benchmarks.topics import create_topics, fill
from stream.broker import Broker

PACKAGES = ("confluent-kafka", "river", "orjson", "numpy")
#: What the README promises: our own CPU an event at most, and the aim, microseconds.
OWN_CPU_LIMIT, OWN_CPU_AIM = 10.0, 8.0
RSS_LIMIT_MIB = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model to measure."""

    #: As the table has it.
    title: str
    #: `package.module:function`, or a learner's name.
    model: str
    #: Events in a run, and rounds; few events for a slow model.
    events: int
    rounds: int
    #: Least share of bare River's speed, or None.
    least_ratio: float | None = None
    #: Whether the promise on our own CPU is judged: a slow model's own noise is larger than all we do.
    own_cpu_is_judged: bool = True


MODELS = (
    Model(
        title="scaler, logistic regression",
        model="benchmarks.models:logistic_regression",
        events=100_000,
        rounds=5,
        least_ratio=0.65,
    ),
    Model(title='`use = "logistic-regression"`', model="logistic-regression", events=100_000, rounds=3),
    Model(
        title="Hoeffding tree",
        model="benchmarks.models:hoeffding_tree",
        events=30_000,
        rounds=3,
        least_ratio=0.85,
    ),
    Model(
        title="adaptive random forest (10)",
        model="benchmarks.models:random_forest",
        events=5_000,
        rounds=3,
        own_cpu_is_judged=False,
    ),
)
#: Events a second, then p50 and p99 to reach, milliseconds.
LATENCIES = ((200, 15.0, 60.0), (2_000, 25.0, 80.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    #: Each model's events are divided by this.
    divisor: int = 1
    most_rounds: int = 5
    latency_seconds: float = 25.0
    warm_up_seconds: float = 4.0


@dataclass(frozen=True, slots=True)
class Round:
    """One run of each, as the processes reported it."""

    bare: dict[str, Any]
    kafka: dict[str, Any]

    @property
    def ratio(self) -> float:
        return float(_rate(self.kafka) / _rate(self.bare))

    @property
    def own_cpu(self) -> float:
        return _cpu(self.kafka) - _cpu(self.bare)


def _rate(report: dict[str, Any]) -> float:
    """Events a second."""
    return float(report["events"] / report["seconds"])


def _cpu(report: dict[str, Any]) -> float:
    """Microseconds of CPU an event."""
    return float(report["cpu_seconds"] / report["events"] * 1e6)


class Bench:
    """One run of the command: a broker, events in it, and pipelines with names that no other has."""

    def __init__(self, servers: str, folder: Path, size: Size) -> None:
        self._servers = servers
        self._folder = folder
        self._size = size
        self._filled: set[str] = set()
        self._pipelines = 0

    def _events(self, count: int) -> str:
        """A topic with so many events."""
        topic = f"events-{count}"
        if topic not in self._filled:
            create_topics(self._servers, topic)
            fill(self._servers, topic, event_bytes(count))
            self._filled.add(topic)
        return topic

    def _pipeline(self, events: str, model: str) -> MeasuredPipeline:
        self._pipelines += 1
        return MeasuredPipeline(self._folder, f"bench-{self._pipelines}", self._servers, events, model)

    def _worker(self, model: str, count: int, *options: str) -> dict[str, Any]:
        pipeline = self._pipeline(self._events(count), model)
        try:
            return run_child("benchmarks.worker", str(pipeline.settings), *options)
        finally:
            pipeline.close()

    def throughput(self, model: Model) -> list[Round]:
        """The rounds of one model."""
        count = model.events // self._size.divisor
        self._events(count)
        rounds = []
        for number in range(min(model.rounds, self._size.most_rounds)):
            found = Round(run_child("benchmarks.bare", model.model, count), self._worker(model.model, count))
            _require_same_work(found, count)
            print(
                f"{model.title}, round {number + 1}: bare {_rate(found.bare):,.0f}, Kafka to Kafka "
                f"{_rate(found.kafka):,.0f} events/s, our own CPU {found.own_cpu:.1f} us an event",
                flush=True,
            )
            rounds.append(found)
        return rounds

    def parts(self) -> dict[str, float]:
        """Where the microseconds of the logistic regression go."""
        model, count = MODELS[0].model, MODELS[0].events // self._size.divisor
        pipeline = self._pipeline(self._events(count), model)
        try:
            parts: dict[str, float] = run_child(
                "benchmarks.parts", str(pipeline.settings), max(1000, count // 3)
            )
        finally:
            pipeline.close()
        runs = min(3, self._size.most_rounds)
        relays = [self._worker(model, count, "--relay") for _ in range(runs)]
        parts["relay"] = median(map(_cpu, relays))
        parts["relay_thread"] = median(relay["thread_seconds"] / relay["events"] * 1e6 for relay in relays)
        parts["relay_rate"] = median(map(_rate, relays))
        return parts

    def latency(self, rate: int) -> dict[str, Any]:
        """From produce to a `read_committed` reader, through `headrace run`."""
        events = f"live-{rate}"
        create_topics(self._servers, events)
        pipeline = self._pipeline(events, MODELS[1].model)
        size = self._size
        with running_child("stream.cli", "run", str(pipeline.settings)) as is_alive:
            found = measure_latency(
                self._servers,
                events,
                pipeline.predictions,
                is_alive,
                rate=rate,
                seconds=size.latency_seconds,
                warm_up=size.warm_up_seconds,
            )
        if not found["predictions"] == found["distinct"] == found["expected"]:
            raise SystemExit(f"{found['expected']} events, but {found['predictions']} predictions")
        print(
            f"latency at {rate} events/s: p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms",
            flush=True,
        )
        pipeline.close()
        return found


def _require_same_work(found: Round, count: int) -> None:
    """Both must have done the same: as many events, and the same accuracy to the last digit."""
    if found.kafka["events"] != count or found.kafka["dead_letters"]:
        raise SystemExit(f"{count} events, but the worker had {found.kafka}")
    if found.kafka["accuracy"] != found.bare["accuracy"]:
        raise SystemExit(f"accuracy is {found.kafka['accuracy']} streamed, {found.bare['accuracy']} bare")


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def throughput_table(rounds: dict[str, list[Round]]) -> str:
    """One line for each model."""
    heads = (
        "model", "bare events/s", "Kafka to Kafka events/s", "ratio", "bare CPU us/event", "Kafka CPU us/event",
        "our own CPU us/event", "peak RSS MiB", "commits", "events x rounds",
    )  # fmt: skip
    return table(
        heads,
        [
            [
                title,
                f"{median(_rate(r.bare) for r in found):,.0f}",
                f"{median(_rate(r.kafka) for r in found):,.0f}",
                _spread([r.ratio for r in found], 2),
                f"{median(_cpu(r.bare) for r in found):.1f}",
                f"{median(_cpu(r.kafka) for r in found):.1f}",
                _spread([r.own_cpu for r in found], 1),
                f"{max(r.kafka['peak_rss_mib'] for r in found):.0f}",
                f"{median(r.kafka['commits'] for r in found):.0f}",
                f"{found[0].kafka['events']:,} x {len(found)}",
            ]
            for title, found in rounds.items()
        ],
    )


def parts_table(parts: dict[str, float], rounds: Sequence[Round]) -> str:
    """Where the microseconds go, for the logistic regression."""
    bare = median(_cpu(r.bare) for r in rounds)
    rest = parts["process"] - parts["decode"]
    rows = [
        ["decode the event, in memory", parts["decode"]],
        ["the rest of the pipeline, in memory: River, metrics, drift, encoding, bookkeeping", rest],
        ["of that the bare River loop", bare],
        ["a worker without a model: librdkafka and the worker's loop", parts["relay"]],
        ["of that in the thread that runs Python", parts["relay_thread"]],
        ["pipeline in memory + worker without a model", parts["process"] + parts["relay"]],
        ["Kafka to Kafka, as measured", median(_cpu(r.kafka) for r in rounds)],
    ]
    return table(("part", "CPU us/event"), [[str(name), f"{value:.1f}"] for name, value in rows])


def targets_table(rounds: dict[str, list[Round]], latencies: dict[int, dict[str, Any]]) -> str:
    """Each target, what was measured, and whether it was met."""
    rows: list[list[str]] = []

    def judge(what: str, measured: float, limit: float, *, least: bool = False, unit: str = "") -> None:
        met = measured >= limit if least else measured <= limit
        bound = f"{'at least' if least else 'at most'} {limit:g}{unit}"
        rows.append([what, bound, f"{measured:.{2 if least else 1}f}{unit}", "met" if met else "short"])

    for model in MODELS:
        found = rounds[model.title]
        if model.own_cpu_is_judged:
            own = median(r.own_cpu for r in found)
            judge(f"our own CPU, {model.title}", own, OWN_CPU_LIMIT, unit=" us/event")
            judge(f"our own CPU, {model.title} (aim)", own, OWN_CPU_AIM, unit=" us/event")
        if model.least_ratio is not None:
            ratio = median(r.ratio for r in found)
            judge(f"share of bare River's speed, {model.title}", ratio, model.least_ratio, least=True)
    for model in MODELS[:2]:
        peak = max(r.kafka["peak_rss_mib"] for r in rounds[model.title])
        judge(f"peak memory, {model.title}", peak, RSS_LIMIT_MIB, unit=" MiB")
    for rate, p50, p99 in LATENCIES:
        judge(f"p50 at {rate:,} events/s", latencies[rate]["p50_ms"], p50, unit=" ms")
        judge(f"p99 at {rate:,} events/s", latencies[rate]["p99_ms"], p99, unit=" ms")
    return table(("target", "to reach", "measured", ""), rows)


def latency_table(latencies: dict[int, dict[str, Any]]) -> str:
    return table(
        ("events/s asked", "events/s produced", "p50 ms", "p99 ms", "largest ms", "predictions"),
        [
            [
                f"{rate:,}",
                f"{found['rate']:,.0f}",
                f"{found['p50_ms']:.1f}",
                f"{found['p99_ms']:.1f}",
                f"{found['max_ms']:.1f}",
                f"{found['predictions']:,}",
            ]
            for rate, found in latencies.items()
        ],
    )


def section(
    made: str,
    rounds: dict[str, list[Round]],
    parts: dict[str, float],
    latencies: dict[int, dict[str, Any]],
    size: Size,
) -> str:
    quick = (
        "" if size.divisor == 1 else "\n\n**A quick run, to see that it works: these figures mean nothing.**"
    )
    return f"""\
## Headrace beside bare River

{made}{quick}

10 numeric features, two classes, accuracy and ADWIN on the error. Bare: one `predict_proba_one`, argmax, metric,
detector and `learn_one` for each event, already decoded and in memory. Kafka to Kafka: the same through one worker,
exactly once, events waiting in the topic; from the first fetch to the end of the last commit, CPU of all its threads.
Both take turns in processes of their own; ratios and differences are within a round, and shown are the median and
the range over the rounds. Both ended with the same accuracy, to the last digit.

{throughput_table(rounds)}

The adaptive random forest's own noise is larger than all that Headrace does; its difference is shown, not judged.

### Targets

{targets_table(rounds, latencies)}

### Latency

From produce to a `read_committed` reader, exactly once, `use = "logistic-regression"`; producer, worker, reader
and broker are four processes on the same machine. {size.latency_seconds:g} s each
after {size.warm_up_seconds:g} s of warm-up.

{latency_table(latencies)}

### Where the microseconds go ({MODELS[0].title})

The worker without a model (poll, send bytes of the same size, commit) did {parts["relay_rate"]:,.0f} events/s.

{parts_table(parts, rounds[MODELS[0].title])}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pipeline", description="Measure the data plane."
    )
    parser.add_argument(
        "--quick", action="store_true", help="few events, one round: only to see that it works"
    )
    parser.add_argument("--output", type=Path, default=FILE, help="file with the results (BENCHMARKS.md)")
    chosen = parser.parse_args(arguments)
    size = Size()
    if chosen.quick:
        size = Size(divisor=20, most_rounds=1, latency_seconds=2.0, warm_up_seconds=1.0)
    made = circumstances("make bench", PACKAGES)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        with Broker(folder / "broker", port=0) as broker:
            bench = Bench(broker.bootstrap_servers, folder, size)
            rounds = {model.title: bench.throughput(model) for model in MODELS}
            parts = bench.parts()
            latencies = {rate: bench.latency(rate) for rate, _, _ in LATENCIES}
    print("\n" + targets_table(rounds, latencies))
    write_section("make bench", section(made, rounds, parts, latencies, size), chosen.output)
    print(f"\nWritten to {chosen.output.name}.")


if __name__ == "__main__":
    main()
