"""Pipelines on a real broker: real worker processes, and what they wrote read back by another client.

`KafkaCase` is one pipeline with its topics. Its workers are processes of `headrace run`; its topics are written and
read by kafka-python, so what is read back does not rest on the client that wrote it. The oracle is the fold: the
pipeline object in memory, fed with the records of each partition in offset order.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson
import psutil  # type: ignore[import-untyped]  # its types come in a package of their own
from kafka import (  # type: ignore[import-untyped]  # kafka-python ships no types
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    TopicPartition,
)
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from stream.build import new_pipeline
from stream.records import Record
from stream.settings import Settings, load_settings
from tests.forks import HASH_SEED, Fork, can_fork

ROOT = Path(__file__).parent.parent
#: Seconds that any wait for a state may take on a slow machine.
PATIENCE = 300.0
#: A process that is woken later than this, in seconds, was not waiting for its turn: the machine stood still.
STALL = 0.5

PYTHON_MODULE = (sys.executable, "-P", "-m", "stream.cli")

Headers = Sequence[tuple[str, bytes | None]]


class Written(NamedTuple):
    """One record as kafka-python reads it back."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def json(self) -> dict[str, Any]:
        body: dict[str, Any] = orjson.loads(self.value or b"null")
        return body

    @property
    def is_incident(self) -> bool:
        """Whether it is an alert that is no function of the log: something happened to a worker."""
        return self.json.get("kind") == "incident"

    @property
    def content(self) -> tuple[int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]:
        """All but the offset: what must be equal between two runs."""
        return self.timestamp, self.key, self.value, self.headers


class Incoming(NamedTuple):
    """One record to write into `<events>`."""

    partition: int
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    timestamp: int | None = None


def wait_until(
    condition: Callable[[], object], what: str, seconds: float = PATIENCE, pause: float = 0.05
) -> None:
    """Wait for a state; says which one never came. A pause in which the machine stalled does not count."""
    deadline = time.monotonic() + seconds
    while not condition():
        before = time.monotonic()
        assert before < deadline, f"after {seconds:.0f} s still waiting until {what}"
        time.sleep(pause)
        if (late := time.monotonic() - before - pause) > STALL:
            deadline += late


