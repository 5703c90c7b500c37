"""The commands that change a pipeline, as processes; and what comes out where one state takes another's place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import orjson

from stream.build import new_pipeline
from stream.records import Record
from stream.settings import Settings
from tests.forks import HASH_SEED, Fork, can_fork
from tests.support import PATIENCE, ROOT, Incoming, KafkaCase, labelled, wait_until

KINDS = ("predictions", "alerts", "dead_letters")
#: Other settings, another learner, other metrics and detectors: nothing of the old state is of use.
OTHER = {
    "learner": {"use": "hoeffding-tree"},
    "metrics": {"use": ["accuracy"], "window": 50},
    "drift": [{"watch": "error", "detector": "ddm"}],
}


class Command:
    """One process of `headrace` beside a pipeline's workers; ended at the end of the block, if it still runs."""

    def __init__(
        self,
        case: KafkaCase,
        *words: str,
        program: str = "stream.cli",
        environ: Mapping[str, str] | None = None,
        preexec: Callable[[], None] | None = None,
    ) -> None:
        folder = case.settings_file.parent
        self._out, self._err = (
            folder / f"{words[0]}-{time.monotonic_ns()}.{stream}" for stream in ("stdout", "stderr")
        )
        env = {**os.environ, "PYTHONHASHSEED": HASH_SEED, **(environ or {})}
        self.process: Fork | subprocess.Popen[bytes]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            if can_fork(program, env) and preexec is None:
                self.process = Fork(program, words, stdout=out, stderr=err, environ=env, cwd=ROOT)
            else:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", program, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    cwd=ROOT,
                    env=env,
                    preexec_fn=preexec,  # noqa: PLW1509 - no threads of ours hold a lock
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def out(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._err.read_text(errors="replace")

    def wait_for(self, words: str) -> None:
        """Until it says this on standard error."""

        def said() -> bool:
            assert self.process.poll() is None or words in self.err, self.out + self.err
            return words in self.err

        wait_until(said, f"it says {words!r}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self, code: int, seconds: float = PATIENCE) -> str:
        """Its standard output, or its standard error if it is to fail; without a traceback."""
        assert self.process.wait(seconds) == code, self.out + self.err
        assert "Traceback" not in self.err, self.err
        return self.out if code == 0 or not self.err else self.err


def headrace(case: KafkaCase, *words: str, code: int = 0, **arguments: Any) -> str:
    """Run a command of a pipeline to its end: `headrace(case, "rebuild", "--json")`."""
    at = 2 if words[0] in {"snapshots", "topics"} else 1
    with Command(case, *words[:at], str(case.settings_file), *words[at:], **arguments) as command:
        return command.ends(code)


def headrace_json(case: KafkaCase, *words: str, code: int = 0) -> Any:
    return json.loads(headrace(case, *words, "--json", code=code))


def mixed(numbers: Iterable[int], partitions: int = 1) -> Iterator[Incoming]:
    """Events round-robin over partitions; of each five rounds one has questions, answered eight rounds later."""
    for number in numbers:
        partition, turn = number % partitions, number // partitions
        event = labelled(number, partition)
        body = orjson.loads(event.value or b"")
        if turn % 5 == 0:
            label = body.pop("label")
            del label
            event = event._replace(value=orjson.dumps(body))
        yield event
        if turn >= 8 and (turn - 8) % 5 == 0:
            asked = orjson.loads(labelled(number - 8 * partitions).value or b"")
            answer = {"id": asked["id"], "label": asked["label"]}
            yield Incoming(partition, orjson.dumps(answer), key=f"k{(number - 8 * partitions) % 13}".encode())


Contents = dict[int, dict[str, list[Any]]]


def switched(
    case: KafkaCase,
    states: Sequence[tuple[Settings, Mapping[int, int], Mapping[int, int]]],
    rows: Sequence[Record] = (),
) -> Contents:
    """What is written where one state takes another's place: each state's fold, cut where the next one begins.

    Args:
        case: Its `<events>` are read.
        states: One after the other: settings, from which offset of each partition its outputs count, and where its
            fold begins, if that is not at the first record.
        rows: What the last state learned before the log.
    """
    written: Contents = {}
    for partition, records in case.read("events").items():
        outputs: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        for number, (settings, since, origin) in enumerate(states):
            end = states[number + 1][1].get(partition, 0) if number + 1 < len(states) else sys.maxsize
            pipeline = new_pipeline(settings)
            for row in rows if number + 1 == len(states) else ():
                pipeline.process(row)
            for r in records:
                if r.offset < origin.get(partition, 0):
                    continue
                found = pipeline.process(
                    Record(partition, r.offset, r.timestamp, r.key, r.value, r.headers or None)
                )
                if since.get(partition, 0) <= r.offset < end:
                    for output in found:
                        outputs[output.to].append(
                            (r.timestamp, output.key, output.value, tuple(output.headers or ()))
                        )
        written[partition] = outputs
    return written


def assert_written(case: KafkaCase, expected: Contents) -> None:
    """The output topics hold these outputs, byte for byte, and nothing else."""
    for kind in KINDS:
        found = case.read(kind)
        for partition, records in found.items():
            contents = [record.content for record in records]
            wanted = expected[partition][kind]
            for number, (one, other) in enumerate(zip(contents, wanted, strict=False)):
                assert one == other, f"{kind}[{partition}], record number {number}"
            assert len(contents) == len(wanted), f"{kind}[{partition}]"


def assert_refused(case: KafkaCase, *words: str) -> None:
    """A worker does not go on: exit code 3 and one sentence with these words."""
    worker = case.start("--stop-at-end")
    assert worker.wait() == 3, worker.stderr
    assert "Traceback" not in worker.stderr, worker.stderr
    for word in words:
        assert word in worker.said, worker.said


def stop(worker: Any) -> None:
    """SIGTERM, and a clean end."""
    worker.signal(signal.SIGTERM)
    worker.ends_well()
