"""`headrace snapshots`: what is kept of each partition, and whether it can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, cast

from rich import box
from rich.table import Table

from stream.build import new_pipeline, open_keeper
from stream.checkpoint import state_shape
from stream.codec import encode_json
from stream.errors import EnvironmentRefused, SnapshotError
from stream.settings import Settings
from stream.snapshots.file import Fold, Header, require_of
from stream.snapshots.keeper import SnapshotKeeper, offset_of, segments_size
from stream.tools.cluster import Cluster
from stream.tools.group import Place, events_topic, places
from stream.tools.watch import printable

#: Seconds for a broker to answer: the snapshots can be looked at without one.
PATIENCE: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One snapshot of the store."""

    name: str
    partition: int
    #: S: the first offset it has not learned.
    next_offset: int
    #: Bytes, with the segments that it names, which others may name as well.
    size: int
    #: What it says about itself; None if its seal does not hold.
    header: Header | None
    #: Why a worker would not use it, as far as its header tells; empty: it would.
    refused: str
    #: The last commit names it. None: the broker was not asked.
    committed: bool | None

    def to_dict(self) -> dict[str, object]:
        """The fields by name, ready for JSON."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        header = None
        if self.header is not None:
            header = self.header.model_dump(exclude={"probe"}) | {"segments": len(self.header.segments)}
        return found | {"header": header}


class SnapshotTool:
    """The snapshots of a pipeline, beside what its group has committed where a broker tells.

    Args:
        settings: The pipeline's settings.

    Raises:
        EnvironmentRefused: The snapshots are not enabled, or their key can't be read.
    """

    def __init__(self, settings: Settings) -> None:
        if not settings.snapshots.enabled:
            raise EnvironmentRefused(f"{settings.path}: [snapshots] is not enabled: there are none.")
        self._settings = settings
        self._keeper: SnapshotKeeper = open_keeper(settings)
        #: Where they are.
        self.address = self._keeper.store.address
        #: Why nothing is known of the commits; empty if it is.
        self.no_broker = ""
        self._places: dict[int, Place] | None = None
        self._topic_id = ""
        try:
            with Cluster(settings, PATIENCE) as cluster:
                self._topic_id = events_topic(cluster, settings).topic_id
                self._places = places(cluster, settings)
        except EnvironmentRefused as error:
            self.no_broker = str(error)

    def entries(self, partition: int | None = None) -> Iterator[Entry]:
        """Every snapshot, by partition, the newest first.

        Raises:
            EnvironmentRefused: The store does not answer.
        """
        for number, name in self._names(partition):
            entry = self._entry(name, number)
            if entry is not None:
                yield entry

    def _names(self, partition: int | None = None) -> Iterator[tuple[int, str]]:
        store = self._keeper.store
        with self._answers():
            wanted = store.partitions() if partition is None else [partition]
        for number in wanted:
            with self._answers():
                names = store.names(number)
            for name in names:
                yield number, name

    def _entry(self, name: str, partition: int) -> Entry | None:
        """What is known of a snapshot; None: a worker has deleted it meanwhile."""
        header, refused, size = None, "", 0
        with self._answers():
            try:
                size = self._keeper.store.size(name)
                header = self._keeper.header(name)
                size += segments_size(header)
                require_of(header, self._wanted(header), name)
                self._require_segments(name, header)
            except FileNotFoundError:
                return None
            except SnapshotError as error:
                refused = str(error)
        place = None if self._places is None else self._places.get(partition)
        return Entry(
            name=name,
            partition=partition,
            next_offset=offset_of(name),
            size=size,
            header=header,
            refused=refused,
            committed=None if self._places is None else place is not None and place.metadata.snapshot == name,
        )

    def _require_segments(self, name: str, header: Header) -> None:
        """Refuse a snapshot whose segments are not all there; what is in them is not looked at.

        Raises:
            SnapshotError: One is missing.
        """
        if not header.segments:
            return
        there = {*self._keeper.store.segments(header.partition)}
        for segment, _, _ in header.segments:
            if segment not in there:
                raise SnapshotError(f"{name}: its segment {segment} is missing.")

    def _wanted(self, header: Header) -> Fold:
        """The fold that a worker would want now; what no broker tells is taken from the snapshot itself."""
        place = None if self._places is None else self._places.get(header.partition)
        return Fold(
            pipeline=self._settings.name,
            topic=self._settings.topics.events,
            topic_id=self._topic_id or header.topic_id,
            partition=header.partition,
            origin=header.origin if place is None else place.metadata.origin,
            base=header.base if place is None else place.metadata.base,
            fold_id=header.fold_id if place is None else place.metadata.fold_id,
            shape=state_shape(self._settings),
        )

    def verify(self, entry: Entry) -> str:
        """Why a worker would not use a snapshot, after every check; empty: it would."""
        if entry.refused or entry.header is None:
            return entry.refused
        new_pipeline(self._settings)  # the user's own learner is imported
        with self._answers():
            try:
                self._keeper.open(entry.name, self._wanted(entry.header))
            except FileNotFoundError:
                return f"{entry.name}: is gone: a worker has deleted it."
            except SnapshotError as error:
                return str(error)
        return ""

    def entry(self, name: str) -> Entry:
        """One snapshot by its name.

        Raises:
            EnvironmentRefused: There is none of that name.
        """
        names = []
        for partition, found in self._names():
            entry = self._entry(name, partition) if found == name else None
            if entry is not None:
                return entry
            names.append(found)
        raise EnvironmentRefused(
            f"{self.address} has no snapshot {name!r}; there "
            + (
                f"are {', '.join(names[:5])}{' and others' * (len(names) > 5)}."
                if names
                else "is none at all."
            )
        )

    def prune(self, keep: int, *, dry_run: bool) -> Iterator[Entry]:
        """Delete all but the newest snapshots of each partition that a worker would use; what goes.

        With them go the segments that no other snapshot names, and what dead writers left of such.

        Args:
            keep: How many stay of each partition.
            dry_run: Delete nothing.

        Raises:
            EnvironmentRefused: No broker says which one is committed; nothing was deleted.
        """
        if self.no_broker:
            raise EnvironmentRefused(
                f"nothing was deleted: which snapshots are committed is not known ({self.no_broker})"
            )
        gone = list(superfluous(list(self.entries()), keep))
        if not dry_run:
            with self._answers():
                for partition in self._keeper.store.partitions():
                    self._keeper.delete(partition, [e.name for e in gone if e.partition == partition])
        yield from gone

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EnvironmentRefused(
                f"the snapshots in {self.address} can't be read: {error.strerror or error}. See [snapshots] location."
            ) from error


def superfluous(entries: Sequence[Entry], keep: int) -> Iterator[Entry]:
    """What `prune` deletes: of each partition all but the newest that a worker would use.

    The one that the last commit names stays, and so do those that can't be used until there are enough that can.

    Args:
        entries: All, the newest of a partition first.
        keep: How many stay of each partition.
    """
    good: dict[int, int] = {}
    for entry in entries:
        enough = good.get(entry.partition, 0) >= keep
        if not entry.refused:
            good[entry.partition] = good.get(entry.partition, 0) + 1
        if enough and not entry.committed:
            yield entry


def table_of(entries: Sequence[Entry]) -> Table:
    """A line for each snapshot."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (
        ("name", "left"), ("learned up to", "right"), ("labels", "right"), ("learner", "left"),
        ("written (UTC)", "left"), ("bytes", "right"), ("", "left"),
    ):  # fmt: skip
        table.add_column(name, justify=cast(Literal["left", "right"], justify), no_wrap=True)
    for entry in entries:
        header = entry.header
        state = "not to be used" if entry.refused else "committed" if entry.committed else ""
        table.add_row(
            entry.name,
            f"{entry.next_offset:,}",
            "" if header is None else f"{header.learned:,}",
            "" if header is None else printable(header.learner)[:40],
            "" if header is None else _time(header.created_at),
            f"{entry.size:,}",
            state,
        )
    return table


