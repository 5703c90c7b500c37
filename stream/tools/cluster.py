"""Kafka as the tools see it: the only module that knows kafka-python, and its errors as sentences."""

from __future__ import annotations

import base64
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, Self

from kafka import (  # type: ignore[import-untyped]  # kafka-python ships no types
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
    TopicPartition,
    errors,
)
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec  # type: ignore[import-untyped]
from kafka.partitioner.default import murmur2 as _murmur2  # type: ignore[import-untyped]

from stream.errors import ConfigError, EnvironmentRefused, HeadraceError, Mistake
from stream.settings import Settings
from stream.settings.connection import kafka_python_config

#: Seconds for an answer; a broker that is there answers in milliseconds.
TIMEOUT: Final = 10.0
#: Seconds that a record may take to arrive, retries included.
PATIENCE: Final = 30.0
#: Seconds that records on their way get after a failure.
SETTLING: Final = 3.0
#: Seconds between two times that the same is asked.
RETRY_PAUSE: Final = 0.2
#: A frame of this many bytes is read: the largest dead letter and what goes with it.
MOST_FRAME_BYTES: Final = 110_000_000
#: Kafka's error code in a topic's description.
TOPIC_NOT_THERE: Final = 3
#: What reads each compression that kafka-python does not read by itself.
CODEC_PACKAGES: Final[Mapping[str, str]] = {"lz4": "lz4", "zstd": "zstandard", "snappy": "python-snappy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFacts:
    """A topic as it is."""

    #: Its name.
    name: str
    #: How many partitions it has.
    partitions: int
    #: How many copies of a partition there are.
    replication_factor: int
    #: Its identity, written as the data plane's client writes it; a recreated topic has another one.
    topic_id: str
    #: Its configuration, the broker's defaults included.
    configs: Mapping[str, str]


class NewTopic(NamedTuple):
    """A topic to be made."""

    name: str
    #: -1: as many as the broker makes by default.
    partitions: int
    #: -1: the broker's default.
    replication_factor: int
    configs: Mapping[str, str]


class Commit(NamedTuple):
    """What a group has committed for a partition."""

    next_offset: int
    metadata: str


class Bounds(NamedTuple):
    """Where a partition's log begins and ends."""

    first: int
    #: The last stable offset: what a `read_committed` reader gets to.
    end: int


def murmur2(key: bytes) -> int:
    """Java's and kafka-python's hash of a key, as a number >= 0.

    >>> murmur2(b"21")
    1173551340
    """
    return int(_murmur2(key)) & 0x7FFFFFFF


def topic_identity(topic_id: str) -> str:
    """A topic's id as librdkafka writes it, and so the commits: base64, not the URL-safe kind that Java writes.

    >>> topic_identity("6a258d99-b179-4b90-b425-e4fdfce28aeb")
    'aiWNmbF5S5C0JeT9/OKK6w'
    """
    return base64.b64encode(uuid.UUID(topic_id).bytes).decode().rstrip("=")


@contextmanager
def sentences(settings: Settings, doing: str, timeout: float = TIMEOUT) -> Iterator[None]:
    """Turn kafka-python's errors into what happened, where, and what to do.

    Raises:
        EnvironmentRefused: In place of any error of kafka-python.
    """
    try:
        yield
    except errors.KafkaError as error:
        raise EnvironmentRefused(_sentence(error, settings, doing, timeout)) from error


def _sentence(error: Exception, settings: Settings, doing: str, timeout: float) -> str:
    servers = settings.kafka.bootstrap_servers
    user = settings.kafka.sasl_username
    if isinstance(error, errors.SaslAuthenticationFailedError | errors.UnsupportedSaslMechanismError):
        return (
            f"{servers} refuses the login of user {user!r} while {doing} ({error}). "
            "See [kafka] sasl_mechanism, sasl_username and sasl_password."
        )
    if isinstance(error, errors.AuthorizationError):
        who = f"user {user!r}" if user else "this connection"
        return f"the broker refuses permission for {doing} ({error}). Allow it for {who}."
    if isinstance(error, errors.UnsupportedCodecError):
        codec = next((name for name in CODEC_PACKAGES if name in str(error).lower()), "")
        return (
            f"{doing}: a record is compressed with {codec or 'a codec'} that this client can't read "
            f"by itself. Install what reads it: pip install {CODEC_PACKAGES.get(codec, 'lz4 zstandard python-snappy')}"
        )
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return f"{doing}: the topic is gone. Run: headrace topics create {settings.path}"
    if isinstance(error, errors.PolicyViolationError | errors.InvalidReplicationFactorError):
        return f"the broker refuses {doing}: {error}. See --replication-factor and the cluster's policies."
    if isinstance(error, errors.KafkaTimeoutError | errors.KafkaConnectionError | errors.NodeNotReadyError):
        return (
            f"no broker answered at {servers} within {timeout:.0f} s while {doing}. "
            "Is it running, and are [kafka] bootstrap_servers and its security settings right?"
        )
    return f"{doing} at {servers} failed: {error}"


def _quiet() -> None:
    # kafka-python logs each try of a connection; what matters comes as an error, and then as a sentence.
    logging.getLogger("kafka").setLevel(logging.CRITICAL + 1)


class Cluster:
    """What the tools ask of a Kafka cluster.

    Args:
        settings: The pipeline's settings.
        timeout: Seconds for each answer.

    Raises:
        EnvironmentRefused: No broker answers, or it refuses us; so do all methods.
    """

    def __init__(self, settings: Settings, timeout: float = TIMEOUT) -> None:
        _quiet()
        self._settings = settings
        self._timeout = timeout
        with sentences(settings, "connecting", timeout):
            self._admin: Any = KafkaAdminClient(
                **kafka_python_config(settings.kafka),
                bootstrap_timeout_ms=round(timeout * 1_000),
                request_timeout_ms=round(timeout * 1_000),
                client_id="headrace-tools",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._admin.close()

    def brokers(self) -> int:
        """How many brokers there are."""
        return len(self._ask("asking for the brokers", self._admin.describe_cluster)["brokers"])

    def topics(self, names: Iterable[str]) -> dict[str, TopicFacts]:
        """The topics of these names; one that does not exist is left out."""
        found: dict[str, tuple[int, int, str]] = {}
        doing = "asking for the topics"
        with sentences(self._settings, doing, self._timeout):
            for topic in self._ask(doing, lambda: self._admin.describe_topics(list(names))):
                if topic["error_code"] == TOPIC_NOT_THERE:
                    continue
                if topic["error_code"]:
                    raise errors.for_code(topic["error_code"])(topic["name"])
                partitions = topic["partitions"]
                found[topic["name"]] = (
                    len(partitions),
                    min((len(partition["replica_nodes"]) for partition in partitions), default=0),
                    topic_identity(str(topic["topic_id"])),
                )
        if not found:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in found]
        configs = self._ask(
            "asking for the topics' configuration",
            lambda: self._admin.describe_configs(resources, config_filter="all"),
        )["topic"]
        return {
            name: TopicFacts(
                name=name,
                partitions=partitions,
                replication_factor=replicas,
                topic_id=identity,
                configs={
                    key: entry["value"] for key, entry in configs[name].items() if entry["value"] is not None
                },
            )
            for name, (partitions, replicas, identity) in found.items()
        }

    def create(self, topics: Sequence[NewTopic]) -> None:
        """Make topics, and wait until they can be used."""
        doing = f"making {', '.join(topic.name for topic in topics)}"
        with sentences(self._settings, doing, self._timeout):
            self._admin.create_topics(
                {
                    topic.name: {
                        "num_partitions": topic.partitions,
                        "replication_factor": topic.replication_factor,
                        "configs": dict(topic.configs),
                    }
                    for topic in topics
                },
                wait_for_metadata=True,
            )

    def configure(self, topics: Mapping[str, Mapping[str, str]]) -> None:
        """Set some configuration of topics, by topic; the rest of it stays as it is."""
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, name, configs=dict(configs))
            for name, configs in topics.items()
        ]
        results = self._ask(
            f"configuring {', '.join(topics)}",
            lambda: self._admin.alter_configs(resources, incremental=True),
        )["topic"]
        for name, result in results.items():
            if result != "OK":
                raise EnvironmentRefused(f"the broker refuses to configure {name}: {result}")

    def commits(self, group: str, topic: str) -> dict[int, Commit]:
        """What a group has committed for the partitions of a topic; nothing for one without a commit."""
        found = self._ask(
            f"asking for the offsets of group {group!r}",
            lambda: self._admin.list_group_offsets({group: None}),
        )[group]
        return {
            # librdkafka sends the string's closing zero byte along
            where.partition: Commit(commit.offset, (commit.metadata or "").rstrip("\0"))
            for where, commit in found.items()
            if where.topic == topic and commit.offset >= 0
        }

    def commit(self, group: str, topic: str, commits: Mapping[int, Commit]) -> None:
        """Commit for partitions of a topic, for a group that has no members.

        Raises:
            EnvironmentRefused: Also if the group has members.
        """
        doing = f"committing offsets of group {group!r}"
        offsets = {
            # -1: the epoch of the partition's leader is not known, nor needed
            TopicPartition(topic, partition): OffsetAndMetadata(commit.next_offset, commit.metadata, -1)
            for partition, commit in commits.items()
        }

        def ask() -> None:
            for error in self._admin.alter_group_offsets(group, offsets).values():
                if error is not errors.NoError:
                    raise error(f"{topic}, group {group}")

        try:
            self._ask(doing, ask)
        except EnvironmentRefused as refusal:
            if isinstance(refusal.__cause__, errors.UnknownMemberIdError):
                raise EnvironmentRefused(
                    f"group {group!r} has members, and so takes no offsets from others; expected none. "
                    "Stop what consumes with this group, and start again."
                ) from refusal
            raise

    def members(self, group: str) -> int:
        """How many members a group has now."""
        found = self._ask(
            f"asking for the members of group {group!r}", lambda: self._admin.describe_groups([group])
        )
        return len(found[group]["members"])

    def bounds(self, topic: str, partitions: int, *, with_open: bool = False) -> list[Bounds]:
        """Where the log of each partition begins and ends.

        Args:
            topic: The topic.
            partitions: How many it has.
            with_open: Take for the end what is behind the open transactions: who reads up to there waits for them.
        """
        wanted = [TopicPartition(topic, partition) for partition in range(partitions)]
        first, end = (
            self._ask(
                f"asking where {topic} begins and ends",
                lambda spec=spec: self._admin.list_partition_offsets(  # type: ignore[misc]  # a loop's lambda
                    dict.fromkeys(wanted, spec),
                    isolation_level="read_uncommitted" if with_open else "read_committed",
                ),
            )
            for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
        )
        return [Bounds(first[where].offset, end[where].offset) for where in wanted]

    def offsets_at(self, topic: str, partitions: Sequence[int], timestamp: int) -> dict[int, int]:
        """The first offset of each partition whose record is not older; none for one with older records only.

        Args:
            topic: The topic.
            partitions: Its partitions to be asked for.
            timestamp: Milliseconds since the epoch.
        """
        wanted = {TopicPartition(topic, partition): timestamp for partition in partitions}
        found = self._ask(
            f"asking where {topic} has records of that time",
            lambda: self._admin.list_partition_offsets(wanted, isolation_level="read_committed"),
        )
        return {where.partition: at.offset for where, at in found.items() if at.offset >= 0}

    def _ask(self, doing: str, question: Callable[[], Any]) -> Any:
        """Ask, and ask again while the cluster says "later": a new one has no coordinator for its groups yet."""
        deadline = time.monotonic() + self._timeout
        with sentences(self._settings, doing, self._timeout):
            while True:
                try:
                    return question()
                except errors.BrokerResponseError as error:
                    if not error.retriable or time.monotonic() > deadline:
                        raise
                    time.sleep(RETRY_PAUSE)


