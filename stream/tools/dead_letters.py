"""`headrace dead-letters list` and `show`: what the pipeline could not use, and why."""

from __future__ import annotations

import base64
import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, NamedTuple

import orjson

from stream.codec import MAX_RECORD_BYTES, MAX_TEXT_CHARACTERS
from stream.errors import EnvironmentRefused, HeadraceError
from stream.records import STAGES, Headers, Stage, position
from stream.settings import Settings
from stream.tools.cluster import Bounds, Cluster, Found, Reader, TopicFacts
from stream.tools.watch import SHOWN_CHARACTERS, printable

#: The first of the headers that the worker writes, behind the event's own.
FIRST_HEADER: Final = "headrace.pipeline"
#: How often a record was replayed, and the position at which it stood first; written by a replay.
ATTEMPT: Final = "headrace.attempt"
REPLAYED_FROM: Final = "headrace.replayed-from"
#: In the place of the event's own headers, if they could not be read.
UNREADABLE: Final = "headrace.unreadable-headers"

#: The summary counts so many pairs of stage and error class one by one, and the others together.
MOST_GROUPS: Final = 1_000
OTHERS: Final = ("other", "other")
#: So many attempts of one event are shown.
MOST_ATTEMPTS: Final = 1_000
#: Characters of the name of an error class.
NAME_CHARACTERS: Final = 128
#: Bytes in a line of a value that is no text.
HEX_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter: the event as it was, where it stood, and why it is here."""

    #: Its own position, on the dead-letter topic.
    place: str
    #: Its own offset there; its partition is that of the event.
    letter_offset: int
    #: Milliseconds since the epoch; that of the event.
    timestamp: int
    key: bytes | None
    value: bytes | None
    #: The event's own headers, with those of a replay.
    headers: Headers
    #: Ours.
    reason_headers: Headers
    pipeline: str
    #: Topic, partition and offset of the event.
    topic: str
    partition: int
    offset: int
    stage: Stage
    #: Class of the error, and what it said.
    error: str
    message: str
    #: How often the event had been replayed; 0: never.
    attempt: int
    #: Where the event stood first, if it was replayed.
    replayed_from: str | None
    #: Size of a value that was too large for any topic and is not here.
    omitted_bytes: int | None

    @property
    def position(self) -> str:
        """Where the event stood."""
        return position(self.topic, self.partition, self.offset)

    @property
    def origin(self) -> str:
        """Where the event stood before it was ever replayed."""
        return self.replayed_from or self.position


def letter_of(record: Found) -> Letter | None:
    """Read a record of a dead-letter topic; None if no worker wrote it.

    What the worker wrote comes last, so nothing that an event brought along can be taken for it.
    """
    names = [name for name, _ in record.headers]
    if FIRST_HEADER not in names:
        return None
    begin = len(names) - 1 - names[::-1].index(FIRST_HEADER)
    theirs, ours = tuple(record.headers[:begin]), tuple(record.headers[begin:])
    said = dict(ours)
    topic = _text(said.get("headrace.topic"))
    partition, offset = _number(said.get("headrace.partition")), _number(said.get("headrace.offset"))
    stage = next((stage for stage in STAGES if stage == _text(said.get("headrace.stage"))), None)
    if partition != record.partition or offset is None or stage is None:
        return None
    if _text(said.get("headrace.position")) != position(topic, partition, offset):
        return None
    replay = dict(theirs)
    return Letter(
        place=position(record.topic, record.partition, record.offset),
        letter_offset=record.offset,
        timestamp=record.timestamp,
        key=record.key,
        value=record.value,
        headers=theirs,
        reason_headers=ours,
        pipeline=_text(said[FIRST_HEADER]),
        topic=topic,
        partition=partition,
        offset=offset,
        stage=stage,
        error=_text(said.get("headrace.error"))[:NAME_CHARACTERS],
        message=_text(said.get("headrace.message"))[:MAX_TEXT_CHARACTERS],
        attempt=_number(replay.get(ATTEMPT)) or 0,
        replayed_from=_text(replay.get(REPLAYED_FROM))[:MAX_TEXT_CHARACTERS] or None,
        omitted_bytes=_number(said.get("headrace.omitted-bytes")),
    )


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace")


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) <= 18 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which dead letters are meant."""

    stages: Sequence[Stage] = STAGES
    #: None: all of them.
    partition: int | None = None
    #: Timestamp of the oldest, milliseconds since the epoch; None: of any age.
    since: int | None = None


