"""The data plane's loop: poll, process, commit; restore what is assigned, let go of what is revoked.

The numbers are those of the checkpoint protocol in docs/explanation/checkpoints.md: 1 begin, 2 process, 3 commit,
4 snapshot (not yet there: a restart replays from the origin), 5 restore, 6 revocation and the end, 7 errors. The
decisions are made on the port `stream.log.Log`, so they can be tested without a broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final, Literal, TypeVar

import structlog

from monitors import Status
from stream.checkpoint import ANEW, CommitMetadata
from stream.codec import encode_json
from stream.errors import EnvironmentRefused, FencedError
from stream.log import CommitAborted, CommitRetriable, Committed, Log, ProducerFenced
from stream.pipeline import Pipeline
from stream.records import Output, Record, position

log = structlog.get_logger()

#: A new producer is tried this often within a minute; once more means that another process uses this id.
MOST_FENCED_A_MINUTE: Final = 3
#: Most records in one transaction, and most bytes of dead letters: what is kept to be sent again stays small.
MOST_RECORDS_A_COMMIT: Final = 20_000
MOST_OPEN_BYTES: Final = 16 * 1024 * 1024
#: Records processed between two looks at the clock and at `should_stop`: under a slow learner a transaction must not
#: stay open for a whole poll of a thousand, which is longer than the broker waits.
RECORDS_A_LOOK: Final = 20
#: Seconds that a poll may wait; a signal is heeded after that at the latest.
IDLE_POLL: Final = 0.2
#: Seconds that a poll waits for more while outputs are uncommitted; empty after that means commit.
BUSY_POLL: Final = 0.001
#: A poll of fewer records than this has caught up with the log: then latency counts, not throughput.
SHORT_POLL: Final = 100
#: Longest time between two commits, in seconds, for a worker that has caught up.
CAUGHT_UP_INTERVAL: Final = 0.01
#: Seconds between two tries of a commit that got no answer, and for how long a stopping worker goes on trying.
RETRY_PAUSE: Final = 0.2
STOPPING_PATIENCE: Final = 15.0
#: With `stop_at_end`: seconds as a member without any partition after which a worker has nothing to do.
NOTHING_TO_DO: Final = 5.0

T = TypeVar("T")


class StoppedWaiting(Exception):
    """The worker was told to stop while the broker gave no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPolicy:
    """What the worker is told once and never changes."""

    #: The pipeline's name, which is the consumer group's too.
    pipeline: str
    #: The events topic.
    topic: str
    #: Where the fold begins if nothing was committed yet.
    start: Literal["earliest", "latest"] | datetime
    #: What shapes the state beside the log, by name.
    shape: Mapping[str, str]
    #: Longest time between two commits under load, seconds.
    commit_interval_seconds: float
    #: Seconds between two status records of a partition.
    status_interval_seconds: float
    #: Process up to the ends seen at the start, then end.
    stop_at_end: bool = False


@dataclass(slots=True)
class Owned:
    """One partition that this worker owns, restored and running."""

    pipeline: Pipeline
    #: O: where the fold began.
    origin: int
    #: What each commit of this partition says about itself.
    metadata: str
    #: C: the committed next offset. Records before it are replayed silently.
    committed: int
    #: The next offset to process.
    next_offset: int
    #: What has been sent into the open transaction, kept to be sent again if that is aborted.
    uncommitted: list[tuple[int, Sequence[Output]]] = field(default_factory=list)
    #: For the status: when its last status was written (monotonic) and how many events there were then.
    status_at: float = 0.0
    status_events: int = 0


