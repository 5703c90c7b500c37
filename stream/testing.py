"""Kafka in memory, as far as the worker can tell the difference: for tests of its decisions, without a broker.

A `MemoryCluster` keeps one events topic, the output topics and one consumer group; each `MemoryLog` is one member
of that group with its producer, the in-memory adapter of the port `stream.log.Log`. What goes wrong is chosen by the
test: rebalances (`assign`, `lose`), deaths (`crash`), answers that do not come (`fail`), dead transactions. What a
correct worker never does, such as aborting after a commit that got no answer, is an AssertionError.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal, NamedTuple, TypeVar

from stream.checkpoint import CommitMetadata
from stream.errors import EnvironmentRefused, SnapshotError
from stream.log import CommitAborted, CommitRetriable, Committed, ProducerFenced
from stream.records import Headers, Output, OutputKind, Record, position
from stream.snapshots.store import newest_first, segments_of
from stream.worker import Worker

T = TypeVar("T")

#: The calls of the port that a test can make fail.
Step = Literal[
    "poll", "committed", "claim", "start", "send", "send_offsets", "commit", "abort", "renew_producer"
]


class ManualClock:
    """Seconds that pass only when somebody waits.

    Example:
        >>> clock = ManualClock(100.0)
        >>> clock.sleep(2.5)
        >>> clock()
        102.5
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Now."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class Fault(Enum):
    """What happens at a step instead of what should."""

    #: No answer, but it was done.
    RETRIABLE_DONE = auto()
    #: No answer, and it was not done.
    RETRIABLE_NOT_DONE = auto()
    #: The transaction must be aborted.
    ABORTABLE = auto()
    #: The producer is fenced; its transaction is gone.
    FATAL = auto()
    #: The process dies before the step is done.
    CRASH_BEFORE = auto()
    #: The process dies after the step is done.
    CRASH_AFTER = auto()


class Crashed(BaseException):
    """The process is dead: no code of it that catches errors may see this one."""


class Written(NamedTuple):
    """One record of an output topic."""

    to: OutputKind
    key: bytes | None
    value: bytes | None
    headers: Headers | None
    timestamp: int


@dataclass(slots=True, eq=False)
class Transaction:
    """What a producer wrote between begin and commit, in the broker's view."""

    writer: str
    state: Literal["open", "committed", "aborted"] = "open"
    #: Partitions it wrote outputs for.
    partitions: set[int] = field(default_factory=set)
    #: Input offsets that become the group's if it is committed; pending until then.
    offsets: dict[int, Committed] = field(default_factory=dict)


