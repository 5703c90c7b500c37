"""Where the relay goes on, and which partition goes where: decided without a broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, Literal, get_args

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from stream.errors import ConfigError, EnvironmentRefused, Mistake
from stream.log import Committed
from stream.records import RelayedKind
from stream.relay.log import Place
from stream.settings import Settings

#: Version of the metadata; another one is refused.
FORMAT: Final = 1
#: In place of an offset: whether anything was relayed from a partition can't be told.
UNTOLD: Final = -1
#: Where to go on in a partition whose place is lost: behind what was relayed last, or at either end of its log.
Lost = Literal["relayed", "earliest", "latest"]


class RelayMetadata(BaseModel):
    """What a commit of the relay says about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    #: Identity of the source topic, and of the events topic that its records went to.
    topic_id: str
    events_id: str
    #: Transactional id of the relay that committed.
    writer: str
    #: Whether a merge of the history is under way, or was interrupted.
    merging: bool = False
    #: How many partitions the source topic had when the relay began with it; None: it did not say so yet.
    partitions: int | None = None

    def encode(self) -> str:
        """As the string that goes into the commit."""
        return orjson.dumps(self.model_dump()).decode()


def metadata_of(text: str) -> RelayMetadata | None:
    """What the string of a commit says; None if the relay did not write it.

    Example:
        >>> metadata_of(RelayMetadata(topic_id="a", events_id="b", writer="c").encode()).writer
        'c'
        >>> metadata_of("") is None
        True
    """
    try:
        found = RelayMetadata.model_validate_json(text)
    except ValidationError:
        return None
    return found if found.format == FORMAT else None


def partitions_at_first(commits: Mapping[Place, Committed], topic: str, topic_id: str) -> int | None:
    """How many partitions a source topic had when the relay began with it, by what is committed; None: not known.

    A partition beyond that is a new one: all that is in it came since.
    """
    for place, committed in commits.items():
        metadata = metadata_of(committed.metadata) if place.topic == topic else None
        if metadata is not None and metadata.topic_id == topic_id and metadata.partitions is not None:
            return metadata.partitions
    return None


def group_of(settings: Settings) -> str:
    """The relay's consumer group."""
    return f"{settings.name}.relay"


def lost_of(text: str) -> Lost:
    """Where to go on, as the option says it.

    Raises:
        ConfigError: It is no such place.
    """
    for word in get_args(Lost):
        if text == word:
            found: Lost = word
            return found
    text = f"is {text!r}; expected one of {', '.join(get_args(Lost))}."
    raise ConfigError([Mistake(place="--from", setting="", text=text)])


def target(partition: int, events_partitions: int) -> int:
    """The partition of the events topic that a partition of a source topic goes to.

    Example:
        >>> target(3, events_partitions=1), target(3, events_partitions=6)
        (0, 3)
    """
    return 0 if events_partitions == 1 else partition


def mismatch(
    settings: Settings, topic: str, kind: RelayedKind, partitions: int, events_partitions: int
) -> tuple[str, str] | None:
    """What is wrong with the partitions of a source topic, and what to do; None if they fit."""
    if events_partitions in (1, partitions):
        return None
    events = settings.topics.events
    counts = f"it has {partitions} partition{'s' * (partitions != 1)} and {events} has {events_partitions}"
    if kind == "labels":
        return (
            f"{counts}; expected the same number, since partition p goes to partition p, where the questions of its "
            "labels must be.",
            f"make a topic of {events_partitions} partitions for the labels and write to it with the key and the "
            f"partitioner of {events}; or, for one learner, name a topic of one partition in [topics] events and "
            f"{events} in [relay] events.",
        )
    return (
        f"{counts}; expected the same number, since partition p goes to partition p, or 1 partition of {events}, "
        "which all go to.",
        f"name a topic of one partition in [topics] events (one learner), or one of {partitions} partitions.",
    )


