"""The topics of a pipeline: what they must be like, whether they are, and making those that are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from stream.errors import EnvironmentRefused
from stream.records import RelayedKind
from stream.relay.places import mismatch
from stream.settings import Settings
from stream.tools.cluster import Cluster, NewTopic, TopicFacts

#: A dead letter is its record unpacked, and a small compressed record can be large. Kafka reads no request beyond
#: 104,857,600 bytes (socket.request.max.bytes), so this is about the most that a topic can take.
DEAD_LETTER_BYTES: Final = 100_000_000
#: What headers and the key's second copy may add to a record.
OVERHEAD_BYTES: Final = 65_536
DAY_MS: Final = 86_400_000
STATUS_RETENTION_MS: Final = 7 * DAY_MS
#: Kafka's way to say "any age": the largest number of its own.
ANY_AGE: Final = str(2**63 - 1)

#: How far ahead of the broker's clock a record's timestamp may be.
AFTER: Final = "message.timestamp.after.max.ms"

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that was looked at."""

    #: What: `broker`, `topic payments`.
    item: str
    state: State
    #: What was found, and for a failure what was expected.
    text: str
    #: What to do; empty when there is nothing to do.
    remedy: str = ""
    #: Configuration of the topic that would mend it, for `topics create --configure`.
    fix: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, str]:
        """The fields by name, ready for JSON."""
        return {"item": self.item, "state": self.state, "text": self.text, "remedy": self.remedy}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What `topics create` did."""

    #: The topics that are there now, by what they are for.
    topics: Mapping[str, TopicFacts]
    #: Names of those that were made.
    created: frozenset[str]
    #: What was set on topics that were there: by topic the configuration.
    configured: Mapping[str, Mapping[str, str]]
    #: What could be better about those that were there.
    warnings: list[Item] = field(default_factory=list)


def topic_names(settings: Settings) -> dict[str, str]:
    """Names of the pipeline's topics, by what they are for: `events`, `predictions` and so on."""
    topics = settings.topics
    names = {
        "events": topics.events,
        "predictions": topics.predictions,
        "alerts": topics.alerts,
        "dead_letters": topics.dead_letters,
        "status": topics.status,
    }
    return names | ({"outcomes": topics.outcomes} if topics.outcomes else {})


def meaning(partitions: int) -> str:
    """What a number of partitions means for the learners.

    >>> meaning(1)
    '1 partition is 1 learner, which sees every event.'
    >>> meaning(12)
    '12 partitions are 12 learners, one for each group of keys.'
    """
    if partitions == 1:
        return "1 partition is 1 learner, which sees every event."
    return f"{partitions} partitions are {partitions} learners, one for each group of keys."


def span(milliseconds: int) -> str:
    """A length of time in words.

    >>> span(604_800_000), span(5_400_000), span(-1)
    ('7 days', '1.5 hours', 'for ever')
    """
    if milliseconds < 0:
        return "for ever"
    for unit, length in (("day", DAY_MS), ("hour", 3_600_000), ("minute", 60_000), ("second", 1_000)):
        if milliseconds >= length:
            count = milliseconds / length
            return f"{count:.4g} {unit}{'' if count == 1 else 's'}"
    return f"{milliseconds} ms"


# --- Whether they are as they must be --------------------------------------------------------------------


def topic_items(settings: Settings, found: Mapping[str, TopicFacts]) -> list[Item]:
    """One item for each topic: is it there, and as the pipeline needs it? `found` has the topics by name."""
    names = topic_names(settings)
    events = found.get(names["events"])
    items = []
    for topic, kind in settings.relayed_topics.items():
        items += _source_items(settings, topic, kind, found.get(topic), events)
    for purpose, name in names.items():
        facts = found.get(name)
        if facts is None:
            items.append(
                Item(
                    item=f"topic {name}",
                    state="failed",
                    text=f"there is no such topic ({_words(purpose)}).",
                    remedy=f"headrace topics create {settings.path}",
                )
            )
            continue
        problems = list(_problems(settings, purpose, facts, events))
        if purpose == "events":
            problems += _log_problems(settings, facts, found)
        items.extend(problems or [_fine(purpose, facts)])
    return items