class MemoryCluster:
    """Brokers, topics and the consumer group.

    Args:
        partitions: Partitions of the events topic, and so of each output topic.
        clock: What passes while a member waits in vain for records.

    Example:
        >>> cluster = MemoryCluster(partitions=1, clock=ManualClock())
        >>> cluster.append(0, b"{}"), cluster.append_marker(0), cluster.append(0, b"{}")
        (0, 1, 2)
    """

    topic = "events"

    def __init__(self, *, partitions: int, clock: ManualClock) -> None:
        self.topic_id = "topic-1"
        self.partition_count = partitions
        self.clock = clock
        #: The group's commits, by partition.
        self.commits: dict[int, Committed] = {}
        #: Status records, oldest first.
        self.statuses: list[tuple[int, bytes]] = []
        #: Incidents, oldest first.
        self.incidents: list[tuple[int, bytes]] = []
        #: Whether the group has dealt out its partitions, to whomever.
        self.is_balanced = False
        #: All members that ever were.
        self.members: list[MemoryLog] = []
        self._events: list[list[Record | None]] = [[] for _ in range(partitions)]
        self._first = [0] * partitions
        self._held_at: dict[int, int] = {}
        self._outputs: list[list[tuple[Transaction | None, Written]]] = [[] for _ in range(partitions)]
        self._open: dict[str, Transaction] = {}
        self._epochs: dict[str, int] = {}
        self._owners: dict[int, MemoryLog] = {}
        self._target: dict[int, MemoryLog] = {}

    # The events topic -------------------------------------------------------------------------------------------

    def append(
        self,
        partition: int,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        timestamp: int | None = None,
    ) -> int:
        """Produce one record; its offset. The timestamp is the offset in seconds unless given."""
        offset = len(self._events[partition])
        at = offset * 1_000 if timestamp is None else timestamp
        self._events[partition].append(Record(partition, offset, at, key, value, headers))
        return offset

    def append_marker(self, partition: int) -> int:
        """A control record, as a producer's transaction leaves one: takes an offset, is never delivered."""
        self._events[partition].append(None)
        return len(self._events[partition]) - 1

    def hold(self, partition: int) -> None:
        """A producer opens a transaction here: nothing from here on is stable until `release`."""
        self._held_at.setdefault(partition, len(self._events[partition]))

    def release(self, partition: int) -> None:
        """That producer commits, which leaves a control record."""
        del self._held_at[partition]
        self.append_marker(partition)

    def truncate(self, partition: int, first: int) -> None:
        """Retention deletes what is before this offset."""
        self._first[partition] = first

    def lose_records_from(self, partition: int, end: int) -> None:
        """Delete the records from this offset on, as an unclean leader election does."""
        del self._events[partition][end:]

    def stable_end(self, partition: int) -> int:
        """The last stable offset: what a `read_committed` reader can reach."""
        return min(self._held_at.get(partition, 1 << 62), len(self._events[partition]))

    def first(self, partition: int) -> int:
        """The first offset that there still is."""
        return self._first[partition]

    def records(self, partition: int) -> list[Record]:
        """All that a consumer from the beginning would be given."""
        upto = self.stable_end(partition)
        return [
            record for record in self._events[partition][self._first[partition] : upto] if record is not None
        ]

    # The output topics ------------------------------------------------------------------------------------------

    def outputs(self, partition: int, to: OutputKind | None = None) -> list[Written]:
        """What a `read_committed` reader sees: up to the first open transaction, without aborted ones."""
        found = []
        # Every output topic has its own end of what is stable: an open transaction holds back what it wrote to.
        held: set[OutputKind] = set()
        for transaction, written in self._outputs[partition]:
            if transaction is not None and transaction.state == "open":
                held.add(written.to)
            visible = transaction is None or transaction.state == "committed"
            if visible and written.to not in held and to in (None, written.to):
                found.append(written)
        return found

    def has_outputs(self, partition: int) -> bool:
        """Whether any output topic but the alerts has an end above 0; what was aborted counts."""
        return any(written.to != "alerts" for _, written in self._outputs[partition])

    # The group --------------------------------------------------------------------------------------------------

    def assign(self, target: Mapping[MemoryLog, Sequence[int]] | None = None, *, stale: bool = False) -> None:
        """Begin a rebalance. Each member learns of it in its next poll; what moves waits until it is let go.

        Args:
            target: The partitions of each member; None deals them out evenly among the living.
            stale: The generation ends at once: whoever has not polled yet can't commit.
        """
        if target is None:
            living = [member for member in self.members if member.is_member]
            target = {
                member: range(self.partition_count)[i :: len(living)] for i, member in enumerate(living)
            }
        self._target = {partition: member for member, own in target.items() for partition in own}
        self.is_balanced = True
        if stale:
            for member in self.members:
                member.is_stale = True

    def lose(self, member: MemoryLog) -> None:
        """Its session times out: its partitions are free at once, and it finds out in its next poll."""
        member.is_stale = member.is_lost = True
        self._release_owned(member)

    def end_all_transactions(self) -> None:
        """Time passes: whatever transaction is open runs out of it."""
        for writer in list(self._open):
            self.end_transaction(writer)

    def end_transaction(self, writer: str) -> None:
        """The writer's transaction runs out of time: it is aborted, and its producer fenced."""
        self.init_transactions(writer)

    def init_transactions(self, writer: str) -> int:
        """What a producer does first: ends what the last one with this id left open. Returns the epoch."""
        if (transaction := self._open.pop(writer, None)) is not None:
            transaction.state = "aborted"
        self._epochs[writer] = self._epochs.get(writer, 0) + 1
        return self._epochs[writer]

    def epoch(self, writer: str) -> int:
        """The epoch that may write; a producer with an older one is fenced."""
        return self._epochs[writer]

    # For the members --------------------------------------------------------------------------------------------

    def at(self, partition: int, offset: int) -> Record | None:
        """The record at an offset; None is a control record."""
        return self._events[partition][offset]

    def take_gained(self, member: MemoryLog) -> list[int]:
        """Partitions that are this member's by the target and nobody's now; they are its own from here on."""
        gained = [p for p, owner in self._target.items() if owner is member and p not in self._owners]
        self._owners.update(dict.fromkeys(gained, member))
        return gained

    def is_target(self, partition: int, member: MemoryLog) -> bool:
        """Whether the partition is to be this member's."""
        return self._target.get(partition) is member

    def free(self, partitions: Sequence[int], member: MemoryLog) -> None:
        """The member lets go."""
        for partition in partitions:
            if self._owners.get(partition) is member:
                del self._owners[partition]

    def _release_owned(self, member: MemoryLog) -> None:
        self.free([p for p, owner in self._owners.items() if owner is member], member)

    def drop(self, member: MemoryLog) -> None:
        """The member has left or is dead."""
        self._release_owned(member)
        self._target = {p: owner for p, owner in self._target.items() if owner is not member}

    def begin(self, writer: str) -> Transaction:
        """Open a transaction."""
        self._open[writer] = transaction = Transaction(writer)
        return transaction

    def write(
        self, partition: int, timestamp: int, outputs: Sequence[Output], transaction: Transaction | None
    ) -> None:
        """Append outputs."""
        for output in outputs:
            written = Written(output.to, output.key, output.value, output.headers, timestamp)
            self._outputs[partition].append((transaction, written))
        if transaction is not None:
            transaction.partitions.add(partition)

    def finish(self, transaction: Transaction, state: Literal["committed", "aborted"]) -> None:
        """Commit or abort."""
        transaction.state = state
        del self._open[transaction.writer]
        if state == "committed":
            self.commits.update(transaction.offsets)

    def read_commit(self, partition: int, reader: str) -> Committed | None:
        """The group's commit, after ending what holds it back as `KafkaLog.committed` does."""
        stored = self.commits.get(partition)
        others = [transaction for transaction in self._open.values() if transaction.writer != reader]
        if any(
            partition in transaction.partitions or partition in transaction.offsets for transaction in others
        ):
            if stored is not None:
                writer = CommitMetadata.decode(stored.metadata, group="", where="").writer
                if writer in self._open and writer != reader:
                    self.init_transactions(writer)
            for transaction in others:
                # Pending offsets of anybody else hold the answer back until that transaction times out.
                if transaction.state == "open" and partition in transaction.offsets:
                    self.end_transaction(transaction.writer)
        return self.commits.get(partition)


