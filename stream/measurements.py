"""What a worker measures of itself: counts, times and sizes, for Prometheus.

A side channel: the worker's loop tells it what was done, and nothing that is decided or written ever looks at it. What
it costs is paid for each look at the clock, commit and snapshot, never for each event.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

from monitors import Status
from monitors.telemetry import (
    Call,
    Counts,
    Distribution,
    Family,
    PartitionReadings,
    Watch,
    WatchReading,
    WorkerReadings,
)
from stream.pipeline import Pipeline
from stream.records import Output

#: Of so many records one is chosen, in runs of those between two looks at the clock, to time the learner's calls.
SAMPLED_ONE_IN: Final = 128
#: Records of a partition in one commit whose latency is looked at: each stands for its share of them.
MOST_LATENCIES: Final = 8

T = TypeVar("T")


class _Seen(NamedTuple):
    """What a state has counted since the origin."""

    counts: Counts
    #: See `DriftMonitor.alarms`.
    alarms: Sequence[int]


@dataclass(slots=True)
class _Partition:
    """One partition's counters; they outlast its leaving and coming back, as Prometheus expects of a counter."""

    #: What the state had counted as of the last commit; None while it replays, which counts for nothing.
    seen: _Seen | None = None
    counts: Counts = field(default_factory=Counts)
    #: See `DriftMonitor.alarms`.
    alarms: Sequence[int] = ()
    dead_letters: Counter[str] = field(default_factory=Counter)
    label_delay: Distribution = field(default_factory=lambda: Distribution(Family.LABEL_DELAY.value.buckets))
    #: Wall clock of the last label learned, epoch seconds.
    learned_at: float = 0.0
    snapshots_written: int = 0
    snapshots_failed: int = 0
    #: How often each of the learner's methods was timed since `learner_seconds` was asked, and for how long in all.
    calls: dict[str, tuple[int, float]] = field(default_factory=dict)
    #: What `learner_seconds` last said.
    seconds_a_call: dict[str, float] = field(default_factory=dict)


def _seen(pipeline: Pipeline) -> _Seen:
    state = pipeline.state
    labels = state.labels
    counts = Counts(
        events=state.events,
        predictions=state.predictions,
        learned=state.learner.learned,
        scored=state.prequential.scored,
        non_finite=state.non_finite,
        duplicates=state.duplicates,
        expired=labels.expired,
        expired_early=labels.expired_early,
        expired_learned=labels.expired_learned,
        joined=labels.joined,
        late=labels.late,
        unmatched=labels.unmatched,
        duplicate_labels=labels.duplicate,
        conflicting_labels=labels.conflicting,
        corrected_labels=labels.corrected,
        early=labels.early_labels,
    )
    return _Seen(counts, state.drift.alarms())


def _grown(totals: Sequence[int], now: Sequence[int], before: Sequence[int]) -> list[int]:
    return [total + new - old for total, new, old in zip(totals, now, before, strict=True)]


