"""`make bench-clients`: the same small job with each client, and why the data plane is what it is.

All take turns, a round after the other; shown is the median of the rounds, and its share of the bare River loop in the
same round. Quix Streams gets an environment of its own, .venv-bench. Results go to BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.children import ROOT, ChildFailedError, run_child, running_child
from benchmarks.events import event_bytes
from benchmarks.latency import measure_latency
from benchmarks.pipelines import MeasuredPipeline
from benchmarks.results import FILE, circumstances, table, write_section
from benchmarks.topics import create_topics, delete_topics, fill
from stream.broker import Broker

PACKAGES = ("confluent-kafka", "aiokafka", "kafka-python", "faust-streaming", "river", "orjson")
MODEL = "benchmarks.models:logistic_regression"
RATE = 200
#: Quix Streams' own requirements differ from ours.
QUIX_FOLDER = ROOT / ".venv-bench"
QUIX_REQUIREMENTS = ("quixstreams==3.28.1", f"river=={version('river')}", f"orjson=={version('orjson')}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to do the job."""

    title: str
    #: What is promised when the process dies.
    delivery: str
    #: Module of the loop; empty for the bare loop and for Headrace, which are started otherwise.
    module: str = ""
    mode: str = ""
    #: Events in a run, as many as take some seconds.
    events: int
    python: str = sys.executable


BARE = "bare River loop, in memory, no JSON"
HEADRACE = "Headrace, `headrace run`"


def contenders(quix_python: str | None) -> list[Contender]:
    loops = "benchmarks.clients"
    found = [
        Contender(title=BARE, delivery="", events=60_000),
        Contender(title=HEADRACE, delivery="exactly once", events=60_000),
        Contender(
            title="confluent-kafka loop, commit every 200 ms",
            delivery="exactly once",
            module=f"{loops}.confluent_loop",
            mode="exactly_once",
            events=60_000,
        ),
        Contender(
            title="confluent-kafka loop, idempotent",
            delivery="at least once",
            module=f"{loops}.confluent_loop",
            events=60_000,
        ),
        Contender(
            title="aiokafka, getmany and send_batch",
            delivery="at least once",
            module=f"{loops}.aiokafka_loop",
            events=60_000,
        ),
        Contender(
            title="kafka-python loop",
            delivery="auto-commit",
            module=f"{loops}.kafka_python_loop",
            events=10_000,
        ),
        Contender(
            title="Faust agent, take(1000)",
            delivery="at least once",
            module=f"{loops}.faust_agent",
            mode="take",
            events=6_000,
        ),
        Contender(
            title="Faust agent, event by event",
            delivery="at least once",
            module=f"{loops}.faust_agent",
            events=6_000,
        ),
    ]
    if quix_python is not None:
        quix = Contender(
            title="Quix Streams",
            delivery="at least once",
            module=f"{loops}.quix_streams",
            events=30_000,
            python=quix_python,
        )
        found.insert(5, quix)
    return found


class Comparison:
    """One run of the command."""

    def __init__(self, servers: str, folder: Path, divisor: int) -> None:
        self._servers = servers
        self._folder = folder
        self._divisor = divisor
        self._filled: set[str] = set()
        self._runs = 0

    def events(self, count: int) -> str:
        """A topic with so many events."""
        topic = f"events-{count}"
        if topic not in self._filled:
            create_topics(self._servers, topic)
            fill(self._servers, topic, event_bytes(count))
            self._filled.add(topic)
        return topic

    def throughput(self, contender: Contender) -> dict[str, Any]:
        """One run over waiting events."""
        count = contender.events // self._divisor
        if contender.title == BARE:
            return run_child("benchmarks.bare", MODEL, count)
        events = self.events(count)
        self._runs += 1
        if contender.title == HEADRACE:
            pipeline = MeasuredPipeline(self._folder, f"clients-{self._runs}", self._servers, events, MODEL)
            try:
                return run_child("benchmarks.worker", str(pipeline.settings))
            finally:
                pipeline.close()
        predictions = f"predictions-{self._runs}"
        create_topics(self._servers, predictions)
        try:
            return run_child(
                contender.module,
                self._servers,
                events,
                predictions,
                count,
                contender.mode,
                python=contender.python,
            )
        finally:
            delete_topics(self._servers, predictions)

    def latency(self, contender: Contender, seconds: float, warm_up: float) -> dict[str, Any]:
        """From produce to a reader, at 200 events a second."""
        self._runs += 1
        events, predictions = f"live-{self._runs}", f"predictions-{self._runs}"
        create_topics(self._servers, events)
        child: AbstractContextManager[Callable[[], bool]]
        if contender.title == HEADRACE:
            pipeline = MeasuredPipeline(self._folder, f"clients-{self._runs}", self._servers, events, MODEL)
            predictions = pipeline.predictions
            child = running_child("stream.cli", "run", str(pipeline.settings))
        else:
            create_topics(self._servers, predictions)
            child = running_child(
                contender.module,
                self._servers,
                events,
                predictions,
                0,
                contender.mode,
                python=contender.python,
            )
        with child as is_alive:
            return measure_latency(
                self._servers, events, predictions, is_alive, rate=RATE, seconds=seconds, warm_up=warm_up
            )


