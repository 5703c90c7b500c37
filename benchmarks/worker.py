"""One worker as `headrace run --stop-at-end` has it, in a process of its own, that says what it cost.

    python -m benchmarks.worker SETTINGS [--relay]

Measured from the moment records are first asked for to the end of the last commit: imports, joining the group and
leaving it are not counted, fetching and all of librdkafka's threads are. With `--relay` the pipeline is replaced by
one that gives back bytes of the same size: what is left is the worker's loop and librdkafka.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.meter import Reading, report
from stream.build import WriterSlot, new_pipeline, spare_the_collector, worker_policy
from stream.kafka_log import KafkaLog
from stream.pipeline import Pipeline
from stream.records import Output, Record
from stream.settings import Settings, load_settings
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

    def process(self, record: Record) -> Sequence[Output]:
        if self._outputs is None:
            self._outputs = self._pipeline.process(record)
        else:
            self.state.events += 1
        return self._outputs


def main(settings: Settings, *, relay: bool) -> None:
    slot = WriterSlot(settings)
    pipelines: list[Pipeline] = []

    def pipeline() -> Pipeline:
        made = new_pipeline(settings)
        pipelines.append(made)
        return Relay(made) if relay else made  # type: ignore[return-value]  # has what the worker asks of one

    try:
        log = MeasuredLog(settings, slot.writer)
        worker = Worker(log, worker_policy(settings, stop_at_end=True), pipeline, should_stop=lambda: False)
        spare_the_collector()
        worker.run()
    finally:
        slot.release()
    if log.began is None or log.ended is None:
        raise SystemExit("nothing was committed")
    states = [pipeline.state for pipeline in pipelines]
    accuracy = states[0].prequential.values()["accuracy"]["value"]
    report(
        sum(state.events for state in states),
        log.began,
        log.ended,
        commits=log.commits,
        dead_letters=sum(state.dead_letters for state in states),
        accuracy=-1.0 if accuracy is None else accuracy,
    )


if __name__ == "__main__":
    main(load_settings(Path(sys.argv[1]), environ={}), relay="--relay" in sys.argv)
