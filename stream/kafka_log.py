"""The log as Kafka keeps it: the only module that knows confluent-kafka.

One `KafkaLog` is one member of the consumer group and one producer. Facts about librdkafka that shaped it are in
docs/decisions/0001-data-plane-is-a-confluent-kafka-loop.md.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Thread
from typing import Any, Final

import structlog
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from stream.checkpoint import CommitMetadata
from stream.errors import ConfigError, EnvironmentRefused, HeadraceError, Mistake
from stream.log import CommitAborted, CommitRetriable, Committed, ProducerFenced
from stream.records import Headers, Output, Record, new_tuple, position
from stream.settings import Settings
from stream.settings.connection import librdkafka_config

log = structlog.get_logger()
#: Where librdkafka's own lines go.
SILENT: Final = logging.Logger("librdkafka", logging.CRITICAL + 1)

#: Seconds for a question to the broker at start; a broker that is there answers in milliseconds.
START_TIMEOUT: Final = 10.0
#: Seconds for one try of a commit's steps; what runs out is tried again. A signal is heeded after that at the latest.
COMMIT_TIMEOUT: Final = 5.0
#: Seconds for the last words to a broker that may be away: the abort of an open transaction, and the status.
LEAVE_TIMEOUT: Final = 2.0
#: Seconds to wait for a committed offset, or for the markers of a transaction, before looking for the dead writer
#: that holds it back. The markers of a living one come within milliseconds, after its commit was answered.
COMMITTED_TIMEOUT: Final = 2.0
MARKERS_TIMEOUT: Final = 1.0
#: Seconds without a share of the partitions after which a worker joins the group anew.
REJOIN_PATIENCE: Final = 20.0
#: Seconds before the same kind of complaint of librdkafka is logged again: it tries again many times a second.
COMPLAINT_PAUSE: Final = 30.0
#: Records taken from librdkafka's queue at once.
BATCH: Final = 1_000

#: What the consumer may hold unread: with the heap of a small model this keeps a worker under 200 MiB.
CONSUMER_TUNING: Final[Mapping[str, Any]] = {
    "queued.max.messages.kbytes": 8_192,
    "queued.min.messages": 20_000,
    "fetch.wait.max.ms": 100,
    "fetch.error.backoff.ms": 50,
}
#: A retry backoff of 100 ms, the default, makes each next transaction wait: p99 130 ms, measured.
PRODUCER_TUNING: Final[Mapping[str, Any]] = {
    "retry.backoff.ms": 5,
    "retry.backoff.max.ms": 200,
    # Full batches under load; a commit flushes at once, so latency does not wait for this. With 2 ms librdkafka's
    # threads cost as much CPU an event as all our Python does.
    "linger.ms": 50,
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 262_144,
    # A dead letter is as large as its record unpacked, and nothing is compressed: every client can read that.
    "message.max.bytes": 100_000_000,
    "delivery.report.only.error": True,
}

LATEST: Final = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the library's, untyped
NO_SUCH_TOPIC: Final = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)
NOT_ALLOWED: Final = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
)
#: In the place of headers with a name that is not UTF-8, so that a dead letter says that it lost them.
UNREADABLE_HEADERS: Final = (("headrace.unreadable-headers", b"a header's name is not UTF-8"),)
#: After a restart of the broker: the client's leader epochs are of before, and it asks for new ones only when told to.
STALE_METADATA: Final = (
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.NOT_LEADER_FOR_PARTITION,
)
#: No answer from the broker, or that of one that is starting again or handing over.
NO_ANSWER: Final = (
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._WAIT_COORD,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._WAIT_CACHE,
    KafkaError._NOENT,  # no leader found
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.LEADER_NOT_AVAILABLE,
    *STALE_METADATA,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError.CONCURRENT_TRANSACTIONS,
)
#: Delivery errors that come again with each try.
NEVER_WRITTEN: Final = (
    *NOT_ALLOWED,
    *NO_SUCH_TOPIC,
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_EXCEPTION,
)
#: Commit errors that mean: the group has moved on without this worker.
STALE_MEMBER: Final = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
)


class ClientErrors:
    """What librdkafka complains about: the cause behind a time-out, for the sentence that reports it.

    Args:
        quiet: Keep the complaints and log none.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._logged_at: dict[int, float] = {}
        self._last: KafkaError | None = None
        self._cause: KafkaError | None = None
        #: That a topic is gone or not allowed any more: it comes as a complaint only, and never as a record's error.
        self.refusal: KafkaError | None = None

    def __call__(self, error: KafkaError) -> None:
        """librdkafka's `error_cb`."""
        now = time.monotonic()
        if not self._quiet and now - self._logged_at.get(error.code(), -COMPLAINT_PAUSE) >= COMPLAINT_PAUSE:
            self._logged_at[error.code()] = now
            log.warning("kafka client", error=error.str(), code=error.name())
        self._last = error
        if error.code() in (*NO_SUCH_TOPIC, *NOT_ALLOWED):
            self.refusal = error
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # which follows from the cause, and hides it
            self._cause = error

    def no_broker(self, settings: Settings, timeout: float, error: KafkaError) -> EnvironmentRefused:
        """The sentence for a broker that did not answer, with what is known of the cause."""
        servers = settings.kafka.bootstrap_servers
        cause = self._cause or self._last or error
        if cause.code() == KafkaError._AUTHENTICATION:
            return EnvironmentRefused(
                f"the broker at {servers} refuses the login of user {settings.kafka.sasl_username!r} ({cause.str()}). "
                "Check [kafka] sasl_mechanism, sasl_username and the password."
            )
        if cause.code() == KafkaError._SSL:
            return EnvironmentRefused(
                f"no TLS connection to {servers} ({cause.str()}). Check [kafka] security_protocol, ca_file and the "
                "client's certificate."
            )
        return EnvironmentRefused(
            f"no broker answered at {servers} within {timeout:.0f} s ({cause.str()}). "
            "Is it running, and are [kafka] bootstrap_servers and security_protocol right?"
        )