def lines_of(entry: Entry) -> Iterator[str]:
    """All that a snapshot says about itself, a line each."""
    return map(printable, _lines_of(entry))


def _lines_of(entry: Entry) -> Iterator[str]:
    yield f"name           {entry.name}"
    yield f"bytes          {entry.size:,}"
    if entry.header is not None:
        header = entry.header
        yield f"pipeline       {header.pipeline}"
        yield f"partition      {header.topic}[{header.partition}] (topic id {header.topic_id})"
        yield f"state          of the records from {header.origin:,} up to {header.next_offset:,}"
        if header.base:
            yield f"before that    rows of a file with SHA-256 {header.base}"
        yield f"learner        {header.learner}, {header.learned:,} labels learned"
        yield f"written        {_time(header.created_at)} UTC by Headrace {header.headrace}"
        yield f"payload        {header.payload_bytes:,} bytes, SHA-256 {header.payload_sha256}"
        yield f"segments       {len(header.segments):,}, with {segments_size(header):,} bytes"
        for what, digest in header.shape.items():
            yield f"  {what:12} {digest}"
        for x, text in header.probe:
            yield f"predicts       {text} on {encode_json(x).decode()}"
    yield f"committed      {'not known' if entry.committed is None else 'yes' if entry.committed else 'no'}"
    yield f"usable         {f'no: {entry.refused}' if entry.refused else 'as far as its header tells'}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
