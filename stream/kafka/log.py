"""The log as Kafka keeps it. One `KafkaLog` is one member of the consumer group and one producer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

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

from stream.checkpoint import ANEW, REBUILD, CommitMetadata
from stream.errors import EnvironmentRefused, HeadraceError
from stream.kafka.client import (
    BATCH,
    COMMIT_TIMEOUT,
    COMMITTED_TIMEOUT,
    GLANCE,
    LATEST,
    LEAVE_TIMEOUT,
    MARKERS_TIMEOUT,
    NEVER_WRITTEN,
    NO_SUCH_TOPIC,
    NOT_ALLOWED,
    PRODUCER_TUNING,
    READ_PATIENCE,
    SAME_TOPIC_SECONDS,
    SILENT,
    START_TIMEOUT,
    ClientErrors,
    admin_client,
    bounded,
    client_config,
    commit_alone,
    commit_error,
    first_producer,
    group_member,
    headers_of,
    lone_reader,
    metadata_text,
    refused,
    unanswered,
)
from stream.kafka.member import Member
from stream.log import CommitRetriable, Committed, ProducerFenced
from stream.records import Output, Record, new_tuple, position
from stream.settings import Settings
from stream.settings.connection import librdkafka_config

log = structlog.get_logger()


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
        self._base = client_config(settings, self._errors, writer)
        self._admin = admin_client(settings, self._base)
        #: When it was last seen that the events topic is still the same, seconds on the monotonic clock.
        self._same_topic_at = float("-inf")
        self._check_topics()
        self._group = settings.name
        self._member = Member(
            lambda: group_member(settings, self._base, self._consumer_errors, self._group),
            [self._topic],
            place=lambda item: item.partition,
            where=lambda partition: (self._topic, partition),
            session_seconds=settings.worker.session_timeout_ms / 1_000,
        )
        self._producer: Producer | None = None
        #: One request at a time: what is sent again must not come behind what was said after it, as an incident's
        #: beginning behind its end.
        self._status = Producer(
            {
                **self._base,
                "linger.ms": 100,
                "queue.buffering.max.kbytes": 4_096,
                "max.in.flight.requests.per.connection": 1,
            }
        )
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

    def _require_same_topic(self) -> None:
        """Refuse to go on in a topic that was deleted and created again, or that has got more partitions.

        Nothing else tells in time: where a new topic has the offset of the old one that is next, fetching simply goes
        on, and of more partitions the client learns within five minutes.
        """
        now = time.monotonic()
        if now - self._same_topic_at < SAME_TOPIC_SECONDS:
            return
        try:
            asked = self._admin.describe_topics(
                TopicCollection([self._topic]), request_timeout=COMMIT_TIMEOUT
            )
            described = asked[self._topic].result()
        except KafkaException as error:
            # One whose broker was away for a moment may never find it again.
            self._admin = AdminClient(dict(self._base))
            raise self._unanswered(error, f"topic {self._topic!r}") from error
        if str(described.topic_id) != self.topic_id:
            raise EnvironmentRefused(
                f"topic {self._topic!r} was deleted and created again under the worker (id {self.topic_id}, now "
                f"{described.topic_id}): its offsets mean other records. Nothing was predicted on these. {ANEW}"
            )
        if len(described.partitions) != self.partition_count:
            raise EnvironmentRefused(
                f"topic {self._topic!r} had {self.partition_count} partitions at the start and has "
                f"{len(described.partitions)} now: keys have moved between learners. {REBUILD} {ANEW}"
            )
        self._same_topic_at = now

    def _refused(self, error: KafkaError, what: str) -> HeadraceError:
        return refused(self._settings, error, what)

    def _unanswered(self, error: KafkaException, what: str) -> Exception:
        return unanswered(self._settings, error, what, (self._admin, self._consumer))

    @property
    def _consumer(self) -> Consumer:
        return self._member.consumer

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
        self._producer = first_producer(self._settings, self._new_producer)

        self._member.join(on_revoked=on_revoked, on_lost=on_lost)

    def poll(self, timeout_seconds: float) -> Sequence[Record]:
        """See `stream.log.Log.poll`."""
        messages = self._member.poll(timeout_seconds)
        if not messages:
            if self._consumer_errors.refusal is not None:
                raise self._refused(self._consumer_errors.refusal, f"topic {self._topic!r}")
            self._member.rejoin_if_forgotten()
            return ()
        return _records(messages, self._on_poll_error)

    def _on_poll_error(self, error: KafkaError, message: Any) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._member.positions[message.partition()] = message.offset()
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
        return self._member.has_assignment

    def take_assigned(self) -> Sequence[int]:
        """See `stream.log.Log.take_assigned`."""
        return self._member.take_assigned()

    def start(self, partition: int, offset: int) -> None:
        """See `stream.log.Log.start`."""
        self._member.start(partition, offset)

    def position(self, partition: int) -> int:
        """See `stream.log.Log.position`."""
        return self._member.positions[partition]

    def end(self, partition: int) -> int | None:
        """See `stream.log.Log.end`."""
        found = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
        return None if found is None or found[1] < 0 else found[1]

    # Offsets ----------------------------------------------------------------------------------------------------

    def committed(self, partition: int) -> Committed | None:
        """See `stream.log.Log.committed`."""
        what = f"committed offset of {self._topic}[{partition}]"
        where = TopicPartition(self._topic, partition)
        self._require_same_topic()
        try:
            self._end_dead_transaction(partition)
            found = self._stable_offset(where)
        except KafkaException as error:
            # An admin client keeps asking with the leader epoch that it learned first, and is refused for ever by a
            # broker that came back.
            self._admin = AdminClient(dict(self._base))
            raise self._unanswered(error, what) from error
        if found.error is not None:
            raise self._unanswered(KafkaException(found.error), what)
        return None if found.offset < 0 else Committed(found.offset, metadata_text(found))

    def all_committed(self) -> Mapping[int, Committed]:
        """See `stream.log.Log.all_committed`."""
        try:
            found = self._unstable_offsets(range(self.partition_count))
        except KafkaException as error:
            raise self._unanswered(error, f"committed offsets of {self._topic}") from error
        return {
            where.partition: Committed(where.offset, metadata_text(where))
            for where in found
            if where.offset >= 0
        }

    def _unstable_offsets(self, partitions: Iterable[int]) -> list[TopicPartition]:
        wanted = [TopicPartition(self._topic, partition) for partition in partitions]
        answer = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(self._group, wanted)],
            require_stable=False,
            request_timeout=START_TIMEOUT,
        )
        return list(answer[self._group].result().topic_partitions)

    def _stable_offset(self, where: TopicPartition) -> TopicPartition:
        """The committed offset; an open transaction with pending offsets holds it back, and is ended."""
        writer: str | None = None
        for timeout in (GLANCE, COMMITTED_TIMEOUT):
            try:
                return self._consumer.committed([where], timeout=timeout)[0]
            except KafkaException as error:
                if error.args[0].code() != KafkaError._TIMED_OUT:
                    raise
            writer = self._writer_of(where.partition)
            if self._is_gone(writer):
                self._fence(writer)
                return self._consumer.committed([where], timeout=START_TIMEOUT)[0]
        # A member ends its transaction by itself, or the broker does it for it: fencing would cost it all its state.
        raise CommitRetriable(
            f"{self._topic}[{where.partition}]: a transaction of {writer!r} is not yet ended"
        )

    def _end_dead_transaction(self, partition: int) -> None:
        """Fence the writer that left a transaction open in this partition's predictions, if there is one."""
        where = TopicPartition(self._outputs["predictions"], partition)

        def end(level: IsolationLevel) -> int:
            asked = self._admin.list_offsets(
                {where: LATEST}, isolation_level=level, request_timeout=START_TIMEOUT
            )
            return int(asked[where].result().offset)

        written = end(IsolationLevel.READ_UNCOMMITTED)
        writer: str | None = None
        for timeout in (GLANCE, MARKERS_TIMEOUT):
            deadline = time.monotonic() + timeout
            while time.monotonic() < deadline:
                if end(IsolationLevel.READ_COMMITTED) >= written:
                    return
                time.sleep(0.02)
            writer = self._writer_of(partition)
            if self._is_gone(writer):
                self._fence(writer)
                return
        raise CommitRetriable(f"{self._topic}[{partition}]: a transaction of {writer!r} is not yet ended")

    def _is_gone(self, writer: str | None) -> bool:
        """Whether a writer is no member of the group: then there is nobody to disturb by ending its transaction."""
        asked = self._admin.describe_consumer_groups([self._group], request_timeout=START_TIMEOUT)
        return all(member.client_id != writer for member in asked[self._group].result().members)

    def _writer_of(self, partition: int) -> str | None:
        """Transactional id in the metadata of the last commit, also while a transaction holds it back."""
        (found,) = self._unstable_offsets([partition])
        if found.offset < 0:
            return None
        return CommitMetadata.decode(
            metadata_text(found), group=self._group, where=f"{self._topic}[{partition}]"
        ).writer

    def _fence(self, writer: str | None) -> None:
        if writer is None or writer == self.writer or not self._exactly_once:
            return
        log.info("ending the transaction of a worker that is gone", writer=writer)
        timeout = self._settings.worker.transaction_timeout_ms
        self._init_transactions(
            Producer({**self._base, "transactional.id": writer, "transaction.timeout.ms": timeout})
        )

    def claim(self, partition: int, committed: Committed) -> None:
        """See `stream.log.Log.claim`."""
        self._commit_offsets([self._offset(partition, committed)])

    def _offset(self, partition: int, committed: Committed) -> TopicPartition:
        return TopicPartition(self._topic, partition, committed.next_offset, committed.metadata)

    def _commit_offsets(self, offsets: list[TopicPartition]) -> None:
        commit_alone(self._settings, self._consumer, offsets, self.writer)

    def bounds(self, partition: int) -> tuple[int, int]:
        """See `stream.log.Log.bounds`."""
        return self._watermarks(self._topic, partition)

    def has_outputs(self, partition: int) -> bool:
        """See `stream.log.Log.has_outputs`."""
        # Not the alerts: incidents lie there too, and a partition that waits for its snapshots has told of it.
        return any(
            self._watermarks(name, partition)[1] > 0
            for kind, name in self._outputs.items()
            if kind != "alerts"
        )

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
        self._require_same_topic()
        offsets = [self._offset(partition, committed) for partition, committed in commits.items()]
        if not self._exactly_once:
            self._unsent_offsets = offsets
            return
        if not self._in_transaction:
            self._begin(producer)
        try:
            group = self._consumer.consumer_group_metadata()
            bounded(lambda: producer.send_offsets_to_transaction(offsets, group, COMMIT_TIMEOUT))
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
        return commit_error(self._settings, error, self.writer)

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
        self._publish(self._settings.topics.status, partition, body)

    def publish_alert(self, partition: int, body: bytes) -> None:
        """See `stream.log.Log.publish_alert`."""
        self._publish(self._settings.topics.alerts, partition, body)

    def _publish(self, topic: str, partition: int, body: bytes) -> None:
        try:
            self._status.produce(topic, body, str(partition).encode(), partition)
            self._status.poll(0)
        except (
            BufferError,
            KafkaException,
        ) as error:  # a view, not an output: the next status says it all again
            log.warning("not written", topic=topic, error=str(error))

    def leave(self) -> None:
        """See `stream.log.Log.leave`."""
        if self._in_transaction:
            try:
                self._abort(LEAVE_TIMEOUT)  # or readers would wait for the transaction to time out
            except (ProducerFenced, CommitRetriable) as error:
                log.info("transaction left to its successor", reason=str(error))
        self._status.flush(LEAVE_TIMEOUT)
        self._consumer.close()


