"""The relay's side of Kafka: one member of its group, and a producer of its own into the events topic."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
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
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the library's types do not export two of them
    AdminClient,
    ConfigResource,
    ResourceType,
)

from stream.errors import ConfigError, EnvironmentRefused, Mistake
from stream.kafka.client import (
    BATCH,
    COMMIT_TIMEOUT,
    COMMITTED_TIMEOUT,
    GLANCE,
    LATEST,
    LEAVE_TIMEOUT,
    NEVER_WRITTEN,
    NO_SUCH_TOPIC,
    NOT_ALLOWED,
    PRODUCER_TUNING,
    READ_PATIENCE,
    SAME_TOPIC_SECONDS,
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
from stream.process import WriterSlot, spare_the_collector
from stream.records import Headers, new_tuple, position
from stream.relay.headers import relayed_for
from stream.relay.log import Place, SourceRecord
from stream.relay.places import UNTOLD, Lost, check_partitions, group_of, metadata_of, target
from stream.relay.relay import Relay
from stream.settings import Settings

log = structlog.get_logger()

#: All that one transaction is to hold is in hand when it begins: what is sent need not wait for more.
LINGER_MS: Final = 1
#: Most bytes in one batch of the producer, librdkafka's own default: the broker takes no batch that is larger than the
#: topic's `max.message.bytes`, however small its records are.
BATCH_BYTES: Final = 1_000_000
#: Newest records of each partition of the events topic that are looked at for where the relay stood.
LOOKED_AT: Final = 500_000


class KafkaRelay:
    """`stream.relay.log.RelayLog` on a Kafka cluster.

    Args:
        settings: The pipeline's settings.
        writer: Transactional id of this relay.

    Raises:
        EnvironmentRefused: No broker answers, a topic is missing, partitions don't fit, or a permission is refused.
    """

    def __init__(self, settings: Settings, writer: str) -> None:
        self.writer = writer
        self._settings = settings
        self._events = settings.topics.events
        self._group = group_of(settings)
        self._errors = ClientErrors()
        self._consumer_errors = ClientErrors()
        self._base = client_config(settings, self._errors, writer)
        self._admin = admin_client(settings, self._base)
        self.partitions: dict[str, int] = {}
        self.topic_ids: dict[str, str] = {}
        self._same_topics_at = float("-inf")
        self._check_topics()
        self._member = Member(
            lambda: group_member(settings, self._base, self._consumer_errors, self._group),
            list(self.partitions),
            place=_place,
            where=lambda place: place,
            session_seconds=settings.worker.session_timeout_ms / 1_000,
        )
        self._producer: Producer | None = None
        self._in_transaction = False
        #: What the open transaction holds, to say which record it is that can't be written.
        self._sent: list[SourceRecord] = []
        self._delivery_error: str | None = None
        #: Size of the record that it names.
        self._refused_bytes = -1

    # Before the first record ------------------------------------------------------------------------------------

    def _check_topics(self) -> None:
        sources = list(self._settings.relayed_topics)
        try:
            metadata = self._admin.list_topics(timeout=START_TIMEOUT)
        except KafkaException as error:
            self._admin.poll(0)  # hands over what librdkafka complained about
            raise self._errors.no_broker(self._settings, START_TIMEOUT, error.args[0]) from error
        there = [name for name in (self._events, *sources) if name in metadata.topics]
        if self._events not in there:
            raise EnvironmentRefused(
                f"no topic {self._events!r} at {self._settings.kafka.bootstrap_servers}. "
                f"Make what is missing: headrace topics create {self._settings.path}"
            )
        counts = {name: len(metadata.topics[name].partitions) for name in there}
        self.events_partitions = counts.pop(self._events)
        check_partitions(self._settings, counts, self.events_partitions)
        self.partitions = {name: counts[name] for name in sources}
        for name, asked in self._admin.describe_topics(TopicCollection(there)).items():
            try:
                self.topic_ids[name] = str(asked.result(START_TIMEOUT).topic_id)
            except KafkaException as error:
                raise refused(
                    self._settings, error.args[0], f"topic {name!r}", of_source=name != self._events
                ) from error
        self.events_id = self.topic_ids.pop(self._events)

    def _require_same_topics(self) -> None:
        """Refuse to go on if one of the topics was deleted and created again.

        Nothing else tells in time: where a new topic has the offset of the old one that is next, fetching simply goes
        on.
        """
        now = time.monotonic()
        if now - self._same_topics_at < SAME_TOPIC_SECONDS:
            return
        known = {self._events: self.events_id, **self.topic_ids}
        asked = self._admin.describe_topics(TopicCollection(list(known)), request_timeout=COMMIT_TIMEOUT)
        for name, answer in asked.items():
            try:
                topic_id = str(answer.result().topic_id)
            except KafkaException as error:
                # One whose broker was away for a moment may never find it again.
                self._admin = AdminClient(dict(self._base))
                raise self._unanswered(error, f"topic {name!r}", of_source=name != self._events) from error
            if topic_id != known[name]:
                raise EnvironmentRefused(
                    f"topic {name!r} was deleted and created again under the relay (id {known[name]}, now {topic_id}): "
                    "offsets mean other records. Nothing of these was relayed. Say where to go on: "
                    f"headrace relay {self._settings.path} --from earliest or latest."
                )
        self._same_topics_at = now

    def _batch_bytes(self) -> int:
        """Most bytes of a batch that the events topic takes, as far as it may be asked."""
        topic = ConfigResource(ResourceType.TOPIC, self._events)
        try:
            (asked,) = self._admin.describe_configs([topic], request_timeout=START_TIMEOUT).values()
            return min(BATCH_BYTES, int(asked.result()["max.message.bytes"].value))
        except KafkaException as error:
            if error.args[0].code() in NOT_ALLOWED:  # then it must be told by the operator, if it refuses one
                return BATCH_BYTES
            raise self._unanswered(error, f"topic {self._events!r}") from error

    def _unanswered(self, error: KafkaException, what: str, *, of_source: bool = False) -> Exception:
        return unanswered(self._settings, error, what, (self._admin, self._consumer), of_source=of_source)

    @property
    def _consumer(self) -> Consumer:
        return self._member.consumer

    def _new_producer(self) -> Producer:
        producer = Producer(
            {
                **PRODUCER_TUNING,
                "linger.ms": LINGER_MS,
                "batch.size": self._batch_bytes(),
                "transactional.id": self.writer,
                "transaction.timeout.ms": self._settings.worker.transaction_timeout_ms,
                **self._base,
                "enable.idempotence": True,
                "on_delivery": self._on_delivery_error,
            }
        )
        try:
            producer.init_transactions(START_TIMEOUT)
            producer.list_topics(
                self._events, START_TIMEOUT
            )  # or the first transaction would wait for this, open
        except KafkaException as error:
            raise self._unanswered(error, "transactions") from error
        return producer

    def open(self) -> None:
        """Take the transactional id, which ends what its last owner left open.

        Raises:
            EnvironmentRefused: No broker serves transactions.
        """
        if self._producer is None:
            self._producer = first_producer(self._settings, self._new_producer)

    # The group --------------------------------------------------------------------------------------------------

    def join(
        self, *, on_revoked: Callable[[Sequence[Place]], None], on_lost: Callable[[Sequence[Place]], None]
    ) -> None:
        """See `stream.relay.log.RelayLog.join`."""
        self.open()

        self._member.join(on_revoked=on_revoked, on_lost=on_lost)

    def poll(self, timeout_seconds: float) -> Sequence[SourceRecord]:
        """See `stream.relay.log.RelayLog.poll`."""
        messages = self._member.poll(timeout_seconds)
        if not messages:
            if self._consumer_errors.refusal is not None:
                raise refused(
                    self._settings, self._consumer_errors.refusal, f"group {self._group!r}", of_source=True
                )
            self._member.rejoin_if_forgotten()
            return ()
        return _records(messages, self._on_poll_error)

    def _on_poll_error(self, error: KafkaError, message: Any) -> None:
        code, where = error.code(), f"topic {message.topic()!r}"
        if code == KafkaError._PARTITION_EOF:
            self._member.positions[Place(message.topic(), message.partition())] = message.offset()
        elif code == KafkaError._AUTO_OFFSET_RESET:
            raise EnvironmentRefused(
                f"{position(message.topic(), message.partition(), message.offset())}: the log has no such offset: "
                f"it was truncated or made anew under the relay ({error.str()})."
            )
        elif code in NOT_ALLOWED or code in NO_SUCH_TOPIC or error.fatal():
            raise refused(self._settings, error, where, of_source=True)
        else:
            log.warning("poll", error=error.str(), code=error.name())

    def take_assigned(self) -> Sequence[Place]:
        """See `stream.relay.log.RelayLog.take_assigned`."""
        return self._member.take_assigned()

    def start(self, place: Place, offset: int) -> None:
        """See `stream.relay.log.RelayLog.start`."""
        self._member.start(place, offset)

    def position(self, place: Place) -> int:
        """See `stream.relay.log.RelayLog.position`."""
        return self._member.positions[place]

    def lag(self, place: Place, next_offset: int) -> int:
        """See `stream.relay.log.RelayLog.lag`."""
        found = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
        return (
            0 if found is None else max(0, found[1] - max(next_offset, self._member.positions.get(place, 0)))
        )

    # Offsets ----------------------------------------------------------------------------------------------------

    def committed(self, places: Sequence[Place]) -> Mapping[Place, Committed]:
        """See `stream.relay.log.RelayLog.committed`."""
        self._require_same_topics()  # first: with a topic its offsets are deleted
        what = f"committed offsets of group {self._group!r}"
        try:
            for writer in self._writers_gone(places):
                self._fence(writer)
            wanted = [TopicPartition(*place) for place in places]
            found = self._consumer.committed(wanted, timeout=COMMITTED_TIMEOUT)
        except KafkaException as error:
            # An admin client keeps asking with the leader epoch that it learned first: see `stream.kafka.log`.
            self._admin = AdminClient(dict(self._base))
            raise self._unanswered(error, what) from error
        for item in found:
            if item.error is not None:
                raise self._unanswered(KafkaException(item.error), what)
        return _commits(found)

    def _writers_gone(self, places: Iterable[Place]) -> set[str]:
        """Who committed last for these partitions and is no member any more: it may have left a transaction open."""
        found = (metadata_of(metadata_text(item)) for item in self._unstable_offsets(places))
        writers = {item.writer for item in found if item is not None} - {self.writer}
        if writers:
            asked = self._admin.describe_consumer_groups([self._group], request_timeout=START_TIMEOUT)
            writers -= {member.client_id for member in asked[self._group].result().members}
        return writers

    def _fence(self, writer: str) -> None:
        log.info("ending the transaction of a relay that is gone", writer=writer)
        timeout = self._settings.worker.transaction_timeout_ms
        config = {**self._base, "transactional.id": writer, "transaction.timeout.ms": timeout}
        Producer(config).init_transactions(START_TIMEOUT)

    def all_committed(self) -> Mapping[Place, Committed]:
        """See `stream.relay.log.RelayLog.all_committed`."""
        places = [Place(topic, number) for topic, count in self.partitions.items() for number in range(count)]
        try:
            return _commits(self._unstable_offsets(places))
        except KafkaException as error:
            self._admin = AdminClient(dict(self._base))
            raise self._unanswered(error, f"committed offsets of group {self._group!r}") from error

    def _unstable_offsets(self, places: Iterable[Place], *, group: str | None = None) -> list[TopicPartition]:
        group = group or self._group
        wanted = [TopicPartition(*place) for place in places]
        answer = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, wanted)],
            require_stable=False,
            request_timeout=START_TIMEOUT,
        )
        return list(answer[group].result().topic_partitions)

    def claim(self, commits: Mapping[Place, Committed]) -> None:
        """See `stream.relay.log.RelayLog.claim`."""
        self._require_same_topics()
        commit_alone(self._settings, self._consumer, _offsets(commits), self.writer)

    def bounds(self, place: Place) -> tuple[int, int]:
        """See `stream.relay.log.RelayLog.bounds`."""
        return self._watermarks(*place)

    def _watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        try:
            found = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), START_TIMEOUT)
        except KafkaException as error:
            raise self._unanswered(error, f"topic {topic!r}", of_source=topic != self._events) from error
        if found is None:
            raise CommitRetriable(
                f"{topic}[{partition}]: the broker did not say where the log begins and ends"
            )
        return found

    def offset_at(self, place: Place, timestamp: int) -> int:
        """See `stream.relay.log.RelayLog.offset_at`."""
        try:
            (found,) = self._consumer.offsets_for_times([TopicPartition(*place, timestamp)], START_TIMEOUT)
        except KafkaException as error:
            raise self._unanswered(error, f"topic {place.topic!r}", of_source=True) from error
        return found.offset if found.offset >= 0 else self.bounds(place)[1]

    def last_relayed(self, places: Sequence[Place]) -> Mapping[Place, int]:
        """See `stream.relay.log.RelayLog.last_relayed`."""
        wanted = {str(place): place for place in places}
        pipeline = self._settings.name.encode()
        last: dict[Place, int] = {}
        for partition in sorted({target(place.partition, self.events_partitions) for place in places}):
            first, end = self._watermarks(self._events, partition)
            for record in self.read(Place(self._events, partition), max(first, end - LOOKED_AT), end):
                relayed = None if record.headers is None else relayed_for(record.headers)
                if relayed is None or relayed[0] != pipeline:
                    continue
                where, _, offset = relayed[2].decode("utf-8", "replace").rpartition("@")
                if where in wanted and offset.isdigit():
                    last[wanted[where]] = max(last.get(wanted[where], -1), int(offset))
            if end - LOOKED_AT > first and self._has_processed(partition):
                here = (
                    place for place in places if target(place.partition, self.events_partitions) == partition
                )
                last.update({place: UNTOLD for place in here if place not in last})
        return last

    def _has_processed(self, partition: int) -> bool:
        """Whether the pipeline has committed for a partition of the events topic, so that this is no first start."""
        found = self._unstable_offsets([Place(self._events, partition)], group=self._settings.name)
        return any(item.offset >= 0 for item in found)

    def read(
        self, place: Place, first: int, end: int, *, ahead_kbytes: int = 4_096
    ) -> Generator[SourceRecord, None, None]:
        """The committed records of a partition from one offset up to another, with no part in the group.

        Args:
            place: Of any topic.
            first: The first offset.
            end: The first offset that is not read.
            ahead_kbytes: How much may be fetched before it is asked for.

        Raises:
            EnvironmentRefused: The log has no such offset, or the broker does not answer or refuses.
        """
        if first >= end:
            return
        at = first

        def on_error(error: KafkaError, message: Any) -> None:
            nonlocal at
            if error.code() == KafkaError._PARTITION_EOF:
                at = max(at, message.offset())
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise EnvironmentRefused(
                    f"{position(*place, at)}: the log has no such offset: it was truncated. Start again."
                )
            elif error.fatal() or error.code() in (*NOT_ALLOWED, *NO_SUCH_TOPIC):
                raise refused(self._settings, error, str(place), of_source=place.topic != self._events)

        consumer = lone_reader(self._base, self._group, {"queued.max.messages.kbytes": ahead_kbytes})
        try:
            consumer.assign([TopicPartition(*place, first)])
            heard = time.monotonic()
            while at < end:
                message = consumer.poll(0.2)
                records = (
                    () if message is None else _records((message, *consumer.consume(BATCH, 0)), on_error)
                )
                for record in records:
                    if record.offset < end:
                        yield record
                if records:
                    at = max(at, records[-1].offset + 1)
                    heard = time.monotonic()
                elif time.monotonic() - heard > READ_PATIENCE:
                    raise self._errors.no_broker(
                        self._settings, READ_PATIENCE, KafkaError(KafkaError._TIMED_OUT)
                    )
        finally:
            consumer.close()

    # The transaction --------------------------------------------------------------------------------------------

    def send_offsets(self, commits: Mapping[Place, Committed]) -> None:
        """See `stream.relay.log.RelayLog.send_offsets`."""
        producer = self._producer
        if producer is None:
            raise AssertionError("send_offsets before join")
        if not self._in_transaction:
            self._require_same_topics()  # now: while a transaction is open, it holds back readers
            self._begin(producer)
        try:
            group = self._consumer.consumer_group_metadata()
            offsets = _offsets(commits)
            bounded(lambda: producer.send_offsets_to_transaction(offsets, group, COMMIT_TIMEOUT))
        except KafkaException as error:
            self._raise_delivery_error()
            raise commit_error(self._settings, error, self.writer) from error

    def send(self, to: int, record: SourceRecord, headers: Headers) -> None:
        """See `stream.relay.log.RelayLog.send`."""
        producer = self._producer
        if producer is None or not self._in_transaction:
            raise AssertionError("send before send_offsets")
        self._sent.append(record)
        produce: Any = producer.produce  # by position: by name costs a third more
        timestamp = max(0, record.timestamp)  # 0: now, for a record without one
        while True:
            try:
                produce(self._events, record.value, record.key, to, None, None, timestamp, headers)
                return
            except BufferError:  # the queue to the broker is full: let it drain
                self._serve(producer, 0.01)
            except KafkaException as error:
                code: KafkaError = error.args[0]
                if code.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    self._refuse_record(record, code)
                    self._raise_delivery_error()
                raise ProducerFenced(code.str()) from error

    def _begin(self, producer: Producer) -> None:
        try:
            producer.begin_transaction()
        except KafkaException as error:
            raise ProducerFenced(error.args[0].str()) from error
        self._in_transaction = True
        self._sent.clear()

    def _serve(self, producer: Producer, seconds: float) -> None:
        """Take delivery errors from the producer; a fatal one comes as an exception."""
        try:
            producer.poll(seconds)
        except KafkaException as error:
            raise ProducerFenced(error.args[0].str()) from error
        finally:
            self._raise_delivery_error()

    def _on_delivery_error(self, error: KafkaError | None, message: Any) -> None:
        if error is None or error.code() not in NEVER_WRITTEN:
            return  # any other aborts or fences the transaction, which is then done again
        value, key = message.value() or b"", message.key() or b""
        is_larger = error.code() == KafkaError.MSG_SIZE_TOO_LARGE and len(value) > self._refused_bytes
        if self._delivery_error is not None and not is_larger:
            return  # a whole batch is refused: if that is for its size, for its largest record's
        self._refused_bytes = len(value)
        for record in self._sent:
            if (record.value or b"", record.key or b"") == (value, key):
                self._refuse_record(record, error)
                return
        self._delivery_error = (
            f"a record of {len(value):,} bytes can't be written to {self._events}: {error.str()}"
        )

    def _refuse_record(self, record: SourceRecord, error: KafkaError) -> None:
        self._delivery_error = (
            f"{position(record.topic, record.partition, record.offset)}: this record of "
            f"{len(record.value or b''):,} bytes can't be written to {self._events}: {error.str()}"
        )

    def _raise_delivery_error(self) -> None:
        if self._delivery_error is not None:
            raise EnvironmentRefused(
                f"{self._delivery_error}. Nothing is skipped: let {self._events} take it (max.message.bytes, "
                f"message.timestamp.before.max.ms and after; headrace check {self._settings.path}), and start again."
            )

    def commit(self) -> None:
        """See `stream.relay.log.RelayLog.commit`."""
        producer = self._producer
        if producer is None:
            raise AssertionError("commit before join")
        try:
            producer.commit_transaction(COMMIT_TIMEOUT)
        except KafkaException as error:
            with contextlib.suppress(ProducerFenced):  # `error` says so too
                self._serve(producer, 0)
            raise commit_error(self._settings, error, self.writer) from error
        self._in_transaction = False

    def abort(self) -> None:
        """See `stream.relay.log.RelayLog.abort`."""
        self._abort(COMMIT_TIMEOUT)

    def _abort(self, timeout: float) -> None:
        if self._in_transaction and self._producer is not None:
            try:
                self._producer.abort_transaction(timeout)
            except KafkaException as error:
                code: KafkaError = error.args[0]
                if code.retriable():
                    raise CommitRetriable(code.str()) from error
                raise ProducerFenced(code.str()) from error
        self._in_transaction = False

    def renew_producer(self) -> None:
        """See `stream.relay.log.RelayLog.renew_producer`."""
        self._producer = None
        self._in_transaction = False
        self._producer = self._new_producer()

    def is_readable(self) -> bool:
        """See `stream.relay.log.RelayLog.is_readable`."""
        wanted = {TopicPartition(self._events, number): LATEST for number in range(self.events_partitions)}

        def ends(level: IsolationLevel) -> dict[int, int]:
            asked = self._admin.list_offsets(wanted, isolation_level=level, request_timeout=START_TIMEOUT)
            return {where.partition: int(found.result().offset) for where, found in asked.items()}

        try:
            written = ends(IsolationLevel.READ_UNCOMMITTED)
            deadline = time.monotonic() + GLANCE
            while time.monotonic() < deadline:
                readable = ends(IsolationLevel.READ_COMMITTED)
                if all(readable[number] >= end for number, end in written.items()):
                    return True
                time.sleep(0.01)
        except KafkaException as error:
            self._admin = AdminClient(dict(self._base))
            raise self._unanswered(error, f"topic {self._events!r}") from error
        return False

    def leave(self) -> None:
        """See `stream.relay.log.RelayLog.leave`."""
        if self._in_transaction:
            try:
                self._abort(LEAVE_TIMEOUT)  # or readers would wait for the transaction to time out
            except (ProducerFenced, CommitRetriable) as error:
                log.info("transaction left to its successor", reason=str(error))
        self._consumer.close()


def _place(where: TopicPartition) -> Place:
    return Place(where.topic, where.partition)


def _commits(found: Iterable[TopicPartition]) -> dict[Place, Committed]:
    return {_place(item): Committed(item.offset, metadata_text(item)) for item in found if item.offset >= 0}


def _offsets(commits: Mapping[Place, Committed]) -> list[TopicPartition]:
    return [TopicPartition(*place, *committed) for place, committed in commits.items()]


def _records(messages: Iterable[Any], on_error: Callable[[KafkaError, Any], None]) -> list[SourceRecord]:
    """What librdkafka handed over, without what is no record."""
    records: list[SourceRecord] = []
    append = records.append
    for message in messages:
        error = message.error()
        if error is None:
            fields = (
                message.topic(),
                message.partition(),
                message.offset(),
                message.timestamp()[1],
                message.key(),
                message.value(),
                headers_of(message),
            )
            append(new_tuple(SourceRecord, fields))
        else:
            on_error(error, message)
    return records


def run_relay(
    settings: Settings, *, stop_at_end: bool, lost: Lost | None, should_stop: Callable[[], bool]
) -> None:
    """Run one relay of a pipeline until it is told to stop, or with `stop_at_end` to the ends seen at the start.

    Raises:
        ConfigError: The settings name nothing to relay.
        HeadraceError: See `stream.errors`; `exit_code` says which.
    """
    if not settings.relayed_topics:
        text = "and [relay] events are both missing; expected a topic that is to be relayed."
        raise ConfigError([Mistake(place=str(settings.path), setting="[labels] topic", text=text)])
    slot = WriterSlot(settings, "relay")
    try:
        relay = Relay(
            KafkaRelay(settings, slot.writer),
            settings,
            stop_at_end=stop_at_end,
            lost=lost,
            should_stop=should_stop,
        )
        spare_the_collector()
        relay.run()
    finally:
        slot.release()
