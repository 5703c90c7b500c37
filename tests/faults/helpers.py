"""What fault tests share: settings under which faults meet snapshots, a stream of all kinds of events, and waits."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from stream.build import open_keeper
from stream.snapshots.file import Fold
from stream.snapshots.keeper import Restored, offset_of
from tests.support import Feeder, Incoming, KafkaCase, WorkerProcess, labelled, wait_until

#: `[snapshots]` under which many are taken in a few seconds.
FREQUENT: Final[dict[str, Any]] = {"interval_events": 50, "interval_seconds": 1.0}
#: `[snapshots]` under which one is taken after so many records, and at the end.
EVERY_40: Final[dict[str, Any]] = {"interval_events": 40, "interval_seconds": 10_000.0}

#: In `mixed`: events of a partition between a question and its answer, and between two turns of the concept.
LABEL_DELAY: Final = 100
TURN: Final = 500
#: Sections of a pipeline for `mixed`: it writes to every output topic.
WATCHFUL: Final[Mapping[str, Any]] = {
    "drift": [{"watch": "error", "detector": "adwin", "parameters": {"delta": 0.5}}],
    "metrics": {"use": ["accuracy", "log_loss"], "window": 100},
}
EVERY_OUTPUT: Final = ("predictions", "alerts", "dead_letters", "outcomes")

#: A learner of one's own that raises on an event now and then, in a module of its own.
PICKY = """
from river import linear_model

class Picky(linear_model.LogisticRegression):
    def learn_one(self, x, y):
        super().learn_one(x, y)
        if x["a"] == 0.0:
            raise ValueError("a is nothing")

def model():
    return Picky()
"""


def mixed(number: int, partition: int, partitions: int) -> Incoming:
    """Questions, their answers long after, labelled events and now and then no event; what is true turns at times.

    Args:
        number: Of the event among all; its partition is `number % partitions`.
        partition: Where it goes.
        partitions: Of `<events>`.
    """
    turn = number // partitions
    if turn % 97 == 96:
        return Incoming(partition, b"\xff no event")
    if turn % 2 == 0:
        event = labelled(number, partition)
        body = orjson.loads(event.value or b"")
        if turn % 4 == 0:
            del body["label"]
        elif turn // TURN % 2:
            body["label"] = not body["label"]
        return event._replace(value=orjson.dumps(body))
    asked = (turn // 4 * 4 - LABEL_DELAY) * partitions + partition
    label = orjson.loads(labelled(asked).value or b"")["label"] if asked >= 0 else True
    answer = {"id": f"e{asked}", "label": label != bool(turn // TURN % 2)}
    return Incoming(partition, orjson.dumps(answer))


def feeder_of_all(case: KafkaCase, rate: float, *, first: int = 0) -> Feeder:
    """A stream of `mixed` events."""
    return Feeder(case, rate, event=lambda number, p: mixed(number, p, case.partitions), first=first)


def own_learner(folder: Path) -> dict[str, Any]:
    """`[learner]` with `PICKY`."""
    (folder / "picky.py").write_text(PICKY)
    return {"build": "picky:model"}


def restored(worker: WorkerProcess) -> int:
    """How many partitions a worker has taken over so far."""
    return len(worker.logged("partition restored"))


def finish(case: KafkaCase, feeder: Feeder, *workers: WorkerProcess) -> None:
    """All that was sent gets processed; then the workers end cleanly."""
    ends = case.ends("events")
    assert sum(ends.values()) == feeder.sent

    def done() -> bool:
        for worker in workers:
            assert worker.is_running(), f"a worker ended early:\n{worker.stderr}"
        return case.committed() == ends

    wait_until(done, "all that was sent is committed", pause=0.2)
    wait_until(
        lambda: all(worker.logged("joining the group, waiting for partitions") for worker in workers),
        "those that have just been started take signals",
    )
    for worker in workers:
        worker.signal(signal.SIGTERM)
    for worker in workers:
        assert worker.wait() == 0, worker.stderr


# Snapshots ----------------------------------------------------------------------------------------------------------


def names(case: KafkaCase, partition: int) -> list[str]:
    """Names of a partition's snapshots, the newest first."""
    return open_keeper(case.settings).store.names(partition)


def path_of(case: KafkaCase, name: str) -> Path:
    """Where a snapshot lies; its location is a directory."""
    return Path(open_keeper(case.settings).store.address) / name


def newest(case: KafkaCase) -> dict[int, int]:
    """S of each partition's newest snapshot; -1 where there is none."""
    store = open_keeper(case.settings).store
    return {
        partition: max(map(offset_of, store.names(partition)), default=-1)
        for partition in range(case.partitions)
    }


def wait_for_snapshots(case: KafkaCase, offset: int, *workers: WorkerProcess) -> None:
    """Until each partition has a snapshot at this offset or a later one."""

    def there() -> bool:
        for worker in workers:
            assert worker.is_running(), f"a worker ended early:\n{worker.stderr}"
        return min(newest(case).values()) >= offset

    wait_until(there, f"each partition has a snapshot at {offset}, not {newest(case)}")


def opened(case: KafkaCase, name: str) -> Restored:
    """A snapshot, through every check."""
    keeper = open_keeper(case.settings)
    header = keeper.header(name)
    fold = Fold(
        pipeline=header.pipeline,
        topic=header.topic,
        topic_id=header.topic_id,
        partition=header.partition,
        origin=header.origin,
        base=header.base,
        shape=header.shape,
    )
    return keeper.open(name, fold)


def assert_from_snapshots(worker: WorkerProcess, count: int | None = None, *, most: int | None = None) -> int:
    """Each partition that a worker took over began from a snapshot, and had little to replay.

    Args:
        worker: Which one.
        count: How many partitions it took over, be it more than once: after a stall the group takes them away.
        most: Most records to replay; a quarter of all that was committed if not given.

    Returns:
        The most records that it had to replay.
    """
    found = worker.logged("partition restored")
    assert found, worker.stderr
    assert count is None or len({line["partition"] for line in found}) == count, found
    for line in found:
        assert line["snapshot"] is not None, worker.stderr
        committed = offset_of(line["snapshot"]) + line["replay_records"]
        assert line["replay_records"] <= (committed / 4 if most is None else most), worker.stderr
    return max(int(line["replay_records"]) for line in found)


def open_incidents(case: KafkaCase) -> set[tuple[int, str]]:
    """Partition and name of the incidents that are not closed."""
    found: set[tuple[int, str]] = set()
    for incident in case.incidents():
        which = (incident["partition"], incident["incident"])
        (found.add if incident["state"] == "open" else found.discard)(which)
    return found