class Worker:
    """One member of a pipeline's consumer group.

    Args:
        log: The member and its producer.
        policy: What to do.
        new_pipeline: Makes the empty pipeline of a partition.
        should_stop: Asked between two polls; True ends the worker cleanly.
        clock: Seconds that only grow, for intervals; never seen by the pipeline.
        wall_clock: Epoch seconds, for the status only.
        sleep: Waits between two tries of a commit.
    """

    def __init__(
        self,
        log: Log,
        policy: WorkerPolicy,
        new_pipeline: Callable[[], Pipeline],
        *,
        should_stop: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._log = log
        self._policy = policy
        self._new_pipeline = new_pipeline
        self._should_stop = should_stop
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._owned: dict[int, Owned] = {}
        #: Assigned, not yet restored; a dictionary for its order.
        self._waiting: dict[int, None] = {}
        self._ends: dict[int, int] = {}
        self._fenced_at: list[float] = []
        self._uncommitted_records = 0
        self._committed_records = 0
        self._committed_at = 0.0
        self._owned_at = 0.0

    def run(self) -> None:
        """Work until told to stop, or with `stop_at_end` until the ends that were seen at the start.

        Raises:
            EnvironmentRefused: Kafka is not as the state needs it; says what and what to do.
            FencedError: Another process keeps taking this worker's transactional id.
        """
        if self._policy.stop_at_end:
            bounds = [
                self._until_answered(partial(self._log.bounds, p)) for p in range(self._log.partition_count)
            ]
            self._ends = {partition: end for partition, (_, end) in enumerate(bounds)}
        self._log.join(on_revoked=self._on_revoked, on_lost=self._on_lost)
        self._committed_at = self._owned_at = self._clock()
        log.info(
            "joining the group, waiting for partitions",
            pipeline=self._policy.pipeline,
            topic=self._policy.topic,
            partitions=self._log.partition_count,
            worker=self._log.writer,
        )
        try:
            while not self._should_stop():
                records = self._log.poll(BUSY_POLL if self._uncommitted_records else IDLE_POLL)
                # First what was polled, then what was assigned in that same call: a record polled before a partition
                # was revoked must find no owner, never the state restored since.
                self._work(records)
                self._restore_waiting()
                self._publish_status()
                if not records and self._policy.stop_at_end and self._at_end():
                    break
            if self._commit() or self._commit():  # 6; twice, since what was aborted has been sent again
                self._publish_status(last=True)
                log.info("ended", committed_records=self._committed_records)
        except StoppedWaiting as error:
            log.warning(
                "stopped without the last commit: the next worker does that work again", reason=str(error)
            )
        finally:
            self._owned.clear()  # leaving revokes: what is not committed by now must not be
            self._waiting.clear()
            self._log.leave()

    # 1, 5: begin and restore ------------------------------------------------------------------------------------

    def _restore_waiting(self) -> None:
        """Restore assigned partitions, outside of any callback; what a rebalance prevents waits for the next call."""
        self._waiting.update(dict.fromkeys(self._log.take_assigned()))
        for partition in list(self._waiting):
            try:
                self._restore(partition)
            except (CommitRetriable, CommitAborted) as error:
                log.info("not yet restored", partition=partition, reason=str(error))
                self._sleep(RETRY_PAUSE)
                return
            del self._waiting[partition]

    def _restore(self, partition: int) -> None:
        policy = self._policy
        where = f"{policy.topic}[{partition}]"
        if partition >= self._log.partition_count:
            raise EnvironmentRefused(
                f"{where}: the topic had {self._log.partition_count} partitions at the start and has more now: "
                f"keys have moved between learners. {ANEW}"
            )
        committed = self._log.committed(partition)
        if committed is None:
            origin, next_offset = self._begin(partition)
        else:
            metadata = CommitMetadata.decode(committed.metadata, group=policy.pipeline, where=where)
            metadata.require_same(
                pipeline=policy.pipeline,
                topic_id=self._log.topic_id,
                partitions=self._log.partition_count,
                shape=policy.shape,
                where=where,
            )
            origin, next_offset = metadata.origin, committed.next_offset
            first, end = self._log.bounds(partition)
            if origin < first:
                raise EnvironmentRefused(
                    f"{where}: the log now begins at {first}, but the state began at {origin}: it can't be rebuilt "
                    f"by replay. Keep the events longer (retention.ms). {ANEW}"
                )
            if next_offset > end:
                raise EnvironmentRefused(
                    f"{where}: committed up to {next_offset}, but the log ends at {end}: records were lost. "
                    f"Restore the topic, or begin anew. {ANEW}"
                )
            if metadata.writer != self._log.writer:
                # Before any output: should this worker die in a transaction, its successor must know whom to fence.
                self._log.claim(partition, Committed(next_offset, self._metadata(origin)))
        self._owned[partition] = Owned(
            pipeline=self._new_pipeline(),
            origin=origin,
            metadata=self._metadata(origin),
            committed=next_offset,
            next_offset=origin,
            status_at=self._clock(),
        )
        self._owned_at = self._clock()
        self._log.start(partition, origin)
        log.info(
            "partition restored", partition=partition, origin=origin, replay_records=next_offset - origin
        )

    def _begin(self, partition: int) -> tuple[int, int]:
        """Choose the origin and commit it, before any output."""
        policy = self._policy
        if self._log.has_outputs(partition):
            raise EnvironmentRefused(
                f"{policy.topic}[{partition}]: group {policy.pipeline!r} has no committed offset, but there are "
                "outputs: the group's offsets were lost (an idle group's expire after seven days) or the topic was "
                f"recreated. To go on would repeat outputs from an empty state. {ANEW}"
            )
        first, end = self._log.bounds(partition)
        if policy.start == "earliest":
            origin = first
        elif policy.start == "latest":
            origin = end
        else:
            origin = self._log.offset_at(partition, int(policy.start.timestamp() * 1_000))
        self._log.claim(partition, Committed(origin, self._metadata(origin)))
        return origin, origin

    def _metadata(self, origin: int) -> str:
        return CommitMetadata(
            pipeline=self._policy.pipeline,
            origin=origin,
            topic_id=self._log.topic_id,
            partitions=self._log.partition_count,
            shape=dict(self._policy.shape),
            writer=self._log.writer,
        ).encode()

    # 2: process -------------------------------------------------------------------------------------------------

    def _work(self, records: Sequence[Record]) -> None:
        """Process what was polled, a few records at a time, and commit as soon as that is due."""
        for first in range(0, len(records) or 1, RECORDS_A_LOOK):
            self._process(records[first : first + RECORDS_A_LOOK])
            if self._uncommitted_records and self._commit_is_due(len(records)):
                self._commit()
            if self._should_stop():
                break

    def _process(self, records: Sequence[Record]) -> None:
        owned_partitions = self._owned
        send = self._log.send
        live = 0
        record: Record | None = None
        try:
            for record in records:
                partition, offset, timestamp, _, _, _ = record
                owned = owned_partitions.get(partition)
                if owned is None or offset < owned.next_offset:
                    continue  # from before a rebalance, or before a seek
                outputs = owned.pipeline.process(record)
                owned.next_offset = offset + 1
                if offset >= owned.committed:
                    live += 1
                    if outputs:
                        owned.uncommitted.append((timestamp, outputs))
                        send(partition, timestamp, outputs)
        except ProducerFenced as error:
            self._on_fenced(error)
        except EnvironmentRefused:
            raise
        except BaseException:
            if record is not None:
                where = position(self._policy.topic, record.partition, record.offset)
                log.error("stopped on a record", position=where)
            raise
        self._uncommitted_records += live

    # 3: commit --------------------------------------------------------------------------------------------------

    def _commit_is_due(self, polled: int) -> bool:
        """After a poll that returned so many records: at once when it is empty, soon when it is short."""
        interval = self._policy.commit_interval_seconds
        if polled < SHORT_POLL:
            interval = min(interval, CAUGHT_UP_INTERVAL)
        return (
            not polled
            or self._clock() - self._committed_at >= interval
            or self._uncommitted_records >= MOST_RECORDS_A_COMMIT
            or self._log.open_bytes() >= MOST_OPEN_BYTES
        )

    def _commit(self, *, may_resend: bool = True) -> bool:
        """Commit outputs and next offsets of all owned partitions; False if the transaction was aborted."""
        commits = {
            partition: Committed(owned.next_offset, owned.metadata)
            for partition, owned in self._owned.items()
            if owned.next_offset > owned.committed
        }
        if not commits:
            self._uncommitted_records = 0
            return True
        try:
            self._until_answered(lambda: self._log.send_offsets(commits))
            self._until_answered(self._log.commit)
        except CommitAborted as error:
            log.info("commit aborted", reason=str(error))
            self._committed_at = self._clock()  # the next try has its turn like any commit
            self._abort_and_look()
            if may_resend:
                self._send_again()
            return False
        except ProducerFenced as error:
            self._on_fenced(error)
            return False
        for partition in commits:
            owned = self._owned[partition]
            owned.committed = owned.next_offset
            owned.uncommitted.clear()
        self._committed_records += self._uncommitted_records
        self._uncommitted_records = 0
        self._committed_at = self._clock()
        return True

    def _until_answered(self, step: Callable[[], T]) -> T:
        """Call a step again until it has happened or has failed: without an answer it may have happened.

        Raises:
            StoppedWaiting: The worker is to stop, and was patient.
        """
        stopping_since: float | None = None
        while True:
            try:
                return step()
            except CommitRetriable as error:
                now = self._clock()
                if self._should_stop():
                    stopping_since = now if stopping_since is None else stopping_since
                    if now - stopping_since > STOPPING_PATIENCE:
                        raise StoppedWaiting(str(error)) from error
                log.warning("no answer, trying again", reason=str(error))
                self._sleep(RETRY_PAUSE)

    def _abort_and_look(self) -> None:
        """Abort, then keep only the partitions whose committed offset is still the one we know."""
        try:
            self._until_answered(self._log.abort)
        except ProducerFenced as error:
            self._on_fenced(error)
            return
        for partition, owned in list(self._owned.items()):
            found = self._until_answered(partial(self._log.committed, partition))
            if found is None or found.next_offset != owned.committed:
                # Another's by now, most likely: then it is revoked or lost before it can be claimed again.
                log.info("partition was committed by another", partition=partition)
                del self._owned[partition]
                self._waiting[partition] = None

    def _send_again(self) -> None:
        """Send the kept bytes into the next transaction, without asking the model again."""
        self._uncommitted_records = 0
        try:
            for partition, owned in self._owned.items():
                for timestamp, outputs in owned.uncommitted:
                    self._log.send(partition, timestamp, outputs)
                self._uncommitted_records += max(0, owned.next_offset - owned.committed)
        except ProducerFenced as error:
            self._on_fenced(error)

    def _on_fenced(self, error: ProducerFenced) -> None:
        """A new producer; what was owned is lost and restored."""
        now = self._clock()
        self._fenced_at = [at for at in self._fenced_at if now - at < 60.0] + [now]
        if len(self._fenced_at) > MOST_FENCED_A_MINUTE:
            raise FencedError(
                f"another process uses the transactional id {self._log.writer!r} "
                f"(fenced {len(self._fenced_at)} times in a minute). Give each worker its own: [worker] instance."
            ) from error
        log.warning("producer fenced, starting a new one", reason=str(error))
        self._waiting.update(dict.fromkeys(self._owned))
        self._owned.clear()
        self._uncommitted_records = 0
        self._until_answered(self._log.renew_producer)

    # 6: revocation ----------------------------------------------------------------------------------------------

    def _on_revoked(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._waiting.pop(partition, None)
        if any(partition in self._owned for partition in partitions):
            committed = self._commit(may_resend=False)
            for partition in partitions:
                self._owned.pop(partition, None)
                self._waiting.pop(partition, None)  # where a fenced producer put it
            if not committed:
                self._send_again()
            log.info("partitions revoked", partitions=list(partitions), committed=committed)
        self._owned_at = self._clock()

    def _on_lost(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._waiting.pop(partition, None)
        lost = [partition for partition in partitions if self._owned.pop(partition, None) is not None]
        if lost:
            log.warning("partitions lost", partitions=lost)
            # Their outputs are in the open transaction too: it must not be committed.
            try:
                self._until_answered(self._log.abort)
            except ProducerFenced as error:
                self._on_fenced(error)
            else:
                self._send_again()
        self._owned_at = self._clock()

    # The end and the status -------------------------------------------------------------------------------------

    def _at_end(self) -> bool:
        if self._uncommitted_records or self._waiting:
            return False
        if not self._owned:
            if not self._log.has_assignment():  # the group may wait for a dead worker's session to end
                self._owned_at = self._clock()
            return self._clock() - self._owned_at >= NOTHING_TO_DO
        return all(
            max(owned.next_offset, self._log.position(partition)) >= self._ends[partition]
            for partition, owned in self._owned.items()
        )

    def _publish_status(self, *, last: bool = False) -> None:
        """Every few seconds and once at the end, for each partition."""
        now = self._clock()
        for partition, owned in self._owned.items():
            since = now - owned.status_at
            if not last and since < self._policy.status_interval_seconds:
                continue
            state = owned.pipeline.state
            end = self._log.end(partition)
            read = max(owned.next_offset, self._log.position(partition))
            status = Status(
                pipeline=self._policy.pipeline,
                partition=partition,
                worker=self._log.writer,
                offset=owned.next_offset,
                end=end,
                lag_records=None if end is None else max(0, end - read),
                events=state.events,
                predictions=state.predictions,
                learned=state.learner.learned,
                scored=state.prequential.scored,
                dead_letters=state.dead_letters,
                pending=len(state.pending),
                expired=state.pending.expired,
                unmatched=state.unmatched,
                duplicates=state.duplicates,
                non_finite=state.non_finite,
                rate=(state.events - owned.status_events) / since if since > 0 else 0.0,
                window=state.prequential.window,
                metrics=state.prequential.values(),
                baselines=state.prequential.baselines(),
                drift=state.drift.status(),
                learner=state.learner.name,
                state="live" if owned.next_offset >= owned.committed else "replaying",
                time=self._wall_clock(),
            )
            owned.status_at, owned.status_events = now, state.events
            self._log.publish_status(partition, encode_json(status.to_dict()))