def _source_items(
    settings: Settings, topic: str, kind: RelayedKind, facts: TopicFacts | None, events: TopicFacts | None
) -> list[Item]:
    """A topic that is relayed: is it there, and does it fit into the events topic?"""
    what = "labels" if kind == "labels" else "events"
    if facts is None:
        setting = "[labels] topic" if kind == "labels" else "[relay] events"
        return [
            Item(
                item=f"topic {topic}",
                state="failed",
                text=f"there is no such topic ({what} to be relayed).",
                remedy=f"make it, or name the right one in {setting}; headrace topics create makes no topic that "
                "others write to.",
            )
        ]
    count = facts.partitions
    text = f"{what} to be relayed, {count} partition{'s' * (count != 1)}, kept {_kept(facts)}"
    fine = Item(item=f"topic {topic}", state="ok", text=f"{text}.")
    if "compact" in facts.configs.get("cleanup.policy", ""):
        fine = Item(
            item=f"topic {topic}",
            state="warning",
            text=f"{text}; cleanup.policy is {facts.configs['cleanup.policy']}: of the records of one key only the "
            "last may be left when the relay comes to read them, if it is behind or was away.",
            remedy="set cleanup.policy=delete on it, unless each record has a key of its own.",
        )
    if events is None:
        return [fine]
    found = mismatch(settings, topic, kind, count, events.partitions)
    if found is not None:
        return [Item(item=f"topic {topic}", state="failed", text=found[0], remedy=found[1])]
    return [fine]


def _log_problems(settings: Settings, events: TopicFacts, found: Mapping[str, TopicFacts]) -> Iterator[Item]:
    """Whether the events topic takes and keeps all that is relayed into it."""
    sources = [found[topic] for topic in settings.relayed_topics if topic in found]
    if not sources:
        return
    wanted = log_configs(sources)

    def problem(state: State, text: str, key: str, value: str) -> Item:
        # Not by `topics create --configure`: others write to it, too, or would miss what is deleted.
        return Item(item=f"topic {events.name}", state=state, text=text, remedy=f"set {key}={value} on it.")

    if events.configs.get("message.timestamp.type") == "LogAppendTime":
        text = (
            "message.timestamp.type is LogAppendTime; expected CreateTime: a relayed record keeps the timestamp of its "
            "source, which is the event's time unless the settings name a field."
        )
        yield problem("warning", text, "message.timestamp.type", "CreateTime")
    kept, longest = _number(events, "retention.ms", -1), int(wanted["retention.ms"])
    if kept >= 0 and (longest < 0 or longest > kept):
        text = (
            f"it is kept {span(kept)} and what is relayed into it {span(longest)}; expected as long at least, since "
            "relayed records have the timestamps of their source, and old ones would soon be deleted."
        )
        yield problem("warning", text, "retention.ms", str(longest))
    takes, largest = _number(events, "max.message.bytes", 1_048_588), int(wanted["max.message.bytes"])
    if takes < largest - OVERHEAD_BYTES:
        text = (
            f"it takes {takes:,} bytes a record, and what is relayed into it has up to {largest:,} with the relay's "
            "headers; one that is too large would stop the relay."
        )
        yield problem("warning", text, "max.message.bytes", str(largest))
    before = "message.timestamp.before.max.ms"
    if events.configs.get(before, ANY_AGE) != ANY_AGE:
        text = (
            f"{before} is {events.configs[before]}; expected no limit: a relayed record has the timestamp of its "
            "source, and one of a backlog would stop the relay."
        )
        yield problem("failed", text, before, ANY_AGE)