def check_partitions(settings: Settings, counts: Mapping[str, int], events_partitions: int) -> None:
    """Refuse source topics whose partitions can't be brought into the events topic.

    Args:
        settings: The pipeline's settings.
        counts: The source topics that are there, with their number of partitions.
        events_partitions: Of the events topic.

    Raises:
        EnvironmentRefused: One is missing, or has another number of partitions.
    """
    for topic, kind in settings.relayed_topics.items():
        setting = "[labels] topic" if kind == "labels" else "[relay] events"
        if topic not in counts:
            raise EnvironmentRefused(
                f"no topic {topic!r} at {settings.kafka.bootstrap_servers}, which {setting} names. It is yours to "
                "make: Headrace makes no topic that others write to."
            )
        found = mismatch(settings, topic, kind, counts[topic], events_partitions)
        if found is not None:
            raise EnvironmentRefused(f"topic {topic!r}: {found[0]} To mend it: {found[1]}")


def choose_beginning(
    settings: Settings,
    place: Place,
    committed: Committed | None,
    *,
    topic_id: str,
    events_id: str,
    first: int,
    end: int,
    at: Callable[[datetime], int],
    relayed: int | None,
    lost: Lost | None,
    is_added: bool = False,
) -> int:
    """Where the relay goes on in a partition: where it stopped, or for the first time where the settings say.

    A partition that was added to its topic since the relay began is relayed whole.

    Args:
        settings: The pipeline's settings.
        place: The partition.
        committed: What the group has committed for it.
        topic_id: Identity of its topic.
        events_id: Identity of the events topic.
        first: Where its log begins.
        end: Where its log ends.
        at: The first offset of a time or a later one.
        relayed: The last offset of it that was found in the events topic, if nothing is committed; or `UNTOLD`.
        lost: Where to go on if its place is lost.
        is_added: Whether it was added to its topic since the relay began with that.

    Raises:
        EnvironmentRefused: Its place is lost, and it was not said where to go on; or a merge was interrupted.
    """
    events, group = settings.topics.events, group_of(settings)
    metadata = None if committed is None else metadata_of(committed.metadata)
    why = ""
    if committed is None:
        if is_added and relayed in (None, UNTOLD):
            return first
        if relayed is None:
            start = settings.topics.start
            return first if start == "earliest" else end if start == "latest" else at(start)
        if relayed == UNTOLD:
            why = (
                f"group {group!r} has committed nothing, the pipeline has run before, and none of the newest records "
                f"of {events} was relayed from it: older ones may have been, and the group's offsets been lost (an "
                "idle group's expire after seven days)"
            )
        else:
            why = (
                f"group {group!r} has committed nothing, but {events} has records that were relayed from it, the last "
                f"from offset {relayed}: the group's offsets were lost (an idle group's expire after seven days), or "
                "the topic was made anew"
            )
    elif metadata is None:
        why = f"group {group!r} has a committed offset that the relay did not write ({committed.metadata[:80]!r})"
    elif metadata.events_id != events_id:
        why = f"{events} was deleted and made anew, or is another topic since: what was relayed is not in this one"
    elif metadata.merging:
        raise EnvironmentRefused(
            f"{place}: headrace merge was interrupted, and {events} has a part of the history. Let it finish: "
            f"headrace merge {settings.path}"
        )
    elif metadata.topic_id != topic_id:
        why = "the topic was deleted and made anew since: its offsets mean other records"
    elif committed.next_offset < first:
        lacking = first - committed.next_offset
        why = (
            f"relayed up to {committed.next_offset}, and the log now begins at {first}: {lacking:,} "
            "offsets were deleted before they were relayed (keep them longer: retention.ms)"
        )
    elif committed.next_offset > end:
        why = f"relayed up to {committed.next_offset}, but the log ends at {end}: records were lost"
    else:
        return committed.next_offset
    if lost is None:
        raise EnvironmentRefused(
            f"{place}: {why}. Say where to go on in it: headrace relay {settings.path} --from relayed (behind what is "
            f"in {events}), earliest or latest."
        )
    if lost == "latest":
        return end
    if lost == "earliest" or relayed is None:
        return first
    if relayed == UNTOLD:
        raise EnvironmentRefused(
            f"{place}: {why}. Nothing that was relayed from it is found in {events}, so there is nothing to go on "
            f"behind. Say headrace relay {settings.path} --from earliest or latest."
        )
    if relayed >= end:
        raise EnvironmentRefused(
            f"{place}: {why}. Its log ends at {end}, and {events} has what was relayed from offset {relayed}: it was "
            "made anew since, and all that is in it now would be left out. "
            f"Say headrace relay {settings.path} --from earliest or latest."
        )
    return max(relayed + 1, first)
