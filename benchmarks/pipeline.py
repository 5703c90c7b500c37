"""`make bench`: what Headrace costs beside River, how long a prediction takes, and how long a dead worker is missed.

The bare River loop and one worker from Kafka to Kafka, exactly once, take turns on the same events (bare, Kafka,
bare, Kafka ...), each time in a process of its own. Ratios and differences are taken within a round, since a
machine that is busy is busy for both; what is shown is the median of the rounds. So it is with snapshots and without.
Results go to BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.children import run_child, running_child
from benchmarks.events import event_bytes
from benchmarks.latency import measure_latency
from benchmarks.meter import cpu_an_event, events_a_second
from benchmarks.pending import COUNT, measure_pending, pending_text, targets
from benchmarks.pipelines import MeasuredPipeline
from benchmarks.recovery import (
    LIMIT_SECONDS,
    RATE,
    REPLAY,
    SESSION_TIMEOUT_SECONDS,
    SETTINGS,
    Recovery,
    measure_recovery,
    recovery_p95,
    recovery_table,
)
from benchmarks.results import FILE, circumstances, spread, table, write_section
from benchmarks.snapshots import (
    DEFAULT,
    LEAST_SHARE,
    OFTEN,
    WITHOUT,
    Pair,
    require_comparable,
    snapshots_table,
)
from benchmarks.topics import create_topics, fill
from stream.broker import Broker

PACKAGES = ("confluent-kafka", "river", "orjson", "numpy")
#: What the README promises: our own CPU an event at most, and the aim, microseconds.
OWN_CPU_LIMIT, OWN_CPU_AIM = 10.0, 8.0
#: And what measuring may cost, microseconds of CPU an event.
MEASURING_LIMIT = 0.5
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
    #: Snapshots that a run must have for what they cost to be seen.
    least_snapshots: int = 1


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
#: Events enough for several snapshots in each run. A state that grows as long as it learns is never in the condition
#: that the share is promised for; a large one is there when its snapshots are half a minute apart and equally large.
SNAPSHOT_MODELS = (
    Model(title=MODELS[1].title, model=MODELS[1].model, events=300_000, rounds=5, least_snapshots=3),
    Model(
        title="adaptive random forest (10), depth 9",
        model="benchmarks.models:grown_forest",
        events=120_000,
        rounds=3,
        least_snapshots=2,
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
    kills: int = 20
    pending: int = COUNT


QUICK = Size(
    divisor=20, most_rounds=1, latency_seconds=2.0, warm_up_seconds=1.0, kills=2, pending=COUNT // 20
)


@dataclass(frozen=True, slots=True)
class Round:
    """One run of each, as the processes reported it."""

    bare: dict[str, Any]
    kafka: dict[str, Any]

    @property
    def ratio(self) -> float:
        return events_a_second(self.kafka) / events_a_second(self.bare)

    @property
    def own_cpu(self) -> float:
        return cpu_an_event(self.kafka) - cpu_an_event(self.bare)


@dataclass(slots=True)
class Results:
    """All that was measured; empty where it was not."""

    rounds: dict[str, list[Round]] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    latencies: dict[int, dict[str, Any]] = field(default_factory=dict)
    snapshots: dict[str, list[Pair]] = field(default_factory=dict)
    recoveries: Sequence[Recovery] = ()
    pending: dict[str, Any] = field(default_factory=dict)


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

    def _pipeline(self, events: str, model: str, more: str = "") -> MeasuredPipeline:
        self._pipelines += 1
        name = f"bench-{self._pipelines}"
        return MeasuredPipeline(self._folder, name, self._servers, events, model, more=more)

    def _worker(self, model: str, count: int, *options: str, more: str = "") -> dict[str, Any]:
        pipeline = self._pipeline(self._events(count), model, more)
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
                f"{model.title}, round {number + 1}: bare {events_a_second(found.bare):,.0f}, Kafka to Kafka "
                f"{events_a_second(found.kafka):,.0f} events/s, our own CPU {found.own_cpu:.1f} us an event",
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
        parts["relay"] = median(map(cpu_an_event, relays))
        parts["relay_thread"] = median(relay["thread_seconds"] / relay["events"] * 1e6 for relay in relays)
        parts["relay_rate"] = median(map(events_a_second, relays))
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

    def snapshots(self, model: Model) -> list[Pair]:
        """The rounds of one model, without snapshots and with them."""
        size = self._size
        count = model.events // size.divisor
        settings, least = (DEFAULT, model.least_snapshots) if size.divisor == 1 else (OFTEN, 1)
        self._events(count)
        pairs = []
        for number in range(min(model.rounds, size.most_rounds)):
            pair = Pair(
                self._worker(model.model, count, more=WITHOUT),
                self._worker(model.model, count, more=settings),
            )
            require_comparable(pair, count, least)
            print(
                f"{model.title}, round {number + 1}: without snapshots {events_a_second(pair.without):,.0f}, with "
                f"{len(pair.with_snapshots['snapshots'])} of them {events_a_second(pair.with_snapshots):,.0f} "
                f"events/s, share {pair.share:.3f}, load average {os.getloadavg()[0]:.1f}",
                flush=True,
            )
            pairs.append(pair)
        return pairs

    def recovery(self) -> Sequence[Recovery]:
        """Kill the worker of two that is at work, again and again."""
        events = "live-recovery"
        create_topics(self._servers, events)
        pipeline = self._pipeline(events, MODELS[1].model, SETTINGS)
        found = measure_recovery(self._servers, events, pipeline, kills=self._size.kills)
        pipeline.close()
        return found


def _require_same_work(found: Round, count: int) -> None:
    """Both must have done the same: as many events, and the same accuracy to the last digit."""
    if found.kafka["events"] != count or found.kafka["dead_letters"]:
        raise SystemExit(f"{count} events, but the worker had {found.kafka}")
    if found.kafka["accuracy"] != found.bare["accuracy"]:
        raise SystemExit(f"accuracy is {found.kafka['accuracy']} streamed, {found.bare['accuracy']} bare")


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
                f"{median(events_a_second(r.bare) for r in found):,.0f}",
                f"{median(events_a_second(r.kafka) for r in found):,.0f}",
                spread([r.ratio for r in found], 2),
                f"{median(cpu_an_event(r.bare) for r in found):.1f}",
                f"{median(cpu_an_event(r.kafka) for r in found):.1f}",
                spread([r.own_cpu for r in found], 1),
                f"{max(r.kafka['peak_rss_mib'] for r in found):.0f}",
                f"{median(r.kafka['commits'] for r in found):.0f}",
                f"{found[0].kafka['events']:,} x {len(found)}",
            ]
            for title, found in rounds.items()
        ],
    )


def parts_table(parts: dict[str, float], rounds: Sequence[Round]) -> str:
    """Where the microseconds go, for the logistic regression."""
    bare = median(cpu_an_event(r.bare) for r in rounds)
    rest = parts["process"] - parts["decode"]
    rows: list[tuple[str, float]] = [
        ("decode the event, in memory", parts["decode"]),
        ("the rest of the pipeline, in memory: River, metrics, drift, encoding, bookkeeping", rest),
        ("of that the bare River loop", bare),
        ("a worker without a model: librdkafka and the worker's loop", parts["relay"]),
        ("of that in the thread that runs Python", parts["relay_thread"]),
        ("of that the worker's measuring of itself, for `/metrics`", parts["measuring"]),
        ("pipeline in memory + worker without a model", parts["process"] + parts["relay"]),
        ("Kafka to Kafka, as measured", median(cpu_an_event(r.kafka) for r in rounds)),
    ]
    return table(
        ("part", "CPU us/event"), [[name, f"{value:.{1 if value >= 1 else 2}f}"] for name, value in rows]
    )


def targets_table(results: Results) -> str:
    """Each target of what was measured, and whether it was met."""
    rounds, latencies = results.rounds, results.latencies
    rows: list[list[str]] = []

    def judge(what: str, measured: float, limit: float, *, least: bool = False, unit: str = "") -> None:
        met = measured >= limit if least else measured <= limit
        bound = f"{'at least' if least else 'at most'} {limit:g}{unit}"
        rows.append(
            [what, bound, f"{measured:.{2 if least or limit < 1 else 1}f}{unit}", "met" if met else "short"]
        )

    for model in MODELS if rounds else ():
        found = rounds[model.title]
        if model.own_cpu_is_judged:
            own = median(r.own_cpu for r in found)
            judge(f"our own CPU, {model.title}", own, OWN_CPU_LIMIT, unit=" us/event")
            judge(f"our own CPU, {model.title} (aim)", own, OWN_CPU_AIM, unit=" us/event")
        if model.least_ratio is not None:
            ratio = median(r.ratio for r in found)
            judge(f"share of bare River's speed, {model.title}", ratio, model.least_ratio, least=True)
    if results.parts:
        judge(
            "measuring itself, for `/metrics`", results.parts["measuring"], MEASURING_LIMIT, unit=" us/event"
        )
    for model in MODELS[:2] if rounds else ():
        peak = max(r.kafka["peak_rss_mib"] for r in rounds[model.title])
        judge(f"peak memory, {model.title}", peak, RSS_LIMIT_MIB, unit=" MiB")
    for rate, p50, p99 in LATENCIES if latencies else ():
        judge(f"p50 at {rate:,} events/s", latencies[rate]["p50_ms"], p50, unit=" ms")
        judge(f"p99 at {rate:,} events/s", latencies[rate]["p99_ms"], p99, unit=" ms")
    for title, pairs in results.snapshots.items():
        share = median(pair.share for pair in pairs)
        judge(f"share of the speed without snapshots, {title}", share, LEAST_SHARE, least=True)
    if results.recoveries:
        judge("p95 of recovery after kill -9", recovery_p95(results.recoveries), LIMIT_SECONDS, unit=" s")
    for what, measured, limit, unit in targets(results.pending) if results.pending else ():
        judge(what, measured, limit, unit=unit)
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


def section(made: str, results: Results, size: Size) -> str:
    parts = results.parts
    quick = (
        "" if size.divisor == 1 else "\n\n**A quick run, to see that it works: these figures mean nothing.**"
    )
    return f"""\