class Desk(NamedTuple):
    """The topics of a command, as they are when it begins."""

    letters: TopicFacts
    events: TopicFacts
    #: Where the dead-letter topic begins and ends, for the partitions that are meant.
    bounds: Mapping[int, Bounds]


def look(cluster: Cluster, settings: Settings, partition: int | None) -> Desk:
    """Find the topics.

    Raises:
        EnvironmentRefused: A topic is missing, or has no such partition.
    """
    names = (settings.topics.dead_letters, settings.topics.events)
    found = cluster.topics(names)
    missing = [name for name in names if name not in found]
    if missing:
        raise EnvironmentRefused(
            f"there is no topic {', '.join(repr(name) for name in missing)}. "
            f"Make it: headrace topics create {settings.path}"
        )
    letters, events = found[names[0]], found[names[1]]
    if partition is not None and partition >= letters.partitions:
        raise EnvironmentRefused(
            f"{letters.name} has no partition {partition}; expected 0 to {letters.partitions - 1}."
        )
    bounds = dict(enumerate(cluster.bounds(letters.name, letters.partitions)))
    return Desk(letters, events, bounds if partition is None else {partition: bounds[partition]})


def read(
    settings: Settings,
    topic: str,
    begins: Mapping[int, int],
    ends: Mapping[int, int],
    advanced: Callable[[int], None] = lambda records: None,
) -> Iterator[Found]:
    """The records of each partition from where it begins to where it ends."""
    filled = {partition: begins[partition] for partition in begins if begins[partition] < ends[partition]}
    if not filled:
        return
    count = 0
    with Reader(settings, [(topic, partition) for partition in filled]) as reader:
        for partition, offset in filled.items():
            reader.seek(topic, partition, offset)
        for records in reader.read_to(topic, {partition: ends[partition] for partition in filled}):
            yield from records
            count += len(records)
            advanced(count)


# --- list ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What `headrace dead-letters list` says."""

    topic: str
    #: The newest or the oldest, as `--json` prints them, in that order.
    letters: Sequence[Mapping[str, Any]]
    #: How many there are in all for each pair of stage and error class; the most first.
    groups: Mapping[tuple[str, str], int]
    #: Records that no worker wrote.
    foreign: int

    @property
    def total(self) -> int:
        """How many dead letters there are in all."""
        return sum(self.groups.values())

    def to_dict(self) -> dict[str, object]:
        """The summary, ready for JSON."""
        return {
            "output": "summary",
            "topic": self.topic,
            "dead_letters": self.total,
            "shown": len(self.letters),
            "groups": [
                {"stage": stage, "error": error, "dead_letters": count}
                for (stage, error), count in self.groups.items()
            ],
            "foreign": self.foreign,
        }


def list_letters(
    settings: Settings,
    filters: Filters,
    *,
    limit: int,
    oldest_first: bool,
    checked: Callable[[int], None] = lambda records: None,
    advanced: Callable[[int], None] = lambda records: None,
) -> Listing:
    """Look at all dead letters; keep the newest or the oldest, and count the others.

    Args:
        settings: The pipeline's settings.
        filters: Which are meant.
        limit: Most that are kept.
        oldest_first: Keep the oldest, not the newest.
        checked: Told how many records there are at most.
        advanced: Told now and then how many were read.

    Raises:
        EnvironmentRefused: A topic or a partition is missing, or the broker is away.
    """
    with Cluster(settings) as cluster:
        desk = look(cluster, settings, filters.partition)
        topic = desk.letters.name
        begins = {partition: log.first for partition, log in desk.bounds.items()}
        if filters.since is not None:
            at = cluster.offsets_at(topic, list(begins), filters.since)
            begins = {partition: at.get(partition, desk.bounds[partition].end) for partition in begins}
    ends = {partition: log.end for partition, log in desk.bounds.items()}
    checked(sum(max(0, ends[partition] - begins[partition]) for partition in begins))
    records = read(settings, topic, begins, ends, advanced)
    return listing_of(topic, records, filters, limit=limit, oldest_first=oldest_first)


