"""`headrace rebuild`: the state learned anew beside the running one, and then put in its place.

The way to another version of River, to other settings, to another learner. The new state is a fold like any other: of
the log from an origin to the committed offset, under the settings as they are now, perhaps after rows of a file. The
predictions that are out stay as they are; those that come next are the new state's.
"""

from __future__ import annotations

import hashlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from monitors import Figures
from stream.build import new_pipeline, open_keeper
from stream.checkpoint import ANEW
from stream.errors import EnvironmentRefused
from stream.kafka.log import read_partition
from stream.pipeline import Pipeline
from stream.records import Record
from stream.rows import RowError, RowFormat, read_rows
from stream.settings import Settings
from stream.snapshots.file import Fold
from stream.snapshots.keeper import SnapshotKeeper
from stream.tools.check import has_outputs
from stream.tools.cluster import Bounds, Cluster, Commit, TopicFacts
from stream.tools.group import (
    Place,
    commit_of,
    end_transactions,
    events_topic,
    new_fold,
    places,
    require_same_topic,
)
from stream.tools.send import SendOptions, address
from stream.tools.topics import topic_names

#: Seconds between two looks at whether the workers have stopped.
LOOK: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildOptions:
    """How the state is rebuilt."""

    #: Rows to learn before the log: a JSON Lines or CSV file, addressed to partitions as `headrace send` does.
    rows: Path | None = None
    format: RowFormat | None = None
    #: Where in the log to begin. None: where the present state began, or where the log begins now if that is later.
    start: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """The new state of one partition."""

    partition: int
    #: Where in the log it begins, and the next offset it has not learned.
    origin: int
    next_offset: int
    #: Offsets that the old state had learned and that the log has no more.
    missing: int
    #: Offsets that were deleted from the log before anything was predicted on them.
    unpredicted: int
    #: The old state began with rows of a file, and no file was given: the new one does not know them.
    lacks_rows: bool
    #: Rows of the file that were learned before.
    rows: int
    events: int
    learned: int
    dead_letters: int
    metrics: Figures
    #: Name of the snapshot that holds it.
    snapshot: str

    def to_dict(self) -> dict[str, object]:
        """The fields by name, ready for JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(slots=True)
class _Partition:
    pipeline: Pipeline
    fold: Fold
    next_offset: int
    missing: int
    unpredicted: int
    lacks_rows: bool
    rows: int = 0


def rebuild(
    settings: Settings,
    options: RebuildOptions,
    *,
    waiting: Callable[[int], None],
    advanced: Callable[[int, int], None] = lambda done, of: None,
) -> list[Rebuilt]:
    """Learn the state of each partition anew, wait until no worker runs, and let the group go on from the new one.

    Args:
        settings: As they are to be from now on.
        options: How.
        waiting: Told now and then how many workers are still to be stopped.
        advanced: Told how many records are learned, of how many known so far.

    Raises:
        EnvironmentRefused: It can't be done; nothing was changed then.
        RowError: The file of rows is not what it should be; nothing was changed.
    """
    if not settings.snapshots.enabled:
        raise EnvironmentRefused(
            f"{settings.path}: [snapshots] is not enabled; the new state has to be kept in one until the worker starts."
        )
    base = "" if options.rows is None else _digest(options.rows)
    keeper = open_keeper(settings, start=lambda job: job())
    # The old state's stay until the switch has happened: a worker may have to go on from them.
    keeper.policy = replace(keeper.policy, keep=sys.maxsize)
    with Cluster(settings) as cluster:
        events = events_topic(cluster, settings)
        found = places(cluster, settings)
        if not found:
            raise _nothing_committed(cluster, settings, keeper)
        require_same_topic(found, events)
        bounds = cluster.bounds(events.name, events.partitions)
        _require_reachable(found, bounds, events)
        origins = [place.metadata.origin for place in found.values()]
        if options.start is not None:
            at = round(options.start.timestamp() * 1_000)
            starts = cluster.offsets_at(events.name, list(found), at)
            origins = [
                min(starts.get(partition, place.next_offset), place.next_offset)
                for partition, place in found.items()
            ]
        partitions = {}
        for (partition, place), wanted in zip(found.items(), origins, strict=True):
            first = bounds[partition].first
            partitions[partition] = _Partition(
                pipeline=new_pipeline(settings),
                fold=new_fold(settings, events, partition, max(wanted, first), base),
                next_offset=max(wanted, first),
                missing=max(0, min(first, place.next_offset) - place.metadata.origin),
                unpredicted=max(0, first - place.next_offset),
                lacks_rows=bool(place.metadata.base) and not base,
            )
        _learn_rows(settings, options, partitions, events)
        _catch_up(settings, partitions, found, advanced)
        while members := cluster.members(settings.name):
            waiting(members)
            time.sleep(LOOK)
            _catch_up(settings, partitions, _same_folds(found, places(cluster, settings)), advanced)
        end_transactions(settings, places(cluster, settings).values())
        last = _same_folds(found, places(cluster, settings))
        _catch_up(settings, partitions, last, advanced)
        rebuilt = [_keep(keeper, partition) for partition in partitions.values()]
        commits = _commits(events, last, partitions, [item.snapshot for item in rebuilt])
        with _too_late_for_ctrl_c():
            if places(cluster, settings) != last:
                raise EnvironmentRefused(
                    f"a worker of {settings.name} has worked meanwhile. Nothing was changed: stop all workers of this "
                    "pipeline and start again."
                )
            cluster.commit(settings.name, events.name, commits)
    return rebuilt


def _digest(rows: Path) -> str:
    """SHA-256 of a file of rows, which is read several times, so from no pipe."""
    if rows.exists() and not rows.is_file():
        raise RowError(str(rows), "is no plain file; expected one, since it is read more than once.")
    try:
        with rows.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise RowError(str(rows), "there is no such file.") from None
    except OSError as error:
        raise RowError(str(rows), f"the file can't be read: {error.strerror}.") from None


@contextmanager
def _too_late_for_ctrl_c() -> Iterator[None]:
    """From here to the end of the process, unless it fails: whoever stops it is told that nothing was changed."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGINT, before)
        raise