def log_configs(sources: Sequence[TopicFacts]) -> dict[str, str]:
    """The configuration of an events topic that takes and keeps all that is relayed from these."""
    kept = [_number(facts, "retention.ms", -1) for facts in sources]
    largest = max(_number(facts, "max.message.bytes", 1_048_588) for facts in sources)
    configs = {
        "cleanup.policy": "delete",
        "message.timestamp.type": "CreateTime",
        "retention.ms": str(-1 if min(kept) < 0 else max(kept)),
        "max.message.bytes": str(min(DEAD_LETTER_BYTES, largest + OVERHEAD_BYTES)),
    }
    after = [_number(facts, AFTER, -1) for facts in sources if AFTER in facts.configs]
    if after:
        configs[AFTER] = str(max(after))
    if any("message.timestamp.before.max.ms" in facts.configs for facts in sources):  # since Kafka 3.6
        configs["message.timestamp.before.max.ms"] = ANY_AGE
    return configs


def _words(purpose: str) -> str:
    return purpose.replace("_", " ")


def _number(facts: TopicFacts, key: str, default: int) -> int:
    try:
        return int(facts.configs.get(key, default))
    except ValueError:
        return default


def _kept(facts: TopicFacts) -> str:
    """For how long, and up to which size."""
    kept, most = span(_number(facts, "retention.ms", -1)), _number(facts, "retention.bytes", -1)
    return kept if most < 0 else f"{kept}, but at most {most:,} bytes a partition (retention.bytes)"


def _fine(purpose: str, facts: TopicFacts) -> Item:
    count = facts.partitions
    kept = _kept(facts)
    text = f"{_words(purpose)}, {count} partition{'' if count == 1 else 's'}, kept {kept}"
    if purpose == "events" and kept != "for ever":
        text += "; a worker started anew replays from the pipeline's origin, which must still be there"
    if purpose == "dead_letters":
        text += f", takes {_number(facts, 'max.message.bytes', 0):,} bytes a record"
    return Item(item=f"topic {facts.name}", state="ok", text=f"{text}.")


def _problems(settings: Settings, purpose: str, facts: TopicFacts, events: TopicFacts | None) -> list[Item]:
    name = facts.name
    problems: list[Item] = []

    def problem(state: State, text: str, remedy: str = "", **fix: str) -> None:
        problems.append(_problem(settings, name, state, text, remedy, **fix))

    if "compact" in facts.configs.get("cleanup.policy", ""):
        lost = {
            "events": "a replay would not see the events that compaction removed",
            "status": "the charts live on all of its records",
        }.get(purpose, "compaction would remove outputs, and refuses those without a key")
        problem(
            "failed",
            f"cleanup.policy is {facts.configs['cleanup.policy']}; expected delete: {lost}.",
            "name a topic that is not compacted in [topics] events, or set cleanup.policy=delete on this one."
            if purpose == "events"
            else "",
            **{"cleanup.policy": "delete"},
        )
    if purpose == "events":
        return problems

    if events is not None and facts.partitions != events.partitions:
        problem(
            "failed",
            f"it has {facts.partitions} partitions and {events.name} has {events.partitions}; expected the same "
            "number, since outputs of partition p go to partition p.",
            f"delete {name} and run: headrace topics create {settings.path}",
        )
    if purpose == "status":
        kept = _number(facts, "retention.ms", -1)
        if 0 <= kept < STATUS_RETENTION_MS:
            problem(
                "warning",
                f"it is kept {span(kept)}; expected 7 days, which the charts show.",
                **{"retention.ms": str(STATUS_RETENTION_MS)},
            )
        return problems

    if facts.configs.get("message.timestamp.type") == "LogAppendTime":
        problem(
            "failed",
            "message.timestamp.type is LogAppendTime; expected CreateTime: an output carries the timestamp of the "
            "record it came from.",
            **{"message.timestamp.type": "CreateTime"},
        )
    problems += _timestamp_problems(settings, facts, events)
    if events is not None:
        kept, events_kept = _number(facts, "retention.ms", -1), _number(events, "retention.ms", -1)
        if kept >= 0 and (events_kept < 0 or events_kept > kept):
            problem(
                "warning",
                f"it is kept {span(kept)} and {events.name} {span(events_kept)}; expected as long at least, since "
                "outputs have the timestamps of their events.",
                **{"retention.ms": str(events_kept)},
            )
    if purpose == "dead_letters":
        takes = _number(facts, "max.message.bytes", 1_048_588)
        largest = _number(events, "max.message.bytes", 1_048_588) if events is not None else 0
        if takes < DEAD_LETTER_BYTES:
            failed = takes < largest + OVERHEAD_BYTES
            problem(
                "failed" if failed else "warning",
                f"it takes {takes:,} bytes a record; expected {DEAD_LETTER_BYTES:,}: "
                + (
                    "the largest event with the reason in its headers would not fit, and stop the worker."
                    if failed
                    else "a compressed event that is larger when unpacked would stop the worker."
                ),
                **{"max.message.bytes": str(DEAD_LETTER_BYTES)},
            )
    return problems


