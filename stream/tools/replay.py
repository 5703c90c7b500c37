"""`headrace dead-letters replay`: dead letters back into `<events>`, each as a new event at the end of the log.

What was dealt with is remembered as a place for each partition and stage, which only moves forward. It is committed
under the group `{pipeline}.dead-letters` after the events have arrived: a crash in between sends the last of them
again, and nothing is passed over.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Self

import orjson

from stream.codec import MAX_RECORD_BYTES
from stream.errors import EnvironmentRefused
from stream.records import STAGES, Stage
from stream.settings import Settings
from stream.tools.cluster import Cluster, Commit, DeliveryFailed, Found, Reader, Writer
from stream.tools.dead_letters import (
    ATTEMPT,
    REPLAYED_FROM,
    UNREADABLE,
    Filters,
    Letter,
    letter_of,
    look,
)

#: Seconds that an event waits for others to travel with.
LINGER: Final = 0.02
#: What a record takes beside its key, value and headers, and a header beside its name and value, at most; bytes.
RECORD_OVERHEAD: Final = 128
HEADER_OVERHEAD: Final = 10

#: Why a dead letter was not sent, and how that reads after "12 ".
Reason = Literal["attempts", "since", "omitted", "no_value", "too_large", "header", "foreign"]
REASONS: Final[Mapping[Reason, str]] = {
    "attempts": "replayed as often as --max-attempts allows",
    "since": "older than --since",
    "omitted": "whose value was too large for any topic and is gone",
    "no_value": "without a value, which can never be an event",
    "too_large": "larger than an event may be",
    "header": "with a header without a value, which this command's client can't write",
    "foreign": "of another pipeline, or not written by a worker at all",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What may be sent."""

    #: Of whom the dead letters must be.
    pipeline: str
    #: Where their events must come from, which is where they go to, and how many partitions it has.
    events: str
    partitions: int
    #: The largest record that it takes, bytes.
    most_bytes: int
    #: A dead letter whose event was replayed so often is left.
    max_attempts: int
    #: Only these; others are not looked at.
    stages: Sequence[Stage] = STAGES
    #: Older ones are left: milliseconds since the epoch, or None.
    since: int | None = None

    def reason_to_leave(self, letter: Letter) -> Reason | None:
        """Why a dead letter is not to be sent, or None if it is."""
        if letter.pipeline != self.pipeline or letter.topic != self.events:
            return "foreign"
        if letter.partition >= self.partitions:
            return "foreign"
        if letter.omitted_bytes is not None:
            return "omitted"
        if letter.value is None:
            return "no_value"
        if max(len(letter.value), len(letter.key or b"")) > MAX_RECORD_BYTES:
            return "too_large"
        if any(value is None for _, value in letter.headers):
            return "header"
        if _size(letter) > self.most_bytes:
            return "too_large"
        if self.since is not None and letter.timestamp < self.since:
            return "since"
        return "attempts" if letter.attempt >= self.max_attempts else None


def _size(letter: Letter) -> int:
    headers = sum(len(name.encode()) + len(value) + HEADER_OVERHEAD for name, value in event_headers(letter))
    return len(letter.value or b"") + len(letter.key or b"") + headers + RECORD_OVERHEAD


def event_headers(letter: Letter) -> list[tuple[str, bytes]]:
    """The headers of a replayed event: its own, how often it was replayed, and where it stood first.

    None of the dead letter's reason is among them, so nothing piles up when it fails again.
    """
    return [
        *(
            (name, value or b"")
            for name, value in letter.headers
            if name not in (ATTEMPT, REPLAYED_FROM, UNREADABLE)
        ),
        (ATTEMPT, str(letter.attempt + 1).encode()),
        (REPLAYED_FROM, letter.origin.encode()),
    ]


