"""What every client of librdkafka here is set up with, and what its errors mean.

Facts about librdkafka that shaped it are in docs/decisions/0001-data-plane-is-a-confluent-kafka-loop.md.
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
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from stream.errors import ConfigError, EnvironmentRefused, HeadraceError, Mistake
from stream.log import CommitAborted, CommitRetriable, ProducerFenced
from stream.records import Headers
from stream.settings import Settings
from stream.settings.connection import librdkafka_config

log = structlog.get_logger()
#: Where librdkafka's own lines go.
SILENT: Final = logging.Logger("librdkafka", logging.CRITICAL + 1)

#: Seconds for a question to the broker at start; a broker that is there answers in milliseconds.
START_TIMEOUT: Final = 10.0
#: Seconds for one try of a commit's steps; what runs out is tried again. A signal is heeded after that at the latest.
COMMIT_TIMEOUT: Final = 5.0
#: Seconds for which it is taken for granted that the events topic is the one that it was: to delete one, make it again
#: and fill it takes longer. To ask takes half a millisecond.
SAME_TOPIC_SECONDS: Final = 0.2
#: Seconds for the last words to a broker that may be away: the abort of an open transaction, and the status.
LEAVE_TIMEOUT: Final = 2.0
#: Seconds to wait for a committed offset, or for the markers of a transaction, before the writer that holds it back
#: is ended. The markers of a living one come within milliseconds, after its commit was answered. One that the group
#: has dropped is not waited for any longer than a glance.
GLANCE: Final = 0.2
COMMITTED_TIMEOUT: Final = 2.0
MARKERS_TIMEOUT: Final = 1.0
#: Seconds without a share of the partitions after which a worker joins the group anew.
REJOIN_PATIENCE: Final = 20.0
#: Seconds before the same kind of complaint of librdkafka is logged again: it tries again many times a second.
COMPLAINT_PAUSE: Final = 30.0
#: Seconds without a record or an end, after which who reads a log by itself gives up.
READ_PATIENCE: Final = 60.0
#: Records taken from librdkafka's queue at once.
BATCH: Final = 1_000

#: What the consumer may hold unread: with the heap of a small model this keeps a worker under 200 MiB.
CONSUMER_TUNING: Final[Mapping[str, Any]] = {
    "queued.max.messages.kbytes": 4_096,
    "queued.min.messages": 10_000,
    # With so much in hand it fetches no more, and looks again after this time. By default that is a second: then 20,000
    # records were all that a worker was given in a second, however quick it was.
    "fetch.queue.backoff.ms": 10,
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


#: What to do about a topic that is relayed and is not there.
SOURCE_IS_YOURS: Final = "It is yours to make: Headrace makes no topic that others write to."


def refused(settings: Settings, error: KafkaError, what: str, *, of_source: bool = False) -> HeadraceError:
    """The sentence for what the broker refuses, and goes on refusing; of a topic that is relayed, or of our own."""
    if error.code() in NOT_ALLOWED:
        return EnvironmentRefused(
            f"{what}: the broker refuses permission ({error.str()}). "
            f"Allow user {settings.kafka.sasl_username or 'of this connection'!r} to read "
            f"{'what is relayed' if of_source else 'the events'}, write the outputs, and use this group and "
            "transactional id."
        )
    if error.code() in NO_SUCH_TOPIC:
        remedy = SOURCE_IS_YOURS if of_source else f"Run: headrace topics create {settings.path}"
        return EnvironmentRefused(f"{what}: the topic is gone ({error.str()}). {remedy}")
    return EnvironmentRefused(f"{what}: {error.str()} ({error.name()})")


def commit_error(settings: Settings, error: KafkaException, writer: str) -> Exception:
    """Which of a commit's three results an error is."""
    code: KafkaError = error.args[0]
    if code.code() in NOT_ALLOWED:
        return refused(settings, code, f"committing as {writer!r}")
    if code.txn_requires_abort() or code.code() in STALE_MEMBER:
        return CommitAborted(code.str())
    if code.fatal() or code.code() in (KafkaError._FENCED, KafkaError._STATE):
        return ProducerFenced(code.str())
    if code.retriable() or code.code() in NO_ANSWER:
        return CommitRetriable(code.str())
    return CommitAborted(code.str())


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


def headers_of(message: Any) -> Headers | None:
    """The record's headers. The client can't read a name that is not UTF-8, and it must not stop the stream."""
    try:
        return message.headers()  # type: ignore[no-any-return]  # the message is untyped
    except (SystemError, UnicodeDecodeError):
        return UNREADABLE_HEADERS


