"""Reads a pipeline's status and alerts topics for as long as the monitor lives: history first, then a Faust app.

A session begins with a broker that answers and ends when it no longer does, or when Faust gives up; then the next one
begins. What was taken in stays, and the next session goes on behind it, so nothing is missed and the pages never go
away. docs/decisions/0006 says why it is done so.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, NamedTuple

import faust
import orjson
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from aiokafka.errors import KafkaConnectionError, KafkaError  # type: ignore[import-untyped]
from faust.auth import SASLCredentials, SSLCredentials

from monitors.app.config import WatchedPipeline
from monitors.app.site import DeadLetter, Feed, FeedState, Unavailable
from monitors.app.telling import Teller
from monitors.fleet import PipelineFacts, PipelineState, SeenAlert, Watchdog, Watchdogs
from monitors.fleet.fleet import TopicKind
from monitors.records import Incident

log = structlog.get_logger()

#: Status records of so long are read when the monitor begins, and all of the last so long.
HISTORY_SECONDS: Final = 26 * 3_600.0
DENSE_SECONDS: Final = 7_200.0
#: Of the statuses before that, one in so many seconds of each partition is taken in.
THIN_SECONDS: Final = 60.0
#: Records of the alerts topic that are read, of each partition: the newest.
MOST_HISTORY_ALERTS: Final = 20_000
#: Live records that wait until the history is read; with more the session begins anew.
MOST_WAITING: Final = 100_000
#: Seconds between two looks at whether the broker still answers, and how long it may take.
PROBE_SECONDS: Final = 2.0
PROBE_TIMEOUT: Final = 3.0
#: A status that has been on its topic for so long and was not handed over says that Faust is stuck, seconds.
STUCK_SECONDS: Final = 30.0
#: How far people have been told is committed again after so long, though nothing was told: a broker forgets an offset
#: that was not committed for a week. Seconds.
COMMIT_AGAIN_SECONDS: Final = 6 * 3_600.0
#: Seconds to the next session, doubled from the first to the last while none succeeds.
FIRST_WAIT: Final = 1.0
LAST_WAIT: Final = 15.0
#: Seconds that a Kafka client may take to say that there is no broker.
REQUEST_TIMEOUT_MS: Final = 10_000
#: Seconds that a client may take to stop; one whose broker does not answer is left to itself then.
STOP_SECONDS: Final = 5.0
#: Who asks for dead letters within so long of the last answer gets that one again, seconds.
LETTERS_KEPT_SECONDS: Final = 1.0
#: Characters of a dead letter's value that are shown.
SHOWN_CHARACTERS: Final = 2_000
#: Names of the incidents that watchdogs open.
WATCHDOGS: Final = frozenset(dog.value.name for dog in Watchdog)
#: Events are given back to the loop after so many records of history.
SLICE: Final = 200


class Record(NamedTuple):
    """A record of one of the two topics."""

    kind: TopicKind
    partition: int
    offset: int
    value: bytes | None
    #: Epoch seconds.
    timestamp: float


class _Letters(NamedTuple):
    """What a reading of the dead letters gave."""

    #: At most so many were asked for.
    most: int
    found: list[DeadLetter] | Unavailable
    #: When it ended, by the monotonic clock.
    at: float

    def answers(self, most: int) -> bool:
        """Whether it is still good for who asks for so many now."""
        is_enough = self.most >= most or isinstance(self.found, Unavailable)
        return is_enough and time.monotonic() - self.at < LETTERS_KEPT_SECONDS


class PipelineReader:
    """Keeps one pipeline's state up to date.

    Args:
        pipeline: What to read, and how to reach it.
        state: Where it goes.
        feed: Says to others how the reading stands.
        watchdogs: Look about once a second while the state is up to date; what they find goes to the alerts topic.
        teller: Tells people of what comes; None: nobody is to be told.
        clock: Wall clock, epoch seconds.
    """

    def __init__(
        self,
        pipeline: WatchedPipeline,
        state: PipelineState,
        feed: Feed,
        *,
        watchdogs: Watchdogs,
        teller: Teller | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pipeline = pipeline
        self._state = state
        self._feed = feed
        self._teller = teller
        self._watchdogs = watchdogs
        self._clock = clock
        #: Live records that wait for the history; None: they are taken in at once.
        self._waiting: deque[Record] | None = deque()
        #: When all of how far people have been told was last committed, monotonic.
        self._kept_at = time.monotonic()
        #: Why records may be missing although Faust hands over what it has; empty: none are.
        self._gap = ""
        self._topics: Mapping[str, TopicKind] = {
            pipeline.facts.status_topic: "status",
            pipeline.facts.alerts_topic: "alerts",
        }
        self._reading_letters = asyncio.Lock()
        self._last_letters: _Letters | None = None
        #: Records that were taken in, by kind of topic.
        self.records: Counter[TopicKind] = Counter()
        #: Incidents that watchdogs opened since this monitor began, by name.
        self.openings: Counter[str] = Counter()

    async def run(self) -> None:
        """Read until cancelled."""
        wait = FIRST_WAIT
        while True:
            async with AsyncExitStack() as stack:
                try:
                    await self._session(stack)
                except Exception as error:  # a bug must not take the pages down with it
                    if self._feed.state == "live":
                        wait = FIRST_WAIT
                    # Before the clients are stopped, which takes long if the broker does not answer.
                    self._ended(error)
            await asyncio.sleep(wait)
            wait = min(LAST_WAIT, 2 * wait)

    def _ended(self, error: Exception) -> None:
        """Tell why a session ended."""
        if isinstance(error, Unavailable):
            problem = str(error)
        elif isinstance(error, (KafkaError, OSError, TimeoutError)):
            problem = sentence(self._pipeline.facts, error)
        else:
            log.error("reading failed", pipeline=self._pipeline.facts.name, exc_info=error)
            problem = f"reading failed ({type(error).__name__}: {error}); it begins anew."
        self._feed.restarts += 1
        if problem != self._feed.problem:
            log.warning("session ended", pipeline=self._pipeline.facts.name, problem=problem)
        self._move("connecting" if self._feed.state == "connecting" else "away", problem)

    # A session --------------------------------------------------------------------------------------------------

    async def _session(self, stack: AsyncExitStack) -> None:
        """From a broker that answers to one that does not; the stack is left when it has ended."""
        consumer = await stack.enter_async_context(self._consumer())
        places = await self._places(consumer)
        self._waiting = deque()
        app = await stack.enter_async_context(self._faust())
        self._gap = ""  # from here on it has its place in each partition
        self._move("loading")
        if self._teller is not None:
            await self._find_told(consumer, places, self._teller)
        await self._read_history(consumer, places)
        if self._teller is not None:
            self._teller.history_is_read()
        self._refuse_a_gap()
        waiting, self._waiting = self._waiting, None
        for record in waiting:
            self._take(record, live=True)
        self._move("live")
        log.info("up to date", pipeline=self._pipeline.facts.name, records=self.records.total())
        self._watchdogs.began(self._clock())
        try:
            await self._watch_over(app, consumer, places)
        except asyncio.CancelledError:
            if self._teller is not None:
                await bounded(self._keep_told(consumer, self._teller))
            raise

    def _move(self, state: FeedState, problem: str = "") -> None:
        if state != self._feed.state:
            self._feed.state, self._feed.since = state, self._clock()
        self._feed.problem = problem

    @asynccontextmanager
    async def _consumer(self) -> AsyncIterator[Any]:
        """A client beside Faust's: for history, probes and single looks."""
        consumer = AIOKafkaConsumer(
            **self._pipeline.connection,
            client_id="headrace-monitor",
            # It joins no group; in this one's offsets it keeps how far people have been told.
            group_id=None if self._teller is None else f"headrace-monitor-{self._pipeline.facts.name}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # what was deleted meanwhile is skipped
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        try:
            await asyncio.wait_for(consumer.start(), 2 * REQUEST_TIMEOUT_MS / 1_000)
            yield consumer
        finally:
            await bounded(consumer.stop())

    async def _places(self, consumer: Any) -> dict[TopicPartition, TopicKind]:
        """The partitions of both topics."""
        found = await partitions_of(consumer, self._topics)
        missing = [topic for topic in self._topics if not found[topic]]
        if missing:
            names = " and ".join(repr(topic) for topic in missing)
            raise Unavailable(
                f"there is no topic {names}, or this user may not see it. "
                f"Make it: headrace topics create {self._pipeline.facts.settings_file}"
            )
        return {place: kind for topic, kind in self._topics.items() for place in found[topic]}

    @asynccontextmanager
    async def _faust(self) -> AsyncIterator[faust.App]:
        """A Faust app with an agent on each topic that has its partitions and reads from their ends."""
        folder = tempfile.TemporaryDirectory(prefix="headrace-monitor-", ignore_cleanup_errors=True)
        app = self._new_app(folder.name)
        try:
            await asyncio.wait_for(app.start(), 60.0)
            deadline = time.monotonic() + 60.0
            while not await _is_reading(app, len(self._topics)):
                if time.monotonic() > deadline:
                    raise Unavailable(
                        "the brokers gave the monitor no partitions within 60 s; it begins anew."
                    )
                await asyncio.sleep(0.05)
            yield app
        finally:
            await bounded(app.stop())
            folder.cleanup()

    def _new_app(self, folder: str) -> faust.App:
        facts = self._pipeline.facts
        servers = ";".join(f"kafka://{server}" for server in facts.brokers.split(","))
        app = faust.App(
            f"headrace-monitor-{facts.name}-{time.time_ns():x}",  # a group of its own: each monitor sees it all
            broker=servers,
            broker_credentials=_credentials(self._pipeline.connection),
            broker_commit_interval=3_600.0,  # its offsets are of no use: state is rebuilt from the topics
            broker_session_timeout=30.0,
            broker_heartbeat_interval=3.0,
            consumer_auto_offset_reset="latest",
            datadir=folder,  # it makes one, even to keep nothing there
            producer_request_timeout=10.0,
            store="memory://",
            stream_wait_empty=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            worker_redirect_stdouts=False,
        )

        def add(topic: str, kind: TopicKind) -> None:
            async def agent(stream: Any) -> None:
                async for event in stream.events():
                    message = event.message
                    self._arrived(
                        Record(kind, message.partition, message.offset, message.value, message.timestamp)
                    )

            app.agent(app.topic(topic, key_serializer="raw", value_serializer="raw"), name=kind)(agent)

        for topic, kind in self._topics.items():
            add(topic, kind)

        @app.on_partitions_assigned.connect
        async def assigned(*_: object, **__: object) -> None:
            # After a suspended machine, or with more partitions. Faust then reads on from the ends of the topics.
            self._gap = "the brokers gave the monitor its partitions again; reading is started anew."

        @app.timer(interval=1.0, name="watchdogs")  # type: ignore[untyped-decorator]  # as Faust has it
        async def tick() -> None:
            if self._waiting is None and self._feed.state == "live":
                await self._look(app)

        return app

    def _arrived(self, record: Record) -> None:
        if self._waiting is None:
            self._take(record, live=True)
        elif len(self._waiting) < MOST_WAITING:
            self._waiting.append(record)
        else:
            self._gap = f"{MOST_WAITING:,} records came while the history was read; it is read anew."

    def _refuse_a_gap(self) -> None:
        if self._gap:
            raise Unavailable(self._gap)

    def _take(self, record: Record, *, live: bool) -> None:
        try:
            seen_at = self._clock() if live else record.timestamp
            applied = self._state.apply(
                record.kind, record.partition, record.offset, record.value, seen_at=seen_at
            )
            self.records[record.kind] += 1
            if live and applied == "incident":
                self._count_opening(self._state.taken)
            if self._teller is not None and record.kind == "alerts":
                self._teller.take(record.partition, record.offset, applied, live=live)
        except Exception:  # one odd record must not end the reading of all others
            log.exception(
                "a record could not be taken in", kind=record.kind, at=f"{record.partition}@{record.offset}"
            )

    def _count_opening(self, seen: SeenAlert | None) -> None:
        alert = None if seen is None else seen.alert
        if isinstance(alert, Incident) and alert.state == "open" and alert.incident in WATCHDOGS:
            self.openings[alert.incident] += 1

    async def _look(self, app: faust.App) -> None:
        """Let the watchdogs look, and write what they say."""
        try:
            found = self._watchdogs.look(self._state, self._clock())
        except Exception:  # a bug in one must not end the reading
            log.exception("the watchdogs failed", pipeline=self._pipeline.facts.name)
            return
        if not found:
            return
        name = self._pipeline.facts.alerts_topic
        topic = app.topic(name, key_serializer="raw", value_serializer="raw")
        there = {place.partition for place in app.consumer.assignment() if place.topic == name}
        for incident in found:
            log.info(
                incident.incident, partition=incident.partition, state=incident.state, text=incident.text
            )
            # Anybody may write a status, of a partition that there is not too.
            partition = incident.partition if incident.partition in there else 0
            try:
                sent = await topic.send(key=None, value=orjson.dumps(incident.to_dict()), partition=partition)
                await asyncio.wait_for(sent, 15.0)
            except (KafkaError, TimeoutError, OSError) as error:
                problem = str(error) or type(error).__name__
                log.warning("a watchdog's alert could not be written", problem=problem)
                return  # the others would wait as long: they are said again
            except Exception:  # one that can't be written must not keep back the others
                log.exception("a watchdog's alert could not be written", partition=incident.partition)

    async def _find_told(
        self, consumer: Any, places: Mapping[TopicPartition, TopicKind], teller: Teller
    ) -> None:
        """Find out up to where an earlier run has told people; the first run begins with what comes now."""
        if teller.knows_where_to_begin:
            return
        alerts = [place for place, kind in places.items() if kind == "alerts"]
        consumer.assign(alerts)
        ends = await consumer.end_offsets(alerts)
        told: dict[TopicPartition, int] = {}
        for place in alerts:
            committed = await asyncio.wait_for(consumer.committed(place), 2 * REQUEST_TIMEOUT_MS / 1_000)
            told[place] = ends[place] if committed is None else min(committed, ends[place])
        await consumer.commit(told)
        teller.begin({place.partition: offset for place, offset in told.items()})

    async def _keep_told(self, consumer: Any, teller: Teller) -> None:
        """Commit how far people have been told."""
        now = time.monotonic()
        again = now - self._kept_at >= COMMIT_AGAIN_SECONDS
        offsets = teller.to_commit(again=again)
        if offsets:
            topic = self._pipeline.facts.alerts_topic
            await asyncio.wait_for(
                consumer.commit({TopicPartition(topic, partition): at for partition, at in offsets.items()}),
                PROBE_TIMEOUT,
            )
            teller.committed(offsets)
        if again:
            self._kept_at = now

    async def _read_history(self, consumer: Any, places: Mapping[TopicPartition, TopicKind]) -> None:
        """Take in what lies on the topics up to now, from where the last session ended."""
        consumer.assign(list(places))
        first = await consumer.beginning_offsets(list(places))
        ends = await consumer.end_offsets(list(places))
        since = round(1_000 * (self._clock() - HISTORY_SECONDS))
        times = await consumer.offsets_for_times(
            {place: since for place, kind in places.items() if kind == "status"}
        )
        starts: dict[TopicPartition, int] = {}
        for place, kind in places.items():
            done = self._state.next_offset(kind, place.partition)
            if done > ends[place]:  # the topic was deleted and made anew
                self._state.begin_again(kind, place.partition)
                if kind == "alerts" and self._teller is not None:
                    self._teller.begin_again(place.partition)
                done = 0
            if kind == "status":
                # Of a pipeline that was silent for longer the last word says since when, and how it stood.
                begin = ends[place] - 1 if times.get(place) is None else times[place].offset
            else:
                begin = ends[place] - MOST_HISTORY_ALERTS
                if self._teller is not None:
                    begin = min(begin, self._teller.told(place.partition))
            starts[place] = min(ends[place], max(done, begin, first[place]))
            consumer.seek(place, starts[place])
        dense_since = self._clock() - DENSE_SECONDS
        thinned: dict[int, float] = {}
        total = sum(ends[place] - starts[place] for place in places)
        reached = dict(starts)
        progressed = time.monotonic()
        while any(reached[place] < ends[place] for place in places):
            batches = await consumer.getmany(timeout_ms=500)
            taken = 0
            for place, records in batches.items():
                kind = places[place]
                for record in records:
                    timestamp = record.timestamp / 1_000
                    if kind == "status" and timestamp < dense_since:
                        if thinned.get(place.partition) == timestamp // THIN_SECONDS:
                            continue
                        thinned[place.partition] = timestamp // THIN_SECONDS
                    self._take(
                        Record(kind, place.partition, record.offset, record.value, timestamp), live=False
                    )
                    taken += 1
                    if taken % SLICE == 0:
                        await asyncio.sleep(0)
            before = dict(reached)
            for place in places:
                reached[place] = await consumer.position(place)
            if reached != before:
                progressed = time.monotonic()
            elif time.monotonic() - progressed > STUCK_SECONDS:
                raise Unavailable(
                    f"nothing was read for {STUCK_SECONDS:.0f} s though there is more; it begins anew."
                )
            left = sum(max(0, ends[place] - reached[place]) for place in places)
            self._feed.loaded = 1.0 - left / total if total else 1.0
        self._feed.loaded = 1.0

    async def _watch_over(
        self, app: faust.App, consumer: Any, places: Mapping[TopicPartition, TopicKind]
    ) -> None:
        """Return never; raise when the broker is away, records are missing, or Faust has stopped or is stuck."""
        consumer.pause(*consumer.assignment())  # from here on it is only asked where the topics end
        behind_since: float | None = None
        failed = shorter = 0
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            self._refuse_a_gap()
            if app.crashed or app.should_stop:
                reason = app.crash_reason
                raise Unavailable(
                    f"Faust stopped ({type(reason).__name__}: {reason}); it is started anew."
                    if reason is not None
                    else "Faust stopped; it is started anew."
                )
            try:
                ends = await asyncio.wait_for(consumer.end_offsets(list(places)), PROBE_TIMEOUT)
                if self._teller is not None:
                    await self._keep_told(consumer, self._teller)
                failed = 0
            except (KafkaError, TimeoutError, OSError) as error:
                failed += 1
                if failed > 1:
                    raise Unavailable(sentence(self._pipeline.facts, error)) from error
                continue
            left = {
                place: end - self._state.next_offset(places[place], place.partition)
                for place, end in ends.items()
            }
            shorter = shorter + 1 if min(left.values()) < 0 else 0
            if shorter > 1:
                raise Unavailable(
                    "a topic ends before what was read of it: it was made anew, and is read anew."
                )
            # Not the alerts: the mark at the end of a transaction is handed over to nobody.
            behind = any(count > 0 for place, count in left.items() if places[place] == "status")
            if not behind:
                behind_since = None
            elif behind_since is None:
                behind_since = time.monotonic()
            elif time.monotonic() - behind_since > STUCK_SECONDS:
                raise Unavailable("records lie on the topics that did not arrive; reading is started anew.")

    # Single looks -----------------------------------------------------------------------------------------------

    async def dead_letters(self, most: int) -> list[DeadLetter]:
        """The newest records of the dead-letter topic, the newest first.

        They are read by one at a time, however many ask: each reading opens connections of its own.

        Raises:
            Unavailable: The broker does not answer, or there is no such topic; the sentence says which.
        """
        async with self._reading_letters:
            last = self._last_letters
            if last is None or not last.answers(most):
                found: list[DeadLetter] | Unavailable
                try:
                    found = await asyncio.wait_for(self._dead_letters(most), 20.0)
                except Unavailable as error:
                    found = error
                except (KafkaError, TimeoutError, OSError) as error:
                    found = Unavailable(sentence(self._pipeline.facts, error))
                last = self._last_letters = _Letters(most, found, time.monotonic())
        if isinstance(last.found, Unavailable):
            raise Unavailable(str(last.found))
        return last.found[:most]

    async def _dead_letters(self, most: int) -> list[DeadLetter]:
        topic = self._pipeline.facts.dead_letters_topic
        async with self._consumer() as consumer:
            places = (await partitions_of(consumer, [topic]))[topic]
            if not places:
                raise Unavailable(f"there is no topic {topic!r}, or this user may not see it.")
            consumer.assign(places)
            first, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
            for place in places:  # twice as many: transactions leave markers among them
                consumer.seek(place, max(first[place], ends[place] - 2 * most))
            found: list[DeadLetter] = []
            deadline = time.monotonic() + 10.0
            while time.monotonic() < deadline:
                positions = [await consumer.position(place) for place in places]
                if all(position >= ends[place] for place, position in zip(places, positions, strict=True)):
                    break
                for records in (await consumer.getmany(timeout_ms=300)).values():
                    found += [_dead_letter(record) for record in records]
                found = _newest(found, most)
        return found


def sentence(facts: PipelineFacts, error: BaseException) -> str:
    """Why Kafka can't be read, and what to do."""
    if isinstance(error, (KafkaConnectionError, TimeoutError, ConnectionError, socket.gaierror)):
        return (
            f"no broker answers at {facts.brokers}. Is it running? If it runs elsewhere, mend [kafka] in "
            f"{facts.settings_file}."
        )
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, KafkaError):
        return f"{facts.brokers} refused ({reason}). See [kafka] in {facts.settings_file}."
    return f"this machine refused ({reason}); it is tried again."