@dataclass(frozen=True, slots=True)
class Place:
    """How far one partition of the dead-letter topic is dealt with: for each stage the next offset.

    Example:
        >>> place = Place.at(3).moved(["learn"], 7)
        >>> place.next_offset(["decode", "learn"]), place.next_offset(["learn"])
        (3, 7)
        >>> place.to_commit(topic_id="x", run="1")
        Commit(next_offset=3, metadata='{"topic_id":"x","run":"1","ahead":{"learn":7}}')
        >>> Place.from_commit(place.to_commit(topic_id="x", run="1"), "x") == place
        True
    """

    next_offsets: Mapping[Stage, int]

    @classmethod
    def at(cls, offset: int) -> Self:
        """The same offset for all stages."""
        return cls(dict.fromkeys(STAGES, offset))

    @classmethod
    def from_commit(cls, commit: Commit | None, topic_id: str) -> Self | None:
        """What was committed; None if nothing was, or for a topic of this name that is no more.

        An offset that another tool has committed holds for all stages.
        """
        if commit is None:
            return None
        try:
            said = orjson.loads(commit.metadata)
            told_for, ahead = said["topic_id"], said["ahead"]
            next_offsets = {
                stage: max(commit.next_offset, int(ahead.get(stage, commit.next_offset))) for stage in STAGES
            }
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls.at(commit.next_offset)
        return cls(next_offsets) if told_for == topic_id else None

    def to_commit(self, *, topic_id: str, run: str) -> Commit:
        """What is to be committed: the least offset, and in the metadata the stages that are ahead of it.

        Args:
            topic_id: Identity of the dead-letter topic; another one of the same name begins anew.
            run: Names the replay, so that another one at the same time is noticed.
        """
        least = min(self.next_offsets.values())
        ahead = {stage: offset for stage, offset in self.next_offsets.items() if offset > least}
        return Commit(least, orjson.dumps({"topic_id": topic_id, "run": run, "ahead": ahead}).decode())

    def next_offset(self, stages: Sequence[Stage]) -> int:
        """Where to go on for these stages."""
        return min(self.next_offsets[stage] for stage in stages)

    def moved(self, stages: Sequence[Stage], offset: int) -> Place:
        """The place once all before this offset is dealt with for these stages; it never moves back."""
        return Place(
            {
                stage: max(before, offset) if stage in stages else before
                for stage, before in self.next_offsets.items()
            }
        )


class Selection:
    """Picks what is to be sent from the records of the dead-letter topic, and counts what is left, and why.

    Args:
        rules: What may be sent.
        limit: Most that are picked.
    """

    def __init__(self, rules: Rules, limit: int) -> None:
        self.rules = rules
        self.limit = limit
        #: How many were picked, by partition.
        self.picked: Counter[int] = Counter()
        self.left: Counter[Reason] = Counter()

    @property
    def is_full(self) -> bool:
        """Whether no further record may be shown to it."""
        return self.picked.total() >= self.limit

    def pick(self, record: Found, place: Place) -> Letter | None:
        """The dead letter in a record, if it is to be sent."""
        letter = letter_of(record)
        if letter is None:
            self.left["foreign"] += 1
            return None
        if letter.stage not in self.rules.stages or record.offset < place.next_offsets[letter.stage]:
            return None
        reason = self.rules.reason_to_leave(letter)
        if reason is not None:
            self.left[reason] += 1
            return None
        self.picked[letter.partition] += 1
        return letter


class Batch(NamedTuple):
    """Some dead letters to be sent."""

    partition: int
    letters: Sequence[Letter]
    #: The place once they have arrived.
    place: Place


