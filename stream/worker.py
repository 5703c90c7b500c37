"""The data plane's loop: poll, process, commit; restore what is assigned, let go of what is revoked.

The numbers are those of the checkpoint protocol in docs/explanation/checkpoints.md: 1 begin, 2 process, 3 commit,
4 snapshot, 5 restore, 6 revocation and the end, 7 errors. The decisions are made on the ports `stream.log.Log` and
`stream.snapshots.store.SnapshotStore`, so they can be tested without a broker and without a disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final, Literal, TypeVar

import structlog

from monitors import SnapshotFacts, Status, delay_histogram, label_health
from monitors.telemetry import PartitionReadings, WorkerReadings
from stream.budget import DeadLetterBudget, RecentDeadLetters, headers_of
from stream.checkpoint import ANEW, REBUILD, CommitMetadata
from stream.codec import encode_json
from stream.errors import (
    DeadLetterBudgetSpent,
    EnvironmentRefused,
    HeadraceError,
    ResourcesExhausted,
    in_a_line,
)
from stream.health import PartitionFacts, WorkerFacts
from stream.incidents import SNAPSHOT_INCIDENTS, Incidents, LabelBounds, LabelWatch
from stream.log import CommitAborted, CommitRetriable, Committed, Log, ProducerFenced
from stream.measurements import Measurements
from stream.patience import RETRY_PAUSE, Fencings, StoppedWaiting, until_answered
from stream.pipeline import NOT_THE_RECORDS_FAULT, Pipeline
from stream.records import Output, Record, position
from stream.snapshots.file import Fold
from stream.snapshots.keeper import Found, Restored, SnapshotKeeper, offset_of
from stream.snapshots.restoring import choose_beginning, require_log

log = structlog.get_logger()

#: Most records in one transaction, and most bytes of dead letters: what is kept to be sent again stays small.
MOST_RECORDS_A_COMMIT: Final = 20_000
MOST_OPEN_BYTES: Final = 16 * 1024 * 1024
#: Most records processed between two looks at what is due and at `should_stop`, and seconds that they should take:
#: under a slow learner a transaction must not stay open for a whole poll of a thousand: the broker waits no longer.
RECORDS_A_LOOK: Final = 20
LOOK_SECONDS: Final = 1.0
#: Seconds that a poll may wait; a signal is heeded after that at the latest.
IDLE_POLL: Final = 0.2
#: Seconds that a poll waits for more while outputs are uncommitted; empty after that means commit.
BUSY_POLL: Final = 0.001
#: A poll of fewer records than this has caught up with the log: then latency counts, not throughput.
SHORT_POLL: Final = 100
#: Longest time between two commits, in seconds, for a worker that has caught up.
CAUGHT_UP_INTERVAL: Final = 0.01
#: Seconds without a commit after which the control records at the end of the log are stepped over: see `_step_over`.
STEP_OVER: Final = 5.0
#: Seconds between two reports of how the worker stands.
REPORT_INTERVAL: Final = 0.25
#: With `stop_at_end`: seconds as a member without any partition after which a worker has nothing to do.
NOTHING_TO_DO: Final = 5.0
#: Seconds that a worker lets snapshots take when it lets go of partitions: a rebalance waits for it.
LETTING_GO: Final = 5.0
#: A snapshot that cost more than this many seconds last time is not taken then: its successor replays instead.
CHEAP: Final = 1.0
#: Seconds to wait for a snapshot store that is away, before learning again from the origin where the log reaches it;
#: and between two times that it is asked, at first and at most.
STORE_PATIENCE: Final = 30.0
STORE_PAUSE: Final = 5.0
STORE_LONGEST_PAUSE: Final = 30.0

T = TypeVar("T")


class StoreAway(Exception):
    """A partition can't be restored until the snapshot store answers."""


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
    #: How many dead letters are borne.
    dead_letter_budget: DeadLetterBudget
    #: Process up to the ends seen at the start, then end.
    stop_at_end: bool = False