class MemoryLog:
    """One member of the group, with its producer: `stream.log.Log` on a `MemoryCluster`.

    Args:
        cluster: Where it lives.
        writer: Its transactional id; a restarted worker has the same one again.
        exactly_once: False for `delivery = "at_least_once"`.
        batch: Most records of one poll.
    """

    def __init__(
        self, cluster: MemoryCluster, writer: str = "w-0", *, exactly_once: bool = True, batch: int = 1_000
    ) -> None:
        self.writer = writer
        self.topic_id = cluster.topic_id
        self.partition_count = cluster.partition_count
        self.batch = batch
        self.cluster = cluster
        #: Names of the port's steps, as they were called.
        self.calls: list[str] = []
        #: Called before each step with its name.
        self.before_step: Callable[[Step], None] = lambda _: None
        self.is_member = False
        self.is_stale = False
        self.is_lost = False
        self.is_dead = False
        self._exactly_once = exactly_once
        self._faults: dict[str, list[tuple[int, Fault]]] = {}
        self._on_revoked: Callable[[Sequence[int]], None] = lambda _: None
        self._on_lost: Callable[[Sequence[int]], None] = lambda _: None
        self._has_assignment = False
        self._assigned: list[int] = []
        self._gained: list[int] = []
        self._next: dict[int, int] = {}
        self._positions: dict[int, int] = {}
        self._epoch = 0
        self._transaction: Transaction | None = None
        self._must_abort = False
        self._unanswered = False
        self._unsent_offsets: Mapping[int, Committed] = {}
        self._open_bytes = 0

    # What a test does -------------------------------------------------------------------------------------------

    def fail(self, step: Step, fault: Fault, *, after: int = 0) -> None:
        """Let a step fail once, after it has gone well so many times; calls add up."""
        self._faults.setdefault(step, []).append((after, fault))

    def crash(self) -> None:
        """The process dies: its transaction stays open, its partitions are free."""
        self.is_dead = True
        self.is_member = False
        self.cluster.drop(self)

    def _do(self, step: Step, action: Callable[[], T]) -> T:
        self.before_step(step)
        if self.is_dead:
            raise Crashed(self.writer)
        self.calls.append(step)
        fault = None
        if script := self._faults.get(step):
            after, fault_ahead = script[0]
            if after:
                script[0] = (after - 1, fault_ahead)
            else:
                fault = fault_ahead
                del script[0]
        transactional = step in ("send", "send_offsets", "commit", "abort")
        if transactional and self._exactly_once and self._epoch != self.cluster.epoch(self.writer):
            raise ProducerFenced("a newer producer has this id, or the transaction timed out")
        match fault:
            case Fault.CRASH_BEFORE:
                self.crash()
                raise Crashed(self.writer)
            case Fault.RETRIABLE_NOT_DONE:
                self._unanswered = self._unanswered or step == "commit"
                raise CommitRetriable("no answer")
            case Fault.ABORTABLE if not (step == "commit" and self._unanswered and self._transaction is None):
                # That one had happened: then the answer is a success. Any other is an answer, too.
                self._unanswered = False
                self._must_abort = transactional
                raise CommitAborted("as the test wants it")
            case Fault.FATAL:
                self.cluster.end_transaction(self.writer)
                raise ProducerFenced("as the test wants it")
        result = action()
        match fault:
            case Fault.CRASH_AFTER:
                self.crash()
                raise Crashed(self.writer)
            case Fault.RETRIABLE_DONE:
                self._unanswered = self._unanswered or step == "commit"
                raise CommitRetriable("no answer")
        return result

    # The group --------------------------------------------------------------------------------------------------

    def join(
        self, *, on_revoked: Callable[[Sequence[int]], None], on_lost: Callable[[Sequence[int]], None]
    ) -> None:
        """See `stream.log.Log.join`."""
        self._on_revoked, self._on_lost = on_revoked, on_lost
        self._epoch = self.cluster.init_transactions(self.writer)
        self.is_member = True
        self.cluster.members.append(self)

    def poll(self, timeout_seconds: float) -> Sequence[Record]:
        """See `stream.log.Log.poll`: the first record is in hand already when the callbacks run."""
        return self._do("poll", lambda: self._poll(timeout_seconds))

    def _poll(self, timeout_seconds: float) -> Sequence[Record]:
        records = self._fetch(1)
        self._rebalance()
        records += self._fetch(self.batch - len(records))
        if not records:
            self.cluster.clock.sleep(timeout_seconds)
        return records

    def _fetch(self, most: int) -> list[Record]:
        records: list[Record] = []
        for partition, start in self._next.items():
            if start < self.cluster.first(partition):
                where = position(self.cluster.topic, partition, start)
                raise EnvironmentRefused(f"{where}: the log has no such offset: it was truncated.")
            end = self.cluster.stable_end(partition)
            at = start
            while at < end and len(records) < most:
                record = self.cluster.at(partition, at)
                at += 1
                if record is not None:
                    records.append(record)
            if start >= end:
                self._positions[partition] = at  # only now: the end is known when there is nothing to read
            self._next[partition] = at
        return records

    def _rebalance(self) -> None:
        self.is_stale = False
        if self.is_lost:
            self.is_lost = False
            self._let_go(list(self._assigned), self._on_lost)
        else:
            moving = [p for p in self._assigned if not self.cluster.is_target(p, self)]
            self._let_go(moving, self._on_revoked)
            self.cluster.free(moving, self)
        gained = self.cluster.take_gained(self)
        self._has_assignment = self.cluster.is_balanced
        self._assigned += gained
        self._gained += gained

    def _let_go(self, partitions: list[int], tell: Callable[[Sequence[int]], None]) -> None:
        if not partitions:
            return
        tell(partitions)
        for partition in partitions:
            self._assigned.remove(partition)
            self._next.pop(partition, None)
        self._gained = [partition for partition in self._gained if partition not in partitions]

    def has_assignment(self) -> bool:
        """See `stream.log.Log.has_assignment`."""
        return self._has_assignment

    def take_assigned(self) -> Sequence[int]:
        """See `stream.log.Log.take_assigned`."""
        gained, self._gained = self._gained, []
        return gained

    def start(self, partition: int, offset: int) -> None:
        """See `stream.log.Log.start`."""

        def do() -> None:
            assert partition in self._assigned, f"started partition {partition}, which is not assigned"
            self._next[partition] = self._positions[partition] = offset

        self._do("start", do)

    def position(self, partition: int) -> int:
        """See `stream.log.Log.position`."""
        return self._positions[partition]

    def next_offset(self, partition: int) -> int | None:
        """The offset of the next record it will fetch; None for a partition that is not started."""
        return self._next.get(partition)

    def end(self, partition: int) -> int | None:
        """See `stream.log.Log.end`."""
        return self.cluster.stable_end(partition)

    # Offsets ----------------------------------------------------------------------------------------------------

    def committed(self, partition: int) -> Committed | None:
        """See `stream.log.Log.committed`."""
        assert self._transaction is None or self._transaction.state != "open", (
            "looked for a commit with a transaction open, which the broker may end meanwhile"
        )
        return self._do("committed", lambda: self.cluster.read_commit(partition, self.writer))

    def all_committed(self) -> Mapping[int, Committed]:
        """See `stream.log.Log.all_committed`."""
        return dict(self.cluster.commits)

    def claim(self, partition: int, committed: Committed) -> None:
        """See `stream.log.Log.claim`."""

        def do() -> None:
            if self.is_stale:
                raise CommitAborted("the generation is stale")
            self._store({partition: committed})

        self._do("claim", do)

    def bounds(self, partition: int) -> tuple[int, int]:
        """See `stream.log.Log.bounds`."""
        return self.cluster.first(partition), self.cluster.stable_end(partition)

    def has_outputs(self, partition: int) -> bool:
        """See `stream.log.Log.has_outputs`."""
        return self.cluster.has_outputs(partition)

    def offset_at(self, partition: int, timestamp: int) -> int:
        """See `stream.log.Log.offset_at`."""
        later = [r.offset for r in self.cluster.records(partition) if r.timestamp >= timestamp]
        return later[0] if later else self.cluster.stable_end(partition)

    def _store(self, commits: Mapping[int, Committed]) -> None:
        for commit in commits.values():
            assert len(commit.metadata) <= 4_096, "Kafka takes 4,096 bytes of metadata"
        self.cluster.commits.update(commits)

    # The transaction --------------------------------------------------------------------------------------------

    def _in_transaction(self) -> Transaction:
        assert not self._must_abort, "went on in a transaction that must be aborted"
        assert not self._unanswered, "went on after a commit that got no answer"
        if self._transaction is None:
            self._transaction = self.cluster.begin(self.writer)
        return self._transaction

    def send(self, partition: int, timestamp: int, outputs: Sequence[Output]) -> None:
        """See `stream.log.Log.send`."""

        def do() -> None:
            transaction = self._in_transaction() if self._exactly_once else None
            self.cluster.write(partition, timestamp, outputs, transaction)
            self._open_bytes += sum(len(o.value or b"") for o in outputs if o.headers is not None)

        self._do("send", do)

    def send_offsets(self, commits: Mapping[int, Committed]) -> None:
        """See `stream.log.Log.send_offsets`."""

        def do() -> None:
            if not self._exactly_once:
                self._unsent_offsets = commits
                return
            transaction = self._in_transaction()
            if self.is_stale:
                self._must_abort = True
                raise CommitAborted("the generation is stale")
            transaction.offsets.update(commits)

        self._do("send_offsets", do)

    def commit(self) -> None:
        """See `stream.log.Log.commit`."""

        def do() -> None:
            if not self._exactly_once:
                if self.is_stale:
                    raise CommitAborted("the generation is stale")
                self._store(self._unsent_offsets)
            elif self._transaction is not None:
                assert not self._must_abort, "committed a transaction that must be aborted"
                self._store(self._transaction.offsets)
                self.cluster.finish(self._transaction, "committed")
                self._transaction = None
            else:
                assert self._unanswered, "committed without a transaction"
            self._open_bytes = 0

        self._do("commit", do)
        self._unanswered = False

    def abort(self) -> None:
        """See `stream.log.Log.abort`."""

        def do() -> None:
            assert not self._unanswered, "aborted after a commit that got no answer: it may have happened"
            if self._transaction is not None:
                self.cluster.finish(self._transaction, "aborted")
            self._transaction = None
            self._must_abort = False
            self._open_bytes = 0

        self._do("abort", do)

    def renew_producer(self) -> None:
        """See `stream.log.Log.renew_producer`."""

        def do() -> None:
            self._epoch = self.cluster.init_transactions(self.writer)
            self._transaction = None
            self._must_abort = self._unanswered = False
            self._open_bytes = 0

        self._do("renew_producer", do)

    def publish_status(self, partition: int, body: bytes) -> None:
        """See `stream.log.Log.publish_status`."""
        self.cluster.statuses.append((partition, body))

    def publish_alert(self, partition: int, body: bytes) -> None:
        """See `stream.log.Log.publish_alert`."""
        self.cluster.incidents.append((partition, body))

    def open_bytes(self) -> int:
        """See `stream.log.Log.open_bytes`."""
        return self._open_bytes

    def leave(self) -> None:
        """See `stream.log.Log.leave`."""
        if self.is_dead:
            return
        if self._transaction is not None and self._transaction.state == "open":
            self.cluster.finish(self._transaction, "aborted")
            self._transaction = None
        if self.is_member:
            self._let_go(list(self._assigned), self._on_lost if self.is_lost else self._on_revoked)
        self.is_member = False
        self.cluster.drop(self)


