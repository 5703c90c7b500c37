"""`headrace merge`: one log by time out of the history of the topics that are relayed.

A month of two topics that are relayed one after the other would put each label after every event. Each transaction
holds records and the relay group's next offsets, and says that a merge is under way: so an interrupted one is gone on
with, a relay waits until it is done, and then goes on from there. Nothing comes twice, and nothing is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Final, TypeVar

from stream.codec import EventDecoder
from stream.decoding import new_decoder, new_label_decoder
from stream.errors import ConfigError, EnvironmentRefused, Mistake
from stream.kafka.relay import KafkaRelay
from stream.log import CommitAborted, CommitRetriable, Committed, ProducerFenced
from stream.records import Record
from stream.relay.headers import relay_headers
from stream.relay.log import Place, SourceRecord
from stream.relay.merge import TimeOf, chunks, merged
from stream.relay.places import RelayMetadata, group_of, metadata_of, target
from stream.relay.relay import Outgoing
from stream.settings import Settings
from stream.tools.cluster import Cluster
from stream.tools.topics import span

#: Seconds for which a step that gets no answer is tried again; a broker that restarts is back by then.
PATIENCE: Final = 60.0
RETRY_PAUSE: Final = 0.2
#: Kilobytes that may be fetched before they are asked for, of all partitions that are merged at once.
AHEAD_KBYTES: Final = 65_536
LEAST_AHEAD_KBYTES: Final = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What a merge did."""

    #: Records written, and from which offset to which each partition was read.
    records: int
    partitions: Mapping[str, tuple[int, int]]
    seconds: float
    #: Whether it went on with one that was interrupted.
    resumed: bool

    def to_dict(self) -> dict[str, object]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def merge(
    settings: Settings,
    *,
    known: Callable[[int], None] = lambda records: None,
    advanced: Callable[[int], None] = lambda records: None,
) -> Merged:
    """Write all that the source topics hold now into the events topic, by time.

    Args:
        settings: The pipeline's settings.
        known: Told how many offsets there are to be read.
        advanced: Told how many were.

    Raises:
        ConfigError: The settings name no events to be relayed, or begin at the latest.
        EnvironmentRefused: The events topic has records, a relay runs, or the events topic would not keep what is old.
    """
    _require_sources(settings)
    with Cluster(settings) as cluster:
        group = group_of(settings)
        if members := cluster.members(group):
            raise EnvironmentRefused(
                f"{members} relay{'s' * (members != 1)} of {settings.name} still run{'s' * (members == 1)} "
                "(one that was "
                f"killed counts for {settings.worker.session_timeout_ms / 1_000:.0f} s); a merge needs them stopped."
            )
        facts = cluster.topics([settings.topics.events]).get(settings.topics.events)
    kept = -1 if facts is None else int(facts.configs.get("retention.ms", -1))
    log = KafkaRelay(settings, f"{settings.name}.merge")
    try:
        return Merge(log, settings, kept, known, advanced).run()
    except (CommitAborted, ProducerFenced) as error:
        raise EnvironmentRefused(
            f"a transaction was aborted ({error}): another headrace merge of {settings.name}, or a relay, "
            f"came between. Nothing came twice. Run it again alone, and it goes on: headrace merge {settings.path}"
        ) from error
    finally:
        log.leave()


def _require_sources(settings: Settings) -> None:
    if not settings.relay.events:
        text = (
            "is missing; expected the topics that hold the events of the history. A merge makes a new log of "
            "them and of "
            "[labels] topic: name a new topic in [topics] events, and the one that was there in [relay] events."
        )
        raise ConfigError([Mistake(place=str(settings.path), setting="[relay] events", text=text)])
    if settings.topics.start == "latest":
        text = 'is "latest": there is no history to be merged; expected "earliest" or a time.'
        raise ConfigError([Mistake(place=str(settings.path), setting="[topics] start", text=text)])