def listing_of(
    topic: str, records: Iterator[Found], filters: Filters, *, limit: int, oldest_first: bool
) -> Listing:
    """Sort out records of a dead-letter topic; holds no more than `limit` of them, and of these the beginning."""
    kept: list[tuple[tuple[int, int, int], dict[str, Any]]] = []
    groups: Counter[tuple[str, str]] = Counter()
    foreign = 0
    sign = -1 if oldest_first else 1
    for record in records:
        letter = letter_of(record)
        if letter is None:
            foreign += 1
            continue
        if letter.stage not in filters.stages or letter.timestamp < (filters.since or letter.timestamp):
            continue
        group = (letter.stage, letter.error)
        groups[group if group in groups or len(groups) < MOST_GROUPS else OTHERS] += 1
        age = (sign * letter.timestamp, sign * letter.partition, sign * letter.letter_offset)
        if len(kept) < limit:
            heapq.heappush(kept, (age, body_of(letter)))
        elif age > kept[0][0]:
            heapq.heapreplace(kept, (age, body_of(letter)))
    kept.sort(key=lambda item: item[0], reverse=True)
    most_first = sorted(groups.items(), key=lambda item: (-item[1], item[0]))
    return Listing(topic=topic, letters=[body for _, body in kept], groups=dict(most_first), foreign=foreign)


def body_of(letter: Letter) -> dict[str, Any]:
    """A dead letter in short, ready for JSON: of key and value only the beginning."""
    return {
        "output": "dead_letter",
        **_reason(letter),
        "key": _beginning(letter.key),
        "value": _beginning(letter.value),
        "value_bytes": letter.omitted_bytes if letter.value is None else len(letter.value),
    }


def _reason(letter: Letter) -> dict[str, Any]:
    return {
        "position": letter.position,
        "dead_letter": letter.place,
        "time": _moment(letter.timestamp),
        "stage": letter.stage,
        "error": letter.error,
        "message": letter.message,
        "attempt": letter.attempt,
        "replayed_from": letter.replayed_from,
    }


def _beginning(value: bytes | None) -> str | None:
    if value is None:
        return None
    text = _text(value[: 4 * SHOWN_CHARACTERS + 4])  # a character has 4 bytes at most
    return text[:SHOWN_CHARACTERS] + ("…" if len(text) > SHOWN_CHARACTERS else "")