class SteppedWorker:
    """A worker that runs from one pause to the next, so that a test can put several of them in any order.

    The worker has a thread of its own, and of that and the test's thread exactly one runs at any moment.

    Args:
        log: Its member; its `before_step` is taken.
        new_worker: Makes the worker, given what it asks whether to stop.
        pauses: The steps before which it pauses.
    """

    def __init__(
        self,
        log: MemoryLog,
        new_worker: Callable[[Callable[[], bool]], Worker],
        *,
        pauses: Sequence[Step] = ("poll",),
    ) -> None:
        self.log = log
        #: What ended it; None if it runs, or ended cleanly.
        self.error: BaseException | None = None
        self.has_ended = False
        self._stopping = False
        self._worker = new_worker(lambda: self._stopping)
        self._may_run = threading.Semaphore(0)
        self._has_paused = threading.Semaphore(0)
        log.before_step = lambda step: self._pause() if step in pauses else None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._may_run.acquire()
        try:
            self._worker.run()
        except BaseException as error:
            self.error = error
        finally:
            self.has_ended = True
            self._has_paused.release()

    def _pause(self) -> None:
        self._has_paused.release()
        self._may_run.acquire()

    def step(self, times: int = 1) -> None:
        """Go on up to the next pause, so many times; the first step only joins the group."""
        for _ in range(times):
            if not self.has_ended:
                self._may_run.release()
                self._has_paused.acquire()

    def stop(self) -> None:
        """Ask it to stop, as SIGTERM does, and wait until it has."""
        self._stopping = True
        self._end()

    def crash(self) -> None:
        """Kill it where it stands."""
        self.log.crash()
        self._end()

    def _end(self) -> None:
        while not self.has_ended:
            self.step()
        self._thread.join()


