"""`headrace send`: rows of a file or of standard input into `<events>`."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import orjson

from stream.errors import EnvironmentRefused
from stream.rows import Row, RowError, RowFormat, read_rows
from stream.settings import Settings
from stream.tools.cluster import Cluster, DeliveryFailed, Writer, murmur2

Partitioner = Literal["murmur2", "crc32"]

#: Which hash of a key decides on its partition, and who else uses it.
PARTITIONERS: Final[Mapping[Partitioner, Callable[[bytes], int]]] = {
    "murmur2": murmur2,  # Java's and kafka-python's default; librdkafka's `murmur2_random`
    "crc32": zlib.crc32,  # librdkafka's default for a key: `consistent_random`
}
#: Seconds that a record waits for company: when all of a file is to be sent, and with a rate.
LINGER_ALL: Final = 0.02
LINGER_PACED: Final = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOptions:
    """How rows become records."""

    #: Field that gives the key; None: the event's id where there is one.
    key: str | None = None
    #: No key at all.
    no_key: bool = False
    #: Decides on the partition of a key.
    partitioner: Partitioner = "murmur2"
    #: All records go to this partition; None: by key, and without a key to each partition in turn.
    partition: int | None = None
    #: Each line is a record, whatever it is.
    raw: bool = False


class Addressed(NamedTuple):
    """A row with its key and its partition."""

    line: int
    key: bytes | None
    value: bytes
    partition: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What was sent."""

    events: int
    seconds: float
    #: Events for each partition that got any.
    partitions: Mapping[int, int]


class SendStopped(EnvironmentRefused):
    """Not everything was sent."""


def address(
    rows: Iterable[Row], name: str, settings: Settings, options: SendOptions, partitions: int
) -> Iterator[Addressed]:
    """Find key and partition of each row.

    Args:
        rows: The rows.
        name: The file's name, for errors.
        settings: Say where id and features are.
        options: How.
        partitions: How many partitions `<events>` has.

    Raises:
        RowError: A row is no JSON object, or has no field for the key; names the file and the line.
    """
    hash_of = PARTITIONERS[options.partitioner]
    turn = 0
    for line, key, value in keyed(rows, name, settings, options):
        if options.partition is not None:
            partition = options.partition
        elif key is not None:
            partition = hash_of(key) % partitions
        else:
            partition, turn = turn, (turn + 1) % partitions
        yield Addressed(line, key, value, partition)


def keyed(
    rows: Iterable[Row], name: str, settings: Settings, options: SendOptions
) -> Iterator[tuple[int, bytes | None, bytes]]:
    """Line, key and value of each row; raises as `address` does."""
    for line, value in rows:
        yield line, _key(value, f"{name}:{line}", settings, options), value


def _key(value: bytes, place: str, settings: Settings, options: SendOptions) -> bytes | None:
    body: Any = None
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        if not options.raw:
            raise RowError(
                place, f"this is not JSON ({error.msg}); expected an object. --raw sends it as it is."
            ) from None
    if not isinstance(body, dict):
        if options.raw:
            return None
        raise RowError(place, f"this is {value[:40]!r}; expected a JSON object. --raw sends it as it is.")
    if options.no_key:
        return None
    field = options.key or settings.event.id
    if field is None:
        return None
    found = body.get(field)
    features = settings.event.features
    if found is None and options.key and isinstance(features, str) and isinstance(body.get(features), dict):
        found = body[features].get(field)
    if found is None:
        if options.key is None or options.raw:
            return None
        raise RowError(place, f'there is no field "{field}", which --key names; its value was to be the key.')
    if isinstance(found, str):
        return found.encode()
    return orjson.dumps(found)


def paced(
    rows: Iterable[Addressed],
    rate: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Addressed]:
    """The rows, so many a second.

    A pause in what they come from is not made up for: after it the rate is what was asked for, not more.
    """
    due = clock()
    for row in rows:
        now = clock()
        if due > now:
            sleep(due - now)
        elif now - due > 1.0:
            due = now
        due += 1.0 / rate
        yield row


def send(
    settings: Settings,
    source: Path | None,
    *,
    format: RowFormat | None = None,
    options: SendOptions,
    rate: float | None = None,
    checked: Callable[[int], None] = lambda rows: None,
    advanced: Callable[[int], None] = lambda rows: None,
) -> Sent:
    """Send the rows of a file to `<events>`; a file is read to its end once before the first is sent.

    Args:
        settings: The pipeline's settings.
        source: The file; None or `-` is standard input, which is sent as it comes.
        format: `jsonl` or `csv`; None: by the file's name or its beginning.
        options: How rows become records.
        rate: Events a second; None: as fast as possible.
        checked: Told how many rows the file has, once that is known.
        advanced: Told now and then how many rows are sent.

    Raises:
        RowError: A row is not as it must be. Of a file nothing was sent then.
        SendStopped: A row could not be sent; says how many were.
    """
    with Cluster(settings) as cluster:
        events = cluster.topics([settings.topics.events]).get(settings.topics.events)
    if events is None:
        raise EnvironmentRefused(
            f"there is no topic {settings.topics.events!r}. Make it: headrace topics create {settings.path}"
        )
    if options.partition is not None and options.partition >= events.partitions:
        raise EnvironmentRefused(
            f"{events.name} has no partition {options.partition}; expected 0 to {events.partitions - 1}."
        )
    if options.raw:
        format = "jsonl"  # a line is a record, whatever it looks like
    is_file = source is not None and str(source) != "-"
    name = str(source) if is_file else "<stdin>"

    if is_file and source is not None and source.is_file():  # a pipe can be read only once
        try:
            checked(sum(1 for _ in keyed(read_rows(source, format, settings), name, settings, options)))
        except RowError as error:
            raise RowError(error.place, f"{error.text} Nothing was sent.") from None
    rows = address(read_rows(source, format, settings), name, settings, options, events.partitions)
    counts: Counter[int] = Counter()
    begun = told = time.monotonic()
    writer = Writer(settings, events.name, linger_seconds=LINGER_PACED if rate else LINGER_ALL)
    try:
        for line, key, value, partition in paced(rows, rate) if rate else rows:
            writer.write(partition, key, value, line)
            counts[partition] += 1
            now = time.monotonic()
            if now - told > 0.1:
                told = now
                advanced(counts.total())
        writer.finish()
    except DeliveryFailed as error:
        raise SendStopped(f"{name}:{error.tag}: {error.reason} {writer.settle()}") from error
    except EnvironmentRefused as error:
        raise SendStopped(f"{error} {writer.settle()}") from error
    except RowError as error:
        raise RowError(error.place, f"{error.text} {writer.settle()}") from None
    except KeyboardInterrupt:
        raise SendStopped(f"stopped. {writer.settle()}") from None
    finally:
        writer.close()
    advanced(counts.total())
    return Sent(
        events=counts.total(), seconds=time.monotonic() - begun, partitions=dict(sorted(counts.items()))
    )