@dataclass(slots=True)
class Owned:
    """One partition that this worker owns, restored and running."""

    pipeline: Pipeline
    #: Which fold its state belongs to; O, where it began, is a part of that.
    fold: Fold
    #: What each commit of this partition says about itself.
    metadata: str
    #: C: the committed next offset. Records before it are replayed silently.
    committed: int
    #: The next offset to process.
    next_offset: int
    #: Sees when something is wrong with its labels.
    label_watch: LabelWatch
    #: What has been sent into the open transaction, kept to be sent again if that is aborted.
    uncommitted: list[tuple[int, Sequence[Output]]] = field(default_factory=list)
    #: Name of the newest snapshot, which each commit names; None until there is one.
    snapshot: str | None = None
    #: S: the first offset that the last snapshot, written or begun, has not learned; without one, O.
    snapshot_offset: int = 0
    #: For the status: what is known of the newest snapshot.
    snapshot_facts: SnapshotFacts | None = None
    #: The state's count of dead letters as of the last commit: another one means that there are new ones.
    dead_letters: int = 0
    #: For the status: the last one, when it was written (monotonic), and how many events there were then.
    status: Status | None = None
    status_at: float = 0.0
    status_events: int = 0


def facts_of(restored: Restored) -> SnapshotFacts:
    """For the status: the snapshot that a partition was restored from."""
    return SnapshotFacts(
        name=restored.name,
        offset=restored.header.next_offset,
        time=restored.header.created_at,
        bytes=restored.size,
        pause_seconds=0.0,
        seconds=0.0,
    )


