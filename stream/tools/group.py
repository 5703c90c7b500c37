"""What a pipeline's group has committed, for the commands that change it while no worker runs."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stream.checkpoint import ANEW, CommitMetadata, state_shape
from stream.errors import EnvironmentRefused
from stream.kafka.log import fence_writers
from stream.settings import Settings
from stream.snapshots.file import Fold
from stream.tools.cluster import Cluster, Commit, TopicFacts


@dataclass(frozen=True, slots=True)
class Place:
    """What is committed for a partition."""

    #: C.
    next_offset: int
    metadata: CommitMetadata


def events_topic(cluster: Cluster, settings: Settings) -> TopicFacts:
    """The events topic as it is.

    Raises:
        EnvironmentRefused: There is none.
    """
    found = cluster.topics([settings.topics.events]).get(settings.topics.events)
    if found is None:
        raise EnvironmentRefused(
            f"there is no topic {settings.topics.events!r}. Make it: headrace topics create {settings.path}"
        )
    return found


def places(cluster: Cluster, settings: Settings, *, strict: bool = True) -> dict[int, Place]:
    """What the group has committed, by partition.

    Args:
        cluster: The cluster.
        settings: The pipeline's settings.
        strict: Refuse a commit that can't be read; otherwise it is left out.

    Raises:
        EnvironmentRefused: A commit is not Headrace's, or of another version.
    """
    topic = settings.topics.events
    found = {}
    for partition, commit in sorted(cluster.commits(settings.name, topic).items()):
        try:
            metadata = CommitMetadata.decode(
                commit.metadata, group=settings.name, where=f"{topic}[{partition}]"
            )
        except EnvironmentRefused:
            if strict:
                raise
            continue
        found[partition] = Place(commit.next_offset, metadata)
    return found


def require_same_topic(found: Mapping[int, Place], events: TopicFacts) -> None:
    """Refuse commits that are of an earlier topic of this name.

    Raises:
        EnvironmentRefused: They are.
    """
    for partition, place in found.items():
        if place.metadata.topic_id != events.topic_id:
            raise EnvironmentRefused(
                f"{events.name}[{partition}]: the topic was deleted and created again since the commit "
                f"(id {place.metadata.topic_id}, now {events.topic_id}): its offsets mean other records. {ANEW}"
            )


def require_stopped(cluster: Cluster, settings: Settings, doing: str) -> None:
    """Refuse while workers run.

    Raises:
        EnvironmentRefused: The group has members.
    """
    if members := cluster.members(settings.name):
        raise EnvironmentRefused(
            f"{members} worker{'s' * (members != 1)} of {settings.name} still run{'s' * (members == 1)} (one that was "
            f"killed counts for {settings.worker.session_timeout_ms / 1_000:.0f} s); {doing} needs them stopped."
        )


def end_transactions(settings: Settings, found: Iterable[Place]) -> None:
    """See to it that no commit of a worker that is gone can come after this."""
    fence_writers(settings, sorted({place.metadata.writer for place in found}))


def new_fold(settings: Settings, events: TopicFacts, partition: int, origin: int, base: str = "") -> Fold:
    """A fold of a partition that begins at an origin, under the settings as they are; no other one is equal to it."""
    return Fold(
        pipeline=settings.name,
        topic=events.name,
        topic_id=events.topic_id,
        partition=partition,
        origin=origin,
        base=base,
        shape=state_shape(settings),
        fold_id=secrets.token_hex(8),
    )


def commit_of(
    fold: Fold, events: TopicFacts, next_offset: int, *, writer: str, snapshot: str | None
) -> Commit:
    """What a worker goes on from: this fold, from this offset."""
    metadata = CommitMetadata(
        pipeline=fold.pipeline,
        origin=fold.origin,
        topic_id=fold.topic_id,
        partitions=events.partitions,
        shape=dict(fold.shape),
        writer=writer,
        snapshot=snapshot,
        base=fold.base,
        fold_id=fold.fold_id,
    )
    return Commit(next_offset, metadata.encode())