def toml(sections: Mapping[str, Any]) -> str:
    """Settings as TOML: top-level values, then a table for each mapping, several for a list of mappings."""

    def inline(value: object) -> str:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{json.dumps(k)} = {inline(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(inline(item) for item in value) + "]"
        return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)

    plain = [
        f"{name} = {inline(value)}" for name, value in sections.items() if not isinstance(value, Mapping)
    ]
    tables = [
        f"[{name}]\n" + "\n".join(f"{json.dumps(key)} = {inline(item)}" for key, item in value.items())
        for name, value in sections.items()
        if isinstance(value, Mapping)
    ]
    return "\n".join([*plain, *tables]) + "\n"


def logged(text: str, event: str) -> list[dict[str, Any]]:
    """Log lines with this event; a last one that is only half there, since it is being written, is none yet."""
    whole = text[: text.rfind("\n") + 1]
    lines = [json.loads(line) for line in whole.split("\n") if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def children(pid: int, word: str = "") -> list[psutil.Process]:
    """The children of a process that live, and whose command line has this word."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends just now, or has not yet been waited for
            if child.status() != psutil.STATUS_ZOMBIE and (not word or word in child.cmdline()):
                found.append(child)
    return found


class WorkerProcess:
    """One process of `headrace run`, with its standard error in a file.

    Args:
        settings_file: Of its pipeline.
        options: Of the command.
        hash_seed: Python's.
        program: The module to run in the place of `headrace` itself.
        from_nothing: It imports all that it needs; otherwise it may begin as a copy of a process that has, see
            `tests.forks`.
        environ: Environment variables.
    """

    def __init__(
        self,
        settings_file: Path,
        *options: str,
        hash_seed: str = HASH_SEED,
        program: str = "stream.cli",
        from_nothing: bool = False,
        **environ: str,
    ) -> None:
        self.stderr_file = settings_file.with_name(f"{settings_file.stem}-{time.monotonic_ns()}.stderr")
        words = ["run", str(settings_file), *options]
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, **environ}
        self.process: Fork | subprocess.Popen[bytes]
        with self.stderr_file.open("wb") as stderr:
            if can_fork(program, env) and not from_nothing:
                self.process = Fork(program, words, stderr=stderr, environ=env, cwd=ROOT)
            else:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", program, *words],
                    stderr=stderr,
                    stdout=subprocess.DEVNULL,
                    cwd=ROOT,
                    env=env,
                    start_new_session=True,  # so that its children, if any, can be ended with it
                )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text(errors="replace")

    @property
    def said(self) -> str:
        """Standard error without the log lines (JSON): the sentence for the operator."""
        return "\n".join(line for line in self.stderr.splitlines() if not line.startswith("{"))

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Log lines with this event."""
        return logged(self.stderr, event)

    def is_running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code, once it has ended by itself."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not end within {seconds:.0f} s:\n{self.stderr}") from None

    def stop(self, seconds: float = PATIENCE) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, to it and to its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ends_well(self, seconds: float = PATIENCE) -> None:
        """It ends by itself with exit code 0."""
        assert self.wait(seconds) == 0, self.stderr


class KafkaCase:
    """One pipeline on a real broker; leaving the `with` block ends its workers.

    Args:
        servers: Where the broker is.
        folder: Where the settings file goes.
        name: The pipeline's name; no other test uses it.
        partitions: Of `<events>` and all outputs; 0 makes no topics.
        sections: Of the settings; `task` is "binary" and the learner a logistic regression if not given.
        client: Further arguments for kafka-python's clients.
    """

    def __init__(
        self,
        servers: str,
        folder: Path,
        name: str,
        *,
        partitions: int = 1,
        client: Mapping[str, Any] | None = None,
        **sections: Any,
    ) -> None:
        self.servers = servers
        self.name = name
        self.partitions = partitions
        self.settings_file = folder / f"{name}.toml"
        self._client = dict(client or {"bootstrap_servers": servers})
        self._sections: dict[str, Any] = {
            "name": name,
            "task": "binary",
            "kafka": {"bootstrap_servers": servers},
            "topics": {"events": f"{name}.events"},
            "learner": {"use": "logistic-regression"},
            "worker": {},
            "health": {"port": 0},
        }
        self.workers: list[WorkerProcess] = []
        self._reader: Any = None
        self._seen = 0
        self._remembered: dict[int, list[Written]] = {}
        self.settings: Settings
        self.change(**sections)
        if partitions:
            self.create_topics()

    def change(self, **sections: Any) -> None:
        """Write the settings file again with other sections."""
        self._sections |= sections
        worker = {"session_timeout_ms": 6_000, "status_interval_seconds": 0.5, "instance": "test"}
        self.settings_file.write_text(
            toml(self._sections | {"worker": worker | self._sections["worker"]}), encoding="utf-8"
        )
        self.settings = load_settings(self.settings_file, environ={})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.close()
        for worker in self.workers:
            if worker.is_running():
                worker.signal(signal.SIGCONT)
            worker.kill()
            if error is not None:
                sys.stdout.write(f"--- {worker.stderr_file.name} ({worker.pid}):\n{worker.stderr[-4_000:]}\n")

    # Topics -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def admin(self) -> Iterator[Any]:
        """kafka-python's admin client."""
        admin = KafkaAdminClient(**self._client)
        try:
            yield admin
        finally:
            admin.close()

    def topic(self, kind: str) -> str:
        """The topic's name: events, predictions, alerts, dead_letters, status, outcomes."""
        name: str = getattr(self.settings.topics, kind)
        return name

    def create_topics(self, *, but: Iterable[str] = (), **partitions: int) -> None:
        """Make all topics; `partitions` for those that are to differ."""
        kinds = ["events", "predictions", "alerts", "dead_letters", "status"]
        if self.settings.topics.outcomes is not None:
            kinds.append("outcomes")
        topics = {
            self.topic(kind): {
                "num_partitions": partitions.get(kind, self.partitions),
                "replication_factor": 1,
                "configs": {"max.message.bytes": "100000000"} if kind == "dead_letters" else {},
            }
            for kind in kinds
            if kind not in but
        }
        with self.admin() as admin:
            admin.create_topics(topics, wait_for_metadata=True)

    def send(self, records: Iterable[Incoming], **producer: Any) -> None:
        """Write records into `<events>` and wait until the broker has them all."""
        client = self.producer(**producer)
        try:
            sent = [self.hand_over(client, record) for record in records]
            client.flush()
            for future in sent:
                future.get(timeout=60)
        finally:
            client.close()

    def producer(self, **arguments: Any) -> Any:
        """kafka-python's producer."""
        return KafkaProducer(**self._client, **arguments)

    def hand_over(self, client: Any, record: Incoming) -> Any:
        """Give one record to a producer; returns the future of its delivery."""
        return client.send(
            self.topic("events"),
            value=record.value,
            key=record.key,
            headers=list(record.headers),
            partition=record.partition,
            timestamp_ms=record.timestamp,
        )

    def read(self, kind: str, isolation: str = "read_committed") -> dict[int, list[Written]]:
        """All records of a topic, by partition."""
        consumer = KafkaConsumer(
            **self._client,
            isolation_level=isolation,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_partition_fetch_bytes=16 * 1024 * 1024,
            fetch_max_wait_ms=50,
        )
        try:
            topic = self.topic(kind)
            places = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
            consumer.assign(places)
            first, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
            for place in places:
                consumer.seek(place, first[place])
            found: dict[int, list[Written]] = {place.partition: [] for place in places}
            deadline = time.monotonic() + PATIENCE
            while any(consumer.position(place) < ends[place] for place in places):
                assert time.monotonic() < deadline, f"{topic} can't be read to its end {ends}"
                for place, records in consumer.poll(timeout_ms=200).items():
                    found[place.partition] += [
                        Written(r.offset, r.timestamp, r.key, r.value, tuple(map(tuple, r.headers)))
                        for r in records
                        if r.offset < ends[place]
                    ]
            return found
        finally:
            consumer.close()

    def count(self, kind: str) -> int:
        """How many records a `read_committed` reader sees."""
        return sum(map(len, self.read(kind).values()))

    def ends(self, kind: str, isolation: str = "read_committed") -> dict[int, int]:
        """The end of each partition, control records counted."""
        consumer = KafkaConsumer(**self._client, isolation_level=isolation)
        try:
            topic = self.topic(kind)
            places = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
            return {place.partition: end for place, end in consumer.end_offsets(places).items()}
        finally:
            consumer.close()

    def committed(self) -> dict[int, int]:
        """The group's next offsets."""
        with self.admin() as admin:
            found = admin.list_group_offsets({self.name: None})[self.name]
        return {place.partition: int(where.offset) for place, where in found.items()}

    def events(self) -> dict[int, list[Written]]:
        """All of `<events>`, with what was remembered and has been deleted since."""
        found = self.read("events")
        return {
            partition: [
                *(
                    old
                    for old in self._remembered.get(partition, ())
                    if not new or old.offset < new[0].offset
                ),
                *new,
            ]
            for partition, new in found.items()
        }

    def remember_events(self) -> None:
        """Before a test deletes some of them: the right answer follows from all."""
        self._remembered = self.events()

    def incidents(self) -> list[dict[str, Any]]:
        """What workers told people on the alerts topic, in order for each partition."""
        alerts = self.read("alerts").values()
        return [alert.json for records in alerts for alert in records if alert.is_incident]

    def statuses(self) -> dict[int, dict[str, Any]]:
        """The last status of each partition."""
        return {p: records[-1].json for p, records in self.read("status").items() if records}

    # Workers ----------------------------------------------------------------------------------------------------

    def start(self, *options: str, from_nothing: bool = False, **arguments: str) -> WorkerProcess:
        """Another worker process; the arguments are those of `WorkerProcess`."""
        worker = WorkerProcess(self.settings_file, *options, from_nothing=from_nothing, **arguments)
        self.workers.append(worker)
        return worker

    def run_to_end(self, *options: str, from_nothing: bool = False, **arguments: str) -> WorkerProcess:
        """A worker that stops at the end, once it has."""
        worker = self.start("--stop-at-end", *options, from_nothing=from_nothing, **arguments)
        worker.ends_well()
        return worker

    def predicted(self) -> int:
        """How many predictions a `read_committed` reader has seen so far; quick to ask again and again."""
        if self._reader is None:
            self._reader = KafkaConsumer(
                **self._client,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                fetch_max_wait_ms=50,
            )
            topic = self.topic("predictions")
            self._reader.assign([TopicPartition(topic, p) for p in range(self.partitions)])
        deadline = time.monotonic() + 0.5  # under a stream there is always more
        while time.monotonic() < deadline and (records := self._reader.poll(timeout_ms=100)):
            self._seen += sum(map(len, records.values()))
        return self._seen

    def wait_for_predictions(self, count: int, *workers: WorkerProcess) -> None:
        """Until a `read_committed` reader sees so many; fails at once if one of these workers has ended."""

        def there() -> bool:
            for worker in workers:
                assert worker.is_running(), f"a worker ended early:\n{worker.stderr}"
            return self.predicted() >= count

        wait_until(there, f"{count} predictions are committed, not {self._seen}")

    def wait_for_more(self, count: int, *workers: WorkerProcess) -> int:
        """Until so many more predictions are committed than now; returns how many there are now."""
        found: list[int] = []

        def counted() -> bool:  # not what one quick look has found
            with contextlib.suppress(KafkaError):  # a broker that comes back has no answer yet
                found.append(self.count("predictions"))
            return bool(found)

        wait_until(counted, "predictions can be counted")
        self.wait_for_predictions(found[0] + count, *workers)
        return found[0]

    # The right answer -------------------------------------------------------------------------------------------

    def fold(self) -> dict[int, dict[str, list[Any]]]:
        """What an uninterrupted run writes, by partition and topic: the pipeline in memory, fed with `<events>`."""
        written: dict[int, dict[str, list[Any]]] = {}
        for partition, records in self.events().items():
            pipeline = new_pipeline(self.settings)
            outputs: dict[str, list[Any]] = {}
            for r in records:
                for output in pipeline.process(
                    Record(partition, r.offset, r.timestamp, r.key, r.value, r.headers or None)
                ):
                    outputs.setdefault(output.to, []).append(
                        (r.timestamp, output.key, output.value, tuple(output.headers or ()))
                    )
            written[partition] = outputs
        return written

    def assert_exactly_once(
        self, kinds: Sequence[str] = ("predictions", "alerts", "dead_letters"), *, why: str = ""
    ) -> int:
        """Each output of the fold is there once, in order and with its bytes; returns how many predictions.

        Where each event is one with features the positions of predictions are those of the events: checked first
        and on their own, since that needs no code of ours. Incidents among the alerts are left out.
        """
        expected = self.fold()
        events = self.events()
        for kind in kinds:
            found = self.read(kind)
            for partition, written in found.items():
                records = [r for r in written if not (kind == "alerts" and r.is_incident)]
                wanted = expected[partition].get(kind, [])
                if kind == "predictions":
                    places = [record.json["offset"] for record in records]
                    twice = [offset for offset, times in Counter(places).items() if times > 1]
                    assert not twice, f"{kind}[{partition}]: predicted more than once: {twice[:10]} {why}"
                    if len(wanted) == len(events[partition]):
                        offsets = [event.offset for event in events[partition]]
                        lacking = sorted({*offsets} - {*places})
                        assert not lacking, f"{kind}[{partition}]: never predicted: {lacking[:10]} {why}"
                        assert places == offsets, f"{kind}[{partition}]: not in order {why}"
                contents = [record.content for record in records]
                assert len(contents) == len(wanted), f"{kind}[{partition}] {why}"
                for number, (one, other) in enumerate(zip(contents, wanted, strict=True)):
                    assert one == other, f"{kind}[{partition}], record number {number} {why}"
        return sum(len(outputs.get("predictions", [])) for outputs in expected.values())


class MonitorProcess:
    """One process of `headrace monitor` on a free port, and what its API says.

    Args:
        settings_files: The pipelines to watch.
        options: Further options of the command.
        program: The module to run in the place of `headrace` itself.
        environ: Environment variables; a token in HEADRACE_MONITOR_TOKEN is given with each question.
    """

    def __init__(
        self, *settings_files: Path, options: Sequence[str] = (), program: str | None = None, **environ: str
    ) -> None:
        self.stderr_file = settings_files[0].with_name(f"monitor-{time.monotonic_ns()}.stderr")
        #: Given with each question.
        self.token = environ.get("HEADRACE_MONITOR_TOKEN")
        python = PYTHON_MODULE if program is None else (sys.executable, "-m", program)
        with self.stderr_file.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*python, "monitor", *map(str, settings_files), "--port", "0", *options],
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environ},
                text=True,
            )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if "http" not in said:
            self.process.wait(30)
            raise AssertionError(f"the monitor did not start: {said}{self.stderr}")
        #: Such as `http://127.0.0.1:40123`.
        self.address = said.split()[1].rstrip("/")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    @property
    def stderr(self) -> str:
        """What it logged so far."""
        return self.stderr_file.read_text(errors="replace")

    def get(self, path: str) -> Any:
        """What the API answers, JSON."""
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(self.address + path, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return orjson.loads(answer.read())

    def wait_until_live(self, *pipelines: str) -> None:
        """Until it has read all there was."""

        def live() -> bool:
            assert self.process.poll() is None, f"the monitor ended: {self.stderr}"
            return all(self.get(f"/api/pipelines/{name}")["feed"]["state"] == "live" for name in pipelines)

        wait_until(live, "the monitor is up to date", pause=0.1)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(60)


def assert_no_fault(code: int, worker: WorkerProcess) -> None:
    """The exit code, and no traceback."""
    assert worker.wait() == code, worker.stderr
    assert "Traceback" not in worker.stderr, worker.stderr


class Feeder:
    """Keeps a stream of labelled events going into `<events>`, round-robin over its partitions, until the block ends.

    Args:
        case: The pipeline.
        rate: Events a second.
        event: Makes the event of a number and a partition.
        first: The number of the first event.
    """

    def __init__(
        self,
        case: KafkaCase,
        rate: float = 400.0,
        *,
        event: Callable[[int, int], Incoming] | None = None,
        first: int = 0,
    ) -> None:
        self._case = case
        self._rate = rate
        self._event = event or labelled
        self._first = first
        #: Events handed to the producer so far, with those before the first.
        self.sent = first
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(None if error is None else 10.0)  # with a frozen broker it would be for ever
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            # Longer than any broker is away, and quick to see it again.
            client = self._case.producer(
                request_timeout_ms=20_000, delivery_timeout_ms=600_000, reconnect_backoff_max_ms=1_000
            )
            begun = time.monotonic()
            futures = []
            while not self._stop.is_set():
                due = self._first + int((time.monotonic() - begun) * self._rate) + 1
                for number in range(self.sent, due):
                    record = self._event(number, number % self._case.partitions)
                    self.sent += 1  # first: nobody is to see more predictions than events
                    futures.append(self._case.hand_over(client, record))
                time.sleep(0.02)
            client.flush()
            for future in futures:
                future.get(timeout=600)
            client.close()
        except BaseException as error:
            self._error = error


def whole_seconds_ago(seconds: int) -> int:
    """Epoch seconds, for the timestamps of records: a broker deletes those of years ago whenever it looks."""
    return int(time.time()) - seconds


def zoned(epoch_seconds: int) -> str:
    """A time as a command takes it."""
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat()


def labelled(number: int, partition: int = 0) -> Incoming:
    """A labelled event whose features and label follow from its number."""
    x = {"a": (number * 37 % 101) / 101.0, "b": (number * 53 % 89) / 89.0, "c": float(number % 7)}
    y = (x["a"] + x["b"] > 1.0) != (number % 11 == 0)
    body = {"id": f"e{number}", "features": x, "label": y}
    return Incoming(partition, orjson.dumps(body), key=f"k{number % 13}".encode(), timestamp=None)


def events_of(rows: Iterable[tuple[Mapping[str, Any], Any]], partitions: int = 1) -> list[Incoming]:
    """Rows of a data set as labelled events, round-robin over the partitions."""
    return [
        Incoming(number % partitions, orjson.dumps({"id": number, "features": dict(x), "label": y}))
        for number, (x, y) in enumerate(rows)
    ]