## Headrace beside bare River

{made}{quick}

10 numeric features, two classes, accuracy and ADWIN on the error. Bare: one `predict_proba_one`, argmax, metric,
detector and `learn_one` for each event, already decoded and in memory. Kafka to Kafka: the same through one worker,
exactly once and with snapshots as by default, events waiting in the topic; from the first fetch to the end of the
last commit, CPU of all its threads.
Both take turns in processes of their own; ratios and differences are within a round, and shown are the median and
the range over the rounds. Both ended with the same accuracy, to the last digit.

{throughput_table(results.rounds)}

The adaptive random forest's own noise is larger than all that Headrace does; its difference is shown, not judged.

### Targets

{targets_table(results)}

### Latency

From produce to a `read_committed` reader, exactly once, `use = "logistic-regression"`; producer, worker, reader
and broker are four processes on the same machine. {size.latency_seconds:g} s each
after {size.warm_up_seconds:g} s of warm-up.

{latency_table(results.latencies)}

### Snapshots

{snapshots_text(results.snapshots, size)}

### Recovery

{recovery_text(results.recoveries)}

### Pending questions

{pending_text(results.pending)}

### Where the microseconds go ({MODELS[0].title})

The worker without a model (poll, send bytes of the same size, commit) did {parts["relay_rate"]:,.0f} events/s.