def bounded(call: Callable[[], None]) -> None:
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


def admin_client(settings: Settings, config: Mapping[str, Any]) -> AdminClient:
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


def client_config(settings: Settings, errors: ClientErrors, client_id: str) -> dict[str, Any]:
    """What each client has: where the broker is, who asks, and who hears of trouble."""
    return {
        **librdkafka_config(settings.kafka),
        "error_cb": errors,
        "client.id": client_id,
        # What matters to us comes as an error or an event; its own lines would surround our sentences.
        "log_level": 2,
        "logger": SILENT,
    }


#: What each consumer has: it is handed nothing uncommitted, is told of the end, and its offsets are set by us.
CONSUMER_RULES: Final[Mapping[str, Any]] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # Anything else jumps silently over a truncated log.
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,
}


def group_member(settings: Settings, config: Mapping[str, Any], errors: ClientErrors, group: str) -> Consumer:
    """A consumer that becomes a member of a group when it subscribes.

    Args:
        settings: Say after which time a silent member is missed.
        config: See `client_config`.
        errors: Hears of this consumer's trouble.
        group: Which one.
    """
    session_timeout_ms = settings.worker.session_timeout_ms
    return Consumer(
        {
            **CONSUMER_TUNING,
            **config,
            **CONSUMER_RULES,
            "error_cb": errors,
            "group.id": group,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": session_timeout_ms,
            # A peer learns of a member's death by its next heartbeat: seconds in which nobody works in its place.
            "heartbeat.interval.ms": min(1_000, session_timeout_ms // 3),
        }
    )


def lone_reader(config: Mapping[str, Any], group: str, tuning: Mapping[str, Any] | None = None) -> Consumer:
    """A consumer that is assigned its partitions by hand; the client asks for a group, which it never joins."""
    return Consumer({**CONSUMER_TUNING, **(tuning or {}), **config, **CONSUMER_RULES, "group.id": group})


def first_producer(settings: Settings, new: Callable[[], Producer]) -> Producer:
    """The first producer of a process; the broker may just be starting.

    Raises:
        EnvironmentRefused: No broker serves transactions for a minute.
    """
    deadline = time.monotonic() + 6 * START_TIMEOUT
    while True:
        try:
            return new()
        except CommitRetriable as error:
            if time.monotonic() > deadline:
                servers = settings.kafka.bootstrap_servers
                raise EnvironmentRefused(f"no broker serves transactions at {servers} ({error}).") from error


def unanswered(
    settings: Settings,
    error: KafkaException,
    what: str,
    clients: Sequence[AdminClient | Consumer],
    *,
    of_source: bool = False,
) -> Exception:
    """What became of a question: ask again later, or refuse. Clients that ask with stale metadata get new."""
    code: KafkaError = error.args[0]
    if code.code() in STALE_METADATA:
        for client in clients:
            with contextlib.suppress(KafkaException):
                client.list_topics(timeout=COMMIT_TIMEOUT)
    if code.code() not in NO_SUCH_TOPIC and (code.retriable() or code.code() in NO_ANSWER):
        return CommitRetriable(f"{what}: {code.str()}")
    return refused(settings, code, what, of_source=of_source)


def commit_alone(
    settings: Settings, consumer: Consumer, offsets: Sequence[TopicPartition], writer: str
) -> None:
    """Commit offsets that no producer has part in.

    Raises:
        CommitRetriable: No answer.
        CommitAborted: The group has moved on.
        EnvironmentRefused: The broker refuses.
    """
    try:
        results = consumer.commit(offsets=list(offsets), asynchronous=False)
        failed = [result.error for result in results or () if result.error is not None]
        if failed:
            raise KafkaException(failed[0])
    except KafkaException as error:
        found = commit_error(settings, error, writer)
        raise (CommitAborted(str(found)) if isinstance(found, ProducerFenced) else found) from error


def count_brokers(settings: Settings, timeout: float = START_TIMEOUT) -> int:
    """How many brokers the data plane's client sees: whether it can connect at all.

    Raises:
        EnvironmentRefused: It can't; says why.
    """
    errors = ClientErrors(quiet=True)
    admin = admin_client(settings, {**librdkafka_config(settings.kafka), "error_cb": errors, "log_level": 0})
    try:
        return len(admin.list_topics(timeout=timeout).brokers)
    except KafkaException as error:
        admin.poll(0)
        raise errors.no_broker(settings, timeout, error.args[0]) from error
