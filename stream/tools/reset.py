"""`headrace reset`: a wanted fresh start, which says what it loses before it does anything."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal, cast, get_args

from stream.build import open_keeper
from stream.errors import EnvironmentRefused, SnapshotError
from stream.settings import Settings
from stream.tools.check import has_outputs
from stream.tools.cluster import Cluster, time_of
from stream.tools.group import (
    commit_of,
    end_transactions,
    events_topic,
    new_fold,
    places,
    require_stopped,
)
from stream.tools.topics import topic_names

#: Where the fresh start begins: where the old one stopped, or anywhere in the log.
Word = Literal["committed", "earliest", "latest"]
Start = Word | datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What a reset does to one partition."""

    partition: int
    #: C; None: nothing is committed.
    committed: int | None
    #: Where the new state begins.
    origin: int
    #: Labels that the learner in the newest readable snapshot has learned. None: there is no such snapshot.
    learned: int | None
    #: Snapshots that are deleted.
    snapshots: int
    #: Whether anything was ever predicted, here or in another partition.
    had_outputs: bool = False

    def __str__(self) -> str:
        known = (
            "a learner that no snapshot tells of"
            if self.learned is None
            else f"a learner of {self.learned:,} labels"
        )
        lost = (
            f"{known}, its metrics, detectors and pending predictions, "
            f"{self.snapshots} snapshot{'s' * (self.snapshots != 1)}"
        )
        if self.committed is None:
            where = (
                f"begins at {self.origin:,}; nothing is committed, so where the old one stopped is not known: events "
                "from there on that were predicted before are predicted a second time, and readers see both predictions"
                if self.had_outputs
                else f"begins at {self.origin:,}; nothing is committed"
            )
        elif self.origin == self.committed:
            where = f"goes on at {self.origin:,}, where it stopped"
        elif self.origin < self.committed:
            where = (
                f"begins at {self.origin:,}: the events up to {self.committed:,} are predicted a second time, and "
                "readers see both predictions"
            )
        else:
            where = f"begins at {self.origin:,}: the {self.origin - self.committed:,} events before are never predicted"
        return f"partition {self.partition}: loses {lost}; {where}."

    def to_dict(self) -> dict[str, object]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def start_of(text: str) -> Start:
    """Where to begin, as the option says it.

    Raises:
        ConfigError: It is no such place.

    Example:
        >>> start_of("latest"), start_of("2026-01-31T00:00:00Z")
        ('latest', datetime.datetime(2026, 1, 31, 0, 0, tzinfo=datetime.timezone.utc))
    """
    for word in get_args(Word):
        if text == word:
            return cast(Word, word)
    return time_of(text, "--from", "committed, earliest, latest or ")


class Reset:
    """A fresh start that is prepared, and then done.

    Args:
        cluster: The cluster.
        settings: The pipeline's settings, as they are to be from now on.
        start: Where the new state begins; None: where the old one stopped.

    Raises:
        EnvironmentRefused: Workers run, or it is not known where the old state stopped and no start is given.
    """

    def __init__(self, cluster: Cluster, settings: Settings, start: Start | None) -> None:
        self._cluster = cluster
        self._settings = settings
        self._events = events_topic(cluster, settings)
        self._keeper = open_keeper(settings) if settings.snapshots.enabled else None
        require_stopped(cluster, settings, "a reset")
        # One that Headrace did not write counts as none: a reset is the way out of that.
        self._found = places(cluster, settings, strict=False)
        names = cluster.topics(topic_names(settings).values())
        self._had_outputs = has_outputs(settings, names, cluster)
        # A commit of a topic that was recreated means other records: it counts as none.
        self._places = {
            partition: place
            for partition, place in self._found.items()
            if place.metadata.topic_id == self._events.topic_id
        }
        self._origins = self._find_origins(start)
        #: What is lost, for each partition.
        self.losses = [self._loss(partition, origin) for partition, origin in enumerate(self._origins)]

    def _find_origins(self, start: Start | None) -> list[int]:
        events, settings = self._events, self._settings
        bounds = self._cluster.bounds(events.name, events.partitions)
        if start == "earliest":
            return [item.first for item in bounds]
        if start == "latest":
            return [item.end for item in bounds]
        if isinstance(start, datetime):
            at = self._cluster.offsets_at(
                events.name, range(events.partitions), round(start.timestamp() * 1_000)
            )
            return [at.get(partition, item.end) for partition, item in enumerate(bounds)]
        lacking = [partition for partition in range(events.partitions) if partition not in self._places]
        if lacking:
            raise EnvironmentRefused(
                f"group {settings.name!r} has no commit of Headrace's for partition{'s' * (len(lacking) > 1)} "
                f"{', '.join(map(str, lacking))} of {events.name} as it is now: where it stopped is not known. Say "
                "where to begin: --from latest, --from earliest, or --from with a time."
            )
        # Not before the log's beginning, nor after its end.
        return [
            min(max(self._places[partition].next_offset, item.first), item.end)
            for partition, item in enumerate(bounds)
        ]

    def _loss(self, partition: int, origin: int) -> Loss:
        learned, names = None, []
        if self._keeper is not None:
            with suppress(OSError):
                names = self._keeper.store.names(partition)
            for name in names:
                with suppress(OSError, SnapshotError):
                    learned = self._keeper.header(name).learned
                    break
        place = self._places.get(partition)
        return Loss(
            partition=partition,
            committed=None if place is None else place.next_offset,
            origin=origin,
            learned=learned,
            snapshots=len(names),
            had_outputs=self._had_outputs,
        )

    def do(self) -> None:
        """Commit the new beginnings, then delete the snapshots.

        In this order: a snapshot that is left over is of another origin, and so is never used.

        Raises:
            EnvironmentRefused: A worker has joined meanwhile, and nothing was changed; or the snapshots can't be
                deleted, which the sentence says.
        """
        settings, events = self._settings, self._events
        end_transactions(settings, self._found.values())
        # What a dead worker left open may have been committed by that, and a worker may have come and gone.
        if places(self._cluster, settings, strict=False) != self._found:
            raise EnvironmentRefused(
                f"a worker of {settings.name} has worked meanwhile: what was told is no longer true. "
                "Nothing was changed: start again."
            )
        writers = {partition: place.metadata.writer for partition, place in self._found.items()}
        self._cluster.commit(
            settings.name,
            events.name,
            {
                partition: commit_of(
                    new_fold(settings, events, partition, origin),
                    events,
                    origin,
                    writer=writers.get(partition, f"{settings.name}-reset"),
                    snapshot=None,
                )
                for partition, origin in enumerate(self._origins)
            },
        )
        if self._keeper is None:
            return
        store = self._keeper.store
        try:
            for partition in store.partitions():
                for name in [*store.names(partition), *store.segments(partition)]:
                    store.delete(name)
        except (OSError, SnapshotError) as error:
            reason = error.strerror or error if isinstance(error, OSError) else error
            raise EnvironmentRefused(
                f"the next worker begins anew, but the snapshots in {store.address} can't be deleted ({reason}). "
                "They are of no use any more: delete them."
            ) from error
