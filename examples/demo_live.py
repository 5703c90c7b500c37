"""The live demo, `make demo-live`: two pipelines whose data drifts again and again, and the dashboard, until Ctrl-C.

It starts a broker, makes the topics, starts a worker process for each pipeline and `headrace monitor`, and sends
events. Payments come as questions, most are answered some seconds later and some never, and what is fraud changes
about every minute. Sensors send labelled events over four partitions. A little garbage becomes dead letters.

With `--screenshots FOLDER` it waits for a few drifts, takes the pictures of the docs and ends.
"""

from __future__ import annotations

import argparse
import heapq
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import orjson
from kafka import KafkaProducer  # type: ignore[import-untyped]  # kafka-python ships no types

from stream.broker import Broker
from stream.errors import HeadraceError
from stream.settings import Settings, load_settings
from stream.settings.connection import kafka_python_config
from stream.tools.topics import create_topics

FOLDER: Final = Path(__file__).parent / "live"
#: The settings files of the pipelines, and how many partitions their events have.
PIPELINES: Final[Mapping[str, int]] = {"payments": 1, "activity": 4}
#: Seconds that a child gets to end by itself.
PATIENCE: Final = 20.0
#: Port of the dashboard, unless it is taken.
PORT: Final = 8800


class Sent(NamedTuple):
    """One record to send, and when."""

    at: float
    topic: str
    partition: int
    value: bytes


class Stopped(Exception):
    """Somebody wants the demo to end."""


# --- Data ------------------------------------------------------------------------------------------------


class Payments:
    """Questions and, later, most of their answers; what is fraud swaps at each period.

    Args:
        rate: Questions a second.
        period: Seconds until the concept changes.
        seed: Of all that is random.
    """

    def __init__(self, rate: float, period: float, seed: int = 1) -> None:
        self._rng = random.Random(seed)
        self._rate = rate
        self._period = period

    def records(self) -> Iterator[Sent]:
        """All records for ever, in the order of their time; 0 is the beginning."""
        waiting: list[tuple[float, int, bytes]] = []
        number = 0
        while True:
            at = number / self._rate
            while waiting and waiting[0][0] <= at:
                due, _, answer = heapq.heappop(waiting)
                yield Sent(due, "payments", 0, answer)
            number += 1
            event, fraud = self.payment(number, at)
            if self._rng.random() < 0.003:
                yield Sent(at, "payments", 0, self.garbage(number))
                continue
            if self._rng.random() < 0.3:  # the label is known at once
                yield Sent(at, "payments", 0, orjson.dumps(event | {"fraud": fraud}))
                continue
            yield Sent(at, "payments", 0, orjson.dumps(event))
            if self._rng.random() < 0.94:
                answer = orjson.dumps({"id": event["id"], "fraud": fraud})
                heapq.heappush(waiting, (at + self._rng.lognormvariate(0.7, 0.6), number, answer))

    def payment(self, number: int, at: float) -> tuple[dict[str, Any], bool]:
        """The features of a payment, and whether it is fraud."""
        phase = int(at / self._period)
        rng = self._rng
        amount = rng.lognormvariate(3.2 + (0.35 if phase % 4 == 3 else 0.0), 0.7)
        hour = rng.choices(range(24), [1 + 4 * math.exp(-(((h - 15) / 5) ** 2)) for h in range(24)])[0]
        country = rng.choices(("DE", "FR", "PL", "BR", "NG"), (40, 25, 15, 12, 8))[0]
        if phase % 2 == 0:
            score = 2.4 * (math.log(amount) - 3.2) + (1.3 if country in ("BR", "NG") else -0.3)
        else:
            score = -1.9 * (math.log(amount) - 3.2) + (1.6 if hour < 9 else -0.5)
        event = {"id": f"p{number}", "amount": round(amount, 2), "hour": hour, "country": country}
        return event, rng.random() < 1 / (1 + math.exp(-4 * score))

    def garbage(self, number: int) -> bytes:
        """What a producer with a mistake sends."""
        return self._rng.choice(
            (
                orjson.dumps({"id": f"p{number}", "amount": "n/a", "hour": [12], "country": "DE"}),
                b"amount=41.50;country=DE",
                orjson.dumps({"hello": "world"}),
            )
        )


class Activity:
    """Labelled events over four partitions; in one after the other a sensor is mounted another way.

    Args:
        rate: Events a second.
        period: Seconds until the next sensor changes.
        seed: Of all that is random.
    """

    NAMES: Final = ("lying", "sitting", "walking", "climbing", "running")

    def __init__(self, rate: float, period: float, seed: int = 2) -> None:
        self._rng = random.Random(seed)
        self._rate = rate
        self._period = period

    def records(self) -> Iterator[Sent]:
        """All records for ever, in the order of their time; 0 is the beginning."""
        rng = self._rng
        number = 0
        while True:
            at = number / self._rate
            partition = number % 4
            kind = min(4, int(rng.triangular(0, 5, 2)))
            turned = (int(at / self._period) + partition) % 4 == 3
            speed = max(0.0, rng.gauss((0.0, 0.1, 1.3, 0.8, 3.1)[kind], 0.35))
            pulse = rng.gauss((62, 68, 92, 118, 146)[kind], 9) + (25 if turned else 0)
            tilt = rng.gauss((1.4, 0.2, 0.1, 0.5, 0.2)[kind], 0.2) * (-1 if turned else 1)
            event = {
                "id": f"s{number}",
                "speed": round(speed, 3),
                "pulse": round(pulse, 1),
                "tilt": round(tilt, 3),
            }
            yield Sent(at, "sensors", partition, orjson.dumps(event | {"activity": self.NAMES[kind]}))
            number += 1