class Merge:
    """A merge on its way.

    Args:
        log: Reads the source topics and writes into the events topic.
        settings: The pipeline's settings.
        kept_ms: How long the events topic keeps records; negative: for ever.
        known: Told how many offsets there are to be read.
        advanced: Told how many were.
    """

    def __init__(
        self,
        log: KafkaRelay,
        settings: Settings,
        kept_ms: int,
        known: Callable[[int], None],
        advanced: Callable[[int], None],
    ) -> None:
        self._log = log
        self._settings = settings
        self._kept_ms = kept_ms
        self._known = known
        self._advanced = advanced
        #: In the order in which records of equal times come.
        self._places = [Place(topic, n) for topic, count in log.partitions.items() for n in range(count)]
        self._records = 0
        self._next: dict[Place, int] = {}
        self._ends: dict[Place, int] = {}
        self._times: dict[Place, TimeOf] = {}
        events, labels = new_decoder(settings), new_label_decoder(settings)
        for place in self._places:
            kind = settings.relayed_topics[place.topic]
            self._times[place] = _time_of(labels if kind == "labels" else events)

    def run(self) -> Merged:
        """Merge; see `merge`."""
        began = time.monotonic()
        self._log.open()
        resumed = self._find_places()
        first = dict(self._next)
        self._known(sum(max(0, end - self._next[place]) for place, end in self._ends.items()))
        # From here on no relay begins, until it is done.
        _until_answered(lambda: self._log.claim(self._commits(self._places, merging=True)))
        for number in range(self._log.events_partitions):
            places = [p for p in self._places if target(p.partition, self._log.events_partitions) == number]
            self._records += self._merge(number, places)
        for place in self._places:
            self._next[place] = max(self._next[place], self._ends[place])
        _until_answered(lambda: self._log.claim(self._commits(self._places, merging=False)))
        return Merged(
            records=self._records,
            partitions={str(place): (first[place], self._next[place]) for place in self._places},
            seconds=time.monotonic() - began,
            resumed=resumed,
        )

    def _find_places(self) -> bool:
        """Where each partition begins and ends; True if an interrupted merge is gone on with."""
        log, settings = self._log, self._settings
        events = settings.topics.events
        committed = _until_answered(lambda: log.committed(self._places))
        found = {place: metadata_of(commit.metadata) for place, commit in committed.items()}
        # What was committed for a topic that is no more counts for nothing.
        found = {place: it for place, it in found.items() if it is None or it.events_id == log.events_id}
        resumed = any(it is not None and it.merging for it in found.values())
        if not resumed:
            held = [n for n in range(log.events_partitions) if self._is_filled(Place(events, n))]
            if found or held:
                what = (
                    f"{events} has records"
                    if held
                    else f"group {group_of(settings)!r} has relayed into {events}"
                )
                raise EnvironmentRefused(
                    f"{what}, and a merge makes a log from its beginning. Name a new topic in [topics] events of a "
                    "pipeline with a new name, and make it: headrace topics create. Nothing was changed."
                )
        for place in self._places:
            first, end = _until_answered(lambda place=place: log.bounds(place))  # type: ignore[misc]  # a loop's lambda
            start = settings.topics.start
            if place in found:
                begin = committed[place].next_offset
            elif isinstance(start, str):
                begin = first
            else:
                timestamp = int(start.timestamp() * 1_000)
                begin = _until_answered(lambda place=place, at=timestamp: log.offset_at(place, at))  # type: ignore[misc]
            if begin < first:
                raise EnvironmentRefused(
                    f"{place}: merged up to {begin}, and the log now begins at {first}: the offsets between "
                    f"were deleted before they were merged. Begin anew with a new topic in [topics] events."
                )
            self._next[place], self._ends[place] = begin, end
        return resumed

    def _is_filled(self, place: Place) -> bool:
        first, end = _until_answered(lambda: self._log.bounds(place))
        return first < end

    def _commits(self, places: list[Place], *, merging: bool) -> dict[Place, Committed]:
        log = self._log
        return {
            place: Committed(
                self._next[place],
                RelayMetadata(
                    topic_id=log.topic_ids[place.topic],
                    events_id=log.events_id,
                    writer=log.writer,
                    merging=merging,
                    partitions=log.partitions[place.topic],
                ).encode(),
            )
            for place in places
        }

    def _merge(self, number: int, places: list[Place]) -> int:
        """Fill one partition of the events topic; returns how many records that took."""
        settings, log = self._settings, self._log
        pipeline = settings.name.encode()
        kinds = {topic: kind.encode() for topic, kind in settings.relayed_topics.items()}
        ahead = max(LEAST_AHEAD_KBYTES, AHEAD_KBYTES // max(1, len(places)))
        readers = [
            log.read(place, self._next[place], self._ends[place], ahead_kbytes=ahead) for place in places
        ]
        records = 0
        with ExitStack() as stack:
            for reader in readers:
                stack.enter_context(closing(reader))
            logs = [(reader, self._times[place]) for reader, place in zip(readers, places, strict=True)]
            for chunk in chunks(merged(logs)):
                if not records:
                    self._require_kept(chunk[0])
                touched: dict[Place, None] = {}
                outgoing: list[Outgoing] = []
                for record in chunk:
                    topic, partition, offset = record[:3]
                    ours = relay_headers(pipeline, kinds[topic], topic, partition, offset)
                    outgoing.append(
                        (number, record, ours if record.headers is None else [*record.headers, *ours])
                    )
                    place = Place(topic, partition)
                    self._next[place] = offset + 1
                    touched[place] = None
                commits = self._commits(list(touched), merging=True)
                _until_answered(lambda commits=commits: log.send_offsets(commits))  # type: ignore[misc]
                for item in outgoing:
                    log.send(*item)
                _until_answered(log.commit)
                records += len(chunk)
                self._advanced(self._records + records)
        return records

    def _require_kept(self, oldest: SourceRecord) -> None:
        """The first is the oldest, or nearly: a log that keeps records for less long would soon lose it."""
        age = time.time() * 1_000 - oldest.timestamp
        if 0 <= self._kept_ms < age:
            events = self._settings.topics.events
            raise EnvironmentRefused(
                f"{events} keeps records for {span(self._kept_ms)}, and "
                f"{oldest.topic}[{oldest.partition}]@{oldest.offset} "
                f"is {span(int(age))} old: what is merged keeps its timestamp, and would soon be deleted. "
                f"Set retention.ms of {events} to more than that (-1: for ever), and run this again."
            )


def _time_of(decoder: EventDecoder) -> TimeOf:
    """When a record was by what it says itself, else by its timestamp."""

    def time_of(record: SourceRecord) -> float:
        _, partition, offset, timestamp, key, value, headers = record
        found = decoder.time_of(Record(partition, offset, timestamp, key, value, headers))
        return timestamp / 1_000 if found is None else found

    return time_of


def _until_answered(step: Callable[[], T]) -> T:
    """Call a step again until it has happened or has failed.

    Raises:
        EnvironmentRefused: There was no answer for long.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return step()
        except CommitRetriable as error:
            if time.monotonic() > deadline:
                raise EnvironmentRefused(
                    f"no answer from the broker for {PATIENCE:.0f} s ({error}). Nothing came twice: run it "
                    "again, and it goes on."
                ) from error
            time.sleep(RETRY_PAUSE)