class Worker:
    """One member of a pipeline's consumer group.

    Args:
        log: The member and its producer.
        policy: What to do.
        new_pipeline: Makes the empty pipeline of a partition.
        keeper: The snapshots; None: each restart learns every partition again.
        should_stop: Asked between two polls; True ends the worker cleanly.
        clock: Seconds that only grow, for intervals; never seen by the pipeline.
        wall_clock: Epoch seconds, for the status only.
        sleep: Waits between two tries of a commit.
        report: Told several times a second how the worker stands; what it does with that must be quick.
        tell: Told as often what the worker has measured; that must be quick as well.
        measurements: Keeps what it measures; None: with these clocks.
    """

    def __init__(
        self,
        log: Log,
        policy: WorkerPolicy,
        new_pipeline: Callable[[], Pipeline],
        keeper: SnapshotKeeper | None = None,
        *,
        should_stop: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        report: Callable[[WorkerFacts], None] | None = None,
        tell: Callable[[WorkerReadings], None] | None = None,
        measurements: Measurements | None = None,
    ) -> None:
        self._log = log
        self._policy = policy
        self._new_pipeline = new_pipeline
        self._keeper = keeper
        self._incidents = Incidents(
            log.publish_alert, pipeline=policy.pipeline, worker=log.writer, wall_clock=wall_clock
        )
        #: For each partition that waits for a snapshot store that is away: since when, and when to look at it again.
        self._away_since: dict[int, float] = {}
        self._not_before: dict[int, float] = {}
        #: The store's last answer, if it was none: what it was, when it was the first in a row, and when to ask again.
        self._store_error: OSError | None = None
        self._store_away_since = 0.0
        self._ask_store_at = 0.0
        self._should_stop = should_stop
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._report = report
        self._tell = tell
        self._measurements = measurements or Measurements(clock=clock, wall_clock=wall_clock)
        self._reported_at = float("-inf")
        #: When something was last committed or there was nothing to read.
        self._progressed_at = 0.0
        self._owned: dict[int, Owned] = {}
        #: Assigned, not yet restored; a dictionary for its order.
        self._waiting: dict[int, None] = {}
        self._ends: dict[int, int] = {}
        self._fencings = Fencings(log.writer, "worker")
        self._dead_letters = RecentDeadLetters(policy.dead_letter_budget)
        #: Position of the dead letter that was too many.
        self._one_too_many: str | None = None
        #: Records that are processed at once: few at first, as nobody knows how slow the learner is.
        self._records_at_once = 1
        self._uncommitted_records = 0
        self._committed_records = 0
        self._committed_at = 0.0
        self._owned_at = 0.0

    def run(self) -> None:
        """Work until told to stop, or with `stop_at_end` until the ends that were seen at the start.

        Raises:
            EnvironmentRefused: Kafka is not as the state needs it; says what and what to do.
            FencedError: Another process keeps taking this worker's transactional id.
            DeadLetterBudgetSpent: Too much is a dead letter; what was processed is committed.
            ResourcesExhausted: The learner ran out of memory, disk, files or stack, on a record that is named.
        """
        if self._policy.stop_at_end:
            bounds = [
                self._until_answered(partial(self._log.bounds, p)) for p in range(self._log.partition_count)
            ]
            self._ends = {partition: end for partition, (_, end) in enumerate(bounds)}
        self._log.join(on_revoked=self._on_revoked, on_lost=self._on_lost)
        self._committed_at = self._owned_at = self._progressed_at = self._clock()
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
                if records:
                    self._measurements.polled(is_first=not self._uncommitted_records)
                else:
                    self._progressed_at = self._clock()
                self._work(records)
                self._restore_waiting()
                if not records and not self._uncommitted_records:
                    self._step_over()
                    self._snapshot_if_due()
                self._publish_status()
                if not records and self._policy.stop_at_end and self._at_end():
                    break
            if self._commit() or self._commit():  # 6; twice, since what was aborted has been sent again
                self._snapshot_before_letting_go(list(self._owned))
                self._publish_status(last=True)
                log.info("ended", committed_records=self._committed_records)
        except StoppedWaiting as error:
            log.warning(
                "stopped without the last commit: the next worker does that work again", reason=str(error)
            )
        finally:
            self._incidents.let_go([*self._owned, *self._waiting])
            self._owned.clear()  # leaving revokes: what is not committed by now must not be
            self._waiting.clear()
            self._log.leave()

    # 1, 5: begin and restore ------------------------------------------------------------------------------------

    def _restore_waiting(self) -> None:
        """Restore assigned partitions, outside of any callback; what a rebalance prevents waits for the next call."""
        assigned = self._log.take_assigned()
        if assigned:
            log.info("partitions assigned", partitions=list(assigned))
        self._waiting.update(dict.fromkeys(assigned))
        for partition in list(self._waiting):
            if self._clock() < self._not_before.get(partition, float("-inf")):
                continue
            # Asking a store that hangs takes seconds: no transaction may be open, or the broker would end it.
            if self._uncommitted_records and not self._commit():
                return
            try:
                self._restore(partition)
            except StoreAway as error:  # the others need not wait for it
                log.info("not yet restored", partition=partition, reason=str(error))
                continue
            except (CommitRetriable, CommitAborted) as error:
                log.info("not yet restored", partition=partition, reason=str(error))
                self._sleep(RETRY_PAUSE)
                return
            self._stop_waiting(partition)

    def _stop_waiting(self, partition: int) -> None:
        self._waiting.pop(partition, None)
        self._away_since.pop(partition, None)
        self._not_before.pop(partition, None)

    def _restore(self, partition: int) -> None:
        policy = self._policy
        where = f"{policy.topic}[{partition}]"
        if partition >= self._log.partition_count:
            raise EnvironmentRefused(
                f"{where}: the topic had {self._log.partition_count} partitions at the start and has more now: "
                f"keys have moved between learners. {REBUILD} {ANEW}"
            )
        committed = self._log.committed(partition)
        pipeline = self._new_pipeline()
        restored: Restored | None = None
        snapshot: str | None = None
        if committed is None:
            next_offset = self._begin(partition)
            fold, begin_at = self._fold(partition, next_offset), next_offset
        else:
            next_offset = committed.next_offset
            metadata = CommitMetadata.decode(committed.metadata, group=policy.pipeline, where=where)
            metadata.require_same(
                pipeline=policy.pipeline,
                topic_id=self._log.topic_id,
                partitions=self._log.partition_count,
                shape=policy.shape,
                where=where,
            )
            fold = self._fold(partition, metadata.origin, metadata.base, metadata.fold_id)
            begin_at, restored = self._find_beginning(fold, committed.next_offset, metadata.snapshot)
            if restored is not None:
                pipeline.resume(restored.state)
                snapshot = restored.name
            if metadata.writer != self._log.writer:
                # Before any output: should this worker die in a transaction, its successor must know whom to fence.
                self._log.claim(partition, Committed(next_offset, self._metadata(fold, snapshot)))
        self._owned[partition] = Owned(
            pipeline=pipeline,
            fold=fold,
            metadata=self._metadata(fold, snapshot),
            committed=next_offset,
            next_offset=begin_at,
            snapshot=snapshot,
            snapshot_offset=begin_at,
            snapshot_facts=None if restored is None else facts_of(restored),
            label_watch=LabelWatch(LabelBounds(capacity=pipeline.state.labels.policy.capacity)),
            status_at=self._clock(),
            status_events=pipeline.state.events,
        )
        if begin_at == next_offset:
            self._look_at_labels(partition, self._owned[partition])
        self._owned_at = self._clock()
        self._measurements.restored(partition, pipeline, is_live=begin_at == next_offset)
        if self._keeper is not None:
            self._keeper.watch(partition)
        self._log.start(partition, begin_at)
        log.info(
            "partition restored",
            partition=partition,
            origin=fold.origin,
            snapshot=snapshot,
            replay_records=next_offset - begin_at,
        )

    def _find_beginning(self, fold: Fold, committed: int, named: str | None) -> tuple[int, Restored | None]:
        """Where a partition goes on, and the snapshot that it goes on from."""
        partition = fold.partition
        first, end = self._log.bounds(partition)
        require_log(f"{fold.topic}[{partition}]", first=first, end=end, committed=committed)
        found, away = Found(None, ()), ""
        if self._keeper is not None:
            try:
                found = self._ask_store(partial(self._keeper.newest, fold, first=first, committed=committed))
                text = "The snapshots can be read again."
                self._incidents.close(partition, committed, text, SNAPSHOT_INCIDENTS)
            except OSError as error:
                reaches_origin = first <= fold.origin and not fold.base
                if named is not None or not reaches_origin:
                    self._wait_for_store(partition, error, at_most=STORE_PATIENCE if reaches_origin else None)
                    away = f"The snapshots in {self._place()} could not be read for {STORE_PATIENCE:.0f} s. "
                named = None  # whether it is there is not known
        for item in found.refused:
            log.warning("snapshot not used", partition=partition, snapshot=item.name, reason=item.reason)
        beginning = choose_beginning(
            found, fold, first=first, committed=committed, named=named, place=self._place()
        )
        if away:
            away += f"Learning again from the origin, {committed - beginning.offset:,} records."
        if incident := beginning.incident or away:
            self._incidents.open(partition, committed, "snapshot-refused", incident)
        return beginning.offset, beginning.restored

    def _ask_store(self, question: Callable[[], T]) -> T:
        """Ask the snapshot store, unless it was away a moment ago: that it is takes seconds, in which all stands still.

        Raises:
            OSError: It does not answer, or did not.
        """
        if self._store_error is not None and self._clock() < self._ask_store_at:
            raise self._store_error
        try:
            answer = question()
        except OSError as error:
            now = self._clock()
            if self._store_error is None:
                self._store_away_since = now
            self._store_error = error
            self._ask_store_at = now + min(
                max(now - self._store_away_since, STORE_PAUSE), STORE_LONGEST_PAUSE
            )
            raise
        self._store_error = None
        return answer

    def _wait_for_store(self, partition: int, error: OSError, *, at_most: float | None) -> None:
        """Let a partition wait for a store that is away; return once it has waited long enough."""
        now = self._clock()
        since = self._away_since.setdefault(partition, now)
        if at_most is not None and now - since >= at_most:
            return
        until = self._ask_store_at
        self._not_before[partition] = until if at_most is None else min(until, since + at_most)
        reason = str(error.strerror or error).rstrip(".")
        text = f"The snapshots in {self._place()} can't be read: {reason}. The partition waits for it."
        self._incidents.open(partition, 0, "snapshot-store-away", text)
        raise StoreAway(text) from error

    def _place(self) -> str:
        return "[snapshots], which is not enabled" if self._keeper is None else self._keeper.store.address

    def _fold(self, partition: int, origin: int, base: str = "", fold_id: str = "") -> Fold:
        return Fold(
            pipeline=self._policy.pipeline,
            topic=self._policy.topic,
            topic_id=self._log.topic_id,
            partition=partition,
            origin=origin,
            base=base,
            shape=self._policy.shape,
            fold_id=fold_id,
        )

    def _begin(self, partition: int) -> int:
        """Choose the origin and commit it, before any output."""
        policy = self._policy
        for other, committed in self._log.all_committed().items():
            # As where the topic has grown: then this partition has keys of those that have learned already.
            where = f"{policy.topic}[{other}]"
            CommitMetadata.decode(committed.metadata, group=policy.pipeline, where=where).require_same(
                pipeline=policy.pipeline,
                topic_id=self._log.topic_id,
                partitions=self._log.partition_count,
                shape=policy.shape,
                where=where,
            )
        found = "outputs" if self._log.has_outputs(partition) else ""
        if not found and self._keeper is not None:
            try:
                has_any = self._ask_store(partial(self._keeper.has_any, partition))
                found = f"snapshots in {self._place()}" if has_any else ""
            except OSError as error:
                self._wait_for_store(partition, error, at_most=None)
        if found:
            raise EnvironmentRefused(
                f"{policy.topic}[{partition}]: group {policy.pipeline!r} has no committed offset, but there are "
                f"{found}: the group's offsets were lost (an idle group's expire after seven days) or the topic was "
                f"recreated. To go on would repeat outputs from an empty state. {ANEW}"
            )
        first, end = self._log.bounds(partition)
        if policy.start == "earliest":
            origin = first
        elif policy.start == "latest":
            origin = end
        else:
            origin = self._log.offset_at(partition, int(policy.start.timestamp() * 1_000))
        self._log.claim(partition, Committed(origin, self._metadata(self._fold(partition, origin), None)))
        return origin

    def _metadata(self, fold: Fold, snapshot: str | None) -> str:
        return CommitMetadata(
            pipeline=fold.pipeline,
            origin=fold.origin,
            topic_id=fold.topic_id,
            partitions=self._log.partition_count,
            shape=dict(fold.shape),
            writer=self._log.writer,
            snapshot=snapshot,
            base=fold.base,
            fold_id=fold.fold_id,
        ).encode()

    # 2: process -------------------------------------------------------------------------------------------------

    def _work(self, records: Sequence[Record]) -> None:
        """Process what was polled, a few records at a time, and commit as soon as that is due."""
        done = 0
        while True:
            done += self._process(records[done : done + RECORDS_A_LOOK])
            if self._uncommitted_records and self._commit_is_due(len(records)) and self._commit():
                self._snapshot_if_due()
            self._turned()
            if self._one_too_many is not None:
                self._publish_status(last=True)
                raise self._budget_spent(self._one_too_many)
            if self._should_stop():
                break
            waiting = records[done:]
            if not waiting:
                break
            self._publish_status(waiting=waiting)  # a slow learner takes minutes for all of a poll

    def _process(self, records: Sequence[Record]) -> int:
        """Process a few records, as many as there is time for, and measure that; how many.

        For some the calls of the learner are measured as well.
        """
        if not records:
            return 0
        measurements = self._measurements
        began = self._clock()
        if measurements.wants_sample(len(records)):
            observed = [(partition, owned.pipeline) for partition, owned in self._owned.items()]
            for partition, pipeline in observed:
                pipeline.observe_learner(partial(measurements.timed, partition))
            done, seconds = self._process_in_time(records, began)
            for _, pipeline in observed:
                pipeline.observe_learner(None)
        else:
            done, seconds = self._process_in_time(records, began)
        measurements.processed(done, seconds)
        return done

    def _process_in_time(self, records: Sequence[Record], began: float) -> tuple[int, float]:
        """Process records until they have taken long; how many, and how many seconds since it began."""
        done = 0
        while True:
            some = records[done : done + self._records_at_once]
            self._process_each(some)
            done += len(some)
            seconds = self._clock() - began
            in_time = RECORDS_A_LOOK if seconds <= 0 else int(LOOK_SECONDS * done / seconds)
            self._records_at_once = max(1, min(2 * self._records_at_once, in_time, RECORDS_A_LOOK))
            if done >= len(records) or seconds >= LOOK_SECONDS:
                return done, seconds

    def _process_each(self, records: Sequence[Record]) -> None:
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
                elif owned.next_offset == owned.committed:
                    self._measurements.caught_up(partition, owned.pipeline)
                    self._look_at_labels(partition, owned)
        except ProducerFenced as error:
            self._on_fenced(error)
        except HeadraceError:
            raise
        except BaseException as error:
            if record is None:
                raise
            where = position(self._policy.topic, record.partition, record.offset)
            if isinstance(error, NOT_THE_RECORDS_FAULT):
                log.error("stopped on a record", position=where, exc_info=True)
                raise ResourcesExhausted(
                    f"{where}: processing this record ended with {in_a_line(error)}. That says nothing about the "
                    "record, so it is no dead letter. Give the worker the memory, disk, files or stack that its "
                    "learner needs, and start it again: it does this record again."
                ) from error
            error.add_note(f"at {where}")
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
        began = self._clock()
        try:
            self._until_answered(lambda: self._log.send_offsets(commits))
            self._until_answered(self._log.commit)
        except CommitAborted as error:
            log.info("commit aborted", reason=str(error))
            self._measurements.commit_aborted()
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
            if owned.dead_letters != owned.pipeline.state.dead_letters:
                self._count_dead_letters(partition, owned)
            self._measurements.committed(partition, owned.pipeline, owned.uncommitted)
            owned.uncommitted.clear()
        self._committed_at = self._progressed_at = self._clock()
        self._measurements.commit_ended(self._uncommitted_records, self._committed_at - began)
        self._committed_records += self._uncommitted_records
        self._uncommitted_records = 0
        return True

    def _step_over(self) -> None:
        """Commit the end of the log where nothing but control records lies before it, once it has been quiet.

        The transactions of producers leave one each, and so does a relay's. When retention has deleted the last of
        them nobody could tell any more that no event was among what lay between C and the log's beginning.
        """
        if self._clock() - self._committed_at < STEP_OVER:
            return
        moved = False
        for partition, owned in self._owned.items():
            reached = self._log.position(partition)
            if owned.committed == owned.next_offset < reached:
                owned.next_offset = reached
                moved = True
        if moved:
            self._commit()

    def _count_dead_letters(self, partition: int, owned: Owned) -> None:
        """Take those that have just been committed, which no replay is among, off the budget."""
        owned.dead_letters = owned.pipeline.state.dead_letters
        self._measurements.dead_letters(partition, headers_of(owned.uncommitted, "headrace.stage"))
        positions = headers_of(owned.uncommitted, "headrace.position")
        if positions and self._dead_letters.add(len(positions), self._clock()):
            self._one_too_many = positions[-1]  # raised by the loop: this may be a callback

    def _budget_spent(self, where: str) -> DeadLetterBudgetSpent:
        budget = self._dead_letters.budget
        return DeadLetterBudgetSpent(
            f"{where}: this was dead letter number {self._dead_letters.count:,} within "
            f"{budget.window_seconds:g} s; expected at most {budget.most:,}. All up to here is committed. Look at them "
            "with `headrace dead-letters list`, mend the producer or [event], or raise [worker] dead_letter_budget; a "
            "restart goes on behind them."
        )

    def _until_answered(self, step: Callable[[], T]) -> T:
        return until_answered(
            step, again=self._no_answer, should_stop=self._should_stop, clock=self._clock, sleep=self._sleep
        )

    def _no_answer(self, error: CommitRetriable) -> None:
        log.warning("no answer, trying again", reason=str(error))
        self._turned()

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
        self._fencings.add(error, self._clock())
        log.warning("producer fenced, starting a new one", reason=str(error))
        self._measurements.fenced()
        self._waiting.update(dict.fromkeys(self._owned))
        self._owned.clear()
        self._uncommitted_records = 0
        self._until_answered(self._log.renew_producer)

    # 4: snapshot ------------------------------------------------------------------------------------------------

    def _snapshot_if_due(self) -> None:
        """Directly after a commit, or when nothing has come since: state and C agree."""
        keeper = self._keeper
        if keeper is None:
            return
        self._collect_snapshots(keeper)
        partition = keeper.due(
            {
                partition: owned.next_offset - owned.snapshot_offset
                for partition, owned in self._owned.items()
                if owned.next_offset == owned.committed
            },
            lambda: [owned.pipeline.state for owned in self._owned.values()],
        )
        if partition is not None:
            self._take_snapshot(keeper, self._owned[partition])
            self._collect_snapshots(keeper)

    @staticmethod
    def _take_snapshot(keeper: SnapshotKeeper, owned: Owned) -> None:
        keeper.take(owned.pipeline.state, owned.fold, owned.next_offset)
        owned.snapshot_offset = owned.next_offset

    def _collect_snapshots(self, keeper: SnapshotKeeper) -> None:
        """Let the next commit name what was written, and tell people of what was not."""
        for taken in keeper.collect():
            partition = taken.partition
            if taken.name is None and partition not in self._owned:
                # Lost meanwhile: nobody here would close the incident, and its next owner may have pruned the file.
                log.info("snapshot not written", partition=partition, reason=taken.reason)
                continue
            if taken.name is None:
                self._measurements.snapshot_failed(partition)
                self._incidents.open(
                    partition,
                    taken.next_offset,
                    "snapshot-failed",
                    f"No snapshot at {taken.next_offset} in {self._place()}: {taken.reason} Work goes on, the older "
                    "ones are as they were, and the next is tried in a while.",
                )
                continue
            self._measurements.snapshot_written(
                partition, pause_seconds=taken.pause_seconds, seconds=taken.seconds
            )
            text = f"A snapshot was written: {taken.name}."
            self._incidents.close(partition, taken.next_offset, text, SNAPSHOT_INCIDENTS)
            log.info(
                "snapshot written",
                partition=partition,
                snapshot=taken.name,
                bytes=taken.size,
                pause_seconds=round(taken.pause_seconds, 4),
                seconds=round(taken.seconds, 4),
            )
            owned = self._owned.get(partition)
            if owned is not None and taken.next_offset > (
                -1 if owned.snapshot is None else offset_of(owned.snapshot)
            ):
                owned.snapshot = taken.name
                owned.metadata = self._metadata(owned.fold, taken.name)
                owned.snapshot_facts = SnapshotFacts(
                    name=taken.name,
                    offset=taken.next_offset,
                    time=self._wall_clock(),
                    bytes=taken.size,
                    pause_seconds=taken.pause_seconds,
                    seconds=taken.seconds,
                )

    def _snapshot_before_letting_go(self, partitions: Sequence[int]) -> None:
        """So that whoever takes over has little to replay; as far as it takes no long."""
        keeper = self._keeper
        if keeper is None:
            return
        deadline = self._clock() + LETTING_GO
        for partition in partitions:
            owned = self._owned.get(partition)
            if owned is None or owned.next_offset != owned.committed:
                continue
            if owned.next_offset == owned.snapshot_offset or not keeper.is_cheap(partition, CHEAP):
                continue
            if not keeper.wait(deadline - self._clock()):
                break
            self._take_snapshot(keeper, owned)
        keeper.wait(deadline - self._clock())
        self._collect_snapshots(keeper)

    # 6: revocation ----------------------------------------------------------------------------------------------

    def _on_revoked(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._stop_waiting(partition)
        if any(partition in self._owned for partition in partitions):
            committed = self._commit(may_resend=False)
            if committed:
                self._snapshot_before_letting_go(partitions)
            for partition in partitions:
                self._owned.pop(partition, None)
                self._waiting.pop(partition, None)  # where a fenced producer put it
            if not committed:
                self._send_again()
            log.info("partitions revoked", partitions=list(partitions), committed=committed)
        self._incidents.let_go(partitions)  # last: the snapshot before it may have failed
        self._owned_at = self._clock()

    def _on_lost(self, partitions: Sequence[int]) -> None:
        self._incidents.let_go(partitions)
        for partition in partitions:
            self._stop_waiting(partition)
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

    def _turned(self) -> None:
        """Report now and then that the loop comes round, how the partitions stand, and what was measured."""
        now = self._clock()
        if now - self._reported_at < REPORT_INTERVAL:
            return
        self._reported_at = now
        if any(owned.next_offset < owned.committed for owned in self._owned.values()):
            self._progressed_at = now  # a replay commits nothing, and goes on
        if self._tell is not None:
            self._tell(self._readings(now))
        if self._report is None:
            return
        partitions = [PartitionFacts(partition=partition, state="waiting") for partition in self._waiting]
        partitions += [
            PartitionFacts(
                partition=partition,
                state="live" if owned.next_offset >= owned.committed else "replaying",
                next_offset=owned.next_offset,
                committed=owned.committed,
            )
            for partition, owned in self._owned.items()
        ]
        self._report(
            WorkerFacts(
                turned_at=now,
                progressed_at=self._progressed_at,
                has_assignment=self._log.has_assignment(),
                partitions=tuple(sorted(partitions, key=lambda item: item.partition)),
            )
        )

    def _readings(self, now: float) -> WorkerReadings:
        incidents = self._incidents
        partitions = [
            PartitionReadings(partition=partition, state="waiting", incidents=incidents.of(partition))
            for partition in self._waiting
        ]
        partitions += [
            self._measurements.partition(
                partition,
                owned.pipeline,
                next_offset=owned.next_offset,
                committed=owned.committed,
                status=owned.status,
                incidents=incidents.of(partition),
            )
            for partition, owned in self._owned.items()
        ]
        return self._measurements.readings(
            turned_at=now,
            progressed_at=self._progressed_at,
            partitions=sorted(partitions, key=lambda item: item.partition),
        )

    def _publish_status(self, *, last: bool = False, waiting: Sequence[Record] = ()) -> None:
        """Every few seconds and once at the end, for each partition; records that were polled may be waiting."""
        now = self._clock()
        for partition, owned in self._owned.items():
            since = now - owned.status_at
            if not last and since < self._policy.status_interval_seconds:
                continue
            state = owned.pipeline.state
            labels, counts = state.labels, state.labels.counts()
            end = self._log.end(partition)
            read = owned.next_offset
            if not any(record.partition == partition for record in waiting):
                read = max(read, self._log.position(partition))
            status = Status(
                pipeline=self._policy.pipeline,
                partition=partition,
                worker=self._log.writer,
                offset=owned.next_offset,
                end=end,
                lag_records=None if end is None else max(0, end - read),
                events=state.events,
                predictions=state.predictions,
                questions=counts["questions"],
                joined=counts["joined"],
                learned=state.learner.learned,
                scored=state.prequential.scored,
                dead_letters=state.dead_letters,
                dead_letters_by_stage=state.dead_letters_by_stage.copy(),
                pending=counts["pending"],
                expired=counts["expired"],
                expired_early=counts["expired_early"],
                expired_learned=counts["expired_learned"],
                late=counts["late"],
                early=counts["early"],
                early_waiting=counts["early_waiting"],
                unmatched=counts["unmatched"],
                duplicate_labels=counts["duplicate_labels"],
                conflicting_labels=counts["conflicting_labels"],
                corrected_labels=counts["corrected_labels"],
                duplicates=state.duplicates,
                ignored=state.ignored,
                label_health=label_health(counts),
                label_delay=labels.delay(),
                label_delay_histogram=delay_histogram(labels.delays),
                non_finite=state.non_finite,
                rate=(state.events - owned.status_events) / since if since > 0 else 0.0,
                window=state.prequential.window,
                metrics=state.prequential.values(),
                baselines=state.prequential.baselines(),
                classes=state.prequential.classes(),
                drift=state.drift.status(),
                learner=state.learner.name,
                learner_seconds=self._measurements.learner_seconds(partition),
                snapshot=owned.snapshot_facts,
                state="live" if owned.next_offset >= owned.committed else "replaying",
                incidents=self._incidents.of(partition),
                time=self._wall_clock(),
            )
            owned.status, owned.status_at, owned.status_events = status, now, state.events
            self._log.publish_status(partition, encode_json(status.to_dict()))
            if status.state == "live":
                self._look_at_labels(partition, owned)

    def _look_at_labels(self, partition: int, owned: Owned) -> None:
        """Open and close the incidents of how labels come; the partition is live."""
        state = owned.pipeline.state
        for told in owned.label_watch.look(
            state.labels.counts(),
            predictions=state.predictions,
            duplicates=state.duplicates,
            now=self._clock(),
        ):
            if told.state == "open":
                self._incidents.open(partition, owned.next_offset, told.incident, told.text)
            else:
                self._incidents.close(partition, owned.next_offset, told.text, (told.incident,))