{parts_table(parts, results.rounds[MODELS[0].title])}
"""


def snapshots_text(snapshots: dict[str, list[Pair]], size: Size) -> str:
    intervals = "as often as by default" if size.divisor == 1 else "much more often than by default"
    return f"""\
The same worker on the same events, `[snapshots] enabled = false` and with snapshots, {intervals}, in a directory of
this machine. Both take turns; the share is that of the speed without snapshots, within a round. The worker stands
still while a small state is pickled, or a copy of the process is made that pickles a large one; the rest, until the
snapshot was written, read back and verified, is done beside it.
Shown are the median and the range, of the rounds and of all snapshots. Both ended with the same accuracy.

{snapshots_table(snapshots)}"""


def recovery_text(recoveries: Sequence[Recovery]) -> str:
    replayed = [recovery.replayed for recovery in recoveries]
    fenced = sum(recovery.fenced is not None for recovery in recoveries)
    return f"""\
From `kill -9` to the first new prediction that a `read_committed` reader sees. Two workers, `use =
"logistic-regression"`, one partition, {RATE} events/s, `session_timeout_ms = {SESSION_TIMEOUT_SECONDS * 1_000}`, all
else as by default. The one at work is killed and not started again, its peer takes over, another peer is started, and
so on: {len(recoveries)} kills, each with about {REPLAY:,} records to replay ({min(replayed):,} to {max(replayed):,}).
In {fenced} of them the dead worker left a transaction open. Each event was predicted once.

{recovery_table(recoveries)}"""


PARTS = ("throughput", "latency", "snapshots", "recovery", "pending")


def measure(size: Size, parts: Sequence[str]) -> Results:
    """Measure some or all."""
    results = Results()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        with Broker(folder / "broker", port=0) as broker:
            bench = Bench(broker.bootstrap_servers, folder, size)
            if "throughput" in parts:
                results.rounds = {model.title: bench.throughput(model) for model in MODELS}
                results.parts = bench.parts()
            if "latency" in parts:
                results.latencies = {rate: bench.latency(rate) for rate, _, _ in LATENCIES}
            if "snapshots" in parts:
                results.snapshots = {model.title: bench.snapshots(model) for model in SNAPSHOT_MODELS}
            if "recovery" in parts:
                results.recoveries = bench.recovery()
    if "pending" in parts:
        results.pending = measure_pending(size.pending)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pipeline", description="Measure the data plane."
    )
    parser.add_argument(
        "--quick", action="store_true", help="few events, one round: only to see that it works"
    )
    parser.add_argument("--output", type=Path, default=FILE, help="file with the results (BENCHMARKS.md)")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, metavar="PART", help=f"only print these: {', '.join(PARTS)}"
    )
    chosen = parser.parse_args(arguments)
    size = QUICK if chosen.quick else Size()
    made = circumstances("make bench", PACKAGES)
    results = measure(size, chosen.only or PARTS)
    print("\n" + targets_table(results))
    if chosen.only:
        if results.snapshots:
            print("\n" + snapshots_text(results.snapshots, size))
        if results.recoveries:
            print("\n" + recovery_text(results.recoveries))
        if results.pending:
            print("\n" + pending_text(results.pending))
        return
    write_section("make bench", section(made, results, size), chosen.output)
    print(f"\nWritten to {chosen.output.name}.")


if __name__ == "__main__":
    main()