async def partitions_of(consumer: Any, topics: Iterable[str]) -> dict[str, list[TopicPartition]]:
    """The partitions of topics, in order; none of a topic that there is not."""
    # The consumer's own question knows only topics it is subscribed to.
    cluster = await asyncio.wait_for(consumer._client.fetch_all_metadata(), PROBE_TIMEOUT)
    return {
        topic: [
            TopicPartition(topic, partition)
            for partition in sorted(cluster.partitions_for_topic(topic) or ())
        ]
        for topic in topics
    }


async def _is_reading(app: faust.App, topics: int) -> bool:
    """Whether the app's consumer has partitions of all topics, and a place in each."""
    consumer = app.consumer
    assigned = consumer.assignment()
    if len({place.topic for place in assigned}) < topics:
        return False
    for place in assigned:
        try:
            if await asyncio.wait_for(consumer.position(place), 5.0) is None:
                return False
        except (KafkaError, TimeoutError):
            return False
    return True


async def bounded(stopping: Awaitable[object]) -> None:
    """Wait for something to end, but not for ever, and not for its troubles."""
    try:
        await asyncio.wait_for(stopping, STOP_SECONDS)
    except asyncio.CancelledError:
        raise
    except Exception as error:  # it is being thrown away
        log.debug("did not stop cleanly", problem=str(error) or type(error).__name__)