def _nothing_committed(cluster: Cluster, settings: Settings, keeper: SnapshotKeeper) -> EnvironmentRefused:
    nothing = f"group {settings.name!r} has committed nothing"
    topics = cluster.topics(topic_names(settings).values())
    if has_outputs(settings, topics, cluster) or keeper.store.partitions():
        return EnvironmentRefused(
            f"{nothing}, but there are outputs or snapshots: its offsets were lost (an idle group's expire after seven "
            f"days) or the topic was recreated. Where the state stopped is not known. {ANEW}"
        )
    return EnvironmentRefused(
        f"{nothing}: there is no state to replace. A worker begins with the settings as they are: "
        f"headrace run {settings.path}"
    )


def _same_folds(begun: Mapping[int, Place], now: dict[int, Place]) -> dict[int, Place]:
    """What is committed now, if it goes on from what was committed when this command began.

    Raises:
        EnvironmentRefused: A partition was begun, reset, rebuilt or lost meanwhile.
    """

    def fold(place: Place | None) -> object:
        return place and (place.metadata.topic_id, place.metadata.origin, place.metadata.fold_id)

    for partition in sorted({*begun, *now}):
        if fold(begun.get(partition)) != fold(now.get(partition)):
            raise EnvironmentRefused(
                f"partition {partition} was begun, or begun anew, since this command began. Nothing was changed: "
                "start again."
            )
    return now


def _require_reachable(found: Mapping[int, Place], bounds: Sequence[Bounds], events: TopicFacts) -> None:
    for partition, place in found.items():
        if place.next_offset > bounds[partition].end:
            raise EnvironmentRefused(
                f"{events.name}[{partition}]: committed up to {place.next_offset}, but the log ends at "
                f"{bounds[partition].end}: records were lost. Restore the topic. {ANEW}"
            )


def _learn_rows(
    settings: Settings, options: RebuildOptions, partitions: dict[int, _Partition], events: TopicFacts
) -> None:
    """Learn the rows of the file, as events before the origin: at negative offsets, which no record has."""
    if options.rows is None:
        return
    # A row has no timestamp that its own time could be too far ahead of.
    event = settings.event.model_copy(update={"max_ahead_seconds": math.inf})
    decoding = settings.model_copy(update={"event": event})
    learn = {}
    for partition, of_partition in partitions.items():
        pipeline = new_pipeline(decoding)
        pipeline.resume(of_partition.pipeline.state)
        learn[partition] = pipeline.process
    total = sum(1 for _ in read_rows(options.rows, options.format, settings))
    rows = address(
        read_rows(options.rows, options.format, settings),
        str(options.rows),
        settings,
        SendOptions(),
        events.partitions,
    )
    for number, row in enumerate(rows):
        it = partitions.get(row.partition)
        if it is None:
            continue
        clock = it.pipeline.state.clock
        timestamp = int(clock * 1_000) if math.isfinite(clock) else 0
        learn[row.partition](Record(row.partition, number - total, timestamp, row.key, row.value))
        it.rows += 1


def _catch_up(
    settings: Settings,
    partitions: dict[int, _Partition],
    found: Mapping[int, Place],
    advanced: Callable[[int, int], None],
) -> None:
    """Learn each partition's log up to what is committed."""
    ends = {
        partition: max(found[partition].next_offset, it.next_offset) for partition, it in partitions.items()
    }
    origins = sum(it.fold.origin for it in partitions.values())
    for partition, it in partitions.items():
        if it.next_offset == ends[partition]:
            continue
        process = it.pipeline.process
        for records in read_partition(settings, partition, it.next_offset, ends[partition]):
            for record in records:
                process(record)
            it.next_offset = records[-1].offset + 1 if records else it.next_offset
            advanced(sum(p.next_offset for p in partitions.values()) - origins, sum(ends.values()) - origins)
        it.next_offset = ends[partition]


def _keep(keeper: SnapshotKeeper, it: _Partition) -> Rebuilt:
    keeper.take(it.pipeline.state, it.fold, it.next_offset)
    (taken,) = keeper.collect()
    if taken.name is None:
        raise EnvironmentRefused(
            f"the new state of partition {it.fold.partition} can't be kept in {keeper.store.address}: {taken.reason} "
            "Nothing was changed."
        )
    state = it.pipeline.state
    return Rebuilt(
        partition=it.fold.partition,
        origin=it.fold.origin,
        next_offset=it.next_offset,
        missing=it.missing,
        unpredicted=it.unpredicted,
        lacks_rows=it.lacks_rows,
        rows=it.rows,
        events=state.events,
        learned=state.learner.learned,
        dead_letters=state.dead_letters,
        metrics=state.prequential.values(),
        snapshot=taken.name,
    )


def _commits(
    events: TopicFacts,
    found: Mapping[int, Place],
    partitions: dict[int, _Partition],
    snapshots: Sequence[str],
) -> dict[int, Commit]:
    return {
        partition: commit_of(
            it.fold, events, it.next_offset, writer=found[partition].metadata.writer, snapshot=snapshot
        )
        for (partition, it), snapshot in zip(partitions.items(), snapshots, strict=True)
    }