def _problem(settings: Settings, topic: str, state: State, text: str, remedy: str = "", **fix: str) -> Item:
    """A problem of a topic; without a remedy in words it is `topics create --configure`, which sets `fix`."""
    if not remedy:
        what = ", ".join(f"{key}={value}" for key, value in fix.items())
        remedy = f"headrace topics create {settings.path} --configure (it sets {what})."
    return Item(item=f"topic {topic}", state=state, text=text, remedy=remedy, fix=fix)


def _timestamp_problems(settings: Settings, facts: TopicFacts, events: TopicFacts | None) -> list[Item]:
    """An output is written later than its event with the same timestamp: no age may be refused."""
    before, after = "message.timestamp.before.max.ms", "message.timestamp.after.max.ms"
    problems = []
    if facts.configs.get(before, ANY_AGE) != ANY_AGE:
        text = (
            f"{before} is {facts.configs[before]}; expected no limit: an output of a backlog has the timestamp of "
            "its event, and would stop the worker."
        )
        problems.append(_problem(settings, facts.name, "failed", text, **{before: ANY_AGE}))
    if events is None or after not in facts.configs or after not in events.configs:
        return problems
    limit = events.configs[after]
    if _number(facts, after, 0) < _number(events, after, 0):
        text = (
            f"{after} is {facts.configs[after]} and that of {events.name} is {limit}; expected at least as much, "
            "since an output has the timestamp of its event."
        )
        problems.append(_problem(settings, facts.name, "failed", text, **{after: limit}))
    return problems


# --- Making them -----------------------------------------------------------------------------------------


def output_configs(purpose: str, events: TopicFacts) -> dict[str, str]:
    """The configuration of an output topic, so that it takes whatever comes of the events."""
    if purpose == "status":
        return {"cleanup.policy": "delete", "retention.ms": str(STATUS_RETENTION_MS)}
    configs = {
        "cleanup.policy": "delete",
        "message.timestamp.type": "CreateTime",
        "max.message.bytes": str(
            DEAD_LETTER_BYTES
            if purpose == "dead_letters"
            # An output has its event's key, which may be nearly the whole record.
            else min(DEAD_LETTER_BYTES, _number(events, "max.message.bytes", 1_048_588) + 1_048_576)
        ),
    }
    for key in ("retention.ms", "message.timestamp.after.max.ms"):
        if key in events.configs:
            configs[key] = events.configs[key]
    if "message.timestamp.before.max.ms" in events.configs:  # since Kafka 3.6
        configs["message.timestamp.before.max.ms"] = ANY_AGE
    return configs