def _credentials(connection: Mapping[str, Any]) -> SASLCredentials | SSLCredentials | None:
    """Faust's word for what aiokafka takes."""
    context = connection.get("ssl_context")
    if connection.get("sasl_mechanism") is not None:
        return SASLCredentials(
            username=connection.get("sasl_plain_username"),
            password=connection.get("sasl_plain_password"),
            ssl_context=context,
            mechanism=connection["sasl_mechanism"],
        )
    return None if context is None else SSLCredentials(context)


def _dead_letter(record: Any) -> DeadLetter:
    ours = {name: value for name, value in record.headers if name.startswith("headrace.")}
    value = record.value
    return DeadLetter(
        position=_text(ours.get("headrace.position"))
        or f"{record.topic}[{record.partition}]@{record.offset}",
        stage=_text(ours.get("headrace.stage")) or "?",
        error=_text(ours.get("headrace.error")) or "?",
        message=_text(ours.get("headrace.message")) or "",
        key=_text(record.key),
        value=None if value is None else _text(value[: 4 * SHOWN_CHARACTERS], SHOWN_CHARACTERS),
        bytes=0 if value is None else len(value),
        time=record.timestamp / 1_000,
    )


def _newest(letters: Iterable[DeadLetter], most: int) -> list[DeadLetter]:
    return sorted(letters, key=lambda letter: letter.time, reverse=True)[:most]


def _text(value: bytes | None, most: int = 1_024) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")[:most]