def quix_python() -> str | None:
    """The interpreter of an environment with Quix Streams, made the first time; None if that can't be."""
    python = QUIX_FOLDER / "bin" / "python"
    marker = QUIX_FOLDER / ".ready"
    wanted = "\n".join(QUIX_REQUIREMENTS)
    if marker.exists() and marker.read_text() == wanted:
        return str(python)
    print("Installing Quix Streams into .venv-bench (once) ...", flush=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(QUIX_FOLDER)], check=True, capture_output=True)
        (QUIX_FOLDER / ".gitignore").write_text("*\n")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *QUIX_REQUIREMENTS], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"Quix Streams could not be installed, so it is left out: {error}", file=sys.stderr)
        return None
    marker.write_text(wanted)
    return str(python)


def results_table(
    found: Sequence[Contender],
    rounds: Sequence[dict[str, dict[str, Any]]],
    latencies: dict[str, dict[str, Any]],
) -> str:
    """A line for each contender; a dash where there is no figure."""
    rows = []
    for contender in found:
        title = contender.title
        mine = [(one[title], one[BARE]) for one in rounds if title in one and BARE in one]
        latency = latencies.get(title)
        if not mine:
            rows.append([title, contender.delivery, "failed", "", "", "", "", ""])
            continue
        rates = [(run["events"] / run["seconds"], bare["events"] / bare["seconds"]) for run, bare in mine]
        rows.append(
            [
                title,
                contender.delivery,
                f"{median(rate for rate, _ in rates):,.0f}",
                f"{median(rate / bare for rate, bare in rates):.2f}",
                f"{median(run['cpu_seconds'] / run['events'] * 1e6 for run, _ in mine):.1f}",
                f"{max(run['peak_rss_mib'] for run, _ in mine):.0f}",
                f"{latency['p50_ms']:.1f}" if latency else "",
                f"{latency['p99_ms']:.1f}" if latency else "",
            ]
        )
    heads = (
        "what", "delivery", "events/s", "share of bare", "CPU us/event", "peak RSS MiB",
        f"p50 ms at {RATE} events/s", "p99 ms",
    )  # fmt: skip
    return table(heads, rows)


def section(made: str, body: str, *, rounds: int, quick: bool, with_quix: bool) -> str:
    notes = []
    if quick:
        notes.append("**A quick run, to see that it works: these figures mean nothing.**")
    if not with_quix:
        notes.append("Quix Streams could not be installed on this machine, so it is missing.")
    return f"""\
## The same job with each client

{made}

{" ".join(notes)}

Scaler and logistic regression, accuracy and ADWIN on the error, 10 numeric features, JSON both ways, events waiting in
a topic of one partition; from the first event to the last flush or commit. Each loop is as its own documentation would
have it (`benchmarks/clients/`); only Headrace keeps snapshots of its state, takes bad records and reports. Median of
{rounds} rounds in which all take turns. Latency: from produce to a `read_committed` reader, one run each.

{body}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clients", description="Compare the clients.")
    parser.add_argument(
        "--quick", action="store_true", help="few events, one round: only to see that it works"
    )
    parser.add_argument("--output", type=Path, default=FILE, help="file with the results (BENCHMARKS.md)")
    chosen = parser.parse_args(arguments)
    many, divisor, seconds, warm_up = (1, 20, 2.0, 1.0) if chosen.quick else (2, 1, 10.0, 3.0)

    made = circumstances("make bench-clients", PACKAGES)
    python = quix_python()
    found = contenders(python)
    rounds: list[dict[str, dict[str, Any]]] = []
    latencies: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        with Broker(folder / "broker", port=0) as broker:
            comparison = Comparison(broker.bootstrap_servers, folder, divisor)
            for number in range(many):
                rounds.append({})
                for contender in found:
                    try:
                        run = rounds[-1][contender.title] = comparison.throughput(contender)
                    except ChildFailedError as error:
                        print(f"{contender.title}: {error}", file=sys.stderr)
                        continue
                    rate = run["events"] / run["seconds"]
                    print(f"round {number + 1}: {contender.title}: {rate:,.0f} events/s", flush=True)
            for contender in found[1:]:
                try:
                    latency = latencies[contender.title] = comparison.latency(contender, seconds, warm_up)
                except ChildFailedError as error:
                    print(f"{contender.title}: {error}", file=sys.stderr)
                    continue
                print(
                    f"{contender.title}: p50 {latency['p50_ms']:.1f}, p99 {latency['p99_ms']:.1f} ms",
                    flush=True,
                )
    body = results_table(found, rounds, latencies)
    print("\n" + body)
    text = section(made, body, rounds=many, quick=chosen.quick, with_quix=python is not None)
    write_section("make bench-clients", text, chosen.output)
    print(f"\nWritten to {chosen.output.name}.")


if __name__ == "__main__":
    main()
