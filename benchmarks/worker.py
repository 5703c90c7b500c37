"""One worker as `headrace run --stop-at-end` has it, in a process of its own, that says what it cost.

    python -m benchmarks.worker SETTINGS [--relay]

Measured from the moment records are first asked for to the end of the last commit: imports, joining the group and
leaving it are not counted, fetching and all of librdkafka's threads are, and so are snapshots if the settings have
them. With `--relay` the pipeline is replaced by one that gives back bytes of the same size, without snapshots: what is
left is the worker's loop and librdkafka.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.meter import Reading, report
from stream.build import new_pipeline, open_keeper, worker_policy
from stream.kafka.log import KafkaLog
from stream.pipeline import Pipeline
from stream.process import WriterSlot, spare_the_collector
from stream.records import Output, Record
from stream.settings import Settings, load_settings
from stream.snapshots.keeper import SnapshotKeeper, Taken
from stream.worker import Worker


class MeasuredLog(KafkaLog):
    """Kafka, with a clock at both ends."""

    began: Reading | None = None
    ended: Reading | None = None
    commits = 0

    def start(self, partition: int, offset: int) -> None:
        if self.began is None:
            self.began = Reading.now()
        super().start(partition, offset)

    def commit(self) -> None:
        super().commit()
        self.commits += 1
        self.ended = Reading.now()


class Relay:
    """A pipeline without decoding, model and encoding: the first event's outputs again and again."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.state = pipeline.state
        self._pipeline = pipeline
        self._outputs: Sequence[Output] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)  # all else that a worker asks of a pipeline

    def process(self, record: Record) -> Sequence[Output]:
        if self._outputs is None:
            self._outputs = self._pipeline.process(record)
        else:
            self.state.events += 1
        return self._outputs


def watched(keeper: SnapshotKeeper, taken: list[Taken]) -> SnapshotKeeper:
    """The keeper, with a list of all that it has taken."""
    collect = keeper.collect

    def collect_and_note() -> list[Taken]:
        found = collect()
        taken.extend(found)
        return found

    keeper.collect = collect_and_note  # type: ignore[method-assign]  # as `open_keeper` wires it otherwise
    return keeper


def main(settings: Settings, *, relay: bool) -> None:
    slot = WriterSlot(settings)
    pipelines: list[Pipeline] = []
    taken: list[Taken] = []

    def pipeline() -> Pipeline:
        made = new_pipeline(settings)
        pipelines.append(made)
        return Relay(made) if relay else made  # type: ignore[return-value]  # has what the worker asks of one

    try:
        log = MeasuredLog(settings, slot.writer)
        keeper = watched(open_keeper(settings), taken) if settings.snapshots.enabled and not relay else None
        policy = worker_policy(settings, stop_at_end=True)
        worker = Worker(log, policy, pipeline, keeper, should_stop=lambda: False)
        spare_the_collector()
        worker.run()
    finally:
        slot.release()
    if log.began is None or log.ended is None:
        raise SystemExit("nothing was committed")
    for failed in (item for item in taken if item.name is None):
        raise SystemExit(f"no snapshot at {failed.next_offset}: {failed.reason}")
    states = [pipeline.state for pipeline in pipelines]
    events = sum(state.events for state in states)
    accuracy = states[0].prequential.values()["accuracy"]["value"]
    report(
        events,
        log.began,
        log.ended,
        commits=log.commits,
        dead_letters=sum(state.dead_letters for state in states),
        accuracy=-1.0 if accuracy is None else accuracy,
        # That of the worker's end comes after what is measured.
        snapshots=[
            {"bytes": item.size, "pause_seconds": item.pause_seconds, "seconds": item.seconds}
            for item in taken
            if item.next_offset < events
        ],
    )


if __name__ == "__main__":
    main(load_settings(Path(sys.argv[1]), environ={}), relay="--relay" in sys.argv)