class Measurements:
    """What one worker has measured since it began. Of one thread; others get `readings`, which never change.

    Args:
        clock: Seconds that only grow.
        wall_clock: Epoch seconds.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._partitions: dict[int, _Partition] = {}
        self._processed_records = 0
        self._processing_seconds = 0.0
        self._until_sample = 0
        self._commits = 0
        self._aborted_commits = 0
        self._fenced = 0
        self._commit = Distribution(Family.COMMIT.value.buckets)
        self._commit_size = Distribution(Family.COMMIT_SIZE.value.buckets)
        self._poll_to_commit = Distribution(Family.POLL_TO_COMMIT.value.buckets)
        self._latency = Distribution(Family.LATENCY.value.buckets)
        self._pause = Distribution(Family.SNAPSHOT_PAUSE.value.buckets)
        self._write = Distribution(Family.SNAPSHOT_WRITE.value.buckets)
        self._learner_calls: dict[Call, Distribution] = {
            "predict": Distribution(Family.LEARNER_CALL.value.buckets),
            "learn": Distribution(Family.LEARNER_CALL.value.buckets),
        }
        #: When the last poll brought records, and the one that brought the oldest that are not committed.
        self._polled_at = self._oldest_polled_at = 0.0

    # Records ----------------------------------------------------------------------------------------------------

    def polled(self, *, is_first: bool) -> None:
        """A poll brought records; the first since all before them was committed, or not."""
        self._polled_at = self._clock()
        if is_first:
            self._oldest_polled_at = self._polled_at

    def wants_sample(self, records: int) -> bool:
        """Whether the calls of the learner are to be timed for the next so many records."""
        self._until_sample -= records
        if self._until_sample > 0:
            return False
        self._until_sample = records * SAMPLED_ONE_IN
        return True

    def timed(self, partition: int, call: Call, method: Callable[..., T]) -> Callable[..., T]:
        """A method of the partition's learner that is timed as well."""
        clock, observe = self._clock, self._learner_calls[call].observe
        calls = self._partitions[partition].calls

        def timed(*arguments: Any) -> T:
            began = clock()
            try:
                return method(*arguments)
            finally:
                seconds = clock() - began
                observe(seconds)
                count, total = calls.get(call, (0, 0.0))
                calls[call] = count + 1, total + seconds

        return timed

    def learner_seconds(self, partition: int) -> Mapping[str, float] | None:
        """Mean seconds of a call of the partition's learner, by method, since this was last asked.

        Of a method that was not timed since, what was said of it last; None: none was ever timed.
        """
        item = self._partitions[partition]
        item.seconds_a_call.update({call: total / count for call, (count, total) in item.calls.items()})
        item.calls.clear()
        return dict(item.seconds_a_call) or None

    def processed(self, records: int, seconds: float) -> None:
        """So many records have been processed within so many seconds."""
        self._processed_records += records
        self._processing_seconds += seconds

    # Partitions -------------------------------------------------------------------------------------------------

    def restored(self, partition: int, pipeline: Pipeline, *, is_live: bool) -> None:
        """A partition is this worker's; live if nothing is left to replay."""
        item = self._partitions.setdefault(partition, _Partition())
        item.seen = None
        item.learned_at = self._wall_clock()
        if is_live:
            self.caught_up(partition, pipeline)

    def caught_up(self, partition: int, pipeline: Pipeline) -> None:
        """A partition has replayed what was committed: from here on it counts."""
        self._partitions[partition].seen = _seen(pipeline)

    def committed(
        self, partition: int, pipeline: Pipeline, uncommitted: Sequence[tuple[int, Sequence[Output]]]
    ) -> None:
        """All that a partition has processed is committed; `uncommitted` are its outputs in that commit."""
        item = self._partitions[partition]
        before, item.seen = item.seen, _seen(pipeline)
        if before is None:  # nothing of what it was to replay is there any more: begin to count here
            return
        now = item.seen
        item.counts = Counts(*_grown(item.counts, now.counts, before.counts))
        item.alarms = _grown(item.alarms or (0,) * len(now.alarms), now.alarms, before.alarms)
        wall = self._wall_clock()
        if now.counts.learned != before.counts.learned:
            item.learned_at = wall
        delays = pipeline.state.labels.delays
        for delay in islice(delays, max(0, len(delays) - (now.counts.joined - before.counts.joined)), None):
            item.label_delay.observe(max(0.0, delay))
        count = len(uncommitted)
        chosen = min(count, MOST_LATENCIES)
        for part in range(chosen):
            timestamp, outputs = uncommitted[(2 * part + 1) * count // (2 * chosen)]
            latency = wall - timestamp / 1_000
            if latency >= 0.0 and outputs[0].to == "predictions":
                self._latency.observe(latency, times=(part + 1) * count // chosen - part * count // chosen)

    def dead_letters(self, partition: int, stages: Sequence[str]) -> None:
        """Dead letters were committed."""
        self._partitions[partition].dead_letters.update(stages)

    # Commits ----------------------------------------------------------------------------------------------------

    def commit_ended(self, records: int, seconds: float) -> None:
        """A commit of so many records took so long."""
        self._commits += 1
        self._commit.observe(seconds)
        self._commit_size.observe(records)
        if not records:  # only control records: nothing was polled for it
            return
        self._poll_to_commit.observe(max(0.0, self._clock() - self._oldest_polled_at))
        self._oldest_polled_at = self._polled_at

    def commit_aborted(self) -> None:
        """A commit was aborted."""
        self._aborted_commits += 1

    def fenced(self) -> None:
        """The producer was fenced."""
        self._fenced += 1

    # Snapshots --------------------------------------------------------------------------------------------------

    def snapshot_written(self, partition: int, *, pause_seconds: float, seconds: float) -> None:
        """A snapshot was written: the worker stood still for its pause, and it took so long in all."""
        self._partitions[partition].snapshots_written += 1
        self._pause.observe(pause_seconds)
        self._write.observe(seconds)

    def snapshot_failed(self, partition: int) -> None:
        """A snapshot could not be written."""
        self._partitions[partition].snapshots_failed += 1

    # For others -------------------------------------------------------------------------------------------------

    def partition(
        self,
        partition: int,
        pipeline: Pipeline,
        *,
        next_offset: int,
        committed: int,
        status: Status | None,
        incidents: Sequence[str],
    ) -> PartitionReadings:
        """How an owned partition stands."""
        item = self._partitions[partition]
        alarms = item.alarms or (0,) * len(pipeline.state.drift.alarms())
        watches = [
            WatchReading(
                name=Watch(str(watched["watch"]), str(watched["detector"])),
                warned=watched["state"] == "warning",
                skipped=int(str(watched["skipped"])),
                drifts=alarms[2 * number],
                warnings=alarms[2 * number + 1],
            )
            for number, watched in enumerate(pipeline.state.drift.counts())
        ]
        return PartitionReadings(
            partition=partition,
            state="live" if next_offset >= committed else "replaying",
            committed=committed,
            replay_records=max(0, committed - next_offset),
            counts=item.counts,
            dead_letters=dict(item.dead_letters),
            label_delay=item.label_delay.reading(),
            watches=watches,
            learned_at=item.learned_at,
            snapshots_written=item.snapshots_written,
            snapshots_failed=item.snapshots_failed,
            status=status,
            incidents=incidents,
        )

    def readings(
        self, *, turned_at: float, progressed_at: float, partitions: Sequence[PartitionReadings]
    ) -> WorkerReadings:
        """All of it at this moment."""
        distributions: Mapping[Family, Distribution] = {
            Family.COMMIT: self._commit,
            Family.COMMIT_SIZE: self._commit_size,
            Family.POLL_TO_COMMIT: self._poll_to_commit,
            Family.LATENCY: self._latency,
            Family.SNAPSHOT_PAUSE: self._pause,
            Family.SNAPSHOT_WRITE: self._write,
        }
        return WorkerReadings(
            turned_at=turned_at,
            progressed_at=progressed_at,
            processed_records=self._processed_records,
            processing_seconds=self._processing_seconds,
            commits=self._commits,
            aborted_commits=self._aborted_commits,
            fenced=self._fenced,
            distributions={family: item.reading() for family, item in distributions.items()},
            learner_calls={call: item.reading() for call, item in self._learner_calls.items()},
            partitions=partitions,
        )