class MemoryStore:
    """Snapshots in memory: `stream.snapshots.store.SnapshotStore`, with what can happen to a disk.

    Args:
        address: As messages call it.
    """

    def __init__(self, address: str = "memory") -> None:
        self.address = address
        #: Contents by name. A test may damage, swap or remove them.
        self.files: dict[str, bytes] = {}
        #: The next calls of a kind raise this, until it is None again: a disk that is full, a store that is away.
        self.error: OSError | None = None
        #: Called with the name of each method before it does anything.
        self.before: Callable[[str], None] = lambda _: None

    def _begin(self, method: str) -> None:
        self.before(method)
        if self.error is not None:
            raise self.error

    def put(self, name: str, content: bytes) -> None:
        """See `SnapshotStore.put`."""
        self._begin("put")
        self.files[name] = bytes(content)

    def get(self, name: str, most_bytes: int) -> bytes:
        """See `SnapshotStore.get`."""
        self._begin("get")
        if name not in self.files:
            raise FileNotFoundError(name)
        if len(self.files[name]) > most_bytes:
            raise SnapshotError(
                f"{name}: has {len(self.files[name]):,} bytes; expected at most {most_bytes:,}."
            )
        return self.files[name]

    def names(self, partition: int) -> list[str]:
        """See `SnapshotStore.names`."""
        self._begin("names")
        return newest_first([name for name in self.files if name.startswith(f"{partition}/")])

    def segments(self, partition: int) -> list[str]:
        """See `SnapshotStore.segments`."""
        self._begin("segments")
        return segments_of([name for name in self.files if name.startswith(f"{partition}/")])

    def partitions(self) -> list[int]:
        """See `SnapshotStore.partitions`."""
        self._begin("partitions")
        return sorted({int(name.partition("/")[0]) for name in self.files})

    def size(self, name: str) -> int:
        """See `SnapshotStore.size`."""
        return len(self.get(name, 1 << 62))

    def delete(self, name: str) -> None:
        """See `SnapshotStore.delete`."""
        self._begin("delete")
        self.files.pop(name, None)