class KafkaLog:
    """`stream.log.Log` on a Kafka cluster.

    Args:
        settings: The pipeline's settings.
        writer: Transactional id of this worker.

    Raises:
        EnvironmentRefused: No broker answers, a topic is missing, partitions differ, or a permission is refused.
    """

    def __init__(self, settings: Settings, writer: str) -> None:
        self.writer = writer
        self._settings = settings
        self._topic = settings.topics.events
        self._servers = settings.kafka.bootstrap_servers
        self._exactly_once = settings.worker.delivery == "exactly_once"
        self._outputs: dict[str, str] = {
            "predictions": settings.topics.predictions,
            "alerts": settings.topics.alerts,
            "dead_letters": settings.topics.dead_letters,
        }
        if settings.topics.outcomes is not None:
            self._outputs["outcomes"] = settings.topics.outcomes
        self._errors = ClientErrors()
        self._consumer_errors = ClientErrors()
        self._base: dict[str, Any] = {
            **librdkafka_config(settings.kafka),
            "error_cb": self._errors,
            "client.id": writer,
            # What matters to us comes as an error or an event; its own lines would surround our sentences.
            "log_level": 2,
            "logger": SILENT,
        }
        self._admin = _admin_client(settings, self._base)
        self._check_topics()
        self._group = settings.name
        self._consumer = self._new_consumer()
        self._subscribe: Callable[[], None] = lambda: None
        self._closing: Thread | None = None
        #: When this worker last began to wait for its share, seconds on the monotonic clock.
        self._waits_since = time.monotonic()
        self._producer: Producer | None = None
        self._status = Producer({**self._base, "linger.ms": 100, "queue.buffering.max.kbytes": 4_096})
        self._has_assignment = False
        self._assigned: list[int] = []
        self._started: set[int] = set()
        self._positions: dict[int, int] = {}
        self._in_transaction = False
        self._unsent_offsets: list[TopicPartition] = []
        self._open_bytes = 0
        self._delivery_error: str | None = None

    # Before the first record ------------------------------------------------------------------------------------

    def _check_topics(self) -> None:
        try:
            metadata = self._admin.list_topics(timeout=START_TIMEOUT)
        except KafkaException as error:
            self._admin.poll(0)  # hands over what librdkafka complained about
            raise self._errors.no_broker(self._settings, START_TIMEOUT, error.args[0]) from error
        wanted = [self._topic, *self._outputs.values(), self._settings.topics.status]
        missing = [name for name in wanted if name not in metadata.topics]
        if missing:
            for name, asked in self._admin.describe_topics(TopicCollection(missing)).items():
                found = asked.exception(START_TIMEOUT)
                if isinstance(found, KafkaException) and found.args[0].code() in NOT_ALLOWED:
                    raise self._refused(found.args[0], f"topic {name!r}")
            raise EnvironmentRefused(
                f"no topic {', '.join(repr(name) for name in missing)} at {self._servers}. "
                f"Make what is missing: headrace topics create {self._settings.path}"
            )
        self.partition_count = len(metadata.topics[self._topic].partitions)
        for name in wanted[1:]:
            count = len(metadata.topics[name].partitions)
            if count != self.partition_count:
                raise EnvironmentRefused(
                    f"topic {name!r} has {count} partitions and {self._topic!r} has {self.partition_count}; "
                    "expected the same number, since outputs of partition p go to partition p. "
                    f"Delete {name!r} and run: headrace topics create {self._settings.path}"
                )
        try:
            described = self._admin.describe_topics(TopicCollection([self._topic]))[self._topic].result(
                START_TIMEOUT
            )
        except KafkaException as error:
            raise self._refused(error.args[0], f"topic {self._topic!r}") from error
        self.topic_id = str(described.topic_id)

    def _refused(self, error: KafkaError, what: str) -> HeadraceError:
        if error.code() in NOT_ALLOWED:
            return EnvironmentRefused(
                f"{what}: the broker refuses permission ({error.str()}). "
                f"Allow user {self._settings.kafka.sasl_username or 'of this connection'!r} to read the events, "
                "write the outputs, and use this group and transactional id."
            )
        if error.code() in NO_SUCH_TOPIC:
            return EnvironmentRefused(
                f"{what}: the topic is gone ({error.str()}). Run: headrace topics create {self._settings.path}"
            )
        return EnvironmentRefused(f"{what}: {error.str()} ({error.name()})")

    def _unanswered(self, error: KafkaException, what: str) -> Exception:
        """What became of a question: ask again later, or refuse."""
        code: KafkaError = error.args[0]
        if code.code() in STALE_METADATA:
            for client in (self._admin, self._consumer):
                with contextlib.suppress(KafkaException):
                    client.list_topics(timeout=COMMIT_TIMEOUT)
        if code.code() not in NO_SUCH_TOPIC and (code.retriable() or code.code() in NO_ANSWER):
            return CommitRetriable(f"{what}: {code.str()}")
        return self._refused(code, what)

    def _new_consumer(self) -> Consumer:
        worker = self._settings.worker
        return Consumer(
            {
                **CONSUMER_TUNING,
                **self._base,
                "error_cb": self._consumer_errors,
                "group.id": self._group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                # Offsets are set by us: anything else jumps silently over a truncated log.
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": worker.session_timeout_ms,
                "heartbeat.interval.ms": min(3_000, worker.session_timeout_ms // 3),
                "enable.partition.eof": True,
            }
        )

    def _new_producer(self) -> Producer:
        if self._exactly_once:
            delivery: dict[str, Any] = {
                "transactional.id": self.writer,
                "transaction.timeout.ms": self._settings.worker.transaction_timeout_ms,
            }
        else:
            delivery = {
                "message.timeout.ms": 0,  # as long as it takes: what is given up could not be sent in order
                "linger.ms": 5,  # this kind of commit waits for deliveries and does not hurry them
            }
        config = {
            **PRODUCER_TUNING,
            **delivery,
            **self._base,
            "enable.idempotence": True,
            "on_delivery": self._on_delivery_error,
        }
        producer = Producer(config)
        if self._exactly_once:
            self._init_transactions(producer)
        return producer

    def _init_transactions(self, producer: Producer) -> None:
        """Take a transactional id, which ends what its last owner left open."""
        try:
            producer.init_transactions(START_TIMEOUT)
        except KafkaException as error:
            raise self._unanswered(error, "transactions") from error

    def _on_delivery_error(self, error: KafkaError | None, message: Any) -> None:
        if error is None or error.code() in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
            return
        # The transaction as a whole is aborted or fenced because of any other error, and then done again.
        if self._delivery_error is None and (error.code() in NEVER_WRITTEN or not self._exactly_once):
            where = f"{message.topic()}[{message.partition()}]"
            self._delivery_error = (
                f"{where}: a record of {len(message.value() or b''):,} bytes can't be written: {error.str()}"
            )

    # The group --------------------------------------------------------------------------------------------------

    def join(
        self, *, on_revoked: Callable[[Sequence[int]], None], on_lost: Callable[[Sequence[int]], None]
    ) -> None:
        """See `stream.log.Log.join`."""
        deadline = time.monotonic() + 6 * START_TIMEOUT
        while self._producer is None:
            try:
                self._producer = self._new_producer()
            except CommitRetriable as error:
                if time.monotonic() > deadline:
                    raise EnvironmentRefused(
                        f"no broker serves transactions at {self._servers} ({error})."
                    ) from error

        # A consumer that was replaced may still call back while it closes: it has no say any more.
        def assigned(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            if consumer is not self._consumer:
                return
            # Fetching starts in `start`, when the state is there: the assignment is taken empty-handed.
            consumer.incremental_assign([])
            self._has_assignment = True
            self._assigned += [item.partition for item in partitions]

        def let_go(
            consumer: Consumer, partitions: list[TopicPartition], tell: Callable[[Sequence[int]], None]
        ) -> None:
            if consumer is not self._consumer:
                return
            numbers = [item.partition for item in partitions]
            tell(numbers)
            self._assigned = [number for number in self._assigned if number not in numbers]
            started = [number for number in numbers if number in self._started]
            consumer.incremental_unassign([TopicPartition(self._topic, number) for number in started])
            self._started.difference_update(started)

        def lost(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            if consumer is self._consumer:
                self._has_assignment = False
            let_go(consumer, partitions, on_lost)
            self._waits_since = time.monotonic()

        self._subscribe = lambda: self._consumer.subscribe(
            [self._topic],
            on_assign=assigned,
            on_revoke=lambda consumer, partitions: let_go(consumer, partitions, on_revoked),
            on_lost=lost,
        )
        self._waits_since = time.monotonic()
        self._subscribe()

    def _rejoin_if_forgotten(self) -> None:
        """Join anew, with a new consumer, when the group has given no share for much too long.

        After a broker was frozen for longer than the session, a consumer was seen once in a few times never to ask
        for its place again. The old one is closed aside, since that may take as long.
        """
        patience = max(REJOIN_PATIENCE, 3 * self._settings.worker.session_timeout_ms / 1_000)
        if self._has_assignment or time.monotonic() - self._waits_since < patience:
            return
        self._waits_since = time.monotonic()
        if self._closing is not None and self._closing.is_alive():
            return
        log.warning("no share of the partitions for too long, joining anew", seconds=patience)
        self._closing = Thread(target=self._consumer.close, daemon=True)
        self._consumer = self._new_consumer()
        self._started.clear()
        self._assigned.clear()
        self._subscribe()
        self._closing.start()

    def poll(self, timeout_seconds: float) -> Sequence[Record]:
        """See `stream.log.Log.poll`."""
        first = self._consumer.poll(timeout_seconds)
        if first is None:
            if self._consumer_errors.refusal is not None:
                raise self._refused(self._consumer_errors.refusal, f"topic {self._topic!r}")
            self._rejoin_if_forgotten()
            return ()
        records: list[Record] = []
        append = records.append
        message: Any
        for message in (first, *self._consumer.consume(BATCH, 0)):
            error = message.error()
            if error is None:
                fields = (
                    message.partition(),
                    message.offset(),
                    message.timestamp()[1],
                    message.key(),
                    message.value(),
                    _headers(message),
                )
                append(new_tuple(Record, fields))
            else:
                self._on_poll_error(error, message)
        return records

    def _on_poll_error(self, error: KafkaError, message: Any) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._positions[message.partition()] = message.offset()
        elif code == KafkaError._AUTO_OFFSET_RESET:
            raise EnvironmentRefused(
                f"{position(self._topic, message.partition(), message.offset())}: the log has no such offset: "
                f"it was truncated or recreated under the worker ({error.str()})."
            )
        elif code in NOT_ALLOWED or code in NO_SUCH_TOPIC:
            raise self._refused(error, f"topic {self._topic!r}")
        elif error.fatal():
            raise self._refused(error, f"group {self._group!r}")
        else:
            log.warning("poll", error=error.str(), code=error.name())

    def has_assignment(self) -> bool:
        """See `stream.log.Log.has_assignment`."""
        return self._has_assignment

    def take_assigned(self) -> Sequence[int]:
        """See `stream.log.Log.take_assigned`."""
        if not self._assigned:
            return ()
        assigned, self._assigned = self._assigned, []
        return assigned

    def start(self, partition: int, offset: int) -> None:
        """See `stream.log.Log.start`."""
        where = TopicPartition(self._topic, partition)
        if partition in self._started:
            self._consumer.incremental_unassign([where])
        self._consumer.incremental_assign([TopicPartition(self._topic, partition, offset)])
        self._started.add(partition)
        self._positions[partition] = offset

    def position(self, partition: int) -> int:
        """See `stream.log.Log.position`."""
        return self._positions[partition]

    def end(self, partition: int) -> int | None:
        """See `stream.log.Log.end`."""
        found = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
        return None if found is None or found[1] < 0 else found[1]

    # Offsets ----------------------------------------------------------------------------------------------------

    def committed(self, partition: int) -> Committed | None:
        """See `stream.log.Log.committed`."""
        what = f"committed offset of {self._topic}[{partition}]"
        where = TopicPartition(self._topic, partition)
        try:
            self._end_dead_transaction(partition)
            try:
                (found,) = self._consumer.committed([where], timeout=COMMITTED_TIMEOUT)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._TIMED_OUT:
                    raise
                # An open transaction with pending offsets holds the answer back.
                self._fence(self._writer_of(partition))
                (found,) = self._consumer.committed([where], timeout=START_TIMEOUT)
        except KafkaException as error:
            # An admin client keeps asking with the leader epoch that it learned first, and is refused for ever by a
            # broker that came back.
            self._admin = AdminClient(dict(self._base))
            raise self._unanswered(error, what) from error
        if found.error is not None:
            raise self._unanswered(KafkaException(found.error), what)
        return None if found.offset < 0 else Committed(found.offset, metadata_text(found))

    def _end_dead_transaction(self, partition: int) -> None:
        """Fence the writer that left a transaction open in this partition's predictions, if there is one."""
        where = TopicPartition(self._outputs["predictions"], partition)

        def end(level: IsolationLevel) -> int:
            asked = self._admin.list_offsets(
                {where: LATEST}, isolation_level=level, request_timeout=START_TIMEOUT
            )
            return int(asked[where].result().offset)

        written = end(IsolationLevel.READ_UNCOMMITTED)
        deadline = time.monotonic() + MARKERS_TIMEOUT
        while end(IsolationLevel.READ_COMMITTED) < written:
            if time.monotonic() > deadline:
                self._fence(self._writer_of(partition))
                return
            time.sleep(0.02)

    def _writer_of(self, partition: int) -> str | None:
        """Transactional id in the metadata of the last commit, also while a transaction holds it back."""
        wanted = ConsumerGroupTopicPartitions(self._group, [TopicPartition(self._topic, partition)])
        answer = self._admin.list_consumer_group_offsets(
            [wanted], require_stable=False, request_timeout=START_TIMEOUT
        )
        (found,) = answer[self._group].result().topic_partitions
        if found.offset < 0:
            return None
        return CommitMetadata.decode(
            metadata_text(found), group=self._group, where=f"{self._topic}[{partition}]"
        ).writer

    def _fence(self, writer: str | None) -> None:
        if writer is None or writer == self.writer or not self._exactly_once:
            return
        log.info("ending the transaction of a worker that is gone", writer=writer)
        self._init_transactions(Producer({**self._base, "transactional.id": writer}))

    def claim(self, partition: int, committed: Committed) -> None:
        """See `stream.log.Log.claim`."""
        self._commit_offsets([self._offset(partition, committed)])

    def _offset(self, partition: int, committed: Committed) -> TopicPartition:
        return TopicPartition(self._topic, partition, committed.next_offset, committed.metadata)

    def _commit_offsets(self, offsets: list[TopicPartition]) -> None:
        try:
            results = self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise self._claim_error(error) from error
        for result in results or ():
            if result.error is not None:
                raise self._claim_error(KafkaException(result.error))

    def _claim_error(self, error: KafkaException) -> Exception:
        """As `_commit_error`, for a commit that no producer has part in."""
        found = self._commit_error(error)
        return CommitAborted(str(found)) if isinstance(found, ProducerFenced) else found

    def bounds(self, partition: int) -> tuple[int, int]:
        """See `stream.log.Log.bounds`."""
        return self._watermarks(self._topic, partition)

    def has_outputs(self, partition: int) -> bool:
        """See `stream.log.Log.has_outputs`."""
        return any(self._watermarks(name, partition)[1] > 0 for name in self._outputs.values())

    def offset_at(self, partition: int, timestamp: int) -> int:
        """See `stream.log.Log.offset_at`."""
        where = TopicPartition(self._topic, partition, timestamp)
        try:
            (found,) = self._consumer.offsets_for_times([where], START_TIMEOUT)
        except KafkaException as error:
            raise self._unanswered(error, f"topic {self._topic!r}") from error
        return found.offset if found.offset >= 0 else self.bounds(partition)[1]

    def _watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        try:
            found = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), START_TIMEOUT)
        except KafkaException as error:
            raise self._unanswered(error, f"topic {topic!r}") from error
        if found is None:
            raise CommitRetriable(
                f"{topic}[{partition}]: the broker did not say where the log begins and ends"
            )
        return found

    # The transaction --------------------------------------------------------------------------------------------

    def send(self, partition: int, timestamp: int, outputs: Sequence[Output]) -> None:
        """See `stream.log.Log.send`."""
        producer = self._producer
        if producer is None:
            raise AssertionError("send before join")
        if not self._in_transaction:
            self._begin(producer)
        produce: Any = producer.produce  # all by position: by name costs a third more
        for to, key, value, headers in outputs:
            while True:
                try:
                    if headers is None:
                        produce(self._outputs[to], value, key, partition, None, None, timestamp)
                    else:
                        self._open_bytes += len(value or b"")
                        topic = self._outputs[to]
                        produce(topic, value, key, partition, None, None, timestamp, list(headers))
                    break
                except BufferError:  # the queue to the broker is full: let it drain
                    self._serve(producer, 0.05)
                except KafkaException as error:
                    code: KafkaError = error.args[0]
                    if code.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                        self._delivery_error = f"{self._outputs[to]}[{partition}]: {code.str()}"
                        self._raise_delivery_error()
                    raise ProducerFenced(code.str()) from error

    def _serve(self, producer: Producer, seconds: float) -> None:
        """Take delivery errors from a producer; a fatal one comes as an exception."""
        try:
            producer.poll(seconds)
        except KafkaException as error:
            raise ProducerFenced(error.args[0].str()) from error
        finally:
            self._raise_delivery_error()

    def _begin(self, producer: Producer) -> None:
        if self._exactly_once:
            try:
                producer.begin_transaction()
            except KafkaException as error:
                raise ProducerFenced(error.args[0].str()) from error
        self._in_transaction = True

    def send_offsets(self, commits: Mapping[int, Committed]) -> None:
        """See `stream.log.Log.send_offsets`."""
        producer = self._producer
        if producer is None:
            raise AssertionError("commit before join")
        offsets = [self._offset(partition, committed) for partition, committed in commits.items()]
        if not self._exactly_once:
            self._unsent_offsets = offsets
            return
        if not self._in_transaction:
            self._begin(producer)
        try:
            group = self._consumer.consumer_group_metadata()
            _bounded(lambda: producer.send_offsets_to_transaction(offsets, group, COMMIT_TIMEOUT))
        except KafkaException as error:
            self._raise_delivery_error()
            raise self._commit_error(error) from error

    def commit(self) -> None:
        """See `stream.log.Log.commit`."""
        producer = self._producer
        if producer is None:
            raise AssertionError("commit before join")
        if self._exactly_once:
            try:
                producer.commit_transaction(COMMIT_TIMEOUT)
            except KafkaException as error:
                with contextlib.suppress(ProducerFenced):  # `error` says so too
                    self._serve(producer, 0)
                raise self._commit_error(error) from error
        else:
            deadline = time.monotonic() + COMMIT_TIMEOUT
            while len(producer):
                if time.monotonic() > deadline:
                    raise CommitRetriable("outputs are not yet written")
                self._serve(producer, 0.1)
            self._commit_offsets(self._unsent_offsets)
        self._in_transaction = False
        self._open_bytes = 0

    def _commit_error(self, error: KafkaException) -> Exception:
        code: KafkaError = error.args[0]
        if code.code() in NOT_ALLOWED:
            return self._refused(code, f"committing as {self.writer!r}")
        if code.txn_requires_abort() or code.code() in STALE_MEMBER:
            return CommitAborted(code.str())
        if code.fatal() or code.code() in (KafkaError._FENCED, KafkaError._STATE):
            return ProducerFenced(code.str())
        if code.retriable() or code.code() in NO_ANSWER:
            return CommitRetriable(code.str())
        return CommitAborted(code.str())

    def _raise_delivery_error(self) -> None:
        if self._delivery_error is not None:
            raise EnvironmentRefused(
                f"{self._delivery_error}. Nothing after the last commit is lost: mend the topic "
                f"(headrace check {self._settings.path}) and start again."
            )

    def abort(self) -> None:
        """See `stream.log.Log.abort`."""
        self._abort(COMMIT_TIMEOUT)

    def _abort(self, timeout: float) -> None:
        if self._exactly_once and self._in_transaction and self._producer is not None:
            try:
                self._producer.abort_transaction(timeout)
            except KafkaException as error:
                code: KafkaError = error.args[0]
                if code.retriable():
                    raise CommitRetriable(code.str()) from error
                raise ProducerFenced(code.str()) from error
        self._in_transaction = False
        self._open_bytes = 0

    def renew_producer(self) -> None:
        """See `stream.log.Log.renew_producer`."""
        self._producer = None
        self._in_transaction = False
        self._open_bytes = 0
        self._producer = self._new_producer()

    def open_bytes(self) -> int:
        """See `stream.log.Log.open_bytes`."""
        return self._open_bytes

    def publish_status(self, partition: int, body: bytes) -> None:
        """See `stream.log.Log.publish_status`."""
        try:
            self._status.produce(self._settings.topics.status, body, str(partition).encode(), partition)
            self._status.poll(0)
        except (
            BufferError,
            KafkaException,
        ) as error:  # a view, not an output: the next one says it all again
            log.warning("status not written", error=str(error))

    def leave(self) -> None:
        """See `stream.log.Log.leave`."""
        if self._in_transaction:
            try:
                self._abort(LEAVE_TIMEOUT)  # or readers would wait for the transaction to time out
            except (ProducerFenced, CommitRetriable) as error:
                log.info("transaction left to its successor", reason=str(error))
        self._status.flush(LEAVE_TIMEOUT)
        self._consumer.close()


def metadata_text(found: TopicPartition) -> str:
    """A commit's metadata without what may follow it in memory.

    librdkafka copies metadata without the zero that ends a C string (its issue 4649), so more bytes can seem to
    belong to it, even some that are not UTF-8. Ours is one JSON object: nothing after that counts.
    """
    try:
        text = found.metadata or ""
    except UnicodeDecodeError as error:
        text = bytes(error.object).decode("utf-8", "replace")
    try:
        return text[: json.JSONDecoder().raw_decode(text)[1]]
    except ValueError:
        return text


def _headers(message: Any) -> Headers | None:
    """The record's headers. The client can't read a name that is not UTF-8, and it must not stop the stream."""
    try:
        return message.headers()  # type: ignore[no-any-return]  # the message is untyped
    except (SystemError, UnicodeDecodeError):
        return UNREADABLE_HEADERS


def _bounded(call: Callable[[], None]) -> None:
    """Make a call that is to come back within `COMMIT_TIMEOUT`, and does not always.

    After a broker's restart `send_offsets_to_transaction` was seen never to return. The producer is then left to
    itself in a thread of its own, and a new one under the same id ends its transaction.

    Raises:
        ProducerFenced: It has not come back after three times that long.
    """
    outcome: list[Exception | None] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            outcome.append(error)
        else:
            outcome.append(None)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(3 * COMMIT_TIMEOUT)
    if not outcome:
        raise ProducerFenced(f"librdkafka did not come back within {3 * COMMIT_TIMEOUT:.0f} s")
    if outcome[0] is not None:
        raise outcome[0]


def _admin_client(settings: Settings, config: Mapping[str, Any]) -> AdminClient:
    """The first client that sees the configuration.

    Raises:
        ConfigError: librdkafka does not take a key or a value of `[kafka.librdkafka]`.
    """
    try:
        return AdminClient(dict(config))
    except (KafkaException, ValueError, TypeError) as error:
        cause = error.args[0]
        text = cause.str() if isinstance(cause, KafkaError) else str(error)
        mistake = Mistake(
            place=str(settings.path),
            setting="[kafka.librdkafka]",
            text=f"is not taken by librdkafka: {text}. Its CONFIGURATION.md lists every key and its values.",
        )
        raise ConfigError([mistake]) from error


def count_brokers(settings: Settings, timeout: float = START_TIMEOUT) -> int:
    """How many brokers the data plane's client sees: whether it can connect at all.

    Raises:
        EnvironmentRefused: It can't; says why.
    """
    errors = ClientErrors(quiet=True)
    admin = _admin_client(settings, {**librdkafka_config(settings.kafka), "error_cb": errors, "log_level": 0})
    try:
        return len(admin.list_topics(timeout=timeout).brokers)
    except KafkaException as error:
        admin.poll(0)
        raise errors.no_broker(settings, timeout, error.args[0]) from error
