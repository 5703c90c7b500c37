"""Where the relay stands in the topics that it reads: from its group's offsets and the ends of their logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

from stream.errors import EnvironmentRefused
from stream.log import Committed
from stream.relay.log import Place
from stream.relay.places import check_partitions, choose_beginning, group_of, metadata_of
from stream.settings import Settings
from stream.tools.cluster import Bounds, Cluster, Commit, TopicFacts

#: Seconds between two looks: a relay that works has moved by then, whatever it waits for.
BETWEEN_LOOKS: Final = 2.0
#: A lag that grows is told of from here on: fewer records are on their way, in one transaction.
MANY: Final = 1_000
#: Partitions that a sentence names.
NAMED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayedPartition:
    """One partition of a topic that is relayed."""

    topic: str
    partition: int
    #: What the relay's group has committed: all before it is in the events topic. None: nothing yet.
    next_offset: int | None
    #: End of the partition (last stable offset).
    end: int
    #: Records that are not relayed yet; without a commit all that are there.
    lag_records: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayView:
    """The relay as far as it is known."""

    #: Its consumer group.
    group: str
    #: Members of it now.
    relays: int
    partitions: Sequence[RelayedPartition]
    #: What should be looked into, a sentence; empty: nothing.
    warning: str = ""

    def to_dict(self) -> dict[str, object]:
        """Ready for JSON; the warning is among those of the pipeline."""
        return {
            "group": self.group,
            "relays": self.relays,
            "lag_records": sum(item.lag_records for item in self.partitions),
            "partitions": [asdict(item) for item in self.partitions],
        }


class Look(NamedTuple):
    """What is known at one moment."""

    relays: int
    commits: Mapping[Place, Commit]
    bounds: Mapping[Place, Bounds]


def look_at(cluster: Cluster, settings: Settings, sources: Iterable[TopicFacts]) -> Look:
    """Ask where the relay stands.

    Raises:
        EnvironmentRefused: A topic or the group may not be asked about.
    """
    group = group_of(settings)
    commits: dict[Place, Commit] = {}
    bounds: dict[Place, Bounds] = {}
    for facts in sources:
        # First what is committed: what comes between the two questions is lag, not records from nowhere.
        for partition, commit in cluster.commits(group, facts.name).items():
            commits[Place(facts.name, partition)] = commit
        for partition, log in enumerate(cluster.bounds(facts.name, facts.partitions)):
            bounds[Place(facts.name, partition)] = log
    return Look(cluster.members(group), commits, bounds)


def sources_of(cluster: Cluster, settings: Settings, events: TopicFacts) -> list[TopicFacts]:
    """The topics that are relayed.

    Raises:
        EnvironmentRefused: One is missing, or its partitions don't fit.
    """
    found = cluster.topics(settings.relayed_topics)
    counts = {name: facts.partitions for name, facts in found.items()}
    check_partitions(settings, counts, events.partitions)
    return [found[name] for name in settings.relayed_topics]


def lag_of(look: Look) -> dict[Place, int]:
    """Records that are there and not relayed, by partition."""
    return {
        place: max(
            0, log.end - max(log.first, look.commits[place].next_offset if place in look.commits else 0)
        )
        for place, log in look.bounds.items()
    }


def relay_view(
    settings: Settings,
    events: TopicFacts,
    sources: Sequence[TopicFacts],
    *,
    first: Look,
    last: Look,
    seconds: float,
) -> RelayView:
    """Put together what two looks have found.

    Args:
        settings: The pipeline's settings.
        events: The events topic.
        sources: The topics that are relayed.
        first: The first look.
        last: The last one; the same as the first, if there was no need for another.
        seconds: Time between the two.
    """
    lags = lag_of(last)
    partitions = [
        RelayedPartition(
            topic=place.topic,
            partition=place.partition,
            next_offset=last.commits[place].next_offset if place in last.commits else None,
            end=log.end,
            lag_records=lags[place],
        )
        for place, log in last.bounds.items()
    ]
    warning = _lost(settings, events, sources, last) or _warning(
        settings, partitions, last.relays, first, seconds
    )
    return RelayView(group=group_of(settings), relays=last.relays, partitions=partitions, warning=warning)


def _lost(settings: Settings, events: TopicFacts, sources: Iterable[TopicFacts], look: Look) -> str:
    """Why the relay can't go on from what is committed; empty: it can."""
    for facts in sources:
        for partition in range(facts.partitions):
            place = Place(facts.name, partition)
            commit = look.commits.get(place)
            metadata = None if commit is None else metadata_of(commit.metadata)
            if commit is None or (metadata is not None and metadata.merging):
                continue
            first, end = look.bounds[place]
            try:
                choose_beginning(
                    settings,
                    place,
                    Committed(*commit),
                    topic_id=facts.topic_id,
                    events_id=events.topic_id,
                    first=first,
                    end=end,
                    at=lambda _: 0,
                    relayed=None,
                    lost=None,
                )
            except EnvironmentRefused as error:
                return f"The relay can't go on: {error}"
    return ""


def _warning(
    settings: Settings,
    partitions: Sequence[RelayedPartition],
    relays: int,
    first: Look,
    seconds: float,
) -> str:
    behind = [item for item in partitions if item.lag_records]
    nowhere = [item for item in partitions if item.next_offset is None]
    lag = sum(item.lag_records for item in behind)
    if relays == 0:
        begun = f" and nothing is committed for {_names(nowhere)}" if nowhere else ""
        waits = f" while {_records(lag)} of {_names(behind)} wait{'s' * (lag == 1)}" if behind else ""
        return (
            f"No relay runs now{begun}{waits}; start one: headrace run {settings.path} (with workers) or "
            f"headrace relay {settings.path}"
        )
    if nowhere:
        return (
            f"The relay has committed nothing for {_names(nowhere)}, though {_members(relays)}: is it starting, or "
            "stuck? Its log says."
        )
    before = lag_of(first)

    def lag_before(item: RelayedPartition) -> int:
        return before.get(Place(item.topic, item.partition), 0)

    def has_moved(item: RelayedPartition) -> bool:
        commit = first.commits.get(Place(item.topic, item.partition))
        return commit is None or commit.next_offset != item.next_offset

    # After the first look: nothing can have moved within no time.
    still = [item for item in behind if seconds > 0 and lag_before(item) and not has_moved(item)]
    if still:
        lag = sum(item.lag_records for item in still)
        return (
            f"{_records(lag)} of {_names(still)} wait{'s' * (lag == 1)} and none was relayed within {seconds:.0f} s, "
            f"though {_members(relays)}: is it starting, or stuck? Its log says."
        )
    grows = [item for item in behind if item.lag_records > lag_before(item) >= MANY]
    if grows:
        return (
            f"The relay is behind, and its lag grows: by {_records(sum(i.lag_records - lag_before(i) for i in grows))} "
            f"of {_names(grows)} within {seconds:.0f} s. More is produced there than it brings over, or the broker is "
            "slow."
        )
    return ""


def _records(count: int) -> str:
    return f"{count:,} record{'' if count == 1 else 's'}"


def _members(relays: int) -> str:
    return "one runs" if relays == 1 else f"{relays} run"


def _names(items: Sequence[RelayedPartition]) -> str:
    named = ", ".join(map(str, items[:NAMED]))
    return f"{named} and {len(items) - NAMED} more" if len(items) > NAMED else named