class Found(NamedTuple):
    """A record that was read."""

    topic: str
    partition: int
    offset: int
    #: Milliseconds since the epoch.
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Reader:
    """Reads partitions without a group; sees committed records only.

    Args:
        settings: The pipeline's settings.
        partitions: Topic and partition pairs.
    """

    def __init__(self, settings: Settings, partitions: Sequence[tuple[str, int]]) -> None:
        _quiet()
        self._settings = settings
        self._partitions = [TopicPartition(*pair) for pair in partitions]
        with sentences(settings, "connecting"):
            self._consumer: Any = KafkaConsumer(
                **kafka_python_config(settings.kafka),
                bootstrap_timeout_ms=round(TIMEOUT * 1_000),
                request_timeout_ms=round(2 * TIMEOUT * 1_000),
                receive_message_max_bytes=MOST_FRAME_BYTES,
                isolation_level="read_committed",
                enable_auto_commit=False,
                allow_auto_create_topics=False,
                auto_offset_reset="earliest",  # what was deleted by retention meanwhile is skipped
                fetch_max_wait_ms=100,
                client_id="headrace-tools",
            )
            self._consumer.assign(self._partitions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def seek_to_beginning(self) -> None:
        """Read from the first record that is still there."""
        self._consumer.seek_to_beginning(*self._partitions)

    def seek_to_end(self) -> None:
        """Read what comes from now on."""
        with sentences(self._settings, "asking where the topics end"):
            for where, offset in self._consumer.end_offsets(self._partitions).items():
                self._consumer.seek(where, offset)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Read one partition from an offset."""
        self._consumer.seek(TopicPartition(topic, partition), offset)

    def turn_to(self, topic: str, partition: int, offset: int) -> None:
        """Read this partition, and no other, from an offset."""
        self._partitions = [TopicPartition(topic, partition)]
        self._consumer.assign(self._partitions)
        self._consumer.seek(self._partitions[0], offset)

    def position(self, topic: str, partition: int) -> int:
        """Where it reads on in a partition: past control records, which are never handed over."""
        with sentences(self._settings, f"reading {topic}"):
            where = TopicPartition(topic, partition)
            return self._consumer.position(where, timeout_ms=round(TIMEOUT * 1_000)) or 0

    def poll(self, seconds: float) -> list[Found]:
        """The next records, waiting at most this long for the first."""
        with sentences(self._settings, "reading"):
            batches = self._consumer.poll(timeout_ms=round(seconds * 1_000))
        return [
            Found(
                record.topic,
                record.partition,
                record.offset,
                record.timestamp,
                record.key,
                record.value,
                record.headers,
            )
            for batch in batches.values()
            for record in batch
        ]

    def read_to(self, topic: str, ends: Mapping[int, int]) -> Iterator[list[Found]]:
        """The records of a topic before these offsets, by partition; a list for each time that something came.

        Raises:
            EnvironmentRefused: Nothing came for a long time though there is more.
        """
        reached: dict[int, int] = {}
        deadline = time.monotonic() + PATIENCE
        while True:
            with sentences(self._settings, f"reading {topic}", PATIENCE):
                positions = {partition: self.position(topic, partition) for partition in ends}
                if all(positions[partition] >= end for partition, end in ends.items()):
                    return
                if positions != reached:
                    reached, deadline = positions, time.monotonic() + PATIENCE
                elif time.monotonic() > deadline:
                    raise errors.KafkaTimeoutError
            yield [record for record in self.poll(0.5) if record.offset < ends[record.partition]]


class DeliveryFailed(HeadraceError):
    """A record was not taken by the broker."""

    exit_code = 3

    def __init__(self, tag: int, reason: str) -> None:
        super().__init__(tag, reason)
        #: What the sender called the record: its line, its offset.
        self.tag = tag
        self.reason = reason

    def __str__(self) -> str:
        return f"line {self.tag}: {self.reason}"


class Writer:
    """Writes records to one topic, in order, with a bounded number on the way.

    Args:
        settings: The pipeline's settings.
        topic: Where to write.
        linger_seconds: How long a record may wait for others to travel with.
    """

    #: Records handed to the client before the oldest must have arrived: its own queue has no bound.
    WINDOW: Final = 20_000
    #: Each so many records one is kept to be waited for.
    STEP: Final = 1_000

    def __init__(self, settings: Settings, topic: str, *, linger_seconds: float) -> None:
        _quiet()
        self._settings = settings
        self._topic = topic
        self._sent = 0
        self._arrived = 0
        self._refused = 0
        self._failed: tuple[int, Exception] | None = None
        self._waymarks: list[Any] = []
        with sentences(settings, "connecting"):
            self._producer: Any = KafkaProducer(
                **kafka_python_config(settings.kafka),
                bootstrap_timeout_ms=round(TIMEOUT * 1_000),
                max_block_ms=round(TIMEOUT * 1_000),
                request_timeout_ms=round(TIMEOUT * 1_000),
                delivery_timeout_ms=round(PATIENCE * 1_000),
                allow_auto_create_topics=False,
                max_request_size=MOST_FRAME_BYTES,  # the topic's own limit decides
                batch_size=256 * 1024,
                linger_ms=round(linger_seconds * 1_000),
                client_id="headrace-tools",
            )

    def write(
        self,
        partition: int,
        key: bytes | None,
        value: bytes,
        tag: int,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Hand over one record; raises for an earlier one that was refused."""
        with sentences(self._settings, f"writing to {self._topic}"):
            future = self._producer.send(
                self._topic, value=value, key=key, partition=partition, headers=list(headers)
            )
        future.add_callback(self._on_arrival)
        future.add_errback(self._on_error, tag)
        self._sent += 1
        if self._sent % self.STEP == 0:
            self._waymarks.append(future)
            if len(self._waymarks) > self.WINDOW // self.STEP:
                self._wait_for(self._waymarks.pop(0))
        if self._failed is not None:
            self._raise_failed()

    def finish(self) -> None:
        """Wait until everything has arrived.

        Raises:
            DeliveryFailed: A record was refused.
        """
        self.wait()
        self._raise_failed()

    def wait(self) -> None:
        """Wait until every record has arrived or was refused."""
        deadline = time.monotonic() + PATIENCE + 1
        while self._arrived + self._refused < self._sent:
            with sentences(self._settings, f"writing to {self._topic}", PATIENCE):
                try:
                    self._producer.flush(timeout=max(0.0, deadline - time.monotonic()))
                except errors.UnknownError:
                    # It raises when a batch that was too large is split; the parts are still on their way.
                    time.sleep(0.01)

    def settle(self) -> str:
        """After a failure: wait a little for what may still arrive, and say how much has."""
        with suppress(errors.KafkaError):
            self._producer.flush(timeout=SETTLING)
        unknown = self._arrived + self._refused < self._sent
        events = f"{self._arrived:,} event{' was' if self._arrived == 1 else 's were'} sent."
        return f"At least {events}" if unknown else events

    def close(self) -> None:
        """Give up the connection, and what has not arrived: whoever wants to know has waited."""
        with suppress(errors.KafkaError):
            self._producer.close(timeout=1)

    def _wait_for(self, future: Any) -> None:
        try:
            future.get(timeout=PATIENCE)
        except errors.KafkaError as error:
            self._raise_failed()
            raise EnvironmentRefused(
                _sentence(error, self._settings, f"writing to {self._topic}", PATIENCE)
            ) from error

    # The client's own thread calls these two, no other.

    def _on_arrival(self, _: Any) -> None:
        self._arrived += 1

    def _on_error(self, tag: int, error: Exception) -> None:
        self._refused += 1
        if self._failed is None:
            self._failed = (tag, error)

    def _raise_failed(self) -> None:
        if self._failed is None:
            return
        tag, error = self._failed
        if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
            reason = f"{self._topic} does not take a record of this size (max.message.bytes)."
        else:
            reason = _sentence(error, self._settings, f"writing to {self._topic}", PATIENCE)
        raise DeliveryFailed(tag, reason) from error


def time_of(text: str, option: str, others: str = "") -> datetime:
    """A time as an option says it: ISO 8601 with its zone.

    Args:
        text: What was given.
        option: Which option, for the error.
        others: What else the option takes.

    Raises:
        ConfigError: It is no such time.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        expected = f"{others}a time with its zone, such as 2026-01-31T00:00:00Z."
        raise ConfigError([Mistake(place=option, setting="", text=f"is {text!r}; expected {expected}")])
    return time