# --- Processes -------------------------------------------------------------------------------------------


@contextmanager
def child(*arguments: str, environ: Mapping[str, str], log: Path, shown: bool = False) -> Iterator[Any]:
    """A `headrace` process of its own session, so that Ctrl-C reaches us first; ended at the end of the block."""
    command = [sys.executable, "-P", "-m", "stream.cli", *arguments]
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if shown else file,
            stderr=file,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()


def free_port(wanted: int) -> int:
    """The wanted port, or 0, any, if it is taken."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", wanted))
        except OSError:
            return 0
    return wanted


def address_of(monitor: Any, log: Path) -> str:
    """The dashboard's address, as the monitor says it."""
    for line in iter(monitor.stdout.readline, b""):
        word, _, address = line.decode().strip().partition("Dashboard: ")
        if address and not word:
            return str(address)
    raise HeadraceError(f"the monitor ended early:\n{tail(log)}")


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def send(
    settings: Settings, children: Mapping[str, Any], logs: Path, rate: float, period: float
) -> Iterator[float]:
    """Send events as their time comes; yields the seconds since the beginning, often."""
    producer = KafkaProducer(**kafka_python_config(settings.kafka), linger_ms=20)
    records = heapq.merge(Payments(rate, period).records(), Activity(rate / 2, period).records())
    begun = time.monotonic()
    try:
        for record in records:
            while (left := record.at - (time.monotonic() - begun)) > 0:
                yield time.monotonic() - begun
                for name, process in children.items():
                    if process.poll() is not None:
                        raise HeadraceError(f"{name} ended early:\n{tail(logs / f'{name}.log')}")
                time.sleep(min(left, 0.05))
            producer.send(record.topic, record.value, partition=record.partition)
    finally:
        producer.close(timeout=5)


# --- The demo --------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """A line for whoever started it."""
    print(text, flush=True)


def run(options: argparse.Namespace) -> None:
    """Run all of it until Ctrl-C, or until the screenshots are taken."""
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-live-")))
        say("Starting a Kafka broker (the first time it is downloaded) ...")
        broker = stack.enter_context(Broker(logs / "broker", port=0, heap_mb=384))
        own = {
            "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "HEADRACE_SNAPSHOTS__LOCATION": str(logs / "snapshots"),
        }
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")
        } | own
        files = {name: os.path.relpath(FOLDER / f"{name}.toml") for name in PIPELINES}
        several: dict[str, Settings] = {}
        for name, partitions in PIPELINES.items():
            several[name] = load_settings(Path(files[name]), own)
            create_topics(several[name], partitions=partitions)
        children = {
            name: stack.enter_context(child("run", files[name], environ=environ, log=logs / f"{name}.log"))
            for name in PIPELINES
        }
        port = str(free_port(options.port))
        monitor = stack.enter_context(
            child(
                "monitor",
                *files.values(),
                "--port",
                port,
                environ=environ,
                log=logs / "monitor.log",
                shown=True,
            )
        )
        address = address_of(monitor, logs / "monitor.log")
        children["monitor"] = monitor
        say(
            f"Kafka runs on {broker.bootstrap_servers}, a worker runs for each of {', '.join(files.values())}."
        )
        say(f"The data drifts every {options.period:.0f} s.\n\nDashboard: {address}\n\nCtrl-C ends it.")
        ready = options.period * 3.6
        pictures: subprocess.Popen[bytes] | None = None
        for seconds in send(several["payments"], children, logs, options.rate, options.period):
            if options.screenshots is not None and pictures is None and seconds > ready:
                script = str(FOLDER.parent / "screenshots.py")
                pictures = stack.enter_context(
                    subprocess.Popen([sys.executable, script, address, str(options.screenshots)])
                )
            if pictures is not None and (code := pictures.poll()) is not None:
                if code:
                    raise HeadraceError("the screenshots could not be taken")
                return
            if options.seconds is not None and seconds > options.seconds:
                return


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options, run, end cleanly."""
    parser = argparse.ArgumentParser(
        description="Two pipelines whose data drifts, and the dashboard, until Ctrl-C."
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"port of the dashboard (default: {PORT})")
    parser.add_argument("--rate", type=float, default=200.0, help="payments a second (default: 200)")
    parser.add_argument("--period", type=float, default=75.0, help="seconds between drifts (default: 75)")
    parser.add_argument("--seconds", type=float, help="end by itself after so many seconds")
    parser.add_argument(
        "--screenshots", type=Path, metavar="FOLDER", help="take the pictures of the docs, and end"
    )
    options = parser.parse_args(arguments)

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough: the rest is ending the processes
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        run(options)
    except Stopped:
        say("\nStopped.")
    except HeadraceError as error:
        say(f"The demo failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