def read_partition(settings: Settings, partition: int, first: int, end: int) -> Iterator[Sequence[Record]]:
    """The records of a partition of `<events>` from one offset up to another, as a worker is given them.

    Reads without being a member of the group, so beside the workers.

    Raises:
        EnvironmentRefused: The log has no such offset, or the broker does not answer or refuses.
    """
    topic = settings.topics.events
    errors = ClientErrors()
    name = settings.name
    consumer = lone_reader(client_config(settings, errors, f"{name}-rebuild"), f"{name}.rebuild")
    at = first

    def on_error(error: KafkaError, message: Any) -> None:
        nonlocal at
        if error.code() == KafkaError._PARTITION_EOF:
            at = max(at, message.offset())
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise EnvironmentRefused(
                f"{position(topic, partition, at)}: the log has no such offset: it was truncated meanwhile. "
                "Start again."
            )
        elif error.fatal() or error.code() in (*NOT_ALLOWED, *NO_SUCH_TOPIC):
            raise EnvironmentRefused(f"{topic}[{partition}]: {error.str()} ({error.name()})")

    try:
        consumer.assign([TopicPartition(topic, partition, first)])
        heard = time.monotonic()
        while at < end:
            records = _records(consumer.consume(BATCH, 0.2), on_error)
            if records:
                at = max(
                    at, records[-1].offset + 1
                )  # the end may have come in the same batch, behind control records
                heard = time.monotonic()
                yield [record for record in records if record.offset < end]
            elif time.monotonic() - heard > READ_PATIENCE:
                raise errors.no_broker(settings, READ_PATIENCE, KafkaError(KafkaError._TIMED_OUT))
    finally:
        consumer.close()