def _moment(timestamp: int) -> str | None:
    try:
        return datetime.fromtimestamp(timestamp / 1_000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # no year of ours
        return None


def line_of(body: Mapping[str, Any]) -> str:
    """A dead letter in short, as a line for people.

    Example:
        >>> body = {"position": "clicks[0]@7", "stage": "learn", "error": "KeyError", "message": "'a'"}
        >>> line_of(body | {"attempt": 1, "value": '{"id": 3}'})
        'clicks[0]@7  learn  KeyError: \\'a\\'  attempt 1  {"id": 3}'
    """
    parts = [body["position"], body["stage"], f"{body['error']}: {body['message']}"]
    if body["attempt"]:
        parts.append(f"attempt {body['attempt']}")
    if body["value"]:
        parts.append(body["value"])
    return printable("  ".join(parts))


def summary_of(listing: Listing, *, oldest_first: bool, filtered: bool) -> list[str]:
    """What stands below the lines: how many there are in all, and of which kind."""
    lines = []
    if not listing.total:
        what = "matches" if filtered else "is there"
        lines.append(f"No dead letter {what} on {listing.topic}.")
    else:
        all_ = f"{listing.total:,} dead letter{'' if listing.total == 1 else 's'} on {listing.topic}"
        end = "oldest" if oldest_first else "newest"
        left_out = listing.total > len(listing.letters)
        lines.append(f"{all_}; shown: the {end} {len(listing.letters):,}." if left_out else f"{all_}.")
        width = len(f"{max(listing.groups.values()):,}")
        lines += [
            printable(f"  {f'{count:,}':>{width}}  {stage:7}  {error}")
            for (stage, error), count in listing.groups.items()
        ]
    if listing.foreign:
        lines.append(f"Records that no worker wrote: {listing.foreign:,}.")
    return lines


# --- show ------------------------------------------------------------------------------------------------


class WrongPosition(HeadraceError):
    """A position that is none, or at which no dead letter stood."""

    exit_code = 2


class Shown(NamedTuple):
    """A dead letter whole."""

    letter: Letter
    #: All dead letters of the same event that are still there, oldest first; it is one of them.
    attempts: Sequence[Mapping[str, Any]]

    def to_dict(self) -> dict[str, object]:
        """Ready for JSON: bytes are text, or base64 if they aren't UTF-8."""
        letter = self.letter
        return {
            **_reason(letter),
            "pipeline": letter.pipeline,
            "headers": [
                {"name": name, "value": bytes_of(value)}
                for name, value in (*letter.headers, *letter.reason_headers)
            ],
            "key": bytes_of(letter.key),
            "value": bytes_of(letter.value),
            "attempts": list(self.attempts),
        }


def bytes_of(value: bytes | None) -> dict[str, str] | None:
    """Bytes for JSON.

    >>> bytes_of(b"a"), bytes_of(b"\\xff"), bytes_of(None)
    ({'text': 'a'}, {'base64': '/w=='}, None)
    """
    if value is None:
        return None
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def parse_position(text: str, topic: str) -> tuple[int, int]:
    """Partition and offset of a position on the events topic, as Headrace prints it or without the topic.

    Raises:
        WrongPosition: It is none, or on another topic.

    Example:
        >>> parse_position("clicks[3]@1042", "clicks"), parse_position("3@1042", "clicks")
        ((3, 1042), (3, 1042))
    """
    for pattern in (rf"{re.escape(topic)}\[([0-9]{{1,9}})\]@([0-9]{{1,18}})", r"([0-9]{1,9})@([0-9]{1,18})"):
        match = re.fullmatch(pattern, text)
        if match is not None:
            return int(match[1]), int(match[2])
    raise WrongPosition(
        f"{printable(text)!r} is no position on {topic}; expected {topic}[PARTITION]@OFFSET or PARTITION@OFFSET, "
        f"such as {position(topic, 3, 1042)} or 3@1042."
    )


def show_letter(
    settings: Settings, partition: int, offset: int, advanced: Callable[[int], None] = lambda records: None
) -> Shown:
    """Find the dead letter of the event at a position, and those of the same event before and after it was replayed.

    Raises:
        WrongPosition: There is none; says which there are.
        EnvironmentRefused: A topic or a partition is missing, or the broker is away.
    """
    with Cluster(settings) as cluster:
        desk = look(cluster, settings, partition)
    topic, log = desk.letters.name, desk.bounds[partition]

    def letters() -> Iterator[Letter]:
        for record in read(settings, topic, {partition: log.first}, {partition: log.end}, advanced):
            letter = letter_of(record)
            if letter is not None and letter.topic == desk.events.name:
                yield letter

    found: Letter | None = None
    offsets: list[int] = []  # the lowest and the highest
    count = 0
    for letter in letters():
        count += 1
        offsets = [min([*offsets, letter.offset]), max([*offsets, letter.offset])]
        if letter.offset == offset:
            found = letter
            break
    if found is None:
        where = position(topic, partition, log.first).partition("@")[0]
        raise WrongPosition(
            f"there is no dead letter of {position(desk.events.name, partition, offset)}: "
            + (
                f"{where} holds {count:,} of them, from {position(desk.events.name, partition, offsets[0])} "
                f"to {position(desk.events.name, partition, offsets[1])}. "
                f"See: headrace dead-letters list {settings.path} --partition {partition}"
                if offsets
                else f"{where} holds none at all."
            )
        )
    relatives = (letter for letter in letters() if letter.origin == found.origin)
    return Shown(found, [_reason(letter) for letter in islice(relatives, MOST_ATTEMPTS)])


def lines_of(shown: Shown) -> list[str]:
    """A dead letter whole, for people; nothing of it reaches the terminal as a command."""
    letter = shown.letter
    lines = [
        letter.position,
        f"  dead letter  {letter.place}, {_moment(letter.timestamp) or f'timestamp {letter.timestamp}'}",
        f"  stage        {letter.stage}",
        f"  error        {letter.error}: {letter.message}",
        f"  attempt      {letter.attempt}"
        + (f", replayed from {letter.replayed_from}" if letter.replayed_from else ""),
        "headers",
        *(f"  {name}: {_header(value)}" for name, value in (*letter.headers, *letter.reason_headers)),
        *_bytes_lines("key", letter.key),
    ]
    if letter.omitted_bytes is not None:
        lines.append(f"value: {letter.omitted_bytes:,} bytes, too large for any topic, and so left out")
    else:
        lines += _bytes_lines("value", letter.value)
    if len(shown.attempts) > 1:
        lines.append("all attempts")
        lines += [
            f"  {body['position']}  attempt {body['attempt']}  {body['stage']}  {body['error']}: {body['message']}"
            for body in shown.attempts
        ]
    return [printable(line) for line in lines]


def _header(value: bytes | None) -> str:
    if value is None:
        return "(none)"
    said = bytes_of(value) or {}
    return said.get("text", value.hex(" "))


def _bytes_lines(name: str, value: bytes | None) -> list[str]:
    if value is None:
        return [f"{name}: none"]
    size = f"{len(value):,} byte{'' if len(value) == 1 else 's'}"
    if value.lstrip()[:1] in (b"{", b"["):
        try:
            orjson.loads(value if len(value) <= MAX_RECORD_BYTES else b"")
        except orjson.JSONDecodeError:
            pass
        else:
            return [f"{name} ({size}, JSON)", *(f"  {line}" for line in indented(value.decode()))]
    said = bytes_of(value) or {}
    if "text" in said:
        return [f"{name} ({size}, text)", f"  {said['text']}"]
    rows = (value[at : at + HEX_BYTES] for at in range(0, len(value), HEX_BYTES))
    return [
        f"{name} ({size}, not UTF-8)",
        *(
            f"  {number * HEX_BYTES:08x}  {row.hex(' '):{3 * HEX_BYTES}} "
            + "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            for number, row in enumerate(rows)
        ),
    ]


#: A piece of JSON: a string, something with structure, white space, or a number or word.
_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|\s+|[^\s{}\[\],:"]+')
#: Deeper nesting is not indented further, or a small value could fill the terminal with spaces.
_DEEPEST: Final = 20


def indented(text: str) -> list[str]:
    r"""JSON on several lines. Only the space between its pieces changes: no number, no escape, no doubled key.

    Example:
        >>> print("\n".join(indented('{"a":1.50, "a" : [1,{}]}')))
        {
          "a": 1.50,
          "a": [
            1,
            {}
          ]
        }
    """
    lines = [""]
    depth = 0
    before = ""
    for piece in _PIECE.findall(text):
        if piece.isspace():
            continue
        opened, closes = before in ("{", "["), piece in ("}", "]")
        depth += opened - closes
        if before == "," or opened != closes:
            lines.append("  " * min(depth, _DEEPEST))
        lines[-1] += piece + (" " if piece == ":" else "")
        before = piece
    return lines