def picked(
    partition: int, polls: Iterator[Sequence[Found]], place: Place, end: int, selection: Selection
) -> Iterator[Batch]:
    """Go through the records of a partition until its end or until the selection is full."""
    stages = selection.rules.stages
    for records in polls:
        letters = []
        for record in records:
            if selection.is_full:
                break
            letter = selection.pick(record, place)
            if letter is not None:
                letters.append(letter)
            place = place.moved(stages, record.offset + 1)
        if letters:
            yield Batch(partition, letters, place)
        if selection.is_full:
            return
    yield Batch(partition, [], place.moved(stages, end))


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What was sent, or would be."""

    #: The dead-letter topic, and the one that the events go to.
    topic: str
    events: str
    dry_run: bool
    #: By partition.
    sent: Mapping[int, int]
    left: Mapping[Reason, int]
    #: Whether it ended because of --limit.
    limit_reached: bool
    #: Partitions with dead letters for which no earlier replay is remembered: it began with the oldest.
    begun_anew: Sequence[int]

    @property
    def total(self) -> int:
        """How many in all."""
        return sum(self.sent.values())

    def to_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return {
            "dry_run": self.dry_run,
            "topic": self.events,
            "sent": self.total,
            "partitions": dict(self.sent),
            "left": dict(self.left),
            "limit_reached": self.limit_reached,
            "begun_anew": list(self.begun_anew),
        }

    def sentences(self) -> Iterator[str]:
        """For people."""
        if self.begun_anew:
            yield (
                f"No earlier replay is remembered for partition{'' if len(self.begun_anew) == 1 else 's'} "
                f"{', '.join(map(str, self.begun_anew))}: it begins with the oldest dead letter there."
            )
        letters = f"{self.total:,} dead letter{'' if self.total == 1 else 's'}"
        where = ", ".join(f"{self.events}[{partition}]: {count:,}" for partition, count in self.sent.items())
        if not self.total:
            yield f"Nothing to replay on {self.topic}."
        elif self.dry_run:
            yield f"Would send {letters} to {self.events} ({where})."
        else:
            yield f"Sent {letters} to {self.events} ({where})."
        for reason, count in self.left.items():
            yield f"  {count:,} left for good: {REASONS[reason]}."
        if self.limit_reached:
            yield "That is all that --limit allows; run it again for what may be left."


class ReplayStopped(EnvironmentRefused):
    """Not everything was sent."""


def group_of(settings: Settings) -> str:
    """The group under which it is remembered what was replayed."""
    return f"{settings.name}.dead-letters"


class Replay:
    """Sends dead letters back; `plan` tells before what `send` will do.

    Args:
        settings: The pipeline's settings.
        filters: Which dead letters are meant.
        limit: Most that are sent.
        max_attempts: One whose event was replayed so often is left.

    Raises:
        EnvironmentRefused: A topic or a partition is missing, or the broker is away; so do all methods.
    """

    def __init__(self, settings: Settings, filters: Filters, *, limit: int, max_attempts: int) -> None:
        self._settings = settings
        self._limit = limit
        self._group = group_of(settings)
        with Cluster(settings) as cluster:
            desk = look(cluster, settings, filters.partition)
            commits = cluster.commits(self._group, desk.letters.name)
        self._desk = desk
        self._run = uuid.uuid4().hex
        #: What must be committed still before anything is sent; otherwise somebody else is sending it.
        self._commits = {partition: commits.get(partition) for partition in desk.bounds}
        self._rules = Rules(
            pipeline=settings.name,
            events=desk.events.name,
            partitions=desk.events.partitions,
            most_bytes=int(desk.events.configs.get("max.message.bytes", 2**31 - 1)),
            max_attempts=max_attempts,
            stages=filters.stages,
            since=filters.since,
        )
        self._places: dict[int, Place] = {}
        self._begun_anew = []
        for partition, log in desk.bounds.items():
            place = Place.from_commit(commits.get(partition), desk.letters.topic_id)
            if place is None and log.end > log.first:
                self._begun_anew.append(partition)
            self._places[partition] = place or Place.at(log.first)

    def plan(self, chosen: Callable[[Letter], None] = lambda letter: None) -> Replayed:
        """Read what would be sent; nothing is sent or remembered.

        Args:
            chosen: Told each dead letter that would be sent.
        """
        selection = Selection(self._rules, self._limit)
        for batch in self._batches(selection):
            for letter in batch.letters:
                chosen(letter)
        return self._result(selection, dry_run=True)

    def send(self, advanced: Callable[[int], None] = lambda letters: None) -> Replayed:
        """Send what was there when this object was made, and remember it.

        Args:
            advanced: Told now and then how many were sent.

        Raises:
            ReplayStopped: Not everything was sent; says how much was.
        """
        selection = Selection(self._rules, self._limit)
        sent = 0  # and remembered
        under_way = 0
        with Cluster(self._settings) as cluster:
            # Before anything is sent: whether it may be remembered. A place that never moves expires.
            self._remember(cluster, self._places)
            writer = Writer(self._settings, self._rules.events, linger_seconds=LINGER)
            try:
                for batch in self._batches(selection):
                    self._require_unmoved(cluster, batch.partition)
                    under_way = len(batch.letters)
                    for letter in batch.letters:
                        writer.write(
                            letter.partition,
                            letter.key,
                            letter.value or b"",
                            letter.letter_offset,
                            event_headers(letter),
                        )
                    writer.finish()
                    self._remember(cluster, {batch.partition: batch.place})
                    sent, under_way = sent + under_way, 0
                    advanced(sent)
            except DeliveryFailed as error:
                where = f"{self._desk.letters.name}, offset {error.tag}"
                raise self._stopped(f"{where}: {error.reason}", sent, under_way) from error
            except EnvironmentRefused as error:
                raise self._stopped(str(error), sent, under_way) from error
            except KeyboardInterrupt:
                raise self._stopped("stopped.", sent, under_way) from None
            finally:
                writer.close()
        return self._result(selection, dry_run=False)

    def _batches(self, selection: Selection) -> Iterator[Batch]:
        topic = self._desk.letters.name
        for partition, log in self._desk.bounds.items():
            place = self._places[partition]
            begin = max(log.first, place.next_offset(self._rules.stages))
            if begin >= log.end or selection.is_full:
                continue
            with Reader(self._settings, [(topic, partition)]) as reader:
                reader.seek(topic, partition, begin)
                yield from picked(
                    partition, reader.read_to(topic, {partition: log.end}), place, log.end, selection
                )

    def _remember(self, cluster: Cluster, places: Mapping[int, Place]) -> None:
        topic = self._desk.letters
        self._require_unmoved(cluster, *places)
        commits = {
            partition: place.to_commit(topic_id=topic.topic_id, run=self._run)
            for partition, place in places.items()
        }
        cluster.commit(self._group, topic.name, commits)
        self._commits.update(commits)

    def _require_unmoved(self, cluster: Cluster, *partitions: int) -> None:
        topic = self._desk.letters.name
        committed = cluster.commits(self._group, topic)
        for partition in partitions:
            if committed.get(partition) != self._commits[partition]:
                raise EnvironmentRefused(
                    f"another replay of {topic}[{partition}] is at work, or the offsets of group "
                    f"{self._group!r} were set meanwhile. Wait for its end and run this again."
                )

    def _stopped(self, why: str, sent: int, under_way: int) -> ReplayStopped:
        letters = f"{sent:,} dead letter{' was' if sent == 1 else 's were'} sent"
        if under_way:
            return ReplayStopped(
                f"{why} {letters}; of {under_way:,} more it is not remembered whether they were, "
                "and the next replay sends them (again)."
            )
        return ReplayStopped(f"{why} {letters}; the next replay goes on there.")

    def _result(self, selection: Selection, *, dry_run: bool) -> Replayed:
        return Replayed(
            topic=self._desk.letters.name,
            events=self._rules.events,
            dry_run=dry_run,
            sent=dict(sorted(selection.picked.items())),
            left={reason: selection.left[reason] for reason in REASONS if selection.left[reason]},
            limit_reached=selection.is_full,
            begun_anew=self._begun_anew,
        )