def fence_writers(settings: Settings, writers: Iterable[str]) -> None:
    """End what these transactional ids left open, so that nothing they sent can be committed any more.

    Raises:
        EnvironmentRefused: The broker refuses, or does not answer.
    """
    if settings.worker.delivery != "exactly_once":
        return
    for writer in writers:
        producer = Producer(
            {
                **librdkafka_config(settings.kafka),
                "log_level": 2,
                "logger": SILENT,
                "transactional.id": writer,
                "transaction.timeout.ms": settings.worker.transaction_timeout_ms,
            }
        )
        try:
            producer.init_transactions(START_TIMEOUT)
        except KafkaException as error:
            raise EnvironmentRefused(
                f"the transactions of {writer!r} can't be ended ({error.args[0].str()}). Try again."
            ) from error


def _records(messages: Iterable[Any], on_error: Callable[[KafkaError, Any], None]) -> list[Record]:
    """What librdkafka handed over, without what is no record."""
    records: list[Record] = []
    append = records.append
    for message in messages:
        error = message.error()
        if error is None:
            fields = (
                message.partition(),
                message.offset(),
                message.timestamp()[1],
                message.key(),
                message.value(),
                headers_of(message),
            )
            append(new_tuple(Record, fields))
        else:
            on_error(error, message)
    return records