def create_topics(
    settings: Settings,
    *,
    partitions: int | None = None,
    replication_factor: int | None = None,
    configure: bool = False,
) -> Made:
    """Make what is missing of a pipeline's topics.

    Args:
        settings: The pipeline's settings.
        partitions: Of `<events>`, if it is missing; by default as many as the labels topic has, if it is there for the
            labels of these events, else 1. The outputs have as many as it has.
        replication_factor: Of the topics that are made; by default what the broker does by default.
        configure: Also change the configuration of outputs that are there and need it. The events are left alone.

    Raises:
        EnvironmentRefused: A topic is there, but not as it must be; nothing was made then.
    """
    names = topic_names(settings)
    replicas = -1 if replication_factor is None else replication_factor
    with Cluster(settings) as cluster:
        found = cluster.topics([*names.values(), *settings.relayed_topics])
        events = found.get(names["events"])
        if events is not None and partitions is not None and partitions != events.partitions:
            raise EnvironmentRefused(
                f"{events.name} is there and has {events.partitions} partitions, not {partitions}. Leave out "
                "--partitions to go with it; another number would move keys from one learner to another."
            )
        there = [name for name in (*names.values(), *settings.relayed_topics) if name in found]
        items = [
            item
            for item in topic_items(settings, found)
            if item.state != "ok" and item.item.removeprefix("topic ") in there
        ]
        configured: dict[str, dict[str, str]] = {}
        if configure:
            mended = [item for item in items if item.fix and item.item != f"topic {names['events']}"]
            for item in mended:
                configured.setdefault(item.item.removeprefix("topic "), {}).update(item.fix)
            items = [item for item in items if item not in mended]
        failed = [item for item in items if item.state == "failed"]
        if failed:
            raise EnvironmentRefused(
                "\n".join(f"{item.item}: {item.text} To mend it: {item.remedy}" for item in failed)
                + "\nNothing was made."
            )
        if configured:
            cluster.configure(configured)
        created = set()
        if events is None:
            count = partitions or _partitions_of_events(settings, found)
            other = [
                found[name] for name in names.values() if name in found and found[name].partitions != count
            ]
            if other:
                raise EnvironmentRefused(
                    f"{names['events']} is missing, and would get {count} partitions, but {other[0].name} is there "
                    f"and has {other[0].partitions}. Delete it, or say --partitions {other[0].partitions}."
                )
            sources = [found[topic] for topic in settings.relayed_topics if topic in found]
            for topic, kind in settings.relayed_topics.items():
                wrong = topic in found and mismatch(settings, topic, kind, found[topic].partitions, count)
                if wrong:
                    raise EnvironmentRefused(
                        f"topic {topic}: {wrong[0]} To mend it: {wrong[1]}\nNothing was made."
                    )
            cluster.create(
                [NewTopic(names["events"], count, replicas, log_configs(sources) if sources else {})]
            )
            created.add(names["events"])
            events = cluster.topics([names["events"]])[names["events"]]
        missing = [
            NewTopic(name, events.partitions, replicas, output_configs(purpose, events))
            for purpose, name in names.items()
            if purpose != "events" and name not in found
        ]
        if missing:
            cluster.create(missing)
            created.update(topic.name for topic in missing)
        now = cluster.topics(names.values())
    return Made(
        topics={purpose: now[name] for purpose, name in names.items()},
        created=frozenset(created),
        configured=configured,
        warnings=[item for item in items if item.state == "warning"],
    )


def _partitions_of_events(settings: Settings, found: Mapping[str, TopicFacts]) -> int:
    """How many partitions an events topic gets if nobody says it; another number later would move keys.

    Raises:
        EnvironmentRefused: It is to have as many as a labels topic that is not there.
    """
    labels = settings.labels.topic
    if labels is None or settings.relay.events:  # a log of one partition takes all that is relayed into it
        return 1
    if labels in found:
        return found[labels].partitions
    raise EnvironmentRefused(
        f"{settings.topics.events} is missing, and so is {labels}, which [labels] topic names: partition p of it goes "
        f"to partition p, so they need the same number. Make {labels} first (Headrace makes no topic that others "
        "write to), or say --partitions; with 1, for one learner, it may have any number. Nothing was made."
    )
